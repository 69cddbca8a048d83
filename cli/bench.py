"""`tofu-export bench`: which of these files is faster here, by how much, and where the time goes."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tofu_export.cli.parameters import command_line, parse_batches
from tofu_export.cli.sections import Section, command, option
from tofu_export.cli.shared_options import (
    json_option,
    listed_batch_option,
    quiet_option,
    seconds_option,
    seed_option,
    shape_option,
    threads_option,
    verbose_option,
)
from tofu_export.errors import OptionError, OutputError

if TYPE_CHECKING:
    from tofu_export.benchmarking.comparison import BenchOptions, BenchResult, OpenTorch

__all__ = ["bench_command"]

SCHEMA_VERSION = 1
_WIDTH = 200


@command("bench", short_help="Time files against each other; show where the time goes.")
@click.argument("files", nargs=-1, metavar="FILE...", type=click.Path(path_type=Path))
@option(Section.MODEL, "--baseline", default=None, metavar="NAME",
        help="File that ratios refer to.  [default: the first one]")  # fmt: skip
@shape_option()
@seed_option("the random inputs")
@listed_batch_option("what the files are fixed to, or 1")
@seconds_option()
@option(Section.TIMING, "--warmup", type=click.FloatRange(min=0), default=200.0, show_default=True, metavar="MS",
        help="Milliseconds that each file runs before it is timed.")  # fmt: skip
@option(Section.TIMING, "--iterations", type=click.IntRange(min=1), default=10, show_default=True, metavar="N",
        help="Least number of timed runs.")  # fmt: skip
@option(
    Section.TIMING, "--profile", is_flag=True, help="Also divide the time by part of the model, in runs of their own."
)
@option(Section.TIMING, "--products", is_flag=True,
        help="Also time each file's matrix products alone: what is left to gain.")  # fmt: skip
@option(Section.BACKEND, "--backend", default="ort-cpu", show_default=True, metavar="LIST",
        help="Some of ort-cpu, ort-cuda, ort-tensorrt for ONNX files, trt, trt-rtx for plans, and torch, "
        "torch-compile for the eager model of a file, or of a name of timm's in its place.")  # fmt: skip
@threads_option(Section.BACKEND)
@option(Section.BACKEND, "--torch-device", type=click.Choice(["cpu", "cuda"]), default=None,
        help="Where torch runs.  [default: the GPU if another backend does, else the CPU]")  # fmt: skip
@option(Section.BACKEND, "--compile-mode", type=click.Choice(["default", "reduce-overhead", "max-autotune"]),
        default="default", show_default=True,
        help="Of torch-compile. Compiling is not timed.")  # fmt: skip
@option(Section.BACKEND, "--cuda-graph/--no-cuda-graph", default=False, show_default=True,
        help="Launch the kernels of a plan together. trtexec 11 does, 10 does not.")  # fmt: skip
@option(Section.BACKEND, "--transfers/--no-transfers", default=True, show_default=True,
        help="Copy inputs to the GPU and outputs back in each query. trtexec 10 does, 11 does not.")  # fmt: skip
@option(Section.BACKEND, "--streams", type=click.IntRange(min=1), default=1, show_default=True, metavar="N",
        help="Queries of a plan that are on their way at once.")  # fmt: skip
@option(Section.TIMING, "--trtexec-log", "logs", multiple=True, metavar="FILE", type=click.Path(path_type=Path),
        help="Also report what trtexec printed elsewhere; again for further runs.")  # fmt: skip
@option(Section.TIMING, "--trtexec-times", "times", multiple=True, metavar="FILE", type=click.Path(path_type=Path),
        help="The same from the JSON of its --exportTimes; --batch says the batch size.")  # fmt: skip
@option(Section.OUTPUT, "--csv", "csv_path", type=click.Path(path_type=Path), default=None, metavar="FILE",
        help="Also write one line per file and batch size there.")  # fmt: skip
@json_option()
@quiet_option()
@verbose_option("all percentiles, and profiles by block and operator")
def bench_command(
    files: tuple[Path, ...],
    baseline: str | None,
    batch: str,
    backend: str,
    torch_device: str | None,
    compile_mode: str,
    cuda_graph: bool,
    transfers: bool,
    streams: int,
    threads: int | None,
    seconds: float,
    warmup: float,
    iterations: int,
    shapes: tuple[str, ...],
    seed: int,
    profile: bool,
    products: bool,
    logs: tuple[Path, ...],
    times: tuple[Path, ...],
    csv_path: Path | None,
    as_json: bool,
    quiet: bool,
    verbose: bool,
) -> None:
    """Time files against each other in one process, their runs interleaved: ONNX files of anybody, plans, PyTorch.

    Inputs are random, made from what each file asks for. Numbers are not compared: that is what verification is for.
    What --cuda-graph, --transfers and --streams say holds for plans, is printed with their times and is in the JSON.

    \b
    tofu-export bench full.onnx out/model.fp32.onnx --batch 1,8
    tofu-export bench out/model.fp32.onnx --profile
    tofu-export bench vit_base out/model.fp32.onnx --backend ort-cpu,torch,torch-compile
    tofu-export bench --trtexec-log full.log --trtexec-log reduced.log
    """  # fmt: skip
    logging.basicConfig(level=logging.INFO if verbose else logging.ERROR, format="%(name)s: %(message)s")
    if not files and (profile or products or not (logs or times)):
        raise OptionError("no file given, expected at least one ONNX file: tofu-export bench FILE.onnx")
    if csv_path is not None and csv_path.is_dir():
        raise OptionError(f"--csv {csv_path} is a folder, expected the name of a file")
    from tofu_export.benchmarking.backends import parse_backends
    from tofu_export.benchmarking.comparison import BenchOptions
    from tofu_export.benchmarking.trtexec_log import read_records
    from tofu_export.engines.running.gpu_times import GpuOptions
    from tofu_export.options.texts import parse_shapes

    batches = parse_batches(batch, "--batch")
    records = read_records(logs, times, batches=batches, baseline=baseline)
    if baseline is not None and not files and not records.asked:
        raise OptionError(f"--baseline {baseline!r} is not among the runs, expected the name of one")
    options = BenchOptions(
        backends=parse_backends(backend),
        batches=batches,
        baseline=None if records.asked else baseline,
        threads=threads,
        warmup_ms=warmup,
        min_seconds=seconds,
        min_iterations=iterations,
        shapes=parse_shapes(shapes),
        seed=seed,
        profile=profile,
        products=products,
        gpu=GpuOptions(cuda_graph, transfers, streams),
    )
    torch_backends = _TorchBackends(options, torch_device, compile_mode)
    with _csv_file(csv_path) as write_csv:  # a folder that cannot be written is known before the first run
        result = _time(files, options, torch_backends, quiet=quiet)
        result = replace(result, recorded=records.rows, recorded_baseline=records.baseline)
        if not quiet:
            _show(result, verbose=verbose)
        write_csv(result)
    if as_json:
        click.echo(json.dumps(_document(options, torch_backends, result), indent=2, allow_nan=False))


class _TorchBackends:
    """What runs PyTorch, where it was asked for; it is imported for nothing else."""

    def __init__(self, options: BenchOptions, device: str | None, mode: str) -> None:
        from tofu_export.benchmarking.backends import CPU, TORCH_BACKENDS

        own = [name for name in options.backends if name in TORCH_BACKENDS]
        others = [name for name in options.backends if name not in (CPU, *TORCH_BACKENDS)]
        self._device = device or ("cuda" if others else "cpu")
        self._mode = mode
        if not own and (device is not None or mode != "default"):
            raise OptionError(
                "--torch-device and --compile-mode are for torch and torch-compile: name one in --backend"
            )
        self.wanted = bool(own)

    def opener(self) -> OpenTorch | None:
        if not self.wanted:
            return None
        from functools import partial

        from tofu_export.benchmarking.torch_contenders import TorchOptions, open_torch

        return partial(open_torch, options=TorchOptions(self._device, self._mode))

    def settings(self) -> dict[str, object] | None:
        if not self.wanted:
            return None
        from tofu_export.benchmarking.torch_contenders import TorchOptions

        return TorchOptions(self._device, self._mode).to_dict()


def _time(
    files: tuple[Path, ...], options: BenchOptions, torch_backends: _TorchBackends, *, quiet: bool
) -> BenchResult:
    """Time the files; without any, nothing but records is reported."""
    from tofu_export.benchmarking.comparison import BenchResult, compare_files
    from tofu_export.cli.console import listening

    if not files:
        return BenchResult((), None, (), (), (), ())
    with listening(quiet=quiet, first="loading") as listener:
        return compare_files(
            files,
            options,
            open_torch=torch_backends.opener(),
            on_progress=lambda at: listener.step(f"batch {at.batch}, {at.phase}, {at.fraction:.0%}"),
            on_profile=lambda name, batch: listener.step(f"profiling {name}, batch {batch}"),
            on_products=lambda name, batch: listener.step(f"timing the products of {name}, batch {batch}"),
        )


def _show(result: BenchResult, *, verbose: bool) -> None:
    from rich.console import Console

    from tofu_export.cli.bench_text import show

    # Off a terminal rich would squeeze tables into 80 columns.
    show(Console(stderr=True, width=None if sys.stderr.isatty() else _WIDTH), result, verbose=verbose)


@contextmanager
def _csv_file(path: Path | None) -> Iterator[Callable[[BenchResult], None]]:
    """A function that writes the result there, complete or not at all; one that does nothing without a path."""
    if path is None:
        yield lambda _: None
        return
    from tofu_export.benchmarking.bench_csv import csv_text
    from tofu_export.system.files import staging

    try:
        with staging(path.parent) as stage:

            def write(result: BenchResult) -> None:
                rows = (*result.measurements, *result.recorded)
                stage.path(path.name).write_text(csv_text(rows), encoding="utf-8")
                stage.publish(path.name)

            yield write
    except OutputError as error:
        raise OutputError(f"--csv {path}: {str(error).replace(' with -o', '')}") from error


def _document(options: BenchOptions, torch_backends: _TorchBackends, result: BenchResult) -> dict[str, object]:
    from tofu_export.system import environment

    return {
        "schema_version": SCHEMA_VERSION,
        "command": command_line(),
        "environment": environment.collect(),
        "settings": {
            "threads": options.threads,
            "warmup_ms": options.warmup_ms,
            "min_seconds": options.min_seconds,
            "min_iterations": options.min_iterations,
            "seed": options.seed,
            "gpu": options.gpu.to_dict(),
            "torch": torch_backends.settings(),
        },
        **result.to_dict(),
    }
