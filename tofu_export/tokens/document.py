"""Token maps as one JSON document with the images: printed by `tokens --json`, read by `report`."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tofu_export.compare.groups import PRUNED, Reducing
from tofu_export.report.token_maps import TokenDocument, TokenImage, TokenState
from tofu_export.tokens.source import TokenRun, TokenSource

__all__ = ["SCHEMA_VERSION", "token_document"]

SCHEMA_VERSION = 1


def token_document(
    file: TokenSource, run: TokenRun, names: Sequence[str], pictures: NDArray[np.uint8]
) -> TokenDocument:
    """Return the document with the groups of every image after every layer.

    Args:
        file: file that was run.
        run: its decisions.
        names: name of each image.
        pictures: images as the model sees them, uint8 [B, H, W, 3].
    """
    return TokenDocument(
        schema_version=SCHEMA_VERSION,
        kind="tokens",
        file=file.path.name,
        model=file.model,
        backend=run.backend,
        output=run.output,
        grid=file.grid,
        prefix_tokens=file.prefix,
        tokens=file.tokens,
        pattern=file.pattern,
        notes=run.notes,
        images=tuple(
            TokenImage(
                name,
                base64.b64encode(_png(picture)).decode("ascii"),
                tuple(_state(state.step, state.groups[index], file.prefix) for state in run.states),
            )
            for index, (name, picture) in enumerate(zip(names, pictures, strict=True))
        ),
    )


def _state(step: Reducing, groups: NDArray[np.int64], prefix: int) -> TokenState:
    patches = groups[prefix:]
    kept = patches[patches != PRUNED]
    sizes = np.bincount(kept, minlength=1)
    return TokenState(
        layer=step.layer,
        method=step.method,
        tokens=step.tokens_out,
        pruned=int((patches == PRUNED).sum()),
        merged=int(sizes[sizes > 1].sum()),
        alone=int((sizes == 1).sum()),
        groups=tuple(groups.tolist()),
    )


def _png(picture: NDArray[np.uint8]) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "PNG", optimize=True)
    return stream.getvalue()
