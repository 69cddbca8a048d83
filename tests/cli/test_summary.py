"""The table at the end of a job names the files that were written."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from tests.report.html.samples import report
from tofu_export.cli.summary import summary
from tofu_export.report.document import TOKEN_MAPS, Report, VitReport


@pytest.mark.parametrize("drawn", [True, False])
def test_token_maps_are_listed_where_they_were_drawn(capsys: pytest.CaptureFixture[str], *, drawn: bool) -> None:
    found = Report.from_dict(report())
    assert isinstance(found, VitReport)
    found.skipped = ()
    if not drawn:
        found.skip(TOKEN_MAPS, "there are no real images")
    Console(width=200).print(summary(found, Path("out")))
    out = capsys.readouterr().out
    assert ("  tokens.json, report.html, report.md, report.json\n" in out) is drawn
    assert ("\n  report.html, report.md, report.json\n" in out) is not drawn
