"""Measure drift where there is none, and where one feature has moved.

Without drift, over 200 seeds: the mean of the divergence less its expectation, in
standard errors of that mean, at most 3 of either sign.  The tables are grids that no
row has changed, for which the expectation is exact; of tables that were learned from
the training rows, whose shares are not a sample of the same distribution to the last
row, the excess is shown too.  With a shift of one standard deviation in one feature,
how often its column has the largest excess.

    python benchmarks/drift.py
    python benchmarks/drift.py --record
"""

import _common
import numpy as np

from skvq import ProductQuantizer, UniformQuantizer, VectorQuantizer
from skvq.metrics import drift

SIZES = (
    (100, 100, 4),
    (100, 20000, 256),
    (1000, 1000, 16),
    (1000, 100, 256),
    (20000, 100, 4),
    (20000, 2000, 256),
    (20000, 20000, 64),
)
# Of tables of vectors: few training rows for each codeword.
FEW_FOR_CODEWORDS = (1000, 1000, 64)


def excesses(make, sizes, seeds, weighted=False, width=1):
    """Return the divergence less its expectation, and the latter, for some seeds."""
    n_train, n_rows, n_levels = sizes
    found = []
    for seed in seeds:
        rng = np.random.default_rng(seed)
        quantizer = make(n_levels).fit(rng.normal(size=(n_train, width)))
        weights = rng.exponential(size=n_rows) if weighted else None
        report = drift(
            quantizer, rng.normal(size=(n_rows, width)), sample_weight=weights
        )
        column = report["columns"][0]
        found.append((column["excess"], column["expected"]))
    return np.array(found).T


def report_excess(name, make, sizes, seeds, weighted=False, width=1):
    """Print the mean excess of one case; return it as a share of what is expected."""
    excess, expected = excesses(make, sizes, seeds, weighted, width)
    error = excess.std(ddof=1) / np.sqrt(len(excess))
    print(
        f"{name:19} {sizes[0]:6,} {sizes[1]:6,} {sizes[2]:4}   expected "
        f"{expected.mean():.5f}  excess {excess.mean():+.5f}, "
        f"{excess.mean() / error:+.1f} standard errors"
    )
    return excess.mean() / expected.mean()


def named(seeds, n_rows):
    """Return how often the column of the feature that has moved is named."""
    rng = np.random.default_rng(0)
    quantizer = ProductQuantizer(8, 16, random_state=0).fit(rng.normal(size=(4000, 8)))
    hits = 0
    for seed in seeds:
        rng = np.random.default_rng(seed)
        rows = rng.normal(size=(n_rows, 8))
        rows[:, seed % 8] += 1
        excess = [column["excess"] for column in drift(quantizer, rows)["columns"]]
        hits += int(np.argmax(excess)) == seed % 8
    return hits


def main():
    """Print all cases."""
    parser = _common.parser(__doc__.splitlines()[0], repeats=200, records=True)
    options = parser.parse_args()
    seeds = range(10 if options.quick else options.repeats)
    sizes = SIZES[:4] if options.quick else SIZES

    def grid(n_levels):
        return UniformQuantizer(n_levels, clip_range=(-3, 3))

    def learned(n_levels):
        return UniformQuantizer(n_levels, levels="lloyd-max")

    def vectors(n_levels):
        return VectorQuantizer(n_levels, random_state=0, max_iter=10)

    for each in sizes:
        report_excess("fixed", grid, each, seeds)
    for each in sizes:
        report_excess("fixed, weights", grid, each, seeds, weighted=True)
    for each in sizes:
        if each[0] > each[2]:
            report_excess("learned", learned, each, seeds)
    for each in [*sizes[2:], FEW_FOR_CODEWORDS]:
        share = report_excess("learned, 8 features", vectors, each, seeds[:50], width=8)
    _common.record(
        options,
        "drift.learned",
        f"{-share:.0%}",
        "how far the divergence of learned cells is below its expectation; training "
        f"rows, rows, codewords: {FEW_FOR_CODEWORDS}, 8 features",
        data="normal numbers",
    )
    for n_rows in (50, 200, 1000):
        hits = named(seeds, n_rows)
        print(f"shift named in {hits} of {len(seeds)} seeds, with {n_rows} rows")


if __name__ == "__main__":
    main()
