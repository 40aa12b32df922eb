"""Nets from elsewhere: where their marks are found, and that nothing of their own regularizes them."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from conftest import Regrun
from test_nets import CLASSES, IMAGE, SIGNAL, TABLE, check_lanes
from test_study import rows_of
from torch import Tensor, nn
from torch.func import functional_call

from runner.engine.weights import initial
from runner.errors import Refusal
from runner.keys import Key
from runner.methods.base import Now, penalized
from runner.methods.constraints import UnitNorm
from runner.methods.dropping import Dropout
from runner.methods.reparametrization import WeightNorm
from runner.methods.stack import Stack
from runner.methods.structured_dropping import StochasticDepth
from runner.methods.weight_penalties import L0
from runner.nets.foreign import Adopted, timm, torchvision, with_channels
from runner.nets.norms import BatchNormLayer
from runner.nets.sites import Mark, describe, tapped, visits

QUICK = ["data=mnist1d", "protocol=smoke", "epochs=1", "seeds=3", "study=first"]


class Block(nn.Module):
    """A residual block with one activation used twice, a gate on its branch and a dropout."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)
        self.norm, self.act, self.drop = nn.BatchNorm2d(width), nn.ReLU(inplace=True), nn.Dropout(0.5)
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(width, width, 1), nn.ReLU(), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        h = self.second(self.drop(self.act(self.norm(self.first(x)))))
        out = h * self.gate(h)
        out += x
        return self.act(out)  # type: ignore[no-any-return]


class Small(nn.Module):
    """A net as people write them: functions for activations, in-place sums, dropout before the head."""

    def __init__(self, shape: tuple[int, ...], classes: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(shape[0], 4, 3)
        self.blocks = nn.Sequential(Block(4), Block(4))
        self.wide = nn.Linear(4, 6)
        self.drop = nn.Dropout(0.2)
        self.head = nn.Linear(6, classes)
        nn.init.constant_(self.head.bias, 0.25)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.stem(x), inplace=True)
        h = self.blocks(h).mean((2, 3))
        return self.head(self.drop(torch.tanh(self.wide(h))))  # type: ignore[no-any-return]


def small() -> nn.Module:
    return Small(IMAGE, CLASSES)


def found(net: nn.Module, shape: tuple[int, ...] = IMAGE) -> list[tuple[str, str]]:
    return [(visit.kind, visit.place) for visit in describe(net.eval(), torch.zeros(2, *shape))]


def test_marks_of_a_net_as_people_write_them() -> None:
    net = Adopted(small, IMAGE)
    # The relu behind the stem is a function, so its mark stands before what takes all of its value: not the first
    # block's convolution, which the sum goes around, but the blocks. The relu, dropout and gate of a branch are no
    # places where the whole of an example passes. No branch is marked: it ends in `h * gate(h)`, which no module gives.
    assert found(net) == [
        ("input", "before the net"),
        ("hidden", "before blocks"),
        ("hidden", "behind blocks.0"),
        ("hidden", "behind blocks.1"),
        ("hidden", "behind drop"),
    ]


ARCHS = ["resnet18", "mobilenet_v3_small", "densenet121", "shufflenet_v2_x0_5", "convnext_tiny"]


@pytest.fixture(scope="module")
def nets() -> dict[str, nn.Module]:
    return {arch: torchvision((3, 32, 32), CLASSES, arch) for arch in ARCHS}


@pytest.mark.parametrize("arch", ARCHS)
def test_the_whole_of_an_example_passes_a_hidden_mark(nets: dict[str, nn.Module], arch: str) -> None:
    """With the value at the mark held fast, the logits no longer depend on the input; at a branch they still do."""
    net = nets[arch].train()
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)).requires_grad_()
    kinds = visits(net, x)
    assert kinds.count("hidden") > 1
    some = [i for kind in ("hidden", "branch") for i in [i for i, k in enumerate(kinds) if k == kind][::4]]
    for place in some:
        met = iter(range(len(kinds)))
        with tapped(lambda h, kind, place=place, met=met: h.detach() if next(met) == place else h):  # type: ignore[misc]
            logits = net(x)
        assert logits.requires_grad
        (slope,) = torch.autograd.grad(logits.square().sum(), x, allow_unused=True)
        assert (slope is None) == (kinds[place] == "hidden"), (arch, place)


def test_marks_of_torchvisions_resnet(nets: dict[str, nn.Module]) -> None:
    # eight blocks in four layers, each with a branch that ends at its second norm; the stem's relu before them
    blocks = [f"layer{layer}.{block}" for layer in range(1, 5) for block in range(2)]
    expected = [mark for b in blocks for mark in (("branch", f"behind {b}.bn2"), ("hidden", f"behind {b}"))]
    assert found(nets["resnet18"], (3, 32, 32)) == [("input", "before the net"), ("hidden", "behind relu"), *expected]


def test_a_vision_transformer_has_two_branches_a_block() -> None:
    kinds = [kind for kind, _ in found(torchvision((1, 32, 32), CLASSES, "vit_b_32"), (1, 32, 32))]
    assert (kinds.count("branch"), kinds.count("hidden")) == (24, 13)  # 12 blocks, and the embedding


def test_nothing_of_its_own_regularizes_it_and_its_norms_are_regruns() -> None:
    net = Adopted(small, IMAGE)
    assert net.switched_off == 3
    assert not any(isinstance(m, nn.Dropout | nn.BatchNorm2d) or getattr(m, "inplace", False) for m in net.modules())
    assert sum(isinstance(m, BatchNormLayer) for m in net.modules()) == 2
    # in training mode it computes what the net itself does without its dropout
    plain = small()
    names = {"norm.weight": "norm.scale", "norm.bias": "norm.shift"}
    mine = dict(net.net.named_parameters())
    for name, w in plain.named_parameters():
        other = next((name.replace(a, b) for a, b in names.items() if name.endswith(a)), name)
        w.data.copy_(mine[other].data)
    for module in plain.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    x = torch.randn(5, *IMAGE)
    torch.testing.assert_close(net.train()(x), plain.train()(x))


@pytest.mark.parametrize(("own", "names"), [({"affine": False}, []), ({"bias": False}, ["net.1.scale"])])
def test_a_norm_without_weights_of_its_own_gets_none(own: dict[str, bool], names: list[str]) -> None:
    net = Adopted(lambda: nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5, **own), nn.Linear(5, 4)), TABLE)
    ends = ["net.0.weight", "net.0.bias"], ["net.2.weight", "net.2.bias"]
    assert [name for name, _ in net.named_parameters()] == [*ends[0], *names, *ends[1]]
    assert initial(net, [0]).keys() == dict(net.named_parameters()).keys()


class Turned(nn.Module):
    """A net whose positions, and a matrix, do not lie in memory in the order of their numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.position, self.mine = nn.Parameter(torch.randn(3, 2).T), nn.Parameter(torch.randn(CLASSES, 6).T)

    def forward(self, x: Tensor) -> Tensor:
        return (x.view(-1, 2, 3) + self.position).flatten(1) @ self.mine


def test_weights_that_do_not_lie_in_order_are_drawn_as_the_net_draws_them() -> None:
    net = Adopted(Turned, TABLE)
    assert net.drawn["position"] != "position"
    start = {name: w[0] for name, w in initial(net, [5]).items()}
    plain, x = Turned(), torch.randn(3, *TABLE)
    theirs = {name: start[f"net.{own}"].view_as(plain.get_parameter(name)) for name, own in net.drawn.items()}
    torch.testing.assert_close(functional_call(net, start, (x,)), functional_call(plain, theirs, (x,)))


class Renamed(nn.Module):
    """A net with one norm and one dropout, each under two names, and the norm used by its second."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleList([nn.BatchNorm1d(6), nn.Linear(6, 6), nn.Dropout(0.5)])
        self.norm, self.drop = self.parts[0], self.parts[2]
        self.head = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.drop(self.parts[2](self.parts[1](self.norm(x)))))  # type: ignore[no-any-return]


class Twice(Renamed):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.norm(x) + 1)


def test_a_module_under_several_names_is_replaced_under_each_by_one() -> None:
    net = Adopted(Renamed, TABLE)
    assert isinstance(net.net, Renamed)
    assert isinstance(net.net.norm, BatchNormLayer)
    assert net.net.norm is net.net.parts[0]
    assert net.net.drop is net.net.parts[2]
    assert net.switched_off == 1
    assert not [name for name, _ in net.named_buffers() if "running" in name]


def test_its_weights_are_drawn_as_it_does_itself_seed_by_seed() -> None:
    net = Adopted(small, IMAGE)
    few, many = initial(net, [5]), initial(net, [1, 5])
    assert all(torch.equal(few[name][0], many[name][1]) for name in few)
    assert not torch.equal(many["net.stem.weight"][0], many["net.stem.weight"][1])
    assert torch.equal(few["net.head.bias"][0], torch.full((CLASSES,), 0.25))  # its own rule, not that of nn.Linear
    with_lengths = initial(WeightNorm(1.0).build(Adopted(small, IMAGE)), [5])
    assert torch.equal(with_lengths["net.stem.weight"], few["net.stem.weight"])
    kernel = few["net.head.weight"][0]
    torch.testing.assert_close(with_lengths["net.head.length.g"][0], kernel.norm(dim=1))


def test_a_lane_equals_the_run_alone() -> None:
    check_lanes(IMAGE, lambda: Adopted(small, IMAGE), Stack({"dropout": Dropout(0.2, 0.1)}))


def test_a_lane_of_a_transformer_equals_the_run_alone() -> None:
    """torch's own encoder layer: its attention has no rule for being mapped, and another path at evaluation."""

    def make() -> nn.Module:
        layer = nn.TransformerEncoderLayer(8, 2, 16, 0.1, batch_first=True, norm_first=True)
        encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        return nn.Sequential(nn.Unflatten(1, (6, 1)), nn.Linear(1, 8), encoder, nn.Flatten(), nn.Linear(48, CLASSES))

    net = Adopted(make, TABLE)
    assert [kind for kind, _ in found(net, TABLE)].count("branch") == 4
    check_lanes(TABLE, lambda: Adopted(make, TABLE), Stack({"stochastic_depth": StochasticDepth(0.3)}))


class Written(nn.Module):
    """A net that writes a way around its first activation into the value, and a second activation behind it."""

    def __init__(self, write: Callable[[Tensor, Tensor], None]) -> None:
        super().__init__()
        self.write = write
        self.first, self.act, self.around = nn.Linear(6, 8), nn.ReLU(), nn.Linear(6, 8)
        self.middle, self.act_again, self.head = nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        h = self.act(self.first(x)).clone()
        self.write(h, self.around(x)[:, :4])
        return self.head(self.act_again(self.middle(h)))  # type: ignore[no-any-return]


def by_index(h: Tensor, way: Tensor) -> None:
    h[:, :4] = way


def into_a_view(h: Tensor, way: Tensor) -> None:
    h[:, :4].copy_(way)


def into_a_part(h: Tensor, way: Tensor) -> None:
    left, _right = h.view(-1, 8).chunk(2, 1)
    left += way


def as_result(h: Tensor, way: Tensor) -> None:
    torch.sub(h[:, 4:], way, out=h[:, 4:])


@pytest.mark.parametrize("write", [by_index, into_a_view, into_a_part, as_result])
def test_what_a_written_value_goes_around_has_no_hidden_mark(write: Callable[[Tensor, Tensor], None]) -> None:
    assert found(Adopted(lambda: Written(write), TABLE), TABLE) == [
        ("input", "before the net"),
        ("hidden", "behind act_again"),
    ]


class Gathered(nn.Module):
    """A net that writes its tokens into an empty value, a class token of its own before them."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.token = nn.Linear(6, 4), nn.Parameter(torch.randn(1, 4))
        self.position, self.act = nn.Parameter(torch.randn(1, 2, 4)), nn.ReLU()
        self.mix, self.head = nn.Linear(8, 8), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        tokens = torch.zeros(len(x), 2, 4, dtype=x.dtype, device=x.device)
        tokens[:, 1] = self.embed(x)
        tokens[:, 0] = self.token
        return self.head(self.act(self.mix((tokens + self.position).flatten(1))))  # type: ignore[no-any-return]


def test_what_is_written_into_an_empty_value_is_followed() -> None:
    net = Adopted(Gathered, TABLE)
    assert found(net, TABLE) == [("input", "before the net"), ("hidden", "behind act")]
    assert {name for name, own in net.drawn.items() if own != name} == {"token", "position"}


class Scaled(nn.Module):
    """A net with numbers that only look like matrices, and with a matrix of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(6, 4)
        self.token, self.position = nn.Parameter(torch.randn(1, 1, 4)), nn.Parameter(torch.randn(1, 4, 4))
        self.norm, self.scale = nn.LayerNorm((4, 4)), nn.Parameter(torch.full((4, 1), 1e-6))
        self.mine = nn.Parameter(torch.randn(4, 4))
        self.low = nn.ParameterList([torch.randn(4, 2), torch.randn(2, 4)])  # of a matrix that is their product
        self.head = nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.embed(x).relu()[:, None].expand(-1, 3, -1)
        h = torch.cat([self.token.expand(len(x), 1, 4), tokens], 1) + self.position
        h = h + self.scale * torch.tanh(self.norm(h) @ self.mine @ (self.low[0] @ self.low[1]).T)
        return self.head(h[:, 0])  # type: ignore[no-any-return]


def test_what_only_looks_like_a_matrix_is_stored_in_rows_and_the_net_computes_as_before() -> None:
    net = Adopted(Scaled, TABLE)
    params: dict[str, Tensor] = dict(net.named_parameters())
    kernels = {"net.embed.weight", "net.mine", "net.low.0", "net.low.1", "net.head.weight"}
    assert set(penalized(params, biases=False)) == kernels
    assert net.drawn["position"] == "parametrizations.position.original"
    assert net.drawn["norm.weight"] == "norm.parametrizations.weight.original"
    start = {name: w[0] for name, w in initial(net, [5]).items()}
    plain, x = Scaled(), torch.randn(3, *TABLE)
    theirs = {name: start[f"net.{own}"].view_as(plain.get_parameter(name)) for name, own in net.drawn.items()}
    torch.testing.assert_close(functional_call(net, start, (x,)), functional_call(plain, theirs, (x,)))
    assert (theirs["scale"] == 1e-6).all()
    used = UnitNorm(1.0).project(start, Now(Key.of(0), 0, 1, 0.1))
    assert all(torch.equal(used[name], w) == (name not in kernels) for name, w in start.items())
    WeightNorm(1.0).build(net)  # which has lengths for matrices alone
    assert sum("length" in name for name, _ in net.named_parameters()) == len(kernels)


def test_a_lane_of_a_net_stored_in_rows_equals_the_run_alone() -> None:
    check_lanes(TABLE, lambda: Adopted(Scaled, TABLE), Stack({"unit_norm": UnitNorm(0.5), "l0": L0(1e-3, 0.3)}))


@pytest.mark.parametrize(
    ("arch", "rows"),
    [
        ("resnet18", set()),
        ("convnext_tiny", {"layer_scale"}),
        ("vit_b_32", {"class_token", "pos_embedding"}),
        ("swin_t", {"relative_position_bias_table"}),
    ],
)
def test_positions_tokens_and_scales_of_torchvisions_nets_are_no_matrices(arch: str, rows: set[str]) -> None:
    net = torchvision((3, 32, 32), CLASSES, arch)
    assert isinstance(net, Adopted)
    assert {name.rpartition(".")[2] for name, own in net.drawn.items() if own != name} == rows


def test_marks_of_the_users_own_stay_and_no_others_come() -> None:
    def make() -> nn.Module:
        return nn.Sequential(nn.Linear(6, 5), nn.ReLU(), Mark("hidden"), nn.Dropout(), nn.Linear(5, 4))

    assert found(Adopted(make, TABLE), TABLE) == [("input", "before the net"), ("hidden", "net.2")]
    whole = Adopted(lambda: nn.Sequential(Mark("input"), make()), TABLE)
    assert found(whole, TABLE) == [("input", "net.0"), ("hidden", "net.1.2")]


class Noisy(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(super().forward(x), 0.5, self.training)


class Rarely(nn.Linear):
    """A branch that is dropped for one example in ten thousand: two passes on two examples hardly ever differ."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * (torch.rand(len(x), 1) > 1e-4)


class Coin(nn.Linear):
    """A layer that is skipped for a whole batch, by Python's generator."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * (random.random() > 1e-9)


class Logarithm(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.log())


class OwnNorm(nn.BatchNorm1d):
    pass


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Noisy(6, 4), "own forward pass is random"),
        (lambda: Rarely(6, 4), "own forward pass is random"),
        (lambda: Coin(6, 4), "own forward pass is random"),
        (lambda: Logarithm(6, 4), "gives NaN, before any training"),
        (lambda: nn.Sequential(nn.Linear(6, 4), OwnNorm(4)), "OwnNorm, a batch norm of its own kind"),
        (lambda: nn.GRU(6, 4), "gives a tuple, not one tensor of logits"),
        (lambda: nn.BatchNorm1d(6), "BatchNorm1d alone"),
        (Twice, r"batch norm parts\.0 2 times in one pass"),
    ],
)
def test_what_cannot_be_made_fit_is_refused(make: partial[nn.Module], said: str) -> None:
    with pytest.raises(Refusal, match=said):
        Adopted(make, TABLE)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: torchvision(IMAGE, 4, "resnet19"), "no torchvision model 'resnet19'; did you mean 'resnet18'"),
        (lambda: torchvision(SIGNAL, 4, "resnet18"), "model=torchvision needs images"),
        (lambda: torchvision(IMAGE, 4, "vit_b_16"), r"model\.arch is 'vit_b_16', .* 8 x 8"),
    ],
)
def test_what_torchvision_does_not_have_is_refused(make: partial[nn.Module], said: str) -> None:
    with pytest.raises(Refusal, match=said):
        make()


def test_channels_and_classes_are_fitted() -> None:
    net = torchvision((2, 32, 32), 7, "mobilenet_v3_small").eval()
    assert net(torch.zeros(3, 2, 32, 32)).shape == (3, 7)
    assert net.get_parameter("net.features.0.0.weight").shape == (16, 2, 3, 3)
    assert not torch.equal(*initial(net, [0, 1])["net.features.0.0.weight"])


@pytest.mark.parametrize(
    ("arch", "layer", "std"),
    [
        ("resnet18", "conv1", (2 / (64 * 49)) ** 0.5),  # He by outputs: 64 channels of 7 x 7, whatever comes in
        ("regnet_x_400mf", "stem.0", (2 / (32 * 9)) ** 0.5),  # likewise: 32 of 3 x 3
        ("densenet121", "features.conv0", (2 / 49) ** 0.5),  # He by inputs: one channel of 7 x 7
        ("squeezenet1_1", "features.0", (2 / 9) ** 0.5),  # likewise: one of 3 x 3; and biases of 0
        ("shufflenet_v2_x0_5", "conv1.0", (1 / (3 * 9)) ** 0.5),  # torch's default: uniform up to 1 / 3
        ("convnext_tiny", "features.0.0", 0.02),  # a number
    ],
)
def test_a_first_layer_for_other_channels_is_drawn_by_the_nets_own_rule(arch: str, layer: str, std: float) -> None:
    start = initial(torchvision((1, 32, 32), CLASSES, arch), [0])
    kernel = start[f"net.{layer}.weight"]
    assert kernel.shape[2] == 1
    # a normal standard deviation over n weights is off by 1 / sqrt(2 n), at most 0.05 here: 24 filters of 3 x 3
    assert kernel.std().item() == pytest.approx(std, rel=0.15)
    if arch in ("squeezenet1_1", "convnext_tiny"):
        assert not start[f"net.{layer}.bias"].any()


def test_a_net_without_convolutions_takes_no_other_channels() -> None:
    with pytest.raises(Refusal, match="Linear, which has no convolution that could take 2 channels"):
        with_channels(lambda: nn.Linear(6, 4), 2)
    assert nn.Conv2d(3, 4, 1).weight.shape[1] == 3  # the convolutions of others are left alone afterwards


def test_without_timm_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(Refusal, match=r"pip install 'regrun\[timm\]'"):
        timm(IMAGE, 4, "resnet18")


def test_nets_of_timm() -> None:
    with pytest.raises(Refusal, match="no timm model 'resnet19'"):
        timm(IMAGE, 4, "resnet19")
    with pytest.raises(Refusal, match="model=timm needs images"):
        timm(TABLE, 4, "resnet18")
    vit = [kind for kind, _ in found(timm((1, 32, 32), 5, "test_vit"), (1, 32, 32))]
    assert vit.count("branch") == 2 * sum(1 for name in _blocks("test_vit"))
    normed = timm((3, 32, 32), 5, "test_efficientnet")  # whose norms have the activation in them
    assert not any(isinstance(m, nn.BatchNorm2d) for m in normed.modules())
    assert normed.eval()(torch.zeros(2, 3, 32, 32)).shape == (2, 5)
    check_lanes(IMAGE, lambda: timm(IMAGE, CLASSES, "test_efficientnet"), Stack({"dropout": Dropout(0.2, 0.0)}))


def _blocks(arch: str) -> list[str]:
    import timm as library

    return [name for name, _ in library.create_model(arch).get_submodule("blocks").named_children()]


def test_torchvisions_nets_are_tamed_as_they_come() -> None:
    for arch in ("squeezenet1_1", "googlenet", "swin_t"):
        net = torchvision((3, 32, 32), 3, arch)
        assert isinstance(net, Adopted)
        assert len(net.placed) > 8, arch


PACKAGE = '''
import torch
from torch import nn

class LSTM(nn.Module):
    """Reads a signal; torch has no rule to map it."""
    def __init__(self, shape, classes, width):
        super().__init__()
        self.lstm = nn.LSTM(shape[0], width, batch_first=True)
        self.head = nn.Linear(width, classes)
    def forward(self, x):
        return self.head(self.lstm(x.transpose(1, 2))[0][:, -1])

class Rectify(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.clamp_min(0)
    @staticmethod
    def backward(ctx, g):
        return g * (ctx.saved_tensors[0] > 0)

class Mapped(nn.Module):
    def __init__(self, shape, classes):
        super().__init__()
        self.inner, self.head = nn.Linear(shape[0] * shape[1], 8), nn.Linear(8, classes)
    def act(self, h):
        return h.relu()
    def forward(self, x):
        return self.head(self.act(self.inner(x.flatten(1))))

class Function(Mapped):
    def act(self, h):
        return Rectify.apply(h)

class Dependent(Mapped):
    def act(self, h):
        return h.relu() if h.sum() > 0 else h.tanh()

class Narrow(Mapped):
    def forward(self, x):
        return self.inner(x.flatten(1))

class Broken(Mapped):
    def forward(self, x):
        return self.outer(x)

def number(shape, classes):
    return 3

def without_arguments():
    return nn.Sequential(nn.Flatten(), nn.Linear(40, 10))
'''


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a user's package; its own for each test, since Python keeps what it has imported."""
    name = f"mine{abs(hash(tmp_path))}"
    (tmp_path / f"{name}.py").write_text(PACKAGE)
    monkeypatch.syspath_prepend(str(tmp_path))
    return name


def model_of(package: str, name: str) -> list[str]:
    return [f"allow=[{package}]", "model=linear", f"model._target_={package}.{name}", "model.name=mine"]


@pytest.mark.parametrize("name", ["LSTM", "Function", "Dependent"])
def test_what_cannot_be_mapped_runs_one_by_one_and_says_so_once(
    regrun: Regrun, tmp_path: Path, package: str, name: str
) -> None:
    told = regrun(*model_of(package, name), *["+model.width=4"] * (name == "LSTM"), *QUICK)
    assert told.code == 0, told.err
    assert told.err.count("runs go one by one, not side by side") == 1
    rows = rows_of(tmp_path / "outputs" / "first")
    assert [(row["model"], row["status"], row["lanes"]) for row in rows] == [("mine", "ok", "1")] * 3
    assert len({row["w_l2"] for row in rows}) == 3  # each run with its own weights


@pytest.mark.parametrize("name", ["Mapped", "without_arguments"])
def test_a_class_of_the_users_trains_side_by_side(regrun: Regrun, tmp_path: Path, package: str, name: str) -> None:
    told = regrun(*model_of(package, name), *QUICK)
    assert told.code == 0, told.err
    assert [row["lanes"] for row in rows_of(tmp_path / "outputs" / "first")] == ["3"] * 3
    assert "one by one" not in told.err


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Narrow", ["which gives (1, 8) for one example", "must give (1, 10)"]),
        ("Broken", ["model is 'mine'", "AttributeError", "has no attribute 'outer'"]),
        ("number", ["gave a int, not a torch.nn.Module"]),
        ("nothing", ["no attribute 'nothing'"]),
    ],
)
def test_mistakes_in_a_class_of_the_users_are_one_line(
    regrun: Regrun, tmp_path: Path, package: str, name: str, said: list[str]
) -> None:
    told = regrun(*model_of(package, name), *QUICK)
    assert told.code == 2
    assert len(told.err.splitlines()) == 1
    assert all(part in told.err for part in said), told.err
    assert not (tmp_path / "outputs").exists()


def test_marks_are_shown_and_nothing_is_trained(regrun: Regrun, tmp_path: Path) -> None:
    told = regrun("model=resnet20", "data=digits", "protocol=smoke", "method=dropout", "marks=show")
    assert told.code == 0, told.err
    lines = [line.split() for line in told.out.splitlines()]
    assert [line[1] for line in lines if line and line[0].isdigit()].count("branch") == 9
    assert "269,434 parameters" in told.out  # 0.27M with one channel
    assert "norms of the net: 19 BatchNormLayer" in told.out
    assert not (tmp_path / "outputs").exists()
