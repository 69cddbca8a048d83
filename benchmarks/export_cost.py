"""What an export costs: this project's, with lowering and verification, against a bare `torch.onnx.export`.

Both write a float32 file of the same model, in processes of their own that take turns. Time is counted from a model in
memory to a file on disk (verified, in ours), without imports. Memory is the largest resident set, and that less what
the process had after its imports, as a multiple of the weights.

Usage: `python benchmarks/export_cost.py --model vit_base --rounds 3`.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

BARE, OURS = "torch.onnx.export", "export, lower, verify"


def main() -> None:
    """Run both in turn and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vit_base")
    parser.add_argument("--r", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--child", choices=(BARE, OURS), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child is not None:
        print(json.dumps(_child(arguments.child, arguments.model, arguments.r)))
        return
    results: dict[str, list[dict[str, float]]] = {BARE: [], OURS: []}
    for _ in range(arguments.rounds):
        for who, found in results.items():
            command = [sys.executable, __file__, "--child", who, "--model", arguments.model, "--r", str(arguments.r)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found.append(json.loads(done.stdout.splitlines()[-1]))
    print("| what | seconds | against bare | peak MB | above imports, in weights |\n|---|---|---|---|---|")
    ratios = [ours["seconds"] / bare["seconds"] for bare, ours in zip(results[BARE], results[OURS], strict=True)]
    for who, found in results.items():
        seconds, peak, weights = (
            statistics.median(run[key] for run in found) for key in ("seconds", "peak_mb", "peak_in_weights")
        )
        ratio = "1.00x" if who == BARE else f"{statistics.median(ratios):.2f}x ({min(ratios):.2f}-{max(ratios):.2f})"
        print(f"| {who} | {seconds:.1f} | {ratio} | {peak:.0f} | {weights:.1f} |")


def _child(who: str, name: str, r: int) -> dict[str, float]:
    import torch  # noqa: F401  # imports are not part of the cost
    from exports import export_ordinary

    from tofu_export.zoo.create import create_model
    from tofu_export.zoo.specs import spec_of
    from tofu_export.zoo.weights import WeightsSource

    work = _ours(name, r) if who == OURS else None
    spec = spec_of(name)
    imported_mb = _peak_mb()
    model = create_model(name, weights=WeightsSource.parse("random")).model
    weights_mb = sum(value.numel() * value.element_size() for value in model.parameters()) / 1e6
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.onnx")
        start = time.perf_counter()
        if work is None:
            export_ordinary(model, spec, path)
        else:
            work(model, spec, path)
        seconds = time.perf_counter() - start
    peak = _peak_mb()
    return {"seconds": seconds, "peak_mb": peak, "peak_in_weights": (peak - imported_mb) / weights_mb}


def _ours(name: str, r: int) -> Callable[[Any, Any, Path], None]:
    from tofu_export import patch
    from tofu_export.artifact.preprocessing import Preprocessing
    from tofu_export.graph_patterns.lowering import lower
    from tofu_export.images.inputs import natural_statistics
    from tofu_export.options import BatchRange, Precision, Reduction, Target
    from tofu_export.planning.plan import make_plan
    from tofu_export.system.memory import give_back
    from tofu_export.trace.export import InputShape, release, save, trace
    from tofu_export.verification.eager import verify

    def work(model: Any, spec: Any, path: Path) -> None:
        patch.apply(model, make_plan(spec, Reduction(r=r)), name=name)
        graph = lower(trace(model, InputShape(spec.in_chans, *spec.image_size)), Target.PORTABLE, Precision.FP32)
        save(graph, path, {})
        release(graph)
        del graph
        give_back()
        images = natural_statistics(12, Preprocessing.uniform((spec.in_chans, *spec.image_size)), seed=0)
        result = verify(path, model, images.pixels, precision=Precision.FP32, batch=BatchRange(), source=images.source)
        assert result.passed, str(result)

    return work


def _peak_mb() -> float:
    """Largest resident set of this process so far (Linux counts in KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


if __name__ == "__main__":
    main()
