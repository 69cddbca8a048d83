"""Every command's help."""

from __future__ import annotations

import pytest

from tests.cli.running import run
from tofu_export.cli.main import cli


@pytest.mark.parametrize("command", [(), *((name,) for name in sorted(cli.commands))], ids=" ".join)
def test_examples_keep_their_lines(command: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*command, "--help") == 0
    out = capsys.readouterr().out
    assert "\\b" not in out
    examples = [line.strip() for line in out.splitlines() if line.strip().startswith("tofu-export ")]
    assert all(line.count("tofu-export ") == 1 or "short for" in line for line in examples)


def test_examples_of_bench(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("bench", "--help") == 0
    assert "\n  tofu-export bench out/model.fp32.onnx --profile\n" in capsys.readouterr().out
