"""Estimators on arrays of other libraries do as they do on NumPy's."""

import os
import pickle
import tempfile

import numpy as np
import pytest
from arrays.followers import (
    FEW,
    FOLLOWING,
    LEARNERS,
    every_following_row,
    every_scheme,
    learned_with,
    skip_most_but_in_strict,
    skip_some_but_in_strict,
)
from arrays.libraries import library_name, load, make, put
from numpy.testing import assert_allclose, assert_array_equal
from sklearn import config_context
from sklearn.exceptions import NotFittedError
from table import TABLE, BinaryQuantizer, each, mixture, tables_of, vq

import skvq
from skvq import (
    ProductQuantizer,
    QuantizedFeatures,
    QuantizedNeighbors,
    VectorQuantizer,
)
from skvq._arrays import to_host
from skvq.nearest import HOST, backend_of
from skvq.nearest.backends.base import Backend


def test_the_schemes_follow():
    names = {row.name for row in FOLLOWING}
    assert {"vq-defaults", "vq-cosine-ema", "pq-defaults"} < names
    assert {"uniform-defaults", "uniform-quantile", "fsq-defaults"} < names
    assert {"binary-defaults", "binary-spherical-float32", "pq-of-fsq"} < names
    assert {"spherical-defaults", "spherical-float32-radius"} < names
    assert {"rq-of-pq-beam-refined", "kronecker-shared"} < names
    assert {"multiscale-smooth", "pq-of-multiscale"} < names
    assert LEARNERS < names


@every_following_row
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_as_numpy_does(other, row, monkeypatch):
    skip_some_but_in_strict(other, row)
    X, reference = row.data(), row.fitted()
    given = put(other, X)
    estimator = learned_with(row, given)
    codes = estimator.transform(given)
    decoded = estimator.quantize(given)
    assert {library_name(a) for a in (codes, decoded, *tables_of(estimator))} == {
        other.__name__
    }
    assert_array_equal(to_host(codes), reference.transform(X))
    wide = {"uint16": "int32", "uint32": "int64"} if other.__name__ == "torch" else {}
    expected = str(reference.transform(X).dtype)
    assert str(codes.dtype).endswith(wide.get(expected, expected))
    assert_allclose(to_host(decoded), reference.quantize(X), rtol=1e-5, atol=1e-5)
    assert estimator.distortion_ == pytest.approx(reference.distortion_, rel=1e-5)
    assert estimator.score(given) == pytest.approx(reference.score(X), rel=1e-5)
    # What is written once, in the base class, is asked of one row of each kind.
    in_full = row.name in FEW
    for some in (codes, to_host(codes), to_host(codes).tolist())[: 3 if in_full else 1]:
        again = estimator.inverse_transform(some)
        assert library_name(again) == other.__name__
        assert_array_equal(to_host(again), to_host(decoded))
    with pytest.raises(ValueError, match=r"codes\[0, 0\]"):
        estimator.inverse_transform(put(other, to_host(codes).astype(float) - 999))
    if hasattr(estimator, "staged_score"):
        _assert_stages_are_alike(estimator, reference, X, given, codes)
    if in_full and hasattr(estimator, "encode_best"):
        several, errors = estimator.encode_best(given, 2)
        wanted, distances = reference.encode_best(X, 2)
        assert library_name(several) == library_name(errors) == other.__name__
        assert several.dtype == codes.dtype
        assert_array_equal(to_host(several), wanted)
        assert_allclose(to_host(errors), distances, rtol=1e-5, atol=1e-5)
    if in_full and hasattr(estimator, "distance_table"):
        for found, expected in (
            (estimator.distance_table(given), reference.distance_table(X)),
            (
                estimator.row_terms(codes, "cosine")[0],
                reference.row_terms(to_host(codes), "cosine")[0],
            ),
        ):
            assert library_name(found) == other.__name__
            assert_allclose(to_host(found), expected, rtol=1e-5, atol=1e-5)
    if in_full:
        _assert_pickles_are_of_the_host(estimator, given, codes, monkeypatch)


def _assert_stages_are_alike(estimator, reference, X, given, codes):
    weights = np.random.default_rng(0).random(len(X))
    sums = list(estimator.staged_inverse_transform(codes))
    expected = list(reference.staged_inverse_transform(to_host(codes)))
    assert {library_name(found) for found in sums} == {library_name(given)}
    for found, wanted in zip(sums, expected, strict=True):
        assert_allclose(to_host(found), wanted, rtol=1e-5, atol=1e-5)
    for some in (None, weights):
        assert_allclose(
            list(estimator.staged_score(given, sample_weight=some)),
            list(reference.staged_score(X, sample_weight=some)),
            rtol=1e-5,
        )
    with pytest.raises(ValueError, match="must use the same namespace"):
        next(estimator.staged_score(X))


def _assert_pickles_are_of_the_host(estimator, given, codes, monkeypatch):
    """... and codec files as well."""
    expected = to_host(codes)
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "codec")
        skvq.save(estimator, path)
        copy = skvq.load(path)
        assert library_name(tables_of(copy)[0]) == library_name(given)
        assert_array_equal(to_host(copy.transform(given)), expected)
    data = pickle.dumps(estimator)
    with monkeypatch.context() as patch:
        # Loading does not need the library, nor does use without it.
        patch.setattr(
            "skvq.nearest.backends.choice.import_namespace", lambda name: None
        )
        copy = pickle.loads(data)
        assert {backend_of(value) for value in vars(copy).values()} == {HOST}
        assert_array_equal(copy.transform(to_host(given)), expected)
        assert isinstance(tables_of(copy)[0], np.ndarray)
    copy = pickle.loads(data)
    assert library_name(tables_of(copy)[0]) == library_name(given)
    assert_array_equal(to_host(copy.transform(given)), expected)


@each([row for row in FOLLOWING if row.name in LEARNERS])
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_weights_as_numpy_does(other, row):
    skip_most_but_in_strict(other, row)
    X = row.data(160)
    weights = np.random.default_rng(0).integers(0, 4, len(X)).astype(float)
    reference = row.make().fit(X, sample_weight=weights)
    given = put(other, X)
    both = row.name == "vq-defaults"  # the base class converts weights
    for some in (put(other, weights), *([weights] if both else [])):
        estimator = learned_with(row, given, sample_weight=some)
        if row.name != "vq-n-init":
            # Two of its starts end in one table, in different order; which of them is
            # better is a matter of rounding.
            codes = to_host(estimator.transform(given))
            assert_array_equal(codes, reference.transform(X))
        assert estimator.score(given, sample_weight=some) == pytest.approx(
            reference.score(X, sample_weight=weights), rel=1e-5
        )


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@each([row for row in FOLLOWING if row.streams])
def test_streams_as_numpy_does(other, row):
    X = row.data()
    reference, estimator = row.make(), row.make()
    for begin, end in [(0, 1), (1, 3), (3, 150), (150, 320)]:
        reference.partial_fit(X[begin:end])
        estimator.partial_fit(put(other, X[begin:end]))
    assert library_name(estimator.codebooks_[0]) == other.__name__
    assert_array_equal(
        to_host(estimator.transform(put(other, X))), reference.transform(X)
    )


SMALL_TILES = ["rq-of-pq-beam-refined", "kronecker-3", "multiscale-smooth"]


@each([row for row in FOLLOWING if row.name in SMALL_TILES])
def test_learners_take_rows_in_tiles(other, row, monkeypatch):
    X = row.data(60)
    given = put(other, X)
    backend = type(backend_of(given))
    monkeypatch.setattr(backend, "tile_elements", lambda self: 500)
    codes = row.make().fit(given).transform(given)
    assert_array_equal(to_host(codes), row.make().fit(X).transform(X))


@each([row for row in FOLLOWING if hasattr(row.make(), "next_scale_input")])
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_next_scales_as_numpy_does(other, row):
    X, reference = row.data(), row.fitted()
    if len(reference.scales_) == 1:
        return
    estimator = pickle.loads(pickle.dumps(reference))
    given = put(other, X)
    estimator._assign({}, backend_of(given))
    n_codes = reference._decodable_widths()[0]
    codes = reference.transform(X)[:, :n_codes]
    for some in (codes, put(other, codes)):
        found = estimator.next_scale_input(some)
        assert library_name(found) == other.__name__
        expected = reference.next_scale_input(codes)
        assert_allclose(to_host(found), expected, rtol=1e-5, atol=1e-5)


def test_order_of_checks(other):
    X = make((40, 5, 1))[0]
    bad = put(other, X * np.nan)
    with pytest.raises(NotFittedError):
        vq().transform(bad)
    fitted = vq().fit(X)
    for method in ("transform", "quantize", "score"):
        message = rf"VectorQuantizer\.{method}\(\) must use the same namespace"
        with pytest.raises(ValueError, match=message):
            getattr(fitted, method)(bad)
    fitted = vq().fit(put(other, X))
    with pytest.raises(ValueError, match="must use the same namespace"):
        fitted.transform(X)
    with pytest.raises(ValueError, match="contains NaN"):
        fitted.transform(bad)
    with pytest.raises(ValueError, match="is expecting 5 features"):
        fitted.transform(put(other, X[:, :4]))
    with pytest.raises(ValueError, match="minimum of 2 is required"):
        vq().fit(put(other, X[:1]))
    with pytest.raises(ValueError, match="2D array"):
        vq().fit(put(other, X[0]))


def test_without_dispatch_numpy_answers():
    torch = load("torch")
    X = make((40, 5, 1))[0]
    for quantizer in (vq(), vq(backend="numpy")):
        codes = quantizer.fit(put(torch, X)).transform(put(torch, X))
        assert isinstance(codes, np.ndarray)


class _OnTheHost(BinaryQuantizer):
    """A scheme whose hooks take NumPy's arrays alone."""

    _follows_namespace = False


def test_schemes_that_stay_on_the_host(other):
    X = make((40, 6, 1))[0]
    quantizer = _OnTheHost()
    features = QuantizedFeatures(quantizer)
    for estimator in (quantizer, features):
        assert not estimator.__sklearn_tags__().array_api_support
    if other.__name__ == "cupy":
        with pytest.raises(TypeError, match=r"cannot read X, .* cupy: give X\.get\(\)"):
            quantizer.fit(put(other, X))
    if other.__name__ == "torch":
        codes = quantizer.fit(put(other, X)).transform(put(other, X))
        assert_array_equal(codes, BinaryQuantizer().fit_transform(X))
        decoded = features.fit(put(other, X)).transform(put(other, X))
        assert_array_equal(decoded, BinaryQuantizer().fit(X).quantize(X))


FEATURES = each(
    [r for r in TABLE if not r.codes and r.make().__sklearn_tags__().array_api_support]
)


@FEATURES
def test_features_as_numpy_does(other, row):
    X, reference = row.data(), row.fitted()
    given = put(other, X)
    estimator = row.make().fit(given)
    found = estimator.transform(given)
    assert library_name(found) == other.__name__
    assert_allclose(to_host(found), reference.transform(X), rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="must use the same namespace"):
        estimator.transform(X)
    with pytest.raises(ValueError, match="must use the same namespace"):
        reference.transform(given)
    copy = pickle.loads(pickle.dumps(estimator))
    assert_array_equal(to_host(copy.transform(given)), to_host(found))


@every_scheme
def test_a_failure_on_the_device_changes_nothing(other, make_it, monkeypatch):
    X = put(other, make((60, 6, 1))[0])
    fresh, fitted = make_it(), make_it().fit(X)
    before = dict(vars(fitted))

    def lost(*args, **kwargs):
        raise RuntimeError("the context is lost")

    monkeypatch.setattr(Backend, "argmin", lost)
    if other.__name__ == "cupy":
        monkeypatch.setattr(other.RawKernel, "__call__", lost)
    for estimator in (fresh, fitted):
        with pytest.raises(RuntimeError, match="context is lost"):
            estimator.fit(X)
    assert not hasattr(fresh, "codebook_sizes_")
    assert vars(fitted) == before
    monkeypatch.undo()
    assert fitted.transform(X).shape[0] == 60


def test_backends_that_do_not_take_an_array(other):
    X = put(other, make((40, 6, 1))[0])
    for backend in {"numpy", "cupy"} - {other.__name__}:
        with pytest.raises(ValueError, match=f"backend='{backend}'"):
            VectorQuantizer(4, backend=backend).fit(X)


def test_arrays_of_dask_are_what_their_blocks_are():
    """... under dispatch as well: no generic engine computes all of them."""
    dask = pytest.importorskip("dask.array")
    X = mixture(300)
    lazy = dask.from_array(X, chunks=(70, 4))
    expected = VectorQuantizer(4, random_state=0).fit(X)
    with config_context(array_api_dispatch=True):
        found = VectorQuantizer(4, random_state=0).fit(lazy)
        codes = found.transform(lazy)
    assert isinstance(codes, dask.Array)
    assert type(found.codebooks_[0]) is np.ndarray
    assert_array_equal(found.codebooks_[0], expected.codebooks_[0])
    assert_array_equal(codes.compute(), expected.transform(X))


def test_searches_read_arrays_of_a_device(other):
    """Queries, and reconstructions, are read to the host, where codes are."""
    if other.__name__ != "torch":
        pytest.skip("others are not read by NumPy")
    X = mixture(60)
    with config_context(array_api_dispatch=True):
        quantizer = ProductQuantizer(2, 4, random_state=0).fit(put(other, X))
        search = QuantizedNeighbors(quantizer, 3)
        search.fit_codes(quantizer.transform(put(other, X)))
        found = search.kneighbors(put(other, X))
    expected = QuantizedNeighbors(ProductQuantizer(2, 4, random_state=0), 3).fit(X)
    for a, b in zip(found, expected.kneighbors(X), strict=True):
        assert isinstance(a, np.ndarray)
        assert_allclose(a, b, rtol=1e-5)
