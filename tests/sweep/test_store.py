from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.sweep.cells import EVALUATION, cell
from tofu_export.errors import OutputError
from tofu_export.sweep.records import Evaluation, Record
from tofu_export.sweep.store import Key, Store

OUTPUTS = np.arange(5, dtype=np.int32)


def key(versions: str = "1.0", **changes: Any) -> Key:
    return Key("evaluation", cell(**changes), None, {"versions": {"torch": versions}, "seed": 0})


def test_what_is_put_comes_back(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert store.get(key(), Evaluation) is None
    store.put(key(), Record(EVALUATION, OUTPUTS))
    record = Store(tmp_path).get(key(), Evaluation)
    assert record is not None
    assert record.result == EVALUATION
    assert record.outputs is not None
    assert np.array_equal(record.outputs, OUTPUTS)


@pytest.mark.parametrize("changes", [{"versions": "2.0"}, {"r": 9}, {"pattern": "AAPP"}])
def test_nothing_else_is_taken_for_it(changes: dict[str, Any], tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.put(key(), Record(EVALUATION, OUTPUTS))
    assert store.get(key(**changes), Evaluation) is None


def test_token_sizes_are_part_of_what_is_measured(tmp_path: Path) -> None:
    store, plain = Store(tmp_path), key()
    store.put(plain, Record(EVALUATION, OUTPUTS))
    assert store.get(replace(plain, cell=replace(plain.cell, prop_attn=not plain.cell.prop_attn)), Evaluation) is None


def test_changed_versions_are_told(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.put(key("1.0"), Record(EVALUATION, OUTPUTS))
    store.put(key("1.0", r=16), Record(EVALUATION, OUTPUTS))
    notes = store.notes("evaluation", [key("2.0"), key("2.0", r=16)], [])
    assert notes == ["2 evaluations measured again: torch was 1.0, is 2.0"]


def test_another_grid_is_told_and_kept(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.put(key(r=8), Record(EVALUATION, OUTPUTS))
    store.put(key(r=12), Record(EVALUATION, OUTPUTS))
    assert store.notes("evaluation", [], [key(r=8)]) == ["1 evaluation of another grid kept and left out"]
    assert store.notes("timing", [], []) == []
    assert store.get(key(r=12), Evaluation) is not None


def test_old_conditions_beside_new_ones_are_not_told_again(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.put(key("1.0"), Record(EVALUATION, OUTPUTS))
    store.put(key("2.0"), Record(EVALUATION, OUTPUTS))
    assert store.notes("evaluation", [], [key("2.0")]) == []


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "[" * 100_000, '{"outputs": "gone.npy", "result": {}}', "\xff"])
def test_a_damaged_file_is_measured_again(text: str, tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.put(key(), Record(EVALUATION, OUTPUTS))
    path = tmp_path / "cells" / f"{key().name}.json"
    path.write_bytes(text.encode("latin-1"))
    assert store.get(key(), Evaluation) is None
    assert store.notes("evaluation", [key()], []) != []


def test_pickles_are_not_opened(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.put(key(), Record(EVALUATION, OUTPUTS))
    np.save(tmp_path / "cells" / f"{key().name}.npy", np.array([print], dtype=object), allow_pickle=True)
    assert store.get(key(), Evaluation) is None


def test_nothing_half_written_stays(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(ValueError, match="JSON"):
        store.put(key(), Record(replace(EVALUATION, top1=float("nan")), OUTPUTS))
    assert not (tmp_path / "cells").exists()


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "cells").write_text("a file", encoding="utf-8")
    with pytest.raises(OutputError):
        Store(tmp_path).put(key(), Record(EVALUATION, OUTPUTS))
