"""Every command that loads weights says what it loaded, in the same words."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.running import run
from tofu_export.zoo.create import create_model
from tofu_export.zoo.weights import WeightsSource

COMMANDS = {
    "eval": ("eval", "demo_vit", "--limit", "8", "--no-agreement", "--json"),
    "analyze": ("analyze", "demo_vit", "--limit", "2", "--steps", "2", "--json"),
    "tune": (
        "tune",
        "demo_vit",
        "--speedup",
        "1.2",
        "--limit",
        "10",
        "--evaluations",
        "1",
        "--json",
        "-o",
        "OUT/p.json",
    ),
    "sweep": ("sweep", "demo_vit", "--r", "8", "--limit", "8", "--no-bench", "--no-verify", "--json", "-o", "OUT"),
}


@pytest.mark.e2e
@pytest.mark.parametrize("command", COMMANDS)
def test_on_the_console_and_in_the_document(tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str) -> None:
    expected = create_model("demo_vit", weights=WeightsSource.parse("pretrained")).summary()
    assert run(*(word.replace("OUT", str(tmp_path)) for word in COMMANDS[command])) == 0
    out, err = capsys.readouterr()
    assert " ".join(expected.split()) in " ".join(err.split())  # a table's width may have wrapped it
    loaded = json.loads(out)["loaded"]
    assert loaded in (expected, {"demo_vit": expected})
