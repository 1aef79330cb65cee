"""Compare the test distortion of product codes with faiss's.

Claim: `ProductQuantizer(8)` with its defaults, eight codes of 8 bits, reaches a test
distortion, averaged over five seeds, of at most 1.005 times that of faiss's
ProductQuantizer, and of the reference figures where the data are those of SKVQ_DATA.

Distortion: the squared error summed over features and averaged over the test rows, in
float64, from the reconstructions that each library gives for its own codes.
"""

import _common  # isort: split

import warnings

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from skvq import ProductQuantizer

faiss = _common.peer("faiss")

LIMIT = 1.005

# Test distortion of faiss-cpu 1.15.1 on these sets, 8 codes of 8 bits.
REFERENCE = {"sift5k": 27085, "dsift": 32474, "patches": 5598}


def distortion(X, decoded):
    return np.square(X.astype(np.float64) - decoded).sum(axis=1).mean()


def with_skvq(data, seed):
    pq = ProductQuantizer(8, random_state=seed).fit(data.train)
    return distortion(data.test, pq.quantize(data.test)), pq


def with_faiss(data, seed):
    pq = faiss.ProductQuantizer(data.train.shape[1], 8, 8)
    pq.cp.seed = seed
    # faiss keeps 256 samples per codeword and drops the rest unless told otherwise.
    pq.cp.max_points_per_centroid = 10**9
    pq.cp.min_points_per_centroid = 1  # only warns
    pq.train(data.train)
    return distortion(data.test, pq.decode(pq.compute_codes(data.test)))


def codes_as_faiss(data, ours):
    """Share of test codes that faiss gives too, from the same codebooks."""
    pq = faiss.ProductQuantizer(data.test.shape[1], 8, 8)
    tables = np.ascontiguousarray(ours.codebooks_, dtype=np.float32)
    faiss.copy_array_to_vector(tables.ravel(), pq.centroids)
    return _common.equal_share(ours.transform(data.test), pq.compute_codes(data.test))


def main():
    arguments = _common.settle(
        _common.parser(__doc__.splitlines()[0], repeats=5).parse_args()
    )
    _common.print_header("Quality of product codes", arguments)
    warnings.filterwarnings("ignore", category=ConvergenceWarning)
    n_seeds = arguments.repeats
    table = _common.Table(
        f"test distortion of 8 codes of 8 bits: mean (standard deviation) over "
        f"{n_seeds} seeds",
        [
            *("data", "train / test rows", "d", "skvq", "faiss", "skvq / faiss"),
            *("reference", "skvq / reference", "target"),
            *("codes equal faiss's, same codebooks", "verdict"),
        ],
    )
    for data in _common.data_sets(tuple(REFERENCE), quick=arguments.quick):
        runs = [with_skvq(data, seed) for seed in range(n_seeds)]
        ours = np.array([value for value, _ in runs])
        theirs = np.array([with_faiss(data, seed) for seed in range(n_seeds)])
        ratios = [ours.mean() / theirs.mean()]
        reference = None if arguments.quick else REFERENCE.get(data.name)
        if reference is not None:
            ratios.append(ours.mean() / reference)
        table.row(
            *(data.name, f"{len(data.train):,} / {len(data.test):,}"),
            data.train.shape[1],
            *(f"{values.mean():.1f} ({values.std():.1f})" for values in (ours, theirs)),
            f"{ratios[0]:.4f}",
            "-" if reference is None else reference,
            f"{ratios[1]:.4f}" if len(ratios) > 1 else "-",
            f"<= {LIMIT}",
            codes_as_faiss(data, runs[0][1]),
            _common.verdict(*(ratio <= LIMIT for ratio in ratios)),
        )


if __name__ == "__main__":
    main()
