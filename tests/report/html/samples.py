"""A report and its evidence, as the commands write them, small and made up."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tofu_export.report.html import Evidence


def report(**changes: Any) -> dict[str, Any]:
    """As an early version wrote it: without what came later."""
    layers = [
        {"layer": 0, "method": "prune", "tokens_in": 10, "removed": 2, "tokens_out": 8},
        {"layer": 1, "method": "mlerp", "tokens_in": 8, "removed": 2, "tokens_out": 6},
        {"layer": 2, "method": "mlerp", "tokens_in": 6, "removed": 0, "tokens_out": 6},
    ]
    speed = {
        "backend": "ort-cpu", "device": "a CPU", "batch": 8, "images_per_sec": 100.0, "iterations": 50, "notes": [],
        "latency_ms": {"min": 8.0, "max": 16.0, "mean": 10.5, "median": 10.0, "p90": 13.0, "p95": 14.0, "p99": 15.0},
        "throughput_qps": 12.5, "enqueue_ms": None, "h2d_ms": None, "gpu_compute_ms": None, "d2h_ms": None,
        "walltime_s": 4.0, "cv_percent": 1.0,
    }  # fmt: skip
    document = {
        "schema_version": 1,
        "model": {
            "name": "m", "resolved": "tiny_vit", "weights": {"kind": "random", "sha256": None}, "params": 600_000,
            "image_size": [6, 6], "tokens": 10, "prefix_tokens": 1, "depth": 3, "num_classes": 5,
            "preprocessing": {"mean": [0.5] * 3, "std": [0.25] * 3, "input_size": [3, 6, 6]},
        },
        "plan": {
            "r": 2, "pattern": "PMM", "asked": {"r": 2}, "restore_grid": False, "layers": layers,
            "prop_attn": True, "prop_attn_reason": "default", "pruned_sizes": "take-over",
            "gmacs": {"full": 2.0, "reduced": 1.0},
        },
        "output": {"kind": "logits", "names": ["logits"], "shapes": {"logits": ["batch", 5]}},
        "command": "tofu-export tiny_vit --r 2",
        "environment": {"versions": {"tofu_export": "0.1.0", "gone": None}, "cpu": "a CPU", "logical_cores": 2,
                        "gpu": None, "driver": None, "platform": "Linux"},
        "artifacts": [{
            "kind": "onnx", "precision": "fp32", "target": "portable", "path": "model.fp32.onnx", "bytes": 1_000_000,
            "sha256": "ab" * 32, "nodes": 12,
        }],
        "verification": [{
            "artifact": "model.fp32.onnx", "batches": [1, 3], "images": 4, "inputs": "noise", "max_abs": 1e-6,
            "cosine_min": 0.9999999, "top1_agreement": 1.0, "finite": True, "images_with_flips": 1, "passed": True,
            "decisions": {
                "layers": 2, "compared": 1234, "flips": 1, "near_tie_flips": 1, "wrong": 0,
                "largest_margin": 1e-6, "faults": [],
            },
            "notes": [],
            "tolerance": {
                "name": "fp32", "max_abs": 1e-4, "cosine_min": 0.99999, "near_tie": 2e-5, "reason": "rounding",
            },
        }],
        "accuracy": [],
        "benchmark": [
            {**speed, "artifact": "full", "speedup_vs_full": 1.0, "speedup_iqr": [1.0, 1.0]},
            {**speed, "artifact": "model.fp32.onnx", "speedup_vs_full": 1.75, "speedup_iqr": [1.5, 1.9]},
        ],
        "skipped": [{"step": "engines", "reason": "there is no TensorRT"}],
        "timings_s": {"total": 12.0},
    }  # fmt: skip
    return {**document, **changes}


def sweep() -> dict[str, Any]:
    rows = [
        {"model": "tiny_vit", "r": r, "mode": mode, "pattern": "PMM", "precision": "fp32", "batch": 8, "gmacs": gmacs,
         "gmacs_full": 2.0, "images": 4,
         "verified": mode != "prune", "images_per_sec": 100 / gmacs, "speedup_vs_full": 2 / gmacs,
         "agreement": quality, "top1": None, "pareto": quality > 0.9}
        for r, mode, gmacs, quality in (
            (0, "full", 2.0, 1.0), (2, "mlerp", 1.0, 0.97), (2, "prune", 1.0, 0.85), (3, "mlerp", 0.7, 0.92))
    ]  # fmt: skip
    failure = {"model": "other_vit", "what": "all", "reason": "it is not supported"}
    return {
        "schema_version": 1,
        "kind": "sweep",
        "rows": rows,
        "failures": [failure],
        "images": [],
        "environment": report()["environment"],
    }


def analysis() -> dict[str, Any]:
    def mean(value: float) -> dict[str, float]:
        return {"n": 8, "undefined": 0, "mean": value, "std": 0.01, "q1": value, "median": value, "q3": value}

    layers = [
        {"layer": layer, "similarity": mean(0.9), "mlp": mean(0.95 + layer / 100), "attention": mean(0.9),
         "merged_norm": {"average": mean(0.93), "mlerp": mean(1.0)}}
        for layer in range(3)
    ]  # fmt: skip
    norms = {
        "full": [mean(20.0)] * 3,
        "prune": [1.0, None, 0.97],
        "average": [0.98, 0.96, 0.95],
        "mlerp": [1.0, 0.99, 0.98],
    }
    return {"schema_version": 1, "model": "tiny_vit", "images": 4, "source": "photos", "r": 2, "steps": 10,
            "layers": layers, "token_norms": norms}  # fmt: skip


def tokens(name: str = "photo.jpg") -> dict[str, Any]:
    stream = io.BytesIO()
    Image.fromarray(np.arange(108, dtype=np.uint8).reshape(6, 6, 3)).save(stream, "PNG")
    states = [
        {"layer": 0, "method": "prune", "tokens": 8, "groups": [0, 4, -1, 5, 1, 6, -1, 7, 2, 3]},
        {"layer": 1, "method": "mlerp", "tokens": 6, "groups": [0, 3, -1, 4, 3, 5, -1, 4, 1, 2]},
    ]
    image = {"name": name, "png": base64.b64encode(stream.getvalue()).decode(), "states": states}
    return {"schema_version": 1, "kind": "tokens", "file": "model.fp32.onnx", "model": "tiny_vit", "pattern": "PMM",
            "backend": "ort-cpu", "grid": [3, 3], "prefix_tokens": 1, "tokens": 10, "notes": ["the end is left out"],
            "images": [image]}  # fmt: skip


def evaluation(**changes: Any) -> dict[str, Any]:
    full = {"top1": 98.0, "top1_err": 2.0, "top5": 100.0, "top5_err": 0.0, "counted": 200,
            "top1_interval": [94.97, 99.22], "top5_interval": [98.12, 100.0]}  # fmt: skip
    score = {**full, "top1": 96.5, "top1_err": 3.5, "top1_interval": [92.95, 98.29]}
    agreement = {"images": 200, "top1_agreement": 0.975, "kl_mean": 0.01, "kl_max": 0.4, "logit_cosine_mean": 0.998,
                 "logit_cosine_min": 0.9, "feature_cosine_mean": None, "feature_cosine_min": None}  # fmt: skip
    document = {
        "model": "model.fp32.onnx", **score, "kind": "eval", "schema_version": 1, "resolved": "tiny_vit",
        "backend": "ort-cpu", "images": 200, "source": "photos", "labels": "folders", "full": full,
        "difference": {"top1": -1.5, "low": -3.6, "high": 0.6, "p_value": 0.25}, "agreement": agreement,
        "plan": {"r": 2, "pattern": "PMM"}, "notes": [], "skipped": [],
    }  # fmt: skip
    return {**document, **changes}


def tuning(**changes: Any) -> dict[str, Any]:
    def plan(pattern: str, *removed: int) -> dict[str, Any]:
        names = {"P": "prune", "M": "mlerp", "-": "none"}
        layers, tokens = [], 10
        for layer, (letter, amount) in enumerate(zip(pattern, removed, strict=True)):
            layers.append({"layer": layer, "method": names[letter], "tokens_in": tokens, "removed": amount,
                           "tokens_out": tokens - amount})  # fmt: skip
            tokens -= amount
        return {"pattern": pattern, "r": list(removed), "layers": layers, "gmacs": {"full": 2.0, "reduced": 1.0}}

    plans = (("PM-", 2, 2, 0), ("PPM", 1, 1, 2), ("MM-", 3, 1, 0))
    history = [{"pattern": row[0], "r": list(row[1:]), "loss": loss, "gmacs": 1.0}
               for row, loss in zip(plans, (0.02, 0.05, 0.004), strict=True)]  # fmt: skip
    held_out = {"images": 80, "top1_agreement": 0.98, "kl_mean": 0.02, "kl_max": 0.1, "logit_cosine_mean": 0.99,
                "logit_cosine_min": 0.9, "feature_cosine_mean": 0.97, "feature_cosine_min": 0.9}  # fmt: skip
    document = {
        "schema_version": 1, "kind": "tune", "model": "tiny_vit", "plan": plan(*plans[2]), "baseline": plan(*plans[0]),
        "objective": "kl", "budget": {"speedup": 2.0}, "source": "photos", "seed": 0, "evaluations": 3,
        "images": {"calibration": 80, "validation": 40, "held_out": 80}, "history": history,
        "losses": {part: {"chosen": 0.004, "baseline": 0.02} for part in ("calibration", "validation", "held_out")},
        "held_out": {"chosen": held_out, "baseline": {**held_out, "top1_agreement": 0.95}},
        "difference": {"mean": -0.016, "low": -0.02, "high": -0.01}, "verdict": "better", "latency_ms": None,
    }  # fmt: skip
    return {**document, **changes}


def evidence(*documents: dict[str, Any]) -> Evidence:
    """What is read where each document lies in a file."""
    found = Evidence()
    for document in documents:
        found = found.adding(document, Path("a.json"))
    return found
