"""Time Token Fusion in PyTorch on a GPU: full against reduced, eager and compiled, unattended, within a few minutes.

`make gpu-torch`; where only PyTorch and timm are installed: `PYTHONPATH=. python3 benchmarks/gpu_torch.py`. Weights are
random: they change no time. Every list on the command line is in order of importance: first comes the cell (a full
model and its reductions, timed by turns) of all first values, then those that differ in one of them, and so on. A cell
begins only if it will probably end within `--minutes`; those that were left out are listed below the table.

`--device cpu --tiny` tries it out.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from blocks import replaced, write
from gpu_cells import COMPILE, EAGER, NUMERICS, ORT, PAPER_R, Cell, Row, cells_of, measure

from tofu_export.errors import TofuError
from tofu_export.system import environment
from tofu_export.system.typed_json import to_object

__all__ = ["main", "markdown", "run"]

FIRST_SECONDS = {EAGER: 5.0, COMPILE: 120.0, ORT: 60.0}
"""What a cell is expected to take before one of its backend was timed; compiling ViT-B is most of the second."""
MARGIN = 1.25
BEGIN, END = "<!-- gpu-torch -->", "<!-- end of gpu-torch -->"
HEAD = (
    "model", "with", "numbers", "batch", "r", "method", "sizes", "GMACs", "images/s", "against full",
    "of the GMAC ratio", "peak GB", "kernels, of the reduction", "its ms", "of the kernels' time",
)  # fmt: skip


def run(
    cells: Sequence[Cell],
    take: Callable[[Cell], list[Row]],
    seconds: float,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[tuple[Cell, list[Row], str]]:
    """Each cell with its rows, or with the reason why it has none.

    Args:
        cells: in order of importance.
        take: measures one.
        seconds: that all of them may take. A cell is left out if one of its backend took longer than what is left.
        clock: in seconds.
    """
    begin, longest = clock(), dict[str, float]()
    for cell in cells:
        start = clock()
        expected = MARGIN * longest.get(cell.backend, FIRST_SECONDS[cell.backend])
        if start - begin + expected > seconds:
            yield cell, [], "no time was left"
            continue
        try:
            rows, reason = take(cell), ""
        except Exception as error:  # of one cell: out of memory, a compiler's own kinds; the others go on
            lines = [line for line in str(error).splitlines() if line.strip()]
            rows, reason = [], f"{type(error).__name__}: {lines[0] if lines else 'without a message'}"
        longest[cell.backend] = max(longest.get(cell.backend, 0.0), clock() - start)
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        yield cell, rows, reason


def markdown(rows: Sequence[Row], left: Mapping[str, Sequence[Cell]], conditions: str) -> str:
    """The table, what it was taken with, and the cells that are not in it, by reason."""
    lines = [conditions, "", f"| {' | '.join(HEAD)} |", f"|{'---|' * len(HEAD)}"]
    lines += [f"| {' | '.join(row.cells())} |" for row in rows]
    for reason, cells in left.items():
        lines += ["", f"Left out, {reason}: {len(cells)}", *(f"- {cell}" for cell in cells)]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and write; 1 if nothing could be measured."""
    options = _options(arguments)
    begin, device = time.monotonic(), options.device
    amounts = {name: options.r or PAPER_R.get(name, (8,)) for name in options.models}
    cells = cells_of(options.models, options.backends, options.numerics, options.batches, options.sweeps, amounts)
    rows: list[Row] = []
    left: dict[str, list[Cell]] = {}
    for cell, taken, reason in run(cells, lambda cell: measure(cell, device, options.seconds), 60 * options.minutes):
        rows += taken
        if reason:
            left.setdefault(reason, []).append(cell)
        print(
            f"{time.monotonic() - begin:5.0f} s  {cell}: {reason or f'{len(taken)} models'}",
            file=sys.stderr,
            flush=True,
        )
    where = torch.cuda.get_device_name() if device == "cuda" else environment.cpu_name()
    found = environment.collect()
    conditions = (
        f"{where}, driver {found.driver}, PyTorch {torch.__version__}, timm {found.versions['timm']}, "
        f"{(time.monotonic() - begin) / 60:.1f} minutes; random weights, {options.seconds:g} s for each model."
    )
    text = markdown(rows, left, conditions)
    print(text)
    if options.json is not None:
        document = {
            "environment": {**to_object(found), "torch_device": where}, "rows": [row.to_dict() for row in rows],
            "left": {reason: [str(cell) for cell in group] for reason, group in left.items()},
        }  # fmt: skip
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    if options.write is not None and rows:
        write(options.write, replaced(options.write.read_text(encoding="utf-8"), BEGIN, END, text))
    return int(not rows)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=6.0, help="all of it takes about so long at most (6)")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="a model of timm's tests, for a moment: tries this out")
    parser.add_argument("--models", type=_words(None), help=f"comma list ({','.join(PAPER_R)})")
    parser.add_argument("--backends", type=_words((EAGER, COMPILE, ORT)), help="comma list (all that run here)")
    parser.add_argument("--numerics", type=_words(NUMERICS), help=f"comma list ({','.join(NUMERICS)})")
    parser.add_argument("--batches", type=_numbers, help="comma list (64,1,256,8)")
    parser.add_argument(
        "--sweeps", type=_words(("r", "methods")), default=("r", "methods"), help="comma list (r,methods)"
    )
    parser.add_argument("--r", type=_numbers, help="comma list, the same for all models (those of the paper)")
    parser.add_argument("--seconds", type=float, help="that each model is timed in each cell (0.5)")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="also put the table on this page")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write everything there")
    options = parser.parse_args(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error(f"PyTorch {torch.__version__} finds no GPU here: try it out with --device cpu --tiny")
    tiny = options.tiny
    defaults = {
        "models": ("test_vit",) if tiny else tuple(PAPER_R),
        "backends": (EAGER,) if tiny else (EAGER, COMPILE, *((ORT,) if _onnxruntime_runs(options.device) else ())),
        "numerics": ("fp32",) if tiny else tuple(NUMERICS),
        "batches": (2, 1) if tiny else (64, 1, 256, 8),
        "seconds": 0.02 if tiny else 0.5,
    }
    for name, value in defaults.items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    return options


def _words(known: Iterable[str] | None) -> Callable[[str], tuple[str, ...]]:
    def parse(text: str) -> tuple[str, ...]:
        words = tuple(text.split(","))
        if not all(words) or len(set(words)) < len(words) or (known is not None and not set(words) <= set(known)):
            expected = "names" if known is None else f"some of {', '.join(known)}"
            raise argparse.ArgumentTypeError(f"{text!r}, expected {expected}, each once")
        return words

    return parse


def _numbers(text: str) -> tuple[int, ...]:
    try:
        numbers = tuple(int(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if not numbers or min(numbers) < 1 or len(set(numbers)) < len(numbers):
        raise argparse.ArgumentTypeError(f"{text!r}, expected whole numbers from 1 on, each once")
    return numbers


def _onnxruntime_runs(device: str) -> bool:
    """True if files can be written here, and onnxruntime runs them on the device."""
    if not all(importlib.util.find_spec(name) for name in ("onnx", "onnxscript", "onnxruntime")):
        return False
    from tofu_export.benchmarking.backends import BACKENDS
    from tofu_export.system.ort import providers_usable

    try:
        return BACKENDS[f"ort-{device}"] in providers_usable()
    except TofuError:
        return False


if __name__ == "__main__":
    sys.exit(main())
