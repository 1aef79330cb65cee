"""Measure the rules of thumb that the pages give: errors, no times.

How many rows a codeword wants: the error on new rows of 64 codewords that were learned
from few rows for each, beside that with 300.  How far codes that are nearest elsewhere
than in the space of X are from the nearest codewords: FSQ on Gaussian features,
spherical codes on uniform directions.  How even cells of 5,000 normal numbers get.

    SKVQ_DATA=... python benchmarks/rules.py
    SKVQ_DATA=... python benchmarks/rules.py --record
"""

import _common  # isort: split

import warnings

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from skvq import (
    FiniteScalarQuantizer,
    SphericalQuantizer,
    VectorQuantizer,
    nearest,
)

N_CODEWORDS, MANY = 64, 300
FEW = (100, 30, 10)
N_ROWS = 20_000


def few_rows(arguments):
    """Print how much larger errors on new rows are with fewer rows to learn from."""
    table = _common.Table(
        f"{N_CODEWORDS} codewords: test error beside {MANY} rows for each",
        ["data", *(f"{n} rows" for n in FEW)],
    )
    n_codewords = 4 if arguments.quick else N_CODEWORDS
    more = {n: [] for n in FEW}
    sets = []
    for data in _common.data_sets(["dsift", "patches"], quick=arguments.quick):
        errors = {n: [] for n in (MANY, *FEW)}
        for seed in range(arguments.repeats):
            rows = np.random.default_rng(seed).permutation(data.train)
            for n, found in errors.items():
                vq = VectorQuantizer(n_codewords, random_state=seed)
                found.append(-vq.fit(rows[: n * n_codewords]).score(data.test))
        most = np.mean(errors[MANY])
        sets.append(data.name)
        for n, found in more.items():
            found.append(100 * (np.mean(errors[n]) / most - 1))
        table.row(data.name, *(f"+{found[-1]:.1f}%" for found in more.values()))
    for n, found in more.items():
        for end, figure in (
            ("least", f"{min(found):.0f}"),
            ("most", f"{max(found):.0f}%"),
        ):
            _common.record(
                arguments,
                f"rules.rows-{n}.{end}",
                figure,
                f"percent of error more on new rows, with {n} rows for each codeword "
                f"than with {MANY}; {end} of the sets",
                data=" and ".join(sets),
            )


def from_nearest(quantizer, X):
    """Return the share of rows with a nearer codeword, and of the error that goes."""
    codebook = quantizer.full_codebook()
    own = np.square(X - quantizer.quantize(X)).sum(axis=1)
    best = nearest.nearest(X, codebook)[1]
    return np.mean(best < own * (1 - 1e-6)), 1 - best.sum() / own.sum()


NEARER = "share of rows with a nearer codeword than their code's"
GAIN = "share of the error that would go with it"


def keep(arguments, key, figure, what, data="Gaussian features"):
    """Record a figure of numbers that are drawn here."""
    _common.record(arguments, f"rules.{key}", figure, what, data=data)


def elsewhere(arguments):
    """Print how far from the nearest codewords the codes of two schemes are."""
    table = _common.Table(
        "codes that are nearest elsewhere", ["quantizer", "another is nearer", "error"]
    )
    rng = np.random.default_rng(0)
    n = 1_000 if arguments.quick else N_ROWS
    X = rng.normal(size=(n, 4))
    for squash in ("tanh", "cdf", "none"):
        quantizer = FiniteScalarQuantizer((8, 5, 5, 5), squash=squash).fit(X)
        share, gain = from_nearest(quantizer, X)
        what = f"FSQ (8, 5, 5, 5), {squash}"
        keep(arguments, f"fsq.{squash}.share", f"{share:.0%}", f"{what}: {NEARER}")
        keep(arguments, f"fsq.{squash}.gain", f"{gain:.0%}", f"{what}: {GAIN}")
        table.row(what, f"{share:.0%}", f"-{gain:.0%}")
    for d, size in ((3, 16), (4, 8), (6, 8)):
        if arguments.quick and d == 6:
            continue
        X = rng.normal(size=(n, d))
        X /= np.linalg.norm(X, axis=1, keepdims=True)
        for angles in ("uniform", "density"):
            quantizer = SphericalQuantizer(size, angles=angles).fit(X)
            share, gain = from_nearest(quantizer, X)
            what, key = f"spherical, d = {d}, {size} levels, {angles}", f"spherical.{d}"
            keep(
                *(arguments, f"{key}.{angles}", f"{share:.0%}", f"{what}: {NEARER}"),
                data="uniform directions",
            )
            if angles == "uniform":
                keep(
                    *(
                        arguments,
                        f"{key}.gain",
                        f"{100 * gain:.1f}%",
                        f"{what}: {GAIN}",
                    ),
                    data="uniform directions",
                )
            table.row(what, f"{share:.0%}", f"-{100 * gain:.1f}%")


def evenness(arguments):
    """Print the largest of 64 balanced cells of normal numbers."""
    table = _common.Table("5,000 normal numbers, balanced", ["largest / mean"])
    X = np.random.default_rng(0).normal(size=(5_000, 1))
    n_codewords = 8 if arguments.quick else 64
    vq = VectorQuantizer(n_codewords, balance=True, random_state=0).fit(X)
    largest = f"{vq.code_counts_[0].max() / vq.code_counts_[0].mean():.1f}"
    what = f"the largest of {n_codewords} balanced cells of 5,000 rows, over the mean"
    keep(arguments, "balance", largest, what, data="normal numbers")
    table.row(largest)


def main():
    parser = _common.parser(__doc__.splitlines()[0], repeats=5, records=True)
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.repeats = 1
    _common.print_header("Rules of thumb", arguments)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        few_rows(arguments)
        elsewhere(arguments)
        evenness(arguments)


if __name__ == "__main__":
    main()
