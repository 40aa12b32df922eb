"""Train the runs of a job side by side and say how each one generalizes.

    lanes -> an epoch of steps -> clean train and validation figures, best weights kept -> lanes that stopped or
    diverged leave -> at the end of a lane: train, validation and test at its `last` and its `best` checkpoint

Test rows are read when a lane has ended (`runner.engine.finish`), and nowhere here.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from runner.engine.checkpoint import Keeper, Kept, Part, Point
from runner.engine.evaluate import Measured, evaluate
from runner.engine.finish import Outcome, finish
from runner.engine.lanes import over_lanes
from runner.engine.machine import is_full
from runner.engine.pack import Lanes, Pack, PackStep, alike, begin, clock_after, few_steps, noted, steps
from runner.engine.step import State
from runner.experiment import Experiment
from runner.grid import Run


@dataclass(frozen=True)
class Progress:
    """What a progress bar may show: never a test figure."""

    epoch: int
    epochs: int
    ended: int  # runs that have ended
    running: int
    val_loss: float  # mean over the running lanes, NaN if none
    val_acc: float  # of a regression R2
    score: str  # which of them: "acc" or "r2"


Watch = Callable[[Progress], None]


def train(
    experiment: Experiment,
    runs: Sequence[Run],
    watch: Watch = lambda progress: None,
    keeper: Keeper = Keeper(),  # noqa: B008  # keeps nothing
) -> Iterator[Outcome]:
    """The outcomes of the runs, pack after pack, each as soon as it is known.

    A pack is at most `experiment.lanes` runs (all of them if that is None) and is mapped even if it is a single one, so
    that a run's numbers do not depend on the size of its pack; with `lanes` at 1 runs train one by one, unmapped. A
    pack for which memory runs out is halved, and each half goes on from the last step that the pack has taken. Runs
    that differ in a strength which shapes the net go into packs of their own. Runs that `keeper` has found part of the
    way go on from there.
    """
    left, width = list(runs), experiment.lanes or len(runs)
    found = [part for part in keeper.found if part.among(left)]
    while left:
        part = found.pop(0) if found else None
        pack = part.among(left)[:width] if part else alike(experiment.stack, left)[:width]
        if part:
            part, rest = part.of([run.name for run in pack]), part.of([run.name for run in part.among(left)[width:]])
            found = [rest, *found] if rest.names else found
        shaped, follow = experiment.shaped(pack[0].point), partial(_watch_on, watch, len(runs) - len(left))
        reached = Reached(pack, part)
        try:
            for outcome in _train_pack(shaped, pack, follow, keeper, part, tuple(found), reached, width):
                left.remove(outcome.run)
                yield outcome
        except (RuntimeError, MemoryError) as error:
            if not is_full(error) or len(pack) == 1:
                raise
            full = reached.part()
        else:
            continue
        # here, where the error no longer holds what the pack has made
        del reached
        width = len(pack) // 2
        keeper.say(f"memory ran out with {len(pack)} runs side by side; they go on with {width}")
        found = [full.of([run.name for run in full.among(left)]), *found] if full and full.among(left) else found
        del full
        gc.collect()  # what torch has of an error may hold itself, and with it the pack
        if experiment.device.type == "cuda":
            torch.cuda.empty_cache()


@dataclass
class Reached:
    """How far a pack has come, so that its training can go on from there in smaller packs."""

    runs: Sequence[Run]
    before: Part | None  # where it began
    lanes: Lanes | None = None  # after the last step that was taken
    began: int = 0
    epoch: int = 0  # whole epochs before that step's
    step: int = 0
    spent: float = 0.0  # seconds on these steps
    curves: Sequence[list[Point]] = ()
    seconds: Sequence[float] = ()

    def note(self, lanes: Lanes, epoch: int, step: int, spent: float) -> None:
        """These lanes stand `step` steps, which have taken `spent` seconds, after so many whole epochs."""
        self.lanes, self.epoch, self.step, self.spent = lanes, epoch, step, spent

    def part(self) -> Part | None:
        """What is kept of it, in the memory of the CPU; where it began if no step has been taken since."""
        if self.lanes is None:
            return self.before
        looks = self.lanes.curve.shape[1]  # an evaluation that was cut off is made again
        curves = [curve[:looks] for curve in self.curves]
        part = _part_of(self.lanes, self.runs, self.began, self.epoch, self.step, curves, self.seconds, self.spent)
        here: Kept = tree_map(lambda leaf: leaf.cpu(), part.kept)
        return replace(part, kept=here)


def _watch_on(watch: Watch, done: int, seen: Progress) -> None:
    watch(replace(seen, ended=done + seen.ended))


def _train_pack(
    experiment: Experiment,
    runs: Sequence[Run],
    watch: Watch,
    keeper: Keeper,
    part: Part | None,
    waiting: Sequence[Part],
    reached: Reached,
    width: int,
) -> Iterator[Outcome]:
    """Every run of one pack to its end, from its beginning or from where `part` has it.

    `waiting`, what other packs are to go on from, is kept beside this one's state. `reached` is told of every step.
    A compiled step is made for packs of `width`.
    """
    pack, lanes = begin(experiment, runs)
    if experiment.compiled:
        whole = (pack, lanes) if len(runs) == width else begin(experiment, filled(runs, width))
        if fused := compiled(*whole, keeper.say):
            pack = replace(pack, step=fused, compiled=True)
    few_steps(pack, lanes, 1)  # what the first step sets up is not this method's cost
    budget = experiment.budget
    curves: list[list[Point]] = [[] for _ in runs]
    seconds = [0.0 for _ in runs]
    began, trained, taken = len(runs), 0, 0
    if part and (resumed := _resumed(lanes, part.kept)):
        lanes, began, trained, taken = resumed, part.began, part.epoch, part.step
        curves, seconds = [list(curve) for curve in part.curves], list(part.seconds)
        keeper.say(f"goes on with {len(runs)} runs after {trained} of {budget.epochs} epochs and {taken} steps")
    elif part:
        keeper.say("what was kept of the training no longer fits the methods or the model; it begins again")
    reached.began, reached.curves, reached.seconds = began, curves, seconds
    for epoch in range(trained + 1, budget.epochs + 1):
        clock = time.perf_counter()
        for number, after in steps(pack, lanes, epoch, taken):
            lanes = after
            reached.note(lanes, epoch - 1, number, time.perf_counter() - clock)
            if keeper.due():
                now = clock_after(experiment.device)
                part = _part_of(lanes, runs, began, epoch - 1, number, curves, seconds, now - clock)
                keeper.keep([part, *waiting])
                clock += clock_after(experiment.device) - now  # it is no training
        taken = 0
        share = (clock_after(experiment.device) - clock) / len(lanes.run)
        for run in lanes.run.tolist():
            seconds[run] += share
        reached.spent = 0.0  # it is in `seconds` now
        if epoch % budget.evaluate_every and epoch != budget.epochs:
            continue

        lanes, seen = _look(pack, lanes, epoch)
        columns = {name: column.tolist() for name, column in pack.named(seen).items()}
        for row, run in enumerate(lanes.run.tolist()):
            figures = {name: column[row] for name, column in columns.items()}
            curves[run].append(Point(epoch, epoch * pack.steps_per_epoch, figures))
        over = torch.full_like(lanes.finite, epoch == budget.epochs) | ~lanes.finite | _stopped(pack, lanes)
        if over.any():
            for outcome in finish(pack, lanes.of(over), runs, epoch, curves, seconds):
                yield replace(outcome, lanes=began, compiled=pack.compiled)
            lanes = lanes.of(~over)
        reached.note(lanes, epoch, 0, 0.0)
        watch(_progress(experiment, epoch, [curves[run][-1] for run in lanes.run.tolist()], len(runs)))
        if not len(lanes.run):
            break


def _progress(experiment: Experiment, epoch: int, latest: Sequence[Point], began: int) -> Progress:
    """What a progress bar may show of the runs that train on after an epoch, given their latest figures."""
    score = experiment.data.score
    loss, value = (
        sum(point.figures[name] for point in latest) / len(latest) if latest else torch.nan
        for name in ("val_loss", f"val_{score}")
    )
    return Progress(epoch, experiment.budget.epochs, began - len(latest), len(latest), loss, value, score)


def filled(runs: Sequence[Run], width: int) -> list[Run]:
    """The runs, and the last of them again until there are `width`."""
    return [*runs, *[runs[-1]] * (width - len(runs))]


def compiled(pack: Pack, lanes: Lanes, say: Callable[[str], None]) -> PackStep | None:
    """The step of a pack of at most so many lanes, before their first, through torch's compiler.

    None, and said so in a line, if that fails or gives other numbers.
    """
    from runner.engine import compilation  # it is rarely asked for

    try:
        written, calls = noted(pack, lanes, 2)  # the second is given what the first gave, as all others are
        fused = compilation.compiled(written, calls[-1][0])
        why = compilation.checked(fused, written, lambda: noted(pack, lanes, compilation.STEPS)[1])
    except Exception as error:  # whatever a compiler raises; the step as it is written is known to work
        if is_full(error):
            raise
        why = " ".join(f"{type(error).__name__}: {error}".split())[:200]
    if why:
        say(f"trains without torch's compiler: {why}")
    return None if why else fused


def _look(pack: Pack, lanes: Lanes, epoch: int) -> tuple[Lanes, dict[str, Measured]]:
    """Clean train and validation figures of the lanes, and the lanes with their best weights brought up to date."""
    weights = pack.kept(lanes, epoch)
    rows = {split: lanes.rows[split] for split in ("train", "val")}
    seen = evaluate(pack.examiner, weights, pack.pool(lanes), rows)
    val = seen["val"].loss
    so_far = lanes.curve.amin(1) if lanes.curve.shape[1] else torch.full_like(val, torch.inf)
    better = val < so_far  # ties go to the earliest; never true for NaN
    lanes = lanes._replace(
        finite=lanes.finite & seen["train"].loss.isfinite(),
        curve=torch.cat([lanes.curve, val[:, None]], 1),
        best={
            n: torch.where(better.view(-1, *[1] * (w.ndim - 1)), w, lanes.best.get(n, w)) for n, w in weights.items()
        },
        best_epoch=torch.where(better, epoch, lanes.best_epoch),
    )
    return lanes, seen


def _stopped(pack: Pack, lanes: Lanes) -> Tensor:
    """Which lanes their methods stop now: bool [K]."""
    stack = pack.experiment.stack

    def one(strengths: dict[str, Tensor], curve: Tensor) -> Tensor:
        return stack.at(strengths).stop(curve)

    if not stack.overrides("stop"):
        return torch.zeros_like(lanes.finite)
    stopped: Tensor = over_lanes(one, pack.mapped)(lanes.strengths, lanes.curve)
    return stopped


def _part_of(
    lanes: Lanes, runs: Sequence[Run], began: int, epoch: int, step: int, curves: Sequence[list[Point]],
    seconds: Sequence[float], spent: float,
) -> Part:  # fmt: skip
    """What is kept of the lanes `step` steps after `epoch` epochs, when that epoch has taken `spent` seconds so far."""
    rows = lanes.run.tolist()
    return Part(
        names=[runs[row].name for row in rows],
        began=began,
        epoch=epoch,
        step=step,
        kept=_kept(lanes),
        curves=[curves[row] for row in rows],
        seconds=[seconds[row] + spent / len(rows) for row in rows],
    )


def _kept(lanes: Lanes) -> Kept:
    """What of the lanes no seed can bring back."""
    return Kept(lanes.state, lanes.finite, lanes.curve, lanes.best, lanes.best_epoch)


def _resumed(lanes: Lanes, kept: Kept) -> Lanes | None:
    """Lanes before their first step with the state that was kept of them; None if it is not of their form."""
    if _form(lanes.state) != _form(kept.state):
        return None
    here: Kept = tree_map(lambda leaf: leaf.to(lanes.run.device), kept)
    return lanes._replace(**here._asdict())


def _form(state: State) -> dict[tuple[str, str], tuple[torch.dtype, torch.Size]]:
    """The names, types and shapes of all that a state holds."""
    return {
        (part, name): (w.dtype, w.shape) for part, entries in state._asdict().items() for name, w in entries.items()
    }
