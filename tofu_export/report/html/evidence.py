"""Evidence for the report that other commands wrote: evaluations, sweeps, analyses, tunings, token maps."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tofu_export.errors import OptionError

__all__ = ["BESIDE", "Evidence", "read_document", "read_evidence"]

BESIDE = ("tokens.json", "eval.json", "sweep.json", "linearity.json", "tune.json")
"""Names under which evidence that lies beside a report is found."""

SCHEMA_VERSION = 1
_COMMANDS = "eval, sweep, analyze, tune or tokens"
_LARGEST_BYTES = 200_000_000


@dataclass(frozen=True)
class Evidence:
    """What there is besides the report; the last one given of each kind, and of each that was evaluated.

    Attributes:
        sweep: document of `tofu-export sweep`.
        analysis: document of `tofu-export analyze`.
        tokens: document of `tofu-export tokens`.
        tuning: document of `tofu-export tune`.
        evaluations: documents of `tofu-export eval`, one for each model or file, plan and set of images.
        names: kind and file of each.
    """

    sweep: Mapping[str, Any] | None = None
    analysis: Mapping[str, Any] | None = None
    tokens: Mapping[str, Any] | None = None
    tuning: Mapping[str, Any] | None = None
    evaluations: tuple[Mapping[str, Any], ...] = ()
    names: tuple[tuple[str, str], ...] = ()


def read_evidence(paths: Iterable[Path]) -> Evidence:
    """Read evidence, later files in place of earlier ones of their kind; evaluations of different things add up.

    Raises:
        OptionError: a file cannot be read, is of another version, or is none of the kinds that a report shows.
    """
    found = Evidence()
    for path in paths:
        document = read_document(path, f"evidence of tofu-export {_COMMANDS}")
        kind = _kind(document)
        if kind is None:
            raise OptionError(
                f"{path} is not evidence for a report: expected JSON of tofu-export {_COMMANDS}{_hint(document)}"
            )
        found = replace(found, names=(*found.names, (kind, path.name)))
        if kind == "evaluation":
            others = tuple(one for one in found.evaluations if _judged(one) != _judged(document))
            found = replace(found, evaluations=(*others, document))
        else:
            single: dict[str, Any] = {kind: document}
            found = replace(found, **single)
    return found


def _judged(document: Mapping[str, Any]) -> tuple[Any, ...]:
    """What an evaluation is of: model or file, what ran it, plan and images."""
    plan = document.get("plan") or {}
    return tuple(document.get(key) for key in ("model", "backend", "source", "labels")) + tuple(
        str(plan.get(key)) for key in ("r", "pattern")
    )


def _hint(document: Mapping[str, Any]) -> str:
    """What to do about a file that is nearly evidence."""
    made = document.get("provenance")
    if isinstance(made, Mapping) and made.get("made_by") == "tune":
        return ". This is the plan that tune wrote: give the same command again with --json, and add what it prints"
    return ""


def read_document(path: Path, expected: str) -> dict[str, Any]:
    """The JSON object in `path`.

    Raises:
        OptionError: it cannot be read, holds something else, or is of another version.
    """
    try:
        if path.stat().st_size > _LARGEST_BYTES:
            raise OptionError(f"{path} has over {_LARGEST_BYTES / 1e6:.0f} MB, expected {expected}")
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise OptionError(f"{path} cannot be read ({error.strerror or error}), expected {expected}") from error
    except (ValueError, RecursionError) as error:
        if isinstance(error, OptionError):
            raise
        raise OptionError(f"{path} is not JSON, expected {expected}") from error
    version = document.get("schema_version") if isinstance(document, dict) else None
    if version is None:
        raise OptionError(f"{path} is not {expected}: it says no schema_version")
    if version != SCHEMA_VERSION:
        raise OptionError(
            f"{path} has schema_version {version!r}, expected {SCHEMA_VERSION}: {expected}, written by this version"
        )
    return dict(document)


def _kind(document: Mapping[str, Any]) -> str | None:
    """Which attribute of `Evidence` a document is; analyses of before they said so are known by what they hold."""
    kind = document.get("kind")
    if kind == "sweep" and isinstance(document.get("rows"), list):
        return "sweep"
    if kind == "eval" and isinstance(document.get("images"), int):
        return "evaluation"
    if kind == "tune" and isinstance(document.get("history"), list):
        return "tuning"
    if kind == "tokens" and isinstance(document.get("images"), list):
        return "tokens"
    layers = document.get("layers")
    if kind in (None, "analyze") and isinstance(layers, list) and any(
        isinstance(row, dict) and ("mlp" in row or "attention" in row) for row in layers
    ):  # fmt: skip
        return "analysis"
    return None
