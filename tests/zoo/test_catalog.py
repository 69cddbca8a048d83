"""The catalogue of specs says what measuring says."""

from __future__ import annotations

import pytest

from tofu_export.planning.plan import ModelSpec
from tofu_export.zoo import catalog
from tofu_export.zoo.specs import spec_of

SAMPLE = [
    "vit_tiny_patch16_224",
    "deit_tiny_distilled_patch16_224",
    "vit_small_patch14_reg4_dinov2",
    "vit_base_patch16_siglip_224",
    "test_vit3",
]


@pytest.mark.parametrize("name", SAMPLE)
def test_entries_equal_a_fresh_measurement(name: str) -> None:
    if not catalog.names():
        pytest.skip("the catalogue is for another timm version")
    assert catalog.find(name) == spec_of(name)


def test_an_entry_survives_the_round_trip() -> None:
    spec = spec_of("test_vit")
    assert catalog._from_entry("test_vit", catalog.to_entry(spec)) == spec
    assert isinstance(spec, ModelSpec)


def test_unknown_names_are_left_to_timm() -> None:
    assert catalog.find("resnet50") is None


def test_another_timm_version_switches_it_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog, "version", lambda _: "0.0.1")
    catalog._entries.cache_clear()
    try:
        assert catalog.names() == ()
    finally:
        catalog._entries.cache_clear()
