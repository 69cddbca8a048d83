"""Build nodes whose names tell their stage."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir.tape import Tape

__all__ = ["Stage", "TapeOperators"]


class TapeOperators:
    """Node factory that adds to a tape, called as that of the rewriter: `op.Add(x, y, _outputs=["sum"])`."""

    def __init__(self, tape: Tape) -> None:
        self._tape = tape

    def __getattr__(self, op_type: str) -> Callable[..., Sequence[ir.Value]]:
        """Return a function that adds a node of type `op_type` and returns its outputs."""

        def add(*inputs: ir.Value | None, _outputs: Sequence[str], **attributes: Any) -> Sequence[ir.Value]:
            outputs = [ir.Value(name=name) for name in _outputs]
            return self._tape.op_multi_out(op_type, inputs, attributes, outputs=outputs)

        return add


class Stage:
    """Builder of nodes under a common name prefix, for example `blocks.3/fuse`.

    Args:
        op: the rewriter's node factory, or `TapeOperators`.
        prefix: the stage; node and value names are `prefix/name`.
    """

    def __init__(self, op: Any, prefix: str) -> None:
        self._op = op
        self.prefix = prefix

    def add(self, op_type: str, name: str, *inputs: ir.Value | None, **attributes: Any) -> ir.Value:
        """Add a node with one output, and return that output."""
        (value,) = self.add_many(op_type, (name,), *inputs, **attributes)
        return value

    def add_many(
        self, op_type: str, names: tuple[str, ...], *inputs: ir.Value | None, **attributes: Any
    ) -> tuple[ir.Value, ...]:
        """Add a node with several outputs, and return them."""
        full = [f"{self.prefix}/{name}" for name in names]
        out = getattr(self._op, op_type)(*inputs, _outputs=full, **attributes)
        values: tuple[ir.Value, ...] = (out,) if isinstance(out, ir.Value) else tuple(out)
        producer = values[0].producer()
        assert producer is not None  # just made
        producer.name = full[0]
        return values

    def constant(self, name: str, value: np.ndarray) -> ir.Value:
        """Add a constant."""
        return self.add("Constant", name, value=ir.tensor(value))

    def ints(self, name: str, *values: int) -> ir.Value:
        """Add a 1-D int64 constant."""
        return self.constant(name, np.array(values, dtype=np.int64))

    def floats(self, name: str, value: float, dtype: ir.DataType = ir.DataType.FLOAT) -> ir.Value:
        """Add a scalar constant of a floating-point type."""
        return self.constant(name, np.array(value, dtype=dtype.numpy()))

    def cast(self, name: str, value: ir.Value, source: ir.DataType, target: ir.DataType) -> ir.Value:
        """Cast a value, or return it unchanged if source and target are the same type."""
        return value if source == target else self.add("Cast", name, value, to=int(target))

    def slice(self, name: str, value: ir.Value, start: int, *, stop: int = 2**62, step: int = 1) -> ir.Value:
        """Slice along the token axis, 1."""
        bounds = (
            self.ints(f"{name}/start", start),
            self.ints(f"{name}/stop", stop),
            self.ints(f"{name}/axis", 1),
            self.ints(f"{name}/step", step),
        )
        return self.add("Slice", name, value, *bounds)
