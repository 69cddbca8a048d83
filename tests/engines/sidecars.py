"""Sidecars for files that stand in for engines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tofu_export.artifact.external import sha256_of_model
from tofu_export.engines.describing.sidecar import SCHEMA_VERSION, sidecar_path
from tofu_export.system.files import sha256_of


def facts_of(engine: Path, built_from: Path | None = None, /, **changes: Any) -> dict[str, Any]:
    """What the sidecar of `engine` says, as far as it is read; the ONNX file need not exist."""
    onnx = built_from or engine.with_name("model.onnx")
    return {
        "schema_version": SCHEMA_VERSION,
        "flavour": "tensorrt-rtx",
        "version": "1.7.1",
        "compute_capabilities": ["SM80", "SM89"],
        "gpu": None,
        "precision": "fp32",
        "profiles": {},
        "options": {},
        "engine": {"file": engine.name, "bytes": engine.stat().st_size, "sha256": sha256_of(engine)},
        "onnx": {"file": onnx.name, "sha256": sha256_of_model(onnx) if onnx.is_file() else "0" * 64},
        "source": {},
        **changes,
    }


def write(engine: Path, built_from: Path | None = None, /, **changes: Any) -> Path:
    """Write the sidecar of `engine`, with these facts changed, and return where it is."""
    path = sidecar_path(engine)
    path.write_text(json.dumps(facts_of(engine, built_from, **changes)), encoding="utf-8")
    return path
