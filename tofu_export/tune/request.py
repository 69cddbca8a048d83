"""Requests to tune a reduction. Importing this module loads neither torch nor numpy."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

from tofu_export.errors import OptionError
from tofu_export.options import Method, Reduction, Selection, shared
from tofu_export.options.declaration import Section, opt, positional
from tofu_export.zoo.weights import WeightsSource, pretrained

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tofu_export.compare.agreement import Agreement

__all__ = ["Objective", "TuneRequest"]

_TIE = 0.01
"""Weight of the KL besides top-1, which alone does not distinguish most changes."""


class Objective(str, Enum):
    """Output to keep close to the full model's."""

    KL = "kl"
    LOGITS = "logits"
    FEATURES = "features"
    TOP1 = "top1"

    def losses(self, agreement: Agreement) -> NDArray[np.float64]:
        """Return the loss of each image, [B], 0 for perfect agreement.

        `kl`: divergence of the class probabilities, in nats. `logits`, `features`: 1 - cosine. `top1`: 1 if the
        best class differs, plus a hundredth of the KL, which breaks ties.
        """
        if self is Objective.FEATURES:
            assert agreement.feature_cosine is not None  # eager models give them
            return 1.0 - agreement.feature_cosine
        if agreement.kl is None or agreement.logit_cosine is None or agreement.same_top1 is None:
            raise OptionError(f"objective {self.value} needs a classifier: choose --objective features")
        if self is Objective.KL:
            return agreement.kl
        if self is Objective.LOGITS:
            return 1.0 - agreement.logit_cosine
        return (~agreement.same_top1).astype(float) + _TIE * agreement.kl


@dataclass(frozen=True)
class TuneRequest:
    """Request to tune a reduction. One of `gmacs`, `speedup` and `latency_ms` is the budget.

    Attributes:
        model: timm name, alias, hub name or the demo model.
        gmacs: largest cost of the reduced model.
        speedup: cost of the full model divided by the largest cost of the reduced one.
        latency_ms: largest time of a batch in eager PyTorch on this machine.
        images: folder of images, without classes; None for the demo model's own.
        limit: the most images to use, spread evenly over all.
        objective: what to keep close to the full model; None: KL with a classifier, features without.
        methods: letters of the methods to choose from.
        exclude_layers: layers that remove nothing.
        select: how the tokens that leave are chosen, in all layers.
        evaluations: the most plans to try.
        batch: batch size, also for timing.
        seed: seed of the split, the search and random weights.
        weights: source of the weights.
        image_size: height and width in pixels; None for the model's own.
        state: file that keeps measured losses; None to keep nothing.

    Raises:
        OptionError: a value is out of range, or there is not exactly one budget.
    """

    model: str = positional()
    gmacs: float | None = opt(None, "Budget: at most X GMACs per image.", Section.REDUCTION, metavar="X", everyday=True)
    speedup: float | None = opt(None, "Budget: X times fewer GMACs.", Section.REDUCTION, metavar="X", everyday=True)
    latency_ms: float | None = opt(
        None, "Budget: milliseconds for a --batch in eager PyTorch on this machine.", Section.REDUCTION,
        flags=("--latency",), metavar="MS", everyday=True,
    )  # fmt: skip
    images: Path | None = shared.images(" like those that it will see, without labels", unless="demo_vit's own")
    limit: int = shared.limit(640, minimum=10, use=": 40 % to search on, 20 % to choose on, 40 % to report on")
    objective: Objective | None = opt(
        None, "What to keep close to the full model.", Section.REDUCTION, unless="kl, features without classes"
    )
    methods: str = opt(
        "PMWT", "What layers may do: P prune, A average, M mlerp, W weighted mlerp, T tome.", Section.REDUCTION,
        metavar="LETTERS",
    )  # fmt: skip
    exclude_layers: tuple[int, ...] = shared.exclude_layers()
    select: Selection = shared.select()
    evaluations: int = opt(200, "Plans to try.", Section.REDUCTION, metavar="N", minimum=1, everyday=True)
    batch: int = shared.image_batch(32)
    seed: int = shared.seed("the split, the search and random weights")
    weights: WeightsSource = pretrained()
    image_size: tuple[int, int] | None = shared.image_size()
    state: Path | None = opt(
        None, "What was measured, to go on after a kill.", Section.OUTPUT, metavar="FILE",
        unless="OUTPUT.state.jsonl", everyday=True,
    )  # fmt: skip

    def __post_init__(self) -> None:
        if sum(value is not None for value in (self.gmacs, self.speedup, self.latency_ms)) != 1:
            raise OptionError("give one budget: --gmacs X, --speedup X or --latency MS")
        if self.latency_ms is not None and not self.latency_ms > 0:
            raise OptionError(f"latency is {self.latency_ms} ms, expected a number over 0")
        if self.latency_ms is None:
            Reduction(gmacs=self.gmacs, speedup=self.speedup)  # checks the number
        if self.select.is_trained:
            raise OptionError(
                f"tune finds amounts and methods, which weights trained for {self.select.value} bring with them: "
                "choose another --select"
            )
        for name, least in (("limit", 10), ("evaluations", 1), ("batch", 1)):
            if getattr(self, name) < least:
                raise OptionError(f"{name} is {getattr(self, name)}, expected at least {least}")
        known = [method.value for method in Method if method is not Method.NONE]
        wrong = [letter for letter in self.methods if letter not in known]
        if wrong or not self.methods or len(set(self.methods)) < len(self.methods):
            raise OptionError(
                f"methods are {self.methods!r}, expected some of the letters {', '.join(known)}, each once"
            )
