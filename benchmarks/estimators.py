"""Time estimators beside faiss, scikit-learn and nanopq, and compare the engines.

Targets: `transform` and `fit` of 100,000 rows keep at least 80% of the speed of the
engine's public searches and of Lloyd's iterations, which `native.py` times; training
is 1.3 times as fast as faiss's with AVX-512, in the same iterations and to a distortion
at most 1.005 times as high; one row takes at most 120 microseconds, and at most 1.5
times as long as nanopq's.  Where the codes of NumPy's engine and of the compiled one
differ, so do the exact distances, by less than 2^-18 of them.

One thread, if not told otherwise.  "numpy" are the times with `backend="numpy"`;
"kernel" is what a search on a prepared table takes, or learning from a given start.
"""

import _common  # isort: split

import argparse
import hashlib
import sys
from functools import partial

import numpy as np
from _race import (
    MOST_DISTORTION,
    NEAR,
    Race,
    Target,
    check_no_worse,
    codebook_of,
    exact_distances,
    options,
    run,
)
from native import faiss_kmeans
from sklearn.cluster import KMeans
from sklearn.metrics import pairwise_distances_argmin

from skvq import (
    AdditiveQuantizer,
    ProductQuantizer,
    ResidualQuantizer,
    VectorQuantizer,
    nearest,
)

faiss = _common.peer("faiss")
nanopq = _common.peer("nanopq")

SIDES = ("skvq", "numpy", "kernel", "faiss", "others")
# features, codewords of one table; slices of 128 features; features, beam of a residual
VECTOR = [(32, 256), (128, 1024)]
PRODUCT = [8, 16]
RESIDUAL = [(64, 1), (64, 5)]
FITTED = Target(0.0, 1.3)
QUICK = "--quick" in sys.argv
# Of k-means in faiss, and of its local search.
N_ITER = 2 if QUICK else 25
# Tables of sums, of which few rows learn in a quick run.
N_TABLES, N_SUMMED, N_BITS = (8, 16, 4) if QUICK else (8, 256, 8)
SETS = ("sift5k", "dsift", "patches", "dsift100k", "patches100k")
MOST_ROW_SECONDS = 120e-6
ROW = Target(0.667, 0.667, 0.667)


def engines(estimator, method, X):
    """Return calls of a method by the compiled engine, and by NumPy's."""
    return {
        "skvq": lambda: getattr(estimator.set_params(backend="native"), method)(X),
        "numpy": lambda: getattr(estimator.set_params(backend="numpy"), method)(X),
    }


# -- transform -------------------------------------------------------------------------


def fitted_vector(codebook):
    return VectorQuantizer(len(codebook), init=codebook, learning="fixed").fit(codebook)


def fitted_product(X, n_subspaces):
    # What the tables hold hardly matters here: a few updates do.
    part = VectorQuantizer(256, max_iter=3)
    return ProductQuantizer(n_subspaces, quantizer=part, random_state=0).fit(X[:10_000])


def faiss_product(codebooks):
    n_tables, _, width = codebooks.shape
    peer = faiss.ProductQuantizer(n_tables * width, n_tables, 8)
    faiss.copy_array_to_vector(codebooks.ravel(), peer.centroids)
    return peer


def nanopq_product(codebooks):
    peer = nanopq.PQ(M=len(codebooks), Ks=codebooks.shape[1], verbose=False)
    peer.codewords, peer.Ds = codebooks, codebooks.shape[2]
    return peer


def race_transform(arguments):
    race = Race(
        "transform: features x codewords; 128 features x slices x 256; features x "
        "stages of 256 x beam (others: scikit-learn, nanopq)",
        arguments,
        sides=SIDES,
        peers=("faiss", "others"),
    )
    for n_features, n_codewords in VECTOR:
        X = _common.samples(n_features, quick=arguments.quick)
        table = nearest.Table(codebook_of(X, n_codewords))
        index = faiss.IndexFlatL2(n_features)
        index.add(table.codewords)
        flat = partial(nearest.nearest, X, table, return_distances=False)
        calls = engines(fitted_vector(table.codewords), "transform", X) | {
            "kernel": flat,
            "faiss": lambda X=X, index=index: index.search(X, 1)[1],
            "others": partial(pairwise_distances_argmin, X, table.codewords),
        }
        check_no_worse(X, [table], calls["skvq"](), calls["faiss"]())
        race.row(("vector", n_features, len(table)), len(X), calls, {})
    X = _common.samples(128, quick=arguments.quick)
    for n_tables in PRODUCT:
        pq = fitted_product(X, n_tables)
        codebooks = np.ascontiguousarray(pq.codebooks_, dtype=np.float32)
        tables = nearest.Tables(list(codebooks))
        calls = engines(pq, "transform", X) | {
            "kernel": partial(nearest.nearest_product, X, tables, dtype=np.uint8),
            "faiss": partial(faiss_product(codebooks).compute_codes, X),
            "others": partial(nanopq_product(codebooks).encode, X),
        }
        check_no_worse(X, tables, calls["skvq"](), calls["faiss"]())
        race.row(("product", 128, n_tables, 256), len(X), calls, {})
    for n_features, beam_size in RESIDUAL:
        X = _common.samples(n_features, quick=arguments.quick)
        rq = ResidualQuantizer(N_TABLES, N_SUMMED, fit_beam_size=5, random_state=0)
        rq.fit(X[:4_000]).set_params(beam_size=beam_size)
        peer = faiss.ResidualQuantizer(n_features, N_TABLES, N_BITS)
        stacked = np.concatenate(rq.codebooks_).astype(np.float32)
        faiss.copy_array_to_vector(stacked.ravel(), peer.codebooks)
        peer.is_trained, peer.max_beam_size = True, beam_size
        peer.compute_codebook_tables()
        peer.use_beam_LUT = int(beam_size > 1)  # its faster way
        tables = nearest.Tables(list(rq.codebooks_))
        calls = engines(rq, "transform", X) | {
            "kernel": partial(
                nearest.nearest_best,
                X,
                tables,
                beam_size,
                return_distances=False,
                dtype=np.uint8,
            ),
            "faiss": partial(peer.compute_codes, X),
        }
        found = judge_sums(X)({"skvq": rq, "faiss": peer})
        if not found <= MOST_DISTORTION:
            raise RuntimeError(f"The error is {found} times that of faiss.")
        case = "residual", n_features, N_TABLES, N_SUMMED, beam_size
        race.row(case, len(X), calls, {}, warm=False)
    return race.results


# -- fit -------------------------------------------------------------------------------


def part(n_codewords=256, init="k-means++"):
    """Return what learns a table in as many iterations as faiss."""
    return VectorQuantizer(
        n_codewords, init=init, max_iter=N_ITER, tol=0, random_state=0
    )


def of_all_samples(clustering, n_iter=N_ITER):
    """Tell faiss's clustering how long to learn, and to drop no samples."""
    clustering.niter, clustering.min_points_per_centroid = n_iter, 1
    clustering.max_points_per_centroid = 10**9


def at_most(n_rounds, arguments):
    """Return the arguments, with fewer rounds for what takes long."""
    return argparse.Namespace(
        **{**vars(arguments), "repeats": min(n_rounds, arguments.repeats)}
    )


def race_fit(arguments):
    race = Race(
        f"fit, {N_ITER} iterations: rows x features x codewords of one table, or x "
        "tables x codewords (others: scikit-learn)",
        at_most(5, arguments),
        sides=SIDES,
        peers=("faiss", "others"),
        unit="us",
        distortion=True,
    )
    fit_vector(race, _common.samples(32, quick=arguments.quick))
    X = _common.samples(128, quick=arguments.quick)
    for rows in (X[: len(X) // 5], X):
        fit_product(race, rows)
    X = _common.samples(64, quick=arguments.quick)
    race.arguments = at_most(3, arguments)
    fit_residual(race, X)
    fit_additive(race, X[: len(X) // 10])
    return race.results


def fit_vector(race, X):
    start = codebook_of(X, 256)
    calls = engines(part(), "fit", X) | {
        "kernel": lambda: part(init=start).fit(X),
        "faiss": lambda: faiss_kmeans(X, 256, N_ITER),
        "others": lambda: KMeans(
            256, n_init=1, max_iter=N_ITER, tol=0, random_state=0
        ).fit(X),
    }

    def judge(found):
        tables = found["skvq"].codebooks_[0], found["faiss"]
        ours, theirs = (nearest.nearest(X, table)[1].sum() for table in tables)
        return ours / theirs

    case = "vector", *X.shape, 256
    race.row(case, len(X), calls, {"faiss": FITTED}, judge=judge, warm=False)


def fit_product(race, X):
    slices = np.split(X, N_TABLES, axis=1)
    starts = [codebook_of(x, 256) for x in slices]

    def theirs():
        peer = faiss.ProductQuantizer(X.shape[1], N_TABLES, 8)
        of_all_samples(peer.cp)
        peer.train(X)
        return faiss.vector_to_array(peer.centroids).reshape(N_TABLES, 256, -1)

    pq = ProductQuantizer(N_TABLES, quantizer=part(), random_state=0)
    calls = engines(pq, "fit", X) | {
        "kernel": lambda: [
            part(init=start).fit(x) for x, start in zip(slices, starts, strict=True)
        ],
        "faiss": theirs,
    }

    def judge(found):
        ours, theirs = (
            sum(
                nearest.nearest(x, table)[1].sum()
                for x, table in zip(slices, tables, strict=True)
            )
            for tables in (found["skvq"].codebooks_, found["faiss"])
        )
        return ours / theirs

    case = "product", *X.shape, N_TABLES, 256
    race.row(case, len(X), calls, {"faiss": FITTED}, judge=judge, warm=False)


def fit_residual(race, X):
    def theirs():
        peer = faiss.ResidualQuantizer(X.shape[1], N_TABLES, N_BITS)
        peer.train_type = peer.Train_default
        of_all_samples(peer.cp)
        peer.train(X)
        return peer

    # Its stages learn from five sums of a sample, as faiss's do; two rounds of least
    # squares take the error to that of faiss's stages, and below.
    rq = ResidualQuantizer(
        N_TABLES,
        quantizer=part(N_SUMMED),
        fit_beam_size=5,
        beam_size=5,
        n_refine=2,
        random_state=0,
    )
    calls = {"skvq": engines(rq, "fit", X)["skvq"], "faiss": theirs}
    case = "residual", *X.shape, N_TABLES, N_SUMMED
    race.row(case, len(X), calls, {"faiss": FITTED}, judge=judge_sums(X), warm=False)


def fit_additive(race, X):
    def theirs():
        peer = faiss.LocalSearchQuantizer(X.shape[1], N_TABLES, N_BITS)
        peer.train_iters = N_ITER
        peer.train(X)
        return peer

    aq = AdditiveQuantizer(N_TABLES, N_SUMMED, max_iter=N_ITER, tol=0, random_state=0)
    calls = {"skvq": engines(aq, "fit", X)["skvq"], "faiss": theirs}
    case = "additive", *X.shape, N_TABLES, N_SUMMED
    race.row(case, len(X), calls, {"faiss": FITTED}, judge=judge_sums(X), warm=False)


def judge_sums(X):
    """Return what compares the errors of sums, each library's by its own codes."""

    def judge(found):
        ours, theirs = found["skvq"], found["faiss"]
        their_sums = theirs.decode(theirs.compute_codes(X))
        return -ours.score(X) * len(X) / np.square(X - their_sums.astype(float)).sum()

    return judge


# -- one row ---------------------------------------------------------------------------


def race_row(arguments):
    race = Race(
        "one row, 128 features: tables x codewords",
        arguments,
        sides=("skvq", "nanopq"),
        peers=("nanopq",),
        unit="us",
    )
    X = _common.samples(128, quick=arguments.quick)
    pq = fitted_product(X, N_TABLES)
    codebooks = np.ascontiguousarray(pq.codebooks_, dtype=np.float32)
    flat = codebook_of(X, 256)
    table, tables = nearest.Table(flat), nearest.Tables(list(codebooks))
    product = nanopq_product(codebooks)
    one_table = nanopq_product(np.ascontiguousarray(flat[None]))

    def ours_in_one(x):
        return nearest.nearest(x, table, return_distances=False)[0][:, None]

    cases = [
        ("transform", 8, pq.transform, product),
        ("nearest", 1, ours_in_one, one_table),
        ("nearest_product", 8, lambda x: nearest.nearest_product(x, tables), product),
    ]
    rows = [X[i : i + 1] for i in range(20 if arguments.quick else 1000)]
    for name, n_tables, ours, peer in cases:
        calls = {
            "skvq": lambda ours=ours: [ours(x) for x in rows],
            "nanopq": lambda peer=peer: [peer.encode(x) for x in rows],
        }
        searched = [table] if n_tables == 1 else tables
        found = [np.concatenate(call()) for call in calls.values()]
        check_no_worse(np.concatenate(rows), searched, *found)
        case = name, n_tables, 256
        race.row(case, len(rows), calls, {"nanopq": ROW}, most=MOST_ROW_SECONDS)
    return race.results


# -- the same codes --------------------------------------------------------------------


def compare_codes(arguments):
    """Print where two engines differ; all processors are to have the same digests."""
    table = _common.Table(
        'rows whose codes differ between backend="numpy" and "native"',
        ["data", "tables", "rows", "differ", "widest gap", "allowed", "digest"],
    )
    for data in _common.data_sets(SETS, quick=arguments.quick):
        X = data.train
        flat = [codebook_of(X, 256)]
        slices = list(fitted_product(X, N_TABLES).codebooks_)
        for codebooks in (flat, slices):
            found = []
            for backend in ("numpy", "native"):
                with nearest.using(backend):
                    found.append(nearest.nearest_product(X, codebooks))
            differ = (found[0] != found[1]).any(axis=1)
            rows = X[differ]
            pairs = zip(
                *(exact_distances(rows, codebooks, codes[differ]) for codes in found),
                strict=True,
            )
            widest = max(
                (np.max(np.abs(a - b) / np.maximum(a, 1e-300), initial=0.0))
                for a, b in pairs
            )
            if widest > NEAR:
                raise RuntimeError(f"Distances differ by {widest:.2g} of them.")
            digest = hashlib.sha256(found[1].astype("<i4").tobytes()).hexdigest()
            table.row(
                *(data.name, f"{len(codebooks)} x {len(codebooks[0])}"),
                *(f"{len(X):,}", f"{differ.sum()}"),
                *(f"{widest:.1e}", f"{NEAR:.1e}", digest[:12]),
            )
    return []


GROUPS = {
    "transform": race_transform,
    "fit": race_fit,
    "row": race_row,
    "codes": compare_codes,
}


def main():
    run("Estimators", GROUPS, options(__doc__, GROUPS, repeats=11).parse_args())


if __name__ == "__main__":
    main()
