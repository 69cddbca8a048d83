"""Find the value of a graph that is the output of a block, and record the eager model's block outputs."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from torch import Tensor, nn

from tofu_export.graph_patterns.naming import SCOPES, modules_of
from tofu_export.patch.state import TokenState

__all__ = ["Candidates", "block_ends", "choose_end", "collect_blocks"]

Array = NDArray[Any]

Candidates = Mapping[int, Sequence[str]]
"""Names of the values that may be the output of a block, by block index."""

_BLOCK = re.compile(r"(?:^|[./])blocks\.(\d+)(?:[./]|$)")


def block_ends(graph: onnx.GraphProto) -> dict[int, list[str]]:
    """Return the values that leave each block: computed inside it, read after it.

    The block of a node is in its name (`blocks.3.attn.qkv/MatMul`, `/blocks/blocks.3/Add`) or in the metadata of
    torch's exporter. A graph without either gives none. Sizes and positions of tokens leave blocks as well; the shape
    shows which value is the tokens (`choose_end`).
    """
    made_in: dict[str, int] = {}
    ends: dict[int, list[str]] = defaultdict(list)

    def note(name: str, reader: int | None) -> None:
        block = made_in.get(name)
        if block is not None and block != reader and name not in ends[block]:
            ends[block].append(name)

    for node in graph.node:
        block = _block_of(node)
        for name in node.input:
            note(name, block)
        if block is not None:
            made_in.update(dict.fromkeys(filter(None, node.output), block))
    for value in graph.output:
        note(value.name, None)
    return {block: names for block, names in sorted(ends.items()) if names}


def choose_end(names: Sequence[str], values: Mapping[str, Array], shape: Sequence[int]) -> str | None:
    """Return the name in `names` whose value is real-valued with the `shape` [B, N, C] of a block's tokens, else None.

    A file may hold only the first of the N tokens, if nothing else reads the last block.
    """
    fitting = [
        name
        for name in names
        if np.issubdtype(values[name].dtype, np.floating)
        and values[name].ndim == 3
        and (values[name].shape[0], values[name].shape[2]) == (shape[0], shape[2])
        and values[name].shape[1] <= shape[1]
    ]
    full = [name for name in fitting if values[name].shape[1] == shape[1]]
    chosen = full or fitting
    return chosen[0] if len(chosen) == 1 else None


@contextmanager
def collect_blocks(model: nn.Module) -> Iterator[dict[int, Array]]:
    """Collect the output [B, N, C] of each block of a model at every forward pass inside the context."""
    found: dict[int, Array] = {}

    def keep(index: int) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Tensor | TokenState) -> None:
            tokens = output.tokens if isinstance(output, TokenState) else output
            found[index] = tokens.detach().numpy()

        return hook

    blocks: Any = model.blocks
    handles = [block.register_forward_hook(keep(index)) for index, block in enumerate(blocks)]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _block_of(node: onnx.NodeProto) -> int | None:
    """Return the block index of a node, or None outside of blocks and for nodes that do not tell."""
    note = next((entry.value for entry in node.metadata_props if entry.key == SCOPES), None)
    path = node.name if note is None else "/".join(modules_of(note)[-1:])
    found = _BLOCK.search(path)
    return None if found is None else int(found[1])
