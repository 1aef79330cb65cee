"""Every statistical test of the suite at 100 seeds, with its rate of failures.

A test that takes the fixture `seed` adds it to the seeds that it draws from.  At one
seed of a hundred a test of a sound tolerance may fail; one that fails at more is a
finding.
"""

from collections import defaultdict

from nightly.harness import pytest

N_SEEDS = 100
# Seeds of one run of pytest: few, so that little is lost when the time is up.
AT_ONCE = 4
MOST_RATE = 0.01


def plain(name):
    """Return the name of a test without its seed."""
    before, bracket, after = name.partition("[")
    values = [value for value in after.rstrip("]").split("-") if value[:5] != "seed="]
    return before + (f"[{'-'.join(values)}]" if bracket and values else "")


def run(job):
    rates = defaultdict(list)
    longest = 0.0
    # Others in each run; seeds themselves, a thousand times these, are below 2^32.
    start = job.seed % 10**6
    for first in range(start, start + N_SEEDS, AT_ONCE):
        before = job.left()
        if before < 1.2 * longest:
            break
        outcomes, ended = gather(job, first)
        longest = max(longest, before - job.left())
        for test in outcomes:
            if test["outcome"] != "skipped":
                rates[plain(test["name"])].append(test)
        n_seeds = max(map(len, rates.values()), default=0)
        job.ran(f"{len(rates)} tests at {n_seeds} seeds")
        if not ended:
            break
    for name, some in sorted(rates.items(), key=lambda item: -rate(item[1])):
        wrong = [test for test in some if test["outcome"] == "failed"]
        if not wrong:
            continue
        told = f"{name}: {len(wrong)} of {len(some)} seeds: {wrong[0]['message']}"
        if are_too_many(len(wrong), len(some)):
            job.failed(
                told, repeat=f"pytest -m '' '{wrong[0]['name']}' {option(wrong)}"
            )
        else:
            job.note(told)
    if not rates:
        job.failed("no test takes the fixture `seed`")


def are_too_many(n_wrong, n_seeds):
    """Whether so many failures are more than one of a hundred.

    Of few seeds, a single failure says little: two are too many.
    """
    return n_wrong > max(1, MOST_RATE * n_seeds)


def option(tests):
    """Return the option under which the first test has the name that it has."""
    number = int(tests[0]["name"].partition("seed=")[2].rstrip("]").split("-")[0])
    return f"--first-seed {number // 1000} --seeds 1"


def rate(tests):
    return sum(test["outcome"] == "failed" for test in tests) / len(tests)


def gather(job, first):
    """Run all such tests at some seeds; their failures are not yet the part's."""

    class Aside:
        folder = job.folder
        failed = staticmethod(lambda *_, **__: None)

    options = ["-m", "", f"--first-seed={first}", f"--seeds={AT_ONCE}"]
    # If the time is up within, another run sees other tests.
    options.append(f"--begin-at={job.seed}")
    return pytest(Aside, [*options, "tests"], job.left())
