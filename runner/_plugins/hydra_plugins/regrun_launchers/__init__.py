"""Launchers for clusters that wait for every job, and say of each that was lost why, instead of ending at the first.

Slurm through hydra-submitit-launcher, whose own launcher gives up the whole sweep when one job is killed; Ray directly,
since hydra-ray-launcher cannot be installed beside a recent joblib. Hydra imports this module at every start of regrun
and executes it before it is in sys.modules: nothing heavy is imported here, and annotations are no strings.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

try:
    from hydra_plugins.hydra_submitit_launcher import submitit_launcher as _submitit
except ImportError:  # an extra; the class is then not there, and runner.cli.explain says so
    _submitit = None

PASSED = ("PYTHONPATH", "XDG_CACHE_HOME", "GOMP_SPINCOUNT", "HYDRA_FULL_ERROR")  # to the processes of Ray


def _lost(overrides: Sequence[str], why: str) -> JobReturn:
    """What is told of a job whose process did not come to its end."""
    from runner.study import JobFailed

    failed = JobFailed(f"its process was lost: {' '.join(why.split())[:300]}")
    failed.noted = False
    return JobReturn(overrides=list(overrides), status=JobStatus.FAILED, _return_value=failed)


if _submitit is not None:

    class SlurmLauncher(_submitit.SlurmLauncher):  # type: ignore[misc,name-defined,unused-ignore]
        """The jobs of a sweep as one Slurm array; takes what hydra-submitit-launcher takes."""

        def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
            """Submit all jobs and wait for each; a job that is lost fails alone."""
            import submitit
            from hydra_plugins.hydra_submitit_launcher.config import BaseQueueConf
            from submitit.core.utils import FailedJobError, FailedSubmissionError, UncompletedJobError

            from runner.errors import Refusal
            from runner.study import JobFailed

            given = dict(self.params)
            folder, retries = given.pop("submitit_folder"), given.pop("max_num_timeout")
            of_all = set(OmegaConf.structured(BaseQueueConf).keys())
            try:
                executor = submitit.AutoExecutor(folder=folder, cluster="slurm", slurm_max_num_timeout=retries)
            except RuntimeError as error:
                raise Refusal(f"hydra/launcher=slurm: {error} (regrun must run where sbatch and srun are)") from error
            executor.update_parameters(**{key if key in of_all else f"slurm_{key}": v for key, v in given.items()})
            numbered = list(enumerate(job_overrides, initial_job_idx))
            try:
                jobs = executor.map_array(
                    self,
                    [list(overrides) for _, overrides in numbered],
                    ["hydra.sweep.dir"] * len(numbered),
                    [number for number, _ in numbered],
                    [f"job_id_for_{number}" for number, _ in numbered],
                    [Singleton.get_state()] * len(numbered),
                )
            except (FailedJobError, FailedSubmissionError) as error:
                said = " ".join(str(error).split())
                raise JobFailed(f"Slurm did not take the jobs: {said[:300]} (hydra.launcher.*=...)") from error
            returns = []
            for job, overrides in zip(jobs, job_overrides, strict=True):
                try:
                    returns.append(job.results()[0])
                except UncompletedJobError:
                    returns.append(_lost(overrides, f"Slurm job {job.job_id}, state {job.state}; {job.paths.stderr}"))
            return returns


class RayLauncher(Launcher):
    """Each job of a sweep as a task of Ray, on a cluster that runs or on one that is begun for the sweep."""

    def __init__(self, address: str | None, cpus: float, gpus: float, retries: int) -> None:
        """`address` is of the cluster, "auto" for the one of this machine, None to begin one; the rest is of a job."""
        self.address, self.cpus, self.gpus, self.retries = address, cpus, gpus, retries
        self.hydra_context: HydraContext | None = None
        self.task_function: TaskFunction | None = None
        self.config: DictConfig | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """What Hydra hands to every launcher."""
        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run all jobs and wait for each; one whose node dies is run again, as often as `retries` says."""
        from runner.errors import Refusal

        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a Ray that is begun here reports to nobody
        try:
            import ray
        except ImportError as error:
            raise Refusal(f"hydra/launcher=ray_cluster: {error} (pip install 'regrun[ray]')") from error
        if not ray.is_initialized():
            passed = {name: os.environ[name] for name in PASSED if name in os.environ}
            try:
                ray.init(address=self.address, log_to_driver=False, runtime_env={"env_vars": passed})
            except (ConnectionError, ValueError, RuntimeError) as error:
                said = " ".join(str(error).split())[:300]
                raise Refusal(
                    f"hydra.launcher.address is {self.address!r}, where no Ray answers: {said} (ray start --head)"
                ) from error
        remote = ray.remote(num_cpus=self.cpus, num_gpus=self.gpus, max_retries=self.retries)(_run_on_ray)
        context = ray.put((self.hydra_context, self.config, self.task_function, Singleton.get_state(), Path.cwd()))
        tasks = [remote.remote(context, list(o), number) for number, o in enumerate(job_overrides, initial_job_idx)]
        returns = []
        for task, overrides in zip(tasks, job_overrides, strict=True):
            try:
                returns.append(ray.get(task))
            except ray.exceptions.RayError as error:
                returns.append(_lost(overrides, f"{type(error).__name__}: {error}"))
        return returns


def _run_on_ray(context: Any, overrides: list[str], number: int) -> JobReturn:
    """In a process of Ray's: compose one job and run it."""
    hydra_context, config, task_function, state, folder = context
    os.chdir(folder)  # Ray's processes are elsewhere, and `out` may be relative
    Singleton.set_state(state)
    setup_globals()
    composed = hydra_context.config_loader.load_sweep_config(config, overrides)
    with open_dict(composed):
        composed.hydra.job.id, composed.hydra.job.num = f"{composed.hydra.job.name}_{number}", number
    return run_job(
        hydra_context=hydra_context,
        task_function=task_function,
        config=composed,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
    )
