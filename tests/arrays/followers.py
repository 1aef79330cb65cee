"""The rows of the common table that follow the library of X."""

import pytest
from arrays.libraries import EMULATED
from table import TABLE, aq, each, kq, msq, rq, vq

from skvq import ProductQuantizer
from skvq._arrays import to_host
from skvq.nearest import backend_of

FOLLOWING = [
    row
    for row in TABLE
    if row.codes and row.make().__sklearn_tags__().array_api_support
]


every_following_row = each(FOLLOWING)
# Where a code that rounding lets fall otherwise leads learning elsewhere.  Many
# codewords for tokens of one number, or for few samples: residuals of residuals are
# near rounding.  A table that serves three times: the beam of its start holds every
# order of a sum.  Most codewords serve one row, which a rotation has rounded.
AMPLIFYING = {"multiscale-defaults", "rq-defaults", "aq-shared", "rotated-defaults"}


def learned_with(row, given, **fit_parameters):
    """Fit a row on an array of another library.

    Where rounding decides what is learned, go on with what NumPy has learned, so that
    codes can be compared; the error must still be the same share of the variance.
    """
    estimator = row.make().fit(given, **fit_parameters)
    if row.name not in AMPLIFYING:
        return estimator
    X = to_host(given)
    # NumPy's engine, since of equal sums the compiled one keeps others.
    host = row.make().set_params(backend="numpy").fit(X, **fit_parameters)
    variance = float(X.var(axis=0).sum())
    assert abs(estimator.distortion_ - host.distortion_) <= 2e-3 * variance
    reference = row.make().fit(X, **fit_parameters)
    reference._assign({}, backend_of(given))
    return reference


# Each scheme, and each learner, once: for what is slow in the emulation of CuPy, and in
# it no other than in libraries that run at full speed; and for what the namespace of
# the standard, strict as it is, shows for all libraries.
FEW = {
    *(row.name for row in FOLLOWING if row.name.endswith("-defaults")),
    *("vq-cosine-ema", "vq-splitting", "pq-of-multiscale", "rq-greedy", "rq-refined"),
    *("rq-of-pq", "kronecker-3", "multiscale-sequence", "multiscale-smooth"),
    *("aq-searched", "aq-independent", "rq-rate"),
}
# Slow, and "rq-greedy" and "multiscale-sequence" once more.
FEW -= {"rq-defaults", "multiscale-defaults"}

# ... and each way in which weights enter.
LEARNERS = FEW | {
    *("vq-random", "vq-progressive", "vq-minibatch", "vq-sgd", "vq-cosine"),
    *("vq-manhattan", "vq-farthest", "vq-fixed-random", "pq-shared", "rq-shared"),
    *(
        "vq-rate",
        "pq-rate",
        "rq-weights",
        "aq-fixed-ridge",
        "kronecker-shared",
        "uniform-quantile",
    ),
    *("uniform-gaussian", "uniform-laplacian", "fsq-cdf", "spherical-learned-radius"),
    "binary-spherical-learned",
}


def skip_most_but_in_strict(library, row):
    if library.__name__ != "array_api_strict" and row.name not in FEW:
        pytest.skip("one row of each kind is enough beside the strict namespace")


# What a nesting adds is done in the namespace.
NESTED = {row.name for row in FOLLOWING if "-of-" in row.name} - LEARNERS
NESTED -= {"pq-of-rq", "rq-of-multiscale"}


def skip_some_but_in_strict(library, row):
    """One row of each learner is enough; in the strict namespace, all of them."""
    enough = FEW if library.__name__ == EMULATED else LEARNERS
    is_strict = library.__name__ == "array_api_strict"
    if row.name in NESTED or not (is_strict or row.name in enough):
        pytest.skip("one row of each learner is enough, and all in the strict one")


SCHEMES = {
    "vq": vq,
    "pq": lambda **p: ProductQuantizer(2, 4, **p),
    "rq": lambda **p: rq(beam_size=2, **p),
    "kronecker": lambda **p: kq((2, 3), 4, **p),
    "multiscale": lambda **p: msq((3, 2), n_codewords=4, **p),
    "additive": aq,
}


every_scheme = pytest.mark.parametrize("make_it", SCHEMES.values(), ids=SCHEMES)
