"""`report.html`: one page that holds everything and asks the network for nothing."""

from tofu_export.report.html.evidence import Evidence, read_evidence
from tofu_export.report.html.page import read_report, render

__all__ = ["Evidence", "read_evidence", "read_report", "render"]
