"""Measure what it costs to give every row a code of its own.

Claims, for residual codes of 3 x 256 and 100,000 rows: no two rows share an id; of
descriptors no digit is needed with 64 candidates or fewer of each row, and the mean
excess over the first choice is at most 200; the ids that are given away are the same in
any order of the rows; search and choice together take less than 60 s.

Excess is the squared error of the codes of the id less that of the first candidate.
Times are of the CPU, of all threads, since that is what others leave as it is.
"""

import _common  # isort: split

import time

import numpy as np

from skvq import ResidualQuantizer
from skvq.codes import UniqueIds
from skvq.metrics import collision_rate, duplicate_rate

N_STAGES, N_CODEWORDS = 3, 256
WIDTH = 64
MEAN_EXCESS, SECONDS = 200.0, 60.0
N_PERMUTATIONS = 5


def assigned(rq, X, width):
    """Return ids of rows that ask for so many candidates first, and the CPU time."""
    start = time.process_time()
    ids = UniqueIds(rq.codebook_sizes_, overflow="digit", max_width=WIDTH)
    ids.assign(
        *rq.encode_best(X, width), widen=lambda rows, n: rq.encode_best(X[rows], n)
    )
    return ids, time.process_time() - start


def same_set(rq, X, width, ids):
    """Count the orders of the rows that give away the same ids."""
    expected = np.unique(ids.ids_, axis=0)
    same = 0
    for seed in range(N_PERMUTATIONS):
        order = np.random.default_rng(seed).permutation(len(X))
        other, _ = assigned(rq, X[order], width)
        same += np.array_equal(np.unique(other.ids_, axis=0), expected)
    return same


def main():
    arguments = _common.parser(__doc__.split("\n")[0], repeats=1).parse_args()
    _common.print_header("Unique ids", arguments)
    n_codewords = 16 if arguments.quick else N_CODEWORDS
    table = _common.Table(
        f"{N_STAGES} x {n_codewords} residual codes, at most {WIDTH} candidates",
        [
            *("data", "duplicates, plain codes", "first asked"),
            *("collisions", "widest", "digits", "with a digit", "moved"),
            *("mean error of first", "mean excess", "99%", "median of moved"),
            *(f"same ids in orders, of {N_PERMUTATIONS}", "CPU s", "verdict"),
        ],
    )
    for data in _common.data_sets(("dsift100k", "patches100k"), quick=arguments.quick):
        X = data.train
        rq = ResidualQuantizer(N_STAGES, n_codewords, random_state=0).fit(X)
        plain = duplicate_rate(rq.transform(X))
        for width in (16, WIDTH):
            ids, seconds = assigned(rq, X, width)
            moved, excess = ids.moved_, ids.excess_
            error = rq.encode_best(X, width)[1][:, 0].mean()
            same = same_set(rq, X, width, ids)
            collisions = collision_rate(ids.ids_)
            met = [collisions == 0, seconds <= SECONDS]
            met += [same == N_PERMUTATIONS]
            if data.name == "dsift100k":
                met += [ids.n_digits_ == 1, excess.mean() <= MEAN_EXCESS]
            table.row(
                *(data.name, f"{plain:.4f}", width, collisions),
                *(ids.width_, ids.n_digits_, int((ids.ids_[:, -1] > 0).sum())),
                *(f"{moved.mean():.4f}", f"{error:.1f}", f"{excess.mean():.1f}"),
                f"{np.quantile(excess, 0.99):.1f}",
                f"{np.median(excess[moved]) if moved.any() else 0.0:.1f}",
                *(same, f"{seconds:.1f}"),
                _common.verdict(*met),
            )


if __name__ == "__main__":
    main()
