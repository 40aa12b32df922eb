"""The HTML report: whole in one file, safe against names, and alive in a browser."""

import base64
import html.parser
import json
import re
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest
from report_data import Plan, write_study
from test_report_tables import by_hand as runs_by_hand

from runner.report.answers import answers
from runner.report.build import build, stored_margins
from runner.report.page import Shown, _figure, _quoted, commands, inline_svg
from runner.report.tables import Margins, headline, read_runs
from runner.report.writers import caption

EVIL = "<script>alert(1)</script>"
VOID = {"meta", "input", "img", "br", "link", "hr"}


class Outline(html.parser.HTMLParser):
    """Headings, ids, references, tags and whether every element is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.headings: list[int] = []
        self.ids: list[str] = []
        self.references: list[str] = []
        self.tags: list[str] = []
        self.open: list[str] = []
        self.images: list[dict[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.append(tag)
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))
        self.ids += [value for name, value in attrs if name == "id" and value]
        self.references += [value for name, value in attrs if name in ("src", "href", "xlink:href") and value]
        if tag in ("img", "svg"):
            self.images.append(found)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open, tag
        assert self.open.pop() == tag


def page_of(folder: Path) -> tuple[str, Outline]:
    text = (folder / "report" / "report.html").read_text(encoding="utf-8")
    outline = Outline()
    outline.feed(text)
    assert outline.open == []
    return text, outline


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    plan = Plan(methods=("l2", "dropout", "placebo"), tune=2, report=4, diverged=(("dropout", "report", 4),))
    folder = write_study(tmp_path_factory.mktemp("page") / "study", plan)
    path = folder / "digits--l2" / "status.json"
    status = json.loads(path.read_text())
    status |= {"command": ["regrun", "method=l2", "data.name=it's here", "axes=[]"], "torch": "2.0", "git_sha": "abc"}
    path.write_text(json.dumps(status))
    build(folder)
    return folder


def test_the_page_is_one_file_with_headings_in_order(study: Path) -> None:
    text, outline = page_of(study)
    assert len(outline.ids) == len(set(outline.ids))
    assert all(reference.startswith(("#", "data:")) for reference in outline.references)
    missing = [
        reference for reference in outline.references if reference[:1] == "#" and reference[1:] not in outline.ids
    ]
    assert missing == []
    assert set(re.findall(r"url\(#([^)]+)\)", text)) <= set(outline.ids)
    assert outline.headings[0] == 1
    assert outline.headings.count(1) == 1
    assert all(after - before <= 1 for before, after in zip(outline.headings, outline.headings[1:], strict=False))
    assert len(outline.images) == 8
    for image in outline.images:
        assert image.get("alt") or image.get("aria-labelledby") in outline.ids
    order = [text.index(f'id="{name}"') for name in ("forest", "gap_vs_test", "gap_decomposition", "strength_curves",
             "learning_curves", "cost_benefit", "seed_spread", "methods", "protocol", "failures", "versions", "again",
             "cite")]  # fmt: skip
    assert order == sorted(order)
    assert "dropout 0.01: 1 of 4 report runs" in text
    assert "regrun method=l2 &#39;data.name=it&#39;\\&#39;&#39;s here&#39;\n" in text
    assert "git abc" in text


def test_names_are_escaped(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "study", Plan(methods=("l2",), tune=1, report=2))
    path = folder / "digits--l2" / "runs.csv"
    path.write_text(path.read_text().replace(",l2,penalty", f",{EVIL},penalty"))
    build(folder)
    text, outline = page_of(folder)
    assert EVIL not in text
    assert outline.tags.count("script") == 1
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text


def test_a_heavy_figure_becomes_a_picture(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {path.suffix: path for path in (study / "report" / "figures").glob("forest.*")}
    shown = Shown("forest-group_1", "group 1", files)
    light = _figure(shown, 0, "accuracy")
    monkeypatch.setattr("runner.report.page.HEAVY", len(files[".svg"].read_text()) - 1)
    heavy = _figure(shown, 0, "accuracy")
    assert (light["png"], heavy["svg"]) == (None, None)
    assert str(heavy["png"]) == base64.b64encode(files[".png"].read_bytes()).decode()
    assert str(heavy["alt"]).endswith("group 1.")


def test_svg_ids_are_prefixed() -> None:
    text = '<?xml version="1"?><svg><metadata>x</metadata><g id="a" clip-path="url(#b)"/><use xlink:href="#a"/></svg>'
    assert inline_svg(text, "f1-", "<A>") == (
        '<svg role="img" aria-labelledby="f1-title"><title id="f1-title">&lt;A&gt;</title>'
        '<g id="f1-a" clip-path="url(#f1-b)"/><use xlink:href="#f1-a"/></svg>'
    )


def test_commands_are_quoted_and_told_once() -> None:
    assert _quoted("a=[b]") == "'a=[b]'"
    one = {"command": ["regrun", "method=none", "axes=[]"]}
    assert commands([one, {}, one, {"command": None}]) == ["regrun method=none"]


def _luminance(color: str) -> float:
    parts = [int(color[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_text_has_contrast(study: Path) -> None:
    text, _ = page_of(study)
    colors = dict(re.findall(r"--(ink|grey|blue|red): (#[0-9a-f]{3,6})", text))
    assert set(colors) == {"ink", "grey", "blue", "red"}
    for color in colors.values():
        full = color if len(color) == 7 else "#" + "".join(2 * part for part in color[1:])
        # #f6f6f6 is the darkest ground that text stands on
        assert (_luminance("#f6f6f6") + 0.05) / (_luminance(full) + 0.05) >= 4.5


def by_hand(**tests: list[float]) -> pd.DataFrame:
    return headline(runs_by_hand(tests))


def test_the_answer_in_words() -> None:
    base = [0.70, 0.71, 0.72, 0.70]
    frame = by_hand(
        none=base,
        up=[value + more for value, more in zip(base, (0.020, 0.021, 0.022, 0.021), strict=True)],
        down=[value - more for value, more in zip(base, (0.020, 0.021, 0.022, 0.021), strict=True)],
        same=[value + more for value, more in zip(base, (0.001, -0.001, 0.001, -0.001), strict=True)],
        loose=[value + more for value, more in zip(base, (0.01, -0.01, 0.01, -0.01), strict=True)],
    )
    ((title, text),) = answers(frame)
    assert title == "digits · mlp"
    # mean 2.1, sd 0.0816, half-width 3.182 * 0.0816 / 2 = 0.13
    assert text.startswith("up raises the test accuracy of mlp on digits by 2.10 pp [1.97, 2.23]. ")
    assert " down lowers it by 2.10 pp [1.97, 2.23]. " in text
    assert " Equivalent to none within ±0.5 pp: same. " in text
    # sd 1.1547, t(3 df) at 1 - 0.05 / 8 = 5.3919 for four tests: half-width 5.3919 * 1.1547 / 2 = 3.11; alone 1.8
    assert " No evidence of a difference after correction for 4 tests for loose (0.0 [−3.1, +3.1], +" in text
    assert "seeds): in brackets the intervals that hold for all tests at once, and about how many more seeds" in text
    loose = [value + more for value, more in zip(base, (0.01, -0.01, 0.01, -0.01), strict=True)]
    ((_, alone),) = answers(by_hand(none=base, loose=loose))
    assert "of mlp on digits for loose (0.0 [−1.8, +1.8], +19 seeds): in brackets what the data are compatible" in alone
    ((_, nothing),) = answers(frame[frame["method"].isin(["none", "loose"])])
    assert nothing.startswith("No evidence of a difference in the test accuracy of mlp on digits after")


def test_margins_that_changed_are_told(tmp_path: Path) -> None:
    rows = runs_by_hand({"none": [0.70, 0.72, 0.74], "l2": [0.71, 0.74, 0.77]})
    before = Margins(acc=0.03, gap=0.02)
    assert "Margin changed" not in caption(headline(rows, margins=before, stored=before))
    assert "Margin changed" not in caption(headline(rows, margins=before))
    told = caption(headline(rows, margins=Margins(acc=0.01, gap=0.02), stored=before))
    assert told.startswith("Margin changed after the runs: test ±3 to ±1 percentage points. Test accuracy")


@pytest.mark.usefixtures("undrawn")
def test_margins_come_from_the_study(tmp_path: Path) -> None:
    assert stored_margins(tmp_path) is None
    (tmp_path / "study.json").write_text('{"margins": {"acc": 0.03, "gap": 0.02, "loss": 0.1}}')
    assert stored_margins(tmp_path) == Margins(0.03, 0.02, 0.1)
    (tmp_path / "study.json").write_text('{"margins": {"acc": -1}}')
    with pytest.raises(ValueError, match=r"study.json: margins .*above 0"):
        stored_margins(tmp_path)
    folder = write_study(tmp_path / "study", Plan(methods=("l2",), tune=1, report=2, strengths=()))
    (folder / "study.json").write_text('{"margins": {"acc": 0.03}}')
    assert set(build(folder).headline["rope"]) == {0.03}
    assert "Margin changed" not in (folder / "report" / "headline.md").read_text()
    assert set(build(folder, Margins(acc=0.01)).headline["rope"]) == {0.01}
    for name in ("headline.md", "report.html"):
        assert "Margin changed after the runs: test ±3 to ±1" in (folder / "report" / name).read_text()


def test_a_placebo_that_wins_is_a_warning() -> None:
    quiet = by_hand(none=[0.70, 0.71, 0.72], placebo=[0.71, 0.70, 0.72]).assign(family=["baseline", "placebo"])
    assert "False-positive check: placebo, which has no effect, came out inconclusive (Δ 0.0 [" in caption(quiet)
    same = by_hand(none=[0.70, 0.71, 0.72], placebo=[0.70, 0.71, 0.72]).assign(family=["baseline", "placebo"])
    assert "gave the runs of none again, as it must" in caption(same)
    several = pd.concat([same, same[1:].assign(strengths="placebo.dose=2")], ignore_index=True)
    assert caption(several).count("Pairing check: placebo") == 1
    frame = by_hand(none=[0.70, 0.71, 0.72], placebo=[0.72, 0.731, 0.739])
    told = caption(frame.assign(family=["baseline", "placebo"]))
    assert "False-positive check failed: placebo, which has no effect, came out better (Δ +2." in told


CLICK = """<script>
addEventListener("load", () => {
  const table = document.querySelector("table.sortable");
  const order = () => [...table.tBodies[0].rows].map(row => row.cells[0].textContent).join(" ");
  const buttons = [...table.tHead.querySelectorAll("button")];
  const told = [order()];
  buttons[0].click(); told.push(order());
  buttons[4].click(); told.push(order());
  buttons[4].click(); told.push(order());
  const radio = document.querySelector("input[value=best]");
  radio.click();
  const seen = [...document.querySelectorAll(".variant")].filter(part => !part.hidden).map(part => part.dataset.name);
  document.body.dataset.told = told.join("|") + "|" + seen.join(",") + "|" + (document.body.scrollWidth <= innerWidth);
});
</script></body>"""


@pytest.mark.slow
def test_the_page_lives_in_a_browser(study: Path, tmp_path: Path) -> None:
    browser = shutil.which("chromium")
    if browser is None:
        pytest.skip("chromium is not installed (apt-get install chromium): the page was not opened in a browser")
    copy = tmp_path / "copy.html"
    # The policy forbids no inline script, so the clicks run as a reader's would.
    copy.write_text((study / "report" / "report.html").read_text().replace("</body>", CLICK))
    done = subprocess.run(
        [browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync", "--enable-logging=stderr",
         f"--user-data-dir={tmp_path / 'profile'}", "--window-size=500,800", "--dump-dom", copy.as_uri()],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "CONSOLE" not in done.stderr, done.stderr
    told = re.search(r'data-told="([^"]*)"', done.stdout)
    assert told is not None
    first, by_name, down, up, seen, fits = told[1].split("|")
    frame = headline(read_runs(study / "runs.csv")).set_index("method")
    names = {text.split(" ")[0] for text in ("none", "l2", "dropout", "placebo")}
    assert first.startswith("none ")
    words = [word for word in by_name.split() if word in names]
    assert words == sorted(names)
    ranked = [str(name) for name in frame["diff"].dropna().sort_values(ascending=False).index]
    # none has no difference: it stays last either way
    assert [word for word in down.split() if word in names] == [*ranked, "none"]
    assert [word for word in up.split() if word in names] == [*reversed(ranked), "none"]
    assert (seen, fits) == ("best test_acc", "true")


@pytest.mark.usefixtures("undrawn")
def test_margins_that_changed_are_told_where_one_seed_is_left_out(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "study", Plan(methods=("l2",), protocol="fixed", report=3, strengths=(0.1, 0.2)))
    (folder / "study.json").write_text('{"margins": {"acc": 0.01, "gap": 0.02, "loss": 0.1}}')
    build(folder, Margins(acc=0.05, gap=0.2))
    _, left_out = (folder / "report" / "headline.md").read_text().split("leaving one seed out")
    assert "Margin changed after the runs: test ±1 to ±5 percentage points; gap ±2 to ±20" in left_out
