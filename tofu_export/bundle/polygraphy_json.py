"""Write inputs and outputs in the JSON of Polygraphy's --load-inputs and --load-outputs, without Polygraphy.

Source: Polygraphy 0.49.24 to 0.53.6, `polygraphy/json/serde.py` and `polygraphy/comparator/struct.py`.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["inputs_json", "outputs_json"]

_CLASS = "polygraphy_class"


def inputs_json(feeds: Mapping[str, NDArray[Any]]) -> str:
    """Return one iteration of inputs, by name."""
    return json.dumps([{name: _array(value) for name, value in feeds.items()}])


def outputs_json(outputs: Mapping[str, NDArray[Any]], runner: str) -> str:
    """Return the outputs of one iteration, by name, as those of a runner of this name."""
    values = {name: {"values": _array(value), _CLASS: "LazyArray"} for name, value in outputs.items()}
    iteration = {"outputs": values, "runtime": None, "runner_name": runner, _CLASS: "IterationResult"}
    return json.dumps({"lst": [[runner, [iteration]]], _CLASS: "RunResults"})


def _array(value: NDArray[Any]) -> dict[str, str]:
    file = io.BytesIO()
    np.save(file, np.asarray(value, order="C"), allow_pickle=False)
    return {"array": base64.b64encode(file.getvalue()).decode("ascii"), _CLASS: "ndarray"}
