"""Render a report and its evidence as one page."""

from __future__ import annotations

from pathlib import Path

from tofu_export.report.document import Report
from tofu_export.report.html.evidence import Evidence, read_document
from tofu_export.report.html.sections import Sections, sections_of

__all__ = ["read_report", "render"]


def read_report(path: Path) -> Report:
    """Read the report in a `report.json`.

    Raises:
        OptionError: the file cannot be read, is not a report, or has another version.
    """
    return Report.from_dict(read_document(path, "a report.json that tofu-export wrote"), f"{path}: ")


def render(report: Report, evidence: Evidence | None = None) -> str:
    """Render the page. Equal input gives equal bytes.

    Args:
        report: report of a job.
        evidence: further evidence to show.

    Raises:
        OptionError: token maps cannot be drawn.
    """
    return _template(sections_of(report, evidence or Evidence()))


def _template(sections: Sections) -> str:
    import jinja2
    from markupsafe import Markup

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("tofu_export.report.html", "templates"),
        autoescape=True,  # names of models, files and labels come from outside
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    assert environment.loader is not None  # given above
    style = environment.loader.get_source(environment, "report.css")[0]
    return environment.get_template("report.html.j2").render(page=sections, style=Markup(style)) + "\n"
