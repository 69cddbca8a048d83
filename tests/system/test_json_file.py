"""JSON of others."""

from __future__ import annotations

from pathlib import Path

import pytest

from tofu_export.errors import OptionError
from tofu_export.system.json_file import read_json


def test_what_it_holds(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"a": [1, null]}', encoding="utf-8")
    assert read_json(path, "a plan", most_bytes=16) == {"a": [1, None]}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (None, "cannot be read (No such file or directory)"),
        (b"\xff\xfe\x00", "cannot be read ("),
        (b"", "is not JSON ("),
        (b"{", "is not JSON ("),
        (b"[" * 100_000, "is not JSON ("),
        (b"1" * 5_000, "is not JSON ("),
        (b" " * 2_000_000, "has 2 MB, more than any has"),
    ],
)
def test_what_it_refuses(data: bytes | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(OptionError) as caught:
        read_json(path, "a plan", most_bytes=1_000_000)
    assert str(caught.value).startswith(f"{path} {message}")
    assert str(caught.value).endswith(", expected a plan")


def test_a_folder(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="cannot be read"):
        read_json(tmp_path, "a plan", most_bytes=1_000_000)
