"""Switch the class of a module to a subclass with a mixin in front, and back."""

from __future__ import annotations

from torch import nn

__all__ = ["add_mixin", "drop_mixin"]

_SUBCLASSES: dict[tuple[type, type], type[nn.Module]] = {}


def add_mixin(module: nn.Module, mixin: type) -> None:
    """Switch the class of a module to its subclass with `mixin` in front; the subclass is made once."""
    upstream = type(module)
    if (mixin, upstream) not in _SUBCLASSES:
        name = f"Fused{upstream.__name__}"
        _SUBCLASSES[mixin, upstream] = type(name, (mixin, upstream), {"__module__": upstream.__module__})
    module.__class__ = _SUBCLASSES[mixin, upstream]


def drop_mixin(module: nn.Module, mixin: type | tuple[type, ...]) -> None:
    """Switch the class of a module back if it has such a mixin in front."""
    if isinstance(module, mixin):
        module.__class__ = type(module).__bases__[1]
