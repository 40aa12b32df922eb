"""Dropping, target and mixing methods against torch's and torchvision's own: what they share must agree.

Draws cannot be the same, so that distributions are compared: by two-sample Kolmogorov-Smirnov tests, which fair draws
fail once in 10,000 times, or by frequencies, within five standard errors.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from timm.layers.drop import DropPath
from torch import Tensor
from torchvision.ops import drop_block2d, stochastic_depth
from torchvision.transforms import v2

from runner.engine.step import mean_loss
from runner.keys import Key
from runner.methods.base import Batch, Now, Site
from runner.methods.mixing import CutMix, Mixup, RandomErasing
from runner.methods.structured_dropping import AlphaDropout, ChannelDropout, DropBlock, StochasticDepth
from runner.methods.targets import LabelSmoothing

NOW = Now(Key.of(0), 0, 10, 0.1)
FAIR = 1e-4


def site(kind: str = "hidden") -> Site:
    return Site(kind, 0, 1, 1.0, Key.of(1))


def steps(one: Callable[[Now], Tensor], n: int) -> Tensor:
    """`one` in n steps: [n, ...]."""
    drawn: Tensor = torch.vmap(lambda key: one(Now(Key(key), 0, 10, 0.1)))(Key.of(torch.arange(n)).resolved())
    return drawn


def alike(ours: Tensor, theirs: Tensor) -> bool:
    return bool(stats.ks_2samp(ours.double().numpy(), theirs.double().numpy()).pvalue > FAIR)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("rate", [0.05, 0.1, 0.5])
def test_label_smoothing_is_torchs(rate: float) -> None:
    logits, labels = torch.randn(50, 7), torch.randint(7, (50,))
    y = LabelSmoothing(rate).batch(Batch(torch.zeros(50, 1), F.one_hot(labels, 7).float()), NOW).y
    torch.testing.assert_close(mean_loss(logits, y), F.cross_entropy(logits, labels, label_smoothing=rate))


@pytest.mark.parametrize("rate", [0.05, 0.2, 0.5])
def test_alpha_dropout_is_torchs(rate: float) -> None:
    x = torch.randn(1000, 200)
    ours, theirs = AlphaDropout(rate).hidden(x, site(), NOW), F.alpha_dropout(x, rate, training=True)
    floor = [h.flatten().mode().values for h in (ours, theirs)]  # the one value that comes again and again
    torch.testing.assert_close(*floor)
    dropped = [(h - floor[0]).abs() < 1e-5 for h in (ours, theirs)]
    both = ~dropped[0] & ~dropped[1]
    torch.testing.assert_close(ours[both], theirs[both], rtol=1e-4, atol=1e-5)
    error = math.sqrt(2 * rate * (1 - rate) / x.numel())
    assert abs((dropped[0].float().mean() - dropped[1].float().mean()).item()) < 5 * error


@pytest.mark.parametrize("dims", [1, 2])
def test_channel_dropout_is_torchs(dims: int) -> None:
    x = torch.randn(400, 100, *[3] * dims)
    theirs = (F.dropout1d if dims == 1 else F.dropout2d)(x, 0.3, training=True)
    ours = ChannelDropout(0.3).hidden(x, site(), NOW)
    gone = [(h == 0).flatten(2).all(2) for h in (ours, theirs)]
    kept = ~gone[0] & ~gone[1]
    torch.testing.assert_close(ours[kept], theirs[kept])
    assert abs((gone[0].float().mean() - gone[1].float().mean()).item()) < 5 * math.sqrt(2 * 0.21 / 40000)


def test_stochastic_depth_is_torchvisions_row_mode() -> None:
    x = torch.randn(40000, 3)
    ours, theirs = StochasticDepth(0.3).hidden(x, site("branch"), NOW), stochastic_depth(x, 0.3, "row")
    gone = [(h == 0).all(1) for h in (ours, theirs)]
    kept = ~gone[0] & ~gone[1]
    torch.testing.assert_close(ours[kept], theirs[kept])
    assert abs((gone[0].float().mean() - gone[1].float().mean()).item()) < 5 * math.sqrt(2 * 0.21 / 40000)


def test_stochastic_depth_is_timms_drop_path() -> None:
    x = torch.randn(40000, 3)
    ours, theirs = StochasticDepth(0.3).hidden(x, site("branch"), NOW), DropPath(0.3).train()(x)
    gone = [(h == 0).all(1) for h in (ours, theirs)]
    kept = ~gone[0] & ~gone[1]
    torch.testing.assert_close(ours[kept], theirs[kept])
    assert abs((gone[0].float().mean() - gone[1].float().mean()).item()) < 5 * math.sqrt(2 * 0.21 / 40000)


@pytest.mark.parametrize(("side", "size"), [(8, 3), (8, 5), (14, 7), (14, 3)])
def test_dropblock_is_torchvisions_but_for_the_rate_that_it_keeps(side: int, size: int) -> None:
    """Given the rate that torchvision's formula really drops, every cell is dropped as often as there."""
    ones = torch.ones(100, 100, side, side)
    theirs = drop_block2d(ones, 0.3, size) == 0
    realised = theirs.float().mean().item()
    assert realised < 0.3 * 0.93  # overlapping blocks count twice in its formula
    ours = DropBlock(realised, size).hidden(ones, site(), NOW) == 0
    # 10,000 maps: a cell's frequency has a standard error of at most sqrt(2 * .25 / 10000) = 0.007
    apart = (ours.float().mean((0, 1)) - theirs.float().mean((0, 1))).abs()
    assert apart.max() < 5 * 0.007
    assert abs((DropBlock(0.3, size).hidden(ones, site(), NOW) == 0).float().mean().item() - 0.3) < 0.3 * 0.03
    # and as many maps are left whole
    whole = [(~h.flatten(2).any(2)).float().mean().item() for h in (ours, theirs)]
    assert abs(whole[0] - whole[1]) < 5 * 0.007


@pytest.mark.parametrize("alpha", [0.4, 1.0, 4.0])
def test_the_share_of_mixup_is_torchvisions(alpha: float) -> None:
    x, labels = torch.randn(2, 1, 1, 1), torch.tensor([0, 1])
    mixup = v2.MixUp(alpha=alpha, num_classes=2)
    theirs = torch.stack([mixup(x, labels)[1][0, 0] for _ in range(4000)])
    ours = steps(lambda now: Mixup(alpha).batch(Batch(torch.eye(8), torch.eye(8)), now).y.diagonal().min(), 4000)
    assert alike(ours, theirs)


@pytest.mark.parametrize("alpha", [0.4, 1.0])
def test_cutmix_pastes_what_torchvisions_pastes(alpha: float) -> None:
    """Areas, targets and places of the rectangles on 64 x 64 pixels (theirs are rounded to even sides)."""
    x, labels, n = torch.zeros(2, 1, 64, 64), torch.tensor([0, 1]), 4000
    x[1] = 1
    cutmix = v2.CutMix(alpha=alpha, num_classes=2)
    images, targets = zip(*[cutmix(x, labels) for _ in range(n)], strict=True)
    theirs, their_share = torch.stack(images)[:, 0, 0], torch.stack(targets)[:, 0, 1]
    torch.testing.assert_close(theirs.mean((1, 2)), their_share)

    def paste(now: Now) -> Tensor:
        return CutMix(alpha).batch(Batch(x, torch.eye(2)), now).x[0, 0]

    ours = steps(paste, 2 * n)  # in half of them an example is paired with itself
    ours = ours[ours.flatten(1).any(1)]
    theirs = theirs[theirs.flatten(1).any(1)]
    # both round sides to whole pixels in their own way: areas are compared on a grid of a pixel's width
    jitter = [torch.rand(len(h)) * 0.03 for h in (ours, theirs)]
    assert alike(ours.mean((1, 2)) + jitter[0], theirs.mean((1, 2)) + jitter[1])
    apart = (ours.mean(0) - theirs.mean(0)).abs()
    assert apart.max() < 0.05  # how often each pixel is pasted: errors of at most sqrt(2 * .25 / 4000) = 0.011


@pytest.mark.parametrize("aspect", [0.3, 1.0])
def test_random_erasing_is_torchvisions(aspect: float) -> None:
    x, n = torch.ones(3000, 1, 24, 30), 3000
    erasing = v2.RandomErasing(p=1.0, scale=(0.05, 0.4), ratio=(aspect, 1 / aspect))
    theirs = torch.stack([erasing(image) for image in x])[:, 0] == 0
    ours = RandomErasing(1.0, 0.05, 0.4, aspect, "mean").batch(Batch(x, torch.ones(n, 1)), NOW).x[:, 0] == 0
    for side in (1, 2):
        high = [h.any(side).sum(1) for h in (ours, theirs)]
        assert alike(*high)
    assert alike(ours.flatten(1).sum(1), theirs.flatten(1).sum(1))
    apart = (ours.float().mean(0) - theirs.float().mean(0)).abs()
    assert apart.max() < 5 * math.sqrt(2 * 0.25 / n)
