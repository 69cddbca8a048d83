from __future__ import annotations

import dataclasses
import json
import logging
import warnings
from pathlib import Path

import pytest
import timm
import torch
from timm.models import save_for_hf

from tofu_export import demo
from tofu_export.errors import OptionError, UnknownModelError, WeightsError
from tofu_export.zoo.create import LoadedModel, create_meta, create_model, own_image_size
from tofu_export.zoo.weights import WeightsSource

RANDOM = WeightsSource.parse("random")
PRETRAINED = WeightsSource.parse("pretrained")


def test_random_weights_follow_the_seed_only() -> None:
    torch.manual_seed(1)
    first = create_model("test_vit", weights=RANDOM, seed=3).model.state_dict()
    torch.manual_seed(2)
    again = create_model("test_vit", weights=RANDOM, seed=3).model.state_dict()
    other = create_model("test_vit", weights=RANDOM, seed=4).model.state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_random_weights_are_those_of_timm() -> None:
    ours = create_model("test_vit2", weights=RANDOM, seed=3).model.state_dict()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        theirs = timm.create_model("test_vit2", pretrained=False).state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert torch.all(ours["blocks.0.ls1.gamma"] == 1e-5)


def test_the_callers_random_state_is_untouched() -> None:
    torch.manual_seed(11)
    before = torch.get_rng_state()
    create_model("test_vit", weights=RANDOM, seed=3)
    create_meta("test_vit")
    assert torch.equal(torch.get_rng_state(), before)


def test_the_model_is_frozen_float32_and_in_evaluation_mode() -> None:
    loaded = create_model(" vit_tiny ", weights=RANDOM)
    assert not loaded.model.training
    assert {parameter.dtype for parameter in loaded.model.parameters()} == {torch.float32}
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())
    assert (loaded.name, loaded.resolved) == (" vit_tiny ", "vit_tiny_patch16_224")
    assert loaded.weights.kind == "random"
    with pytest.raises(dataclasses.FrozenInstanceError):
        loaded.name = "other"  # type: ignore[misc]


def test_preprocessing_is_timms() -> None:
    loaded = create_model("test_vit", weights=RANDOM)
    assert loaded.preprocessing.as_dict() == timm.data.resolve_model_data_config(timm.create_model("test_vit"))
    assert list(loaded.preprocessing_from) == list(loaded.preprocessing.as_dict())[1:]


@pytest.mark.parametrize("size", [(192, 192), (96, 160)])
def test_another_image_size(size: tuple[int, int]) -> None:
    loaded = create_model("test_vit", weights=RANDOM, image_size=size)
    assert loaded.preprocessing.input_size == (3, *size)
    assert loaded.model(torch.zeros(1, 3, *size)).shape == (1, 1000)


@pytest.mark.parametrize(("classes", "width"), [(10, 10), (0, 64)])
def test_another_class_count(classes: int, width: int) -> None:
    loaded = create_model("test_vit", weights=RANDOM, num_classes=classes)
    assert loaded.model(torch.zeros(1, 3, 160, 160)).shape == (1, width)


@pytest.mark.parametrize("create", [create_meta, lambda name, **kw: create_model(name, weights=RANDOM, **kw)])
def test_sizes_that_cannot_be(create: object) -> None:
    assert callable(create)
    with pytest.raises(OptionError, match=r"100x160 does not divide into the 16x16 patches .* is 96x160"):
        create("test_vit", image_size=(100, 160))
    with pytest.raises(OptionError, match="expected pixels > 0"):
        create("test_vit", image_size=(0, 160))
    with pytest.raises(OptionError, match="does not cut images into patches"):
        create("test_resnet", image_size=(224, 224))
    with pytest.raises(OptionError, match="num_classes is -1"):
        create("test_vit", num_classes=-1)


def test_a_size_that_the_architecture_refuses() -> None:
    with pytest.raises(OptionError, match=r"nest_tiny cannot be built for images of 228x228 \(First level blocks"):
        create_meta("nest_tiny", image_size=(228, 228))


def test_an_unknown_name_and_a_missing_file_come_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(UnknownModelError, match="Did you mean"):
        create_model("vit_bse", weights=RANDOM)
    with pytest.raises(OptionError, match="no such file"):
        create_model("vit_giant_patch14_224", weights=WeightsSource.parse(str(tmp_path / "none.pth")))
    with pytest.raises(WeightsError, match="no pretrained weights"):
        create_model("beit3_giant_patch14_224.untrained", weights=PRETRAINED)


def test_a_checkpoint(tmp_path: Path) -> None:
    saved = create_model("test_vit", weights=RANDOM, seed=9)
    torch.save({"state_dict": saved.model.half().state_dict()}, tmp_path / "vit.pth")
    loaded = create_model("test_vit", weights=WeightsSource.parse(str(tmp_path / "vit.pth")), seed=1)
    assert (loaded.weights.kind, loaded.weights.path) == ("path", "vit.pth")
    ours, theirs = loaded.model.state_dict(), saved.model.state_dict()
    assert all(torch.equal(ours[name], theirs[name].float()) for name in ours)


def test_a_local_folder(tmp_path: Path) -> None:
    model = timm.create_model("test_vit", num_classes=5)
    save_for_hf(model, str(tmp_path), safe_serialization=True)
    loaded = create_model(f"local-dir:{tmp_path}", weights=PRETRAINED)
    assert (loaded.weights.kind, loaded.weights.path) == ("pretrained", "model.safetensors")
    images = torch.randn(2, 3, 160, 160, generator=torch.Generator().manual_seed(0))
    assert torch.equal(loaded.model(images), model.eval()(images))


def test_the_sizes_of_a_folder_are_those_of_its_model(tmp_path: Path) -> None:
    """Also where its configuration does not repeat them for images."""
    options = {"in_chans": 1, "img_size": 96, "num_classes": 4}
    model = timm.create_model("test_vit", **options)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    document = {"architecture": "test_vit", "num_classes": 4, "model_args": {"in_chans": 1, "img_size": 96}}
    (tmp_path / "config.json").write_text(json.dumps({**document, "pretrained_cfg": {"mean": [0.5], "std": [0.5]}}))
    name = f"local-dir:{tmp_path}"
    loaded = create_model(name, weights=WeightsSource.parse("pretrained"))
    assert loaded.preprocessing.input_size == (1, 96, 96)
    assert own_image_size(name) == (96, 96)


def test_a_local_folder_without_a_description(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"expected a folder with config\.json"):
        create_meta(f"local-dir:{tmp_path}")


@pytest.mark.parametrize("name", ["test_vit", "vit_huge", "vit_base_patch16_dinov3", "naflexvit_base_patch16_gap"])
def test_meta_has_the_shapes_and_no_memory(name: str) -> None:
    model = create_meta(name, num_classes=3)
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    assert not model.training


def test_meta_equals_the_real_structure() -> None:
    meta = create_meta("test_vit", (192, 96), 7).state_dict()
    real = create_model("test_vit", weights=RANDOM, image_size=(192, 96), num_classes=7).model.state_dict()
    assert {name: tensor.shape for name, tensor in meta.items()} == {name: t.shape for name, t in real.items()}


def test_nothing_is_said_on_success(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> None:
    with caplog.at_level(logging.DEBUG), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        create_model("test_vit", weights=RANDOM, image_size=(192, 192))
        create_meta("vit_base_patch14_dinov2")
    assert (caplog.records, caught, capfd.readouterr()) == ([], [], ("", ""))


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    return create_model("demo_vit", weights=PRETRAINED)


class TestDemo:
    def test_pretrained_means_the_embedded_file(self, loaded: LoadedModel) -> None:
        assert loaded.resolved == "demo_vit"
        assert (loaded.weights.kind, loaded.weights.tag) == ("pretrained", "demo")
        assert loaded.weights.path == "demo_vit.safetensors"
        assert loaded.weights.dropped == loaded.weights.adapted == ()
        assert loaded.preprocessing == demo.PREPROCESSING

    def test_random_weights(self, loaded: LoadedModel) -> None:
        model = create_model("demo_vit", weights=RANDOM, seed=1).model
        assert model(torch.zeros(2, 1, 28, 28)).shape == (2, 10)
        assert not torch.equal(model.state_dict()["cls_token"], loaded.model.state_dict()["cls_token"])

    def test_another_size_resizes_the_position_embedding(self) -> None:
        loaded = create_model("demo_vit", weights=PRETRAINED, image_size=(32, 28))
        assert loaded.preprocessing.input_size == (1, 32, 28)
        assert len(loaded.weights.adapted) == 1
        assert loaded.model(torch.zeros(1, 1, 32, 28)).shape == (1, 10)

    def test_an_odd_size(self) -> None:
        with pytest.raises(OptionError, match="2x2 patches of demo_vit"):
            create_meta("demo_vit", (29, 28))

    def test_other_classes(self) -> None:
        with pytest.raises(WeightsError, match="pass --num-classes 10"):
            create_model("demo_vit", weights=PRETRAINED, num_classes=4)

    def test_meta(self) -> None:
        assert create_meta("demo_vit").state_dict()["pos_embed"].shape[1] == 197


def test_a_folder_of_transformers_is_refused_with_the_way_on(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "vit", "hidden_size": 24}', encoding="utf-8")
    with pytest.raises(OptionError, match=r"format of transformers.*--weights .*model\.safetensors"):
        create_meta(f"local-dir:{tmp_path}")
