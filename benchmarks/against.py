"""Compare the speed of this working tree with that of another revision.

    python benchmarks/against.py v0.1.0
    python benchmarks/against.py HEAD --only scan,pack

The revision is checked out as a worktree of its own, and what lies here, changes not
committed included, is copied beside it.  Both are installed into folders of their own,
each with the engine that its sources give.  Then a process for each side runs the same
operations, in turn, round by round, on one thread; a ratio is the time here over that
of the revision, in the same round, each the best of three.

An operation whose median ratio is above 1.1 is measured once more, in new processes.
The exit status is 1 if it is above in both, 0 if none is, and 2 if nothing could be
compared.  With --quick the sizes are small and the ratios mean nothing: it shows that
the script runs, and, where there is no Git, says so and ends well.
"""

import argparse
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

from _operations import N_THREADS, OPERATIONS

ROOT = Path(__file__).parent.parent
NATIVE = Path("skvq", "nearest", "native")
MOST_RATIO = 1.1
# Shorter than this, clocks and interrupts would be measured.
LEAST_SECONDS = 0.02


class FailedError(Exception):
    """Why nothing can be compared."""


def run(*command, cwd=ROOT):
    """Return what a command prints."""
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, capture_output=True, text=True
    )
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise FailedError(f"{' '.join(map(str, command[:4]))}: {' '.join(said[-3:])}")
    return done.stdout


def is_clone():
    """Return whether there is another revision to compare with."""
    return (ROOT / ".git").exists() and shutil.which("git") is not None


# -- two trees -------------------------------------------------------------------------


@contextlib.contextmanager
def worktree(revision, folder):
    """Check out a revision in a folder, and forget it afterwards."""
    commit = run("git", "rev-parse", "--verify", f"{revision}^{{commit}}").strip()
    run("git", "worktree", "add", "--quiet", "--detach", folder, commit)
    try:
        yield folder
    finally:
        run("git", "worktree", "remove", "--force", folder)


def copy_of_this_tree(folder):
    """Copy what Git knows here, and what it does not ignore."""
    listed = run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    return folder


def install(tree, folder):
    """Install a tree as a wheel, with its engine; without its dependencies."""
    for built in [*(ROOT / NATIVE).glob("_*.so"), *(ROOT / NATIVE).glob("_*.json")]:
        # The build takes it if it would compile the same from the sources of the tree.
        shutil.copy2(built, tree / NATIVE)
    here = ["--no-build-isolation"] if find_spec("hatchling") else []
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
    run(*command, *here, "--target", folder, tree)
    return folder


# -- two sides -------------------------------------------------------------------------


class Side:
    """A process that runs operations with the skvq of a folder."""

    def __init__(self, folder):
        environment = os.environ | {
            "PYTHONPATH": str(folder),
            "OMP_NUM_THREADS": str(N_THREADS),
            "OPENBLAS_NUM_THREADS": str(N_THREADS),
        }
        self.process = subprocess.Popen(
            [sys.executable, Path(__file__).with_name("_operations.py")],
            cwd=folder,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        said = self.answer()
        self.engine = said["engine"]
        if Path(said["skvq"]).parent.resolve() != Path(folder).resolve():
            raise FailedError(f"{said['skvq']} was imported, and not that of {folder}.")

    def answer(self):
        """Return the next answer; raise if there is none."""
        line = self.process.stdout.readline()
        if not line:
            raise FailedError("A side has ended: its error is above.")
        return json.loads(line)

    def ask(self, **request):
        """Send a request, and return its answer."""
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return self.answer()

    def close(self):
        """End the process."""
        self.process.stdin.close()
        self.process.wait()


def ratios(sides, name, arguments):
    """Return the ratios of the rounds of an operation, or what a side lacks."""
    for words, side in zip(("here", "there"), sides, strict=True):
        lacks = side.ask(operation=name, quick=arguments.quick)["lacks"]
        if lacks is not None:
            return f"{words}: {lacks}"
    once = min(side.ask(calls=1)["seconds"] for side in sides)
    calls = 1 if arguments.quick else max(1, round(LEAST_SECONDS / once))
    found = []
    for place in range(arguments.repeats):
        seconds = {}
        # Who begins takes turns, too.
        for side in sides[:: 1 if place % 2 else -1]:
            seconds[side] = side.ask(calls=calls)["seconds"]
        found.append(seconds[sides[0]] / seconds[sides[1]])
    return found


def compare(folders, names, arguments):
    """Print ratios, and return the operations that are slower here."""
    sides = []
    try:
        for folder in folders:
            sides.append(Side(folder))
        print(f"\nEngines: {sides[0].engine} here, {sides[1].engine} there.\n")
        print("| operation | ratio | quartiles | |\n| --- | ---: | ---: | --- |")
        slower = []
        for name in names:
            found = ratios(sides, name, arguments)
            if isinstance(found, str):
                print(f"| {name} | | | not compared; {found} |", flush=True)
                continue
            low, middle, high = (
                statistics.quantiles(found, n=4, method="inclusive")
                if len(found) > 1
                else found * 3
            )
            above = middle > MOST_RATIO and not arguments.quick
            slower += [name] * above
            print(
                f"| {name} | {middle:.3f} | {low:.3f} to {high:.3f} | "
                f"{'**slower**' if above else ''} |",
                flush=True,
            )
        return slower
    finally:
        for side in sides:
            side.close()


def judge(arguments):
    """Install both, compare, and return the exit status."""
    if not is_clone():
        raise FailedError(f"{ROOT} is no clone, or there is no git.")
    with contextlib.ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="skvq-")))
        there = stack.enter_context(worktree(arguments.revision, work / "there"))
        here = copy_of_this_tree(work / "here")
        folders = [
            install(here, work / "installed-here"),
            install(there, work / "installed-there"),
        ]
        print(f"## This tree against {arguments.revision}: time here over time there")
        slower = compare(folders, arguments.only, arguments)
        if slower:
            print("\nOnce more, in new processes:")
            slower = compare(folders, slower, arguments)
    for name in slower:
        print(f"\n{name}: slower by more than {MOST_RATIO - 1:.0%} in both.")
    return 1 if slower else 0


def chosen(text):
    """Return the operations whose names contain one of some words."""
    parts = text.split(",")
    found = [name for name in OPERATIONS if any(part in name for part in parts)]
    for part in parts:
        if not any(part in name for name in OPERATIONS):
            raise argparse.ArgumentTypeError(
                f"{part!r} is in no name; the names: {'; '.join(OPERATIONS)}"
            )
    return found


def main():
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        epilog="Exit status: 1 if an operation is slower here in two repeats.",
    )
    parser.add_argument(
        "revision", nargs="?", metavar="REV", help="with --quick by default HEAD"
    )
    parser.add_argument("--repeats", type=int, default=11, help="rounds (default: 11)")
    parser.add_argument(
        "--only",
        type=chosen,
        default=list(OPERATIONS),
        metavar="WORDS",
        help="operations whose names contain one of these, with commas between",
    )
    parser.add_argument(
        "--quick", action="store_true", help="small sizes, once; judges nothing"
    )
    arguments = parser.parse_args()
    if arguments.repeats < 1:
        parser.error(f"argument --repeats: {arguments.repeats}; expected 1 or more")
    if arguments.revision is None:
        if not arguments.quick:
            parser.error("REV is missing: a commit, branch or tag to compare with")
        arguments.revision = "HEAD"
    if arguments.quick:
        arguments.repeats = 1
    try:
        return judge(arguments)
    except (FailedError, OSError) as error:
        print(f"Nothing is compared. {error}", file=sys.stderr)
        return 0 if arguments.quick and not is_clone() else 2


if __name__ == "__main__":
    sys.exit(main())
