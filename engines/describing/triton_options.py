"""Options for serving exported files with Triton Inference Server. Importing this module does not load onnx."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tofu_export.errors import OptionError
from tofu_export.options.declaration import Section, opt

__all__ = ["DEVICES", "TritonOptions"]

DEVICES = ("auto", "gpu", "cpu")
"""Devices on which Triton's onnxruntime backend can run a model."""


@dataclass(frozen=True)
class TritonOptions:
    """Options for serving models.

    Attributes:
        name: name of the model; None for the one in the file. With several files the precision is appended.
        version: number of the version folder.
        device: device of onnxruntime, one of `DEVICES`.
        instances: copies of a model that run at the same time.
        queue_delay_us: how long a request may wait for others to make up a batch, in microseconds.

    Raises:
        OptionError: a value that Triton does not accept.
    """

    name: str | None = opt(None, "Of the model.", Section.FILES, metavar="NAME", unless="the one in the file")
    version: int = opt(1, "Number of the version.", Section.FILES, metavar="N", minimum=1)
    device: str = opt("auto", "Where onnxruntime runs.", Section.FILES, choices=DEVICES)
    instances: int = opt(1, "Copies of a model that run at the same time.", Section.FILES, metavar="N", minimum=1)
    queue_delay_us: int = opt(
        1000, "Microseconds that a request may wait for others to make up a batch.", Section.FILES,
        flags=("--queue-delay",), metavar="US", minimum=0,
    )  # fmt: skip

    def __post_init__(self) -> None:
        if self.name is not None and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", self.name):
            raise OptionError(f"model name {self.name!r} is no folder name: use letters, digits, '.', '_' and '-'")
        if self.version < 1 or self.instances < 1 or self.queue_delay_us < 0:
            raise OptionError("version and instances are at least 1, the queue delay at least 0 microseconds")
        if self.device not in DEVICES:
            raise OptionError(f"device is {self.device!r}, expected one of {', '.join(DEVICES)}")
