"""Signals from the first moment on: one line and an exit code, or what Python itself does before it reads ours."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pytest brings it

ROOT = Path(__file__).resolve().parents[2]
ENDED = {
    signal.SIGINT: "tofu-export: error: interrupted; ",
    signal.SIGTERM: "tofu-export: error: terminated; ",
}
KEPT = "a file under its final name is complete\n"
NOT_BEGUN = "nothing was begun\n"
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}
ENTRIES = {
    "module": ["-m", "tofu_export.cli"],
    "script": ["-c", "import sys; from tofu_export.cli.start import main; sys.exit(main())"],
}
"""How the command line is started; the second is what an installed script holds."""

AT_IMPORT = """
import os, sys

module, number = sys.argv[1], int(sys.argv[2])

class Finder:
    # Sends the signal when the command line imports this module.
    def find_spec(self, name, path=None, target=None):
        if name == module:
            os.kill(os.getpid(), number)

sys.meta_path.insert(0, Finder())
from tofu_export.cli.start import main
sys.argv[1:] = ["plan", "vit_base"]
main()
"""


def python(*arguments: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, *arguments], env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def test_it_is_what_an_installation_starts() -> None:
    table = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert table["project"]["scripts"] == {"tofu-export": "tofu_export.cli.start:main"}


def test_nothing_is_loaded_before_signals_are_taken() -> None:
    """Beyond what the interpreter has loaded by itself."""
    code = """
import os, sys
before = set(sys.modules)
import tofu_export.cli.start
print(*sorted(set(sys.modules) - before))
"""
    process = python("-S", "-c", code)
    out, _ = process.communicate(timeout=120)
    assert set(out.split()) == {"__future__", "tofu_export", "tofu_export.cli", "tofu_export.cli.start"}


@pytest.mark.parametrize("sent", CODES)
@pytest.mark.parametrize(
    "module", ["tofu_export.cli.main", "click", "tofu_export.cli.analyze", "tofu_export.cli.verify"]
)
def test_at_an_import_of_the_command_line(module: str, sent: signal.Signals) -> None:
    process = python("-c", AT_IMPORT, module, str(int(sent)))
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out, err) == (CODES[sent], "", ENDED[sent] + NOT_BEGUN)


@pytest.mark.parametrize("entry", ENTRIES)
def test_at_any_time(entry: str) -> None:
    """From the start of the interpreter to the end of a short command."""
    start = time.monotonic()
    whole = python(*ENTRIES[entry], "plan", "vit_base")
    assert whole.communicate(timeout=120)[1] == ""
    seconds = time.monotonic() - start
    answered = 0
    for step in range(16):
        process = python(*ENTRIES[entry], "plan", "vit_base")
        time.sleep(seconds * step / 16)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=120)
        code = process.returncode
        if code == 130:
            said = err.lstrip("\n")  # click ends the line of ^C
            assert said in [ENDED[signal.SIGINT] + words for words in (NOT_BEGUN, KEPT)]
            answered += 1
        elif code != 0:  # Python alone was there: before our first line, or after our last one
            assert code in (1, -signal.SIGINT)
            assert "/cli/main.py" not in err
    assert answered >= 6


def test_a_second_one_while_the_first_is_answered() -> None:
    code = """
import os, signal, sys
from tofu_export.cli import main as module
from tofu_export.cli.start import main

def again(*_):
    os.kill(os.getpid(), signal.SIGINT)

module._fail = again
sys.argv[1:] = ["plan", "vit_base", "--nonsense"]
main()
"""
    process = python("-c", code)
    _, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (130, ENDED[signal.SIGINT] + KEPT)
