"""`tofu-export models`: the catalogue, and why a model is refused."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.cli.running import run
from tofu_export.zoo import catalog


@pytest.fixture(autouse=True)
def _catalogue() -> None:
    if not catalog.names():
        pytest.skip("the catalogue is for another timm version")


def test_lists_all(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("models") == 0
    out, err = capsys.readouterr()
    head, *rows = out.splitlines()
    assert head.split() == ["model", "image", "tokens", "protected", "depth", "GMACs", "r", "=", "16"]
    assert [row.split()[0] for row in rows] == list(catalog.names())
    assert len({len(row) for row in rows}) == 1
    assert err == ""


@pytest.mark.parametrize(
    "text", ["vit_base_patch16_224", "VIT_BASE", "vit_base", "*base_patch16_224", "vit_b?se_*[0-9]"]
)
def test_finds_by_part_and_by_pattern(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("models", text) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
    assert ["vit_base_patch16_224", "224x224", "197", "1", "12", "17.58", "8.78"] in rows
    assert len(rows) < len(catalog.names())


def test_those_that_match_and_cannot_be_reduced_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("models", "resnet50") == 3
    assert run("models", "vit_*resnet50*") == 0
    assert capsys.readouterr().err.count("cannot be reduced") == 0
    assert run("models", "resnet5") == 0
    out, err = capsys.readouterr()
    assert "vit_base_resnet50d_224" in out
    assert "models of timm match and cannot be reduced" in err
    assert set(catalog.names()).isdisjoint(catalog.others())


def test_json_is_one_document(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("models", "vit_base_patch16_224", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["timm"] == catalog.timm_version()
    entry = next(entry for entry in document["models"] if entry["name"] == "vit_base_patch16_224")
    assert entry["aliases"] == ["vit_base"]
    assert (entry["tokens"], entry["prefix_tokens"], entry["depth"]) == (197, 1, 12)
    assert entry["gmacs"] == {"full": pytest.approx(17.58, abs=0.01), "reduced": pytest.approx(8.78, abs=0.01)}


def test_a_full_name_outside_the_catalogue_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("models", "demo_vit") == 0
    assert capsys.readouterr().out.splitlines()[1].split()[:2] == ["demo_vit", "28x28"]


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        ("swin_tiny_patch4_window7_224", 3, ["SwinTransformer"]),
        ("resnet50", 3, ["resnet50 is a ResNet"]),  # though vit_base_resnet50d_224 has it in its name
        ("xcit_nano_12_p16_224", 3, ["Xcit", "convolves"]),
        ("resnet18", 3, ["ResNet"]),
        ("vit_bse", 2, ["unknown model 'vit_bse'", "Did you mean vit_base"]),
        ("vit_bse_patch*", 2, ["no supported model matches 'vit_bse_patch*'", "vit_base_patch"]),
        ("zzz?", 2, ["'zzz?'", "lists all"]),
    ],
)
@pytest.mark.parametrize("as_json", [False, True])
def test_what_is_not_listed(
    text: str, code: int, words: list[str], as_json: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("models", text, *["--json"] * as_json) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("tofu-export: error: ")
    assert err.count("\n") == 1
    assert all(word in err for word in words), err


def test_another_timm_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(catalog, "_entries", dict)
    assert run("models") == 2
    assert f"timm=={catalog.timm_version()}" in capsys.readouterr().err
    assert run("models", "demo_vit") == 0


def test_needs_no_torch() -> None:
    code = (
        "import sys; sys.argv = ['tofu-export', 'models', 'dinov3']\n"
        "from tofu_export.cli.main import main\n"
        "try: main()\n"
        "except SystemExit as ending: assert not ending.code\n"
        "assert not {'torch', 'timm', 'onnxruntime', 'onnx'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
