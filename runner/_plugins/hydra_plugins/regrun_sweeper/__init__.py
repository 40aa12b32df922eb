"""Hydra finds sweepers only here, under the `hydra_plugins` namespace; what this one does is in runner.sweep.

This module is imported at every start of regrun, so it imports nothing heavy. Hydra executes it before it is in
sys.modules, so annotations must not be strings here.
"""

import math
import pickle
import sys
from collections.abc import Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import astuple, dataclass
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import ConfigRepository, IConfigRepository
from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper, BasicSweeperConf
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.default_element import ResultDefault
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, RangeSweep
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.config_source import ConfigResult
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf


@dataclass
class RegrunSweeperConf(BasicSweeperConf):
    """The basic sweeper's settings, under this sweeper's name."""

    _target_: str = "hydra_plugins.regrun_sweeper.RegrunSweeper"


MOST_JOBS = 100_000  # of a sweep: all are composed and checked before the first one runs

ConfigStore.instance().store(group="hydra/sweeper", name="regrun", node=RegrunSweeperConf, provider="regrun")


class OnceRead(ConfigRepository):
    """Reads every file of a configuration once for all jobs of a sweep."""

    def __init__(self, search_path: ConfigSearchPath) -> None:
        """`search_path` has the folders to read from."""
        super().__init__(search_path)
        self._read: dict[str, bytes] = {}  # pickled, since composing changes what it is given

    def load_config(self, config_path: str) -> ConfigResult | None:
        """The content of a file, None if there is none."""
        if config_path not in self._read:
            self._read[config_path] = pickle.dumps(super().load_config(config_path))
        content: ConfigResult | None = pickle.loads(self._read[config_path])  # of this very process
        return content

    def __deepcopy__(self, memo: dict[int, Any]) -> "OnceRead":
        """A copy with sources of its own, which Hydra makes for each job; what was read is shared."""
        twin = OnceRead.__new__(OnceRead)
        twin.__dict__.update(self.__dict__, sources=list(self.sources))
        return twin


class OnceComposed(ConfigLoaderImpl):
    """Composes a job when it is planned, and has it ready when it is launched: composing is half of a job's overhead.

    The processes of a parallel launcher get one that is empty, and compose their own jobs.
    """

    def __init__(self, search_path: ConfigSearchPath) -> None:
        """`search_path` is that of the loader whose place this one takes."""
        super().__init__(search_path)
        self.repository = OnceRead(search_path)
        self._composed: dict[tuple[str, ...], bytes] = {}  # pickled: a few kilobytes in place of half a megabyte
        self._joined: dict[str, bytes] = {}  # by the files that were put together

    def plan_sweep_config(self, master_config: DictConfig, sweep_overrides: Sequence[str]) -> DictConfig:
        """The configuration of a job, which the next load of the same overrides is given."""
        cfg = super().load_sweep_config(master_config, list(sweep_overrides))
        self._composed[tuple(sweep_overrides)] = pickle.dumps(cfg)
        return cfg

    def load_sweep_config(self, master_config: DictConfig, sweep_overrides: list[str]) -> DictConfig:
        """The configuration of a job, composed now unless it was when it was planned."""
        kept = self._composed.pop(tuple(sweep_overrides), None)
        if kept is None:
            return super().load_sweep_config(master_config, sweep_overrides)
        cfg: DictConfig = pickle.loads(kept)  # of this very process
        return cfg

    def _compose_config_from_defaults_list(self, defaults: list[ResultDefault], repo: IConfigRepository) -> DictConfig:
        """The files of a job put together, before its own values: once for all jobs that chose the same."""
        files = repr([astuple(default) for default in defaults])
        if files not in self._joined:
            self._joined[files] = pickle.dumps(super()._compose_config_from_defaults_list(defaults, repo))
        cfg: DictConfig = pickle.loads(self._joined[files])  # of this very process
        return cfg

    def __getstate__(self) -> dict[str, Any]:
        """For another process: without what was composed in this one."""
        return self.__dict__ | {"_composed": {}, "_joined": {}}


class RegrunSweeper(BasicSweeper):
    """Every combination of the swept values, checked as a whole, with its baseline and its report."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Give the launcher a loader that does not compose again what was planned."""
        loader = OnceComposed(hydra_context.config_loader.get_search_path())
        context = HydraContext(config_loader=loader, callbacks=hydra_context.callbacks)
        super().setup(hydra_context=context, task_function=task_function, config=config)

    def sweep(self, arguments: list[str]) -> Any:
        """Launch all jobs and make the report; a job that fails does not stop the others."""
        from runner import sweep
        from runner.errors import Refusal
        from runner.study import JobFailed

        assert self.hydra_context is not None
        assert self.config is not None
        assert self.launcher is not None
        config, loader = self.config, self.hydra_context.config_loader
        assert isinstance(loader, OnceComposed)

        def compose(overrides: Sequence[str]) -> DictConfig:
            cfg = loader.plan_sweep_config(config, overrides)
            return OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])

        parser = OverridesParser.create(config_loader=loader)
        own = parser.parse_overrides(self._parse_config())
        # a job takes all its overrides for the command line's, which alone may allow packages
        own = [o for o in own if o.key_or_group.split(".")[0] != "allow"]
        parsed = own + parser.parse_overrides(arguments)
        for override in parsed:
            if _values(override) == 0:
                raise Refusal(
                    f"{override.input_line} has no values, so that there is no job; a sweep has at least one "
                    f"({override.key_or_group}=...)"
                )
        count = math.prod(_values(o) for o in parsed)
        if count > MOST_JOBS:
            raise Refusal(f"{' '.join(arguments)} is a sweep of {count:.0f} jobs; the most is {MOST_JOBS}")
        swept = [o for o in parsed if o.is_sweep_override() and len(list(o.sweep_string_iterator())) > 1]
        axes = [o.key_or_group for o in swept]
        batches = self.split_arguments(parsed, self.max_batch_size)
        every = [job for batch in batches for job in batch]
        folder, jobs = sweep.plan(compose, every, axes, ["regrun", *sys.argv[1:]])
        returns: list[JobReturn | None] = []
        last: dict[int, JobReturn | None] = {}  # by job: of a split one a share that failed, if one has
        began = 0
        rounds = sweep.rounds(jobs)
        spare = len(rounds)  # for what a share that failed in an early round has left to those after it
        while rounds:
            launches = rounds.pop(0)
            told = self._in_batches([launch.overrides for launch in launches], began)
            began += len(launches)
            returns += told
            fresh: dict[int, JobReturn | None] = {}
            for launch, one in zip(launches, told, strict=True):
                if launch.number not in fresh or _is_done(fresh[launch.number]):
                    fresh[launch.number] = one
            last |= fresh  # a later stage also trains what an earlier one has lost
            if not rounds and spare:
                spare -= 1
                done = [number for number, one in last.items() if _is_done(one)]
                rounds = sweep.another_round(folder, jobs, done)
        failed = 0
        mistakes: list[BaseException] = []
        for number, job in enumerate(jobs):
            became = last[number]
            lost = sweep.is_unfinished(folder, job)
            if _is_done(became) and not lost:
                continue
            failed += 1
            if lost and _is_done(became):
                sweep.note_failure(folder, job, "runs of a share are missing; the same command makes them")
                continue
            error = became._return_value if became else "its process died (killed by the system, out of memory?)"
            if job.shares or not (isinstance(error, JobFailed) and error.noted):
                sweep.note_failure(folder, job, error)
            if isinstance(error, BaseException) and not isinstance(error, JobFailed | Refusal | OSError):
                mistakes.append(error)
        broken = sweep.report(folder, jobs[0].trackers)
        if mistakes:
            raise mistakes[0]
        if failed or broken:
            raise JobFailed(f"{max(failed, broken)} of {len(jobs)} jobs failed; see {folder}")
        return returns

    def _in_batches(self, jobs: list[list[str]], begin: int) -> list[JobReturn | None]:
        one_by_one = isinstance(self.launcher, BasicLauncher)
        size = 1 if one_by_one else self.max_batch_size or len(jobs)
        batches = (self._launched(jobs[at : at + size], begin + at) for at in range(0, len(jobs), size))
        return [_lean(told) for batch in batches for told in batch]

    def _launched(self, jobs: list[list[str]], begin: int) -> list[JobReturn | None]:
        """What became of each job; None where the process that had it died.

        A process that dies takes the others of its pool with it, and says nothing of which job was to blame. So each
        job is then launched alone: those that had ended find nothing to do, and only a job that kills is lost.
        """
        assert self.launcher is not None
        try:
            return list(self.launcher.launch(jobs, initial_job_idx=begin))
        except BrokenProcessPool:
            if len(jobs) == 1:
                return [None]
        return [told for number, job in enumerate(jobs) for told in self._launched([job], begin + number)]


def _values(override: Override) -> float:
    """How many values an override sweeps over, without listing those of a range."""
    value = override.value() if override.is_sweep_override() else None
    if isinstance(value, RangeSweep):
        assert value.start is not None
        assert value.stop is not None
        return max(0.0, math.ceil((value.stop - value.start) / value.step)) if value.step else math.inf
    return len(list(override.sweep_string_iterator())) if override.is_sweep_override() else 1


def _lean(told: JobReturn | None) -> JobReturn | None:
    """What became of a job without its configuration, which of thousands of jobs would fill the memory."""
    if told:
        told.cfg = told.hydra_cfg = None
    return told


def _is_done(told: JobReturn | None) -> bool:
    return told is not None and told.status == JobStatus.COMPLETED
