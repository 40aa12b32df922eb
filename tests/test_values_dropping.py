"""What the structured kinds of dropout do to hidden values, against numbers worked out by hand."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from itertools import product

import pytest
import torch
from torch import Tensor, nn
from torch.func import vmap

from runner.engine.step import sites
from runner.engine.weights import initial
from runner.errors import Refusal
from runner.keys import Key
from runner.methods.base import Method, Now, Site
from runner.methods.dropping import Dropout
from runner.methods.mixing import ManifoldMixup
from runner.methods.smoothness import RDrop
from runner.methods.stack import Stack
from runner.methods.structured_dropping import (
    AlphaDropout,
    ChannelDropout,
    DropBlock,
    GaussianDropout,
    HiddenNoise,
    ShakeDrop,
    ShakeShake,
    SkipConnection,
    StochasticDepth,
    begin_rate,
)
from runner.nets.attention import ft_transformer
from runner.nets.convolutional import convnet
from runner.nets.dense import linear, mlp
from runner.nets.residual import Residual, TwoBranches, resnet_mlp
from runner.nets.sites import KINDS, Mark, visits

NOW = Now(Key.of(0), 0, 10, 0.1)


def site(kind: str = "hidden", depth: float = 1.0, seed: int = 1) -> Site:
    return Site(kind, 0, 1, depth, Key.of(seed))


def test_dropout_drops_the_same_values_wherever_they_lie_in_memory() -> None:
    h = torch.randn(6, 3, 5)
    plain = Dropout(0.5, 0.0).hidden(h, site(), NOW)
    for order in ((1, 2, 0), (0, 2, 1), (2, 1, 0)):
        back = [order.index(dim) for dim in range(3)]
        moved = h.permute(order).contiguous().permute(back)
        found = Dropout(0.5, 0.0).hidden(moved, site(), NOW)
        assert torch.equal(found, plain)
        assert found.stride() == moved.stride()
        lanes = vmap(lambda h: Dropout(0.5, 0.0).hidden(h, site(), NOW))(torch.stack([moved, moved]).contiguous())
        assert torch.equal(lanes, plain.expand(2, 6, 3, 5))


def test_a_mask_like_a_value_in_another_order_has_the_draws_of_one_that_is_not() -> None:
    for shape in ((3, 5, 4, 2), (3, 5, 7, 1), (1, 1, 1, 1)):  # even and odd numbers of entries
        x = torch.empty(shape).to(memory_format=torch.channels_last)
        for like in (x, x.mT, x.movedim(0, 3)):
            mask = NOW.key.kept_like(0.5, like)
            assert torch.equal(mask, NOW.key.kept(0.5, *like.shape))
            assert all(size == 1 or a == b for size, a, b in zip(like.shape, mask.stride(), like.stride(), strict=True))
            lanes = vmap(lambda like: NOW.key.kept_like(0.5, like) + 0)(torch.stack([like, like]))
            assert torch.equal(lanes, mask.expand(2, *mask.shape))


def test_a_value_in_the_usual_order_with_gaps_has_the_mask_of_one_without(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the images of one lane have among those of others: to draw each entry's own word would take twice as long."""
    images = torch.empty(2, 3, 4, 5, 5)[:, 1]  # of the second of three lanes
    expected = NOW.key.kept(0.5, 2, 4, 5, 5)
    monkeypatch.delattr(Key, "_words")
    monkeypatch.setattr(Key, "kept", lambda key, rate, *shape: expected)
    assert NOW.key.kept_like(0.5, images) is expected


def test_gaussian_dropout_has_the_mean_and_the_variance_of_dropout() -> None:
    # variance 0.3 / 0.7 = 0.428571; standard errors over 160,000 draws: 0.0016 of the mean, 0.0015 of the variance
    h = GaussianDropout(0.3).hidden(torch.ones(400, 400), site(), NOW)
    assert h.mean().item() == pytest.approx(1, abs=0.008)
    assert h.var().item() == pytest.approx(0.428571, abs=0.008)


def test_alpha_dropout_moves_kept_and_dropped_values_as_worked_out() -> None:
    # rate 0.1: a = (0.9 + 1.7580993^2 * 0.9 * 0.1)^-1/2 = (0.9 + 0.278182)^-1/2 = 0.921284
    # b = 0.921284 * 0.1 * 1.7580993 = 0.161971; a kept 2 becomes 2 a + b = 2.004538, a dropped one
    # -1.7580993 a + b = -1.457738
    h = AlphaDropout(0.1).hidden(torch.full((400, 400), 2.0), site(), NOW)
    low, high = sorted(set(h.flatten().tolist()))
    assert (low, high) == (pytest.approx(-1.457738, abs=1e-5), pytest.approx(2.004538, abs=1e-5))
    assert (h < 0).float().mean().item() == pytest.approx(0.1, abs=0.004)


def test_alpha_dropout_keeps_mean_0_and_variance_1_but_shrinks_what_a_relu_gives() -> None:
    unit = Key.of(7).normal(400, 400)
    h = AlphaDropout(0.2).hidden(unit, site(), NOW)
    assert h.mean().item() == pytest.approx(0, abs=0.015)
    assert h.var().item() == pytest.approx(1, abs=0.02)
    # at rate 0.1 a mean m becomes a * 0.9 * m = 0.829155 m
    relu = unit.relu()
    share = AlphaDropout(0.1).hidden(relu, site(), NOW).mean() / relu.mean()
    assert share.item() == pytest.approx(0.829155, abs=0.015)


@pytest.mark.parametrize("shape", [(300, 200, 4, 4), (300, 200, 9), (300, 200)])
def test_channel_dropout_drops_whole_channels(shape: tuple[int, ...]) -> None:
    # 60,000 draws: five standard errors are 5 * sqrt(.3 * .7 / 60000) = 0.0094
    h = ChannelDropout(0.3).hidden(torch.ones(shape), site(), NOW).flatten(2) if len(shape) > 2 else None
    if h is None:
        h = ChannelDropout(0.3).hidden(torch.ones(shape), site(), NOW)[..., None]
    assert torch.equal(h.amin(2), h.amax(2))
    assert (h[..., 0] == 0).float().mean().item() == pytest.approx(0.3, abs=0.0094)
    torch.testing.assert_close(h.amax(), torch.tensor(1 / 0.7))


def test_how_often_a_block_begins() -> None:
    # a signal of 3 cells and blocks of 2, which begin at 0 or 1: the cells lie in 1, 2 and 1 blocks. If one begins with
    # probability 1/2, they are kept with 1/2, 1/4 and 1/2, so that 1 - 5/12 = 7/12 are dropped
    assert begin_rate(torch.tensor(7 / 12), [1, 3], [1, 2]).item() == pytest.approx(0.5, rel=1e-5)
    # an image of 2 x 2 cells and a block as large: it is dropped whole or not at all
    assert begin_rate(torch.tensor(0.3), [2, 2], [2, 2]).item() == pytest.approx(0.3, rel=1e-5)
    assert begin_rate(torch.tensor(0.0), [7, 7], [3, 3]).item() == 0


@pytest.mark.parametrize("side", [4, 5, 7, 8, 14, 16, 28, 32])
@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 6, 7, 9])
@pytest.mark.parametrize("dims", [1, 2])
def test_the_expected_dropped_share_is_the_rate(side: int, size: int, dims: int) -> None:
    """By laying every block out: within 2e-5 of the rate, relative to the smaller of what is dropped and kept."""
    block = min(size, side)
    covering = torch.zeros([side] * dims, dtype=torch.float64)
    for begin in product(range(side - block + 1), repeat=dims):
        covering[tuple(slice(at, at + block) for at in begin)] += 1
    sides, blocks = ([1, side], [1, block]) if dims == 1 else ([side, side], [block, block])
    for rate in (0.02, 0.1, 0.5, 0.9):
        begins = begin_rate(torch.tensor(rate), sides, blocks).double()
        share = 1 - ((1 - begins) ** covering).mean().item()
        assert share == pytest.approx(rate, abs=2e-5 * min(rate, 1 - rate))


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        *[((100, 200, side, side), size) for side in (4, 5, 8) for size in (2, 3, 4, 5)],
        *[((40, 150, 16, 16), size) for size in (2, 5)],
        *[((20, 150, 32, 32), size) for size in (3, 4)],
        *[((200, 100, length), size) for length in (4, 9, 32) for size in (2, 3, 4, 7)],
    ],
)
def test_the_realised_dropped_share_is_the_rate_within_two_percent_of_it(shape: tuple[int, ...], size: int) -> None:
    # a map that is dropped whole or not at all varies most: sqrt(.3 * .7) = 0.46, so that 120,000 maps have a standard
    # error of 0.0013, a fifth of the 0.006 allowed; the 18,000 maps of 32 x 32 hold many blocks each
    rate, dropped, cells = 0.3, 0, 0
    for seed in range(6):
        h = DropBlock(rate, size).hidden(torch.ones(shape), site(seed=seed), NOW)
        dropped += int((h == 0).sum())
        cells += h.numel()
        torch.testing.assert_close(h.amax(), torch.tensor(1 / 0.7))
    assert dropped / cells == pytest.approx(rate, rel=0.02)


@pytest.mark.parametrize(
    ("shape", "size"), [((60, 3, 9, 12), 3), ((60, 3, 9, 12), 4), ((60, 3, 20), 3), ((60, 3, 20), 4)]
)
def test_what_is_dropped_is_made_of_whole_blocks(shape: tuple[int, ...], size: int) -> None:
    h = DropBlock(0.2, size).hidden(torch.ones(shape), site(), NOW)
    zero = h == 0
    blocks = [size] * (len(shape) - 2)
    covered = torch.zeros_like(zero)
    for begin in product(*[range(side - size + 1) for side in shape[2:]]):
        inside = [slice(at, at + b) for at, b in zip(begin, blocks, strict=True)]
        window = (slice(None), slice(None), *inside)
        whole = zero[window].flatten(2).all(2).view(*shape[:2], *[1] * len(blocks))
        covered[window] |= whole
    assert torch.equal(covered, zero)
    assert not torch.equal(zero[:, 0], zero[:, 1])  # every channel has its own blocks
    cells = zero.flatten(2).sum(2)
    assert cells[cells > 0].min() == size ** len(blocks)  # one block alone, of this very size


@pytest.mark.parametrize("shape", [(2, 2, 6, 6), (2, 2, 12)])
def test_every_example_channel_and_visit_has_blocks_of_its_own(shape: tuple[int, ...]) -> None:
    """Whether the middle cell is dropped, at two examples by two channels and at another place of the net."""

    def middle(key: Key, place: int) -> Tensor:
        visit = Site("hidden", 0, 1, 1.0, key.fold(place))
        return DropBlock(0.4, 3).hidden(torch.ones(shape), visit, NOW).flatten(2)[..., shape[2] // 2] == 0

    both = torch.vmap(lambda key: torch.stack([middle(Key(key), place) for place in range(2)]))
    drawn = both(Key.of(torch.arange(4000)).resolved()).flatten(1).float().T  # [8, N]
    assert 0.2 < drawn.mean() < 0.8
    # a correlation of nothing has the standard error 1 / sqrt(4000) = 0.016; shared blocks have a correlation of 1
    assert (torch.corrcoef(drawn) - torch.eye(8)).abs().max() < 5 * 0.016


def test_a_block_larger_than_the_map_is_the_map() -> None:
    h = DropBlock(0.3, 50).hidden(torch.ones(300, 200, 4, 6), site(), NOW).flatten(2)
    rows = DropBlock(0.3, 5).hidden(torch.ones(200, 100, 4, 6), site(), NOW)  # 4 x 5: every column whole
    assert torch.equal(h.amin(2), h.amax(2))
    assert (h[..., 0] == 0).float().mean().item() == pytest.approx(0.3, abs=0.0094)
    assert torch.equal(rows.amin(2), rows.amax(2))


def test_dropblock_leaves_dense_layers_alone() -> None:
    ones = torch.ones(5, 6)
    assert DropBlock(0.9, 3).hidden(ones, site(), NOW) is ones


BRANCHES = 4


def branches(method: Method, seed: int = 5, size: int = 40000) -> list[Tensor]:
    """The factor that each branch of a residual net gets, for every example: [B] each."""
    kinds = visits(resnet_mlp((4,), 3, width=2, depth=BRANCHES, skip=1.0), torch.zeros(1, 4))
    ones = torch.ones(size, 1)
    out = [(met.kind, method.hidden(ones, met, NOW)[:, 0]) for met in sites(kinds, Key.of(seed))]
    assert all((h == 1).all() for kind, h in out if kind != "branch")
    return [h for kind, h in out if kind == "branch"]


def test_stochastic_depth_skips_each_branch_at_its_own_rate_example_by_example() -> None:
    # rate 0.4 over 4 branches: 0.1, 0.2, 0.3, 0.4; five standard errors over 40,000 examples are 0.0122 or less
    skipped = branches(StochasticDepth(0.4))
    assert len(skipped) == BRANCHES
    for factor, rate in zip(skipped, (0.1, 0.2, 0.3, 0.4), strict=True):
        assert (factor == 0).float().mean().item() == pytest.approx(rate, abs=0.0122)
        torch.testing.assert_close(factor.amax(), torch.tensor(1 / (1 - rate)))
    both = ((skipped[2] == 0) & (skipped[3] == 0)).float().mean().item()
    assert both == pytest.approx(0.3 * 0.4, abs=0.0085)  # independent of each other


def test_a_skipped_branch_leaves_its_input() -> None:
    h = torch.randn(6, 3)
    assert torch.equal(Residual(nn.Sequential(nn.Identity()))(h), 2 * h)


def test_shake_drop_disturbs_each_branch_at_its_own_rate_and_keeps_the_mean() -> None:
    # an undisturbed factor is 1 / (1 - p), a disturbed one uniform between -1 and 1 times that; its mean is
    # (1 - p + p * 0) / (1 - p) = 1. Variance at p = 0.4: (0.6 + 0.4 / 3) / 0.36 - 1 = 1.04, five errors 0.026
    for factor, rate in zip(branches(ShakeDrop(0.4)), (0.1, 0.2, 0.3, 0.4), strict=True):
        calm = (factor * (1 - rate) - 1).abs() < 1e-6
        assert calm.float().mean().item() == pytest.approx(1 - rate, abs=0.0122)
        assert factor.mean().item() == pytest.approx(1, abs=0.026)
        shaken = factor[~calm] * (1 - rate)
        assert -1 <= shaken.min() < -0.99
        assert 0.99 < shaken.max() <= 1
        assert shaken.std().item() == pytest.approx(math.sqrt(1 / 3), rel=0.05)  # uniform on [-1, 1]


@pytest.mark.parametrize("functorch", [False, True])
def test_shake_drop_has_another_factor_for_the_gradient(functorch: bool) -> None:
    # at p = 0.5: 1 / 0.5 = 2 where undisturbed, else uniform in [0, 2]; its mean (0.5 + 0.5 / 2) / 0.5 = 1.5, its
    # variance (0.5 + 0.5 / 3) / 0.25 - 1.5^2 = 0.41667, so that five standard errors are 0.0228 over 20,000
    h = torch.full((20000, 1), 3.0)

    def total(h: Tensor) -> Tensor:
        return ShakeDrop(0.5).hidden(h, site("branch"), NOW).sum()

    slope = torch.func.grad(total)(h) if functorch else torch.autograd.grad(total(h.requires_grad_()), h)[0]
    value = ShakeDrop(0.5).hidden(h.detach(), site("branch"), NOW) / 3
    assert slope.mean().item() == pytest.approx(1.5, abs=0.0228)
    assert slope.min() >= 0
    calm = slope == 2
    assert calm.float().mean().item() == pytest.approx(0.5, abs=0.018)
    torch.testing.assert_close(value[calm], slope[calm])  # the same examples are calm forward and backward
    shaken = torch.stack([value[~calm], slope[~calm]])
    assert abs(torch.corrcoef(shaken)[0, 1].item()) < 0.05  # and the others draw twice


def test_shake_shake_weighs_two_branches_at_random_and_takes_their_mean_without() -> None:
    # at amount 0.5 the share is uniform on [0.25, 0.75]: mean 0.5, variance 0.25/12; five errors over 40,000 are 0.0036
    h = torch.stack([torch.full((40000, 1), 3.0), torch.full((40000, 1), 1.0)], 1)  # f = 3, g = 1
    mixed = ShakeShake(0.5).hidden(h, site("pair"), NOW).mean(1)[:, 0]  # 1 + 2 a
    share = (mixed - 1) / 2
    assert share.mean().item() == pytest.approx(0.5, abs=0.0036)
    assert share.min().item() == pytest.approx(0.25, abs=1e-3)
    assert share.max().item() == pytest.approx(0.75, abs=1e-3)
    assert torch.equal(ShakeShake(0.0).hidden(h, site("pair"), NOW), h)
    assert share.std().item() == pytest.approx(0.5 / math.sqrt(12), rel=0.02)  # it is noise, and not even


def test_shake_shake_draws_again_for_the_gradient() -> None:
    h = torch.ones(20000, 2, 1, requires_grad=True)
    shaken = ShakeShake(1.0).hidden(h, site("pair"), NOW)
    (slope,) = torch.autograd.grad(shaken.sum(), h)
    torch.testing.assert_close(slope.sum(1), torch.full((20000, 1), 2.0))  # 2 a and 2 (1 - a)
    assert slope.min() >= 0
    assert abs(torch.corrcoef(torch.stack([slope[:, 0, 0], shaken.detach()[:, 0, 0]]))[0, 1].item()) < 0.05


def test_shake_shake_gives_every_branch_a_twin_and_leaves_the_first_its_weights() -> None:
    plain, net = (resnet_mlp((4,), 3, width=5, depth=2, skip=1.0) for _ in range(2))
    net = ShakeShake(1.0).build(net)
    assert visits(net, torch.zeros(1, 4)) == ("input", "hidden", "pair", "branch", "hidden", "pair", "branch", "hidden")
    start, twins = (initial(n, [7]) for n in (plain, net))
    assert all(torch.equal(w, twins[name]) for name, w in start.items())
    assert len(twins) == len(start) + 8  # two blocks of two layers of a weight and a bias
    assert not torch.equal(twins["6.branch.0.weight"], twins["6.branch.other.0.weight"])
    block = TwoBranches(nn.Sequential(nn.Linear(2, 2), Mark("branch")))
    x, (first, other) = torch.randn(3, 2), (m for m in block.modules() if isinstance(m, nn.Linear))
    torch.testing.assert_close(block(x), (first(x) + other(x)) / 2)


def test_shake_shake_leaves_every_branch_of_a_transformer_one_end() -> None:
    net = ft_transformer((4,), 3, width=8, depth=2, heads=2)
    kinds = [visits(each, torch.zeros(2, 4)) for each in (net, ShakeShake(1.0).build(copy.deepcopy(net)))]
    assert kinds[1].count("branch") == kinds[0].count("branch") == kinds[1].count("pair") == 4


def test_a_skip_connection_leads_its_share_around_a_plain_branch() -> None:
    net, x = resnet_mlp((4,), 3, width=4, depth=1, skip=0.0), torch.randn(6, 4)
    first, up, down, last = (m for m in net.modules() if isinstance(m, nn.Linear))
    h = first(x).relu()
    torch.testing.assert_close(net(x), last(down(up(h).relu()).relu()))
    torch.testing.assert_close(SkipConnection(0.25).build(net)(x), last((0.25 * h + down(up(h).relu())).relu()))


def test_hidden_noise_is_of_its_scale() -> None:
    h = HiddenNoise(0.3).hidden(torch.full((400, 400), 2.0), site(), NOW)
    assert h.mean().item() == pytest.approx(2, abs=0.004)
    assert h.std().item() == pytest.approx(0.3, rel=0.01)


def elsewhere(kind: str) -> list[Method]:
    on_hidden = [GaussianDropout(0.5), AlphaDropout(0.5), ChannelDropout(0.5), DropBlock(0.5, 2), HiddenNoise(0.5)]
    on_branch: list[Method] = [StochasticDepth(0.5), ShakeDrop(0.5)]
    on_pair: list[Method] = [ShakeShake(0.5)]
    return {
        "input": on_hidden + on_branch + on_pair,
        "branch": on_hidden + on_pair,
        "hidden": on_branch + on_pair,
        "pair": [Dropout(0.5, 0.5), ManifoldMixup(1.0), *on_hidden, *on_branch],
    }[kind]


@pytest.mark.parametrize(("kind", "method"), [(k, m) for k in KINDS for m in elsewhere(k)])
def test_what_is_not_theirs_is_left_alone(kind: str, method: Method) -> None:
    ones = torch.ones(8, 4, 4, 4)
    assert method.hidden(ones, site(kind), NOW) is ones


def small() -> nn.Module:
    return mlp((4,), 2, width=3, depth=1)


REFUSED: list[tuple[Method, Callable[[], nn.Module], str]] = [
    *[
        (m, lambda: linear((4,), 2), "hidden layers")
        for m in elsewhere("branch")
        if not isinstance(m, DropBlock | ShakeShake)
    ],
    (Dropout(0.1, 0.0), lambda: linear((4,), 2), "hidden layers"),
    (RDrop(0.1, 0.1), lambda: linear((4,), 2), "hidden layers"),
    (DropBlock(0.1, 3), small, "no convolutions"),
    (StochasticDepth(0.1), small, "residual branches"),
    (StochasticDepth(0.1), lambda: resnet_mlp((4,), 2, 3, 2, skip=0.0), "a way around every branch"),
    (ShakeDrop(0.1), lambda: resnet_mlp((4,), 2, 3, 2, skip=0.0), "a way around every branch"),
    (ShakeShake(0.1), small, "residual blocks"),
    (SkipConnection(0.1), small, "residual blocks"),
    (ShakeDrop(0.1), lambda: convnet((1, 8, 8), 2, 4, 4), "residual branches"),
]


@pytest.mark.parametrize(("method", "net", "said"), REFUSED)
def test_a_net_on_which_it_could_do_nothing_is_refused(method: Method, net: Callable[[], nn.Module], said: str) -> None:
    with pytest.raises(Refusal, match=said):
        method.build(net())


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("method", [StochasticDepth(0.1), ShakeDrop(0.1)])
def test_plain_blocks_will_do_if_the_stack_makes_them_residual(method: Method, first: bool) -> None:
    for scale in (0.5, 0.0):
        one, other = {"it": method}, {"skip_connection": SkipConnection(scale)}
        stack = Stack(one | other if first else other | one)
        if scale:
            stack.build(resnet_mlp((4,), 2, 3, 2, skip=0.0))
        else:
            with pytest.raises(Refusal, match="a way around every branch"):
                stack.build(resnet_mlp((4,), 2, 3, 2, skip=1.0))


def test_a_net_that_suits_is_left_as_it_is() -> None:
    net, images = resnet_mlp((4,), 2, width=3, depth=2, skip=1.0), convnet((1, 8, 8), 2, 4, 4)
    assert StochasticDepth(0.1).build(net) is net
    flat = linear((4,), 2)
    assert Dropout(0.1, 0.1).build(flat) is flat  # which drops inputs
    assert DropBlock(0.1, 3).build(images) is images


def test_a_residual_mlp_has_its_marks_in_order_and_slots_before_each_activation() -> None:
    net = resnet_mlp((2, 3), 5, width=7, depth=2, skip=1.0)
    assert visits(net, torch.zeros(1, 2, 3)) == ("input", "hidden", "branch", "hidden", "branch", "hidden")
    # 6 * 7 + 7 in the first layer, 2 blocks of 2 * (7 * 7 + 7), 7 * 5 + 5 in the last: 49 + 224 + 40 = 313
    assert sum(w.numel() for w in net.parameters()) == 313
    assert net(torch.zeros(3, 2, 3)).shape == (3, 5)


def test_a_residual_mlp_adds_each_branch_to_what_went_around_it() -> None:
    net, x = resnet_mlp((4,), 3, width=5, depth=2, skip=1.0), torch.randn(6, 4)
    first, up, down, further_up, further_down, last = (m for m in net.modules() if isinstance(m, nn.Linear))
    h = first(x).relu()
    h = (h + down(up(h).relu())).relu()
    h = (h + further_down(further_up(h).relu())).relu()
    torch.testing.assert_close(net(x), last(h))


def test_depth_and_key_of_a_site_come_from_the_step() -> None:
    first, second = (s for s in sites(("branch", "branch"), Key.of(0)))
    assert (first.depth, second.depth) == (0.5, 1.0)
    assert first.kinds == ("branch", "branch")
    ones = torch.ones(64, 1)
    one, other = (StochasticDepth(0.5).hidden(ones, replace(s, depth=1.0), NOW) for s in (first, second))
    assert not torch.equal(one, other)
