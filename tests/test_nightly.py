"""The second tier of tests is there, takes its arguments, and says what failed."""

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from nightly import files, schedule, seeds
from nightly.harness import ROOT, Job

SCRIPT = ROOT / ".ci" / "nightly"


@pytest.mark.skipif(
    not SCRIPT.exists() or sys.platform == "win32", reason="not a checkout, or no bash"
)
def test_the_script_says_how_it_is_called():
    here = str(Path(sys.executable).parent)
    found = subprocess.run(
        [SCRIPT, "--help"],
        capture_output=True,
        text=True,
        env={**os.environ, "PATH": os.pathsep.join([here, os.environ["PATH"]])},
        check=True,
    )
    for name in schedule.PARTS:
        assert f"  {name} " in found.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "files,nothing"], "--only nothing: there is no such part"),
        (["--minutes", "0"], "--minutes 0: expected a number above zero"),
        (["--minutes", "inf"], "--minutes inf: expected"),
        (["--case", "3"], "--case 3: expected one part"),
        (["--seed", "-1"], "--seed -1: expected a number that is not negative"),
        (["--folder", "."], "--folder .: expected a folder that is not there"),
    ],
)
def test_wrong_arguments_are_told_in_a_line(arguments, message, capsys):
    with pytest.raises(SystemExit) as caught:
        schedule.parse(arguments)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("minutes", [1, 5, 20, 60, 480])
def test_the_time_is_shared_out(minutes):
    found = schedule.shares(schedule.PARTS, 60 * minutes)
    assert list(found) == list(schedule.PARTS)
    given = {name: seconds for name, seconds in found.items() if seconds is not None}
    assert sum(given.values()) <= 60 * minutes + 1
    for name, seconds in given.items():
        assert schedule.PARTS[name].least <= seconds <= schedule.PARTS[name].most
    if minutes >= 20:
        assert len(given) >= 9
    if minutes == 480:
        assert len(given) == len(schedule.PARTS)
        assert sum(given.values()) == pytest.approx(60 * minutes, rel=0.01)


def test_every_part_is_a_module():
    folder = Path(schedule.__file__).parent
    modules = {path.stem for path in folder.glob("*.py")}
    shared = {"__init__", "__main__", "harness", "outcomes", "schedule"}
    assert modules == {*schedule.PARTS, *shared}


def test_too_little_time_is_told(capsys, tmp_path):
    folder = str(tmp_path / "new")
    assert schedule.main(["--minutes=0.1", "--only=cluster", "--folder", folder]) == 2
    assert "0.1 minutes are too short for cluster" in capsys.readouterr().out


LINE = {"part": "rows", "ran": "9 rows", "seconds": 3.2, "absent": None, "notes": []}


def test_the_report_has_failures_and_how_to_repeat_them():
    failure = {"what": "case 7: another error", "repeat": ".ci/nightly --only rows"}
    lines = [
        {**LINE, "failures": [failure]},
        {**LINE, "part": "files", "failures": []},
        {**LINE, "part": "pythons", "absent": "`x` is not there", "failures": []},
    ]
    text = schedule.report_of(lines, ["cluster"], 5, 20, "folder")
    assert "| rows | 9 rows | 3 | **1 failed** |" in text
    assert "| files | 9 rows | 3 | passed |" in text
    assert "| pythons | `x` is not there | 3 | not there |" in text
    assert "| cluster | needs 1.5 minutes" in text
    assert "- case 7: another error\n\n      .ci/nightly --only rows\n" in text


def test_a_part_that_ends_itself_is_a_failure(tmp_path, monkeypatch):
    """Parts are processes: what one does to itself does not end the others."""
    monkeypatch.setattr(schedule.sys, "executable", "/bin/false")
    if not Path("/bin/false").exists():
        pytest.skip("no program that fails")
    line = schedule.run_part("files", 1, 0, tmp_path / "files", None)
    assert line["failures"][0]["what"] == "its process ended with status 1"
    assert schedule.result_of(line) == "**1 failed**"


def test_a_job_keeps_what_failed(tmp_path):
    job = Job("files", 5, seed=3, folder=tmp_path)
    with job.expecting("it holds", case=4):
        raise ValueError("not this")
    job.ran("one case")
    found = json.loads((tmp_path / "outcome.json").read_text())
    assert found["ran"] == "one case"
    assert found["failures"][0]["what"] == "it holds: ValueError: not this"
    assert found["failures"][0]["repeat"].endswith("--only files --seed 3 --case 4")


def test_rates_of_failures():
    assert seeds.plain("a.py::b[seed=1000-x-y]") == "a.py::b[x-y]"
    assert seeds.plain("a.py::b[seed=1000]") == "a.py::b"
    assert not seeds.are_too_many(1, 100)
    assert seeds.are_too_many(2, 100)
    assert seeds.are_too_many(2, 5)
    assert not seeds.are_too_many(1, 5)


@pytest.mark.parametrize("path", sorted(files.CORPUS.iterdir()), ids=lambda p: p.name)
def test_files_that_have_once_failed_are_read_or_refused(path, tmp_path):
    changed = tmp_path / "changed"
    changed.write_bytes(path.read_bytes())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        files.look(changed)


def test_changes_of_files_are_those_of_their_case():
    pytest.importorskip("constriction")
    for case in range(40):
        one, other = files.made(7, case), files.made(7, case)
        assert one == other
    kinds = {files.made(7, case)[2:] for case in range(40)}
    assert kinds == {(kind, forged) for kind in ("codes", "codec") for forged in (0, 1)}


def test_a_reader_that_sees_no_change_is_found(tmp_path, monkeypatch):
    pytest.importorskip("constriction")
    rng = np.random.default_rng(0)
    monkeypatch.setattr("skvq._files.check_size", lambda *_: None)
    monkeypatch.setattr("skvq.io.check_size", lambda *_: None)
    original = files.codes()[0]
    content = original + rng.bytes(9)
    with pytest.raises(AssertionError):
        files.read_changed(tmp_path / "changed", content, original, False)
