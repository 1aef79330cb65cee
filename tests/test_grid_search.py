"""Pipelines and searches: scorers, the budget rule, weights, what survives."""

import pickle

import joblib
import numpy as np
import pytest
from numpy.testing import assert_array_equal
from sklearn import config_context
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_validate
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from table import mixture

from skvq import ProductQuantizer, QuantizedFeatures, VectorQuantizer
from skvq.model_selection import best_within, neg_bits, neg_reconstruction_error

SCORING = {"err": neg_reconstruction_error, "bits": neg_bits}


def data(n_samples=400):
    """Features of very different scales."""
    return mixture(n_samples) * np.array([1, 10, 100, 1, 1, 1000], dtype=np.float32)


def grids():
    return [
        {
            "quantizer": [VectorQuantizer(random_state=0)],
            "quantizer__n_codewords": [4, 16, 64],
            "scaler": ["passthrough", MinMaxScaler()],
        },
        {
            "quantizer": [ProductQuantizer(random_state=0)],
            "quantizer__n_codewords": [4, 16],
            "quantizer__n_subspaces": [2, 3],
            "scaler": [StandardScaler(), PCA()],
        },
    ]


def pipeline():
    return Pipeline([("scaler", StandardScaler()), ("quantizer", VectorQuantizer())])


def search(**parameters):
    return GridSearchCV(
        pipeline(), grids(), scoring=SCORING, refit=best_within(8), cv=2, **parameters
    )


@pytest.mark.long
def test_search_over_schemes_sizes_and_scalers(tmp_path):
    X = data()
    found = search(n_jobs=2).fit(X)
    results = found.cv_results_
    assert len(results["params"]) == 6 + 8
    assert not np.isnan(results["mean_test_err"]).any()
    within = -results["mean_test_bits"] <= 8
    assert within.any() and not within.all()
    best = found.best_index_
    assert within[best]
    assert results["mean_test_err"][best] == results["mean_test_err"][within].max()
    # In one process, the same.
    alone = search().fit(X)
    assert (
        alone.best_params_["quantizer__n_codewords"]
        == (found.best_params_["quantizer__n_codewords"])
    )
    assert_array_equal(alone.cv_results_["mean_test_err"], results["mean_test_err"])
    # The winner survives.
    winner = found.best_estimator_
    codes = winner.transform(X)
    joblib.dump(winner, tmp_path / "winner.joblib")
    for copy in (
        pickle.loads(pickle.dumps(winner)),
        joblib.load(tmp_path / "winner.joblib"),
        clone(winner).fit(X),
    ):
        assert_array_equal(copy.transform(X), codes)
        assert_array_equal(
            copy.inverse_transform(codes), winner.inverse_transform(codes)
        )


def test_error_is_measured_in_the_space_of_X():
    """The quantizer's own score prefers whatever makes the numbers smallest."""
    X = data()
    model = make_pipeline(MinMaxScaler(), VectorQuantizer(16, random_state=0)).fit(X)
    decoded = model.inverse_transform(model.transform(X))
    expected = -np.square(X.astype(float) - decoded).sum(axis=1).mean()
    assert neg_reconstruction_error(model, X) == pytest.approx(expected, rel=1e-6)
    assert model.score(X) > expected / 100
    raw = make_pipeline(VectorQuantizer(16, random_state=0)).fit(X)
    assert neg_reconstruction_error(raw, X) > expected
    assert raw.score(X) < model.score(X)


def test_scorers_without_a_pipeline_and_with_one_around():
    X = data()
    y = X[:, 0] > X[:, 0].mean()
    vq = VectorQuantizer(16, random_state=0).fit(X)
    assert neg_reconstruction_error(vq, X) == pytest.approx(vq.score(X), rel=1e-6)
    assert neg_bits(vq, X) == -4.0
    features = QuantizedFeatures(VectorQuantizer(16, random_state=0))
    model = make_pipeline(
        StandardScaler(), features, LogisticRegression(max_iter=1000)
    ).fit(X, y)
    assert neg_bits(model, X) == -4.0
    assert neg_reconstruction_error(model, X) < 0
    nested = make_pipeline(make_pipeline(StandardScaler()), make_pipeline(vq)).fit(X)
    flat = make_pipeline(StandardScaler(), clone(vq)).fit(X)
    assert neg_reconstruction_error(nested, X) == neg_reconstruction_error(flat, X)


def test_scorers_say_what_is_missing():
    X = data()
    with pytest.raises(TypeError, match="holds no quantizer"):
        neg_bits(StandardScaler().fit(X), X)
    several = make_pipeline(
        QuantizedFeatures(VectorQuantizer(64, random_state=0)),
        VectorQuantizer(4, random_state=0),
    ).fit(X)
    with pytest.raises(ValueError, match="several quantizers"):
        neg_reconstruction_error(several, X)

    class OneWay(StandardScaler):
        inverse_transform = property()

    one_way = make_pipeline(OneWay(), VectorQuantizer(4, random_state=0)).fit(X)
    with pytest.raises(TypeError, match=r"'oneway' \(OneWay\) has no inverse_transf"):
        neg_reconstruction_error(one_way, X)


def test_weights_are_routed_to_fit_and_score():
    X = data()
    rng = np.random.default_rng(0)
    weights = rng.integers(0, 4, len(X)).astype(float)
    with config_context(enable_metadata_routing=True):
        model = Pipeline(
            [
                ("scaler", StandardScaler().set_fit_request(sample_weight=True)),
                ("quantizer", VectorQuantizer(8, init="splitting")),
            ]
        )
        model.set_params(
            quantizer=model["quantizer"]
            .set_fit_request(sample_weight=True)
            .set_score_request(sample_weight=True)
        )
        folds = [(np.arange(0, 200), np.arange(200, 400))]
        scoring = {
            "err": neg_reconstruction_error.set_score_request(sample_weight=True),
            "bits": neg_bits,
        }
        found = GridSearchCV(
            model,
            {"quantizer__n_codewords": [4, 8]},
            scoring=scoring,
            refit=best_within(3),
            cv=folds,
            n_jobs=2,
        ).fit(X, sample_weight=weights)
        assert found.best_params_ == {"quantizer__n_codewords": 8}
        # The same as repeating the rows.
        by_hand = clone(model)
        by_hand.fit(X[:200], sample_weight=weights[:200])
        expected = neg_reconstruction_error(
            by_hand, X[200:], sample_weight=weights[200:]
        )
        assert found.cv_results_["mean_test_err"][1] == pytest.approx(expected)
        unweighted = GridSearchCV(
            model,
            {"quantizer__n_codewords": [8]},
            scoring=neg_reconstruction_error,
            cv=folds,
        )
        with pytest.raises(Exception, match="sample_weight"):
            unweighted.fit(X, sample_weight=weights)
        score = found.score
        assert callable(score)


def test_weights_equal_repeats_in_the_scorer():
    X = data(100)
    weights = np.random.default_rng(0).integers(0, 4, len(X))
    vq = VectorQuantizer(8, random_state=0).fit(X)
    assert neg_reconstruction_error(vq, X, sample_weight=weights) == pytest.approx(
        neg_reconstruction_error(vq, np.repeat(X, weights, axis=0))
    )
    with pytest.raises(ValueError, match="Negative"):
        neg_reconstruction_error(vq, X, sample_weight=-weights)


def test_scorers_are_pickled_and_requests_are_copies():
    with config_context(enable_metadata_routing=True):
        asked = neg_reconstruction_error.set_score_request(sample_weight="w")
        assert asked is not neg_reconstruction_error
        assert neg_reconstruction_error.sample_weight is None
        assert pickle.loads(pickle.dumps(asked)) == asked
    with pytest.raises(RuntimeError, match="enable_metadata_routing"):
        neg_bits.set_score_request(sample_weight=True)


def test_cross_validate():
    scores = cross_validate(
        VectorQuantizer(8, random_state=0), data(), scoring=SCORING, cv=3
    )
    assert (scores["test_bits"] == -3).all()
    assert (scores["test_err"] < 0).all()


RESULTS = {
    "mean_test_err": np.array([-9.0, np.nan, -5.0, -5.0, -1.0]),
    "mean_test_bits": np.array([-8.0, -8.0, -32.0, -16.0, -64.0]),
}


@pytest.mark.parametrize(
    ("bits", "index"), [(8, 0), (15.9, 0), (16, 3), (32, 3), (64, 4), (1e9, 4)]
)
def test_best_within(bits, index):
    assert best_within(bits)(RESULTS) == index


def test_best_within_refuses():
    with pytest.raises(ValueError, match=r"at most bits=7 .* the smallest takes 8"):
        best_within(7)(RESULTS)
    with pytest.raises(ValueError, match="bits must be above 0"):
        best_within(0)
    with pytest.raises(TypeError, match="bits must be a number"):
        best_within("8")
    with pytest.raises(ValueError, match=r"error_key='error' is not among .*'err'"):
        best_within(8, error_key="error")(RESULTS)
    failed = {**RESULTS, "mean_test_err": np.full(5, np.nan)}
    with pytest.raises(ValueError, match="all failed"):
        best_within(8)(failed)


def test_a_search_with_nothing_within_the_budget():
    hopeless = GridSearchCV(
        VectorQuantizer(random_state=0),
        {"n_codewords": [8, 16]},
        scoring=SCORING,
        refit=best_within(2),
        cv=2,
    )
    with pytest.raises(ValueError, match="no candidate takes at most bits=2"):
        hopeless.fit(data())
