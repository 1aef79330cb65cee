"""Shares the time out among the parts, runs them one after another, and reports."""

import argparse
import contextlib
import datetime
import json
import math
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from nightly.harness import ROOT


class Part(NamedTuple):
    """How much time a part gets.

    Attributes
    ----------
    what : str
        One line, for the help and the report.
    share : float
        Its part of the time that is left when all have the least.
    least : float
        Seconds below which it would show nothing.
    most : float
        Seconds beyond which it would only repeat itself.
    """

    what: str
    share: float
    least: float
    most: float = math.inf


PARTS = {
    "peers": Part("what went wrong in other libraries, on both engines", 0.5, 30, 120),
    "files": Part("damaged and hostile files, with a corpus", 3, 20),
    "kills": Part("processes that are killed and interrupted", 3, 30),
    "threads": Part("32 threads on the same estimators", 2, 20, 600),
    "rows": Part("10^8 mapped rows in bounded memory", 2, 30, 3600),
    "seeds": Part("statistical tests at 100 seeds", 4, 90, 3 * 3600),
    "properties": Part("properties with fresh examples", 4, 60),
    "cluster": Part(
        "a cluster of 4 workers and 20 GB, one of them killed", 3, 90, 3600
    ),
    "thorough": Part("tests marked thorough; arrays of other libraries", 3, 180, 3600),
    "prereleases": Part("pre-releases of dependencies", 2, 1200, 3600),
    "pythons": Part("every Python that is found", 2, 1800, 7200),
}
# A part that should have ended is given this much longer before it is killed.
GRACE = 60


def shares(names, seconds):
    """Return the seconds of each part; None for those that the time is too short for.

    All get their least; while that is more than there is, the one that needs most is
    left out.  What remains goes to each by its share, up to its most.
    """
    kept = list(names)
    while kept and sum(PARTS[name].least for name in kept) > seconds:
        kept.remove(max(kept, key=lambda name: PARTS[name].least))
    found = {name: PARTS[name].least for name in kept}
    growing = set(kept)
    while growing and seconds - sum(found.values()) > 1:
        rest = seconds - sum(found.values())
        total = sum(PARTS[name].share for name in growing)
        for name in list(growing):
            part = PARTS[name]
            found[name] = min(part.most, found[name] + rest * part.share / total)
            if found[name] == part.most:
                growing.remove(name)
    return {name: found.get(name) for name in names}


def run_part(name, seconds, seed, folder, case):
    """Run a part as a process of its own; return its line of the report."""
    folder.mkdir(parents=True)
    arguments = [sys.executable, "-m", "nightly.harness", name]
    arguments += ["--seconds", str(seconds), "--seed", str(seed)]
    arguments += ["--folder", str(folder)]
    arguments += [] if case is None else ["--case", str(case)]
    start = time.monotonic()
    with open(folder / "log.txt", "wb") as log:
        # A group of its own, so that what it has started ends with it.
        process = subprocess.Popen(
            arguments,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            status = process.wait(timeout=1.25 * seconds + GRACE)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            end_group(process)
    found = {"ran": "nothing", "failures": [], "absent": None, "notes": []}
    with contextlib.suppress(OSError, ValueError):
        found = json.loads((folder / "outcome.json").read_text(encoding="utf-8"))
    failures = list(found["failures"])
    again = f".ci/nightly --only {name} --seed {seed}"
    if status is None:
        what = f"killed after {1.25 * seconds + GRACE:.0f} s"
        failures.append({"what": what, "repeat": again})
    elif status not in (0, 1) or (status == 1 and not failures):
        what = f"its process ended with status {status}"
        failures.append({"what": what, "repeat": again})
    return {
        "part": name,
        "ran": found["ran"],
        "seconds": time.monotonic() - start,
        "failures": failures,
        "absent": found["absent"],
        "notes": found["notes"],
    }


def end_group(process):
    """End a process and all that it has started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, number)
        if number == signal.SIGTERM:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=5)
    process.wait()


def result_of(line):
    """Return a word for how a part ended."""
    if line["failures"]:
        return f"**{len(line['failures'])} failed**"
    return "not there" if line["absent"] else "passed"


def report_of(lines, left_out, seed, minutes, folder):
    """Return the report in Markdown."""
    now = datetime.datetime.now(datetime.UTC)
    machine = f"Python {platform.python_version()}, {os.cpu_count()} cores"
    text = [
        "# Second tier of tests",
        "",
        f"{now:%Y-%m-%d %H:%M} UTC, {commit()}, {machine}, {minutes:g} minutes, "
        f"seed {seed}.",
        "",
        "| part | what ran | seconds | result |",
        "| --- | --- | ---: | --- |",
    ]
    for line in lines:
        ran = line["absent"] or line["ran"]
        text.append(
            f"| {line['part']} | {ran} | {line['seconds']:.0f} | {result_of(line)} |"
        )
    for name in left_out:
        needs = f"needs {PARTS[name].least / 60:g} minutes, see `--minutes`"
        text.append(f"| {name} | {needs} | 0 | not run |")
    for line in lines:
        if line["failures"] or line["notes"]:
            text += ["", f"## {line['part']}", ""]
            text += [f"- {note}" for note in line["notes"]]
        for failure in line["failures"]:
            text.append(f"- {failure['what']}\n\n      {failure['repeat']}")
    text += ["", f"Logs: `{folder}/PART/log.txt`.", ""]
    return "\n".join(text)


def commit():
    """Return what git says this version is."""
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        return "not a checkout"
    found = subprocess.run(
        [git, "describe", "--always", "--dirty"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return f"commit {found.stdout.strip()}" if found.returncode == 0 else "no commit"


def parse(arguments):
    """Return the arguments; a wrong one ends the process with status 2."""
    parser = argparse.ArgumentParser(
        prog=".ci/nightly",
        description="The second tier of tests: each part a process of its own, with "
        "its share of the time.",
        epilog="parts:\n"
        + "\n".join(
            f"  {name:12} {part.what} (from {part.least / 60:.1f} minutes on)"
            for name, part in PARTS.items()
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--minutes", type=float, default=20, help="for all parts; default 20"
    )
    parser.add_argument(
        "--only", default=",".join(PARTS), metavar="PARTS", help="separated by commas"
    )
    parser.add_argument("--seed", type=int, help="default: a new one, which is printed")
    parser.add_argument(
        "--case", type=int, help="the only case of the only part, as the report has it"
    )
    parser.add_argument(
        "--folder",
        type=Path,
        help="for report, logs and what failed; default: a new one among temporary "
        "files",
    )
    given = parser.parse_args(arguments)
    given.only = list(dict.fromkeys(given.only.split(",")))
    if unknown := [name for name in given.only if name not in PARTS]:
        parser.error(
            f"--only {','.join(unknown)}: there is no such part; expected some of "
            f"{', '.join(PARTS)}"
        )
    if not 0 < given.minutes < math.inf:
        parser.error(f"--minutes {given.minutes:g}: expected a number above zero")
    if given.case is not None and (len(given.only) != 1 or given.seed is None):
        parser.error(
            f"--case {given.case}: expected one part in --only, and its --seed"
        )
    if given.seed is not None and given.seed < 0:
        parser.error(f"--seed {given.seed}: expected a number that is not negative")
    if given.folder is not None and given.folder.exists():
        parser.error(
            f"--folder {given.folder}: expected a folder that is not there yet"
        )
    return given


def main(arguments=None):
    """Run the parts; return 1 if one failed."""
    given = parse(arguments)
    seed = given.seed
    if seed is None:
        seed = int.from_bytes(os.urandom(4), "little")
    folder = given.folder or Path(tempfile.mkdtemp(prefix="skvq-nightly-"))
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    print(f"seed {seed}; report and logs in {folder}", flush=True)
    times = shares(given.only, 60 * given.minutes)
    if given.case is not None:
        times = {name: max(PARTS[name].least, 60 * given.minutes) for name in times}
    if not any(times.values()):
        print(f"{given.minutes:g} minutes are too short for {', '.join(given.only)}")
        return 2
    left_out = [name for name, seconds in times.items() if seconds is None]
    lines = []

    def write():
        text = report_of(lines, left_out, seed, given.minutes, folder)
        (folder / "report.md").write_text(text, encoding="utf-8")
        return text

    text = write()
    for name, seconds in times.items():
        if seconds is not None:
            print(f"{name}: {seconds:.0f} s ...", end=" ", flush=True)
            lines.append(run_part(name, seconds, seed, folder / name, given.case))
            text = write()
            print(result_of(lines[-1]), flush=True)
    print(f"\n{text}")
    return 1 if any(line["failures"] for line in lines) else 0
