"""Several studies as one: what is merged, what is refused and why, and that nothing of the studies is changed."""

from __future__ import annotations

import errno
import io
import json
import shutil
from contextlib import ExitStack
from pathlib import Path

import pytest
from conftest import Regrun
from test_study import SMALL

from runner.errors import Refusal
from runner.files import held
from runner.records import read_table
from runner.report.cli import main
from runner.report.merge import merge

FEW = [argument for argument in SMALL if "study" not in argument]
OUT = Path("outputs")


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def run(regrun: Regrun, study: str, *arguments: str) -> None:
    told = regrun(*arguments, *FEW, f"study={study}", "progress=false")
    assert told.code == 0, told.err


@pytest.mark.usefixtures("unreported", "undrawn")
def test_methods_of_two_studies_stand_in_one_table(
    regrun: Regrun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(regrun, "a", "method=none,l2", "seeds=2", "-m")
    run(regrun, "b", "method=none,dropout", "seeds=3", "-m")
    before = tree(OUT / "a"), tree(OUT / "b")
    for _ in range(2):  # made, and made again
        capsys.readouterr()
        assert main([str(OUT / "a"), str(OUT / "b")]) == 0
        rows = read_table(OUT / "a+b" / "runs.csv")
        assert {(row["method"], row["seed"]) for row in rows} == {
            *(("none", seed) for seed in "012"),
            *(("l2", seed) for seed in "01"),
            *(("dropout", seed) for seed in "012"),
        }
        assert len(rows) == 8  # the two of none that both studies have stand there once
        assert "dropout" in capsys.readouterr().out
    assert (tree(OUT / "a"), tree(OUT / "b")) == before
    curves = {point["run_id"] for job in (OUT / "a+b").glob("none-*") for point in read_table(job / "curves.csv")}
    assert len(curves) == 3
    headline = read_table(OUT / "a+b" / "report" / "headline.csv")
    timed = {row["method"]: row["n_timed"] for row in headline if row["metric"] == "test_acc"}
    assert (timed["l2"], timed["dropout"]) == ("2", "1")  # at seeds 0 and 1 the runs of none are those of a
    # b has all three seeds of none itself
    assert not json.loads((OUT / "a+b" / "study.json").read_text())["extensions"]
    assert not list(OUT.glob(".a+b-*"))


@pytest.mark.usefixtures("unreported", "undrawn")
def test_other_seeds_of_another_machine_are_added(regrun: Regrun, tmp_path: Path) -> None:
    run(regrun, "a", "method=l2", "seeds=2", "-m")
    run(regrun, "b", "method=l2", "seeds=2", "seed0=2", "-m")
    merge([OUT / "a", OUT / "b"], OUT / "all")
    assert main([str(OUT / "all")]) == 0
    headline = read_table(OUT / "all" / "report" / "headline.csv")
    assert {row["n_report"] for row in headline} == {"4"}
    # that the two of one study were looked at before those of the other were run is what nobody can rule out
    assert {row["extended"] for row in headline} == {"2 to 4"}
    (step,) = json.loads((OUT / "all" / "study.json").read_text())["extensions"]
    assert (step["group"], step["methods"], step["asked"]) == ("digits/mlp", ["l2", "none"], "merging")
    assert "seeds were added after the study was begun: 2 to 4" in (OUT / "all/report/headline.md").read_text()


def jobs_of(study: Path) -> dict[str, bytes]:
    return {name: content for name, content in tree(study).items() if "/" in name and not name.endswith(".lock")}


@pytest.mark.usefixtures("unreported")
def test_what_was_added_to_a_merged_study_is_not_removed(regrun: Regrun, tmp_path: Path) -> None:
    run(regrun, "a", "-m", "method=l2", "seeds=1")
    run(regrun, "b", "-m", "method=dropout", "seeds=1")
    cut_off = next((OUT / "a").glob("l2-*"))
    (cut_off / "runs.csv").unlink()
    both = merge([OUT / "a", OUT / "b"], OUT / "a+b")
    made = jobs_of(both)

    def refused() -> str:
        before = tree(both)
        with pytest.raises(Refusal) as told:
            merge([OUT / "a", OUT / "b"], both)
        assert tree(both) == before
        assert f"merge {both} with them into another folder (--into ...), or move it away" in str(told.value)
        return str(told.value)

    (both / "notes.txt").write_text("of the user's own")
    merge([OUT / "a", OUT / "b"], both)
    assert jobs_of(both) == made
    assert (both / "notes.txt").exists()
    run(regrun, "a+b", "method=l2", "seeds=1")
    job = both / cut_off.name
    lost = f"{both} has a run of l2 l2.rate=0.001 at seed 0 in the job {job.name}"
    assert lost in refused()
    # also where it is in no table yet
    (row,) = read_table(job / "runs.csv")
    (job / "runs.csv").unlink()
    share = job / "share-0"
    share.mkdir()
    (share / "ended.jsonl").write_text(json.dumps([row, [], {}]) + "\n")
    assert lost in refused()
    (share / "ended.jsonl").unlink()
    # and where it has only begun
    for place in (job, share):
        with held(place, "", print):
            assert f"the job {job.name} with a run that has begun" in refused()
        (place / "checkpoint-0").touch()
        assert f"the job {job.name} with a run that has begun" in refused()
        (place / "checkpoint-0").unlink()
    run(regrun, "a+b", "method=l1", "seeds=1")
    assert f"{both} has the job l1-" in refused()
    merge([OUT / "a", OUT / "b", both], OUT / "all")
    assert any((OUT / "all").glob("l1-*"))
    shutil.rmtree(next(both.glob("l1-*")))
    merge([OUT / "a", OUT / "b"], both)
    assert jobs_of(both) == made


@pytest.mark.usefixtures("unreported")
def test_a_merged_study_is_not_replaced_while_another_process_has_it(
    regrun: Regrun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(regrun, "a", "-m", "method=l2", "seeds=1")
    run(regrun, "b", "-m", "method=l2", "seeds=1", "seed0=1")
    both = merge([OUT / "a", OUT / "b"], OUT / "a+b")
    (both / "runs.csv").write_text("of the report\n")
    heard: list[str] = []
    with ExitStack() as stack:

        def say(line: str) -> None:
            heard.append(line)
            assert (both / "runs.csv").exists()
            stack.close()

        monkeypatch.setattr("runner.records.to_stderr", say)
        stack.enter_context(held(both, "", print))
        merge([OUT / "a", OUT / "b"], both)
    assert heard == [f"{both}: another process has it; waits for that"]
    assert not (both / "runs.csv").exists()


def refusal(*studies: str, into: str = "all") -> str:
    with pytest.raises(Refusal) as refused:
        merge([OUT / study for study in studies], OUT / into)
    assert not list(OUT.glob(".*"))
    return str(refused.value)


def test_what_does_not_compare_is_refused(regrun: Regrun, tmp_path: Path) -> None:
    run(regrun, "a", "method=l2", "seeds=1")
    run(regrun, "lr", "method=l2", "seeds=1", "optimizer.lr=0.5")
    run(regrun, "margin", "method=l2", "seeds=1", "margins.acc=0.1")
    run(regrun, "tuned", "method=l2", "protocol=tuned", "protocol.tune_seeds=1", "seeds=1")
    run(regrun, "later", "method=l2", "protocol=tuned", "protocol.tune_seeds=1", "seeds=1", "seed0=1")
    assert "optimizer.lr is" in refusal("a", "lr")
    assert "margins" in refusal("a", "margin")
    assert "seed0 is 0 in the one and 1 in the other" in refusal("tuned", "later")
    assert "protocol" in refusal("a", "tuned")
    assert "no folder" in refusal("a", "nowhere")
    (OUT / "empty").mkdir()
    assert "is not a study with runs" in refusal("a", "empty")
    assert "was not made by merging" in refusal("a", "lr", into="tuned")
    assert "was not made by merging" in refusal("a", "lr", into="empty")

    shutil.copytree(OUT / "a", OUT / "other")
    (runs,) = (OUT / "other").glob("l2-*/runs.csv")
    (row,) = read_table(runs)
    runs.write_text(runs.read_text().replace(row["last_test_loss"], "9.5"))
    assert "one run with two outcomes" in refusal("a", "other")
    runs.write_text(runs.read_text().replace("9.5", row["last_test_loss"]).replace(row["run_id"], "f" * 16))
    assert "with other settings" in refusal("a", "other")
    runs.write_text(runs.read_text().replace(",l2,", ",l1,").replace(row["split_hash"], "0" * 12))
    assert "other training sets" in refusal("a", "other")
    runs.write_text(runs.read_text()[:-3])
    assert "torn" in refusal("a", "other")


@pytest.mark.usefixtures("unreported")
def test_other_seeds_of_another_configuration_are_refused(regrun: Regrun, tmp_path: Path) -> None:
    """Seeds that differ keep runs apart; one mean over two configurations would stand under the name of both."""
    rate = "method.dropout.input_rate"
    run(regrun, "a", "-m", "method=dropout", f"{rate}=0.2", "seeds=2")
    run(regrun, "b", "-m", "method=dropout", "seed0=10", "seeds=2")
    told = refusal("a", "b")
    assert f"{rate} is 0.2 in the one and 0.0 in the other" in told
    assert "outputs/a/dropout-" in told
    assert "outputs/b/dropout-" in told
    assert f"(-m {rate}=...)" in told
    for config in (OUT / "b").glob("dropout-*/config.yaml"):
        config.unlink()
    assert "config.yaml cannot be read" in refusal("a", "b")


@pytest.mark.usefixtures("unreported")
def test_one_split_for_all_seeds_is_one_in_all_studies(regrun: Regrun, tmp_path: Path) -> None:
    one_split = ["-m", "method=l2", "data.resplit=none"]
    run(regrun, "a", *one_split, "seeds=1")
    run(regrun, "later", *one_split, "seeds=1", "seed0=2")
    assert "seed0 is 0 in the one and 2 in the other" in refusal("a", "later")
    # neither other methods nor seeds that were added move the split
    run(regrun, "a", *one_split, "extend=+1")
    run(regrun, "b", "method=dropout", "data.resplit=none", "seeds=2")
    merge([OUT / "a", OUT / "b"], OUT / "all")
    rows = [row for path in (OUT / "all").glob("*/runs.csv") for row in read_table(path)]
    assert {(row["method"], row["seed"]) for row in rows} == {(m, s) for m in ("none", "l2", "dropout") for s in "01"}
    assert len({row["split_hash"] for row in rows}) == 1


@pytest.mark.usefixtures("unreported")
def test_an_axis_of_one_study_is_free_in_no_other(regrun: Regrun, tmp_path: Path) -> None:
    run(regrun, "axis", "-m", "method=none", "optimizer.lr=0.1,0.2", "seeds=1")
    run(regrun, "low", "-m", "method=none", "optimizer.lr=0.3", "seed0=10", "seeds=1")
    run(regrun, "high", "-m", "method=none", "optimizer.lr=0.4", "seed0=20", "seeds=1")
    assert "optimizer.lr is 0.3 in the one and 0.4 in the other" in refusal("axis", "low", "high")
    # nor are other methods compared with that baseline; alone, a method brings none of its own
    run(regrun, "other", "method=l2", "optimizer.lr=0.4", "seed0=10", "seeds=1")
    assert "optimizer.lr is 0.3 in the one and 0.4 in the other" in refusal("axis", "low", "other")
    merge([OUT / "axis", OUT / "low"], OUT / "all")
    rows = [row for path in (OUT / "all").glob("none-*/runs.csv") for row in read_table(path)]
    assert sorted(row["setting"] for row in rows) == ["", "optimizer.lr=0.1", "optimizer.lr=0.2"]


def test_wrong_command_lines_are_one_line(regrun: Regrun, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(regrun, "a", "method=l2", "seeds=1")
    for arguments in (["a", "nowhere"], ["a", "a", "--verify"], ["a", "a", "--into", str(OUT / "a")]):
        capsys.readouterr()
        assert main([str(OUT / each) if each in ("a", "nowhere") else each for each in arguments]) == 2
        assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.usefixtures("unreported", "undrawn")
def test_a_folder_of_studies_is_no_study(
    regrun: Regrun, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether all of it compares nobody has checked; and merging beside a study leaves it as it was."""
    run(regrun, "a", "-m", "method=l2", "seeds=2")
    run(regrun, "b", "-m", "method=dropout", "seeds=2", "epochs=3")
    (OUT / "runs.csv").write_text("left,behind\n")
    capsys.readouterr()
    assert main([str(OUT)]) == 2
    said = capsys.readouterr()
    assert (said.out, said.err.count("\n")) == ("", 1)
    assert "is a folder of studies, which may not compare; name those to report (outputs/a ...)" in said.err
    assert (OUT / "runs.csv").read_text() == "left,behind\n"
    run(regrun, "c", "-m", "method=l2", "seeds=2", "seed0=2")
    before = tree(OUT / "a")
    monkeypatch.chdir(OUT / "a")
    assert main([".", "../c"]) == 0
    assert tree(Path()) == before
    assert (tmp_path / OUT / "a+c" / "report").is_dir()


@pytest.mark.usefixtures("undrawn")
def test_what_a_report_cannot_do_is_a_line(
    regrun: Regrun, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run(regrun, "a", "-m", "method=l2", "seeds=2")
    path, study = OUT / "a" / "study.json", str(OUT / "a")
    whole = path.read_text()
    path.write_text("{")
    capsys.readouterr()
    assert main([study]) == 2
    assert "study.json is not readable as JSON; mend it" in capsys.readouterr().err
    path.write_text(whole)

    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def stopped(*arguments: object) -> None:
        raise KeyboardInterrupt

    for broken, code, told in ((full, 2, "cannot write: [Errno 28] No space"), (stopped, 130, "interrupted; the same")):
        with monkeypatch.context() as patched:
            patched.setattr("runner.report.build.collect", broken)
            assert main([study]) == code
        said = capsys.readouterr()
        assert (said.out, said.err.count("\n")) == ("", 1)
        assert told in said.err
    narrow = io.TextIOWrapper(io.BytesIO(), "latin-1")
    with monkeypatch.context() as patched:
        patched.setattr("sys.stdout", narrow)
        assert main([study]) == 0
    narrow.flush()
    assert b"test" in narrow.buffer.getvalue()
