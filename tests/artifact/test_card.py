"""Model cards: what a file of this project says of its model."""

from __future__ import annotations

import json
from typing import Any

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.preprocessing import IMAGENET
from tofu_export.artifact.card import ModelCard
from tofu_export.errors import OptionError, VerificationError
from tofu_export.options import BatchRange, OutputKind, Precision

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


def card(**entries: Any) -> ModelCard:
    return ModelCard("a.onnx", entries)


def card_texts(entries: dict[str, Any]) -> dict[str, str]:
    """The entries as a file holds them."""
    return {f"tofu_export.{key}": one if isinstance(one, str) else json.dumps(one) for key, one in entries.items()}


def test_of_a_file_without_metadata_nothing_is_known() -> None:
    found = ModelCard.of_model(onnx.ModelProto(), "a.onnx")
    assert not found.is_ours
    assert "model" not in found
    known = (found.preprocessing, found.batch, found.precision, found.output, found.gmacs, found.find("plan", dict))
    assert known == (None,) * 6
    assert found.labels == ()


def test_names_of_others_are_left_out() -> None:
    model = onnx.ModelProto()
    for key, value in (("tofu_export.model", "vit"), ("author", "somebody"), ("tofu_export.num_classes", "10")):
        model.metadata_props.add(key=key, value=value)
    found = ModelCard.of_model(model, "a.onnx")
    assert found.entries == {"model": "vit", "num_classes": 10}
    assert found.is_ours


def test_text_that_looks_like_a_number_stays_text() -> None:
    texts = {"tofu_export.model": "7", "tofu_export.version": "1.0", "tofu_export.gmacs": "8.5"}
    found = ModelCard.of_texts(texts, "a.onnx")
    assert (found.part("model", str), found.part("version", str), found.gmacs) == ("7", "1.0", 8.5)


@given(st.dictionaries(st.sampled_from(["plan", "weights", "gmacs", "labels", "x"]), JSON.filter(lambda v: v != "")))
def test_what_was_written_is_read(entries: dict[str, Any]) -> None:
    found = ModelCard.of_texts(card(**entries).texts, "a.onnx")
    texts = {key for key, value in entries.items() if isinstance(value, str)}  # these may look like JSON
    assert {key: found.entries[key] for key in entries if key not in texts} == {
        key: value for key, value in entries.items() if key not in texts
    }


def test_a_missing_entry_is_named_with_the_version_that_left_it_out() -> None:
    with pytest.raises(VerificationError, match=r"a\.onnx was written by tofu-export 0\.1 without .*tofu_export\.plan"):
        card(version="0.1").part("plan", dict)


@pytest.mark.parametrize(
    ("entries", "name"),
    [
        ({"plan": [1]}, "plan"),
        ({"num_classes": True}, "num_classes"),
        ({"preprocessing": {"mean": [0.5], "std": "1"}}, "preprocessing"),
        ({"preprocessing": {"mean": [0.5], "std": [0.5]}}, "preprocessing"),
        ({"preprocessing": {**IMAGENET.as_dict(), "interpolation": "of a newer version"}}, "preprocessing"),
        ({"labels": ["a", 1]}, "labels"),
        ({"labels": "a"}, "labels"),
        ({"batch": 8}, "batch"),
    ],
)
def test_an_entry_of_another_kind_is_named(entries: dict[str, Any], name: str) -> None:
    found = card(**entries)
    with pytest.raises(VerificationError, match=rf"metadata tofu_export\.{name} of a\.onnx are not what"):
        _ = [found.find("plan", dict), found.find("num_classes", int), found.preprocessing, found.labels, found.batch]


def test_what_the_file_is_for() -> None:
    found = card(batch="1:8:64", precision="fp16", output={"kind": "features"}, labels=["cat", "dog"])
    assert found.batch == BatchRange(1, 8, 64)
    assert found.precision is Precision.FP16
    assert found.output is OutputKind.FEATURES
    assert found.labels == ("cat", "dog")


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ({"precision": "fp2"}, r"precision of a\.onnx is 'fp2', expected one of fp32, fp16"),
        ({"precision": 16}, "precision"),
        ({"target": "abacus"}, "target"),
        ({"attention": "folded"}, "attention"),
        ({"output": {"kind": "poems"}}, r"output\.kind"),
        ({"plan": {"select": "astrology"}}, r"plan\.select of a\.onnx is 'astrology', expected one of bipartite"),
        ({"plan": {"keys": ["post-rope"]}}, r"plan\.keys"),
        ({"plan": {"pruned_sizes": "doubled"}}, r"plan\.pruned_sizes"),
        ({"plan": {"layers": [{"method": "prune"}, {"method": "shuffle"}]}}, r"plan\.layers of a\.onnx is 'shuffle'"),
    ],
)
def test_a_choice_that_a_newer_version_may_know_is_refused_by_every_reader(entries: dict[str, Any], words: str) -> None:
    with pytest.raises(VerificationError, match=rf"metadata tofu_export\.{words}.*a newer version may know it"):
        ModelCard.of_texts(card_texts(entries), "a.onnx")


def test_an_output_without_a_kind_is_damaged() -> None:
    with pytest.raises(VerificationError, match=r"metadata tofu_export\.output of a\.onnx are not what"):
        _ = card(output={}).output


def test_the_method_of_a_layer_is_read_in_the_spelling_of_early_versions() -> None:
    early = {"plan": {"layers": [{"method": "weighted_mlerp", "removed": 2}, {"method": "prune", "removed": 1}]}}
    plan = ModelCard.of_texts(card_texts(early), "a.onnx").part("plan", dict)
    assert plan == {"layers": [{"method": "weighted-mlerp", "removed": 2}, {"method": "prune", "removed": 1}]}


@pytest.mark.parametrize("plan", [[], "text", {"layers": 3}, {"layers": [3, {"removed": 1}]}])
def test_a_plan_of_another_form_is_left_to_its_reader(plan: Any) -> None:
    assert ModelCard.of_texts(card_texts({"plan": plan}), "a.onnx").entries == {"plan": plan}


def test_a_range_that_is_none_is_refused() -> None:
    with pytest.raises(OptionError, match="batch"):
        _ = card(batch="8:1:2").batch


@pytest.mark.parametrize("value", [None, "8.5", True, -1, 0, float("inf"), float("nan"), [1]])
def test_work_that_is_no_positive_number_is_unknown(value: Any) -> None:
    assert card(gmacs=value).gmacs is None
