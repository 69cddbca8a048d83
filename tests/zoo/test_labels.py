"""Names of classes that lie beside or inside a checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from tests.zoo.checkpoints import NAME, load
from tofu_export.zoo._labels import labels_of
from tofu_export.zoo.create import create_model
from tofu_export.zoo.weights import WeightsSource

NAMES = ("zebra", "ape", "tabby cat")


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "vit", "id2label": {"2": "tabby cat", "0": "zebra", "1": "ape"}},
        {"architecture": NAME, "label_names": list(NAMES)},
        {"architecture": NAME, "pretrained_cfg": {"label_names": list(NAMES)}},
    ],
    ids=["transformers", "timm", "timm, older"],
)
def test_beside_it(tmp_path: Path, config: dict[str, Any]) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert labels_of({}, tmp_path) == (NAMES, "")


@pytest.mark.parametrize(
    "found",
    [
        {"class_to_idx": {"tabby cat": 2, "ape": 1, "zebra": 0}},
        {"classes": NAMES},
        {"idx_to_class": dict(enumerate(NAMES))},
        {"hyper_parameters": {"class_names": NAMES}},
        {"class_names": list(NAMES)},
    ],
)
def test_inside_it(tmp_path: Path, found: dict[str, Any]) -> None:
    assert labels_of(found, tmp_path) == (NAMES, "")


@pytest.mark.parametrize(
    "names",
    [
        {"1": "a", "2": "b"}, {"0": "a", "2": "b"}, {"0": "LABEL_0", "1": "LABEL_1"}, {"x": "a", "y": "b"}, ["a", 3],
        "ab",
        {"0": "a", "1": " "},
    ],
)  # fmt: skip
def test_names_that_do_not_say_which_class_is_which_are_left_out(tmp_path: Path, names: Any) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vit", "id2label": names}))
    assert labels_of({}, tmp_path)[0] == ()


@pytest.mark.parametrize(
    "found",
    [
        {"classes": NAMES, "class_to_idx": {"ape": 0, "tabby cat": 1, "zebra": 2}},
        {"class_to_idx": {"tabby cat": 1, "ape": 1, "zebra": 0}},
        {"class_to_idx": {"tabby cat": 3, "ape": 2, "zebra": 1}},
        {"class_to_idx": {"tabby cat": 2.7, "ape": True, "zebra": False}},
    ],
    ids=["contradictory", "twice", "from one", "no integers"],
)
def test_names_that_are_not_used_are_told(tmp_path: Path, found: dict[str, Any]) -> None:
    names, note = labels_of(found, tmp_path)
    assert names == ()
    assert "class names" in note
    assert "not used" in note


def test_the_same_names_in_two_places(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(
        json.dumps({"architecture": NAME, "label_names": ["Zebra", "ape", "tabby cat"]})
    )
    assert labels_of({"classes": NAMES}, tmp_path) == (("Zebra", "ape", "tabby cat"), "")


def test_only_as_many_as_the_classes_are_taken(tmp_path: Path) -> None:
    state = timm.create_model(NAME, num_classes=3).state_dict()
    torch.save({"state_dict": state, "classes": list(NAMES)}, tmp_path / "a.pth")
    assert load(tmp_path / "a.pth").labels == NAMES
    assert load(tmp_path / "a.pth", num_classes=0).labels == ()
    assert create_model(NAME, weights=WeightsSource.parse("random")).labels == ()
