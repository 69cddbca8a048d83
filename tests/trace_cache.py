"""Graphs that `torch.onnx.export` made, kept on disk for all workers and later sessions: tracing is most of a test.

A graph is found again by everything that it depends on: the module with its weights, plan and classes, the arguments,
the sources that a trace runs through, and the versions of the packages. Tests that are about tracing itself are marked
`traces`.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import inspect
import io
import os
import pickle
import shutil
import time
import types
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
import torch
from torch import nn

import tofu_export

_ASKED = {"dynamo", "opset_version", "input_names", "output_names", "dynamic_shapes", "verbose"}
"""What `tofu_export.trace.export` asks for."""
_KEPT_S = 24 * 3600
"""How long graphs of other sources are kept, in seconds."""
_PACKAGES = ("torch", "timm", "onnx", "onnx-ir", "onnxscript", "diffusers")
_SOURCES = ("patch", "diffusion", "planning", "trace/export.py", "trace/fixed_sizes.py")


class _Fingerprint(pickle.Pickler):
    """Writes what an object is made of; tensors by their values, classes and functions by name and code."""

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, torch.Tensor):
            value = obj.detach().cpu().contiguous()
            data = hashlib.sha256(value.flatten().view(torch.uint8).numpy().tobytes() if value.numel() else b"")
            return str, (f"{value.dtype}{tuple(value.shape)}{data.hexdigest()}",)
        if isinstance(obj, type) and obj.__module__ != "builtins":
            return str, (" ".join(f"{kind.__module__}.{kind.__qualname__}" for kind in obj.__mro__),)
        if isinstance(obj, types.FunctionType):
            code = obj.__code__
            return tuple, ((obj.__module__, obj.__qualname__, code.co_code, repr(code.co_consts)),)
        return NotImplemented


class Program:
    """What `torch.onnx.export` returns, as far as this project reads it."""

    def __init__(self, data: bytes) -> None:
        self.model = ir.from_proto(onnx.ModelProto.FromString(data))


@cache
def _surroundings() -> bytes:
    """A hash of all that a trace depends on beside its arguments."""
    root = Path(inspect.getfile(tofu_export)).parent
    found = hashlib.sha256()
    versions = {entry.name: entry.version for entry in importlib.metadata.distributions()}
    found.update(repr([(name, versions.get(name)) for name in _PACKAGES]).encode())
    for name in _SOURCES:
        path = root / name
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            found.update(file.read_bytes())
    return found.digest()


def key_of(module: nn.Module, arguments: object) -> str | None:
    """What a trace is found by; None for a module that cannot be described."""
    written = io.BytesIO()
    try:
        _Fingerprint(written).dump((module, arguments))
    except (pickle.PicklingError, TypeError, AttributeError, RecursionError):
        return None
    return hashlib.sha256(written.getvalue()).hexdigest()


def kept(export: Callable[..., Any], folder: Path) -> Callable[..., Any]:
    """`export`, which is `torch.onnx.export`, with its graphs kept in `folder`."""
    mine = folder / _surroundings().hex()[:16]
    mine.mkdir(parents=True, exist_ok=True)
    for other in folder.iterdir():  # of other sources; another session may be at work on them
        if other != mine and time.time() - other.stat().st_mtime > _KEPT_S:
            shutil.rmtree(other, ignore_errors=True)

    def run(module: nn.Module, examples: Any, *more: Any, **how: Any) -> Any:
        if more or set(how) != _ASKED:  # somebody else's
            return export(module, examples, *more, **how)
        key = key_of(module, (examples, how))
        path = None if key is None else mine / f"{key}.onnx"
        if path is not None and path.exists():
            return Program(path.read_bytes())
        program = export(module, examples, **how)
        if path is not None and program is not None:
            partial = path.with_suffix(f".{os.getpid()}")
            partial.write_bytes(ir.to_proto(program.model).SerializeToString())
            partial.replace(path)
        return program

    return run
