"""The page as text: what it says, what it escapes, what it refuses."""

from __future__ import annotations

import copy
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from tests.cli.running import run
from tests.report.html import samples
from tofu_export.errors import OptionError
from tofu_export.report.document import Report
from tofu_export.report.html import Evidence, read_evidence, read_report, render
from tofu_export.report.html.evidence_charts import Point, frontier
from tofu_export.report.html.svg import number, ticks

HOSTILE = "<script>alert(1)</script>\"'&{{ 7 * 7 }}"


def page_of(document: dict[str, Any], evidence: Evidence | None = None) -> str:
    return render(Report.from_dict(document), evidence)


def everything(name: str = "photo.jpg") -> Evidence:
    return samples.evidence(
        samples.sweep(), samples.analysis(), samples.tokens(name), samples.tuning(), samples.evaluation()
    )


class Outline(HTMLParser):
    """Ids, links inside the page, headings and tags, in their order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.used: list[str] = []
        self.headings: list[int] = []
        self.tags: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for key, value in attrs:
            if key == "id":
                self.ids.append(value or "")
            if key == "href" and tag == "a":
                self.links.append(value or "")
            if key in ("aria-labelledby",) or (key == "href" and tag == "use"):
                self.used += (value or "").replace("#", "").split()
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))


def test_the_big_numbers_are_the_reports() -> None:
    page = page_of(samples.report())
    values = re.findall(r'<dd class="value">(.*?)</dd>', page)
    assert values == ["1.75\u00d7", "2.00\u00d7", "1.00000", "1 of 1"]
    assert "quartiles 1.50\u20131.90" in page
    assert "1,234 matching decisions compared, 0 wrong" in page


def test_the_work_of_a_file_is_beside_its_size_with_a_note_on_the_plan() -> None:
    report = samples.report()
    report["artifacts"][0]["gmacs"] = 1.234
    page = page_of(report)
    assert ">1.23</td>" in page
    assert "GMACs of a file are counted in its graph" in page


def test_token_maps_that_were_compared_are_counted() -> None:
    report = samples.report()
    assert "entries of its token maps" not in page_of(report)
    report["verification"][0]["token_map"] = {"compared": 1960, "wrong": 2}
    assert "model.fp32.onnx: 1,960 entries of its token maps compared, 2 wrong." in page_of(report)


def test_a_failed_verification_is_said_loudly() -> None:
    report = samples.report(artifacts=[], benchmark=[])
    report["verification"][0].update(passed=False, max_abs=None)
    report["verification"][0]["decisions"]["wrong"] = 3
    page = page_of(report)
    assert '<div class="bad">\n<dt>files verified</dt>\n<dd class="value">0 of 1</dd>' in page
    assert '<td class="bad">FAILED</td>' in page
    assert "No file was published" in page


def test_equal_input_gives_equal_bytes() -> None:
    assert page_of(samples.report(), everything()) == page_of(copy.deepcopy(samples.report()), everything())


@pytest.mark.parametrize("full", [True, False])
def test_its_structure_is_sound(full: bool) -> None:
    outline = Outline(page_of(samples.report(), everything() if full else None))
    assert len(outline.ids) == len(set(outline.ids))
    inside = [link[1:] for link in outline.links if link.startswith("#")]
    assert set(inside) | set(outline.used) <= set(outline.ids)
    assert [link for link in outline.links if not link.startswith("#")] == ["https://arxiv.org/abs/2312.01026"]
    assert outline.headings[0] == 1
    assert outline.headings.count(1) == 1
    assert all(later <= earlier + 1 for earlier, later in zip(outline.headings, outline.headings[1:], strict=False))
    assert {"header", "nav", "main", "footer"} <= set(outline.tags)
    assert outline.tags.count("caption") == outline.tags.count("table") > 0
    assert "script" not in outline.tags


def test_missing_sections_say_why() -> None:
    page = page_of(samples.report(benchmark=[], verification=[], skipped=[
        {"step": "benchmark", "reason": "switched off by --no-bench"},
        {"step": "verification of model.fp32.onnx", "reason": "switched off by --no-verify"},
        {"step": "token maps", "reason": "there are no real images"},
    ]))  # fmt: skip
    for text in (
        "Nothing was timed: switched off by --no-bench.",
        "No file was verified: switched off by --no-verify.",
        "There are no token maps: there are no real images.",
        "tofu-export sweep tiny_vit",
        "tofu-export analyze tiny_vit",
        "tofu-export eval model.fp32.onnx --images photos",
        "tofu-export tune tiny_vit --gmacs 1 --images photos --json",
    ):
        assert text in page


def test_evidence_is_shown() -> None:
    page = page_of(samples.report(), everything())
    for text in (
        'id="chart-pareto-gmacs-t"', 'id="chart-pareto-speed-t"', 'id="chart-linearity-t"', 'id="chart-norms-t"',
        'id="chart-drift-t"', "other_vit, all: it is not supported", "photo.jpg after block 1: 6 tokens, 2 patches "
        "pruned, 4 merged into 2 groups", "The end is left out.", 'id="chart-accuracy-t"', 'id="chart-search-t"',
        'id="chart-tuned-t"',
    ):  # fmt: skip
        assert text in page
    assert page.count("data:image/png;base64,") == 1  # one copy for all panels


def test_an_evaluation_stands_beside_its_full_model() -> None:
    evidence = samples.evidence(samples.evaluation(), samples.evaluation(model="model.fp16.onnx", top1=96.0))
    page = page_of(samples.report(), evidence)
    assert page.count(">full model</th>") == 2  # once in the table of timings, once for both evaluations
    for text in (
        "96.50 %", "92.95\u201398.29", "98.12\u2013100.00", "-1.50", "-3.60 to +0.60", "97.50%", "0.4000",
        "Evaluated on 200 images, photos.",
        "full model: 98.00 %, 94.97 to 99.22. model.fp32.onnx: 96.50 %, 92.95 to 98.29.",
    ):  # fmt: skip
        assert text in page, text
    assert '<dd class="value">96.5 %</dd>\n<dd class="detail">98.0 % before it, on 200 labelled images' in page
    assert "is of another" not in page


@pytest.mark.parametrize(("names", "value"), [(("fp16", "fp32", "int8"), "95.0%"), (("int8", "fp16"), "85.0%")])
def test_the_headline_is_the_accuracy_of_the_default_precision(names: tuple[str, ...], value: str) -> None:
    top1 = {"fp32": 0.95, "fp16": 0.94, "int8": 0.85}
    (entry,) = samples.report()["artifacts"]
    report = samples.report(
        artifacts=[{**entry, "precision": name, "path": f"model.{name}.onnx"} for name in names],
        accuracy=[
            {"artifact": artifact, "images": 100, "top1": accuracy, "backend": "ort-cpu"}
            for artifact, accuracy in [("full", 0.96), *((f"model.{name}.onnx", top1[name]) for name in names)]
        ],
    )
    assert f'<dd class="value">{value}</dd>\n<dd class="detail">96.0% before it' in page_of(report)


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"resolved": "other_vit"}, "of another model"), ({"plan": {"r": 3, "pattern": "PMM"}}, "of another plan"),
     ({"plan": None, "resolved": None}, "of another model")],
)  # fmt: skip
def test_an_evaluation_of_something_else_is_no_headline(changes: dict[str, object], words: str) -> None:
    page = page_of(samples.report(), samples.evidence(samples.evaluation(**changes)))
    assert f"model.fp32.onnx is {words} than this report." in page
    assert "top-1 after the reduction" not in page
    assert "smallest cosine to eager PyTorch" in page


def test_an_evaluation_without_labels_has_its_agreement() -> None:
    names = ("top1", "top1_err", "top5", "top5_err", "top1_interval", "top5_interval", "full", "difference", "labels")
    page = page_of(samples.report(), samples.evidence(samples.evaluation(**dict.fromkeys(names))))
    assert "chart-accuracy" not in page
    assert "97.50%" in page
    assert "smallest cosine to eager PyTorch" in page


def test_a_later_evaluation_of_the_same_takes_the_place_of_the_first(tmp_path: Path) -> None:
    paths = [tmp_path / f"{name}.json" for name in "abc"]
    for path, changes in zip(paths, ({}, {"top1": 90.0}, {"plan": {"r": 3, "pattern": "PMM"}}), strict=True):
        path.write_text(json.dumps(samples.evaluation(**changes)), encoding="utf-8")
    found = read_evidence(paths).evaluations
    assert [(one.top1, one.plan["r"]) for one in found if one.plan is not None] == [(90.0, 2), (96.5, 3)]


def test_a_tuning_is_shown_beside_the_fixed_plan() -> None:
    page = page_of(samples.report(), samples.evidence(samples.tuning()))
    for text in (
        "3 plans within speedup 2 were tried on 80 images without labels, and the best compared on 40 others",
        "On 80 images that played no part in it the tuned plan is better than the fixed one",
        "differs by -0.016 (95 %: -0.02 to -0.01; below 0 is better)",
        "Plans tried: 3. The first one has 0.02, the best 0.004.", "chosen: plan 3", "loss on those held out", "95.00%",
        "The files of this report run another plan",
    ):  # fmt: skip
        assert text in page, text
    same = samples.tuning()["plan"]
    found = samples.evidence(samples.tuning(baseline=same))
    assert "None was better on other images" in page_of(samples.report(), found)
    report = samples.report()
    report["plan"]["layers"] = same["layers"]
    assert "The files of this report run the tuned plan." in page_of(report, samples.evidence(samples.tuning()))
    other = page_of(samples.report(), samples.evidence(samples.tuning(model="other_vit")))
    assert "These are of another model: other_vit." in other


def test_a_search_that_reaches_no_loss_at_all_is_drawn() -> None:
    """Which no logarithm has."""
    tuning = samples.tuning()
    tuning["history"][2]["loss"] = 0.0
    assert "The first one has 0.02, the best 0." in page_of(samples.report(), samples.evidence(tuning))
    tuning["history"] = tuning["history"][:1]
    assert "Plans tried: 1. The first one has 0.02" in page_of(samples.report(), samples.evidence(tuning))


def test_names_from_outside_are_text() -> None:
    report = samples.report(command=HOSTILE)
    report["model"]["resolved"] = HOSTILE
    report["artifacts"][0]["path"] = report["verification"][0]["artifact"] = report["benchmark"][1]["artifact"] = (
        HOSTILE
    )
    report["skipped"].append({"step": HOSTILE, "reason": HOSTILE})
    sweep = samples.sweep()
    for row in sweep["rows"]:
        row.update(mode=HOSTILE, model=HOSTILE)
    evidence = samples.evidence(
        sweep,
        samples.analysis(),
        samples.tokens(HOSTILE),
        samples.tuning(model=HOSTILE, source=HOSTILE, objective=HOSTILE),
        samples.evaluation(model=HOSTILE, source=HOSTILE, notes=[HOSTILE], resolved=HOSTILE),
    )
    page = page_of(report, evidence)
    assert "<script" not in page
    assert "{{ 7 * 7 }}" in page
    assert "\"'&{{" not in page
    assert Outline(page).ids == Outline(page_of(samples.report(), everything())).ids


@pytest.mark.parametrize("png", ["javascript:alert(1)", "AAAA", "", 'x" onload="alert(1)'])
def test_an_image_that_is_none_is_refused(png: str) -> None:
    document = samples.tokens()
    document["images"][0]["png"] = png
    with pytest.raises(OptionError, match="not a PNG in base64"):
        page_of(samples.report(), samples.evidence(document))


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"plan": {}}, "plan.r is missing"),
        ({"model": {"name": 3}}, "model.name is 3, expected text"),
        ({"verification": [{}]}, r"verification\[0\].artifact is missing"),
        ({"benchmark": {}}, r"benchmark is \{\}, expected a list"),
        ({"environment": None}, "environment is None, expected an object"),
    ],
)
def test_a_damaged_report_is_refused(part: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text(json.dumps(samples.report(**part)), encoding="utf-8")
    with pytest.raises(OptionError, match=f"report.json: {message}"):
        read_report(path)


def test_documents_are_told_apart(tmp_path: Path) -> None:
    documents = {
        "a": samples.sweep(), "b": samples.analysis(), "c": samples.tokens(), "d": samples.tuning(),
        "e": samples.evaluation(), "f": samples.evaluation(model="model.fp16.onnx"),
    }  # fmt: skip
    paths = [tmp_path / f"{name}.json" for name in documents]
    for path, document in zip(paths, documents.values(), strict=True):
        path.write_text(json.dumps(document), encoding="utf-8")
    found = read_evidence(paths)
    assert [kind for kind, _ in found.names] == ["sweep", "analysis", "tokens", "tuning", "evaluation", "evaluation"]
    assert replace(found, names=()) == replace(samples.evidence(*documents.values()), names=())


def test_the_plan_that_tune_wrote_is_no_evidence_and_says_what_is(tmp_path: Path) -> None:
    path = tmp_path / "tuned.json"
    path.write_text(json.dumps({"schema_version": 1, "layers": [], "provenance": {"made_by": "tune"}}))
    with pytest.raises(OptionError, match="give the same command again with --json"):
        read_evidence([path])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot be read"),
        ("{", "not JSON"),
        ("[]", "it says no schema_version"),
        ('{"schema_version": 2}', "schema_version 2, expected 1"),
        ('{"schema_version": 1}', "is not evidence"),
    ],
)
def test_what_is_no_evidence_is_refused(text: str | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    if text is not None:
        path.write_text(text, encoding="utf-8")
    with pytest.raises(OptionError, match=message):
        read_evidence([path])
    with pytest.raises(OptionError, match=r"cannot be read|not JSON|schema_version|model is missing"):
        read_report(path)


def test_the_command_makes_the_page_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, document in (("report", samples.report()), ("tokens", samples.tokens()), ("other", samples.sweep())):
        (tmp_path / f"{name}.json").write_text(json.dumps(document), encoding="utf-8")
    assert run("report", str(tmp_path), "--add", str(tmp_path / "other.json")) == 0
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "with tokens.json (tokens), other.json (sweep)" in printed.err
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "photo.jpg" in page
    assert "chart-pareto-gmacs" in page
    (tmp_path / "report.json").write_text("{}", encoding="utf-8")
    assert run("report", str(tmp_path)) == 2
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == page
    assert len(list(tmp_path.iterdir())) == 4


def test_the_frontier_is_what_nothing_beats() -> None:
    points = [Point(cost, quality, "", f"{cost}") for cost, quality in ((1, 0.5), (2, 0.9), (2, 0.8), (3, 0.9), (4, 1))]
    assert [point.label for point in frontier(points, cheap_is_low=True)] == ["1", "2", "4"]
    assert [point.label for point in frontier(points, cheap_is_low=False)] == ["4"]


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0, 197), (0.93, 1.01), (-3, 12), (5, 5)])
def test_ticks_are_round_and_inside(low: float, high: float) -> None:
    found = ticks(low, high)
    assert all(low - 1e-9 <= value <= high + 1e-9 for value in found)
    assert low == high or 3 <= len(found) <= 8
    assert number(-0.001) == "0"
