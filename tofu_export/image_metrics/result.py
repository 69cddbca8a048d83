"""Records of a comparison of images, and the document of `tofu-export images-compare --json`. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from tofu_export.system import environment
from tofu_export.system.typed_json import JsonObject, optional, to_object

__all__ = ["Comparison", "Fid", "Kid", "LeftOut", "Metric", "NetworkWeights", "OfPairs", "PairRow"]


@dataclass(frozen=True)
class NetworkWeights:
    """File with the weights of a network."""

    file: str
    sha256: str


@dataclass(frozen=True)
class OfPairs:
    """A metric of pairs, over all of them.

    Attributes:
        mean: mean of the finite values; None without any.
        worst: the worst of the finite values; None without any.
        pairs: number of pairs.
        network: network of LPIPS.
        weights: its weights.
        unit: unit of PSNR.
        identical: number of equal pairs, whose PSNR is infinite.
    """

    mean: float | None
    worst: float | None
    pairs: int
    network: str | None = optional()
    weights: NetworkWeights | None = optional()
    unit: str | None = optional()
    identical: int | None = optional()


@dataclass(frozen=True)
class Fid:
    """Fréchet distance of two sets; None if not finite."""

    value: float | None
    weights: NetworkWeights


@dataclass(frozen=True)
class Kid:
    """Mean and standard deviation of the kernel distance over subsets.

    Attributes:
        mean: the distance.
        std: standard deviation over the subsets; 0 if each subset is all images.
        subsets: number of subsets.
        subset_size: number of images of each side in a subset.
        weights: weights of the network that gave the features.
    """

    mean: float
    std: float
    subsets: int
    subset_size: int
    weights: NetworkWeights | None = optional()


Metric: TypeAlias = OfPairs | Fid | Kid


@dataclass(frozen=True)
class PairRow:
    """Metrics of one pair, by name; None for a value that is not finite."""

    name: str
    values: Mapping[str, float | None]


@dataclass(frozen=True)
class LeftOut:
    """Metric that is left out, and why."""

    metric: str
    reason: str


@dataclass
class Comparison:
    """Result of a comparison of images.

    Attributes:
        a: number of images of the first side.
        b: number of images of the second side.
        pairs: number of pairs.
        metrics: metrics by name.
        rows: one for each pair.
        skipped: metrics left out.
        notes: notes for the reader.
    """

    a: int
    b: int
    pairs: int
    metrics: dict[str, Metric] = field(default_factory=dict)
    rows: list[PairRow] = field(default_factory=list)
    skipped: list[LeftOut] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def to_dict(self, command: str, *, rows: bool = False) -> JsonObject:
        """Return the document of `--json`: names are stable, values that JSON cannot represent are null."""
        document = {
            "schema_version": 1,
            "command": command,
            "images": {"a": self.a, "b": self.b, "pairs": self.pairs},
            "metrics": self.metrics,
            "skipped": self.skipped,
            "notes": self.notes,
            "environment": environment.collect("pillow", "torch_fidelity", "torchmetrics", "torchvision"),
        }
        per_pair = {"rows": [{"name": row.name, **row.values} for row in self.rows]} if rows else {}
        return to_object({**document, **per_pair})
