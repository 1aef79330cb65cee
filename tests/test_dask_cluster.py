"""Fits on workers of Dask: the same bits, also when one of them dies."""

import logging
import os
import signal
import time

import dask
import dask.array as da
import joblib
import numpy as np
import pytest
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV

from skvq import ResidualQuantizer, VectorQuantizer
from skvq.learning.rows import block_rows

distributed = pytest.importorskip("distributed")

# Four blocks: workers know of no smaller ones.
N_FEATURES = 64
N_ROWS = 3 * block_rows(N_FEATURES) + 1000
CHUNK = 40_000


def made(start):
    """Return rows from a number on; made where they are needed."""
    rng = np.random.default_rng(start)
    centres = np.random.default_rng(0).integers(0, 200, (40, N_FEATURES), np.uint8)
    x = centres[rng.integers(40, size=min(CHUNK, N_ROWS - start))]
    return x + rng.integers(0, 50, x.shape, np.uint8)


def samples():
    chunk = dask.delayed(made, pure=True)
    return da.concatenate(
        [
            da.from_delayed(
                chunk(start), (min(CHUNK, N_ROWS - start), N_FEATURES), np.uint8
            )
            for start in range(0, N_ROWS, CHUNK)
        ]
    )


class KillsAtUpdate(logging.Handler):
    """Kills a worker when the second update of a table is done."""

    def __init__(self, client):
        super().__init__()
        self.client, self.killed = client, []

    def emit(self, record):
        if "update 2" in record.getMessage() and not self.killed:
            self.killed = list(self.client.run(os.getpid).values())[:1]
            os.kill(self.killed[0], signal.SIGKILL)


def assert_same(a, b):
    for one, other in zip(a.codebooks_, b.codebooks_, strict=True):
        assert one.tobytes() == other.tobytes()
    assert a.distortion_ == b.distortion_


# One test, so that there is one cluster.
@pytest.mark.filterwarnings("default")
def test_workers_give_the_same_bits(monkeypatch, caplog):
    vq = VectorQuantizer(5, init="random", max_iter=3, tol=0, random_state=0)
    part = VectorQuantizer(max_iter=2, init="random", random_state=0)
    rq = ResidualQuantizer(2, 4, quantizer=part, random_state=0, fit_beam_size=1)
    grid = GridSearchCV(
        VectorQuantizer(max_iter=1, init="random", random_state=0),
        {"n_codewords": [2, 4]},
        cv=2,
        refit=False,
    )
    with dask.config.set(scheduler="synchronous"):
        X = samples().compute()
        codes = vq.fit(X).transform(X)
        expected = vq.codebooks_[0], vq.distortion_
        residual = clone(rq).fit(X).codebooks_
        scores = grid.fit(X).cv_results_["mean_test_score"]
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=None
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        lazy = samples()
        found = clone(vq).fit(lazy)
        assert found.codebooks_[0].tobytes() == expected[0].tobytes()
        assert found.distortion_ == expected[1]
        # Nothing is left on the workers, once they have been told.
        while client.futures:
            time.sleep(0.05)
        assert (found.transform(lazy).compute() == codes).all()
        found = rq.fit(lazy)
        for one, other in zip(found.codebooks_, residual, strict=True):
            assert one.tobytes() == other.tobytes()
        assert (grid.fit(lazy).cv_results_["mean_test_score"] == scores).all()

        # Whole fits, sent by joblib to the workers.
        here = X[:2000]
        alone = grid.fit(here).cv_results_["mean_test_score"]
        with joblib.parallel_config(backend="dask"):
            spread = clone(grid).set_params(n_jobs=2).fit(here)
        assert (spread.cv_results_["mean_test_score"] == alone).all()

        # One whose rows, and what stays beside them, are lost on the way.
        kills = KillsAtUpdate(client)
        logger = logging.getLogger("skvq.learning")
        monkeypatch.setattr(logger, "handlers", [kills])
        caplog.set_level(logging.DEBUG, logger.name)
        persisted = lazy.persist()
        found = clone(vq).fit(persisted)
        assert kills.killed
        assert found.codebooks_[0].tobytes() == expected[0].tobytes()
        assert found.distortion_ == expected[1]
