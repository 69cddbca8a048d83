"""Plan files: what is written comes back, and what cannot be meant is refused in words that name the place."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.planning.specs import spec
from tofu_export.errors import OptionError, OutputError
from tofu_export.options import KeySource, Method, Mode, PrunedSizes, Reduction, Selection
from tofu_export.planning.entry import PlanEntry
from tofu_export.planning.plan import Plan, make_plan
from tofu_export.planning.plan_file import PlanFile, write_plan_file
from tofu_export.system.typed_json import from_plain

VIT_BASE = spec(tokens=197, depth=12)
LAYERS = [{"layer": layer, "method": "prune" if layer < 6 else "mlerp", "r": 16} for layer in range(11)]
GOOD = {"schema_version": 2, "layers": [*LAYERS, {"layer": 11, "method": "mlerp", "r": 10}]}


def written(folder: Path, document: Any) -> Path:
    path = folder / "plan.json"
    path.write_text(document if isinstance(document, str) else json.dumps(document), encoding="utf-8")
    return path


def changed(layer: int, /, **entry: Any) -> dict[str, Any]:
    layers = [dict(row) for row in GOOD["layers"]]  # type: ignore[attr-defined]
    layers[layer] |= entry
    return {**GOOD, "layers": layers}


def same(one: Plan, other: Plan) -> bool:
    facts = ("layers", "prop_attn", "restores_grid", "macs_full", "macs_reduced", "prefix_tokens")
    if one.reduction.pruned_sizes is not other.reduction.pruned_sizes:
        return False
    return all(getattr(one, name) == getattr(other, name) for name in facts)


@pytest.mark.parametrize("asked", [True, False, None])
def test_the_reason_for_token_sizes_is_the_file(asked: bool | None, tmp_path: Path) -> None:
    """Whatever was the reason for the plan in it: a masked autoencoder, the default, or the user."""
    toy = replace(VIT_BASE, name="toy.mae")
    write_plan_file(tmp_path / "tuned.json", toy, make_plan(toy, Reduction(prop_attn=asked)), {})
    plan = make_plan(toy, PlanFile.read(tmp_path / "tuned.json").reduction())
    assert (plan.prop_attn, plan.prop_attn_reason) == (bool(asked), "plan file tuned.json says so")


def test_a_file_that_is_silent_on_token_sizes_gives_no_reason(tmp_path: Path) -> None:
    plan = make_plan(VIT_BASE, PlanFile.read(written(tmp_path, GOOD)).reduction())
    assert (plan.prop_attn, plan.prop_attn_reason) == (True, "default")


@pytest.mark.parametrize(
    "reduction",
    [
        Reduction(),
        Reduction(r=0),
        Reduction(mode=Mode.TOME),
        Reduction(r=0, mode=Mode.TOME),
        Reduction(speedup=1.1, mode=Mode.AVERAGE, exclude_layers=(0, 11)),
        Reduction(r=8, pattern="PAMT-PAMT-PA", prop_attn=True, keys=KeySource.PRE_ROPE),
        Reduction(select=Selection.ENERGY),
        Reduction(r=4, mode=Mode.PRUNE, select=Selection.STRIDED),
        Reduction(keep_rate=0.9, prop_attn=False),
        Reduction(mode=Mode.TOME, prop_attn=False),
        Reduction(pruned_sizes=PrunedSizes.LOST),
    ],
    ids=str,
)
def test_what_is_written_comes_back(reduction: Reduction, tmp_path: Path) -> None:
    plan = make_plan(VIT_BASE, reduction)
    path = tmp_path / "new" / "plan.json"
    write_plan_file(path, VIT_BASE, plan, {"why": "a test"})
    file = PlanFile.read(path)
    assert same(make_plan(VIT_BASE, file.reduction()), plan)
    assert file.reduction().keys is reduction.keys
    assert file.reduction().select is reduction.select
    assert file.model == VIT_BASE.name
    assert file.provenance == {"why": "a test"}
    assert [entry.name for entry in path.parent.iterdir()] == ["plan.json"]


@pytest.mark.parametrize(
    ("said", "letter", "sizes"),
    [({}, "M", False), ({}, "T", True), ({"prop_attn": None}, "M", False), ({"prop_attn": True}, "M", True)],
)
def test_older_plans_keep_their_meaning(said: dict[str, Any], letter: str, sizes: bool, tmp_path: Path) -> None:
    """Sizes only where they were asked for, or for tome; those of pruned tokens lost."""
    document = {**changed(11, method=letter), **said}
    report = {"model": {"name": "vit_base"}, "plan": {"layers": [
        {"method": row["method"], "removed": row["r"]} for row in document["layers"]], "prop_attn": sizes}}  # fmt: skip
    for older in ({**document, "schema_version": 1}, report):
        reduction = PlanFile.read(written(tmp_path, older)).reduction()
        assert (reduction.prop_attn, reduction.pruned_sizes) == (sizes, PrunedSizes.LOST)


def test_a_method_is_spelled_as_its_option_and_early_spellings_are_read(tmp_path: Path) -> None:
    plan = make_plan(VIT_BASE, Reduction(pattern="PPPWWWWWWWWW"))
    path = tmp_path / "plan.json"
    write_plan_file(path, VIT_BASE, plan, {})
    text = path.read_text(encoding="utf-8")
    assert text.count('"weighted-mlerp"') == 9
    path.write_text(text.replace("weighted-mlerp", "weighted_mlerp"), encoding="utf-8")
    assert same(make_plan(VIT_BASE, PlanFile.read(path).reduction()), plan)
    early = {**plan.to_dict(), "layers": json.loads(text.replace("weighted-mlerp", "weighted_mlerp"))["layers"]}
    for layer, entry in zip(plan.layers, early["layers"], strict=True):
        entry |= {"tokens_in": layer.tokens_in, "tokens_out": layer.tokens_out, "removed": entry.pop("r")}
    assert from_plain(PlanEntry, early) == plan.entry()


@pytest.mark.parametrize("where", ["report", "plan --json"])
def test_the_plan_of_a_report_is_read(where: str, tmp_path: Path) -> None:
    plan = make_plan(VIT_BASE, Reduction(speedup=1.1))
    model = {"resolved": "vit_base.tag"} if where == "report" else {"name": "vit_base.tag"}
    file = PlanFile.read(written(tmp_path, {"model": model, "plan": plan.to_dict(), "benchmark": []}))
    assert same(make_plan(VIT_BASE, file.reduction()), plan)
    assert file.model == "vit_base.tag"


def test_letters_are_methods_too(tmp_path: Path) -> None:
    file = PlanFile.read(written(tmp_path, changed(3, method="A", r=0)))
    assert file.methods[3] is Method.AVERAGE
    assert file.r[3] == 0


def test_the_plan_says_where_it_comes_from(tmp_path: Path) -> None:
    plan = make_plan(VIT_BASE, PlanFile.read(written(tmp_path, GOOD)).reduction())
    assert plan.to_dict()["asked"] == {"plan_file": "plan.json"}
    assert same(plan, make_plan(VIT_BASE, Reduction(r=16, mode=Mode.MLERP)))


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[]", "expected an object, found list"),
        ({**GOOD, "schema_version": 3}, "schema_version is 3, this version of tofu-export reads 1 and 2"),
        ({"layers": LAYERS}, "schema_version is None"),
        ({**GOOD, "laters": []}, "unknown key 'laters'"),
        ({"schema_version": 1}, "expected a list `layers`"),
        ({**GOOD, "layers": []}, "expected a list `layers`"),
        ({**GOOD, "layers": [16, 16]}, "layer 0 is 16, expected an object"),
        ({"plan": {"layers": 3}}, "expected a list `layers`"),
        ({"plan": {}}, "expected a list `layers`"),
        ({"plan": {"layers": [{"method": "prune"}]}}, "layer 0 has r = None"),
        ({"plan": {"layers": [{"method": "prune", "removed": 2}], "pattern": "PW"}}, "have the pattern P, but"),
        ({"schema_version": 999, "plan": {"layers": []}}, "schema_version is 999, this version"),
        ({"schema_version": 1, "artifacts": []}, "it is a report without a plan of layers"),
        (changed(4, method="X"), "layer 4 has the method 'X', expected one of P (prune)"),
        (changed(4, method=["prune"]), "layer 4 has the method ['prune']"),
        (changed(4, r=-1), "layer 4 has r = -1"),
        (changed(4, r=True), "layer 4 has r = True"),
        (changed(4, r=1.5), "layer 4 has r = 1.5"),
        (changed(4, method="none"), "layer 4 has the method 'none' and r = 16"),
        (changed(4, layer=5), "entry 4 of layers says that it is layer 5"),
        ({**GOOD, "prop_attn": 1.5}, "prop_attn is 1.5"),
        (
            {**changed(4, method="tome"), "prop_attn": False, "schema_version": 1},
            "prop_attn is false, but a layer has the method tome",
        ),
        ({**GOOD, "pruned_sizes": "gone"}, "pruned_sizes is 'gone', expected one of take-over, lost"),
        ({**GOOD, "keys": "values"}, "keys is 'values'"),
        ({**GOOD, "select": "best"}, "select is 'best', expected one of bipartite, energy, class-attention"),
        ({**GOOD, "select": ["energy"]}, "select is ['energy']"),
        ({**GOOD, "model": 3}, "model is 3"),
        ({**GOOD, "provenance": "me"}, "provenance is 'me'"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_refused(document: Any, message: str, tmp_path: Path) -> None:
    path = written(tmp_path, document)
    with pytest.raises(OptionError) as caught:
        PlanFile.read(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


def test_what_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path / "missing.json", tmp_path, tmp_path / "binary"):
        with pytest.raises(OptionError, match=r"cannot be read .* expected a plan file"):
            PlanFile.read(path)
    big = tmp_path / "big"
    with big.open("wb") as file:
        file.truncate(20_000_000)
    with pytest.raises(OptionError, match="has 20 MB, more than any has"):
        PlanFile.read(big)
    with pytest.raises(OutputError, match="is a folder, expected the name of a file"):
        write_plan_file(tmp_path, VIT_BASE, make_plan(VIT_BASE, Reduction()), {})


def test_another_depth_is_refused(tmp_path: Path) -> None:
    file = PlanFile.read(written(tmp_path, {**GOOD, "layers": LAYERS}))
    with pytest.raises(OptionError, match=f"plan file plan.json has 11 layers, but {VIT_BASE.name} has 12"):
        make_plan(VIT_BASE, file.reduction())


def test_nothing_is_capped_in_silence(tmp_path: Path) -> None:
    file = PlanFile.read(written(tmp_path, changed(11, r=11)))
    with pytest.raises(OptionError) as caught:
        make_plan(VIT_BASE, file.reduction())
    assert "plan.json removes 11 tokens in layer 11" in str(caught.value)
    assert "where 21 are left (1 protected): the most is 10" in str(caught.value)


def test_a_reduction_of_a_plan_file_is_whole() -> None:
    with pytest.raises(OptionError, match="a plan gives r and a method for each layer"):
        Reduction(r=16, plan_file="plan.json")


def test_a_bipartite_plan_does_not_say_so(tmp_path: Path) -> None:
    """Plans of before other selections were there read as they always did, and are written as they were."""
    plan = make_plan(VIT_BASE, Reduction(r=4))
    path = tmp_path / "plan.json"
    write_plan_file(path, VIT_BASE, plan, {})
    assert "select" not in json.loads(path.read_text())
    assert "select" not in plan.to_dict()
    assert PlanFile.read(path).select is Selection.BIPARTITE


def test_a_report_says_how_it_selects(tmp_path: Path) -> None:
    plan = make_plan(VIT_BASE, Reduction(r=4, select=Selection.CLASS_ATTENTION))
    file = PlanFile.read(written(tmp_path, {"model": {"name": "m"}, "plan": plan.to_dict()}))
    assert file.select is Selection.CLASS_ATTENTION
    assert file.pruned_sizes is PrunedSizes.LOST
    assert make_plan(VIT_BASE, file.reduction()).layers == plan.layers
