"""Methods that drop hidden values at random."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from runner.methods.base import Method, Now, Site, Strength, strength
from runner.methods.structured_dropping import marked


@dataclass(frozen=True)
class Dropout(Method):
    """Zero each hidden unit with probability `rate`, scale up the rest  (Srivastava et al. 2014).

    `input_rate` does the same to the inputs. Both are probabilities of dropping (the paper's p is that of keeping).
    """

    family: ClassVar[str] = "dropping"
    rate: Strength = strength(0, 1, off=0, open_high=True)
    input_rate: Strength = strength(0, 1, off=0, open_high=True)

    def build(self, net: nn.Module) -> nn.Module:
        """The net as it is; refuses one without hidden layers, unless inputs are dropped too."""
        return marked(net, "dropout", "hidden", *["input"] * (self.input_rate > 0))

    def hidden(self, h: Tensor, site: Site, now: Now) -> Tensor:
        """h [B, ...] with a share of its entries zeroed and the rest over (1 - rate)."""
        if site.kind not in ("input", "hidden"):
            return h
        rate = self.input_rate if site.kind == "input" else self.rate
        if isinstance(rate, float) and rate == 0:  # no strength of a sweep: as good as no method, and no draw
            return h
        return h * (site.key.kept_like(rate, h) / (1 - rate))
