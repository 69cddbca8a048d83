"""Tuning as a whole, on the demo model and few images."""

from __future__ import annotations

import json
import signal
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from tests.cli.running import run
from tofu_export import patch
from tofu_export.compare.agreement import Agreement
from tofu_export.errors import OptionError
from tofu_export.evaluate.images import demo_source
from tofu_export.options import Reduction, Selection
from tofu_export.report.tuning import LossDifference
from tofu_export.system.typed_json import to_object
from tofu_export.tune.latency import LatencyTable
from tofu_export.tune.objective import Judge
from tofu_export.tune.request import Objective, TuneRequest
from tofu_export.tune.run import _choice, _difference, tune
from tofu_export.tune.space import Candidate
from tofu_export.zoo.create import create_model
from tofu_export.zoo.specs import plan_model
from tofu_export.zoo.weights import WeightsSource

SMALL = TuneRequest("demo_vit", speedup=3.0, limit=20, evaluations=4, objective=Objective.FEATURES, batch=20)


def agreement(*same: bool, kl: tuple[float, ...] = (), cosine: tuple[float, ...] = ()) -> Agreement:
    return Agreement(np.array(same), np.array(kl), np.array(cosine), 0.5 * np.array(cosine))


def test_losses() -> None:
    of = agreement(True, False, kl=(0.0, 2.0), cosine=(1.0, 0.6))
    assert Objective.KL.losses(of).tolist() == [0.0, 2.0]
    assert Objective.LOGITS.losses(of) == pytest.approx([0.0, 0.4])
    assert Objective.FEATURES.losses(of) == pytest.approx([0.5, 0.7])
    assert Objective.TOP1.losses(of) == pytest.approx([0.0, 1.02])
    bare = Agreement(None, None, None, np.array([0.9]))
    assert Objective.FEATURES.losses(bare) == pytest.approx([0.1])
    with pytest.raises(OptionError, match="needs a classifier"):
        Objective.KL.losses(bare)


def test_the_judge_compares_with_the_full_model() -> None:
    pixels = demo_source().limited(6).all_pixels()
    model = create_model("demo_vit", weights=WeightsSource.parse("pretrained")).model
    expected = model(torch.from_numpy(pixels)).numpy()
    _, plan = plan_model("demo_vit", Reduction(r=40))
    judge = Judge(model, pixels, 4, "demo_vit")
    found = judge.agreement(plan)
    reduced = patch.apply(model, plan)(torch.from_numpy(pixels)).numpy()
    norms = np.linalg.norm(expected, axis=1) * np.linalg.norm(reduced, axis=1)
    assert found.logit_cosine == pytest.approx((expected * reduced).sum(1) / norms, abs=1e-5)
    _, nothing = plan_model("demo_vit", Reduction(r=0))
    again = judge.agreement(nothing)
    assert again.kl is not None
    assert again.kl.max() < 1e-9


def test_an_interval_tells_better_from_worse() -> None:
    rng = np.random.default_rng(0)
    low, high = rng.normal(1.0, 0.1, 100), rng.normal(1.2, 0.1, 100)
    of = {
        "chosen": Agreement(None, low, low, None, ),
        "baseline": Agreement(None, high, high, None),
    }  # fmt: skip
    of = {who: replace(row, same_top1=np.ones(100, dtype=bool)) for who, row in of.items()}
    found = _difference(of, Objective.KL, 0)
    mean, least, most = found.mean, found.low, found.high
    assert least < mean < most < 0
    assert mean == pytest.approx((low - high).mean())
    same = {"chosen": of["chosen"], "baseline": of["chosen"]}
    assert _difference(same, Objective.KL, 0) == LossDifference(0.0, 0.0, 0.0)


@pytest.mark.parametrize(("gain", "wins"), [(0.3, True), (0.0, False), (-0.3, False)])
def test_a_finalist_has_to_be_better_beyond_noise(gain: float, wins: bool) -> None:
    """A gain on average that hangs on few images is none: 40 images, a spread of 1, so 2 standard errors are 0.32."""
    noise = np.random.default_rng(1).normal(0.0, 1.0, 40)
    noise += 0.05 - noise.mean()
    first, other = Candidate("P", (1,)), Candidate("M", (1,))
    losses = {first: np.full(40, 5.0), other: 5.0 - gain - noise}
    judge, _space = SimpleNamespace(agreement=lambda plan: None), None
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("tofu_export.tune.run._losses", lambda judge, space, one, objective: losses[one])
        chosen = _choice(judge, _space, [other, first], first, Objective.KL)  # type: ignore[arg-type]
    assert chosen == (other if wins else first)


def test_a_whole_run(tmp_path: Path) -> None:
    result = tune(replace(SMALL, state=tmp_path / "s"))
    document = to_object(result.document("the command"))
    json.dumps(document, allow_nan=False)
    assert document["images"] == {"calibration": 8, "validation": 4, "held_out": 8}
    assert result.chosen.macs_full / result.chosen.macs_reduced >= 3.0
    assert result.baseline.pattern == "PPPWWWWWWWWW"
    _, fixed = plan_model("demo_vit", Reduction(speedup=3.0))
    assert result.baseline.layers == fixed.layers
    assert result.losses["validation"].chosen <= result.losses["validation"].baseline
    assert result.evaluations == 4
    assert document["kind"] == "tune"
    assert [row["loss"] for row in document["history"]] == [
        json.loads(line)["loss"] for line in (tmp_path / "s").read_text().splitlines()[1:]
    ]
    assert document["history"][0]["r"] == [layer.removed for layer in fixed.layers]
    assert all(row["gmacs"] <= document["plan"]["gmacs"]["full"] / 3 for row in document["history"])
    assert len((tmp_path / "s").read_text().splitlines()) == 5
    again = tune(replace(SMALL, state=tmp_path / "s", evaluations=4))
    assert again.chosen.layers == result.chosen.layers
    assert again.history == result.history
    with pytest.raises(OptionError, match=r"other settings \(images, seed\)"):
        tune(replace(SMALL, state=tmp_path / "s", seed=1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"speedup": None}, "give one budget"),
        ({"gmacs": 0.1}, "give one budget"),
        ({"speedup": 0.5}, "speedup is 0.5"),
        ({"speedup": None, "latency_ms": 0.0}, "latency is 0.0 ms"),
        ({"limit": 5}, "limit is 5"),
        ({"methods": "PX"}, "methods are 'PX'"),
        ({"methods": "PP"}, "methods are 'PP'"),
        ({"methods": ""}, "methods are ''"),
        ({"select": Selection.PREDICTOR}, "choose another --select"),
    ],
)
def test_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        replace(SMALL, **change)


def test_a_budget_out_of_reach() -> None:
    with pytest.raises(OptionError, match="is out of reach"):
        tune(replace(SMALL, speedup=50.0))


def test_time_from_the_table() -> None:
    spec, _ = plan_model("demo_vit", Reduction())
    table = LatencyTable(1, (10, 100, 200), (1.0, 10.0, 30.0), (0.5, 0.5, 0.5), 2.0)
    whole = table.predict(spec, [0] * 12)
    assert whole == pytest.approx(2.0 + 12 * (10.0 + 0.97 * 20.0))
    one = table.predict(spec, [50] + [0] * 11)
    expected = 2.0 + (10.0 + 0.72 * 20.0) + 0.5 + 11 * (10.0 + 0.47 * 20.0)
    assert one == pytest.approx(expected)
    assert replace(table, scale=2.0).predict(spec, [0] * 12) == pytest.approx(2 * whole)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(tmp_path / "t.json")
    options = ("--latency", "1e6", "--limit", "10", "--evaluations", "2", "--batch", "2", "--objective", "features")
    assert run("tune", "demo_vit", *options, "-o", path, "--json") == 0
    out, err = capsys.readouterr()
    document = json.loads(out)
    assert document["latency_ms"]["full"] > 0
    assert document["budget"] == {"latency_ms": 1e6}
    assert "tuned less fixed on held-out images" in err
    assert run("plan", "demo_vit", "--plan-file", path, "--json") == 0
    assert json.loads(capsys.readouterr().out)["plan"]["layers"] == document["plan"]["layers"]


@pytest.mark.parametrize(
    ("number", "code", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
@pytest.mark.parametrize(
    ("tried", "words"),
    [(0, "no plan was tried yet"), (1, "1 plan that was tried is kept in"), (3, "3 plans that were tried are kept in")],
)
def test_a_signal_says_what_is_kept_and_how_to_go_on(
    tried: int,
    words: str,
    number: int,
    code: int,
    word: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def stopped(request: TuneRequest, _: object) -> None:
        assert request.state is not None
        if tried:
            request.state.write_text("{}\n" * (1 + tried) + '{"cut')
        signal.raise_signal(number)

    monkeypatch.setattr("tofu_export.tune.run.tune", stopped)
    path = tmp_path / "t.json"
    assert run("tune", "demo_vit", "--speedup", "2", "-o", str(path), "-q") == code
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = err.split("\n")[-2:-1]  # click begins a new line after ^C
    assert err.strip() == line
    assert line.startswith(f"tofu-export: error: {word}; {words}")
    assert ("the same command goes on there" in err) == bool(tried)
    assert not path.exists()
    monkeypatch.setattr("tofu_export.zoo.specs.plan_model", lambda *_, **__: signal.raise_signal(signal.SIGINT))
    assert run("plan", "demo_vit") == 130  # another command has other last words
    assert "a file under its final name is complete" in capsys.readouterr().err
