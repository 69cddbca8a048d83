"""Does verification fail files that are right? Every supported timm model, in several precisions.

Each architecture is created with few blocks, its own width, image size and everything else, and random weights in which
all norms, biases and LayerScales matter. Its files are exported and verified as `tofu-export` does it; one that fails
is a false alarm, for nothing touched it. Models that differ in depth alone are tried once.

    python benchmarks/false_alarms.py --results false-alarms.jsonl

The smallest go first, and what is finished is kept in `--results`: the same command goes on where it was stopped. It
prints a Markdown table.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

import tofu_export
from tofu_export.errors import TofuError, VerificationError
from tofu_export.planning.plan import make_plan
from tofu_export.zoo import catalog

PASSED = "passed"
NOT_MADE = "not made: "


@dataclass(frozen=True)
class Row:
    """What became of one model.

    Attributes:
        model: timm name.
        fingerprint: equal for models that differ in depth alone.
        of: the model that was tried in its place; None if it was tried itself.
        outcomes: for each precision `passed`, or why not.
    """

    model: str
    fingerprint: str
    of: str | None
    outcomes: dict[str, str]


def main(arguments: Sequence[str] | None = None) -> int:
    """Export and verify what is not in the results yet, and print how many passed in each precision."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, required=True, help="JSON lines, one per model")
    parser.add_argument("--precision", default="fp16,int8", help="precisions to try; fp16 is also compared in FP32")
    parser.add_argument("--depth", type=int, default=2, help="blocks of each model, of which each loses 16 tokens")
    parser.add_argument("--batch", default="1", help="batch sizes of the files, as of --batch of tofu-export")
    parser.add_argument("--only", default="", help="models whose names hold this")
    options = parser.parse_args(arguments)
    precisions = options.precision.split(",")
    options.results.touch()
    rows = {row.model: row for row in (Row(**json.loads(line)) for line in options.results.read_text().splitlines())}
    names = sorted((name for name in catalog.names() if options.only in name), key=_cost)
    with options.results.open("a") as file:
        for name in names:
            if name not in rows:
                row = rows[name] = _tried(name, tuple(rows.values()), precisions, options.depth, options.batch)
                print(json.dumps(asdict(row)), file=file, flush=True)
                print(row.model, row.of or row.outcomes, file=sys.stderr, flush=True)
    _print_table([rows[name] for name in names], precisions)
    return 0


def _cost(name: str) -> int:
    """Return what a block costs, by which the models are tried, the smallest first."""
    spec = catalog.find(name)
    assert spec is not None
    return make_plan(spec, tofu_export.Reduction(r=0)).macs_full // spec.depth


def _tried(name: str, rows: Sequence[Row], precisions: Sequence[str], depth: int, batch: str) -> Row:
    spec = catalog.find(name)
    assert spec is not None
    model = shallow(name, depth)
    fingerprint = hashlib.sha256(f"{model} {spec.image_size}".encode()).hexdigest()
    for row in rows:
        if row.fingerprint == fingerprint and row.of is None:
            return Row(name, fingerprint, row.model, row.outcomes)
    return Row(name, fingerprint, None, {precision: _outcome(model, precision, batch) for precision in precisions})


def _outcome(model: nn.Module, precision: str, batch: str) -> str:
    options: dict[str, Any] = {"precisions": (precision,), "batch": batch, "engine": False, "bench": False}
    with tempfile.TemporaryDirectory() as folder:
        try:
            tofu_export.export(model, Path(folder) / "out", **options)
        except VerificationError as error:
            return str(error)
        except TofuError as error:
            return f"{NOT_MADE}{error}"
    return PASSED


def shallow(name: str, depth: int) -> nn.Module:
    """Create a model of `depth` blocks, whose norms, biases and LayerScales are far from what they start as."""
    torch.manual_seed(0)
    model: nn.Module = timm.create_model(name, depth=depth, **_of_each_block(name, depth)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def _of_each_block(name: str, depth: int) -> dict[str, Any]:
    """Return arguments that list a value for each block: half from the first blocks, half from the middle ones."""
    if "sapiens2" not in name:
        return {}
    with torch.device("meta"):
        model: Any = timm.create_model(name)
    heads = [block.attn.num_kv_heads for block in model.blocks]
    middle = len(heads) // 2
    return {"num_kv_heads": (*heads[: depth // 2], *heads[middle : middle + depth - depth // 2])}


def _print_table(rows: Sequence[Row], precisions: Sequence[str]) -> None:
    tried = [row for row in rows if row.of is None]
    print("| precision | models | of them different | right files that failed | not made |")
    print("|---|---:|---:|---:|---:|")
    for precision in precisions:
        outcomes = [row.outcomes.get(precision, f"{NOT_MADE}not tried") for row in tried]
        not_made = sum(outcome.startswith(NOT_MADE) for outcome in outcomes)
        failed = len(outcomes) - outcomes.count(PASSED) - not_made
        print(f"| {precision} | {len(rows)} | {len(tried)} | {failed} | {not_made} |")


if __name__ == "__main__":
    sys.exit(main())
