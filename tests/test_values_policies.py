"""Augmentation policies against values worked out by hand; test_against_policies has the operations themselves."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pytest
import torch
from settings import SHAPES
from torch import Tensor

from runner.errors import Refusal
from runner.keys import Key
from runner.methods import policies
from runner.methods.base import Batch, Method, Now, Seen
from runner.methods.policies import AugMix, AugMixJSD, RandAugment, TrivialAugment, changed

NOW = Now(Key.of(0), 0, 10, 0.1)
KEY = Key.of(0)
RAMP = torch.tensor([[[[-1.0, 0.0, 1.0, 3.0]]]])  # one image of one row: as shares of its range 0, 1/4, 1/2, 1


def acted(method: Method, x: Tensor) -> Tensor:
    return method.batch(Batch(x, torch.zeros(len(x), 2)), NOW).x


def only(name: str, amount: float, x: Tensor) -> Tensor:
    """x after one operation at this amount, up and down where it has a sign."""
    many = x.expand(64, *x.shape[1:])
    menu = {name: amount, **({m: 0.0 for m in policies.MOVES if m != name} if name in policies.MOVES else {})}
    found = [y for y in changed(many, menu, [torch.ones(64)], KEY) if not torch.equal(y, x[0])]
    return torch.unique(torch.stack(found), dim=0)  # type: ignore[no-any-return]  # torch says Any


def test_values_are_read_from_black_to_white() -> None:
    # brightness 1 + 1/2 or 1 - 1/2: 0, 3/8, 3/4, 1 and 0, 1/8, 1/4, 1/2 of the range from -1 to 3
    expected = torch.tensor([[[[-1.0, -0.5, 0.0, 1.0]]], [[[-1.0, 0.5, 2.0, 3.0]]]])
    torch.testing.assert_close(only("brightness", 0.5, RAMP), expected)
    # solarize 1/2: what is brighter than 1/2 is inverted: 1 becomes 0
    torch.testing.assert_close(only("solarize", 0.5, RAMP), torch.tensor([[[[-1.0, 0.0, 1.0, -1.0]]]]))
    # contrast, about the mean grey (0 + 1/4 + 1/2 + 1) / 4 = 7/16, of factor 1/2: 7/32, 11/32, 15/32, 23/32; of 3/2:
    # 0 (below black), 5/32, 17/32, 1 (above white)
    expected = torch.tensor([[7.0, 11.0, 15.0, 23.0], [0.0, 5.0, 17.0, 32.0]]).view(2, 1, 1, 4) / 32 * 4 - 1
    assert {tuple(v.flatten().tolist()) for v in only("contrast", 0.5, RAMP)} == {
        tuple(v.flatten().tolist()) for v in expected
    }
    # posterize by 7 of 8 bits leaves two steps, black below the middle and half from it on: 0, 0, 1/2, 1/2
    torch.testing.assert_close(only("posterize", 7.0, RAMP), torch.tensor([[[[-1.0, -1.0, 1.0, 1.0]]]]))


def test_autocontrast_stretches_every_channel() -> None:
    # the second channel runs from -1 to 1 of the image's -1 to 3, and then to 3
    x = torch.cat([RAMP, torch.tensor([[[[-1.0, 0.0, 1.0, 1.0]]]])], 1)
    torch.testing.assert_close(only("autocontrast", 1.0, x)[0, 1, 0], torch.tensor([-1.0, 1.0, 3.0, 3.0]))
    # a grey image runs from black to white as it is read
    alone = changed(RAMP, {"autocontrast": 1.0}, [torch.ones(1)], KEY)
    assert torch.equal(alone, RAMP)


def test_translations_bring_in_black() -> None:
    # a quarter of four pixels is one, to the right or to the left
    x = RAMP.expand(1, 1, 2, 4) + 2  # 1, 2, 3, 5
    found = {tuple(v[0, 0].tolist()) for v in only("translate_x", 0.25, x)}
    assert found == {(1.0, 1.0, 2.0, 3.0), (2.0, 3.0, 5.0, 1.0)}


def test_signals_have_operations_of_their_own() -> None:
    x = torch.tensor([[[0.0, 3.0, 0.0, -3.0]]])
    rows = {
        name: {tuple(v[0].round(decimals=5).tolist()) for v in only(name, amount, x)}
        for name, amount in (("shift", 0.25), ("scale", 0.5), ("tilt", 1.5), ("smooth", 1.0))
    }
    assert rows["shift"] == {(-3.0, 0.0, 3.0, 0.0), (3.0, 0.0, -3.0, 0.0)}
    assert rows["scale"] == {(0.0, 4.5, 0.0, -4.5), (0.0, 1.5, 0.0, -1.5)}
    assert rows["tilt"] == {(-1.5, 2.5, 0.5, -1.5), (1.5, 3.5, -0.5, -4.5)}
    # the means of three: (0 + 3 + 0) / 3 = 1 and (3 + 0 - 3) / 3 = 0; the ends stay
    assert rows["smooth"] == {(0.0, 1.0, 0.0, -3.0)}
    noise = changed(torch.zeros(2000, 1, 10), {"noise": 0.5}, [torch.ones(2000)], KEY)
    assert noise.std().item() == pytest.approx(0.5, rel=0.03)
    # a window of 0.4 * 10 = 4 points whose centre is uniform over the signal, beyond whose ends it reaches by
    # 2 * (0.2^2 / 2) = 0.04 of the length on average, 0.4 points
    cut = changed(torch.ones(4000, 1, 10), {"cutout": 0.4}, [torch.ones(4000)], KEY)[:, 0]
    assert (cut == 0).sum(1).float().mean().item() == pytest.approx(3.6, abs=0.05)
    assert (cut == 0).sum(1).max() <= 4


@pytest.mark.parametrize("kind", ["image", "signal"])
@pytest.mark.parametrize("menus", [policies.RAND, policies.WIDE, policies.MIXED])
def test_every_operation_of_a_menu_is_drawn_equally_often(menus: Mapping[str, policies.Menu], kind: str) -> None:
    menu, n = menus[kind], 6000
    x = torch.randn(1, *SHAPES[kind], generator=torch.Generator().manual_seed(0)).expand(n, -1, *SHAPES[kind][1:])
    still = (changed(x, menu, [torch.ones(n)], KEY) == x).flatten(1).all(1).float().mean().item()
    # identity is one of the menu's; the standard error is below sqrt(1/4 / 6000) = 0.0065
    expected = 1 / len(menu) if "identity" in menu else 0.0
    assert still == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize("kind", ["image", "signal"])
def test_two_operations_are_drawn_apart_and_act_in_turn(kind: str) -> None:
    # with identity and one other, the chance that neither of two draws acts is 1/4
    menu = {"identity": 0.0, "solarize": 0.7} if kind == "image" else {"identity": 0.0, "scale": 0.5}
    x = torch.rand(1, *SHAPES[kind], generator=torch.Generator().manual_seed(0)).expand(8000, -1, *SHAPES[kind][1:])
    still = (changed(x, menu, [torch.ones(8000)] * 2, KEY) == x).flatten(1).all(1).float().mean().item()
    assert still == pytest.approx(0.25, abs=0.02)


def test_magnitudes() -> None:
    """By the tilt of a signal of zeros, whose first value is then minus or plus its amount."""

    def tilts(method: Method) -> Tensor:
        return acted(method, torch.zeros(4000, 1, 5))[:, 0, 0].abs()

    only_tilt = pytest.MonkeyPatch()
    with only_tilt.context() as patch:
        for name in ("RAND", "WIDE", "MIXED"):
            patch.setattr(policies, name, {"signal": {"tilt": 2.0}})
        # 9 of 30 of 2
        torch.testing.assert_close(tilts(RandAugment(9.0, 1)), torch.full((4000,), 0.6))
        # uniform up to half of 2: mean 0.5, standard error 1 / sqrt(12 * 4000) = 0.0046
        wide = tilts(TrivialAugment(0.5))
        assert wide.mean().item() == pytest.approx(0.5, abs=0.02)
        assert 0.99 < wide.max() <= 1.0
        # one chain of AugMix is at most three tilts of 3 of 10 of 2 each: 1.8, of which it takes a share up to 1
        assert 1.0 < tilts(AugMix(3.0, 1)).max() <= 1.8


def test_aug_mix_mixes_shares() -> None:
    # a chain that turns 1 into 1 + 2 = 3 whatever its depth (noise, tilt and the like replaced by one addition): then
    # x + m * sum_i w_i * 2 = 1 + 2 m, m uniform on [0, 1]: mean 2, standard error 2 / sqrt(12 * 4000) = 0.009
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(policies, "changed", lambda x, menu, shares, key: x + 2)
        mixed = acted(AugMix(3.0, 3), torch.ones(4000, 1, 5))
    assert mixed.mean().item() == pytest.approx(2.0, abs=0.04)
    assert 1.0 <= mixed.min() < 1.01
    assert 2.99 < mixed.max() <= 3.0 + 1e-5
    assert torch.equal(mixed[:, :, :1].expand_as(mixed), mixed)


def test_the_weights_of_the_chains_of_aug_mix_are_uniform_on_the_simplex() -> None:
    # chain i adds 1 to column i, which then holds m w_i. Of three shares that are uniform on the simplex each has mean
    # 1/3 and variance (1/3) (2/3) / 4 = 1/18, any two a covariance of -1/36, and one is above 1/2 with chance 1/4
    chains = iter(torch.eye(3))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(policies, "changed", lambda x, menu, shares, key: x + next(chains))
        added = acted(AugMix(3.0, 3), torch.zeros(20000, 1, 3))[:, 0]
    w = added / added.sum(1, keepdim=True)
    torch.testing.assert_close(w.mean(0), torch.full((3,), 1 / 3), atol=0.01, rtol=0)
    torch.testing.assert_close(w.T.cov(), (3 * torch.eye(3) - 1) / 36, atol=0.002, rtol=0)
    assert (w[:, 0] > 0.5).float().mean().item() == pytest.approx(1 / 4, abs=0.016)


def test_chains_and_copies_of_aug_mix_are_drawn_apart() -> None:
    keys: list[int] = []
    amounts: list[tuple[float, ...]] = []

    def note(x: Tensor, menu: policies.Menu, shares: list[Tensor], key: Key) -> Tensor:
        keys.append(int(key.resolved()))
        amounts.append(tuple(shares[0].tolist()))
        return x + len(keys)

    views: list[Tensor] = []

    def forward(x: Tensor, key: Key) -> Tensor:
        views.append(x)
        keys.append(int(key.resolved()))
        return x[:, 0, :2]

    batch = Batch(torch.zeros(8, 1, 5), torch.eye(2)[[0] * 8])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(policies, "changed", note)
        AugMixJSD(3.0, 2, 12.0).penalty(Seen({}, batch, batch.x[:, 0, :2], (), forward), NOW)
    assert len(amounts) == len(set(amounts)) == 4  # two chains in each of two copies
    assert len(keys) == len(set(keys)) == 6  # and the noise of the two forward passes
    # a copy is m times a mean of whole numbers, which says nothing of m alone: the weights of its chains differ too
    assert not torch.equal(views[0] / views[0].sum(), views[1] / views[1].sum())


def test_aug_mix_has_chains_of_one_to_three() -> None:
    depths: list[Tensor] = []

    def note(x: Tensor, menu: policies.Menu, shares: list[Tensor], key: Key) -> Tensor:
        depths.append(torch.stack([share > 0 for share in shares]).sum(0))
        return x

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(policies, "changed", note)
        acted(AugMix(3.0, 1), torch.ones(6000, 1, 5))
    counts = depths[0].bincount(minlength=4) / 6000
    assert counts.tolist() == pytest.approx([0, 1 / 3, 1 / 3, 1 / 3], abs=0.03)


def test_the_divergence_of_three_predictions() -> None:
    # p = (1, 0) for x and (0, 1) for both copies: their mean is (1/3, 2/3), and the mean of the divergences from it
    # (ln 3 + 2 ln(3/2)) / 3 = ln 3 - 2/3 ln 2 = 0.636514; two examples of which the second has three times (1/2, 1/2)
    def forward(x: Tensor, key: Key) -> Tensor:
        return torch.tensor([[-40.0, 40.0], [0.0, 0.0]])

    batch = Batch(torch.zeros(2, 1, 8), torch.eye(2))
    seen = Seen({}, batch, torch.tensor([[40.0, -40.0], [0.0, 0.0]]), (), forward)
    expected = (math.log(3) - 2 / 3 * math.log(2)) / 2
    assert AugMixJSD(3.0, 3, 12.0).penalty(seen, NOW).item() == pytest.approx(12 * expected)
    assert AugMixJSD(0.0, 3, 12.0).penalty(seen, NOW).item() == 0
    assert AugMixJSD(3.0, 3, 12.0).batch(batch, NOW) is batch


def test_an_image_of_one_value_stays() -> None:
    flat = torch.full((64, 3, 6, 6), 0.7)
    for method in (RandAugment(30.0, 3), TrivialAugment(1.0), AugMix(10.0, 3)):
        assert torch.isfinite(acted(method, flat)).all()


@pytest.mark.parametrize(
    ("name", "method"),
    [("rand_augment", RandAugment(9.0, 2)), ("trivial_augment", TrivialAugment(1.0)), ("aug_mix", AugMix(3.0, 3))],
)
def test_tables_are_refused(name: str, method: Method) -> None:
    with pytest.raises(Refusal, match=f"method is {name}, which has operations for images and signals"):
        acted(method, torch.zeros(4, 6))
