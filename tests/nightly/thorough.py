"""Tests marked `thorough`, which run nowhere else, and those of other libraries."""

import importlib.util

from nightly.harness import pytest


def run(job):
    options = ["-m", "thorough", f"--begin-at={job.seed}"]
    outcomes, ended = pytest(job, [*options, "tests"], job.left())
    ran = f"{len(outcomes)} tests marked thorough"
    job.ran(ran if ended else f"{ran}; the time was up")
    if not ended:
        job.note("tests marked thorough did not end in time")
        if not outcomes:
            job.failed("no test ended in time: it needs more minutes")
        return
    if importlib.util.find_spec("torch") is None:
        job.note("PyTorch is not installed: tests/arrays did not run")
        return
    others, ended = pytest(
        job,
        ["-n", "1", "-m", "", "tests/arrays"],
        job.left(),
        SCIPY_ARRAY_API="1",
        SKVQ_NEEDS_ARRAYS="1",
    )
    job.ran(
        f"{ran}; {len(others)} of tests/arrays" + ("" if ended else ", time was up")
    )
