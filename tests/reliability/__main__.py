"""Try everything that can go wrong, and count: `python -m tests.reliability -o FOLDER`, or `make reliability`."""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import sys
import tempfile
import time
from pathlib import Path

from tests.reliability import faults, surroundings
from tests.reliability.inputs import CLASSES
from tests.reliability.outcome import Row, markdown
from tests.reliability.pool import run_class
from tests.reliability.seeds import make_seeds


def main() -> int:
    """Run what was asked for; 1 if anything was lost."""
    parser = argparse.ArgumentParser(prog="python -m tests.reliability", description=__doc__)
    parser.add_argument("-o", "--output", type=Path, help="folder for reliability.md and reliability.json")
    parser.add_argument("--seed", type=int, default=0, help="of all damage and all random times")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes for damaged input")
    parser.add_argument("--only", default="", help="classes whose name contains this text")
    parser.add_argument("--trial", type=int, help="number of the one trial of damaged input to repeat")
    parser.add_argument("--share", type=float, default=1.0, help="of the trials of damaged input")
    options = parser.parse_args()
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
    text = markdown(rows)
    print(text)
    if options.output is not None:
        options.output.mkdir(parents=True, exist_ok=True)
        (options.output / "reliability.md").write_text(text, encoding="utf-8")
        document = {
            "schema_version": 1,
            "seed": options.seed,
            "seconds": round(time.monotonic() - start),
            "python": platform.python_version(),
            "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
            "classes": [row.to_dict() for row in rows],
        }
        (options.output / "reliability.json").write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    return int(any(row.lost for row in rows) or not any(row.tried for row in rows))


def _tell(row: Row) -> None:
    words = (
        f"{row.tried} tried, {len(row.lost)} lost, {row.seconds:.0f} s" if row.tried else f"not tried: {row.not_tried}"
    )
    print(f"{row.name}: {words}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
