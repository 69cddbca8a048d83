"""Plan files: a reduction, layer by layer, as JSON. What `tune` finds and `plan -o` writes, `--plan-file` reads.

    {"schema_version": 2, "model": "demo_vit", "image_size": [28, 28], "tokens": 197, "prefix_tokens": 1,
     "layers": [{"layer": 0, "method": "prune", "r": 16}, ...],
     "prop_attn": true, "pruned_sizes": "take-over", "keys": "post-rope", "select": "energy",
     "gmacs": {"full": 0.181, "reduced": 0.084}, "provenance": {...}}

Only `schema_version` and `layers` are needed; without `select` it is bipartite. In version 1 token sizes stayed out of
the attention unless `prop_attn` or a tome layer said otherwise, and the size of a pruned token was lost: files of it
keep that meaning. A method is its name or its letter. A `report.json`, and what `plan --json` prints, are read as well:
both hold such layers under `plan`. Neither torch nor timm is needed here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import Enum
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from tofu_export.errors import OptionError
from tofu_export.options import HaltingOptions, KeySource, Method, PrunedSizes, Reduction, Selection
from tofu_export.planning.plan import ModelSpec, Plan, selection_key
from tofu_export.system.files import write_text
from tofu_export.system.json_file import read_json
from tofu_export.system.typed_json import to_plain

__all__ = ["SCHEMA_VERSION", "PlanFile", "write_plan_file"]

Choice = TypeVar("Choice", bound=Enum)

SCHEMA_VERSION = 2
_WITHOUT_SIZES = 1
"""Last version whose plans have no `pruned_sizes`."""
_OF_REPORTS = 1
"""Schema version of reports, whose plans are read as well."""
MAX_BYTES = 16_000_000
"""Size limit in bytes: no plan or report is larger."""
_LONGEST = 300
"""Length limit of a message, which may quote the file."""

_KEYS = frozenset(
    {"schema_version", "model", "image_size", "tokens", "prefix_tokens", "layers", "prop_attn",
     "pruned_sizes", "keys", "select", "halting", "gmacs", "provenance"}
)  # fmt: skip
_KNOWN = ", ".join(f"{method.value} ({method.word})" for method in Method)


@dataclass(frozen=True)
class PlanFile:
    """Contents of a plan file.

    Attributes:
        path: the file.
        methods: one per layer.
        r: tokens that each layer removes, exactly.
        prop_attn: token sizes enter the attention; None: yes unless the model was trained as a masked autoencoder.
        pruned_sizes: what happens to the size of a pruned token.
        keys: which keys tokens are compared by.
        select: how the tokens that leave are chosen.
        halting: when tokens halt, if they do.
        model: name of the model that the plan was made for; None if the file does not say.
        provenance: how the plan was made.
    """

    path: Path
    methods: tuple[Method, ...]
    r: tuple[int, ...]
    prop_attn: bool | None = None
    pruned_sizes: PrunedSizes = PrunedSizes.TAKE_OVER
    keys: KeySource = KeySource.POST_ROPE
    select: Selection = Selection.BIPARTITE
    halting: HaltingOptions = field(default_factory=HaltingOptions)
    model: str | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> PlanFile:
        """Read and check a plan file.

        Raises:
            OptionError: it cannot be read, or is not a plan file; the message names the wrong place.
        """
        place = f"plan file {path}"
        document = _document(path, place)
        if "layers" not in document and isinstance(document.get("plan"), dict):
            document = _from_report(place, document)
        elif "artifacts" in document and "layers" not in document:
            _refuse(place, "it is a report without a plan of layers")
        elif unknown := sorted(set(document) - _KEYS):
            _refuse(place, f"unknown key {unknown[0]!r}, known are {', '.join(sorted(_KEYS))}")
        return cls._checked(path, place, document)

    @classmethod
    def of_metadata(cls, path: Path, plan: Mapping[str, Any]) -> PlanFile:
        """Check the plan in the metadata of an ONNX file, which is laid out as in report.json.

        Raises:
            OptionError: it is not a plan; the message names the wrong place.
        """
        place = f"the plan in the metadata of {path.name}"
        return cls._checked(path, place, _from_report(place, {"plan": plan}))

    @classmethod
    def _checked(cls, path: Path, place: str, document: Mapping[str, Any]) -> PlanFile:
        version = document.get("schema_version")
        if version not in (_WITHOUT_SIZES, SCHEMA_VERSION):
            _refuse(place, f"schema_version is {version!r}, this version of tofu-export reads 1 and {SCHEMA_VERSION}")
        rows = document.get("layers")
        if not isinstance(rows, list) or not rows:
            _refuse(place, "expected a list `layers` with one entry per layer")
        methods, r = zip(*(_layer(place, index, row) for index, row in enumerate(rows)), strict=True)
        letters, pattern = "".join(method.value for method in methods), document.get("pattern")
        if pattern not in (None, letters):
            _refuse(place, f"its layers have the pattern {letters}, but `pattern` is {pattern!r}: change the layers")
        prop_attn, model = document.get("prop_attn"), document.get("model")
        if prop_attn not in (None, True, False):
            _refuse(place, f"prop_attn is {prop_attn!r}, expected true, false or null")
        pruned_sizes = _choice(place, document, "pruned_sizes", PrunedSizes.TAKE_OVER)
        if version == _WITHOUT_SIZES:
            leaving = {method for method, count in zip(methods, r, strict=True) if count}
            if prop_attn is False and Method.TOME in leaving:
                _refuse(place, "prop_attn is false, but a layer has the method tome: in version 1 both are one thing")
            prop_attn = bool(prop_attn) or Method.TOME in leaving
            pruned_sizes = PrunedSizes.LOST
        keys = _choice(place, document, "keys", KeySource.POST_ROPE)
        select = _choice(place, document, "select", Selection.BIPARTITE)
        if model is not None and not isinstance(model, str):
            _refuse(place, f"model is {model!r}, expected a name")
        provenance = document.get("provenance", {})
        if not isinstance(provenance, dict):
            _refuse(place, f"provenance is {provenance!r}, expected an object")
        halting = _halting(place, document.get("halting"))
        return cls(path, methods, r, prop_attn, pruned_sizes, keys, select, halting, model, provenance)

    @property
    def pattern(self) -> str:
        """One letter per layer."""
        return "".join(method.value for method in self.methods)

    def reduction(self, restore_grid: bool | None = None) -> Reduction:
        """Return options that give exactly this plan: a layer that cannot remove its `r` is refused, not capped."""
        return Reduction(
            r=self.r,
            pattern=self.pattern,
            prop_attn=self.prop_attn,
            pruned_sizes=self.pruned_sizes,
            keys=self.keys,
            select=self.select,
            halting=self.halting,
            restore_grid=restore_grid,
            plan_file=self.path.name,
        )


def write_plan_file(path: Path, spec: ModelSpec, plan: Plan, provenance: Mapping[str, Any]) -> None:
    """Write a plan as a plan file; the file appears when complete.

    Args:
        path: the file.
        spec: the model that the plan is for.
        plan: the plan to write, with the tokens that each layer really removes, however they were asked for.
        provenance: how the plan was made, as plain values.

    Raises:
        OutputError: it cannot be written.
    """
    document = {
        "schema_version": SCHEMA_VERSION,
        "model": spec.name,
        "image_size": list(spec.image_size),
        "tokens": spec.tokens,
        "prefix_tokens": spec.prefix_tokens,
        "layers": [
            {"layer": row.layer, "method": row.method.word, "r": row.removed} for row in plan.layers
        ],
        "prop_attn": plan.prop_attn,
        "pruned_sizes": plan.reduction.sizes_of_pruned.value,
        "keys": plan.reduction.keys.value,
        **selection_key(plan.reduction.select),
        **({} if plan.halting is None else {"halting": to_plain(plan.halting)}),
        "gmacs": to_plain(plan.entry().gmacs),
        "provenance": dict(provenance),
    }  # fmt: skip
    write_text(path, _text(document))


def _text(document: Mapping[str, Any]) -> str:
    """Return JSON with one line per layer, to be read and edited by hand."""
    lines = []
    for key, value in document.items():
        if key == "layers":
            rows = ",\n".join(f"    {json.dumps(row)}" for row in value)
            lines.append(f'  "layers": [\n{rows}\n  ]')
        else:
            lines.append(f"  {json.dumps(key)}: {json.dumps(value, allow_nan=False)}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _document(path: Path, place: str) -> Mapping[str, Any]:
    document = read_json(path, "a plan file; `tofu-export plan MODEL -o FILE` writes one", most_bytes=MAX_BYTES)
    if not isinstance(document, dict):
        _refuse(place, f"expected an object, found {type(document).__name__}")
    return document


def _from_report(place: str, document: Mapping[str, Any]) -> Mapping[str, Any]:
    """Convert the plan in a report.json, or in the output of `plan --json`, to the layout of a plan file."""
    version = document.get("schema_version", _OF_REPORTS)
    if version != _OF_REPORTS:
        _refuse(place, f"schema_version is {version!r}, this version of tofu-export reads reports of {_OF_REPORTS}")
    plan = document["plan"]
    model = document.get("model")
    name = model.get("resolved", model.get("name")) if isinstance(model, dict) else None
    rows = plan.get("layers")
    layers = (
        [{**row, "r": row.get("removed")} if isinstance(row, dict) else row for row in rows]
        if isinstance(rows, list)
        else rows
    )
    kept = ("pattern", "prop_attn", "pruned_sizes", "keys", "select", "halting")
    found = {key: plan[key] for key in kept if key in plan}
    version = SCHEMA_VERSION if "pruned_sizes" in plan else _WITHOUT_SIZES
    return {**found, "schema_version": version, "model": name, "layers": layers}


def _choice(place: str, document: Mapping[str, Any], key: str, default: Choice) -> Choice:
    """Return the value of an option in the file, or its default if absent."""
    known = {choice.value: choice for choice in type(default)}
    word = document.get(key, default.value)
    if not isinstance(word, str) or word not in known:
        _refuse(place, f"{key} is {word!r}, expected one of {', '.join(known)}")
    return known[word]


def _halting(place: str, given: Any) -> HaltingOptions:
    """Return what the file says of the gate."""
    if given is None:
        return HaltingOptions()
    names = {entry.name for entry in fields(HaltingOptions)}
    if not isinstance(given, dict) or set(given) - names:
        _refuse(place, f"halting is {given!r}, expected an object with some of {', '.join(sorted(names))}")
    try:
        return HaltingOptions(**given)
    except OptionError as error:
        _refuse(place, str(error))


def _layer(place: str, index: int, row: Any) -> tuple[Method, int]:
    if not isinstance(row, dict) or "method" not in row or "r" not in row:
        _refuse(place, f"layer {index} is {row!r}, expected an object with method and r")
    if row.get("layer", index) != index:
        _refuse(place, f"entry {index} of layers says that it is layer {row['layer']!r}: expected all layers in order")
    name, r = row["method"], row["r"]
    if (method := Method.named(name)) is None:
        _refuse(place, f"layer {index} has the method {name!r}, expected one of {_KNOWN}")
    if isinstance(r, bool) or not isinstance(r, int) or r < 0:
        _refuse(place, f"layer {index} has r = {r!r}, expected a whole number of tokens >= 0")
    if method is Method.NONE and r:
        _refuse(place, f"layer {index} has the method {name!r} and r = {r}: expected r = 0, or another method")
    return method, r


def _refuse(place: str, what: str) -> NoReturn:
    raise OptionError(f"{place}: {what if len(what) <= _LONGEST else what[:_LONGEST] + '...'}")
