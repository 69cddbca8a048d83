"""YAML files of the project, read strictly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

__all__ = ["load"]


class _Loader(yaml.SafeLoader):
    """Mappings with a key twice are refused, and mkdocs' `!ENV` is its default."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        keys = [key.value for key, _ in node.value]
        assert len(set(keys)) == len(keys), f"{node.start_mark}: a key is there twice: {keys}"
        return super().construct_mapping(node, deep)


_Loader.add_constructor("!ENV", lambda loader, node: loader.construct_sequence(node)[-1])


def load(path: Path) -> Any:
    """The document in a file."""
    return yaml.load(path.read_text(encoding="utf-8"), _Loader)
