"""One field of a configuration or one name of a tensor is another: the numbers are the source's, or it is refused.

The source is the library that wrote the files: it is asked what the altered ones compute. Where it cannot load them,
what they computed before is all that may come out.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import transformers
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from timm.models import save_for_hf
from torch import Tensor

from tests.zoo.checkpoints import filled
from tofu_export.errors import TofuError
from tofu_export.zoo.create import create_model
from tofu_export.zoo.weights import WeightsKind, WeightsSource, load_weights

FEW = settings(
    max_examples=12,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=True,
    database=None,
    phases=[Phase.generate],  # a failure is small already
)

SIZES = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "patch_size": 8}
TIMM = {"patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3, "mlp_ratio": 2}

NUMBERS = (1, 2, 3, 4, 5, 8, 12, 16, 24, 32, 48, 64)
SHARES = (1e-12, 1e-6, 1e-5, 1e-3, 0.02, 0.5)
ACTIVATIONS = ("gelu", "gelu_new", "gelu_pytorch_tanh", "quick_gelu", "relu", "silu", "mish", "no_such")


@dataclass(frozen=True)
class Format:
    """How a kind of checkpoint is made, computed by its own library, and loaded.

    Attributes:
        config: class of the configuration.
        model: class of the model.
        output: of the library's model.
        timm_name: what it is loaded into.
        arguments: of that.
        mlp: name and value of the field of the MLP's width.
    """

    config: Any
    model: Any
    output: Callable[[Any], Tensor]
    timm_name: str
    arguments: dict[str, Any]
    mlp: tuple[str, int] = ("intermediate_size", 48)


FORMATS = {
    "ViT": Format(transformers.ViTConfig, transformers.ViTForImageClassification, lambda out: out.logits,
                  "vit_tiny_patch16_224", {"num_classes": 5}),
    "DeiT": Format(transformers.DeiTConfig, transformers.DeiTForImageClassificationWithTeacher, lambda out: out.logits,
                   "deit_tiny_distilled_patch16_224", {"num_classes": 5}),
    "DINOv2": Format(transformers.Dinov2Config, transformers.Dinov2Model, lambda out: out.pooler_output,
                     "vit_small_patch14_dinov2", {"num_classes": 0, "init_values": 1.0}, ("mlp_ratio", 2)),
    "CLIP vision": Format(transformers.CLIPVisionConfig, transformers.CLIPVisionModel, lambda out: out.pooler_output,
                          "vit_base_patch32_clip_quickgelu_224", {"num_classes": 0}),
    "SigLIP": Format(transformers.SiglipVisionConfig, transformers.SiglipVisionModel, lambda out: out.pooler_output,
                     "vit_base_patch16_siglip_224", {"num_classes": 0}),
}  # fmt: skip


def written(kind: Format, folder: Path, data: st.DataObject) -> int:
    """Write a small random model as its library does; its image size."""
    side = data.draw(st.sampled_from((16, 32)), "image size")
    drawn = {
        "image_size": side, "layer_norm_eps": data.draw(st.sampled_from(SHARES[:4]), "epsilon"),
        "hidden_act": data.draw(st.sampled_from(ACTIVATIONS[:6]), "activation"),
    }  # fmt: skip
    classes = {"num_labels": 5} if kind.arguments["num_classes"] else {}
    model = kind.model(kind.config(**SIZES, **drawn, **classes, **dict([kind.mlp])))
    filled(model, data.draw(st.integers(0, 99), "seed")).save_pretrained(folder)
    return side


def ours(kind: Format, folder: Path, x: Tensor) -> Tensor | None:
    """What is loaded here computes; None if it is refused."""
    model = timm.create_model(kind.timm_name, **TIMM, **kind.arguments, img_size=x.shape[-1]).eval()
    try:
        load_weights(model, WeightsSource(WeightsKind.PATH, folder / "model.safetensors"), name=kind.timm_name, seed=0)
    except TofuError as error:
        assert str(error)
        return None
    with torch.no_grad():
        found: Tensor = model(x)
    return found


def theirs(kind: Format, folder: Path, x: Tensor) -> Tensor | None:
    """What the library computes; None if it does not load all of the files."""
    try:
        model, info = kind.model.from_pretrained(folder, output_loading_info=True)
        complete = not any(info[name] for name in ("missing_keys", "mismatched_keys", "error_msgs"))
        with torch.no_grad():
            return kind.output(model.eval()(x)) if complete else None
    except Exception:  # whatever a configuration that fits nothing leads to
        return None


def pixels(side: int) -> Tensor:
    return torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1))


def same(found: Tensor, expected: Tensor | None) -> bool:
    return expected is not None and found.shape == expected.shape and bool(torch.allclose(found, expected, atol=1e-4))


def another(value: Any, name: str) -> st.SearchStrategy[Any]:
    """Another value of the kind that a field has."""
    if isinstance(value, bool):
        return st.just(not value)
    if isinstance(value, int | float):
        values = NUMBERS if isinstance(value, int) else SHARES
        return st.sampled_from([one for one in values if one != value])
    return st.sampled_from([one for one in ACTIVATIONS if one != value]) if name == "hidden_act" else st.just("other")


@pytest.mark.e2e
@pytest.mark.parametrize("name", FORMATS)
@FEW
@given(data=st.data())
def test_a_field_of_a_configuration(name: str, data: st.DataObject) -> None:
    kind = FORMATS[name]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        side = written(kind, folder, data)
        before, path = ours(kind, folder, pixels(side)), folder / "config.json"
        assert before is not None
        assert same(before, theirs(kind, folder, pixels(side)))
        config = json.loads(path.read_text())
        known = {**kind.config().to_dict(), **config}
        plain = [key for key, value in known.items() if isinstance(value, bool | int | float)]
        field = data.draw(st.sampled_from(sorted({*plain, "hidden_act", "model_type"})), "field")
        if data.draw(st.booleans(), "left out"):
            config.pop(field, None)
        else:
            config[field] = data.draw(another(known[field], field), "value")
        path.write_text(json.dumps(config))
        found = ours(kind, folder, pixels(side))
        if found is not None:
            expected = theirs(kind, folder, pixels(side))
            assert same(found, before if expected is None else expected)


@pytest.mark.parametrize("name", FORMATS)
@FEW
@given(data=st.data())
def test_the_name_of_a_tensor(name: str, data: st.DataObject) -> None:
    kind = FORMATS[name]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        side = written(kind, folder, data)
        before = ours(kind, folder, pixels(side))
        assert before is not None
        rename_one(folder / "model.safetensors", data)
        found = ours(kind, folder, pixels(side))
        assert found is None or same(found, before)


def rename_one(path: Path, data: st.DataObject) -> None:
    """Give one tensor of a file another name, or none."""
    tensors = load_file(path)
    old = data.draw(st.sampled_from(sorted(tensors)), "tensor")
    rest = old.partition(".")[2]
    new = data.draw(
        st.sampled_from(
            [
                "",
                f"{old}_2",
                f"extra.{old}",
                rest or "extra",
                old.replace(".0.", ".7."),
                f"decoder.{rest}",
                "mask_token",
            ]
        ),
        "new name",
    )
    changed = {key: tensor for key, tensor in tensors.items() if key != old}
    save_file({**changed, new: tensors[old]} if new else changed, path)


def saved_by_timm(folder: Path, data: st.DataObject) -> None:
    """A small model of timm with its configuration."""
    options = {
        "act_layer": data.draw(st.sampled_from(("gelu", "silu", "relu", "quick_gelu")), "activation"),
        "global_pool": data.draw(st.sampled_from(("token", "avg", "map")), "pooling"),
        "qkv_bias": data.draw(st.booleans(), "bias"), "img_size": data.draw(st.sampled_from((32, 48)), "image size"),
    }  # fmt: skip
    model = filled(timm.create_model("test_vit", num_classes=3, **options), data.draw(st.integers(0, 99), "seed"))
    save_for_hf(model, str(folder), model_args=options, safe_serialization=True)


def in_timm(folder: Path, x: Tensor, *, source: bool) -> Tensor | None:
    """The folder in timm itself, or loaded here; None where it is refused."""
    try:
        if source:
            model = timm.create_model(f"local-dir:{folder}", pretrained=True)
        else:
            model = create_model("test_vit", weights=WeightsSource.parse(str(folder / "model.safetensors"))).model
        with torch.no_grad():
            found: Tensor = model.eval()(x)
    except Exception as error:
        assert source or isinstance(error, TofuError), error
        return None
    return found


@FEW
@given(data=st.data())
def test_a_field_of_timms_configuration(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        saved_by_timm(folder, data)
        path = folder / "config.json"
        config = json.loads(path.read_text())
        x = pixels(config["model_args"]["img_size"][0])
        before = in_timm(folder, x, source=False)
        assert before is not None
        assert same(before, in_timm(folder, x, source=True))
        where = data.draw(st.sampled_from(("model_args", "")), "part")
        part = config[where] if where else config
        changes = {
            "act_layer": ("gelu", "silu", "relu"), "global_pool": ("token", "avg", "map"), "qkv_bias": (True, False),
            "img_size": (32, 64), "num_classes": (0, 3, 7), "architecture": ("test_vit2", "deit_tiny_patch16_224"),
        }  # fmt: skip
        field = data.draw(st.sampled_from(sorted(part.keys() & changes.keys())), "field")
        part[field] = data.draw(st.sampled_from(changes[field]), "value")
        path.write_text(json.dumps(config))
        found = in_timm(folder, x, source=False)
        if found is not None:
            expected = in_timm(folder, x, source=True)
            assert same(found, before if expected is None else expected)


@FEW
@given(data=st.data())
def test_the_name_of_a_tensor_of_timm(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        saved_by_timm(folder, data)
        x = pixels(json.loads((folder / "config.json").read_text())["model_args"]["img_size"][0])
        before = in_timm(folder, x, source=False)
        assert before is not None
        rename_one(folder / "model.safetensors", data)
        found = in_timm(folder, x, source=False)
        assert found is None or same(found, before)
