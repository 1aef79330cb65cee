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
    names, n_runs, n_tests, n_whole = list(files()), 0, 0, 0
    # Seeds begin with different files, so that short runs see different ones.
    names = names[job.seed % len(names) :] + names[: job.seed % len(names)]
    for turn in count():
        seed, option = job.seed + turn, f"--hypothesis-seed={job.seed + turn}"
        order = list(names)
        for i, name in enumerate(order):
            if job.left() < 10:
                if not n_tests:
                    job.failed("no property ended in time: it needs more minutes")
                return
            failures = job.n_failures
            outcomes, ended = pytest(
                job,
                [option, "-m", "hypothesis", "-n", workers(), name],
                # Each file has its turn.
                min(job.left(), max(60, job.left() / (len(order) - i))),
                repeat=[option],
                HYPOTHESIS_PROFILE="fresh",
                SKVQ_TEST_TIMEOUT="3600",
            )
            n_runs += 1
            n_tests += len(outcomes)
            n_whole += ended
            job.ran(
                f"{n_tests} properties in {n_runs} runs of files, "
                f"{n_runs - n_whole} of them cut short, `--hypothesis-seed` "
                f"{job.seed} to {seed}"
            )
            if job.n_failures > failures:
                # It would be found again and again.
                names.remove(name)
        if not names:
            return


def workers():
    """Return how many processes a file is worth."""
    return str(min(4, os.cpu_count() or 1))
