"""Preprocessing as timm states it for a model."""

from __future__ import annotations

from timm.data.config import resolve_model_data_config
from torch import nn

from tofu_export.artifact.preprocessing import Preprocessing
from tofu_export.zoo._description import describe_model
from tofu_export.zoo.preprocessing import for_channels

__all__ = ["timm_preprocessing"]


def timm_preprocessing(
    model: nn.Module, image_size: tuple[int, int] | None = None, channels: int | None = None
) -> Preprocessing:
    """Return timm's data config for a model, which `pretrained_cfg` may state for another size.

    Args:
        model: a timm model, possibly on the meta device.
        image_size: height and width; None for the model's own.
        channels: channels of its input; None for the model's own.

    Raises:
        OptionError: no image can be prepared as `pretrained_cfg` says.
    """
    config = resolve_model_data_config(model)  # type: ignore[no-untyped-call]  # timm types it partly
    own, (usual_channels, *usual_size) = describe_model(model), config["input_size"]
    channels = channels or own.in_chans or usual_channels
    rows = {name: for_channels(config[name], channels) for name in ("mean", "std")}
    return Preprocessing.from_dict(
        {**config, **rows, "input_size": (channels, *(image_size or own.image_size or usual_size))}
    )
