"""`tofu-export bench`: compare the speed of files here, and show where the time goes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from tofu_export.benchmarking.options import CPU, TORCH_BACKENDS, BenchOptions
from tofu_export.cli.command import Run, command
from tofu_export.errors import OptionError
from tofu_export.options.declaration import Section, opt, positional
from tofu_export.system.typed_json import to_object

if TYPE_CHECKING:
    from tofu_export.benchmarking.comparison import BenchResult, OpenTorch

__all__ = ["bench_command"]


@dataclass(frozen=True)
class BenchWork:
    """Options for what is timed or was recorded, how PyTorch runs, and what is written."""

    files: tuple[Path, ...] = positional((), nargs=-1, metavar="FILE...")
    torch_device: str | None = opt(
        None, "Where torch runs.", Section.BACKEND, choices=("cpu", "cuda"),
        unless="the GPU if another backend does, else the CPU",
    )  # fmt: skip
    compile_mode: str = opt(
        "default", "Of torch-compile. Compiling is not timed.", Section.BACKEND,
        choices=("default", "reduce-overhead", "max-autotune"),
    )  # fmt: skip
    logs: tuple[Path, ...] = opt(
        (), "Also report what trtexec printed elsewhere; again for further runs.", Section.TIMING,
        flags=("--trtexec-log",), metavar="FILE", multiple=True,
    )  # fmt: skip
    times: tuple[Path, ...] = opt(
        (), "The same from the JSON of its --exportTimes; --batch says the batch size.", Section.TIMING,
        flags=("--trtexec-times",), metavar="FILE", multiple=True,
    )  # fmt: skip
    csv: Path | None = opt(
        None, "Also write one line per file and batch size there.", Section.OUTPUT, metavar="FILE", everyday=True,
        writes="file",
    )  # fmt: skip


@command(
    "bench", short_help="Time files against each other; show where the time goes.", quiet="Only errors.",
    verbose="all percentiles, and profiles by block and operator",
)  # fmt: skip
def bench_command(work: BenchWork, options: BenchOptions, run: Run) -> None:
    """Time files against each other in one process, their runs interleaved: ONNX files of anybody, plans, PyTorch.

    Inputs are random, made from what each file asks for. Numbers are not compared: that is what verification is for.
    What --cuda-graph, --transfers and --streams say holds for plans, is printed with their times and is in the JSON.

    \b
    tofu-export bench full.onnx out/model.fp32.onnx --batch 1,8
    tofu-export bench out/model.fp32.onnx --profile
    tofu-export bench vit_base out/model.fp32.onnx --backend ort-cpu,torch,torch-compile
    tofu-export bench --trtexec-log full.log --trtexec-log reduced.log
    """  # fmt: skip
    if not work.files and (options.profile or options.products or not (work.logs or work.times)):
        raise OptionError("no file given, expected at least one ONNX file: tofu-export bench FILE.onnx")
    from tofu_export.benchmarking.trtexec_log import read_records

    baseline = options.baseline
    records = read_records(work.logs, work.times, batches=options.batches, baseline=baseline)
    if baseline is not None and not work.files and not records.asked:
        raise OptionError(f"--baseline {baseline!r} is not among the runs, expected the name of one")
    options = replace(options, baseline=None if records.asked else baseline)
    torch_backends = _TorchBackends(options, work.torch_device, work.compile_mode)
    result = _time(work.files, options, torch_backends, run)
    result = replace(result, recorded=records.rows, recorded_baseline=records.baseline)
    if not run.quiet:
        from tofu_export.cli.bench_text import show

        show(run.console(), result, verbose=run.verbose)
    if work.csv is not None:
        from tofu_export.benchmarking.bench_csv import csv_text
        from tofu_export.system.files import write_text

        write_text(work.csv, csv_text((*result.measurements, *result.recorded)))
    run.document(lambda: run.envelope(settings=_settings(options, torch_backends), **result.to_dict()))


class _TorchBackends:
    """PyTorch backends, which are imported only if asked for."""

    def __init__(self, options: BenchOptions, device: str | None, mode: str) -> None:
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


def _time(files: tuple[Path, ...], options: BenchOptions, torch_backends: _TorchBackends, run: Run) -> BenchResult:
    """Time the files; without files, report only the records."""
    from tofu_export.benchmarking.comparison import BenchResult, compare_files

    if not files:
        return BenchResult((), None, (), (), (), ())
    with run.listening("loading") as listener:
        return compare_files(
            files,
            options,
            open_torch=torch_backends.opener(),
            on_progress=lambda at: listener.step(f"batch {at.batch}, {at.phase}, {at.fraction:.0%}"),
            on_profile=lambda name, batch: listener.step(f"profiling {name}, batch {batch}"),
            on_products=lambda name, batch: listener.step(f"timing the products of {name}, batch {batch}"),
        )


def _settings(options: BenchOptions, torch_backends: _TorchBackends) -> dict[str, object]:
    return {
        "threads": options.threads,
        "warmup_ms": options.warmup_ms,
        "min_seconds": options.min_seconds,
        "min_iterations": options.min_iterations,
        "seed": options.seed,
        "gpu": to_object(options.gpu),
        "torch": torch_backends.settings(),
    }
