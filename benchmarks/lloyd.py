"""Time training against faiss and scikit-learn: one table, and all tables of a product.

Claims: 20 Lloyd iterations from the same start on 100,000 x 32 float32 reach the
objective of scikit-learn's KMeans and of faiss's Kmeans within 0.1%, at least 1.5 times
as fast as the former and no slower than the latter; and `ProductQuantizer(8).fit` takes
no longer than the training of faiss's ProductQuantizer.

faiss keeps 256 samples per codeword and drops the rest unless told otherwise: it is
told otherwise.
"""

import _common  # isort: split

import warnings

import numpy as np
from scipy.spatial.distance import cdist
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning

from skvq import ProductQuantizer, VectorQuantizer

faiss = _common.peer("faiss")

N_FEATURES = 32
N_ITER = 20
ALL_SAMPLES = 10**9


def objective(X, codebook):
    """Mean squared distance to the nearest codeword, by brute force in float64."""
    codebook = codebook.astype(np.float64)
    total = 0.0
    for start in range(0, len(X), 4096):
        rows = X[start : start + 4096].astype(np.float64)
        total += cdist(rows, codebook, "sqeuclidean").min(axis=1).sum()
    return total / len(X)


def fit_skvq(X, start):
    vq = VectorQuantizer(len(start), init=start, max_iter=N_ITER, tol=0)
    return vq.fit(X).codebooks_[0]


def fit_sklearn(X, start):
    kmeans = KMeans(
        len(start), init=start, n_init=1, max_iter=N_ITER, tol=0, algorithm="lloyd"
    )
    return kmeans.fit(X).cluster_centers_


def fit_faiss(X, start):
    kmeans = faiss.Kmeans(
        X.shape[1],
        len(start),
        niter=N_ITER,
        min_points_per_centroid=1,  # only warns
        max_points_per_centroid=ALL_SAMPLES,
    )
    kmeans.train(X, init_centroids=start)
    return kmeans.centroids


def compare_lloyd(arguments):
    table = _common.Table(
        f"{N_ITER} Lloyd iterations from the same start, {N_FEATURES} features, "
        "float32",
        [
            *("rows", "V", "skvq ms", "faiss ms", "scikit-learn ms"),
            *(
                "x faiss",
                "single rounds",
                "others' load",
                "target",
                "x scikit-learn",
                "target",
            ),
            *("objective / faiss's", "objective / scikit-learn's", "target"),
            "verdict",
        ],
    )
    X = _common.samples(N_FEATURES, quick=arguments.quick)
    for n_codewords in (256, 1024):
        rng = np.random.default_rng(0)
        start = rng.permutation(np.unique(X, axis=0))[:n_codewords]
        times, load = _common.interleave(
            {
                "skvq": lambda start=start: fit_skvq(X, start),
                "faiss": lambda start=start: fit_faiss(X, start),
                "sklearn": lambda start=start: fit_sklearn(X, start),
            },
            arguments,
        )
        over_faiss = _common.times_faster(times["skvq"], times["faiss"])
        over_sklearn = _common.times_faster(times["skvq"], times["sklearn"])
        reached = {name: objective(X, times[name].result) for name in times}
        to_faiss = reached["skvq"] / reached["faiss"]
        to_sklearn = reached["skvq"] / reached["sklearn"]
        table.row(
            *(f"{len(X):,}", n_codewords),
            *(_common.milliseconds(times[name]) for name in times),
            f"{over_faiss:.2f}",
            *(_common.spread(times["skvq"], times["faiss"]), f"{load:.2f}"),
            *(">= 1.0", f"{over_sklearn:.2f}", ">= 1.5"),
            *(f"{to_faiss:.5f}", f"{to_sklearn:.5f}", "1 ± 0.001"),
            _common.verdict(
                over_faiss >= 1.0,
                over_sklearn >= 1.5,
                abs(to_faiss - 1) <= 1e-3,
                abs(to_sklearn - 1) <= 1e-3,
            ),
        )


def fit_product(X, **part):
    quantizer = VectorQuantizer(**part) if part else None
    return ProductQuantizer(8, quantizer=quantizer, random_state=0).fit(X)


def train_faiss_product(X):
    pq = faiss.ProductQuantizer(X.shape[1], 8, 8)
    pq.cp.min_points_per_centroid = 1  # only warns
    pq.cp.max_points_per_centroid = ALL_SAMPLES
    pq.train(X)
    return pq


def faiss_tables(pq):
    return faiss.vector_to_array(pq.centroids).reshape(pq.M, pq.ksub, pq.dsub)


def product_objective(X, tables):
    slices = np.split(X, len(tables), axis=1)
    return sum(objective(x, table) for x, table in zip(slices, tables, strict=True))


def compare_product(arguments):
    table = _common.Table(
        "training of ProductQuantizer(8), 8 bits, start included",
        [
            *("data", "rows", "d", "skvq", "skvq ms", "faiss ms"),
            *("x faiss", "single rounds", "others' load", "target"),
            *("training distortion / faiss's", "verdict"),
        ],
    )
    names = ("sift5k", "dsift", "patches", "dsift100k", "patches100k")
    for data in _common.data_sets(names, quick=arguments.quick):
        X = data.train
        times, load = _common.interleave(
            {
                "defaults": lambda X=X: fit_product(X),
                "25 iterations, as faiss": lambda X=X: fit_product(X, tol=0),
                "faiss": lambda X=X: train_faiss_product(X),
            },
            arguments,
        )
        theirs = times.pop("faiss")
        their_objective = product_objective(X, faiss_tables(theirs.result))
        for name, ours in times.items():
            over_faiss = _common.times_faster(ours, theirs)
            reached = product_objective(X, ours.result.codebooks_)
            table.row(
                *(data.name, f"{len(X):,}", X.shape[1], name),
                *(_common.milliseconds(ours), _common.milliseconds(theirs)),
                *(
                    f"{over_faiss:.2f}",
                    _common.spread(ours, theirs),
                    f"{load:.2f}",
                    ">= 1.0",
                ),
                f"{reached / their_objective:.5f}",
                _common.verdict(over_faiss >= 1.0),
            )


def main():
    arguments = _common.parse_timed(__doc__.splitlines()[0], repeats=5)
    _common.print_header("Training", arguments)
    # Small sets and few iterations: neither is news here.
    warnings.filterwarnings("ignore", category=ConvergenceWarning)
    compare_lloyd(arguments)
    compare_product(arguments)


if __name__ == "__main__":
    main()
