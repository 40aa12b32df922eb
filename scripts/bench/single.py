"""What one run costs where its net is large, beside tight loops, and what share of the machine it gets.

    python scripts/bench/single.py                              about two minutes; --quick: one turn
    python scripts/bench/single.py --write docs/benchmarks.md

An MLP of 784-1024-1024-2048-10 units with batches of 128, bare and with dropout and max-norm, by SGD with momentum; and
by Adam the `convnet` on images of Fashion-MNIST's size and `resnet20` on images of CIFAR's. Data are random numbers.
The tight loops have them in memory, index a shuffled order, and use torch's layers and optimizers; for images there is
one in each layout of memory, and so there is of regrun, which chooses between them (`runner.engine.packing`). For the
MLP there is one with MKL's products, as torch takes them, and one with oneDNN's. One thread, processor time, and ratios
within turns, as in `run.py`. The rate of the machine is that of either library's products of two matrices of 1024 x
1024 in float32, taken in the same turns.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from turns import Row, Train, machine, of, put, row, table, turns

from runner.data.base import Data, Splitter
from runner.engine.optimizers import SGD, Adam, Optimizer
from runner.engine.pack import begin, few_steps
from runner.engine.packing import multiplied
from runner.engine.products import exact, onednn
from runner.engine.schedules import Constant
from runner.experiment import Budget, Experiment
from runner.grid import Run
from runner.methods.constraints import MaxNorm
from runner.methods.dropping import Dropout
from runner.methods.stack import Stack
from runner.nets.convolutional import convnet
from runner.nets.norms import BatchNormLayer
from runner.nets.residual import resnet_cifar
from runner.nets.sites import Mark, Slot

EXAMPLES, CLASSES = 2048, 10
RATE, LIMIT = 0.5, 2.0  # of dropout and of max-norm
SIDE = 1024  # of the matrices that tell the machine's rate
Net = Callable[[], nn.Module]
SGD_OURS, ADAM_OURS = SGD(0.05, 0.9, False), Adam(0.001, 0.9, 0.999, 1e-8)


def large_mlp() -> nn.Module:
    """784-1024-1024-2048-10 units."""
    layers, inputs = [nn.Flatten(), Mark("input")], 784
    for width in (1024, 1024, 2048):
        layers += [nn.Linear(inputs, width), Slot(width), nn.ReLU(), Mark("hidden")]
        inputs = width
    return nn.Sequential(*layers, nn.Linear(inputs, CLASSES))


def data(shape: tuple[int, ...]) -> Data:
    """Random images, always the same."""
    source = torch.Generator().manual_seed(0)
    x = torch.randn(EXAMPLES + 100, *shape, generator=source)
    y = torch.randint(CLASSES, (len(x),), generator=source)
    return Data("random", "image", x, y, CLASSES, torch.arange(EXAMPLES, len(x)))


def ours(
    net: Net, shape: tuple[int, ...], batch: int, optimizer: Optimizer, stack: Stack, channels_last: bool = False,
    dtype: torch.dtype = torch.float32,
) -> Train:  # fmt: skip
    """regrun's own loop of one run."""
    experiment = Experiment(
        data(shape), Splitter(EXAMPLES, 0, None, "none", 0, False), net, stack, optimizer, Constant(),
        Budget(10, batch, 10), torch.device("cpu"), dtype, 1, channels_last=channels_last, onednn=None,
    )  # fmt: skip
    return partial(few_steps, *begin(multiplied(experiment), [Run(0, "report", {}, 0)]))


def tight(
    net: nn.Module, shape: tuple[int, ...], batch: int, optimizer: torch.optim.Optimizer, limit: float = 0.0,
    channels_last: bool = False, device: str | torch.device = "cpu", by_onednn: bool = False,
) -> Train:  # fmt: skip
    """The loop that one would write by hand."""
    x, y = data(shape).x.to(device), data(shape).y.to(device)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    matrices = [layer.weight for layer in net.modules() if isinstance(layer, nn.Linear)]

    def train(steps: int) -> None:
        order = torch.randperm(EXAMPLES, device=device)
        for i in range(steps):
            rows = order[i * batch : (i + 1) * batch]
            optimizer.zero_grad(set_to_none=True)
            given = x[rows].to(memory_format=layout) if channels_last else x[rows]
            with onednn(by_onednn):
                F.cross_entropy(net(given), y[rows]).backward()
            optimizer.step()
            with torch.no_grad():
                for w in matrices if limit else ():
                    w.mul_((limit / w.norm(dim=1, keepdim=True)).clamp_max(1.0))

    return train


def with_torchs(net: nn.Module, rate: float) -> nn.Module:
    """The net with torch's own dropout after each activation, and torch's own batch norm."""
    for parent in list(net.modules()):
        for name, child in parent.named_children():
            if isinstance(child, BatchNormLayer):
                setattr(parent, name, nn.BatchNorm2d(len(child.scale)))
            if isinstance(child, Mark) and child.kind == "hidden" and rate:
                setattr(parent, name, nn.Dropout(rate))
    return net


def multiply(by_onednn: bool) -> Train:
    """Products of two square matrices."""
    a, b = torch.randn(SIDE, SIDE), torch.randn(SIDE, SIDE)

    def train(steps: int) -> None:
        with onednn(by_onednn):
            for _ in range(steps):
                a @ b

    return train


def dense(count: int) -> list[Row]:
    """The MLP, bare and regularized, beside tight loops with either library's products, and those products alone."""
    shape, batch = (1, 28, 28), 128
    stack = Stack({"dropout": Dropout(RATE, 0.0), "max_norm": MaxNorm(LIMIT)})

    def loop(rate: float, limit: float, by_onednn: bool) -> Train:
        net = with_torchs(large_mlp(), rate)
        optimizer = torch.optim.SGD(net.parameters(), 0.05, momentum=0.9)
        return tight(net, shape, batch, optimizer, limit, by_onednn=by_onednn)

    seen = turns(
        {
            "bare: tight loop": loop(0.0, 0.0, False),
            "bare: tight loop, products by oneDNN": loop(0.0, 0.0, exact()),
            "bare": ours(large_mlp, shape, batch, SGD_OURS, Stack({})),
            "bare: bfloat16": ours(large_mlp, shape, batch, SGD_OURS, Stack({}), dtype=torch.bfloat16),
            "dropout and max-norm: tight loop": loop(RATE, LIMIT, False),
            "dropout and max-norm: tight loop, products by oneDNN": loop(RATE, LIMIT, exact()),
            "dropout and max-norm": ours(large_mlp, shape, batch, SGD_OURS, stack),
            "MKL": multiply(False),
            "oneDNN": multiply(exact()),
        },
        count,
        8,
    )  # fmt: skip
    weights = [w.numel() for w in large_mlp().parameters() if w.ndim == 2]
    products = batch * (3 * sum(weights) - weights[0])  # the first layer's inputs need no gradient
    ideal = {name: [ms * products / SIDE**3 for ms in seen.pop(name)] for name in ("MKL", "oneDNN")}
    rows = [row(what, ms, seen[what.split(":")[0] + ": tight loop"]) for what, ms in seen.items()]
    loops = seen["bare: tight loop"]
    return rows + [row(f"bare: matrix products alone, at {name}'s rate", ms, loops) for name, ms in ideal.items()]


def images(what: str, net: Net, shape: tuple[int, ...], batch: int, count: int) -> list[Row]:
    """A convolutional net in both layouts of memory."""
    contenders: dict[str, Train] = {}
    for layout in (False, True):
        name = "channels last" if layout else "channels first"
        own = with_torchs(net(), 0.0)
        own = own.to(memory_format=torch.channels_last) if layout else own
        optimizer = torch.optim.Adam(own.parameters(), 0.001, fused=True)
        contenders[f"{what}, {name}: tight loop"] = tight(own, shape, batch, optimizer, channels_last=layout)
        contenders[f"{what}, {name}"] = ours(net, shape, batch, ADAM_OURS, Stack({}), layout)
        contenders[f"{what}, {name}, bfloat16"] = ours(
            net, shape, batch, ADAM_OURS, Stack({}), layout, dtype=torch.bfloat16
        )
    seen = turns(contenders, count, 3)
    return [row(name, ms, seen[f"{what}, channels first: tight loop"]) for name, ms in seen.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one turn only: for seeing that it works")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the tables between the markers of this page")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    about, count = machine(), 1 if asked.quick else 5
    rows = dense(count)
    rows += images("convnet", partial(convnet, (1, 28, 28), CLASSES, 32, 128), (1, 28, 28), 100, count)
    rows += images("resnet20", partial(resnet_cifar, (3, 32, 32), CLASSES, 20, 16, "batch"), (3, 32, 32), 100, count)
    page = "\n".join([of(about), table("the tight loop", rows)])
    print(page)
    if asked.write:
        put(asked.write, "single", page)


if __name__ == "__main__":
    main()
