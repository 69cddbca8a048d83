"""Try everything that can go wrong, and count: `python -m tools.reliability -o FOLDER`, or `make reliability`."""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path

from tools.reliability import faults, surroundings
from tools.reliability.inputs import CLASSES
from tools.reliability.outcome import Row
from tools.reliability.pool import run_class
from tools.reliability.seeds import make_seeds
from tools.reliability.table import losses, markdown, write_into


def main() -> int:
    """Run what was asked for; 1 if anything was lost."""
    parser = argparse.ArgumentParser(prog="python -m tools.reliability", description=__doc__)
    parser.add_argument("-o", "--output", type=Path, help="folder for reliability.md and reliability.json")
    parser.add_argument("--seed", type=int, default=0, help="of all damage and all random times")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes for damaged input")
    parser.add_argument("--only", default="", help="classes whose name contains this text")
    parser.add_argument("--trial", type=int, help="number of the one trial of damaged input to repeat")
    parser.add_argument("--share", type=float, default=1.0, help="of the trials of damaged input; also more than 1")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="also put the table on this page (all classes)")
    options = parser.parse_args()
    if options.write is not None and (options.only or options.trial is not None or options.share != 1.0):
        parser.error("--write is for a run of all trials: leave out --only, --trial and --share")
    start = time.monotonic()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="tofu-reliability-") as scratch:
        seeds = make_seeds(Path(scratch, "seeds"))
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # which the program, run here to make seeds, has taken
        for name in CLASSES:
            if options.only in name:
                rows.append(run_class(name, options.seed, seeds, options.jobs, options.trial, options.share))
                _tell(rows[-1])
        for trials in (*faults.TRIALS, *surroundings.TRIALS):
            if options.only in trials.name and options.trial is None:
                rows.append(trials.run(options.seed, seeds, Path(scratch)))
                _tell(rows[-1])
    seconds = time.monotonic() - start
    text = markdown(rows, _conditions(options.seed, seconds))
    print(text)
    print(losses(rows), end="")
    if options.write is not None:
        write_into(options.write, text)
    if options.output is not None:
        options.output.mkdir(parents=True, exist_ok=True)
        (options.output / "reliability.md").write_text(text + losses(rows), encoding="utf-8")
        document = {
            "schema_version": 1,
            "seed": options.seed,
            "seconds": round(seconds),
            "python": platform.python_version(),
            "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
            "classes": [row.to_dict() for row in rows],
        }
        (options.output / "reliability.json").write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    return int(any(row.lost for row in rows) or not any(row.tried for row in rows))


def _conditions(seed: int, seconds: float) -> str:
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("torch", "onnx", "onnxruntime"))
    return (
        f"Seed {seed}, {seconds / 60:.0f} minutes on {os.cpu_count()} cores, {platform.system()}, "
        f"Python {platform.python_version()}, {versions}."
    )


def _tell(row: Row) -> None:
    words = (
        f"{row.tried} tried, {len(row.lost)} lost, {row.seconds:.0f} s" if row.tried else f"not tried: {row.not_tried}"
    )
    print(f"{row.name}: {words}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
