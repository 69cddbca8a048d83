"""Token Fusion for vision transformers: plan, patch, export to ONNX, verify, build engines, profile.

```python
import timm
import tofu_export as tofu

model = timm.create_model("vit_base_patch16_224", pretrained=True)
tofu.apply(model, tofu.Reduction(r=16))  # half of the work, in eager PyTorch
report = tofu.export(model, "out", precisions="fp16")  # the same in a verified file
```
"""

from __future__ import annotations

TYPE_CHECKING = False  # not from `typing`: the command line starts here, before signals are handled
if TYPE_CHECKING:
    from typing import Any

    from tofu_export.api import (
        apply,
        bench,
        build_engine,
        export,
        export_unet,
        lint,
        lower,
        plan,
        remove,
        verify,
    )
    from tofu_export.errors import TofuError
    from tofu_export.options import BatchRange, Mode, Precision, Reduction, Target

__all__ = [
    "BatchRange",
    "Mode",
    "Precision",
    "Reduction",
    "Target",
    "TofuError",
    "apply",
    "bench",
    "build_engine",
    "errors",
    "export",
    "export_unet",
    "lint",
    "lower",
    "plan",
    "remove",
    "verify",
]

_MODULES = {
    "TofuError": "errors",
    **dict.fromkeys(("BatchRange", "Mode", "Precision", "Reduction", "Target"), "options"),
    **dict.fromkeys(
        ("apply", "bench", "build_engine", "export", "export_unet", "lint", "lower", "plan", "remove", "verify"), "api"
    ),
}
"""Map each public name to its module, which is imported on first use."""


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name == "errors":
        return import_module("tofu_export.errors")
    if name not in _MODULES:
        raise AttributeError(f"module 'tofu_export' has no attribute {name!r}")
    return getattr(import_module(f"tofu_export.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
