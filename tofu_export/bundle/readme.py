"""README of a failure bundle: what failed, and commands to reproduce and narrow it down."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from tofu_export.options import BatchRange

__all__ = ["MODEL", "REFERENCE", "BundleText", "EngineFailure", "blob_name"]

MODEL = "model.onnx"
REFERENCE = "reference.onnx"

_RTX = "tensorrt-rtx"


@dataclass(frozen=True)
class EngineFailure:
    """Engine that could not be built.

    Attributes:
        flavour: tensorrt or tensorrt-rtx.
        batch: batch sizes of its profile.
        compute_capabilities: those it was built for, such as SM89; empty for the GPU of the machine.
    """

    flavour: str
    batch: BatchRange
    compute_capabilities: tuple[str, ...] = ()


def blob_name(index: int) -> str:
    """Return the name of the raw bytes of an input, as trtexec reads them."""
    return f"input{index}.bin"


@dataclass(frozen=True)
class BundleText:
    """README of a bundle.

    Attributes:
        file: name of the model.
        error: message to the user.
        feeds: inputs, by name.
        outputs: names of the model's outputs.
        expected: names of the values that are known to be right.
        agree: the outputs of this batch are within the tolerance.
        allowed: largest difference that is allowed.
        reference: what the file was compared with.
        has_reference_file: the reference is in the bundle.
        engine: the engine that could not be built.
        versions: versions of packages.
        command: command that was run.
    """

    file: str
    error: str
    feeds: Mapping[str, NDArray[Any]]
    outputs: tuple[str, ...]
    expected: tuple[str, ...]
    agree: bool
    allowed: float | None
    reference: str
    has_reference_file: bool
    engine: EngineFailure | None
    versions: Mapping[str, str | None]
    command: str

    def markdown(self) -> str:
        """Return the text in Markdown."""
        versions = ", ".join(f"{name} {version}" for name, version in self.versions.items() if version)
        return "\n".join(
            [
                f"# What went wrong with {self.file}",
                "",
                self.error,
                "",
                *_block(self.command or "(the library was called)"),
                f"{versions}. More is in `environment.json`.",
                "",
                "**Before you send this folder to anybody:** `model.onnx` holds the weights of the model, `inputs.*` "
                "the images that it was run on, and `report.json` the command with its paths.",
                "",
                *self._files(),
                *(self._onnxruntime() if self.expected else []),
                *(self._bisect() if self.expected else []),
                *self._tensorrt(),
            ]
        )

    def _files(self) -> list[str]:
        rows = [("model.onnx", "the file (weights of large models lie beside it)")]
        if self.has_reference_file:
            rows.append(("reference.onnx", f"{self.reference}, which it was compared with"))
        if self.feeds:
            rows.append(("inputs.npz, inputs.json", "one batch of inputs, for numpy and for Polygraphy"))
            blobs = ", ".join(blob_name(index) for index in range(len(self.feeds)))
            rows.append((blobs, "the same as raw bytes, for trtexec"))
        if self.outputs:
            rows.append(("outputs.npz", "what model.onnx gave for them in onnxruntime"))
        if self.expected:
            rows.append(("expected.npz, expected.json", f"what it should give, by {self.reference}"))
        rows.append(("report.json, environment.json", "what was found, and with which versions"))
        return ["| file | |", "|---|---|", *(f"| `{name}` | {what} |" for name, what in rows), ""]

    def _onnxruntime(self) -> list[str]:
        if self.engine is not None:
            return []
        inside = [name for name in self.expected if name not in self.outputs]
        lines = ["## See it in onnxruntime", "", "Needs `pip install polygraphy onnxruntime`.", ""]
        if self.agree:
            lines += [
                "The outputs are as they should be under the matching decisions that the file makes. What is wrong are "
                "decisions: `report.json` counts them by block, and this command will find no difference.",
                "",
            ]
        lines += _block(self._run(MODEL, "--onnxrt"))
        if inside:
            lines += [
                "What the blocks give, one after the other: the first one that fails is where to look.",
                "",
                *_block(self._run(MODEL, "--onnxrt", "--onnx-outputs", *inside, *self.outputs)),
            ]
        return lines

    def _bisect(self) -> list[str]:
        if self.engine is not None:
            return []
        good = REFERENCE if self.has_reference_file else "GOOD.onnx"
        lines = ["## Narrow it down to one node", "", "Needs `pip install onnx-graphsurgeon` as well.", ""]
        if not self.has_reference_file:
            lines += [
                "With a file that is right and whose values have the same names, such as an earlier export of the same "
                f"model; call it {good}:",
                "",
            ]
        golden = ["polygraphy", "run", good, "--onnxrt", "--onnx-outputs", "mark", "all"]
        check = ["polygraphy", "run", "polygraphy_debug.onnx", "--onnxrt", *self._data("golden.json")]
        reduce = ["polygraphy", "debug", "reduce", MODEL, "-o", "reduced.onnx", "--mode", "bisect"]
        return [
            *lines,
            *_block(
                shlex.join([*golden, "--load-inputs", "inputs.json", "--save-outputs", "golden.json"]),
                shlex.join([*reduce, "--no-reduce-inputs", "--load-inputs", "inputs.json", "--check", *check]),
            ),
            "The last node of `reduced.onnx` is the first that differs.",
            "",
        ]

    def _tensorrt(self) -> list[str]:
        rtx = self.engine is None or self.engine.flavour == _RTX
        lines = ["## In TensorRT", ""]
        if self.engine is not None:
            lines += ["Build it. Without a GPU this works for TensorRT-RTX only.", "", *_block(*self._builds())]
        if self.feeds and self.expected:
            run = self._run(MODEL, "--trt", *self._shapes())
            lines += ["Run it and compare. Needs a GPU.", "", *_block(run, f"POLYGRAPHY_USE_TENSORRT_RTX=1 {run}")]
        if self.feeds:
            other = " (`tensorrt_rtx --help` says which of these options it shares)" if rtx else ""
            lines += [f"Without Python{other}:", "", *_block(self._trtexec())]
        return lines

    def _builds(self) -> list[str]:
        """Return commands that build the engine, and that find the smallest part of the model that does not build."""
        assert self.engine is not None
        before = "POLYGRAPHY_USE_TENSORRT_RTX=1 " if self.engine.flavour == _RTX else ""
        options = ["--convert-to", "trt"]
        if self.engine.compute_capabilities:
            numbers = [f"{name[2:-1]}.{name[-1]}" for name in self.engine.compute_capabilities]  # SM89 is 8.9
            options += ["--compute-capabilities", *numbers]
        convert = ["polygraphy", "convert", MODEL, "-o", "model.engine", *options, *self._shapes()]
        check = ["polygraphy", "convert", "polygraphy_debug.onnx", "-o", "part.engine", *options]
        reduce = ["polygraphy", "debug", "reduce", MODEL, "-o", "reduced.onnx", "--mode", "bisect"]
        fixed = ["--model-input-shapes", *self._at(self.engine.batch.optimum)] if self.feeds else []
        return [f"{before}{shlex.join(convert)}", f"{before}{shlex.join([*reduce, *fixed, '--check', *check])}"]

    def _run(self, model: str, *options: str) -> str:
        return shlex.join(["polygraphy", "run", model, *options, *self._data("expected.json")])

    def _data(self, outputs: str) -> list[str]:
        allowed = 1e-5 if self.allowed is None else self.allowed
        data = ["--load-inputs", "inputs.json", "--load-outputs", outputs]
        return [*data, "--atol", f"{allowed:.3g}", "--rtol", "0"]

    def _shapes(self) -> list[str]:
        """Return Polygraphy's options for a profile."""
        if not self.feeds:
            return []
        sizes = self._sizes()
        return [
            argument
            for kind, size in zip(("min", "opt", "max"), sizes, strict=True)
            for argument in (f"--trt-{kind}-shapes", *self._at(size))
        ]

    def _sizes(self) -> tuple[int, int, int]:
        if self.engine is not None:
            return self.engine.batch.minimum, self.engine.batch.optimum, self.engine.batch.maximum
        batch = next(iter(self.feeds.values())).shape[0]
        return batch, batch, batch

    def _at(self, batch: int) -> list[str]:
        """Return the shapes of the inputs at a batch size, as Polygraphy reads them."""
        return [f"{name}:[{','.join(map(str, (batch, *value.shape[1:])))}]" for name, value in self.feeds.items()]

    def _trtexec(self) -> str:
        batch = next(iter(self.feeds.values())).shape[0]
        shapes = ",".join(f"{name}:{'x'.join(map(str, value.shape))}" for name, value in self.feeds.items())
        blobs = ",".join(f"{name}:{blob_name(index)}" for index, name in enumerate(self.feeds))
        smallest, _, largest = self._sizes()

        def sized(size: int) -> str:
            return ",".join(
                f"{name}:{'x'.join(map(str, (size, *value.shape[1:])))}" for name, value in self.feeds.items()
            )

        bounds = [f"--minShapes={sized(min(smallest, batch))}", f"--optShapes={shapes}"]
        bounds += [f"--maxShapes={sized(max(largest, batch))}", f"--shapes={shapes}"]
        rest = [f"--loadInputs={blobs}", "--exportOutput=trtexec_outputs.json"]
        return shlex.join(["trtexec", f"--onnx={MODEL}", "--stronglyTyped", *bounds, *rest])


def _block(*commands: str) -> list[str]:
    return ["```", *commands, "```", ""]
