"""The command line: a thin layer over the library. The only package that prints."""

if __name__ != "tofu_export.cli":
    raise ImportError(
        f"this package is tofu_export.cli, not {__name__!r}: import it by its full name "
        "(see docs/decisions/001-layout.md)"
    )
