from __future__ import annotations

import argparse
import hashlib
import inspect
import logging
import os
import pickle
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from tests.zoo.jax_arrays import State, jax_arrays, make
from tofu_export.errors import ExitCode, OptionError, WeightsError
from tofu_export.report.model import LoadedWeights
from tofu_export.zoo._jax import load_npz
from tofu_export.zoo.create import create_model
from tofu_export.zoo.weights import WeightsKind, WeightsSource, load_weights, locate_pretrained


def load(path: Path, model: nn.Module | None = None, name: str = "test_vit") -> tuple[nn.Module, LoadedWeights]:
    model = make() if model is None else model
    return model, load_weights(model, WeightsSource.parse(str(path)), name=name, seed=0)


def refusal(path: Path, model: nn.Module | None = None, name: str = "test_vit") -> str:
    with pytest.raises(WeightsError) as caught:
        load(path, model, name)
    assert caught.value.exit_code is ExitCode.EXPORT
    return str(caught.value)


@pytest.fixture(scope="module")
def state() -> State:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        return make().state_dict()


def same(model: nn.Module, state: State) -> bool:
    loaded = model.state_dict()
    return loaded.keys() == state.keys() and all(torch.equal(loaded[name], state[name]) for name in state)


class TestSource:
    @pytest.mark.parametrize(
        ("text", "kind"), [("pretrained", WeightsKind.PRETRAINED), (" Random ", WeightsKind.RANDOM)]
    )
    def test_words(self, text: str, kind: WeightsKind) -> None:
        source = WeightsSource.parse(text)
        assert (source.kind, source.path, str(source)) == (kind, None, text.strip().lower())

    def test_anything_else_is_a_path(self) -> None:
        assert WeightsSource.parse("./random") == WeightsSource(WeightsKind.PATH, Path("random"))
        assert str(WeightsSource.parse("a/b.pth")) == os.path.join("a", "b.pth")  # noqa: PTH118 the point is the text

    def test_home_is_expanded(self) -> None:
        assert WeightsSource.parse("~/vit.pth").path == Path.home() / "vit.pth"

    def test_empty(self) -> None:
        with pytest.raises(OptionError, match="expected pretrained, random or the path"):
            WeightsSource.parse(" ")

    @pytest.mark.parametrize(("kind", "path"), [(WeightsKind.PATH, None), (WeightsKind.RANDOM, Path("x"))])
    def test_kind_and_path_belong_together(self, kind: WeightsKind, path: Path | None) -> None:
        with pytest.raises(OptionError, match="a path belongs to kind 'path' only"):
            WeightsSource(kind, path)

    def test_missing_file_is_a_usage_error(self, tmp_path: Path) -> None:
        with pytest.raises(OptionError, match="no such file; expected pretrained, random") as caught:
            load(tmp_path / "pretraind")
        assert caught.value.exit_code is ExitCode.USAGE

    def test_folder(self, tmp_path: Path) -> None:
        with pytest.raises(OptionError, match="is a folder: name the file in it"):
            load(tmp_path)

    def test_folder_of_a_checkpoint_in_parts(self, tmp_path: Path) -> None:
        (tmp_path / "__0_0.distcp").write_bytes(b"x")
        with pytest.raises(OptionError, match="dcp_to_torch"):
            load(tmp_path)
        (tmp_path / "__0_0.distcp").rename(tmp_path / "zero_to_fp32.py")
        with pytest.raises(OptionError, match=r"with the zero_to_fp32\.py"):
            load(tmp_path)

    def test_unknown_suffix(self, tmp_path: Path) -> None:
        (tmp_path / "vit.h5").write_bytes(b"x")
        with pytest.raises(OptionError, match=r"unknown suffix, expected one of \.safetensors"):
            load(tmp_path / "vit.h5")


def prefixed(*prefixes: str) -> Callable[[State], State]:
    return lambda state: {"".join(prefixes) + name: tensor for name, tensor in state.items()}


WRAPPINGS: dict[str, Callable[[State], Any]] = {
    "plain": lambda state: state,
    "model": lambda state: {"model": state, "epoch": 3},
    "state_dict": lambda state: {"state_dict": state, "optimizer": {"step": torch.ones(1)}},
    "model_ema": lambda state: {"model": {k: v * 2 for k, v in state.items()}, "model_ema": state},
    "state_dict_ema": lambda state: {"state_dict": {k: v * 2 for k, v in state.items()}, "state_dict_ema": state},
    "nested": lambda state: {"model": {"state_dict": state}},
    "timm args": lambda state: {"state_dict": state, "args": argparse.Namespace(lr=0.1), "arch": "test_vit"},
    "module.": prefixed("module."),
    "_orig_mod.": prefixed("_orig_mod."),
    "module._orig_mod.": prefixed("module.", "_orig_mod."),
    "_orig_mod.module._orig_mod.": prefixed("_orig_mod.", "module.", "_orig_mod."),
    "module.module.": prefixed("module.", "module."),
    "backbone.": prefixed("backbone."),
    "module.backbone.": prefixed("module.", "backbone."),
    "lightning": lambda state: {"state_dict": prefixed("model.")(state), "epoch": 1, "hparams": {"lr": 0.1}},
    "encoder": lambda state: {"encoder": prefixed("module.")(state)},
}


class TestReading:
    @pytest.mark.parametrize("wrapping", WRAPPINGS)
    def test_wrappings(self, wrapping: str, state: State, tmp_path: Path) -> None:
        path = tmp_path / "vit.pth"
        torch.save(WRAPPINGS[wrapping](state), path)
        assert same(load(path)[0], state)

    @pytest.mark.parametrize("suffix", [".pt", ".bin", ".ckpt", ".pth.tar", ".PTH"])
    def test_suffixes(self, suffix: str, state: State, tmp_path: Path) -> None:
        path = tmp_path / f"vit{suffix}"
        torch.save(state, path)
        assert same(load(path)[0], state)

    def test_the_old_torch_format(self, state: State, tmp_path: Path) -> None:
        path = tmp_path / "vit.pth"
        torch.save({"model": state}, path, _use_new_zipfile_serialization=False)
        assert same(load(path)[0], state)

    def test_safetensors_and_the_record(self, state: State, tmp_path: Path) -> None:
        path = tmp_path / "vit.safetensors"
        save_file(prefixed("module.")(state), path)
        model, record = load(path)
        assert same(model, state)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        assert record == LoadedWeights("path", path="vit.safetensors", format="timm", sha256=digest, key="module")

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
    def test_other_precisions_become_float32(self, dtype: torch.dtype, state: State, tmp_path: Path) -> None:
        path = tmp_path / "vit.pth"
        torch.save({name: tensor.to(dtype) for name, tensor in state.items()}, path)
        model, _ = load(path)
        assert {tensor.dtype for tensor in model.state_dict().values()} == {torch.float32}
        assert same(model, {name: tensor.to(dtype).float() for name, tensor in state.items()})

    def test_a_dict_that_contains_itself_ends(self, tmp_path: Path) -> None:
        loop: dict[str, Any] = {"epoch": 1}
        loop["model"] = loop
        torch.save(loop, tmp_path / "vit.pth")
        assert "vit.pth" in refusal(tmp_path / "vit.pth")


class Evil:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch '{self.marker}'",)


class TestRefusing:
    @pytest.mark.parametrize("form", ["zip", "old", "bare"])
    def test_a_malicious_pickle_never_runs(self, form: str, state: State, tmp_path: Path) -> None:
        marker, path = tmp_path / "ran", tmp_path / "vit.pth"
        payload = {"state_dict": state, "extra": Evil(marker)}
        if form == "bare":
            path.write_bytes(pickle.dumps(payload, protocol=2))
        else:
            torch.save(payload, path, _use_new_zipfile_serialization=form == "zip")
        message = refusal(path)
        assert not marker.exists()
        assert "vit.pth" in message
        assert "posix.system" in message
        assert "could run code when loaded; it was not loaded" in message

    @pytest.mark.parametrize("protocol", range(6))
    def test_every_pickle_protocol_is_refused(self, protocol: int, tmp_path: Path) -> None:
        path = tmp_path / "vit.pth"
        path.write_bytes(pickle.dumps(Evil(tmp_path / "ran"), protocol=protocol))
        assert "posix.system" in refusal(path)
        assert not (tmp_path / "ran").exists()

    def test_the_trap_would_have_sprung(self, tmp_path: Path) -> None:
        torch.save(Evil(tmp_path / "ran"), tmp_path / "vit.pth")
        torch.load(tmp_path / "vit.pth", weights_only=False)
        assert (tmp_path / "ran").exists()

    def test_a_pickled_module(self, tmp_path: Path) -> None:
        torch.save(make(), tmp_path / "vit.pth")
        message = refusal(tmp_path / "vit.pth")
        assert "holds pickled Python objects" in message
        assert "save model.state_dict()" in message

    @pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".npz"])
    @pytest.mark.parametrize("keep", [0, 10, 5000, -100])
    def test_truncated(self, suffix: str, keep: int, state: State, tmp_path: Path) -> None:
        path = tmp_path / f"vit{suffix}"
        if suffix == ".npz":
            np.savez(path, **{name: tensor.numpy() for name, tensor in state.items()})
        elif suffix == ".pth":
            torch.save(state, path)
        else:
            save_file(state, path)
        path.write_bytes(path.read_bytes()[:keep])
        assert "truncated or not a" in refusal(path)

    @pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".npz"])
    def test_not_a_checkpoint(self, suffix: str, tmp_path: Path) -> None:
        path = tmp_path / f"vit{suffix}"
        path.write_text("nothing of the kind" * 20)
        assert "text that begins with 'nothing of the kind" in refusal(path)
        path.write_bytes(bytes(range(256)))
        assert "truncated or not a" in refusal(path)

    @pytest.mark.parametrize("content", [[1, 2], "text", torch.ones(3)])
    def test_not_a_dict(self, content: Any, tmp_path: Path) -> None:
        torch.save(content, tmp_path / "vit.pth")
        assert "no state dict" in refusal(tmp_path / "vit.pth")

    def test_no_tensors(self, tmp_path: Path) -> None:
        torch.save({"epoch": 3, "lr": 0.1}, tmp_path / "vit.pth")
        assert "holds no tensors (its entries: epoch, lr)" in refusal(tmp_path / "vit.pth")

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_not_finite(self, value: float, state: State, tmp_path: Path) -> None:
        broken = {**state, "blocks.3.mlp.fc1.weight": state["blocks.3.mlp.fc1.weight"].clone()}
        broken["blocks.3.mlp.fc1.weight"][5, 5] = value
        torch.save(broken, tmp_path / "vit.pth")
        assert "blocks.3.mlp.fc1.weight in vit.pth holds NaN or infinity" in refusal(tmp_path / "vit.pth")

    def test_values_beyond_float32(self, state: State, tmp_path: Path) -> None:
        torch.save({**state, "norm.bias": state["norm.bias"].double() + 1e300}, tmp_path / "vit.pth")
        assert "norm.bias in vit.pth holds NaN or infinity" in refusal(tmp_path / "vit.pth")


class TestFitting:
    def test_another_class_count_names_the_option(self, state: State, tmp_path: Path) -> None:
        torch.save(state, tmp_path / "vit.pth")
        message = refusal(tmp_path / "vit.pth", make(num_classes=10))
        assert "fits test_vit but for its classifier" in message
        assert message.endswith("pass --num-classes 1000")
        assert "head.weight [1000, 64] in the file, [10, 64] in the model" in message

    def test_no_classifier_in_the_file(self, state: State, tmp_path: Path) -> None:
        torch.save({k: v for k, v in state.items() if not k.startswith("head")}, tmp_path / "vit.pth")
        assert "has no classifier" in refusal(tmp_path / "vit.pth")
        assert "--num-classes 0" in refusal(tmp_path / "vit.pth")

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            (lambda key: key.replace("head.", "fc."), r"If fc\.weight reads the pooled features directly, rename"),
            (lambda key: key.replace("head.weight", "head.weight_orig"), r"call prune\.remove"),
            (lambda key: key.replace("head.weight", "head.parametrizations.weight.original"), "parametrizations"),
            (lambda key: key.replace("norm.weight", "_flat_param"), "FULL_STATE_DICT"),
        ],
    )
    def test_where_the_weights_are(
        self, state: State, tmp_path: Path, change: Callable[[str], str], words: str
    ) -> None:
        torch.save({change(key): tensor for key, tensor in state.items()}, tmp_path / "vit.pth")
        with pytest.raises(WeightsError, match=words):
            load(tmp_path / "vit.pth")

    def test_a_classifier_without_bias(self, state: State, tmp_path: Path) -> None:
        torch.save({key: tensor for key, tensor in state.items() if key != "head.bias"}, tmp_path / "vit.pth")
        assert "has no bias (1 missing in the file: head.bias" in refusal(tmp_path / "vit.pth")

    def test_parameters_that_other_processes_have(self, state: State, tmp_path: Path) -> None:
        torch.save({"module": {key: torch.empty(0) for key in state}}, tmp_path / "vit.pth")
        assert "zero_to_fp32.py" in refusal(tmp_path / "vit.pth")

    def test_a_model_without_classifier_leaves_it_out(self, state: State, tmp_path: Path) -> None:
        torch.save(state, tmp_path / "vit.pth")
        _, record = load(tmp_path / "vit.pth", make(num_classes=0))
        assert record.dropped == ("head.bias", "head.weight")

    def test_both_heads_of_a_distilled_model(self, tmp_path: Path) -> None:
        name = "deit_tiny_distilled_patch16_224"
        torch.save(make(name, num_classes=7, depth=1).state_dict(), tmp_path / "deit.pth")
        message = refusal(tmp_path / "deit.pth", make(name, num_classes=3, depth=1), name)
        assert message.endswith("pass --num-classes 7")

    def test_another_model_lists_five_of_each_kind(self, state: State, tmp_path: Path) -> None:
        torch.save(state, tmp_path / "vit.pth")
        message = refusal(tmp_path / "vit.pth", make("test_vit2"), "test_vit2")
        assert "vit.pth does not fit test_vit2: 43 missing in the file: reg_token [1, 1, 64], " in message
        assert ", and 38 more; 3 unknown to the model: cls_token [1, 1, 64], norm.weight [64], norm.bias" in message
        assert "num-classes" not in message

    def test_another_width(self, tmp_path: Path) -> None:
        torch.save(make("test_vit3").state_dict(), tmp_path / "vit.pth")
        message = refusal(tmp_path / "vit.pth")
        assert "of another shape: " in message
        assert "patch_embed.proj.weight [96, 3, 16, 16] in the file, [64, 3, 16, 16] in the model" in message

    def test_a_convolutional_net(self, tmp_path: Path) -> None:
        torch.save(make("test_resnet").state_dict(), tmp_path / "resnet.pth")
        assert "resnet.pth does not fit test_vit" in refusal(tmp_path / "resnet.pth")

    def test_the_position_embedding_is_resized(self, state: State, tmp_path: Path) -> None:
        torch.save(state, tmp_path / "vit.pth")
        model, record = load(tmp_path / "vit.pth", make(img_size=224))
        assert record.adapted == ("pos_embed [1, 101, 64] -> [1, 197, 64]",)
        assert torch.equal(model.state_dict()["pos_embed"][:, :1], state["pos_embed"][:, :1])
        assert model(torch.zeros(1, 3, 224, 224)).isfinite().all()

    def test_a_linear_patch_embedding_is_reshaped(self, state: State, tmp_path: Path) -> None:
        key = "patch_embed.proj.weight"
        torch.save({**state, key: state[key].flatten(1)}, tmp_path / "vit.pth")
        model, record = load(tmp_path / "vit.pth")
        assert same(model, state)
        assert record.adapted == (f"{key} [64, 768] -> [64, 3, 16, 16]",)

    def test_layer_scale_of_the_original_deit3(self, tmp_path: Path) -> None:
        name = "deit3_small_patch16_224"
        state = make(name, depth=1).state_dict()
        old = {key.replace("ls1.gamma", "gamma_1").replace("ls2.gamma", "gamma_2"): v for key, v in state.items()}
        assert old.keys() != state.keys()
        torch.save({"model": old}, tmp_path / "deit3.pth")
        assert same(load(tmp_path / "deit3.pth", make(name, depth=1), name)[0], state)

    def test_a_model_that_timm_has_not_registered(self, tmp_path: Path) -> None:
        options: dict[str, Any] = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 1, "num_heads": 1}
        saved = timm.models.VisionTransformer(**options)
        torch.save(saved.state_dict(), tmp_path / "vit.pth")
        model = timm.models.VisionTransformer(**{**options, "img_size": 64})
        assert load(tmp_path / "vit.pth", model, "mine")[1].adapted == ("pos_embed [1, 17, 32] -> [1, 65, 32]",)

    def test_nothing_is_said_on_success(
        self, state: State, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
    ) -> None:
        torch.save(state, tmp_path / "vit.pth")
        before = logging.getLogger("timm").level
        with caplog.at_level(logging.INFO), warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            load(tmp_path / "vit.pth", make(img_size=224))
        assert caplog.records == []
        assert caught == []
        assert capfd.readouterr() == ("", "")
        assert logging.getLogger("timm").level == before


class TestJax:
    def test_loads(self, state: State, tmp_path: Path) -> None:
        np.savez(tmp_path / "vit.npz", **jax_arrays(state))
        model, record = load(tmp_path / "vit.npz")
        assert same(model, state)
        assert len(record.sha256) == 64

    def test_another_class_count_is_not_skipped(self, state: State, tmp_path: Path) -> None:
        np.savez(tmp_path / "vit.npz", **jax_arrays(state))
        message = refusal(tmp_path / "vit.npz", make(num_classes=10))
        assert message.endswith("fits test_vit but for its classifier: pass --num-classes 1000")

    def test_no_classifier_in_the_file(self, state: State, tmp_path: Path) -> None:
        arrays = {name: array for name, array in jax_arrays(state).items() if not name.startswith("head")}
        np.savez(tmp_path / "vit.npz", **arrays)
        assert refusal(tmp_path / "vit.npz").endswith("pass --num-classes 0")

    def test_a_deeper_checkpoint_is_not_cut(self, state: State, tmp_path: Path) -> None:
        np.savez(tmp_path / "vit.npz", **jax_arrays(state))
        assert "has 6 blocks, but test_vit has 4" in refusal(tmp_path / "vit.npz", make(depth=4))

    def test_layers_that_jax_lacks(self, state: State, tmp_path: Path) -> None:
        np.savez(tmp_path / "vit.npz", **jax_arrays(state))
        message = refusal(tmp_path / "vit.npz", make(init_values=1e-5))
        assert "it lacks 12 tensors, such as blocks.0.ls1.gamma" in message

    @pytest.mark.parametrize(
        "options", [{"num_classes": 7}, {"img_size": 96}, {"patch_size": 32}, {"in_chans": 1}], ids=str
    )
    def test_sizes_that_arrays_show_are_set(self, options: dict[str, Any], tmp_path: Path) -> None:
        ours = make(**options)
        np.savez(tmp_path / "vit.npz", **jax_arrays(ours.state_dict()))
        found = create_model("test_vit", weights=WeightsSource.parse(str(tmp_path / "vit.npz")))
        assert same(found.model, ours.state_dict())
        assert found.weights.set
        assert found.weights.adapted == ()

    def test_another_number_of_heads_is_refused(self, state: State, tmp_path: Path) -> None:
        np.savez(tmp_path / "vit.npz", **jax_arrays(state, heads=4))
        assert "vit.npz says heads 4, test_vit has 2" in refusal(tmp_path / "vit.npz")

    def test_a_classifier_is_left_out_only_if_asked_for(self, state: State, tmp_path: Path) -> None:
        np.savez(tmp_path / "vit.npz", **jax_arrays(state))
        with pytest.raises(WeightsError, match="has a classifier, and test_vit has none: pass --num-classes 1000"):
            load_npz(make(num_classes=0), tmp_path / "vit.npz", name="test_vit", features=False)
        weights = WeightsSource.parse(str(tmp_path / "vit.npz"))
        assert create_model("test_vit", weights=weights, num_classes=0).weights.dropped == ("head/kernel", "head/bias")

    def test_quantised_arrays_are_refused(self, state: State, tmp_path: Path) -> None:
        arrays = jax_arrays(state)
        whole = {**arrays, "head/kernel": (arrays["head/kernel"] * 100).astype(np.int8)}
        np.savez(tmp_path / "vit.npz", **whole)
        assert "head/kernel in vit.npz is int8, expected floating-point numbers" in refusal(tmp_path / "vit.npz")
        np.savez(tmp_path / "vit.npz", **arrays, step=np.arange(3))
        assert same(load(tmp_path / "vit.npz")[0], state)

    def test_another_layout(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "vit.npz", weights=np.ones(3))
        assert "vit.npz does not fit test_vit (" in refusal(tmp_path / "vit.npz")

    def test_a_pickle_inside_never_runs(self, tmp_path: Path) -> None:
        marker = tmp_path / "ran"
        np.savez(tmp_path / "vit.npz", evil=np.array([Evil(marker)], dtype=object))
        message = refusal(tmp_path / "vit.npz")
        assert not marker.exists()
        assert "pickled objects in it are never loaded" in message

    def test_not_finite(self, state: State, tmp_path: Path) -> None:
        arrays = jax_arrays(state)
        np.savez(tmp_path / "vit.npz", **{**arrays, "head/bias": arrays["head/bias"] * np.nan})
        assert "head/bias in vit.npz holds NaN or infinity" in refusal(tmp_path / "vit.npz")

    def test_a_model_without_such_a_loader(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "vit.npz", x=np.ones(1))
        message = refusal(tmp_path / "vit.npz", make("test_resnet"), "test_resnet")
        assert "convert vit.npz to .safetensors" in message


class TestRandom:
    def test_the_model_is_left_as_it_is(self) -> None:
        model = make()
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        record = load_weights(model, WeightsSource.parse("random"), name="test_vit", seed=5)
        assert same(model, before)
        assert (record.kind, record.seed, record.path) == ("random", 5, None)


class Hub(BaseHTTPRequestHandler):
    """Enough of the model hub for one repository and one plain file."""

    content = b""
    requests: list[str]

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def log_message(self, *arguments: Any) -> None:
        pass

    def _answer(self, *, body: bool) -> None:
        self.requests.append(f"{self.command} {self.path}")
        found = self.path.endswith(("/timm/test_vit.r160_in1k/resolve/main/model.safetensors", "/vit-0.pth"))
        self.send_response(200 if found else 404)
        self.send_header("X-Repo-Commit", "0123456789012345678901234567890123456789")
        self.send_header("ETag", '"abc"')
        if not found:
            self.send_header("X-Error-Code", "EntryNotFound")
        self.send_header("Content-Length", str(len(self.content) if found else 0))
        self.end_headers()
        if body and found:
            self.wfile.write(self.content)


def point_hub_to(address: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", address)
    template = f"{address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    for module in (huggingface_hub.constants, huggingface_hub.file_download):  # before 1.0, the latter has a copy
        if hasattr(module, "HUGGINGFACE_CO_URL_TEMPLATE"):
            monkeypatch.setattr(module, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(torch.hub, "_hub_dir", str(cache))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ThreadingHTTPServer]:
    monkeypatch.setattr(Hub, "requests", [], raising=False)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    point_hub_to(f"http://127.0.0.1:{server.server_port}", tmp_path / "cache", monkeypatch)
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def dead_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    point_hub_to("http://127.0.0.1:9", tmp_path / "cache", monkeypatch)


def pretrained(model: nn.Module, name: str) -> LoadedWeights:
    return load_weights(model, WeightsSource.parse("pretrained"), name=name, seed=0)


class TestPretrained:
    @pytest.mark.usefixtures("dead_hub")
    def test_an_unreachable_hub_fails_fast_in_one_line(self) -> None:
        if "retry_on_errors" not in inspect.signature(huggingface_hub.get_hf_file_metadata).parameters:
            pytest.skip("this huggingface_hub retries every request for half a minute")
        before = (dict(os.environ), logging.getLogger("huggingface_hub").level)
        started = time.monotonic()
        with pytest.raises(WeightsError) as caught:
            pretrained(make(), "test_vit")
        assert time.monotonic() - started < 4
        message = str(caught.value)
        assert (
            "pretrained weights of test_vit: cannot download from https://huggingface.co/timm/test_vit.r160" in message
        )
        assert message.endswith("Give a file with --weights PATH, or --weights random for untrained weights")
        assert "\n" not in message
        assert before == (dict(os.environ), logging.getLogger("huggingface_hub").level)

    @pytest.mark.usefixtures("dead_hub")
    def test_an_unreachable_url_fails_fast(self, monkeypatch: pytest.MonkeyPatch) -> None:
        config = timm.get_pretrained_cfg("test_vit")
        config.hf_hub_id, config.url = None, "http://127.0.0.1:9/vit.pth"
        monkeypatch.setattr(timm, "get_pretrained_cfg", lambda name: config)
        with pytest.raises(WeightsError, match=r"cannot download http://127\.0\.0\.1:9/vit\.pth: URLError"):
            locate_pretrained("test_vit")

    def test_downloads_once_then_needs_no_network(
        self, hub: ThreadingHTTPServer, state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        save_file(state, tmp_path / "served.safetensors")
        monkeypatch.setattr(Hub, "content", (tmp_path / "served.safetensors").read_bytes())
        model = make()
        record = pretrained(model, "test_vit")
        assert same(model, state)
        assert (record.kind, record.tag, record.path) == ("pretrained", "r160_in1k", "model.safetensors")
        assert record.url == "https://huggingface.co/timm/test_vit.r160_in1k"
        assert record.sha256 == hashlib.sha256(Hub.content).hexdigest()
        asked = len(Hub.requests)
        assert pretrained(make(), "test_vit.r160_in1k") == record
        assert len(Hub.requests) == asked

    def test_a_repository_without_weights(self, hub: ThreadingHTTPServer) -> None:
        with pytest.raises(WeightsError, match=r"has none of the files model\.safetensors, pytorch_model\.bin"):
            locate_pretrained("hf-hub:someone/empty")

    def test_a_url(
        self, hub: ThreadingHTTPServer, state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        torch.save(state, tmp_path / "served.pth")
        monkeypatch.setattr(Hub, "content", (tmp_path / "served.pth").read_bytes())
        config = timm.get_pretrained_cfg("test_vit")
        config.hf_hub_id, config.url = None, f"http://127.0.0.1:{hub.server_port}/vit-0.pth"
        monkeypatch.setattr(timm, "get_pretrained_cfg", lambda name: config)
        model = make()
        assert pretrained(model, "test_vit").url == config.url
        assert same(model, state)
        asked = len(Hub.requests)
        locate_pretrained("test_vit")
        assert len(Hub.requests) == asked

    def test_an_architecture_without_weights(self) -> None:
        name = next(known for known in timm.list_models("*vit*") if not timm.list_pretrained(known))
        with pytest.raises(WeightsError, match="has none under any tag") as caught:
            locate_pretrained(name)
        assert "--weights random" in str(caught.value)

    def test_a_tag_without_weights_lists_the_others(self) -> None:
        name = next(
            known
            for known in timm.list_models(include_tags=True)
            if known.endswith(".untrained") and timm.list_pretrained(known.partition(".")[0])
        )
        with pytest.raises(WeightsError, match="those with weights are ") as caught:
            locate_pretrained(name)
        assert timm.list_pretrained(name.partition(".")[0])[0] in str(caught.value)

    def test_a_local_folder(self, state: State, tmp_path: Path) -> None:
        torch.save(state, tmp_path / "checkpoint.pth")
        model = make()
        record = pretrained(model, f"local-dir:{tmp_path}")
        assert same(model, state)
        assert (record.kind, record.path, record.url) == ("pretrained", "checkpoint.pth", None)

    def test_a_folder_with_several_or_no_checkpoints(self, tmp_path: Path) -> None:
        with pytest.raises(WeightsError, match="holds no checkpoint"):
            locate_pretrained(f"local-dir:{tmp_path}")
        with pytest.raises(OptionError, match="no such folder"):
            locate_pretrained(f"local-dir:{tmp_path / 'none'}")
        for name in ("a.pth", "b.pth"):
            (tmp_path / name).write_bytes(b"")
        with pytest.raises(WeightsError, match=r"several checkpoints \(a\.pth, b\.pth\)"):
            locate_pretrained(f"local-dir:{tmp_path}")
