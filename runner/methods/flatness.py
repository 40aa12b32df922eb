"""Gradients taken at the worst weights nearby, so that the loss is low in a neighbourhood and not at a point."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from runner.methods.base import Method, Now, Params, Strength, norm, strength

TINY = 1e-12  # a gradient shorter than this is not lengthened to the radius


@dataclass(frozen=True)
class SAM(Method):
    """g <- gradient at w + radius * g / |g|, |g| over all the weights together  (Foret et al. 2021).

    `radius` is in the units of the weights. What is climbed is all that is descended: the loss and the penalties in it,
    but no decay that happens after the step. Both passes see the same batch and draw the same noise, and batch norm has
    no running statistics that a second pass could spoil. The loss that is recorded is that of the first pass.
    """

    family: ClassVar[str] = "gradient"
    sole: ClassVar[str] = "choose the weights at which the gradient is taken"
    passes: ClassVar[float] = 2.0
    radius: Strength = strength(0, off=0)

    def gradient(self, grad_at: Callable[[Params], Params], params: Params, now: Now) -> Params:
        """The gradient at the end of a climb of length `radius`."""
        g = grad_at(params)
        climb = self.radius / norm(g).clamp_min(TINY)
        return grad_at({name: w + climb * g[name] for name, w in params.items()})


@dataclass(frozen=True)
class ASAM(Method):
    """g <- gradient at w + radius * T^2 g / |T g|, with T = |w| + eta  (Kwon et al. 2021).

    The ball climbed in stretches with each weight, so that `radius` does not depend on the scale of the layers: values
    are ten times those of SAM. T is |w| + eta for matrices and filters and 1 for biases and norm parameters (the
    authors' code also stretches with the scales of norms, as with all that is called `weight`); eta keeps weights at
    zero from standing still. Otherwise as SAM.
    """

    family: ClassVar[str] = "gradient"
    sole: ClassVar[str] = "choose the weights at which the gradient is taken"
    passes: ClassVar[float] = 2.0
    radius: Strength = strength(0, off=0)
    eta: Strength = strength(0)

    def gradient(self, grad_at: Callable[[Params], Params], params: Params, now: Now) -> Params:
        """The gradient at the end of a climb of length `radius`, measured in units of T."""
        scale = {name: w.abs() + self.eta if w.ndim >= 2 else 1.0 for name, w in params.items()}
        scaled = {name: scale[name] * g for name, g in grad_at(params).items()}
        climb = self.radius / norm(scaled).clamp_min(TINY)
        return grad_at({name: w + climb * scale[name] * scaled[name] for name, w in params.items()})
