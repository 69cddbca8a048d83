"""Rebuild the eager model that a file was made from, from the file's metadata."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import metadata
from typing import Any

from torch import nn

from tofu_export import patch
from tofu_export.artifact.preprocessing import Preprocessing
from tofu_export.errors import OptionError, VerificationError
from tofu_export.options import PATCH_GROUPS, OutputKind
from tofu_export.patch.describe import describe
from tofu_export.planning.plan import ModelSpec, Plan, make_plan
from tofu_export.planning.plan_file import PlanFile
from tofu_export.verification.facts import FileFacts
from tofu_export.zoo.create import BY_OPTIONS, LoadedModel, create_model, own_image_size
from tofu_export.zoo.names import resolve
from tofu_export.zoo.weights import WeightsKind, WeightsSource

__all__ = ["Rebuilt", "rebuild"]


@dataclass(frozen=True)
class Rebuilt:
    """Model to compare a file with.

    Attributes:
        model: the model, with the file's plan; without a plan for a foreign file.
        resolved: name of the model.
        preprocessing: as stated by the file, or else the model.
        output: what the file outputs.
        token_map: the file also outputs the final row of each patch.
        notes: what makes the comparison less sure.
        contradictions: statements of the file's metadata that are wrong.
    """

    model: nn.Module
    resolved: str
    preprocessing: Preprocessing
    output: OutputKind
    token_map: bool
    notes: tuple[str, ...]
    contradictions: tuple[str, ...]


def rebuild(
    facts: FileFacts,
    *,
    name: str | None = None,
    weights: WeightsSource | None = None,
    seed: int = 0,
    num_classes: int | None = None,
    output: OutputKind | None = None,
) -> Rebuilt:
    """Build the model of a file and, for a file of this library, reduce it by the file's plan.

    Args:
        facts: facts of the file; they determine whatever is None below.
        name: name of the model.
        weights: where its weights come from.
        seed: seed of random weights, if `weights` asks for them.
        num_classes: width of the classifier.
        output: what the file outputs.

    Raises:
        OptionError: neither the file nor the arguments say what model it is, or where its weights are.
        VerificationError: the file's metadata are incomplete or do not fit the model.
        TofuError: the model cannot be built or its weights cannot be loaded.
    """
    resolved = resolve(_name(facts) if name is None else name)
    kept = facts.card.find("weights", dict) or {}
    if weights is None:
        weights, seed = _weights(facts, kept)
    weights = weights.like(kept)
    classes = _classes(facts) if num_classes is None else num_classes
    _, height, width = facts.image_shape
    size = None if height is None or width is None else (height, width)
    if size == own_image_size(resolved):
        size = None
    loaded = create_model(resolved, weights=weights, seed=seed, image_size=size, num_classes=classes)
    if facts.card.is_ours:
        plan = _plan(facts, describe(loaded.meta(), resolved, size))
        patch.apply(loaded.model, plan, name=resolved)
        output = output or _output(facts)
    return Rebuilt(
        loaded.model,
        resolved,
        facts.card.preprocessing or loaded.preprocessing,
        patch.choose_output(loaded.model, output, resolved),
        facts.card.is_ours and PATCH_GROUPS in facts.outputs,
        (*_notes(facts, kept, loaded, weights), *_other_preprocessing(facts, loaded)),
        _contradictions(facts, loaded),
    )


def _name(facts: FileFacts) -> str:
    if not facts.card.is_ours:
        raise OptionError(
            f"{facts.path.name} does not say what model it is (no metadata tofu_export.model): give its timm name with "
            "--model NAME, or another file to compare it with by --reference OTHER.onnx"
        )
    name: str = facts.card.part("model", str)
    if ":" in name:
        raise OptionError(
            f"{facts.path.name} was made from {name}, which is outside of timm: give --model {name} if you trust it"
        )
    return name


def _weights(facts: FileFacts, kept: Mapping[str, Any]) -> tuple[WeightsSource, int]:
    """Return the weights that the metadata name, and their seed, if they can be obtained again."""
    if (found := WeightsSource.recorded(kept)) is not None:
        return found
    if kept.get("kind") == WeightsKind.PATH.value:
        known = f" (sha256 {str(kept['sha256'])[:16]}...)" if kept.get("sha256") else ""
        raise OptionError(
            f"{facts.path.name} was made with the weights in {kept.get('path')}{known}: give them with --weights PATH"
        )
    raise OptionError(
        f"{facts.path.name} does not say which weights it was made with: "
        "give --weights PATH, --weights pretrained, or --weights random with --seed N"
    )


def _contradictions(facts: FileFacts, loaded: LoadedModel) -> tuple[str, ...]:
    """List what the file states about its images that differs from the model's weights, or timm; options may differ."""
    said, origins = facts.card.preprocessing, facts.card.find("preprocessing_from", dict)
    if not facts.card.is_ours or said is None or origins is None:  # files of early versions lack it
        return ()
    return tuple(
        f"it says {name} {value} in its metadata, {loaded.preprocessing_from[name]} says {own}: images would be "
        "prepared in another way than for the model (were the metadata edited, or other weights given?)"
        for name, (value, own) in said.differences(loaded.preprocessing).items()
        if origins.get(name) != BY_OPTIONS
    )


def _classes(facts: FileFacts) -> int | None:
    """Return the width of the classifier; None for the model's own."""
    if not facts.card.is_ours:
        return None
    if "num_classes" in facts.card:
        width: int = facts.card.part("num_classes", int)
        return width
    shape = next(iter(facts.outputs.values())).shape  # files of early versions lack it
    return shape[-1] if _output(facts) is OutputKind.LOGITS and shape else None


def _output(facts: FileFacts) -> OutputKind:
    kind = facts.card.output
    if kind is None:
        raise facts.card.missing("output")
    return kind


def _plan(facts: FileFacts, spec: ModelSpec) -> Plan:
    """Rebuild the plan of the metadata, and check it layer by layer.

    Raises:
        VerificationError: it is not a plan of this version, or does not fit the model.
    """
    written = facts.card.part("plan", dict)
    try:
        stored = PlanFile.of_metadata(facts.path, written)
    except OptionError as error:
        raise VerificationError(f"{error}; use the tofu-export that wrote the file, or export it again") from error
    restored = bool(written.get("restore_grid"))
    try:
        plan = make_plan(spec, replace(stored.reduction(restored), plan_file=None, from_plan=False))
    except OptionError as error:
        raise VerificationError(
            f"the plan in the metadata of {facts.path.name} does not fit {spec.name}: {error}. "
            "Is --model the one that it was made from?"
        ) from error
    made = plan.to_dict()
    for key in ("layers", "prop_attn", "restore_grid"):
        if made[key] != written.get(key):
            raise VerificationError(
                f"the plan in the metadata of {facts.path.name} does not fit {spec.name}: {key} would be {made[key]}, "
                f"the file says {written.get(key)}. Is --model the one that it was made from?"
            )
    return plan


def _other_preprocessing(facts: FileFacts, loaded: LoadedModel) -> tuple[str, ...]:
    """Return a note on preprocessing stated by the file that differs from the model's."""
    found = facts.card.preprocessing
    differences = {} if found is None else found.differences(loaded.preprocessing)
    if not differences:
        return ()
    differ = [f"{name} is {value}, not {own}" for name, (value, own) in differences.items()]
    return (f"the preprocessing in the file's metadata is not that of {loaded.name}: {'; '.join(differ)}",)


def _notes(facts: FileFacts, kept: Mapping[str, Any], loaded: LoadedModel, weights: WeightsSource) -> tuple[str, ...]:
    notes = []
    digest = loaded.weights.sha256
    if kept.get("sha256") and digest and kept["sha256"] != digest:
        notes.append(
            f"the weights compared with are not the file's: sha256 {digest[:16]}..., it was made with "
            f"{str(kept['sha256'])[:16]}..."
        )
    made_by = facts.card.find("versions", dict) or {}
    if weights.kind is WeightsKind.RANDOM:
        for package in ("torch", "timm"):
            here = metadata.version(package)
            if made_by.get(package) not in (None, here):
                notes.append(f"random weights may differ: made with {package} {made_by[package]}, here is {here}")
    return tuple(notes)
