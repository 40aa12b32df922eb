"""`regrun`: Hydra's command line, with foreseeable mistakes answered in one line and an exit code.

    0 done    1 a job failed    2 bad input, nothing was written    130 interrupted

Nothing heavy is imported here: torch comes with the task.
"""

from __future__ import annotations

import errno
import os
import re
import sys
import traceback
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from difflib import get_close_matches
from pathlib import Path
from typing import NoReturn, TextIO

import hydra
from hydra._internal.hydra import Hydra
from hydra._internal.utils import get_args_parser
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from runner import __version__
from runner.aliases import refuse_bomb
from runner.devices import devices, take_one
from runner.errors import Refusal, unknown
from runner.overrides import key_of
from runner.paths import conf_dir, options

CANNOT_WRITE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)
EXTRAS = {"submitit": "slurm", "SlurmLauncher": "slurm"}  # what a missing one is called, and what brings it
OmegaConf.register_new_resolver("regrun_gpus", lambda: len(devices()) or 1, replace=True)
GROUPS = ("data", "model", "optimizer", "schedule", "method", "protocol", "experiment")
WITHIN = tuple(f"{group}/" for group in GROUPS)
LISTED = Hydra.format_config_groups
LOADED = OmegaConf.load


@hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="config")
def _task(cfg: DictConfig) -> float:
    """One job. The mean validation loss of its reported runs, for sweepers that want a number."""
    told = HydraConfig.get()
    alone = told.mode is None or told.mode.name == "RUN"
    with _answers() if alone else nullcontext():  # Hydra would say more than the one line
        return _job(cfg, list(told.overrides.task), alone)


def _job(cfg: DictConfig, overrides: list[str], alone: bool) -> float:
    take_one()
    from runner import admission, study, sweep, trackers
    from runner.config import read
    from runner.progress import progress_of, show_job, show_marks

    job = read(cfg, overrides)
    if job.marks:
        show_marks(job)
        return float("nan")
    folder = job.out / (job.study or sweep.stamp(job.method))
    if more := sorted({*admission.axes_of(folder), *cfg.axes} - set(cfg.axes)) if job.study else ():
        cfg.axes = [*cfg.axes, *more]
        job = read(cfg, overrides)
    job = admission.as_there(job, folder) if job.study else job
    if alone:
        folder = admission.begin([job], cfg.axes, folder, ["regrun", *overrides], fresh=job.study is None)
        trackers.begin(job.trackers, folder)
    with progress_of(job) as (say, watch):
        rows = study.run_job(job, folder, ["regrun", *overrides], say, watch)
        trackers.follow(job.trackers, folder, job.name, say)
    if alone:
        show_job(job, rows, folder)
        from runner.files import clear_parts, held
        from runner.report.collect import collect

        with held(folder, f"{folder}: another process writes its runs.csv; waits for that", say):
            clear_parts(folder)
            collect(folder)
    values = [float(row["last_val_loss"]) for row in rows if row["role"] == "report" and row["last_val_loss"]]
    return sum(values) / len(values) if values else float("nan")


def main() -> None:
    """Entry point of the console script."""
    os.environ["REGRUN_MAIN"] = str(os.getpid())
    # A thread that spins for a core which another process has makes a step up to 80 times as slow, one that never spins
    # doubles a large net's step on a quiet machine: spin for some microseconds (docs/benchmarks.md).
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # Hydra hands exceptions on instead of printing them
    # Hydra copies the only store there is for every group of the help and for every job; what it gives out are copies.
    ConfigStore.__deepcopy__ = lambda self, memo: self  # type: ignore[attr-defined]
    setattr(Hydra, "format_config_groups", _choices_of)  # noqa: B010  # Hydra has no setting for it
    setattr(OmegaConf, "load", _bounded)  # noqa: B010  # Hydra reads files with it, and it writes aliases out
    with _answers():
        if "--version" in sys.argv[1:]:  # Hydra would tell its own
            print(f"regrun {__version__}")
            return
        sys.argv[1:] = arranged(sys.argv[1:])
        _flags(sys.argv[1:])
        _choices_are_names(sys.argv[1:])
        _task()


def _choices_of(hydra: Hydra, predicate: Callable[[str], bool], compact: bool = True) -> str:
    """The groups of `regrun --help`, without those inside others, which configuration files build on."""
    return LISTED(hydra, lambda group: predicate(group) and not group.startswith(WITHIN), compact)


def _bounded(file: TextIO | str | Path) -> DictConfig | ListConfig:
    """What OmegaConf.load gives, unless it is for Hydra, which opens files, and aliases would fill the memory."""
    if not isinstance(file, str | Path):
        refuse_bomb(file.read(), file.name)
        file.seek(0)
    return LOADED(file)


@contextmanager
def _answers() -> Iterator[None]:
    """Answer what can be foreseen with one line on stderr and an exit code."""
    try:
        yield
    except Refusal as refusal:
        _leave(str(refusal), 2)
    except (HydraException, OmegaConfBaseException, YAMLError) as error:
        _leave(explain(error), 2)
    except KeyboardInterrupt as stopped:  # runner.engine.checkpoint.Stopped if its state is kept
        what = f"stopped by {stopped}; what was trained is kept" if str(stopped) else "interrupted"
        _leave(f"{what}; run the same command again to go on (with study=NAME)", getattr(stopped, "number", 2) + 128)
    except OSError as error:
        if error.errno not in CANNOT_WRITE:
            _leave_unread(error)  # omegaconf's word for a file that holds no mapping
            raise
        _leave(f"cannot write: {error}; what was written before is kept, and the same command goes on", 1)
    except Exception as error:
        _leave_unread(error)
        if type(error).__name__ != "JobFailed":  # its module imports torch, which --help must not wait for
            raise
        _leave(str(error), 1)


def _leave_unread(error: Exception) -> None:
    """Leave with a line if an error came from reading configurations."""
    if _in_reading(error):
        said = " ".join(f"{type(error).__name__}: {error}".split())
        _leave(f"the configuration cannot be read: {said[:300]}", 2)


def _in_reading(error: Exception) -> bool:
    """Whether the libraries that read configurations raised it: numbers too long, nesting too deep, no text at all."""
    modules = [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)]
    innermost = modules[-50:] if isinstance(error, RecursionError) else modules[-1:]
    return any(name.split(".")[0] in ("yaml", "omegaconf", "hydra", "antlr4", "codecs") for name in innermost)


def _flags(arguments: list[str]) -> Namespace:
    """The flags as Hydra reads them; refuses one that it does not have, which it would answer with its usage."""
    parser = get_args_parser()

    def refuse(message: str) -> NoReturn:
        raise Refusal(f"{' '.join(message.split())} (regrun --hydra-help lists the flags)")

    parser.error = refuse  # type: ignore[method-assign]  # it would print several lines
    return parser.parse_args(arguments)


def _choices_are_names(arguments: list[str]) -> None:
    """Refuse data=null and data=3, which Hydra answers with a traceback."""
    for argument in arguments:
        group, (_, equals, choice) = key_of(argument), argument.partition("=")
        if group.lstrip("~").startswith(("hydra.run", "hydra.output_subdir", "hydra.job.chdir")):
            raise Refusal(f"{argument!r}: Hydra would make folders of its own; results go to out=... and study=...")
        if equals and not group:
            raise Refusal(f"{argument!r} cannot be read: it must be key=value")
        for name in re.split(r"[][,\s]+", choice) if group in GROUPS else ():
            if re.fullmatch(r"null|true|false|nan|inf|[-+.\d][-+.\de]*", name, re.IGNORECASE):
                raise unknown(group, name, options(group), f"conf/{group}")


def arranged(arguments: list[str]) -> list[str]:
    """The command line as Hydra 1.3 wants it.

    Flags and their values go first, since it refuses "a=1 -m b=2". In a sweep, a plain strength becomes a choice of
    one, since Hydra would otherwise look for it in the default stack, which is empty.

    >>> arranged(["method=l2,none", "-m", "method.l2.rate=0.1", "epochs=2", "--config-dir", "mine"])
    ['-m', '--config-dir', 'mine', 'method=l2,none', 'method.l2.rate=choice(0.1)', 'epochs=2']
    """
    rest = [a for a in arguments if a.startswith("~") or ("=" in a and not a.startswith("-"))]
    flags = [a for a in arguments if a not in rest]
    told = _flags(flags)
    if told.multirun or any(_is_sweep(a, told.config_dir) for a in rest):
        rest = [re.sub(r"^(method\.[^=]+)=(?!choice\(|range\(|glob\(|\w+\()(.*)$", _as_choice, a) for a in rest]
    return flags + rest


def _as_choice(found: re.Match[str]) -> str:
    return f"{found[1]}=choice({found[2]})"


def _is_sweep(argument: str, config_dir: str | None) -> bool:
    """Whether the argument names an experiment that is a sweep, in conf/ or in the folder of --config-dir."""
    if key_of(argument) != "experiment":
        return False
    for folder in (conf_dir(), *([Path(config_dir)] if config_dir else [])):  # in the order in which Hydra looks
        path = folder / "experiment" / f"{argument.partition('=')[2]}.yaml"
        with suppress(OSError):  # Hydra says it if there is none
            return "MULTIRUN" in path.read_text(encoding="utf-8", errors="replace")
    return False


def explain(error: Exception) -> str:
    """A mistake that Hydra or OmegaConf found, in one line.

    >>> explain(HydraException("Could not find 'protocol/tund'"))
    "no protocol 'tund'; did you mean 'tuned'? (conf/protocol has: fixed, optuna, search, smoke, tuned)"
    """
    if isinstance(error, OverrideParseException):
        why = error.message.splitlines()[0]
        return f"{error.override!r} cannot be read: {why} (it must be key=value, with quotes around special characters)"
    text = " ".join(str(cause) for cause in (error, error.__cause__) if cause)
    for name, extra in EXTRAS.items():
        if name in text and re.search("Could not (find|load)|Unknown plugin", text):
            return f"hydra/launcher={extra} is an extra that is not installed (pip install 'regrun[{extra}]')"
    missing = re.search(r"Could not (?:find|load) '(?:([\w/]+)/)?([^'/]*)'", text)
    if missing and missing[1] in GROUPS:
        return str(unknown(missing[1], missing[2], options(missing[1]), f"conf/{missing[1]}"))
    twice = re.search(r"(\S+) appears more than once in the final defaults list", text)
    if twice:
        return f"{twice[1].replace('/', '=')}: the same choice stands in the list twice (once is enough)"
    key = re.search(r"Key '([^']*)' is not in struct\s+full_key: (\S+)", text)
    if key:
        whole = re.search(r"Could not override '([^']*)'", text)
        full = whole[1] if whole else key[2]
        if re.fullmatch(r"method(\.\w+)?", key[2]) and full.startswith("method."):
            name = full.split(".")[1]
            return f"{full}: the stack has no method {name!r} (method={name} or method=[...,{name}])"
        head, _, last = key[2].rpartition(".")
        home = f"conf/{head.split('.')[0] or 'config.yaml'}"
        return f"no setting {key[2]!r}{_nearest(last)} (regrun --cfg job shows all of them; {home})"
    if "--multirun" in text:
        found = re.search(r"Ambiguous value for argument '([^']*)'", text)
        what = found[1] if found else "a list of choices"
        return f"{what}: several choices need a sweep (add -m), one list needs brackets ([a,b])"
    named = getattr(error, "full_key", None)
    return " ".join((f"{named}: " * bool(named) + text).split())


def _nearest(name: str) -> str:
    """ ", did you mean ...?" for a misspelt setting, from the names in conf/."""
    names = {
        found
        for path in conf_dir().rglob("*.yaml")
        for found in re.findall(r"^ *(\w+):", path.read_text("utf-8"), re.M)
    }
    near = get_close_matches(name, names - {name}, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def _leave(message: str, code: int) -> None:
    line = "".join(c if c.isprintable() else repr(c)[1:-1] for c in message)  # nothing that a terminal would act on
    print(f"regrun: {line}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
