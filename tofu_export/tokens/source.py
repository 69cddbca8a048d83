"""Sources of token maps: an exported file, its metadata, and how to run images through it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from tofu_export.artifact.card import ModelCard
from tofu_export.artifact.feeds import as_asked
from tofu_export.artifact.preprocessing import Preprocessing
from tofu_export.compare.groups import GroupState, Reducing
from tofu_export.errors import OptionError
from tofu_export.options import Selection
from tofu_export.planning.entry import PlanEntry
from tofu_export.system.ort import TensorSpec
from tofu_export.system.typed_json import from_plain

__all__ = ["Runnable", "TokenRun", "TokenSource", "grid_of", "in_batches", "no_grid"]

Array = NDArray[Any]
Found = TypeVar("Found", bound="TokenSource")

_DAMAGED = (KeyError, TypeError, ValueError, IndexError, RecursionError)
"""Errors of reading metadata with the wrong structure."""


@dataclass(frozen=True)
class TokenRun:
    """Decisions of a file about some images.

    Attributes:
        states: groups of the original tokens after each reducing layer; for an engine only after the last one.
        notes: notes for the reader.
        backend: backend that ran the file, by its name in reports.
        output: output of the file that gives the last state; None if only decisions do.
    """

    states: tuple[GroupState, ...]
    notes: tuple[str, ...]
    backend: str
    output: str | None = None


@dataclass(frozen=True)
class TokenSource(ABC):
    """File of this project that removes tokens.

    Attributes:
        path: the file.
        model: name of the model.
        preprocessing: how images are prepared, for the file's input.
        prefix: protected tokens at the front.
        steps: the layers that remove tokens.
        tokens: tokens that enter the first block, prefix included, N0.
        pattern: one letter per layer.
    """

    path: Path
    model: str
    preprocessing: Preprocessing
    prefix: int
    steps: tuple[Reducing, ...]
    tokens: int
    pattern: str

    @classmethod
    def parsed(cls: type[Found], path: Path, card: ModelCard, size: Sequence[int | None] = ()) -> Found:
        """Read the source from the metadata of a file.

        Args:
            path: the file.
            card: its model card.
            size: channels, height and width of its input; open or missing sizes are those of the preprocessing.

        Raises:
            OptionError: the metadata do not state what the file removes, or it removes nothing.
        """
        facts = card.entries
        try:
            plan = from_plain(PlanEntry, facts["plan"], "plan")
            preprocessing = Preprocessing.from_dict(facts["preprocessing"])
            if size:
                preprocessing = preprocessing.with_size(size)
            select = Selection(plan.select or Selection.BIPARTITE)
            steps = tuple(
                Reducing(row.layer, row.method, row.tokens_in, row.removed, select)
                for row in plan.layers
                if row.removed
            )
            found = cls(
                path,
                str(facts["model"]),
                preprocessing,
                int(facts["prefix_tokens"]),
                steps,
                plan.layers[0].tokens_in,
                plan.pattern,
            )
        except _DAMAGED as error:
            fault = f"{error} is missing" if isinstance(error, KeyError) else str(error)
            raise OptionError(
                f"{path.name} does not say which tokens it removes ({fault}): expected a file that this version of "
                "tofu-export wrote, with plan and preprocessing in its metadata; export it again"
            ) from error
        if not steps:
            raise OptionError(f"{path.name} removes no token: there is nothing to draw, export it with --r above 0")
        return found

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the patches.

        Raises:
            OptionError: the patches do not fill a grid over the image.
        """
        patches = self.tokens - self.prefix
        found = grid_of(patches, self.preprocessing.image_size)
        if found is None:
            raise OptionError(f"{self.path.name}: {no_grid(patches, self.preprocessing.image_size)}")
        return found

    @abstractmethod
    def run(self, pixels: NDArray[np.float32]) -> TokenRun:
        """Run the file on images [B, C, H, W], normalised, and follow their patches.

        Raises:
            VerificationError: the file does not show its decisions, or they are impossible.
            TofuError: the file cannot be run.
        """


def grid_of(patches: int, image_size: tuple[int, int]) -> tuple[int, int] | None:
    """Return rows and columns of patches that fill an image of height and width; None if they do not."""
    height, width = image_size
    fitting = [
        (rows, patches // rows)
        for rows in range(1, patches + 1)
        if not patches % rows and not height % rows and not width % (patches // rows)
    ]
    return min(fitting, key=lambda size: abs(height / size[0] - width / size[1]), default=None)


def no_grid(patches: int, image_size: tuple[int, int]) -> str:
    """Return why patches cannot be drawn for which there is no `grid_of`."""
    height, width = image_size
    return f"{patches} patches do not fill a grid over an image of {height}x{width} pixels, so they cannot be drawn"


class Runnable(Protocol):
    """File that is loaded where it runs."""

    @property
    def label(self) -> str:
        """Name in messages."""

    @property
    def inputs(self) -> Mapping[str, TensorSpec]:
        """Inputs of `run`, by name."""

    def run(self, feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        """Run the file and return all outputs by name."""


def in_batches(session: Runnable, pixels: NDArray[np.float32], smallest: int = 1) -> dict[str, Array]:
    """Return all outputs for all images, in batches of the file's fixed size, or of the smallest that it serves.

    Raises:
        OptionError: the file takes something else than images.
    """
    if len(session.inputs) != 1:
        raise OptionError(f"{session.label} has inputs {', '.join(session.inputs)}, expected one: images")
    ((name, spec),) = session.inputs.items()
    size = (spec.shape[0] if spec.shape else None) or smallest
    runs: list[Mapping[str, Array]] = []
    for start in range(0, len(pixels), size):
        chosen = (start + np.arange(size)) % len(pixels)
        runs.append(session.run(as_asked({name: pixels[chosen]}, session.inputs)))
    return {key: np.concatenate([values[key] for values in runs])[: len(pixels)] for key in runs[0]}
