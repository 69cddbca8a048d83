"""Hold `tofu-export lint` against TensorRT-RTX's own builder, on the backend models that come with the onnx package.

Every model is built for SM89 with the sizes of its own test data, in a process that a crash ends alone, and is looked
at by the lint for `tensorrt-rtx`. No GPU is needed, nothing is run on one. Verdicts of the builder are kept in a file,
so that a changed lint is measured again in a minute.

Usage: `python benchmarks/lint_agreement.py --verdicts FILE.json`, `-v` to list where both disagree. The first run takes
about an hour on one core.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.backend.test.case import node as node_cases

from tofu_export.engines.flavours import RTX, load
from tofu_export.errors import TofuError
from tofu_export.linting import Runtime, lint_file

CAPABILITY = "SM89"
SECONDS = 120
"""Longest that one build may take; the few that take longer count as failures."""

KINDS = ("simple", "pytorch-converted", "pytorch-operator")
Shapes = dict[str, dict[str, Any]]
"""Sizes and, of whole numbers, values of the inputs of a model, by name."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Build, lint, and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--verdicts", type=Path, required=True, help="file that keeps what the builder said")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("-v", "--verbose", action="store_true", help="list the models on which they disagree")
    options = parser.parse_args(arguments)
    if options.worker is not None:
        return _work(options.worker)
    with tempfile.TemporaryDirectory(prefix="tofu-export-agreement-") as scratch:
        folder = Path(scratch)
        names = [_save(folder, index, name, model, shapes) for index, (name, model, shapes) in enumerate(_models())]
        verdicts = _verdicts(folder, names, options.verdicts)
        _print(folder, names, verdicts, verbose=options.verbose)
    return 0


def _models() -> Iterator[tuple[str, onnx.ModelProto, Shapes]]:
    """Name, graph and inputs of every backend model that needs no download."""
    for case in node_cases.collect_testcases(None):
        assert case.model is not None  # a backend model comes with its graph
        inputs = case.data_sets[0][0] if case.data_sets else []
        yield case.name, case.model, _shapes(case.model, inputs)
    data = Path(onnx.__file__).parent / "backend" / "test" / "data"
    for path in sorted(path for kind in KINDS for path in (data / kind).glob("*/model.onnx")):
        model = onnx.load(path)
        tensors: list[Any] = []
        for index in range(len(model.graph.input)):
            file = path.parent / "test_data_set_0" / f"input_{index}.pb"
            tensor = onnx.TensorProto()
            try:
                tensor.ParseFromString(file.read_bytes())
                tensors.append(numpy_helper.to_array(tensor))
            except Exception:  # a sequence, or no such file
                tensors.append(None)
        yield path.parent.name, model, _shapes(model, tensors)
    for path in sorted((data / "light").glob("*.onnx")):
        model = onnx.load(path)
        yield path.stem, model, {}


def _shapes(model: onnx.ModelProto, inputs: Sequence[Any]) -> Shapes:
    constants = {tensor.name for tensor in model.graph.initializer}
    shapes = {}
    for value, data in zip((entry for entry in model.graph.input if entry.name not in constants), inputs, strict=False):
        if isinstance(data, (np.ndarray, np.generic)):
            whole = data.dtype.kind in "iu" and data.size <= 64
            shapes[value.name] = {"shape": list(data.shape), "values": data.reshape(-1).tolist() if whole else None}
    return shapes


def _save(folder: Path, index: int, name: str, model: onnx.ModelProto, shapes: Shapes) -> str:
    place = folder / f"{index:04d}"
    place.mkdir()
    (place / "model.onnx").write_bytes(model.SerializeToString())
    (place / "shapes.json").write_text(json.dumps(shapes), encoding="utf-8")
    (place / "name").write_text(name, encoding="utf-8")
    return name


def _verdicts(folder: Path, names: Sequence[str], file: Path) -> dict[str, str]:
    """What the builder says of each model, empty where it builds; those in `file` are taken from there."""
    known: dict[str, str] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    keys = {f"{index:04d} {name}": folder / f"{index:04d}" for index, name in enumerate(names)}
    while missing := [key for key in keys if key not in known]:
        worker = subprocess.Popen(
            [sys.executable, __file__, "--verdicts", str(file), "--worker", str(folder)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        assert worker.stdin is not None and worker.stdout is not None
        for key in missing:
            try:
                worker.stdin.write(f"{keys[key]}\n")
                worker.stdin.flush()
                line = worker.stdout.readline()
            except BrokenPipeError:
                line = ""
            known[key] = json.loads(line) if line else "the builder crashed"
            if len(known) % 20 == 0 or not line:
                file.write_text(json.dumps(known, indent=0), encoding="utf-8")
            if not line:
                break
        worker.kill()
        worker.wait()
    file.write_text(json.dumps(known, indent=0), encoding="utf-8")
    return {key: known[key] for key in keys}


def _work(folder: Path) -> int:
    """Build the models that are named on the standard input; a line of JSON for each of them."""
    import signal

    trt = load(RTX)
    for line in sys.stdin:
        signal.alarm(SECONDS)  # ends the process, which counts as a crash
        print(json.dumps(_build(trt, Path(line.strip()))), flush=True)
        signal.alarm(0)
    return 0


def _build(trt: Any, place: Path) -> str:
    """Why the builder fails with a model, empty if it does not."""
    messages: list[str] = []

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                messages.append(message)

    logger = Logger()
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, logger)
    try:
        if not parser.parse_from_file(str(place / "model.onnx")):
            errors = [parser.get_error(index) for index in range(parser.num_errors)]
            return "parse: " + ("; ".join(f"{e.node_operator()}: {e.desc()}" for e in errors) or "; ".join(messages))
        shapes: Shapes = json.loads((place / "shapes.json").read_text(encoding="utf-8"))
        plan = builder.build_serialized_network(network, _config(trt, builder, network, shapes, ()))
        while plan is None and (valued := re.findall(r"missing values for shape input tensor (\S+)\.", str(messages))):
            messages.clear()
            plan = builder.build_serialized_network(network, _config(trt, builder, network, shapes, valued))
            if any(name in str(messages) for name in valued):
                break
    except Exception as error:  # of the bindings, which have no types
        return f"build: {type(error).__name__}: {error}"
    return "" if plan is not None else "build: " + ("; ".join(messages) or "no reason")


def _config(trt: Any, builder: Any, network: Any, shapes: Shapes, valued: Sequence[str]) -> Any:
    """How to build: for one capability, with the sizes of the inputs, and the values of those that are named."""
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.__members__[CAPABILITY], 0)
    profile = builder.create_optimization_profile()
    for tensor in map(network.get_input, range(network.num_inputs)):
        known = shapes.get(tensor.name)
        if known is not None and -1 in tuple(tensor.shape):
            profile.set_shape(tensor.name, *[tuple(known["shape"])] * 3)
        if known is not None and tensor.name in valued and known["values"] is not None:
            profile.set_shape_input(tensor.name, *[known["values"]] * 3)
    config.add_optimization_profile(profile)
    return config


def _print(folder: Path, names: Sequence[str], verdicts: dict[str, str], *, verbose: bool) -> None:
    counts: Counter[tuple[bool, bool]] = Counter()
    for index, name in enumerate(names):
        verdict = verdicts[f"{index:04d} {name}"]
        try:
            report = lint_file(folder / f"{index:04d}" / "model.onnx", (Runtime.TENSORRT_RTX,))
            wrong = [finding.message for finding in report.findings if finding.severity.value == "error"]
            rules = [finding.rule for finding in report.findings if finding.severity.value == "error"]
        except TofuError as error:
            wrong, rules = [str(error)], ["unreadable"]
        counts[bool(wrong), bool(verdict)] += 1
        if verbose and bool(wrong) != bool(verdict):
            print(f"{'error, builds' if wrong else 'clean, fails'}\t{name}\t{rules}\t{(wrong or [verdict])[0][:300]}")
    rows = (
        ("clean, and it builds", counts[False, False]),
        ("error, and the build fails", counts[True, True]),
        ("clean, and the build fails", counts[False, True]),
        ("error, and it builds", counts[True, False]),
        ("all", sum(counts.values())),
    )
    print(f"| lint for tensorrt-rtx, TensorRT-RTX {load(RTX).__version__}, onnx {version('onnx')} | models |")
    print("| --- | ---: |")
    for label, count in rows:
        print(f"| {label} | {count:,} |")


if __name__ == "__main__":
    sys.exit(main())
