"""Recording decisions of a running model, and replaying them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests import reference, tiny
from tests.patch.recorder import Recorder, record
from tofu_export.options import Method, Mode, Reduction
from tofu_export.patch import Step, fuse, observe, remove
from tofu_export.patch.matching import Matching, Scores
from tofu_export.patch.observe import current_observer

SOME = Reduction(r=(3, 2, 4), pattern="PAM")


class Player:
    """Replays decisions by layer, changed on the way."""

    def __init__(self, matchings: dict[int, Matching], change: Callable[[Matching], Matching] | None = None) -> None:
        self.matchings = matchings
        self.change = change or (lambda matching: matching)

    def decide(self, layer: int, scores: Scores, proposed: Matching) -> Matching:
        return self.change(self.matchings[layer])


def images(count: int = 2, seed: int = 0) -> Tensor:
    return torch.from_numpy(tiny.pixels(count, seed))


def test_watching_changes_nothing() -> None:
    model = tiny.reduced("cls", SOME)
    with torch.no_grad():
        expected = model(images())
    out, recorder = record(model, images())
    assert torch.equal(out, expected)
    assert list(recorder.seen) == [0, 1, 2]
    for layer, removed in enumerate((3, 2, 4)):
        scores, matching = recorder.seen[layer]
        assert scores.pairs is not None
        assert scores.pairs.dtype == torch.float32
        assert scores.pairs.shape[0] == 2
        assert matching.matched.shape == matching.target.shape == (2, removed)
        assert matching.kept.shape == (2, scores.pairs.shape[1] - removed)


def test_only_reducing_layers_are_asked() -> None:
    _, recorder = record(tiny.reduced("cls", Reduction(r=(0, 2, 3), pattern="PM-")), images())
    assert list(recorder.seen) == [1]
    _, recorder = record(tiny.reduced("cls", Reduction(r=0)), images())
    assert not recorder.seen


def test_what_is_recorded_is_what_the_oracle_decides() -> None:
    plan = tiny.plan_of("registers", SOME)
    model = tiny.reduced("registers", SOME)
    _, recorder = record(model, images())
    trace: list[list[reference.Matching]] = []
    reference.vit_forward(
        tiny.weights(remove(model)),
        tiny.pixels(2),
        patch=tiny.PATCH,
        heads=tiny.HEADS,
        layers=[(layer.method.word, layer.removed) for layer in plan.layers],
        prefix=5,
        trace=trace,
    )
    for layer, matchings in enumerate(trace):
        _, got = recorder.seen[layer]
        for image, matching in enumerate(matchings):
            # prefix 5: sources stand at 6, 8, ..., destinations at 5, 7, ...
            assert [6 + 2 * source for source in got.kept[image].tolist()] == matching.kept
            pairs = zip(got.matched[image].tolist(), got.target[image].tolist(), strict=True)
            assert [(6 + 2 * source, 5 + 2 * target) for source, target in pairs] == matching.matched


@pytest.mark.parametrize("reduction", [SOME, Reduction(r=2, mode=Mode.TOME), Reduction(r=100, prune_layers=1)])
def test_replaying_gives_the_same_output(reduction: Reduction) -> None:
    model = tiny.reduced("cls", reduction)
    out, recorder = record(model, images())
    with torch.no_grad(), observe(Player({layer: matching for layer, (_, matching) in recorder.seen.items()})):
        assert torch.equal(model(images()), out)


def test_another_models_decisions_can_be_forced() -> None:
    """The decisions of one image's pass, forced on another image, are those that it then follows."""
    model = tiny.reduced("cls", SOME)
    own, _ = record(model, images(seed=1))
    _, recorder = record(model, images(seed=0))
    forced = {layer: matching for layer, (_, matching) in recorder.seen.items()}
    with torch.no_grad(), observe(Player(forced)):
        out = model(images(seed=1))
    assert not torch.allclose(out, own)
    with torch.no_grad():
        assert torch.equal(model(images(seed=1)), own)  # nothing of it stays


def test_changed_targets_change_a_merge_and_sizes_but_not_a_pruning_alone() -> None:
    def elsewhere(matching: Matching) -> Matching:
        return matching._replace(target=(matching.target + 1) % 4)

    for pattern, sizes, same in (
        ("PPP", False, True),
        ("PPP", True, False),
        ("MMM", False, False),
        ("AAA", False, False),
    ):
        model = tiny.reduced("cls", Reduction(r=(3, 2, 1), pattern=pattern, prop_attn=sizes))
        out, recorder = record(model, images())
        player = Player({layer: matching for layer, (_, matching) in recorder.seen.items()}, elsewhere)
        with torch.no_grad(), observe(player):
            assert torch.equal(model(images()), out) is same


def test_the_order_of_the_matched_does_not_matter() -> None:
    def backwards(matching: Matching) -> Matching:
        return Matching(matching.kept, matching.matched.flip(1), matching.target.flip(1))

    model = tiny.reduced("cls", Reduction(r=4, mode=Mode.MLERP, prune_layers=0))
    out, recorder = record(model, images())
    player = Player({layer: matching for layer, (_, matching) in recorder.seen.items()}, backwards)
    with torch.no_grad(), observe(player):
        torch.testing.assert_close(model(images()), out, rtol=0, atol=1e-5)


def test_the_innermost_observer_decides_and_all_leave() -> None:
    outer, inner = Recorder(), Recorder()
    metric = torch.eye(6)[None]
    assert current_observer() is None
    with observe(outer):
        with observe(inner):
            assert current_observer() is inner
            fuse(metric, metric, Step(method=Method.MLERP, removed=1, prefix=0))
        assert current_observer() is outer
    assert current_observer() is None
    assert list(inner.seen) == [0]
    assert not outer.seen


def test_an_observer_leaves_after_an_error() -> None:
    class Refuses:
        def decide(self, layer: int, scores: Scores, proposed: Matching) -> Matching:
            raise RuntimeError("no")

    model = tiny.reduced("cls", SOME)
    with pytest.raises(RuntimeError, match="no"), torch.no_grad(), observe(Refuses()):
        model(images())
    assert current_observer() is None
