"""A TensorRT plan as a source of token maps: it shows its outputs only, so it must have been exported with the map."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tofu_export.engines.backends import PLAN_BACKENDS
from tofu_export.engines.engine_session import open_engine
from tofu_export.engines.plan_file import read_plan_file
from tofu_export.engines.receipt import sidecar_path
from tofu_export.errors import EngineBuildError, OptionError, VerificationError
from tofu_export.groups import GroupState, from_patches
from tofu_export.options import PATCH_GROUPS
from tofu_export.tokens.source import TokenRun, TokenSource, in_batches

__all__ = ["TokenEngine"]

_SOURCE = "source"
"""Where the file beside a plan keeps the metadata of the ONNX file that it was built from."""


@dataclass(frozen=True)
class TokenEngine(TokenSource):
    """A plan that was built from an ONNX file of this project, with the file beside it that says so."""

    @classmethod
    def read(cls, path: Path) -> TokenEngine:
        """What is known of the plan at `path`, which is not loaded yet.

        Raises:
            EngineBuildError: there is no such plan.
            OptionError: what is beside it does not say what it removes, it removes nothing, or it has no map to show.
        """
        if not path.is_file():
            raise EngineBuildError(f"{path} is not a file, expected a TensorRT plan")
        facts = _metadata(path)
        found = cls.parsed(path, facts)
        output = facts.get("output")
        names = output.get("names") if isinstance(output, dict) else None
        if not isinstance(names, list) or PATCH_GROUPS not in names:
            raise _no_map(path)
        return found

    def run(self, pixels: NDArray[np.float32]) -> TokenRun:
        """Run the plan on the GPU of this machine on images [B, C, H, W], normalised, and take the map that it gives.

        Raises:
            BackendMissingError: there is no GPU or runtime for the plan here.
            EngineBuildError: the plan cannot be loaded or run.
            OptionError: it has no map to show.
            VerificationError: what it gives is no map.
        """
        plan = read_plan_file(self.path)
        session = open_engine(self.path, plan.flavour)
        try:
            if PATCH_GROUPS not in session.outputs:
                raise _no_map(self.path)
            seen = in_batches(session, pixels, 1 if plan.batch is None else plan.batch.minimum)
        finally:
            session.close()
        last = self.steps[-1]
        groups = from_patches(seen[PATCH_GROUPS], self.prefix, last.tokens_out)
        if groups is None or groups.shape != (len(pixels), self.tokens):
            raise VerificationError(
                f"output {PATCH_GROUPS} of {self.path.name} is no map of {self.tokens - self.prefix} patches onto "
                f"{last.tokens_out} tokens: `tofu-export verify` looks closer"
            )
        backend = next(name for name, flavour in PLAN_BACKENDS.items() if flavour is plan.flavour)
        note = f"an engine shows the last map alone, its output {PATCH_GROUPS}: its ONNX file has one for each layer"
        return TokenRun((GroupState(last, groups),), (note,), backend, PATCH_GROUPS)


def _no_map(path: Path) -> OptionError:
    return OptionError(
        f"{path.name} is a TensorRT plan without the output {PATCH_GROUPS}, and does not show what became of patches: "
        "export it with --token-map, or give its ONNX file"
    )


def _metadata(path: Path) -> dict[str, Any]:
    """The metadata of the ONNX file that a plan was built from."""
    sidecar = sidecar_path(path)
    try:
        return dict(json.loads(sidecar.read_text(encoding="utf-8"))[_SOURCE])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise OptionError(
            f"{sidecar} does not say what {path.name} was made from ({type(error).__name__}: {error}): give an engine "
            "with the file that tofu-export wrote beside it, or its ONNX file"
        ) from error
