"""Shapes that an engine serves: smallest, preferred and largest shape of each dynamic input."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from tofu_export.engines.building.preflight import InputShape
from tofu_export.errors import OptionError
from tofu_export.options import BatchRange

__all__ = ["Profile", "make_profiles", "parse_shape_options", "parse_values"]

Profile = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
"""Smallest, preferred and largest shape of an input."""

_SHAPE = re.compile(r"(?P<name>.+):(?P<sizes>\d+(x\d+)*)")

_VALUES = re.compile(r"(?P<name>[^=]+)=(?P<values>-?\d+(x-?\d+)*(:-?\d+(x-?\d+)*)*)")


def parse_shape_options(minimum: str, optimum: str, maximum: str) -> dict[str, Profile]:
    """Read shapes by input name, from the texts of `--min-shapes`, `--opt-shapes` and `--max-shapes`.

    As in trtexec: all three are given, or only the preferred ones, which are then also the smallest and largest.

    Raises:
        OptionError: a text has another form, or the three do not name the same inputs with the same ranks in order.
    """
    if not (minimum or optimum or maximum):
        return {}
    if not optimum or bool(minimum) != bool(maximum):
        raise OptionError("give --min-shapes, --opt-shapes and --max-shapes, or --opt-shapes alone")
    low, best, high = (
        _parse(text or optimum, option)
        for text, option in ((minimum, "--min-shapes"), (optimum, "--opt-shapes"), (maximum, "--max-shapes"))
    )
    if not low.keys() == best.keys() == high.keys():
        raise OptionError(
            f"--min-shapes, --opt-shapes and --max-shapes name different inputs "
            f"({', '.join(low)} | {', '.join(best)} | {', '.join(high)}): give the same ones in all three"
        )
    for name in best:
        ranks = {len(low[name]), len(best[name]), len(high[name])}
        if len(ranks) > 1 or any(not a <= b <= c for a, b, c in zip(low[name], best[name], high[name], strict=True)):
            raise OptionError(
                f"shapes of {name} are {_text(low[name])}, {_text(best[name])}, {_text(high[name])}, expected the same "
                "number of axes in each, and sizes with MIN <= OPT <= MAX"
            )
    return {name: (low[name], best[name], high[name]) for name in best}


def parse_values(texts: Iterable[str]) -> dict[str, Profile]:
    """Read values of inputs that decide sizes, by name, from texts such as `k=1:5:10` or `size=480x640`.

    Raises:
        OptionError: a text has another form, an input is named twice, or the three are not in order.
    """
    values: dict[str, Profile] = {}
    for text in texts:
        match = _VALUES.fullmatch(text)
        rows = [tuple(map(int, part.split("x"))) for part in match["values"].split(":")] if match else []
        if match is None or len(rows) not in (1, 3) or match["name"] in values:
            raise OptionError(
                f"--values is {text!r}, expected NAME=VALUES or NAME=MIN:OPT:MAX, each input once, such as k=1:5:10 or "
                "size=480x640"
            )
        low, best, high = rows * 3 if len(rows) == 1 else rows
        if not len(low) == len(best) == len(high) or any(
            not a <= b <= c for a, b, c in zip(low, best, high, strict=True)
        ):
            raise OptionError(f"--values is {text!r}, expected as many numbers in each, with MIN <= OPT <= MAX")
        values[match["name"]] = low, best, high
    return values


def make_profiles(
    inputs: Sequence[InputShape], batch: BatchRange | None, shapes: Mapping[str, Profile] | None = None
) -> dict[str, Profile]:
    """Return the profiles of all dynamic inputs; static inputs need none.

    Args:
        inputs: inputs that the file declares.
        batch: sizes of the first axis of inputs that `shapes` does not name; None for 1:8:64, or the fixed
            size of the file.
        shapes: all sizes of some inputs.

    Raises:
        OptionError: an axis remains open, or the sizes contradict the file.
    """
    given = dict(shapes or {})
    unknown = [name for name in given if name not in {entry.name for entry in inputs}]
    if unknown:
        names = ", ".join(entry.name for entry in inputs) or "none"
        raise OptionError(f"shapes are given for {', '.join(unknown)}, but the inputs of the file are: {names}")
    for entry in inputs:
        for shape in given.get(entry.name, ()):
            if not _fits(shape, entry):
                raise OptionError(
                    f"a shape of {entry.name} is {_text(shape)}, but the file declares {_declared(entry)}"
                )
    rest = [entry for entry in inputs if entry.name not in given]
    for entry in rest:
        axes = [str(index) for index, axis in enumerate(entry.axes) if index and isinstance(axis, str)]
        if axes:
            example = "x".join(str(axis) if isinstance(axis, int) else "1" for axis in entry.axes)
            raise OptionError(
                f"input {entry.name!r} is {_declared(entry)} and leaves more than its batch open (axis "
                f"{', '.join(axes)}): say what it may be with --min-shapes, --opt-shapes and --max-shapes, for example "
                f"--opt-shapes {entry.name}:{example}"
            )
    dynamic = [entry for entry in rest if not entry.is_static]
    fixed = sorted({axis for entry in rest for axis in entry.axes[:1] if isinstance(axis, int)})
    if batch is not None and rest and not dynamic and not (batch.minimum == batch.maximum and batch.minimum in fixed):
        sizes = " or ".join(map(str, fixed)) or "none"
        raise OptionError(
            f"the file is exported for a fixed batch ({sizes}), but {batch} was asked for: "
            f"give --batch {sizes}, or export with a dynamic batch"
        )
    sizes_of = batch or BatchRange()
    made = {entry.name: _profile(entry, sizes_of) for entry in dynamic}
    made |= {entry.name: given[entry.name] for entry in inputs if entry.name in given and not entry.is_static}
    return {entry.name: made[entry.name] for entry in inputs if entry.name in made}


def _parse(text: str, option: str) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for part in text.split(","):
        match = _SHAPE.fullmatch(part.strip())
        if match is None or "0" in match["sizes"].split("x"):
            raise OptionError(
                f"{option} has {part!r}, expected NAME:SIZES such as input:1x3x224x224, with commas between"
            )
        if match["name"] in shapes:
            raise OptionError(f"{option} names {match['name']} twice: give each input once")
        shapes[match["name"]] = tuple(int(size) for size in match["sizes"].split("x"))
    return shapes


def _fits(shape: tuple[int, ...], entry: InputShape) -> bool:
    return len(shape) == len(entry.axes) and all(
        isinstance(axis, str) or axis == size for size, axis in zip(shape, entry.axes, strict=True)
    )


def _profile(entry: InputShape, batch: BatchRange) -> Profile:
    rest = tuple(int(axis) for axis in entry.axes[1:])
    return (batch.minimum, *rest), (batch.optimum, *rest), (batch.maximum, *rest)


def _text(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))


def _declared(entry: InputShape) -> str:
    return "x".join(map(str, entry.axes)) or "a scalar"
