"""Reading onnxruntime's trace: a stored one, made-up ones, and those of real runs."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from onnx import TensorProto, helper

from tests import tiny
from tests.benchmarking.measured import PROFILE
from tests.engines import models
from tofu_export.benchmarking.ort_profile import Kernel, Profile, Slice, assign, profile, read_trace
from tofu_export.engines.describing.stages import Kind, Located, Place
from tofu_export.errors import ExportError, OptionError
from tofu_export.options import Reduction

TRACE = (Path(__file__).parent / "data" / "ort_trace.json").read_text(encoding="utf-8")
"""Three runs of a graph of five nodes, as onnxruntime 1.31.1 wrote them (without the statistics of threads)."""


def event(category: str, name: str, start: int, duration: int, op_type: str = "") -> dict[str, Any]:
    args = {"op_name": op_type} if op_type else {}
    return {"cat": category, "pid": 1, "tid": 1, "dur": duration, "ts": start, "ph": "X", "name": name, "args": args}


def run_of(start: int, *durations: int) -> list[dict[str, Any]]:
    """A run of nodes n0, n1, ... of these durations in microseconds, with 1 us in between and 10 us around."""
    events, at = [], start + 10
    for index, duration in enumerate(durations):
        events.append(event("Node", f"n{index}_kernel_time", at, duration, f"Op{index}"))
        at += duration + 1
    return [*events, event("Session", "model_run", start, at + 10 - start)]


class TestStoredTrace:
    def test_kernels_and_runs(self) -> None:
        kernels, query_ms, runs = read_trace(TRACE)
        assert runs == 3
        assert query_ms == pytest.approx(0.034)  # of 138, 34 and 25 us
        assert kernels == (
            Kernel("blocks.0.norm1/LayerNormalization", "LayerNormalization", 0.005),  # 61, 5, 3 us
            Kernel("blocks.0.attn.qkv/MatMul", "MatMul", 0.003),
            Kernel("blocks.0/fuse/match/kept", "TopK", 0.003),
            Kernel("blocks.0.mlp.fc1/MatMul", "MatMul", 0.002),
            Kernel("blocks.0.mlp.fc1/Add", "Add", 0.003),
        )

    def test_warm_up_runs_are_left_out(self) -> None:
        kernels, query_ms, runs = read_trace(TRACE, skip=2)
        assert runs == 1
        assert query_ms == pytest.approx(0.025)
        assert [kernel.ms for kernel in kernels] == pytest.approx([0.003, 0.002, 0.002, 0.002, 0.002])

    def test_only_warm_up_runs(self) -> None:
        with pytest.raises(ExportError, match="holds 3 runs, expected more than 3"):
            read_trace(TRACE, skip=3)


class TestTrace:
    def test_the_order_of_lines_does_not_matter(self) -> None:
        events = [*run_of(0, 5, 7), *run_of(100, 6, 8)]
        assert read_trace(json.dumps(events[::-1])) == read_trace(json.dumps(events))

    def test_what_runs_inside_of_a_loop_is_part_of_it(self) -> None:
        inside = [event("Node", "body_kernel_time", 10, 4, "Add"), event("Node", "body_kernel_time", 15, 2, "Add")]
        kernels, *_ = read_trace(json.dumps([*inside, *run_of(0, 9, 7)]))
        assert [(kernel.op_type, kernel.ms) for kernel in kernels] == [("Op0", 0.009), ("Op1", 0.007)]

    def test_other_events_do_not_count(self) -> None:
        fence = event("Node", "n0_fence_before", 5, 1, "Op0")  # onnxruntime before 1.10
        kernels, *_ = read_trace(json.dumps([fence, *run_of(0, 9)]))
        assert len(kernels) == 1

    def test_runs_that_differ_are_a_trace_that_is_cut_short(self) -> None:
        with pytest.raises(ExportError, match="differ in their kernels"):
            read_trace(json.dumps([*run_of(0, 5, 7), *run_of(100, 6)]))

    @pytest.mark.parametrize("text", ["", "[", "{}", "[1]", "[{}]", '[{"cat": "Node", "name": "x_kernel_time"}]', "7"])
    def test_something_else(self, text: str) -> None:
        with pytest.raises(ExportError, match="onnxruntime's profile"):
            read_trace(text)


def graph(*nodes: tuple[str, str]) -> onnx.GraphProto:
    return helper.make_graph([helper.make_node(op, [], [], name=name) for name, op in nodes], "g", [], [])


NORM, MLP = Located(Place("blocks.0", Kind.NORM)), Located(Place("blocks.0", Kind.MLP))


class TestAssign:
    KERNELS = (Kernel("a", "Mul", 1.0), Kernel("Gelu_7", "Gelu", 1.0))

    def test_by_order(self) -> None:
        assert assign(self.KERNELS, graph(("a", "Mul"), ("", "Gelu")), [NORM, MLP]) == (NORM, MLP)

    def test_by_names_of_their_own_where_the_order_differs(self) -> None:
        found = assign(self.KERNELS, graph(("", "Gelu"), ("a", "Mul")), [MLP, NORM])
        assert [where.place.kind for where in found] == [Kind.NORM, Kind.OTHER]

    def test_not_by_names_that_repeat(self) -> None:
        found = assign(self.KERNELS, graph(("a", "Mul"), ("a", "Mul"), ("", "Gelu")), [MLP, NORM, MLP])
        assert [where.place.kind for where in found] == [Kind.OTHER, Kind.OTHER]


class TestFigures:
    """Kernels of 4, 1, 2 and 1 ms; the second and third are the reduction; 2 ms of these 8 are the profiler's."""

    def test_parts_add_up(self) -> None:
        for parts in (PROFILE.by_kind(), PROFILE.by_place(), PROFILE.by_operator()):
            assert sum(part.ms for part in parts.values()) == pytest.approx(PROFILE.kernels_ms) == 8
            assert sum(part.share for part in parts.values()) == pytest.approx(1)
            assert sum(part.kernels for part in parts.values()) == 4

    def test_kinds_come_in_their_order_and_other_is_one(self) -> None:
        assert list(PROFILE.by_kind()) == [Kind.MATCHING, Kind.MERGING, Kind.MLP, Kind.OTHER]
        assert PROFILE.by_kind()[Kind.OTHER] == Slice(1, 0.125, 1)

    def test_operators_come_by_time(self) -> None:
        assert PROFILE.by_operator() == {"A": Slice(5, 0.625, 2), "B": Slice(2, 0.25, 1), "C": Slice(1, 0.125, 1)}

    def test_the_reduction_is_matching_and_merging(self) -> None:
        assert PROFILE.reduction == Slice(3, 0.375, 2)
        assert PROFILE.inferred == Slice(2, 0.25, 1)

    def test_and_without_the_profilers_share(self) -> None:
        assert PROFILE.profiler_us == pytest.approx(500)
        assert PROFILE.net_reduction.ms == pytest.approx(2)
        assert PROFILE.net_reduction.share == pytest.approx(2 / 6)

    def test_a_plain_run_that_was_disturbed_takes_nothing_off(self) -> None:
        slow = Profile(**{**vars(PROFILE), "plain_ms": 50.0})
        assert slow.profiler_us == 0
        assert slow.net_reduction == slow.reduction

    def test_nothing_ran(self) -> None:
        empty = Profile("a.onnx", 1, 5, 1.0, 1.0, (), ())
        assert empty.reduction == empty.net_reduction == Slice(0, 0, 0)

    def test_as_json(self) -> None:
        entry = PROFILE.to_dict()
        assert json.loads(json.dumps(entry)) == entry
        assert entry["kinds"]["mlp"] == {"ms": 4, "share": 0.5, "kernels": 1}
        assert entry["stages"][1] == {"stage": "blocks.0", "kind": "matching", "ms": 1, "share": 0.125, "kernels": 1}
        assert entry["net_reduction"]["ms"] == 2


class TestRealRuns:
    def test_a_reduced_model(self, tmp_path: Path) -> None:
        path = tmp_path / "reduced.onnx"
        ir.save(tiny.lowered("cls", Reduction(r=3, pattern="PMM")), path)
        found = profile(path, "reduced", {"input": tiny.pixels(2)}, 2, threads=1)
        kinds = found.by_kind()
        assert set(kinds) == set(Kind) - {Kind.OTHER}
        assert all(part.ms > 0 for part in kinds.values())
        assert 0 < found.net_reduction.share < 1
        assert 0 < found.reduction.share < 1
        assert {place.stage for place in found.by_place()} >= {"blocks.0", "blocks.1", "blocks.2", "patch_embed"}
        matching = [place.stage for place in found.by_place() if place.kind is Kind.MATCHING]
        assert matching == ["blocks.0", "blocks.1"]  # a class-token head does not see the last one
        assert found.runs >= 5

    @pytest.mark.filterwarnings("ignore")
    def test_what_torch_exports_itself(self, tmp_path: Path) -> None:
        path = tmp_path / "plain.onnx"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(tiny.build("cls"), (torch.zeros(2, 3, 32, 32),), dynamo=True, verbose=False)
        assert program is not None
        program.save(path)
        (name,) = (value.name for value in onnx.load(path).graph.input)
        found = profile(path, "plain", {name: tiny.pixels(2)}, 2, threads=1)
        plain = {Kind.PATCH_EMBED, Kind.ATTENTION, Kind.MLP, Kind.NORM, Kind.RESIDUAL, Kind.HEAD}
        assert plain <= set(found.by_kind()) <= plain | {Kind.OTHER}
        assert sum(part.kernels for kind, part in found.by_kind().items() if kind is Kind.OTHER) <= 1
        assert found.reduction.kernels == 0

    def test_a_graph_without_names_is_other(self, tmp_path: Path) -> None:
        proto = models.block()
        for node in proto.graph.node:
            node.name = ""
        path = models.save(proto, tmp_path)
        found = profile(path, "block", {"x": np.ones((1, 16, 32), np.float32)}, 1, threads=1)
        assert list(found.by_kind()) == [Kind.OTHER]
        assert found.by_kind()[Kind.OTHER].share == 1

    def test_leaves_nothing_behind(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        path = models.save(models.block(), tmp_path)
        temporary = tmp_path / "temporary"
        temporary.mkdir()
        monkeypatch.setattr("tempfile.tempdir", str(temporary))
        monkeypatch.chdir(temporary)
        profile(path, "block", {"x": np.ones((1, 16, 32), np.float32)}, 1, threads=1)
        assert list(temporary.iterdir()) == []
        assert sorted(entry.name for entry in tmp_path.iterdir()) == ["model.onnx", "temporary"]
        assert capfd.readouterr() == ("", "")

    def test_feeds_that_do_not_fit(self, tmp_path: Path) -> None:
        path = models.save(models.block(), tmp_path)
        with pytest.raises(OptionError, match="x missing"):
            profile(path, "block", {}, 1)

    def test_a_loop_counts_as_one_kernel(self, tmp_path: Path) -> None:
        value = helper.make_tensor_value_info
        body = helper.make_graph(
            [
                helper.make_node("Add", ["s", "s"], ["t"], name="blocks.0.mlp/Add"),
                helper.make_node("Identity", ["c"], ["d"]),
            ],
            "body",
            [value("i", TensorProto.INT64, []), value("c", TensorProto.BOOL, []), value("s", TensorProto.FLOAT, [4])],
            [value("d", TensorProto.BOOL, []), value("t", TensorProto.FLOAT, [4])],
        )
        count = helper.make_tensor("n", TensorProto.INT64, [], [3])
        go = helper.make_tensor("go", TensorProto.BOOL, [], [True])
        loop = helper.make_node("Loop", ["n", "go", "x"], ["y"], name="blocks.0.mlp/Loop", body=body)
        proto = models.model(
            [loop], [value("x", TensorProto.FLOAT, [4])], [value("y", TensorProto.FLOAT, [4])], [count, go]
        )
        found = profile(models.save(proto, tmp_path), "loop", {"x": np.ones(4, np.float32)}, 4, threads=1)
        assert [kernel.op_type for kernel in found.kernels] == ["Loop"]
        assert list(found.by_kind()) == [Kind.MLP]
