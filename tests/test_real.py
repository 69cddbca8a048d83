"""The measurement of a real classifier: its files decide as the eager model does, and its tables say what they did."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from tests.evaluate.pictures import class_folders, picture
from tests.imports import loaded_scripts
from tests.report.html import samples
from tests.sweep.cells import EVALUATION
from tofu_export.evaluate.images import folder_source
from tofu_export.evaluate.subjects import eager_subject, load_eager
from tofu_export.options import Precision, Reduction
from tofu_export.report.sweep import SweepFailure, compact
from tofu_export.sweep.grid import Cell, expand_pattern
from tofu_export.sweep.records import Evaluation, Record
from tofu_export.sweep.settings import Settings
from tofu_export.zoo.weights import WeightsSource

SCRIPTS = ("evidence_runs", "evidence_order", "evidence_demo", "real_tables", "real")
RANDOM = WeightsSource.parse("random")
SYNSETS = {"n01440764": 2, "n01443537": 3, "n01484850": 2}
PATTERN = "P3M3"
R = 4


@pytest.fixture(scope="module")
def scripts() -> Iterator[dict[str, ModuleType]]:
    with loaded_scripts("benchmarks", *SCRIPTS) as modules:
        yield modules


@pytest.fixture(scope="module")
def real(scripts: dict[str, ModuleType]) -> ModuleType:
    return scripts["real"]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return class_folders(tmp_path_factory.mktemp("real") / "photos", SYNSETS)


def test_the_patterns_are_those_of_the_paper(scripts: dict[str, ModuleType]) -> None:
    assert scripts["real"].patterns_of(12) == (
        "P6M6", "P6A6", "A6P6", "M12", "A12", "P12", "T12", "W12", "P3M9", "P3T9", "P3W9",
    )  # fmt: skip
    assert scripts["real"].patterns_of(6) == (
        "P3M3", "P3A3", "A3P3", "M6", "A6", "P6", "T6", "W6", "P1M5", "P1T5", "P1W5",
    )  # fmt: skip
    assert scripts["real_tables"].comparisons_of(12) == scripts["evidence_order"].COMPARISONS


@pytest.mark.e2e
def test_a_model_is_measured_and_the_same_command_goes_on(
    real: ModuleType, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [
        "--model", "test_vit", "--weights", "random", "--images", str(photos), "--r", str(R), "--patterns", PATTERN,
        "--limit", "6", "--analyzed", "2", "--output", str(tmp_path / "out"), "--write", str(tmp_path / "real.md"),
    ]  # fmt: skip
    assert real.main(arguments) == 0, capsys.readouterr().err
    text = (tmp_path / "real.md").read_text(encoding="utf-8")
    assert "# test_vit on 6 photographs" in text
    assert "6 labelled photographs of 3 classes; weights: random" in text
    assert f"| `{PATTERN}` | on |" in text
    assert f"| `{PATTERN}` | off |" in text
    assert text.count("| INT8 |") == 2
    assert str(tmp_path) not in text
    assert b"</svg>" in (tmp_path / "out" / real.FIGURE).read_bytes()
    assert len(list((tmp_path / "out").glob("pixels-*.npy"))) == 1

    monkeypatch.setattr(real, "analyze", None)  # would fail if it was called

    def refuse(cells: Any, settings: Any) -> Any:
        raise AssertionError(cells)

    settings = Settings(RANDOM, images=photos, limit=6, image_cache=tmp_path / "out", bench=False)
    again = real.measure("test_vit", settings, [R], [PATTERN], tmp_path / "out", pool=refuse, analyzed=2)
    source = folder_source(photos, load_eager("test_vit", weights=RANDOM).preprocessing, num_classes=1000).limited(6)
    assert again.labels.tolist() == [0, 0, 1, 1, 1, 2]
    for sized in (True, False):
        reduction = Reduction(r=R, pattern=expand_pattern(PATTERN), prop_attn=sized)
        eager = eager_subject(load_eager("test_vit", weights=RANDOM), reduction)
        (cell,) = [one for one in again.methods if not one.full and one.prop_attn is sized]
        assert again.found[cell].outputs.tolist() == eager.decide(source).tolist()


def test_photos_without_classes_are_refused(
    real: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture(tmp_path / "photos" / "a.png")
    images = ["--images", str(tmp_path / "photos"), "--output", str(tmp_path / "out")]
    assert real.main(["--model", "test_vit", "--weights", "random", *images]) == 2
    assert "no class folders, expected one per synset" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        real.main(["--model", "test_vit", *images, "--r", "8,x"])
    assert "'8,x', expected whole numbers" in capsys.readouterr().err


def cell(pattern: str, r: int, sized: bool, precision: Precision = Precision.FP32, mode: str = "pattern") -> Cell:
    letters = expand_pattern(pattern) if r else "-" * 12
    return Cell("a_vit", r, mode if r else "full", letters, (r,) * 12, sized, precision, 1.25 - r / 20, 1.25)


LABELS = np.arange(10)


def record(right: int) -> Record[Evaluation]:
    """A file that gives the first images their class, and the others none of the ten."""
    return Record(replace(EVALUATION, file_bytes=5_000_000), np.where(right > LABELS, LABELS, 99))


def canned(real: ModuleType, right: dict[Cell, int], **changes: Any) -> Any:
    """What was measured, from the number of images of ten that each file gets right."""
    analysis = samples.analysis()
    norms = dict.fromkeys(("prune", "average", "mlerp"), [0.9] * 2)
    cells = tuple(right)
    made = real.Real(
        labels=LABELS,
        methods=tuple(one for one in cells if one.mode in ("pattern", "full") and one.precision is Precision.FP32),
        defaults=tuple(one for one in cells if one.mode in ("mlerp", "tome", "full")),
        falling=tuple(one for one in cells if one.mode == "weighted-mlerp"),
        falling_r={8: 7, 16: 13},
        precisions=tuple(one for one in cells if one.mode in ("mlerp", "full")),
        found={one: record(hits) for one, hits in right.items()},
        failures=(),
        analysis={
            **analysis,
            "r": 16,
            "environment": {"versions": {"onnxruntime": "1.2"}},
            "layers": analysis["layers"][:1] * 2,
            "token_norms": norms,
        },
        weights="sha256:0",
    )
    return replace(made, **changes)


@pytest.fixture
def right() -> dict[Cell, int]:
    return {
        cell("", 0, False): 9,
        cell("P6M6", 8, True): 7, cell("P6M6", 8, False): 4, cell("P6M6", 16, True): 5,
        cell("M12", 8, True): 8,
        cell("P6M6", 8, True, mode="mlerp"): 7, cell("T12", 8, True, mode="tome"): 8,
        cell("P6M6", 16, True, mode="mlerp"): 5, cell("T12", 16, True, mode="tome"): 5,
        cell("P3W9", 7, True, mode="weighted-mlerp"): 8,
    }  # fmt: skip


def section(text: str, title: str) -> list[str]:
    return text.partition(f"## {title}\n")[2].partition("\n## ")[0].splitlines()


def test_tables_say_what_the_files_decided(scripts: dict[str, ModuleType], right: dict[Cell, int]) -> None:
    text = scripts["real_tables"].page(canned(scripts["real"], right), "figure.svg")
    assert "    python benchmarks/real.py --model a_vit --weights FILE --images DIR --r 8,16\n" in text
    assert "Full model: 90.0% (95 %: 59.6 to 98.2), 1.25 GMACs." in text
    table = section(text, "Methods and r")
    assert "| pattern | token sizes | r = 8 | r = 16 |" in table
    assert "| GMACs |  | 0.850 | 0.450 |" in table
    assert "| `P6M6` | on | 70.0% | 50.0% |" in table
    assert "| `P6M6` | off | 40.0% | failed |" in table
    less = section(text, "Less the full model")
    assert "| `P6M6` | on | -20.0 (-43.3 to +10.0), p = 0.50 | -40.0 (-64.6 to -2.1), p = 0.12 |" in less
    assert any(line.startswith("| `M12` | on | +0.0 (") for line in section(text, "Less ToMe"))
    (sizes,) = [line for line in section(text, "What token sizes do") if line.startswith("| `")]
    assert sizes.startswith("| `P6M6` | +30.0 (")
    assert sizes.endswith("| failed |")
    beside = section(text, "Token Fusion beside ToMe")
    assert any(line.startswith("| Token Fusion `P6M6` | 8 | 0.850 | 1.47x | 70.0% | -20.0 (") for line in beside)
    assert any(line.startswith("| ToMe `T12` | 16 |") and line.endswith("| the same |") for line in beside)
    assert sum(line.startswith("| Token Fusion `P3W9`, falling | 7 |") for line in beside) == 1
    assert "order hold" not in text  # not all patterns of it are there
    assert "Failed" not in text
    assert "](figure.svg)" in text


def test_the_order_is_judged_with_sizes_and_without(scripts: dict[str, ModuleType], right: dict[Cell, int]) -> None:
    more = {cell(name, 8, sized): 6 for name in ("P6A6", "A12", "A6P6", "M12") for sized in (True, False)}
    text = scripts["real_tables"].page(canned(scripts["real"], {**right, **more}), "f.svg")
    assert "| r | `P6A6` - `A12` | `A12` - `A6P6` | `P6M6` - `P6A6` | `M12` - `A12` | order |" in text
    for state in ("on", "off"):
        table = section(text, f"Does the order hold? Token sizes {state}")
        assert [line.split(" | ")[0] for line in table if line.startswith("| ")][1:] == ["| 8"]  # r = 16 is not whole


def test_precisions_are_compared_with_the_same_reduction_in_fp32(
    scripts: dict[str, ModuleType], right: dict[Cell, int]
) -> None:
    half, int8 = cell("P6M6", 8, True, Precision.FP16, "mlerp"), cell("P6M6", 8, True, Precision.INT8, "mlerp")
    made = canned(scripts["real"], {**right, half: 7, int8: 6})
    failed = SweepFailure("a_vit", "r=8 int8", "ExportError", "a | b", 3)
    found = {one: got for one, got in made.found.items() if one != int8}
    table = section(scripts["real_tables"].page(made, "f.svg"), "Precision")
    assert "| r = 8, `P6M6`, sizes on | FP32 | 5.0 MB | 70.0% | the same |" in table
    assert any("| FP16 | 5.0 MB | 70.0% | +0.0 (" in line for line in table)
    assert any("| INT8 | 5.0 MB | 60.0% | -10.0 (" in line for line in table)
    text = scripts["real_tables"].page(replace(made, found=found, failures=(failed,)), "f.svg")
    assert any("| INT8 | failed | failed | failed |" in line for line in section(text, "Precision"))
    assert "| r=8 int8 | a / b |" in text
    assert compact(int8.pattern) == "P6M6"
