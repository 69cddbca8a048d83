from __future__ import annotations

import subprocess
import sys

import pytest

from tofu_export.errors import ExitCode, UnknownModelError
from tofu_export.zoo.names import ALIASES, DEMO_MODEL, resolve


@pytest.mark.parametrize("name", ["vit_base_patch16_224", "test_vit", "vit_base_patch16_224.augreg2_in21k_ft_in1k"])
def test_timm_names_stay(name: str) -> None:
    assert resolve(name) == name


@pytest.mark.parametrize(("alias", "full"), ALIASES.items())
def test_aliases_lead_to_timm_models(alias: str, full: str) -> None:
    assert resolve(f"  {alias}\n") == full == resolve(full)


def test_an_alias_may_carry_a_tag() -> None:
    assert resolve("vit_base.augreg2_in21k_ft_in1k") == "vit_base_patch16_224.augreg2_in21k_ft_in1k"


@pytest.mark.parametrize(
    "name", [DEMO_MODEL, "hf-hub:timm/vit_base_patch16_224.dino", "hf_hub:a/b@main", "local-dir:/some/Folder"]
)
def test_demo_and_sources_are_left_as_they_are(name: str) -> None:
    assert resolve(f" {name} ") == name


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [
        ("vit_bse", "vit_base"),
        ("VIT_BASE", "vit_base"),
        ("vit_base_patch16_244", "vit_base_patch16_224"),
        ("dem_vit", "demo_vit"),
        ("vit_tiny_patch16_224_in21k", "vit_tiny_patch16_224.augreg_in21k"),  # deprecated in timm
    ],
)
def test_unknown_names_get_suggestions(name: str, suggestion: str) -> None:
    with pytest.raises(UnknownModelError) as caught:
        resolve(name)
    message = str(caught.value)
    assert repr(name) in message
    suggested = message.partition("Did you mean ")[2].partition("?")[0].split(", ")
    assert suggested[0] == suggestion
    assert len(suggested) <= 3
    assert f"`tofu-export plan {suggestion}`" in message
    assert caught.value.exit_code is ExitCode.USAGE


def test_a_name_like_nothing_points_to_the_list() -> None:
    with pytest.raises(UnknownModelError, match="lists those that can be reduced"):
        resolve("qqqqqqqqqqq")


@pytest.mark.parametrize("name", ["", "   "])
def test_an_empty_name_is_unknown(name: str) -> None:
    with pytest.raises(UnknownModelError, match="unknown model ''"):
        resolve(name)


def test_an_unknown_tag_lists_the_known_ones() -> None:
    with pytest.raises(UnknownModelError) as caught:
        resolve("vit_base.augreg2_in21k_ft_in1")
    message = str(caught.value)
    assert "augreg2_in21k_ft_in1k, " in message
    assert "`tofu-export plan vit_base_patch16_224.augreg2_in21k_ft_in1k`" in message


@pytest.mark.parametrize("name", ["weights/vit.pth", "vit.safetensors"])
def test_a_checkpoint_is_no_model(name: str) -> None:
    with pytest.raises(UnknownModelError, match=f"--weights {name}"):
        resolve(name)


def test_a_repository_without_source_says_how_to_write_it() -> None:
    with pytest.raises(UnknownModelError, match="write hf-hub:timm/vit_base_patch16_224, for a folder local-dir:"):
        resolve("timm/vit_base_patch16_224")


@pytest.mark.parametrize("name", ["hf-hub:", "local-dir: "])
def test_a_source_needs_a_place(name: str) -> None:
    with pytest.raises(UnknownModelError, match="names nothing after"):
        resolve(name)


def test_importing_names_and_sources_loads_nothing_heavy() -> None:
    code = (
        "import sys, tofu_export.zoo.names, tofu_export.zoo.weights, tofu_export.demo\n"
        "import tofu_export.images.inputs\n"
        "print({'torch', 'timm', 'huggingface_hub'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
