"""`tofu-export analyze`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.running import run


def test_files_and_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figure, output = str(tmp_path / "new" / "f.svg"), str(tmp_path / "a.json")
    options = ("--limit", "2", "--steps", "2", "--r", "8", "--figure", figure, "-o", output)
    assert run("analyze", "demo_vit", *options, "--json") == 0
    out, err = capsys.readouterr()
    assert json.loads(out) == json.loads(Path(output).read_text(encoding="utf-8"))
    assert json.loads(out)["command"].startswith("tofu-export analyze demo_vit")
    assert len([line for line in err.splitlines() if "±" in line]) == 12
    assert f"written: {figure}" in err
    assert Path(figure).is_file()


def test_a_figure_of_another_kind_is_refused_before_the_work(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("analyze", "demo_vit", "--figure", "f.txt") == 2
    assert "expected a name that ends with one of .svg" in capsys.readouterr().err
