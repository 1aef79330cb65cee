"""Time the encoders of fixed codebooks against a copy of their input.

Claim: `transform` of 1,000,000 rows of 64 float32 features takes `UniformQuantizer`,
`FiniteScalarQuantizer` and `BinaryQuantizer` at most three times as long as NumPy takes
to copy the array; and it needs, beside the codes, less than 64 MiB of memory.

Each round times the copy and all encoders in turn, so that what else the machine does
falls on all of them alike.  Judged is the best round of each: a copy of this size is
mostly the making of new pages, whose time varies several times over, and the median of
it would flatter the encoders.  For the same reason it has three tries in each round.
"""

import _common  # isort: split

import statistics
import time
import tracemalloc

import numpy as np

from skvq import (
    BinaryQuantizer,
    FiniteScalarQuantizer,
    SphericalQuantizer,
    UniformQuantizer,
)

N_FEATURES = 64
TRAINING_ROWS = 20_000
MOST_MEMORY = 64.0  # MiB

KEYS = {0: "uniform", 3: "fsq", 6: "lloyd-max"}

# quantizer, how many times as long as the copy it may take (None: no claim)
CASES = [
    (UniformQuantizer(), 3.0),
    (UniformQuantizer(clip_range=(-4.0, 4.0)), 3.0),
    (BinaryQuantizer(), 3.0),
    (FiniteScalarQuantizer(), 3.0),
    (FiniteScalarQuantizer(squash="cdf"), 3.0),
    (FiniteScalarQuantizer(squash="none"), 3.0),
    (UniformQuantizer(levels="lloyd-max", feature_distribution="gaussian"), None),
    (BinaryQuantizer(spherical=True, radius="uniform"), None),
    (SphericalQuantizer(), None),
    (SphericalQuantizer(angles="density"), None),
]


def seconds(call):
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def one_round(X, calls):
    """Return the time of the copy, the best of three, then those of the calls."""
    return [min(seconds(X.copy) for _ in range(3)), *map(seconds, calls)]


def extra_memory(quantizer, X):
    """Peak of what `transform` holds beside the codes, in MiB."""
    tracemalloc.start()
    codes = quantizer.transform(X)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return (peak - codes.nbytes) / 2**20


def main():
    parser = _common.parser(__doc__.splitlines()[0], repeats=7, records=True)
    arguments = parser.parse_args()
    n_rows, repeats = 1_000_000, arguments.repeats
    if arguments.quick:
        n_rows, repeats = 20_000, 1

    X = np.random.default_rng(0).normal(size=(n_rows, N_FEATURES)).astype(np.float32)
    quantizers = [quantizer.fit(X[:TRAINING_ROWS]) for quantizer, _ in CASES]
    calls = [lambda q=q: q.transform(X) for q in quantizers]
    rounds = [one_round(X, calls) for _ in range(repeats + 1)][1:]
    best = [min(times) for times in zip(*rounds, strict=True)]
    print(f"## Fixed codebooks: {n_rows:,} x {N_FEATURES} float32\n")
    print(f"Copy: {1e3 * best[0]:.0f} ms at best. NumPy {np.__version__}.\n")
    print("| quantizer | best ms | x copy | x copy, medians | target | MiB | verdict |")
    print("|" + " --- |" * 7)
    for j, (quantizer, target) in enumerate(CASES, start=1):
        ratio, memory = best[j] / best[0], extra_memory(quantizer, X)
        medians = [statistics.median(times[k] for times in rounds) for k in (0, j)]
        met = memory <= MOST_MEMORY and (target is None or ratio <= target)
        print(
            f"| {quantizer!r} | {1e3 * best[j]:.0f} | {ratio:.2f} | "
            f"{medians[1] / medians[0]:.2f} | "
            f"{'' if target is None else f'<= {target}'} | {memory:.1f} | "
            f"{'ok' if met else '**missed**'} |",
            flush=True,
        )
    record(arguments, [one / best[0] for one in best[1:]])


def record(arguments, ratios):
    """Record how many times as long as the copy the encoders take."""
    figures = {KEYS[j]: ratios[j] for j in KEYS}
    spherical = [
        ratio
        for ratio, (quantizer, _) in zip(ratios, CASES, strict=True)
        if isinstance(quantizer, SphericalQuantizer)
    ]
    figures |= {"spherical.least": min(spherical), "spherical.most": max(spherical)}
    for key, ratio in figures.items():
        what = f"times the time of copying the array, to encode: {key}"
        data = "normal numbers"
        _common.record(arguments, f"fixed.{key}", f"{ratio:.0f}", what, data=data)


if __name__ == "__main__":
    main()
