"""Hold the ranges in an FP8 file of this project against those that NVIDIA's Model-Optimizer finds on the same images.

    python benchmarks/modelopt_scales.py FILE.onnx --weights WEIGHTS --images DIR

Needs nvidia-modelopt (tried with 0.47), which has pins of its own: install it in an environment apart. Its default
recipe for FP8 takes the largest value of every input and weight of a linear layer, as this project does. Inputs behind
a norm are smoothed here and not there, so only those of `attn.proj` and `mlp.fc2` are compared, and their weights.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

import numpy as np
import torch

from tofu_export.graph_patterns.quantized.check import scaled_steps
from tofu_export.images.inputs import from_folder
from tofu_export.trace.quantize import RANGES, open_graph
from tofu_export.verification.facts import FileFacts
from tofu_export.verification.rebuild import rebuild
from tofu_export.zoo.weights import WeightsSource

__all__ = ["main"]

COMPARED = ("attn.proj", "mlp.fc2")


def main(argv: Sequence[str] | None = None) -> int:
    """Print, for each kind of layer, this file's ranges over those of Model-Optimizer."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("file", type=Path, help="ONNX file in fp8")
    parser.add_argument("--weights", required=True, help="what the file was made with")
    parser.add_argument("--images", type=Path, required=True, help="what the file was calibrated on")
    parser.add_argument("--skip", type=int, default=0, help="images at the beginning that did not calibrate")
    args = parser.parse_args(argv)

    facts = FileFacts.read(args.file)
    model = rebuild(facts, weights=WeightsSource.parse(args.weights)).model
    preprocessing = facts.card.preprocessing
    assert preprocessing is not None  # every file of this project says it
    pixels = torch.from_numpy(from_folder(args.images, preprocessing).pixels[args.skip :])

    def calibrate(module: torch.nn.Module) -> None:
        with torch.no_grad():
            for batch in torch.split(pixels, 8):
                module(batch)

    mtq = import_module("modelopt.torch.quantization")
    mtq.quantize(model, mtq.FP8_DEFAULT_CFG, calibrate)
    theirs = dict(model.named_modules())
    ranges = facts.card.part(RANGES, dict)
    ratios: dict[tuple[str, str], list[float]] = defaultdict(list)
    for node in open_graph(args.file).graph:
        layer = str(node.name).rpartition("/")[0]
        kind = next((kind for kind in COMPARED if layer.endswith(kind)), None)
        if node.op_type != "MatMul" or kind is None:
            continue
        weight = scaled_steps(node)
        assert weight is not None  # a product of an fp8 file
        ratios[kind, "input"].append(ranges[str(node.name)] / float(theirs[f"{layer}.input_quantizer"].amax))
        ratios[kind, "weight"].append(float(np.abs(weight).max() / float(theirs[f"{layer}.weight_quantizer"].amax)))
    print("| layer | range of its | products | ratio: smallest, median, largest |\n|---|---|---|---|")
    for (kind, what), found in ratios.items():
        print(f"| {kind} | {what} | {len(found)} | {min(found):.4f}, {np.median(found):.4f}, {max(found):.4f} |")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
