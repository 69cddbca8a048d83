"""Choose among the recipes that a target accepts by timing them on this machine, and remember the choice.

Which way to write a graph is fastest depends on the processor, the runtime, the model and the batch. The table in
`graph_patterns` holds what was measured once, elsewhere. Here each recipe is timed against the table's first in
onnxruntime, interleaved, and takes its place only if three quarters of the rounds show a gain.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir
import platformdirs

from tofu_export import environment
from tofu_export.engines.backends import open_contender
from tofu_export.engines.benchmark import Contender, Feeds, Opener, run_benchmark
from tofu_export.errors import OptionError, OutputError
from tofu_export.export import save
from tofu_export.graph_patterns.lowering import lower
from tofu_export.graph_patterns.recipe import Recipe
from tofu_export.graph_patterns.table import recipes_for
from tofu_export.options import Precision, Target

__all__ = ["CACHE_VARIABLE", "Tuning", "autotune", "cache_folder", "check_tunable"]

CACHE_VARIABLE = "TOFU_EXPORT_CACHE"
"""Environment variable that names the folder of remembered choices."""

SECONDS = 2.0
"""Shortest measured time of each contender."""

WARMUP_MS = 200.0
"""Time that each contender runs before it is timed."""

_DEFAULT = "default"


@dataclass(frozen=True)
class Timing:
    """One recipe against the table's first.

    Attributes:
        recipe: its name.
        median_ms: median latency.
        speedup: median latency of the first recipe in the same rounds, divided by this one's.
        speedup_iqr: first and third quartile of that ratio over the rounds.
    """

    recipe: str
    median_ms: float
    speedup: float
    speedup_iqr: tuple[float, float]

    @property
    def gains(self) -> bool:
        """True if three quarters of the rounds show a gain."""
        return self.speedup_iqr[0] > 1


@dataclass(frozen=True)
class Tuning:
    """What was chosen, and from what.

    Attributes:
        recipe: the choice.
        timings: every recipe but the first against the first; empty where there is no other.
        batch: images per query.
        cached: it was measured by an earlier run.
        path: where the choice is remembered.
    """

    recipe: Recipe
    timings: tuple[Timing, ...]
    batch: int
    cached: bool
    path: Path

    def to_dict(self) -> dict[str, Any]:
        """As in report.json (`artifacts[].autotune`)."""
        return {
            "recipe": str(self.recipe),
            "batch": self.batch,
            "cached": self.cached,
            "timings": [asdict(timing) for timing in self.timings],
        }

    def __str__(self) -> str:
        best = next((timing for timing in self.timings if timing.recipe == str(self.recipe)), None)
        gain = "the table's own is the fastest" if best is None else f"{best.speedup:.3f}x the table's own"
        measured = "measured before" if self.cached else f"{1 + len(self.timings)} timed at batch {self.batch}"
        return f"{self.recipe}: {gain} ({measured}; remembered in {self.path})"


def check_tunable(target: Target) -> None:
    """Refuse what onnxruntime's CPU provider cannot time.

    Raises:
        OptionError: the target is a TensorRT.
    """
    if target in (Target.TENSORRT, Target.TENSORRT_RTX):
        raise OptionError(
            f"--autotune times files in onnxruntime, which says nothing about {target.value}: leave it out, or choose "
            "--target portable or onnxruntime"
        )


def cache_folder() -> Path:
    """Where choices are remembered: `TOFU_EXPORT_CACHE`, or the user's cache folder."""
    given = os.environ.get(CACHE_VARIABLE)
    return Path(given) if given else Path(platformdirs.user_cache_dir("tofu-export", appauthor=False))


def autotune(
    graph: ir.Model,
    target: Target,
    *,
    batch: int,
    feeds: Feeds,
    folder: Path,
    threads: int | None = None,
    cache: Path | None = None,
    on_recipe: Callable[[str], None] | None = None,
    open_runner: Opener = open_contender,
) -> Tuning:
    """The fastest recipe for a float32 graph on this machine, measured, or remembered from a run like this one.

    Args:
        graph: a canonical float32 graph; it is not changed.
        target: what it will be lowered for.
        batch: images per query.
        feeds: what to run it on.
        folder: where to write the files that are timed; they are removed.
        threads: threads inside an operator; None for the default.
        cache: folder of remembered choices; None for `cache_folder()`.
        on_recipe: told which recipe is timed.
        open_runner: loads a file to time.

    Raises:
        OptionError: the target cannot be timed here.
        LoweringError: the graph cannot be lowered.
        OutputError: the choice cannot be written down.
    """
    check_tunable(target)
    first, *others = recipes_for(target, Precision.FP32)
    fingerprint = _fingerprint(graph, target, [first, *others], batch, threads)
    digest = hashlib.sha256(json.dumps(fingerprint, sort_keys=True).encode()).hexdigest()
    path = (cache or cache_folder()) / "autotune" / f"{digest[:32]}.json"
    known = _remembered(path, fingerprint)
    if known is not None:
        timings = known
    else:
        with tempfile.TemporaryDirectory(prefix=".autotune-", dir=folder) as scratch:
            timings = _measure(
                graph, target, first, others, batch, feeds, Path(scratch), threads, on_recipe, open_runner
            )
        _remember(path, fingerprint, timings)
    best = max((timing for timing in timings if timing.gains), key=lambda timing: timing.speedup, default=None)
    chosen = first if best is None else next(recipe for recipe in others if str(recipe) == best.recipe)
    return Tuning(chosen, timings, batch, known is not None, path)


def _measure(
    graph: ir.Model,
    target: Target,
    first: Recipe,
    others: list[Recipe],
    batch: int,
    feeds: Feeds,
    scratch: Path,
    threads: int | None,
    on_recipe: Callable[[str], None] | None,
    open_runner: Opener,
) -> tuple[Timing, ...]:
    """Time each recipe against the first, two files at a time: all at once may not fit the memory."""
    reference, contender = scratch / "first.onnx", scratch / "other.onnx"
    save(lower(graph.clone(), target, Precision.FP32, first), reference, {})
    timings = []
    for recipe in others:
        if on_recipe is not None:
            on_recipe(str(recipe))
        save(lower(graph.clone(), target, Precision.FP32, recipe), contender, {})
        _, measured = run_benchmark(
            [Contender(_DEFAULT, reference), Contender(str(recipe), contender)],
            batches=(batch,),
            make_feeds=lambda _: feeds,
            warmup_ms=WARMUP_MS,
            min_seconds=SECONDS,
            threads=threads,
            baseline=_DEFAULT,
            open_runner=open_runner,
        )
        assert measured.speedup_vs_full is not None and measured.speedup_iqr is not None  # there is a baseline
        timings.append(Timing(str(recipe), measured.latency_ms.median, measured.speedup_vs_full, measured.speedup_iqr))
    return tuple(timings)


def _fingerprint(
    graph: ir.Model, target: Target, recipes: list[Recipe], batch: int, threads: int | None
) -> dict[str, Any]:
    """Everything that the choice may depend on, as plain values."""
    found = environment.collect()
    return {
        "cpu": found["cpu"],
        "cores": found["logical_cores"],
        "versions": {name: found["versions"][name] for name in ("tofu_export", "onnxruntime")},
        "target": target.value,
        "batch": batch,
        "threads": threads,
        "recipes": [str(recipe) for recipe in recipes],
        "graph": _structure(graph),
    }


def _structure(graph: ir.Model) -> str:
    """Digest of operators, attributes and shapes: models that differ in their weights alone share it."""
    digest = hashlib.sha256()
    for node in graph.graph:
        attributes = sorted(
            (name, str(attribute.value))
            for name, attribute in node.attributes.items()
            if attribute.type in (ir.AttributeType.INT, ir.AttributeType.INTS, ir.AttributeType.STRING)
        )
        shapes = [str(value.shape) for value in (*node.inputs, *node.outputs) if value is not None]
        digest.update(repr((node.domain, node.op_type, attributes, shapes)).encode())
    return digest.hexdigest()


def _remembered(path: Path, fingerprint: Mapping[str, Any]) -> tuple[Timing, ...] | None:
    """What an earlier run measured; None where there is nothing that can be used."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if document["fingerprint"] != fingerprint:
            return None
        timings = tuple(
            Timing(
                str(row["recipe"]),
                float(row["median_ms"]),
                float(row["speedup"]),
                (float(row["speedup_iqr"][0]), float(row["speedup_iqr"][1])),
            )
            for row in document["timings"]
        )
    except (OSError, ValueError, LookupError, TypeError, OverflowError, RecursionError):  # absent, cut, of another make
        return None
    return timings if [timing.recipe for timing in timings] == fingerprint["recipes"][1:] else None


def _remember(path: Path, fingerprint: Mapping[str, Any], timings: tuple[Timing, ...]) -> None:
    document = {"fingerprint": fingerprint, "timings": [asdict(timing) for timing in timings]}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".autotune-", dir=path.parent) as scratch:
            draft = Path(scratch, path.name)
            draft.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
            draft.replace(path)
    except OSError as error:
        raise OutputError(
            f"cannot remember the choice in {path}: {error}; name a folder with the variable {CACHE_VARIABLE}"
        ) from error
