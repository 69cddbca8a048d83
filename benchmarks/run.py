"""Time full against reduced models in onnxruntime: one process, interleaved, ratios with spread.

Contenders, all float32 files with a dynamic batch:

- `timm`: `torch.onnx.export` of the plain timm model, what a user would do without this project
- `full`: the same model through this project's pipeline
- `tome`: the ToMe baseline through this project's pipeline
- `mlerp`: Token Fusion, portable file
- `mlerp-ort`: Token Fusion, file for onnxruntime

Usage: `make bench`, or `python benchmarks/run.py --models vit_base --r 16 --batches 1,8`. Weights are random: they
change no shape and no time. Close other programs first; a ratio comes with its interquartile range.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from tofu_export import environment, patch
from tofu_export.engines.benchmark import Contender, Measurement, run_benchmark
from tofu_export.export import INPUT_NAME, OUTPUT_NAME, InputShape, save, trace
from tofu_export.graph_patterns.lowering import MACS, lower
from tofu_export.options import Mode, Precision, Reduction, Target
from tofu_export.plan import ModelSpec, make_plan
from tofu_export.specs import spec_of
from tofu_export.zoo.create import create_model
from tofu_export.zoo.weights import WeightsSource

BASELINE = "timm"


@dataclass(frozen=True)
class Case:
    """One file to time: its name, how tokens leave, and for which runtime it is lowered."""

    name: str
    reduction: Reduction
    target: Target


def main() -> None:
    """Run the benchmark and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="vit_small,vit_base", help="comma list of model names")
    parser.add_argument("--r", default="16", help="comma list of tokens to remove per layer")
    parser.add_argument("--batches", default="1,8", help="comma list of batch sizes")
    parser.add_argument("--seconds", type=float, default=8.0, help="measured time of each contender and batch")
    parser.add_argument("--output", type=Path, help="also write the measurements there as JSON")
    arguments = parser.parse_args()

    rows: list[dict[str, object]] = []
    batches = [int(batch) for batch in arguments.batches.split(",")]
    print("| model | batch | file | GMACs | images/s | speed-up over timm's export | over our full export |")
    print("|---|---|---|---|---|---|---|")
    for model in arguments.models.split(","):
        with tempfile.TemporaryDirectory() as folder:
            spec = spec_of(model)
            cases = list(_cases([int(r) for r in arguments.r.split(",")]))
            contenders, gmacs = _write(model, spec, cases, Path(folder))
            for batch in batches:
                measured = _time(contenders, spec, batch, arguments.seconds)
                rows += [{"model": model, "gmacs": gmacs[row.artifact], **row.to_dict()} for row in measured]
                _print(model, rows[-len(contenders) :])
    if arguments.output:
        document = {"environment": environment.collect(), "rows": rows}
        arguments.output.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def _cases(amounts: list[int]) -> Iterator[Case]:
    yield Case("full", Reduction(r=0), Target.PORTABLE)
    for r in amounts:
        yield Case(f"tome r={r}", Reduction(r=r, mode=Mode.TOME), Target.PORTABLE)
        yield Case(f"mlerp r={r}", Reduction(r=r), Target.PORTABLE)
        yield Case(f"mlerp r={r}, for onnxruntime", Reduction(r=r), Target.ONNXRUNTIME)


def _write(name: str, spec: ModelSpec, cases: list[Case], folder: Path) -> tuple[list[Contender], dict[str, float]]:
    """Write all files; return them, and what each computes for one image, in 10^9 multiply-accumulates."""
    model = create_model(name, weights=WeightsSource.parse("random")).model
    shape = InputShape(spec.in_chans, *spec.image_size)
    plain = folder / "timm.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            model,
            (torch.zeros(2, spec.in_chans, *spec.image_size),),
            dynamo=True,
            input_names=[INPUT_NAME],
            output_names=[OUTPUT_NAME],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            verbose=False,
        )
    assert program is not None
    program.save(plain)
    del program
    contenders = [Contender(BASELINE, plain)]
    gmacs = {BASELINE: make_plan(spec, Reduction(r=0)).gmacs_full}
    for index, case in enumerate(cases):
        patch.apply(model, make_plan(spec, case.reduction), name=name)
        path = folder / f"{index}.onnx"
        graph = lower(trace(model, shape), case.target, Precision.FP32)
        gmacs[case.name] = graph.meta[MACS] / 1e9
        save(graph, path, {})
        contenders.append(Contender(case.name, path))
        print(f"{name}: {case.name} written", file=sys.stderr)
    return contenders, gmacs


def _time(contenders: list[Contender], spec: ModelSpec, batch: int, seconds: float) -> tuple[Measurement, ...]:
    pixels = np.random.default_rng(0).normal(size=(batch, spec.in_chans, *spec.image_size)).astype(np.float32)
    return run_benchmark(
        contenders,
        batches=(batch,),
        make_feeds=lambda _: {INPUT_NAME: pixels},
        min_seconds=seconds,
        baseline=BASELINE,
    )


def _print(model: str, rows: list[dict[str, object]]) -> None:
    medians = {str(row["artifact"]): row["latency_ms"]["median"] for row in rows}  # type: ignore[index]
    for row in rows:
        low, high = row["speedup_iqr"]  # type: ignore[misc]
        over_full = medians["full"] / medians[str(row["artifact"])]
        print(
            f"| {model} | {row['batch']} | {row['artifact']} | {row['gmacs']:.2f} | {row['images_per_sec']:.1f} | "
            f"{row['speedup_vs_full']:.2f}x ({low:.2f}-{high:.2f}) | {over_full:.2f}x |",
            flush=True,
        )


if __name__ == "__main__":
    main()
