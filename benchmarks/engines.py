"""Build TensorRT-RTX plans of several families in every precision, and write what became of each as a table.

Every model is exported with random weights as a user would do it, then FP32, FP16 and BF16 plans are built for all GPUs
that the installed TensorRT-RTX knows from SM80 on (they share one plan), and an FP16 plan for SM75. No GPU is needed,
and no plan is run: the table says what builds and what is in it, from the receipt (docs/engines.md).

Usage: `make engines`, or `python benchmarks/engines.py --models vit_small,vit_base --output engines.json`.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from command import tofu_export

from tofu_export.engines.flavours import RTX, TURING, known_capabilities
from tofu_export.options import Precision
from tofu_export.system import environment
from tofu_export.system.typed_json import to_object

MODELS: Mapping[str, tuple[str, ...]] = {
    "vit_small": (),
    "vit_base": (),
    "vit_small_patch14_reg4_dinov2": ("--image-size", "224"),  # its own size has five times as many tokens
    "vit_base_patch16_siglip_224": (),
    "eva02_small_patch14_224": (),
}
"""Models that are built unless others are named, and what is asked of their export beside r."""

ASKED = ("SM80", "SM86", "SM89", "SM90", "SM100", "SM120", "SM121")
"""GPUs that somebody may ask for; those that the installed version lacks are named under the table."""

PRECISIONS = (Precision.FP32, Precision.FP16, Precision.BF16)
HEAD = (
    "model", "precision", "GPUs", "built", "seconds", "MB", "kernels", "multiply-accumulates", "layers with them",
    "FP32 products",
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One plan.

    Attributes:
        model: as it was asked for.
        precision: of the file.
        capabilities: GPUs that it is for.
        error: the builder's message; None if it was built.
        seconds: wall time of the command, with its checks.
        build_seconds: of it inside of the builder; None where it was not built.
        megabytes: size of the plan.
        kernels: that it launches, from the builder's log.
        mac_share: of the multiply-accumulates by type.
        layers: with multiply-accumulates by type.
        fp32_products: matrix products in FP32 in the network that was built.
        sha256: of the plan.
    """

    model: str
    precision: str
    capabilities: tuple[str, ...]
    error: str | None
    seconds: float
    build_seconds: float | None = None
    megabytes: float | None = None
    kernels: int | None = None
    mac_share: Mapping[str, float] | None = None
    layers: Mapping[str, int] | None = None
    fp32_products: int | None = None
    sha256: str | None = None

    def cells(self) -> tuple[str, ...]:
        """What the table shows of it."""
        first = (self.model, self.precision, " ".join(self.capabilities))
        if self.error is not None:
            return (*first, f"**no**: {self.error}", f"{self.seconds:.0f}", *[""] * 5)
        shares = ", ".join(f"{100 * share:.2f} % {name}" for name, share in (self.mac_share or {}).items())
        layers = ", ".join(f"{count} {name}" for name, count in (self.layers or {}).items())
        return (
            *first, "yes", f"{self.seconds:.0f}", f"{self.megabytes:.1f}", str(self.kernels), shares, layers,
            str(self.fp32_products),
        )  # fmt: skip


def main() -> int:
    """Build everything and print a Markdown table; 1 if a plan is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=",".join(MODELS), help="comma list of model names")
    parser.add_argument("--r", default="16", help="tokens to remove per layer")
    parser.add_argument("--output", type=Path, help="also write the rows there as JSON")
    arguments = parser.parse_args()
    known = known_capabilities(RTX)
    rows: list[Row] = []
    print(f"| {' | '.join(HEAD)} |\n|{'---|' * len(HEAD)}", flush=True)
    for name in arguments.models.split(","):
        for row in _plans(name, arguments.r, [entry for entry in ASKED if entry in known]):
            rows.append(row)
            print(f"| {' | '.join(row.cells())} |", flush=True)
    missing = [entry for entry in ASKED if entry not in known]
    about = environment.collect()
    print(f"\nTensorRT-RTX {about.versions['tensorrt_rtx']} on {about.cpu}, {about.gpu or 'no GPU'}.")
    if missing:
        print(f"It has no {', '.join(missing)}: nothing can be built ahead of time for those.")
    if arguments.output:
        document = {"environment": to_object(about), "unknown": missing, "rows": [asdict(row) for row in rows]}
        arguments.output.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    return int(any(row.error is not None for row in rows))


def _plans(name: str, r: str, capabilities: Sequence[str]) -> Iterator[Row]:
    """All plans of one model; its files go when they are built."""
    with tempfile.TemporaryDirectory(prefix="tofu-export-engines-") as folder:
        start = time.perf_counter()
        precisions = ",".join(precision.value for precision in PRECISIONS)
        error, _ = tofu_export(
            name, "--r", r, *MODELS.get(name, ()), "--weights", "random", "--precision", precisions,
            "--no-engine", "--no-verify", "--no-bench", "-q", "-o", folder,
        )  # fmt: skip
        seconds = time.perf_counter() - start
        print(f"{name}: exported in {seconds:.0f} s{f', FAILED: {error}' if error else ''}", file=sys.stderr)
        for precision in PRECISIONS:
            wanted = [tuple(capabilities)] + [(TURING,)] * (precision is Precision.FP16)
            for group in wanted:
                if error is not None:
                    yield Row(name, precision.value, group, f"not exported: {error}", seconds)
                else:
                    yield _plan(name, precision, group, Path(folder))


def _plan(name: str, precision: Precision, capabilities: tuple[str, ...], folder: Path) -> Row:
    plan = folder / "plan.engine"
    start = time.perf_counter()
    error, out = tofu_export(
        "build", str(folder / f"model.{precision.value}.onnx"), "--flavour", RTX.name, "-o", str(plan),
        "--precision", precision.value, "--compute-capability", ",".join(capabilities), "--json", "-q",
    )  # fmt: skip
    seconds = time.perf_counter() - start
    if error is not None:
        return Row(name, precision.value, capabilities, error, seconds)
    (receipt,) = json.loads(out)["engines"]
    products: Mapping[str, int] = receipt["network"]["layers"].get("MATRIX_MULTIPLY", {})
    megabytes = plan.stat().st_size / 1e6
    plan.unlink()
    return Row(
        name,
        precision.value,
        tuple(receipt["compute_capabilities"]),
        None,
        seconds,
        build_seconds=receipt["build_seconds"],
        megabytes=megabytes,
        kernels=receipt["kernels"]["kernels"],
        mac_share=receipt["structure"]["mac_share"],
        layers=receipt["structure"]["compute_layers"],
        fp32_products=products.get("fp32", 0),
        sha256=receipt["engine"]["sha256"],
    )


if __name__ == "__main__":
    sys.exit(main())
