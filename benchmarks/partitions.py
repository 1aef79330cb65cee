"""Time fits of Dask arrays, and weigh what reaches the client.

Claims: on two workers of one thread, a pass over 2,000,000 rows of 32 features with 256
codewords takes half of the time of dask-ml's or less; what a pass costs beside the work
grows with the partitions, by about a millisecond each; what comes back is as large as
the tables, however many partitions there are; and the client stays under 500 MB while
20 GB of rows are learned from.
"""

import _common  # isort: split

import pickle
import resource
import statistics
import time
from functools import partial
from itertools import product

import dask
import dask.array as da
import numpy as np
from dask.delayed import Delayed
from distributed import Client, LocalCluster

from skvq import VectorQuantizer
from skvq.learning import rows as seam
from skvq.learning.partitions import dask_rows

try:
    from dask_ml.cluster import KMeans
except ImportError:  # which is large, and not of our extras: pip install dask-ml
    KMeans = None

N_ROWS, N_FEATURES, N_CODEWORDS = 2_000_000, 32, 256
# A pass is what one iteration more takes.
FEW, MANY = 1, 6
MEMORY_GB, MOST_CLIENT_MB = 20, 500
INITS = ("random", "k-means++", "progressive")


def clouds(start, n_rows, n_features):
    """Make rows of many overlapping clouds, from a number on."""
    rng = np.random.default_rng(start)
    centres = np.random.default_rng(0).normal(size=(1000, n_features)) * 3
    found = centres.astype(np.float32)[rng.integers(1000, size=n_rows)]
    return found + rng.standard_normal(found.shape, dtype=np.float32)


def array(n_rows, n_features, chunk, make=clouds):
    """Return a Dask array of generated rows."""
    pieces = []
    for start in range(0, n_rows, chunk):
        shape = min(chunk, n_rows - start), n_features
        lazy = dask.delayed(make, pure=True)(start, *shape)
        pieces.append(da.from_delayed(lazy, shape, np.float32))
    return da.concatenate(pieces)


def seconds(call):
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def race_passes(arguments):
    """Time a Lloyd pass of each side."""
    table = _common.Table(
        f"A pass of Lloyd's iteration, V = {N_CODEWORDS}, 2 workers x 1 thread",
        ["rows", "skvq s", "dask-ml s", "x dask-ml", "one process, 2 threads s", ""],
    )
    n_rows = 5_000 if arguments.quick else N_ROWS
    chunk = seam.block_rows(N_FEATURES)
    X = array(n_rows, N_FEATURES, chunk).persist()
    here = X.compute()
    start = here[np.random.default_rng(0).permutation(n_rows)[:N_CODEWORDS]]

    def skvq(X, n_iter):
        VectorQuantizer(len(start), init=start, max_iter=n_iter, tol=0).fit(X)

    def dask_ml(X, n_iter):
        KMeans(len(start), init=start, max_iter=n_iter, tol=0).fit(X)

    sides = {"skvq": (skvq, X), "one": (skvq, here)}
    if KMeans is not None:
        sides["dask-ml"] = dask_ml, X
    times = {side: [] for side in sides}
    for _ in range(arguments.repeats):
        for side, (fit, rows) in sides.items():
            few, many = (seconds(partial(fit, rows, n)) for n in (FEW, MANY))
            times[side].append((many - few) / (MANY - FEW))
    found = {side: statistics.median(each) for side, each in times.items()}
    cells = ["", ""]
    if KMeans is not None:
        ratio = found["dask-ml"] / found["skvq"]
        cells = [f"{found['dask-ml']:.3f}", f"{ratio:.2f}"]
    table.row(
        f"{n_rows:,}",
        f"{found['skvq']:.3f}",
        *cells,
        f"{found['one']:.3f}",
        "" if KMeans is None else _common.verdict(ratio >= 2),
    )


def untouched(start, n_rows, n_features):
    """Make rows that take no time, since nobody looks at them."""
    return np.empty((n_rows, n_features), np.float32)


def nothing(block):
    return (np.zeros(1),)


def ask(rows):
    yield rows.fold(nothing)


def measure_overhead(arguments):
    """Time passes in which nothing is done."""
    table = _common.Table(
        "A pass without work", ["partitions", "ms", "ms each", "a task of Dask's, ms"]
    )
    chunk = seam.block_rows(N_FEATURES)
    counts = (2, 20) if arguments.quick else (10, 100, 300)
    first = None
    for count in counts:
        X = array(count * chunk, N_FEATURES, chunk, untouched).persist()
        rows, _ = dask_rows(X, None)
        rows.source._unchecked = set()
        times = [seconds(lambda rows=rows: seam.run(ask(rows))) for _ in range(5)]
        found = 1000 * statistics.median(times)
        first = first or (count, found)
        each = (found - first[1]) / max(1, count - first[0])
        plain = [dask.delayed(abs, pure=False)(number) for number in range(count)]
        alone = 1000 * seconds(dask.delayed(sum, pure=False)(plain).compute) / count
        cells = f"{count:,}", f"{found:.0f}", f"{each:.2f}" if each else ""
        table.row(*cells, f"{alone:.2f}")


def weigh(arguments):
    """Count the bytes that reach the client."""
    table = _common.Table(
        "What reaches the client in a fit",
        ["init", "chunks", "partitions", "V", "largest, in tables", "all, in tables"],
    )
    size, width = (16, 4) if arguments.quick else (4096, 8)
    many = 1_000 if arguments.quick else 100_000
    inits = INITS[:1] if arguments.quick else INITS
    tiny = 64 * width
    # Chunks of few rows, which become few partitions; and as many of these.
    settings = [(many // 100, tiny), (many // 10, tiny), (many, seam.BLOCK_ELEMENTS)]
    before, compute, sizes = seam.BLOCK_ELEMENTS, Delayed.compute, []

    def noted(self, **kwargs):
        found = compute(self, **kwargs)
        sizes.append(len(pickle.dumps(found)))
        return found

    Delayed.compute = noted
    try:
        with dask.config.set(scheduler="synchronous"):
            for init, (count, seam.BLOCK_ELEMENTS) in product(inits, settings):
                # "progressive" takes some fifty passes.
                if init == "progressive":
                    count //= 10
                rows = 64 if seam.BLOCK_ELEMENTS == tiny else 10
                X = array(rows * count, width, rows * max(1, count // 1000))
                X = X.rechunk((rows, width))
                n_partitions = len(dask_rows(X)[0].source._parts)
                vq = VectorQuantizer(size, init=init, max_iter=1, random_state=0)
                sizes.clear()
                vq.fit(X)
                n_bytes = 4 * size * width
                table.row(
                    init,
                    f"{count:,}",
                    f"{n_partitions:,}",
                    size,
                    f"{max(sizes) / n_bytes:.1f}",
                    f"{sum(sizes) / n_bytes:.1f}",
                )
    finally:
        Delayed.compute, seam.BLOCK_ELEMENTS = compute, before


def repeated(start, n_rows, n_features):
    """Make rows in no time."""
    return np.add(clouds(0, n_rows, n_features), np.float32(start * 1e-9))


def fit_large(arguments):
    """Learn from more rows than there is memory for."""
    table = _common.Table(
        "Rows that do not fit in memory", ["GB", "fit s", "client grew by MB", ""]
    )
    chunk = 4 * seam.block_rows(N_FEATURES)
    size = (0.05 if arguments.quick else MEMORY_GB) * 1e9
    n_rows = int(size / (4 * N_FEATURES))
    X = array(n_rows, N_FEATURES, chunk, repeated)
    before = peak_mb()
    vq = VectorQuantizer(16, init="random", max_iter=1, random_state=0)
    taken = seconds(lambda: vq.fit(X))
    grown = peak_mb() - before
    table.row(
        f"{size / 1e9:.1f}",
        f"{taken:.0f}",
        f"{grown:.0f}",
        _common.verdict(peak_mb() <= MOST_CLIENT_MB),
    )


def peak_mb():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main():
    parser = _common.parser(__doc__.splitlines()[0], repeats=5)
    parser.add_argument("--only", choices=["passes", "overhead", "weigh", "large"])
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.repeats = 1
    _common.print_header("Dask arrays", arguments, "Data: generated.")
    parts = {"large": fit_large, "passes": race_passes, "overhead": measure_overhead}
    if arguments.only in (None, "weigh"):
        weigh(arguments)
    if arguments.only == "weigh":
        return
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as here,
        Client(here),
    ):
        for name, part in parts.items():
            if arguments.only in (None, name):
                part(arguments)


if __name__ == "__main__":
    main()
