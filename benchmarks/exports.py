"""The files that are timed against each other: what a user could export without this project, and what it writes."""

from __future__ import annotations

import warnings
from pathlib import Path
from unittest import mock

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from tofu_export import patch
from tofu_export.graph_patterns.lowering import MACS, lower
from tofu_export.options import Mode, Precision, Reduction, Selection, Target
from tofu_export.patch.matching import Matching, Scores, similarity
from tofu_export.patch.selections import SELECTORS, Selector
from tofu_export.planning.plan import ModelSpec, make_plan
from tofu_export.trace.export import INPUT_NAME, OUTPUT_NAME, InputShape, release, save, trace

__all__ = ["export_ordinary", "export_ordinary_tome", "export_ours"]


def export_ordinary(model: nn.Module, spec: ModelSpec, path: Path) -> None:
    """`torch.onnx.export` as its documentation has it, with a dynamic batch and all else left to its defaults."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            model,
            (torch.zeros(2, spec.in_chans, *spec.image_size),),
            dynamo=True,
            input_names=[INPUT_NAME],
            output_names=[OUTPUT_NAME],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            verbose=False,
        )
    assert program is not None
    program.save(path)


def export_ordinary_tome(model: nn.Module, spec: ModelSpec, name: str, r: int, path: Path) -> None:
    """ToMe's reduction traced the ordinary way: every operation of the eager model as the exporter translates it.

    Two things must be helped, or the exporter fails (torch 2.14): a stable sort has no translation, so that the sort is
    the usual one, and attention with a computed mask needs the plain formula.
    """
    patch.apply(model, make_plan(spec, Reduction(r=r, mode=Mode.TOME)), name=name)
    try:
        with (
            mock.patch("torch.onnx.is_in_onnx_export", return_value=False),
            mock.patch.dict(SELECTORS, {Selection.BIPARTITE: Selector(similarity, _match_by_plain_sort)}),
            sdpa_kernel(SDPBackend.MATH),
        ):
            export_ordinary(model, spec, path)
    finally:
        patch.remove(model)


def export_ours(
    model: nn.Module,
    spec: ModelSpec,
    name: str,
    reduction: Reduction,
    target: Target,
    path: Path,
    precision: Precision = Precision.FP32,
) -> float:
    """A file of this project; returns what it computes for one image, in 10^9 multiply-accumulates."""
    patch.apply(model, make_plan(spec, reduction), name=name)
    try:
        traced = trace(model, InputShape(spec.in_chans, *spec.image_size), precision=precision)
        graph = lower(traced, target, precision)
        macs: int = graph.meta[MACS]
        save(graph, path, {})
        release(graph)
    finally:
        patch.remove(model)
    return macs / 1e9


def _match_by_plain_sort(scores: Scores, removed: int) -> Matching:
    assert scores.pairs is not None  # similarity
    best, nearest = scores.pairs.max(dim=-1)
    order = best.argsort(dim=-1, descending=True)
    matched = order[:, :removed]
    return Matching(order[:, removed:].sort(dim=-1).values, matched, nearest.gather(1, matched))
