"""Time the compiled engine beside faiss, on one thread or on two.

Each case of the public searches, on prepared tables, has a target below: how many times
as fast as the peer skvq is to be, on one thread at AVX2 and with AVX-512, and on two
threads.  The table that is printed says which were met, and `figures.json` what was
measured.  Of faiss's two ways of searching beams the better one counts; additive codes
have the distortion of its local search; scans are exact, which IndexPQFastScan is not.
At 64 features and more, and 1,024 codewords and more, at least 75% of the multiply-adds
are to be done that the processor could do.
"""

import _common  # isort: split

import time
from functools import partial

import numpy as np
from _race import (
    MOST_DISTORTION,
    Race,
    Target,
    check_no_worse,
    codebook_of,
    error_of_sums,
    options,
    run,
)
from sklearn.cluster import KMeans

from skvq import VectorQuantizer, nearest

faiss = _common.peer("faiss")

# features, codewords
FLAT = [
    (8, 256, Target(1.2, 2.0, 1.3)),
    (16, 256, Target(1.2, 2.0, 1.3)),
    (32, 256, Target(1.2, 1.9, 1.4)),
    (64, 256, Target(1.2, 1.9, 1.9)),
    (32, 1024, Target(1.2, 1.9, 1.4)),
    (128, 256, Target(1.2, 1.4, 1.3)),
    (128, 1024, Target(1.2, 1.4, 1.3)),
    (128, 4096, Target(1.2, 1.4, 1.3)),
]
# slices of 128 features
PRODUCT = [
    (8, Target(8.0, 12.0, 12.0)),
    *((n_tables, Target(2.0, 4.0, 3.5)) for n_tables in (16, 32, 64)),
]
LLOYD_CODEWORDS = (256, 1024)
LLOYD = {"faiss": Target(1.3, 2.0), "scikit-learn": Target(0.0, 4.0)}
N_ITER = 5
# features, beam
BEAMS = [
    *((64, beam, Target(0.0, goal)) for beam, goal in ((1, 1.5), (5, 1.8), (32, 2.2))),
    *((128, beam, Target(0.0, goal)) for beam, goal in ((1, 1.4), (5, 1.6), (32, 2.2))),
]
ADDITIVE = Target(0.0, 2.5)
LOCAL_SEARCHES = (4, 16)  # iterations in faiss: a quarter and all of its default
# Beams and rounds of `improve_sums`: the fastest counts of the first that are enough.
FIRST_BEAMS, ROUNDS = (1, 2, 4, 8, 16), (1, 2, 3, 4, 5, 6, 8, 12, 16, 20, 24, 32)
# codes, bits of each
SCANS = [
    (8, 8, Target(1.2, 10.0)),
    (16, 8, Target(1.2, 5.0)),
    (16, 4, Target(0.9, 1.0)),
]
N_QUERIES, K, COPIES = 21, 10, 10


def race_flat(arguments):
    race = Race("nearest: features x codewords", arguments, of_peak=True)
    for n_features, n_codewords, target in FLAT:
        X = _common.samples(n_features, quick=arguments.quick)
        table = nearest.Table(codebook_of(X, n_codewords))
        index = faiss.IndexFlatL2(n_features)
        index.add(table.codewords)

        def ours(X=X, table=table):
            return nearest.nearest(X, table, return_distances=False)[0]

        def theirs(X=X, index=index):
            return index.search(X, 1)[1][:, 0]

        check_no_worse(X, [table], ours()[:, None], theirs()[:, None])
        race.row(
            (n_features, len(table)),
            len(X),
            {"skvq": ours, "faiss": theirs},
            {"faiss": target},
            work=n_features * len(table),
        )
    return race.results


def race_product(arguments):
    race = Race("nearest_product: slices of 128 features, 256 codewords", arguments)
    X = _common.samples(128, quick=arguments.quick)
    for n_tables, target in PRODUCT:
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
        calls = {"skvq": ours, "faiss": theirs}
        race.row((n_tables, width), len(X), calls, {"faiss": target})
    return race.results


def faiss_kmeans(X, n_codewords, n_iter, start=None):
    """Return faiss's codewords, learned from all samples."""
    kmeans = faiss.Kmeans(
        X.shape[1],
        n_codewords,
        niter=n_iter,
        min_points_per_centroid=1,  # only warns
        max_points_per_centroid=10**9,
    )
    kmeans.train(X, init_centroids=start)
    return kmeans.centroids


def race_lloyd(arguments):
    race = Race(
        f"{N_ITER} Lloyd iterations: features x codewords",
        arguments,
        sides=("skvq", "faiss", "scikit-learn"),
        peers=("faiss", "scikit-learn"),
    )
    X = _common.samples(32, quick=arguments.quick)
    for n_codewords in LLOYD_CODEWORDS:
        start = codebook_of(X, n_codewords)

        def ours(start=start):
            vq = VectorQuantizer(len(start), init=start, max_iter=N_ITER, tol=0)
            return vq.fit(X).codebooks_[0]

        def theirs(start=start):
            return faiss_kmeans(X, len(start), N_ITER, start)

        def third(start=start):
            kmeans = KMeans(
                len(start),
                init=start,
                n_init=1,
                max_iter=N_ITER,
                tol=0,
                algorithm="lloyd",
            )
            return kmeans.fit(X).cluster_centers_

        calls = {"skvq": ours, "faiss": theirs, "scikit-learn": third}
        losses = [nearest.nearest(X, call())[1].mean() for call in calls.values()]
        if not losses[0] <= 1.001 * min(losses):
            raise RuntimeError(f"The distortions are {losses}.")
        race.row((32, len(start)), len(X), calls, LLOYD)
    return race.results


def seconds_of(call):
    """Return the better of two times."""
    times = []
    for _ in range(2):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def tables_of(peer):
    """Return the codebooks of faiss's sums of codewords."""
    codebooks = faiss.vector_to_array(peer.codebooks).reshape(peer.M, -1, peer.d)
    return nearest.Tables(list(codebooks))


def race_beams(arguments):
    race = Race("nearest_best, eight stages of 256: features x beam", arguments)
    for n_features, beam_size, target in BEAMS:
        X = _common.samples(n_features, quick=arguments.quick)
        rows = X[: max(64, len(X) // (10 * beam_size))]
        peer = faiss.ResidualQuantizer(n_features, 8, 8)
        peer.max_beam_size = 1
        peer.train_type = peer.Train_default
        peer.cp.min_points_per_centroid = 1  # only warns
        peer.train(X[:10000])
        peer.max_beam_size = beam_size
        peer.compute_codebook_tables()

        def theirs(rows=rows, peer=peer):
            return peer.compute_codes(rows)

        # Of faiss's two ways, the faster one.
        seconds = []
        for peer.use_beam_LUT in (0, 1):
            theirs()
            seconds.append(seconds_of(theirs))
        peer.use_beam_LUT = int(seconds[1] < seconds[0])
        tables = tables_of(peer)

        def ours(rows=rows, tables=tables, beam_size=beam_size):
            return nearest.nearest_best(
                rows, tables, beam_size, return_distances=False, dtype=np.uint8
            )[0][:, 0]

        losses = [error_of_sums(rows, tables, call()) for call in (ours, theirs)]
        if not losses[0] <= MOST_DISTORTION * losses[1]:
            raise RuntimeError(f"The errors are {losses}.")
        calls = {"skvq": ours, "faiss": theirs}
        race.row((n_features, beam_size), len(rows), calls, {"faiss": target})
    return race.results


def additive_codes(rows, tables, beam_size, n_rounds):
    """Search for sums as `AdditiveQuantizer` does."""
    codes = nearest.nearest_best(rows, tables, beam_size, return_distances=False)[0]
    return nearest.improve_sums(rows, tables, codes[:, 0], n_rounds=n_rounds)[0]


def race_additive(arguments):
    race = Race(
        "nearest_best and improve_sums, eight tables of 256, at the distortion of "
        "faiss's local search: features x its iterations",
        arguments,
    )
    for n_features in (64, 128):
        X = _common.samples(n_features, quick=arguments.quick)
        rows = X[-len(X) // 50 :]
        peer = faiss.LocalSearchQuantizer(n_features, 8, 8)
        peer.train_iters = 1 if arguments.quick else 5
        peer.train(X[:10000])
        tables = tables_of(peer)
        for n_iter in LOCAL_SEARCHES:
            peer.encode_ils_iters = n_iter
            calls = {
                "skvq": good_enough(rows, tables, peer),
                "faiss": lambda rows=rows, peer=peer: peer.compute_codes(rows),
            }
            race.row((n_features, n_iter), len(rows), calls, {"faiss": ADDITIVE})
    return race.results


def good_enough(rows, tables, peer):
    """Return the fastest search whose codes are as near as those of faiss."""
    most, found = error_of_sums(rows, tables, peer.compute_codes(rows)), {}
    for beam_size in FIRST_BEAMS:
        for n_rounds in ROUNDS:
            call = partial(additive_codes, rows, tables, beam_size, n_rounds)
            if error_of_sums(rows, tables, call()) <= most:
                found[seconds_of(call)] = call
                break
    if not found:
        raise RuntimeError(f"No search reaches the squared error of {most}.")
    return found[min(found)]


def filled(X, n_codes, bits):
    """Return faiss's index of samples, and of copies of them with noise."""
    index = faiss.IndexPQ(X.shape[1], n_codes, bits)
    index.pq.cp.min_points_per_centroid = 1  # only warns
    index.train(X[:20_000])
    rng, deviation = np.random.default_rng(0), X.std() / 10
    for _ in range(COPIES):
        index.add(X + deviation * rng.standard_normal(X.shape, dtype=np.float32))
    return index


def packed_codes(index, bits):
    """Return faiss's codes as skvq packs them, which puts the high bits first."""
    codes = faiss.vector_to_array(index.codes).reshape(index.ntotal, -1)
    return codes if bits == 8 else codes << 4 | codes >> 4


def tables_for(query, codebooks):
    """Return the distances of a query's slices to all codewords."""
    gaps = query.reshape(len(codebooks), 1, -1) - codebooks
    return np.einsum("mvd,mvd->mv", gaps, gaps).reshape(1, -1)


def race_scan(arguments):
    race = Race(f"scan, {K} nearest of a query: codes x bits", arguments, unit="us")
    X = _common.samples(128, quick=arguments.quick)
    queries = X[:: len(X) // N_QUERIES][:N_QUERIES] + np.float32(0.01)
    for n_codes, bits, target in SCANS:
        index = filled(X, n_codes, bits)
        codebooks = faiss.vector_to_array(index.pq.centroids)
        codebooks = codebooks.reshape(n_codes, 1 << bits, -1)
        codes = nearest.Packed(packed_codes(index, bits), (1 << bits,) * n_codes)
        peer = faiss.IndexPQFastScan(index) if bits == 4 else index

        def ours(codebooks=codebooks, codes=codes):
            return [
                nearest.scan(codes, None, tables_for(query, codebooks), k=K)[0]
                for query in queries
            ]

        def theirs(peer=peer):
            return [peer.search(query[None], K)[1] for query in queries]

        distances = []
        for found in (ours(), theirs()):
            rows = index.reconstruct_batch(np.ravel(found)).reshape(-1, K, 128)
            gaps = queries[:, None].astype(float) - rows
            distances.append(np.sort(np.square(gaps).sum(axis=2), axis=1))
        if (distances[0] > (1 + 1e-5) * distances[1]).any():
            raise RuntimeError("Some rows are not the nearest.")
        calls = {"skvq": ours, "faiss": theirs}
        race.row((n_codes, bits), len(queries), calls, {"faiss": target})
    return race.results


GROUPS = {
    "flat": race_flat,
    "product": race_product,
    "lloyd": race_lloyd,
    "beams": race_beams,
    "additive": race_additive,
    "scan": race_scan,
}


def main():
    run(
        "The compiled engine", GROUPS, options(__doc__, GROUPS, repeats=21).parse_args()
    )


if __name__ == "__main__":
    main()
