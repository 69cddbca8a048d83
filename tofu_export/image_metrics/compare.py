"""Compare two images, or two folders of images, by every available metric."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import chain

from torch import Tensor

from tofu_export.errors import BackendMissingError, OptionError, TofuError, WeightsError
from tofu_export.image_metrics import paired, sets
from tofu_export.image_metrics.files import ImageSets, Pair, batches_of, find_images, read_rgb
from tofu_export.image_metrics.request import FID, KID, LPIPS, MS_SSIM, PSNR, SSIM, CompareRequest
from tofu_export.image_metrics.result import Comparison, Fid, LeftOut, NetworkWeights, OfPairs, PairRow
from tofu_export.image_metrics.weights import described, inception_weights, lpips_weights
from tofu_export.images.inputs import image_size

__all__ = ["compare_images"]

_PAIRED = (PSNR, SSIM, MS_SSIM, LPIPS)
_OF_SETS = (FID, KID)

_BATCH = 16
_FEW = 2048
"""Number of Inception's features: with fewer images their covariance is singular, and FID far above its limit."""

Progress = Callable[[str, int, int], None]
"""Callback that receives the current activity, the number done, and the total."""


def compare_images(request: CompareRequest, on_progress: Progress = lambda *_: None) -> Comparison:
    """Compare images.

    Raises:
        OptionError: an image cannot be read, sizes or names do not match, or a metric asked for is not possible.
        WeightsError: a metric asked for by name lacks the weights of its network.
        BackendMissingError: the packages of the extra `metrics` are not installed.
    """
    pairs_wanted = any(map(request.wants, _PAIRED))
    found = find_images(request.a, request.b, paired=None if request.metrics is None else pairs_wanted)
    result = Comparison(len(found.a), len(found.b), len(found.pairs))
    if pairs_wanted:
        _compare_pairs(request, found.pairs, result, on_progress)
    if any(map(request.wants, _OF_SETS)):
        _compare_sets(request, found, result, on_progress)
    if not result.metrics:
        raise OptionError(f"nothing can be compared: {'; '.join(sorted({left.reason for left in result.skipped}))}")
    return result


def _compare_pairs(request: CompareRequest, pairs: tuple[Pair, ...], result: Comparison, on_progress: Progress) -> None:
    if not pairs:
        for name in (PSNR, MS_SSIM, LPIPS):
            _leave_out(request, result, name, OptionError("no image has the same name on both sides"))
        return
    chosen, lpips = _pair_metrics(request, _smallest_side(pairs), result)
    values: dict[str, list[float | None]] = {name: [] for name in chosen}
    for index, pair in enumerate(pairs):
        on_progress("comparing pairs", index, len(pairs))
        a, b = read_rgb(pair.a), read_rgb(pair.b)
        found = {name: _finite(metric(a, b)) for name, metric in chosen.items()}
        result.rows.append(PairRow(pair.name, found))
        for name, value in found.items():
            values[name].append(value)
    for name, of_pairs in values.items():
        finite = [value for value in of_pairs if value is not None]
        worst = (max if name == LPIPS else min)(finite, default=None)
        overall = OfPairs(math.fsum(finite) / len(finite) if finite else None, worst, len(of_pairs))
        if name == LPIPS:
            overall = replace(overall, network=request.network, weights=lpips)
        elif name == PSNR:
            overall = replace(overall, unit="dB", identical=len(of_pairs) - len(finite))
        result.metrics[name] = overall
    if identical := values.get(PSNR, []).count(None):
        result.notes.append(f"{identical} of {len(pairs)} pairs are equal: their PSNR is infinite and not in the mean")


def _pair_metrics(
    request: CompareRequest, smallest: int, result: Comparison
) -> tuple[dict[str, paired.PairMetric], NetworkWeights | None]:
    """Return the paired metrics that are wanted and possible, and the weights of LPIPS if it is one of them."""
    chosen: dict[str, paired.PairMetric] = {}
    weights = None
    fits = {MS_SSIM: smallest >= paired.MS_SSIM_SIDE, SSIM: smallest >= paired.SSIM_SIDE}
    if request.wants(PSNR):
        chosen[PSNR] = paired.psnr()
    if request.wants(MS_SSIM):
        if fits[MS_SSIM]:
            chosen[MS_SSIM] = paired.ms_ssim()
        else:
            reason = f"the smallest image has a side of {smallest} pixels, {paired.MS_SSIM_SIDE} are needed"
            _leave_out(request, result, MS_SSIM, OptionError(f"{reason}: ssim can be had"))
    if SSIM in (request.metrics or ()) or (request.metrics is None and not fits[MS_SSIM]):
        if fits[SSIM]:
            chosen[SSIM] = paired.ssim()
        else:
            reason = f"the smallest image has a side of {smallest} pixels, {paired.SSIM_SIDE} are needed"
            _leave_out(request, result, SSIM, OptionError(reason))
    if request.wants(LPIPS):
        try:
            chosen[LPIPS], weights = _lpips(request, smallest)
        except (OptionError, WeightsError) as error:
            _leave_out(request, result, LPIPS, error)
    return chosen, weights


def _lpips(request: CompareRequest, smallest: int) -> tuple[paired.PairMetric, NetworkWeights]:
    least = paired.LPIPS_SIDE[request.network]
    if smallest < least:
        raise OptionError(f"the smallest image has a side of {smallest} pixels, {request.network} needs {least}")
    file = request.weights.find(lpips_weights(request.network))
    return paired.lpips(request.network, file), described(file)


def _smallest_side(pairs: tuple[Pair, ...]) -> int:
    """Return the smallest side of all images, whose sizes must be equal pair by pair."""
    smallest = math.inf
    for pair in pairs:
        a, b = image_size(pair.a), image_size(pair.b)
        if a != b:
            raise OptionError(
                f"{pair.a} has {a[0]}x{a[1]} pixels and {pair.b} {b[0]}x{b[1]}: pairs are compared pixel by pixel, "
                "make them of one size"
            )
        smallest = min(smallest, *a)
    return int(smallest)


def _compare_sets(request: CompareRequest, found: ImageSets, result: Comparison, on_progress: Progress) -> None:
    try:
        look, weights = _inception(request, found)
    except (BackendMissingError, OptionError, WeightsError) as error:
        for name in _OF_SETS:
            _leave_out(request, result, name, error)
        return
    seen: list[list[Tensor]] = []
    total = len(found.a) + len(found.b)
    for side in (found.a, found.b):
        seen.append([])
        for batch in batches_of(side, _BATCH):
            done = sum(map(len, chain(*seen)))
            on_progress("showing images to Inception", done, total)
            seen[-1].append(look(batch))
    a, b = seen
    if request.wants(FID):
        result.metrics[FID] = Fid(_finite(sets.fid(a, b)), weights)
    if request.wants(KID):
        result.metrics[KID] = replace(sets.kid(a, b, request.seed), weights=weights)
    if request.wants(FID) and min(len(found.a), len(found.b)) < _FEW:
        result.notes.append(
            f"FID of fewer than {_FEW} images is biased upwards: compare it only with one of as many images"
        )


def _inception(request: CompareRequest, found: ImageSets) -> tuple[sets.Look, NetworkWeights]:
    least = sets.LEAST_IMAGES
    if min(len(found.a), len(found.b)) < least:
        raise OptionError(f"a set needs {least} images at least, there are {len(found.a)} and {len(found.b)}")
    file = request.weights.find(inception_weights())
    return sets.inception_look(file), described(file)


def _leave_out(request: CompareRequest, result: Comparison, name: str, error: TofuError) -> None:
    """Record that a metric is left out; raise the error if it was asked for by name."""
    if request.metrics is not None:
        if name in request.metrics:
            raise error
        return
    result.skipped.append(LeftOut(name, str(error)))


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
