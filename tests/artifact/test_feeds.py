"""Random inputs of the types and shapes that a file asks for."""

from __future__ import annotations

import numpy as np
import pytest

from tofu_export.artifact.feeds import fixed_batch, make_feeds
from tofu_export.errors import OptionError
from tofu_export.system.ort import TensorSpec


def spec(dtype: str, *shape: int | None) -> TensorSpec:
    return TensorSpec(np.dtype(dtype), shape)


class TestFixedBatch:
    def test_is_the_first_size(self) -> None:
        assert fixed_batch({"x": spec("float32", 8, 3)}) == 8
        assert fixed_batch({"x": spec("float32", None, 3)}) is None

    def test_is_open_if_any_input_leaves_it_open(self) -> None:
        assert fixed_batch({"table": spec("float32", 197, 2), "x": spec("float32", None, 3)}) is None

    def test_scalars_have_none(self) -> None:
        assert fixed_batch({"t": spec("int64"), "x": spec("float32", 4, 3)}) == 4
        assert fixed_batch({"t": spec("int64")}) is None


class TestFeeds:
    def test_batch_is_the_first_size_where_it_is_open(self) -> None:
        inputs = {"table": spec("float32", 5, 2), "x": spec("float32", None, 3), "t": spec("float32")}
        feeds = make_feeds("m", inputs, 7)
        assert {name: value.shape for name, value in feeds.items()} == {"x": (7, 3), "table": (5, 2), "t": ()}

    @pytest.mark.parametrize(
        "dtype", ["float16", "float32", "float64", "int8", "uint8", "int16", "int32", "int64", "uint64", "bool"]
    )
    def test_has_the_type_that_is_asked_for(self, dtype: str) -> None:
        value = make_feeds("m", {"x": spec(dtype, None, 64)}, 2)["x"]
        assert value.dtype == np.dtype(dtype)
        assert np.isfinite(value).all()
        if value.dtype.itemsize == 1 or value.dtype.kind == "f":
            assert dtype == "bool" or len(np.unique(value)) > 10
        if dtype in ("int16", "int32", "int64", "uint64", "bool"):
            assert (value == 1).all()
        if dtype in ("uint8", "int8"):
            assert value.min() >= 0

    def test_pixels_reach_255(self) -> None:
        assert make_feeds("m", {"x": spec("uint8", None, 9999)}, 1)["x"].max() == 255

    def test_the_seed_decides_and_names_do_not(self) -> None:
        first = make_feeds("m", {"x": spec("float32", None, 3)}, 2)["x"]
        again = make_feeds("other", {"pixels": spec("float32", None, 3)}, 2)["pixels"]
        other = make_feeds("m", {"x": spec("float32", None, 3)}, 2, seed=1)["x"]
        np.testing.assert_array_equal(first, again)
        assert not np.array_equal(first, other)

    def test_open_sizes_come_from_shapes(self) -> None:
        feeds = make_feeds("m", {"x": spec("float32", None, 3, None, None)}, 8, shapes={"x": (1, 3, 32, 48)})
        assert feeds["x"].shape == (8, 3, 32, 48)

    def test_a_shape_that_the_file_does_not_state(self) -> None:
        assert make_feeds("m", {"x": spec("float32")}, 8, shapes={"x": (2, 5)})["x"].shape == (2, 5)

    def test_another_fixed_batch_is_refused(self) -> None:
        with pytest.raises(OptionError, match=r"a\.onnx is fixed to batch 1, 8 was asked for: give --batch 1"):
            make_feeds("a.onnx", {"x": spec("float32", 1, 3)}, 8)
        assert make_feeds("a.onnx", {"x": spec("float32", 1, 3)}, 1)["x"].shape == (1, 3)

    def test_open_sizes_are_refused_with_what_to_say(self) -> None:
        with pytest.raises(OptionError, match="for example --shape x:4x3x1x1"):
            make_feeds("m", {"x": spec("float32", None, 3, None, None)}, 4)

    @pytest.mark.parametrize("shape", [(1, 3), (1, 4, 32), (1, 3, 32, 1)])
    def test_a_shape_that_contradicts_the_file(self, shape: tuple[int, ...]) -> None:
        with pytest.raises(OptionError, match=r"--shape gives x .*, but m asks for float32\[\?, 3, \?\]"):
            make_feeds("m", {"x": spec("float32", None, 3, None)}, 1, shapes={"x": shape})

    def test_a_shape_of_another_batch_than_the_file_is_fixed_to(self) -> None:
        with pytest.raises(OptionError, match="--shape gives x 2x3"):
            make_feeds("m", {"x": spec("float32", 1, 3)}, 1, shapes={"x": (2, 3)})
