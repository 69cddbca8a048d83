"""Good files, which trials then damage: made once into a folder, by the program itself where it writes such files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from tests.cli.running import run
from tests.engines import models
from tests.graph_patterns.foreign_graphs import scatter, scatter_nd, written
from tofu_export.engines.flavours import RTX, available

__all__ = ["MODEL", "Seeds", "make_seeds"]

MODEL = "test_vit"
_DATA = Path(__file__).parents[2] / "tests" / "benchmarking" / "data"
_QUICK = ("--weights", "random", "--batch", "1:1:2", "--precision", "fp32", "--no-bench", "--no-engine", "-q")


class Seeds:
    """The folder of good files, each read once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._contents: dict[str, bytes] = {}

    def path(self, name: str) -> Path:
        """Where the file is."""
        return self.folder / name

    def content(self, name: str) -> bytes:
        """What the file holds."""
        if name not in self._contents:
            self._contents[name] = self.path(name).read_bytes()
        return self._contents[name]

    def document(self, name: str) -> Any:
        """The JSON document in a file."""
        return json.loads(self.content(name))

    def has(self, name: str) -> bool:
        """True if the file could be made here."""
        return self.path(name).is_file()


def make_seeds(folder: Path, *, engine: bool = True) -> Seeds:
    """Write one good file of each kind that the program reads. An engine is there only with TensorRT-RTX."""
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(models.block(), folder / "block.onnx")
    onnx.save(scatter("add"), folder / "scatter.onnx")
    onnx.save(scatter_nd("add", ["batch", 3, 4], ["batch", 5], 2), folder / "rows.onnx")
    onnx.save(written(["k"]), folder / "mask.onnx")
    onnx.save(_external(), folder / "external.onnx")
    (folder / "weights.bin").write_bytes(np.arange(64, dtype=np.float32).tobytes())
    assert run(MODEL, "--r", "8", *_QUICK, "-o", str(folder / "export")) == 0
    shutil.copyfile(folder / "export" / "model.onnx", folder / "ours.onnx")
    _write_weights(folder)
    _write_images(folder)
    shutil.copyfile(_DATA / "trtexec.log", folder / "trtexec.log")
    shutil.copyfile(_DATA / "trtexec_times.json", folder / "times.json")
    (folder / "labels.txt").write_text("".join(f"class {index}\n" for index in range(1000)), encoding="utf-8")
    (folder / "config.json").write_text(
        json.dumps({"architecture": MODEL, "num_classes": 10, "pretrained_cfg": {"num_classes": 10}}), encoding="utf-8"
    )
    if engine and RTX in available():
        path = folder / "x.engine"
        assert run("build", str(folder / "block.onnx"), "-o", str(path), "--compute-capability", "SM89", "-q") == 0
    return Seeds(folder)


def _external() -> onnx.ModelProto:
    """Y = x w, whose weights [8, 8] lie in `weights.bin`."""
    proto = models.model(
        [helper.make_node("MatMul", ["x", "w"], ["y"], name="product")],
        [models.value("x", ["batch", 8])],
        [models.value("y", ["batch", 8])],
        [numpy_helper.from_array(np.zeros((8, 8), dtype=np.float32), "w")],
    )
    (tensor,) = proto.graph.initializer
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": "weights.bin", "offset": "0", "length": "256"}.items():
        tensor.external_data.add(key=key, value=value)
    return proto


def _write_weights(folder: Path) -> None:
    import timm
    import torch
    from safetensors.torch import save_file

    from tests.zoo.jax_arrays import jax_arrays

    torch.manual_seed(0)
    state = timm.create_model(MODEL, pretrained=False).state_dict()
    save_file(state, folder / "weights.safetensors")
    torch.save(state, folder / "weights.pth")
    torch.save({"state_dict": state, "epoch": 3}, folder / "old.pth", _use_new_zipfile_serialization=False)
    np.savez(folder / "weights.npz", **jax_arrays(state))  # type: ignore[arg-type]  # numpy: no array is `allow_pickle`


def _write_images(folder: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (24, 31, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    for suffix in ("png", "jpg", "bmp", "gif", "tiff", "webp", "ppm"):
        image.save(folder / f"image.{suffix}")
    Image.fromarray(pixels[..., 0].astype(np.uint16) * 200).save(folder / "deep.png")
