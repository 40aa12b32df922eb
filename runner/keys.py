"""Explicit randomness: one key, one draw, whether a run trains alone or beside others.

A key is a point in a tree of streams. Every draw is a pure function of (seed, the names folded in so far), so a run's
numbers do not depend on which other runs or methods it trains beside, nor on the order in which things are drawn.

The seed's part of a key is a tensor (one number, or one per lane); the names folded in are a Python integer, so that
walking down the tree costs no tensor operation. They meet when something is drawn.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import vmap

# SplitMix64 (Steele et al. 2014): the increment and the two multipliers, as signed 64-bit numbers.
GOLDEN, MIX1, MIX2 = -7046029254386353131, -4658895280553007687, -7723592293110705685
# "lowbias32" (Wellons 2018, refined by Ettinger): the best known two-round 32-bit hash of this form.
ROUND1, ROUND2 = 0x21F0AAAD, 0x735A2D97
WORD = 2**64


def _scramble(z: Tensor) -> Tensor:
    """Bijective hash of int64 numbers, modulo 2**64: the finalizer of SplitMix64."""
    z = (z ^ ((z >> 30) & ((1 << 34) - 1))) * MIX1
    z = (z ^ ((z >> 27) & ((1 << 37) - 1))) * MIX2
    return z ^ ((z >> 31) & ((1 << 33) - 1))


def _scramble_number(z: int) -> int:
    """The same hash of a Python integer: in [0, 2**64)."""
    z = ((z ^ (z >> 30)) * (MIX1 % WORD)) % WORD
    z = ((z ^ (z >> 27)) * (MIX2 % WORD)) % WORD
    return z ^ (z >> 31)


def _signed(number: int) -> int:
    """A number in [0, 2**64) as the signed one of the same bits."""
    return number - WORD if number >= WORD // 2 else number


def _number(name: str) -> int:
    """A 64-bit hash of a name (FNV-1a), the same in every process."""
    h = 14695981039346656037
    for byte in name.encode():
        h = ((h ^ byte) * 1099511628211) % WORD
    return h


@dataclass(frozen=True)
class Key:
    """A point in the tree of random streams; every draw is a pure function of it.

    `state` is int64 [] for one run and int64 [L] for the keys of L lanes before they are mapped over; `path` is the
    hash of the names folded in since.
    """

    state: Tensor
    path: int = 0

    @classmethod
    def of(cls, seed: int | Tensor, device: torch.device | str = "cpu") -> Key:
        """The root key of a seed (or of int64 [L] seeds, one per lane)."""
        number = torch.as_tensor(seed, dtype=torch.int64, device=device)
        return cls(_scramble(number * GOLDEN + MIX2))  # + MIX2: seeds and folded names must not meet

    def fold(self, mark: int | str) -> Key:
        """The key of a named part, independent of every other name and of the order in which parts are visited.

        >>> root = Key.of(0)
        >>> bool(root.fold("init").uniform() == root.fold("order").uniform())
        False
        """
        number = _number(mark) if isinstance(mark, str) else mark
        return Key(self.state, _scramble_number((self.path + GOLDEN + _scramble_number((number + MIX1) % WORD)) % WORD))

    def split(self, n: int) -> list[Key]:
        """`n` independent keys."""
        return [self.fold(i) for i in range(n)]

    def resolved(self) -> Tensor:
        """The key as plain int64 numbers, with the path folded in: `Key(key.resolved())` is a new root."""
        return _scramble(self.state ^ _signed(self.path))

    def each(self, marks: Iterable[int]) -> Tensor:
        """The resolved keys of many numbered parts at once: int64 [n, *state].

        >>> root = Key.of(0)
        >>> bool(root.each([3, 4])[1] == root.fold(4).resolved())
        True
        """
        numbers = [_signed(self.fold(mark).path) for mark in marks]
        paths = torch.tensor(numbers, dtype=torch.int64, device=self.state.device)  # also where there are none
        return _scramble(self.state ^ paths.view(-1, *[1] * self.state.ndim))

    def bits(self, *shape: int) -> Tensor:
        """Uniform 32-bit words: int32 [*shape]."""
        return self._words(torch.arange(math.prod(shape), dtype=torch.int32, device=self.state.device)).view(shape)

    def _words(self, numbers: Tensor) -> Tensor:
        """The words of these numbers, of which `bits` counts up: int32, in their shape."""
        word = self.resolved()
        low, high = word.to(torch.int32), (word >> 32).to(torch.int32)
        # In place from here on: at a million draws fresh memory would cost more than the arithmetic.
        z = numbers ^ low
        z ^= (z >> 16).bitwise_and_(0xFFFF)
        z *= ROUND1
        z ^= (z >> 15).bitwise_and_(0x1FFFF)
        z ^= high  # the second half of the key, so that keys do not share one cycle
        z ^= (z >> 16).bitwise_and_(0xFFFF)
        z *= ROUND2
        z ^= (z >> 15).bitwise_and_(0x1FFFF)
        return z

    def uniform(self, *shape: int) -> Tensor:
        """Uniform on [0, 1), a multiple of 2**-24: float32 [*shape]."""
        z = self.bits(*shape)
        z >>= 8
        return z.bitwise_and_(0xFFFFFF).to(torch.float32).mul_(2.0**-24)

    def kept(self, rate: Tensor | float, *shape: int) -> Tensor:
        """0 with probability `rate`, at least 0 and below 1, in steps of 2**-16, else 1: float32 [*shape].

        A word serves two draws, so that a mask costs a third of uniform numbers. It is no bool, since to compare and to
        make a float of that costs five times as much on a CPU (docs/benchmarks.md).
        """
        size = math.prod(shape)
        halves = self.bits((size + 1) // 2).view(torch.int16)[:size].view(shape)  # each uniform from -2**15
        return _beyond(halves.to(torch.float32), rate)

    def kept_like(self, rate: Tensor | float, x: Tensor) -> Tensor:
        """The mask of `kept` for x, the same draws, with entries where x has them in memory: float32, the shape of x.

        Where that is another order each entry draws its word, of which it takes its half, since that takes less time
        than to move entries to other places (docs/benchmarks.md).

        >>> x = torch.zeros(4, 3).mT
        >>> mask = Key.of(0).kept_like(0.5, x)
        >>> mask.stride() == x.stride(), torch.equal(mask, Key.of(0).kept(0.5, 3, 4))
        (True, True)
        """
        order = sorted(range(x.ndim), key=x.stride, reverse=True)
        if order == [*range(x.ndim)]:
            return self.kept(rate, *x.shape)
        numbers = (
            torch.arange(x.numel(), dtype=torch.int32, device=self.state.device)
            .view(x.shape)
            .permute(order)
            .contiguous()
        )
        words = self._words(numbers >> 1)
        words <<= (~numbers & 1) << 4  # the lower half of a word comes first
        words >>= 16
        return _beyond(words.to(torch.float32), rate).permute([order.index(dim) for dim in range(x.ndim)])

    def normal(self, *shape: int) -> Tensor:
        """Standard normal: float32 [*shape]; each radius and angle serve two draws (Box and Muller 1958)."""
        size = math.prod(shape)
        radius, angle = (key.uniform((size + 1) // 2) for key in self.split(2))
        radius = radius.neg_().log1p_().mul_(-2).sqrt_()
        angle = angle.mul_(2 * math.pi)
        return torch.cat([radius * angle.cos(), radius * angle.sin()])[:size].view(shape)

    def gamma(self, a: Tensor | float, *shape: int) -> Tensor:
        """Gamma(a, 1), a > 0: float32 [*shape]; the first accepted of eight proposals (Marsaglia and Tsang 2000).

        A proposal is accepted with probability 0.95 or more, so that eight fail together less than once in 1e10.
        """
        proposal, accept, boost = self.split(3)
        d = a + 1 - 1 / 3
        z = proposal.normal(8, *shape)
        v = (1 + z / torch.sqrt(torch.as_tensor(9.0 * d))) ** 3
        bound = z**2 / 2 + d * (1 - v + torch.log(v.clamp_min(1e-30)))
        accepted = (v > 0) & (torch.log(accept.uniform(8, *shape)) < bound)
        first = accepted.to(torch.int64).argmax(0, keepdim=True)
        return (d * v.gather(0, first)[0]) * boost.uniform(*shape) ** (1 / a)

    def beta(self, a: Tensor | float, b: Tensor | float, *shape: int) -> Tensor:
        """Beta(a, b), a and b > 0 (of no dimension), on [0, 1]: float32 [*shape]."""
        both = torch.stack([torch.as_tensor(of, device=self.state.device) for of in (a, b)])
        p, q = self.gamma(both.view(2, *[1] * len(shape)), 2, *shape).unbind()
        return p / (p + q).clamp_min(1e-30)

    def permutation(self, n: int) -> Tensor:
        """A random order of 0..n-1: int64 [n]."""
        return self.bits(n).argsort(stable=True)

    def permutations(self, n: int) -> Tensor:
        """The permutation of each of the keys of L lanes: int64 [L, n].

        On a CPU numpy sorts: drawn and sorted they take a seventh of torch's time (docs/benchmarks.md).
        """
        words = vmap(lambda state: Key(state, self.path).bits(n))(self.state).to(torch.int64)
        words <<= 32  # no two words of a key are the same, and each now has its number behind it
        words |= torch.arange(n, device=words.device)
        if words.device.type == "cpu":
            words.numpy().sort(axis=1)
        else:
            words = words.sort(1).values
        return words.bitwise_and_(0xFFFFFFFF)


def _beyond(halves: Tensor, rate: Tensor | float) -> Tensor:
    """0 for the share `rate` of numbers that are uniform on the integers from -2**15 below 2**15, else 1; in place."""
    least = (torch.as_tensor(rate, device=halves.device) * 2.0**16).round() - 2.0**15
    return halves.sub_(least.clamp_max(2.0**15 - 1).to(torch.float32) - 1).clamp(0, 1)  # exact


def torch_seed(seed: int, name: str) -> int:
    """A seed for torch's own generator, for code that cannot take a key (a module's `reset_parameters`)."""
    return _scramble_number((_scramble_number(seed % WORD) + _number(name)) % WORD) % 2**63
