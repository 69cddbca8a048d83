"""Time full against reduced models in onnxruntime: one process, interleaved, ratios with spread.

Contenders, all float32 files with a dynamic batch:

- `timm`: `torch.onnx.export` of the plain timm model, what a user would do without this project
- `full`: the same model through this project's pipeline, for onnxruntime
- `tome, traced`: ToMe's reduction traced by `torch.onnx.export` the ordinary way
- `tome`: the same reduction through this project's pipeline
- MODE: Token Fusion, portable file
- `MODE, onnxruntime`: Token Fusion, file for onnxruntime
- `products alone`: the matrix products of that file and nothing else, which no file of that model can beat here

Usage: `make bench`, or `python benchmarks/run.py --models vit_base --r 16 --batches 1,8`. Weights are random: they
change no shape and no time. Close other programs first; a ratio comes with its first and third quartile.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from exports import export_ordinary, export_ordinary_tome, export_ours

from tofu_export.benchmarking.backends import open_contender
from tofu_export.benchmarking.benchmark import Contender, Feeds, Rules, run_benchmark
from tofu_export.benchmarking.ort_profile import profile
from tofu_export.benchmarking.products import products_of, write_products
from tofu_export.options import Mode, Reduction, Target
from tofu_export.planning.plan import ModelSpec, make_plan
from tofu_export.report.measurement import Measurement
from tofu_export.system import environment
from tofu_export.system.typed_json import to_object
from tofu_export.trace.export import INPUT_NAME
from tofu_export.zoo.create import create_model
from tofu_export.zoo.specs import spec_of
from tofu_export.zoo.weights import WeightsSource

TIMM, FULL, TRACED, TOME, PRODUCTS = "timm", "full", "tome, traced", "tome", "products alone"
HEAD = (
    "model", "r", "batch", "file", "GMACs", "images/s", "against timm's export", "against our full export",
    "of the GMAC ratio", "reduction",
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One file at one batch size.

    Attributes:
        model: its name.
        r: tokens removed per layer; of unreduced files those of the files that ran with them.
        batch: images per query.
        file: name of the contender.
        gmacs: what it computes for one image; None where the exporter's file does not say.
        images_per_sec: throughput.
        over_timm: latency of timm's export divided by this one's, median over the rounds.
        over_timm_quartiles: of that ratio over the rounds.
        over_full: the same against this project's full export.
        realised: `over_full` divided by the ratio of GMACs; None for files that do not say theirs.
        reduction_share: matching and merging, as a share of the time of all kernels; None where not profiled.
    """

    model: str
    r: int
    batch: int
    file: str
    gmacs: float | None
    images_per_sec: float
    over_timm: float
    over_timm_quartiles: tuple[float, float]
    over_full: float
    realised: float | None
    reduction_share: float | None

    def cells(self) -> tuple[str, ...]:
        """What a table shows of it."""
        low, high = self.over_timm_quartiles
        return (
            self.model, str(self.r), str(self.batch), self.file,
            "" if self.gmacs is None else f"{self.gmacs:.2f}",
            f"{self.images_per_sec:.1f}",
            f"{self.over_timm:.2f}x ({low:.2f}-{high:.2f})",
            f"{self.over_full:.2f}x",
            "" if self.realised is None else f"{self.realised:.3f}",
            "" if self.reduction_share is None else f"{self.reduction_share:.1%}",
        )  # fmt: skip


def main() -> None:
    """Run the benchmark and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="vit_small,vit_base,vit_large", help="comma list of model names")
    parser.add_argument("--r", default="8,12,16,20", help="comma list of tokens to remove per layer")
    parser.add_argument("--modes", default="mlerp", help="comma list of mlerp, average, prune")
    parser.add_argument("--batches", default="1,8", help="comma list of batch sizes")
    parser.add_argument("--seconds", type=float, default=3.0, help="shortest measured time of each contender and batch")
    parser.add_argument("--threads", type=int, help="threads inside an operator")
    parser.add_argument("--output", type=Path, help="also write the rows there as JSON")
    arguments = parser.parse_args()
    amounts, batches = ([int(part) for part in text.split(",")] for text in (arguments.r, arguments.batches))
    modes = [Mode(mode) for mode in arguments.modes.split(",")]

    rows: list[Row] = []
    print(f"| {' | '.join(HEAD)} |\n|{'---|' * len(HEAD)}", flush=True)
    for name in arguments.models.split(","):
        with tempfile.TemporaryDirectory() as folder:
            files = _Files(name, Path(folder))
            for r in amounts:
                paths = files.of(r, modes)
                for batch in batches:
                    for row in _time(files, paths, r, batch, arguments.seconds, arguments.threads):
                        rows.append(row)
                        print(f"| {' | '.join(row.cells())} |", flush=True)
    if arguments.output:
        document = {"environment": to_object(environment.collect()), "rows": [asdict(row) for row in rows]}
        arguments.output.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


class _Files:
    """The files of one model. Those of one r at a time: all of a large model do not fit the memory."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.folder = folder
        self.spec: ModelSpec = spec_of(name)
        self.gmacs: dict[str, float] = {TIMM: make_plan(self.spec, Reduction(r=0)).gmacs_full}
        model = create_model(name, weights=WeightsSource.parse("random")).model
        export_ordinary(model, self.spec, folder / "timm.onnx")
        self.gmacs[FULL] = export_ours(model, self.spec, name, Reduction(r=0), Target.ONNXRUNTIME, folder / "full.onnx")
        self._model = model

    def of(self, r: int, modes: list[Mode]) -> dict[str, Path]:
        """Paths by the name of the contender, for r tokens removed per layer."""
        folder, model, spec, name = self.folder, self._model, self.spec, self.name
        paths = {TIMM: folder / "timm.onnx", FULL: folder / "full.onnx", TRACED: folder / "traced.onnx"}
        export_ordinary_tome(model, spec, name, r, paths[TRACED])
        for index, (label, mode, target) in enumerate(_ours(modes)):
            paths[label] = folder / f"ours{index}.onnx"
            self.gmacs[label] = export_ours(model, spec, name, Reduction(r=r, mode=mode), target, paths[label])
        print(f"{name}, r = {r}: files are written", file=sys.stderr)
        return paths


def _ours(modes: list[Mode]) -> Iterator[tuple[str, Mode, Target]]:
    yield TOME, Mode.TOME, Target.PORTABLE
    for mode in modes:
        yield mode.value, mode, Target.PORTABLE
        yield f"{mode.value}, onnxruntime", mode, Target.ONNXRUNTIME


def _time(
    files: _Files, paths: dict[str, Path], r: int, batch: int, seconds: float, threads: int | None
) -> Iterator[Row]:
    spec = files.spec
    pixels: npt.NDArray[np.float32] = np.random.default_rng(0).standard_normal(
        (batch, spec.in_chans, *spec.image_size), dtype=np.float32
    )
    feeds: dict[str, Feeds] = {label: {INPUT_NAME: pixels} for label in paths}
    best = list(paths)[-1]
    alone = files.folder / "products.onnx"
    products = products_of(paths[best], feeds[best])
    feeds[PRODUCTS] = write_products(products, alone)
    gmacs = {**files.gmacs, PRODUCTS: sum(product.macs for product in products) / batch / 1e9}
    everything = {**paths, PRODUCTS: alone}
    measured = run_benchmark(
        [Contender(label, path) for label, path in everything.items()],
        batches=(batch,),
        make_feeds={label: lambda _, own=own: own for label, own in feeds.items()},  # type: ignore[misc]
        open_runner=open_contender,
        rules=Rules(min_seconds=seconds),
        threads=threads,
        baseline=TIMM,
    )
    full = next(row for row in measured if row.artifact == FULL)
    for row in measured:
        label = row.artifact
        share = None
        if label not in (TIMM, FULL, TRACED, PRODUCTS):
            share = profile(everything[label], label, feeds[label], batch, threads=threads).net_reduction.share
        yield _row(files, r, row, full, gmacs, share)


def _row(
    files: _Files, r: int, row: Measurement, full: Measurement, gmacs: dict[str, float], share: float | None
) -> Row:
    assert row.speedup_vs_full is not None and row.speedup_iqr is not None  # timm's export is the baseline
    own = gmacs.get(row.artifact)
    over_full = full.latency_ms.median / row.latency_ms.median
    return Row(
        model=files.name,
        r=r,
        batch=row.batch,
        file=row.artifact,
        gmacs=own,
        images_per_sec=row.images_per_sec,
        over_timm=row.speedup_vs_full,
        over_timm_quartiles=row.speedup_iqr,
        over_full=over_full,
        realised=None if own is None else over_full / (gmacs[FULL] / own),
        reduction_share=share,
    )


if __name__ == "__main__":
    main()
