"""Time the argmin engine against faiss and scikit-learn.

Claim: on 100,000 float32 rows, `skvq.nearest.nearest`, which returns codes and
distances, is at least as fast as faiss's IndexFlatL2 on large codebooks, at least 0.8
times as fast on small ones, and at least four times as fast as scikit-learn's
`pairwise_distances_argmin` on all of them.

The preparation of the codebook counts on both sides: `nearest` gets the bare table, and
the index of faiss is built within the timed call.
"""

import _common  # isort: split

import numpy as np
from sklearn.metrics import pairwise_distances_argmin

from skvq.nearest import nearest

faiss = _common.peer("faiss")

# features, codewords, times faster than faiss, times faster than scikit-learn
CASES = [
    (128, 4096, 1.0, 4.0),
    (128, 1024, 1.0, 4.0),
    (64, 256, 1.0, 4.0),
    (16, 256, 0.8, 4.0),
    (8, 256, 0.8, 4.0),
]


def search_faiss(X, codebook):
    index = faiss.IndexFlatL2(X.shape[1])
    index.add(codebook)
    distances, codes = index.search(X, 1)
    return codes[:, 0], distances[:, 0]


def main():
    arguments = _common.parse_timed(__doc__.splitlines()[0], repeats=7)
    _common.print_header("Nearest codewords", arguments)
    table = _common.Table(
        "codes and distances, float32",
        [
            *("rows", "d", "V", "skvq ms", "faiss ms", "scikit-learn ms"),
            *("x faiss", "single rounds", "others' load", "target"),
            *("x scikit-learn", "target", "equal codes", "verdict"),
        ],
    )
    for n_features, n_codewords, target_faiss, target_sklearn in CASES:
        X = _common.samples(n_features, quick=arguments.quick)
        distinct = np.unique(X, axis=0)
        rng = np.random.default_rng(0)
        codebook = rng.permutation(distinct)[: min(n_codewords, len(distinct))]
        times, load = _common.interleave(
            {
                "skvq": lambda X=X, W=codebook: nearest(X, W),
                "faiss": lambda X=X, W=codebook: search_faiss(X, W),
                "sklearn": lambda X=X, W=codebook: pairwise_distances_argmin(X, W),
            },
            arguments,
            warm=True,
        )
        ours, theirs, third = times["skvq"], times["faiss"], times["sklearn"]
        over_faiss = _common.times_faster(ours, theirs)
        over_sklearn = _common.times_faster(ours, third)
        table.row(
            *(f"{len(X):,}", n_features, len(codebook)),
            *(_common.milliseconds(timing) for timing in (ours, theirs, third)),
            *(
                f"{over_faiss:.2f}",
                _common.spread(ours, theirs),
                f"{load:.2f}",
                f">= {target_faiss}",
            ),
            *(f"{over_sklearn:.2f}", f">= {target_sklearn}"),
            _common.equal_share(ours.result[0], theirs.result[0]),
            _common.verdict(over_faiss >= target_faiss, over_sklearn >= target_sklearn),
        )


if __name__ == "__main__":
    main()
