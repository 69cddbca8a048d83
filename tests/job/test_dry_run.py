"""A dry run ends with what the job would end with, and leaves nothing behind."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from PIL import Image

from tests.job.listener import Heard
from tofu_export.engines.flavours import RTX, available
from tofu_export.errors import OptionError, OutputError, TofuError, UnsupportedModelError, WeightsError
from tofu_export.job.dry_run import preview
from tofu_export.job.request import Job
from tofu_export.job.vit import run_job
from tofu_export.options import BatchRange, KeySource, OutputKind, Precision, Quantization, Reduction, Selection
from tofu_export.zoo.create import create_model
from tofu_export.zoo.weights import WeightsSource


def job(tmp_path: Path, **more: Any) -> Job:
    weights = WeightsSource.parse("random")
    return Job(**{"model": "test_vit", "output": tmp_path / "out", "weights": weights, "engine": False, **more})


def test_it_says_what_is_loaded_and_writes_nothing(tmp_path: Path) -> None:
    torch.save(timm.create_model("test_vit", num_classes=7).state_dict(), tmp_path / "own.pth")
    weights = WeightsSource.parse(str(tmp_path / "own.pth"))
    found = preview(job(tmp_path, weights=weights))
    assert found.loaded == create_model("test_vit", weights=weights).summary()
    assert found.spec.num_classes == 7
    assert found.images.startswith("natural")
    assert (found.engines, found.no_engine) == ((), "switched off by --no-engine")
    assert [path.name for path in tmp_path.iterdir()] == ["own.pth"]


def test_weights_to_download_are_not_read(tmp_path: Path) -> None:
    found = preview(job(tmp_path, model="vit_base", weights=WeightsSource.parse("pretrained")))
    assert found.loaded.startswith("pretrained, not read")
    assert "demo_vit" in preview(job(tmp_path, model="demo_vit", weights=WeightsSource.parse("pretrained"))).loaded


def test_places_for_halting_tokens_are_not_guessed(tmp_path: Path) -> None:
    """They are measured with the weights: without these there is no plan to show."""
    asked = job(tmp_path, model="vit_base", reduction=Reduction(select=Selection.HALTING, capacity=0.9))
    with pytest.raises(OptionError, match=r"a dry run does not download: leave out --dry-run, or .* --weights PATH"):
        preview(replace(asked, weights=WeightsSource.parse("pretrained")))


def damaged(tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "own.pth").write_bytes(b"\x80\x02")
    return {"weights": WeightsSource.parse(str(tmp_path / "own.pth"))}


def unreadable(tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(b"no image")
    return {"images": tmp_path / "images"}


def in_a_file(tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "file").write_text("")
    return {"output": tmp_path / "file" / "out"}


def bundle(tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a").write_text("")
    return {"bundle": tmp_path / "full"}


def skipping(part: str) -> Any:
    return lambda at: {"precisions": (Precision.FP8,), "quantization": Quantization(skip=(part,))}


def by_class_token(tmp_path: Path) -> dict[str, Any]:
    return {"model": "test_vit2", "reduction": Reduction(select=Selection.CLASS_ATTENTION)}


@pytest.mark.parametrize(
    ("prepare", "kind", "words"),
    [
        (damaged, WeightsError, "truncated or not a checkpoint"),
        (unreadable, OptionError, r"a\.png"),
        (lambda at: {"images": at / "nowhere"}, OptionError, "no such folder"),
        (in_a_file, OutputError, "cannot write to .*file is a file, expected a folder"),
        (bundle, OptionError, "not empty"),
        (lambda at: {"labels": ("a", "b")}, OptionError, "2 labels for 1000 classes"),
        (skipping("99"), OptionError, r"names block 99, but .* has blocks 0 to 5"),
        (skipping("6.mlp"), OptionError, "names block 6"),
        (lambda at: {"reduction": Reduction(keys=KeySource.PRE_ROPE)}, OptionError, "no rotary embedding.*--keys"),
        (by_class_token, UnsupportedModelError, "test_vit2.* has no class token"),
    ],
)
@pytest.mark.parametrize("read", [True, False])
def test_what_the_job_would_refuse(
    tmp_path: Path, prepare: Any, kind: type[TofuError], words: str, *, read: bool
) -> None:
    asked = job(tmp_path, **prepare(tmp_path))
    if not read and asked.weights.path is None:
        asked = replace(asked, weights=WeightsSource.parse("pretrained"))
    with pytest.raises(kind, match=words):
        preview(asked)
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(RTX not in available(), reason="needs tensorrt-rtx")
def test_engines_are_listed_and_their_gpus_known(tmp_path: Path) -> None:
    found = preview(job(tmp_path, engine=None))
    assert found.engines == ("model.fp32.tensorrt-rtx.engine", "model.fp16.tensorrt-rtx.engine")
    with pytest.raises(OptionError, match="cannot build for SM10"):
        preview(job(tmp_path, engine=None, compute_capabilities=("SM10",)))


LAST = Reduction(r=(0, 0, 0, 0, 0, 8))
"""A reduction in the last block alone, which a head that reads the class token does not see."""


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("more", "drawn"),
    [
        ({"reduction": LAST}, False),
        ({"reduction": LAST, "token_map": True}, True),
        ({"reduction": LAST, "output_kind": OutputKind.TOKENS}, True),
        ({"reduction": Reduction(r=(0, 8, 0, 0, 0, 8))}, True),
        ({"reduction": Reduction(r=(0, 0, 0, 0, 0, 8), select=Selection.HALTING)}, True),
        ({"reduction": Reduction(r=0)}, False),
        ({"precisions": (Precision.BF16,)}, False),
    ],
    ids=["unread", "map", "tokens", "earlier", "halting", "nothing", "bf16"],
)
def test_it_lists_exactly_the_files_of_the_job(tmp_path: Path, more: dict[str, Any], *, drawn: bool) -> None:
    (tmp_path / "images").mkdir()
    Image.new("RGB", (40, 30), "red").save(tmp_path / "images" / "a.png")
    asked = job(
        tmp_path, images=tmp_path / "images", verify=False, bench=False,
        **{"precisions": (Precision.FP32,), "batch": BatchRange(1, 1, 1), **more},
    )  # fmt: skip
    found = preview(asked)
    without = preview(replace(asked, weights=WeightsSource.parse("pretrained")))
    run_job(asked, Heard())
    assert sorted(found.files) == sorted(path.name for path in asked.output.iterdir())
    assert found.files == without.files
    assert ("tokens.json" in found.files) is drawn


def test_images_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    Image.new("RGB", (40, 30)).save(tmp_path / "images" / "a.png")
    assert preview(job(tmp_path, images=tmp_path / "images")).images == f"1 image from {tmp_path / 'images'}"
