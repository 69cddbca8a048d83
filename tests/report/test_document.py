"""report.md: what is said of quantised files and of engines."""

from __future__ import annotations

from typing import Any

from tofu_export.report.document import Report

ENTRY = {"precision": "fp8", "bytes": 2_000_000, "sha256": "0123456789abcdef"}
MODEL = {
    "resolved": "a_vit", "params": 5_000_000, "tokens": 17,
    "weights": {
        "kind": "random", "path": None, "format": None, "keys": [], "key": None,
        "set": [], "adapted": [], "dropped": [], "notes": [],
    },
    "preprocessing": {}, "preprocessing_from": {},
}  # fmt: skip
PLAN = {
    "gmacs": {"full": 2.0, "reduced": 1.0}, "pattern": "A", "r": [1], "asked": {"r": 1}, "restore_grid": False,
    "prop_attn": False, "layers": [],
}  # fmt: skip


def markdown(*artifacts: dict[str, Any]) -> str:
    report = Report(MODEL, PLAN, {"shapes": {"logits": ["batch", 5]}}, "tofu-export", {"versions": {}, "cpu": "a CPU"})
    report.artifacts += artifacts
    return report.to_markdown("")


def counted(in_file: int, in_engine: int) -> dict[str, Any]:
    return {"in_file": in_file, "in_engine": in_engine, "left": []}


def test_what_became_of_products_and_attention() -> None:
    fusions = {"quantized_products": counted(48, 47), "fused_attention": counted(12, 12)}
    text = markdown({**ENTRY, "path": "model.engine", "kernels": {"kernels": 194}, "fusions": fusions})
    assert "`model.engine`: 194 kernels, 47 of 48 products quantised, 12 of 12 attentions fused." in text
    fusions = {"quantized_products": counted(0, 0), "fused_attention": counted(12, 0)}
    text = markdown({**ENTRY, "path": "a.engine", "kernels": {"kernels": 213}, "fusions": fusions})
    assert "`a.engine`: 213 kernels, 0 of 12 attentions fused." in text
    assert "9 kernels" not in markdown({**ENTRY, "path": "b.engine", "kernels": {"kernels": 9}, "fusions": None})


def test_what_is_quantised_and_from_what() -> None:
    calibration = {"images": 32, "source": "seeded", "real": False, "method": "minmax", "products": 48, "left": 45}
    text = markdown({**ENTRY, "path": "a.onnx", "calibration": {**calibration, "numbers": "fp8", "rest": "fp16"}})
    assert "`a.onnx`: 48 products in fp8 and 45 in fp16; ranges (minmax) from 32 images, seeded, **which are" in text
    assert "48 products in int8 and 45 in fp32" in markdown({**ENTRY, "path": "old.onnx", "calibration": calibration})
