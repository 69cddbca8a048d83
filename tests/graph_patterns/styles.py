"""How others write token merging in PyTorch, each in a few lines of our own: what exporters make of it is lowered.

Every module takes tokens [B, N, C] and gives tokens. The first token is a class token that never leaves.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Mapping
from importlib.metadata import version

import onnx
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["LEFT", "OLDER", "STYLES", "WIDTH", "Bipartite", "by_scatter", "export", "tokens_of"]

TOKENS, WIDTH, REMOVED = 17, 8, 4
GRID = 4
"""Side of the image of a diffusion-like layer, which has no class token."""

Merge = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Destinations [B, T, C], sources that leave [B, R, C], where each goes [B, R]; the destinations with them."""


def matched(keys: Tensor, removed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Sources that stay, those that leave, and where these go: alternate tokens, the most similar ones first."""
    unit = keys / keys.norm(dim=-1, keepdim=True)
    sources, destinations = unit[:, ::2], unit[:, 1::2]
    scores = sources @ destinations.transpose(-1, -2)
    scores[:, 0, :] = -torch.inf
    best, nearest = scores.max(dim=-1)
    order = best.argsort(dim=-1, descending=True)
    leaving, staying = order[:, :removed], order[:, removed:].sort(dim=-1).values
    return staying, leaving, nearest.gather(1, leaving)


def rows(tokens: Tensor, index: Tensor) -> Tensor:
    """The tokens [B, R, C] at the places [B, R]."""
    return tokens.gather(1, index[..., None].expand(-1, -1, tokens.shape[-1]))


def wide(index: Tensor, tokens: Tensor) -> Tensor:
    """Places [B, R] for every channel."""
    return index[..., None].expand(-1, -1, tokens.shape[-1])


class Bipartite(nn.Module):
    """Sources merge into destinations; how, is the style."""

    def __init__(self, merge: Merge) -> None:
        super().__init__()
        self.merge = merge
        self.keys = nn.Linear(WIDTH, WIDTH)

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, N, C] to [B, N - R, C]."""
        staying, leaving, target = matched(self.keys(tokens), REMOVED)
        sources, destinations = tokens[:, ::2], tokens[:, 1::2]
        return torch.cat([rows(sources, staying), self.merge(destinations, rows(sources, leaving), target)], dim=1)


def by_scatter(reduce: str, *, include_self: bool = True) -> Merge:
    def merge(destinations: Tensor, leaving: Tensor, target: Tensor) -> Tensor:
        return destinations.scatter_reduce(1, wide(target, leaving), leaving, reduce, include_self=include_self)

    return merge


def by_sizes(destinations: Tensor, leaving: Tensor, target: Tensor) -> Tensor:
    """A weighted mean as a sum and a count, the count without channels."""
    total = destinations.scatter_add(1, wide(target, leaving), leaving)
    count = torch.ones_like(destinations[..., 0]).scatter_add(1, target, torch.ones_like(leaving[..., 0]))
    return total / count[..., None]


def by_index_put(destinations: Tensor, leaving: Tensor, target: Tensor) -> Tensor:
    """`destinations[batch, target] += leaving`, with all that go to one place counted."""
    batch = torch.arange(target.shape[0])[:, None].expand_as(target)
    return destinations.index_put((batch, target), leaving, accumulate=True)


def by_index_add(destinations: Tensor, leaving: Tensor, target: Tensor) -> Tensor:
    """All images flattened into one row of tokens."""
    batch, places, width = destinations.shape
    flat = (target + places * torch.arange(batch)[:, None]).reshape(-1)
    return destinations.reshape(-1, width).index_add(0, flat, leaving.reshape(-1, width)).view(batch, places, width)


def by_channel(destinations: Tensor, leaving: Tensor, target: Tensor) -> Tensor:
    """Another place for each channel: no merging of tokens, but the same operator."""
    places = (target[..., None] + torch.arange(leaving.shape[-1])) % destinations.shape[1]
    return destinations.scatter_add(1, places, leaving)


class Masked(nn.Module):
    """Tokens of small norm are set to a value where they stand."""

    def __init__(self, write: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.write = write

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, N, C] to [B, N, C]."""
        return self.write(tokens, tokens.norm(dim=-1) < WIDTH**0.5)


def set_where(tokens: Tensor, mask: Tensor) -> Tensor:
    tokens = tokens.clone()
    tokens[mask] = 0.5
    return tokens


def set_row_where(tokens: Tensor, mask: Tensor) -> Tensor:
    tokens = tokens.clone()
    tokens[mask] = torch.linspace(-1.0, 1.0, tokens.shape[-1])
    return tokens


def scale_where(tokens: Tensor, mask: Tensor) -> Tensor:
    tokens = tokens.clone()
    tokens[mask] *= 0.5
    return tokens


def elements_where(tokens: Tensor, mask: Tensor) -> Tensor:
    tokens = tokens.clone()
    tokens[tokens > 1.0] = -torch.inf
    return tokens.softmax(dim=-1)


def filled(tokens: Tensor, mask: Tensor) -> Tensor:
    return tokens.masked_fill(mask[..., None], 0.5)


def set_rows(tokens: Tensor, mask: Tensor) -> Tensor:
    tokens = tokens.clone()
    tokens[:, 0] = 0.0
    tokens[..., 2:4] = 1.0
    return tokens


def chosen(tokens: Tensor, mask: Tensor) -> Tensor:
    """As many tokens as the mask has: no shape is known before it runs."""
    return tokens[mask]


class Energy(nn.Module):
    """Tokens in crowds merge, tokens alone stay: an energy score from all similarities, in the manner of PiToMe."""

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, N, C] to [B, N - R, C]."""
        unit = functional.normalize(tokens, dim=-1)
        similar = unit @ unit.transpose(-1, -2)
        energy = functional.elu(similar - 0.5).mean(dim=-1)
        order = energy.argsort(dim=-1, descending=True)
        crowded, alone = order[:, : 2 * REMOVED], order[:, 2 * REMOVED :]
        first, second = crowded[:, ::2], crowded[:, 1::2]
        batch = torch.arange(tokens.shape[0])[:, None]
        target = rows(similar, first).gather(2, second[:, None, :].expand(-1, REMOVED, -1)).argmax(dim=-1)
        merged, leaving = tokens[batch, second], tokens[batch, first]
        total = merged.scatter_reduce(1, wide(target, leaving), leaving, "sum")
        ones = torch.ones_like(merged[..., :1])
        count = ones.scatter_reduce(1, target[..., None], ones, "sum")
        return torch.cat([tokens[batch, alone], total / count], dim=1)


class Diffusion(nn.Module):
    """Self-attention between merging and unmerging, in the manner of tomesd: one token of each 2 x 2 stays put."""

    def __init__(self, removed: int = 6) -> None:
        super().__init__()
        self.removed = removed
        places = torch.arange(GRID * GRID).view(GRID, GRID)
        corners = places[::2, ::2].reshape(-1)
        self.register_buffer("destinations", corners)
        self.register_buffer("sources", torch.tensor([place for place in range(GRID * GRID) if place not in corners]))
        self.norm = nn.LayerNorm(WIDTH)
        self.query, self.key, self.value, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, N, C] to [B, N, C], N a grid."""
        hidden = self.norm(tokens)
        batch, total, width = hidden.shape
        sources, destinations = self.sources, self.destinations
        unit = hidden / hidden.norm(dim=-1, keepdim=True)
        best, nearest = (unit[:, sources] @ unit[:, destinations].transpose(-1, -2)).max(dim=-1)
        order = best.argsort(dim=-1, descending=True)
        leaving, staying = order[:, : self.removed], order[:, self.removed :]
        target = nearest.gather(1, leaving)
        parts = hidden[:, sources]
        count = torch.ones(batch, len(destinations), 1).scatter_add(
            1, target[..., None], torch.ones(batch, self.removed, 1)
        )
        joined = hidden[:, destinations].scatter_reduce(1, wide(target, hidden), rows(parts, leaving), "sum") / count
        merged = self.attend(torch.cat([rows(parts, staying), joined], dim=1))
        kept, joined = merged[:, : len(sources) - self.removed], merged[:, len(sources) - self.removed :]
        back = torch.zeros(batch, total, width)
        back.scatter_(1, destinations[None, :, None].expand(batch, -1, width), joined)
        back.scatter_(1, wide(sources[staying], hidden), kept)
        back.scatter_(1, wide(sources[leaving], hidden), rows(joined, target))
        return tokens + back

    def attend(self, hidden: Tensor) -> Tensor:
        """Two heads, as diffusers' attention has them."""
        batch, _, width = hidden.shape
        query, key, value = (
            layer(hidden).view(batch, -1, 2, width // 2).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        attended = functional.scaled_dot_product_attention(query, key, value)
        return self.out(attended.transpose(1, 2).reshape(batch, -1, width))


STYLES: Mapping[str, Callable[[], nn.Module]] = {
    "scatter_reduce sum": lambda: Bipartite(by_scatter("sum")),
    "scatter_reduce amax": lambda: Bipartite(by_scatter("amax")),
    "scatter_reduce amin": lambda: Bipartite(by_scatter("amin")),
    "scatter_reduce prod": lambda: Bipartite(by_scatter("prod")),
    "sum without self": lambda: Bipartite(by_scatter("sum", include_self=False)),
    "sum and count": lambda: Bipartite(by_sizes),
    "index_put": lambda: Bipartite(by_index_put),
    "index_add": lambda: Bipartite(by_index_add),
    "places by channel": lambda: Bipartite(by_channel),
    "energy": Energy,
    "diffusion": Diffusion,
    "set where": lambda: Masked(set_where),
    "set a row where": lambda: Masked(set_row_where),
    "scale where": lambda: Masked(scale_where),
    "elements where": lambda: Masked(elements_where),
    "masked_fill": lambda: Masked(filled),
    "set rows": lambda: Masked(set_rows),
}
"""What a lowered file computes as before."""

OLDER = ("scatter_reduce sum", "scatter_reduce amax", "sum and count", "energy", "diffusion", "scale where")
"""Those that the TorchScript exporter writes in another form, and rightly."""

LEFT: Mapping[str, Callable[[], nn.Module]] = {
    "scatter_reduce mean": lambda: Bipartite(by_scatter("mean")),
    "chosen": lambda: Masked(chosen),
}
"""What is left as it is, and said."""


def tokens_of(module: nn.Module) -> int:
    """How many tokens the module takes."""
    return GRID * GRID if isinstance(module, Diffusion) else TOKENS


def export(module: nn.Module, *, dynamo: bool = True) -> onnx.ModelProto:
    """The module as `torch.onnx.export` writes it, with a dynamic batch."""
    example = torch.randn(2, tokens_of(module), WIDTH)
    buffer = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        if dynamo:
            try:
                program = torch.onnx.export(
                    module.eval(), (example,), dynamo=True, input_names=["x"], output_names=["y"], verbose=False,
                    dynamic_shapes=({0: torch.export.Dim("batch")},),
                )  # fmt: skip
            except torch.onnx.OnnxExporterError as error:
                if version("onnxscript").startswith("0.5."):
                    pytest.skip(f"onnxscript 0.5 cannot write it: {type(error).__name__}")
                raise
            assert program is not None
            return program.model_proto
        torch.onnx.export(
            module.eval(), (example,), buffer, dynamo=False, opset_version=18, input_names=["x"], output_names=["y"],
            dynamic_axes={"x": {0: "batch"}, "y": {0: "batch"}},
        )  # fmt: skip
    return onnx.load_from_string(buffer.getvalue())
