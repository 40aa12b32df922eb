"""What changes targets and mixes examples, against numbers worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from settings import Trainer
from torch import Tensor, nn

from runner.engine.step import mean_loss, sites
from runner.errors import Refusal
from runner.keys import Key
from runner.methods import mixing
from runner.methods.base import Batch, Method, Now, Seen
from runner.methods.mixing import CutMix, Cutout, InputNoise, ManifoldMixup, Mixup, RandomErasing
from runner.methods.stack import Stack
from runner.methods.targets import Bootstrap, DisturbLabel, LabelSmoothing
from runner.nets.residual import resnet_mlp
from runner.nets.sites import visits

NOW = Now(Key.of(0), 0, 10, 0.1)
SHAPES = {"image": (3, 8, 8), "signal": (2, 40), "table": (10,)}


def now(key: Key) -> Now:
    return Now(key, 0, 10, 0.1)


def draws(one: Callable[[Now], Tensor], n: int) -> Tensor:
    """`one` in n steps: [n, ...]."""
    drawn: Tensor = torch.vmap(lambda key: one(now(Key(key))))(Key.of(torch.arange(n)).resolved())
    return drawn


def shown(method: Method, x: Tensor, y: Tensor | None = None, when: Now = NOW) -> Batch:
    return method.batch(Batch(x, torch.eye(len(x)) if y is None else y), when)


# -- targets ---------------------------------------------------------------------------------------------------------
def test_label_smoothing_gives_every_class_its_share() -> None:
    # rate 0.1 over 4 classes: 0.9 + 0.1 / 4 = 0.925 and 0.1 / 4 = 0.025
    y = shown(LabelSmoothing(0.1), torch.zeros(4, 2)).y
    torch.testing.assert_close(y, 0.9 * torch.eye(4) + 0.025)
    torch.testing.assert_close(y[0], torch.tensor([0.925, 0.025, 0.025, 0.025]))


def test_disturb_label_makes_its_share_of_labels_wrong() -> None:
    # rate 0.2 over 4 classes: 0.2 * 3/4 = 0.15 wrong, 0.05 of each other class; 5 sqrt(.15 * .85 / 40000) = 0.009
    y = torch.eye(4)[torch.zeros(40000, dtype=torch.int64)]
    drawn = shown(DisturbLabel(0.2), torch.zeros(40000, 1), y).y
    assert set(drawn.flatten().tolist()) == {0, 1}
    assert torch.equal(drawn.sum(1), torch.ones(40000))
    torch.testing.assert_close(drawn.mean(0), torch.tensor([0.85, 0.05, 0.05, 0.05]), atol=0.009, rtol=0)


def bootstrapped(method: Bootstrap, logits: Tensor, y: Tensor) -> Tensor:
    seen = Seen({}, Batch(torch.zeros(len(y), 1), y), logits, (), lambda x, key: x)
    return mean_loss(logits, y) + method.penalty(seen, NOW)


def test_bootstrap_replaces_a_share_of_the_targets_by_predictions() -> None:
    # logits 0, ln 3: p = 1/4, 3/4; the label is class 0. Cross-entropy ln 4 = 1.386294, entropy of p
    # ln(4)/4 + 3/4 ln(4/3) = 0.562335; soft: 0.8 * 1.386294 + 0.2 * 0.562335 = 1.221502
    # hard: the predicted class is 1: 0.8 ln 4 + 0.2 ln(4/3) = 1.109035 + 0.057536 = 1.166572
    logits, y = torch.tensor([[0.0, math.log(3)]]), torch.tensor([[1.0, 0.0]])
    assert bootstrapped(Bootstrap(0.2, "soft"), logits, y).item() == pytest.approx(1.221502, abs=1e-6)
    assert bootstrapped(Bootstrap(0.2, "hard"), logits, y).item() == pytest.approx(1.166572, abs=1e-6)


def test_bootstrap_is_more_than_a_smaller_step() -> None:
    # soft: d/dz of the entropy is -p_i (ln p_i + H): class 0: -1/4 (-1.386294 + 0.562335) = 0.205990; of the
    # cross-entropy p - y = -3/4. Together 0.8 * -0.75 + 0.2 * 0.205990 = -0.558802
    # hard: p - (0.8, 0.2) = 0.25 - 0.8 = -0.55
    y = torch.tensor([[1.0, 0.0]])
    for form, slope in (("soft", -0.558802), ("hard", -0.55)):
        logits = torch.tensor([[0.0, math.log(3)]], requires_grad=True)
        (gradient,) = torch.autograd.grad(bootstrapped(Bootstrap(0.2, form), logits, y), logits)
        torch.testing.assert_close(gradient, torch.tensor([[slope, -slope]]))


# -- noise and cutting out -------------------------------------------------------------------------------------------
def test_input_noise_is_of_its_scale() -> None:
    x = shown(InputNoise(0.2), torch.full((400, 400), 3.0), torch.ones(400, 1)).x
    assert x.mean().item() == pytest.approx(3, abs=0.003)
    assert x.std().item() == pytest.approx(0.2, rel=0.01)


def zeroed(method: Method, kind: str, n: int = 8000) -> Tensor:
    """Where the method zeroes examples of ones: bool [n, C, ...]."""
    return shown(method, torch.ones(n, *SHAPES[kind]), torch.ones(n, 1)).x == 0


def stretches(inside: Tensor) -> Tensor:
    """How many stretches of true values each row of bool [n, length] has: [n]."""
    begins = inside & ~F.pad(inside, (1, 0))[:, :-1]
    return begins.sum(1)


def overlap(length: int, width: int) -> list[int]:
    """How much of a window about each centre lies inside: the centre's left half is width // 2."""
    return [len(set(range(c - width // 2, c - width // 2 + width)) & set(range(length))) for c in range(length)]


@pytest.mark.parametrize("width", [1, 2, 3, 4, 7, 8])
def test_cutout_of_images_loses_what_falls_outside(width: int) -> None:
    # 8 x 8 at size 0.5, worked by hand: windows of 4 about 0..7 have 2, 3, 4, 4, 4, 4, 4, 3 inside, 28 / 8 = 3.5 on
    # average, so that 3.5^2 / 64 = 0.1914 of the image is zeroed, and not 0.25
    inside = overlap(8, width)
    if width == 4:
        assert inside == [2, 3, 4, 4, 4, 4, 4, 3]
    share = (sum(inside) / 8) ** 2 / 64
    zero = zeroed(Cutout(width / 8), "image")
    assert torch.equal(zero[:, 0], zero[:, 2])  # all channels alike
    sizes = zero[:, 0].flatten(1).sum(1)
    assert set(sizes.tolist()) == {a * b for a in inside for b in inside}
    error = sizes.float().std().item() / 64 / math.sqrt(len(sizes))
    assert sizes.float().mean().item() / 64 == pytest.approx(share, abs=5 * error + 1e-6)
    high, wide = zero[:, 0].any(2).sum(1), zero[:, 0].any(1).sum(1)
    assert torch.equal(high * wide, sizes)  # a rectangle: as many cells as its sides say
    # every column is as often inside as there are windows over it
    over = [sum(c - width // 2 <= at < c - width // 2 + width for c in range(8)) / 8 for at in range(8)]
    torch.testing.assert_close(zero[:, 0].any(1).float().mean(0), torch.tensor(over), atol=0.03, rtol=0)


def test_cutout_of_signals_is_a_window_and_of_tables_a_share_of_the_columns() -> None:
    # 40 points at 0.5: windows of 20 about 0..39 have 10..19 (145), 21 times 20 (420) and 19..11 (135) inside: 17.5
    zero = zeroed(Cutout(0.5), "signal")
    assert sum(overlap(40, 20)) / 40 == 17.5
    assert zero[:, 0].sum(1).float().mean().item() == pytest.approx(17.5, abs=0.2)
    assert (stretches(zero[:, 0]) == 1).all()
    columns = zeroed(Cutout(0.3), "table")
    assert (columns.sum(1) == 3).all()
    torch.testing.assert_close(columns.float().mean(0), torch.full((10,), 0.3), atol=0.03, rtol=0)
    assert len({tuple(row) for row in columns.tolist()}) == 120  # every choice of 3 columns of 10


def test_random_erasing_erases_rectangles_of_the_right_size_inside_the_image() -> None:
    x = torch.ones(8000, 2, 32, 32)
    out = shown(RandomErasing(0.6, 0.1, 0.3, 0.5, "mean"), x, torch.ones(8000, 1)).x[:, 0] == 0
    size = out.flatten(1).sum(1)
    hit = size > 0
    assert hit.float().mean().item() == pytest.approx(0.6, abs=0.028)
    high, wide = (out.any(d).sum(1)[hit].double() for d in (2, 1))
    assert torch.equal((high * wide).long(), size[hit])
    area = high * wide / 1024
    assert area.mean().item() == pytest.approx(0.2, rel=0.02)  # uniform on [0.1, 0.3]; nothing is clipped away
    assert 0.08 < area.min() < 0.11
    assert 0.29 < area.max() < 0.32
    ratio = (high / wide).log()
    assert ratio.mean().item() == pytest.approx(0, abs=0.03)
    assert math.log(0.5) - 0.15 < ratio.min() < math.log(0.55)


def test_random_erasing_fills_with_the_mean_or_with_noise() -> None:
    x = torch.full((4000, 1, 16, 16), 50.0)
    for fill, spread in (("mean", 0.0), ("noise", 1.0)):
        out = shown(RandomErasing(1.0, 0.1, 0.3, 0.5, fill), x, torch.ones(4000, 1)).x
        erased = out[out != 50]
        assert erased.mean().item() == pytest.approx(0, abs=0.02)
        assert erased.std().item() == pytest.approx(spread, abs=0.02)


def test_random_erasing_of_signals_and_tables() -> None:
    # windows of 0.2 to 0.4 of 40 points, all inside: 8 to 16 points; of 10 columns 2 to 4
    window = zeroed(RandomErasing(1.0, 0.2, 0.4, 0.3, "mean"), "signal")[:, 0]
    assert set(window.sum(1).tolist()) == set(range(8, 17))
    assert (stretches(window) == 1).all()
    assert window[:, 0].any()
    assert window[:, -1].any()
    assert set(zeroed(RandomErasing(1.0, 0.2, 0.4, 0.3, "mean"), "table").sum(1).tolist()) == {2, 3, 4}


def test_an_image_no_rectangle_fits_into_is_left_alone() -> None:
    # of area 1 none is lower and narrower than the image: at a ratio of 1 it is the image
    assert not zeroed(RandomErasing(1.0, 1.0, 1.0, 1.0, "mean"), "image").any()


# -- mixing ----------------------------------------------------------------------------------------------------------
def test_mixup_mixes_examples_and_targets_alike() -> None:
    # x is one-hot as y is, so that both are mixed into the same rows: share on the diagonal, 1 - share at the pair
    x = torch.eye(6)
    batch = shown(Mixup(1.0), x)
    assert torch.equal(batch.x, batch.y)
    share = batch.y.diagonal().min()
    for row in batch.y:
        parts = sorted(row[row > 0].tolist())
        # one share for the whole batch
        assert parts == [1.0] or parts == pytest.approx(sorted([share.item(), 1 - share.item()]), abs=1e-6)
    torch.testing.assert_close(batch.y.sum(0), torch.ones(6))  # everyone is a pair's other half once
    images = torch.randn(6, 3, 4, 4)
    order = (batch.y - share * torch.eye(6)).argmax(1)
    torch.testing.assert_close(shown(Mixup(1.0), images).x, share * images + (1 - share) * images[order])


@pytest.mark.parametrize("alpha", [0.4, 1.0, 4.0])
def test_the_share_of_mixup_is_beta_distributed(alpha: float) -> None:
    # the smallest share of an example's own target is `share` unless the order leaves all eight in place (1 in 40,320);
    # at 10,000 draws a distribution function that is 0.022 off anywhere has a p below 1e-4
    share = draws(lambda when: shown(Mixup(alpha), torch.eye(8), when=when).y.diagonal().min(), 10000)
    assert stats.kstest(share.double().numpy(), stats.beta(alpha, alpha).cdf).pvalue > 1e-4


@pytest.mark.parametrize("mix", [Mixup(1.0), CutMix(1.0), ManifoldMixup(1.0)])
def test_targets_are_smoothed_once_before_mixing_or_after(mix: Method) -> None:
    # (1 - 0.2) (s a + (1 - s) b) + 0.2 / K = s (0.8 a + 0.2 / K) + (1 - s) (0.8 b + 0.2 / K)
    batch, smooth = Batch(torch.randn(6, 3, 8, 8), torch.eye(6)), LabelSmoothing(0.2)
    mixed = Stack({"mix": mix}).batch(batch, NOW).y
    assert not torch.equal(mixed, batch.y)
    for stack in ({"smooth": smooth, "mix": mix}, {"mix": mix, "smooth": smooth}):
        torch.testing.assert_close(Stack(stack).batch(batch, NOW).y, 0.8 * mixed + 0.2 / 6)


@pytest.mark.parametrize("size", [1, 5, 6])
def test_mixup_takes_batches_of_any_size(size: int) -> None:
    y = draws(lambda when: shown(Mixup(1.0), torch.zeros(size, 1), torch.eye(size), when).y, 500)  # [N, size, size]
    torch.testing.assert_close(y.sum(1), torch.ones(500, size))  # everyone is half of a pair once
    assert (y.mean(0) > 0).all()  # anyone may be paired with anyone


def test_manifold_mixup_mixes_at_one_place_and_the_targets_with_it() -> None:
    kinds = visits(resnet_mlp((6,), 3, width=2, depth=3, skip=1.0), torch.zeros(1, 6))
    assert kinds == ("input", "hidden", "branch", "hidden", "branch", "hidden", "branch", "hidden")
    method, eye = ManifoldMixup(1.0), torch.eye(6)
    y = draws(lambda when: shown(method, eye, when=when).y, 2000)  # [N, 6, 6]
    met = [draws(partial(method.hidden, eye, site), 2000) for site in sites(kinds, Key.of(0))]
    changed = torch.stack([(h != eye).flatten(1).any(1) for h in met], 1)  # [N, places]
    mixed = (y != eye).flatten(1).any(1)  # not where all six are paired with themselves
    assert mixed.float().mean().item() > 0.99
    assert torch.equal(changed.sum(1), mixed.long())
    for h, at in zip(met, changed.T, strict=True):
        assert torch.equal(h[at], y[at])  # the same share and the same pairs as the targets
    # five places, 0.2 each; 5 sqrt(.2 * .8 / 2000) = 0.045
    expected = torch.tensor([0.2 * (kind != "branch") for kind in kinds])
    torch.testing.assert_close(changed[mixed].float().mean(0), expected, atol=0.045, rtol=0)


def test_manifold_mixup_draws_its_share_anew_for_every_step() -> None:
    method, eye, when = ManifoldMixup(2.0), torch.eye(8), now(Key.of(3))
    shares = []
    memory = method.recall({"w": torch.zeros(2)})
    for step in range(500):
        when = Now(Key.of(3).fold(step), step, 500, 0.1, memory)
        y = shown(method, eye, when=when).y
        shares.append(y.diagonal().min().item())
        assert step == 0 or shares[-1] == memory["share"].item()
        (place,) = sites(("hidden",), when.key)
        assert torch.equal(method.hidden(eye, place, when), y)
        memory = method.remember({}, when)
    assert len(set(shares)) == 500
    assert stats.kstest(shares, stats.beta(2, 2).cdf).pvalue > 1e-4


def test_manifold_mixup_draws_one_share_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Tensor] = []

    def share(alpha: float, key: Key) -> Tensor:
        drawn.append(key.uniform())
        return drawn[-1]

    monkeypatch.setattr(mixing, "_share", share)
    Trainer(Stack({"manifold_mixup": ManifoldMixup(2.0)}), "image").train([0], mapped=False, steps=3)
    assert len(drawn) == 3


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("other", [Mixup(1.0), CutMix(1.0)])
def test_manifold_mixup_gives_the_targets_of_what_is_in_the_net(other: Method, first: bool) -> None:
    # all cells of example i are the i-th unit vector, so that their mean says whose they are, as the target does
    size, cells = 6, 64
    one, two = {"manifold_mixup": ManifoldMixup(1.0)}, {"other": other}
    stack = Stack(one | two if first else two | one)
    for seed in range(20):
        when = now(Key.of(seed))
        x = torch.eye(size)[:, :, None].expand(size, size, cells)
        batch = stack.batch(Batch(x, torch.eye(size)), when)
        (place,) = sites(("hidden",), when.key)
        torch.testing.assert_close(batch.y, stack.hidden(batch.x.mean(2), place, when))


def test_manifold_mixup_mixes_the_labels_that_another_method_disturbed() -> None:
    # a disturbed label is that of an example before it is mixed: every target is share * one + (1 - share) * another
    stack = Stack({"manifold_mixup": ManifoldMixup(1.0), "disturb_label": DisturbLabel(1.0)})
    y = stack.batch(Batch(torch.zeros(64, 1), torch.eye(64)), NOW).y
    assert set(y.count_nonzero(1).tolist()) == {1, 2}


def test_manifold_mixup_needs_a_marked_net() -> None:
    with pytest.raises(Refusal, match="a marked input or hidden layers"):
        ManifoldMixup(1.0).build(nn.Linear(2, 2))


@pytest.mark.parametrize("kind", SHAPES)
def test_cutmix_mixes_targets_by_what_is_really_pasted(kind: str) -> None:
    # example i holds the number i throughout, so that the share of cells of x[i] that are j is what y[i] must say of j
    size, seen = 6, set()
    numbers = torch.arange(float(size)).view(size, *[1] * len(SHAPES[kind])).expand(size, *SHAPES[kind])
    for seed in range(300):
        batch = shown(CutMix(1.0), numbers, when=now(Key.of(seed)))
        flat = batch.x.flatten(1)
        counted = torch.stack([(flat == j).float().mean(1) for j in range(size)], 1)
        torch.testing.assert_close(batch.y, counted)
        seen.add(round(batch.y.diagonal().min().item(), 4))
        if kind != "table":
            foreign = (batch.x != numbers)[:, 0]
            assert torch.equal((batch.x != numbers)[:, -1], foreign)
            for axis in range(1, foreign.ndim):
                line = foreign.movedim(axis, -1).reshape(size, -1, foreign.shape[axis]).any(1)
                assert (stretches(line) <= 1).all()
    assert len(seen) > 5


def test_the_rectangle_of_cutmix_has_the_area_that_was_drawn_before_it_is_clipped() -> None:
    # of 64 x 64 pixels: at alpha 1 the drawn share s is uniform. A side of sqrt(s) about a uniform centre has
    # r - r^2/4 of it inside (r = sqrt(s)), both sides (r - r^2/4)^2 = s - s^1.5/2 + s^2/16; its mean over s is
    # 1/2 - 1/5 + 1/48 = 0.320833. Standard deviation below 0.3, so five errors of 4000 draws are 0.024
    x = torch.zeros(2, 1, 64, 64)
    x[1] = 1
    pasted = draws(lambda when: shown(CutMix(1.0), x, when=when).y[0, 1], 8000)
    # the pair of example 0 is itself half of the time, which pastes nothing that can be seen
    assert 2 * pasted.mean().item() == pytest.approx(0.320833, abs=0.024)


def test_the_window_of_cutmix_has_the_length_that_was_drawn_before_it_is_clipped() -> None:
    # of 200 points: at alpha 1 a window of a uniform share s about a uniform centre has s - s^2/4 inside, whose mean is
    # 1/2 - 1/12 = 5/12. Standard deviation below 0.3 (half of the pairs are themselves: 2 * 0.3), so that five errors
    # of 8000 draws are 0.034
    x = torch.zeros(2, 1, 200)
    x[1] = 1
    pasted = draws(lambda when: shown(CutMix(1.0), x, when=when).y[0, 1], 8000)
    assert 2 * pasted.mean().item() == pytest.approx(5 / 12, abs=0.034)


def test_cutmix_of_a_table_takes_a_uniform_share_of_the_columns() -> None:
    # at alpha 1 of 10 columns: 0 and 10 with 1/20 (rounding), the others 1/10; mean 5. Half of the pairs are themselves
    x = torch.stack([torch.zeros(10), torch.ones(10)])
    pasted = draws(lambda when: shown(CutMix(1.0), x, when=when).x[0].sum(), 8000)
    assert 2 * pasted.mean().item() == pytest.approx(5, abs=0.25)
    assert (pasted == 10).float().mean().item() == pytest.approx(1 / 40, abs=0.009)
