"""Run a file, and a copy of it that outputs inner values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from numpy.typing import NDArray

from tofu_export.artifact.feeds import as_asked
from tofu_export.artifact.onnx_file import load_without_weights
from tofu_export.compare.outputs import Tolerance, compare_outputs, is_real
from tofu_export.errors import VerificationError
from tofu_export.system.ort import open_copy

if TYPE_CHECKING:
    from tofu_export.verification.subject import Runnable

__all__ = ["batched", "check_same", "fed", "feed", "mark_as_outputs", "run_copy"]

Array = NDArray[Any]


def mark_as_outputs(model: onnx.ModelProto, names: Iterable[str]) -> None:
    """Make values of a graph its outputs, in place; onnxruntime infers their types."""
    present = {value.name for value in model.graph.output}
    for name in names:
        if name not in present:
            model.graph.output.append(onnx.ValueInfoProto(name=name))
            present.add(name)


def batched(pixels: Array, sizes: Sequence[int]) -> list[Array]:
    """Return batches of these sizes, with images [n, C, H, W] used in turn."""
    starts = np.cumsum((0, *sizes[:-1]))
    return [pixels[(start + np.arange(size)) % len(pixels)] for start, size in zip(starts, sizes, strict=True)]


def run_copy(path: Path, feeds: Sequence[Mapping[str, Array]], names: Iterable[str]) -> list[dict[str, Array]]:
    """Return the outputs, and the values called `names`, of a copy of a file, for each batch."""
    model = load_without_weights(path)
    mark_as_outputs(model, names)
    session = open_copy(model, path)
    return [session.run(batch) for batch in feeds]


def feed(session: Runnable, images: Array) -> dict[str, Array]:
    """Return images [B, C, H, W] as the only input of a file.

    Raises:
        VerificationError: the file takes something else.
    """
    if len(session.inputs) != 1:
        raise VerificationError(f"{session.label} has inputs {', '.join(session.inputs)}, expected one: images")
    ((name, spec),) = session.inputs.items()
    if not np.issubdtype(spec.dtype, np.floating):
        raise VerificationError(f"input {name} of {session.label} is {spec}, expected images as real numbers")
    return {name: images.astype(spec.dtype)}


def fed(session: Runnable, feeds: Mapping[str, Array]) -> dict[str, Array]:
    """Return the inputs of a batch in the types that a file needs; a single input takes the file's own name for it.

    Raises:
        VerificationError: the file has other inputs.
    """
    if len(feeds) == 1:
        return feed(session, next(iter(feeds.values())))
    if set(feeds) != set(session.inputs):
        raise VerificationError(f"{session.label} has inputs {', '.join(session.inputs)}, expected {', '.join(feeds)}")
    return as_asked(feeds, session.inputs)


def check_same(seen: Mapping[str, Array], got: Mapping[str, Array], tolerance: Tolerance, file: str) -> None:
    """Check that a copy gives the same outputs as the file itself.

    Raises:
        VerificationError: giving out values changed the outputs.
    """
    for name, value in got.items():
        was = seen[name]
        if not (compare_outputs(was, value).within(tolerance) if is_real(value) else np.array_equal(was, value)):
            raise VerificationError(f"{file}: reading out its decisions changes its output, report this")
