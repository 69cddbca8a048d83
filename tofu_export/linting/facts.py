"""Table of known facts about runtimes, read by `tofu-export lint` and by the pre-flight of the builders.

Measured: with onnxruntime 1.31.1 (CPU provider) and TensorRT-RTX 1.7.1 (parser and ahead-of-time builder, in FP32, FP16
and BF16 over SM75 to SM121); tests/linting/test_facts.py asks them again. For classic TensorRT, which no test here can
run, only what its own documentation or sources state. Remove a row when it no longer applies to newer versions.
"""

from __future__ import annotations

from onnx import TensorProto

from tofu_export.linting import attention_conditions as a
from tofu_export.linting import conditions as c
from tofu_export.linting import parser_conditions as p
from tofu_export.linting.finding import ANY, Fact, Runtime, Severity
from tofu_export.linting.parser_facts import MEASURED_RTX, PARSER_FACTS

__all__ = ["FACTS", "MEASURED_ORT", "MEASURED_RTX"]

ORT, RTX, TRT = Runtime.ONNXRUNTIME, Runtime.TENSORRT_RTX, Runtime.TENSORRT
BOTH = (TRT, RTX)
ALL = (ORT, TRT, RTX)
ERROR, WARNING = Severity.ERROR, Severity.WARNING

MEASURED_ORT = "measured: onnxruntime 1.31.1, CPU provider"
_MATRIX = "https://github.com/onnx/onnx-tensorrt/blob/main/docs/operators.md"
_SEEN_ORT = "1.31, CPU provider"
_SEEN_RTX = "1.7"
_ABSENT = "is not supported by this builder"
_ELSEWHERE = "compute it before export, or by other operators (TopK, Gather, Where)"

FACTS: tuple[Fact, ...] = (
    Fact(
        "canonical-node", ERROR, ALL, "all", ANY, c.canonical,
        "lower the file for a target first", "docs/decisions/002-canonical-nodes.md",
    ),
    Fact(
        "undefined-input", ERROR, ALL, "all", ANY, c.reads_what_nobody_computes,
        "the file is damaged: export it again", f"{MEASURED_ORT}; {MEASURED_RTX}",
    ),
    Fact(
        "custom-domain", ERROR, (ORT, RTX), "all", ANY, c.custom_domain,
        "export it as standard operators; onnxruntime runs it only with a library of custom operators",
        f"{MEASURED_ORT}; {MEASURED_RTX}",
    ),
    Fact(
        "custom-domain-plugin", WARNING, (TRT,), ">=10", ANY, c.custom_domain,
        "load a plugin of that name before parsing, or export it as standard operators", _MATRIX,
    ),
    Fact(
        "contrib-op", ERROR, BOTH, f">=10; RTX {_SEEN_RTX}", ANY, c.contrib,
        "export without onnxruntime's offline optimiser, or for --target portable", MEASURED_RTX,
    ),
    Fact(
        "scatter-reduction", ERROR, (RTX,), _SEEN_RTX, ("ScatterElements",), c.reduces,
        "let `tofu-export lower` make a one-hot MatMul (sum) or a masked ReduceMax (max) of it", MEASURED_RTX,
    ),
    Fact(
        "scatter-indices", ERROR, (RTX,), _SEEN_RTX, ("ScatterElements",), c.more_indices_than_data,
        "which one stays is not defined: write what is meant, such as a sum, and let `tofu-export lower` rewrite that",
        MEASURED_RTX,
    ),
    Fact(
        "scatter-reduction-plugin", WARNING, (TRT,), "8.6 ignores it; >=10 has a plugin", ("ScatterElements",),
        c.reduces,
        "it needs the plugin library (INT64 indices, no BF16, no mean), so prefer a one-hot MatMul or ReduceMax",
        "https://github.com/NVIDIA/TensorRT/tree/main/plugin/scatterElementsPlugin",
    ),
    Fact(
        "scatternd-reduction", ERROR, BOTH, f">=10; RTX {_SEEN_RTX}", ("ScatterND",), c.reduces,
        "let `tofu-export lower` make a one-hot MatMul (sum) or a masked ReduceMax (max) of it",
        f"{_MATRIX}; {MEASURED_RTX}",
    ),
    Fact(
        "scatternd-race", WARNING, (ORT,), _SEEN_ORT, ("ScatterND",), c.joins_in_several_threads,
        "give the session intra_op_num_threads = 1, or let `tofu-export lower --target portable` rewrite it",
        f"{MEASURED_ORT}; https://github.com/microsoft/onnxruntime/issues/18048",
    ),
    Fact(
        "mean-overwritten", WARNING, ALL, "all", ("ScatterElements",), c.overwrites_for_a_mean,
        "export it again with a sum and a count (scatter_add twice) and their quotient",
        "measured: torch 2.14.1, torch.onnx.export(dynamo=True)",
    ),
    Fact(
        "accumulate-overwritten", WARNING, ALL, "all", ("ScatterElements", "ScatterND"), c.adds_what_overwrites,
        "export it with dynamo=True, or write the sum as scatter_add or scatter_reduce",
        "measured: torch 2.14.1, torch.onnx.export(dynamo=False); https://github.com/pytorch/pytorch/issues/61034",
    ),
    Fact(
        "topk-limit", ERROR, BOTH, f">=8; RTX {_SEEN_RTX}", ("TopK",), c.k_too_large,
        "take the complement of a smaller TopK instead",
        f"https://docs.nvidia.com/deeplearning/tensorrt/operators/docs/TopK.html; {MEASURED_RTX}",
    ),
    Fact(
        "data-dependent-shape", ERROR, (RTX,), _SEEN_RTX, ("NonZero",), c.always(_ABSENT),
        f"let `tofu-export lower` make a Where of it if it writes through a mask; else {_ELSEWHERE}", MEASURED_RTX,
    ),
    Fact(
        "unsupported-op", ERROR, (TRT,), "all",
        (
            "Bernoulli", "BitShift", "Compress", "ConcatFromSequence", "ConvInteger", "Det", "DynamicQuantizeLinear",
            "MatMulInteger", "Multinomial", "QLinearConv", "QLinearMatMul", "SequenceAt", "SequenceConstruct",
            "SequenceEmpty", "SequenceErase", "SequenceInsert", "SequenceLength", "SplitToSequence", "Unique",
        ),
        c.always(_ABSENT), _ELSEWHERE, _MATRIX,
    ),
    Fact(
        "antialiased-resize", ERROR, BOTH, f"all; RTX {_SEEN_RTX}", ("Resize",), c.antialiases,
        "resize before export, or without antialias", f"{_MATRIX}; {MEASURED_RTX}",
    ),
    Fact(
        "softmax-precision", ERROR, BOTH, f"all that have Attention; RTX {_SEEN_RTX}", ("Attention",),
        a.has_softmax_precision, "leave it out", MEASURED_RTX,
    ),
    Fact(
        "fp32-attention", ERROR, (RTX,), _SEEN_RTX, ("Attention",), a.fp32_attention,
        "`tofu-export build` marks it decomposable; for other tools use `tofu-export lower`", MEASURED_RTX,
        build_copes=True,
    ),
    Fact(
        "wide-attention", ERROR, (RTX,), _SEEN_RTX, ("Attention",), a.wide_heads,
        "`tofu-export build` marks it decomposable; for other tools decompose it before (opset 18)", MEASURED_RTX,
        build_copes=True,
    ),
    Fact(
        "narrow-attention", ERROR, (RTX,), _SEEN_RTX, ("Attention",), a.narrow_heads,
        "`tofu-export build` marks it decomposable; for other tools decompose it before (opset 18)", MEASURED_RTX,
        build_copes=True,
    ),
    Fact(
        "attention-window", WARNING, (RTX,), _SEEN_RTX, ("Attention",), a.ignores_a_window,
        "add the window to the mask, as numbers of -inf", f"{MEASURED_RTX}: the engine is the same without",
    ),
    Fact(
        "not-in-bf16", ERROR, (RTX,), _SEEN_RTX,
        ("HardSwish", "LpNormalization", "Mish", "RandomNormalLike", "RandomUniformLike"),
        c.of_type("is not supported", TensorProto.BFLOAT16), "cast to FP32 around it, or decompose it", MEASURED_RTX,
    ),
    Fact(
        "no-such-type", ERROR, (TRT,), "all", ANY,
        c.of_type("is not possible", TensorProto.STRING, TensorProto.INT16, TensorProto.UINT16),
        "use a type that TensorRT has (FP32, FP16, BF16, INT8, INT32, INT64, BOOL)", _MATRIX,
    ),
    Fact(
        "fp64-becomes-fp32", WARNING, BOTH, f"all; RTX {_SEEN_RTX}", ANY,
        c.of_type("is computed in FP32 though it is", TensorProto.DOUBLE),
        "cast to FP32 in the model, so that every runtime computes the same", f"{_MATRIX}; {MEASURED_RTX}",
    ),
    Fact(
        "uint8-becomes-int8", WARNING, (RTX,), _SEEN_RTX, ("QuantizeLinear",), p.becomes_int8,
        "quantise symmetrically to int8", f"{MEASURED_RTX}: the engine is that of int8",
    ),
    Fact(
        "zero-point", ERROR, BOTH, f"all; RTX {_SEEN_RTX}", ("QuantizeLinear", "DequantizeLinear"), c.zero_point,
        "quantise symmetrically to int8", f"{_MATRIX}; {MEASURED_RTX}",
    ),
    Fact(
        "training-dropout", ERROR, BOTH, f"all; RTX {_SEEN_RTX}", ("Dropout",), c.trains,
        "export the model in evaluation mode", MEASURED_RTX,
    ),
    Fact(
        "random", WARNING, ALL, "all",
        ("Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"),
        c.is_random, "draw the numbers outside of the graph and give them as an input", _MATRIX,
    ),
    Fact(
        "turing-fp32", ERROR, (RTX,), _SEEN_RTX, ("Einsum", "Gemm", "MatMul"),
        c.of_type("is a matrix product, which SM75 does not have", TensorProto.FLOAT),
        "build for SM80 or newer, or export in FP16", MEASURED_RTX, capability="SM75",
    ),
    Fact(
        "turing-bf16", ERROR, (RTX,), _SEEN_RTX, ANY, c.of_type("cannot run on SM75", TensorProto.BFLOAT16),
        "build for SM80 or newer, or export in FP16", MEASURED_RTX, capability="SM75",
    ),
    Fact(
        "cpu-scatter-fp16", ERROR, (ORT,), _SEEN_ORT, ("ScatterElements",),
        c.reduces_in(TensorProto.FLOAT16, "add", "mul"),
        "cast to FP32 around it, or export with --target portable", MEASURED_ORT,
    ),
    Fact(
        "cpu-scatternd-fp16", ERROR, (ORT,), _SEEN_ORT, ("ScatterND",), c.reduces_in(TensorProto.FLOAT16),
        "cast to FP32 around it, or export with --target portable", MEASURED_ORT,
    ),
    Fact(
        "cpu-scatter-bf16", ERROR, (ORT,), _SEEN_ORT, ("ScatterElements", "ScatterND"),
        c.reduces_in(TensorProto.BFLOAT16), "cast to FP32 around it, or export with --target portable", MEASURED_ORT,
    ),
    Fact(
        "cpu-bf16", ERROR, (ORT,), _SEEN_ORT, ANY, c.no_cpu_kernel_in_bf16,
        "run it with a GPU provider, or export in FP32 or FP16", MEASURED_ORT,
    ),
    Fact(
        "attention-mask", ERROR, (ORT,), _SEEN_ORT, ("Attention",), a.mask_does_not_broadcast,
        "expand it to one row per query, or decompose the attention (opset 18)", MEASURED_ORT,
    ),
    *PARSER_FACTS,
)  # fmt: skip
"""All facts, in the order in which findings about one node are reported."""
