"""Many jobs in one sweep: scripts/stress/soak.py, in short."""

from __future__ import annotations

import mmap
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts" / "stress"))
import soak


@pytest.mark.slow
def test_a_hundred_jobs_leave_memory_and_files_as_they_were() -> None:
    done = subprocess.run(
        [sys.executable, soak.__file__, "--jobs", "100"], capture_output=True, text=True, check=False, timeout=280
    )
    assert done.returncode == 0, done.stdout[-500:] + done.stderr[-500:]
    assert "100 jobs in" in done.stdout


def test_what_leaks_is_found() -> None:
    flat = soak.Seen([100.0] * 40, [6] * 40)
    assert flat.wrong() == ""
    assert soak.Seen([100.0 + number for number in range(40)], [6] * 40).wrong() == "memory grew by 30.3 %"
    assert soak.Seen([100.0] * 40, list(range(40))).wrong() == "39 files are open, and 7 were"
    assert soak.Seen([100.0] * 40, [6] * 40, page_mb=25, report_s=700).wrong().count(";") == 1


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_memory_is_what_the_process_has_written(tmp_path: Path) -> None:
    """Not the pages of a file that it reads, as libraries are, which are private while no other process reads them."""
    size, path = 50 * 2**20, tmp_path / "library"
    path.write_bytes(bytes(size))
    before = soak.written_mb()
    with path.open("rb") as file, mmap.mmap(file.fileno(), size, mmap.MAP_PRIVATE, mmap.PROT_READ) as pages:
        assert sum(pages[at] for at in range(0, size, mmap.PAGESIZE)) == 0
        assert soak.written_mb() - before < 10
    with mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as own:
        for at in range(0, size, mmap.PAGESIZE):
            own[at] = 1
        assert soak.written_mb() - before > 40
