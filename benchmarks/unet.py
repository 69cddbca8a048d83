"""Time one step of a UNet in onnxruntime, full against reduced, and the memory that each takes.

Two full files: `ordinary`, what `torch.onnx.export` makes of diffusers' UNet without this project, and `full`, ours.
All are float32 with random weights, which change no shape and no time. Each reduced file runs against each full one in
one process, interleaved, since three of Stable Diffusion's size do not fit 16 GB; ratios come with their quartiles.
Peak memory is that of a process of its own that loads one file and runs it once.

Usage: `python benchmarks/unet.py --latents 64,96 --batches 1,2`. It takes half an hour and 20 GB of disk per latent
size for sd15; `--model tiny` tries it out. Close other programs first: the load of the machine is printed beside.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn

from tofu_export.benchmarking.backends import open_contender
from tofu_export.benchmarking.benchmark import Contender, Rules, run_benchmark
from tofu_export.diffusion.apply import apply_to_unet, remove_from_unet
from tofu_export.diffusion.describe import describe_unet
from tofu_export.diffusion.forms import UnetForm
from tofu_export.diffusion.inputs import OUTPUT_NAME, TIMESTEP, UnetInputs
from tofu_export.diffusion.models import create_unet, find_unet, inputs_of
from tofu_export.diffusion.options import LatentSize, UnetMode, UnetReduction
from tofu_export.diffusion.plan import make_unet_plan
from tofu_export.diffusion.trace import trace_unet
from tofu_export.graph_patterns.lowering import lower
from tofu_export.options import BatchRange, Precision, Target
from tofu_export.system import environment
from tofu_export.system.memory import give_back
from tofu_export.system.typed_json import to_object
from tofu_export.trace.export import release, save

FULL, ORDINARY = "full", "ordinary"
HEAD = (
    "latent",
    "batch",
    "file",
    "GMACs",
    "against",
    "ms a step (its)",
    "faster",
    "quartiles",
    "peak GB (its)",
    "load",
)


@dataclass(frozen=True)
class Row:
    """One reduced file at one batch size, against a full one in the same run.

    Attributes:
        latent: latent size.
        batch: images per step.
        file: mode of the reduction.
        gmacs: what it computes for one image, the matching and merging included.
        against: the full file.
        step_ms: median time of a step.
        full_ms: that of the full file.
        over_full: full over reduced, median over the rounds.
        quartiles: of that ratio.
        peak_gb: peak memory of a process that runs it, weights included.
        full_peak_gb: that of the full file.
        load: mean load of the machine over the last minute; about the number of cores is quiet.
    """

    latent: str
    batch: int
    file: str
    gmacs: float
    against: str
    step_ms: float
    full_ms: float
    over_full: float
    quartiles: tuple[float, float]
    peak_gb: float
    full_peak_gb: float
    load: float

    def cells(self) -> tuple[str, ...]:
        """What a table shows of it."""
        return (
            self.latent, str(self.batch), self.file, f"{self.gmacs:.1f}", self.against,
            f"{self.step_ms:.0f} (its {self.full_ms:.0f})", f"{self.over_full:.2f}x",
            f"{self.quartiles[0]:.2f}-{self.quartiles[1]:.2f}",
            f"{self.peak_gb:.2f} (its {self.full_peak_gb:.2f})", f"{self.load:.1f}",
        )  # fmt: skip


def main() -> None:
    """Run the benchmark and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="sd15", help="a known shape")
    parser.add_argument("--latents", default="64", help="comma list of latent sizes")
    parser.add_argument("--batches", default="1,2", help="comma list of batch sizes")
    parser.add_argument("--modes", default="hybrid,tome", help="comma list of modes")
    parser.add_argument("--against", default=f"{ORDINARY},{FULL}", help="comma list of full files")
    parser.add_argument("--ratio", type=float, default=0.5, help="share of tokens that leave")
    parser.add_argument("--rounds", type=int, default=8, help="least number of steps of each file")
    parser.add_argument("--threads", type=int, help="threads inside an operator")
    parser.add_argument("--folder", type=Path, help="where to write the files, kept; default: a temporary folder")
    parser.add_argument("--output", type=Path, help="also write the rows there as JSON")
    arguments = parser.parse_args()
    batches = [int(part) for part in arguments.batches.split(",")]
    rows: list[Row] = []
    print(f"| {' | '.join(HEAD)} |\n|{'---|' * len(HEAD)}", flush=True)
    for latent in arguments.latents.split(","):
        with tempfile.TemporaryDirectory() as scratch:
            folder = (arguments.folder or Path(scratch)) / latent
            folder.mkdir(parents=True, exist_ok=True)
            inputs = inputs_of(find_unet(arguments.model, "random"), LatentSize.parse(latent))
            modes = [UnetMode(mode) for mode in arguments.modes.split(",")]
            rivals = arguments.against.split(",")
            gmacs = _write(arguments.model, inputs, modes, rivals, arguments.ratio, folder)
            for batch, mode, rival in itertools.product(batches, modes, rivals):
                row = _time(folder, inputs, (mode.value, rival), gmacs[mode.value], batch, arguments)
                rows.append(row)
                print(f"| {' | '.join(row.cells())} |", flush=True)
    if arguments.output:
        document = {"environment": to_object(environment.collect()), "rows": [asdict(row) for row in rows]}
        arguments.output.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def _write(
    name: str, inputs: UnetInputs, modes: list[UnetMode], rivals: list[str], ratio: float, folder: Path
) -> dict[str, float]:
    """Write the files that are not there yet; GMACs of the reduced ones by mode."""
    source = find_unet(name, "random")
    spec = describe_unet(create_unet(source, meta=True), inputs, name)
    plans = {mode.value: make_unet_plan(spec, UnetReduction(ratio=ratio, mode=mode)) for mode in modes}
    missing = [label for label in (*rivals, *plans) if not (folder / f"{label}.onnx").exists()]
    unet = create_unet(source) if missing else None
    for label in missing:
        assert unet is not None
        remove_from_unet(unet)
        if label == ORDINARY:
            _export_ordinary(unet, inputs, folder / f"{label}.onnx")
        else:
            if label != FULL:
                apply_to_unet(unet, plans[label])
            graph = trace_unet(unet, inputs, batch=BatchRange(1, 2, 8))
            save(lower(graph, Target.PORTABLE, Precision.FP32), folder / f"{label}.onnx", {})
            release(graph)
            del graph
        give_back()
        print(f"{inputs.latent}, {label}: the file is written", file=sys.stderr)
    return {label: plan.macs_reduced / 1e9 for label, plan in plans.items()}


def _export_ordinary(unet: nn.Module, inputs: UnetInputs, path: Path) -> None:
    """`torch.onnx.export` as its documentation has it, with a dynamic batch and all else left to its defaults."""
    examples = {name: torch.from_numpy(values) for name, values in inputs.random(2, 0).items()}
    batch = torch.export.Dim("batch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            UnetForm(unet).eval(),
            tuple(examples.values()),
            dynamo=True,
            input_names=list(examples),
            output_names=[OUTPUT_NAME],
            dynamic_shapes=tuple({} if name == TIMESTEP else {0: batch} for name in examples),
            verbose=False,
        )
    assert program is not None
    program.save(path, external_data=True)


def _time(
    folder: Path, inputs: UnetInputs, files: tuple[str, str], gmacs: float, batch: int, arguments: argparse.Namespace
) -> Row:
    label, rival = files
    peak, full_peak = (_peak_gb(folder / f"{name}.onnx", inputs, batch) for name in files)
    full, reduced = run_benchmark(
        [Contender(name, folder / f"{name}.onnx") for name in (rival, label)],
        batches=(batch,),
        make_feeds=lambda size: inputs.random(size, 0),
        open_runner=open_contender,
        rules=Rules(min_seconds=1.0, min_iterations=arguments.rounds),
        threads=arguments.threads,
        baseline=rival,
    )
    assert reduced.speedup_vs_full is not None and reduced.speedup_iqr is not None  # there is a baseline
    give_back()
    return Row(
        latent=str(inputs.latent),
        batch=batch,
        file=label,
        gmacs=gmacs,
        against=rival,
        step_ms=reduced.latency_ms.median,
        full_ms=full.latency_ms.median,
        over_full=reduced.speedup_vs_full,
        quartiles=reduced.speedup_iqr,
        peak_gb=peak,
        full_peak_gb=full_peak,
        load=os.getloadavg()[0],
    )


def _peak_gb(path: Path, inputs: UnetInputs, batch: int) -> float:
    """Peak memory of a process that loads a file and runs it once (Linux).

    `ru_maxrss` would start from that of this process, which an exec hands on.
    """
    code = f"""
from pathlib import Path
from tofu_export.diffusion.inputs import UnetInputs
from tofu_export.diffusion.options import LatentSize
from tofu_export.system.ort import open_session
open_session(Path({str(path)!r})).run({inputs!r}.random({batch}, 0))
status = Path("/proc/self/status").read_text()
print(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))
"""
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return int(answer.stdout) / 1e6


if __name__ == "__main__":
    main()
