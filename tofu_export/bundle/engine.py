"""Bundle an engine that could not be built."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from tofu_export.bundle.readme import EngineFailure
from tofu_export.bundle.write import Failure, write_bundle
from tofu_export.errors import TofuError
from tofu_export.system.ort import open_session

__all__ = ["bundle_engine_failure"]

_logger = logging.getLogger(__name__)


def bundle_engine_failure(
    folder: Path,
    model: Path,
    failure: TofuError,
    report: Mapping[str, Any],
    engine: EngineFailure,
    feeds: Mapping[str, NDArray[Any]],
) -> TofuError:
    """Write a bundle, and return an error of the failure's class with a message about the bundle.

    Args:
        folder: a new or empty folder.
        model: the ONNX file that no engine could be built from.
        failure: the error that describes the failure.
        report: the document that is printed or written.
        engine: the engine that was to be built.
        feeds: inputs of one batch, by name; their outputs in onnxruntime are the reference, if it can run the model.

    Raises:
        OutputError: the folder cannot be written.
    """
    outputs: dict[str, NDArray[Any]] = {}
    try:
        session = open_session(model)
        cast = {name: value.astype(session.inputs[name].dtype) for name, value in feeds.items()}
        outputs = session.run(cast)
        feeds = cast
    except (TofuError, KeyError) as error:
        _logger.info("onnxruntime gives no reference for %s: %s", model.name, error)
    details = Failure(
        model, str(failure), report, feeds, outputs, outputs, allowed=1e-2, reference="onnxruntime", engine=engine
    )
    write_bundle(folder, details)
    return type(failure)(f"{failure}. {folder / 'README.md'} says how to look at it closer")
