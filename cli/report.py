"""`tofu-export report`: the page of a finished job, made again, with more evidence."""

from __future__ import annotations

from pathlib import Path

import click

from tofu_export.cli.sections import Section, command, option
from tofu_export.cli.shared_options import output_option, quiet_option
from tofu_export.errors import OptionError

__all__ = ["report_command"]


@command("report", short_help="Make report.html again, with more evidence.")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@option(Section.OUTPUT, "--add", "added", metavar="FILE.json", multiple=True, type=click.Path(path_type=Path),
        help="Evidence of tofu-export eval, sweep, analyze, tune or tokens, besides that in DIR.")  # fmt: skip
@output_option("Page to write.  [default: DIR/report.html]", "HTML", default=None)
@quiet_option()
def report_command(folder: Path, added: tuple[Path, ...], output: Path | None, quiet: bool) -> None:
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

    source = folder / "report.json" if folder.is_dir() else folder
    destination = output or source.parent / "report.html"
    if destination.suffix.lower() not in (".html", ".htm"):
        raise OptionError(f"-o is {destination}, expected a name that ends in .html")
    report = read_report(source)
    beside = [path for name in BESIDE if (path := source.parent / name).is_file()]
    evidence = read_evidence([*beside, *added])
    page = render(report, evidence)
    write_text(destination, page)
    if not quiet:
        shown = ", ".join(f"{name} ({kind})" for kind, name in evidence.names)
        click.echo(f"written to {destination}{f', with {shown}' if shown else ''}", err=True)
