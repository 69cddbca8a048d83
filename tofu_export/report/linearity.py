"""The document of `tofu-export analyze`: how straight layers are, and what merging does to the length of tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tofu_export.system.environment import Environment
from tofu_export.system.typed_json import optional

__all__ = ["AnalysisDocument", "LayerLinearity", "Summary", "TokenNorms"]


@dataclass(frozen=True)
class Summary:
    """Number of values that are known and of those that are not, mean and spread; None where none is known."""

    n: int
    undefined: int
    mean: float | None
    std: float | None
    q1: float | None
    median: float | None
    q3: float | None


@dataclass(frozen=True)
class LayerLinearity:
    """One block.

    Attributes:
        layer: its index.
        similarity: cosine of the keys of its matched pairs.
        mlp: linearity of the MLP branch; None where the block has none.
        mlp_residual: the same with its residual.
        attention: linearity of the attention branch.
        attention_residual: the same with its residual.
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
    """Length of unprotected tokens behind each block: of the full model, and by method over that of the full one."""

    full: tuple[Summary, ...]
    prune: Ratios
    average: Ratios
    mlerp: Ratios


@dataclass(frozen=True, kw_only=True)
class AnalysisDocument:
    """What was measured.

    Attributes:
        schema_version: of the document.
        model: resolved name.
        loaded: what was loaded, in one line.
        images: number of images.
        source: where they came from.
        r: pairs of an image per layer, before the cap of the token count.
        steps: K of equation 8.
        functions: what each linearity is of.
        layers: one entry per block.
        token_norms: length of all tokens.
        environment: versions and hardware.
        command: how the user asked for it.
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
