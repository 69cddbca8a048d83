"""What a command says when it is stopped: what holds then, and no more."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from tests.cli.running import run

STEPS = {"test_vit": "tofu_export.job.dry_run.preview", "unet": "tofu_export.diffusion.adapter.plan_unet"}
"""What a dry run of a command does for the longest time, by the first word of the command line."""


@pytest.mark.parametrize(("sent", "word", "code"), [("SIGINT", "interrupted", 130), ("SIGTERM", "terminated", 143)])
@pytest.mark.parametrize("first", STEPS)
def test_a_dry_run_speaks_of_no_files(
    first: str,
    sent: str,
    word: str,
    code: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def stopped(*_: Any) -> None:
        signal.raise_signal(getattr(signal, sent))

    monkeypatch.setattr(STEPS[first], stopped)
    more = ("tiny",) if first == "unet" else ()
    assert run(first, *more, "--weights", "random", "--dry-run", "-o", str(tmp_path / "out")) == code
    out, err = capsys.readouterr()
    assert (out, err.lstrip("\n")) == ("", f"tofu-export: error: {word}; a dry run makes nothing\n")


def test_the_advice_of_a_dry_run_ends_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of the job behind it in the same process all files are spoken of again."""
    options = ("test_vit", "--weights", "random", "-o", str(tmp_path / "out"))
    assert run(*options, "--dry-run") == 0
    monkeypatch.setattr("tofu_export.job.vit.run_job", lambda *_: signal.raise_signal(signal.SIGTERM))
    assert run(*options) == 143
    assert f"nothing was written to {tmp_path / 'out'}" in capsys.readouterr().err
