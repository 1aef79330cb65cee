"""Time the compiled engine beside faiss, on one thread or on two.

Claims, on one thread and both sides at AVX2: the public searches on prepared tables are
at least 1.2 times as fast as faiss's IndexFlatL2, twice as fast as its
ProductQuantizer and eight times at slices of 16 features, and a Lloyd iteration 1.3
times; with AVX-512 1.4 to 2.0, 4 and 12, and 2.0 times.  At 64 features and more, and
1,024 codewords and more, they do at least 75% of the multiply-adds that the processor
could.

What both find is compared before anything is timed.  A row whose quartiles are more
than 10% apart on either side says nothing, and is marked "void".
"""

import _common  # isort: split

import os
import sys

if "--avx2" in sys.argv:
    os.environ.update(
        FAISS_SIMD_LEVEL="AVX2", OPENBLAS_CORETYPE="Haswell", SKVQ_NATIVE="v3"
    )

import statistics
import time

import numpy as np
from threadpoolctl import threadpool_limits

from skvq import VectorQuantizer, nearest
from skvq.nearest import native

faiss = _common.peer("faiss")

# features, codewords, times faster than faiss: AVX2, AVX-512
FLAT = [
    (8, 256, 1.2, 2.0),
    (16, 256, 1.2, 2.0),
    (32, 256, 1.2, 1.9),
    (64, 256, 1.2, 1.9),
    (32, 1024, 1.2, 1.9),
    (128, 256, 1.2, 1.4),
    (128, 1024, 1.2, 1.4),
    (128, 4096, 1.2, 1.4),
]
# slices of 128 features
PRODUCT = [(8, 8.0, 12.0), (16, 2.0, 4.0), (32, 2.0, 4.0), (64, 2.0, 4.0)]
LLOYD = [(256, 1.3, 2.0), (1024, 1.3, 2.0)]
# 64 features, beams; no targets at AVX2
BEAMS = [(1, 0.0, 1.5), (5, 0.0, 1.8), (32, 0.0, 2.2)]
PEAK_SHARE = 0.75
N_ITER = 5


def peak(seconds=0.2):
    """Floating-point operations that a thread does in a second, at most."""
    library, rounds, best = native.library(), 10**6, 0.0
    library.skvq_peak.argtypes = [native.ctypes.c_int64]
    library.skvq_peak.restype = native.ctypes.c_int64
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        operations = library.skvq_peak(rounds)
        best = max(best, rounds * operations / (time.perf_counter() - start))
    return best


def quartile_gap(seconds):
    """How far the quartiles are apart, as a share of the median."""
    if len(seconds) < 2:
        return 0.0
    low, middle, high = statistics.quantiles(seconds, n=4)
    return (high - low) / middle


class Race:
    """A table of two sides that take turns."""

    def __init__(self, title, arguments):
        self.arguments = arguments
        self.table = _common.Table(
            title,
            [
                *("case", "rows", "skvq ns", "faiss ns", "x faiss", "target"),
                *("of the peak", "others' load", "verdict"),
            ],
        )

    def row(self, case, n, ours, theirs, targets, work=0):
        """Time ``ours()`` and ``theirs()``, which see n rows of so much work each."""
        before = peak() if work else 0.0
        times, load = _common.interleave(
            {"skvq": ours, "faiss": theirs}, self.arguments, warm=True
        )
        most = max(before, peak()) if work else 0.0
        mine, other = times["skvq"], times["faiss"]
        ratio = _common.times_faster(mine, other)
        target = targets[native.status().level == "v4"]
        share = (
            2 * n * work / mine.median / most / self.arguments.threads if work else 0
        )
        if share > 1:
            raise RuntimeError(f"{share:.0%} of the peak: the peak was not measured.")
        met = [ratio >= target]
        if share and case[0] >= 64 and case[1] >= 1024:
            met.append(share >= PEAK_SHARE)
        void = max(map(quartile_gap, (mine.seconds, other.seconds))) > 0.1
        self.table.row(
            " x ".join(map(str, case)),
            f"{n:,}",
            *(f"{1e9 * side.median / n:.0f}" for side in (mine, other)),
            f"{ratio:.2f}",
            f">= {target}" if target else "",
            f"{share:.0%}" if share else "",
            f"{load:.2f}",
            "void" if void else _common.verdict(*met),
        )


def check_no_worse(X, tables, ours, theirs):
    """Raise unless each of our codes is as near as the peer's, by exact distances."""
    start = 0
    for table, mine, other in zip(tables, ours.T, theirs.T, strict=True):
        stop = start + table.shape[1]
        rows, codewords = X[:, start:stop].astype(float), np.asarray(table, dtype=float)
        found = [
            np.square(rows - codewords[codes]).sum(axis=1) for codes in (mine, other)
        ]
        if (found[0] > (1 + 2.0**-18) * found[1]).any():
            raise RuntimeError("Some codes are not the nearest.")
        start = stop


def codebook_of(X, n_codewords):
    distinct = np.unique(X, axis=0)
    return np.random.default_rng(0).permutation(distinct)[:n_codewords]


def race_flat(arguments):
    race = Race("nearest: features x codewords", arguments)
    for n_features, n_codewords, *targets in FLAT:
        X = _common.samples(n_features, quick=arguments.quick)
        table = nearest.Table(codebook_of(X, n_codewords))
        index = faiss.IndexFlatL2(n_features)
        index.add(table.codewords)

        def ours(X=X, table=table):
            return nearest.nearest(X, table, return_distances=False)[0]

        def theirs(X=X, index=index):
            return index.search(X, 1)[1][:, 0]

        check_no_worse(X, [table], ours()[:, None], theirs()[:, None])
        case = n_features, len(table)
        race.row(case, len(X), ours, theirs, targets, n_features * len(table))


def race_product(arguments):
    race = Race("nearest_product: slices of 128 features, 256 codewords", arguments)
    X = _common.samples(128, quick=arguments.quick)
    for n_tables, *targets in PRODUCT:
        width = 128 // n_tables
        peer = faiss.ProductQuantizer(128, n_tables, 8)
        rows = np.random.default_rng(0).permutation(len(X))[:256]
        slices = X[rows].reshape(256, n_tables, width).swapaxes(0, 1)
        # All different: of equal codewords either may be found.
        slices = slices + 1e-3 * np.arange(256, dtype=np.float32)[:, None]
        faiss.copy_array_to_vector(slices.ravel(), peer.centroids)
        tables = nearest.Tables(list(slices))

        def ours(tables=tables):
            return nearest.nearest_product(X, tables, dtype=np.uint8)

        def theirs(peer=peer):
            return peer.compute_codes(X)

        check_no_worse(X, tables, ours(), theirs())
        race.row((n_tables, width), len(X), ours, theirs, targets)


def race_lloyd(arguments):
    race = Race(f"{N_ITER} Lloyd iterations: features x codewords", arguments)
    X = _common.samples(32, quick=arguments.quick)
    for n_codewords, *targets in LLOYD:
        start = codebook_of(X, n_codewords)

        def ours(start=start):
            vq = VectorQuantizer(len(start), init=start, max_iter=N_ITER, tol=0)
            return vq.fit(X).codebooks_[0]

        def theirs(start=start):
            kmeans = faiss.Kmeans(
                X.shape[1],
                len(start),
                niter=N_ITER,
                min_points_per_centroid=1,
                max_points_per_centroid=10**9,
            )
            kmeans.train(X, init_centroids=start)
            return kmeans.centroids

        losses = [nearest.nearest(X, rows)[1].mean() for rows in (ours(), theirs())]
        if not losses[0] <= 1.001 * losses[1]:
            raise RuntimeError(f"The distortions are {losses}.")
        race.row((32, len(start)), len(X), ours, theirs, targets)


def race_beams(arguments):
    race = Race("nearest_best: beam, eight stages of 256, 64 features", arguments)
    X = _common.samples(64, quick=arguments.quick)
    for beam_size, *targets in BEAMS:
        rows = X[: max(64, len(X) // (10 * beam_size))]
        peer = faiss.ResidualQuantizer(64, 8, 8)
        peer.max_beam_size = 1
        peer.train(X[:10000])
        peer.max_beam_size = beam_size
        # Of faiss's two ways, the faster one.
        seconds = []
        for way in (0, 1):
            peer.use_beam_LUT = way
            if way:
                peer.compute_codebook_tables()
            peer.compute_codes(rows)
            start = time.perf_counter()
            peer.compute_codes(rows)
            seconds.append(time.perf_counter() - start)
        peer.use_beam_LUT = int(seconds[1] < seconds[0])
        codebooks = faiss.vector_to_array(peer.codebooks).reshape(8, 256, 64)
        tables = nearest.Tables(list(codebooks))

        def ours(rows=rows, tables=tables, beam_size=beam_size):
            return nearest.nearest_best(
                rows, tables, beam_size, return_distances=False, dtype=np.uint8
            )[0][:, 0]

        def theirs(rows=rows, peer=peer):
            return peer.compute_codes(rows)

        losses = [
            np.square(rows - sum(codebooks[j][codes[:, j]] for j in range(8))).sum()
            for codes in (ours(), theirs())
        ]
        if not losses[0] <= 1.005 * losses[1]:
            raise RuntimeError(f"The errors are {losses}.")
        race.row((beam_size,), len(rows), ours, theirs, targets)


def main():
    options = _common.parser(__doc__.splitlines()[0], repeats=21)
    options.add_argument("--patience", type=float, default=30.0)
    options.add_argument("--threads", type=int, default=1)
    options.add_argument("--avx2", action="store_true", help="both sides at AVX2")
    arguments = _common.settle(options.parse_args())
    if arguments.quick:
        arguments.patience = 0.0
    if native.library() is None:
        print(f"The compiled engine is not there: {native.status().reason}")
        return
    _common.print_header("The compiled engine", arguments)
    level, options = native.status().level, faiss.get_compile_options()
    print(f"\nskvq {level}, faiss {options}, {arguments.threads} threads,", end=" ")
    print("load " + " ".join(f"{load:.2f}" for load in os.getloadavg()))
    faiss.omp_set_num_threads(arguments.threads)
    with threadpool_limits(arguments.threads):
        race_flat(arguments)
        race_product(arguments)
        race_lloyd(arguments)
        race_beams(arguments)


if __name__ == "__main__":
    main()
