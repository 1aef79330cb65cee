"""The suite's properties on fresh examples, file by file, until the time is up."""

import os
import re
from itertools import count

from nightly.harness import ROOT, pytest

# Read off the sources: to collect the suite takes longer than to search it.
HAS_PROPERTIES = re.compile(r"^\s*@given\(", re.MULTILINE)


def files():
    """Return the test files that have properties, and how many."""
    found = {}
    for path in sorted((ROOT / "tests").glob("test_*.py")):
        n = len(HAS_PROPERTIES.findall(path.read_text(encoding="utf-8")))
        if n:
            found[path.relative_to(ROOT).as_posix()] = n
    return found


def run(job):
    n_runs = n_tests = 0
    names = list(files())
    # The first turn of two seeds begins with another file.
    names = names[job.seed % len(names) :] + names[: job.seed % len(names)]
    for turn in count():
        for name in names:
            if job.left() < 10:
                return
            seed = job.seed + turn
            option = f"--hypothesis-seed={seed}"
            print(f"{name} with seed {seed}", flush=True)
            outcomes, _ = pytest(
                job,
                [option, "-m", "hypothesis", "-n", workers(), name],
                job.left(),
                repeat=[option],
                HYPOTHESIS_PROFILE="explore",
                SKVQ_TEST_TIMEOUT="3600",
            )
            n_runs += 1
            n_tests += len(outcomes)
            job.ran(
                f"{n_tests} properties in {n_runs} runs of {len(names)} files, "
                f"`--hypothesis-seed` {job.seed} to {seed}"
            )
            if job.n_failures:
                # The same failure would be found again and again.
                names = [one for one in names if one != name]
        if not names:
            return


def workers():
    """Return how many processes a file is worth."""
    return str(min(4, os.cpu_count() or 1))
