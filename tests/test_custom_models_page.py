"""docs/custom-models.md does what it says: its code runs, its commands work on what that code saved."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import onnxruntime
import pytest
import torch

from tests.cli.running import run
from tofu_export.zoo.create import create_model
from tofu_export.zoo.weights import WeightsSource

PAGE = (Path(__file__).parent.parent / "docs" / "custom-models.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^    (tofu-export .*)$", PAGE, flags=re.MULTILINE)
QUICK = ("--batch", "1", "--precision", "fp32", "--no-bench", "--no-engine", "--no-verify", "-q")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the page's Python has run."""
    folder = tmp_path_factory.mktemp("page")
    (block,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        exec(compile(block, "custom-models.md", "exec"), {})  # our own page
    return folder


def test_it_is_short_and_has_commands() -> None:
    assert len(PAGE.split()) <= 500
    assert len(COMMANDS) >= 4


@pytest.mark.e2e
@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_works(command: str, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(made)
    assert run(*shlex.split(command)[1:], *QUICK, "-o", str(tmp_path / "out")) == 0
    if "--dry-run" not in command:
        (image,) = onnxruntime.InferenceSession(str(tmp_path / "out" / "model.onnx")).get_inputs()
        assert image.shape[1:] == ([1, 96, 128] if "96x128" in command else [1, 128, 128])


def test_the_configuration_is_enough(made: Path, tmp_path: Path) -> None:
    (text,) = re.findall(r"```json\n(.*?)```", PAGE, flags=re.DOTALL)
    (tmp_path / "config.json").write_text(json.dumps(json.loads(text)))
    (tmp_path / "model.safetensors").write_bytes((made / "my_model" / "model.safetensors").read_bytes())
    weights = WeightsSource.parse("pretrained")
    by_hand = create_model(f"local-dir:{tmp_path}", weights=weights)
    saved = create_model(f"local-dir:{made / 'my_model'}", weights=weights)
    assert by_hand.preprocessing == saved.preprocessing
    x = torch.randn(2, 1, 128, 128, generator=torch.Generator().manual_seed(0))
    assert torch.equal(by_hand.model(x), saved.model(x))
