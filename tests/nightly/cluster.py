"""A cluster of four workers of Dask and up to 20 GB of samples, made on the workers.

A small fit has the bits of one in memory.  A large one is made twice: once a worker is
killed on the way, and its rows are made anew; both have the same bits.
"""

import importlib.util
import logging
import time
import warnings
from functools import cache

import numpy as np
from sklearn.base import clone

from skvq import ProductQuantizer, VectorQuantizer
from skvq.learning.rows import block_rows

N_WORKERS = 4
N_FEATURES = 64
BYTES_A_ROW = 4 * N_FEATURES
CHUNK = 40_000
MOST_BYTES = 20 * 10**9
# A turn has so many times the rows of the one before, while there is time for it.
GROWTH = 4


@cache
def places_and_noise(seed):
    """Return what chunks are made of; kept, since random numbers take the most time."""
    rng = np.random.default_rng(seed)
    places = 3 * rng.normal(size=(40, N_FEATURES))
    return places.astype(np.float32), rng.random((CHUNK, N_FEATURES), np.float32)


def made(start, n_rows, seed):
    """Return a chunk of rows around forty places; called where it is needed."""
    places, noise = places_and_noise(seed)
    rng = np.random.default_rng([seed, start])
    return places[rng.integers(40, size=n_rows)] + noise[:n_rows]


def samples(n_rows, seed):
    """Return all rows, none of which is made yet."""
    import dask
    import dask.array as da

    chunk = dask.delayed(made, pure=True)
    sizes = [min(CHUNK, n_rows - start) for start in range(0, n_rows, CHUNK)]
    return da.concatenate(
        [
            da.from_delayed(
                chunk(CHUNK * i, size, seed), (size, N_FEATURES), np.float32
            )
            for i, size in enumerate(sizes)
        ]
    )


def run(job):
    if importlib.util.find_spec("distributed") is None:
        job.absent("dask.distributed is not installed")
        return
    import dask
    import distributed

    warnings.simplefilter("ignore")
    seed = job.seed % 2**32
    vq = VectorQuantizer(8, init="random", max_iter=2, tol=0, random_state=seed)
    part = VectorQuantizer(8, init="random", max_iter=2)
    models = [vq, ProductQuantizer(2, quantizer=part, random_state=seed)]
    n_small = 5 * block_rows(N_FEATURES) + 1000
    with dask.config.set(scheduler="synchronous"):
        X = samples(n_small, seed).compute()
    expected = [clone(model).fit(X) for model in models]
    codes = [model.transform(X[-1000:]) for model in expected]
    with (
        distributed.LocalCluster(
            n_workers=N_WORKERS,
            threads_per_worker=1,
            memory_limit="1GiB",
            dashboard_address=None,
            local_directory=str(job.folder),
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        lazy = samples(n_small, seed)
        for model, there, its in zip(models, expected, codes, strict=True):
            name = type(model).__name__
            with job.expecting(f"{name} on {N_WORKERS} workers, beside memory"):
                found = clone(model).fit(lazy)
                compare(found, there)
                assert (found.transform(lazy[-1000:]).compute() == its).all()
        job.ran(f"{n_small} rows on {N_WORKERS} workers and in memory")
        n_rows = n_small
        while True:
            start = time.monotonic()
            large(job, client, vq, n_rows, seed)
            took = time.monotonic() - start
            is_all = n_rows * BYTES_A_ROW >= MOST_BYTES
            if is_all or job.n_failures or job.left() < 1.2 * GROWTH * took:
                return
            n_rows = min(GROWTH * n_rows, -(-MOST_BYTES // BYTES_A_ROW))


def large(job, client, vq, n_rows, seed):
    """Fit on many rows with all workers, and once more while one of them is killed."""
    from test_dask_cluster import KillsAtUpdate

    start = time.monotonic()
    undisturbed = clone(vq).fit(samples(n_rows, seed))
    told = f"{n_rows * BYTES_A_ROW / 1e9:.2f} GB on {N_WORKERS} workers"
    job.ran(f"{told}, undisturbed")
    job.note(f"a fit on {told} took {time.monotonic() - start:.0f} s")
    kills = KillsAtUpdate(client)
    logger = logging.getLogger("skvq.learning")
    logger.addHandler(kills)
    logger.setLevel(logging.DEBUG)
    with job.expecting(f"a fit on {told}, one of them killed"):
        disturbed = clone(vq).fit(samples(n_rows, seed))
        assert kills.killed, "no worker was killed"
        compare(disturbed, undisturbed)
        job.ran(f"{told}, one of them killed in the second fit")
    logger.removeHandler(kills)


def compare(found, expected):
    """Both have the same bits."""
    for one, other in zip(found.codebooks_, expected.codebooks_, strict=True):
        np.testing.assert_array_equal(one, other)
        assert one.tobytes() == other.tobytes()
    assert found.distortion_ == expected.distortion_
