"""Compare files by speed: load them, make their inputs, time them against each other, profile them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tofu_export.artifact.card import ModelCard
from tofu_export.artifact.feeds import check_shapes, fixed_batch, make_feeds
from tofu_export.benchmarking.backends import (
    Loaded,
    is_model_name,
    open_backend,
    suits,
)
from tofu_export.benchmarking.benchmark import Contender, Progress, Rules, run_benchmark
from tofu_export.benchmarking.options import CPU, PLAN_BACKENDS, TORCH_BACKENDS, BenchOptions
from tofu_export.benchmarking.ort_profile import Profile, profile
from tofu_export.benchmarking.products import Alone, measure_alone
from tofu_export.errors import OptionError
from tofu_export.options import PLAN_SUFFIXES
from tofu_export.report.measurement import Measurement
from tofu_export.system.ort import TensorSpec
from tofu_export.system.typed_json import JsonObject, rounded_object

__all__ = ["BenchFile", "BenchResult", "OpenTorch", "Realised", "compare_files", "short_names"]

OpenTorch = Callable[[Path, str, "int | None"], Loaded]
"""Loader of a file's eager model, or a timm model by name, for one of `TORCH_BACKENDS`, with a number of threads."""

_MODEST = 0.005
"""Relative difference in GMACs below which files are called equal."""


@dataclass(frozen=True)
class BenchFile:
    """File that was timed.

    Attributes:
        name: name in tables.
        path: its path, as given.
        gmacs: 10^9 multiply-accumulates for one image; None if the file does not state them.
        inputs: type and shape of each input, as text.
        outputs: shape of each output at the first batch size.
    """

    name: str
    path: Path
    gmacs: float | None
    inputs: Mapping[str, str]
    outputs: Mapping[str, tuple[int, ...]]

    def to_dict(self) -> JsonObject:
        """Return the file as JSON values."""
        return {
            "artifact": self.name,
            "path": str(self.path),
            "gmacs": self.gmacs,
            "inputs": dict(self.inputs),
            "outputs": {name: list(shape) for name, shape in self.outputs.items()},
        }


@dataclass(frozen=True)
class Realised:
    """Share of the saved work that a file saves in time.

    Attributes:
        artifact: the file.
        reference: the file that it is compared with.
        batch: images per query.
        speedup: latency of the reference divided by that of the file.
        gmacs_ratio: GMACs of the reference divided by those of the file.
    """

    artifact: str
    reference: str
    batch: int
    speedup: float
    gmacs_ratio: float

    @property
    def share(self) -> float:
        """Speed-up over the ratio of GMACs; 1 if time falls as work does."""
        return self.speedup / self.gmacs_ratio

    def __str__(self) -> str:
        at = f"{self.artifact} at batch {self.batch}: {self.speedup:.2f}x {self.reference}"
        if abs(self.gmacs_ratio - 1) < _MODEST:
            return f"{at} for the same GMACs"
        if self.gmacs_ratio < 1:
            return f"{at} for {1 / self.gmacs_ratio:.2f}x more GMACs"
        return f"{at} for {self.gmacs_ratio:.2f}x fewer GMACs ({100 * self.share:.0f} %)"

    def to_dict(self) -> JsonObject:
        """Return the record as JSON values."""
        return rounded_object({**vars(self), "share": self.share})


@dataclass(frozen=True)
class BenchResult:
    """Result of a comparison.

    Attributes:
        files: the files.
        baseline: name of the one that ratios refer to; None with a single one.
        measurements: by batch size, then in the order given.
        profiles: by file, then batch size; empty unless asked for.
        alone: times of the products of each file, by file, then batch size; empty unless asked for.
        warnings: reasons against comparing the files.
        recorded: measurements of runs elsewhere, from trtexec's records.
        recorded_baseline: name of the recorded run that their ratios refer to.
    """

    files: tuple[BenchFile, ...]
    baseline: str | None
    measurements: tuple[Measurement, ...]
    profiles: tuple[Profile, ...]
    alone: tuple[Alone, ...]
    warnings: tuple[str, ...]
    recorded: tuple[Measurement, ...] = ()
    recorded_baseline: str | None = None

    @property
    def realised(self) -> tuple[Realised, ...]:
        """Speed-ups beside ratios of GMACs, for files that state theirs and run on the same backend.

        They refer to the baseline, or to the file with the most GMACs if the baseline does not state its own.
        """
        gmacs = {entry.name: entry.gmacs for entry in self.files if entry.gmacs is not None}
        if not gmacs:
            return ()
        reference = self.baseline if self.baseline in gmacs else max(gmacs, key=gmacs.__getitem__)
        full = {row.batch: row for row in self.measurements if row.artifact == reference}
        return tuple(
            Realised(
                artifact=row.artifact,
                reference=full[row.batch].artifact,
                batch=row.batch,
                speedup=_speedup(row, full[row.batch], self.baseline),
                gmacs_ratio=gmacs[full[row.batch].artifact] / gmacs[row.artifact],
            )
            for row in self.measurements
            if row.artifact in gmacs and row.artifact != reference and row.backend == full[row.batch].backend
        )

    def to_dict(self) -> JsonObject:
        """Return the result as JSON values; `benchmark` has the fields of report.json."""
        return {
            "baseline": self.baseline,
            "recorded_baseline": self.recorded_baseline,
            "files": [entry.to_dict() for entry in self.files],
            "benchmark": [row.to_dict() for row in (*self.measurements, *self.recorded)],
            "realised": [row.to_dict() for row in self.realised],
            "profile": [entry.to_dict() for entry in self.profiles],
            "products": [rounded_object(entry) for entry in self.alone],
            "warnings": list(self.warnings),
        }


def _speedup(row: Measurement, reference: Measurement, baseline: str | None) -> float:
    """Return the speed-up over the reference: by rounds, if the file was compared with it."""
    if row.speedup_vs_full is not None and reference.artifact == baseline:
        return row.speedup_vs_full
    return reference.latency_ms.median / row.latency_ms.median


def compare_files(
    paths: Sequence[Path],
    options: BenchOptions,
    *,
    open_torch: OpenTorch | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    on_profile: Callable[[str, int], None] | None = None,
    on_products: Callable[[str, int], None] | None = None,
) -> BenchResult:
    """Time files against each other in one process, and profile them if asked to.

    Timing runs are never profiled, and profiled runs are never timed. Each file runs once before anything is measured,
    so that failures show at once.

    Args:
        paths: ONNX files, engines, and for torch names of models.
        options: how to compare.
        open_torch: loads contenders of `TORCH_BACKENDS`.
        on_progress: called with the progress of timing.
        on_profile: called with the file and batch size that is profiled next.
        on_products: called with the file and batch size whose products are timed next.

    Raises:
        OptionError: options contradict each other or do not fit a file.
        ExportError: a file cannot be loaded or fails when it runs.
        BackendMissingError: a backend cannot be used here.
    """
    if not paths:
        raise OptionError("no file given, expected at least one ONNX file")
    contenders = _contenders(paths, options.backends)
    runners = {who.name: _open(who, options, open_torch) for who in contenders}
    inputs = {name: runner.session.inputs for name, runner in runners.items()}
    baseline = _baseline(options.baseline, contenders)
    batches = options.batches or _usual_batches(inputs)
    check_shapes(options.shapes, {name for specs in inputs.values() for name in specs})
    feeds = {
        who.name: cache(partial(_feeds, str(who.path), inputs[who.name], options.shapes, options.seed))
        for who in contenders
    }
    for name, batch in ((who.name, batch) for who in contenders for batch in batches):
        feeds[name](batch)  # refuse unsuitable feeds before any time is spent
    files = tuple(_describe(who, runners[who.name], feeds[who.name](batches[0])) for who in contenders)
    measurements = run_benchmark(
        contenders,
        batches=batches,
        make_feeds=feeds,
        rules=Rules(options.warmup_ms, options.min_seconds, options.min_iterations),
        threads=options.threads,
        baseline=baseline,
        on_progress=on_progress,
        open_runner=lambda who, _: runners[who.name],
    )
    runners.clear()  # the profiler loads files again
    profiles = []
    for who, batch in ((who, batch) for who in contenders for batch in batches if options.profile):
        if on_profile is not None:
            on_profile(who.name, batch)
        profiles.append(profile(who.path, who.name, feeds[who.name](batch), batch, threads=options.threads))
    alone = []
    for who, batch in ((who, batch) for who in contenders for batch in batches if options.products):
        if on_products is not None:
            on_products(who.name, batch)
        alone.append(
            measure_alone(
                who.path,
                who.name,
                feeds[who.name](batch),
                batch,
                threads=options.threads,
                rules=Rules(min_seconds=options.min_seconds, min_iterations=options.min_iterations),
            )
        )
    return BenchResult(files, baseline, measurements, tuple(profiles), tuple(alone), _warnings(files))


def _open(who: Contender, options: BenchOptions, open_torch: OpenTorch | None) -> Loaded:
    if who.backend not in TORCH_BACKENDS:
        return open_backend(who.path, who.backend, options.threads, options.gpu)
    if open_torch is None:
        raise OptionError(f"nothing here runs {who.backend}: `tofu_export.benchmarking.torch_contenders` does")
    return open_torch(who.path, who.backend, options.threads)


def short_names(paths: Sequence[Path]) -> tuple[str, ...]:
    """Return the shortest ends of paths that distinguish them: file names, with as many folders as needed.

    Raises:
        OptionError: a path is given twice.
    """
    parts = [path.resolve().parts for path in paths]
    twice = next((path for path, own in zip(paths, parts, strict=True) if parts.count(own) > 1), None)
    if twice is not None:
        raise OptionError(f"{twice} is given twice: give each file once")
    return tuple(
        next(
            "/".join(own[-length:])
            for length in range(1, len(own) + 1)
            if sum(other[-length:] == own[-length:] for other in parts) == 1
        )
        for own in parts
    )


def _contenders(paths: Sequence[Path], backends: Sequence[str]) -> list[Contender]:
    found: list[Contender] = []
    for name, path in zip(short_names(paths), paths, strict=True):
        own = [backend for backend in backends if suits(path, backend)]
        if not own:
            raise OptionError(_unsuited(name, path, backends))
        found += [Contender(f"{name} ({backend})" if len(own) > 1 else name, path, backend) for backend in own]
    return found


def _unsuited(name: str, path: Path, backends: Sequence[str]) -> str:
    """Return the message that none of these backends runs a file, and which do."""
    if is_model_name(path):
        return (
            f"there is no file {name} to run on {', '.join(backends)}: give a file's path, or for a model of timm's of "
            f"that name --backend {' or '.join(TORCH_BACKENDS)}"
        )
    needed = " or ".join(PLAN_BACKENDS) if path.suffix in PLAN_SUFFIXES else CPU
    return f"{name} does not run on {', '.join(backends)}: give --backend {needed}"


def _baseline(asked: str | None, contenders: Sequence[Contender]) -> str | None:
    if asked is None:
        return contenders[0].name if len(contenders) > 1 else None
    if any(who.name == asked for who in contenders):
        return asked
    named = [who.name for who in contenders if who.path == Path(asked)]
    if len(named) != 1:
        known = ", ".join(who.name for who in contenders)
        raise OptionError(f"--baseline {asked!r} is not among the files, expected one of {known}")
    return named[0]


def _usual_batches(inputs: Mapping[str, Mapping[str, TensorSpec]]) -> tuple[int, ...]:
    """Return the batch that files are fixed to, else 1."""
    fixed = {name: batch for name, specs in inputs.items() if (batch := fixed_batch(specs)) is not None}
    if len(set(fixed.values())) > 1:
        text = ", ".join(f"{name} to {batch}" for name, batch in fixed.items())
        raise OptionError(f"files are fixed to different batch sizes ({text}): they cannot be compared in one run")
    return (next(iter(fixed.values()), 1),)


def _feeds(
    label: str,
    inputs: Mapping[str, TensorSpec],
    shapes: Mapping[str, tuple[int, ...]],
    seed: int,
    batch: int,
) -> dict[str, npt.NDArray[np.generic]]:
    return make_feeds(label, inputs, batch, shapes=shapes, seed=seed)


def _describe(who: Contender, runner: Loaded, feeds: Mapping[str, npt.NDArray[np.generic]]) -> BenchFile:
    session = runner.session
    outputs = session.run(feeds)
    return BenchFile(
        name=who.name,
        path=who.path,
        gmacs=ModelCard.of_texts(session.metadata, who.name).gmacs,
        inputs={name: str(spec) for name, spec in session.inputs.items()},
        outputs={name: tuple(np.shape(value)) for name, value in outputs.items()},
    )


def _warnings(files: Sequence[BenchFile]) -> tuple[str, ...]:
    first, *others = files
    expected = sorted(first.outputs.values())
    return tuple(
        f"{entry.name} gives {_shapes(entry)}, {first.name} gives {_shapes(first)}: they do not do the same"
        for entry in others
        if sorted(entry.outputs.values()) != expected
    )


def _shapes(entry: BenchFile) -> str:
    return ", ".join(f"{name} [{', '.join(map(str, shape))}]" for name, shape in entry.outputs.items())
