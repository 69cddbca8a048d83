"""An observer that keeps what it is told."""

from __future__ import annotations

import torch
from torch import Tensor

from tests import reference
from tofu_export.patch import observe
from tofu_export.patch.matching import Matching, Scores
from tofu_export.planning.plan import ModelSpec


class Recorder:
    def __init__(self) -> None:
        self.seen: dict[int, tuple[Scores, Matching]] = {}

    def decide(self, layer: int, scores: Scores, proposed: Matching) -> Matching:
        assert layer not in self.seen
        self.seen[layer] = (scores, proposed)
        return proposed


def record(model: torch.nn.Module, x: Tensor) -> tuple[Tensor, Recorder]:
    recorder = Recorder()
    with torch.no_grad(), observe(recorder):
        return model(x), recorder


def oracle_matchings(recorder: Recorder, spec: ModelSpec, image: int) -> list[reference.Matching]:
    """What was recorded of one image, as the oracle has it: the nearest destination by score."""
    matchings, tokens = [], spec.tokens
    for layer in sorted(recorder.seen):
        scores, decided = recorder.seen[layer]
        sources = [position for position in range(spec.prefix_tokens, tokens) if position % 2 == 0]
        destinations = [position for position in range(spec.prefix_tokens, tokens) if position % 2 == 1]
        matched = []
        for source in decided.matched[image].tolist():
            similarities = scores.pairs[image, source].tolist()
            matched.append((sources[source], destinations[similarities.index(max(similarities))]))
        kept = [sources[source] for source in decided.kept[image].tolist()]
        assert sorted(kept + [source for source, _ in matched]) == sources
        matchings.append(reference.Matching(kept, matched, destinations, {}, {}))
        tokens -= len(matched)
    return matchings
