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


TWO_SCREENS = 60
"""Lines."""


def test_help_of_export_fits_two_screens(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("export", "--help") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= TWO_SCREENS
    assert lines[-1] == "All options: tofu-export export --help-all"
    shown = {line.split()[0].rstrip(",") for line in lines if line.startswith("  -")}
    everyday = {"--weights", "--r", "--mode", "--speedup", "--precision", "--batch", "--images", "-o", "--engine"}
    assert everyday | {"--plan-file", "--bench", "--json", "--dry-run", "-q", "-v", "--help-all"} <= shown
    assert "--opset" not in shown


@pytest.mark.parametrize("name", sorted(cli.commands))
def test_help_all_where_options_are_left_out(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(name, "--help") == 0
    few = capsys.readouterr().out
    if "--help-all" not in few:
        assert run(name, "--help-all") == 2
        return
    assert run(name, "--help-all") == 0
    everything = capsys.readouterr().out
    assert set(_flags(few)) < set(_flags(everything))
    assert "All options" not in everything


def _flags(text: str) -> list[str]:
    return [line.split()[0] for line in text.splitlines() if line.startswith("  -")]


def test_examples_of_bench(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("bench", "--help") == 0
    assert "\n  tofu-export bench out/model.fp32.onnx --profile\n" in capsys.readouterr().out


def test_no_word_at_all_shows_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert run() == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("Usage: tofu-export ")
    assert "doctor" in err


@pytest.mark.parametrize("words", [("verfy",), ("verfy", "model.onnx"), ("verfy", "--nonsense")])
def test_a_mistyped_command_is_told_from_a_model(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*words) == 2
    assert "If you meant the command: tofu-export verify --help" in capsys.readouterr().err


def test_a_mistyped_option_of_a_command_is_no_mistyped_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("verify", "--nonsense") == 2
    assert capsys.readouterr().err.strip().endswith("See: tofu-export verify --help")


@pytest.mark.parametrize("command", [(), *((name,) for name in sorted(cli.commands))], ids=" ".join)
def test_help_as_a_command(command: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*command, "--help") == 0
    expected = capsys.readouterr().out
    assert run("help", *command) == 0
    assert capsys.readouterr().out == expected


def test_help_of_no_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("help", "verfy") == 2
    assert "no command 'verfy': did you mean verify?" in capsys.readouterr().err
    assert run("help", "zzz") == 2
    assert "expected one of export, plan, verify" in capsys.readouterr().err
