"""How much of what can go wrong in a file does verification find? Some 50 subtle corruptions, in every precision.

Each corruption edits the graph, the constants or the metadata of a file that is right, as a faulty exporter, rewriter
or quantiser would; the file is then verified as `tofu-export verify` does it.

Usage: export a model, then point to its folder:

    tofu-export demo_vit --r 16 --precision fp32,fp16,int8 --no-bench --no-engine -o demo
    python benchmarks/corruptions.py demo

`--precision fp8,int8-fp16` tries files of these instead.

It prints a Markdown table. A cell says what found the corruption; where nothing did, how far the outputs moved, as a
share of what rounding moves them in the right file. Up to 1 the corruption is *rounding-equal*: smaller than what the
precision does anyway. `-` stands for a corruption that the file has no place for.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from corrupting_edits import CORRUPTIONS, Edit, NotHereError
from numpy.typing import NDArray

from tofu_export.errors import ExportError, VerificationError
from tofu_export.system.ort import open_session
from tofu_export.verification.file import verify_file
from tofu_export.verification.request import VerifyRequest
from tofu_export.verification.result import VerificationResult

Array = NDArray[Any]

BATCH = 4


def main(arguments: Sequence[str] | None = None) -> int:
    """Corrupt, verify, and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where model.fp32.onnx and the others are")
    parser.add_argument("--precision", default="fp32,fp16,int8", help="the files to corrupt")
    parser.add_argument("--only", default="", help="corruptions whose names hold this")
    options = parser.parse_args(arguments)
    precisions = options.precision.split(",")
    print(f"| corruption | {' | '.join(precisions)} |", "|---" * (len(precisions) + 1) + "|", sep="\n", flush=True)
    originals = {precision: Original(options.folder / f"model.{precision}.onnx") for precision in precisions}
    cells: list[str] = []
    for name, edit in CORRUPTIONS.items():
        if options.only in name:
            row = [original.verdict(edit) for original in originals.values()]
            print(f"| {name} | {' | '.join(row)} |", flush=True)
            cells += row
    applied = [cell for cell in cells if cell != "-"]
    passed = [cell for cell in applied if cell.startswith("passes")]
    equal = sum("rounding-equal" in cell for cell in passed)
    print(f"\n{len(applied)} corrupted files: {len(applied) - len(passed)} found, {len(passed)} passed, "
          f"{equal} of them rounding-equal")  # fmt: skip
    return 0


class Original:
    """A file that is right, and how far rounding moves its outputs from the eager model's."""

    def __init__(self, path: Path) -> None:
        self._path = path
        result = _verified(path)
        if not isinstance(result, VerificationResult) or not result.passed or result.evidence is None:
            raise SystemExit(f"{path} does not pass as it is: {result}")
        self._feeds = result.evidence.feeds
        self._given = self._run(path)
        self._rounding = _rms(self._given - next(iter(result.evidence.expected.values())))

    def verdict(self, edit: Edit) -> str:
        """What finds a corruption, in a cell of the table."""
        proto = onnx.load(self._path)
        before = proto.SerializeToString()
        try:
            edit(proto)
        except NotHereError:
            return "-"
        if proto.SerializeToString() == before:
            raise SystemExit("an edit changes nothing")
        with tempfile.TemporaryDirectory(prefix="tofu-export-corruptions-") as folder:
            path = Path(folder) / self._path.name
            onnx.save(proto, path)
            result = _verified(path)
            if isinstance(result, str):
                return result
            found = _found_by(result)
            if found:
                return found
            moved = _rms(self._run(path) - self._given) / self._rounding
        return f"passes, {moved:.1g}" + (", rounding-equal" if moved <= 1 else "")

    def _run(self, path: Path) -> Array:
        return next(iter(open_session(path).run(self._feeds).values()))


def _verified(path: Path) -> VerificationResult | str:
    try:
        return verify_file(VerifyRequest(path, batches=(BATCH,)))
    except VerificationError as error:
        return "metadata" if "metadata" in str(error) else "refused"
    except ExportError:
        return "does not run"


def _found_by(result: VerificationResult) -> str:
    """The checks that failed."""
    inner = result.in_fp32
    found = {
        "metadata": bool(result.contradictions),
        "constants": result.wrong_constant is not None,
        "outputs": not result.outputs.within(result.tolerance),
        "decisions": result.decisions.wrong > 0,
        "in FP32": inner is not None and (not inner.passed or inner.first_bad_layer is not None),
    }
    return ", ".join(name for name, failed in found.items() if failed) or ("" if result.passed else "otherwise")


def _rms(array: Array) -> float:
    return float(np.sqrt(np.square(array.astype(np.float64)).mean()))


if __name__ == "__main__":
    sys.exit(main())
