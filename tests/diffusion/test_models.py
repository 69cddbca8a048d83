"""Where UNets come from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.diffusion import tiny_unet
from tests.imports import hide_package
from tofu_export.diffusion import _optional
from tofu_export.diffusion.inputs import UnetInputs
from tofu_export.diffusion.models import UnetSource, create_unet, find_unet, inputs_of
from tofu_export.diffusion.options import LatentSize
from tofu_export.diffusion.weights import describe_weights
from tofu_export.errors import (
    BackendMissingError,
    ExitCode,
    OptionError,
    UnknownModelError,
    UnsupportedModelError,
    WeightsError,
)
from tofu_export.system.files import sha256_of


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    unet: Any = create_unet(tiny_unet.SOURCE, seed=3)
    unet.save_pretrained(tmp_path / "pipeline" / "unet")
    (tmp_path / "pipeline" / "model_index.json").write_text("{}")
    return tmp_path / "pipeline"


def test_reads_what_diffusers_wrote(folder: Path) -> None:
    for place in (folder, folder / "unet", folder / "unet" / "config.json"):
        source = find_unet(str(place))
        assert source.weights == folder / "unet" / "diffusion_pytorch_model.safetensors"
        loaded, expected = create_unet(source, seed=9).state_dict(), create_unet(tiny_unet.SOURCE, seed=3).state_dict()
        assert all(torch.equal(value, expected[key]) for key, value in loaded.items())


def test_half_precision_weights_become_float32(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    save_file({key: value.half() for key, value in load_file(file).items()}, file)
    assert {value.dtype for value in create_unet(find_unet(str(folder))).state_dict().values()} == {torch.float32}


def test_random_weights_follow_the_seed() -> None:
    one, same, other = (create_unet(tiny_unet.SOURCE, seed=seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(value, same[key]) for key, value in one.items())
    assert any(not torch.equal(value, other[key]) for key, value in one.items())


def test_random_weights_leave_the_global_generator_alone() -> None:
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    create_unet(tiny_unet.SOURCE, seed=5)
    assert torch.equal(torch.rand(1), expected)


def test_unknown_names_say_what_to_do() -> None:
    with pytest.raises(UnknownModelError, match="hf download"):
        find_unet("runwayml/stable-diffusion-v1-5")


def test_a_shape_alone_has_no_weights() -> None:
    with pytest.raises(WeightsError, match="--weights random"):
        find_unet("sd15")


def test_folders_without_a_unet(tmp_path: Path) -> None:
    with pytest.raises(UnknownModelError, match=r"config\.json"):
        find_unet(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "FluxTransformer2DModel"}))
    with pytest.raises(UnsupportedModelError, match="FluxTransformer2DModel"):
        find_unet(str(tmp_path))
    for text in ("{", "[" * 100_000):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(UnsupportedModelError, match="JSON"):
            find_unet(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "UNet2DConditionModel"}))
    with pytest.raises(WeightsError, match="holds none of"):
        find_unet(str(tmp_path))


def test_weights_of_another_unet_are_refused(folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    other = tmp_path / "other.safetensors"
    save_file({"conv_in.weight": torch.zeros(1)}, other)
    with pytest.raises(WeightsError, match="does not hold the weights"):
        create_unet(find_unet(str(folder), str(other)))
    other.write_bytes(b"nonsense")
    with pytest.raises(WeightsError, match="does not hold the weights"):
        create_unet(find_unet(str(folder), str(other)))
    with pytest.raises(OptionError, match="does not exist"):
        find_unet(str(folder), "nowhere.safetensors")


@pytest.mark.parametrize("form", ["bin", "sharded safetensors", "sharded bin", "fp16"])
def test_every_form_in_which_diffusers_saves_weights(form: str, tmp_path: Path) -> None:
    unet: Any = create_unet(tiny_unet.SOURCE, seed=3)
    folder = tmp_path / "unet"
    unet.save_pretrained(
        folder,
        safe_serialization="bin" not in form,
        variant="fp16" if form == "fp16" else None,
        max_shard_size="20KB" if "sharded" in form else "10GB",
    )
    (tmp_path / "model_index.json").write_text("{}")
    source = find_unet(str(tmp_path))
    names = {
        "bin": "diffusion_pytorch_model.bin",
        "sharded safetensors": "diffusion_pytorch_model.safetensors.index.json",
        "sharded bin": "diffusion_pytorch_model.bin.index.json",
        "fp16": "diffusion_pytorch_model.fp16.safetensors",
    }
    assert source.weights == folder / names[form]
    loaded, expected = create_unet(source, seed=9).state_dict(), unet.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in loaded.items())
    described = describe_weights(source.weights)
    assert (described.kind, described.file) == ("file", names[form])
    if "sharded" in form:
        assert len(described.shards) > 2
        assert all(sha256_of(folder / name) == digest for name, digest in described.shards.items())


def test_damaged_shards(tmp_path: Path) -> None:
    unet: Any = create_unet(tiny_unet.SOURCE, seed=3)
    unet.save_pretrained(tmp_path, max_shard_size="20KB")
    index = tmp_path / "diffusion_pytorch_model.safetensors.index.json"
    content = json.loads(index.read_text())
    gone = sorted(set(content["weight_map"].values()))[1]
    (tmp_path / gone).rename(tmp_path / "elsewhere")
    with pytest.raises(WeightsError, match=f"names the shard {gone}, which is not beside it"):
        create_unet(find_unet(str(tmp_path)))
    (tmp_path / gone).write_bytes(b"cut")
    with pytest.raises(WeightsError, match=f"{gone} does not hold the weights"):
        create_unet(find_unet(str(tmp_path)))
    for damage, words in (
        ("{", "no index of shards"),
        ('{"weight_map": 3}', "no index of shards"),
        ('{"weight_map": {"conv_in.weight": "../outside.safetensors"}}', "the name of a file beside it"),
        ('{"weight_map": {"conv_in.weight": "elsewhere"}}', "does not hold the weights"),
    ):
        index.write_text(damage)
        with pytest.raises(WeightsError, match=words):
            create_unet(find_unet(str(tmp_path)))


def test_a_config_that_diffusers_refuses() -> None:
    with pytest.raises(UnsupportedModelError, match="diffusers cannot make"):
        create_unet(UnetSource("odd", {"down_block_types": ("NoSuchBlock",)}, None))


def test_what_a_unet_takes() -> None:
    sdxl = inputs_of(find_unet("sdxl", "random"), LatentSize(128, 128))
    assert sdxl == UnetInputs(4, LatentSize(128, 128), 77, 2048, 1280)
    assert list(sdxl.shapes) == ["sample", "timestep", "encoder_hidden_states", "text_embeds", "time_ids"]
    assert sdxl.random(2, 0)["time_ids"].shape == (2, 6)
    with pytest.raises(UnsupportedModelError, match="class_embed_type"):
        inputs_of(UnetSource("odd", {"class_embed_type": "timestep"}, None))


def test_without_diffusers(monkeypatch: pytest.MonkeyPatch) -> None:
    hide_package(monkeypatch, "diffusers")
    with pytest.raises(BackendMissingError, match=r"tofu-export\[diffusion\]") as caught:
        _optional.load_diffusers()
    assert caught.value.exit_code is ExitCode.BACKEND_MISSING
