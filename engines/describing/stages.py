"""Find the part of a vision transformer that an ONNX node belongs to, by the names that exporters leave.

Four kinds of names are read: this project's (`blocks.3/fuse/match/TopK`), those of torch's exporter, in the metadata
of a node (`pkg.torch.onnx.name_scopes`), those of its older exporter (`/blocks/blocks.3/attn/MatMul`), and what
onnxruntime's optimiser makes of them. A node without such a name is `Kind.OTHER`.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

import onnx

from tofu_export.graph_patterns.naming import SCOPES, modules_of

__all__ = ["Kind", "Located", "Place", "locate", "places"]


class Kind(Enum):
    """Function of a part of the model, in the order of tables."""

    PATCH_EMBED = "patch-embed"
    ATTENTION = "attention"
    MATCHING = "matching"
    MERGING = "merging"
    MLP = "mlp"
    NORM = "norm"
    RESIDUAL = "residual"
    HEAD = "head"
    OTHER = "other"

    @property
    def reduces(self) -> bool:
        """True for parts that Token Fusion adds to a model."""
        return self in (Kind.MATCHING, Kind.MERGING)


@dataclass(frozen=True)
class Place:
    """Place of a node in the model.

    Attributes:
        stage: the block (`blocks.3`) or the module outside of the blocks (`patch_embed`); empty if there is none.
        kind: function of the node there.
    """

    stage: str
    kind: Kind


@dataclass(frozen=True)
class Located:
    """Place of a node that onnxruntime runs.

    Attributes:
        place: place of the node.
        inferred: True for a node that the optimiser added, such as a transposition: it has the place of its neighbours.
    """

    place: Place
    inferred: bool = False


_NOWHERE = Place("", Kind.OTHER)
_ROOTS = frozenset({"model", "stem"})
"""Names in this project of nodes of the model itself, and of nodes before its first module."""

_NORM = re.compile(r"norm|^ln(_|\d|$)")
_ATTENTION = re.compile(r"attn|attention", re.IGNORECASE)  # `blocks.3/Attention/scores` where a block has no module
_MLP = re.compile(r"^(mlp|ffn|feed_forward|intermediate|output|fc\d)")
_RESIDUAL = re.compile(r"^(ls\d*|layer_?scale\d*|drop_path\d*|gamma_?\d*)$")
_EMBED = re.compile(r"embed|^(conv_proj|rope|pos_drop|patch_drop)$")
_HEAD = re.compile(r"^(head|heads|head_dist|head_drop|classifier|attn_pool|pool|pooler|fc|pre_logits)$")
_BLOCKS = re.compile(r"block|layer")
_NUMBERED = re.compile(r"^(.*layer)_(\d+)$")

_INSERTED = "InsertedPrecisionFreeCast_"
_FUSED = re.compile(r"/[A-Za-z]+Fusion/?$|_nchwc$")
"""Suffix that onnxruntime (as of 1.31) adds to the name of a node that it fused or laid out anew."""


def places(graph: onnx.GraphProto) -> list[Place]:
    """Return the place of each node of a graph as an exporter wrote it.

    Nodes of the model itself, outside of its modules, count as patch embedding before the first block and as head after
    the last one. Nodes of a block itself count with their operands: with the reduction if they work on its outputs
    (positions), else with their readers, if these are in one part. Nodes that only the matching reads are matching,
    whatever their names.
    """
    words = [_words(node) for node in graph.node]
    blocks = [None if scope is None else _block(scope) for scope in words]
    inside = [index for index, block in enumerate(blocks) if block is not None]
    found: list[Place] = []
    for index, (node, scope, block) in enumerate(zip(graph.node, words, blocks, strict=True)):
        if block is not None and scope is not None:
            label = ".".join(scope[:block])
            found.append(Place(label, _inner_kind(scope[block:], node.op_type)))
        elif scope is None or not inside:
            found.append(_NOWHERE if scope is None else _outside(scope))
        elif not scope or set(scope) <= _ROOTS:
            kind = Kind.OTHER
            kind = Kind.PATCH_EMBED if index < inside[0] else Kind.HEAD if index > inside[-1] else kind
            found.append(Place("", kind))
        else:
            found.append(_outside(scope))
    return _settled(graph, found)


def locate(source: onnx.GraphProto, running: onnx.GraphProto) -> list[Located]:
    """Return the place of each node that onnxruntime runs.

    A node is found by its output tensor, or by its name without the optimiser's suffix. A new node has the common
    place of its consumers, or else of its producers; if they disagree, it is `Kind.OTHER`.

    Args:
        source: the graph as it was exported.
        running: the graph after onnxruntime's optimiser.
    """
    known = places(source)
    by_tensor = {name: place for node, place in zip(source.node, known, strict=True) for name in node.output if name}
    by_name = {node.name: place for node, place in zip(source.node, known, strict=True) if node.name}
    direct = [_lookup(node, by_tensor, by_name) for node in running.node]
    settled = _inferred(running, direct)
    return [
        Located(place or _NOWHERE, inferred=place is not None and before is None)
        for before, place in zip(direct, settled, strict=True)
    ]


def _words(node: onnx.NodeProto) -> list[str] | None:
    """Return the path of modules around a node, one word each; None if the node does not tell."""
    text = next((entry.value for entry in node.metadata_props if entry.key == SCOPES), None)
    if text is not None:
        modules = modules_of(text)
        scope = modules[-1] if modules else ""
    elif "/" in node.name:
        scope = node.name.rpartition("/")[0]
    else:
        return None
    words: list[str] = []
    for word in re.split(r"[./]", scope):
        numbered = _NUMBERED.match(word)
        for part in numbered.groups() if numbered else (word,):
            if part and words[-1:] != [part]:  # the older exporter says /blocks/blocks.3/
                words.append(part)
    return words


def _block(words: Sequence[str]) -> int | None:
    """Return how many words name the block; None outside of blocks."""
    numbers = [index for index, word in enumerate(words) if index and word.isdecimal()]
    proper = [index for index in numbers if _BLOCKS.search(words[index - 1])]
    return proper[-1] + 1 if proper else None


def _inner_kind(words: Sequence[str], op_type: str) -> Kind:
    """Return the kind of a node inside a block."""
    if "fuse" in words:
        return Kind.MATCHING if words[words.index("fuse") + 1 :][:1] == ["match"] else Kind.MERGING
    for word in words:
        for pattern, kind in (
            (_NORM, Kind.NORM),
            (_ATTENTION, Kind.ATTENTION),
            (_MLP, Kind.MLP),
            (_RESIDUAL, Kind.RESIDUAL),
        ):
            if pattern.search(word):
                return kind
    own = words[0] if words else op_type  # `blocks.3/Add`, `blocks.3/Add/first`
    return Kind.RESIDUAL if own in ("Add", "Sum", "Mul") else Kind.OTHER


def _outside(words: Sequence[str]) -> Place:
    """Return the place of a node in a module outside of the blocks."""
    for word in words:
        for pattern, kind in ((_HEAD, Kind.HEAD), (_EMBED, Kind.PATCH_EMBED), (_NORM, Kind.NORM)):
            if pattern.search(word):
                return Place(words[0], kind)
    return Place(words[0] if words else "", Kind.OTHER)


def _settled(graph: onnx.GraphProto, found: list[Place]) -> list[Place]:
    """Reassign nodes of blocks themselves to the places of their operands."""
    producer = {name: index for index, node in enumerate(graph.node) for name in node.output if name}
    for node, (index, place) in zip(graph.node, enumerate(found), strict=True):
        before = (found[producer[name]].kind for name in node.input if name in producer)
        if place.stage and place.kind is Kind.OTHER and Kind.MERGING in before:
            found[index] = Place(place.stage, Kind.MERGING)
    consumers = _consumers(graph.node)
    outputs = {value.name for value in graph.output}
    for index in reversed(range(len(found))):
        node, place = graph.node[index], found[index]
        if not place.stage or place.kind.reduces or any(name in outputs for name in node.output):
            continue
        readers = {found[reader] for name in node.output for reader in consumers[name]}
        if len(readers) == 1:
            (reader,) = readers
            if reader.stage == place.stage and (place.kind is Kind.OTHER or reader.kind is Kind.MATCHING):
                found[index] = reader
        elif place.kind is Kind.OTHER and readers and all(reader.kind.reduces for reader in readers):
            found[index] = Place(place.stage, Kind.MERGING)
    return found


def _lookup(node: onnx.NodeProto, by_tensor: Mapping[str, Place], by_name: Mapping[str, Place]) -> Place | None:
    for name in filter(None, node.output):
        place = by_tensor.get(_bare(name))
        if place is not None:
            return place
    name = _bare(node.name)
    return by_name.get(name) or by_tensor.get(name)


def _bare(name: str) -> str:
    """Strip what onnxruntime added to a name."""
    name = name.removeprefix(_INSERTED)
    while (match := _FUSED.search(name)) is not None:
        name = name[: match.start()]
    return name


def _inferred(graph: onnx.GraphProto, direct: Sequence[Place | None]) -> list[Place | None]:
    """Infer the places of new nodes from their neighbours, as far as these agree."""
    consumers = _consumers(graph.node)
    producer = {name: index for index, node in enumerate(graph.node) for name in node.output if name}
    found = list(direct)
    open_ones = [index for index, place in enumerate(found) if place is None]
    changed = True
    while changed:
        changed = False
        for index in reversed(open_ones):  # in reverse order: a chain is filled in one pass
            node = graph.node[index]
            after = {found[reader] for name in node.output for reader in consumers[name]}
            before = {found[producer[name]] for name in node.input if name in producer}
            for neighbours in (after, before):
                if found[index] is None and len(neighbours) == 1:
                    found[index] = next(iter(neighbours))
                    changed = changed or found[index] is not None
    return found


def _consumers(nodes: Iterable[onnx.NodeProto]) -> Mapping[str, list[int]]:
    readers: dict[str, list[int]] = defaultdict(list)
    for index, node in enumerate(nodes):
        for name in filter(None, node.input):
            readers[name].append(index)
    return readers
