"""Where weights lie, and what is said where they do not. No test downloads anything."""

from __future__ import annotations

import hashlib
import os
import pickle
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch

from tests.image_metrics.stand_ins import SQUEEZE, save_squeezenet
from tofu_export.errors import WeightsError
from tofu_export.image_metrics.result import NetworkWeights
from tofu_export.image_metrics.weights import (
    LPIPS_NETWORKS,
    WeightsFolder,
    WeightsSpec,
    described,
    inception_weights,
    lpips_weights,
    served_by_torch,
)


def test_names_are_those_that_are_published() -> None:
    assert inception_weights().name == "weights-inception-2015-12-05-6726825d.pth"
    assert inception_weights().url.startswith("https://github.com/toshas/torch-fidelity/")
    names = {network: lpips_weights(network).name for network in LPIPS_NETWORKS}
    assert names == {
        "alex": "alexnet-owt-7be5be79.pth", "squeeze": "squeezenet1_1-b8a52dc0.pth", "vgg": "vgg16-397923af.pth",
    }  # fmt: skip


def test_torchs_cache_is_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    assert WeightsFolder().path == folder
    folder.mkdir(parents=True)
    file = save_squeezenet(folder)
    assert WeightsFolder().find(lpips_weights(SQUEEZE)) == file
    assert described(file) == NetworkWeights(file.name, hashlib.sha256(file.read_bytes()).hexdigest())


def test_missing_weights_say_file_address_and_option(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: Any, **__: Any) -> None:
        pytest.fail("a download without being asked for one")

    monkeypatch.setattr(torch.hub, "download_url_to_file", forbidden)
    with pytest.raises(WeightsError) as caught:
        WeightsFolder(tmp_path).find(inception_weights())
    message = str(caught.value)
    assert all(word in message for word in (inception_weights().name, inception_weights().url, str(tmp_path)))
    assert "--network-weights DIR" in message
    assert "--download" in message


def test_a_download_goes_into_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def fetch(url: str, place: str, hash_prefix: str, progress: bool) -> None:
        asked.append((url, hash_prefix))
        torch.save({"a": torch.zeros(1)}, place)

    monkeypatch.setattr(torch.hub, "download_url_to_file", fetch)
    folder = WeightsFolder(tmp_path / "new", download=True)
    wanted = inception_weights()
    assert folder.find(wanted) == tmp_path / "new" / wanted.name
    assert folder.find(wanted).is_file()
    assert asked == [(wanted.url, "6726825d")]


@pytest.mark.parametrize("error", [URLError("no network"), OSError("disk full"), RuntimeError("invalid hash value")])
def test_a_failed_download(error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    with pytest.raises(WeightsError, match=r"cannot be downloaded from https://.*--network-weights DIR"):
        WeightsFolder(tmp_path, download=True).find(inception_weights())
    assert list(tmp_path.iterdir()) == []


class _Malicious:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (os.system, (f"touch {self.path}",))


def test_nothing_in_a_file_of_weights_is_executed(tmp_path: Path) -> None:
    file = tmp_path / "any.pth"
    file.write_bytes(pickle.dumps(_Malicious(tmp_path / "executed")))
    wanted = WeightsSpec("https://example.org/any.pth")
    with pytest.raises(WeightsError, match=r"any\.pth cannot be read .*get it again from https://example"):
        WeightsFolder(tmp_path).find(wanted)
    assert not (tmp_path / "executed").exists()
    torch.save([1, 2], file)
    with pytest.raises(WeightsError, match="does not hold weights"):
        WeightsFolder(tmp_path).find(wanted)


def test_torch_is_served_and_then_as_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", "/somewhere")
    (tmp_path / "any.pth").write_bytes(b"here")
    with served_by_torch(tmp_path):
        assert (Path(torch.hub.get_dir()) / "checkpoints" / "any.pth").read_bytes() == b"here"
    assert os.environ["TORCH_HOME"] == "/somewhere"
    monkeypatch.delenv("TORCH_HOME")
    with served_by_torch(tmp_path):
        pass
    assert "TORCH_HOME" not in os.environ


def test_a_cache_chosen_in_this_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "chosen"))
    with pytest.raises(WeightsError, match="set_dir"), served_by_torch(tmp_path):
        pytest.fail("served")
