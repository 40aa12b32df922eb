"""Every pair of methods in one stack: it trains, or it is refused when the net is built, for a reason that is known."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from cases import CASES
from settings import Trainer

from runner.errors import Refusal
from runner.methods.stack import Stack
from runner.paths import options, stacked

NAMES = [name for name in CASES if name in options("method")] + ["augment_image"]
NORMS = ("batch_norm", "layer_norm", "group_norm", "rms_norm", "ghost_batch_norm")
AVERAGES = ("swa", "ema", "lookahead", "mean_teacher", "snapshot_ensemble")
RESHAPES = ("weight_norm", "spectral_norm", "weight_standardization", "weight_noise", "drop_connect", "l0")
LOSSES = ("focal", "fgsm", "bootstrap", "flooding", "r_drop")
MIXES = ("mixup", "cutmix", "manifold_mixup")
REFUSED = {
    **{frozenset(pair): "fill the model's slots with a norm" for pair in combinations(NORMS, 2)},
    **{frozenset(pair): "choose the weights to evaluate" for pair in combinations(AVERAGES, 2)},
    **{frozenset(pair): "put a loss of their own" for pair in combinations(LOSSES, 2)},
    frozenset(("path_norm", "alpha_dropout")): "no sums over paths",
    frozenset(("sam", "asam")): "choose the weights at which the gradient is taken",
    **{frozenset(("aug_mix_jsd", mix)): "compares views of one example" for mix in MIXES},
    **{
        frozenset(("spectral_norm", other)): "both give the layers their weights"
        for other in ("weight_norm", "weight_standardization", "l0")
    },
    frozenset(("weight_norm", "weight_standardization")): "do not depend on the lengths",
    **{frozenset(("path_norm", other)): "whose weights are as they are" for other in (*NORMS, *RESHAPES)},
}


def first_steps(names: tuple[str, str], mapped: bool) -> str | None:
    """Two steps of the pair in this order, which must give finite weights; the message if it is refused."""
    stack = Stack({name: CASES[name].method for name in names})
    trainer = Trainer(stack, "image")
    try:
        trainer.net()
    except Refusal as refusal:
        return str(refusal)
    state, loss = trainer.train([0, 1] if mapped else [0], mapped, steps=2)
    assert loss.isfinite().all(), names
    assert all(torch.isfinite(w).all() for w in state.params.values()), names
    return None


def check(name: str, others: list[str], mapped: bool, turned: bool = False) -> None:
    for other in others:
        why, told = REFUSED.get(frozenset((name, other))), first_steps((name, other), mapped)
        if turned:
            told_turned = first_steps((other, name), mapped)
            assert (told is None) == (told_turned is None), (name, other)
        if why is None:
            assert told is None, (name, other)
        else:
            assert told is not None, (name, other)
            assert why in told, (name, other)
            assert "\n" not in told


def test_all_methods_are_tried() -> None:
    assert {name.removesuffix("_image") for name in NAMES} == {n for n in options("method") if stacked(n) == [n]} - {
        "none"
    }
    assert all(pair <= set(NAMES) for pair in REFUSED)


@pytest.mark.parametrize("name", NAMES[:-1])
def test_a_pair_trains_or_is_refused(name: str) -> None:
    check(name, NAMES[NAMES.index(name) + 1 :], mapped=False)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_pair_trains_in_lanes_in_either_order(name: str) -> None:
    check(name, NAMES[NAMES.index(name) + 1 :], mapped=True, turned=True)
