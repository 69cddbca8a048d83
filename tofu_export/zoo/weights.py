"""Sources of a model's weights, and loading them strictly.

There are three sources: the pretrained weights that timm names, seeded random ones, or a file. Loading returns a record
for the report. Importing this module loads neither torch nor timm.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, replace
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tofu_export.errors import OptionError, WeightsError
from tofu_export.options.declaration import Section, group, opt
from tofu_export.report.model import LoadedWeights
from tofu_export.zoo._folder import HUB_FILES, adapter_in, checkpoint_in, how_to_join
from tofu_export.zoo.names import DEMO_MODEL

if TYPE_CHECKING:
    from torch import nn

    from tofu_export.patch.predictors import PredictorShape
    from tofu_export.zoo._description import Description
    from tofu_export.zoo._source import Source

__all__ = [
    "PRETRAINED",
    "Located",
    "PretrainedFile",
    "WeightsKind",
    "WeightsSource",
    "fill",
    "load_weights",
    "locate_pretrained",
    "open_weights",
    "pretrained",
    "weights_unless",
]

_SUFFIXES: Final = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".tar", ".npz", ".index.json")

_WAYS_ON: Final = "Give a file with --weights PATH, or --weights random for untrained weights"


class WeightsKind(str, Enum):
    """Kind of weights source."""

    PRETRAINED = "pretrained"
    RANDOM = "random"
    PATH = "path"


@dataclass(frozen=True)
class WeightsSource:
    """Source of weights: `--weights pretrained|random|PATH`.

    Attributes:
        kind: one of the three kinds.
        path: the file, for `PATH` only.
        key: key of the model among several in the file; None for the one that is evaluated after training.
        allow_dropped: drop tensors that the model has no place for, also trained ones.

    Raises:
        OptionError: a path is given without the kind `PATH`, or that kind without a path.
    """

    kind: WeightsKind = opt(
        MISSING, "Where the weights come from.", Section.MODEL, flags=("--weights",), typed=str,
        metavar="pretrained|random|PATH", everyday=True,
    )  # fmt: skip
    path: Path | None = None
    key: str | None = opt(
        None, "Which of several models in the file, for example model_ema.", Section.MODEL, flags=("--weights-key",),
        metavar="KEY", unless="averaged weights",
    )  # fmt: skip
    allow_dropped: bool = opt(
        False, "Leave out trained tensors that the model has no place for.", Section.MODEL, flags=("--allow-dropped",)
    )

    def __post_init__(self) -> None:
        if (self.kind is WeightsKind.PATH) != (self.path is not None):
            raise OptionError(f"weights {self.kind.value!r} with path {self.path}: a path belongs to kind 'path' only")
        if self.key is not None and self.kind is WeightsKind.RANDOM:
            raise OptionError(f"weights key {self.key!r} chooses in a file, but the weights are random: leave it out")

    @classmethod
    def parse(cls, text: str, *, key: str | None = None, allow_dropped: bool = False) -> WeightsSource:
        """Read `pretrained`, `random` or a path (`./random` for a file of that name).

        A folder that peft wrote stands for the adapter in it.

        Args:
            text: the source.
            key: key of the model among several in the file.
            allow_dropped: drop tensors that the model has no place for.

        Raises:
            OptionError: the text is empty.
        """
        text = text.strip()
        if not text:
            raise OptionError("weights is empty, expected pretrained, random or the path of a checkpoint")
        if text.lower() in (WeightsKind.PRETRAINED.value, WeightsKind.RANDOM.value):
            return cls(WeightsKind(text.lower()), None, key, allow_dropped)
        path = Path(text).expanduser()
        return cls(WeightsKind.PATH, adapter_in(path) or path, key, allow_dropped)

    @classmethod
    def recorded(cls, recorded: Mapping[str, Any]) -> tuple[WeightsSource, int] | None:
        """Return the weights that a file was made with, and their seed; None if they cannot be obtained again.

        Args:
            recorded: the fields of `LoadedWeights`, as in the metadata of a file.
        """
        kind, seed = recorded.get("kind"), recorded.get("seed")
        if kind == WeightsKind.RANDOM.value and isinstance(seed, int) and 0 <= seed < 2**63:
            return cls(WeightsKind.RANDOM), seed
        return (cls(WeightsKind.PRETRAINED), 0) if kind == WeightsKind.PRETRAINED.value else None

    def like(self, recorded: Mapping[str, Any]) -> WeightsSource:
        """Return this source with the recorded choices: key among several models, and permission to drop tensors.

        Args:
            recorded: the fields of `LoadedWeights`, as in the metadata of a file.
        """
        if self.kind is not WeightsKind.PATH:
            return self
        key = recorded.get("key") if recorded.get("keys") else None
        allowed = self.allow_dropped or recorded.get("allow_dropped") is True
        return replace(self, key=self.key or (key if isinstance(key, str) else None), allow_dropped=allowed)

    def check(self) -> None:
        """Check that the file exists, before any work is done.

        Raises:
            OptionError: the file does not exist, is a folder, or has an unknown suffix.
        """
        if self.path is None:
            return
        if self.path.is_dir():
            inside = checkpoint_in(self.path)
            hint = f"--weights {inside}" if inside else "name the file in it"
            other = f"{hint}, or name the model as local-dir:{self}"
            raise OptionError(f"weights {self} is a folder: {how_to_join(self.path) or other}")
        if not self.path.is_file():
            raise OptionError(f"weights {self}: no such file; expected pretrained, random or the path of a checkpoint")
        if not self.path.name.lower().endswith(_SUFFIXES):
            raise OptionError(f"weights {self}: unknown suffix, expected one of {', '.join(_SUFFIXES)}")

    def __str__(self) -> str:
        return str(self.path) if self.path is not None else self.kind.value


PRETRAINED: Final = WeightsSource(WeightsKind.PRETRAINED)
"""Default source of weights."""


def pretrained() -> Any:
    """Return a field for the source of weights, with its options; pretrained by default."""
    return group(PRETRAINED, kind={"default": PRETRAINED})


def weights_unless(unless: str) -> Any:
    """Return a field for the source of weights, with its options; the default None stands for `unless`."""
    return group(None, kind={"default": None, "unless": unless})


@dataclass(frozen=True)
class PretrainedFile:
    """Pretrained checkpoint on this machine.

    Attributes:
        path: the file.
        tag: timm's pretrained tag, empty without one.
        url: where it was published, None for a local one.
    """

    path: Path
    tag: str
    url: str | None


@dataclass(frozen=True)
class Located:
    """Weights file, opened and described, or random weights.

    Attributes:
        record: what is known before loading.
        path: the file; None for random weights.
        source: its content; None for random weights and `.npz`, which timm's own loaders read.
        trained: tensors that affect the output may be dropped.
        predictors: trained predictors of tokens to keep, to be part of the model; None without.
        description: description of the model; None if nothing describes it, or timm itself names the file.
    """

    record: LoadedWeights
    path: Path | None = None
    source: Source | None = None
    trained: bool = False
    predictors: PredictorShape | None = None
    description: Description | None = None


def open_weights(source: WeightsSource, *, name: str, seed: int) -> Located:
    """Find a weights file and read its description, before a model is built for it.

    Args:
        source: where the weights come from.
        name: resolved name of the model; its tag chooses among the pretrained weights.
        seed: seed of random weights, for the record.

    Raises:
        OptionError: the file does not exist, or the key leads to no model.
        WeightsError: the weights cannot be downloaded, read or trusted, or contradict the files beside them.
    """
    source.check()
    if source.kind is WeightsKind.RANDOM:
        return Located(LoadedWeights(kind=source.kind.value, seed=seed))
    if source.path is not None:
        record, path, ours = LoadedWeights(kind="path", path=source.path.name), source.path, False
    else:
        found = locate_pretrained(name)
        record = LoadedWeights(kind="pretrained", path=found.path.name, tag=found.tag, url=found.url)
        path, ours = found.path, ":" not in name  # what timm itself names needs no description
    record = replace(record, allow_dropped=source.allow_dropped)
    trained = source.allow_dropped or ours
    if path.suffix.lower() == ".npz":
        from tofu_export.zoo._jax import describe_npz

        description = None if ours else describe_npz(path)
        return Located(replace(record, format="jax"), path, None, trained, None, description)
    from tofu_export.zoo._source import read_source

    read = read_source(path, key=source.key, beside=not ours)
    keys = read.keys if len(read.keys) > 1 else ()
    record = replace(record, format=read.written, key=read.key or None, keys=keys, notes=read.notes)
    from tofu_export.patch.predictors import PredictorShape

    predictors = None if source.allow_dropped else PredictorShape.read(read.tensors)
    return Located(record, path, read, trained, predictors, read.description)


def load_weights(model: nn.Module, source: WeightsSource, *, name: str, seed: int) -> LoadedWeights:
    """Load weights into a model, in place, and return a record of them for the report.

    Random weights are those that the model was created with (`create_model` seeds them), so nothing is changed.

    Args:
        model: a timm model, or the demo model, with the wanted image size and class count.
        source: where the weights come from.
        name: resolved name of the model; its tag chooses among the pretrained weights.
        seed: seed that the model was created with, for the record.

    Raises:
        OptionError: the file does not exist.
        WeightsError: the weights cannot be downloaded, read, trusted or fitted to the model.
    """
    keep = frozenset({"image_size", "num_classes"})
    return fill(model, open_weights(source, name=name, seed=seed), name=name, keep=keep)


def fill(
    model: nn.Module, located: Located, *, name: str, keep: frozenset[str] = frozenset(), features: bool = True
) -> LoadedWeights:
    """Load an opened file into a model, in place.

    Activation and epsilon are set to those of the file.

    Args:
        model: a model built for the file (`zoo._description.arguments_for`).
        located: result of `open_weights`.
        name: name of the model, for messages.
        keep: fields of its description that options override.
        features: the classifier of the file may be dropped, if the model has none.

    Raises:
        WeightsError: the file does not fit the model.
    """
    from tofu_export.zoo._checkpoint import sha256_of
    from tofu_export.zoo._description import apply, changes, check, describe_model
    from tofu_export.zoo._fit import Rules, fit
    from tofu_export.zoo._jax import load_npz

    record, path, source = located.record, located.path, located.source
    if path is None:
        return record
    if source is None:
        if located.description is not None:
            check(located.description, model, name=name, where=path.name, keep=keep)
        adapted, dropped = load_npz(model, path, name=name, trained=located.trained, features=features)
        return replace(record, sha256=sha256_of(path), adapted=adapted, dropped=dropped)
    before = describe_model(model)
    if source.undecided and before.activation != "quick_gelu":
        raise WeightsError(
            f"{source.file} is a CLIP without a configuration beside it, so nothing says whether its activation is "
            f"quick_gelu (as in OpenAI's weights) or the gelu of {name}: put its config.json or open_clip_config.json "
            "beside it, or name a *_clip_quickgelu_* model"
        )
    apply(source.description, model)
    done = fit(model, source.tensors, name=name, file=source.file, rules=Rules(features, located.trained))
    check(source.description, model, name=name, where=source.where, keep=keep)
    return replace(
        record,
        sha256=sha256_of(path),
        set=changes(before, describe_model(model)),
        adapted=done.adapted,
        dropped=(*done.dropped, *source.unused),
    )


def locate_pretrained(name: str) -> PretrainedFile:
    """Return the pretrained checkpoint of a model, downloaded if it is not cached.

    Args:
        name: resolved name; its tag chooses among the weights of an architecture.

    Raises:
        OptionError: the folder of a `local-dir:` name does not exist.
        WeightsError: there is no checkpoint, or it cannot be downloaded.
    """
    if name == DEMO_MODEL:
        from tofu_export import demo

        return PretrainedFile(demo.weights_path(), "demo", None)
    source, _, place = name.partition(":")
    if source == "local-dir":
        return PretrainedFile(_file_in(Path(place)), "", None)
    if place:
        return _download(name, "", place, HUB_FILES, None)

    import timm

    config = timm.get_pretrained_cfg(name)
    if config is None or not (config.hf_hub_id or config.url):
        raise WeightsError(_no_weights(name))
    named = config.hf_hub_filename
    files = tuple(dict.fromkeys((named.replace(".bin", ".safetensors"), named))) if named else HUB_FILES
    return _download(name, config.tag or "", config.hf_hub_id, files, config.url)


def _download(
    name: str, tag: str, repository: str | None, files: tuple[str, ...], url: str | tuple[str, str] | None
) -> PretrainedFile:
    from tofu_export.zoo._download import hub_file, page, url_file

    try:
        if repository:
            return PretrainedFile(hub_file(repository, files), tag, page(repository))
        address, filename = (url, None) if isinstance(url, str) else url or ("", None)
        return PretrainedFile(url_file(address, filename), tag, address)
    except WeightsError as error:
        raise WeightsError(f"pretrained weights of {name}: {error}. {_WAYS_ON}") from error.__cause__


def _file_in(folder: Path) -> Path:
    if not folder.is_dir():
        raise OptionError(f"model local-dir:{folder}: no such folder, expected one with config.json and weights")
    for pattern in (*HUB_FILES, "*.safetensors", "*.pth", "*.pt", "*.bin"):
        found = sorted(folder.glob(pattern))
        if len(found) > 1:
            names = ", ".join(path.name for path in found)
            raise WeightsError(f"{folder} holds several checkpoints ({names}): choose one with --weights PATH")
        if found:
            return found[0]
    raise WeightsError(f"{folder} holds no checkpoint, expected {HUB_FILES[0]} beside config.json. {_WAYS_ON}")


def _no_weights(name: str) -> str:
    import timm

    architecture = name.partition(".")[0]
    tags = [known for known in timm.list_pretrained(architecture) if "." in known]
    known = f"those with weights are {', '.join(tags)}" if tags else f"{architecture} has none under any tag"
    return f"timm has no pretrained weights for {name}: {known}. {_WAYS_ON}"
