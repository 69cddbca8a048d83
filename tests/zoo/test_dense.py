"""Quantised tensors of checkpoints: their own scales, or a refusal."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tofu_export.errors import WeightsError
from tofu_export.zoo._dense import dense

WEIGHT = torch.tensor([[0.5, -1.0, 0.25], [2.0, 0.0, -4.0]])


def quantised(scale: Tensor, zero: int = 0) -> Tensor:
    return (WEIGHT / scale + zero).round().to(torch.int8)


@pytest.mark.parametrize("name", ["fc.weight_scale", "fc.scale", "fc.weight.scale"])
def test_a_scale_for_each_row(name: str) -> None:
    scale = torch.tensor([[0.25], [0.5]])
    found = dense({"fc.weight": quantised(scale), name: scale}, file="a.pth")
    assert list(found) == ["fc.weight"]
    assert torch.equal(found["fc.weight"], WEIGHT)


def test_a_zero_point() -> None:
    scale = torch.tensor(0.25)
    tensors = {"fc.weight": quantised(scale, 3), "fc.weight_scale": scale, "fc.weight_zero_point": torch.tensor(3)}
    assert torch.equal(dense(tensors, file="a.pth")["fc.weight"], WEIGHT)


def test_an_integer_weight_without_a_scale_is_refused() -> None:
    with pytest.raises(WeightsError, match=r"fc\.weight in a\.pth is torch\.int8 without a scale"):
        dense({"fc.weight": quantised(torch.tensor(0.25))}, file="a.pth")


def test_a_scale_of_another_shape_is_refused() -> None:
    with pytest.raises(WeightsError, match=r"shape \[3\], expected one number, or one a row"):
        dense({"fc.weight": quantised(torch.tensor(0.25)), "fc.weight_scale": torch.ones(3)}, file="a.pth")


def test_a_scale_for_each_column_of_a_square_is_no_scale_of_rows() -> None:
    square = torch.ones(2, 2, dtype=torch.int8)
    with pytest.raises(WeightsError, match=r"shape \[1, 2\], expected one number, or one a row"):
        dense({"fc.weight": square, "fc.weight_scale": torch.tensor([[0.5, 0.25]])}, file="a.pth")


def test_whole_numbers_that_are_no_weights_stay() -> None:
    index = torch.arange(4).reshape(2, 2)
    tensors = {"attn.relative_position_index": index, "embeddings.position_ids": index, "n_averaged": torch.tensor(3)}
    found = dense(tensors, file="a.pth")
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())


@pytest.mark.filterwarnings("ignore")
def test_tensors_that_torch_quantised_or_made_sparse() -> None:
    tensors = {
        "a": torch.quantize_per_tensor(WEIGHT, 0.25, 0, torch.qint8),
        "b": WEIGHT.to_sparse(),
        "c": WEIGHT.half(),
    }
    assert all(torch.equal(tensor, WEIGHT) for tensor in dense(tensors, file="a.pth").values())


class InParts(Tensor):
    """Stands for a tensor of torch.distributed, which other tensors hold the values of."""

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return [], None

    @staticmethod
    def __tensor_unflatten__(*parts: object) -> None:
        pass

    @classmethod
    def __torch_dispatch__(cls, *arguments: object, **options: object) -> None:
        pass


def test_a_tensor_in_parts_is_refused() -> None:
    tensor = torch.Tensor._make_wrapper_subclass(InParts, (2, 3))
    with pytest.raises(WeightsError, match=r"a in a\.pth is a InParts, .* call full_tensor\(\)"):
        dense({"a": tensor}, file="a.pth")


def test_tensors_without_values_or_with_complex_ones_are_refused() -> None:
    with pytest.raises(WeightsError, match="meta device"):
        dense({"a": WEIGHT.to("meta")}, file="a.pth")
    with pytest.raises(WeightsError, match="expected real numbers"):
        dense({"a": WEIGHT.to(torch.complex64)}, file="a.pth")
