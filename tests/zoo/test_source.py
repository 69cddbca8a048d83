"""Weights with what lies beside and inside them: the outputs are the source's, or the file is refused by name."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import transformers
import yaml
from safetensors.torch import load_file, save_file
from timm.models import save_for_hf
from torch import Tensor

from tests.zoo.checkpoints import CONFIG, NAME, filled, load, pixels, same
from tofu_export.errors import OptionError, TofuError, WeightsError
from tofu_export.zoo._source import read_source
from tofu_export.zoo._transformers_config import DEFAULTS
from tofu_export.zoo.create import create_model
from tofu_export.zoo.weights import WeightsSource


def save_vit(folder: Path, **more: Any) -> Any:
    config = transformers.ViTConfig(**{**CONFIG, "num_labels": 5, **more})
    model = filled(transformers.ViTForImageClassification(config))
    model.save_pretrained(folder)
    return model


class TestTransformers:
    @pytest.mark.parametrize(
        "more", [{"layer_norm_eps": 0.02}, {"hidden_act": "relu"}, {"hidden_act": "gelu_new"}, {"qkv_bias": False}]
    )
    def test_what_the_configuration_says_is_set(self, tmp_path: Path, more: dict[str, Any]) -> None:
        theirs = save_vit(tmp_path, **more)
        with torch.no_grad():
            assert same(load(tmp_path / "model.safetensors"), theirs(pixels()).logits, pixels())

    @pytest.mark.parametrize(("field", "value"), [("image_size", 96), ("patch_size", 32), ("num_channels", 1)])
    def test_sizes_are_set(self, tmp_path: Path, field: str, value: int) -> None:
        config = transformers.ViTConfig(**{**CONFIG, field: value}, num_labels=4)
        theirs = filled(transformers.ViTForImageClassification(config))
        theirs.save_pretrained(tmp_path)
        x = pixels(config.image_size, config.num_channels)
        loaded = load(tmp_path / "model.safetensors")
        with torch.no_grad():
            assert same(loaded, theirs(x).logits, x)
        assert loaded.preprocessing.input_size == tuple(x.shape[1:])
        assert len(loaded.preprocessing.mean) == x.shape[1]
        assert {k: v.shape for k, v in loaded.meta().state_dict().items()} == {
            k: v.shape for k, v in loaded.model.state_dict().items()
        }

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("hidden_size", 128), ("intermediate_size", 64), ("num_hidden_layers", 5), ("num_attention_heads", 4),
            ("image_size", 96), ("patch_size", 8), ("num_channels", 1), ("qkv_bias", False), ("model_type", "bert"),
            ("hidden_act", "mish_of_my_own"), ("id2label", {"0": "a", "1": "b"}), ("layer_norm_eps", 0.5),
            ("hidden_act", "quick_gelu"),
        ],
    )  # fmt: skip
    def test_an_altered_field_is_obeyed_or_refused(self, tmp_path: Path, field: str, value: Any) -> None:
        """As the library itself computes it with that configuration, where it can load it at all."""
        save_vit(tmp_path)
        path = tmp_path / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), field: value}))
        try:
            loaded = load(tmp_path / "model.safetensors")
        except WeightsError as error:
            assert "config.json" in str(error) or "model.safetensors" in str(error)
            return
        with torch.no_grad():
            theirs = transformers.ViTForImageClassification.from_pretrained(tmp_path).eval()
            assert same(loaded, theirs(pixels()).logits, pixels())

    def test_images_that_are_not_square(self, tmp_path: Path) -> None:
        theirs = save_vit(tmp_path, image_size=(64, 96))
        loaded, x = load(tmp_path / "model.safetensors"), torch.randn(2, 3, 64, 96)
        assert same(loaded, theirs(x).logits, x)

    def test_an_altered_name_is_refused(self, tmp_path: Path) -> None:
        save_vit(tmp_path)
        tensors = load_file(tmp_path / "model.safetensors")
        for name in list(tensors)[::9]:
            changed = {f"{key}_2" if key == name else key: tensor for key, tensor in tensors.items()}
            save_file(changed, tmp_path / "model.safetensors")
            with pytest.raises(WeightsError, match=r"does not fit|fits .* but for|holds no tensors"):
                load(tmp_path / "model.safetensors", num_classes=5)

    def test_a_layer_between_tower_and_classifier_is_never_dropped_in_silence(self, tmp_path: Path) -> None:
        theirs = save_vit(tmp_path)
        tensors = load_file(tmp_path / "model.safetensors")
        save_file({**tensors, "neck.weight": torch.eye(64)}, tmp_path / "model.safetensors")
        with pytest.raises(WeightsError, match=r"neck\.weight \[64, 64\].*--allow-dropped"):
            load(tmp_path / "model.safetensors")
        loaded = load(tmp_path / "model.safetensors", allow=True)
        assert loaded.weights.dropped == ("neck.weight",)
        assert loaded.weights.allow_dropped is True
        with torch.no_grad():
            assert same(loaded, theirs(pixels()).logits, pixels())

    def test_names_of_version_5(self, tmp_path: Path) -> None:
        theirs = filled(
            transformers.ViTForImageClassification(transformers.ViTConfig(**CONFIG, num_labels=5, layer_norm_eps=1e-6))
        )
        torch.save({"state_dict": {f"net.{k}": v for k, v in theirs.state_dict().items()}}, tmp_path / "a.ckpt")
        loaded = load(tmp_path / "a.ckpt")
        assert "no config.json beside it" in loaded.weights.notes[0]
        with torch.no_grad():
            assert same(loaded, theirs(pixels()).logits, pixels())

    def test_an_encoder_without_class_token_averages(self, tmp_path: Path) -> None:
        theirs = filled(transformers.IJepaForImageClassification(transformers.IJepaConfig(**CONFIG, num_labels=3)))
        theirs.save_pretrained(tmp_path)
        with torch.no_grad():
            assert same(load(tmp_path / "model.safetensors"), theirs(pixels()).logits, pixels())

    def test_decoders_of_pretraining_are_dropped(self, tmp_path: Path) -> None:
        small = {"decoder_hidden_size": 32, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 2}
        filled(transformers.ViTMAEForPreTraining(transformers.ViTMAEConfig(**CONFIG, **small))).save_pretrained(
            tmp_path
        )
        dropped = load(tmp_path / "model.safetensors", num_classes=0).weights.dropped
        assert all(name.startswith("decoder") for name in dropped)
        assert dropped

    @pytest.mark.parametrize("kind", DEFAULTS)
    def test_defaults_are_those_of_the_library(self, kind: str) -> None:
        theirs = transformers.AutoConfig.for_model(kind)
        assert {name: getattr(theirs, name) for name in DEFAULTS[kind]} == dict(DEFAULTS[kind])

    def test_a_processor_beside_it_wins_over_the_default(self, tmp_path: Path) -> None:
        save_vit(tmp_path)
        processor = {"image_mean": [0.4, 0.3, 0.2], "image_std": [0.2, 0.1, 0.3], "resample": 2,
                     "size": {"shortest_edge": 200}, "crop_size": {"height": 160, "width": 160}}  # fmt: skip
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
        loaded = load(tmp_path / "model.safetensors")
        found = loaded.preprocessing
        assert (found.mean, found.std) == ((0.4, 0.3, 0.2), (0.2, 0.1, 0.3))
        assert (found.interpolation, found.crop_pct, found.crop_mode) == ("bilinear", 0.8, "center")
        assert set(loaded.preprocessing_from.values()) == {"preprocessor_config.json"}


class TestTimm:
    def test_options_of_training_decide_pooling_and_images(self, tmp_path: Path) -> None:
        ours = filled(
            timm.create_model("vit_tiny_patch16_dinov3_qkvb", global_pool="token", img_size=64, num_classes=3)
        )
        options = argparse.Namespace(
            model="vit_tiny_patch16_dinov3_qkvb", gp="token", img_size=64, mean=[0.1, 0.2, 0.3]
        )
        torch.save({"state_dict": ours.state_dict(), "args": options}, tmp_path / "last.pth.tar")
        loaded = load(tmp_path / "last.pth.tar", "vit_tiny_patch16_dinov3_qkvb")
        x = pixels(64)
        assert same(loaded, ours(x), x)
        assert loaded.preprocessing.mean == (0.1, 0.2, 0.3)
        assert loaded.preprocessing_from["mean"] == "args in last.pth.tar"
        assert "pooling avg -> token" in loaded.weights.set

    def test_options_of_training_beside_it(self, tmp_path: Path) -> None:
        """timm's script writes them to `args.yaml`; those inside the file come first."""
        name = "vit_tiny_patch16_dinov3_qkvb"
        ours = filled(timm.create_model(name, global_pool="token", img_size=64, num_classes=3))
        torch.save({"state_dict": ours.state_dict()}, tmp_path / "last.pth.tar")
        options = {
            "model": name,
            "gp": "token",
            "img_size": None,
            "mean": [0.1, 0.2, 0.3],
            "std": None,
            "crop_pct": 0.8,
        }
        (tmp_path / "args.yaml").write_text(yaml.safe_dump(options, default_flow_style=False))
        loaded, x = load(tmp_path / "last.pth.tar", name), pixels(64)
        assert same(loaded, ours(x), x)
        assert (loaded.preprocessing.mean, loaded.preprocessing.crop_pct) == ((0.1, 0.2, 0.3), 0.8)
        assert loaded.preprocessing_from["mean"] == "args.yaml"
        inside = argparse.Namespace(model=name, gp="token", mean=[0.4, 0.4, 0.4])
        torch.save({"state_dict": ours.state_dict(), "args": inside}, tmp_path / "last.pth.tar")
        found = load(tmp_path / "last.pth.tar", name)
        assert (found.preprocessing.mean, found.preprocessing.crop_pct) == ((0.4, 0.4, 0.4), 0.8)

    @pytest.mark.parametrize("text", ["- a\n- b", "{not: [yaml", "!!python/object/apply:os.getcwd []", ""])
    def test_another_kind_of_yaml_is_not_read(self, tmp_path: Path, text: str) -> None:
        torch.save(timm.create_model(NAME).state_dict(), tmp_path / "vit.pth")
        (tmp_path / "args.yaml").write_text(text)
        assert load(tmp_path / "vit.pth").weights.set == ()

    def test_hyper_parameters_of_lightning(self, tmp_path: Path) -> None:
        ours = filled(timm.create_model(NAME, act_layer="relu", num_classes=3))
        state = {f"model.{name}": tensor for name, tensor in ours.state_dict().items()}
        torch.save(
            {
                "state_dict": {**state, "loss_fn.weight": torch.ones(3)},
                "hyper_parameters": {"model": {"name": NAME}, "model_kwargs": {"act_layer": "relu"}, "std": 0.02},
            },
            tmp_path / "a.ckpt",
        )
        loaded = load(tmp_path / "a.ckpt")
        assert same(loaded, ours(pixels()), pixels())
        assert loaded.weights.dropped == ("loss_fn.weight",)
        assert loaded.preprocessing.std == (0.5, 0.5, 0.5)  # not that of initial weights

    def test_timms_configuration_beside_it(self, tmp_path: Path) -> None:
        options = {"global_pool": "avg", "fc_norm": False, "act_layer": "silu"}
        ours = filled(timm.create_model(NAME, num_classes=3, **options))
        save_for_hf(ours, str(tmp_path), model_args=options, safe_serialization=True)
        assert same(load(tmp_path / "model.safetensors"), ours(pixels()), pixels())
        local = create_model(f"local-dir:{tmp_path}", weights=WeightsSource.parse("pretrained"))
        assert same(local, ours(pixels()), pixels())

    @pytest.mark.parametrize(
        ("options", "shape"),
        [
            ({"num_classes": 7}, (160, 3)), ({"in_chans": 4}, (160, 4)), ({"patch_size": 32}, (160, 3)),
            ({"img_size": 96}, (96, 3)), ({"qkv_bias": False}, (160, 3)), ({"global_pool": "avg"}, (160, 3)),
        ],
    )  # fmt: skip
    def test_what_tensors_show_is_set(self, tmp_path: Path, options: dict[str, Any], shape: tuple[int, int]) -> None:
        ours = filled(timm.create_model(NAME, **options))
        torch.save(ours.state_dict(), tmp_path / "vit.pth")
        loaded, x = load(tmp_path / "vit.pth"), pixels(*shape)
        assert same(loaded, ours(x), x)
        assert loaded.weights.set
        assert loaded.weights.adapted == ()

    @pytest.mark.parametrize(
        "arguments",
        [
            {"pool_include_prefix": True, "global_pool": "avg"}, {"no_embed_class": True},
            {"init_values": 0.5, "qk_norm": True},
        ],
    )  # fmt: skip
    def test_arguments_of_the_same_architecture_build_it(self, tmp_path: Path, arguments: dict[str, Any]) -> None:
        """Also those that no field describes."""
        ours = filled(timm.create_model(NAME, num_classes=3, **arguments))
        options = argparse.Namespace(model=NAME, model_kwargs=arguments)
        torch.save({"state_dict": ours.state_dict(), "args": options}, tmp_path / "last.pth.tar")
        loaded = load(tmp_path / "last.pth.tar")
        assert same(loaded, ours(pixels()), pixels())
        assert loaded.arguments.items() >= arguments.items()
        assert dict(loaded.meta().state_dict()).keys() == loaded.model.state_dict().keys()
        last = list(arguments)[-1]
        assert any(last.replace("_", " ") in words for words in loaded.weights.set) or last == "global_pool"

    @pytest.mark.parametrize(
        ("named", "trained", "mean"),
        [
            ("vit_small_patch16_224", "vit_small_patch16_224.dino", 0.485),
            ("vit_small_patch16_224", "hf-hub:timm/vit_small_patch16_224.dino", 0.485),
            ("vit_small_patch16_224.dino", "vit_small_patch16_224", 0.5),
        ],
    )
    def test_a_training_script_prepares_images_as_its_own_model(
        self, tmp_path: Path, named: str, trained: str, mean: float
    ) -> None:
        """Its options leave mean and std empty unless they were given."""
        options = argparse.Namespace(model=trained, mean=None, std=None, crop_pct=0.8)
        state = timm.create_model("vit_small_patch16_224", num_classes=3).state_dict()
        torch.save({"state_dict": state, "args": options}, tmp_path / "last.pth.tar")
        loaded = load(tmp_path / "last.pth.tar", named)
        assert (loaded.preprocessing.mean[0], loaded.preprocessing.crop_pct) == (mean, 0.8)
        assert set(loaded.preprocessing_from.values()) == {"args in last.pth.tar"}

    @pytest.mark.parametrize("size", [(64, 96), (112, 144)])
    def test_a_stated_size_of_as_many_positions_comes_before_a_square(
        self, tmp_path: Path, size: tuple[int, int]
    ) -> None:
        """4 x 6 and 7 x 9 patches with a class token have 5 x 5 and 8 x 8 positions."""
        ours = filled(timm.create_model(NAME, img_size=size, num_classes=3))
        options = argparse.Namespace(model=NAME, img_size=list(size))
        torch.save({"state_dict": ours.state_dict(), "args": options}, tmp_path / "last.pth.tar")
        loaded, x = load(tmp_path / "last.pth.tar"), torch.randn(2, 3, *size)
        assert same(loaded, ours(x), x)
        assert loaded.preprocessing.image_size == size

    def test_the_size_of_relative_positions_is_set(self, tmp_path: Path) -> None:
        ours = filled(timm.create_model("beit_base_patch16_224", img_size=64, depth=2, num_classes=3))
        torch.save(ours.state_dict(), tmp_path / "beit.pth")
        read = read_source(tmp_path / "beit.pth")
        assert read.description.image_size == (64, 64)

    def test_another_number_of_special_tokens_is_not_guessed(self, tmp_path: Path) -> None:
        ours = timm.create_model(NAME, class_token=False, global_pool="avg", fc_norm=False)
        torch.save(ours.state_dict(), tmp_path / "vit.pth")
        with pytest.raises(WeightsError, match="missing in the file: cls_token"):
            load(tmp_path / "vit.pth")

    def test_the_size_that_was_asked_for_resamples(self, tmp_path: Path) -> None:
        torch.save(timm.create_model(NAME, img_size=96).state_dict(), tmp_path / "vit.pth")
        loaded = load(tmp_path / "vit.pth", image_size=(160, 160))
        assert loaded.weights.adapted == ("pos_embed [1, 37, 64] -> [1, 101, 64]",)

    def test_a_layer_that_timms_conversion_leaves_out_is_seen(self, tmp_path: Path) -> None:
        state = timm.create_model(NAME).state_dict()
        torch.save({**state, "pre_logits.fc.weight": torch.eye(64)}, tmp_path / "vit.pth")
        with pytest.raises(WeightsError, match=r"pre_logits\.fc\.weight.*--allow-dropped"):
            load(tmp_path / "vit.pth")


def save_clip(folder: Path) -> Path:
    """A small CLIP of 3x3 patches in the names of its release."""
    swaps = [("patch_embed.proj", "conv1"), ("blocks.", "transformer.resblocks."), ("norm_pre", "ln_pre"),
             ("norm1", "ln_1"), ("norm2", "ln_2"), ("attn.qkv.", "attn.in_proj_"), ("attn.proj", "attn.out_proj"),
             ("fc1", "c_fc"), ("fc2", "c_proj")]  # fmt: skip
    tensors: dict[str, Tensor] = {}
    ours = filled(timm.create_model("vit_xsmall_patch16_clip_224", img_size=48, num_classes=8))
    for own, tensor in ours.state_dict().items():
        name = own
        for before, after in swaps:
            name = name.replace(before, after)
        if own == "pos_embed":
            tensors["visual.positional_embedding"] = tensor[0]
        elif own == "cls_token":
            tensors["visual.class_embedding"] = tensor[0, 0]
        elif own == "head.weight":
            tensors["visual.proj"] = tensor.T
        elif own.startswith("norm."):
            tensors[f"visual.ln_post.{own.removeprefix('norm.')}"] = tensor
        elif not own.startswith("head."):
            tensors[f"visual.{name}"] = tensor
    path = folder / "open_clip_model.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    return path


def test_an_open_clip_configuration_decides_activation_and_images(tmp_path: Path) -> None:
    path, name = save_clip(tmp_path), "vit_xsmall_patch16_clip_224"
    with pytest.raises(WeightsError, match=r"put its config\.json or open_clip_config\.json"):
        load(path, name)
    vision = {"image_size": 48, "layers": 10, "width": 256, "patch_size": 16}
    document = {
        "model_cfg": {"quick_gelu": True, "vision_cfg": vision},
        "preprocess_cfg": {"mean": [0.5, 0.4, 0.3], "std": [0.3, 0.3, 0.3], "resize_mode": "squash"},
    }
    (tmp_path / "open_clip_config.json").write_text(json.dumps(document))
    loaded = load(path, name)
    assert {"activation gelu -> quick_gelu", "image size 224x224 -> 48x48"} <= set(loaded.weights.set)
    assert (loaded.preprocessing.mean, loaded.preprocessing.crop_mode) == ((0.5, 0.4, 0.3), "squash")
    (entry,) = load(path, name, image_size=(64, 64)).weights.adapted
    assert entry == "visual.positional_embedding [10, 256] -> pos_embed [1, 17, 256]"
    document["model_cfg"]["vision_cfg"] = {**vision, "attentional_pool": True}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(document))
    with pytest.raises(WeightsError, match=r"vision tower with attentional_pool"):
        load(path, name)


def under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}{name}": tensor for name, tensor in tensors.items()}


Wrap = Callable[[dict[str, Tensor], dict[str, Tensor]], Any]


@pytest.mark.parametrize("name", ["patch_embed.proj.weight", "pos_embed", "cls_token", "blocks.0.attn.qkv.bias"])
@pytest.mark.parametrize("shape", [(), (1,), (0, 3), (2, 1, 1, 1, 1)])
def test_shapes_that_no_model_has_are_refused(tmp_path: Path, name: str, shape: tuple[int, ...]) -> None:
    state = timm.create_model(NAME).state_dict()
    torch.save({**state, name: torch.ones(shape)}, tmp_path / "vit.pth")
    with pytest.raises(TofuError):
        load(tmp_path / "vit.pth")


@pytest.mark.parametrize(
    "document",
    [
        {"architecture": NAME, "pretrained_cfg": {"mean": ["grey"]}},
        {"architecture": NAME, "model_args": {"act_layer": []}, "num_classes": "ten"},
        {"architecture": NAME, "pretrained_cfg": {"std": [0, 0, 0]}},
    ],
)
def test_a_configuration_of_other_types_is_refused_or_not_read(tmp_path: Path, document: dict[str, Any]) -> None:
    torch.save(timm.create_model(NAME).state_dict(), tmp_path / "vit.pth")
    (tmp_path / "config.json").write_text(json.dumps(document))
    try:
        loaded = load(tmp_path / "vit.pth")
    except TofuError:
        return
    assert loaded.weights.set == ()


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ({"architecture": NAME, "model_args": {"img_size": 96}}, "says image size 96x96, vit.pth says 160x160"),
        ({"architecture": NAME, "num_classes": 7, "model_args": {"num_classes": 0}}, "model_args in it says 0"),
        ({"architecture": NAME, "global_pool": "avg", "model_args": {"global_pool": "token"}}, "says pooling avg"),
        ({"architecture": "test_vit2", "global_pool": "token"}, "says that the model is test_vit2 with global_pool"),
        ({"architecture": NAME, "num_classes": 0}, "says classifier width 0"),
        ({"architecture": "vit_of_next_year"}, "vit_of_next_year, which the installed timm .* does not have"),
    ],
)
def test_a_configuration_that_contradicts_itself_or_the_tensors(
    tmp_path: Path, document: dict[str, Any], words: str
) -> None:
    torch.save(timm.create_model(NAME).state_dict(), tmp_path / "vit.pth")
    (tmp_path / "config.json").write_text(json.dumps(document))
    with pytest.raises(WeightsError, match=words):
        load(tmp_path / "vit.pth")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda text: text[:-9], "is not JSON"),
        (lambda text: text.replace("model_type", "kind"), "no configuration of transformers"),
    ],
)
def test_a_configuration_of_transformers_that_cannot_be_read(
    tmp_path: Path, change: Callable[[str], str], words: str
) -> None:
    save_vit(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(change(path.read_text()))
    with pytest.raises(WeightsError, match=words):
        load(tmp_path / "model.safetensors")


def test_an_older_configuration_of_timm_with_newer_entries(tmp_path: Path) -> None:
    save_file(timm.create_model(NAME).state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"architecture": NAME, "model_args": {"act_layer": "relu"}}))
    with pytest.raises(OptionError, match=r"has no pretrained_cfg, .* add "):
        create_model(f"local-dir:{tmp_path}", weights=WeightsSource.parse("pretrained"))


def test_half_a_configuration_beside_weights_of_timm_is_refused(tmp_path: Path) -> None:
    torch.save(timm.create_model(NAME).state_dict(), tmp_path / "vit.pth")
    (tmp_path / "config.json").write_text('{"architecture": "test_vit", "pretrained_cfg": {"mean"')
    with pytest.raises(WeightsError, match=r"config\.json is not JSON .* move it away"):
        load(tmp_path / "vit.pth")


class TestSeveralModels:
    @pytest.mark.parametrize(
        ("wrap", "key", "default"),
        [
            (lambda a, b: {"model": a, "model_ema": b, "epoch": 1}, "model", "model_ema"),
            (lambda a, b: {"student": a, "teacher": under("backbone.", b)}, "student", "teacher.backbone"),
            (lambda a, b: {"state_dict": under("net.", a) | under("ema.", b)}, "state_dict.net", "state_dict.ema"),
        ],
    )
    def test_a_key_chooses_and_the_default_is_recorded(
        self, tmp_path: Path, wrap: Wrap, key: str, default: str
    ) -> None:
        first, second = filled(timm.create_model(NAME), 1), filled(timm.create_model(NAME), 2)
        torch.save(wrap(first.state_dict(), second.state_dict()), tmp_path / "c.pth")
        usual = load(tmp_path / "c.pth")
        assert usual.weights.key == default
        assert len(usual.weights.keys) == 2
        assert same(usual, second(pixels()), pixels())
        assert same(load(tmp_path / "c.pth", key=key), first(pixels()), pixels())
        with pytest.raises(OptionError, match=r"stands for no model in c\.pth, expected one of"):
            load(tmp_path / "c.pth", key="optimizer")

    def test_averages_without_names_are_told(self, tmp_path: Path) -> None:
        state = timm.create_model(NAME).state_dict()
        averages = {"decay": 0.99, "shadow_params": list(state.values())}
        torch.save({"state_dict": state, "ema": averages}, tmp_path / "vit.pth")
        assert any(
            "ema.shadow_params are averaged weights" in note for note in load(tmp_path / "vit.pth").weights.notes
        )

    def test_shards(self, tmp_path: Path) -> None:
        ours = filled(timm.create_model(NAME))
        state = ours.state_dict()
        names = {"one.safetensors": list(state)[:30], "two.safetensors": list(state)[30:]}
        for file, part in names.items():
            save_file({name: state[name] for name in part}, tmp_path / file)
        index = {"weight_map": {name: file for file, part in names.items() for name in part}}
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
        assert same(load(tmp_path / "model.safetensors.index.json"), ours(pixels()), pixels())
        (tmp_path / "two.safetensors").unlink()
        with pytest.raises(WeightsError, match=r"not beside it: two\.safetensors"):
            load(tmp_path / "model.safetensors.index.json")

    def test_an_adapter_is_refused_with_advice(self, tmp_path: Path) -> None:
        torch.save({"base_model.model.blocks.0.attn.qkv.lora_A.weight": torch.ones(4, 64)}, tmp_path / "adapter.bin")
        with pytest.raises(WeightsError, match="merge_and_unload"):
            load(tmp_path / "adapter.bin")
