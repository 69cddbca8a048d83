"""Records in report.json of a Vision Transformer: weights, sizes, preprocessing, and outputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tofu_export.artifact.preprocessing import Preprocessing
from tofu_export.errors import some_of
from tofu_export.system.typed_json import optional

__all__ = ["LIVE", "LoadedWeights", "ModelEntry", "OutputEntry", "loading_words"]

LIVE = "live"
"""Kind of the weights of a model that a Python program held."""
_SHOWN = 6


@dataclass(frozen=True)
class LoadedWeights:
    """Loaded weights, as in report.json (`model.weights`) and the metadata of files.

    Attributes:
        kind: pretrained, random, path or live (`LIVE`).
        path: name of the file.
        sha256: hash of the file.
        seed: seed of random weights.
        tag: timm's pretrained tag.
        url: where pretrained weights were published.
        format: timm, open_clip, jax, or transformers and the family.
        key: key of the model among several in the file; empty if it holds one.
        keys: keys of all models in the file.
        set: settings of the model changed to those of the file, for example `pooling avg -> token`.
        adapted: tensors that were resampled or reshaped to fit.
        dropped: tensors that the model has no place for.
        allow_dropped: trained tensors were allowed to be dropped.
        notes: assumptions about what the file does not state.
    """

    kind: str
    path: str | None = None
    sha256: str | None = None
    seed: int | None = None
    tag: str | None = None
    url: str | None = None
    format: str | None = None
    key: str | None = None
    keys: tuple[str, ...] = ()
    set: tuple[str, ...] = ()
    adapted: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    allow_dropped: bool = False
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class ModelEntry:
    """Model of a report.

    Attributes:
        name: name given by the user.
        resolved: resolved name, with the pretrained tag if one was given; none for a live model.
        weights: loaded weights.
        params: number of parameters.
        image_size: height and width in pixels.
        tokens: tokens that enter the first block, prefix included.
        prefix_tokens: protected tokens at the front.
        depth: number of blocks.
        num_classes: width of the classifier, 0 without one.
        preprocessing: how images are prepared.
        preprocessing_from: source of each entry but the size; None in reports of early versions.
    """

    name: str
    resolved: str
    weights: LoadedWeights
    params: int
    image_size: tuple[int, int]
    tokens: int
    prefix_tokens: int
    depth: int
    num_classes: int
    preprocessing: Preprocessing
    preprocessing_from: Mapping[str, str] | None = optional()

    @property
    def loading_words(self) -> str:
        """Description of the loaded weights, in one line."""
        return loading_words(self.weights, self.preprocessing, self.preprocessing_from or {})


@dataclass(frozen=True)
class OutputEntry:
    """Outputs of the files of a job.

    Attributes:
        kind: an `OutputKind`, or `noise`.
        names: names of the outputs.
        shapes: shape of each output; a dynamic size is a word. Empty until the first file was traced.
        inputs: shapes of the inputs, if there are several.
    """

    kind: str
    names: tuple[str, ...]
    shapes: Mapping[str, tuple[int | str, ...]]
    inputs: Mapping[str, tuple[int | str, ...]] | None = optional()

    @property
    def words(self) -> str:
        """Names and shapes, for example `logits [batch, 1000]`."""
        return ", ".join(f"{name} [{', '.join(map(str, shape))}]" for name, shape in self.shapes.items())


def loading_words(weights: LoadedWeights, preprocessing: Preprocessing, said_by: Mapping[str, str]) -> str:
    """Describe in one line what was loaded: format, key, settings, adapted or dropped tensors, and preprocessing.

    Args:
        weights: the loaded weights.
        preprocessing: how images are prepared.
        said_by: source of each preprocessing entry.
    """
    name = weights.path or ("those of the live model" if weights.kind == LIVE else weights.kind)
    parts = [f"{name} ({weights.format})" if weights.format else name]
    if weights.keys:
        parts.append(f"{weights.key} of {', '.join(weights.keys)} (--weights-key chooses)")
    changes = {"set": weights.set, "adapted": weights.adapted, "dropped": weights.dropped}
    parts += [*(f"{kind}: {some_of(items, _SHOWN)}" for kind, items in changes.items() if items), *weights.notes]
    by_source: dict[str, list[str]] = {}
    values = preprocessing.as_dict()
    for entry, where in said_by.items():
        by_source.setdefault(where, []).append(f"{entry} {_value(values[entry])}")
    parts += [f"{', '.join(values)} from {where}" for where, values in by_source.items()]
    return "; ".join(parts)


def _value(value: object) -> str:
    if isinstance(value, tuple):
        return "/".join(f"{number:.4g}" for number in value)
    return f"{value:g}" if isinstance(value, float) else str(value)
