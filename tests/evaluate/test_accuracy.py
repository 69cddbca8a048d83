"""Top-1, top-5 and real labels, against timm's own and against hand counts."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from timm.data import RealLabelsImagenet
from timm.utils import accuracy

from tofu_export.errors import OptionError
from tofu_export.evaluate.accuracy import RealLabels, Score, top_classes


def test_top_classes_are_stable() -> None:
    assert top_classes(np.array([[1.0, 3.0, 3.0, 2.0, 0.0, 5.0]])).tolist() == [[5, 1, 2, 3, 0]]
    assert top_classes(np.array([[0.0, 1.0]])).tolist() == [[1, 0]]


def test_accuracy_is_timms() -> None:
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(200, 12)).astype(np.float32), rng.integers(0, 12, 200)
    score = Score(12)
    score.add(top_classes(logits), [[int(label)] for label in labels])
    top1, top5 = accuracy(torch.from_numpy(logits), torch.from_numpy(labels), topk=(1, 5))  # type: ignore[no-untyped-call]
    assert score.entry().top1 == pytest.approx(top1.item())
    assert score.entry().top5 == pytest.approx(top5.item())
    assert score.entry().top1_err == pytest.approx(100 - top1.item())


def test_few_classes_have_no_top5() -> None:
    score = Score(3)
    score.add(np.array([[2, 1, 0], [0, 1, 2]]), [[2], [1]])
    found = score.entry()
    assert (found.top1, found.top1_err, found.top5, found.top5_err) == (50.0, 50.0, None, None)


def test_nothing_counted_is_no_accuracy() -> None:
    score = Score(10)
    assert score.add(np.array([[1, 2, 3, 4, 5]]), [[]]) == []
    assert score.entry().top1 is None
    assert (score.entry().counted, score.entry().top1_interval, score.entry().top5_interval) == (0, None, None)


def test_intervals_are_of_the_images_that_count() -> None:
    score = Score(10)
    best = np.array([[1, 2, 3, 4, 5]] * 10)
    assert score.add(best, [[1]] * 8 + [[2], [9]]) == [True] * 8 + [False] * 2
    found = score.entry()
    assert found.counted == 10
    assert found.top1_interval == pytest.approx([49.0162, 94.3318], abs=1e-3)  # Wilson, 8 of 10
    assert found.top5_interval == pytest.approx([59.5850, 98.2124], abs=1e-3)  # 9 of 10
    few = Score(3)
    few.add(np.array([[2, 1, 0]]), [[2]])
    assert few.entry().top5_interval is None


def test_real_labels_are_timms(tmp_path: Path) -> None:
    rows: list[list[int]] = [[1, 2], [], [0], [5, 6, 7], [9]]
    path = tmp_path / "real.json"
    path.write_text(json.dumps(rows), encoding="utf-8")
    names = [f"n000/ILSVRC2012_val_{index + 1:08d}.JPEG" for index in range(5)]
    logits = np.random.default_rng(3).normal(size=(5, 10)).astype(np.float32)
    theirs = RealLabelsImagenet(names, str(path))  # type: ignore[no-untyped-call]
    theirs.add_result(torch.from_numpy(logits))  # type: ignore[no-untyped-call]
    score = Score(10)
    score.add(top_classes(logits), RealLabels.read(str(path)).of(names, 10))
    assert score.counted == 4
    assert score.entry().top1 == pytest.approx(theirs.get_accuracy(1))  # type: ignore[no-untyped-call]
    assert score.entry().top5 == pytest.approx(theirs.get_accuracy(5))  # type: ignore[no-untyped-call]


def test_the_bundled_real_labels() -> None:
    real = RealLabels.read("timm")
    assert real.of(["ILSVRC2012_val_00000003.JPEG"], 1000) == [[230, 231]]
    assert len(real.of(["a/b/ILSVRC2012_val_00050000.JPEG"], 1000)) == 1


@pytest.mark.parametrize("name", ["cat.jpg", "ILSVRC2012_val_00000000.JPEG", "ILSVRC2012_val_00050001.JPEG"])
def test_other_images_have_none(name: str) -> None:
    with pytest.raises(OptionError, match=f"{name} is none of them"):
        RealLabels.read("timm").of([name], 1000)


def test_real_labels_of_another_model(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="but the model has 10 classes"):
        RealLabels.read("timm").of(["ILSVRC2012_val_00000003.JPEG"], 10)


@pytest.mark.parametrize("text", ["{}", "[]", "[1]", '[["a"]]', "[[1.5]]"])
def test_what_holds_no_real_labels(text: str, tmp_path: Path) -> None:
    path = tmp_path / "real.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(OptionError, match="holds no real labels"):
        RealLabels.read(str(path))


def test_real_labels_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text("{", encoding="utf-8")
    (tmp_path / "deep.json").write_text("[" * 100_000, encoding="utf-8")
    for path in (tmp_path / "missing.json", tmp_path / "bad.json", tmp_path / "deep.json"):
        with pytest.raises(OptionError, match="cannot read real labels"):
            RealLabels.read(str(path))
