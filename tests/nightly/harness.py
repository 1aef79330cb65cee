"""What all parts use: their time, their seed, their folder, and what they found.

``python -m nightly.harness PART --seconds S --seed N --folder F [--case N]`` runs one
part.  What it found is in ``F/outcome.json`` at any time, so that a part that is killed
has said what it ran until then.
"""

import argparse
import contextlib
import faulthandler
import importlib
import json
import os
import shlex
import subprocess
import sys
import time
import traceback
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]
# The first failures tell enough; a part that fails always would fill the disk.
MOST_FAILURES = 20


class Job:
    """One run of one part.

    Parameters
    ----------
    part : str
        Its name.
    seconds : float
        How long it may take; it ends by itself shortly after.
    seed : int
        Every random number comes from this and the number of the case.
    folder : Path
        For its files; other than `outcome.json`, it may leave some when it fails.
    case : int, optional
        The only case to run, in place of all that there is time for.
    """

    def __init__(self, part, seconds, seed, folder, case=None):
        self.part, self.seed, self.folder, self.case = part, seed, folder, case
        self.seconds = seconds
        self._end = time.monotonic() + seconds
        self._outcome = {"ran": "nothing", "failures": [], "absent": None, "notes": []}

    def left(self):
        """Return how many seconds are left."""
        return self._end - time.monotonic()

    def rng(self, case):
        """Return the generator of a case."""
        return np.random.default_rng([self.seed, case])

    def ran(self, what):
        """Say what has been run until now."""
        self._outcome["ran"] = what
        self._write()

    def note(self, line):
        """Add a line to the report."""
        print(line, flush=True)
        self._outcome["notes"].append(line)
        self._write()

    def absent(self, why):
        """Say that what the part runs is not there; that is no failure."""
        self._outcome["absent"] = why
        self._write()

    def failed(self, what, repeat=None, case=None):
        """Keep a failure, and the command that repeats it."""
        if repeat is None:
            repeat = f".ci/nightly --only {self.part} --seed {self.seed}"
            repeat += "" if case is None else f" --case {case}"
        print(f"FAILED {what}\n  {repeat}", flush=True)
        self._outcome["failures"].append({"what": what, "repeat": repeat})
        self._write()

    @property
    def n_failures(self):
        """How many failures there were."""
        return len(self._outcome["failures"])

    def cases(self, most=None):
        """Yield the numbers of cases while there is time, or the only one."""
        if self.case is not None:
            yield self.case
            return
        case = 0
        while case != most and (case == 0 or self.left() > 0):
            if self.n_failures >= MOST_FAILURES:
                self.note(f"stopped after {self.n_failures} failures")
                return
            yield case
            case += 1

    @contextlib.contextmanager
    def expecting(self, what, case=None):
        """Make a failure of any error in the block; what was expected is in it."""
        try:
            yield
        except Exception as error:
            traceback.print_exc()
            self.failed(
                f"{what}: {type(error).__name__}: {str(error)[:300]}", case=case
            )

    def _write(self):
        path = self.folder / "outcome.json"
        beside = path.with_suffix(".new")
        beside.write_text(json.dumps(self._outcome), encoding="utf-8")
        os.replace(beside, path)


def command(job, arguments, seconds, **environment):
    """Run a command in the root; return its exit status, or None if time was up."""
    print("$", shlex.join(map(str, arguments)), flush=True)
    process = subprocess.Popen(
        arguments, cwd=ROOT, env={**os.environ, **environment}, stdin=subprocess.DEVNULL
    )
    try:
        return process.wait(timeout=max(1, seconds))
    except subprocess.TimeoutExpired:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=20)
        process.kill()
        process.wait()
        return None


def pytest(job, arguments, seconds, python=sys.executable, repeat=(), **environment):
    """Run pytest; make failures of its failures.

    Parameters
    ----------
    job : Job
        The run.
    arguments : list of str
        Options of pytest, and what to run.
    seconds : float
        After which it is ended, which is not a failure.
    python : str
        The interpreter.
    repeat : list of str
        Options that repeat a failure, beside the test's name.
    environment : str
        Variables that are set.

    Returns
    -------
    outcomes : list of dict
        Name, outcome and message of each test that has ended.
    ended : bool
        Whether pytest has ended by itself.
    """
    told = job.folder / "outcomes.jsonl"
    told.unlink(missing_ok=True)
    common = ["-q", "-p", "no:cacheprovider", "-p", "nightly.outcomes"]
    status = command(
        job,
        [python, "-m", "pytest", *common, f"--outcomes={told}", *arguments],
        seconds,
        **environment,
    )
    lines = told.read_text(encoding="utf-8").splitlines() if told.exists() else []
    outcomes = [json.loads(line) for line in lines]
    set_here = [f"{name}={value}" for name, value in environment.items()]
    for test in outcomes:
        if test["outcome"] == "failed":
            again = shlex.join(["pytest", "-m", "", test["name"], *repeat])
            job.failed(
                f"{test['name']}: {test['message']}",
                repeat=" ".join(["PYTHONPATH=$PWD:$PWD/tests", *set_here, again]),
            )
    # 5: nothing was selected.  None: time was up.
    if status not in (0, 1, 5, None):
        job.failed(f"pytest ended with status {status}, see the log")
    return outcomes, status is not None


def script(job, name):
    """Run a script of the checkout; a failure of it is one of the part."""
    if not (ROOT / name).exists():
        job.absent(f"`{name}` is not there")
        return
    job.ran(f"`{name}`, without an end")
    status = command(job, [str(ROOT / name)], job.left())
    if status is None:
        job.failed(f"`{name}` did not end in {job.seconds:.0f} s", repeat=name)
    elif status:
        job.failed(f"`{name}` ended with status {status}", repeat=name)
    else:
        job.ran(f"`{name}`")


def main():
    """Run one part; exit 1 if it failed."""
    parser = argparse.ArgumentParser(prog="python -m nightly.harness")
    parser.add_argument("part")
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--case", type=int)
    given = parser.parse_args()
    faulthandler.enable()
    given.folder.mkdir(parents=True, exist_ok=True)
    job = Job(given.part, given.seconds, given.seed, given.folder, given.case)
    try:
        importlib.import_module(f"nightly.{given.part}").run(job)
    except Exception as error:
        traceback.print_exc()
        job.failed(f"the part itself: {type(error).__name__}: {str(error)[:300]}")
    return 1 if job.n_failures else 0


if __name__ == "__main__":
    sys.exit(main())
