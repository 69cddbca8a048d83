"""Entry point of `python -m tofu_export.cli`."""

from tofu_export.cli.start import main

if __name__ == "__main__":
    main()
