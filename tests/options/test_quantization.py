"""What may be asked of quantised files, and how it is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.cli.running import run
from tofu_export.errors import ExitCode, OptionError
from tofu_export.job.model import calibration_count, image_count
from tofu_export.job.request import Job
from tofu_export.options import AttentionForm, Precision, Quantization
from tofu_export.options.quantization import CALIBRATION_IMAGES, GENERATED_IMAGES, parse_skipped


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", ()),
        ("0, 11", ("0", "11")),
        ("attn.proj,mlp,mlp", ("attn.proj", "mlp")),
        ("blocks.3.attn", ("blocks.3.attn",)),
    ],
)
def test_lists_of_blocks_and_modules(text: str, parts: tuple[str, ...]) -> None:
    assert parse_skipped(text) == parts


@pytest.mark.parametrize("text", ["-1", "a b", "attn/qkv", "attn..qkv", "blocks.*"])
def test_what_is_neither(text: str) -> None:
    with pytest.raises(OptionError, match="numbers of blocks and names of modules"):
        parse_skipped(text)


def job(images: Path | None = None, count: int | None = None, *, attention: bool = False) -> Job:
    precisions = (Precision.FP16, Precision.INT8_FP16)
    return Job(
        "vit_tiny", Path("out"), images=images, precisions=precisions, quantization=Quantization((), count, attention)
    )


@pytest.mark.parametrize(
    ("images", "count", "expected"),
    [
        (None, None, GENERATED_IMAGES),
        (Path("photos"), None, CALIBRATION_IMAGES),
        (Path("photos"), 500, 500),
        (None, 1, 1),
    ],
)
def test_more_real_images_than_generated_ones_calibrate(images: Path | None, count: int | None, expected: int) -> None:
    """Verification has images of its own beside them."""
    asked = job(images, count)
    assert calibration_count(asked) == expected
    assert image_count(asked) - expected == image_count(Job("vit_tiny", Path("out")))


def test_attention_is_for_fp8() -> None:
    with pytest.raises(OptionError, match="--quantize-attention is for fp8 files, and none is asked for"):
        job(attention=True)


def test_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["export", "test_vit", "--weights", "random", "--precision", "int8", "-o", str(tmp_path / "out")]
    assert run(*arguments, "--quantize-attention") == ExitCode.USAGE
    assert run(*arguments, "--quantize-skip", "a b") == ExitCode.USAGE
    assert run(*arguments, "--calibration-images", "0") == ExitCode.USAGE
    err = capsys.readouterr().err
    assert "--quantize-attention is for fp8 files" in err
    assert "numbers of blocks and names of modules" in err


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"quantization": Quantization(skip=("0",))}, "--quantize-skip is for int8 and fp8 files"),
        ({"quantization": Quantization(images=8)}, "--calibration-images is for int8 and fp8 files"),
        ({"attention": AttentionForm.UNFUSED}, "--attention unfused is for files in half precision"),
    ],
)
def test_what_no_file_would_follow_is_refused(tmp_path: Path, asked: dict[str, Any], words: str) -> None:
    with pytest.raises(OptionError, match=words):
        Job("test_vit", tmp_path, precisions=(Precision.FP32,), **asked)
