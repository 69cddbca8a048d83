"""Token maps: which patches of an image share a token, and which are pruned, as the exported file decided."""

from pathlib import Path

from tofu_export.options import PLAN_SUFFIXES
from tofu_export.tokens.source import TokenRun, TokenSource
from tofu_export.tokens.token_engine import TokenEngine
from tofu_export.tokens.token_file import TokenFile

__all__ = ["TokenRun", "TokenSource", "read_source"]


def read_source(path: Path) -> TokenSource:
    """Read an ONNX file or a TensorRT engine, distinguished by suffix.

    Raises:
        TofuError: as in `TokenFile.read` and `TokenEngine.read`.
    """
    return TokenEngine.read(path) if path.suffix in PLAN_SUFFIXES else TokenFile.read(path)
