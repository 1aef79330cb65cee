"""What went wrong in other libraries, at several seeds and on both engines."""

from nightly.harness import pytest


def run(job):
    ran = []
    for engine in ("compiled", "numpy"):
        environment = {} if engine == "compiled" else {"SKVQ_NATIVE": "numpy"}
        for options in (["-m", ""], ["-m", "", "--seeds=5", "--first-seed=1"]):
            if job.left() < 5:
                break
            outcomes, ended = pytest(
                job,
                [*options, "-n", "0", "tests/test_peers.py"],
                job.left(),
                **environment,
            )
            ran.append(f"{len(outcomes)} on the {engine} engine")
            job.ran(", ".join(ran) + ("" if ended else "; the time was up"))
