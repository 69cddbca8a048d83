"""Facts about TensorRT-RTX's own parser: what it states (`parser_table`), or shows by refusing a form.

`benchmarks/lint_agreement.py` compares them with its builder.
"""

from __future__ import annotations

from onnx import TensorProto

from tofu_export.linting import attention_conditions as a
from tofu_export.linting import conditions as c
from tofu_export.linting import parser_conditions as p
from tofu_export.linting.finding import ANY, Condition, Fact, Runtime, Severity

__all__ = ["MEASURED_RTX", "PARSER_FACTS"]

MEASURED_RTX = "measured: TensorRT-RTX 1.7.1"

_SEEN = "1.7"
_ELSEWHERE = "compute it before export, or by other operators"
_CONSTANT = "export it as a constant"


def _refused(rule: str, op_types: tuple[str, ...], problem: Condition, fix: str) -> Fact:
    """Return a fact about TensorRT-RTX alone."""
    runtimes = (Runtime.TENSORRT_RTX,)
    return Fact(rule, Severity.ERROR, runtimes, _SEEN, op_types, problem, fix, MEASURED_RTX)


PARSER_FACTS = (
    _refused("no-importer", ANY, p.not_imported, _ELSEWHERE),
    _refused("needs-plugin", ("CausalConvWithState", "LinearAttention", "NonMaxSuppression", "RoiAlign"),
             p.needs_plugin, _ELSEWHERE),
    _refused("unknown-type", ANY, p.of_no_type, "use FP32, FP16, BF16, INT8, INT32, INT64 or BOOL"),
    _refused("cast-quantized", ("Cast", "CastLike"), p.quantized_by_a_cast, "quantise with a scale"),
    _refused("uint8", ANY, p.unsigned, "use INT32, or cast to FP32 at the input"),
    _refused(
        "axes-not-constant",
        ("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin",
         "ReduceProd", "ReduceSum", "ReduceSumSquare", "Squeeze", "Unsqueeze"),
        p.not_constant(1, "axes"), _CONSTANT,
    ),
    _refused("dropout-mode", ("Dropout",), p.not_constant(2, "a training mode"), "export it in evaluation mode"),
    _refused("depth-not-constant", ("OneHot",), p.depth_of_no_size, _CONSTANT),
    _refused("zero-point-not-constant", ("DequantizeLinear", "QuantizeLinear"), p.not_constant(2, "zero points"),
             _CONSTANT),
    _refused("scale-not-positive", ("DequantizeLinear", "QuantizeLinear"), p.scale_not_positive,
             "quantise it again: a range of 0 has no scale"),
    _refused("quantized-constant", ANY, p.reads_a_quantized_constant,
             "dequantise it first, and reshape or cast it after that"),
    _refused("branches-differ", ("If",), p.branches_differ, "let both give the same type and rank"),
    _refused("loop-condition", ("Loop",), p.loop_without_condition, "give it a condition that is always true"),
    _refused("slice-axes", ("Slice",), p.slices_axes_that_are_not_said, "say its axes"),
    _refused("dequantized-int32", ("DequantizeLinear",), c.of_type("is not possible", TensorProto.INT32),
             "leave biases in FP32, for onnxruntime's quantizer with extra_options={'QuantizeBias': False}"),
    _refused("mod-type", ("Mod",), p.whole_remainder, "use fmod = 1, or INT32"),
    _refused("celu-half", ("Celu",), c.of_type("is not possible", TensorProto.FLOAT16, TensorProto.BFLOAT16),
             "cast to FP32 around it"),
    _refused("range-half", ("Range",), c.of_type("is not possible", TensorProto.FLOAT16, TensorProto.BFLOAT16),
             "cast to FP32 around it"),
    _refused("range-fp32", ("Range",), p.given_in_fp32, "use INT64"),
    _refused("frame-step", ("STFT",), p.not_constant(1, "frame steps"), _CONSTANT),
    _refused("resize-mode", ("Resize", "Upsample"), p.other_resize, "resize before export, or by another mode"),
    _refused(
        "old-broadcast",
        ("Add", "And", "Div", "Equal", "Gemm", "Greater", "Less", "Max", "Mean", "Min", "Mul", "Or", "PRelu", "Pow",
         "Sub", "Sum", "Xor"),
        p.broadcasts_the_old_way, "convert the file with onnx.version_converter, to opset 13 for example",
    ),
    _refused("statistics", ("LayerNormalization", "BatchNormalization", "MaxPool"), p.more_outputs,
             "leave the other outputs out"),
    _refused("training-batches", ("BatchNormalization",), p.trains_batches, "export it in evaluation mode"),
    _refused("dilated-pool", ("AveragePool", "LpPool", "MaxPool"), p.dilated, _ELSEWHERE),
    _refused("pool-norm", ("LpPool",), p.norm_of_another_order, _ELSEWHERE),
    _refused("clip-int8", ("Clip",), p.clips_int8, "cast to INT32 around it"),
    _refused("cache-form", ("TensorScatter",), p.circular_cache, _ELSEWHERE),
    _refused("attention-outputs", ("Attention",), p.more_outputs, "decompose the attention before export"),
    _refused("attention-softcap", ("Attention",), p.with_softcap, "decompose the attention before export"),
    _refused("attention-cache", ("Attention",), a.keeps_a_cache, "join them by a Concat before it"),
    _refused("attention-width", ("Attention",), a.other_width_of_values, "decompose the attention before export"),
    _refused("attention-mask-type", ("Attention",), a.mask_of_another_type, "cast it to the type of the queries"),
    _refused("attention-mask-shape", ("Attention",), a.mask_of_another_shape, "pad or slice it before"),
    _refused("attention-mask-causal", ("Attention",), a.mask_with_causal_order, "add the causal order to the mask"),
    _refused("attention-in-branch", ("Attention",), p.in_a_branch, "let `tofu-export lower` decompose it"),
)  # fmt: skip
"""Facts, in the order in which findings about one node are reported."""
