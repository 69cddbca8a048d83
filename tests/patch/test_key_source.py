"""Keys before or after the rotary embedding: what tokens are compared by."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
import torch
from numpy.testing import assert_allclose
from torch import Tensor, nn

from tests import families, tiny
from tofu_export import patch
from tofu_export.errors import OptionError
from tofu_export.graph_patterns.lowering import lower
from tofu_export.options import KeySource, Precision, Reduction, Target
from tofu_export.patch import matching
from tofu_export.patch.matching import Matching
from tofu_export.planning.plan import make_plan
from tofu_export.system.ort import open_session
from tofu_export.trace.export import INPUT_NAME, OUTPUT_NAME, InputShape, trace

ROPES = ["eva-rope-cat", "eva-rope-mixed", "dinov3", "sapiens", "pe", "naflex-rope"]
PRE = Reduction(r=3, keys=KeySource.PRE_ROPE)


class Scores:
    """Keeps the similarities of the first layer."""

    def __init__(self) -> None:
        self.first: Tensor | None = None

    def decide(self, layer: int, scores: matching.Scores, proposed: Matching) -> Matching:
        if layer == 0:
            self.first = scores.pairs
        return proposed


def scores_of(model: nn.Module, x: Tensor) -> np.ndarray:
    seen = Scores()
    with torch.no_grad(), patch.observe(seen):
        model(x)
    assert seen.first is not None
    return seen.first.double().numpy()


def cosines(keys: Tensor, prefix: int) -> np.ndarray:
    """Cosine similarity of even with odd tokens, by loops over pairs."""
    rows = keys.double().numpy()
    even = [place for place in range(prefix, rows.shape[1]) if place % 2 == 0]
    odd = [place for place in range(prefix, rows.shape[1]) if place % 2 == 1]
    out = np.empty((len(rows), len(even), len(odd)))
    for image, tokens in enumerate(rows):
        for i, one in enumerate(even):
            for j, other in enumerate(odd):
                a, b = tokens[one], tokens[other]
                out[image, i, j] = a @ b / (np.linalg.norm(a) * np.linalg.norm(b))
    return out


@pytest.mark.parametrize("name", ROPES)
def test_keys_before_the_embedding_are_the_projected_and_normed_ones(name: str) -> None:
    x = torch.from_numpy(tiny.pixels(2))
    plain = families.build(name)
    inputs: list[Tensor] = []
    attention = plain.blocks[0].attn
    attention.register_forward_pre_hook(lambda _module, args: inputs.append(args[0]))
    with torch.no_grad():
        plain(x)
        rows = inputs[0]
        if attention.qkv is not None:
            bias = getattr(attention, "q_bias", None)
            joint = attention.qkv(rows)
            if bias is not None:
                joint = joint + torch.cat((attention.q_bias, attention.k_bias, attention.v_bias))
            keys = joint.chunk(3, dim=-1)[1]
        else:
            keys = attention.k_proj(rows)
        heads = keys.unflatten(-1, (getattr(attention, "num_kv_heads", attention.num_heads), -1))
        metric = attention.k_norm(heads.transpose(1, 2)).mean(dim=1)
    spec = families.spec(name)
    model = patch.apply(families.build(name), make_plan(spec, PRE))
    assert_allclose(scores_of(model, x), cosines(metric, spec.prefix_tokens), rtol=0, atol=1e-5)
    post = patch.apply(families.build(name), make_plan(spec, Reduction(r=3)))
    assert np.abs(scores_of(post, x) - cosines(metric, spec.prefix_tokens)).max() > 1e-3


@pytest.mark.e2e
@pytest.mark.parametrize("name", ["dinov3", "eva-rope-mixed"])
def test_the_file_computes_what_the_model_computes(name: str) -> None:
    model = patch.apply(families.build(name), make_plan(families.spec(name), PRE))
    graph = lower(trace(model, InputShape(3, tiny.SIDE, tiny.SIDE)), Target.PORTABLE, Precision.FP32)
    session = open_session(ir.to_proto(graph).SerializeToString())
    for batch in (1, 2, 7):
        x = tiny.pixels(batch)
        with torch.no_grad():
            expected = model(torch.from_numpy(x)).numpy()
        assert_allclose(session.run({INPUT_NAME: x})[OUTPUT_NAME], expected, rtol=0, atol=5e-5)


def test_hooks_do_not_stay() -> None:
    model = patch.apply(families.build("dinov3"), make_plan(families.spec("dinov3"), PRE))
    with torch.no_grad():
        model(torch.from_numpy(tiny.pixels(1)))
    assert not any(module._forward_hooks for module in model.modules())


def test_without_a_rotary_embedding_there_is_no_choice() -> None:
    plan = make_plan(tiny.spec("cls"), PRE)
    with pytest.raises(OptionError, match=r"no rotary embedding.*--keys"):
        patch.apply(tiny.build("cls"), plan)
    assert plan.to_dict()["keys"] == "pre-rope"
