"""Checkpoints of `transformers`: written by that library, loaded by ours, and the outputs of both compared."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import transformers
from torch import Tensor, nn

from tofu_export.errors import WeightsError
from tofu_export.report.model import LoadedWeights
from tofu_export.zoo.weights import WeightsKind, WeightsSource, load_weights

SIZES = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "image_size": 32,
    "patch_size": 8,
}
FLEXIBLE = {name: size for name, size in SIZES.items() if name != "image_size"} | {"intermediate_size": 48}
WIDE = {**SIZES, "intermediate_size": 48}
TIMM = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3, "mlp_ratio": 2}


def saved(folder: Path, model: Any) -> Path:
    """A model of `transformers` in which every weight matters, written by that library."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            matrix = parameter.ndim > 1 and "embed" not in name and "token" not in name
            scale = 0.5 / parameter[0].numel() ** 0.5 if matrix else 0.3
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
            if parameter.ndim == 1 and name.endswith(("weight", "lambda1")):
                parameter.add_(1.0)
    model.eval().save_pretrained(folder)
    return folder / "model.safetensors"


def loaded(
    path: Path, base: str = "vit_tiny_patch16_224", *, allow_dropped: bool = False, **kwargs: Any
) -> tuple[nn.Module, LoadedWeights]:
    model = timm.create_model(base, **{**TIMM, **kwargs}).eval()
    source = WeightsSource(WeightsKind.PATH, path, allow_dropped=allow_dropped)
    record = load_weights(model, source, name=base, seed=0)
    return model, record


def pixels() -> Tensor:
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def vit(**more: Any) -> Any:
    return transformers.ViTConfig(**WIDE, layer_norm_eps=1e-6, **more)


def clip_vision(**more: Any) -> Any:
    return transformers.CLIPVisionConfig(**WIDE, **more)


def dinov2(**more: Any) -> Any:
    return transformers.Dinov2Config(**SIZES, mlp_ratio=2, **more)


def registers(**more: Any) -> Any:
    return transformers.Dinov2WithRegistersConfig(**SIZES, mlp_ratio=2, num_register_tokens=4, **more)


def siglip2(model: Any, x: Tensor) -> Tensor:
    """Pooled features, from patches laid out as that library's own image processor does it: rows, columns, channels."""
    patches = x.reshape(len(x), 3, 4, 8, 4, 8).permute(0, 2, 4, 3, 5, 1).reshape(len(x), 16, -1)
    shapes = torch.tensor([[4, 4]] * len(x))
    found = model(patches, pixel_attention_mask=torch.ones(len(x), 16, dtype=torch.int32), spatial_shapes=shapes)
    pooled: Tensor = found.pooler_output
    return pooled


Case = tuple[Callable[[], Any], str, dict[str, Any], Callable[[Any, Tensor], Tensor], str]

CASES: dict[str, Case] = {
    "ViTForImageClassification": (
        lambda: transformers.ViTForImageClassification(vit(num_labels=5)),
        "vit_tiny_patch16_224",
        {"num_classes": 5},
        lambda model, x: model(x).logits,
        "transformers vit",
    ),
    "ViTModel": (
        lambda: transformers.ViTModel(vit(), add_pooling_layer=False),
        "vit_tiny_patch16_224",
        {"num_classes": 0},
        lambda model, x: model(x).last_hidden_state[:, 0],
        "transformers vit",
    ),
    "ViT without bias": (
        lambda: transformers.ViTModel(vit(qkv_bias=False), add_pooling_layer=False),
        "vit_tiny_patch16_224",
        {"num_classes": 0, "qkv_bias": False},
        lambda model, x: model(x).last_hidden_state[:, 0],
        "transformers vit",
    ),
    "DeiTForImageClassificationWithTeacher": (
        lambda: transformers.DeiTForImageClassificationWithTeacher(
            transformers.DeiTConfig(**WIDE, layer_norm_eps=1e-6, num_labels=5)
        ),
        "deit_tiny_distilled_patch16_224",
        {"num_classes": 5},
        lambda model, x: model(x).logits,
        "transformers vit",
    ),
    "Dinov2Model": (
        lambda: transformers.Dinov2Model(dinov2()),
        "vit_small_patch14_dinov2",
        {"num_classes": 0, "mlp_ratio": 2, "init_values": 1.0},
        lambda model, x: model(x).pooler_output,
        "transformers dinov2",
    ),
    "Dinov2 with SwiGLU": (
        lambda: transformers.Dinov2Model(dinov2(use_swiglu_ffn=True)),
        "vit_giant_patch14_dinov2",
        {"num_classes": 0, "mlp_ratio": 64 / 24, "init_values": 1.0},
        lambda model, x: model(x).pooler_output,
        "transformers dinov2",
    ),
    "Dinov2ForImageClassification without its classifier": (
        lambda: transformers.Dinov2ForImageClassification(dinov2(num_labels=5)),
        "vit_small_patch14_dinov2",
        {"num_classes": 0, "mlp_ratio": 2, "init_values": 1.0},
        lambda model, x: model.dinov2(x).pooler_output,
        "transformers dinov2",
    ),
    "Dinov2WithRegistersModel": (
        lambda: transformers.Dinov2WithRegistersModel(registers()),
        "vit_small_patch14_reg4_dinov2",
        {"num_classes": 0, "mlp_ratio": 2, "init_values": 1.0},
        lambda model, x: model(x).pooler_output,
        "transformers dinov2",
    ),
    "CLIPVisionModel": (
        lambda: transformers.CLIPVisionModel(clip_vision()),
        "vit_base_patch32_clip_quickgelu_224",
        {"num_classes": 0},
        lambda model, x: model(x).pooler_output,
        "transformers clip",
    ),
    "CLIPVisionModelWithProjection": (
        lambda: transformers.CLIPVisionModelWithProjection(clip_vision(projection_dim=16)),
        "vit_base_patch32_clip_quickgelu_224",
        {"num_classes": 16},
        lambda model, x: model(x).image_embeds,
        "transformers clip",
    ),
    "CLIPModel": (
        lambda: transformers.CLIPModel(
            transformers.CLIPConfig(
                text_config={
                    "hidden_size": 16,
                    "num_hidden_layers": 1,
                    "num_attention_heads": 2,
                    "intermediate_size": 16,
                    "vocab_size": 50,
                },
                vision_config=WIDE,
                projection_dim=16,
            )
        ),
        "vit_base_patch32_clip_quickgelu_224",
        {"num_classes": 16},
        lambda model, x: model.visual_projection(model.vision_model(x).pooler_output),
        "transformers clip",
    ),
    "SiglipVisionModel": (
        lambda: transformers.SiglipVisionModel(transformers.SiglipVisionConfig(**WIDE)),
        "vit_base_patch16_siglip_224",
        {"num_classes": 0, "act_layer": "gelu_tanh"},
        lambda model, x: model(x).pooler_output,
        "transformers siglip",
    ),
    "Siglip2VisionModel": (
        lambda: transformers.Siglip2VisionModel(transformers.Siglip2VisionConfig(**FLEXIBLE, num_patches=16)),
        "vit_base_patch16_siglip_224",
        {"num_classes": 0, "act_layer": "gelu_tanh"},
        lambda model, x: siglip2(model, x),
        "transformers siglip",
    ),
    "Siglip2VisionModel, flexible": (
        lambda: transformers.Siglip2VisionModel(transformers.Siglip2VisionConfig(**FLEXIBLE, num_patches=16)),
        "naflexvit_base_patch16_siglip",
        {"num_classes": 0, "act_layer": "gelu_tanh", "pos_embed_grid_size": (4, 4)},
        lambda model, x: siglip2(model, x),
        "transformers siglip",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_outputs_are_those_of_transformers(tmp_path: Path, name: str) -> None:
    make, base, kwargs, run, written = CASES[name]
    theirs = make()
    path = saved(tmp_path, theirs)
    ours, record = loaded(path, base, **kwargs)
    assert record.format == written
    with torch.no_grad():
        expected, got = run(theirs, pixels()), ours(pixels())
    assert expected.std() > 0.05
    torch.testing.assert_close(got, expected, rtol=0, atol=2e-5)


def test_what_has_no_part_in_the_output_is_recorded(tmp_path: Path) -> None:
    path = saved(tmp_path, CASES["CLIPModel"][0]())
    base, kwargs = CASES["CLIPModel"][1:3]
    dropped = loaded(path, base, **kwargs)[1].dropped
    assert dropped == ("logit_scale", "text_model.* (20)", "text_projection.weight")


def test_a_pooler_is_dropped_only_if_that_is_allowed(tmp_path: Path) -> None:
    path = saved(tmp_path, transformers.ViTModel(vit()))
    with pytest.raises(WeightsError, match=r"pooler\.dense\.weight \[24, 24\].*--allow-dropped"):
        loaded(path, num_classes=0)
    record = loaded(path, num_classes=0, allow_dropped=True)[1]
    assert record.dropped == ("pooler.dense.bias", "pooler.dense.weight")


def test_another_activation_is_set(tmp_path: Path) -> None:
    """quick_gelu weights fit the GELU model tensor by tensor, and would give wrong numbers."""
    make, _, kwargs, run, _ = CASES["CLIPVisionModel"]
    theirs = make()
    ours, record = loaded(saved(tmp_path, theirs), "vit_base_patch32_clip_224", **kwargs)
    assert record.set == ("activation gelu -> quick_gelu",)
    with torch.no_grad():
        torch.testing.assert_close(ours(pixels()), run(theirs, pixels()), rtol=0, atol=2e-5)


def test_an_activation_that_nothing_says_is_refused(tmp_path: Path) -> None:
    make, base, kwargs, *_ = CASES["CLIPVisionModel"]
    path = saved(tmp_path, make())
    (tmp_path / "config.json").unlink()
    with pytest.raises(WeightsError, match=r"quick_gelu.*put its config\.json"):
        loaded(path, "vit_base_patch32_clip_224", **kwargs)
    assert "no config.json beside it" in loaded(path, base, **kwargs)[1].notes[0]


def test_the_early_form_of_a_tower_is_read_as_that_library_does(tmp_path: Path) -> None:
    make, base, kwargs, run, _ = CASES["CLIPModel"]
    path, config = saved(tmp_path, make()), tmp_path / "config.json"
    document = json.loads(config.read_text(encoding="utf-8"))
    document["vision_config_dict"] = {**WIDE, "layer_norm_eps": 0.1}  # and the activation by default
    document["vision_config"] |= {"layer_norm_eps": 1e-3, "hidden_act": "relu"}
    config.write_text(json.dumps(document), encoding="utf-8")
    theirs = transformers.CLIPModel.from_pretrained(tmp_path).eval()
    ours, record = loaded(path, base, **kwargs)
    assert record.set == ("layer norm epsilon 1e-05 -> 0.1",)
    with torch.no_grad():
        torch.testing.assert_close(ours(pixels()), run(theirs, pixels()), rtol=0, atol=2e-5)


def test_another_number_of_heads_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, CASES["ViTModel"][0]())
    with pytest.raises(WeightsError, match=r"config.json says heads 3, .* has 4"):
        loaded(path, num_classes=0, num_heads=4)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"num_classes": 0, "depth": 3}, r"missing in the file: blocks\.2"),
        ({"num_classes": 0, "depth": 1}, r"unknown to the model: blocks\.1"),
        ({"num_classes": 0, "embed_dim": 48}, "of another shape"),
        ({"num_classes": 7}, "no classifier.*--num-classes 0"),
    ],
)
def test_another_architecture_is_refused(tmp_path: Path, kwargs: dict[str, Any], message: str) -> None:
    path = saved(tmp_path, CASES["ViTModel"][0]())
    with pytest.raises(WeightsError, match=message):
        loaded(path, **kwargs)


@pytest.mark.parametrize(
    ("model", "num_classes", "words"),
    [
        (transformers.DeiTModel, 0, "pooling token, deit_tiny_distilled_patch16_224 has token.distillation"),
        (transformers.DeiTForImageClassification, 5, "has no head_dist, one of the classifiers whose mean"),
    ],
)
def test_a_distilled_model_that_reads_the_class_token_alone_is_refused(
    tmp_path: Path, model: Any, num_classes: int, words: str
) -> None:
    """timm takes the mean of both tokens, and of both classifiers."""
    config = transformers.DeiTConfig(**WIDE, layer_norm_eps=1e-6, num_labels=5)
    options = {"add_pooling_layer": False} if num_classes == 0 else {}
    path = saved(tmp_path, model(config, **options))
    with pytest.raises(WeightsError, match=words):
        loaded(path, "deit_tiny_distilled_patch16_224", num_classes=num_classes)


@pytest.mark.parametrize("text", ["{", "[]", json.dumps({"architecture": "vit"})])
def test_a_broken_configuration_is_refused(tmp_path: Path, text: str) -> None:
    path = saved(tmp_path, CASES["ViTModel"][0]())
    (tmp_path / "config.json").write_text(text, encoding="utf-8")
    with pytest.raises(WeightsError, match=r"no configuration of transformers|is not JSON"):
        loaded(path, num_classes=0)


def test_another_image_size_resamples_the_positions(tmp_path: Path) -> None:
    path = saved(tmp_path, CASES["ViTModel"][0]())
    _, record = loaded(path, num_classes=0, img_size=64)
    assert any("pos_embed" in entry for entry in record.adapted)


def test_a_linear_patch_embedding_of_another_kind_is_refused(tmp_path: Path) -> None:
    config = transformers.Siglip2VisionConfig(**{**FLEXIBLE, "num_channels": 4}, num_patches=16)
    path = saved(tmp_path, transformers.Siglip2VisionModel(config))
    with pytest.raises(WeightsError, match=r"patch embedding has shape \[24, 256\]"):
        loaded(path, "vit_base_patch16_siglip_224", num_classes=0, act_layer="gelu_tanh")
