"""`tofu-export plan`, `--help` and `--version`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.running import run
from tofu_export.zoo import catalog


def test_prints_the_plan(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("plan", "vit_base", "--r", "16") == 0
    out, err = capsys.readouterr()
    assert "PPPWWWWWWWWW" in out
    assert "sizes  on (default)" in out
    assert "17.58 full, 8.78 reduced: 2.00x fewer" in out
    assert err == ""


def test_json_is_one_document(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("plan", "vit_base", "--r", "16", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["model"]["tokens"] == 197
    assert document["model"]["depth"] == 12
    assert document["plan"]["gmacs"]["reduced"] == pytest.approx(8.78, abs=0.01)
    assert [row["tokens_out"] for row in document["plan"]["layers"]][-1] == 11


def test_another_image_size_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("plan", "test_vit", "--image-size", "96x64", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["model"]["image_size"] == [96, 64]
    assert document["model"]["tokens"] == 6 * 4 + 1


def test_a_budget_says_what_was_asked_and_what_came_out(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("plan", "vit_base", "--speedup", "1.8", "--exclude-layers", "0,11", "--json") == 0
    plan = json.loads(capsys.readouterr().out)["plan"]
    assert plan["asked"] == {"speedup": 1.8}
    assert plan["pattern"] == "-PPWWWWWWWW-"
    assert plan["gmacs"]["full"] / plan["gmacs"]["reduced"] >= 1.8
    as_list = ",".join(map(str, plan["r"]))
    assert run("plan", "vit_base", "--speedup", "1.8", "--exclude-layers", "0,11") == 0
    assert f"r      {as_list} (from speedup 1.8)" in capsys.readouterr().out
    assert run("plan", "vit_base", "--r", as_list, "--exclude-layers", "0,11", "--json") == 0
    assert json.loads(capsys.readouterr().out)["plan"]["layers"] == plan["layers"]


def test_a_keep_rate(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("plan", "vit_base", "--keep-rate", "0.9", "--json") == 0
    assert json.loads(capsys.readouterr().out)["plan"]["r"][:3] == [19, 17, 16]


@pytest.mark.parametrize(
    ("option", "exit_code", "reason"),
    [
        (("--keys", "pre-rope"), 2, "has no rotary embedding"),
        (("--select", "class-attention"), 3, "has no class token"),
        (("--select", "halting"), 3, "has no class token"),
    ],
)
def test_what_the_model_lacks_is_said(
    option: tuple[str, str], exit_code: int, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("plan", "vit_base_patch16_siglip_224", *option) == exit_code
    out, err = capsys.readouterr()
    assert out == ""
    assert reason in err


def test_masked_halting_says_that_it_saves_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("plan", "deit_tiny_patch16_224", "--select", "halting") == 0
    assert "select halting, masked: halted tokens stay, which saves nothing" in capsys.readouterr().out
    assert run("plan", "deit_tiny_patch16_224", "--select", "halting", "--r", "0,0,9,9,9,9,9,9,9,9,9,9") == 0
    assert "masked" not in capsys.readouterr().out


def test_the_gate_of_halting_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("plan", "deit_tiny_patch16_224", "--select", "halting", "--halting-center", "75") == 0
    assert "\ngate   scale 10, center 75, least 0.01\n" in capsys.readouterr().out
    assert run("plan", "deit_tiny_patch16_224") == 0
    assert "gate" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("asked", "instead"),
    [
        (("--select", "predictor"), "`tofu-export MODEL --weights PATH --select predictor --dry-run` shows the plan"),
        (
            ("--select", "halting", "--capacity", "0.9"),
            "`tofu-export MODEL --weights PATH --select halting --capacity SHARE --images DIR --dry-run` shows how",
        ),
    ],
)
def test_what_only_weights_tell_is_shown_by_a_dry_run(
    asked: tuple[str, ...], instead: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("plan", "deit_tiny_patch16_224", *asked) == 2
    assert instead in capsys.readouterr().err


def test_known_plans_need_no_torch() -> None:
    if not catalog.names():
        pytest.skip("the catalogue is for another timm version")
    code = (
        "import sys; sys.argv = ['tofu-export', 'plan', 'vit_base']\n"
        "from tofu_export.cli.main import main\n"
        "try: main()\n"
        "except SystemExit as ending: assert not ending.code\n"
        "assert not {'torch', 'timm', 'onnxruntime', 'onnx'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_help_names_the_main_job(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--help") == 0
    assert "tofu-export vit_base --r 16 --mode mlerp" in capsys.readouterr().out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--version") == 0
    assert capsys.readouterr().out.startswith("tofu-export, version ")


def test_a_plan_file_is_written_and_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(tmp_path / "plan.json")
    assert run("plan", "vit_base", "--speedup", "1.8", "--exclude-layers", "0", "-o", path, "--json") == 0
    out, err = capsys.readouterr()
    assert err == f"written: {path}\n"
    assert run("plan", "vit_base", "--plan-file", path, "--json") == 0
    again = capsys.readouterr()
    assert again.err == ""
    assert json.loads(again.out)["plan"]["layers"] == json.loads(out)["plan"]["layers"]
    assert run("plan", "vit_small", "--plan-file", path) == 0
    assert "was made for vit_base_patch16_224, and is used for vit_small" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "value"),
    [("--r", "16"), ("--mode", "mlerp"), ("--pattern", "P" * 12), ("--prune-layers", "6"), ("--gmacs", "9"),
     ("--speedup", "2"), ("--keep-rate", "0.9"), ("--schedule", "linear"), ("--exclude-layers", "0"),
     ("--keys", "pre-rope"), ("--no-prop-attn", "")],
)  # fmt: skip
def test_a_plan_file_leaves_nothing_to_say(
    option: str, value: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(tmp_path / "plan.json")
    assert run("plan", "vit_base", "-o", path) == 0
    given = (option, value) if value else (option,)
    assert run("plan", "vit_base", "--plan-file", path, *given) == 2
    assert "--plan-file already says what --" in capsys.readouterr().err


def test_a_plan_file_beside_what_it_leaves_open(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(tmp_path / "plan.json")
    assert run("plan", "vit_base", "--r", "8", "-o", path) == 0
    capsys.readouterr()
    assert run("plan", "vit_base", "--plan-file", path, "--restore-grid", "--json") == 0
    assert json.loads(capsys.readouterr().out)["plan"]["restore_grid"] is True
