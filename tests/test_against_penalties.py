"""Penalties against other implementations: torch's optimizers, losses, distributions and decompositions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any, TypeAlias

import pytest
import torch
import torch.nn.functional as F
from seen import NOW, of_logits, of_weights, slope, through, value
from torch import Tensor, nn
from torch.distributions import Poisson, RelaxedBernoulli, kl_divergence
from torchvision.ops import sigmoid_focal_loss

from runner.engine.lanes import lane_step
from runner.engine.optimizers import SGD, Adam, AdamW, Optimizer
from runner.engine.schedules import Cosine
from runner.engine.step import State
from runner.methods.base import Batch, Method, Params
from runner.methods.penalties import L2, WeightDecay
from runner.methods.placebo import Placebo
from runner.methods.smoothness import (
    FGSM,
    ActivityL1,
    ConfidencePenalty,
    Flooding,
    Focal,
    InputGradient,
    Jacobian,
    KLSparsity,
    LogitPenalty,
    RDrop,
    VirtualAdversarial,
)
from runner.methods.stack import Stack
from runner.methods.weight_penalties import (
    L0,
    L2SP,
    ElasticNet,
    GroupLasso,
    Orthogonal,
    PathNorm,
    SpectralPenalty,
)
from runner.nets.dense import mlp

CLASSES = 3
Groups: TypeAlias = list[dict[str, Any]]  # as torch.optim takes them
jacobian: Callable[..., Tensor] = torch.autograd.functional.jacobian


def draw(*shape: int, seed: int = 0) -> Tensor:
    """Standard normal numbers, double precision."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def soft(count: int) -> Tensor:
    return draw(count, CLASSES, seed=9).softmax(1)


def hard(count: int) -> tuple[Tensor, Tensor]:
    labels = torch.arange(count) % CLASSES
    return labels, torch.eye(CLASSES, dtype=torch.float64)[labels]


def small(kind: str) -> tuple[nn.Module, Tensor]:
    """A net of this kind, in double precision, and inputs to it."""
    torch.manual_seed(1)
    if kind == "mlp":
        return mlp((5,), CLASSES, width=7, depth=2).double(), draw(4, 5)
    conv = nn.Sequential(
        nn.Conv2d(2, 3, 3, stride=2, padding=1), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(12, CLASSES)
    )
    return conv.double(), draw(4, 2, 8, 8)


WEIGHTS: dict[str, Params] = {
    "wide": {"w": draw(3, 6)},
    "tall": {"w": draw(6, 3)},
    "filters": {"w": draw(4, 3, 2, 2), "v": draw(2, 3, 5, seed=1)},
}


@pytest.mark.parametrize("method", [ElasticNet(0.3, 0.0, "subgradient", True), L2SP(0.3, True)], ids=["ridge", "l2_sp"])
def test_under_sgd_it_is_torch_weight_decay(method: Method) -> None:
    w = draw(4, 3).requires_grad_()
    optimizer = torch.optim.SGD([w], lr=0.1, weight_decay=0.3)
    w.grad = 3 * w.detach() ** 2  # of sum w^3
    optimizer.step()
    now = replace(NOW, memory={"w": torch.zeros(4, 3, dtype=torch.float64)} if isinstance(method, L2SP) else {})
    start = draw(4, 3)
    torch.testing.assert_close(start - 0.1 * (3 * start**2 + slope(method, {"w": start}, now)["w"]), w.detach())


TRAINED: dict[str, tuple[Callable[[bool], Method], Optimizer, Callable[[Groups], torch.optim.Optimizer], float]] = {
    "l2": (
        lambda biases: L2(0.3, biases),
        SGD(0.1, 0.9, False),
        lambda groups: torch.optim.SGD(groups, 0.1, momentum=0.9),
        1e-12,
    ),
    # torch decays the weights before the step and regrun those after it, so that moves differ by rate * lr = 0.003 of
    # themselves: 0.01 per step, of which 50 are taken
    "weight_decay": (
        lambda biases: WeightDecay(0.3, biases),
        Adam(0.01, 0.9, 0.999, 1e-8),
        lambda groups: torch.optim.AdamW(groups, 0.01),
        50 * 0.01 * 0.003,
    ),
    "adamw": (
        lambda biases: Placebo(1.0),
        AdamW(0.01, 0.9, 0.999, 1e-8, 0.3, False),
        lambda groups: torch.optim.AdamW(groups, 0.01),
        1e-12,
    ),
}


@pytest.mark.parametrize("biases", [False, True])
@pytest.mark.parametrize("name", TRAINED)
def test_training_under_a_schedule_is_torchs(name: str, biases: bool) -> None:
    """Fifty steps at a rate that falls as a cosine: decay follows it, and biases decay only where they should."""
    make, optimizer, torchs, apart = TRAINED[name]
    if isinstance(optimizer, AdamW):
        optimizer = replace(optimizer, biases=biases)
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, CLASSES)).double()
    x, labels = draw(12, 5), torch.arange(12) % CLASSES
    x[:, 0] = 0  # what comes from the first input has no gradient, and decays alone
    params = {n: w.detach().clone() for n, w in net.named_parameters()}
    theirs = torchs([
        {"params": [w for w in net.parameters() if w.ndim > 1 or biases], "weight_decay": 0.3},
        {"params": [w for w in net.parameters() if w.ndim == 1 and not biases], "weight_decay": 0.0},
    ])  # fmt: skip
    schedule = torch.optim.lr_scheduler.LambdaLR(theirs, lambda at: Cosine(0.0).share(at, 50))
    step = lane_step(net, (), Stack({"it": make(biases)}), optimizer, mapped=False)
    batch = Batch(x[None], torch.eye(CLASSES, dtype=torch.float64)[labels][None])
    hyper = {
        f.name: torch.tensor([getattr(optimizer, f.name)], dtype=torch.float64)
        for f in fields(optimizer)
        if isinstance(getattr(optimizer, f.name), float)
    }
    moments = {n: m[None] for n, m in optimizer.begin(params).items()}
    state = State({n: w[None] for n, w in params.items()}, moments, {})
    for at in range(50):
        theirs.zero_grad()
        F.cross_entropy(net(x), labels).backward()
        theirs.step()
        schedule.step()
        share = torch.tensor(Cosine(0.0).share(at, 50), dtype=torch.float64)
        state, _ = step(state, batch, {}, hyper, torch.zeros(1, dtype=torch.int64), torch.tensor(at), 50, share)
    for n, w in net.named_parameters():
        torch.testing.assert_close(state.params[n][0], w.detach(), rtol=0, atol=apart)
        assert (w.detach() - params[n]).abs().max() > 0.05
    dead = state.params["0.weight"][0][:, 0]
    torch.testing.assert_close(dead, net.get_parameter("0.weight").detach()[:, 0], rtol=1e-5, atol=1e-7)
    assert (dead.abs() < 0.95 * params["0.weight"][:, 0].abs()).all()


def test_proximal_elastic_net_solves_its_problem() -> None:
    # the least of (v - w)^2 / 2 + lr * rate * (share |v| + (1 - share)/2 v^2) over a fine grid of v
    w, rate, share = draw(20), 8.0, 0.6
    grid = torch.linspace(-3, 3, 60_001, dtype=torch.float64)[:, None]
    cost = (grid - w) ** 2 / 2 + NOW.lr * rate * (share * grid.abs() + (1 - share) / 2 * grid**2)
    moved = ElasticNet(rate, share, "proximal", True).project({"w": w}, NOW)["w"]
    torch.testing.assert_close(moved, grid[cost.argmin(0), 0], atol=2e-4, rtol=0)
    assert (moved == 0).any()


@pytest.mark.parametrize("kind", WEIGHTS)
def test_group_lasso_against_torch_norms(kind: str) -> None:
    expected = sum(
        (float(unit.numel() ** 0.5 * torch.linalg.vector_norm(unit)) for w in WEIGHTS[kind].values() for unit in w), 0.0
    )
    assert value(GroupLasso(0.7, "subgradient", False), of_weights(WEIGHTS[kind])) == pytest.approx(0.7 * expected)


def test_proximal_group_lasso_solves_its_problem() -> None:
    # at the least of |v - w|^2 / 2 + c |v|: v - w + c v / |v| = 0, or |w| <= c where v = 0
    w, rate = draw(8, 3), 9.0
    cut = NOW.lr * rate * 3**0.5
    moved = GroupLasso(rate, "proximal", False).project({"w": w}, NOW)["w"]
    dropped = (moved == 0).all(1)
    assert dropped.tolist() == (w.norm(dim=1) <= cut).tolist()
    assert 0 < dropped.sum() < 8
    kept = moved[~dropped]
    torch.testing.assert_close(kept - w[~dropped] + cut * kept / kept.norm(dim=1, keepdim=True), torch.zeros_like(kept))


@pytest.mark.parametrize("kind", WEIGHTS)
def test_orthogonal_against_singular_values(kind: str) -> None:
    # |G - I|_F^2 = sum (sigma^2 - 1)^2 over all min(out, in) singular values
    expected = sum(((torch.linalg.svdvals(w.flatten(1)) ** 2 - 1) ** 2).sum() for w in WEIGHTS[kind].values())
    assert value(Orthogonal(0.7), of_weights(WEIGHTS[kind])) == pytest.approx(0.7 * float(expected))


@pytest.mark.parametrize("kind", WEIGHTS)
def test_spectral_penalty_against_torch(kind: str) -> None:
    method, leaves = SpectralPenalty(0.7), {n: w.clone().requires_grad_() for n, w in WEIGHTS[kind].items()}
    expected = (
        0.7 / 2 * torch.stack([torch.linalg.matrix_norm(w.flatten(1), ord=2) ** 2 for w in leaves.values()]).sum()
    )
    now = replace(NOW, memory=method.recall(WEIGHTS[kind]))
    for _ in range(100):  # as in training, where the weights hold still
        now = replace(now, memory=method.remember(WEIGHTS[kind], now))
    assert value(method, of_weights(WEIGHTS[kind]), now) == pytest.approx(expected.item())
    slopes = slope(method, WEIGHTS[kind], now)
    for name, exact in zip(leaves, torch.autograd.grad(expected, list(leaves.values())), strict=True):
        torch.testing.assert_close(slopes[name], exact)


@pytest.mark.parametrize("kind", ["mlp", "conv"])
def test_path_norm_against_the_slopes_of_the_squared_net(kind: str) -> None:
    # with squared weights and no biases the net is linear for inputs above zero, and an entry of its Jacobian is the
    # sum over the paths from one input to one logit
    net, x = small(kind)
    found = value(PathNorm(0.7, False), through(net, x, soft(4)))
    with torch.no_grad():
        for w in net.parameters():
            w.copy_(w**2 if w.ndim >= 2 else torch.zeros_like(w))
    paths = jacobian(lambda at: net(at[None])[0], x[0].abs() + 0.1)
    assert found == pytest.approx(0.7 / 2 * paths.sum().item())


def test_path_norm_is_blind_to_rescaling_a_unit() -> None:
    net, x = small("mlp")
    before = value(PathNorm(1.0, False), through(net, x, soft(4)))
    with torch.no_grad():
        net.get_parameter("2.weight")[0] *= 5
        net.get_parameter("6.weight")[:, 0] /= 5
    assert value(PathNorm(1.0, False), through(net, x, soft(4))) == pytest.approx(before)


@pytest.mark.parametrize("log_alpha", [-2.0, 0.5, 3.0])
def test_l0_gates_against_torchs_concrete_distribution(log_alpha: float) -> None:
    torch.manual_seed(0)
    count = 50_000
    concrete = RelaxedBernoulli(torch.tensor(2 / 3), logits=torch.tensor(log_alpha)).rsample(torch.Size([count]))
    expected = torch.clamp(1.2 * concrete - 0.1, 0, 1)
    params = {"weight": torch.ones(count, 1), "gates.log_alpha": torch.full((count,), log_alpha)}
    z = L0(1.0, 0.5).weights(params, NOW)["weight"][:, 0]
    # two shares of 50,000 draws each differ by less than 5 * sqrt(2 * .25 / 50000) = 0.016
    for at in (0.0, 0.2, 0.5, 0.9, 0.999):
        assert (z <= at).float().mean().item() == pytest.approx((expected <= at).float().mean().item(), abs=0.016)
    share_open = value(L0(1.0, 0.5), of_weights(params)) / count
    assert share_open == pytest.approx((expected > 0).float().mean().item(), abs=0.016)


def test_logit_penalty_against_torch() -> None:
    logits = draw(6, CLASSES)
    expected = F.mse_loss(logits, torch.zeros_like(logits)) * CLASSES / 2
    assert value(LogitPenalty(0.7), of_logits(logits, soft(6))) == pytest.approx(0.7 * expected.item())


def test_confidence_penalty_against_torch() -> None:
    logits = draw(6, CLASSES)
    p = logits.softmax(1)
    expected = -torch.special.entr(p).sum(1).mean()
    assert value(ConfidencePenalty(0.7), of_logits(logits, soft(6))) == pytest.approx(0.7 * expected.item())


@pytest.mark.parametrize("gamma", [0.5, 2.0, 5.0])
def test_focal_against_torchvision(gamma: float) -> None:
    # two classes with logits 0 and z are one sigmoid of z
    z, labels = draw(8), torch.arange(8) % 2
    logits = torch.stack([torch.zeros_like(z), z], 1)
    expected = sigmoid_focal_loss(z, labels.double(), alpha=-1, gamma=gamma, reduction="mean")
    focal = value(Focal(gamma), of_logits(logits, torch.eye(2, dtype=torch.float64)[labels]))
    assert focal + nn.CrossEntropyLoss()(logits, labels).item() == pytest.approx(expected.item())


@pytest.mark.parametrize("level", [0.1, 0.9, 2.5])
def test_flooding_against_its_formula(level: float) -> None:
    logits, y = draw(6, CLASSES), soft(6)
    loss = nn.CrossEntropyLoss()(logits, y).item()
    assert value(Flooding(level), of_logits(logits, y)) + loss == pytest.approx(abs(loss - level) + level)


def test_penalties_on_hidden_values_against_torch() -> None:
    hidden = (draw(6, 4).relu(), draw(6, 3, 5, 5, seed=1).relu())
    seen = of_logits(draw(6, CLASSES), soft(6), hidden)
    expected = sum(F.l1_loss(h, torch.zeros_like(h), reduction="sum").item() / 6 for h in hidden)
    assert value(ActivityL1(0.7), seen) == pytest.approx(0.7 * expected)
    target = Poisson(torch.tensor(0.05, dtype=torch.float64))
    means = (hidden[0].mean(0), hidden[1].mean((0, 2, 3)))
    divergence = sum(kl_divergence(target, Poisson(m)).sum().item() for m in means)
    assert value(KLSparsity(0.7, 0.05), seen) == pytest.approx(0.7 * divergence)


@pytest.mark.parametrize("kind", ["mlp", "conv"])
def test_jacobian_against_torch(kind: str) -> None:
    # one example many times over is many projections of one Jacobian
    net, x = small(kind)
    exact = (jacobian(lambda at: net(at[None])[0], x[0]) ** 2).sum().item()
    many = x[:1].expand(20_000, *x.shape[1:])
    assert value(Jacobian(0.7), through(net, many, soft(20_000))) == pytest.approx(0.7 / 2 * exact, rel=0.03)


@pytest.mark.parametrize("kind", ["mlp", "conv"])
def test_input_gradient_against_torch(kind: str) -> None:
    net, x = small(kind)
    y = soft(4)
    slopes = [jacobian(lambda at, i=i: nn.CrossEntropyLoss()(net(at[None])[0], y[i]), x[i]) for i in range(4)]
    expected = 0.7 / 2 * sum((s**2).sum().item() for s in slopes) / 4
    assert value(InputGradient(0.7), through(net, x, y)) == pytest.approx(expected)


def test_r_drop_against_torch() -> None:
    p, q = draw(6, CLASSES), draw(6, CLASSES, seed=1)
    labels, y = hard(6)
    cross_entropy = (nn.CrossEntropyLoss()(p, labels) + nn.CrossEntropyLoss()(q, labels)) / 2
    logp, logq = p.log_softmax(1), q.log_softmax(1)
    divergence = sum(
        F.kl_div(a, b, log_target=True, reduction="batchmean").item() for a, b in ((logp, logq), (logq, logp))
    )
    seen = replace(of_logits(p, y), forward=lambda x, key: q)
    total = value(RDrop(0.7, 0.0), seen) + nn.CrossEntropyLoss()(p, labels).item()
    assert total == pytest.approx(cross_entropy.item() + 0.7 * divergence / 2)


@pytest.mark.parametrize("kind", ["mlp", "conv"])
def test_fgsm_against_torch(kind: str) -> None:
    net, x = small(kind)
    labels, y = hard(4)
    x = x.requires_grad_()
    clean = nn.CrossEntropyLoss()(net(x), labels)
    (slope_of_x,) = torch.autograd.grad(clean, x)
    worse = nn.CrossEntropyLoss()(net(x + 0.1 * slope_of_x.sign()), labels)
    total = value(FGSM(0.1, 0.3), through(net, x.detach(), y)) + clean.item()
    assert total == pytest.approx(0.3 * clean.item() + 0.7 * worse.item())
    assert worse > clean


@pytest.mark.parametrize("kind", ["mlp", "conv"])
def test_virtual_adversarial_finds_a_worse_change_than_chance(kind: str) -> None:
    net, x = small(kind)
    logp = net(x).log_softmax(1).detach()

    def apart(change: Tensor) -> float:
        moved = 0.5 * change / change.flatten(1).norm(dim=1).view(-1, *[1] * (change.ndim - 1))
        return F.kl_div(net(x + moved).log_softmax(1), logp, log_target=True, reduction="batchmean").item()

    found = value(VirtualAdversarial(0.5, 1.0), through(net, x, soft(4)))
    # kl_div(q, p) is KL(p || q); with one power iteration it beats nearly every random direction of the same length
    chance = [apart(draw(*x.shape, seed=seed)) for seed in range(50)]
    assert found > sorted(chance)[-3]


def test_virtual_adversarial_against_the_exact_direction() -> None:
    # 60 power iterations with the exact Fisher matrix J^T (diag p - p p^T) J at one example
    net, x = small("mlp")
    torch.manual_seed(3)
    slopes = jacobian(lambda at: net(at[None])[0], x[0])
    p = net(x[:1]).softmax(1)[0].detach()
    fisher = slopes.T @ (torch.diag(p) - p[:, None] * p) @ slopes
    start = draw(2000, 5, seed=5)
    start = start / start.norm(dim=1, keepdim=True)
    once = start @ fisher
    once = once / once.norm(dim=1, keepdim=True)
    logp = net(x[:1]).log_softmax(1).detach()
    expected = F.kl_div(
        net(x[:1] + 1e-2 * once).log_softmax(1), logp.expand(2000, -1), log_target=True, reduction="batchmean"
    ).item()
    # over 2000 random starts both find the same mean divergence, which is between chance's and the largest eigenvalue's
    found = value(VirtualAdversarial(1e-2, 1.0), through(net, x[:1].expand(2000, -1), soft(2000)))
    assert found == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("method", [Jacobian(0.3), InputGradient(0.3)])
@pytest.mark.parametrize("kind", ["mlp", "conv"])
def test_slopes_of_slopes_against_finite_differences(method: Method, kind: str) -> None:
    net, x = small(kind)
    params = {name: w.detach().clone() for name, w in net.named_parameters()}
    name = next(iter(params))
    direction = draw(*params[name].shape, seed=7)

    def at(step: Tensor | float) -> Tensor:
        moved = params | {name: params[name] + step * direction}
        return torch.as_tensor(method.penalty(through(net, x, soft(4), moved), NOW))

    along: Callable[[Tensor], Tensor] = torch.func.grad(at)
    exact = along(torch.zeros((), dtype=torch.float64)).item()
    assert exact == pytest.approx((at(1e-5) - at(-1e-5)).item() / 2e-5, rel=1e-5)
