"""The command line: a thin skin on the library. The only place that prints."""

if __name__ != "tofu_export.cli":
    raise ImportError(
        f"this package is tofu_export.cli, not {__name__!r}: import it by its full name "
        "(see docs/decisions/001-layout.md)"
    )
