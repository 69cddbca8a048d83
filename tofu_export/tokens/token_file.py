"""An exported file as a source of token maps: what it says about itself, and what it decides when it runs.

An ONNX file states its decisions in named values (`graph_patterns.canonical`), which a copy of it gives out. An engine
has outputs only: there the map is read from the output `token_groups`, and shows the end alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from tofu_export.decisions import Decisions
from tofu_export.engines.backends import CPU, PLAN_SUFFIXES, open_backend
from tofu_export.engines.engine_session import EngineSession
from tofu_export.engines.feeds import as_asked
from tofu_export.errors import ExportError, OptionError, VerificationError
from tofu_export.graph_patterns.canonical import DECISIONS, decision_name
from tofu_export.groups import TOKEN_GROUPS, GroupState, Reducing, follow_groups
from tofu_export.onnx_file import load_without_weights
from tofu_export.ort import OrtSession, open_copy

__all__ = ["TokenFile", "TokenRun"]

Array = NDArray[Any]

_PREFIX = "tofu_export."
_DAMAGED = (KeyError, TypeError, ValueError, IndexError, RecursionError)
"""What reading metadata of the wrong shape raises."""


@dataclass(frozen=True)
class TokenRun:
    """What a file decided about some images.

    Attributes:
        states: where the original tokens are after each reducing layer; the last one alone if the file shows no more.
        notes: what a reader must know.
        backend: what ran the file, by the name it has in reports.
    """

    states: tuple[GroupState, ...]
    notes: tuple[str, ...]
    backend: str


@dataclass(frozen=True)
class TokenFile:
    """A file of this project: an ONNX file, or a TensorRT plan with its sidecar.

    Attributes:
        path: the file.
        model: name of the model.
        preprocessing: how images are prepared, its `input_size` being the file's.
        prefix: protected tokens at the front.
        steps: the layers that remove tokens.
        tokens: tokens that enter the first block, prefix included, N0.
        pattern: the method of each layer in a letter.
    """

    path: Path
    model: str
    preprocessing: Mapping[str, Any]
    prefix: int
    steps: tuple[Reducing, ...]
    tokens: int
    pattern: str

    @classmethod
    def read(cls, path: Path) -> TokenFile:
        """What `path` says about itself.

        Raises:
            ExportError: there is no such file, or it is not a whole ONNX file.
            OptionError: it does not say what it removes, or removes nothing.
        """
        facts = _engine_facts(path) if path.suffix in PLAN_SUFFIXES else _onnx_facts(path)
        try:
            layers, preprocessing = facts["plan"]["layers"], facts["preprocessing"]
            channels, height, width = map(int, preprocessing["input_size"])
            for key in ("mean", "std"):
                if len([float(value) for value in preprocessing[key]]) != channels:
                    raise ValueError(f"{key} is not one number for each of {channels} channels")
            steps = tuple(
                Reducing(int(row["layer"]), str(row["method"]), int(row["tokens_in"]), int(row["removed"]))
                for row in layers
                if row["removed"]
            )
            found = cls(
                path,
                str(facts["model"]),
                {**preprocessing, "input_size": (channels, height, width)},
                int(facts["prefix_tokens"]),
                steps,
                int(layers[0]["tokens_in"]),
                str(facts["plan"]["pattern"]),
            )
        except _DAMAGED as error:
            raise OptionError(
                f"{path.name} does not say which tokens it removes ({type(error).__name__}: {error}): expected a file "
                "that this version of tofu-export wrote, with plan and preprocessing in its metadata; export it again"
            ) from error
        if not steps:
            raise OptionError(f"{path.name} removes no token: there is nothing to draw, export it with --r above 0")
        return found

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the patches.

        Raises:
            OptionError: the patches do not fill a grid over the image.
        """
        patches = self.tokens - self.prefix
        _, height, width = self.preprocessing["input_size"]
        fitting = [
            (rows, patches // rows)
            for rows in range(1, patches + 1)
            if not patches % rows and not height % rows and not width % (patches // rows)
        ]
        if not fitting:
            raise OptionError(
                f"{self.path.name}: {patches} patches do not fill a grid over an image of {height}x{width} pixels, so "
                "they cannot be drawn"
            )
        return min(fitting, key=lambda size: abs(height / size[0] - width / size[1]))

    def run(self, pixels: NDArray[np.float32], backend: str = CPU) -> TokenRun:
        """Run the file on images [B, C, H, W], normalised, and follow what it decides.

        Raises:
            OptionError: an engine has no output `token_groups`.
            VerificationError: the file does not show its decisions, decides the impossible, or its decisions and its
                output `token_groups` differ.
            TofuError: it cannot be run.
        """
        if self.path.suffix in PLAN_SUFFIXES or backend != CPU:
            return self._from_output(pixels, backend)
        model = load_without_weights(self.path)
        kinds, notes = self._decisions_in(model)
        if not kinds:
            raise VerificationError(f"{self.path.name} does not show its decisions: export it again")
        outputs = {value.name for value in model.graph.output}
        for name in (name for of_layer in kinds.values() for name in of_layer.values()):
            if name not in outputs:
                model.graph.output.append(onnx.ValueInfoProto(name=name))
        seen = _in_batches(open_copy(model, self.path), pixels)
        groups = np.tile(np.arange(self.tokens), (len(pixels), 1))
        states: list[GroupState] = []
        for step in self.steps:
            if step.layer in kinds:
                found = {kind: seen[name] for kind, name in kinds[step.layer].items()}
                decisions = Decisions.read(found, len(pixels), len(step.sources(self.prefix)))
                states.append(follow_groups(groups, step, decisions, self.prefix))
                groups = states[-1].groups
        if TOKEN_GROUPS in seen and not np.array_equal(seen[TOKEN_GROUPS], groups):
            raise VerificationError(
                f"{self.path.name}: its output {TOKEN_GROUPS} is not what its decisions come to: export it again"
            )
        return TokenRun(tuple(states), notes, CPU)

    def _decisions_in(self, model: onnx.ModelProto) -> tuple[dict[int, dict[str, str]], tuple[str, ...]]:
        """Names of the decisions by layer and kind, and a note if the last block has none."""
        produced = {name for node in model.graph.node for name in node.output}
        kinds: dict[int, dict[str, str]] = {}
        for step in self.steps:
            names = {kind: decision_name(step.layer, kind) for kind in DECISIONS}
            if found := {kind: name for kind, name in names.items() if name in produced}:
                kinds[step.layer] = found
            elif step is not self.steps[-1]:
                raise VerificationError(
                    f"{self.path.name} does not show what layer {step.layer} decides (no value {names['kept']}): "
                    "export it again"
                )
        if kinds and self.steps[-1].layer not in kinds:
            return kinds, (
                f"the output does not depend on the reduction in block {self.steps[-1].layer}: the file has none, "
                f"so the map ends after block {max(kinds)}",
            )
        return kinds, ()

    def _from_output(self, pixels: NDArray[np.float32], backend: str) -> TokenRun:
        session = open_backend(self.path, backend, None).session
        if TOKEN_GROUPS not in session.outputs:
            raise OptionError(
                f"{self.path.name} has no output {TOKEN_GROUPS}, and what is inside it cannot be read on {backend}: "
                "export the model with --token-map, or give the ONNX file"
            )
        found = _in_batches(session, pixels)
        groups = found[TOKEN_GROUPS].astype(np.int64)
        if groups.shape != (len(pixels), self.tokens):
            raise VerificationError(
                f"{self.path.name}: {TOKEN_GROUPS} is {list(groups.shape)}, expected {[len(pixels), self.tokens]}"
            )
        left = int(groups.max()) + 1
        reached = [step for step in self.steps if step.tokens_out == left]
        if not reached:
            raise VerificationError(
                f"{self.path.name}: {TOKEN_GROUPS} speaks of {left} tokens, which no layer of the plan leaves"
            )
        return TokenRun((GroupState(reached[-1], groups),), ("only the end: read from the output",), backend)


def _in_batches(session: OrtSession | EngineSession, pixels: NDArray[np.float32]) -> dict[str, Array]:
    """All outputs for all images, in batches of the size that the file is fixed to, or one by one."""
    if len(session.inputs) != 1:
        raise OptionError(f"{session.label} has inputs {', '.join(session.inputs)}, expected one: images")
    ((name, spec),) = session.inputs.items()
    size = (spec.shape[0] if spec.shape else None) or 1
    runs: list[dict[str, Array]] = []
    for start in range(0, len(pixels), size):
        chosen = pixels[(start + np.arange(size)) % len(pixels)]
        runs.append(session.run(as_asked({name: chosen}, session.inputs)))
    return {key: np.concatenate([values[key] for values in runs])[: len(pixels)] for key in runs[0]}


def _onnx_facts(path: Path) -> dict[str, Any]:
    """The metadata of an ONNX file, decoded, with the size of its input."""
    if path.is_dir():
        raise ExportError(f"{path} is a folder: give the path of an ONNX file")
    model = load_without_weights(path)
    facts: dict[str, Any] = {}
    for entry in model.metadata_props:
        if entry.key.startswith(_PREFIX):
            try:
                facts[entry.key.removeprefix(_PREFIX)] = json.loads(entry.value)
            except (ValueError, RecursionError):
                facts[entry.key.removeprefix(_PREFIX)] = entry.value
    return _with_size(facts, [_sizes(value) for value in model.graph.input])


def _engine_facts(path: Path) -> dict[str, Any]:
    """The same of a plan, from the file beside it."""
    beside = path.with_name(f"{path.name}.json")
    if not path.is_file():
        raise ExportError(f"{path} is not a file, expected a TensorRT plan")
    try:
        extra = json.loads(beside.read_text(encoding="utf-8"))["extra"]
        model = extra["model"]
        return {"plan": extra["plan"], "model": model["resolved"], **{
            key: model[key] for key in ("preprocessing", "prefix_tokens")
        }}  # fmt: skip
    except (OSError, *_DAMAGED) as error:
        raise OptionError(
            f"{beside.name}, which tofu-export writes beside an engine, cannot be read ({type(error).__name__}): "
            "give the engine together with it, or the ONNX file"
        ) from error


def _sizes(value: onnx.ValueInfoProto) -> list[int]:
    return [size.dim_value for size in value.type.tensor_type.shape.dim]


def _with_size(facts: dict[str, Any], shapes: Sequence[list[int]]) -> dict[str, Any]:
    """The preprocessing speaks of the model; the input of the file says what it takes."""
    known = facts.get("preprocessing")
    if isinstance(known, dict) and len(shapes) == 1 and len(shapes[0]) == 4 and all(size > 0 for size in shapes[0][1:]):
        facts["preprocessing"] = {**known, "input_size": shapes[0][1:]}
    return facts
