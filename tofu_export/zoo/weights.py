"""Where the weights of a model come from, and loading them with nothing left to chance.

Three sources: the pretrained ones that timm names, seeded random ones, or a file. What was loaded is returned as a
record for the report. Importing this module loads neither torch nor timm.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tofu_export.errors import OptionError, WeightsError
from tofu_export.zoo.names import DEMO_MODEL

if TYPE_CHECKING:
    from torch import nn

__all__ = ["PretrainedFile", "WeightsKind", "WeightsSource", "load_weights", "locate_pretrained"]

_SUFFIXES: Final = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".tar", ".npz")

_HUB_FILES: Final = ("model.safetensors", "pytorch_model.bin")
"""Names that timm's repositories use, best first."""

_WAYS_ON: Final = "Give a file with --weights PATH, or --weights random for untrained weights"


class WeightsKind(str, Enum):
    """The three sources of weights."""

    PRETRAINED = "pretrained"
    RANDOM = "random"
    PATH = "path"


@dataclass(frozen=True)
class WeightsSource:
    """Where weights come from: `--weights pretrained|random|PATH`.

    Attributes:
        kind: which of the three.
        path: the file, for `PATH` only.

    Raises:
        OptionError: a path without that kind, or that kind without a path.
    """

    kind: WeightsKind
    path: Path | None = None

    def __post_init__(self) -> None:
        if (self.kind is WeightsKind.PATH) != (self.path is not None):
            raise OptionError(f"weights {self.kind.value!r} with path {self.path}: a path belongs to kind 'path' only")

    @classmethod
    def parse(cls, text: str) -> WeightsSource:
        """Read `pretrained`, `random` or a path (`./random` for a file of that name).

        Raises:
            OptionError: the text is empty.
        """
        text = text.strip()
        if not text:
            raise OptionError("weights is empty, expected pretrained, random or the path of a checkpoint")
        if text.lower() in (WeightsKind.PRETRAINED.value, WeightsKind.RANDOM.value):
            return cls(WeightsKind(text.lower()))
        return cls(WeightsKind.PATH, Path(text).expanduser())

    def check(self) -> None:
        """Look whether the file is there, before any work is done.

        Raises:
            OptionError: no such file, a folder, or a suffix that no reader knows.
        """
        if self.path is None:
            return
        if self.path.is_dir():
            inside = next((name for name in _HUB_FILES if (self.path / name).is_file()), None)
            hint = f"--weights {self.path / inside}" if inside else "name the file in it"
            raise OptionError(f"weights {self} is a folder: {hint}, or name the model as local-dir:{self}")
        if not self.path.is_file():
            raise OptionError(f"weights {self}: no such file; expected pretrained, random or the path of a checkpoint")
        if self.path.suffix.lower() not in _SUFFIXES:
            raise OptionError(f"weights {self}: unknown suffix, expected one of {', '.join(_SUFFIXES)}")

    def __str__(self) -> str:
        return str(self.path) if self.path is not None else self.kind.value


@dataclass(frozen=True)
class _Record:
    """What was loaded, as in report.json (`model.weights`)."""

    kind: str
    path: str | None = None
    sha256: str | None = None
    seed: int | None = None
    tag: str | None = None
    url: str | None = None
    format: str | None = None
    adapted: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "adapted": list(self.adapted), "ignored": list(self.ignored)}


@dataclass(frozen=True)
class PretrainedFile:
    """A pretrained checkpoint on this machine.

    Attributes:
        path: the file.
        tag: timm's pretrained tag, empty without one.
        url: where it was published, None for a local one.
    """

    path: Path
    tag: str
    url: str | None


def load_weights(model: nn.Module, source: WeightsSource, *, name: str, seed: int) -> dict[str, Any]:
    """Load weights into `model`, in place, and return what was loaded, for the report.

    Random weights are the ones that the model was created with (`create_model` seeds them): it is left as it is.

    Args:
        model: a timm model, or the demo model.
        source: where the weights come from.
        name: resolved name of the model; its tag chooses among the pretrained weights.
        seed: what the model was created with, for the record.

    Returns:
        `kind`, `path`, `sha256` and `format` (files: timm, jax, or transformers and the family), `seed` (random), `tag`
        and `url` (pretrained), `adapted` (tensors that were resampled to fit) and `ignored` (tensors that the model has
        no place for); None where one does not apply.

    Raises:
        OptionError: the file does not exist.
        WeightsError: the weights cannot be downloaded, read, trusted or fitted to the model.
    """
    source.check()
    if source.kind is WeightsKind.RANDOM:
        return _Record(kind=source.kind.value, seed=seed).to_dict()
    if source.path is not None:
        return _load_file(model, source.path, name=name, record=_Record(kind="path", path=source.path.name))
    located = locate_pretrained(name)
    record = _Record(kind="pretrained", path=located.path.name, tag=located.tag, url=located.url)
    return _load_file(model, located.path, name=name, record=record)


def _load_file(model: nn.Module, path: Path, *, name: str, record: _Record) -> dict[str, Any]:
    from tofu_export.zoo._checkpoint import read_state_dict, sha256_of
    from tofu_export.zoo._fit import Fit, fit
    from tofu_export.zoo._jax import load_npz
    from tofu_export.zoo._transformers import check_config, rename

    written = "timm"
    noted: tuple[str, ...] = ()
    left: tuple[str, ...] = ()
    if path.suffix.lower() == ".npz":
        load_npz(model, path, name=name)
        written, done = "jax", Fit((), ())
    else:
        found = read_state_dict(path)
        renamed = rename(found)
        if renamed is not None:
            noted = check_config(path, model, name=name)
            written, found, left = f"transformers {renamed.family}", renamed.tensors, renamed.ignored
        spare = record.kind == WeightsKind.PRETRAINED.value
        done = fit(model, found, name=name, file=path.name, spare=spare)
    return {
        **record.to_dict(),
        "format": written,
        "sha256": sha256_of(path),
        "adapted": [*done.adapted, *noted],
        "ignored": [*done.ignored, *left],
    }


def locate_pretrained(name: str) -> PretrainedFile:
    """The pretrained checkpoint of `name`, downloaded if it is not in a cache already.

    Args:
        name: resolved name; its tag chooses among the weights of an architecture.

    Raises:
        OptionError: the folder of a `local-dir:` name does not exist.
        WeightsError: there is none, or it cannot be downloaded.
    """
    if name == DEMO_MODEL:
        from tofu_export import demo

        return PretrainedFile(demo.weights_path(), "demo", None)
    source, _, place = name.partition(":")
    if source == "local-dir":
        return PretrainedFile(_file_in(Path(place)), "", None)
    if place:
        return _download(name, "", place, _HUB_FILES, None)

    import timm

    config = timm.get_pretrained_cfg(name)
    if config is None or not (config.hf_hub_id or config.url):
        raise WeightsError(_no_weights(name))
    named = config.hf_hub_filename
    files = tuple(dict.fromkeys((named.replace(".bin", ".safetensors"), named))) if named else _HUB_FILES
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
    for pattern in (*_HUB_FILES, "*.safetensors", "*.pth", "*.pt", "*.bin"):
        found = sorted(folder.glob(pattern))
        if len(found) > 1:
            names = ", ".join(path.name for path in found)
            raise WeightsError(f"{folder} holds several checkpoints ({names}): choose one with --weights PATH")
        if found:
            return found[0]
    raise WeightsError(f"{folder} holds no checkpoint, expected {_HUB_FILES[0]} beside config.json. {_WAYS_ON}")


def _no_weights(name: str) -> str:
    import timm

    architecture = name.partition(".")[0]
    tags = [known for known in timm.list_pretrained(architecture) if "." in known]
    known = f"those with weights are {', '.join(tags)}" if tags else f"{architecture} has none under any tag"
    return f"timm has no pretrained weights for {name}: {known}. {_WAYS_ON}"
