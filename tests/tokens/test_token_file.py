"""Token maps come out of the file that is run, and are the eager model's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from tests import exported
from tests.tokens.photos import pixels
from tofu_export.compare.groups import PRUNED
from tofu_export.errors import ExportError, OptionError, TofuError, VerificationError
from tofu_export.options import PATCH_GROUPS
from tofu_export.patch.matching import Matching, Scores
from tofu_export.patch.observe import observe
from tofu_export.tokens import read_source
from tofu_export.tokens.token_file import TokenFile
from tofu_export.verification.facts import FileFacts
from tofu_export.verification.rebuild import rebuild


def file() -> Path:
    return exported.folder() / "model.fp32.onnx"


class Watch:
    """Notes what the eager model decides."""

    def __init__(self) -> None:
        self.seen: dict[int, Matching] = {}

    def decide(self, layer: int, _scores: Scores, proposed: Matching) -> Matching:
        self.seen[layer] = proposed
        return proposed


def eager_groups(images: Any, layers: list[dict[str, Any]], prefix: int) -> list[list[list[int]]]:
    """By state and image: positions followed one by one through what the eager model decided."""
    watch = Watch()
    with torch.no_grad(), observe(watch):
        rebuild(FileFacts.read(file())).model(torch.from_numpy(images))
    states = []
    here = [list(range(layers[0]["tokens_in"])) for _ in images]
    for row in layers[:-1]:  # the last reduction is not in the file
        matching = watch.seen[row["layer"]]
        sources = list(range(prefix + prefix % 2, row["tokens_in"], 2))
        destinations = list(range(prefix + 1 - prefix % 2, row["tokens_in"], 2))
        for image, places in enumerate(here):
            kept = [sources[index] for index in matching.kept[image]]
            joins = {
                sources[source]: destinations[target]
                for source, target in zip(matching.matched[image], matching.target[image], strict=True)
            }
            order = [*range(prefix), *kept, *destinations]
            for index, place in enumerate(places):
                if place != PRUNED:
                    gone = row["method"] == "prune" and place in joins
                    places[index] = PRUNED if gone else order.index(joins.get(place, place))
        states.append([list(places) for places in here])
    return states


def test_it_is_what_the_eager_model_decides() -> None:
    found = TokenFile.read(file())
    plan = exported.metadata_of("plan")
    assert (found.model, found.tokens, found.pattern) == ("test_vit", plan["layers"][0]["tokens_in"], plan["pattern"])
    images = pixels(3)
    run = found.run(images)
    assert run.backend == "ort-cpu"
    expected = eager_groups(images, plan["layers"], found.prefix)
    assert [state.groups.tolist() for state in run.states] == expected
    assert {state.step.method for state in run.states} == {"prune", "weighted-mlerp"}
    assert any(PRUNED in image for image in expected[-1])
    assert "block 5" in run.notes[0]


def test_half_precision_runs_as_well() -> None:
    run = TokenFile.read(exported.folder() / "model.fp16.onnx").run(pixels(1))
    assert len(run.states) == 5


def test_the_grid_is_that_of_the_image(tmp_path: Path) -> None:
    assert TokenFile.read(file()).grid == (10, 10)
    path = exported.changed(tmp_path / "a.onnx", {"prefix_tokens": 2})
    with pytest.raises(OptionError, match=r"99 patches do not fill a grid over an image of 160x160 pixels"):
        _ = TokenFile.read(path).grid


@pytest.mark.parametrize(
    "metadata",
    [
        {"plan": None},
        {"plan": []},
        {"plan": {"layers": [], "pattern": ""}},
        {"plan": "nonsense"},
        {"preprocessing": {"input_size": [3]}},
        {"prefix_tokens": None},
        {"prefix_tokens": "x"},
    ],
    ids=str,
)
def test_a_file_that_does_not_say_what_it_removes_is_refused(metadata: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"a\.onnx does not say which tokens it removes .*export it again"):
        TokenFile.read(exported.changed(tmp_path / "a.onnx", metadata))


def test_a_file_that_removes_nothing_is_refused(tmp_path: Path) -> None:
    plan = exported.metadata_of("plan")
    for layer in plan["layers"]:
        layer["removed"] = 0
    with pytest.raises(OptionError, match=r"removes no token"):
        TokenFile.read(exported.changed(tmp_path / "a.onnx", {"plan": plan}))


@pytest.mark.parametrize(("content", "error"), [(None, OptionError), (b"text", ExportError), (b"", TofuError)])
def test_what_is_no_file_is_refused(content: bytes | None, error: type[TofuError], tmp_path: Path) -> None:
    path = tmp_path / "a.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(error):
        TokenFile.read(path)
    with pytest.raises(OptionError, match="folder"):
        TokenFile.read(tmp_path)


def renamed(model: onnx.ModelProto, old: str, new: str) -> None:
    for node in model.graph.node:
        node.input[:] = [new if name == old else name for name in node.input]
        node.output[:] = [new if name == old else name for name in node.output]


def test_a_file_without_a_layers_decisions_is_refused(tmp_path: Path) -> None:
    def edit(model: onnx.ModelProto) -> None:
        renamed(model, "blocks.1/fuse/match/kept", "other")
        renamed(model, "blocks.1/fuse/match/assigned", "another")

    path = exported.changed(tmp_path / "a.onnx", edit=edit)
    with pytest.raises(VerificationError, match=r"does not show what layer 1 decides"):
        TokenFile.read(path).run(pixels(1))


def test_a_plan_that_is_not_the_files_is_refused(tmp_path: Path) -> None:
    plan = exported.metadata_of("plan")
    plan["layers"][2]["removed"] += 1
    path = exported.changed(tmp_path / "a.onnx", {"plan": plan})
    with pytest.raises(VerificationError, match=r"layer 2 decides the impossible"):
        TokenFile.read(path).run(pixels(1))


def test_a_file_with_the_map_is_drawn_to_its_end() -> None:
    """Its output depends on the last reduction, which other files of a class-token head leave out."""
    images = pixels(3)
    plain, mapped = TokenFile.read(file()).run(images), TokenFile.read(exported.with_map()).run(images)
    assert [state.step.layer for state in mapped.states] == [0, 1, 2, 3, 4, 5]
    assert len(plain.states) == 5
    for one, two in zip(plain.states, mapped.states, strict=False):
        assert np.array_equal(one.groups, two.groups)
    assert mapped.notes == ("the last map is the file's own output patch_groups; its decisions give the same",)


def swapped(model: onnx.ModelProto) -> None:
    """Patches take each other's groups, those of the last patch first."""
    (last,) = (node for node in model.graph.node if PATCH_GROUPS in node.output)
    last.output[:] = ["right"]
    order = onnx.numpy_helper.from_array(np.arange(100)[::-1].copy(), "order")
    model.graph.initializer.append(order)
    model.graph.node.append(onnx.helper.make_node("Gather", ["right", "order"], [PATCH_GROUPS], axis=1, name="swapped"))


def test_a_map_that_is_not_what_the_decisions_make_is_an_error(tmp_path: Path) -> None:
    path = exported.changed(tmp_path / "a.onnx", edit=swapped, source=exported.with_map())
    with pytest.raises(VerificationError, match=r"output patch_groups of a\.onnx is not what its decisions make"):
        TokenFile.read(path).run(pixels(1))


def test_files_and_engines_are_told_apart(tmp_path: Path) -> None:
    assert isinstance(read_source(file()), TokenFile)
    with pytest.raises(OptionError, match=r"model\.engine does not exist, expected a TensorRT plan"):
        read_source(tmp_path / "model.engine")


def test_images_are_taken_in_batches_of_a_fixed_size(tmp_path: Path) -> None:
    """A file for batches of two gets three images in two runs, and each has its own map."""

    def edit(model: onnx.ModelProto) -> None:
        model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2

    path = exported.changed(tmp_path / "a.onnx", edit=edit)
    one_by_one, in_pairs = (TokenFile.read(of).run(pixels(3)).states[-1].groups for of in (file(), path))
    assert np.array_equal(one_by_one, in_pairs)
    assert not np.array_equal(in_pairs[0], in_pairs[2])
