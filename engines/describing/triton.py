"""A model repository for NVIDIA's Triton Inference Server, made from exported files.

A repository has one folder for each model: `config.pbtxt`, the labels, and a folder for the version with the file in
it. ONNX files are served by the onnxruntime backend, engines of classic TensorRT by the TensorRT one. Engines of
TensorRT-RTX have no backend in Triton.

Source: Triton's documentation of model repository and model configuration, and its `model_config.proto`.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import onnx

from tofu_export.artifact.card import ModelCard
from tofu_export.artifact.onnx_file import METADATA_PREFIX
from tofu_export.engines.building.preflight import read_graph_file
from tofu_export.engines.describing.sidecar import missing_sidecar, read_sidecar
from tofu_export.engines.describing.triton_options import TritonOptions
from tofu_export.engines.flavours import TENSORRT
from tofu_export.errors import OptionError, OutputError

__all__ = ["TritonModel", "collect_models", "write_repository"]

_TYPES: dict[int, str] = {
    onnx.TensorProto.FLOAT: "TYPE_FP32",
    onnx.TensorProto.FLOAT16: "TYPE_FP16",
    onnx.TensorProto.BFLOAT16: "TYPE_BF16",
    onnx.TensorProto.INT64: "TYPE_INT64",
}
_LABELS = "labels.txt"


class _Word(str):
    """Name of the schema, written without quotes."""

    __slots__ = ()


@dataclass(frozen=True)
class _Tensor:
    name: str
    data_type: _Word
    dims: tuple[int, ...]
    label_filename: str | None = None


@dataclass(frozen=True)
class _InstanceGroup:
    count: int
    kind: _Word


@dataclass(frozen=True)
class _Text:
    string_value: str


@dataclass(frozen=True)
class _Parameter:
    key: str
    value: _Text


@dataclass(frozen=True)
class _DynamicBatching:
    preferred_batch_size: tuple[int, ...]
    max_queue_delay_microseconds: int


@dataclass(frozen=True)
class _Config:
    """Message `ModelConfig` of the schema; a field that is None is left out."""

    name: str
    max_batch_size: int
    input: tuple[_Tensor, ...]
    output: tuple[_Tensor, ...]
    instance_group: _InstanceGroup
    default_model_filename: str
    parameters: tuple[_Parameter, ...]
    backend: str
    dynamic_batching: _DynamicBatching | None


@dataclass(frozen=True)
class TritonModel:
    """Model of the repository.

    Attributes:
        name: name of its folder.
        source: the file that is served.
        config: the model configuration.
        labels: class names, empty if the file has none.
    """

    name: str
    source: Path
    config: _Config
    labels: tuple[str, ...]

    @property
    def backend(self) -> str:
        """Triton backend that serves the model."""
        return self.config.backend


def collect_models(folder: Path, options: TritonOptions) -> tuple[tuple[TritonModel, ...], tuple[str, ...]]:
    """Return the models to serve from an export's folder (or one ONNX file), and why other files are left out.

    Raises:
        OptionError: there is nothing to serve, or the sidecar of an engine is damaged or describes other files.
        EngineBuildError: a file is not ONNX.
    """
    if folder.is_file():
        files = [folder]
    elif folder.is_dir():
        files = sorted(folder.glob("*.onnx"))
    else:
        raise OptionError(f"{folder} does not exist, expected the folder of an export or an ONNX file")
    if not files:
        raise OptionError(f"{folder} has no ONNX file: give the folder that `tofu-export MODEL -o DIR` has written")
    plans, left_out = _plans(folder) if folder.is_dir() else ({}, [])
    models: list[TritonModel] = []
    for path in files:
        graph = read_graph_file(path)
        card = ModelCard.of_model(graph, str(path))
        name = _name(path, card, options, several=len(files) > 1)
        labels = card.labels
        config = _config(name, graph, card, options, labels=bool(labels))
        models.append(TritonModel(name, path, config, labels))
        for plan in plans.get(path, ()):
            own = f"{name}_trt"
            plan_config = replace(
                config, name=own, backend="tensorrt", default_model_filename="model.plan",
                instance_group=_instances("gpu", options.instances),
            )  # fmt: skip
            models.append(TritonModel(own, plan, plan_config, labels))
    names = [model.name for model in models]
    if len(set(names)) < len(names):
        raise OptionError(
            f"models share a name ({', '.join(sorted(names))}): serve them from repositories of their own"
        )
    return tuple(models), tuple(left_out)


def _plans(folder: Path) -> tuple[dict[Path, list[Path]], list[str]]:
    """Return the engines to serve, by the ONNX file that they were built from, and why others are left out."""
    plans: dict[Path, list[Path]] = {}
    left_out: list[str] = []
    for plan in sorted(folder.glob("*.engine")):
        sidecar = read_sidecar(plan)
        if sidecar is None:
            left_out.append(f"{plan.name}: {missing_sidecar(plan)}")
        elif sidecar.flavour is not TENSORRT:
            left_out.append(f"{plan.name}: a plan of {sidecar.flavour_name}, which Triton has no backend for")
        elif (source := sidecar.onnx_beside()) is None:
            left_out.append(f"{plan.name}: {sidecar.onnx_name}, which it was built from, is not beside it")
        else:
            sidecar.check_engine()
            plans.setdefault(source, []).append(plan)
    return plans, left_out


def write_repository(models: tuple[TritonModel, ...], folder: Path, version: int) -> None:
    """Write the models into `folder`, which should be new or a staging folder.

    Raises:
        OutputError: a file cannot be written.
    """
    try:
        for model in models:
            place = folder / model.name / str(version)
            place.mkdir(parents=True)
            target = place / model.config.default_model_filename
            shutil.copyfile(model.source, target)
            data = model.source.with_name(f"{model.source.name}.data")
            if data.is_file() and model.backend == "onnxruntime":
                shutil.copyfile(data, place / data.name)  # the graph knows it by this name
            if model.labels:
                text = "".join(f"{label}\n" for label in model.labels)
                (folder / model.name / _LABELS).write_text(text, encoding="utf-8")
            config = "\n".join(_text(model.config)) + "\n"
            (folder / model.name / "config.pbtxt").write_text(config, encoding="utf-8")
    except OSError as error:
        raise OutputError(f"cannot write the repository to {folder}: {error}") from error


def _name(path: Path, card: ModelCard, options: TritonOptions, *, several: bool) -> str:
    name = options.name or re.sub(r"[^A-Za-z0-9._-]", "_", card.find("model", str) or path.stem)
    return f"{name}_{card.find('precision', str) or path.stem}" if several else name


def _config(name: str, graph: onnx.ModelProto, card: ModelCard, options: TritonOptions, *, labels: bool) -> _Config:
    constants = {tensor.name for tensor in graph.graph.initializer}
    inputs = [value for value in graph.graph.input if value.name not in constants]
    sizes = [value.type.tensor_type.shape.dim[0] for value in inputs if value.type.tensor_type.shape.dim]
    dynamic = bool(sizes) and all(not size.HasField("dim_value") for size in sizes)
    batch, texts = card.batch, card.texts
    preferred = () if batch is None else (batch.optimum,)
    return _Config(
        name=name,
        max_batch_size=(8 if batch is None else batch.maximum) if dynamic else 0,
        input=tuple(_tensor(value, dynamic) for value in inputs),
        output=tuple(_tensor(value, dynamic, labels=labels) for value in graph.graph.output),
        instance_group=_instances(options.device, options.instances),
        default_model_filename="model.onnx",
        parameters=tuple(
            _Parameter(f"{METADATA_PREFIX}{key}", _Text(texts[f"{METADATA_PREFIX}{key}"]))
            for key in ("model", "precision", "preprocessing", "plan", "version")
            if key in card
        ),
        backend="onnxruntime",
        dynamic_batching=_DynamicBatching(preferred, options.queue_delay_us) if dynamic else None,
    )


def _tensor(value: onnx.ValueInfoProto, dynamic: bool, *, labels: bool = False) -> _Tensor:
    kind = value.type.tensor_type
    if kind.elem_type not in _TYPES:
        name = onnx.TensorProto.DataType.Name(kind.elem_type)
        raise OptionError(f"{value.name} is of type {name}, expected floating-point numbers or int64")
    dims = tuple(dim.dim_value if dim.HasField("dim_value") else -1 for dim in kind.shape.dim)
    labelled = _LABELS if labels and value.name == "logits" else None
    return _Tensor(value.name, _Word(_TYPES[kind.elem_type]), dims[1:] if dynamic else dims, labelled)


def _instances(device: str, count: int) -> _InstanceGroup:
    return _InstanceGroup(count, _Word(f"KIND_{device.upper()}"))


def _text(message: Any, indent: str = "") -> Iterator[str]:
    """Write a message in protocol buffers' text format."""
    for field in fields(message):
        value = getattr(message, field.name)
        for entry in value if isinstance(value, tuple) else [value]:
            if is_dataclass(entry):
                yield f"{indent}{field.name} {{"
                yield from _text(entry, f"{indent}  ")
                yield f"{indent}}}"
            elif isinstance(entry, _Word | int):
                yield f"{indent}{field.name}: {entry}"
            elif entry is not None:
                yield f"{indent}{field.name}: {json.dumps(entry, ensure_ascii=True)}"
