"""Evidence from other commands for the report: evaluations, sweeps, analyses, tunings, token maps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from tofu_export.errors import OptionError
from tofu_export.report.evaluation import EvaluationDocument
from tofu_export.report.linearity import AnalysisDocument
from tofu_export.report.sweep import SweepDocument
from tofu_export.report.token_maps import TokenDocument
from tofu_export.report.tuning import TuningDocument
from tofu_export.system.json_file import read_json
from tofu_export.system.typed_json import JsonObject, from_plain

__all__ = ["BESIDE", "Evidence", "read_document", "read_evidence"]

BESIDE = ("tokens.json", "eval.json", "sweep.json", "linearity.json", "tune.json")
"""File names of evidence that is found beside a report."""

SCHEMA_VERSION = 1
_COMMANDS = "eval, sweep, analyze, tune or tokens"
_LARGEST_BYTES = 200_000_000


Document = SweepDocument | AnalysisDocument | TokenDocument | TuningDocument | EvaluationDocument

_KINDS: Mapping[object, type[Document]] = {
    "sweep": SweepDocument, "analyze": AnalysisDocument, "tokens": TokenDocument, "tune": TuningDocument,
    "eval": EvaluationDocument,
}  # fmt: skip
_NAMES: Mapping[type[Document], str] = {
    SweepDocument: "sweep", AnalysisDocument: "analysis", TokenDocument: "tokens", TuningDocument: "tuning",
    EvaluationDocument: "evaluation",
}  # fmt: skip


@dataclass(frozen=True)
class Evidence:
    """Evidence besides the report; the last of each kind, and of each evaluated subject.

    Attributes:
        sweep: document of `tofu-export sweep`.
        analysis: document of `tofu-export analyze`.
        tokens: document of `tofu-export tokens`.
        tuning: document of `tofu-export tune`.
        evaluations: documents of `tofu-export eval`, one for each model or file, plan and set of images.
        names: kind and file of each document.
    """

    sweep: SweepDocument | None = None
    analysis: AnalysisDocument | None = None
    tokens: TokenDocument | None = None
    tuning: TuningDocument | None = None
    evaluations: tuple[EvaluationDocument, ...] = ()
    names: tuple[tuple[str, str], ...] = ()

    def adding(self, document: Mapping[str, object], path: Path) -> Evidence:
        """Return the evidence with one more document, which was read from `path`.

        Raises:
            OptionError: the document is damaged, or of a kind that a report does not show.
        """
        kind = _kind(document)
        if kind is None:
            raise OptionError(
                f"{path} is not evidence for a report: expected JSON of tofu-export {_COMMANDS}{_hint(document)}"
            )
        read = from_plain(kind, document, f"{path}: ")
        named = replace(self, names=(*self.names, (_NAMES[kind], path.name)))
        if isinstance(read, SweepDocument):
            return replace(named, sweep=read)
        if isinstance(read, AnalysisDocument):
            return replace(named, analysis=read)
        if isinstance(read, TokenDocument):
            return replace(named, tokens=read)
        if isinstance(read, TuningDocument):
            return replace(named, tuning=read)
        others = tuple(one for one in self.evaluations if _judged(one) != _judged(read))
        return replace(named, evaluations=(*others, read))


def read_evidence(paths: Iterable[Path]) -> Evidence:
    """Read evidence; later files replace earlier ones of their kind, evaluations of different subjects accumulate.

    Raises:
        OptionError: a file cannot be read, has another version, is damaged, or is of a kind that a report does not
            show.
    """
    found = Evidence()
    for path in paths:
        found = found.adding(read_document(path, f"evidence of tofu-export {_COMMANDS}"), path)
    return found


def _judged(document: EvaluationDocument) -> tuple[object, ...]:
    """Return what identifies the subject of an evaluation: model or file, backend, plan and images."""
    return document.model, document.backend, document.source, document.labels, document.evaluated_plan


def _hint(document: Mapping[str, object]) -> str:
    """Return advice on a file that is similar to evidence."""
    made = document.get("provenance")
    if isinstance(made, Mapping) and made.get("made_by") == "tune":
        return ". This is the plan that tune wrote: give the same command again with --json, and add what it prints"
    return ""


def read_document(path: Path, expected: str) -> JsonObject:
    """Read the JSON object in a file.

    Raises:
        OptionError: the file cannot be read, holds something else, or has another version.
    """
    document = read_json(path, expected, most_bytes=_LARGEST_BYTES)
    version = document.get("schema_version") if isinstance(document, dict) else None
    if not isinstance(document, dict) or version is None:
        raise OptionError(f"{path} is not {expected}: it says no schema_version")
    if version != SCHEMA_VERSION:
        raise OptionError(
            f"{path} has schema_version {version!r}, expected {SCHEMA_VERSION}: {expected}, written by this version"
        )
    return document


def _kind(document: Mapping[str, object]) -> type[Document] | None:
    """Return the kind of a document; analyses, which do not state it, are recognised by their fields."""
    kind, layers = document.get("kind"), document.get("layers")
    if kind is not None:
        return _KINDS.get(kind)
    measured = isinstance(layers, list) and any(isinstance(row, dict) and "similarity" in row for row in layers)
    return AnalysisDocument if measured else None
