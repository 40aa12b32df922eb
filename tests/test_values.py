"""Each method against a number worked out by hand."""

from __future__ import annotations

import copy
import itertools
import math

import pytest
import torch
from torch import Tensor, nn

from runner.engine.step import mean_loss
from runner.engine.weights import initial
from runner.keys import Key
from runner.methods.augment import Augment
from runner.methods.base import Batch, Now, Params, Seen, Site
from runner.methods.dropping import Dropout
from runner.methods.normalization import BatchNorm
from runner.methods.penalties import L1, L2, WeightDecay
from runner.methods.placebo import Placebo, SeededPlacebo
from runner.methods.stopping import EarlyStopping
from runner.nets.dense import mlp
from runner.nets.norms import BatchNormLayer

NOW = Now(Key.of(0), 0, 10, 0.1)
PARAMS: Params = {"w": torch.tensor([[3.0, -0.5], [0.01, -4.0]]), "b": torch.tensor([1.0, -2.0])}


def seen(params: Params) -> Seen:
    return Seen(params, Batch(torch.zeros(1, 2), torch.eye(2)[:1]), torch.zeros(1, 2), (), lambda x, key: x)


def site(kind: str = "hidden") -> Site:
    return Site(kind, 0, 1, 1.0, Key.of(1))


def test_cross_entropy_of_soft_targets() -> None:
    # logits 0, ln 3 give p = 1/4, 3/4; with y = 1/2, 1/2: -(ln 1/4 + ln 3/4) / 2 = ln 4 - ln(3) / 2 = 0.836988
    loss = mean_loss(torch.tensor([[0.0, math.log(3)]]), torch.tensor([[0.5, 0.5]]))
    assert loss.item() == pytest.approx(math.log(4) - math.log(3) / 2)


def test_proximal_l1_moves_by_lr_times_rate_and_stops_at_zero() -> None:
    # lr * rate = 0.1 * 0.5 = 0.05: 3 -> 2.95, -0.5 -> -0.45, 0.01 -> 0, -4 -> -3.95; biases stay
    moved = L1(0.5, "proximal", False).project(PARAMS, NOW)
    torch.testing.assert_close(moved["w"], torch.tensor([[2.95, -0.45], [0.0, -3.95]]))
    assert moved["w"][1, 0] == 0
    assert torch.equal(moved["b"], PARAMS["b"])


def test_subgradient_l1() -> None:
    # 0.5 * (3 + 0.5 + 0.01 + 4) = 3.755; with biases 3 more: 0.5 * 10.51 = 5.255
    assert L1(0.5, "subgradient", False).penalty(seen(PARAMS), NOW) == pytest.approx(3.755)
    assert L1(0.5, "subgradient", True).penalty(seen(PARAMS), NOW) == pytest.approx(5.255)
    assert torch.equal(L1(0.5, "subgradient", False).project(PARAMS, NOW)["w"], PARAMS["w"])


def test_l2_has_the_half() -> None:
    # 0.5 / 2 * (9 + 0.25 + 0.0001 + 16) = 6.312525; with biases 1 + 4 more: 7.562525
    assert L2(0.5, False).penalty(seen(PARAMS), NOW) == pytest.approx(6.312525)
    assert L2(0.5, True).penalty(seen(PARAMS), NOW) == pytest.approx(7.562525)


def test_l2_under_plain_sgd_is_torch_weight_decay() -> None:
    w = torch.tensor([[1.0, -2.0]], requires_grad=True)
    optimizer = torch.optim.SGD([w], lr=0.1, weight_decay=0.3)
    (w**3).sum().backward()
    optimizer.step()

    def loss(v: Tensor) -> Tensor:
        return (v**3).sum() + L2(0.3, False).penalty(seen({"w": v}), NOW)

    start = torch.tensor([[1.0, -2.0]])
    torch.testing.assert_close(start - 0.1 * torch.func.grad(loss)(start), w.detach())


def test_weight_decay_is_decoupled() -> None:
    # 1 - 0.1 * 0.5 = 0.95
    decayed = WeightDecay(0.5, False).project({"w": torch.ones(2, 2), "b": torch.ones(2)}, NOW)
    torch.testing.assert_close(decayed["w"], torch.full((2, 2), 0.95))
    assert torch.equal(decayed["b"], torch.ones(2))


def test_dropout_drops_its_rate_and_keeps_the_mean() -> None:
    # 160,000 draws: the standard error of the dropped share is sqrt(.3 * .7 / 160000) = 0.0011, so 5 of them are 0.006
    h = Dropout(0.3, 0.0).hidden(torch.ones(400, 400), site(), NOW)
    assert (h == 0).float().mean().item() == pytest.approx(0.3, abs=0.006)
    torch.testing.assert_close(h[h != 0], torch.full_like(h[h != 0], 1 / 0.7))


def test_dropout_has_a_rate_of_its_own_for_inputs_and_leaves_branches_alone() -> None:
    method, ones = Dropout(0.5, 0.2), torch.ones(400, 400)
    assert (method.hidden(ones, site("input"), NOW) == 0).float().mean().item() == pytest.approx(0.2, abs=0.005)
    assert torch.equal(method.hidden(ones, site("branch"), NOW), ones)


def test_placebo_adds_exactly_nothing() -> None:
    assert Placebo(100.0).penalty(seen(PARAMS), NOW) == 0.0


@pytest.mark.parametrize(
    ("patience", "min_delta", "stops"),
    [
        # losses       3.0    2.0    1.0    1.5    1.2    1.1
        (3, 0.0, [False, False, False, False, False, True]),
        (2, 0.0, [False, False, False, False, True, True]),
        # an improvement must exceed 1.0, so that only 3.0 counts after the first (3 - 2 is not more, 3 - 1 is)
        (2, 1.0, [False, False, False, False, True, True]),
        (1, 1.0, [False, True, False, True, True, True]),
    ],
)
def test_early_stopping(patience: int, min_delta: float, stops: list[bool]) -> None:
    curve = torch.tensor([3.0, 2.0, 1.0, 1.5, 1.2, 1.1])
    method = EarlyStopping(patience, min_delta)
    assert [bool(method.stop(curve[:e])) for e in range(1, 7)] == stops


def test_batch_norm_standardizes_each_channel() -> None:
    # channel 0 holds 1 and 3: mean 2, variance 1, so -1 and 1; channel 1 is constant, so 0; epsilon 0 is not allowed,
    # with 3: factor 1 / sqrt(1 + 3) = 1/2
    layer = BatchNormLayer(2, 1e-12).train()
    h = torch.tensor([[1.0, 5.0], [3.0, 5.0]])
    torch.testing.assert_close(layer(h), torch.tensor([[-1.0, 0.0], [1.0, 0.0]]))
    torch.testing.assert_close(BatchNormLayer(2, 3.0).train()(h), torch.tensor([[-0.5, 0.0], [0.5, 0.0]]))


def test_batch_norm_in_training_is_torchs() -> None:
    h = torch.randn(16, 3, 5, 5)
    torch.testing.assert_close(BatchNormLayer(3, 1e-5).train()(h), torch.nn.BatchNorm2d(3).train()(h))


def test_batch_norm_fills_every_slot() -> None:
    net = BatchNorm(1e-5).build(mlp((4,), 2, width=3, depth=2))
    assert sum(isinstance(m, BatchNormLayer) for m in net.modules()) == 2


def augmented(x: Tensor, magnitude: float, **policy: float) -> Tensor:
    return Augment(magnitude, policy).batch(Batch(x, torch.zeros(len(x), 2)), NOW).x


def test_signals_are_rolled_by_up_to_the_amount() -> None:
    # a unit impulse at 5 of 20 points, rolled by up to 0.15 * 20 = 3: it lands on 2 to 8, each place in turn
    x = torch.zeros(2000, 1, 20)
    x[:, :, 5] = 1
    landed = augmented(x, 1.0, shift=0.15)[:, 0].argmax(1)
    assert landed.unique().tolist() == [2, 3, 4, 5, 6, 7, 8]
    # rounding gives the two ends half the share of the others: 1/12 and 1/6
    assert (landed == 2).float().mean().item() == pytest.approx(1 / 12, abs=0.03)


def test_images_are_moved_with_their_edge_repeated() -> None:
    x = torch.arange(6.0).view(1, 1, 1, 6).expand(500, 1, 6, 6).contiguous()
    moved = augmented(x, 1.0, shift=1 / 6)[:, 0, 0]  # by -1, 0 or 1
    rows = {tuple(row.tolist()) for row in moved}
    assert rows == {(0, 0, 1, 2, 3, 4), (0, 1, 2, 3, 4, 5), (1, 2, 3, 4, 5, 5)}


def test_images_are_moved_along_each_axis_by_its_own_draw() -> None:
    # one white pixel in the middle of 21 x 21, moved by up to 0.4 * 21 = 8.4 pixels along each axis; without a
    # correlation that of 4000 draws has a standard error of 1 / sqrt(4000) = 0.016
    x = torch.zeros(4000, 1, 21, 21)
    x[:, :, 10, 10] = 1
    down, right = (augmented(x, 1.0, shift=0.4)[:, 0].amax(axis).argmax(1) for axis in (2, 1))
    for at in (down, right):
        assert at.unique().tolist() == list(range(2, 19))
    assert abs(torch.stack([down, right]).float().corrcoef()[0, 1].item()) < 0.08


def test_flip_mirrors_half_of_the_images() -> None:
    x = torch.arange(4.0).view(1, 1, 1, 4).expand(4000, 1, 2, 4).contiguous()
    flipped = augmented(x, 1.0, flip=0.5)[:, 0, 0, 0] == 3
    assert flipped.float().mean().item() == pytest.approx(0.5, abs=0.04)
    assert (augmented(x, 9.0, flip=0.5)[:, 0, 0, 0] == 3).float().mean().item() == pytest.approx(0.5, abs=0.04)


def test_rotation_turns_about_the_centre() -> None:
    # magnitude 90 times a policy of 1 degree; the centre of a 5 x 5 image stays, whatever the angle
    x = torch.zeros(64, 1, 5, 5)
    x[:, :, 2, 2] = 1
    turned = augmented(x, 90.0, rotate=1.0)
    torch.testing.assert_close(turned[:, 0, 2, 2], torch.ones(64), atol=1e-4, rtol=0)
    # a bar from the centre upwards, turned by about a right angle at the most, points to the left or the right in some
    # images, and to either side of the middle in as many; 5 standard errors of 1/2 among 64 are 0.31
    x[:, :, :3, 2] = 1
    turned = augmented(x, 90.0, rotate=1.0)[:, 0]
    assert turned[:, 2, 0].max() > 0.8
    assert turned[:, 2, 4].max() > 0.8
    left, right = turned[:, :, :2].sum((1, 2)), turned[:, :, 3:].sum((1, 2))
    assert (left > right).float().mean().item() == pytest.approx(0.5, abs=0.31)


def test_scale_noise_and_swap() -> None:
    ones = torch.ones(4000, 1, 4)
    factor = augmented(ones, 1.0, scale=0.1)[:, 0, 0]
    assert 0.9 <= factor.min() < 0.905
    assert 1.095 < factor.max() <= 1.1
    assert augmented(ones, 2.0, noise=0.1).std().item() == pytest.approx(0.2, rel=0.05)
    table = torch.arange(4000.0)[:, None].expand(4000, 3).contiguous()
    swapped = augmented(table, 1.0, swap=0.2)
    assert (swapped != table).float().mean().item() == pytest.approx(0.2, abs=0.02)


def test_a_seeded_placebo_draws_other_weights_and_computes_the_same() -> None:
    plain = nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 4))
    net = SeededPlacebo(2).build(copy.deepcopy(plain))
    x = torch.randn(5, 3)
    assert torch.equal(net(x), plain(x))
    assert SeededPlacebo(0).build(plain) is plain
    draws = [list(initial(SeededPlacebo(k).build(copy.deepcopy(plain)), [7]).values()) for k in (0, 1, 2, 2)]
    assert all(torch.equal(one, again) for one, again in zip(draws[2], draws[3], strict=True))
    for one, other in itertools.combinations(draws[:3], 2):
        assert all(not torch.equal(a, b) for a, b in zip(one, other, strict=True))
    # of the same distribution: uniform up to 1 / sqrt(3) for the first layer
    assert all(draw[0].abs().max() <= 3**-0.5 for draw in draws)
