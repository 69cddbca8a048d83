from __future__ import annotations

import importlib.util
import json
import shutil

import pytest

from tests.cli.running import run
from tests.engines import models
from tofu_export.system import environment

rtx = [
    pytest.mark.rtx,
    pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="tensorrt_rtx is not installed"),
    pytest.mark.skipif(environment.collect().gpu is not None, reason="says what is missing where there is no GPU"),
]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("built")
    assert run("build", str(models.save(models.block(), folder)), "-o", str(folder / "m.engine"), "-q") == 0
    return folder


class TestRtx:
    pytestmark = rtx

    @pytest.mark.e2e
    def test_all_but_the_gpu(self, built, capsys):
        assert run("check", str(built / "m.engine")) == 5
        out, err = capsys.readouterr()
        assert out == ""
        assert [line.split()[:2] for line in err.splitlines()[:-1]] == [
            ["yes", "sidecar"], ["yes", "plan"], ["yes", "onnx"], ["yes", "runtime"], ["yes", "version"],
            ["missing", "gpu"],
        ]  # fmt: skip
        assert err.splitlines()[-1] == "m.engine cannot load here as this machine is"

    def test_a_changed_plan(self, built, tmp_path, capsys):
        for path in built.glob("m.engine*"):
            shutil.copy(path, tmp_path)
        plan = tmp_path / "m.engine"
        content = bytearray(plan.read_bytes())
        content[len(content) // 2] ^= 1
        plan.write_bytes(content)
        assert run("check", str(plan), "--json", "-q") == 7
        out, err = capsys.readouterr()
        assert err == ""
        document = json.loads(out)
        assert document["result"] == "no"
        assert [entry["question"] for entry in document["checks"] if entry["answer"] == "no"] == ["plan"]

    def test_the_runtime_sees_damage_in_a_header(self, built, tmp_path, capsys):
        plan = tmp_path / "m.engine"
        plan.write_bytes(b"vtrt" + b"x" * 20)
        assert run("check", str(plan)) == 7
        assert "malformed engine" in capsys.readouterr().err


def test_no_such_file(tmp_path, capsys):
    assert run("check", str(tmp_path / "nope.engine")) == 2
    assert "does not exist" in capsys.readouterr().err
