"""A machine with a GPU, played by onnxruntime: engines are files that name the ONNX file which runs in their place."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx
import pytest
from numpy.typing import NDArray

from tests.engines import sidecars
from tofu_export.engines.building.build import EngineRequest
from tofu_export.system.ort import OrtSession, TensorSpec, open_session
from tofu_export.verification import engines

Array = NDArray[Any]


@dataclass
class StandIn:
    """A file in onnxruntime in the place of a plan; `disturb` is what is wrong with the plan."""

    session: OrtSession
    disturb: Callable[[dict[str, Array]], None] = lambda _: None
    closed: bool = False
    asked: list[int] = field(default_factory=list)

    @property
    def label(self) -> str:
        return self.session.label

    @property
    def inputs(self) -> Mapping[str, TensorSpec]:
        return self.session.inputs

    @property
    def outputs(self) -> Mapping[str, TensorSpec]:
        return self.session.outputs

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        found = self.session.run(feeds)
        self.asked.append(len(next(iter(feeds.values()))))
        self.disturb(found)
        return found

    def close(self) -> None:
        assert not self.closed
        self.closed = True


class Machine:
    """Loads and builds: a plan is a file that names the ONNX file which runs in its place."""

    def __init__(self) -> None:
        self.opened: list[StandIn] = []
        self.built: list[EngineRequest] = []
        self.disturb: Callable[[dict[str, Array]], None] = lambda _: None
        self.mutate_copy: Callable[[onnx.ModelProto], object] | None = None

    def open(self, path: Path, flavour: object) -> StandIn:
        source = Path(path.read_text(encoding="utf-8"))
        model = onnx.load(source)  # a copy's weights are behind links, which onnxruntime does not follow
        if self.opened and self.mutate_copy is not None:
            self.mutate_copy(model)
        stand_in = StandIn(open_session(model.SerializeToString()))
        if not self.opened:
            stand_in.disturb = self.disturb
        self.opened.append(stand_in)
        return stand_in

    def build(self, request: EngineRequest) -> None:
        self.built.append(request)
        request.engine_path.write_text(str(request.onnx_path), encoding="utf-8")


def install(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """The machine that loads and builds engines from now on."""
    found = Machine()
    monkeypatch.setattr(engines, "open_engine", found.open)
    monkeypatch.setattr(engines, "build_engine", found.build)
    return found


def plan_of(
    folder: Path,
    source: Path,
    *,
    runs: Path | None = None,
    batch: tuple[int, int, int] = (1, 2, 3),
    metadata: Mapping[str, Any] | None = None,
    **facts: Any,
) -> Path:
    """A plan that was built from `source` and computes what `runs` does, with its sidecar."""
    beside = folder / source.name
    if not beside.exists():
        shutil.copyfile(source, beside)
    path = folder / "model.engine"
    path.write_text(str(runs or beside), encoding="utf-8")
    name = next(iter(open_session(runs or beside).inputs))
    profiles = {name: dict(zip(("min", "opt", "max"), ([size, 3, 8, 8] for size in batch), strict=True))}
    more = {"source": dict(metadata or {}), "profiles": profiles, "compute_capabilities": ["SM89"], **facts}
    sidecars.write(path, beside, **more)
    return path
