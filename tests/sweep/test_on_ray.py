from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tofu_export.errors import BackendMissingError, OptionError
from tofu_export.sweep.on_ray import check_address, on_ray

CODE = """
from tofu_export.sweep.grid import Cell, Grid, expand
from tofu_export.sweep.on_ray import LOCAL, on_ray
from tofu_export.sweep.settings import Settings

(full,), _ = expand(Grid(("demo_vit",), r=(0,)))
nowhere = Cell(**{**vars(full), "model": "vit_nowhere"})
for cell, outcome in on_ray(LOCAL, 1)([full, nowhere], Settings(limit=4)):
    print(cell.model, getattr(outcome, "reason", None) or outcome.outputs.tolist())
"""


def test_without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(BackendMissingError, match=r"pip install 'tofu-export\[ray\]'"):
        on_ray("local")


@pytest.mark.thorough
def test_a_local_cluster_evaluates(tmp_path: Path) -> None:
    """In a process of its own: Ray starts others, and leaves threads behind."""
    pytest.importorskip("ray", reason="needs ray")
    done = subprocess.run(
        [sys.executable, "-c", CODE], cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    said = [line.partition(" ") for line in done.stdout.splitlines()]
    lines = {model: what for model, _, what in said}
    assert lines["demo_vit"] == "[9, 6, 7, 7]"
    assert lines["vit_nowhere"].startswith("unknown model")


def test_no_cluster_is_a_missing_backend() -> None:
    with pytest.raises(BackendMissingError, match=r"no Ray cluster at 127.0.0.1:1: .*refused.*`ray start --head`"):
        check_address("127.0.0.1:1")


@pytest.mark.parametrize("address", ["", "nonsense", "host:", ":6379", "host:99999", "http://host"])
def test_addresses_that_cannot_be_read(address: str) -> None:
    with pytest.raises(OptionError, match="expected local, auto, HOST:PORT"):
        check_address(address)


def test_an_address_where_something_answers() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        check_address(f"ray://127.0.0.1:{server.getsockname()[1]}")
    check_address("local")
