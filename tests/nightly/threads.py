"""32 threads on the same estimators: the results of one thread, bit for bit.

Each thread asks one of the shared estimators for something, or fits a clone, again and
again; one of them is fitted itself meanwhile, and answers as one fit or as the other.
At the end BLAS has as many threads as before.
"""

import sys
import threading
import time
import warnings

import numpy as np
import scipy.sparse
from sklearn.base import clone
from table import ONE_OF_EACH, vq
from threadpoolctl import ThreadpoolController

from skvq.nearest import nearest

N_THREADS = 32


def ask(estimator, X):
    """Return all that an estimator says of rows, as bytes."""
    found = [estimator.transform(X)]
    if scipy.sparse.issparse(found[0]):
        return (found[0].toarray().tobytes(),)
    if hasattr(estimator, "inverse_transform"):
        found.append(estimator.inverse_transform(found[0]))
    if hasattr(estimator, "score"):
        found.append(np.float64(estimator.score(X)))
    return tuple(np.asarray(one).tobytes() for one in found)


def fit_and_ask(row, X):
    """Return what a new estimator says after a fit."""
    return ask(row.make().fit(X), X)


class Shared:
    """One estimator for all threads, and what it says when it is alone.

    It is asked about several sets of rows: with one alone, a thread that takes the rows
    of another would not be seen.
    """

    def __init__(self, row):
        self.row, self.data = row, [row.data(200, seed) for seed in range(4)]
        self.estimator = row.make().fit(self.data[0])
        self.answers = [ask(self.estimator, X) for X in self.data]
        start = time.perf_counter()
        self.answers_of_fit = [fit_and_ask(row, X) for X in self.data]
        self.fit_seconds = (time.perf_counter() - start) / len(self.data)

    def asked(self, rng):
        which = rng.integers(len(self.data))
        return ask(self.estimator, self.data[which]) == self.answers[which]

    def fitted(self, rng):
        which = rng.integers(len(self.data))
        return fit_and_ask(self.row, self.data[which]) == self.answers_of_fit[which]


class Swapped:
    """An estimator that some threads fit on two sets of rows while others ask it."""

    def __init__(self):
        self.rows = [vq_rows(0), vq_rows(1)]
        self.X = self.rows[0][:50]
        models = [vq(8).fit(rows) for rows in self.rows]
        self.answers = [model.transform(self.X).tobytes() for model in models]
        self.estimator = clone(models[0]).fit(self.rows[0])

    def asked(self):
        return self.estimator.transform(self.X).tobytes() in self.answers

    def fitted(self, which):
        self.estimator.fit(self.rows[which])
        return True


def vq_rows(seed):
    return np.random.default_rng(seed).normal(size=(300, 5)).astype(np.float32)


class Large:
    """A search that takes several threads of its own."""

    def __init__(self):
        rng = np.random.default_rng(0)
        self.X, self.table = rng.normal(size=(6000, 32)), rng.normal(size=(256, 32))
        self.answer = nearest(self.X, self.table)[0].tobytes()

    def asked(self):
        return nearest(self.X, self.table)[0].tobytes() == self.answer


def counts():
    libraries = ThreadpoolController().select(user_api="blas").lib_controllers
    return [library.num_threads for library in libraries]


def run(job):
    # Filters are of the process, and set by the first thread that enters a context.
    warnings.simplefilter("ignore")
    before = counts()
    shared = [Shared(row) for row in ONE_OF_EACH]
    quick = [one for one in shared if one.fit_seconds < 0.3]
    swapped, large = Swapped(), Large()
    done = [0] * N_THREADS
    wrong, lock = [], threading.Lock()

    def work(number):
        rng = job.rng(number)
        while job.left() > 0 and not wrong:
            try:
                what, is_right = turn(rng)
            except Exception as error:
                what, is_right = f"{type(error).__name__}: {error}", False
            done[number] += 1
            if not is_right:
                with lock:
                    wrong.append(what)

    def turn(rng):
        one = shared[rng.integers(len(shared))]
        kind = rng.random()
        if kind < 0.5:
            return f"{one.row.name} says other than alone", one.asked(rng)
        if kind < 0.65:
            one = quick[rng.integers(len(quick))]
            return f"{one.row.name} is fitted other than alone", one.fitted(rng)
        if kind < 0.8:
            return "an estimator that is fitted says neither", swapped.asked()
        if kind < 0.9:
            return "", swapped.fitted(int(rng.integers(2)))
        return "a search with threads of its own is another", large.asked()

    job.ran(f"{N_THREADS} threads on {len(shared)} estimators, without an end")
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    threads = [threading.Thread(target=work, args=(i,)) for i in range(N_THREADS)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    job.ran(f"{sum(done)} calls of {N_THREADS} threads on {len(shared)} estimators")
    for what in dict.fromkeys(wrong):
        job.failed(what)
    if min(done) == 0:
        job.failed("a thread never had its turn")
    if counts() != before:
        job.failed(f"BLAS has {counts()} threads, and had {before}")
