"""regrun, telling through a pipe what it is doing: the initial of a phase as soon as it comes to it.

python scripts/stress/phases.py DESCRIPTOR ARGUMENTS

What is in the pipe outlives the process, so that the last letter is the phase in which it was killed. Functions of
regrun are wrapped, and otherwise what they are. A phase ends where an inner one begins, and goes on after it: a
training is no training while it is looked at or written down.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

PHASES = ("start", "training", "evaluation", "checkpoint", "writing", "report")  # their initials are all different


def named(letter: str) -> str:
    """The phase with this initial."""
    return next(phase for phase in PHASES if phase[0] == letter)


class Told:
    """The phase of this process, told to the other end of a pipe, and what wraps a function into one."""

    def __init__(self, pipe: int) -> None:
        self.pipe = pipe
        self.phase = PHASES[0]

    @contextmanager
    def during(self, phase: str, within: Sequence[str]) -> Iterator[None]:
        """In this phase while the block runs, if the process is in one of those `within` which it counts."""
        before = self.phase
        if before in within:
            self._set(phase)
        try:
            yield
        finally:
            self._set(before)

    def _set(self, phase: str) -> None:
        if phase != self.phase:
            self.phase = phase
            os.write(self.pipe, phase[0].encode())

    def call(self, function: Callable[..., Any], phase: str, within: Sequence[str]) -> Callable[..., Any]:
        """The function, whose calls are of this phase."""

        def called(*arguments: Any, **named: Any) -> Any:
            with self.during(phase, within):
                return function(*arguments, **named)

        return called

    def steps(self, generator: Callable[..., Iterator[Any]], phase: str) -> Callable[..., Iterator[Any]]:
        """The generator, whose work between two values is of this phase; what is done with a value is not."""

        def generated(*arguments: Any, **named: Any) -> Iterator[Any]:
            values = generator(*arguments, **named)
            while True:
                with self.during(phase, PHASES):
                    try:
                        value = next(values)
                    except StopIteration:
                        return
                yield value

        return generated


def main() -> None:
    """The command, in this process."""
    told = Told(int(sys.argv.pop(1)))

    def wrap(module: Any, name: str, phase: str, within: Sequence[str]) -> None:
        setattr(module, name, told.call(getattr(module, name), phase, within))

    # In this order: a module that has imported a function by its name keeps the one that it found.
    from runner import files

    for name in ("write_atomic", "append_line"):
        wrap(files, name, "writing", ("start", "training"))
    from runner.engine import evaluate

    for name in ("evaluate", "examine", "measure_norms"):
        wrap(evaluate, name, "evaluation", ("training",))
    from runner.engine import checkpoint, workers

    wrap(checkpoint.Checkpoints, "keep", "checkpoint", ("training",))
    setattr(workers, "train_across", told.steps(workers.train_across, "training"))  # noqa: B010
    from runner import cli, sweep

    wrap(sweep, "report", "report", PHASES)
    cli.main()


if __name__ == "__main__":
    main()
