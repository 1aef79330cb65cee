"""The one table of parameters: what every test of the family runs over.

A new estimator adds its rows to `TABLE`, with what is true of it, and an instance to
`DEFAULTS` if it can be built with defaults; the tests of `test_common.py` follow.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import pytest
from scipy.spatial.distance import cityblock
from threadpoolctl import threadpool_limits

from skvq import (
    AdditiveQuantizer,
    BinaryQuantizer,
    FiniteScalarQuantizer,
    KroneckerQuantizer,
    MultiScaleQuantizer,
    ProductQuantizer,
    QuantizedFeatures,
    QuantizedNeighbors,
    ResidualQuantizer,
    RotatedQuantizer,
    ScaledQuantizer,
    SphericalQuantizer,
    TrellisQuantizer,
    UniformQuantizer,
    VectorQuantizer,
)

N_FEATURES = 6


def mixture(n_samples=320, n_features=N_FEATURES, seed=0, dtype=np.float32):
    """Samples of a few overlapping clouds of different sizes, none at the origin."""
    rng = np.random.default_rng([seed, n_features])
    centres = rng.normal(size=(7, n_features)) * 3
    X = centres[rng.choice(7, n_samples, p=[0.3, 0.2, 0.2, 0.1, 0.1, 0.05, 0.05])]
    return (X + rng.normal(size=X.shape)).astype(dtype)


def half_manhattan(x, y):
    """A metric of the user's own; at module level, so that it can be pickled."""
    return 0.5 * cityblock(x, y)


@dataclass(frozen=True)
class Row:
    """An estimator with one set of parameters, and what is true of it.

    Attributes
    ----------
    name : str
        Shown by pytest.
    make : callable
        Returns it unfitted, with a fixed seed if it draws random numbers.
    exact : str, callable or None
        The metric under which its codes are the argmin over `full_codebook()`; None if
        its search is not exact, or its own metric does not add up.
    computed : bool
        Whether the rows of `full_codebook()` are products, which are rounded.
    rate_weight : float
        What a bit costs in its search, which is then the argmin of the sum.
    score : str or callable
        The metric of `score` and `distortion_`.
    idempotent : bool
        Whether quantizing again changes nothing.
    streams : bool
        Whether it has `partial_fit`.
    given : bool
        Whether all is given and nothing learned, so that it can be fitted on one row.
    deterministic : bool
        Whether it draws no random numbers at all.
    weights : {"exact", "statistical", None}
        How weights equal repeats: to rounding, where the start draws no random numbers;
        in the mean over seeds, asked of one row of each learner; None: not asked.
    few : bool
        Whether fewer distinct samples than codewords are a ConvergenceWarning.
    represents : bool
        Whether a few distinct samples are then their own reconstructions; products can
        be no more than the best of their form.
    codes : bool
        Whether `transform` gives codes; if not, reconstructions.
    zeros : bool
        Whether it takes rows that are zero (in the columns of one part).
    n_features : int
        Width of its data.
    sklearn_checks : bool
        Whether it can be fitted on any width, one feature too, as scikit-learn's checks
        ask.
    learns : bool
        Whether it is never worse than the mean on its own training samples.
    make_is_small : bool
        Whether its full codebook is small.
    searches_harder : bool
        Whether `transform` finds better codes than those that `fit` learned from.
    tables : bool
        Whether its tables can be given in place of a fit.
    codebooks : bool
        Whether codes have tables; if not, alphabets are in their place.
    """

    name: str
    make: Callable[[], Any] = field(repr=False)
    exact: Any = "sqeuclidean"
    computed: bool = False
    rate_weight: float = 0.0
    score: Any = "sqeuclidean"
    idempotent: bool = True
    streams: bool = False
    given: bool = False
    deterministic: bool = False
    weights: str | None = None
    few: bool = True
    represents: bool = True
    codes: bool = True
    zeros: bool = True
    n_features: int = N_FEATURES
    sklearn_checks: bool = True
    learns: bool = True
    make_is_small: bool = True
    searches_harder: bool = False
    tables: bool = True
    codebooks: bool = True

    def data(self, n_samples=320, seed=0, dtype=np.float32):
        return mixture(n_samples, self.n_features, seed, dtype)

    def fitted(self, dtype=np.float32):
        """Return it fitted on `data()`; the same object for all tests: only read it.

        The samples cannot be written to, and BLAS has one thread.
        """
        return _fitted(self.name, np.dtype(dtype))

    def parts_metric_is_defined(self, X):
        """Put ones where a metric of the row does not take zeros."""
        return X if self.zeros else np.where(X == 0, np.ones_like(X), X)


@cache
def _fitted(name, dtype):
    row = BY_NAME[name]
    X = row.data(dtype=dtype)
    X.flags.writeable = False
    with threadpool_limits(1, user_api="blas"):
        return row.make().fit(X)


TABLE_3_2 = np.random.default_rng(5).normal(size=(3, 2)) * 2
TABLE_4 = np.random.default_rng(4).normal(size=(4, N_FEATURES)) * 2


def vq(n_codewords=4, **parameters):
    parameters.setdefault("random_state", 0)
    return VectorQuantizer(n_codewords, **parameters)


def pq(n_subspaces=3, n_codewords=4, **parameters):
    parameters.setdefault("random_state", 0)
    return ProductQuantizer(n_subspaces, n_codewords, **parameters)


def kq(factor_sizes=None, n_codewords=4, **parameters):
    parameters.setdefault("random_state", 0)
    return KroneckerQuantizer(factor_sizes, n_codewords, **parameters)


def msq(map_shape=None, scales="auto", n_codewords=4, **parameters):
    parameters.setdefault("random_state", 0)
    return MultiScaleQuantizer(map_shape, scales, n_codewords, **parameters)


def rq(n_stages=3, n_codewords=4, **parameters):
    parameters.setdefault("random_state", 0)
    return ResidualQuantizer(n_stages, n_codewords, **parameters)


def _residual(name, make, **facts):
    """A row of the residual scheme, whose search is not exact."""
    return Row(name, make, **{"exact": None, "idempotent": False, **facts})


def _priced(name, make, **facts):
    """A row whose search weighs bits: frequent codes are preferred to near ones."""
    facts = {"rate_weight": 1.0, **facts}
    facts = {"exact": None, "idempotent": False, "represents": False, **facts}
    return Row(name, make, **facts)


def aq(n_codebooks=3, n_codewords=4, **parameters):
    parameters.setdefault("random_state", 0)
    return AdditiveQuantizer(n_codebooks, n_codewords, **parameters)


# Of the learners that take long, one row each runs as long as they do by default.  The
# others stop early: no test asks them for more than few rounds can give.
FEW_ROUNDS = {"max_iter": 3}
FEW_SUMS = {"max_iter": 2, "ridge": 0.25}


def _few_rounds(**parameters):
    """A part, or the table of a residual scheme, that is learned in a few rounds."""
    return vq(**parameters, **FEW_ROUNDS)


def _online(learning, **parameters):
    return vq(learning=learning, batch_size=64, **parameters)


def _few_batches(learning, **parameters):
    """A part, or the table of a residual scheme, of a learner from streams."""
    return _online(learning, **parameters, **FEW_ROUNDS)


ROTATION = np.linalg.qr(np.random.default_rng(6).normal(size=(6, N_FEATURES)))[0]


def rotated(quantizer=None, **parameters):
    parameters.setdefault("random_state", 0)
    return RotatedQuantizer(quantizer, **parameters)


def _rotated(name, make, **facts):
    """A row of a rotation, whose reconstructions are products, which are rounded."""
    return Row(name, make, **{"computed": True, **facts})


def _fixed(name, make, **facts):
    """A row of a scheme that draws no random numbers and takes few samples."""
    facts = {
        "exact": None,
        "weights": "exact",
        "deterministic": True,
        "few": False,
        **facts,
    }
    return Row(name, make, **facts)


def _scaled(name, make, **facts):
    """A row with a scale of each row of X, which is never worse than zeros are."""
    facts = {"idempotent": False, "learns": False, "make_is_small": False, **facts}
    return _fixed(name, make, **facts)


def _kronecker(name, make, **facts):
    """A row of products of codewords, which reach what is of their form."""
    facts = {"computed": True, "represents": False, "sklearn_checks": False, **facts}
    return Row(name, make, **facts)


def _multiscale(name, make, **facts):
    """A row of a residual over scales, with one table for all tokens."""
    facts = {
        "exact": None,
        "idempotent": False,
        "few": False,
        "make_is_small": False,
        "sklearn_checks": False,
        **facts,
    }
    return Row(name, make, **facts)


def _trellis(name, make, **facts):
    """A row of levels along paths, whose search is not exact where ends meet."""
    facts = {
        "idempotent": False,
        "codebooks": False,
        "sklearn_checks": False,
        **facts,
    }
    return _fixed(name, make, **facts)


TABLE = [
    # The naive scheme: sizes
    Row("vq-defaults", lambda: vq(256)),
    Row("vq-two-bytes", lambda: vq(300, max_iter=2)),
    Row("vq-one-codeword", lambda: vq(1), weights="exact", deterministic=True),
    # ... initialisations
    Row("vq-k-means++", lambda: vq(), weights="statistical"),
    Row("vq-random", lambda: vq(init="random")),
    Row(
        "vq-splitting",
        lambda: vq(init="splitting", random_state=None),
        weights="exact",
        deterministic=True,
    ),
    Row("vq-progressive", lambda: vq(init="progressive")),
    Row(
        "vq-splitting-5",
        lambda: vq(5, init="splitting", random_state=None),
        weights="exact",
        deterministic=True,
    ),
    Row("vq-normal", lambda: vq(init="normal"), weights="exact"),
    Row(
        "vq-array",
        lambda: vq(init=TABLE_4, random_state=None),
        weights="exact",
        deterministic=True,
        few=False,
        sklearn_checks=False,
    ),
    Row("vq-n-init", lambda: vq(n_init=3)),
    # ... which a second fit would start from the first
    Row("vq-warm", lambda: vq(warm_start=True)),
    # ... repairs
    Row(
        "vq-farthest",
        lambda: vq(init="normal", dead_codes="farthest"),
        weights="exact",
    ),
    Row("vq-keep", lambda: vq(init="normal", dead_codes="keep")),
    # ... prices of bits
    _priced("vq-rate", lambda: vq(8, rate_weight=1.0), exact="sqeuclidean"),
    _priced(
        "vq-rate-splitting",
        lambda: vq(8, init="splitting", random_state=None, rate_weight=1.0),
        exact="sqeuclidean",
        weights="exact",
        deterministic=True,
    ),
    # ... prices that use codes evenly
    _priced(
        "vq-balance", lambda: vq(8, balance=True), exact="sqeuclidean", rate_weight=0.0
    ),
    _priced(
        "vq-balance-splitting",
        lambda: vq(8, init="splitting", random_state=None, balance=True),
        exact="sqeuclidean",
        rate_weight=0.0,
        weights="exact",
        deterministic=True,
    ),
    _priced(
        "vq-balance-shares",
        lambda: vq(balance=[4, 2, 1, 1]),
        exact="sqeuclidean",
        rate_weight=0.0,
        few=False,
        sklearn_checks=False,
    ),
    # ... learners
    Row(
        "vq-minibatch",
        lambda: _online("minibatch"),
        streams=True,
        weights="statistical",
    ),
    Row("vq-ema", lambda: _online("ema"), streams=True, weights="statistical"),
    Row("vq-sgd", lambda: _online("sgd"), streams=True, weights="statistical"),
    Row(
        "vq-ema-array",
        lambda: _online("ema", init=TABLE_4, decay=0.9),
        streams=True,
        few=False,
        sklearn_checks=False,
    ),
    Row(
        "vq-minibatch-random", lambda: _online("minibatch", init="random"), streams=True
    ),
    Row("vq-sgd-splitting", lambda: _online("sgd", init="splitting"), streams=True),
    # ... tables that stay as they are
    Row("vq-fixed-k-means++", lambda: vq(learning="fixed")),
    Row(
        "vq-fixed-random",
        lambda: vq(learning="fixed", init="random"),
        learns=False,
    ),
    Row(
        "vq-fixed-splitting",
        lambda: vq(learning="fixed", init="splitting", random_state=None),
        weights="exact",
        deterministic=True,
    ),
    Row(
        "vq-fixed-normal",
        lambda: vq(learning="fixed", init="normal"),
        learns=False,
        weights="exact",
        few=False,
    ),
    Row(
        "vq-fixed-array",
        lambda: vq(learning="fixed", init=TABLE_4, random_state=None),
        learns=False,
        weights="exact",
        deterministic=True,
        few=False,
        given=True,
        sklearn_checks=False,
    ),
    # ... metrics
    Row(
        "vq-cosine",
        lambda: vq(metric="cosine"),
        exact="cosine",
        score="cosine",
        zeros=False,
        weights="statistical",
    ),
    Row(
        "vq-cosine-splitting",
        lambda: vq(metric="cosine", init="splitting", random_state=None),
        exact="cosine",
        score="cosine",
        weights="exact",
        deterministic=True,
        zeros=False,
    ),
    Row(
        "vq-cosine-array",
        lambda: vq(metric="cosine", init=TABLE_4, random_state=None),
        exact="cosine",
        score="cosine",
        weights="exact",
        deterministic=True,
        few=False,
        zeros=False,
        sklearn_checks=False,
    ),
    Row(
        "vq-cosine-ema",
        lambda: _online("ema", metric="cosine"),
        exact="cosine",
        score="cosine",
        streams=True,
        zeros=False,
    ),
    Row(
        "vq-manhattan",
        lambda: vq(metric="manhattan"),
        exact="manhattan",
        score="manhattan",
        weights="statistical",
    ),
    Row(
        "vq-manhattan-splitting",
        lambda: vq(metric="manhattan", init="splitting", random_state=None),
        exact="manhattan",
        score="manhattan",
        weights="exact",
        deterministic=True,
    ),
    Row(
        "vq-inner-product",
        lambda: vq(metric="inner_product", learning="fixed", init="normal"),
        exact="inner_product",
        score="inner_product",
        idempotent=False,
        weights="exact",
        few=False,
    ),
    Row(
        "vq-chebyshev",
        lambda: vq(metric="chebyshev", learning="fixed", init="random"),
        exact="chebyshev",
        score="chebyshev",
    ),
    Row(
        "vq-euclidean",
        lambda: vq(metric="euclidean", learning="fixed"),
        exact="euclidean",
        score="euclidean",
    ),
    Row(
        "vq-callable",
        lambda: vq(metric=half_manhattan, learning="fixed"),
        exact=half_manhattan,
        score=half_manhattan,
    ),
    # The concatenated scheme
    Row(
        "pq-defaults",
        lambda: pq(8, None),
        n_features=16,
        make_is_small=False,
    ),
    Row("pq-even", lambda: pq()),
    Row("pq-uneven", lambda: pq(4)),
    Row("pq-one-subspace", lambda: pq(1)),
    Row("pq-every-feature", lambda: pq(N_FEATURES, 3), sklearn_checks=False),
    Row("pq-sizes", lambda: pq(3, [2, 5, 3]), sklearn_checks=False),
    Row(
        "pq-shared",
        lambda: pq(share_codebook=True),
        sklearn_checks=False,
        few=False,
        weights="statistical",
    ),
    Row(
        "pq-splitting",
        lambda: pq(quantizer=vq(init="splitting", random_state=None)),
        weights="exact",
    ),
    Row(
        "pq-shared-splitting",
        lambda: pq(
            quantizer=vq(init="splitting", random_state=None), share_codebook=True
        ),
        weights="exact",
        sklearn_checks=False,
        few=False,
    ),
    Row("pq-warm", lambda: pq(warm_start=True)),
    _priced("pq-rate", lambda: pq(rate_weight=1.0), exact="sqeuclidean"),
    _priced(
        "pq-balance", lambda: pq(balance=True), exact="sqeuclidean", rate_weight=0.0
    ),
    _priced(
        "pq-shared-rate",
        lambda: pq(3, 6, share_codebook=True, rate_weight=1.0),
        exact="sqeuclidean",
        sklearn_checks=False,
        few=False,
    ),
    _priced(
        "pq-of-rate-and-uniform",
        lambda: pq(
            2,
            None,
            quantizer=[vq(rate_weight=1.0), UniformQuantizer(3, levels="lloyd-max")],
        ),
        exact="sqeuclidean",
        sklearn_checks=False,
    ),
    Row("pq-ema", lambda: pq(quantizer=_few_batches("ema")), streams=True),
    Row(
        "pq-shared-minibatch",
        lambda: pq(quantizer=_few_batches("minibatch"), share_codebook=True),
        streams=True,
        sklearn_checks=False,
        few=False,
    ),
    Row("pq-of-pq", lambda: pq(2, None, quantizer=ProductQuantizer(2, 3))),
    Row(
        "pq-of-shared-pq-ema",
        lambda: pq(
            2,
            None,
            quantizer=ProductQuantizer(
                3, 4, share_codebook=True, quantizer=_few_batches("ema")
            ),
        ),
        streams=True,
        sklearn_checks=False,
        few=False,
    ),
    Row(
        "pq-of-manhattan",
        lambda: pq(quantizer=vq(metric="manhattan")),
        exact="manhattan",
    ),
    Row(
        "pq-of-cosine",
        lambda: pq(quantizer=vq(metric="cosine")),
        exact=None,
        zeros=False,
        learns=False,
    ),
    Row("pq-widths", lambda: pq(8, 4, widths=[3, 1, 2]), sklearn_checks=False),
    Row(
        "pq-of-list",
        lambda: pq(
            quantizer=[vq(), UniformQuantizer(3), ProductQuantizer(2, 3)],
            n_codewords=None,
        ),
        represents=False,
        sklearn_checks=False,
        learns=False,
    ),
    Row(
        "pq-of-pairs-widths",
        lambda: pq(
            quantizer=[
                ("fast", _few_batches("minibatch")),
                ("slow", _few_batches("ema", n_codewords=7)),
            ],
            widths=[1, 5],
            n_codewords=None,
        ),
        streams=True,
        sklearn_checks=False,
    ),
    # Kronecker products
    _kronecker("kronecker-defaults", lambda: kq(None, 16), sklearn_checks=True),
    _kronecker("kronecker-warm", lambda: kq((3, 2), 4, warm_start=True)),
    _kronecker("kronecker-2", lambda: kq((3, 2), [5, 3])),
    _kronecker(
        "kronecker-3", lambda: kq((1, 3, 2), 3, **FEW_ROUNDS), weights="statistical"
    ),
    _kronecker(
        "kronecker-gain-shape",
        lambda: kq((1, N_FEATURES), [3, 4], **FEW_ROUNDS),
        represents=True,
    ),
    _kronecker(
        "kronecker-fixed-factor",
        lambda: kq((2, 3), 4, fixed_factors=[TABLE_3_2, None], **FEW_ROUNDS),
        learns=False,
    ),
    _kronecker(
        "kronecker-shared",
        lambda: kq((2, 2, 2), 3, share_codebook=True, **FEW_ROUNDS),
        n_features=8,
    ),
    _kronecker(
        "pq-of-kronecker",
        lambda: pq(2, None, quantizer=kq(None, 3, **FEW_ROUNDS)),
        represents=True,
        sklearn_checks=True,
    ),
    _kronecker(
        "pq-of-kronecker-3",
        lambda: pq(2, None, quantizer=kq((1, 1, 3), [2, 2, 3], **FEW_ROUNDS)),
        represents=True,
    ),
    # Pyramids of tokens
    _multiscale("multiscale-defaults", lambda: msq(None, "auto", 256)),
    _multiscale("multiscale-sequence", lambda: msq(n_codewords=8), sklearn_checks=True),
    _multiscale(
        "multiscale-map",
        lambda: msq((2, 2, 3), (1, 2), **FEW_ROUNDS),
        n_features=12,
        weights="statistical",
    ),
    _multiscale(
        "multiscale-pairs",
        lambda: msq((4, 3, 1), [1, (2, 1), (2, 3), (4, 3)], 6, **FEW_ROUNDS),
        n_features=12,
    ),
    _multiscale(
        "multiscale-below",
        lambda: msq((3, 4, 1), (1, 2), 3, **FEW_ROUNDS),
        n_features=12,
        learns=False,  # it has no scale as fine as the mean of the maps
    ),
    _multiscale(
        "multiscale-smooth",
        lambda: msq((3, 2, 2), "auto", 4, n_smoothers=2, **FEW_ROUNDS),
        n_features=12,
        weights="exact",
    ),
    _multiscale(
        "multiscale-one-scale",
        lambda: msq((3, 1, 2), [(3, 1)], 3),
        exact="sqeuclidean",
        idempotent=True,
        make_is_small=True,
    ),
    _multiscale(
        "pq-of-multiscale",
        lambda: pq(2, None, quantizer=msq((3, 1), n_codewords=5, **FEW_ROUNDS)),
    ),
    # The residual scheme
    _residual("rq-defaults", lambda: rq(4, None), make_is_small=False),
    _residual("rq-greedy", lambda: rq(), weights="statistical"),
    _residual("rq-beam", lambda: rq(beam_size=5, fit_beam_size=2)),
    _residual("rq-one-stage", lambda: rq(1), exact="sqeuclidean", idempotent=True),
    _residual(
        "rq-sizes",
        lambda: rq(3, [2, 5, 3], quantizer=_few_rounds()),
        sklearn_checks=False,
    ),
    _residual(
        "rq-splitting",
        lambda: rq(quantizer=vq(init="splitting", random_state=None)),
        weights="exact",
    ),
    _residual(
        "rq-shared",
        lambda: rq(n_codewords=7, quantizer=_few_rounds(), share_codebook=True),
        weights="statistical",
    ),
    _residual(
        "rq-shared-beam-refined",
        lambda: rq(
            n_codewords=7,
            quantizer=_few_rounds(),
            share_codebook=True,
            beam_size=3,
            n_refine=2,
        ),
    ),
    _residual(
        "rq-refined",
        lambda: rq(quantizer=_few_rounds(), n_refine=3, fit_beam_size=1),
        weights="statistical",
    ),
    _residual(
        "rq-weights",
        lambda: rq(
            quantizer=_few_rounds(), stage_weights=[1, 0, 2], n_refine=2, beam_size=4
        ),
        sklearn_checks=False,
    ),
    _residual("rq-warm", lambda: rq(warm_start=True, quantizer=_few_rounds())),
    _priced("rq-rate", lambda: rq(rate_weight=0.5), rate_weight=0.5),
    _priced("rq-balance", lambda: rq(balance=True, fit_beam_size=1), rate_weight=0.0),
    _priced(
        "rq-of-pq-balance-beam",
        lambda: rq(
            2, None, quantizer=ProductQuantizer(2, 3), balance=True, beam_size=3
        ),
        rate_weight=0.0,
    ),
    _priced(
        "rq-rate-all-sums",
        lambda: rq(
            rate_weight=0.5, beam_size=64, fit_beam_size=2, quantizer=_few_rounds()
        ),
        exact="sqeuclidean",
        rate_weight=0.5,
    ),
    _priced(
        "rq-of-pq-rate-beam",
        lambda: rq(
            2, None, quantizer=ProductQuantizer(2, 3), rate_weight=0.5, beam_size=3
        ),
    ),
    _residual("rq-ema", lambda: rq(quantizer=_few_batches("ema")), streams=True),
    _residual(
        "rq-minibatch-beam",
        lambda: rq(quantizer=_few_batches("minibatch"), beam_size=3),
        streams=True,
    ),
    _residual(
        "rq-of-pq",
        lambda: rq(2, None, quantizer=ProductQuantizer(2, 3)),
    ),
    _residual(
        "rq-of-pq-beam-refined",
        lambda: rq(
            2,
            None,
            quantizer=ProductQuantizer(2, 3, quantizer=_few_rounds()),
            beam_size=3,
            n_refine=2,
        ),
    ),
    _residual(
        "rq-of-rq-beam",
        lambda: rq(
            2,
            None,
            quantizer=ResidualQuantizer(2, 3, quantizer=_few_rounds()),
            beam_size=3,
        ),
    ),
    _multiscale(
        "rq-of-multiscale",
        lambda: rq(2, None, quantizer=msq((3, 2), n_codewords=5, **FEW_ROUNDS)),
    ),
    _residual(
        "pq-of-rq",
        lambda: pq(2, None, quantizer=ResidualQuantizer(2, 3, fit_beam_size=1)),
    ),
    _residual(
        "pq-of-rq-beam-refined",
        lambda: pq(
            2,
            None,
            quantizer=ResidualQuantizer(
                2, 3, quantizer=_few_rounds(), beam_size=2, n_refine=1
            ),
        ),
    ),
    _residual(
        "rq-of-kronecker",
        lambda: rq(2, None, quantizer=KroneckerQuantizer((2, 3), 3, max_iter=3)),
        sklearn_checks=False,
    ),
    _fixed(
        "rq-of-fsq",
        lambda: ResidualQuantizer(2, quantizer=FiniteScalarQuantizer(2)),
        idempotent=False,
        learns=False,
        streams=True,
    ),
    _fixed(
        "rq-of-binary",
        lambda: ResidualQuantizer(2, quantizer=BinaryQuantizer()),
        idempotent=False,
        streams=True,
    ),
    _fixed(
        "rq-of-spherical",
        lambda: ResidualQuantizer(
            2, quantizer=SphericalQuantizer(3, radius="learned", n_radius_levels=3)
        ),
        idempotent=False,
        learns=False,
        make_is_small=False,
        tables=False,
    ),
    _residual(
        "rq-of-manhattan",
        lambda: rq(quantizer=vq(metric="manhattan")),
        learns=False,
    ),
    _residual(
        "rq-of-pairs",
        lambda: rq(
            quantizer=[
                ("direction", vq(metric="cosine")),
                ("rest", UniformQuantizer(4, clip_range="quantile")),
            ],
            n_codewords=None,
        ),
        zeros=False,
        learns=False,
    ),
    _residual(
        "rq-of-list-beam-refined",
        lambda: rq(
            quantizer=[
                _few_rounds(n_codewords=5),
                ProductQuantizer(2, 3, quantizer=_few_rounds()),
            ],
            n_codewords=None,
            beam_size=3,
            n_refine=2,
        ),
    ),
    # The additive scheme
    Row("aq-exhaustive", lambda: aq(), computed=True),
    Row(
        "aq-sizes",
        lambda: aq(3, [2, 5, 3], **FEW_SUMS),
        computed=True,
        sklearn_checks=False,
    ),
    Row(
        "aq-fixed-ridge",
        lambda: aq(2, 5, ridge=0.5, max_iter=3),
        computed=True,
        weights="statistical",
    ),
    Row(
        "aq-searched",
        lambda: aq(3, 17, beam_size=3, fit_beam_size=2, n_rounds=2, **FEW_SUMS),
        exact=None,
        idempotent=False,
        make_is_small=False,
        searches_harder=True,
    ),
    Row(
        "aq-shared",
        lambda: aq(share_codebook=True, **FEW_SUMS),
        computed=True,
        few=False,
    ),
    Row(
        "aq-independent",
        lambda: aq(assignment="independent", max_iter=1),
        exact=None,
        weights="statistical",
    ),
    Row(
        "aq-independent-sizes",
        lambda: aq(2, [2, 5], assignment="independent", max_iter=1),
        exact=None,
        sklearn_checks=False,
    ),
    Row(
        "pq-of-aq",
        lambda: pq(2, None, quantizer=AdditiveQuantizer(2, 4, **FEW_SUMS)),
        computed=True,
    ),
    # Levels along paths
    _trellis("trellis-defaults", lambda: TrellisQuantizer()),
    _trellis(
        "trellis-4",
        lambda: TrellisQuantizer([1, 3, 0, 2, 1, 0], n_states=4, max_iter=3),
    ),
    _trellis(
        "trellis-shared",
        lambda: TrellisQuantizer(
            [2, 1, 2, 2, 0, 1], share_alphabets=True, n_states=16, max_iter=3
        ),
        learns=False,
    ),
    _trellis(
        "trellis-total", lambda: TrellisQuantizer(total_bits=11, n_states=4, max_iter=2)
    ),
    _trellis(
        "trellis-bitshift",
        lambda: TrellisQuantizer(n_states=64, trellis="bitshift", max_iter=2),
    ),
    _trellis(
        "trellis-bitshift-gaussian",
        lambda: TrellisQuantizer(
            1, total_bits=5, n_states=16, trellis="bitshift", alphabets="gaussian"
        ),
        learns=False,
    ),
    _trellis(
        "pq-of-trellis",
        lambda: pq(2, None, quantizer=TrellisQuantizer(1, n_states=4, max_iter=2)),
    ),
    # Signs
    _fixed(
        "binary-defaults", lambda: BinaryQuantizer(), exact="sqeuclidean", streams=True
    ),
    _fixed(
        "binary-lfq",
        lambda: BinaryQuantizer(scale=1),
        exact="sqeuclidean",
        learns=False,
        given=True,
        streams=True,
    ),
    _fixed(
        "binary-scales",
        lambda: BinaryQuantizer(scale=[0.5, 1, 1.5, 2, 2.5, 3]),
        exact="sqeuclidean",
        learns=False,
        given=True,
        streams=True,
        sklearn_checks=False,
    ),
    _fixed(
        "binary-spherical",
        lambda: BinaryQuantizer(spherical=True),
        exact="sqeuclidean",
        learns=False,
        given=True,
        streams=True,
    ),
    _fixed(
        "binary-spherical-uniform",
        lambda: BinaryQuantizer(spherical=True, radius="uniform", n_radius_levels=5),
        learns=False,
    ),
    _fixed(
        "binary-spherical-learned",
        lambda: BinaryQuantizer(spherical=True, radius="learned", n_radius_levels=5),
        learns=False,
    ),
    _fixed(
        "binary-spherical-float32",
        lambda: BinaryQuantizer(spherical=True, radius="float32"),
        learns=False,
        make_is_small=False,
        given=True,
        streams=True,
    ),
    _fixed(
        "pq-of-binary",
        lambda: ProductQuantizer(3, quantizer=BinaryQuantizer()),
        exact="sqeuclidean",
        streams=True,
    ),
    # Grids
    _fixed(
        "uniform-defaults",
        lambda: UniformQuantizer(),
        exact="sqeuclidean",
        make_is_small=False,
        streams=True,
    ),
    _fixed(
        "uniform-4",
        lambda: UniformQuantizer(4),
        exact="sqeuclidean",
        learns=False,
        streams=True,
    ),
    _fixed(
        "uniform-sizes",
        lambda: UniformQuantizer([3, 1, 4, 2, 5, 7]),
        exact="sqeuclidean",
        learns=False,
        sklearn_checks=False,
        streams=True,
    ),
    _fixed(
        "uniform-two-bytes",
        lambda: UniformQuantizer(300, clip_range=(-9.0, 9.0)),
        exact="sqeuclidean",
        idempotent=True,
        learns=False,
        make_is_small=False,
        given=True,
        streams=True,
    ),
    _fixed(
        "uniform-quantile",
        lambda: UniformQuantizer(4, clip_range="quantile", quantile_range=(5.0, 95.0)),
        exact="sqeuclidean",
        learns=False,
    ),
    _fixed(
        "uniform-gaussian",
        lambda: UniformQuantizer(4, clip_range="gaussian"),
        exact="sqeuclidean",
        learns=False,
        streams=True,
    ),
    _fixed(
        "uniform-laplacian",
        lambda: UniformQuantizer(3, clip_range="laplacian"),
        exact="sqeuclidean",
        learns=False,
    ),
    _fixed(
        "lloyd-max",
        lambda: UniformQuantizer(4, levels="lloyd-max"),
        exact="sqeuclidean",
        few=True,
    ),
    _fixed(
        "lloyd-max-gaussian",
        lambda: UniformQuantizer(
            4, levels="lloyd-max", feature_distribution="gaussian"
        ),
        exact="sqeuclidean",
        learns=False,
        streams=True,
    ),
    _fixed(
        "lloyd-max-laplacian",
        lambda: UniformQuantizer(
            4, levels="lloyd-max", feature_distribution="laplacian"
        ),
        exact="sqeuclidean",
        learns=False,
    ),
    _fixed(
        "uniform-steps",
        lambda: UniformQuantizer(5, range_ends="levels"),
        exact="sqeuclidean",
        learns=False,
        streams=True,
    ),
    _fixed(
        "uniform-shared",
        lambda: UniformQuantizer(16, share_levels=True),
        exact="sqeuclidean",
        learns=False,
        make_is_small=False,
        streams=True,
    ),
    _fixed(
        "uniform-quantile-shared",
        lambda: UniformQuantizer(3, clip_range="quantile", share_levels=True),
        exact="sqeuclidean",
        learns=False,
    ),
    _fixed(
        "uniform-levels",
        lambda: UniformQuantizer(levels=[[-3, 0, 2]] * 5 + [[1.0, 4.0]]),
        exact="sqeuclidean",
        learns=False,
        given=True,
        streams=True,
        sklearn_checks=False,
    ),
    _fixed(
        "lloyd-max-shared",
        lambda: UniformQuantizer(4, levels="lloyd-max", share_levels=True),
        exact="sqeuclidean",
        learns=False,
    ),
    _fixed(
        "uniform-bits",
        lambda: UniformQuantizer(total_bits=9.5),
        exact="sqeuclidean",
    ),
    _fixed(
        "uniform-bits-given",
        lambda: UniformQuantizer(
            clip_range=(-9.0, 9.0),
            total_bits=7,
            powers_of_two=True,
            range_ends="levels",
        ),
        exact="sqeuclidean",
    ),
    _fixed(
        "lloyd-max-bits",
        lambda: UniformQuantizer(levels="lloyd-max", total_bits=8),
        exact="sqeuclidean",
    ),
    _fixed(
        "lloyd-max-bits-gaussian",
        lambda: UniformQuantizer(
            levels="lloyd-max",
            feature_distribution="gaussian",
            total_bits=8,
            powers_of_two=True,
        ),
        exact="sqeuclidean",
    ),
    _fixed("uniform-step", lambda: UniformQuantizer(step=4.0)),
    _fixed(
        "uniform-target",
        lambda: UniformQuantizer(target_bits=10.0),
        make_is_small=False,
        tables=False,
        weights=None,  # what is added to counts counts less beside more rows
    ),
    _fixed(
        "pq-of-uniform",
        lambda: ProductQuantizer(3, quantizer=UniformQuantizer(3)),
        exact="sqeuclidean",
        learns=False,
        streams=True,
    ),
    # Finite scalars
    _fixed(
        "fsq-defaults",
        lambda: FiniteScalarQuantizer(),
        make_is_small=False,
        streams=True,
    ),
    _fixed("fsq-5", lambda: FiniteScalarQuantizer(5), streams=True),
    _fixed(
        "fsq-paper",
        lambda: FiniteScalarQuantizer(4, squash_formula="paper"),
        streams=True,
    ),
    _fixed(
        "fsq-sizes",
        lambda: FiniteScalarQuantizer([8, 6, 5, 2, 3, 4]),
        sklearn_checks=False,
        streams=True,
    ),
    _fixed(
        "fsq-symmetric",
        lambda: FiniteScalarQuantizer(4, squash_formula="symmetric", scale=2.0),
        streams=True,
    ),
    _fixed(
        "fsq-values",
        lambda: FiniteScalarQuantizer(3, decode_to="values"),
        idempotent=False,
        learns=False,
        given=True,
        streams=True,
    ),
    _fixed(
        "fsq-clamp",
        lambda: FiniteScalarQuantizer(
            [2, 3, 4, 5, 2, 3],
            squash="clamp",
            squash_formula="symmetric",
            scale=[1, 2, 3, 4, 5, 6],
            decode_to="values",
        ),
        exact="sqeuclidean",
        learns=False,
        given=True,
        streams=True,
        sklearn_checks=False,
    ),
    _fixed("fsq-cdf", lambda: FiniteScalarQuantizer(4, squash="cdf"), tables=False),
    _fixed("fsq-none", lambda: FiniteScalarQuantizer(5, squash="none"), tables=False),
    _fixed(
        "fsq-bits",
        lambda: FiniteScalarQuantizer(squash="none", total_bits=9),
        tables=False,
    ),
    _fixed(
        "pq-of-fsq",
        lambda: ProductQuantizer(2, quantizer=FiniteScalarQuantizer(4)),
        streams=True,
    ),
    # Angles
    _fixed(
        "spherical-defaults",
        lambda: SphericalQuantizer(),
        learns=False,
        make_is_small=False,
        tables=False,
    ),
    _fixed(
        "spherical-sizes",
        lambda: SphericalQuantizer([4, 3, 5, 2, 7]),
        learns=False,
        sklearn_checks=False,
        tables=False,
    ),
    _fixed(
        "spherical-density",
        lambda: SphericalQuantizer(4, angles="density"),
        learns=False,
        tables=False,
    ),
    _fixed(
        "spherical-tree",
        lambda: SphericalQuantizer(4, coordinates="tree", angles="density"),
        learns=False,
        tables=False,
    ),
    _fixed(
        "spherical-total-bits",
        lambda: SphericalQuantizer(total_bits=11, angles="density"),
        learns=False,
        tables=False,
    ),
    _fixed(
        "spherical-uniform-radius",
        lambda: SphericalQuantizer(4, radius="uniform", n_radius_levels=5),
        learns=False,
        tables=False,
    ),
    _fixed(
        "spherical-learned-radius",
        lambda: SphericalQuantizer(3, radius="learned", n_radius_levels=5),
        learns=False,
        tables=False,
    ),
    _fixed(
        "spherical-float32-radius",
        lambda: SphericalQuantizer(4, coordinates="tree", radius="float32"),
        learns=False,
        make_is_small=False,
        tables=False,
    ),
    _fixed(
        "pq-of-spherical",
        lambda: ProductQuantizer(
            2, quantizer=SphericalQuantizer(4, radius="uniform", n_radius_levels=4)
        ),
        learns=False,
        tables=False,
    ),
    # Rotations in front of others
    _rotated(
        "rotated-defaults",
        lambda: rotated(pq(8, None)),
        n_features=16,
        make_is_small=False,
    ),
    _rotated("rotated-warm", lambda: rotated(pq(2), warm_start=True)),
    _rotated("rotated-learned", lambda: rotated(pq(2), rotation="learned", max_iter=3)),
    _rotated(
        "rotated-pca-cut",
        lambda: rotated(pq(), rotation="pca", n_components=4),
        exact="sqeuclidean",
        sklearn_checks=False,
        represents=False,
    ),
    _rotated("rotated-random", lambda: rotated(_few_rounds(), rotation="random")),
    _rotated(
        "rotated-hadamard",
        lambda: rotated(pq(2), rotation="hadamard"),
        tables=False,
    ),
    _rotated(
        "rotated-matrix-of-rq",
        lambda: rotated(rq(quantizer=_few_rounds()), rotation=ROTATION),
        exact=None,
        idempotent=False,
        sklearn_checks=False,
    ),
    _rotated(
        "rotated-binary",
        lambda: rotated(BinaryQuantizer(), rotation="random"),
        few=False,
        represents=False,
    ),
    _rotated(
        "rotated-binary-length",
        lambda: rotated(
            BinaryQuantizer(spherical=True, radius="learned", n_radius_levels=5),
            rotation="pca",
        ),
        exact=None,
        few=False,
        represents=False,
        learns=False,
    ),
    _residual(
        "rq-of-rotated-beam",
        lambda: rq(2, None, quantizer=rotated(pq(2), random_state=None), beam_size=3),
        represents=False,
        tables=False,
    ),
    _rotated(
        "pq-of-rotated",
        lambda: pq(2, None, quantizer=rotated(pq(2), random_state=None)),
        tables=False,
    ),
    # Scales
    _scaled("scaled-defaults", lambda: ScaledQuantizer()),
    _scaled("scaled-warm", lambda: ScaledQuantizer(warm_start=True)),
    _scaled(
        "scaled-float32",
        lambda: ScaledQuantizer(scaling="norm", n_scale_bits="float32"),
        given=True,
    ),
    _scaled(
        "scaled-binary",
        lambda: ScaledQuantizer(
            BinaryQuantizer(scale=1), scaling="unbiased", n_scale_bits=3
        ),
        make_is_small=True,
    ),
    _scaled(
        "scaled-vq",
        lambda: ScaledQuantizer(_few_rounds(), n_scale_bits=4, random_state=0),
        deterministic=False,
        weights=None,
        few=True,
        represents=False,
        make_is_small=True,
    ),
    _scaled(
        "pq-of-scaled",
        lambda: ProductQuantizer(2, quantizer=ScaledQuantizer(n_scale_bits=3)),
    ),
    _scaled(
        "rq-of-scaled",
        lambda: ResidualQuantizer(
            2, quantizer=ScaledQuantizer(BinaryQuantizer(), n_scale_bits=2)
        ),
        make_is_small=True,
    ),
    # Reconstructions as features
    Row("features-vq", lambda: QuantizedFeatures(vq()), codes=False),
    Row("features-pq", lambda: QuantizedFeatures(pq()), codes=False),
    Row("features-ema", lambda: QuantizedFeatures(_online("ema")), codes=False),
]

BY_NAME = {row.name: row for row in TABLE}
assert len(BY_NAME) == len(TABLE)


def made_small(estimator):
    """Set few codewords and rounds: for checks that ask nothing of what is learned."""
    small = {"max_iter": 1, "n_codewords": 4, "n_stages": 2}
    names = small.keys() & estimator.get_params(deep=False).keys()
    return estimator.set_params(**{name: small[name] for name in names})


def tables_of(estimator):
    """Return its codebooks, or the alphabets that it has in their place."""
    if hasattr(estimator, "codebooks_"):
        return estimator.codebooks_
    if isinstance(estimator, TrellisQuantizer):
        return estimator.alphabets_
    if isinstance(estimator, ProductQuantizer | ResidualQuantizer):
        return [table for part in estimator.quantizers_ for table in tables_of(part)]
    # A transformer that holds a quantizer, or what stands in front of a trellis.
    return tables_of(estimator.quantizer_)


# Built with defaults: scikit-learn's checks run on these, and on `NESTED`.
DEFAULTS = [
    AdditiveQuantizer(),
    VectorQuantizer(),
    ProductQuantizer(),
    KroneckerQuantizer(),
    MultiScaleQuantizer(),
    ResidualQuantizer(),
    RotatedQuantizer(),
    QuantizedFeatures(VectorQuantizer()),
    BinaryQuantizer(),
    # Its defaults need three features; the checks have two.
    TrellisQuantizer(n_states=4),
    UniformQuantizer(),
    FiniteScalarQuantizer(),
    SphericalQuantizer(),
    ScaledQuantizer(),
    QuantizedNeighbors(VectorQuantizer()),
]

# Public estimators of neither codes nor reconstructions: they have tests of their own.
OTHERS = {QuantizedNeighbors}

QUANTIZERS = [row for row in TABLE if row.codes]
STREAMS = [row for row in TABLE if row.streams]

# One row of every pair of an outer and an inner class that takes any width.
NESTED = [
    BY_NAME[name]
    for name in (
        "pq-of-pq",
        "pq-of-kronecker",
        "pq-of-rq",
        "pq-of-aq",
        "pq-of-binary",
        "pq-of-uniform",
        "pq-of-fsq",
        "pq-of-spherical",
        "pq-of-rotated",
        "rq-of-pq",
        "rq-of-rq-beam",
        "rq-of-fsq",
        "rq-of-binary",
        "rq-of-spherical",
        "pq-of-scaled",
        "rq-of-scaled",
        "features-pq",
    )
]

# One row of every class: for what is written once, in the base class or beside it, and
# overridden by none; `test_the_contract_is_written_once` holds that.
ONE_OF_EACH = [
    BY_NAME[name]
    for name in (
        "vq-defaults",
        "pq-defaults",
        "kronecker-defaults",
        "multiscale-defaults",
        "rq-defaults",
        "rotated-defaults",
        "aq-exhaustive",
        "binary-defaults",
        "trellis-defaults",
        "uniform-defaults",
        "fsq-defaults",
        "spherical-defaults",
        "scaled-defaults",
        "features-vq",
    )
]

# All ways in which `VectorQuantizer` learns, also those that were added later.
(_OPTIONS,) = VectorQuantizer._parameter_constraints["learning"]
LEARNING = sorted(_OPTIONS.options - {"fixed"})

# Learners of each scheme.
LEARNERS = [
    BY_NAME[name]
    for name in (
        "vq-defaults",
        "vq-k-means++",
        "vq-random",
        "vq-progressive",
        "vq-farthest",
        "vq-cosine",
        "vq-rate",
        "pq-defaults",
        "pq-shared",
        "rq-beam",
        "rq-shared",
        "rq-refined",
        "aq-fixed-ridge",
        "kronecker-3",
        "multiscale-map",
        "multiscale-smooth",
        "uniform-defaults",
        "uniform-quantile",
        "fsq-defaults",
        "spherical-defaults",
        "spherical-float32-radius",
        "binary-defaults",
        "features-vq",
        "pq-of-pq",
        "uniform-gaussian",
        "rotated-learned",
        "rotated-hadamard",
        "scaled-defaults",
        "trellis-total",
        "uniform-target",
        "spherical-uniform-radius",
    )
]


def each(rows, thorough=()):
    """Run a test over rows; over those that are named only where all tests run."""
    rows = [
        pytest.param(row, id=row.name, marks=marks_of(row.name in thorough))
        for row in rows
    ]
    return pytest.mark.parametrize("row", rows)


def marks_of(thorough):
    return [pytest.mark.thorough] if thorough else []


every_class = each(ONE_OF_EACH)
every_row = each(TABLE)
every_quantizer = each(QUANTIZERS)
