"""Time Kronecker codes against the dense search over the same codewords.

Claim: at 64 x 64 codewords of 16 x 16 features, float32, `KroneckerQuantizer.transform`
is at least 6 times as fast as a `VectorQuantizer` that holds the implied table of
4096 x 256, and gives the same codes, but for distances that are equal up to rounding.
"""

import _common  # isort: split

import _figures
import numpy as np

from skvq import KroneckerQuantizer, VectorQuantizer
from skvq.codes import token_ids

# factor sizes, codewords of each, times faster than the dense search
CASES = [((16, 16), 64, 6.0), ((8, 8), 32, None), ((8, 4, 8), 16, None)]
N_ROWS = 20_000
TRAINING_ROWS = 4_000


def patches(n_features, *, quick):
    """Return grey patches of photographs less their mean, by default of 16 x 16."""
    X = _common._photo_patches(2_000 if quick else N_ROWS, n_features, photos=(0, 1))
    return X - X.mean(axis=0)


def dense_twin(quantizer, X):
    """Return the naive scheme over the table of all products."""
    table = quantizer.full_codebook()
    return VectorQuantizer(len(table), init=table, learning="fixed").fit(X[:2])


def numbers(quantizer):
    return sum(table.size for table in quantizer.codebooks_)


def main():
    arguments = _common.parse_timed(__doc__.splitlines()[0], repeats=7, records=True)
    _common.print_header(
        "Kronecker codes",
        arguments,
        "Data: grey patches of scikit-learn's photographs.",
    )
    table = _common.Table(
        "codes, float32",
        [
            *("rows", "factors", "codewords", "kronecker ms", "dense ms"),
            *("times faster", "single rounds", "others' load", "target"),
            *("numbers stored", "dense", "equal codes", "verdict"),
        ],
    )
    for shape, size, target in CASES:
        if arguments.quick:
            size = min(size, 16)
        X = patches(int(np.prod(shape)), quick=arguments.quick)
        ours = KroneckerQuantizer(shape, size, max_iter=5, random_state=0)
        ours.fit(X[:TRAINING_ROWS])
        dense = dense_twin(ours, X)
        times, load = _common.interleave(
            {
                "kronecker": lambda ours=ours, X=X: ours.transform(X),
                "dense": lambda dense=dense, X=X: dense.transform(X),
            },
            arguments,
        )
        faster = _common.times_faster(times["kronecker"], times["dense"])
        if len(shape) == 2:
            _common.record(
                arguments,
                f"kronecker.{size}x{size}",
                _figures.two_digits(faster),
                "times the speed of the dense search over the implied table, factors "
                f"{shape}",
                data="grey patches of photographs",
            )
        ids = token_ids(times["kronecker"].result, ours.codebook_sizes_)
        table.row(
            f"{len(X):,}",
            " x ".join(map(str, shape)),
            " x ".join([str(size)] * len(shape)),
            *(_common.milliseconds(times[name]) for name in times),
            f"{faster:.2f}",
            *(_common.spread(times["kronecker"], times["dense"]), f"{load:.2f}"),
            "" if target is None else f">= {target}",
            *(f"{numbers(ours):,}", f"{numbers(dense):,}"),
            _common.equal_share(ids, times["dense"].result.ravel()),
            _common.verdict(target is None or faster >= target),
        )


if __name__ == "__main__":
    main()
