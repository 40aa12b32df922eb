"""One sweep of very many tiny jobs: whether memory and open files stay what they were, and what the report costs.

python scripts/stress/soak.py              2,000 jobs of two runs
python scripts/stress/soak.py --jobs 60

The jobs go one after another in one process, Hydra's basic launcher, which is where a leak would show. Memory is what
the process has written itself, looked at a hundred times on the way (to collect garbage takes longer than a job);
"flat" is that the median of the last tenth of the jobs is at most 5 % above that of the second tenth (in the first one
libraries are loaded and caches filled).
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

GROWTH = 1.05  # of memory
LOOKS = 100  # at memory and open files
PAGE_MB = 20.0  # the most that report.html may weigh
REPORT_S = 600.0  # the most that the report may take
EACH = 100  # jobs at each learning rate: the baseline and strengths of L2
SMALL = (
    "method=l2", "data=digits", "data.train_size=100", "data.val_size=50", "data.test_size=100", "model.width=4",
    "model.depth=1", "epochs=1", "batch_size=20", "seeds=2", "workers=1", "study=soak", "progress=false",
    "evaluate.predictions=false",
)  # fmt: skip


@dataclass
class Seen:
    """What was measured on the way, and of the report."""

    memory_mb: list[float]
    handles: list[int]
    jobs: int = 0
    checked_s: float = 0.0  # until the first job began
    report_s: float = 0.0
    page_mb: float = 0.0
    seconds: float = 0.0

    def growth(self) -> float:
        """Memory at the end over memory near the beginning."""
        tenth = max(1, len(self.memory_mb) // 10)
        return median(self.memory_mb[-tenth:]) / median(self.memory_mb[tenth : 2 * tenth])

    def wrong(self) -> str:
        """What is over its limit, in a line; nothing where all is well."""
        said = []
        if self.growth() > GROWTH:
            said.append(f"memory grew by {100 * (self.growth() - 1):.1f} %")
        tenth = max(1, len(self.handles) // 10)
        if self.handles[-1] > max(self.handles[tenth : 2 * tenth]):
            said.append(f"{self.handles[-1]} files are open, and {max(self.handles[tenth : 2 * tenth])} were")
        if self.page_mb > PAGE_MB:
            said.append(f"the page has {self.page_mb:.1f} MB")
        if self.report_s > REPORT_S:
            said.append(f"the report took {self.report_s:.0f} s")
        return "; ".join(said)


def written_mb() -> float:
    """The memory of this process that is no file's, in MB, also where it was moved to disk.

    Not all that is private: the pages of a library become private, 330 MB of torch's, when the last other process that
    has it loaded ends.
    """
    rollup = Path("/proc/self/smaps_rollup").read_text(encoding="ascii")
    return sum(int(line.split()[1]) for line in rollup.splitlines() if line.startswith(("Anonymous:", "Swap:"))) / 1024


def soak(folder: Path, jobs: int) -> Seen:
    """Run the sweep in this process, in a folder; raises SystemExit if it ends with anything but success."""
    from runner import cli, study, sweep

    seen, every = Seen([], []), max(1, jobs // LOOKS)
    run_job, report = study.run_job, sweep.report

    def counted(*arguments: Any) -> Any:
        seen.checked_s = seen.checked_s or time.monotonic() - clock
        done = run_job(*arguments)
        if seen.jobs % every == 0:
            gc.collect()
            seen.memory_mb.append(written_mb())
            seen.handles.append(len(list(Path("/proc/self/fd").iterdir())))
        seen.jobs += 1
        return done

    def timed(*arguments: Any) -> Any:
        began = time.monotonic()
        failed = report(*arguments)
        seen.report_s = time.monotonic() - began
        return failed

    settings = max(1, jobs // EACH)
    lrs = ",".join(f"{0.001 * (1 + number):g}" for number in range(settings))
    rates = ",".join(f"{0.0001 * (1 + number):g}" for number in range(jobs // settings - 1))  # the baseline is added
    arguments = ["-m", *SMALL, f"optimizer.lr={lrs}", f"method.l2.rate={rates}"]
    before, clock = Path.cwd(), time.monotonic()
    setattr(study, "run_job", counted)  # noqa: B010  # measured, and otherwise what it is
    setattr(sweep, "report", timed)  # noqa: B010
    sys.argv[1:] = arguments
    os.chdir(folder)
    try:
        cli.main()
    finally:
        os.chdir(before)
        setattr(study, "run_job", run_job)  # noqa: B010
        setattr(sweep, "report", report)  # noqa: B010
    seen.seconds = time.monotonic() - clock
    seen.page_mb = (folder / "outputs" / "soak" / "report" / "report.html").stat().st_size / 2**20
    return seen


def main() -> int:
    """0 if memory, files and the report stay under their limits, else 1."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=2000)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        seen = soak(Path(folder), given.jobs)
    print(
        f"{seen.jobs} jobs in {seen.seconds:.0f} s, {seen.checked_s:.0f} of them to check all; "
        f"memory {seen.memory_mb[0]:.0f} MB after the first, {seen.memory_mb[-1]:.0f} after the last, "
        f"growth {100 * (seen.growth() - 1):+.1f} %; files open "
        f"{seen.handles[0]} and {seen.handles[-1]}; report {seen.report_s:.0f} s, page {seen.page_mb:.1f} MB"
    )
    print(seen.wrong() or "all under their limits")
    return 1 if seen.wrong() else 0


if __name__ == "__main__":
    sys.exit(main())
