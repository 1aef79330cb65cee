"""Compare searches over codes with faiss's: what is found, and how fast.

Claims.  `QuantizedNeighbors` finds the neighbours of faiss's IndexPQ on the same
tables, but where distances are equal; on 1,000,000 codes it takes no more time, query
by query and for many queries at once.  At 64 bits, the recall of product, residual and
additive codes is at least that of faiss's own, less .01.

Recall@k is the share of the queries whose nearest row is among the first k found.
"""

import _common  # isort: split

import time
from typing import NamedTuple

import native
import numpy as np
from _race import Race, Target, options, run

from skvq import (
    AdditiveQuantizer,
    ProductQuantizer,
    QuantizedNeighbors,
    ResidualQuantizer,
    VectorQuantizer,
)
from skvq.metrics import recall_at_k

faiss = _common.peer("faiss")

N_CODES, N_LEARNED = 8, 20_000
DEPTHS = (1, 10, 100)
MOST_LOST = 0.01
# Codes of 8 bits; how many times as fast as faiss, at least.
SCANS = [(8, Target(1.0, 1.0, 1.0)), (16, Target(1.0, 1.0, 1.0))]
N_NEIGHBORS = 10
# Distances that differ by a smaller share are the same to one of the two.
SAME = 1e-5


def small(arguments):
    return {"n_codewords": 16 if arguments.quick else 256, "random_state": 0}


class Found(NamedTuple):
    """Recall at each depth, as `figures.json` holds it."""

    case: tuple
    ours: tuple
    theirs: tuple

    def kept(self):
        """Return what `figures.json` holds of it."""
        return {
            "void": False,
            "recall": {
                side: {
                    str(depth): round(float(value), 4)
                    for depth, value in zip(DEPTHS, values, strict=True)
                }
                for side, values in (("skvq", self.ours), ("faiss", self.theirs))
            },
        }


# -- recall ----------------------------------------------------------------------------


def ours(arguments):
    given = small(arguments)
    yield "product", ProductQuantizer(N_CODES, **given)
    yield "residual", ResidualQuantizer(N_CODES, fit_beam_size=5, beam_size=5, **given)
    yield "additive", AdditiveQuantizer(N_CODES, **given)


def theirs(arguments, d):
    bits = 4 if arguments.quick else 8
    yield "product", faiss.IndexPQ(d, N_CODES, bits)
    # The norms of reconstructions as they are, so that no digit of theirs is lost.
    stored = faiss.AdditiveQuantizer.ST_norm_float, faiss.METRIC_L2
    yield "residual", faiss.IndexResidualQuantizer(d, N_CODES, bits, *stored[::-1])
    yield "additive", faiss.IndexLocalSearchQuantizer(d, N_CODES, bits, *stored[::-1])


def recall(arguments):
    """Search in the training rows of dsift100k; learn from the first of them."""
    (data, *_) = _common.data_sets(["dsift100k"], quick=arguments.quick)
    rows, queries = data.train, data.test
    exact = faiss.IndexFlatL2(rows.shape[1])
    exact.add(rows)
    true, n_deep = exact.search(queries, 1)[1], max(DEPTHS)
    title = (
        f"recall on {data.name}: {len(queries):,} queries, {len(rows):,} rows, learned "
        f"from {min(N_LEARNED, len(rows)):,}, {N_CODES} codes"
    )
    columns = [f"{side} @{k}" for k in DEPTHS for side in ("skvq", "faiss")]
    table = _common.Table(
        title,
        [*("codes", *columns), *("skvq fit + encode s", "faiss s", "verdict")],
    )
    peers, results = dict(theirs(arguments, rows.shape[1])), []
    for name, quantizer in ours(arguments):
        start = time.perf_counter()
        quantizer.fit(rows[:N_LEARNED])
        search = QuantizedNeighbors(quantizer).fit_codes(quantizer.transform(rows))
        seconds = time.perf_counter() - start
        found = search.kneighbors(queries, n_deep, return_distance=False)
        index, start = peers[name], time.perf_counter()
        index.train(rows[:N_LEARNED])
        index.add(rows)
        their_seconds = time.perf_counter() - start
        both = found, index.search(queries, n_deep)[1]
        figures = [[recall_at_k(true, one, k=k) for one in both] for k in DEPTHS]
        table.row(
            name,
            *(f"{figure:.3f}" for pair in figures for figure in pair),
            *(f"{seconds:.0f}", f"{their_seconds:.0f}"),
            _common.verdict(*(a >= b - MOST_LOST for a, b in figures)),
        )
        results.append(Found((name,), *zip(*figures, strict=True)))
    return results


# -- speed -----------------------------------------------------------------------------


def on_the_same_tables(X, n_codes):
    """Return faiss's index of samples and noisy copies, and the search of its codes."""
    index = native.filled(X, n_codes, 8)
    part = VectorQuantizer(256, learning="fixed", init="random", random_state=0)
    pq = ProductQuantizer(n_codes, quantizer=part).fit(X[:5000])
    tables = np.stack(pq.codebooks_)
    learned = faiss.vector_to_array(index.pq.centroids).reshape(tables.shape)
    pq = pq._with_tables(list(learned))
    return index, pq


def check_the_same(index, queries, found, peer):
    """Return the share of equal neighbours; raise if others are not as near."""
    distances = [
        np.square(
            queries[:, None]
            - index.reconstruct_batch(np.ravel(one))
            .reshape(*one.shape, -1)
            .astype(float)
        ).sum(axis=2)
        for one in (found, peer)
    ]
    # Of tables that a matrix product has made, faiss's are rounded by a share of the
    # squares of the rows, and near neighbours may change places.
    own, theirs = (np.sort(one, axis=1) for one in distances)
    if not (own <= theirs * (1 + SAME)).all() or (np.diff(distances[0]) < -SAME).any():
        raise RuntimeError("Some neighbours are not as near as faiss's.")
    return np.mean(found == peer)


def speed(arguments):
    race = Race(
        f"{N_NEIGHBORS} nearest of 1,000,000 codes, time of a query: codes of 8 bits",
        arguments,
        unit="us",
    )
    X = _common.samples(128, quick=arguments.quick)
    queries = X[:: max(1, len(X) // 100)][:100] + np.float32(0.01)
    shares = []
    for n_codes, target in SCANS:
        index, pq = on_the_same_tables(X, n_codes)
        codes = faiss.vector_to_array(index.codes).reshape(index.ntotal, n_codes)
        search = QuantizedNeighbors(pq, N_NEIGHBORS).fit_codes(codes)
        for words, size in (("single", 1), ("together", len(queries))):
            few = queries[: 21 if size == 1 else size]
            parts = [few[i : i + size] for i in range(0, len(few), size)]

            def skvq(parts=parts, search=search):
                found = [search.kneighbors(part)[1] for part in parts]
                return np.concatenate(found)

            def peer(parts=parts, index=index):
                found = [index.search(part, N_NEIGHBORS)[1] for part in parts]
                return np.concatenate(found)

            shares.append(check_the_same(index, few, skvq(), peer()))
            calls = {"skvq": skvq, "faiss": peer}
            race.row((words, n_codes, 8), len(few), calls, {"faiss": target})
    print(f"\nNeighbours that are the same row: {100 * min(shares):.2f}% at least; the")
    print("others are as near.")
    return race.results


GROUPS = {"recall": recall, "speed": speed}


def main():
    run("Searches over codes", GROUPS, options(__doc__, GROUPS, repeats=5).parse_args())


if __name__ == "__main__":
    main()
