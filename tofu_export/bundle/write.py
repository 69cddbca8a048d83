"""Write a failure bundle: a folder that appears complete or not at all."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tofu_export.artifact.external import external_files
from tofu_export.artifact.onnx_file import load_without_weights
from tofu_export.bundle.polygraphy_json import inputs_json, outputs_json
from tofu_export.bundle.readme import MODEL, REFERENCE, BundleText, EngineFailure, blob_name
from tofu_export.errors import OptionError, OutputError
from tofu_export.system import environment
from tofu_export.system.files import flush_to_disk, staging
from tofu_export.system.typed_json import to_plain

__all__ = ["Failure", "check_folder", "write_bundle"]

Array = NDArray[Any]


@dataclass(frozen=True)
class Failure:
    """Failure of a file.

    Attributes:
        model: the file.
        error: message to the user.
        report: the document that the command prints or writes.
        feeds: inputs of one batch, by name.
        got: outputs of the file for them in onnxruntime, by name; empty if it did not run.
        expected: correct outputs, by the names in the file; also of inner values.
        allowed: largest difference that is allowed.
        reference: name of what the file was compared with.
        reference_file: that reference, if it is a file.
        engine: the engine that could not be built.
    """

    model: Path
    error: str
    report: Mapping[str, Any]
    feeds: Mapping[str, Array] = field(default_factory=dict)
    got: Mapping[str, Array] = field(default_factory=dict)
    expected: Mapping[str, Array] = field(default_factory=dict)
    allowed: float | None = None
    reference: str = "the eager model"
    reference_file: Path | None = None
    engine: EngineFailure | None = None


def check_folder(folder: Path) -> None:
    """Check that a bundle could be written to a folder, before any work is done.

    Raises:
        OptionError: the path is a file, or a folder that is not empty.
    """
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise OptionError(f"--bundle {folder} exists and is not a folder: give a new one")
    if folder.is_dir() and any(folder.iterdir()):
        raise OptionError(f"--bundle {folder} is not empty: give a new folder, which appears only if something fails")


def write_bundle(folder: Path, failure: Failure) -> None:
    """Write everything about a failure to `folder`, which must be new or empty.

    Raises:
        OptionError: the folder is not new.
        OutputError: the folder cannot be written.
        ExportError: the model cannot be read.
    """
    check_folder(folder)
    with staging(folder.absolute().parent) as stage:
        draft = stage.path(folder.name)
        draft.mkdir()
        _copy_model(failure.model, draft / MODEL)
        if failure.reference_file is not None:
            _copy_model(failure.reference_file, draft / REFERENCE)
        _write_arrays(draft, failure)
        here = environment.collect()
        for name, document in (("report.json", failure.report), ("environment.json", to_plain(here))):
            (draft / name).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
        text = BundleText(
            file=failure.model.name,
            error=failure.error,
            feeds=failure.feeds,
            outputs=tuple(failure.got),
            expected=tuple(failure.expected),
            agree=_agree(failure),
            allowed=failure.allowed,
            reference=failure.reference,
            has_reference_file=failure.reference_file is not None,
            engine=failure.engine,
            versions=here.versions,
            command=str(failure.report.get("command", "")),
        )
        (draft / "README.md").write_text(text.markdown(), encoding="utf-8")
        for path in draft.iterdir():
            flush_to_disk(path)
        if folder.is_dir():
            folder.rmdir()  # empty, else a rename onto it would be refused on some systems
        stage.publish(folder.name)


def _copy_model(source: Path, destination: Path) -> None:
    """Copy a file and its external weights, which keep their names."""
    proto = load_without_weights(source)
    shutil.copyfile(source, destination)
    for name in sorted(external_files(proto) - {source.name}):
        data = source.parent / name
        if Path(name).name != name or data.is_symlink():
            raise OutputError(f"{source.name} keeps weights in {name!r}, outside of its folder: they are not copied")
        target = destination.with_name(name)
        if target.exists():
            raise OutputError(f"two files keep weights in {name!r}: a bundle cannot hold both")
        shutil.copyfile(data, target)


def _write_arrays(draft: Path, failure: Failure) -> None:
    for name, arrays in (("inputs", failure.feeds), ("outputs", failure.got), ("expected", failure.expected)):
        if arrays:
            _write_npz(draft / f"{name}.npz", arrays)
    if failure.feeds:
        (draft / "inputs.json").write_text(inputs_json(failure.feeds), encoding="ascii")
        for index, value in enumerate(failure.feeds.values()):
            (draft / blob_name(index)).write_bytes(np.ascontiguousarray(value).tobytes())
    if failure.expected:
        (draft / "expected.json").write_text(outputs_json(failure.expected, failure.reference), encoding="ascii")


def _write_npz(path: Path, arrays: Mapping[str, Array]) -> None:
    """Write arrays as numpy.savez does, which takes no array named `file`."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, value in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, np.asarray(value), allow_pickle=False)


def _agree(failure: Failure) -> bool:
    """True if the outputs of this batch are correct."""
    if failure.allowed is None or not failure.got:
        return False
    for name, value in failure.got.items():
        right = failure.expected[name]
        if value.shape != right.shape or not np.isfinite(value).all():
            return False
        if np.abs(value.astype(np.float64) - right.astype(np.float64)).max(initial=0.0) > failure.allowed:
            return False
    return True
