"""Read JSON that somebody else may have written or cut: never more than it can be, and refused in one sentence."""

from __future__ import annotations

import json
from pathlib import Path

from tofu_export.errors import OptionError

__all__ = ["read_json"]


def read_json(path: Path, expected: str, *, most_bytes: int) -> object:
    """What a file holds.

    Args:
        path: the file.
        expected: what it should be, with its article, and where to get one; ends the messages.
        most_bytes: a larger file is not read.

    Raises:
        OptionError: it cannot be read, is too large, or is not JSON.
    """
    try:
        size = path.stat().st_size
        text = "" if size > most_bytes else path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror or error if isinstance(error, OSError) else error
        raise OptionError(f"{path} cannot be read ({reason}), expected {expected}") from error
    if size > most_bytes:
        raise OptionError(f"{path} has {size / 1e6:,.0f} MB, more than any has, expected {expected}")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise OptionError(f"{path} is not JSON ({error}), expected {expected}") from error
