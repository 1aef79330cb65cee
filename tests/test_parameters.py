"""Parameters and arguments out of their domain, and the numbers of other types in it.

Over all estimators where each has parameters of its own; where one implementation
serves them all, on those built with defaults.
"""

import inspect
from fractions import Fraction
from numbers import Integral

import numpy as np
import pytest
import scipy.sparse
from numpy.testing import assert_array_equal
from sklearn import config_context
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import KBinsDiscretizer, StandardScaler
from table import (
    DEFAULTS,
    aq,
    every_quantizer,
    kq,
    mixture,
    msq,
    pq,
    rq,
    vq,
)

from skvq import (
    AdditiveQuantizer,
    BinaryQuantizer,
    FiniteScalarQuantizer,
    KroneckerQuantizer,
    MultiScaleQuantizer,
    ProductQuantizer,
    QuantizedFeatures,
    ResidualQuantizer,
    SphericalQuantizer,
    UniformQuantizer,
    VectorQuantizer,
    metrics,
    nearest,
    parts,
)
from skvq._compat import Interval
from skvq.codes import disambiguate, one_hot, pack, token_ids
from skvq.learning.rows import Rows

WIDTHS = ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"]
# Those of eight bits wrap around where any do; the widest and a signed integer make a
# float.
TELLING_WIDTHS = ["int8", "uint8", "uint64"]

every_default = pytest.mark.parametrize(
    "estimator", DEFAULTS, ids=lambda estimator: type(estimator).__name__
)
ignore_few = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def same_model(one, other, X):
    found, expected = one.transform(X), other.transform(X)
    if scipy.sparse.issparse(found):
        found, expected = found.toarray(), expected.toarray()
    assert_array_equal(found, expected)
    assert getattr(one, "distortion_", 0) == getattr(other, "distortion_", 0)


# -- numbers of other types ------------------------------------------------------------

# The numbers are near the ends of eight bits: arithmetic with them leaves these.
SIZED = {
    "vq": (vq, {"n_codewords": 120}),
    "vq-splitting": (vq, {"n_codewords": 120, "init": "splitting"}),
    "vq-random": (vq, {"n_codewords": 120, "init": "random"}),
    "vq-progressive": (vq, {"n_codewords": 120, "init": "progressive"}),
    "vq-online": (vq, {"n_codewords": 120, "learning": "sgd", "batch_size": 100}),
    "pq": (pq, {"n_subspaces": 3, "n_codewords": 120}),
    "rq": (rq, {"n_codewords": 20, "beam_size": 100, "fit_beam_size": 2}),
    "rq-shared": (rq, {"n_codewords": 120, "share_codebook": True}),
    "rq-refined": (rq, {"n_codewords": 20, "n_refine": 1}),
    "aq": (aq, {"n_codewords": 20, "beam_size": 100, "n_rounds": 2, "max_iter": 1}),
    "aq-independent": (aq, {"n_codewords": 100, "assignment": "independent"}),
    "kronecker": (kq, {"n_codewords": 100, "max_iter": 2}),
    "multiscale": (msq, {"n_codewords": 100, "max_iter": 2}),
    "uniform": (UniformQuantizer, {"n_levels": 120}),
    "lloyd-max": (UniformQuantizer, {"n_levels": 120, "levels": "lloyd-max"}),
    "gaussian": (UniformQuantizer, {"n_levels": 120, "clip_range": "gaussian"}),
    "fsq": (FiniteScalarQuantizer, {"n_levels": 120}),
    "fsq-none": (FiniteScalarQuantizer, {"n_levels": 120, "squash": "none"}),
    "spherical": (SphericalQuantizer, {"n_levels": 120, "angles": "density"}),
    "radius": (SphericalQuantizer, {"radius": "learned", "n_radius_levels": 120}),
    "binary": (
        BinaryQuantizer,
        {"spherical": True, "radius": "uniform", "n_radius_levels": 120},
    ),
}


def _as_type(parameters, kind):
    """Return parameters with their numbers, a seed too, in a type of NumPy's."""
    return {
        name: kind(value) if type(value) is int else value
        for name, value in {"random_state": 3, **parameters}.items()
    }


@pytest.mark.long
@ignore_few
@pytest.mark.parametrize("name", SIZED)
def test_integers_of_any_width_are_what_they_are(name):
    make, parameters = SIZED[name]
    X = mixture(160)
    expected = _made(make, parameters, int).fit(X)
    for width in TELLING_WIDTHS:
        kind = np.dtype(width).type
        estimator = _made(make, parameters, kind)
        given = estimator.get_params(deep=False)
        same_model(estimator.fit(X), expected, X)
        # What the user has set stays, in the type that it was set in.
        kept = estimator.get_params(deep=False)
        assert all(kept[key] is value for key, value in given.items())


def _made(make, parameters, kind):
    parameters = _as_type(parameters, kind)
    if "random_state" not in make().get_params():
        del parameters["random_state"]
    return make(**parameters)


@ignore_few
@pytest.mark.parametrize(
    ("estimator", "parameter", "length"),
    [
        (pq(), "n_codewords", 3),
        (rq(fit_beam_size=1), "n_codewords", 3),
        (aq(max_iter=1), "n_codewords", 3),
        (kq(max_iter=1), "n_codewords", 2),
        (UniformQuantizer(), "n_levels", 6),
        (FiniteScalarQuantizer(), "n_levels", 6),
        (SphericalQuantizer(), "n_levels", 5),
    ],
    ids=lambda value: type(value).__name__ if hasattr(value, "fit") else str(value),
)
def test_sequences_of_integers_of_any_width(estimator, parameter, length):
    X = mixture(60)
    expected = clone(estimator).set_params(**{parameter: [30] * length}).fit(X)
    for width in TELLING_WIDTHS:
        sizes = np.full(length, 30, dtype=width)
        for given in (sizes, list(sizes)):
            unfit = clone(estimator).set_params(**{parameter: given})
            same_model(unfit.fit(X), expected, X)


@pytest.mark.parametrize("width", WIDTHS)
def test_shapes_of_integers_of_any_width(width):
    """Products of the sizes leave eight bits."""
    X = mixture(40, 256)
    sixteen = np.full(2, 16, dtype=width)
    kronecker = kq(sixteen, 2, max_iter=1).fit(X)
    assert kronecker.factor_sizes_ == (16, 16)
    maps = msq((*sixteen, 1), sixteen[:1] // 8, 2, max_iter=1).fit(X)
    assert maps.map_shape_ == (16, 16, 1)
    assert all(type(size) is int for size in (*maps.map_shape_, *maps.scales_[0]))


@pytest.mark.parametrize(
    ("estimator", "parameter"),
    [
        (rq(n_codewords=20), "beam_size"),
        (aq(n_codewords=20, max_iter=1), "beam_size"),
        (aq(n_codewords=20, max_iter=1), "n_rounds"),
        (rq(2, None, quantizer=ProductQuantizer(2, 20)), "beam_size"),
    ],
    ids=["rq", "aq", "aq-rounds", "rq-of-pq"],
)
def test_what_is_set_after_the_fit(estimator, parameter):
    X = mixture(320)
    fitted = clone(estimator).fit(X)
    expected = fitted.set_params(**{parameter: 5}).transform(X[:40])
    for width in WIDTHS:
        fitted.set_params(**{parameter: np.dtype(width).type(5)})
        assert_array_equal(fitted.transform(X[:40]), expected)
    for bad in (-1, 1.5, "3", None, True, np.array(3)):
        with pytest.raises(ValueError, match=parameter):
            fitted.set_params(**{parameter: bad}).transform(X[:40])


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("estimator", [rq(3, 8, beam_size=2), aq(3, 8, max_iter=1)])
def test_codes_are_those_of_the_tables_that_were_learned(estimator, shared):
    X = mixture(320)
    fitted = clone(estimator).set_params(share_codebook=shared).fit(X)
    expected = fitted.transform(X)
    fitted.set_params(share_codebook=not shared)
    assert_array_equal(fitted.transform(X), expected)


def test_weights_of_stages_are_as_many_as_were_learned():
    X = mixture(320)
    fitted = rq(3, 8, beam_size=2, stage_weights=[1, 1, 1]).fit(X)
    expected = fitted.transform(X)
    assert_array_equal(fitted.set_params(n_stages=2).transform(X), expected)
    with pytest.raises(ValueError, match="expected n_stages=3"):
        fitted.set_params(stage_weights=[1, 1]).transform(X)


@pytest.mark.parametrize(
    ("estimator", "changed", "message"),
    [
        (ProductQuantizer(2), {"n_subspaces": 4}, "n_subspaces=4 was 2"),
        (ProductQuantizer(2), {"share_codebook": True}, "share_codebook=True was Fa"),
        (ProductQuantizer(2), {"n_codewords": 8}, r"n_codewords=\[8, 8\] was \[4, 4\]"),
        (ResidualQuantizer(2), {"n_stages": 3}, "n_stages=3 was 2"),
        (ResidualQuantizer(2), {"n_codewords": [4, 3]}, r"\[4, 3\] was \[4, 4\]"),
    ],
)
def test_streams_go_on_as_they_began(estimator, changed, message):
    X, part = mixture(60), vq(4, learning="minibatch")
    stream = clone(estimator).set_params(quantizer=part).partial_fit(X)
    expected = stream.transform(X)
    with pytest.raises(ValueError, match=message):
        stream.set_params(**changed).partial_fit(X)
    assert_array_equal(stream.transform(X), expected)


@pytest.mark.parametrize(
    ("estimator", "parameter"),
    [
        (vq(), "tol"),
        (vq(learning="ema"), "decay"),
        (vq(learning="sgd"), "learning_rate"),
        (aq(max_iter=1), "ridge"),
        (msq(n_smoothers=1), "smoothing"),
        (BinaryQuantizer(), "scale"),
        (SphericalQuantizer(angles="density"), "total_bits"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_fractions_and_floats_of_any_width(estimator, parameter):
    X = mixture(100)
    expected = clone(estimator).set_params(**{parameter: 0.25}).fit(X)
    for number in (Fraction(1, 4), *map(np.float64(0.25).astype, "efg")):
        given = clone(estimator).set_params(**{parameter: number})
        same_model(given.fit(X), expected, X)


# -- values out of their domain --------------------------------------------------------


def _numbers():
    """Yield every parameter that is a number: the estimator, its name, its limits."""
    for estimator in DEFAULTS:
        for parameter, constraints in estimator._parameter_constraints.items():
            limits = [one for one in constraints if isinstance(one, Interval)]
            # -1 and below are numbers of jobs; they have a test of their own.
            if limits and parameter not in ("random_state", "n_jobs"):
                yield pytest.param(
                    estimator,
                    parameter,
                    limits[0],
                    id=f"{type(estimator).__name__}-{parameter}",
                )


@pytest.mark.parametrize(("estimator", "parameter", "limits"), list(_numbers()))
def test_no_numbers(estimator, parameter, limits):
    values = [True, np.True_, np.array(3), 1j, "3", b"3", {3}, {3: 3}, float("nan")]
    values += [float("inf"), -(2**70), int, object()]
    if limits.type is Integral:
        values += [2.5, 2.0, np.float32(2), Fraction(2)]
    else:
        values.append(10**400)
    for value in values:
        unfit = clone(estimator).set_params(**{parameter: value})
        with pytest.raises(ValueError, match=f"'{parameter}' parameter of "):
            unfit.fit(mixture(20))


@pytest.mark.parametrize(
    ("estimator", "parameter"),
    [
        (VectorQuantizer(), "n_codewords"),
        (ProductQuantizer(), "n_subspaces"),
        (ProductQuantizer(), "n_codewords"),
        (ResidualQuantizer(), "n_stages"),
        (ResidualQuantizer(), "n_codewords"),
        (ResidualQuantizer(), "beam_size"),
        (AdditiveQuantizer(), "n_codebooks"),
        (AdditiveQuantizer(), "n_codewords"),
        (AdditiveQuantizer(), "beam_size"),
        (AdditiveQuantizer(), "fit_beam_size"),
        (KroneckerQuantizer(), "n_codewords"),
        (MultiScaleQuantizer(), "n_codewords"),
        (MultiScaleQuantizer(), "n_smoothers"),
        (UniformQuantizer(), "n_levels"),
        (FiniteScalarQuantizer(), "n_levels"),
        (SphericalQuantizer(), "n_levels"),
        (SphericalQuantizer(), "total_bits"),
        (SphericalQuantizer(), "n_radius_levels"),
        (BinaryQuantizer(), "n_radius_levels"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_sizes_have_an_end(estimator, parameter):
    unfit = clone(estimator).set_params(**{parameter: 2**32 + 1})
    with pytest.raises(ValueError, match=f"'{parameter}' parameter of "):
        unfit.fit(mixture(20))


@pytest.mark.parametrize(
    ("estimator", "parameter"),
    [
        (pq(), "n_codewords"),
        (pq(share_codebook=True), "n_codewords"),
        (rq(), "n_codewords"),
        (rq(share_codebook=True), "n_codewords"),
        (aq(), "n_codewords"),
        (kq(), "factor_sizes"),
        (msq(), "map_shape"),
        (msq(), "scales"),
        (UniformQuantizer(), "n_levels"),
        (FiniteScalarQuantizer(), "n_levels"),
        (SphericalQuantizer(), "n_levels"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_no_sequences_of_sizes(estimator, parameter):
    n = {"factor_sizes": 2, "map_shape": 2, "SphericalQuantizer": 5}.get(parameter, 3)
    hidden = np.ma.masked_array([2] * n, mask=[1] + [0] * (n - 1))
    values = ["444", {2, 3}, {2: 3}, [], [2.0] * n, [True] * n, [None] * n, ["2"] * n]
    values += [[-2] * n, [0] * n, [2**70] * n, [[2] * n], hidden, np.ones((n, n), int)]
    for value in values:
        unfit = clone(estimator).set_params(**{parameter: value})
        with pytest.raises(ValueError, match=parameter):
            unfit.fit(mixture(20))


TABLES = {
    "flat": np.zeros(8),
    "deep": np.zeros((4, 2, 1)),
    "narrow": np.zeros((4, 1)),
    "text": [["a", "b"]] * 4,
    "ragged": [[1.0], [1.0, 2.0]],
    "nan": np.full((4, 2), np.nan),
    "masked": np.ma.masked_array(np.ones((4, 2)), mask=np.eye(4, 2)),
    "number": 4,
    "class": VectorQuantizer,
    "none": None,
}


@pytest.mark.parametrize("kind", TABLES)
def test_tables_of_a_wrong_shape_are_named(kind):
    table = TABLES[kind]
    X = mixture(40, 2)
    with pytest.raises(ValueError, match=r"\binit\b"):
        vq(init=table).fit(X)
    good = np.ones((4, 3))
    X = mixture(40, 6)
    with pytest.raises(ValueError, match=r"init\[0\]"):
        kq((2, 3), init=[table, good]).fit(X)
    if kind != "none":
        with pytest.raises(ValueError, match=r"fixed_factors\[0\]"):
            kq((2, 3), fixed_factors=[table, None]).fit(X)
    for parameter in ("init", "fixed_factors"):
        with pytest.raises(ValueError, match=f"{parameter} has 1 entries"):
            kq((2, 3), **{parameter: [good]}).fit(X)


# -- memory ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("estimator", "names"),
    [
        (vq(2**31), "n_codewords=2147483648"),
        (vq(2**31, init="normal", learning="fixed"), "n_codewords=2147483648"),
        (vq(2**31, learning="minibatch"), "n_codewords=2147483648"),
        (vq(2**31, metric="manhattan"), "n_codewords=2147483648"),
        (pq(3, 2**31), "n_codewords=2147483648"),
        (pq(3, [2, 2, 2**31]), "n_codewords="),
        (pq(3, 2**31, share_codebook=True), "n_codewords="),
        (pq(2, None, quantizer=ProductQuantizer(2, 2**31)), "n_codewords="),
        (pq(2, None, quantizer=KroneckerQuantizer(None, [2, 2**31])), "n_codewords="),
        (rq(10**9), "n_stages=1000000000"),
        (rq(10**9, None, quantizer=BinaryQuantizer()), "n_stages=1000000000"),
        (rq(3, [2, 2, 2**31]), "n_codewords="),
        (rq(3, 2**31, share_codebook=True), "n_codewords=2147483648"),
        (rq(6, 40, beam_size=2**31), "beam_size=2147483648"),
        (
            rq(6, None, quantizer=ProductQuantizer(2, 9), beam_size=2**31),
            "beam_size=2147483648",
        ),
        (aq(3, 2**31), "n_codewords=2147483648"),
        (aq(3, 2**31, assignment="independent"), "n_codewords=2147483648"),
        (aq(10**9, 2), "n_codebooks=1000000000"),
        (kq(None, [1, 2**31]), "n_codewords="),
        (msq(None, n_codewords=2**31), "n_codewords=2147483648"),
        (msq(None, n_codewords=4, n_smoothers=2**20), "n_smoothers=1048576"),
        (UniformQuantizer(2**31, levels="lloyd-max"), "n_levels=2147483648"),
        (
            UniformQuantizer(
                2**31, levels="lloyd-max", feature_distribution="gaussian"
            ),
            "n_levels=2147483648",
        ),
        (SphericalQuantizer(2**31, angles="density"), "n_levels=2147483648"),
        (
            SphericalQuantizer(radius="learned", n_radius_levels=2**31),
            "n_radius_levels=2147483648",
        ),
        (
            BinaryQuantizer(spherical=True, radius="learned", n_radius_levels=2**31),
            "n_radius_levels=2147483648",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_what_is_out_of_proportion_is_refused_before_it_is_made(estimator, names):
    """A machine of any size: what is asked for is hundreds of gigabytes."""
    with pytest.raises(ValueError, match=rf"{names}.* GiB.*64 times X.* KiB"):
        estimator.fit(mixture(300))
    if hasattr(estimator, "partial_fit"):
        with pytest.raises(ValueError, match=rf"{names}.* GiB.*64 times X.* KiB"):
            clone(estimator).partial_fit(mixture(300))


def test_levels_of_many_features():
    X = np.zeros((2, 3000), dtype=np.float32)
    with pytest.raises(ValueError, match=r"n_levels=65536 .* GiB.* KiB"):
        FiniteScalarQuantizer(2**16).fit(X)


def test_memory_goes_with_the_samples():
    """Where X is large, so may be what is learned from it."""
    X = np.broadcast_to(np.float32(0), (2**26, 8))
    vq(2**27)._check_memory(Rows(X))
    with pytest.raises(ValueError, match="GiB"):
        vq(2**27)._check_memory(Rows(X[: 2**20]))


def test_a_beam_that_no_sums_fill_takes_nothing():
    X = mixture(50)
    fitted = rq(2, 3, beam_size=2**32).fit(X)
    expected = rq(2, 3, beam_size=9).fit(X)
    same_model(fitted, expected, X)


def test_a_beam_set_after_the_fit():
    X = mixture(300)
    fitted = rq(6, 40).fit(X).set_params(beam_size=2**31)
    with pytest.raises(ValueError, match=r"beam_size=2147483648.* GiB.* KiB"):
        fitted.transform(X)


@pytest.mark.parametrize("n_jobs", [2, 1000, -1])
def test_no_more_workers_than_parts(n_jobs, monkeypatch):
    started = []

    class Recorded(parts.Parallel):
        def __init__(self, n_jobs=None, **options):
            started.append(n_jobs)
            super().__init__(n_jobs=1, **options)

    monkeypatch.setattr(parts, "Parallel", Recorded)
    monkeypatch.setattr(parts, "effective_n_jobs", lambda n: 64 if n == -1 else n or 1)
    X = mixture(60)
    same_model(pq(3, 4, n_jobs=n_jobs).fit(X), pq(3, 4).fit(X), X)
    pq(3, 4, n_jobs=n_jobs, share_codebook=True).fit(X)
    assert started == [min(n_jobs % 64, 3)]


@pytest.mark.parametrize("n_jobs", [0, 1.5, True, "2"])
def test_no_number_of_jobs(n_jobs):
    with pytest.raises(ValueError, match="'n_jobs' parameter of ProductQuantizer"):
        pq(n_jobs=n_jobs).fit(mixture(20))


def test_more_bits_than_angles_take():
    with pytest.warns(ConvergenceWarning, match="total_bits=81 is more than 80"):
        sq = SphericalQuantizer(total_bits=81).fit(mixture(50))
    assert sq.bits_per_sample_ == 80


# -- masked arrays ---------------------------------------------------------------------


def hide_one(array):
    mask = np.zeros(np.shape(array), dtype=bool)
    mask.flat[3] = True
    return np.ma.masked_array(array, mask=mask)


@every_default
@ignore_few
def test_masked_arrays_are_refused(estimator):
    X = mixture(20)
    fitted = clone(estimator).fit(X)
    rows = list(hide_one(X))  # of which the conversion would lose the masks
    for hidden in (hide_one(X), rows):
        for method in ("fit", "transform", "score", "quantize"):
            if hasattr(fitted, method):
                with pytest.raises(ValueError, match="X is a masked array"):
                    getattr(clone(fitted) if method == "fit" else fitted, method)(
                        hidden
                    )
    if "sample_weight" in inspect.signature(fitted.fit).parameters:
        weights = hide_one(np.ones(len(X)))
        with pytest.raises(ValueError, match="sample_weight is a masked array"):
            clone(estimator).fit(X, sample_weight=weights)
    if hasattr(fitted, "inverse_transform"):
        name = next(iter(inspect.signature(fitted.inverse_transform).parameters))
        with pytest.raises(ValueError, match=f"{name} is a masked array"):
            fitted.inverse_transform(hide_one(fitted.transform(X)))


@every_default
@ignore_few
def test_a_mask_that_hides_nothing_changes_nothing(estimator):
    X = mixture(40)
    plain = clone(estimator).set_params(**_seeded(estimator)).fit(X)
    same_model(clone(plain).fit(np.ma.masked_array(X)), plain, X)


def _seeded(estimator):
    return {key: 0 for key in estimator.get_params() if key.endswith("random_state")}


HIDDEN_CODES = hide_one(np.array([[0, 1], [2, 3], [1, 0]]))


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        (nearest.nearest, (hide_one(np.ones((3, 2))), np.ones((4, 2)))),
        (nearest.nearest, (np.ones((3, 2)), hide_one(np.ones((4, 2))))),
        (nearest.nearest_best, (hide_one(np.ones((3, 2))), [np.ones((4, 2))], 2)),
        (nearest.nearest_product, (hide_one(np.ones((3, 2))), [np.ones((4, 2))])),
        (nearest.nearest_kronecker, (hide_one(np.ones((3, 2))), [np.ones((4, 2))])),
        (nearest.paired, (np.ones((3, 2)), hide_one(np.ones((3, 2))))),
        (nearest.accumulate, (hide_one(np.ones((4, 2))), np.zeros(4, int), 1)),
        (nearest.accumulate, (np.ones((4, 2)), hide_one(np.zeros(4, int)), 1)),
        (metrics.distortion, (np.ones((3, 2)), hide_one(np.ones((3, 2))))),
        (metrics.sqnr, (hide_one(np.ones((3, 2))), np.ones((3, 2)))),
        (metrics.code_entropy, (HIDDEN_CODES,)),
        (metrics.perplexity, (HIDDEN_CODES,)),
        (metrics.code_usage, (HIDDEN_CODES, (4, 4))),
        (metrics.imbalance_factor, (HIDDEN_CODES, (4, 4))),
        (metrics.collision_rate, (HIDDEN_CODES,)),
        (metrics.duplicate_rate, (HIDDEN_CODES,)),
        (disambiguate, (HIDDEN_CODES,)),
        (pack, (HIDDEN_CODES, (4, 4))),
        (token_ids, (HIDDEN_CODES, (4, 4))),
        (one_hot, (HIDDEN_CODES, (4, 4))),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_functions_refuse_masked_arrays(function, arguments):
    with pytest.raises(ValueError, match="is a masked array"):
        function(*arguments)


# -- what functions take ---------------------------------------------------------------


@pytest.mark.parametrize("width", WIDTHS)
def test_functions_take_integers_of_any_width(width):
    number = np.dtype(width).type
    X = mixture(60).astype(np.float64)
    tables = [mixture(20, seed=seed).astype(np.float64) for seed in range(3)]
    codes, _ = nearest.nearest_best(X, tables, number(100), n_best=number(2))
    expected, _ = nearest.nearest_best(X, tables, 100, n_best=2)
    assert_array_equal(codes, expected)
    improved = nearest.improve_sums(
        X, tables, codes[:, 0], n_rounds=number(3), seed=number(5)
    )
    expected = nearest.improve_sums(X, tables, codes[:, 0], n_rounds=3, seed=5)
    assert_array_equal(improved[0], expected[0])
    _, counts = nearest.accumulate(X, np.arange(60), number(60))
    assert_array_equal(counts, np.ones(60))
    assert token_ids([[99, 99]], (number(100), number(100))).tolist() == [9999]
    assert len(vq(16).fit(X).full_codebook(max_size=number(100))) == 16


@pytest.mark.parametrize("value", [-1, 2.5, "2", None, True, float("nan"), np.array(3)])
def test_functions_name_what_is_no_count(value):
    X, tables = mixture(9), [mixture(4, seed=1), mixture(4, seed=2)]
    codes = np.zeros((9, 2), dtype=int)
    for name, call in {
        "beam_size": lambda: nearest.nearest_best(X, tables, value),
        "n_best": lambda: nearest.nearest_best(X, tables, 2, n_best=value),
        "n_rounds": lambda: nearest.improve_sums(X, tables, codes, n_rounds=value),
        "seed": lambda: nearest.improve_sums(X, tables, codes, n_rounds=1, seed=value),
        "n_codewords": lambda: nearest.accumulate(X, codes[:, 0], value),
        "max_size": lambda: vq().fit(X).full_codebook(max_size=value),
        "sizes": lambda: metrics.code_usage(codes, [value, 4]),
    }.items():
        with pytest.raises(ValueError, match=rf"{name}(=| holds ).*expected"):
            call()


def test_codes_to_add_up_are_integers():
    with pytest.raises(ValueError, match="codes has dtype float64"):
        nearest.accumulate(mixture(2), [0.5, 1.0], 2)


# -- what messages say -----------------------------------------------------------------


@every_quantizer
def test_why_there_is_no_partial_fit(row):
    quantizer = row.make()
    if row.streams:
        assert hasattr(quantizer, "partial_fit")
        return
    assert not hasattr(quantizer, "partial_fit")
    name = type(quantizer).__name__
    message = f"(?s){name} has no partial_fit with these parameters: .*"
    parameters = quantizer.get_params(deep=False)
    if name == "VectorQuantizer":
        message += f"learning='{quantizer.learning}'.*minibatch, ema, sgd"
    elif parameters.get("share_codebook") and name == "ResidualQuantizer":
        message += "share_codebook=True"
    elif parameters.get("n_refine"):
        message += "n_refine="
    elif name in ("ProductQuantizer", "ResidualQuantizer"):
        message += "its part, .*, has none: "
    else:
        message += "does not learn from a stream"
    with pytest.raises(AttributeError, match=message):
        quantizer.partial_fit(row.data())
    with pytest.raises(AttributeError, match=message):
        type(quantizer).partial_fit(quantizer, row.data())


def test_invalid_parameters_hide_partial_fit():
    """To ask whether it is there is no error, whatever the parameters are."""
    quantizer = ResidualQuantizer(n_refine="3")
    assert not hasattr(quantizer, "partial_fit")
    with pytest.raises(AttributeError, match="ResidualQuantizer has no partial_fit"):
        quantizer.partial_fit(mixture(20))


def test_partial_fit_of_the_class_is_a_function():
    method = VectorQuantizer.partial_fit
    assert inspect.isfunction(method)
    assert list(inspect.signature(method).parameters) == [
        "self",
        "X",
        "y",
        "sample_weight",
    ]
    assert "one batch of a stream" in inspect.getdoc(method)
    assert "one batch of a stream" in inspect.getdoc(vq(learning="ema").partial_fit)
    with config_context(enable_metadata_routing=True):
        routed = vq().set_partial_fit_request(sample_weight=True)
        assert routed.get_metadata_routing().partial_fit.requests == {
            "sample_weight": True
        }


@pytest.mark.parametrize("learning", ["lloyd", "ema", "fixed"])
@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("euclid", "sqeuclidean"),
        ("l2", "sqeuclidean"),
        ("L2", "sqeuclidean"),
        ("sq_euclidean", "sqeuclidean"),
        ("l1", "manhattan"),
        ("manhatan", "manhattan"),
        ("cos", "cosine"),
        ("dot", "inner_product"),
        ("inner product", "inner_product"),
    ],
)
def test_a_metric_near_a_known_one_is_suggested(given, meant, learning):
    with pytest.raises(ValueError, match=f"metric='{given}'.*did you mean '{meant}'"):
        vq(metric=given, learning=learning).fit(mixture(20))


def test_metrics_that_are_not_near_any():
    for metric in ("xyz", "", 3, None, [], np.array("cosine")):
        with pytest.raises(ValueError, match="metric") as error:
            vq(metric=metric).fit(mixture(20))
        assert "did you mean" not in str(error.value)


@pytest.mark.parametrize("learning", ["lloyd", "minibatch"])
def test_euclidean_distance_is_learned_as_its_square(learning):
    message = "metric='euclidean'.*'sqeuclidean', which gives the same codes"
    with pytest.raises(ValueError, match=message):
        vq(metric="euclidean", learning=learning).fit(mixture(20))
    with pytest.raises(ValueError, match="Use one of these"):
        vq(metric="chebyshev", learning=learning).fit(mixture(20))


@every_default
@ignore_few
def test_finite_values_that_overflow_are_not_called_infinite(estimator):
    X = mixture(30, dtype=np.float64)
    huge = X.copy()
    huge[0, 0] = 1e300
    narrow = clone(estimator).fit(X.astype(np.float32))
    for call in (lambda: clone(estimator).fit(huge), lambda: narrow.transform(huge)):
        try:
            call()
        except ValueError as error:
            message = str(error)
            assert "NaN" not in message
            assert "inf" not in message
            assert "1e+300" in message or "overflow" in message


def test_a_batch_that_overflows_the_dtype_of_the_stream():
    stream = vq(learning="ema").partial_fit(mixture(30))
    batch = mixture(30, dtype=np.float64)
    batch[0, 0] = 1e300
    with pytest.raises(ValueError, match=r"1e\+300, too large for float32"):
        stream.partial_fit(batch)


needs_a_wider_dtype = pytest.mark.skipif(
    np.finfo(np.longdouble).max == np.finfo(np.float64).max, reason="no wider dtype"
)


@needs_a_wider_dtype
@every_default
def test_values_beyond_the_widest_dtype(estimator):
    X = mixture(30).astype(np.longdouble) * np.longdouble("1e400")
    with pytest.raises(ValueError, match="too large for float64"):
        clone(estimator).fit(X)


@needs_a_wider_dtype
def test_the_place_of_a_value_beyond_the_widest_dtype():
    X = mixture(30).astype(np.longdouble)
    X[7, 3] = np.longdouble("1e400")
    with pytest.raises(ValueError, match=r"float64.* in row 7, column 3\."):
        vq().fit(X)


@pytest.mark.parametrize("estimator", [vq(random_state=0), UniformQuantizer(9)])
def test_the_order_of_bytes_changes_nothing(estimator):
    X = mixture(60).astype(np.float32)
    swapped = X.astype(X.dtype.newbyteorder())
    fitted = clone(estimator).fit(X)
    same_model(fitted, clone(estimator).fit(swapped), X)
    assert_array_equal(fitted.transform(swapped), fitted.transform(X))


@pytest.mark.parametrize("outer", [ProductQuantizer, ResidualQuantizer])
def test_a_parameter_of_a_part_that_is_not_there_yet(outer):
    part = outer()._default_part()
    with pytest.raises(
        ValueError, match="quantizer__max_iter=3 cannot be set"
    ) as error:
        outer().set_params(quantizer__max_iter=3)
    assert f"set quantizer={part!r} first" in str(error.value)
    both = outer().set_params(quantizer=part, quantizer__max_iter=3)
    assert both.quantizer.max_iter == 3
    assert both.set_params(quantizer__max_iter=4).quantizer.max_iter == 4
    with pytest.raises(ValueError, match="quantizer__max_iter"):
        both.set_params(quantizer=None, quantizer__max_iter=4)
    with pytest.raises(ValueError, match="Invalid parameter 'quantiser'"):
        outer().set_params(quantiser__max_iter=3)


@pytest.mark.parametrize(
    "outer", [ProductQuantizer, ResidualQuantizer, QuantizedFeatures]
)
@pytest.mark.parametrize(
    ("part", "name"),
    [
        (make_pipeline(PCA(2), VectorQuantizer(4)), "Pipeline"),
        (KBinsDiscretizer(4), "KBinsDiscretizer"),
        (StandardScaler(), "StandardScaler"),
        (VectorQuantizer, "<class 'skvq.vector.VectorQuantizer'>"),
        (QuantizedFeatures(VectorQuantizer()), "QuantizedFeatures"),
        ("vq", "'vq'"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_parts_that_are_no_quantizers(outer, part, name):
    with pytest.raises(ValueError, match="'quantizer' parameter of ") as error:
        outer(quantizer=part).fit(mixture(20))
    message = str(error.value)
    assert "an instance of a quantizer of skvq" in message
    assert "steps of a pipeline go in front of the whole" in message
    assert f"Got {name}" in message


@every_default
def test_samples_of_three_dimensions(estimator):
    X = mixture(20)[:, :, None]
    for X in (mixture(20)[:, :, None], mixture(20)[:, :, None].tolist()):
        with pytest.raises(ValueError, match="Found array with dim 3") as error:
            clone(estimator).fit(X)
        assert "X.reshape(-1, n_features)" in str(error.value)


@every_default
@ignore_few
def test_arrays_that_are_no_numbers_are_named(estimator):
    X = mixture(20)
    with pytest.raises(TypeError, match=r"X: float\(\) argument must be"):
        clone(estimator).fit(np.full(X.shape, object()))
    for weights in (
        ["a"] * 20,
        [object()] * 20,
        {"a": 1},
        VectorQuantizer,
        X[:, 0] * 1j,
    ):
        with pytest.raises((TypeError, ValueError), match="sample_weight"):
            clone(estimator).fit(X, sample_weight=weights)
    if hasattr(estimator, "inverse_transform"):
        fitted = clone(estimator).fit(X)
        codes = fitted.transform(X)
        for bad in (
            codes + 1j,
            np.full(codes.shape, "a"),
            np.full(codes.shape, object()),
        ):
            name = next(iter(inspect.signature(fitted.inverse_transform).parameters))
            with pytest.raises((TypeError, ValueError), match=name):
                fitted.inverse_transform(bad)
