"""The operations of the augmentation policies against torchvision's, on images between 0 and 1."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import pytest
import torch
import torchvision.transforms.v2.functional as F
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2

from runner.keys import Key
from runner.methods import policies
from runner.methods.policies import APPLY, MOVES, changed

KEY = Key.of(0)
Space = Mapping[str, tuple[Callable[[int, int, int], Tensor | None], bool]]  # of torchvision: amounts, and their signs


def image(channels: int) -> Tensor:
    """Four smooth random images of 12 x 10 that run from exactly 0 to exactly 1: [4, C, 12, 10]."""
    g = torch.Generator().manual_seed(2)
    x = torch.nn.functional.interpolate(torch.rand(4, channels, 4, 4, generator=g), (12, 10), mode="bicubic")
    low, high = x.amin((1, 2, 3), keepdim=True), x.amax((1, 2, 3), keepdim=True)
    return (x - low) / (high - low)


def amount(value: float) -> Tensor:
    return torch.full((4, 1, 1, 1), value)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("value", [-0.6, 0.0, 0.3, 0.9])
def test_brightness_contrast_and_sharpness(channels: int, value: float) -> None:
    x = image(channels)
    for name, theirs in (
        ("brightness", F.adjust_brightness),
        ("contrast", F.adjust_contrast),
        ("sharpness", F.adjust_sharpness),
    ):
        torch.testing.assert_close(APPLY[name](x, amount(value), KEY), theirs(x, 1 + value), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("channels", [1, 3])
def test_posterize_solarize_and_autocontrast(channels: int) -> None:
    x = image(channels)
    for bits in (1, 3, 6):
        torch.testing.assert_close(APPLY["posterize"](x, amount(8.0 - bits), KEY), F.posterize(x, bits))
    for threshold in (0.2, 0.5, 0.8):  # at 1 ours leaves white as it is and theirs makes it black
        torch.testing.assert_close(APPLY["solarize"](x, amount(1 - threshold), KEY), F.solarize(x, threshold))


@pytest.mark.parametrize("menus", [policies.RAND, policies.WIDE, policies.MIXED])
@pytest.mark.parametrize("share", [0.01, 0.4, 1.0])
def test_autocontrast_is_done_in_full_at_every_magnitude(menus: Mapping[str, policies.Menu], share: float) -> None:
    x, menu = image(3), {"autocontrast": menus["image"]["autocontrast"]}
    theirs = F.autocontrast(x)
    assert not torch.equal(theirs, x)
    torch.testing.assert_close(changed(x, menu, [torch.full((4,), share)], KEY), theirs, rtol=1e-4, atol=1e-5)
    assert torch.equal(changed(x, menu, [torch.zeros(4)], KEY), x)


@pytest.mark.parametrize("level", [0.1, 2.4, 2.6, 5.0, 7.4, 7.6, 9.9])
def test_aug_mix_posterizes_as_its_authors_do(level: float) -> None:
    # augmentations.py of google-research/augmix: posterize(image, 4 - int(level * 4 / 10)), for a level of 10
    x, menu = image(3), {"coarsen": policies.MIXED["image"]["coarsen"]}
    changed_by_us = changed(x, menu, [torch.full((4,), level / 10)], KEY)
    torch.testing.assert_close(changed_by_us, F.posterize(x, 4 - int(level * 4 / 10)))


THEIRS = {
    "shear_x": "ShearX", "shear_y": "ShearY", "translate_x": "TranslateX", "translate_y": "TranslateY",
    "rotate": "Rotate", "brightness": "Brightness", "contrast": "Contrast", "sharpness": "Sharpness",
    "posterize": "Posterize", "coarsen": "Posterize", "solarize": "Solarize", "autocontrast": "AutoContrast",
    "identity": "Identity",
}  # fmt: skip


@pytest.mark.parametrize(
    ("menu", "space", "side"),
    [
        (policies.RAND["image"], v2.RandAugment._AUGMENTATION_SPACE, 331),  # 150 of the paper's 331 pixels
        (policies.WIDE["image"], v2.TrivialAugmentWide._AUGMENTATION_SPACE, 32),  # and 32 pixels, of the 32 of CIFAR
        (policies.MIXED["image"], v2.AugMix._PARTIAL_AUGMENTATION_SPACE, 32),
    ],
)
def test_amounts_at_every_magnitude(menu: policies.Menu, space: Space, side: int) -> None:
    """Of 31 magnitudes; posterize and solarize say what is left where regrun says what is taken."""
    assert set(space) - {THEIRS[name] for name in menu} <= {"Color", "Equalize"}
    for name, full in menu.items():
        amounts, signed = space[THEIRS[name]]
        assert signed == (name in policies.SIGNED), name
        found = amounts(31, side, side)
        if found is None:
            assert name in ("identity", "autocontrast")
            continue
        expected = torch.as_tensor(found, dtype=torch.float32)
        if name.startswith("translate"):
            expected = expected / side
        ours = torch.linspace(0, full, policies.LEVELS + 1)
        if name in ("posterize", "solarize"):
            ours = 8 - ours.round() if name == "posterize" else 1 - ours
        if name == "coarsen":  # torchvision rounds to the nearest bit where the authors round down
            assert set((4 - ours.floor() - expected).tolist()) <= {0, 1}
            assert 4 - ours[-1] == expected[-1] == 0
            continue
        torch.testing.assert_close(ours, expected, rtol=0.01, atol=1e-6)


def moved(x: Tensor, **one: float) -> Tensor:
    return policies.moved(x, {name: amount(one.get(name, 0.0)) for name in MOVES})


def affine(
    x: Tensor, degrees: float = 0.0, by: tuple[int, int] = (0, 0), slopes: tuple[float, float] = (0, 0)
) -> Tensor:
    found: Tensor = F.affine(
        x,
        angle=degrees,
        translate=list(by),
        scale=1.0,
        shear=[math.degrees(math.atan(slope)) for slope in slopes],
        interpolation=InterpolationMode.BILINEAR,
    )
    return found


def close(mine: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("channels", [1, 3])
def test_moves(channels: int) -> None:
    x = image(channels)
    for degrees in (-30.0, 10.0, 135.0):
        close(moved(x, rotate=degrees), affine(x, degrees))
    for slope in (-0.3, 0.2, 0.99):
        close(moved(x, shear_x=slope), affine(x, slopes=(slope, 0)))
        close(moved(x, shear_y=slope), affine(x, slopes=(0, slope)))
    for share in (-0.3, 0.2):  # of 10 pixels across and 12 down
        close(moved(x, translate_x=share), affine(x, by=(round(10 * share), 0)))
        close(moved(x, translate_y=share), affine(x, by=(0, round(12 * share))))
    assert torch.equal(moved(x), x)


def test_standardized_images_are_changed_as_those_between_0_and_1() -> None:
    """2.5 x - 1 is changed into 2.5 times the change of x, less 1: whatever the operations drawn."""
    x, menu = image(3).repeat(25, 1, 1, 1), policies.RAND["image"]
    shares = [torch.full((100,), 0.7)] * 2
    plain, standardized = (changed(v, menu, shares, KEY) for v in (x, 2.5 * x - 1))
    # but where rounding decides: posterize steps, the threshold of solarize
    alike = ((2.5 * plain - 1 - standardized).abs() < 1e-4).float().mean()
    assert alike > 0.99
