"""Put a report and its evidence together into one page."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tofu_export.errors import OptionError
from tofu_export.report.html.evidence import Evidence, read_document
from tofu_export.report.html.sections import Sections, sections_of

__all__ = ["read_report", "render"]

_PARTS = ("model", "plan", "output", "command", "environment", "artifacts", "verification", "benchmark", "skipped")


def read_report(path: Path) -> dict[str, Any]:
    """The document of a `report.json`.

    Raises:
        OptionError: it cannot be read, is something else, or of another version.
    """
    document = read_document(path, "a report.json that tofu-export wrote")
    if missing := [part for part in _PARTS if part not in document]:
        raise OptionError(f"{path} has no {', '.join(missing)}, expected a report.json that tofu-export wrote")
    return document


def render(report: Mapping[str, Any], evidence: Evidence | None = None) -> str:
    """The page. Equal input gives equal bytes.

    Args:
        report: document of report.json.
        evidence: what else to show.

    Raises:
        OptionError: the report or a piece of evidence is damaged.
    """
    try:
        sections = sections_of(report, evidence or Evidence())
    except OptionError:
        raise
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, ArithmeticError) as error:
        raise OptionError(
            f"the report or its evidence is damaged or of another version ({type(error).__name__}: {error}): "
            "make it again with this version"
        ) from error
    return _template(sections)


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
