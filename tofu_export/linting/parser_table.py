"""Table of what TensorRT-RTX's parser imports, queried from the parser, operator by operator and type by type.

`tests/linting/test_parser_table.py` queries it again and prints what changed. Measured with TensorRT-RTX 1.7.1 for all
operators that onnx 1.23 has a schema for, of any version.
"""

from __future__ import annotations

from onnx import TensorProto

__all__ = ["IMPORTED", "NEEDS_PLUGIN", "PLAIN_ZERO_POINTS", "QUANTIZED_TYPES", "TYPES"]

IMPORTED = frozenset(
    {
        "Abs", "Acos", "Acosh", "Add", "And", "ArgMax", "ArgMin", "Asin", "Asinh", "Atan", "Atanh",
        "Attention", "AveragePool", "BatchNormalization", "BlackmanWindow", "Cast", "CastLike",
        "CausalConvWithState", "Ceil", "Celu", "Clip", "Concat", "Constant", "ConstantOfShape", "Conv",
        "ConvTranspose", "Cos", "Cosh", "CumSum", "DepthToSpace", "DequantizeLinear", "Div", "Dropout",
        "Einsum", "Elu", "Equal", "Erf", "Exp", "Expand", "EyeLike", "Flatten", "Floor", "GRU", "Gather",
        "GatherElements", "GatherND", "Gelu", "Gemm", "GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool",
        "Greater", "GreaterOrEqual", "GridSample", "GroupNormalization", "HammingWindow", "HannWindow",
        "HardSigmoid", "HardSwish", "Hardmax", "Identity", "If", "InstanceNormalization", "IsInf", "IsNaN",
        "LRN", "LSTM", "LayerNormalization", "LeakyRelu", "Less", "LessOrEqual", "LinearAttention", "Log",
        "LogSoftmax", "Loop", "LpNormalization", "LpPool", "MatMul", "Max", "MaxPool", "Mean",
        "MeanVarianceNormalization", "Min", "Mish", "Mod", "Mul", "Neg", "NonMaxSuppression", "NonZero", "Not",
        "OneHot", "Or", "PRelu", "Pad", "Pow", "QuantizeLinear", "RMSNormalization", "RNN", "RandomNormal",
        "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Range", "Reciprocal", "ReduceL1",
        "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd",
        "ReduceSum", "ReduceSumSquare", "Relu", "Reshape", "Resize", "ReverseSequence", "RoiAlign",
        "RotaryEmbedding", "Round", "STFT", "Scan", "Scatter", "ScatterElements", "ScatterND", "Selu", "Shape",
        "Shrink", "Sigmoid", "Sign", "Sin", "Sinh", "Size", "Slice", "Softmax", "Softplus", "Softsign",
        "SpaceToDepth", "Split", "Sqrt", "Squeeze", "Sub", "Sum", "Swish", "Tan", "Tanh", "TensorScatter",
        "ThresholdedRelu", "Tile", "TopK", "Transpose", "Trilu", "Unsqueeze", "Upsample", "Where", "Xor",
    }
)  # fmt: skip
"""Operators of the default domain that the parser has an importer for."""

NEEDS_PLUGIN = frozenset({"CausalConvWithState", "LinearAttention", "NonMaxSuppression", "NonZero", "RoiAlign"})
"""Imported operators that need a plugin, or a kernel, which TensorRT-RTX does not have."""

TYPES = frozenset(
    {
        TensorProto.BFLOAT16, TensorProto.BOOL, TensorProto.DOUBLE, TensorProto.FLOAT, TensorProto.FLOAT16,
        TensorProto.FLOAT4E2M1, TensorProto.FLOAT8E4M3FN, TensorProto.INT32, TensorProto.INT4, TensorProto.INT64,
        TensorProto.INT8, TensorProto.UINT8,
    }
)  # fmt: skip
"""Element types that a tensor may have."""

PLAIN_ZERO_POINTS = frozenset({TensorProto.FLOAT8E4M3FN})
"""Types whose zero points are not read, so that they need not be constant."""

QUANTIZED_TYPES = frozenset({TensorProto.FLOAT4E2M1, TensorProto.FLOAT8E4M3FN, TensorProto.INT4})
"""Types that only a quantisation may produce and only a dequantisation may read."""
