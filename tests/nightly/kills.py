"""Processes that are killed or interrupted while they write, append or fit.

A child does one thing again and again, until a signal meets it at a random moment.
Then the file is whole, and one of those that it wrote; of a child that was asked to
end, no temporary file is left; an interrupted fit has changed nothing, and another
works.

Children are forked: thousands of them could not import the library each.
"""

import os
import signal
import sys
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path

import numpy as np

import skvq
from nightly.harness import MOST_FAILURES
from skvq import ProductQuantizer, VectorQuantizer
from skvq.__main__ import main
from skvq._cli.cache import Cache
from skvq.io import CodeWriter, FormatError, load_codes, save_codes
from skvq.nearest.threads import single_threaded_blas

SIZES = (3, 300, 17)
SIGNALS = (signal.SIGKILL, signal.SIGINT, signal.SIGTERM)
X = np.random.default_rng(0).normal(size=(400, 6)).astype(np.float32)
N_APPENDED = 7


def rows_of(version):
    """Return the codes of a version: another number of rows, with other codes."""
    rng = np.random.default_rng(version)
    n = 20 + 13 * (version % 9)
    return np.stack([rng.integers(size, size=n) for size in SIZES], axis=1)


# -- what a child does -----------------------------------------------------------------


class Task:
    """What a child does, and what must hold when it has ended.

    Attributes
    ----------
    path : Path or None
        The file that it writes.
    """

    path = None

    def next(self):
        """Return the version of a turn after the child's."""
        return 1


class Codes(Task):
    """A file of codes is replaced."""

    def __init__(self, folder):
        self.path = folder / "codes"
        save_codes(self.path, rows_of(0), SIZES)

    def turn(self, version):
        with CodeWriter(self.path, SIZES) as writer:
            for piece in np.array_split(rows_of(version), 3):
                writer.write(piece)

    def check(self):
        found = load_codes(self.path)
        first = (len(found) - 20) // 13
        versions = range(first, first + 1800, 9)
        assert any(np.array_equal(found, rows_of(k)) for k in versions), "other codes"


class Appended(Task):
    """Rows are appended to a file, the same number each time."""

    def __init__(self, folder):
        self.path = folder / "codes"
        self.all = np.concatenate([rows_of(k) for k in range(400)])
        save_codes(self.path, self.all[:N_APPENDED], SIZES)

    def turn(self, version):
        stop = (version + 1) * N_APPENDED
        with CodeWriter(self.path, SIZES, append=True) as writer:
            writer.write(self.all[stop - N_APPENDED : stop])

    def check(self):
        try:
            found = load_codes(self.path)
        except FormatError:
            # An append that was killed: the next one puts it in order.
            with CodeWriter(self.path, SIZES, append=True):
                pass
            found = load_codes(self.path)
        assert len(found) % N_APPENDED == 0, "an append is there by half"
        assert len(found) >= N_APPENDED, "rows that were there are lost"
        np.testing.assert_array_equal(found, self.all[: len(found)])

    def next(self):
        return len(load_codes(self.path)) // N_APPENDED


class Codec(Task):
    """A codec is replaced."""

    def __init__(self, folder):
        self.path = folder / "codec"
        self.models = [ProductQuantizer(2, n, random_state=0).fit(X) for n in (4, 9)]
        skvq.save(self.models[0], self.path)

    def turn(self, version):
        skvq.save(self.models[version % 2], self.path)

    def check(self):
        found = skvq.load(self.path).transform(X)
        expected = [model.transform(X) for model in self.models]
        assert any(np.array_equal(found, one) for one in expected), "another codec"


class Kept(Task):
    """Results of `compare` are kept."""

    def __init__(self, folder):
        self.folder = folder / "cache"
        self.cache = Cache(self.folder, [X], 0)
        self.cache.write("vq", {"version": 0})
        self.path = next(self.folder.iterdir())

    def turn(self, version):
        self.cache.write("vq", {"version": version, "more": "x" * 3000})

    def check(self):
        found = self.cache.read("vq")
        assert found is not None, "what was kept is not there"
        assert found["version"] >= 0


class Command(Task):
    """The command `encode` replaces a file of codes."""

    def __init__(self, folder):
        self.folder, self.path = folder, folder / "rows.codes"
        quantizer = VectorQuantizer(5, random_state=0).fit(X)
        skvq.save(quantizer, folder / "vq.codec")
        np.save(folder / "rows.npy", X)
        self.expected = quantizer.transform(X)
        self.turn(0)

    def turn(self, version):
        names = [str(self.folder / name) for name in ("rows.npy", "vq.codec")]
        status = main(["encode", *names, "--no-progress", "-o", str(self.path)])
        if status:
            # As a shell sees it: the signal has been answered.
            os._exit(status)

    def check(self):
        np.testing.assert_array_equal(load_codes(self.path), self.expected)


class Fit(Task):
    """An estimator is fitted on two sets of rows in turn; no file is written.

    An interrupt is looked at where it happens, in the child.
    """

    def __init__(self, folder):
        self.rows = [X[:200], X[200:]]
        self.estimator = VectorQuantizer(40, random_state=0).fit(self.rows[0])
        self.answers = [
            VectorQuantizer(40, random_state=0).fit(rows).transform(X)
            for rows in self.rows
        ]

    def turn(self, version):
        self.estimator.fit(self.rows[version % 2])

    def check(self):
        found = self.estimator.transform(X)
        assert any(np.array_equal(found, one) for one in self.answers), "neither fit"
        again = self.estimator.fit(self.rows[1]).transform(X)
        np.testing.assert_array_equal(again, self.answers[1])
        assert not single_threaded_blas._has_users(), "BLAS is still held"


TASKS = (Codes, Appended, Codec, Kept, Command, Fit)


# -- one case --------------------------------------------------------------------------


class Asked(BaseException):
    """What SIGTERM raises in a child, as in a service that ends in order."""


def ask_to_end(signum, frame):
    raise Asked


def child(task, ready):
    """Take turns until a signal ends it; 0: it has ended in order."""
    status = 3
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, ask_to_end)
        os.write(ready, b"+")
        version = 0
        while True:
            version += 1
            task.turn(version)
    except (KeyboardInterrupt, Asked):
        status = 0
        if isinstance(task, Fit):
            try:
                task.check()
            except BaseException:
                traceback.print_exc()
                status = 4
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def one(folder, rng, kind):
    """Let a child work, end it at some moment, and look at what it leaves."""
    folder.mkdir()
    task = kind(folder)
    number = SIGNALS[rng.integers(len(SIGNALS))]
    reads, writes = os.pipe()
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        os.close(reads)
        child(task, writes)
    os.close(writes)
    try:
        os.read(reads, 1)
        # Most moments are within the first turns, few long after.
        time.sleep(float(rng.exponential(0.006)))
        os.kill(pid, number)
        status = ended(pid)
    finally:
        os.close(reads)
    name = signal.Signals(number).name
    if status is None:
        raise AssertionError(f"{name} does not end it")
    answered = (0, 128 + number) if number != signal.SIGKILL else (-number,)
    # The command has answers of its own to signals.
    assert status in (*answered, -number), f"status {status} after {name}, see the log"
    if kind is not Fit:
        left = list(folder.rglob(".skvq-*"))
        assert number == signal.SIGKILL or not left, f"{name} leaves {left[0].name}"
        task.check()
        task.turn(task.next())
        task.check()


def ended(pid):
    """Return how a child has ended; None if it had to be killed."""
    end = time.monotonic() + 30
    while time.monotonic() < end:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.0005)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return None


def run(job):
    if not hasattr(os, "fork"):
        job.absent("processes are forked")
        return
    warnings.simplefilter("ignore")
    n_of, work = Counter(), job.folder / "work"
    for case in job.cases():
        rng = job.rng(case)
        kind = TASKS[case % len(TASKS)]
        folder = work / f"{case}"
        work.mkdir(exist_ok=True)
        failures = job.n_failures
        with job.expecting(f"case {case}, {kind.__name__}", case=case):
            one(folder, rng, kind)
        n_of[kind.__name__] += 1
        told = ", ".join(f"{n} {name}" for name, n in n_of.items())
        job.ran(f"{sum(n_of.values())} children ended: {told}")
        if job.n_failures == failures:
            remove(folder)
        if job.n_failures >= MOST_FAILURES:
            return


def remove(folder):
    for path in sorted(Path(folder).rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    folder.rmdir()
