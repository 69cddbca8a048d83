"""Read JSON files of unknown origin: with a size limit, and with one-sentence errors."""

from __future__ import annotations

import json
from pathlib import Path

from tofu_export.errors import OptionError

__all__ = ["read_json"]


def read_json(path: Path, expected: str, *, most_bytes: int) -> object:
    """Read the content of a JSON file.

    Args:
        path: the file.
        expected: what the file should be, with its article, and where to get one; ends the messages.
        most_bytes: size limit in bytes.

    Raises:
        OptionError: the file cannot be read, is too large, or is not JSON.
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
