"""How the stored weights do on test rows that were changed: corrupted at random, or by an adversary.

Both are asked for (`evaluate.corruptions`, `evaluate.adversarial`), happen after a run has ended, and change no number
of its training. The net is in evaluation mode, with its batch-norm statistics measured on clean training rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from runner.data.base import Data
from runner.engine.corruptions import CORRUPTIONS, SEVERITIES, Frame, corrupted, frame
from runner.engine.evaluate import EXAMPLES, Examiner, Pool, chunks, evaluating, predicted, settled
from runner.engine.lanes import over_lanes
from runner.engine.machine import differentiable
from runner.keys import Key
from runner.methods.base import Params

REACH = 2.5  # the sum of an attack's steps, in epsilon: it can cross the ball, and turn  (Madry et al. 2018)


@dataclass(frozen=True)
class Attack:
    """An adversary that may change every standardized input by at most `epsilon`."""

    epsilon: float
    steps: int  # of projected gradient descent


def corrupted_accuracy(
    examiner: Examiner, params: Params, pool: Pool, rows: Mapping[str, Tensor], data: Data, seeds: Tensor
) -> dict[tuple[str, int], Tensor]:
    """Test accuracy [L] under each kind and severity of corruption that suits the data.

    A run's corruptions follow from its seed, the kind, the severity and the place in its test set, so that at one seed
    all methods meet the same ones.
    """
    frames = [frame(pool.x[train], data.kind, data.indicators) for train in rows["train"]]
    keys = Key.of(seeds, pool.x.device).fold("corruption")
    found = {}
    with evaluating(examiner.net):
        buffers, _ = settled(examiner, params, pool, rows["train"])
        for kind in CORRUPTIONS[data.kind]:
            for severity in SEVERITIES:
                hits = torch.zeros(len(seeds), dtype=torch.float64, device=pool.x.device)
                for part, some in enumerate(rows["test"].split(EXAMPLES, dim=1)):
                    own = keys if CORRUPTIONS[data.kind][kind].common else keys.fold(part)
                    changed = _Corrupting(data.kind, kind, severity, own.resolved(), frames)
                    for chunk in chunks(examiner, params, buffers, pool._replace(change=changed), some):
                        hits = hits + chunk.hits
                found[kind, severity] = hits / rows["test"].shape[1]
    return found


@dataclass(frozen=True)
class _Corrupting:
    """What the lanes' corruption of one name and severity does to a chunk of inputs."""

    kind: str
    name: str
    severity: int
    keys: Tensor  # [L]
    frames: list[Frame]  # of each lane

    def __call__(self, raw: Tensor) -> Tensor:
        """Inputs [L, B, ...] in input units; lane by lane, so that a lane's are those of the run alone."""
        each = zip(raw, self.keys, self.frames, strict=True)
        return torch.stack([corrupted(x, self.kind, self.name, self.severity, Key(key), own) for x, key, own in each])


def adversarial_accuracy(
    examiner: Examiner, params: Params, pool: Pool, rows: Mapping[str, Tensor], attack: Attack, seeds: Tensor
) -> dict[str, Tensor]:
    """Test accuracy [L] under a one-step ("fgsm_acc") and an iterated ("pgd_acc") attack on the cross-entropy.

    FGSM is x + epsilon * sign(slope)  (Goodfellow et al. 2015). PGD begins at a uniform draw from the ball and takes
    `steps` steps of 2.5 * epsilon / steps along the sign, each back into the ball  (Madry et al. 2018). x is
    standardized and never clamped. Of several members the mean probability is attacked.
    """

    net = examiner.net

    def one(params: Params, buffers: Params, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        logp = predicted(net, params, buffers, x, examiner.members)
        loss = -logp.gather(1, y[:, None]).sum()
        return loss, (logp.argmax(1) == y).sum()

    def seen(x: Tensor) -> tuple[Tensor, Tensor]:
        """The slope of each lane's loss at its inputs [L, B, ...], and its correct predictions there [L]."""
        with torch.enable_grad():
            at = x.detach().requires_grad_()
            loss, hits = over_lanes(one, examiner.mapped)(params, buffers, at, y)
            (slope,) = torch.autograd.grad(loss.sum(), at)  # lanes do not share inputs
        return slope, hits

    keys = Key.of(seeds, pool.x.device).fold("attack")
    hits = {name: torch.zeros(len(seeds), dtype=torch.float64, device=pool.x.device) for name in ("fgsm", "pgd")}
    with evaluating(net), differentiable(net):
        buffers, _ = settled(examiner, params, pool, rows["train"])
        for part, some in enumerate(rows["test"].split(EXAMPLES, dim=1)):
            x, y = pool.inputs(some), pool.labels(some)
            slope, _ = seen(x)
            hits["fgsm"] = hits["fgsm"] + seen(x + attack.epsilon * slope.sign())[1]
            draws = [Key(key).uniform(*x.shape[1:]) for key in keys.fold(part).resolved()]
            near = x + attack.epsilon * (2 * torch.stack(draws).to(x.dtype) - 1)
            for _ in range(attack.steps):
                near = near + REACH * attack.epsilon / attack.steps * seen(near)[0].sign()
                near = x + (near - x).clamp(-attack.epsilon, attack.epsilon)
            hits["pgd"] = hits["pgd"] + seen(near)[1]
    return {f"{name}_acc": count / rows["test"].shape[1] for name, count in hits.items()}


def mean_of(found: Mapping[tuple[str, int], Tensor]) -> Tensor:
    """The mean accuracy over kinds and severities: [L]."""
    return torch.stack(list(found.values())).mean(0)
