"""docs/commands.md is what the command line says."""

from __future__ import annotations

import runpy
from pathlib import Path

PROGRAM = Path(__file__).resolve().parents[1] / ".ci" / "commands_page.py"


def test_the_page_is_up_to_date() -> None:
    program = runpy.run_path(str(PROGRAM))
    assert program["PAGE"].read_text(encoding="utf-8") == program["page"](), "run: python .ci/commands_page.py"


def test_every_option_is_in_it() -> None:
    text = runpy.run_path(str(PROGRAM))["page"]()
    assert "## export\n" in text
    assert r"| `--r N\|N,N,...` | Tokens to remove per layer: one number, or one per layer. [default: 16] |" in text
    assert "| `--cell-seed N` |" in text
