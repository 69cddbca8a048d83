"""Precisions supported by the compute capabilities that TensorRT-RTX builds for."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from tofu_export.engines.flavours import TURING, Flavour
from tofu_export.errors import OptionError
from tofu_export.options import Precision

__all__ = ["able", "check_able"]

_AMPERE, _ADA = 80, 89
_LEAST: Mapping[Precision, tuple[int, str]] = {
    Precision.FP32: (_AMPERE, "FP32 matrix products"),
    Precision.INT8: (_AMPERE, "FP32 matrix products"),
    Precision.BF16: (_AMPERE, "BF16"),
    Precision.FP8: (_ADA, "FP8"),
}
"""First capability that fully supports a precision, and what older ones lack. Other precisions run on all.

Source: messages of TensorRT-RTX 1.7.1 when it builds for older capabilities.
"""


def able(capability: str, precision: Precision | None) -> bool:
    """True if a capability, such as `SM89`, supports a precision or is unknown; also for no precision (None)."""
    number = re.fullmatch(r"SM(\d+)", capability)
    if precision is None or number is None:
        return True
    return int(number[1]) >= _LEAST.get(precision, (0, ""))[0]


def check_able(flavour: Flavour, capabilities: Sequence[str], precision: Precision | None) -> None:
    """Refuse a build for capabilities that lack the precision of its file.

    Raises:
        OptionError: a capability lacks it.
    """
    unable = [name for name in capabilities if not able(name, precision)]
    if precision is None or not unable:
        return
    least, what = _LEAST[precision]
    names = ", ".join(f"{name} (Turing)" if name == TURING else name for name in unable)
    other = "in fp16" if precision is not Precision.FP8 else "in fp16 or int8-fp16"
    raise OptionError(f"{flavour.name} has no {what} on {names}: build it {other}, or for SM{least} and newer")
