"""The pages that are written by programs are up to date, and what the documents name is there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [*ROOT.glob("*.md"), *sorted((ROOT / "docs").glob("*.md"))]


def test_the_table_of_methods_is_up_to_date() -> None:
    told = subprocess.run(
        [sys.executable, ROOT / "scripts" / "methods_table.py", "--check"], capture_output=True, text=True, check=False
    )
    assert told.returncode == 0, told.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_are_named_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for name in re.findall(r"`((?:conf|runner|scripts|tests|docs)/[\w./]+\.(?:py|md|yaml))`", text):
        invented = "gradient_centralization" in name  # CONTRIBUTING's example of a new method
        assert invented or (ROOT / name).exists(), f"{page.name} names {name}"
