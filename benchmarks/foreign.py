"""Token merging traced the ordinary way: TensorRT-RTX rejects the file, `tofu-export lower` rewrites it, and it builds.

ToMe for a timm model with random weights is written by `torch.onnx.export` as it comes (`exports.py`), parsed by
TensorRT-RTX, lowered, compared with the original in onnxruntime, and built for SM89. No GPU is needed, nothing is run
on one.

Usage: `python benchmarks/foreign.py`, or with `--model vit_small --r 8 --keep FOLDER`. ViT-B takes 3 GB of memory.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import onnx
from command import tofu_export
from exports import export_ordinary_tome

from tofu_export.engines.flavours import RTX, load
from tofu_export.zoo.create import create_model
from tofu_export.zoo.specs import spec_of
from tofu_export.zoo.weights import WeightsSource

CAPABILITY = "SM89"
MOST = 1e-4
"""Largest difference of a logit that is allowed."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Do all of it and print a Markdown table; 1 if anything is not as the first line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vit_base", help="name of a timm model")
    parser.add_argument("--r", type=int, default=16, help="tokens to remove per layer")
    parser.add_argument("--keep", type=Path, help="folder for the files, which otherwise go")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="tofu-export-foreign-") as scratch:
        folder = options.keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        return _run(options.model, options.r, folder)


def _run(name: str, r: int, folder: Path) -> int:
    theirs, ours, plan = folder / "theirs.onnx", folder / "ours.onnx", folder / "ours.engine"
    model = create_model(name, weights=WeightsSource.parse("random")).model
    export_ordinary_tome(model, spec_of(name), name, r, theirs)
    del model
    _row("step", "result")
    _row("---", "---")
    _row(
        f"ToMe, {name}, r = {r}, by `torch.onnx.export`", f"{theirs.stat().st_size / 1e6:.0f} MB, {_reductions(theirs)}"
    )
    reason = _rejection(theirs)
    _row("TensorRT-RTX parses it", "yes" if reason is None else f"no: {reason}")
    start = time.perf_counter()
    error, out = tofu_export("lower", str(theirs), "-o", str(ours), "--target", RTX.name, "--json", "-q")
    if error is not None:
        _row("`tofu-export lower`", f"**failed**: {error}")
        return 1
    lowered = json.loads(out)
    rewritten = ", ".join(
        f"{count} {kind}" for kind, count in Counter(e["op_type"] for e in lowered["rewritten"]).items()
    )
    _row(
        "`tofu-export lower`",
        f"{time.perf_counter() - start:.0f} s, rewritten: {rewritten}, left: {len(lowered['left'])}",
    )
    worst = lowered["max_abs"]
    same = worst is not None and worst <= MOST
    batches = ", ".join(map(str, lowered["batches"]))
    _row(
        f"largest difference of a logit from the original, onnxruntime, batch {batches}",
        f"{worst:.1e}" if same else f"**{worst}**",
    )
    error, out = tofu_export(
        "build", str(ours), "--flavour", RTX.name, "-o", str(plan), "--compute-capability", CAPABILITY, "--json", "-q"
    )
    if error is not None:
        _row("TensorRT-RTX builds it", f"**no**: {error}")
        return 1
    (receipt,) = json.loads(out)["engines"]
    megabytes = plan.stat().st_size / 1e6
    built = f"yes: {receipt['build_seconds']:.0f} s, {megabytes:.0f} MB, {receipt['kernels']['kernels']} kernels"
    _row(f"TensorRT-RTX builds it for {CAPABILITY}", built)
    return int(reason is None or not same)


def _reductions(path: Path) -> str:
    """Its nodes, and its scatters with a reduction."""
    nodes = onnx.load(path, load_external_data=False).graph.node
    found = Counter(
        f"{node.op_type} with {attribute.s.decode()!r}"
        for node in nodes
        for attribute in node.attribute
        if attribute.name == "reduction" and attribute.s != b"none"
    )
    return ", ".join([f"{len(nodes)} nodes", *(f"{count} {kind}" for kind, count in found.items())])


def _rejection(path: Path) -> str | None:
    """What TensorRT-RTX's own parser says of a file that it refuses, None if it takes it."""
    trt = load(RTX)
    logger = trt.Logger(trt.Logger.INTERNAL_ERROR)
    network = trt.Builder(logger).create_network(0)
    parser = trt.OnnxParser(network, logger)
    if parser.parse_from_file(str(path)):
        return None
    words = parser.get_error(0).desc()
    return re.sub(r"\s+", " ", words).strip()


def _row(*cells: str) -> None:
    print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    sys.exit(main())
