"""Time product codes against faiss and nanopq, with the same codebooks.

Claim: 100,000 float32 rows of 128 features take `ProductQuantizer.transform` no longer
than faiss's `compute_codes` at 8 or 16 codes of 8 bits, at most 1.25 times as long at
32 or 64, and a fifth of nanopq's time or less at all of them.
"""

import _common  # isort: split

import numpy as np

from skvq import ProductQuantizer, VectorQuantizer

faiss = _common.peer("faiss")
nanopq = _common.peer("nanopq")

# subspaces, times faster than faiss, times faster than nanopq
CASES = [(8, 1.0, 5.0), (16, 1.0, 5.0), (32, 0.8, 5.0), (64, 0.8, 5.0)]
N_FEATURES = 128
TRAINING_ROWS = 10_000


def fit(X, n_subspaces):
    # What the tables hold hardly matters here: a few updates do.
    part = VectorQuantizer(256, max_iter=3)
    pq = ProductQuantizer(n_subspaces, quantizer=part, random_state=0)
    return pq.fit(X[:TRAINING_ROWS])


def faiss_twin(codebooks):
    pq = faiss.ProductQuantizer(N_FEATURES, len(codebooks), 8)
    faiss.copy_array_to_vector(codebooks.ravel(), pq.centroids)
    return pq


def nanopq_twin(codebooks):
    pq = nanopq.PQ(M=len(codebooks), Ks=256, verbose=False)
    pq.codewords, pq.Ds = codebooks, codebooks.shape[2]
    return pq


def main():
    arguments = _common.parse_timed(__doc__.splitlines()[0], repeats=7)
    _common.print_header("Product codes", arguments)
    table = _common.Table(
        f"codes of 8 bits, {N_FEATURES} features, float32",
        [
            *("rows", "M", "skvq ms", "faiss ms", "nanopq ms"),
            *(
                "x faiss",
                "single rounds",
                "others' load",
                "target",
                "x nanopq",
                "target",
            ),
            *("codes equal faiss's", "codes equal nanopq's", "verdict"),
        ],
    )
    X = _common.samples(N_FEATURES, quick=arguments.quick)
    for n_subspaces, target_faiss, target_nanopq in CASES:
        ours = fit(X, n_subspaces)
        codebooks = np.ascontiguousarray(ours.codebooks_, dtype=np.float32)
        theirs, third = faiss_twin(codebooks), nanopq_twin(codebooks)
        times, load = _common.interleave(
            {
                "skvq": lambda pq=ours: pq.transform(X),
                "faiss": lambda pq=theirs: pq.compute_codes(X),
                "nanopq": lambda pq=third: pq.encode(X),
            },
            arguments,
            warm=True,
        )
        over_faiss = _common.times_faster(times["skvq"], times["faiss"])
        over_nanopq = _common.times_faster(times["skvq"], times["nanopq"])
        codes = times["skvq"].result
        table.row(
            *(f"{len(X):,}", n_subspaces),
            *(_common.milliseconds(times[name]) for name in times),
            f"{over_faiss:.2f}",
            *(_common.spread(times["skvq"], times["faiss"]), f"{load:.2f}"),
            *(f">= {target_faiss}", f"{over_nanopq:.2f}", f">= {target_nanopq}"),
            _common.equal_share(codes, times["faiss"].result),
            _common.equal_share(codes, times["nanopq"].result),
            _common.verdict(over_faiss >= target_faiss, over_nanopq >= target_nanopq),
        )


if __name__ == "__main__":
    main()
