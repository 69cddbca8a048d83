"""Document of `tofu-export analyze`: linearity of layers, and token lengths after merging."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tofu_export.system.environment import Environment
from tofu_export.system.typed_json import optional

__all__ = ["AnalysisDocument", "LayerLinearity", "Summary", "TokenNorms"]


@dataclass(frozen=True)
class Summary:
    """Summary of values: number known and unknown, mean and spread; None if none is known."""

    n: int
    undefined: int
    mean: float | None
    std: float | None
    q1: float | None
    median: float | None
    q3: float | None


@dataclass(frozen=True)
class LayerLinearity:
    """Linearity of one block.

    Attributes:
        layer: its index.
        similarity: cosine similarity of the keys of its matched pairs.
        mlp: linearity of the MLP branch; None if the block has none.
        mlp_residual: linearity of the MLP branch with its residual.
        attention: linearity of the attention branch.
        attention_residual: linearity of the attention branch with its residual.
        merged_norm: length of a merged token over the longest of its group, by method.
    """

    layer: int
    similarity: Summary
    mlp: Summary | None = optional()
    mlp_residual: Summary | None = optional()
    attention: Summary | None = optional()
    attention_residual: Summary | None = optional()
    merged_norm: Mapping[str, Summary] = field(default_factory=dict)


Ratios = tuple[float | None, ...]


@dataclass(frozen=True)
class TokenNorms:
    """Length of unprotected tokens after each block: of the full model, and by method relative to the full one."""

    full: tuple[Summary, ...]
    prune: Ratios
    average: Ratios
    mlerp: Ratios


@dataclass(frozen=True, kw_only=True)
class AnalysisDocument:
    """Result of an analysis.

    Attributes:
        schema_version: version of the document.
        model: resolved name.
        loaded: description of the loaded weights, in one line.
        images: number of images.
        source: where the images came from.
        r: pairs per image and layer, before the cap of the token count.
        steps: K of equation 8.
        functions: function that each linearity measures.
        layers: one entry per block.
        token_norms: length of all tokens.
        environment: versions and hardware.
        command: the user's command line.
    """

    schema_version: int
    model: str
    loaded: str | None = None
    images: int
    source: str
    r: int
    steps: int
    functions: Mapping[str, str] = field(default_factory=dict)
    layers: tuple[LayerLinearity, ...]
    token_norms: TokenNorms
    environment: Environment | None = None
    command: str = ""
