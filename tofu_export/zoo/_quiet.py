"""Silence libraries that log while nothing is wrong."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

__all__ = ["quiet"]

_TALKERS: Final = ("timm", "huggingface_hub")


@contextmanager
def quiet() -> Iterator[None]:
    """Let timm and the hub client log only errors, and show no warnings, in the context. Exceptions pass through."""
    loggers = [logging.getLogger(name) for name in _TALKERS]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
