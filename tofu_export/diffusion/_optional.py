"""Import diffusers, which is optional; no other module imports it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tofu_export.errors import BackendMissingError, UnsupportedModelError, first_line

if TYPE_CHECKING:
    from torch import nn

__all__ = ["load_diffusers", "load_pipeline", "quiet_diffusers", "transformer_block_class"]


def load_diffusers() -> Any:
    """Import the package diffusers.

    Raises:
        BackendMissingError: diffusers is not installed, or cannot be imported.
    """
    try:
        import diffusers
        from diffusers import UNet2DConditionModel  # noqa: F401  # diffusers imports lazily: fail here, not later
    except ModuleNotFoundError as error:
        if error.name != "diffusers":
            raise BackendMissingError(
                f"diffusers lacks the package {error.name}: pip install 'tofu-export[diffusion]'"
            ) from error
        raise BackendMissingError(
            "Stable Diffusion's UNet needs diffusers, which is not installed: pip install 'tofu-export[diffusion]'"
        ) from error
    except (ImportError, RuntimeError) as error:
        raise BackendMissingError(
            f"diffusers is installed but cannot be imported ({str(error).splitlines()[0]}): "
            "pip install --upgrade 'tofu-export[diffusion]'"
        ) from error
    return diffusers


def transformer_block_class() -> type[nn.Module]:
    """Return the class of diffusers' transformer blocks.

    Raises:
        BackendMissingError: diffusers is not installed, or cannot be imported.
    """
    load_diffusers()
    from diffusers.models.attention import BasicTransformerBlock

    found: type[nn.Module] = BasicTransformerBlock
    return found


def load_pipeline(folder: Path, **parts: Any) -> Any:
    """Load the pipeline in a folder, without download and without progress bars.

    Args:
        folder: a pipeline as saved by diffusers.
        parts: parts not to load, each None.

    Raises:
        BackendMissingError: diffusers or transformers is not installed, or lacks a package.
        UnsupportedModelError: the pipeline cannot be loaded.
    """
    diffusers = load_diffusers()
    try:
        import transformers

        bars: Any = transformers.utils.logging
        bars.disable_progress_bar()
        diffusers.utils.logging.disable_progress_bar()
        with quiet_diffusers():
            pipeline = diffusers.DiffusionPipeline.from_pretrained(folder, local_files_only=True, **parts)
    except ImportError as error:
        raise BackendMissingError(
            f"a package is missing for {folder} ({first_line(error)}): pip install 'tofu-export[diffusion]'"
        ) from error
    except Exception as error:  # damaged files raise errors of the part's library
        raise UnsupportedModelError(f"diffusers cannot load the pipeline {folder}: {first_line(error)}") from error
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@contextmanager
def quiet_diffusers() -> Iterator[None]:
    """Suppress advice of diffusers on the terminal."""
    logger = logging.getLogger("diffusers")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
