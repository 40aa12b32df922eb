"""The models on the menu: their sizes, their marks, and that a lane of each equals the run alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn

from runner.data.base import Data, Splitter
from runner.engine.evaluate import evaluate
from runner.engine.optimizers import SGD
from runner.engine.pack import begin, few_steps
from runner.engine.schedules import Constant
from runner.engine.weights import initial
from runner.errors import Refusal
from runner.experiment import Budget, Experiment
from runner.grid import Run
from runner.methods.dropping import Dropout
from runner.methods.normalization import BatchNorm
from runner.methods.stack import Stack
from runner.methods.structured_dropping import StochasticDepth
from runner.nets.attention import Attention, Patches, ft_transformer, vit_small
from runner.nets.convolutional import alexnet_small, conv1d, convnet, inception_small
from runner.nets.dense import linear, mlp
from runner.nets.norms import BatchNormLayer
from runner.nets.recurrent import GRULayer, gru
from runner.nets.residual import Subsample, resnet18_cifar, resnet_cifar, resnet_mlp, tabular_resnet, wide_resnet
from runner.nets.sites import Slot, describe, visits

SIGNAL, IMAGE, TABLE = (2, 12), (3, 8, 8), (6,)
CLASSES = 4
Make = Callable[[], nn.Module]

# Every model at a tiny size: the shape of an example, the model, and its numbers of hidden marks, branches and slots.
TINY: dict[str, tuple[tuple[int, ...], Make, int, int, int]] = {
    "linear": (TABLE, partial(linear, TABLE, CLASSES), 0, 0, 0),
    "mlp": (TABLE, partial(mlp, TABLE, CLASSES, 8, 2), 2, 0, 2),
    "conv1d": (SIGNAL, partial(conv1d, SIGNAL, CLASSES, 4), 3, 0, 3),
    "convnet": (IMAGE, partial(convnet, IMAGE, CLASSES, 4, 8), 3, 0, 3),
    # two convolutions and two layers of units
    "alexnet_small": (IMAGE, partial(alexnet_small, IMAGE, CLASSES), 4, 0, 4),
    # marks behind the first convolution and the ten modules; slots: 1 + 8 modules of two towers + 2 that halve
    "inception_small": (IMAGE, partial(inception_small, IMAGE, CLASSES), 11, 0, 19),
    # a mark behind the first layer and behind every block; two slots a block and one before
    "resnet_mlp": (TABLE, partial(resnet_mlp, TABLE, CLASSES, 8, 3, 1.0), 4, 3, 7),
    "resnet_cifar": (IMAGE, partial(resnet_cifar, IMAGE, CLASSES, 8, 4, "none"), 4, 3, 7),
    # eight blocks, and a slot in each of the three ways around that have weights
    "resnet18_cifar": (IMAGE, partial(resnet18_cifar, IMAGE, CLASSES, 2, "none"), 9, 8, 20),
    # three blocks; two slots a block and one at the end, where the last block's mark stands behind the ReLU
    "wide_resnet": (IMAGE, partial(wide_resnet, IMAGE, CLASSES, 10, 1, "none"), 4, 3, 7),
    # the first layer, two blocks (the last one's mark behind the ReLU); a slot a block and one at the end
    "tabular_resnet": (TABLE, partial(tabular_resnet, TABLE, CLASSES, 8, 2, 2, "none"), 3, 2, 3),
    # behind the tokens and every block; attention and dense branches; a slot in each dense one
    "vit_small": (IMAGE, partial(vit_small, IMAGE, CLASSES, 4, 2, 8, 2), 3, 4, 2),
    "vit_small_signal": (SIGNAL, partial(vit_small, SIGNAL, CLASSES, 3, 2, 8, 2), 3, 4, 2),
    "ft_transformer": (TABLE, partial(ft_transformer, TABLE, CLASSES, 2, 8, 2), 3, 4, 2),
    "gru": (SIGNAL, partial(gru, SIGNAL, CLASSES, 6, 2), 2, 0, 2),
    "gru_image": (IMAGE, partial(gru, IMAGE, CLASSES, 6, 1), 1, 0, 1),
}
# Those that bring their own batch norm.
NORMED: dict[str, tuple[tuple[int, ...], Make]] = {
    "resnet_cifar": (IMAGE, partial(resnet_cifar, IMAGE, CLASSES, 8, 4, "batch")),
    "resnet18_cifar": (IMAGE, partial(resnet18_cifar, IMAGE, CLASSES, 2, "batch")),
    "wide_resnet": (IMAGE, partial(wide_resnet, IMAGE, CLASSES, 10, 1, "batch")),
    "tabular_resnet": (TABLE, partial(tabular_resnet, TABLE, CLASSES, 8, 2, 2, "batch")),
}


def parameters(make: Make) -> int:
    """How many weights a net has, counted without making them."""
    with torch.device("meta"):
        return sum(w.numel() for w in make().parameters())


def kinds_of(net: nn.Module, shape: tuple[int, ...]) -> tuple[str, ...]:
    return visits(net.eval(), torch.zeros(2, *shape))


def stacked(hidden: int, branches: int) -> Stack:
    """Dropout, batch norm and stochastic depth, as far as the net has places for them."""
    stack: dict[str, object] = {}
    if hidden:
        stack |= {"dropout": Dropout(0.2, 0.1), "batch_norm": BatchNorm(1e-3)}
    if branches:
        stack["stochastic_depth"] = StochasticDepth(0.3)
    return Stack(stack)  # type: ignore[arg-type]  # methods all


def trial(shape: tuple[int, ...], make: Make, stack: Stack) -> Experiment:
    g = torch.Generator().manual_seed(0)
    kind = {1: "table", 2: "signal", 3: "image"}[len(shape)]
    y = torch.arange(120) % CLASSES
    data = Data("noise", kind, torch.randn(120, *shape, generator=g), y, CLASSES, None)
    return Experiment(
        data=data,
        splitter=Splitter(60, 20, 20, "train_val", 0, True),
        model=make,
        stack=stack,
        optimizer=SGD(0.05, 0.0, False),
        schedule=Constant(),
        budget=Budget(1, 20, 1),
        device=torch.device("cpu"),
        dtype=torch.float32,
        lanes=None,
    )


def trained(experiment: Experiment, seeds: list[int]) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """The weights after three steps, and the clean training loss there: [L, ...] and [L]."""
    pack, lanes = begin(experiment, [Run(0, "report", {}, seed) for seed in seeds])
    lanes = few_steps(pack, lanes, 3)
    rows = {"train": lanes.rows["train"]}
    seen = evaluate(pack.examiner, lanes.state.params, pack.pool(lanes), rows)
    return lanes.state.params, seen["train"].loss


def check_lanes(shape: tuple[int, ...], make: Make, stack: Stack) -> None:
    experiment = trial(shape, make, stack)
    many, losses = trained(experiment, [0, 1])
    for lane in range(2):
        alone, loss = trained(replace(experiment, lanes=1), [lane])
        torch.testing.assert_close(losses[lane], loss[0], rtol=1e-3, atol=1e-4)
        for name, w in alone.items():
            torch.testing.assert_close(many[name][lane], w[0], rtol=1e-3, atol=1e-4)
    start = begin(experiment, [Run(0, "report", {}, 0)])[1].state.params
    weights = {name: w for name, w in start.items() if not name.endswith("bias")}  # batch norm takes biases out
    still = [name for name, w in weights.items() if torch.equal(w[0], many[name][0])]
    assert not still, f"these weights did not learn: {still}"


def test_parameters_are_those_of_the_papers() -> None:
    crop = (3, 28, 28)
    # Zhang et al. (2017), table 1; the MLPs: 2352*512 + 512 + [2*(512*512 + 512)] + 512*10 + 10
    assert parameters(partial(alexnet_small, crop, 10)) == 1_387_786
    assert parameters(partial(inception_small, crop, 10)) == 1_649_402
    assert parameters(partial(mlp, crop, 10, 512, 1)) == 1_209_866
    assert parameters(partial(mlp, crop, 10, 512, 3)) == 1_735_178
    cifar = (3, 32, 32)
    # He et al. (2016), table 6: 0.27M, 0.46M, 0.66M, 0.85M
    sizes = [parameters(partial(resnet_cifar, cifar, 10, depth, 16, "batch")) for depth in (20, 32, 44, 56)]
    assert [round(size / 1e6, 2) for size in sizes] == [0.27, 0.46, 0.66, 0.85]
    # Zagoruyko and Komodakis (2016), table 4: WRN-28-10 36.5M, WRN-16-8 11.0M, WRN-40-4 8.9M
    sizes = [parameters(partial(wide_resnet, cifar, 10, *size, "batch")) for size in ((28, 10), (16, 8), (40, 4))]
    assert [round(size / 1e6, 1) for size in sizes] == [36.5, 11.0, 8.9]
    # torchvision's resnet18 has 11,689,512: less 512*1000 + 1000 of its head and 64*3*49 of its first layer, and with
    # 512*10 + 10 and 64*3*9 in their places
    assert parameters(partial(resnet18_cifar, cifar, 10, 64, "batch")) == 11_689_512 - 513_000 - 9_408 + 5_130 + 1_728


@pytest.mark.parametrize("name", TINY)
def test_marks_and_slots_are_in_their_places(name: str) -> None:
    shape, make, hidden, branches, slots = TINY[name]
    net = make()
    kinds = kinds_of(net, shape)
    assert kinds[0] == "input"
    assert (kinds.count("input"), kinds.count("hidden"), kinds.count("branch")) == (1, hidden, branches)
    assert sum(isinstance(m, Slot) for m in net.modules()) == slots


@pytest.mark.parametrize("name", [name for name in TINY if not name.startswith("gru")])
def test_initial_weights_are_torchs_default_as_the_docs_say(name: str) -> None:
    start = {weight: w[0] for weight, w in initial(TINY[name][1](), [0]).items()}
    kernels = {weight: w for weight, w in start.items() if w.ndim > 1}
    for weight, w in kernels.items():
        inputs = w[0].numel()
        assert w.abs().max() <= inputs**-0.5
        # uniform up to a bound b: b / sqrt(3), and of n weights within 0.45 / sqrt(n) of it, as a share
        assert w.std().item() == pytest.approx((3 * inputs) ** -0.5, rel=2 / w.numel() ** 0.5), weight
        bias = start.get(weight.replace("weight", "bias"))
        assert bias is None or 0 < bias.abs().max() <= inputs**-0.5


def test_a_net_that_fails_while_its_marks_are_described_is_left_as_it_was() -> None:
    net = mlp(TABLE, CLASSES, 8, 2)
    with pytest.raises(RuntimeError, match="shape"):
        describe(net, torch.zeros(2, 7))
    assert not any(module._forward_hooks for module in net.modules())


@pytest.mark.parametrize("name", NORMED)
def test_a_net_may_bring_its_own_batch_norm_in_place_of_the_slots(name: str) -> None:
    shape, make = NORMED[name]
    _, bare, _, _, slots = TINY[name]
    net = make()
    assert not any(isinstance(m, Slot) for m in net.modules())
    assert sum(isinstance(m, BatchNormLayer) for m in net.modules()) == slots
    assert kinds_of(net, shape) == kinds_of(bare(), shape)
    with pytest.raises(Refusal, match=r"BatchNormLayer.*model\.norm=none"):
        BatchNorm(1e-3).build(net)
    assert isinstance(make, partial)
    with pytest.raises(Refusal, match=r"model\.norm is 'layer'; it must be batch or none"):
        make.func(*make.args[:-1], "layer")


@pytest.mark.parametrize("name", TINY)
def test_a_lane_of_a_model_equals_the_run_alone(name: str) -> None:
    shape, make, hidden, branches, _ = TINY[name]
    check_lanes(shape, make, stacked(hidden, branches))


@pytest.mark.parametrize("name", NORMED)
def test_a_lane_of_a_model_with_its_own_norm_equals_the_run_alone(name: str) -> None:
    shape, make = NORMED[name]
    check_lanes(shape, make, Stack({"dropout": Dropout(0.2, 0.1), "stochastic_depth": StochasticDepth(0.3)}))


def test_the_gru_layer_is_torchs() -> None:
    torch.manual_seed(0)
    mine, theirs = GRULayer(3, 5), nn.GRU(3, 5, batch_first=True)
    theirs.load_state_dict({f"{name}_l0": w for name, w in mine.state_dict().items()})
    x = torch.randn(2, 3, 7)
    torch.testing.assert_close(mine(x), theirs(x.transpose(1, 2))[0].transpose(1, 2))


def test_the_gru_reads_an_image_by_its_rows() -> None:
    net = gru((2, 3, 4), CLASSES, 5, 1).eval()
    x = torch.randn(1, 2, 3, 4)
    rows = x.permute(0, 2, 1, 3).reshape(1, 3, 8)  # three rows from the top, two channels of four pixels in each
    layer = net.get_submodule("2")
    state = layer(rows.transpose(1, 2))[:, :, -1]
    torch.testing.assert_close(net(x), net.get_submodule("6")(state))


def test_attention_is_torchs() -> None:
    torch.manual_seed(0)
    mine, theirs = Attention(8, 2), nn.MultiheadAttention(8, 2, batch_first=True)
    theirs.load_state_dict(
        {
            "in_proj_weight": mine.ask.weight,
            "in_proj_bias": mine.ask.bias,
            "out_proj.weight": mine.tell.weight,
            "out_proj.bias": mine.tell.bias,
        }
    )
    h = torch.randn(3, 5, 8)
    torch.testing.assert_close(mine(h), theirs(h, h, h, need_weights=False)[0])


def test_patches_are_squares_and_windows_in_order() -> None:
    image = torch.arange(2 * 4 * 4).view(1, 2, 4, 4)
    parts = Patches(2)(image)
    # [channel, row, column] = 16 c + 4 r + k; the second of the four squares is the upper right one
    assert parts.shape == (1, 4, 8)
    assert parts[0, 1].tolist() == [2, 3, 6, 7, 18, 19, 22, 23]
    signal = torch.arange(2 * 6).view(1, 2, 6)
    assert Patches(3)(signal)[0].tolist() == [[0, 1, 2, 6, 7, 8], [3, 4, 5, 9, 10, 11]]


def test_the_shortcut_without_weights_skips_cells_and_adds_zeros() -> None:
    h = torch.arange(9.0).view(1, 1, 3, 3)
    out = Subsample(2, 1)(h)
    assert out[0, 0].tolist() == [[0.0, 2.0], [6.0, 8.0]]
    assert out[0, 1].tolist() == [[0.0, 0.0], [0.0, 0.0]]


def test_columns_of_a_table_are_tokens_of_their_own() -> None:
    """A column's token does not depend on the other columns, and no two columns share a vector."""
    net = ft_transformer((3,), CLASSES, 1, 8, 2)
    tokens = net.get_submodule("2")
    one, other = tokens(torch.tensor([[1.0, 2.0, 3.0]])), tokens(torch.tensor([[1.0, 5.0, 3.0]]))
    assert [bool(torch.equal(one[0, i], other[0, i])) for i in range(4)] == [True, True, False, True]
    assert not torch.equal(one[0, 1], one[0, 3])
    for name, w in tokens.named_parameters():  # 8 numbers a token: uniform within 1 / sqrt(8) = 0.354
        assert -0.354 < w.min() < -0.1 < 0.1 < w.max() < 0.354, name


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: vit_small((1, 28, 28), 10, 5, 1, 8, 2), r"model\.patch is 5; it must divide .*\(28, 28\)"),
        (lambda: vit_small((1, 28, 28), 10, 4, 1, 9, 2), r"model\.heads is 2; it must divide model\.width, 9"),
        (lambda: vit_small((6,), 10, 4, 1, 8, 2), r"model=vit_small .* shape is \(6,\)"),
        (lambda: ft_transformer((6,), 10, 1, 8, 3), r"model\.heads is 3"),
        (lambda: gru((6,), 10, 8, 1), r"model=gru .* shape is \(6,\)"),
        (lambda: resnet_cifar((3, 8, 8), 10, 18, 4, "batch"), r"model\.depth is 18; .* 6n \+ 2: 8, 14, 20, 26"),
        (lambda: wide_resnet((3, 8, 8), 10, 4, 1, "batch"), r"model\.depth is 4; .* 6n \+ 4: 10, 16, 22, 28"),
    ],
)
def test_what_a_model_cannot_be_is_refused(make: Make, said: str) -> None:
    with pytest.raises(Refusal, match=said):
        make()
