"""Where nodes stand, by the names that exporters and onnxruntime's optimiser give them."""

from __future__ import annotations

from collections.abc import Sequence

import onnx
import onnx_ir as ir
import pytest
from onnx import helper

from tests import families
from tests.tiny import SHAPE
from tofu_export.engines.describing.stages import Kind, Place, locate, places
from tofu_export.graph_patterns.lowering import lower
from tofu_export.graph_patterns.naming import SCOPES
from tofu_export.options import Precision, Reduction, Target
from tofu_export.trace.export import trace


def node(name: str, op_type: str = "Op", inputs: str = "", outputs: str = "", scopes: object = None) -> onnx.NodeProto:
    made = helper.make_node(op_type, inputs.split(), outputs.split(), name=name)
    if scopes is not None:
        made.metadata_props.add(key=SCOPES, value=str(scopes))
    return made


def graph(*nodes: onnx.NodeProto, outputs: Sequence[str] = ()) -> onnx.GraphProto:
    values = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in outputs]
    return helper.make_graph(list(nodes), "g", [], values)


def chain(*names: str) -> onnx.GraphProto:
    """Nodes of these names one after the other; tensors are t0, t1, ..."""
    return graph(*(node(name, inputs=f"t{index}", outputs=f"t{index + 1}") for index, name in enumerate(names)))


def alone(name: str, op_type: str = "Op", scopes: object = None) -> Place:
    """The place of a node between the first and the last block."""
    first, last = node("blocks.0.mlp.fc1/MatMul"), node("blocks.9.mlp.fc1/MatMul")
    return places(graph(first, node(name, op_type, scopes=scopes), last))[1]


class TestKinds:
    @pytest.mark.parametrize(
        ("name", "stage", "kind"),
        [
            ("patch_embed.proj/Conv", "patch_embed", Kind.PATCH_EMBED),
            ("blocks.3.norm1/LayerNormalization", "blocks.3", Kind.NORM),
            ("blocks.3.attn.qkv/MatMul", "blocks.3", Kind.ATTENTION),
            ("blocks.3.attn/Attention/scores", "blocks.3", Kind.ATTENTION),
            ("blocks.3.attn.q_norm/LayerNormalization", "blocks.3", Kind.ATTENTION),
            ("blocks.3/fuse/match/TopK", "blocks.3", Kind.MATCHING),
            ("blocks.3/fuse/match/kept/sorted", "blocks.3", Kind.MATCHING),
            ("blocks.3/fuse/merge/onehot", "blocks.3", Kind.MERGING),
            ("blocks.3/fuse/tokens", "blocks.3", Kind.MERGING),
            ("blocks.3/fuse/sizes/kept", "blocks.3", Kind.MERGING),
            ("blocks.3.mlp.act/Gelu/erf", "blocks.3", Kind.MLP),
            ("blocks.3.mlp.norm/LayerNormalization", "blocks.3", Kind.MLP),
            ("blocks.3.ls1/Mul", "blocks.3", Kind.RESIDUAL),
            ("blocks.3/Add/first", "blocks.3", Kind.RESIDUAL),
            ("blocks.3/Concat", "blocks.3", Kind.OTHER),
            ("blocks.3/Attention/keys/padded", "blocks.3", Kind.ATTENTION),
            ("blocks.13.in_proj/MatMul", "blocks.13", Kind.OTHER),
            ("norm/LayerNormalization", "norm", Kind.NORM),
            ("fc_norm/LayerNormalization", "fc_norm", Kind.NORM),
            ("norm_pre/LayerNormalization", "norm_pre", Kind.NORM),
            ("head/Gemm", "head", Kind.HEAD),
            ("attn_pool.norm/LayerNormalization", "attn_pool", Kind.HEAD),
            ("rope/Sin", "rope", Kind.PATCH_EMBED),
            # torch's older exporter
            ("/blocks/blocks.3/attn/qkv/MatMul", "blocks.3", Kind.ATTENTION),
            ("/patch_embed/proj/Conv", "patch_embed", Kind.PATCH_EMBED),
            ("/head/Gemm", "head", Kind.HEAD),
            # transformers, torchvision
            ("vit.encoder.layer.3.attention.attention.query/MatMul", "vit.encoder.layer.3", Kind.ATTENTION),
            ("vit.encoder.layer.3.layernorm_before/LN", "vit.encoder.layer.3", Kind.NORM),
            ("vit.encoder.layer.3.intermediate.dense/MatMul", "vit.encoder.layer.3", Kind.MLP),
            ("vit.encoder.layer.3.output.dense/MatMul", "vit.encoder.layer.3", Kind.MLP),
            ("vit.embeddings.patch_embeddings.projection/Conv", "vit", Kind.PATCH_EMBED),
            ("encoder.layers.encoder_layer_3.self_attention/MatMul", "encoder.layers.encoder_layer.3", Kind.ATTENTION),
            ("encoder.layers.encoder_layer_3.ln_1/LN", "encoder.layers.encoder_layer.3", Kind.NORM),
            ("conv_proj/Conv", "conv_proj", Kind.PATCH_EMBED),
            # nothing to go by
            ("MatMul_17", "", Kind.OTHER),
            ("", "", Kind.OTHER),
            ("something.else/MatMul", "something", Kind.OTHER),
        ],
    )
    def test_by_name(self, name: str, stage: str, kind: Kind) -> None:
        assert alone(name) == Place(stage, kind)

    @pytest.mark.parametrize(
        ("op_type", "kind"), [("Add", Kind.RESIDUAL), ("Mul", Kind.RESIDUAL), ("Cast", Kind.OTHER)]
    )
    def test_nodes_of_the_block_itself(self, op_type: str, kind: Kind) -> None:
        assert alone(f"blocks.3/{op_type}", op_type) == Place("blocks.3", kind)

    def test_by_the_scopes_of_torchs_exporter(self) -> None:
        scopes = ["", "blocks", "blocks.3", "blocks.3.attn", "blocks.3.attn.qkv", "linear"]
        assert alone("node_MatMul_12", "MatMul", scopes) == Place("blocks.3", Kind.ATTENTION)
        assert alone("node_add_74", "Add", ["", "blocks", "blocks.3", "add_74"]) == Place("blocks.3", Kind.RESIDUAL)

    @pytest.mark.parametrize("scopes", ["", "[", "1", "{}", "[[]]", "{[]}", "[" * 5000, "__import__('os')"])
    def test_scopes_that_are_no_list_are_no_scopes(self, scopes: str) -> None:
        assert alone("node_MatMul_12", "MatMul", scopes).kind is Kind.OTHER

    def test_the_model_itself_is_embedding_before_the_blocks_and_head_behind_them(self) -> None:
        names = [
            "stem/Shape",
            "model/Concat",
            "blocks.0.attn/MatMul",
            "model/Cast",
            "blocks.1.attn/MatMul",
            "model/Gather",
        ]
        kinds = [place.kind for place in places(chain(*names))]
        embed, attention = Kind.PATCH_EMBED, Kind.ATTENTION
        assert kinds == [embed, embed, attention, Kind.OTHER, attention, Kind.HEAD]

    def test_without_blocks_the_model_itself_is_nothing_known(self) -> None:
        assert [place.kind for place in places(chain("model/Concat", "model/Add"))] == [Kind.OTHER, Kind.OTHER]


class TestNodesOfBlocks:
    """The mean of the keys is taken in the block, for the matching alone; some blocks have no module that attends."""

    def test_what_only_the_matching_reads_is_matching(self) -> None:
        found = places(
            chain("blocks.0.attn.qkv/MatMul", "blocks.0/Cast", "blocks.0/ReduceMean", "blocks.0/fuse/match/x")
        )
        assert [place.kind for place in found] == [Kind.MATCHING] * 4

    def test_what_others_read_too_is_not(self) -> None:
        found = places(
            graph(
                node("blocks.0.attn.qkv/MatMul", outputs="k"),
                node("blocks.0/ReduceMean", inputs="k", outputs="m"),
                node("blocks.0/fuse/match/x", inputs="m", outputs="c"),
                node("blocks.0.attn/MatMul", inputs="k", outputs="y"),
            )
        )
        assert [place.kind for place in found] == [Kind.ATTENTION, Kind.MATCHING, Kind.MATCHING, Kind.ATTENTION]

    def test_what_the_graph_gives_is_not(self) -> None:
        nodes = (
            node("blocks.0.attn.qkv/MatMul", outputs="k"),
            node("blocks.0/fuse/match/x", inputs="k", outputs="c"),
        )
        assert places(graph(*nodes))[0].kind is Kind.MATCHING
        assert places(graph(*nodes, outputs=["k"]))[0].kind is Kind.ATTENTION

    def test_what_one_part_reads_belongs_to_it(self) -> None:
        found = places(
            chain("blocks.0/Reshape", "blocks.0/Transpose", "blocks.0/Attention/scores", "blocks.0/Reshape_1")
        )
        assert [place.kind for place in found] == [Kind.ATTENTION] * 3 + [Kind.OTHER]

    def test_what_two_parts_read_belongs_to_neither(self) -> None:
        found = places(
            graph(
                node("blocks.0.in_proj/MatMul", outputs="p"),
                node("blocks.0/Split", inputs="p", outputs="a b"),
                node("blocks.0.mlp_act/Gelu", inputs="a", outputs="c"),
                node("blocks.0/Attention/scores", inputs="b", outputs="d"),
            )
        )
        assert [place.kind for place in found] == [Kind.OTHER, Kind.OTHER, Kind.MLP, Kind.ATTENTION]

    def test_what_works_on_positions_is_merging(self) -> None:
        found = places(
            chain(
                "blocks.0/fuse/positions", "blocks.1/Slice", "blocks.1/GatherND", "blocks.1.attn/Mul", "blocks.1/Concat"
            )
        )
        assert [place.kind for place in found] == [Kind.MERGING] * 3 + [Kind.ATTENTION, Kind.OTHER]
        assert found[1].stage == "blocks.1"

    def test_another_block_is_not(self) -> None:
        found = places(chain("blocks.0.mlp.fc2/MatMul", "blocks.1/fuse/match/x"))
        assert found[0] == Place("blocks.0", Kind.MLP)


@pytest.mark.e2e
@pytest.mark.parametrize(("name", "left"), [("dinov3", set()), ("scaling", {"MatMul", "Add", "Split", "Transpose"})])
def test_files_of_this_project_are_told_apart(name: str, left: set[str]) -> None:
    """One projection serves attention and MLP in a `ParallelScalingBlock`: it belongs to neither."""
    reduced = families.reduced(name, Reduction(r=4, pattern="PAM"))
    lowered = ir.to_proto(lower(trace(reduced, SHAPE), Target.PORTABLE, Precision.FP32)).graph
    found = places(lowered)
    assert {node.op_type for node, place in zip(lowered.node, found, strict=True) if place.kind is Kind.OTHER} == left
    assert {place.kind for place in found} == set(Kind) - (set() if left else {Kind.OTHER})
    for kind in (Kind.MATCHING, Kind.MERGING):
        assert {place.stage for place in found if place.kind is kind} >= {"blocks.0", "blocks.1"}


class TestLocate:
    SOURCE = chain(
        "patch_embed.proj/Conv",  # t0 -> t1
        "blocks.0.norm1/LayerNormalization",
        "blocks.0.attn.qkv/MatMul",
        "blocks.0.attn.proj/MatMul",
        "blocks.0.mlp.fc1/MatMul",
        "blocks.0.mlp.fc1/Add",
        "blocks.0.mlp.act/Gelu",  # t6 -> t7
        "head/Gemm",
    )

    def kinds(self, *running: onnx.NodeProto) -> list[tuple[Kind, bool]]:
        return [(where.place.kind, where.inferred) for where in locate(self.SOURCE, graph(*running))]

    def test_a_fused_node_is_found_by_what_it_gives(self) -> None:
        fused = node("BiasGelu", "BiasGelu", inputs="t5", outputs="t7")
        assert self.kinds(fused) == [(Kind.MLP, False)]

    @pytest.mark.parametrize(
        ("name", "kind"),
        [
            ("blocks.0.attn.qkv/MatMul", Kind.ATTENTION),
            ("blocks.0.attn.qkv/MatMul/MatMulScaleFusion/", Kind.ATTENTION),
            ("blocks.0.attn.qkv/MatMul/MatmulTransposeFusion//MatMulScaleFusion/", Kind.ATTENTION),
            ("blocks.0.attn.qkv/MatMul/GatherSliceToSplitFusion", Kind.ATTENTION),
            ("InsertedPrecisionFreeCast_t7", Kind.MLP),
            ("t1_nchwc", Kind.PATCH_EMBED),
            ("blocks.0.attn.qkv/MatMul_7", Kind.OTHER),
            ("Transpose_token_3", Kind.OTHER),
        ],
    )
    def test_by_name_without_what_the_optimiser_appended(self, name: str, kind: Kind) -> None:
        assert self.kinds(node(name, inputs="new1", outputs="new2")) == [(kind, False)]

    def test_the_tensor_counts_for_more_than_the_name(self) -> None:
        assert self.kinds(node("head/Gemm", inputs="a", outputs="t3")) == [(Kind.ATTENTION, False)]

    def test_what_is_new_counts_where_its_consumers_do(self) -> None:
        found = self.kinds(
            node("blocks.0.norm1/LayerNormalization", outputs="a"),
            node("Transpose", inputs="a", outputs="b"),
            node("Transpose", inputs="b", outputs="c"),
            node("blocks.0.attn.qkv/MatMul", inputs="c", outputs="d"),
        )
        assert found == [(Kind.NORM, False), (Kind.ATTENTION, True), (Kind.ATTENTION, True), (Kind.ATTENTION, False)]

    def test_or_else_where_its_producers_do(self) -> None:
        found = self.kinds(
            node("blocks.0.norm1/LayerNormalization", outputs="a"),
            node("", inputs="a", outputs="b"),
            node("", inputs="b", outputs="c"),
        )
        assert found == [(Kind.NORM, False), (Kind.NORM, True), (Kind.NORM, True)]

    def test_neighbours_that_disagree_leave_it_other(self) -> None:
        found = self.kinds(
            node("blocks.0.norm1/LayerNormalization", outputs="n"),
            node("head/Gemm", outputs="h"),
            node("new", inputs="n h", outputs="b"),
            node("blocks.0.attn.qkv/MatMul", inputs="b", outputs="c"),
            node("blocks.0.mlp.fc1/MatMul", inputs="b", outputs="d"),
        )
        assert found[2] == (Kind.OTHER, False)

    def test_loose_nodes_end_the_search(self) -> None:
        assert self.kinds(node("a", inputs="x", outputs="y"), node("b", inputs="y", outputs="z")) == [
            (Kind.OTHER, False),
            (Kind.OTHER, False),
        ]
