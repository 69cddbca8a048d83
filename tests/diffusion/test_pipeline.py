"""Pictures by exported UNets against those of the whole pipeline in eager PyTorch."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline

from tests.diffusion import tiny_pipeline
from tests.diffusion.tiny_pipeline import PIXELS
from tests.engines import models
from tests.imports import hide_package
from tofu_export.benchmarking.options import PLAN_BACKENDS
from tofu_export.diffusion import session_unet
from tofu_export.diffusion.apply import apply_to_unet
from tofu_export.diffusion.describe import describe_unet
from tofu_export.diffusion.models import create_unet, find_unet, inputs_of
from tofu_export.diffusion.options import UnetReduction
from tofu_export.diffusion.pipeline import Drawing, DrawOptions, TextToImage
from tofu_export.diffusion.plan import make_unet_plan
from tofu_export.diffusion.session_unet import SessionUnet, open_unet
from tofu_export.engines.building.build import EngineRequest, build_engine
from tofu_export.engines.flavours import RTX, TENSORRT, available
from tofu_export.engines.running.engine_session import EngineSession
from tofu_export.errors import (
    BackendMissingError,
    ExportError,
    OptionError,
    UnknownModelError,
    UnsupportedModelError,
)
from tofu_export.options import BatchRange
from tofu_export.system.environment import collect
from tofu_export.system.ort import TensorSpec, open_session

FEW = DrawOptions(steps=4)
LEVELS = 1
"""Levels of 255 by which a picture of the full FP32 file may differ: both round to them from values that differ by some
1e-6, since the UNet's error of 1e-6 passes through all steps and the decoder."""


def pixels(drawing: Drawing) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.asarray(drawing.picture).astype(np.int64)


@pytest.fixture(scope="module")
def pipeline() -> TextToImage:
    return TextToImage(tiny_pipeline.folder())


@pytest.fixture(scope="module")
def eager(pipeline: TextToImage) -> np.ndarray[Any, np.dtype[np.int64]]:
    pipeline.use_own_unet()
    return pixels(pipeline.draw("a red fox", 0, FEW))


def test_the_eager_picture_is_diffusers_own(eager: np.ndarray[Any, Any]) -> None:
    whole = DiffusionPipeline.from_pretrained(tiny_pipeline.folder(), safety_checker=None)
    whole.set_progress_bar_config(disable=True)
    noise = torch.Generator().manual_seed(0)
    (picture,) = whole("a red fox", num_inference_steps=4, guidance_scale=7.5, generator=noise).images
    assert np.array_equal(np.asarray(picture), eager)
    assert eager.shape == (PIXELS, PIXELS, 3)
    assert eager.std() > 5  # not one grey


@pytest.mark.e2e
def test_the_full_file_makes_the_eager_picture(pipeline: TextToImage, eager: np.ndarray[Any, Any]) -> None:
    pipeline.use_file(tiny_pipeline.full(), FEW)
    drawing = pipeline.draw("a red fox", 0, FEW)
    assert np.abs(pixels(drawing) - eager).max() <= LEVELS
    assert len(drawing.step_ms) == 5  # PLMS takes its second step twice
    assert all(0 < step < drawing.total_s * 1e3 for step in drawing.step_ms)


@pytest.mark.e2e
def test_the_same_arguments_give_the_same_pixels(pipeline: TextToImage) -> None:
    pipeline.use_file(tiny_pipeline.reduced(), FEW)
    one, same, seed, prompt = (
        pixels(pipeline.draw(text, seed, FEW)) for text, seed in (("a", 0), ("a", 0), ("a", 1), ("b c d", 0))
    )
    assert np.array_equal(one, same)
    assert not np.array_equal(one, seed)
    assert not np.array_equal(one, prompt)


def test_the_reduced_file_makes_another_picture(pipeline: TextToImage, eager: np.ndarray[Any, Any]) -> None:
    pipeline.use_file(tiny_pipeline.reduced(), FEW)
    reduced = pixels(pipeline.draw("a red fox", 0, FEW))
    assert reduced.shape == eager.shape
    assert np.abs(reduced - eager).max() > LEVELS


@pytest.mark.parametrize(("guidance", "batch"), [(7.5, 2), (1.0, 1)])
def test_guidance_takes_two_of_a_batch(
    guidance: float, batch: int, pipeline: TextToImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    forward = SessionUnet.forward

    def watched(self: SessionUnet, sample: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        seen.append(len(sample))
        return forward(self, sample, *args, **kwargs)

    monkeypatch.setattr(SessionUnet, "forward", watched)
    options = DrawOptions(steps=2, guidance=guidance)
    pipeline.use_file(tiny_pipeline.full(), options)
    pipeline.draw("a", 0, options)
    assert set(seen) == {batch} == {options.unet_batch}


@pytest.mark.e2e
def test_stable_diffusion_xl() -> None:
    """Two text encoders, added conditions, transformer blocks in a row: exported, verified and drawn with."""
    options = DrawOptions(steps=3)
    reduced = tiny_pipeline.unet_file("--max-downsample", "2", "--batch", "2", xl=True)
    report = json.loads((reduced.parent / "report.json").read_text())
    assert report["verification"][0]["passed"]
    assert list(report["output"]["inputs"]) == [
        "sample", "timestep", "encoder_hidden_states", "text_embeds", "time_ids",
    ]  # fmt: skip
    assert report["plan"]["pattern"] == "PPMMMMMM"
    assert report["environment"]["versions"]["diffusers"]
    pipeline = TextToImage(tiny_pipeline.folder(xl=True))
    pipeline.use_file(reduced, options)
    drawn = pixels(pipeline.draw("a red fox", 0, options))
    whole = DiffusionPipeline.from_pretrained(tiny_pipeline.folder(xl=True))
    whole.set_progress_bar_config(disable=True)
    source = find_unet(str(tiny_pipeline.folder(xl=True)), "random")
    inputs = inputs_of(source, text_tokens=tiny_pipeline.TOKENS)
    plan = make_unet_plan(describe_unet(create_unet(source, meta=True), inputs, "xl"), UnetReduction(max_downsample=2))

    def picture() -> np.ndarray[Any, Any]:
        noise = torch.Generator().manual_seed(0)
        return np.asarray(whole("a red fox", num_inference_steps=3, guidance_scale=7.5, generator=noise).images[0])

    full = picture().astype(np.int64)
    apply_to_unet(whole.unet, plan)
    assert np.abs(drawn - picture()).max() <= LEVELS
    assert np.abs(drawn - full).max() > LEVELS


def test_files_for_other_sizes_are_refused(pipeline: TextToImage, tmp_path: Path) -> None:
    full = tiny_pipeline.full()
    with pytest.raises(OptionError, match=r"model\.onnx takes latents 8 high, expected 12: give the size"):
        pipeline.use_file(full, DrawOptions(size=(24, 16)))
    with pytest.raises(OptionError, match="latents 8 wide, expected 12"):
        pipeline.use_file(full, DrawOptions(size=(16, 24)))
    with pytest.raises(OptionError, match="no multiple of 2"):
        pipeline.use_file(full, DrawOptions(size=(15, 16)))
    with pytest.raises(OptionError, match=r"takes x and gives y, expected sample, timestep"):
        pipeline.use_file(models.save(models.block(), tmp_path), FEW)
    with pytest.raises(OptionError, match="has no UNet"):
        pipeline.draw("a", 0, FEW)


@pytest.mark.parametrize(
    ("name", "shape", "words"),
    [
        ("sample", (None, 9, 8, 8), "latents of 9 channels, expected 4: it was made from another model"),
        ("encoder_hidden_states", (None, 8, 32), "texts of 32 channels, expected 16: it was made from another model"),
        ("encoder_hidden_states", (None, 77, 16), "77 text tokens, expected 8: export it with --text-tokens 8"),
        ("sample", (1, 4, 8, 8), "fixed to batch 1, expected 2"),
        ("text_embeds", (None, 16), "takes sample, timestep, encoder_hidden_states, text_embeds and gives"),
    ],
)
def test_other_unets_are_refused(
    name: str, shape: tuple[int | None, ...], words: str, pipeline: TextToImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Other(Session):
        inputs = MappingProxyType({**Session.inputs, name: TensorSpec(np.dtype(np.float32), shape)})

    monkeypatch.setattr("tofu_export.diffusion.pipeline.open_unet", lambda *_: Other())
    with pytest.raises(OptionError, match=words):
        pipeline.use_file(Path("other.onnx"), FEW)


class Session:
    """Stands in for a loaded file: predicts `value` everywhere, and keeps what it was given."""

    label = "model.engine"
    inputs = MappingProxyType(
        {
            "sample": TensorSpec(np.dtype(np.float16), (None, 4, 8, 8)),
            "timestep": TensorSpec(np.dtype(np.float32), (1,)),
            "encoder_hidden_states": TensorSpec(np.dtype(np.float16), (None, 8, 16)),
        }
    )
    outputs = MappingProxyType({"out_sample": TensorSpec(np.dtype(np.float16), (None, 4, 8, 8))})
    metadata: Mapping[str, str] = MappingProxyType({})

    def __init__(self, value: float = 0.5) -> None:
        self.value = value
        self.given: dict[str, np.ndarray[Any, Any]] = {}

    def run(self, feeds: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
        self.given = dict(feeds)
        return {"out_sample": np.full_like(feeds["sample"], self.value)}


def test_a_files_types_are_those_that_it_is_given() -> None:
    session = Session()
    unet = SessionUnet(session, {})  # type: ignore[arg-type]
    (noise,) = unet(torch.ones(2, 4, 8, 8), torch.tensor(801), encoder_hidden_states=torch.ones(2, 8, 16))
    assert {name: value.dtype for name, value in session.given.items()} == {
        name: spec.dtype for name, spec in Session.inputs.items()
    }
    assert session.given["timestep"].tolist() == [801]
    assert (noise.dtype, noise.shape) == (torch.float32, (2, 4, 8, 8))


def test_what_a_file_cannot_do_is_said() -> None:
    inputs = (torch.ones(1, 4, 8, 8), 1, torch.ones(1, 8, 16))
    with pytest.raises(ExportError, match="NaN or infinity: try the fp32 file"):
        SessionUnet(Session(float("nan")), {})(*inputs)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="timestep_cond"):
        SessionUnet(Session(), {})(*inputs, timestep_cond=torch.ones(1))  # type: ignore[arg-type]


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    path = tmp_path / "model.engine"
    path.write_bytes(b"ftrt: classic")
    return path


def test_a_plan_runs_on_the_engine_session(plan: Path, pipeline: TextToImage, monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[Path] = []
    asked: list[tuple[Path, Any]] = []

    def load(path: Path, flavour: Any) -> EngineSession:
        asked.append((path, flavour))
        stands_in = Session(0.25)
        runner = SimpleNamespace(
            infer=lambda feeds, check_inputs: stands_in.run(feeds), deactivate=lambda: closed.append(path)
        )
        return EngineSession(
            str(path), "ACME 1", Session.inputs, Session.outputs, Session.metadata, runner, object(), object()
        )

    monkeypatch.setattr(session_unet, "open_engine", load)
    pipeline.use_file(plan, FEW)
    first = pixels(pipeline.draw("a", 0, FEW))
    pipeline.use_file(plan, FEW, "trt-rtx")
    assert np.array_equal(pixels(pipeline.draw("a", 0, FEW)), first)
    assert asked == [(plan, TENSORRT), (plan, RTX)]
    assert closed == [plan]
    with pytest.raises(OptionError, match="latents 8 high"):
        pipeline.use_file(plan, DrawOptions(size=(32, 32)))
    assert closed == [plan] * 3  # also the one that was refused
    pipeline.use_own_unet()
    assert not np.array_equal(pixels(pipeline.draw("a", 0, FEW)), first)


def test_each_kind_of_file_has_its_backends(plan: Path) -> None:
    with pytest.raises(OptionError, match="is a plan, which ort-cuda does not run: give trt or trt-rtx"):
        open_unet(plan, "ort-cuda")
    with pytest.raises(OptionError, match="is no plan, so trt does not run it"):
        open_unet(tiny_pipeline.full(), "trt")


@pytest.mark.skipif(collect().gpu is not None, reason="this machine has a GPU")
def test_a_plan_without_a_gpu(plan: Path) -> None:
    with pytest.raises(BackendMissingError, match="this machine has none with a driver"):
        open_unet(plan)


@pytest.mark.gpu
@pytest.mark.skipif(collect().gpu is None, reason="no NVIDIA GPU with a driver")
@pytest.mark.parametrize("backend", PLAN_BACKENDS)
def test_a_real_plan_makes_the_picture_of_the_file(backend: str, tmp_path: Path, pipeline: TextToImage) -> None:
    if PLAN_BACKENDS[backend] not in available():
        pytest.skip(f"{backend} is not installed")
    source, path = tiny_pipeline.full(), tmp_path / "model.engine"
    build_engine(EngineRequest(source, path, PLAN_BACKENDS[backend], BatchRange(1, 2, 4)))
    pipeline.use_file(source, FEW)
    expected = pixels(pipeline.draw("a red fox", 0, FEW))
    pipeline.use_file(path, FEW)
    assert np.abs(pixels(pipeline.draw("a red fox", 0, FEW)) - expected).max() <= 8  # TF32


def test_folders_that_hold_no_pipeline(tmp_path: Path) -> None:
    with pytest.raises(UnknownModelError, match="is not a folder"):
        TextToImage(tmp_path / "gone")
    with pytest.raises(UnknownModelError, match=r"holds no model_index\.json"):
        TextToImage(tiny_pipeline.folder() / "unet")
    copy = tmp_path / "copy"
    shutil.copytree(tiny_pipeline.folder(), copy)
    index = json.loads((copy / "model_index.json").read_text())
    (copy / "model_index.json").write_text(json.dumps({**index, "_class_name": "FluxPipeline"}))
    with pytest.raises(UnsupportedModelError, match="is a FluxPipeline, expected a StableDiffusionPipeline or"):
        TextToImage(copy)
    (copy / "model_index.json").write_text("{")
    with pytest.raises(UnsupportedModelError, match="cannot be read"):
        TextToImage(copy)
    (copy / "model_index.json").write_text(json.dumps(index))
    (copy / "vae" / "diffusion_pytorch_model.safetensors").write_bytes(b"cut")
    with pytest.raises(UnsupportedModelError, match="diffusers cannot load the pipeline"):
        TextToImage(copy)


def test_steps() -> None:
    with pytest.raises(OptionError, match="steps is 0"):
        DrawOptions(steps=0)


def test_without_diffusers(monkeypatch: pytest.MonkeyPatch) -> None:
    hide_package(monkeypatch, "diffusers")
    with pytest.raises(BackendMissingError, match=r"tofu-export\[diffusion\]"):
        TextToImage(tiny_pipeline.folder())


def test_an_onnx_file_in_onnxruntime() -> None:
    assert open_unet(tiny_pipeline.full()).inputs == open_session(tiny_pipeline.full()).inputs
