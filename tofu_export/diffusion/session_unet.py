"""Use an exported UNet in a diffusers pipeline: an ONNX file in onnxruntime, or a TensorRT engine."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tofu_export.artifact.feeds import as_asked
from tofu_export.benchmarking.backends import BACKENDS, FileSession
from tofu_export.benchmarking.options import CPU, PLAN_BACKENDS
from tofu_export.diffusion.inputs import OUTPUT_NAME, POOLED, SAMPLE, TEXT, TIME_IDS, TIMESTEP, UnetInputs
from tofu_export.engines.describing.engine_file import read_engine_file
from tofu_export.engines.running.engine_session import EngineSession, open_engine
from tofu_export.errors import ExportError, OptionError
from tofu_export.options import PLAN_SUFFIXES
from tofu_export.system.ort import open_session

__all__ = ["SessionUnet", "check_fit", "open_unet"]


class SessionUnet(nn.Module):
    """Replacement of diffusers' UNet2DConditionModel in a pipeline, without weights in PyTorch.

    Args:
        session: the loaded file, with the inputs and the output of `UnetInputs`.
        config: config of the UNet that the file was made from, as completed by diffusers; pipelines read it.
    """

    dtype = torch.float32
    device = torch.device("cpu")

    def __init__(self, session: FileSession, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.session = session
        self.config = config
        # XL pipelines compare what they add to the time with what the first layer for it reads.
        reads = config.get("projection_class_embeddings_input_dim")
        self.add_embedding = SimpleNamespace(linear_1=SimpleNamespace(in_features=reads))

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | float,
        encoder_hidden_states: Tensor,
        added_cond_kwargs: Mapping[str, Tensor] | None = None,
        return_dict: bool = False,
        **others: Any,
    ) -> tuple[Tensor]:
        """Predict the noise [B, C, H, W], float32.

        Raises:
            OptionError: the pipeline passes an input that the file does not take, or asks for a dictionary.
            ExportError: the file fails on this input, or what it predicts is not finite.
        """
        unknown = [name for name, value in others.items() if value is not None]
        if unknown or return_dict:
            what = ", ".join(unknown) or "return_dict"
            raise OptionError(f"{self.session.label} cannot stand in for a UNet that is called with {what}")
        values = {SAMPLE: sample, TIMESTEP: torch.as_tensor(timestep).reshape(1).float(), TEXT: encoder_hidden_states}
        if added_cond_kwargs:
            values |= {name: added_cond_kwargs[name] for name in (POOLED, TIME_IDS)}
        feeds = {name: value.detach().float().numpy() for name, value in values.items()}
        noise = self.session.run(as_asked(feeds, self.session.inputs))[OUTPUT_NAME].astype(np.float32)
        if not np.isfinite(noise).all():
            raise ExportError(f"{self.session.label} predicts NaN or infinity: try the fp32 file of the same UNet")
        return (torch.from_numpy(noise),)

    def close(self) -> None:
        """Free what an engine holds on the GPU; an onnxruntime session is freed with this object."""
        if isinstance(self.session, EngineSession):
            self.session.close()


def open_unet(path: Path, backend: str | None = None) -> FileSession:
    """Load the file of a UNet.

    Args:
        path: an ONNX file, or a TensorRT engine (`.engine`, `.plan`, `.trt`).
        backend: a name in `engines.backends`; None for onnxruntime on the CPU, or the TensorRT that built the engine.

    Raises:
        OptionError: the backend does not run such a file.
        BackendMissingError: the backend is not installed, or there is no GPU for it.
        ExportError: the ONNX file cannot be loaded.
        EngineBuildError: the engine cannot be loaded.
    """
    if path.suffix in PLAN_SUFFIXES:
        if backend is not None and backend not in PLAN_BACKENDS:
            raise OptionError(f"{path.name} is a plan, which {backend} does not run: give {' or '.join(PLAN_BACKENDS)}")
        flavour = read_engine_file(path).flavour if backend is None else PLAN_BACKENDS[backend]
        return open_engine(path, flavour)
    if backend is not None and backend not in BACKENDS:
        raise OptionError(f"{path.name} is no plan, so {backend} does not run it: give {', '.join(BACKENDS)}")
    return open_session(path, provider=BACKENDS[backend or CPU])


def check_fit(session: FileSession, expected: UnetInputs, batch: int) -> None:
    """Refuse a file that was not made for this pipeline, text length, image size and batch.

    Args:
        session: the loaded file.
        expected: inputs from the pipeline.
        batch: images in one call: two for each picture with guidance.

    Raises:
        OptionError: names, channels, text or latent differ; the message says what to do.
    """
    label, shapes = Path(session.label).name, expected.shapes
    if set(session.inputs) != set(shapes) or OUTPUT_NAME not in session.outputs:
        raise OptionError(
            f"{label} takes {', '.join(session.inputs)} and gives {', '.join(session.outputs)}, expected "
            f"{', '.join(shapes)} and {OUTPUT_NAME}: give a UNet that `tofu-export unet` exported from this pipeline"
        )
    foreign = "it was made from another model than this pipeline's UNet"
    questions = (
        (SAMPLE, 1, "latents of {} channels", foreign),
        (TEXT, 2, "texts of {} channels", foreign),
        (POOLED, 1, "pooled texts of {} channels", foreign),
        (TEXT, 1, "{} text tokens", "export it with --text-tokens {}"),
        (SAMPLE, 2, "latents {} high", "give the size that it was made for, or export it with another --latent-size"),
        (SAMPLE, 3, "latents {} wide", "give the size that it was made for, or export it with another --latent-size"),
    )
    for name, axis, what, remedy in questions:
        if name not in shapes:
            continue
        got, wanted = session.inputs[name].shape[axis], shapes[name][axis]
        if got is not None and got != wanted:
            raise OptionError(f"{label} takes {what.format(got)}, expected {wanted}: {remedy.format(wanted)}")
    fixed = session.inputs[SAMPLE].shape[0]
    if fixed is not None and fixed != batch:
        raise OptionError(
            f"{label} is fixed to batch {fixed}, expected {batch} (guidance takes two for each picture): export it "
            "with --batch 1:2:8"
        )
