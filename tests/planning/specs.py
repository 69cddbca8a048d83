"""Made-up models to plan for."""

from __future__ import annotations

from tofu_export.planning.plan import BlockCost, ModelSpec


def spec(tokens: int = 17, prefix: int = 1, depth: int = 3) -> ModelSpec:
    """A model whose costs are powers of ten, so that a sum shows what went into it."""
    return ModelSpec(
        name="toy",
        image_size=(32, 32),
        in_chans=3,
        num_classes=5,
        tokens=tokens,
        prefix_tokens=prefix,
        embed_dim=24,
        params=1,
        stem_macs=10**9,
        blocks=(BlockCost(10**3, 10**6, 1),) * depth,
        tail_token=10**12,
        tail_fixed=10**15,
    )
