"""The driver of `make bundle`, with small stages: order, failures, resuming after a kill."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import bundle
import bundle_stages
import fingerprints
import pytest
from bundle_stages import Run, Stage
from results_page import section, with_section
from stamps import BUNDLED, digest, read_stamps

from personavec.errors import DataError
from personavec.vectors import load_vector


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A repository with one thing to depend on, by trait."""
    root = tmp_path / "root"
    (root / BUNDLED).mkdir(parents=True)
    (root / BUNDLED / "thing.json").write_text(json.dumps({"evil": 1, "humorous": 1}))
    known = dict(fingerprints.FINGERPRINTS)
    known["thing"] = lambda bundled: json.loads((bundled / "thing.json").read_text())
    known["made"] = lambda bundled: [digest(p.read_bytes()) for p in sorted(bundled.glob("*.txt"))]
    monkeypatch.setattr(fingerprints, "FINGERPRINTS", known)
    return Run(tmp_path / "out", root=root)


def writing(folder: str, *, failing: Sequence[str] = ()) -> Callable[[Run], dict[str, list[str]]]:
    """A command for each of two traits that adds a line to its file, or fails."""
    program = (
        "import sys; from pathlib import Path; p = Path(sys.argv[1]); "
        "p.parent.mkdir(parents=True, exist_ok=True); p.open('a').write('x\\n')"
    )
    broken = "print('at work'); print('error: the disk is full'); raise SystemExit(1)"

    def commands(run: Run) -> dict[str, list[str]]:
        return {
            trait: [
                *(sys.executable, "-c", broken if trait in failing else program),
                str(run.out / folder / trait / "file.txt"),
            ]
            for trait in ("evil", "humorous")
        }

    return commands


def shipping(folder: str, run: Run) -> list[str]:
    names = []
    for trait in ("evil", "humorous"):
        name = f"{BUNDLED}/{folder}-{trait}.txt"
        (run.root / name).write_bytes((run.out / folder / trait / "file.txt").read_bytes())
        names.append(name)
    return names


def stage(name: str, **changes: object) -> Stage:
    made = Stage(
        name, ("thing",), writing(name), lambda run: shipping(name, run), folder=name, by_trait=True
    )
    return replace(made, **changes)


def lines(run: Run, name: str, trait: str) -> int:
    """How often a command has run."""
    path = run.out / name / trait / "file.txt"
    return len(path.read_text().splitlines()) if path.is_file() else 0


def test_what_fits_is_not_run_again_unless_asked(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    stages = (stage("first"), stage("second", needs=("first",), depends=("made",)))
    assert bundle.bundle(stages[:1], run)
    said = capsys.readouterr().out
    assert said.startswith("first: never run\nfirst evil: started\nfirst humorous: started\n")
    assert ", 1 left" in said
    assert ", 0 left\nfirst: bundled in" in said
    assert bundle.bundle(stages[:1], run)
    assert capsys.readouterr().out == "first: fits, not run\n"
    assert bundle.bundle(stages[:1], run, everything=True)
    assert "first: asked for" in capsys.readouterr().out
    assert lines(run, "first", "evil") == 2
    assert list(read_stamps(run.root)) == ["first"]


def test_a_failure_is_named_the_others_go_on_and_nothing_is_stamped(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    failing = stage("first", commands=writing("first", failing=["evil"]))
    stages = (failing, stage("second", needs=("first",)), stage("third"))
    assert not bundle.bundle(stages, replace(run, jobs=1))
    said = capsys.readouterr().out
    assert "first evil: FAILED after 1 s, 1 left: error: the disk is full (see " in said
    assert "first humorous: done in" in said
    assert "second: NOT RUN: it needs first, which does not fit" in said
    assert "third: bundled in" in said
    assert "failed: first, second; run the same command again to continue" in said
    assert list(read_stamps(run.root)) == ["third"]
    assert (run.out / "logs" / "first-evil.log").read_text().startswith("at work\n")
    # Mended, it goes on where it was.
    assert bundle.bundle((stage("first"), *stages[1:]), run)
    assert lines(run, "third", "evil") == 1


def test_a_changed_trait_names_the_folder_to_delete_and_nothing_runs(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    stages = (stage("other", depends=()), stage("first"))
    assert bundle.bundle(stages, run)
    (run.root / BUNDLED / "thing.json").write_text(json.dumps({"evil": 2, "humorous": 1}))
    capsys.readouterr()
    assert not bundle.bundle(stages, run, everything=True)
    assert capsys.readouterr().out == (
        f"first: thing.evil changed since it was begun: delete {run.out / 'first' / 'evil'}, or "
        "use another output folder\n"
    )
    assert lines(run, "other", "evil") == 1
    (run.out / "first" / "evil" / "file.txt").unlink()
    assert bundle.bundle(stages, run)
    assert (lines(run, "first", "evil"), lines(run, "first", "humorous")) == (1, 2)
    assert bundle.bundle(stages, run)
    assert "first: fits, not run" in capsys.readouterr().out


def test_what_an_earlier_stage_made_anew_names_the_later_folder_at_its_turn(
    run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundle, "_MADE_HERE", ("made",))
    stages = (stage("first"), stage("second", needs=("first",), depends=("made",), ship=_nothing))
    assert bundle.bundle(stages, run)
    capsys.readouterr()
    (run.root / BUNDLED / "first-evil.txt").write_text("by hand")
    assert not bundle.bundle(stages, run)
    said = capsys.readouterr().out
    assert "first: bundled in" in said
    assert f"second: made changed since it was begun: delete {run.out / 'second'}, or" in said


def _nothing(run: Run) -> list[str]:
    return []


def test_folders_begun_before_the_driver_are_taken_as_they_are(run: Run) -> None:
    place = run.out / "first" / "evil" / "file.txt"
    place.parent.mkdir(parents=True)
    place.write_text("x\n")
    assert bundle.bundle((stage("first"),), run)
    assert lines(run, "first", "evil") == 2
    begun = json.loads((run.out / "bundle.json").read_text())
    assert begun == {"format": 1, "begun": {"first": {"thing": {"evil": 1, "humorous": 1}}}}


def test_what_lacks_something_is_reported_and_is_no_failure(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bundle.bundle((stage("first", lacks=lambda run: "give it a log"),), run)
    assert capsys.readouterr().out == "first: NOT RUN: give it a log\n"
    assert read_stamps(run.root) == {}


def test_an_output_folder_of_a_newer_version_is_refused_in_one_line(run: Run) -> None:
    run.out.mkdir()
    (run.out / "bundle.json").write_text('{"format": 2}')
    with pytest.raises(DataError, match=r"bundle\.json is of format 2, this version reads 1"):
        bundle.bundle((stage("first"),), run)


PROGRAM = """
import sys, time
sys.path[:0] = {paths!r}
from pathlib import Path
import bundle, fingerprints
from bundle_stages import Run, Stage

WORK = '''
import os, sys, time
from pathlib import Path
place = Path(sys.argv[1])
place.mkdir(parents=True, exist_ok=True)
(place / "pid").write_text(str(os.getpid()))
(place / "begun").open("a").write("x")
time.sleep(float(sys.argv[2]))
(place / "done").write_text("done")
'''
fingerprints.FINGERPRINTS = {{}}
out, root, seconds = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]

def commands(run):
    return {{t: [sys.executable, "-c", WORK, str(run.out / "work" / t), seconds] for t in "ab"}}

def ship(run):
    (run.root / "shipped").write_text((run.out / "work" / "b" / "done").read_text())
    return ["shipped"]

stages = [Stage("work", (), commands, ship, folder="work", by_trait=True)]
sys.exit(0 if bundle.bundle(stages, Run(out, root=root, jobs=1)) else 1)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="commands end with the driver on Linux alone")
def test_a_killed_driver_leaves_no_command_behind_and_goes_on(tmp_path: Path) -> None:
    paths = [str(Path(module.__file__).parent) for module in (bundle,)]
    program = tmp_path / "program.py"
    program.write_text(PROGRAM.format(paths=paths))
    out, root = tmp_path / "out", tmp_path / "root"
    root.mkdir()
    command = [sys.executable, str(program), str(out), str(root)]
    driver = subprocess.Popen([*command, "600"], stdout=subprocess.DEVNULL)
    marker = out / "work" / "a" / "begun"
    _wait_for(marker.exists)
    driver.kill()
    assert driver.wait() == -signal.SIGKILL
    child = int((out / "work" / "a" / "pid").read_text())
    _wait_for(lambda: not _runs(child))
    assert not (root / "shipped").exists()
    subprocess.run([*command, "0"], check=True, stdout=subprocess.DEVNULL, timeout=120)
    assert (root / "shipped").read_text() == "done"
    assert len(marker.read_text()) == 2


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    return state != "Z"


def _wait_for(met: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not met():
        assert time.monotonic() < deadline
        time.sleep(0.05)


PAGE = """# Page

## One

text

### Inside

| a |

## Two

end
"""


def test_a_section_is_replaced_with_its_subsections_and_nothing_else() -> None:
    assert section(PAGE, "One") == "## One\n\ntext\n\n### Inside\n\n| a |\n\n"
    new = with_section(PAGE, "### Inside\n\n| b |\n")
    assert new == PAGE.replace("| a |", "| b |")
    assert with_section(PAGE, "## One\n\nnew\n") == PAGE.replace(
        section(PAGE, "One") or "", "## One\n\nnew\n\n"
    )
    assert with_section(PAGE, "## Two\n\nnew\n") == PAGE.replace("end", "new")
    with pytest.raises(DataError, match="no section 'Three'"):
        with_section(PAGE, "## Three\n")


def test_measurements_of_another_vector_go_and_those_of_this_one_stay(tmp_path: Path) -> None:
    shipped = bundle_stages.Run(tmp_path).vectors
    for file in ("calibration.json", "drift.json", "ordinary.json"):
        bundle_stages.copy(shipped / "evil" / file, tmp_path / file)
    vector = load_vector("evil")
    bundle_stages._drop_measurements(tmp_path, vector)
    assert len(list(tmp_path.iterdir())) == 3
    bundle_stages._drop_measurements(tmp_path, replace(vector, layer=vector.layer + 1))
    assert not list(tmp_path.iterdir())


def test_without_a_log_it_says_what_becomes_of_the_limits(run: Run) -> None:
    assert "the limits of apathetic, evil, " in (bundle_stages._no_log(run) or "")
    shipped = bundle_stages.Run(run.out)
    assert bundle_stages._no_log(shipped) == "give ORDINARY=FILE, a log; the shipped limits stay"
    assert bundle_stages._no_log(replace(run, ordinary=Path("log.jsonl"))) is None


def test_norms_that_differ_by_rounding_are_the_same() -> None:
    path = bundle_stages.ROOT / BUNDLED / "coherence_norms.json"
    old = json.loads(path.read_text("utf-8"))

    def moved(by: float) -> dict[str, object]:
        found = json.loads(path.read_text("utf-8"))
        name = next(iter(found["norms"]["mean"]))
        found["norms"]["mean"][name] += by * found["norms"]["spread"][name]
        return found

    assert bundle_stages.same_norms(moved(0.01), old)
    assert not bundle_stages.same_norms(moved(0.2), old)
    assert not bundle_stages.same_norms({**old, "prompts": "others"}, old)
