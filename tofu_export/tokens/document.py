"""Token maps as one JSON document, which holds the images too: what `tokens --json` prints and `report` reads."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tofu_export.compare.groups import PRUNED
from tofu_export.tokens.source import TokenRun, TokenSource

__all__ = ["KIND", "SCHEMA_VERSION", "token_document"]

SCHEMA_VERSION = 1
KIND = "tokens"


def token_document(
    file: TokenSource, run: TokenRun, names: Sequence[str], pictures: NDArray[np.uint8], labels: Sequence[str] = ()
) -> dict[str, Any]:
    """Groups of every image after every layer.

    Args:
        file: what was run.
        run: what it decided.
        names: what each image is called.
        pictures: the images as the model sees them, uint8 [B, H, W, 3].
        labels: how captions call the images, if not by their names.
    """
    rows, columns = file.grid
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": KIND,
        "file": file.path.name,
        "model": file.model,
        "backend": run.backend,
        "output": run.output,
        "grid": [rows, columns],
        "prefix_tokens": file.prefix,
        "tokens": file.tokens,
        "pattern": file.pattern,
        "notes": list(run.notes),
        "images": [
            {
                "name": name,
                "png": base64.b64encode(_png(picture)).decode("ascii"),
                "states": [_state(state.step, state.groups[index], file.prefix) for state in run.states],
            }
            for index, (name, picture) in enumerate(zip(labels or names, pictures, strict=True))
        ],
    }


def _state(step: Any, groups: NDArray[np.int64], prefix: int) -> dict[str, Any]:
    patches = groups[prefix:]
    kept = patches[patches != PRUNED]
    sizes = np.bincount(kept, minlength=1)
    return {
        "layer": step.layer,
        "method": step.method,
        "tokens": step.tokens_out,
        "pruned": int((patches == PRUNED).sum()),
        "merged": int(sizes[sizes > 1].sum()),
        "alone": int((sizes == 1).sum()),
        "groups": groups.tolist(),
    }


def _png(picture: NDArray[np.uint8]) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "PNG", optimize=True)
    return stream.getvalue()
