"""`report.html`: one self-contained page that loads nothing from the network."""

from tofu_export.report.html.evidence import Evidence, read_evidence
from tofu_export.report.html.page import read_report, render

__all__ = ["Evidence", "read_evidence", "read_report", "render"]
