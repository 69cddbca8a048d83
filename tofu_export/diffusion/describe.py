"""Measure a UNet at one latent size, by running it once on the meta device with counters on its leaves."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from tofu_export.diffusion.apply import check_unet, transformer_blocks
from tofu_export.diffusion.forms import UnetForm
from tofu_export.diffusion.inputs import UnetInputs
from tofu_export.diffusion.plan import BlockSpec, UnetSpec
from tofu_export.errors import OptionError, first_line

__all__ = ["describe_unet"]


def describe_unet(unet: nn.Module, inputs: UnetInputs, name: str) -> UnetSpec:
    """Return the transformer blocks and costs of an unpatched UNet.

    Args:
        unet: the UNet on the meta device (values are never read).
        inputs: its inputs.
        name: its name.

    Raises:
        UnsupportedModelError: the UNet cannot be reduced.
        OptionError: the latent is too small for it.

    Source: multiply-accumulates of convolutions, linear layers and the two products of each attention.
    """
    check_unet(unet, name)
    counter = _Counter()
    blocks = dict(transformer_blocks(unet))
    feeds = [
        torch.empty([1 if size is None else size for size in shape], device="meta") for shape in inputs.shapes.values()
    ]
    with ExitStack() as hooks:
        for path, module in unet.named_modules():
            _count(hooks, counter, path, module, inside=path in blocks)
        try:
            with torch.no_grad():
                (out,) = UnetForm(unet)(*feeds)
        except RuntimeError as error:
            raise OptionError(f"{name} cannot run at latent size {inputs.latent}: {first_line(error)}") from error
    return UnetSpec(
        name=name,
        latent=inputs.latent,
        in_channels=inputs.in_channels,
        out_channels=out.shape[1],
        text_channels=inputs.text_channels,
        text_tokens=inputs.text_tokens,
        params=sum(parameter.numel() for parameter in unet.parameters()),
        macs=sum(counter.macs.values()) + sum(counter.pairs.values()),
        blocks=tuple(_spec(path, counter) for path in counter.order),
    )


class _Counter:
    """Results of the hooks."""

    def __init__(self) -> None:
        self.macs: dict[str, int] = defaultdict(int)
        self.pairs: dict[str, int] = defaultdict(int)
        self.grid: tuple[int, int] = (0, 0)
        self.order: dict[str, tuple[int, int, int]] = {}
        """Height, width and channels of each transformer block, in the order of execution."""


def _count(hooks: ExitStack, counter: _Counter, path: str, module: nn.Module, *, inside: bool) -> None:
    def after(hook: Callable[..., None]) -> None:
        hooks.callback(module.register_forward_hook(hook, with_kwargs=True).remove)

    if isinstance(module, nn.Linear):

        def linear(layer: nn.Linear, args: Any, _kwargs: Any, out: Tensor) -> None:
            counter.macs[path] += out.numel() * layer.in_features

        after(linear)
    elif isinstance(module, nn.Conv2d):

        def convolution(layer: nn.Conv2d, args: Any, _kwargs: Any, out: Tensor) -> None:
            counter.macs[path] += out.numel() * math.prod(layer.weight.shape[1:])

        after(convolution)
    elif hasattr(module, "to_q") and hasattr(module, "to_k"):

        def attention(layer: Any, args: Any, kwargs: Any, _out: Any) -> None:
            query = args[0] if args else kwargs["hidden_states"]
            read = kwargs.get("encoder_hidden_states")
            keys = (query if read is None else read).shape[1]
            counter.pairs[path] += 2 * query.shape[0] * query.shape[1] * keys * layer.to_q.out_features

        after(attention)
    elif inside:

        def block(_module: nn.Module, args: Any, kwargs: Any) -> None:
            tokens = args[0] if args else kwargs["hidden_states"]
            counter.order[path] = (*counter.grid, tokens.shape[-1])

        hooks.callback(module.register_forward_pre_hook(block, with_kwargs=True).remove)
    elif hasattr(module, "transformer_blocks"):

        def grid(_module: nn.Module, args: Any, kwargs: Any) -> None:
            image = args[0] if args else kwargs["hidden_states"]
            counter.grid = (image.shape[-2], image.shape[-1])

        hooks.callback(module.register_forward_pre_hook(grid, with_kwargs=True).remove)


def _spec(path: str, counter: _Counter) -> BlockSpec:
    height, width, channels = counter.order[path]
    tokens = height * width

    def within(part: str, leave_out: tuple[str, ...] = ()) -> int:
        prefix = f"{path}.{part}."
        return sum(
            macs
            for name, macs in counter.macs.items()
            if name.startswith(prefix) and not name.endswith(tuple(f"{part}.{left}" for left in leave_out))
        )

    return BlockSpec(
        path=path,
        down=path.startswith("down_blocks."),
        height=height,
        width=width,
        channels=channels,
        self_token=within("attn1") // tokens,
        self_pair=counter.pairs[f"{path}.attn1"] // tokens**2,
        cross_token=(within("attn2", ("to_k", "to_v")) + counter.pairs[f"{path}.attn2"]) // tokens,
        feed_token=within("ff") // tokens,
    )
