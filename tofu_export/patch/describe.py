"""Measure the cost of a model by running it once on the meta device with counters on its leaves."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

from tofu_export.errors import UnsupportedModelError
from tofu_export.patch.blocks import adapter_for
from tofu_export.patch.predictors import predictors_of
from tofu_export.patch.support import block_prefix, check_supported, whole_prefix
from tofu_export.planning.plan import BlockCost, ModelSpec

__all__ = ["describe"]

_PRODUCTS = (torch.matmul, torch.Tensor.matmul, torch.Tensor.__matmul__)


def describe(model: nn.Module, name: str, image_size: tuple[int, int] | None = None) -> ModelSpec:
    """Return the cost and token structure of an unpatched model.

    Args:
        model: a supported timm model on the meta device (values are never read).
        name: name of the model in messages and in the spec.
        image_size: height and width in pixels; None: the model's own.

    Raises:
        UnsupportedModelError: the model is not supported.

    Source: fvcore's operator counts (linear and convolution: multiply-accumulates; layer norm: 5 per element, 4
    without affine weights), plus the two products of the attention.
    """
    check_supported(model, name)
    architecture: Any = model
    prefix = block_prefix(model)
    size = image_size or _image_size(architecture, name)
    counter = _Counter()
    with torch.no_grad(), _counting(model, counter):
        architecture(torch.empty(1, _input_channels(architecture), *size, device="meta"))

    tokens = counter.block_tokens
    blocks = []
    for index, block in enumerate(architecture.blocks):
        adapter = adapter_for(block)
        assert adapter is not None  # check_supported
        feed = attend = 0
        for path, macs in counter.macs.items():
            if path.startswith(f"blocks.{index}."):
                if path.split(".")[2] in adapter.feed_modules:
                    feed += macs
                else:
                    attend += macs
        blocks.append(BlockCost(attend // tokens, counter.pairs[f"blocks.{index}"] // tokens**2, feed // tokens))
    patches = tokens - prefix
    joined = tokens + whole_prefix(model) - prefix  # with a class token that joins after the blocks
    tail = {path: macs for path, macs in counter.macs.items() if path in counter.after_blocks}
    per_token = {path for path in tail if counter.rows[path] in (tokens, patches, joined)}
    stem = sum(macs for path, macs in counter.macs.items() if path not in tail and not path.startswith("blocks."))
    return ModelSpec(
        name=name,
        image_size=(int(size[0]), int(size[1])),
        in_chans=_input_channels(architecture),
        num_classes=int(architecture.num_classes),
        tokens=tokens,
        prefix_tokens=prefix,
        embed_dim=int(architecture.embed_dim),
        params=sum(parameter.numel() for parameter in model.parameters()),
        stem_macs=stem,
        blocks=tuple(blocks),
        tail_token=sum(tail[path] // counter.rows[path] for path in per_token) + counter.pairs["tail"] // tokens,
        tail_fixed=sum(macs for path, macs in tail.items() if path not in per_token),
        predictors=predictors_of(model),
    )


def _input_channels(architecture: Any) -> int:
    convolutions = (module.in_channels for module in architecture.modules() if isinstance(module, nn.Conv2d))
    return int(next(convolutions, getattr(architecture, "in_chans", 3)))


def _image_size(architecture: Any, name: str) -> tuple[int, int]:
    """Return the input size of a model; that of its weights if the model takes any size."""
    made_for = getattr(getattr(architecture, "patch_embed", None), "img_size", None)
    if made_for is None:
        made_for = (getattr(architecture, "pretrained_cfg", None) or {}).get("input_size", (None,))[1:]
    if not made_for:
        raise UnsupportedModelError(f"{name} is made for images of any size: choose one with image_size")
    return int(made_for[0]), int(made_for[1])


class _Counter(TorchFunctionMode):
    """Torch function mode that counts multiply-accumulates per leaf module, and of token pairs per block."""

    def __init__(self) -> None:
        super().__init__()
        self.macs: dict[str, int] = defaultdict(int)
        self.rows: dict[str, int] = {}
        self.pairs: dict[str, int] = defaultdict(int)
        self.after_blocks: set[str] = set()
        self.block_tokens = 0
        self.where = "stem"
        self.in_leaf = False

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Count what no leaf module computes: attention products, and linear layers called by their weight."""
        if func is scaled_dot_product_attention:
            query, key, value = args[:3]
            self.pairs[self.where] += query[..., 0].numel() * key.shape[-2] * (query.shape[-1] + value.shape[-1])
        result = func(*args, **(kwargs or {}))
        if func in _PRODUCTS and result.dim() == 4:
            self.pairs[self.where] += result.numel() * args[0].shape[-1]
        elif func is nn.functional.linear and not self.in_leaf:
            self.count(f"{self.where}.attn", result.numel() * args[0].shape[-1], result)
        return result

    def leaf(self, path: str, module: nn.Module, output: Tensor) -> None:
        """Count one call of a leaf module."""
        weight = getattr(module, "weight", None)
        if isinstance(module, nn.Linear):
            macs = output.numel() * module.in_features
        elif isinstance(module, nn.Conv2d):
            kernel = module.kernel_size[0] * module.kernel_size[1]
            macs = output.numel() * module.in_channels // module.groups * kernel
        elif isinstance(module, nn.LayerNorm | nn.RMSNorm | nn.GroupNorm | nn.BatchNorm2d):
            macs = output.numel() * (4 if weight is None else 5)
        else:
            return
        self.count(path, macs, output)

    def count(self, path: str, macs: int, output: Tensor) -> None:
        """Add multiply-accumulates of tokens, or of token pairs if the output has an entry for each pair."""
        if not {"rel_pos", "shared_rel_pos"}.isdisjoint(path.split(".")):
            return  # made from weights alone, the same for every image
        if self.where.startswith("blocks.") and output.shape[1:-1] == (self.block_tokens,) * 2:
            self.pairs[self.where] += macs
            return
        self.macs[path] += macs
        self.rows[path] = output.shape[1] if output.dim() == 3 else 1
        if self.where == "tail":
            self.after_blocks.add(path)


@contextmanager
def _counting(model: nn.Module, counter: _Counter) -> Iterator[None]:
    """Attach a counter to every leaf; force fused attention so that its calls are seen."""
    handles = []
    switched = []
    architecture: Any = model

    def enter_block(index: int) -> Callable[..., None]:
        def hook(_module: nn.Module, args: tuple[Tensor, ...]) -> None:
            counter.where = f"blocks.{index}"
            counter.block_tokens = args[0].shape[1]

        return hook

    def leave_blocks(_module: nn.Module, _args: Any, _output: Any) -> None:
        counter.where = "tail"

    def count(path: str) -> Callable[..., None]:
        def hook(module: nn.Module, _args: Any, output: Tensor) -> None:
            counter.in_leaf = False
            counter.leaf(path, module, output)

        return hook

    def enter_leaf(_module: nn.Module, _args: Any) -> None:
        counter.in_leaf = True

    try:
        for index, block in enumerate(architecture.blocks):
            handles.append(block.register_forward_pre_hook(enter_block(index)))
        handles.append(architecture.blocks[-1].register_forward_hook(leave_blocks))
        for path, module in model.named_modules():
            if not any(True for _ in module.children()):
                handles.append(module.register_forward_pre_hook(enter_leaf))
                handles.append(module.register_forward_hook(count(path)))
            if getattr(module, "fused_attn", True) is False:
                switched.append(module)
                module.fused_attn = True
        with counter:
            yield
    finally:
        for handle in handles:
            handle.remove()
        for module in switched:
            module.fused_attn = False
