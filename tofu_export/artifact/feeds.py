"""Random inputs to time a file with, made from its input types and shapes."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from tofu_export.errors import OptionError
from tofu_export.system.ort import TensorSpec

__all__ = ["as_asked", "check_shapes", "fixed_batch", "make_feeds"]


def fixed_batch(inputs: Mapping[str, TensorSpec]) -> int | None:
    """Return the batch size that a file is fixed to, the first size of its first input; None if any input is open."""
    sizes = [spec.shape[0] for spec in inputs.values() if spec.shape]
    return sizes[0] if sizes and None not in sizes else None


def check_shapes(shapes: Collection[str], inputs: Collection[str]) -> None:
    """Check that every input whose sizes are given exists.

    Raises:
        OptionError: names the first one that does not.
    """
    unknown = [name for name in shapes if name not in inputs]
    if unknown:
        raise OptionError(f"--shape names {unknown[0]!r}, which no file has; inputs are {', '.join(sorted(inputs))}")


def make_feeds(
    label: str,
    inputs: Mapping[str, TensorSpec],
    batch: int,
    *,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    seed: int = 0,
) -> dict[str, npt.NDArray[np.generic]]:
    """Return random inputs of the types and shapes of a file; equal seeds give equal inputs to every file.

    Floating-point inputs are unit normal, 8-bit ones pixels from 0 to 127 or 255, wider integers are 1 (a valid index
    and an open mask), booleans are true.

    Args:
        label: name of the file in messages.
        inputs: type and shape of each input of the file.
        batch: the first size of every input that leaves it open.
        shapes: all sizes of an input, for those that leave others than the first one open.
        seed: seed of the random numbers.

    Returns:
        Arrays by input name.

    Raises:
        OptionError: the file is fixed to another batch size, or sizes are open, unknown or contradicted.
    """
    fixed = fixed_batch(inputs)
    if fixed not in (None, batch):
        raise OptionError(
            f"{label} is fixed to batch {fixed}, {batch} was asked for: give --batch {fixed}, or export it with a "
            "dynamic batch"
        )
    given = shapes or {}
    return {
        name: _values(spec.dtype, _sizes(label, name, spec, batch, given.get(name)), seed)
        for name, spec in inputs.items()
    }


def as_asked(feeds: Mapping[str, npt.NDArray[Any]], inputs: Mapping[str, TensorSpec]) -> dict[str, npt.NDArray[Any]]:
    """Convert floating-point inputs to the types that a file expects."""
    return {
        name: feed.astype(inputs[name].dtype, copy=False)
        if name in inputs and np.issubdtype(feed.dtype, np.floating) and np.issubdtype(inputs[name].dtype, np.floating)
        else feed
        for name, feed in feeds.items()
    }


def _sizes(label: str, name: str, spec: TensorSpec, batch: int, given: tuple[int, ...] | None) -> tuple[int, ...]:
    """Return the sizes of an input."""
    if given is not None and spec.shape and not _fits(given, spec.shape):
        raise OptionError(f"--shape gives {name} {_text(given)}, but {label} asks for {spec}")
    sizes = list(given if given is not None else spec.shape)
    if spec.shape and spec.shape[0] is None:
        sizes[0] = batch
    if any(size is None for size in sizes):
        example = _text([size or 1 for size in sizes])
        raise OptionError(
            f"input {name} of {label} is {spec} and leaves more than the batch open: say its sizes, for example "
            f"--shape {name}:{example}"
        )
    return tuple(size for size in sizes if size is not None)


def _fits(given: tuple[int, ...], asked: tuple[int | None, ...]) -> bool:
    return len(given) == len(asked) and all(want in (None, size) for size, want in zip(given, asked, strict=True))


def _values(dtype: np.dtype[np.generic], sizes: tuple[int, ...], seed: int) -> npt.NDArray[np.generic]:
    random = np.random.default_rng(seed)
    if np.issubdtype(dtype, np.floating):
        return random.standard_normal(sizes, dtype=np.float32).astype(dtype, copy=False)
    if dtype.itemsize == 1 and np.issubdtype(dtype, np.integer):
        return random.integers(0, 127 if dtype.kind == "i" else 255, sizes, endpoint=True).astype(dtype)
    return np.ones(sizes, dtype)


def _text(sizes: Iterable[int]) -> str:
    return "x".join(map(str, sizes))
