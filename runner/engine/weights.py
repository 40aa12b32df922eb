"""The weights of many runs: how they begin, and what is measured of them at the end."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from runner.experiment import Experiment
from runner.keys import torch_seed
from runner.methods.base import Params, penalized


def built_net(experiment: Experiment) -> nn.Module:
    """The experiment's net as its methods build it; torch's global generator is left as it was.

    What a module cannot draw again itself, seed by seed, is at least the same every time.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)  # torch.manual_seed would queue the seed for every kind of device
        return experiment.stack.build(experiment.model())


def initial(net: nn.Module, seeds: Sequence[int], copy: int = 0) -> Params:
    """Fresh weights for every lane {name: [L, ...]}, each module's drawn by its own `reset_parameters`.

    A seed fixes its own weights whatever the other lanes are, and each module has its own stream, so that a method
    that adds layers leaves the others' weights as they were. Weights of modules that cannot reset themselves stay as
    they were built. A run's further copies begin with other weights. torch's global generator is left as it was.
    """
    lanes: list[Params] = []
    with torch.random.fork_rng(devices=[]):
        for seed in seeds:
            for name, module in net.named_modules():
                reset = getattr(module, "reset_parameters", None)
                if callable(reset):
                    torch.default_generator.manual_seed(torch_seed(seed, f"init/{name}" + f"/copy {copy}" * (copy > 0)))
                    reset()
            lanes.append({name: w.detach().clone() for name, w in net.named_parameters()})
    return {name: torch.stack([lane[name] for lane in lanes]) for name in lanes[0]}


def size(params: Params) -> int:
    """The number of weights of one run, given those of a pack [L, ...]."""
    return sum(w[0].numel() for w in params.values())


def summary(params: Params, start: Params) -> dict[str, Tensor]:
    """What the report says of the weights of each lane, given those they started from: float64 [L] each.

    Norms are over matrices and filters. `w_near_zero` is the share below 1e-3 of the root mean square of their layer,
    `w_zero` of those exactly zero, `w_dead_inputs` that of the inputs of the first layer whose weights are all zero.
    """
    kernels = penalized_lanes(params)
    # layer by layer: copies of all of them in float64 would be more than a step of training holds
    each = [_sums(w.double().flatten(1), start[name].double().flatten(1)) for name, w in kernels.items()]
    sums = {name: torch.stack([layer[name] for layer in each]).sum(0) for name in each[0]}
    count = sum(w[0].numel() for w in kernels.values())
    first = next(iter(kernels.values()))  # [L, out, in, ...]
    return {
        "w_l2": sums["square"].sqrt(),
        "w_l1": sums["size"],
        "w_dist_init": sums["moved"].sqrt(),
        "w_near_zero": sums["near"] / count,
        "w_zero": sums["zero"] / count,
        "w_dead_inputs": (first.abs().flatten(3).sum(-1) if first.ndim > 3 else first.abs())
        .amax(1)
        .eq(0)
        .double()
        .mean(1),
    }


def _sums(w: Tensor, start: Tensor) -> dict[str, Tensor]:
    """What `summary` adds up over layers, of the weights of one and those they started from, [L, n] each: [L]."""
    square = (w**2).sum(1)
    near = 1e-3 * (square / w.shape[1]).sqrt()
    return {
        "square": square,
        "size": w.abs().sum(1),
        "moved": ((w - start) ** 2).sum(1),
        "near": (w.abs() < near[:, None]).sum(1),
        "zero": (w == 0).sum(1),
    }


def penalized_lanes(params: Params) -> Params:
    """The matrices and filters of a pack, whose weights have a leading [L]."""
    one = penalized({name: w[0] for name, w in params.items()}, biases=False)
    return {name: params[name] for name in one}
