"""Time exact scans of packed codes against faiss.

Claim: on one thread, `nearest.scan` finds the ten nearest of 1,000,000 product codes in
at most a tenth of the time of faiss's `IndexPQ` at 8 codes of 8 bits, a fifth at 16,
and no more time than `IndexPQFastScan`, which is not exact, at 16 codes of 4 bits; with
AVX2, in .83 of it, and in 1.1 of it at 4 bits.  The compiled engine is needed.
"""

import _common  # isort: split

import numpy as np
from threadpoolctl import threadpool_limits

from skvq.nearest import Packed, scan

faiss = _common.peer("faiss")

# codes, bits of each, times faster than faiss with AVX-512 and with AVX2
CASES = [(8, 8, 10.0, 1.2), (16, 8, 5.0, 1.2), (16, 4, 1.0, 0.9)]
N_FEATURES = 128
N_QUERIES, K = 21, 10
COPIES = 10


def filled(X, n_codes, bits):
    """Return faiss's index of samples, and of copies of them with noise."""
    index = faiss.IndexPQ(N_FEATURES, n_codes, bits)
    index.train(X[:20_000])
    rng, deviation = np.random.default_rng(0), X.std() / 10
    for _ in range(COPIES):
        index.add(X + deviation * rng.standard_normal(X.shape, dtype=np.float32))
    return index


def packed_codes(index, bits):
    """Return faiss's codes as skvq packs them, which puts the high bits first."""
    codes = faiss.vector_to_array(index.codes).reshape(index.ntotal, -1)
    return codes if bits == 8 else codes << 4 | codes >> 4


def nearest_of(query, codebooks, codes):
    """Scan with the distances of a query's slices to all codewords."""
    gaps = query.reshape(len(codebooks), 1, -1) - codebooks
    tables = np.einsum("mvd,mvd->mv", gaps, gaps).reshape(1, -1)
    return scan(codes, None, tables, K)[0]


def main():
    arguments = _common.parse_timed(__doc__.splitlines()[0], repeats=21)
    _common.print_header("Scans of packed codes", arguments)
    print(f"\nfaiss is compiled with {faiss.get_compile_options()}.")
    target = 2 if "AVX512" in faiss.get_compile_options() else 3
    table = _common.Table(
        f"{K} nearest of a query, one thread",
        [
            *("codes", "M", "bits", "skvq ms", "faiss ms", "x faiss"),
            *("single rounds", "others' load", "target", "neighbours equal faiss's"),
            "verdict",
        ],
    )
    X = _common.samples(N_FEATURES, quick=arguments.quick)
    queries = X[:: len(X) // N_QUERIES][:N_QUERIES] + np.float32(0.01)
    faiss.omp_set_num_threads(1)
    for case in CASES:
        n_codes, bits = case[:2]
        index = filled(X, n_codes, bits)
        codebooks = faiss.vector_to_array(index.pq.centroids)
        codebooks = codebooks.reshape(n_codes, 1 << bits, -1)
        codes = Packed(packed_codes(index, bits), (1 << bits,) * n_codes)
        if bits == 4:
            index = faiss.IndexPQFastScan(index)
        with threadpool_limits(1):
            times, load = _common.interleave(
                {
                    "skvq": lambda tables=codebooks, codes=codes: [
                        nearest_of(query, tables, codes) for query in queries
                    ],
                    "faiss": lambda index=index: [
                        index.search(query[None], K)[1] for query in queries
                    ],
                },
                arguments,
                warm=True,
            )
        found, theirs = (np.concatenate(times[name].result) for name in times)
        same = [np.isin(a, b).mean() for a, b in zip(found, theirs, strict=True)]
        faster = _common.times_faster(times["skvq"], times["faiss"])
        table.row(
            *(f"{len(codes):,}", n_codes, bits),
            *(f"{1e3 * times[name].median / len(queries):.3f}" for name in times),
            f"{faster:.2f}",
            *(_common.spread(times["skvq"], times["faiss"]), f"{load:.2f}"),
            *(f">= {case[target]}", f"{100 * np.mean(same):.1f}%"),
            _common.verdict(faster >= case[target]),
        )


if __name__ == "__main__":
    main()
