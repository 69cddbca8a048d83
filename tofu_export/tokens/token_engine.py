"""Use a TensorRT engine as a source of token maps: it must have been exported with the map as an output."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tofu_export.benchmarking.options import PLAN_BACKENDS
from tofu_export.compare.groups import GroupState, from_patches
from tofu_export.engines.describing.engine_file import read_engine_file
from tofu_export.engines.describing.sidecar import missing_sidecar, read_sidecar
from tofu_export.engines.running.engine_session import open_engine
from tofu_export.errors import OptionError, VerificationError
from tofu_export.options import PATCH_GROUPS
from tofu_export.system.files import require_file
from tofu_export.tokens.source import TokenRun, TokenSource, in_batches

__all__ = ["TokenEngine"]


@dataclass(frozen=True)
class TokenEngine(TokenSource):
    """Engine that was built from an ONNX file of this project, with its sidecar."""

    @classmethod
    def read(cls, path: Path) -> TokenEngine:
        """Read the facts about an engine, without loading it.

        Raises:
            OptionError: there is no such engine, its sidecar does not state what it removes, it removes nothing, or it
                has no map.
        """
        require_file(path, "a TensorRT plan")
        sidecar = read_sidecar(path)
        if sidecar is None:
            raise OptionError(f"{path.name} does not say what images it takes: {missing_sidecar(path)}")
        found = cls.parsed(path, sidecar.card)
        names = (sidecar.card.find("output", dict) or {}).get("names")
        if not isinstance(names, list) or PATCH_GROUPS not in names:
            raise _no_map(path)
        return found

    def run(self, pixels: NDArray[np.float32]) -> TokenRun:
        """Run the engine on the GPU of this machine on images [B, C, H, W], normalised, and read its map.

        Raises:
            BackendMissingError: there is no GPU or runtime for the engine here.
            EngineBuildError: the engine cannot be loaded or run.
            OptionError: the engine has no map.
            VerificationError: its output is not a map.
        """
        engine = read_engine_file(self.path)
        session = open_engine(self.path, engine.flavour)
        try:
            if PATCH_GROUPS not in session.outputs:
                raise _no_map(self.path)
            seen = in_batches(session, pixels, 1 if engine.batch is None else engine.batch.minimum)
        finally:
            session.close()
        last = self.steps[-1]
        groups = from_patches(seen[PATCH_GROUPS], self.prefix, last.tokens_out)
        if groups is None or groups.shape != (len(pixels), self.tokens):
            raise VerificationError(
                f"output {PATCH_GROUPS} of {self.path.name} is no map of {self.tokens - self.prefix} patches onto "
                f"{last.tokens_out} tokens: `tofu-export verify` looks closer"
            )
        backend = next(name for name, flavour in PLAN_BACKENDS.items() if flavour is engine.flavour)
        note = f"an engine shows the last map alone, its output {PATCH_GROUPS}: its ONNX file has one for each layer"
        return TokenRun((GroupState(last, groups),), (note,), backend, PATCH_GROUPS)


def _no_map(path: Path) -> OptionError:
    return OptionError(
        f"{path.name} is a TensorRT plan without the output {PATCH_GROUPS}, and does not show what became of patches: "
        "export it with --token-map, or give its ONNX file"
    )
