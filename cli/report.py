"""`tofu-export report`: make the page of a finished job again, with more evidence."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tofu_export.cli.command import Run, command
from tofu_export.errors import OptionError
from tofu_export.options import shared
from tofu_export.options.declaration import Section, opt, positional

__all__ = ["report_command"]


@dataclass(frozen=True)
class ReportWork:
    """Options for what the page shows, and where it goes."""

    folder: Path = positional(metavar="DIR")
    added: tuple[Path, ...] = opt(
        (), "Evidence of tofu-export eval, sweep, analyze, tune or tokens, besides that in DIR.", Section.OUTPUT,
        flags=("--add",), metavar="FILE.json", multiple=True,
    )  # fmt: skip
    output: Path | None = shared.output("Page to write.", "HTML", unless="DIR/report.html")


@command("report", short_help="Make report.html again, with more evidence.", as_json=False, quiet="Only errors.")
def report_command(work: ReportWork, run: Run) -> None:
    """Make one self-contained page from DIR/report.json.

    The page asks the network for nothing. tokens.json, eval.json, sweep.json, linearity.json and tune.json in DIR are
    shown too. A file that is added takes the place of the one of its kind; evaluations of different things add up.

    \b
    tofu-export report out
    tofu-export report out --add sweep/sweep.json --add linearity.json --add fp32.json --add fp16.json
    """
    from tofu_export.report.html import read_evidence, read_report, render
    from tofu_export.report.html.evidence import BESIDE
    from tofu_export.system.files import write_text

    source = work.folder / "report.json" if work.folder.is_dir() else work.folder
    destination = work.output or source.parent / "report.html"
    if destination.suffix.lower() not in (".html", ".htm"):
        raise OptionError(f"-o is {destination}, expected a name that ends in .html")
    report = read_report(source)
    beside = [path for name in BESIDE if (path := source.parent / name).is_file()]
    evidence = read_evidence([*beside, *work.added])
    page = render(report, evidence)
    write_text(destination, page)
    shown = ", ".join(f"{name} ({kind})" for kind, name in evidence.names)
    run.say(f"written to {destination}{f', with {shown}' if shown else ''}")
