"""Expand sparse initializers, in foreign graphs, as TensorRT does not support them."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

__all__ = ["write_out_sparse"]


def write_out_sparse(model: onnx.ModelProto) -> tuple[str, ...]:
    """Replace each sparse initializer of the main graph by a dense one, and return their names."""
    names = []
    for sparse in model.graph.sparse_initializer:
        values, places = numpy_helper.to_array(sparse.values), numpy_helper.to_array(sparse.indices)
        dense = np.zeros(tuple(sparse.dims), dtype=values.dtype)
        flat = places if places.ndim == 1 else np.ravel_multi_index(tuple(places.T), dense.shape)
        dense.reshape(-1)[flat] = values
        names.append(sparse.values.name)
        model.graph.initializer.append(numpy_helper.from_array(dense, sparse.values.name))
    del model.graph.sparse_initializer[:]
    return tuple(names)
