"""LoRA adapters: merged as `W + alpha / r * B A` says, computed here by hand, or refused by name."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tests.zoo.checkpoints import CONFIG, NAME, filled, load, pixels, same
from tofu_export.errors import WeightsError
from tofu_export.zoo.weights import WeightsSource

RANK, ALPHA = 4, 6


def theirs(classes: int = 5) -> Any:
    config = transformers.ViTConfig(**CONFIG, num_labels=classes, layer_norm_eps=1e-6)
    return filled(transformers.ViTForImageClassification(config))


def pairs_for(model: nn.Module, ends: tuple[str, ...], *, rank: int = RANK) -> dict[str, tuple[Tensor, Tensor]]:
    """lora_A [rank, in, ...] and lora_B [out, rank, ...] of the layers whose names end so."""
    generator = torch.Generator().manual_seed(5)
    found = {}
    for name, layer in model.named_modules():
        if name.endswith(ends):
            shape = layer.get_parameter("weight").shape
            sides = (rank, *shape[1:]), (shape[0], rank, *(1 for _ in shape[2:]))
            found[name] = tuple(torch.randn(side, generator=generator) * 0.1 for side in sides)
    assert found
    return found  # type: ignore[return-value]  # two of them


@torch.no_grad()
def merged(model: Any, pairs: Mapping[str, tuple[Tensor, Tensor]], scale: float) -> Any:
    """The model with its adapter inside, one number at a time of the rank."""
    for name, (a, b) in pairs.items():
        weight = model.get_parameter(f"{name}.weight")
        for r in range(len(a)):
            weight += scale * torch.tensordot(b[:, r].reshape(-1), a[r], dims=0)
    return model


def save_adapter(
    folder: Path, pairs: Mapping[str, tuple[Tensor, Tensor]], base: str, *, more: Mapping[str, Tensor] | None = None,
    **settings: Any,
) -> Path:  # fmt: skip
    folder.mkdir(exist_ok=True)
    tensors = {
        f"base_model.model.{name}.lora_{side}.weight": t
        for name, pair in pairs.items()
        for side, t in zip("AB", pair, strict=True)
    }
    save_file({**tensors, **(more or {})}, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA, "base_model_name_or_path": base, **settings}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


@torch.no_grad()
def logits(model: Any) -> Tensor:
    found: Tensor = model(pixels()).logits
    return found


class TestWithItsBase:
    def test_names_of_modules_and_of_files(self, tmp_path: Path) -> None:
        """peft writes the names that modules have, the base those of files; a folder stands for its adapter."""
        model = theirs()
        model.save_pretrained(tmp_path / "base")
        pairs = pairs_for(model, ("q_proj", "v_proj", "fc1", "classifier", "projection"))
        folder = save_adapter(tmp_path / "adapter", pairs, str(tmp_path / "base"))
        loaded = load(folder)
        assert same(loaded, logits(merged(model, pairs, ALPHA / RANK)), pixels())
        assert loaded.weights.path == "adapter_model.safetensors"
        assert "merged with its base, base/model.safetensors" in loaded.weights.notes[0]
        assert load(folder / "adapter_model.safetensors").weights == loaded.weights

    def test_scale_by_the_root_and_by_layer(self, tmp_path: Path) -> None:
        model = theirs()
        model.save_pretrained(tmp_path / "base")
        first = pairs_for(model, ("o_proj",))
        second = pairs_for(model, ("layers.2.mlp.fc2",), rank=2)
        settings = {
            "use_rslora": True, "alpha_pattern": {"layers.2.mlp.fc2": 3}, "rank_pattern": {r"layers\.\d.mlp.fc2": 2},
        }  # fmt: skip
        folder = save_adapter(tmp_path / "adapter", {**first, **second}, "../base", **settings)
        expected = merged(merged(model, first, ALPHA / math.sqrt(RANK)), second, 3 / math.sqrt(2))
        assert same(load(folder), logits(expected), pixels())

    def test_a_classifier_of_another_width_and_biases_replace_the_bases(self, tmp_path: Path) -> None:
        theirs().save_pretrained(tmp_path / "base")
        model = theirs(classes=7)
        pairs = pairs_for(model, ("v_proj",))
        with torch.no_grad():
            model.vit.layers[1].attention.v_proj.bias.add_(0.5)
        bias = model.vit.layers[1].attention.v_proj.bias.detach().clone()
        more = {
            "base_model.model.classifier.weight": model.classifier.weight.detach().clone(),
            "base_model.model.classifier.bias": model.classifier.bias.detach().clone(),
            "base_model.model.classifier.original_module.bias": torch.ones(5),
            "base_model.model.vit.layers.1.attention.v_proj.base_layer.bias": bias,
        }
        base = str(tmp_path / "base")
        folder = save_adapter(tmp_path / "adapter", pairs, base, more=more, modules_to_save=["classifier"], bias="all")
        assert same(load(folder), logits(merged(model, pairs, ALPHA / RANK)), pixels())

    def test_of_a_timm_model(self, tmp_path: Path) -> None:
        model = filled(timm.create_model(NAME, num_classes=3))
        torch.save(model.state_dict(), tmp_path / "base.pth")
        pairs = pairs_for(model, ("qkv", "patch_embed.proj"))
        loaded = load(save_adapter(tmp_path / "adapter", pairs, str(tmp_path / "base.pth")))
        assert same(loaded, merged(model, pairs, ALPHA / RANK)(pixels()), pixels())

    def test_that_of_a_text_tower_is_listed_and_left_out(self, tmp_path: Path) -> None:
        vision = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "image_size": 32,
                  "patch_size": 8, "intermediate_size": 48}  # fmt: skip
        text = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 48,
                "vocab_size": 50}  # fmt: skip
        model: Any = filled(
            transformers.CLIPModel(transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=16))
        )
        model.save_pretrained(tmp_path / "base")
        pairs = pairs_for(model, ("q_proj",))
        from tofu_export.zoo._source import read_source

        found = read_source(save_adapter(tmp_path / "a", pairs, str(tmp_path / "base")) / "adapter_model.safetensors")
        merged(model, pairs, ALPHA / RANK)
        layer = model.vision_model.encoder.layers[1].self_attn
        expected = torch.cat([layer.q_proj.weight, layer.k_proj.weight, layer.v_proj.weight])
        assert torch.allclose(found.tensors["visual.transformer.resblocks.1.attn.in_proj_weight"], expected)
        assert sum("text_model" in name for name in found.unused) >= 2

    def test_its_folder_says_how_images_are_prepared(self, tmp_path: Path) -> None:
        model = theirs()
        model.save_pretrained(tmp_path / "base")
        (tmp_path / "base" / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.1] * 3}))
        folder = save_adapter(tmp_path / "adapter", pairs_for(model, ("fc1",)), str(tmp_path / "base"))
        assert load(folder).preprocessing.mean == (0.1,) * 3
        (folder / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.2] * 3}))
        assert load(folder).preprocessing.mean == (0.2,) * 3

    def test_the_digest_is_of_both(self, tmp_path: Path) -> None:
        model = theirs()
        model.save_pretrained(tmp_path / "base")
        folder = save_adapter(tmp_path / "adapter", pairs_for(model, ("fc1",)), str(tmp_path / "base"))
        before = load(folder).weights.sha256
        filled(model, 9).save_pretrained(tmp_path / "base")
        assert load(folder).weights.sha256 != before


class TestInOneStateDict:
    @staticmethod
    def wrapped(model: Any, pairs: Mapping[str, tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
        """The state dict of a model inside peft's."""
        state = {}
        for name, tensor in model.state_dict().items():
            layer, _, last = name.rpartition(".")
            state[f"base_model.model.{layer}{'.base_layer' if layer in pairs else ''}.{last}"] = tensor
        for name, pair in pairs.items():
            for side, tensor in zip("AB", pair, strict=True):
                state[f"base_model.model.{name}.lora_{side}.default.weight"] = tensor
        return state

    def test_both_are_merged(self, tmp_path: Path) -> None:
        model = theirs()
        pairs = pairs_for(model, ("k_proj", "fc2"))
        save_adapter(tmp_path, {}, "")
        (tmp_path / "adapter_model.safetensors").unlink()
        torch.save({"state_dict": self.wrapped(model, pairs), "epoch": 3}, tmp_path / "last.ckpt")
        assert same(load(tmp_path / "last.ckpt"), logits(merged(model, pairs, ALPHA / RANK)), pixels())

    def test_not_without_alpha_or_with_several_adapters(self, tmp_path: Path) -> None:
        model = theirs()
        state = self.wrapped(model, pairs_for(model, ("fc2",)))
        torch.save(state, tmp_path / "a.pth")
        with pytest.raises(WeightsError, match=r"no adapter_config\.json beside it says its alpha"):
            load(tmp_path / "a.pth")
        save_adapter(tmp_path, {}, "")
        name = "base_model.model.vit.layers.0.mlp.fc2.lora_A"
        torch.save({**state, f"{name}.other.weight": state[f"{name}.default.weight"]}, tmp_path / "a.pth")
        with pytest.raises(WeightsError, match=r"several adapters \(default, other\)"):
            load(tmp_path / "a.pth")

    def test_not_onto_quantised_weights(self, tmp_path: Path) -> None:
        model = theirs()
        state = self.wrapped(model, pairs_for(model, ("fc2",)))
        name = "base_model.model.vit.layers.0.mlp.fc2.base_layer.weight"
        save_adapter(tmp_path, {}, "")
        torch.save({**state, name: torch.ones_like(state[name], dtype=torch.int8)}, tmp_path / "a.pth")
        with pytest.raises(WeightsError, match=r"torch\.int8"):
            load(tmp_path / "a.pth")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"use_dora": True}, r"DoRA \(use_dora\)"),
        ({"peft_type": "IA3"}, "peft_type IA3"),
        ({"init_lora_weights": "pissa_niter_4"}, "pissa_niter_4, which changes the base"),
        ({"layer_replication": [[0, 2], [1, 3]]}, "layer_replication"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out"),
        ({"of_a_later_version": "yes"}, "of_a_later_version"),
        ({"r": 8}, "r 8 and alpha 6: they do not belong together"),
        ({"lora_alpha": None}, "alpha None"),
        ({"base_model_name_or_path": "google/vit-base"}, "names 'google/vit-base', which is no file or folder"),
        ({"base_model_name_or_path": None}, "names none: download the base model"),
    ],
)
def test_other_settings_are_refused_by_name(tmp_path: Path, settings: dict[str, Any], words: str) -> None:
    model = theirs()
    model.save_pretrained(tmp_path / "base")
    folder = save_adapter(tmp_path / "adapter", pairs_for(model, ("fc1",)), str(tmp_path / "base"))
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, **settings}))
    with pytest.raises(WeightsError, match=words):
        load(folder)


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ("lora_A.weight", "lora_magnitude_vector", "DoRA"),
        ("layers.2.mlp.fc1.lora_A", "layers.7.mlp.fc1.lora_A", "no pair of lora_A and lora_B for"),
        ("layers.2.mlp.fc1", "layers.7.mlp.fc1", "does not fit its base, which has no"),
        ("layers.2.mlp.fc1", "layers.2.mlp.fc2", r"by \[192, 64\], its base has \[64, 192\]"),
        ("vit.layers.2", "other.layers.2", "changes parts of several models"),
    ],
)
def test_an_altered_name_is_refused(tmp_path: Path, before: str, after: str, words: str) -> None:
    model = theirs()
    model.save_pretrained(tmp_path / "base")
    folder = save_adapter(tmp_path / "adapter", pairs_for(model, ("fc1",)), str(tmp_path / "base"))
    path = folder / "adapter_model.safetensors"
    save_file({name.replace(before, after): tensor for name, tensor in load_file(path).items()}, path)
    with pytest.raises(WeightsError, match=words):
        load(folder)


def test_another_folder_stays_one(tmp_path: Path) -> None:
    theirs().save_pretrained(tmp_path)
    assert WeightsSource.parse(str(tmp_path)).path == tmp_path
