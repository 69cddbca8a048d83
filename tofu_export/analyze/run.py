"""Measure a model on real images: linearity of its halves on matched pairs, and token length."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tofu_export import demo, patch
from tofu_export.analyze.linearity import functional_linearity, interpolate
from tofu_export.analyze.norms import block_norms, merged_norms
from tofu_export.analyze.pairs import LayerView, views
from tofu_export.analyze.request import AnalyzeRequest
from tofu_export.errors import OptionError
from tofu_export.evaluate.images import ImageSource, demo_source, folder_source
from tofu_export.options import Method, Reduction
from tofu_export.patch.describe import describe
from tofu_export.patch.support import block_prefix
from tofu_export.planning.plan import ModelSpec, make_plan
from tofu_export.report.linearity import AnalysisDocument, LayerLinearity, Summary, TokenNorms
from tofu_export.system import environment
from tofu_export.zoo.create import LoadedModel, create_meta, create_model
from tofu_export.zoo.names import DEMO_MODEL
from tofu_export.zoo.specs import spec_as_loaded

__all__ = ["FUNCTIONS", "SCHEMA_VERSION", "analyze", "linearity_of", "real_images"]

SCHEMA_VERSION = 1

FUNCTIONS: Mapping[str, str] = {
    "mlp": "the MLP branch, without its residual: norm, MLP, layer scale",
    "mlp_residual": "the MLP half with its residual",
    "attention": "the attention branch, without its residual: all matched sources move together, read at each of them",
    "attention_residual": "the attention half with its residual, likewise",
}
"""Functions whose linearity is measured, with their descriptions."""

_METHODS = (Method.PRUNE, Method.AVERAGE, Method.MLERP)
_PAIRS_AT_ONCE = 512
_MERGED = "merged_norm."


def analyze(request: AnalyzeRequest, on_progress: Callable[[str], None] = lambda text: None) -> AnalysisDocument:
    """Run the analysis on features of the full model; only the length of all tokens needs reduced models.

    Args:
        request: the measurements to make.
        on_progress: called with the current step.

    Raises:
        OptionError: no images are given, or one cannot be read.
        TofuError: the model cannot be loaded or reduced.
    """
    size = request.image_size
    spec = describe(create_meta(request.model, size), request.model, size)  # before the weights
    loaded = create_model(request.model, weights=request.weights, seed=request.seed, image_size=size)
    spec = spec_as_loaded(spec, loaded)
    source = real_images(loaded, request.images).limited(request.limit)
    rows: dict[int, dict[str, list[NDArray[np.float64]]]] = defaultdict(lambda: defaultdict(list))
    done = 0
    for batch in source.batches(request.batch):
        done += len(batch.pixels)
        for view in views(loaded.model, torch.from_numpy(batch.pixels), request.r, loaded.resolved):
            on_progress(f"linearity of layer {view.layer}, {done} of {len(source)} images")
            for key, values in _measured(view, request.steps).items():
                rows[view.layer][key].append(values.double().numpy())
    layers = tuple(_layer_entry(layer, rows[layer]) for layer in sorted(rows))
    norms = _token_norms(loaded, spec, source, request, on_progress)
    return AnalysisDocument(
        schema_version=SCHEMA_VERSION,
        model=loaded.resolved,
        loaded=loaded.summary(),
        images=len(source),
        source=source.source,
        r=request.r,
        steps=request.steps,
        functions=FUNCTIONS,
        layers=layers,
        token_norms=norms,
        environment=environment.collect(),
    )


def real_images(loaded: LoadedModel, images: Path | None) -> ImageSource:
    """Return the images of a folder, without classes, or the demo model's own.

    Raises:
        OptionError: there are none; generated images would be meaningless here.
    """
    prepared = loaded.preprocessing
    if images is not None:
        return folder_source(images, prepared, num_classes=None)
    if loaded.resolved == DEMO_MODEL and prepared.input_size == demo.PREPROCESSING.input_size:
        return demo_source()
    raise OptionError(f"{loaded.resolved} needs real images: give a folder with --images DIR")


@torch.no_grad()
def linearity_of(view: LayerView, steps: int) -> dict[str, Tensor]:
    """Return the linearity [B * R] of each of `FUNCTIONS` that the block has, on the pairs of `view`."""
    found: dict[str, Tensor] = {}
    if view.halves.feed is not None:
        first, second = view.pairs_of(view.attended)
        whole, branch = [], []
        for start in range(0, len(first), _PAIRS_AT_ONCE):
            rows = slice(start, start + _PAIRS_AT_ONCE)
            points = interpolate(first[rows], second[rows], steps)
            fed = view.halves.feed(points)
            whole.append(functional_linearity(fed))
            branch.append(functional_linearity(fed - points))
        found |= {"mlp": torch.cat(branch), "mlp_residual": torch.cat(whole)}
    first, second = view.pairs_of(view.tokens)
    points = interpolate(first, second, steps)
    index = view.source_rows.unsqueeze(-1).expand(-1, -1, view.tokens.shape[-1])
    attended = []
    for step in range(steps + 1):
        moved = view.tokens.scatter(1, index, points[:, step].reshape(index.shape))
        attended.append(view.halves.attend(moved).gather(1, index).flatten(0, 1))
    path = torch.stack(attended, dim=1)
    return found | {
        "attention": functional_linearity(path - points),
        "attention_residual": functional_linearity(path),
    }


def _measured(view: LayerView, steps: int) -> dict[str, Tensor]:
    merged = {
        f"{_MERGED}{method.word}": merged_norms(view, method) for method in _METHODS if method.merges
    }  # fmt: skip
    return {"similarity": view.similarity.flatten(), **linearity_of(view, steps), **merged}


def _layer_entry(layer: int, rows: Mapping[str, list[NDArray[np.float64]]]) -> LayerLinearity:
    found = {key: _summary(np.concatenate(parts)) for key, parts in rows.items()}
    merged = {name: found.pop(key) for key in list(found) if (name := key.removeprefix(_MERGED)) != key}
    return LayerLinearity(layer, **found, merged_norm=merged)


def _token_norms(
    loaded: LoadedModel,
    spec: ModelSpec,
    source: ImageSource,
    request: AnalyzeRequest,
    on_progress: Callable[[str], None],
) -> TokenNorms:
    """Return the length of tokens after each block: full, and pruned, averaged or merged by MLERP in every block."""
    full = _norms(loaded.model, source, request.batch)
    means = [float(rows.mean()) for rows in full]
    ratios: dict[str, tuple[float | None, ...]] = {}
    for method in _METHODS:
        on_progress(f"length of tokens, {method.word} in every layer")
        plan = make_plan(spec, Reduction(r=request.r, pattern=method.value * spec.depth))
        try:
            reduced = _norms(patch.apply(loaded.model, plan, name=spec.name), source, request.batch)
        finally:
            patch.remove(loaded.model)
        ratios[method.word] = tuple(
            float(rows.mean()) / mean if mean else None for rows, mean in zip(reduced, means, strict=True)
        )
    return TokenNorms(tuple(map(_summary, full)), **ratios)


def _norms(model: nn.Module, source: ImageSource, batch: int) -> list[NDArray[np.float64]]:
    by_batch = [
        block_norms(model, torch.from_numpy(part.pixels), block_prefix(model)) for part in source.batches(batch)
    ]
    return [torch.cat([rows.flatten() for rows in layer]).double().numpy() for layer in zip(*by_batch, strict=True)]


def _summary(values: NDArray[np.float64]) -> Summary:
    """Return number, mean and spread; pairs of equal outputs (NaN) are counted separately."""
    known = values[np.isfinite(values)]
    undefined = len(values) - len(known)
    if not len(known):
        return Summary(0, undefined, None, None, None, None, None)
    q1, median, q3 = (float(value) for value in np.quantile(known, (0.25, 0.5, 0.75)))
    return Summary(len(known), undefined, float(known.mean()), float(known.std()), q1, median, q3)
