"""Search by asking: the points of a job from Optuna, batch after batch, from the validation figures of those before.

The trials are kept in <job>/optuna.db, where they are found again, and where Optuna's own tools read them. Optuna is an
extra and is imported when a search begins.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from runner.search import Space, by_factors, from_one, nears_one, once, shown

if TYPE_CHECKING:
    import optuna

Point = Mapping[str, float]
OFF = "none"  # the choice of a group that takes none of its methods


class Asking:
    """The trials of one search."""

    def __init__(self, path: Path, space: Space, first: Sequence[Point], seed: int) -> None:
        """The trials in the file at `path`, if there are any; the first of all are the points `first`."""
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        storage = optuna.storages.RDBStorage(f"sqlite:///{path.absolute()}")
        self._space, self._first, self._seed = space, first, seed
        self._study = optuna.create_study(
            storage=storage, study_name="regrun", direction="maximize", load_if_exists=True
        )
        for trial in self._study.get_trials(deepcopy=False, states=[optuna.trial.TrialState.RUNNING]):
            if "point" not in trial.user_attrs:  # the process was ended while it asked
                self._study.tell(trial.number, state=optuna.trial.TrialState.FAIL)

    def points(self) -> list[dict[str, float]]:
        """What has been asked for, in order, each once."""
        return once(trial.user_attrs["point"] for trial in self._trials())

    def tell(self, values: Mapping[int, float]) -> None:
        """The value of each of the points by its number, the more the better; -inf for one that has diverged."""
        import optuna

        numbers = {shown(point): number for number, point in enumerate(self.points())}
        for trial in self._trials():
            value = values.get(numbers[shown(trial.user_attrs["point"])])
            if trial.state == optuna.trial.TrialState.RUNNING and value is not None:
                failed = optuna.trial.TrialState.FAIL if math.isinf(value) else None
                self._study.tell(trial.number, None if failed else value, failed)

    def ask(self, most: int, batch: int) -> bool:
        """Ask for a batch of points, if all those before have their values and there are fewer than `most`.

        What is asked for depends on the points before, their values, and the seed, and on nothing else.
        """
        import optuna

        trials = self._trials()
        if len(trials) >= most or any(trial.state == optuna.trial.TrialState.RUNNING for trial in trials):
            return False
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self._study.sampler = optuna.samplers.TPESampler(
                n_startup_trials=len(self._first), constant_liar=True, seed=self._seed + len(trials)
            )
        for number in range(len(trials), min(most, len(trials) + batch)):
            if number < len(self._first):
                self._study.enqueue_trial(dict(self._answers(self._first[number])))
            trial = self._study.ask()
            trial.set_user_attr("point", self._point(trial))
        return True

    def _trials(self) -> list[optuna.trial.FrozenTrial]:
        return [trial for trial in self._study.get_trials(deepcopy=False) if "point" in trial.user_attrs]

    def _point(self, trial: optuna.Trial) -> dict[str, float]:
        """What a trial suggests: strengths of the methods that are on, 0 for those off, as `runner.search` has it."""
        space = self._space
        on = {"optimizer", *space.methods} if len(space.methods) == 1 else {"optimizer"}
        for group in space.groups if len(space.methods) > 1 else ():
            on.add(trial.suggest_categorical("+".join(group), [OFF, *group]))
        on = space.together(on)
        point = {name: 0.0 for name in space.methods if name not in on}
        for path, grid in space.grids.items():
            if path.partition(".")[0] in on:
                low, high = min(grid), max(grid)
                if space.allowed[path].whole:
                    point[path] = float(trial.suggest_int(path, int(low), int(high)))
                elif nears_one(low, high):
                    point[path] = from_one(trial.suggest_float(path, 1 - high, 1 - low, log=True))
                else:
                    value = trial.suggest_float(path, low, high, log=by_factors(low, high))
                    point[path] = float(f"{value:.6g}")
        return point

    def _answers(self, point: Point) -> Iterator[tuple[str, str | float]]:
        """What a trial would have to suggest to give the point."""
        if len(self._space.methods) > 1:
            for group in self._space.groups:
                yield "+".join(group), next((name for name in group if name not in point), OFF)
        for path, value in point.items():
            if "." in path and nears_one(min(self._space.grids[path]), max(self._space.grids[path])):
                yield path, 1 - value
            elif "." in path:
                yield path, int(value) if self._space.allowed[path].whole else value
