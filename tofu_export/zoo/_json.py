"""Read JSON files that lie beside a checkpoint."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tofu_export.errors import WeightsError

__all__ = ["read_object"]


def read_object(path: Path) -> Mapping[str, Any] | None:
    """Return the object in a JSON file; None without the file, or if it holds another value.

    Raises:
        WeightsError: the file is not JSON, so that what it says about the weights is lost.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError:
        return None
    except (ValueError, RecursionError) as error:
        raise WeightsError(
            f"{path} is not JSON ({error}), and may describe the weights beside it: copy it again, or move it away"
        ) from error
    return values if isinstance(values, Mapping) else None
