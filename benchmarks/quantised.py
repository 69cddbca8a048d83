"""Measure what FP8 and int8 beside FP16 cost a real classifier on labelled photographs, in onnxruntime.

    python benchmarks/quantised.py --model deit_tiny_patch16_224 --weights FILE --images DIR -o out --write table.md

Top-1 of the files in FP16, FP8, FP8 with attention in FP8, and int8-fp16 at several r, with paired differences to FP16.
A part of the photographs, spread evenly over all, sets the ranges of activations; the files are judged on the others.
The folder holds one folder per ImageNet synset (`n01440764/...`). Files and decisions are kept in `-o`: the same
command goes on where it was stopped. A second table has the verification of each file against the eager model.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import tofu_export
from tofu_export.artifact.external import sha256_of_model
from tofu_export.evaluate.images import ImageSource, folder_source
from tofu_export.evaluate.paired import compare, share_interval
from tofu_export.evaluate.subjects import Subject, file_subject
from tofu_export.options import Precision, Quantization, Reduction
from tofu_export.system.files import write_text

__all__ = ["Variant", "main", "split", "table"]

VERIFICATION = 32
"""Photographs beside those of the calibration that the files are verified on."""

Variant = tuple[str, Precision, bool]
VARIANTS: tuple[Variant, ...] = (
    ("fp16", Precision.FP16, False),
    ("fp8", Precision.FP8, False),
    ("fp8, attention too", Precision.FP8, True),
    ("int8-fp16", Precision.INT8_FP16, False),
)


def split(images: Path, calibrated: int, folder: Path) -> tuple[Path, list[str]]:
    """Links to the photographs that calibrate and verify, evenly from all, and the names of the others."""
    files = sorted(path for path in images.rglob("*") if path.is_file() and not path.name.startswith("."))
    count = calibrated + VERIFICATION
    chosen = {files[index * len(files) // count] for index in range(count)}
    for file in chosen:
        link = folder / file.relative_to(images)
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.is_symlink():
            link.symlink_to(file.resolve())
    return folder, [file.relative_to(images).as_posix() for file in files if file not in chosen]


def made(args: argparse.Namespace, r: int, variant: Variant, calibration: Path) -> Path:
    """The file of a variant, exported unless it is there."""
    name, precision, attention = variant
    folder = Path(args.output, f"r{r}-{name.replace(', ', '-').replace(' ', '-')}")
    path = folder / "model.onnx"
    if not path.is_file():
        tofu_export.export(
            args.model, folder, Reduction(r=r), weights=args.weights, images=calibration, precisions=(precision,),
            quantization=Quantization(images=args.calibrate, attention=attention), engine=False, bench=False,
            verify=False,
        )  # fmt: skip
    return path


def verified(args: argparse.Namespace, path: Path, calibration: Path) -> dict[str, Any]:
    """The verification of a file on `VERIFICATION` photographs, kept beside it; also of one that does not pass."""
    kept = path.with_name("verification.json")
    if not kept.is_file():
        (result,) = tofu_export.verify(path, weights=args.weights, images=calibration, batches=(VERIFICATION,))
        kept.write_text(json.dumps(result.to_dict()), encoding="utf-8")
    found: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8"))
    return found


def verification_table(rows: Sequence[tuple[int, str, dict[str, Any]]]) -> str:
    """Outputs and decisions of each file against the eager model."""
    lines = [
        "| r | file | largest error | smallest cosine | decisions that flip | largest margin | times off in FP32 | |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for r, name, found in rows:
        made = found["decisions"]
        flips = made["near_tie_flips"] + made["wrong"]
        share = f"{flips} of {made['compared']:,}" if made["compared"] else "-"
        inner = found["in_fp32"]["excess"] if found["in_fp32"] else None
        lines.append(
            f"| {r} | {name} | {found['max_abs']:.3g} | {found['cosine_min']:.4f} | {share} "
            f"| {made['largest_margin']:.3g} | {'-' if inner is None else f'{inner:.2f}'} "
            f"| {'passed' if found['passed'] else 'FAILED'} |"
        )
    return "\n".join(lines) + "\n"


def decided(path: Path, source: ImageSource, subject: Subject) -> NDArray[np.int64]:
    """The classes that a file gives, kept beside it under the file's hash."""
    kept = path.with_name(f"decided-{sha256_of_model(path)[:12]}-{len(source)}.npy")
    if not kept.is_file():
        np.save(kept, subject.decide(source))
    found: NDArray[np.int64] = np.load(kept)
    return found


def table(rows: Sequence[tuple[int, str, NDArray[np.int64]]], labels: NDArray[np.int64]) -> str:
    """Top-1 of each file, and its difference to the FP16 file of the same r, which comes before it."""
    lines = ["| r | file | top-1 (95 %) | less FP16 | other decisions |", "|---|---|---|---|---|"]
    plain: NDArray[np.int64] | None = None
    for r, name, classes in rows:
        hits = int((classes == labels).sum())
        low, high = share_interval(hits, len(labels))
        share = f"{hits / len(labels):.1%} ({low:.1%} to {high:.1%})"
        if name == "fp16":
            plain = classes
            lines.append(f"| {r} | {name} | {share} | | |")
        elif plain is not None:
            other = f"{(classes != plain).mean():.1%}"
            lines.append(f"| {r} | {name} | {share} | {compare(classes, plain, labels)} | {other} |")
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--model", required=True, help="timm name")
    parser.add_argument("--weights", default="pretrained", help="pretrained, or a file")
    parser.add_argument("--images", type=Path, required=True, help="one folder per synset")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for files and decisions")
    parser.add_argument("--r", default="0,16", help="amounts, with commas between")
    parser.add_argument("--calibrate", type=int, default=128, help="photographs that set the ranges")
    parser.add_argument("--limit", type=int, help="judge on so many photographs, evenly from all others")
    parser.add_argument("--write", type=Path, help="Markdown file for the table")
    args = parser.parse_args(argv)

    calibration, others = split(args.images, args.calibrate, args.output / "calibration")
    rows: list[tuple[int, str, NDArray[np.int64]]] = []
    checks: list[tuple[int, str, dict[str, Any]]] = []
    labels = np.zeros(0, np.int64)
    for r in map(int, args.r.split(",")):
        for variant in VARIANTS:
            path = made(args, r, variant, calibration)
            checks.append((r, variant[0], verified(args, path, calibration)))
            subject = file_subject(path)
            source = folder_source(args.images, subject.preprocessing, num_classes=subject.num_classes)
            place = {name: index for index, name in enumerate(source.names)}
            source = source.chosen([place[name] for name in others]).limited(args.limit)
            assert source.labels is not None  # folders are classes
            labels = source.labels
            rows.append((r, variant[0], decided(path, source, subject)))
            print(table(rows, labels), verification_table(checks), sep="\n", flush=True)
    if args.write is not None:
        head = f"{len(labels)} photographs, {args.calibrate} others calibrate.\n"
        write_text(args.write, "\n".join([head, table(rows, labels), verification_table(checks)]))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
