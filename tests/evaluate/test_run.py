"""Models and files judged on images: the numbers against ones made by hand, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from tests import exported
from tests.cli.running import run
from tests.engines import sidecars
from tests.evaluate.pictures import class_folders, picture
from tofu_export import demo, patch
from tofu_export.engines.building.build import EngineRequest, build_engine
from tofu_export.engines.flavours import available
from tofu_export.errors import BackendMissingError, EngineBuildError, ExportError, OptionError, VerificationError
from tofu_export.evaluate.request import EvalRequest
from tofu_export.evaluate.run import EvalResult, evaluate
from tofu_export.evaluate.subjects import Subject, file_subject
from tofu_export.images.inputs import demo_set
from tofu_export.options import BatchRange, Mode, Reduction
from tofu_export.patch.describe import describe
from tofu_export.planning.plan import make_plan
from tofu_export.system.environment import collect
from tofu_export.zoo.create import create_meta, create_model
from tofu_export.zoo.weights import WeightsSource

HARD = Reduction(r=80, mode=Mode.PRUNE)
LIMIT = 40
RANDOM = WeightsSource.parse("random")


def judged(subject: str = "demo_vit", **options: Any) -> EvalResult:
    return evaluate(EvalRequest(subject, **options))


def demo_model() -> Any:
    return create_model("demo_vit", weights=WeightsSource.parse("pretrained")).model


@pytest.fixture(scope="module")
def hard() -> EvalResult:
    return judged(reduction=HARD, limit=LIMIT, batch=16)


def test_accuracy_is_that_of_the_patched_model(hard: EvalResult) -> None:
    model = demo_model()
    patch.apply(model, make_plan(describe(create_meta("demo_vit"), "demo_vit"), HARD))
    rows = np.arange(LIMIT) * 1000 // LIMIT
    logits = model(torch.from_numpy(demo_set().pixels[rows])).numpy()
    labels = demo.load_images()[1][rows]
    assert hard.score.top1 == pytest.approx(100 * (logits.argmax(1) == labels).mean())
    full = demo_model()(torch.from_numpy(demo_set().pixels[rows])).numpy()
    assert hard.full is not None
    assert hard.full.top1 == pytest.approx(100 * (full.argmax(1) == labels).mean())
    assert hard.agreement is not None
    agreement = hard.agreement.entry()
    assert agreement.images == LIMIT
    assert agreement.top1_agreement == pytest.approx((logits.argmax(1) == full.argmax(1)).mean())
    assert hard.score.top1 != hard.full.top1  # else the test would not see a swap
    norms = np.linalg.norm(logits, axis=1) * np.linalg.norm(full, axis=1)
    assert agreement.logit_cosine_mean == pytest.approx(((logits * full).sum(1) / norms).mean(), abs=1e-5)


def test_nothing_removed_agrees_wholly() -> None:
    found = judged(reduction=Reduction(r=0), limit=20)
    assert found.score == found.full
    assert found.difference is not None
    assert (found.difference.only_first, found.difference.only_second, found.difference.p_value) == (0, 0, 1.0)
    assert found.agreement is not None
    assert found.agreement.entry().kl_max == 0.0


def test_the_document_has_timms_names(hard: EvalResult) -> None:
    document = hard.to_dict("the command")
    json.dumps(document, allow_nan=False)
    names = ("model", "top1", "top1_err", "top5", "top5_err", "param_count", "img_size", "crop_pct", "interpolation")
    assert list(document)[: len(names)] == list(names)
    assert document["param_count"] == 0.61
    assert document["img_size"] == 28
    assert document["crop_pct"] == 1.0
    assert document["top1"] + document["top1_err"] == pytest.approx(100)
    assert document["labels"] == "demo"
    assert (document["kind"], document["resolved"], document["counted"]) == ("eval", "demo_vit", LIMIT)
    assert document["top1_interval"][0] < document["top1"] < document["top1_interval"][1]
    assert document["full"]["top1_interval"][1] <= 100
    assert document["difference"]["top1"] == pytest.approx(document["top1"] - document["full"]["top1"], abs=1e-3)
    assert document["difference"]["low"] < document["difference"]["top1"] < document["difference"]["high"]
    assert document["plan"]["r"] == 80
    assert document["command"] == "the command"


def test_progress_is_told() -> None:
    seen: list[tuple[int, int]] = []
    evaluate(
        EvalRequest("demo_vit", limit=10, batch=4, agreement=False), lambda done, total: seen.append((done, total))
    )
    assert seen == [(4, 10), (8, 10), (10, 10)]


def test_digits_in_class_folders(tmp_path: Path) -> None:
    images, labels = demo.load_images()
    for index in range(20):
        folder = tmp_path / str(labels[index])
        folder.mkdir(exist_ok=True)
        Image.fromarray(images[index]).save(folder / f"{index}.png")
    assert len(list(tmp_path.iterdir())) == 10
    found = judged(images=tmp_path, reduction=Reduction(r=0), agreement=False)
    logits = demo_model()(torch.from_numpy(demo_set(20).pixels)).numpy()
    assert found.images == 20
    assert found.score.top1 == pytest.approx(100 * (logits.argmax(1) == labels[:20]).mean())
    assert found.score.top1 is not None
    assert found.score.top1 > 80  # in another class order it would be near 10
    assert found.skipped[0].reason == "switched off by --no-agreement"
    assert found.difference is None
    assert found.to_dict()["difference"] is None


def test_folders_with_the_class_names_of_the_weights(tmp_path: Path) -> None:
    """By alphabet, eight would be class 0."""
    words = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    images, labels = demo.load_images()
    for index in range(40):
        (tmp_path / "images" / words[labels[index]]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(images[index]).save(tmp_path / "images" / words[labels[index]] / f"{index}.png")
    torch.save({"model": load_file(demo.weights_path()), "classes": words}, tmp_path / "digits.pth")
    weights = WeightsSource.parse(str(tmp_path / "digits.pth"))
    found = judged(images=tmp_path / "images", weights=weights, agreement=False)
    assert found.score.top1 is not None
    assert found.score.top1 > 90
    assert not any("order of the folders' names" in note for note in found.notes)
    digits = [f"digit {number}" for number in range(10)]
    torch.save({"model": load_file(demo.weights_path()), "classes": digits}, tmp_path / "digits.pth")
    other = judged(images=tmp_path / "images", weights=weights, agreement=False)
    said = (
        "eight is class 0 and zero class 9, by the order of the folders' names, and no folder has the name of a class"
    )
    assert any(said in note for note in other.notes)


class TestFiles:
    def test_an_onnx_file_is_held_to_its_full_model(self, tmp_path: Path) -> None:
        for index in range(5):
            picture(tmp_path / f"{index}.png", seed=index)
        found = judged(str(exported.folder() / "model.fp32.onnx"), images=tmp_path, batch=2)
        eager = judged(
            "test_vit", images=tmp_path, batch=2, reduction=Reduction(r=8), weights=RANDOM, seed=3, agreement=True
        )
        assert found.labels is None
        assert found.score.top1 is None
        assert found.agreement is not None
        assert eager.agreement is not None
        assert found.agreement.kl == pytest.approx(eager.agreement.kl, abs=1e-4)
        assert found.subject.param_count == eager.subject.param_count
        assert found.subject.backend == "ort-cpu"
        assert found.subject.plan is not None
        assert found.subject.plan.pattern == "PWWWWW"

    def test_a_foreign_file_needs_a_name(self, tmp_path: Path) -> None:
        picture(tmp_path / "images" / "1.png")
        foreign = exported.changed(tmp_path / "theirs.onnx", dict.fromkeys(("model", "preprocessing", "weights")))
        with pytest.raises(OptionError, match=r"theirs\.onnx does not say how images are prepared"):
            judged(str(foreign), images=tmp_path / "images")
        found = judged(str(foreign), images=tmp_path / "images", model="test_vit", weights=RANDOM, seed=3)
        assert found.agreement is not None

    def test_weights_that_cannot_be_had_again(self, tmp_path: Path) -> None:
        picture(tmp_path / "images" / "1.png")
        path = exported.changed(tmp_path / "mine.onnx", {"weights": {"kind": "path", "path": "w.pth"}})
        found = judged(str(path), images=tmp_path / "images")
        assert found.agreement is None
        assert "give it with --weights PATH" in found.skipped[0].reason
        with pytest.raises(OptionError, match="no full model to compare with"):
            judged(str(path), images=tmp_path / "images", agreement=True)

    def test_a_fixed_batch_is_filled_up(self) -> None:
        def run(pixels: Any) -> Any:
            assert len(pixels) == 4
            return pixels.sum(axis=(1, 2, 3))[:, None] * np.array([[1.0, -1.0]]), None

        subject = Subject("x", "ort-cpu", "cpu", 2, {}, run, batch=4)
        pixels = np.random.default_rng(0).normal(size=(3, 1, 2, 2)).astype(np.float32)
        logits, features = subject.outputs(pixels)
        assert features is None
        assert logits is not None
        assert logits[:, 0] == pytest.approx(pixels.sum(axis=(1, 2, 3)))

    def test_values_that_are_not_finite(self) -> None:
        def run(pixels: Any) -> Any:
            return np.array([[0.0], [np.nan], [0.0]]), None

        with pytest.raises(ExportError, match=r"not finite \(image 2 of a batch of 3\)"):
            Subject("x", "ort-cpu", "cpu", 1, {}, run).outputs(np.zeros((3, 1, 2, 2), np.float32))

    def test_tokens_are_no_classes(self, tmp_path: Path) -> None:
        path = exported.changed(tmp_path / "t.onnx", {"output": {"kind": "tokens", "names": [], "shapes": {}}})
        with pytest.raises(NotImplementedError, match="gives tokens: accuracy and agreement need logits"):
            file_subject(path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"subject": "vit_tiny", "weights": RANDOM}, "no images to judge vit_tiny_patch16_224 on"),
        ({"batch": 0}, "expected at least 1"),
        ({"limit": 0}, "expected at least 1"),
        ({"subject": "missing.onnx"}, r"missing\.onnx: no such file"),
        ({"subject": "a.onnx", "reduction": HARD}, "has its reduction in it"),
        ({"backend": "ort-cpu"}, "is a model, which runs in torch"),
        ({"model": "vit_base"}, "is a model itself"),
        ({"class_map": Path("x")}, "belong to a folder"),
        ({"real_labels": "timm"}, "belong to a folder"),
        ({"labelled": False, "class_map": Path("x"), "images": Path("y")}, "--no-labels leaves classes aside"),
    ],
)
def test_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        judged(**options)


def test_real_labels_take_the_place_of_folders(tmp_path: Path) -> None:
    for index in range(1, 5):
        picture(tmp_path / "val" / "n01440764" / f"ILSVRC2012_val_{index:08d}.JPEG", seed=index)
    found = judged(
        "test_vit", images=tmp_path, weights=RANDOM, reduction=Reduction(r=2), real_labels="timm", agreement=False
    )
    document = found.to_dict()
    assert document["labels"] == "real"
    assert document["real_labels"] == {"source": "timm", "images": 3, "without_class": 1}
    assert document["original"]["top1"] is not None


def test_a_model_of_features_alone(tmp_path: Path) -> None:
    class_folders(tmp_path, {"a": 2, "b": 1})
    options: dict[str, Any] = {"images": tmp_path, "weights": RANDOM, "num_classes": 0, "reduction": Reduction(r=8)}
    found = judged("test_vit", **options)
    assert found.labels is None
    assert found.agreement is not None
    assert found.agreement.kl is None
    assert found.agreement.feature_cosine is not None
    with pytest.raises(OptionError, match="gives features, not classes"):
        judged("test_vit", real_labels="timm", **options)


@pytest.mark.e2e
def test_a_file_of_another_size_is_compared_with_the_full_model_of_that_size(tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ["test_vit", "--r", "2", "--image-size", "96", "--weights", "random", "--precision", "fp32"]
    assert run(*arguments, "--no-bench", "--no-engine", "--no-verify", "-o", str(out), "-q") == 0
    picture(tmp_path / "images" / "0.png", seed=0)
    found = judged(str(out / "model.onnx"), images=tmp_path / "images")
    assert found.agreement is not None


def test_an_output_that_this_version_does_not_know(tmp_path: Path) -> None:
    path = exported.changed(tmp_path / "model.onnx", {"output": {"kind": "poem"}})
    with pytest.raises(VerificationError, match=r"output\.kind of model\.onnx is 'poem', expected one of logits"):
        file_subject(path)


def test_a_file_whose_plan_is_none(tmp_path: Path) -> None:
    path = exported.changed(tmp_path / "model.onnx", {"plan": {"r": 8}})
    with pytest.raises(OptionError, match=r"model\.onnx: plan\.pattern is missing"):
        file_subject(path)


class TestEngines:
    def test_without_its_sidecar(self, tmp_path: Path) -> None:
        (tmp_path / "x.engine").write_bytes(b"plan")
        with pytest.raises(OptionError, match=r"x\.engine: there is no x\.engine\.json beside it"):
            file_subject(tmp_path / "x.engine", "trt-rtx")

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            (
                {"preprocessing": {"mean": "grey"}},
                r"metadata tofu_export\.preprocessing of x\.engine\.json are not what this",
            ),
            ({"output": {"kind": "poem"}}, "output.kind of x.engine.json is 'poem', expected one of"),
            ({"output": {"kind": ["logits"]}}, "output.kind of x.engine.json is .*logits"),
            ({"model": ["vit"]}, r"metadata tofu_export\.model of x\.engine\.json are not what this"),
        ],
    )
    def test_a_sidecar_that_makes_no_sense(self, changes: dict[str, Any], words: str, tmp_path: Path) -> None:
        path = tmp_path / "x.engine"
        path.write_bytes(b"plan")
        write_sidecar(path, **changes)
        with pytest.raises(VerificationError, match=words):
            judged(str(path))

    def test_on_a_machine_that_cannot_run_it(self, tmp_path: Path) -> None:
        path = tmp_path / "x.engine"
        path.write_bytes(b"plan")
        write_sidecar(path)
        with pytest.raises((BackendMissingError, EngineBuildError)):  # no GPU, or one that cannot load these bytes
            judged(str(path), backend="trt-rtx")
        with pytest.raises(OptionError, match=r"x\.engine is a plan, which ort-cpu does not run"):
            judged(str(path), backend="ort-cpu")

    @pytest.mark.gpu
    @pytest.mark.skipif(collect().gpu is None, reason="no NVIDIA GPU with a driver")
    def test_an_engine_judges_as_its_file_does(self, tmp_path: Path) -> None:
        flavour = available()[0]
        onnx_file, path = exported.folder() / "model.fp32.onnx", tmp_path / "model.engine"
        build_engine(EngineRequest(onnx_file, path, flavour, BatchRange(1, 2, 3)))
        write_sidecar(path, flavour.name)
        for index in range(5):
            picture(tmp_path / "images" / f"{index}.png", seed=index)
        options: dict[str, Any] = {"images": tmp_path / "images", "batch": 3}
        found, expected = judged(str(path), **options), judged(str(onnx_file), **options)
        assert found.agreement is not None
        assert expected.agreement is not None
        assert found.agreement.kl == pytest.approx(expected.agreement.kl, abs=1e-3)


def write_sidecar(path: Path, flavour: str = "tensorrt-rtx", **changes: Any) -> None:
    names = ("weights", "num_classes", "plan", "output", "preprocessing")
    source = {"model": exported.MODEL, **{name: exported.metadata_of(name) for name in names}, **changes}
    sidecars.write(path, exported.folder() / "model.fp32.onnx", flavour=flavour, source=source)


def test_a_request_is_a_value() -> None:
    assert replace(EvalRequest("demo_vit"), batch=8) == EvalRequest("demo_vit", batch=8)
