"""Quantized features on their way back, pictures, and the single scorer of a budget."""

import math
import os
import pickle

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn import config_context
from sklearn.base import BaseEstimator, clone
from sklearn.compose import TransformedTargetRegressor
from sklearn.exceptions import NotFittedError
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import (
    GridSearchCV,
    HalvingGridSearchCV,
    cross_val_score,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from table import QUANTIZERS, TABLE, each, mixture

from skvq import ProductQuantizer, QuantizedFeatures, VectorQuantizer, metrics
from skvq.model_selection import (
    best_within,
    neg_bits,
    neg_error_within,
    neg_reconstruction_error,
)

ONE_OF_EACH = list({type(row.make()): row for row in QUANTIZERS}.values())
FEATURES = [row for row in TABLE if not row.codes]


def features(n_codewords=8):
    return QuantizedFeatures(VectorQuantizer(n_codewords, random_state=0))


# -- the way back ----------------------------------------------------------------------


@each(FEATURES)
def test_quantized_samples_are_their_own_originals(row):
    fitted, X = row.fitted(), row.data(seed=1)
    X_quant = fitted.transform(X)
    assert fitted.inverse_transform(X_quant) is X_quant
    assert_array_equal(fitted.inverse_transform(X.tolist()), X)


@each(ONE_OF_EACH)
def test_a_pipeline_of_features_leads_back(row):
    X = row.data()
    model = make_pipeline(MinMaxScaler((1, 2)), QuantizedFeatures(row.make())).fit(X)
    X_quant = model.inverse_transform(model.transform(X))
    assert X_quant.shape == X.shape
    error = np.square(X_quant.astype(float) - X).sum(axis=1).mean()
    assert -neg_reconstruction_error(model, X) == pytest.approx(error, rel=1e-5)


def test_targets_are_predicted_in_their_own_unit():
    X = mixture(200)
    for y in (X[:, 0] * 100 + 1000, X[:, :2] * 100 + 1000):
        model = TransformedTargetRegressor(
            LinearRegression(),
            transformer=make_pipeline(StandardScaler(), features(64)),
            check_inverse=False,
        ).fit(X, y)
        assert model.predict(X).shape == y.shape
        assert model.score(X, y) > 0.9


@pytest.mark.parametrize(
    ("X", "message"),
    [
        (np.zeros((3, 5)), "X has 5 features, but QuantizedFeatures is expecting 6"),
        (np.full((3, 6), np.nan), "NaN"),
        (np.zeros(6), "Expected 2D array"),
        (np.zeros((3, 6), complex), "Complex data"),
        (np.full((2, 6), "a"), "numeric"),
    ],
)
def test_what_is_no_sample_is_refused(X, message):
    with pytest.raises(ValueError, match=message):
        features().fit(mixture(50)).inverse_transform(X)


def test_the_way_back_wants_a_fit_and_no_names():
    with pytest.raises(NotFittedError):
        features().inverse_transform(np.zeros((1, 6)))
    frame = pd.DataFrame(mixture(50), columns=list("abcdef"))
    fitted = features().set_output(transform="pandas").fit(frame)
    for back in (fitted.transform(frame), fitted.transform(frame).to_numpy()):
        assert_array_equal(fitted.inverse_transform(back), back)  # without a warning


def test_the_way_back_asks_for_no_metadata():
    with config_context(enable_metadata_routing=True):
        requests = features().get_metadata_routing()
        assert requests.inverse_transform.requests == {}
        assert not hasattr(features(), "set_inverse_transform_request")


# -- pictures --------------------------------------------------------------------------


def picture(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 3), (6, 5, 4), (2, 6, 5, 3)])
def test_psnr_of_pictures(shape):
    X, Q = picture(*shape), picture(*shape, seed=1)
    error = np.square(X.astype(float) - Q).mean()
    expected = 10 * np.log10(255**2 / error)
    assert metrics.psnr(X, Q) == pytest.approx(expected)
    assert metrics.psnr(X, Q.astype(float)) == pytest.approx(expected)
    assert metrics.psnr(X.tolist(), Q, data_range=255) == pytest.approx(expected)
    assert metrics.psnr(X / 255, Q / 255, data_range=1) == pytest.approx(expected)
    assert metrics.psnr(X.astype(np.uint16), Q) == pytest.approx(
        expected + 20 * math.log10(257)
    )
    assert metrics.psnr(X, X) == math.inf


def test_weights_of_pictures_are_along_the_first_axis():
    X, Q = picture(3, 6, 5, 3), picture(3, 6, 5, 3, seed=1)
    found = metrics.psnr(X, Q, sample_weight=[0, 0, 2])
    assert found == pytest.approx(metrics.psnr(X[2], Q[2]))
    with pytest.raises(ValueError, match="1D array"):
        metrics.psnr(X, Q, sample_weight=np.ones((3, 6)))


@pytest.mark.parametrize(
    ("X", "Q", "message"),
    [
        (picture(6, 5, 3), picture(6, 5, 1), "X has shape .6, 5, 3., but X_quant has"),
        (picture(6, 5, 3), picture(6, 15), "pictures and their reconstructions"),
        (picture(6, 15), picture(6, 5, 3), "pictures and their reconstructions"),
        (picture(0, 5, 3), picture(0, 5, 3), "array with dim 3"),
        (picture(6, 5, 3) / 255, picture(6, 5, 3), "pass data_range"),
        (picture(6, 5, 3), np.full((6, 5, 3), np.nan), "X_quant contains NaN"),
        (picture(5), picture(5), "Expected 2D array"),
    ],
)
def test_what_is_no_pair_of_pictures_is_refused(X, Q, message):
    with pytest.raises(ValueError, match=message):
        metrics.psnr(X, Q)


# -- arrays of other libraries ---------------------------------------------------------


@pytest.mark.parametrize("name", ["array_api_strict", "torch"])
def test_the_way_back_and_pictures_in_other_libraries(name):
    library = pytest.importorskip(name)
    if os.environ.get("SCIPY_ARRAY_API") != "1":
        pytest.skip("SCIPY_ARRAY_API=1 is not set")
    X, Q = picture(6, 5, 3), picture(6, 5, 3, seed=1)
    samples = mixture(60)
    with config_context(array_api_dispatch=True):
        found = metrics.psnr(library.asarray(X), library.asarray(Q))
        assert found == pytest.approx(metrics.psnr(X, Q))
        found = metrics.psnr(library.asarray(X), Q.tolist())
        assert found == pytest.approx(metrics.psnr(X, Q))
        fitted = features().fit(library.asarray(samples))
        X_quant = fitted.transform(library.asarray(samples))
        assert fitted.inverse_transform(X_quant) is X_quant
        with pytest.raises(ValueError, match="must use the same namespace"):
            fitted.inverse_transform(samples)
        for wrong in (X_quant[:, :5], X_quant * math.nan):
            with pytest.raises(ValueError, match=r"has 5 features|NaN"):
                fitted.inverse_transform(wrong)


# -- one scorer for a budget -----------------------------------------------------------


class Codec(BaseEstimator):
    """A stand-in of any number of bits and any error."""

    def __init__(self, bits=1.0, error=0.0):
        self.bits = bits
        self.error = error

    def fit(self, X, y=None):
        self.bits_per_sample_ = self.bits
        return self

    def quantize(self, X):
        return X + math.sqrt(self.error)


def test_codecs_over_the_budget_come_last_by_how_far_they_are_over():
    X = np.zeros((2, 1))
    ranked = [
        Codec(8, 0),
        Codec(1e-9, 1e-300),
        Codec(8 * (1 + 1e-12), 1.0),  # as sums of logarithms round
        Codec(2, 1e90),
        Codec(8, 1e120),
        Codec(8.001, 1e200),
        Codec(8.5, 0),
        Codec(9, 1.0),
        Codec(1e6, 0),
        Codec(1e9, 0),
    ]
    scores = [neg_error_within(8)(codec.fit(X), X) for codec in ranked]
    assert np.isfinite(scores).all()
    assert (np.diff(scores) < 0).all()
    assert scores[2] == -1 and scores[3] == pytest.approx(-1e90)
    # One fold over the budget is enough, and neither mean nor deviation overflows.
    assert np.mean([scores[0], scores[0], scores[5]]) < scores[3]
    with np.errstate(all="raise"):
        assert np.isfinite(np.std([scores[0], scores[-1], scores[-1]]))


def test_within_the_budget_it_is_the_error_in_the_space_of_X():
    X = mixture(100)
    weights = np.arange(100.0)
    model = make_pipeline(StandardScaler(), VectorQuantizer(8, random_state=0)).fit(X)
    for budget in (3, np.float32(3), np.int8(3), 1e300):
        found = neg_error_within(budget)(model, X, sample_weight=weights)
        assert found == neg_reconstruction_error(model, X, sample_weight=weights)
        assert type(found) is float
    assert neg_error_within(np.float32(2))(model, X) == -2e100


@pytest.mark.parametrize("halving", [False, True])
def test_a_search_with_one_scorer(halving):
    X = mixture(400)
    grid = {"n_codewords": [2, 4, 8, 16]}
    settings = {"scoring": neg_error_within(6), "cv": 2}
    if halving:
        kind = HalvingGridSearchCV
        settings |= {"random_state": 0, "factor": 2, "min_resources": 100}
    else:
        kind = GridSearchCV
    search = kind(ProductQuantizer(2, random_state=0), grid, **settings).fit(X)
    assert search.best_params_ == {"n_codewords": 8}
    assert search.score(X) == neg_reconstruction_error(search.best_estimator_, X)
    results = search.cv_results_
    assert np.isfinite(results["mean_test_score"]).all()
    assert np.isfinite(results["std_test_score"]).all()
    over = [candidate["n_codewords"] > 8 for candidate in results["params"]]
    assert_array_equal(results["mean_test_score"] <= -1e100, over)


def test_best_within_has_no_score_and_says_what_has():
    X = mixture(60)
    search = GridSearchCV(
        VectorQuantizer(random_state=0),
        {"n_codewords": [2, 4]},
        scoring={"err": neg_reconstruction_error, "bits": neg_bits},
        refit=best_within(2),
        cv=2,
    ).fit(X)
    with pytest.raises(KeyError):  # as scikit-learn has it
        search.score(X)
    text = " ".join(best_within.__doc__.split())
    assert "`score` of a search needs a single scorer, such as `neg_error_w" in text


def test_the_scorer_of_a_budget_is_a_value():
    scorer = neg_error_within(5)
    assert pickle.loads(pickle.dumps(scorer)) == scorer
    with config_context(enable_metadata_routing=True):
        asked = scorer.set_score_request(sample_weight="w")
        assert (asked.bits, asked.sample_weight) == (5, "w")
        assert scorer.sample_weight is None
        assert pickle.loads(pickle.dumps(asked)) == asked
    with pytest.raises(RuntimeError, match="enable_metadata_routing"):
        scorer.set_score_request(sample_weight=True)


def test_weights_are_routed_to_the_scorer_of_a_budget():
    X = mixture(80)
    weights = np.arange(80.0)
    quantizer = VectorQuantizer(4, init="splitting")
    folds = [(np.arange(40), np.arange(40, 80))]
    with config_context(enable_metadata_routing=True):
        scores = cross_val_score(
            quantizer.set_fit_request(sample_weight=False),
            X,
            scoring=neg_error_within(2).set_score_request(sample_weight=True),
            cv=folds,
            params={"sample_weight": weights},
        )
    fitted = VectorQuantizer(4, init="splitting").fit(X[:40])
    expected = neg_reconstruction_error(fitted, X[40:], sample_weight=weights[40:])
    assert_allclose(scores, [expected])


@pytest.mark.parametrize(
    ("bits", "error", "message"),
    [
        (0, ValueError, "above 0, got 0"),
        (-1.5, ValueError, "above 0"),
        (math.nan, ValueError, "above 0"),
        (10**400, ValueError, "must be finite"),
        (math.inf, ValueError, "finite; neg_reconstruction_error"),
        ("8", TypeError, "bits must be a number"),
        (True, TypeError, "bits must be a number"),
        (None, TypeError, "bits must be a number"),
    ],
)
def test_budgets_that_are_none(bits, error, message):
    with pytest.raises(error, match=message):
        neg_error_within(bits)


def test_what_holds_no_quantizer_is_refused():
    X = mixture(20)
    with pytest.raises(TypeError, match="holds no quantizer"):
        neg_error_within(8)(StandardScaler().fit(X), X)


def test_a_frozen_quantizer_is_taken_as_it_is():
    X = mixture(60)
    quantizer = VectorQuantizer(4, random_state=0).fit(X)
    features = QuantizedFeatures(FrozenEstimator(quantizer)).fit(X[:5] + 9)
    assert_array_equal(features.transform(X), quantizer.quantize(X))
    with pytest.raises(ValueError, match="a fitted one in a FrozenEstimator"):
        QuantizedFeatures(FrozenEstimator(StandardScaler())).fit(X)
    for frozen, error in (
        (VectorQuantizer(4), NotFittedError),
        (clone(quantizer).fit(X[:, :3]), ValueError),
    ):
        features = QuantizedFeatures(FrozenEstimator(frozen))
        with pytest.raises(error, match=r"not fitted|the frozen quantizer was fitted"):
            features.fit(X)
        assert not vars(features).keys() & {"quantizer_", "n_features_in_"}
