"""Options of the builder, and the table of what each TensorRT product supports.

An option that a product does not have, or takes without any effect, is refused: no flag is ever ignored.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tofu_export.engines.flavours import RTX, Flavour
from tofu_export.errors import OptionError
from tofu_export.options.declaration import Section, opt

__all__ = ["HARDWARE", "REFUSED", "BuilderOptions", "cache_file", "check_options", "parse_size"]

HARDWARE: Mapping[str, str] = MappingProxyType(
    {"ampere+": "AMPERE_PLUS", "same-compute-capability": "SAME_COMPUTE_CAPABILITY"}
)
"""Members of `HardwareCompatibilityLevel`, by word on the command line."""

MAX_LEVEL = 5
"""Highest optimisation level of a builder. Source: IBuilderConfig, TensorRT 10 and 11."""

_UNITS = {"": 1, "B": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_NEEDS_GPU = "it needs a GPU while building, which this ahead-of-time build does without"

REFUSED: Mapping[tuple[str, str], str] = MappingProxyType(
    {
        (RTX.name, "builder-opt-level"): "every level from 0 to 5 gives the same plan",
        (RTX.name, "timing-cache"): "its timing cache does nothing since TensorRT-RTX 1.2",
        (RTX.name, "version-compatible"): "it comes without the lean runtime that this needs",
        (RTX.name, "hw-compat"): "name what the engine is to run on with --compute-capability instead",
        (RTX.name, "strip-weights"): _NEEDS_GPU,
        (RTX.name, "refit"): _NEEDS_GPU,
    }
)
"""Reasons for refusal, by (flavour, option). Source: measured with TensorRT-RTX 1.7.1; TensorRT from 10 on has all."""


def parse_size(text: str) -> int:
    """Read bytes from a number with an optional unit of 1024: `512M`, `2G`, `1048576`.

    Raises:
        OptionError: the text has another form.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", text.strip(), re.IGNORECASE)
    if match is None:
        raise OptionError(f"workspace is {text!r}, expected a size such as 512M or 2G")
    return int(float(match[1]) * _UNITS[match[2].upper()])


@dataclass(frozen=True)
class BuilderOptions:
    """Options of the builder beyond the file.

    Attributes:
        workspace_bytes: limit for scratch memory; None for the builder's default.
        level: 0 (builds fast) to 5 (runs fast); None for the builder's default.
        timing_cache: file of measured kernel times to read and write; see `cache_file`.
        version_compatible: the engine loads in later versions too, through the lean runtime inside it.
        hardware: a key of `HARDWARE`: the engine runs on other GPUs too.
        strip_weights: leave the weights out; they are put in before use (refit).
        refit: weights can be replaced later.

    Raises:
        OptionError: a value is out of range.
    """

    workspace_bytes: int | None = opt(
        None, "Limit for scratch memory, such as 2G.", Section.ENGINE, flags=("--workspace",), metavar="SIZE",
        parse=parse_size,
    )  # fmt: skip
    level: int | None = opt(
        None, "Build fast (0) or run fast (5).", Section.ENGINE, flags=("--builder-opt-level",), metavar="0..5"
    )
    timing_cache: Path | None = opt(
        None, "Kernel times to keep; one file per GPU, version and ONNX file, named after it.", Section.ENGINE,
        metavar="FILE",
    )  # fmt: skip
    version_compatible: bool = opt(False, "The engine loads in later versions too.", Section.ENGINE)
    hardware: str | None = opt(
        None, "The engine runs on other GPUs too.", Section.ENGINE, flags=("--hw-compat",),
        metavar="ampere+|same-compute-capability",
    )  # fmt: skip
    strip_weights: bool = opt(False, "Leave the weights out, to be put in before use.", Section.ENGINE)
    refit: bool = opt(False, "Weights can be replaced later.", Section.ENGINE)

    def __post_init__(self) -> None:
        if self.workspace_bytes is not None and self.workspace_bytes <= 0:
            raise OptionError(f"workspace is {self.workspace_bytes} bytes, expected more than 0, or none for no limit")
        if self.level is not None and not 0 <= self.level <= MAX_LEVEL:
            raise OptionError(f"builder-opt-level is {self.level}, expected 0 to {MAX_LEVEL}")
        if self.hardware is not None and self.hardware not in HARDWARE:
            raise OptionError(f"hw-compat is {self.hardware!r}, expected one of {', '.join(HARDWARE)}")

    @property
    def asked(self) -> dict[str, Any]:
        """Options that differ from the builder's defaults, by name."""
        values = {
            "workspace": self.workspace_bytes,
            "builder-opt-level": self.level,
            "timing-cache": None if self.timing_cache is None else self.timing_cache.name,
            "version-compatible": self.version_compatible or None,
            "hw-compat": self.hardware,
            "strip-weights": self.strip_weights or None,
            "refit": self.refit or None,
        }
        return {name: value for name, value in values.items() if value is not None}


def check_options(options: BuilderOptions, flavour: Flavour) -> None:
    """Refuse options that the flavour does not have.

    Raises:
        OptionError: an option is set that the flavour lacks or ignores.
    """
    for name in options.asked:
        reason = REFUSED.get((flavour.name, name))
        if reason is not None:
            raise OptionError(f"--{name} does not work with {flavour.name}: {reason}; leave it out")


def cache_file(path: Path, gpu: str | None, version: str, onnx_sha256: str) -> Path:
    """Return the timing cache file for one GPU, TensorRT version and ONNX file.

    Times of another GPU or version must not be used, so each has a separate file beside the name asked for:
    `cache.bin` becomes `cache.3f2a90c1d4e5.bin`. The content is TensorRT's, readable by trtexec.
    """
    key = hashlib.sha256("\0".join((gpu or "unknown GPU", version, onnx_sha256)).encode()).hexdigest()[:12]
    return path.with_name(f"{path.stem}.{key}{path.suffix}")
