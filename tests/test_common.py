"""What every estimator of the family keeps, over the one table of parameters."""

import inspect
import math
import pickle
import warnings
from concurrent.futures import ThreadPoolExecutor
from copy import copy as shallow_copy

import joblib
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import sklearn
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from oracles import assert_nearest, distances, paired, priced, repeat_cyclically
from sklearn.base import clone
from sklearn.exceptions import (
    ConvergenceWarning,
    InconsistentVersionWarning,
    NotFittedError,
)
from sklearn.utils import estimator_checks
from sklearn.utils.estimator_checks import estimator_checks_generator
from table import (
    DEFAULTS,
    NESTED,
    ONE_OF_EACH,
    OTHERS,
    QUANTIZERS,
    STREAMS,
    TABLE,
    each,
    every_class,
    every_quantizer,
    every_row,
    made_small,
    marks_of,
    mixture,
    tables_of,
)
from threadpoolctl import threadpool_info, threadpool_limits

import skvq
from skvq import nearest as engine
from skvq._sums import SumsOfCodes
from skvq.base import BaseQuantizer
from skvq.codes import token_ids

BY_CLASS = {type(estimator).__name__: estimator for estimator in DEFAULTS}
SOME_NESTED = {"pq-of-pq", "pq-of-rotated", "rq-of-rq-beam", "rq-of-scaled"}
FITTED_ON_FEW = [row for row in TABLE if row.few]

# Fewer samples than codewords are a warning, and the checks fit on very few.
ignore_few = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


# -- scikit-learn's own checks ---------------------------------------------------------


def _sklearn_checks(estimators, always):
    """Of every class and every nesting: what the checks ask is asked of the base class.

    What in them is of a scheme's own (few rows, one feature, read-only arrays,
    parameters and attributes left alone, one row or all) is asked of all rows below.
    """
    # On 15 rows in an order of its own, which only a start without chance survives;
    # test_weights_equal_repeats asks the same of the others with more rows.
    by_chance = {row.name for row in NESTED if row.weights != "exact"}
    for name, estimator in estimators:
        for instance, check in estimator_checks_generator(estimator):
            kind = check.func.__name__
            if kind.startswith("check_array_api"):
                continue  # these are in tests/arrays: here they would skip
            if kind.startswith("check_sample_weight_equ") and name in by_chance:
                continue
            yield pytest.param(
                instance,
                check,
                id=f"{name}-{kind}",
                marks=marks_of(name not in always),
            )


@ignore_few
@pytest.mark.every_case
@pytest.mark.parametrize(
    ("estimator", "check"),
    list(_sklearn_checks(BY_CLASS.items(), BY_CLASS)),
)
def test_sklearn_checks(estimator, check):
    check(estimator)


@ignore_few
@pytest.mark.parametrize(
    ("estimator", "check"),
    list(_sklearn_checks(((row.name, row.make()) for row in NESTED), SOME_NESTED)),
)
def test_sklearn_checks_of_nestings(estimator, check):
    check(estimator)


# Those that check_estimator does not yield.
MORE_CHECKS = [
    estimator_checks.check_set_output_transform,
    estimator_checks.check_set_output_transform_pandas,
    estimator_checks.check_set_output_transform_polars,
    estimator_checks.check_global_output_transform_pandas,
    estimator_checks.check_global_set_output_transform_polars,
    estimator_checks.check_transformer_get_feature_names_out,
    estimator_checks.check_transformer_get_feature_names_out_pandas,
    estimator_checks.check_param_validation,
    estimator_checks.check_dataframe_column_names_consistency,
    estimator_checks.check_inplace_ensure_writeable,
]


@ignore_few
@pytest.mark.filterwarnings("ignore:X (has|does not have) .*feature names")
@pytest.mark.every_case
@pytest.mark.parametrize("check", MORE_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("estimator", DEFAULTS, ids=lambda e: type(e).__name__)
def test_more_sklearn_checks(estimator, check):
    estimator = clone(estimator)
    if check is not estimator_checks.check_param_validation:
        # They ask for outputs in other clothes, whatever these are.
        made_small(estimator)
    check(type(estimator).__name__, estimator)


def test_every_public_estimator_is_in_the_table():
    public = {
        value
        for value in vars(skvq).values()
        if inspect.isclass(value) and hasattr(value, "fit")
    }
    assert {type(row.make()) for row in TABLE} | OTHERS == public
    assert {type(row.make()) for row in ONE_OF_EACH} | OTHERS == public
    assert {type(estimator) for estimator in DEFAULTS} == public


# What a scheme writes; all else of the base class is the same for all.
HOOKS = {
    "_follows_namespace",
    "_has_one_column",
    "_score_metric",
    "_fit",
    "_encode",
    "_decode",
    "_codebooks",
    "_partial_fit",
    "_can_partial_fit",
    "_why_no_partial_fit",
    "_needs_rows_in_memory",
    "_fewest_rows",
    "_from_tables",
    "_decodable_widths",
    "_can_encode_best",
    "_encode_best",
    "_has_free_tables",
    "_free_tables",
    "_with_tables",
    "_n_tables",
    "_takes_columns",
    "_why_no_codebooks",
    "_why_no_names",
    "_renamed",
    "_given_size",
    "_slice_widths",
    "_alignments",
    "_ranges",
    "_check_as_fitted",
    "_made_anew",
    "_table_elements",
    "_searched_table",
    "_code_costs",
    "_with_charges",
    "_charges",
    "_check_memory",
    "_why_no_sums",
    "_entries",
    "_distance_table",
    "_row_terms",
    "_is_concatenation",
    "_n_scales",
    "_scales",
    "_TASKS_IN_TURN",
    "_n_tasks",
}


def test_the_contract_is_written_once():
    """No scheme overrides what is shared, so that any row proves it for all."""
    shared = {"__getstate__", "__setstate__", "__sklearn_is_fitted__"}
    for name in {*vars(BaseQuantizer), *vars(SumsOfCodes)} - HOOKS:
        # Python and scikit-learn write these into every class.
        if not name.startswith(("__", "_abc", "_sklearn", "set_")):
            shared.add(name)
    assert {"fit", "transform", "_learn", "_check_input", "row_terms"} < shared
    for cls in {type(row.make()) for row in QUANTIZERS}:
        for scheme in cls.__mro__[: cls.__mro__.index(BaseQuantizer)]:
            assert not shared & set(vars(scheme)), scheme


# -- the contract ----------------------------------------------------------------------


def given_codebooks(quantizer):
    """Return a quantizer of the same class and parameters, of the tables of another."""
    parameters = quantizer.get_params(deep=False)
    if isinstance(quantizer, skvq.MultiScaleQuantizer):
        parameters |= {"map_shape": quantizer.map_shape_, "kernels": quantizer.kernels_}
    if isinstance(quantizer, skvq.RotatedQuantizer) and "hadamard" not in repr(
        quantizer
    ):
        parameters |= {"rotation": quantizer.components_, "mean": quantizer.mean_}
    if hasattr(quantizer, "code_lengths_"):
        parameters["code_lengths"] = quantizer.code_lengths_
    if hasattr(quantizer, "prices_"):
        parameters["prices"] = quantizer.prices_
    return type(quantizer).from_codebooks(tables_of(quantizer), **parameters)


@every_quantizer
def test_codebooks_can_be_given(row):
    fitted, X = row.fitted(), row.data(seed=1)
    if not row.tables:
        with pytest.raises((AttributeError, ValueError), match="has no from_codebooks"):
            given_codebooks(fitted)
        return
    given = given_codebooks(fitted)
    codes = fitted.transform(X)
    assert_array_equal(given.transform(X), codes, strict=True)
    assert_array_equal(
        given.inverse_transform(codes), fitted.inverse_transform(codes), strict=True
    )
    assert np.isnan(given.distortion_)
    assert given.score(X) == fitted.score(X)
    for name in ("codebook_sizes_", "bits_per_sample_", "n_features_in_"):
        assert getattr(given, name) == getattr(fitted, name), name
    assert_array_equal(given.get_feature_names_out(), fitted.get_feature_names_out())
    assert _places(tables_of(given)) == _places(tables_of(fitted))
    of_samples = {"_weight_unit_", "_seen_", "clip_range_", "clipped_share_"}
    of_samples.add("code_counts_")
    assert set(vars(fitted)) - set(vars(given)) <= of_samples


def _places(tables):
    """Return for each table the first place of the same object."""
    return [next(i for i, one in enumerate(tables) if one is each) for each in tables]


@each([row for row in ONE_OF_EACH if row.codes and row.tables])
def test_fit_after_given_codebooks_has_their_sizes(row):
    given = given_codebooks(row.fitted())
    assert clone(given).fit(row.data()).codebook_sizes_ == given.codebook_sizes_


@every_quantizer
def test_shapes_dtypes_and_round_trip(row):
    quantizer, X = row.fitted(), row.data(seed=1)
    codes = quantizer.transform(X)
    sizes = quantizer.codebook_sizes_
    assert isinstance(sizes, tuple)
    assert all(type(size) is int for size in sizes)
    assert codes.shape == (len(X), len(sizes))
    assert codes.dtype == np.min_scalar_type(max(sizes) - 1)
    assert (codes < np.array(sizes)).all()
    decoded = quantizer.inverse_transform(codes)
    assert decoded.shape == X.shape
    assert decoded.dtype == np.float32
    assert np.isfinite(decoded).all()
    assert_array_equal(quantizer.quantize(X), decoded)
    assert quantizer.inverse_transform(codes[:0]).shape == (0, X.shape[1])
    assert len(quantizer.get_feature_names_out()) == len(sizes)
    assert isinstance(quantizer.bits_per_sample_, float)
    assert quantizer.bits_per_sample_ == pytest.approx(np.log2(sizes).sum())


@each([row for row in ONE_OF_EACH if row.codes])
def test_quantize_in_the_container_of_transform(row):
    """With the names and the index of the input; the way back is an array."""
    X = row.data()[:3]
    names, index = [f"feature {j}" for j in range(X.shape[1])], ["a", "b", "c"]
    quantizer = shallow_copy(row.fitted())
    expected = quantizer.quantize(X)
    quantizer.feature_names_in_ = np.array(names, dtype=object)
    frame = pd.DataFrame(X, columns=names, index=index)
    with sklearn.config_context(transform_output="pandas"):
        found = quantizer.quantize(frame)
        codes = quantizer.transform(frame)
    pd.testing.assert_frame_equal(found, pd.DataFrame(expected, index, names))
    assert list(codes.index) == index
    assert type(quantizer.inverse_transform(codes)) is np.ndarray


@every_quantizer
def test_codebooks(row):
    quantizer = row.fitted()
    with pytest.raises(AttributeError, match="is not fitted: it has no codebooks_"):
        row.make().codebooks_  # noqa: B018
    assert not hasattr(row.make(), "codebook_sizes_")
    if not row.codebooks:
        with pytest.raises(AttributeError, match=r"has no codebooks_: .*the codes bef"):
            quantizer.codebooks_  # noqa: B018
        return
    tables = quantizer.codebooks_
    assert isinstance(tables, tuple)
    assert [len(table) for table in tables] == list(quantizer.codebook_sizes_)
    assert all(table.ndim == 2 for table in tables)
    assert all(np.isfinite(table).all() for table in tables)


@every_quantizer
def test_full_codebook(row):
    quantizer, X = row.fitted(), row.data(seed=1)
    sizes = [int(size) for size in quantizer.codebook_sizes_]
    product = int(np.prod([float(size) for size in sizes]))
    if product > 2**16:
        with pytest.raises(ValueError, match="max_size=65536"):
            quantizer.full_codebook(max_size=2**16)
        return
    table = quantizer.full_codebook()
    assert table.shape == (product, X.shape[1])
    codes = quantizer.transform(X)
    ids = token_ids(codes, sizes).astype(np.intp)
    assert_array_equal(table[ids], quantizer.quantize(X))
    with pytest.raises(ValueError, match="max_size"):
        quantizer.full_codebook(max_size=product - 1)
    if row.exact is not None:
        bias = priced(quantizer, row.rate_weight)
        assert_nearest(ids, X, table, row.exact, np.float32, row.computed, bias)


@every_quantizer
def test_score_and_distortion(row):
    quantizer, X = row.fitted(), row.data(seed=1)
    weights = np.random.default_rng(0).integers(0, 3, len(X)).astype(float)
    errors = paired(X, quantizer.quantize(X), row.score)
    score = quantizer.score(X)
    assert type(score) is float
    assert score == pytest.approx(-errors.mean(), rel=1e-5)
    assert quantizer.score(X, sample_weight=weights) == pytest.approx(
        -np.average(errors, weights=weights), rel=1e-5
    )
    train = row.data()
    assert type(quantizer.distortion_) is float
    if not row.streams or not hasattr(quantizer, "_stream_"):
        scored = -quantizer.score(train)
        if row.searches_harder:
            assert scored < quantizer.distortion_ < 1.1 * scored
        else:
            assert quantizer.distortion_ == pytest.approx(scored, rel=1e-4)


@every_quantizer
def test_several_codes_of_a_sample(row, tmp_path):
    quantizer, X = row.fitted(), row.data(25, seed=1)
    if not quantizer._can_encode_best():
        with pytest.raises(AttributeError, match="has no encode_best"):
            quantizer.encode_best  # noqa: B018
        return
    with pytest.raises(NotFittedError):
        row.make().encode_best(X, 2)
    one, _ = quantizer.encode_best(X, 1)
    codes = quantizer.transform(X)
    assert one.dtype == codes.dtype
    _same_but_for_rounding(quantizer, row, X, codes, one[:, 0], np.arange(25))
    found, errors = quantizer.encode_best(X, 3)
    n_found = min(3, math.prod(quantizer.codebook_sizes_))
    assert found.shape == (25, n_found, codes.shape[1])
    assert errors.shape == (25, n_found)
    assert errors.dtype == np.float64
    for b in range(n_found):
        decoded = quantizer.inverse_transform(found[:, b])
        assert_allclose(errors[:, b], paired(X, decoded), rtol=1e-6)
    if not getattr(quantizer, "share_codebook", False):
        assert {len(np.unique(some, axis=0)) for some in found} == {n_found}
    np.save(tmp_path / "X.npy", X)
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    assert_array_equal(quantizer.encode_best(mapped, 3)[0], found, strict=True)
    with pytest.raises(ValueError, match="n_best=0"):
        quantizer.encode_best(X, 0)
    with pytest.raises(ValueError, match="NaN"):
        quantizer.encode_best(np.where(X == X[3, 0], np.nan, X), 2)


# Why reconstructions of a row are no sums of what single codes stand for.
NO_SUMS = {
    "trellis": "depends on the codes before it",
    "kronecker": "a product of codewords",
    "spherical": "angles",
    "multiscale-smooth": "n_smoothers=2",
    "q-of-scaled": "a length of its own",
}


@every_quantizer
@pytest.mark.parametrize("metric", ["sqeuclidean", "cosine", "inner_product"])
def test_distances_are_sums_over_codes(row, metric):
    quantizer, X = row.fitted(), row.data(40, seed=1)
    for name, why in NO_SUMS.items():
        if name in row.name and "binary" not in row.name:
            assert not hasattr(row.make(), "distance_table")
            with pytest.raises(AttributeError, match=f"(?s)no row_terms: .*{why}"):
                quantizer.row_terms  # noqa: B018
            return
    codes, queries = quantizer.transform(X), row.data(7, seed=2)
    # Lengths are those of rows about a mean, where there is one.
    has_mean = hasattr(quantizer, "mean_") and quantizer._n_scales()
    if has_mean and metric == "cosine":
        for method, given in (("distance_table", queries), ("row_terms", codes)):
            with pytest.raises(ValueError, match="'cosine' is no sum over codes"):
                getattr(quantizer, method)(given, metric)
        return
    mean = quantizer.mean_ if has_mean else np.zeros(row.n_features)
    decoded = quantizer.inverse_transform(codes)
    codes, decoded = (each[decoded.any(axis=1)] for each in (codes, decoded))
    table = quantizer.distance_table(queries, metric)
    factor, offset = quantizer.row_terms(codes, metric)
    assert table.dtype == np.float64
    assert {type(term) for term in (factor, offset)} <= {np.ndarray, type(None)}
    found, start = np.zeros((len(queries), len(codes))), 0
    for size, column in zip(quantizer.codebook_sizes_, codes.T, strict=True):
        if start < table.shape[1]:  # columns of lengths are in the factor
            found += table[:, start + column.astype(int)]
            start += size
    assert start == table.shape[1]
    scaled = metric == "sqeuclidean" and factor is not None
    norms = np.square(queries - mean, dtype=np.float64).sum(axis=1, keepdims=True)
    found = found * (1 if factor is None else factor) + (norms if scaled else 0)
    found += (0 if offset is None else offset) + (metric == "cosine")
    if metric == "inner_product":
        found -= (queries @ mean)[:, None]
    pairs = np.repeat(queries, len(codes), axis=0), np.tile(decoded, (len(queries), 1))
    expected = engine.paired(*pairs, metric).reshape(found.shape)
    assert_allclose(found, expected, rtol=1e-5, atol=1e-6 * np.abs(expected).max())


@every_row
def test_quantize_is_idempotent(row):
    if not row.idempotent:
        pytest.skip("not a nearest-neighbour scheme of its own reconstructions")
    estimator, X = row.fitted(), row.data(seed=1)
    quantize = estimator.quantize if row.codes else estimator.transform
    once = quantize(X)
    assert_allclose(quantize(once), once, rtol=1e-5, atol=1e-5)


CLASSES_WITH_CODES = each([row for row in ONE_OF_EACH if row.codes])


@every_quantizer
def test_code_counts(row):
    """... are those of the training samples, or of the batches of a stream."""
    quantizer, X = row.fitted(), row.data()
    codes, sizes = quantizer.transform(X), quantizer.codebook_sizes_
    assert isinstance(quantizer.code_counts_, tuple)
    for counts, column, size in zip(
        quantizer.code_counts_, codes.T, sizes, strict=True
    ):
        if size > 2**16:
            assert counts is None
            continue
        assert counts.dtype == np.float64
        assert counts.shape == (size,)
        assert counts.sum() == len(X)
        if not row.searches_harder:
            assert_array_equal(counts, np.bincount(column, minlength=size))
    given = given_codebooks(quantizer) if row.tables else None
    for counts, size in zip(given.code_counts_, sizes, strict=True) if given else ():
        assert_array_equal(counts, np.zeros(size))


@each(STREAMS)
def test_code_counts_of_streams(row):
    """... add up, each batch being coded after it was learned from."""
    X, weights = row.data(300), np.r_[np.full(100, 2.0), np.ones(200)]
    stream, expected = row.make(), 0
    for part in (slice(0, 100), slice(100, 300)):
        stream.partial_fit(X[part], sample_weight=weights[part])
        sizes = stream.codebook_sizes_
        # Weights of the first batch are the unit.
        expected += np.hstack(
            [
                np.bincount(column, weights[part] / 2, size)
                for column, size in zip(stream.transform(X[part]).T, sizes, strict=True)
            ]
        )
    assert_allclose(np.hstack(stream.code_counts_), expected)


@ignore_few
@each([row for row in ONE_OF_EACH if row.codes])
def test_code_counts_of_weights(row):
    """... are in units of the mean weight, whatever these are multiplied by."""
    X = row.data(200)
    weights = np.arange(len(X)) % 4 * 0.3
    heavy = weights > 0
    fitted = row.make().fit(X, sample_weight=weights)
    other = row.make().fit(X, sample_weight=weights * 1024)
    codes = fitted.transform(X)
    shares = weights / weights[heavy].mean()
    for j, counts in enumerate(fitted.code_counts_):
        expected = np.bincount(codes[:, j], shares, len(counts))
        assert counts.sum() == pytest.approx(heavy.sum())
        assert_allclose(other.code_counts_[j], counts, rtol=1e-9, atol=1e-9)
        if not row.searches_harder:
            assert_allclose(counts, expected, rtol=1e-9, atol=1e-9)


@CLASSES_WITH_CODES
def test_codes_that_are_decoded(row):
    quantizer, X = row.fitted(), row.data(seed=1)
    codes = quantizer.transform(X)
    expected = quantizer.quantize(X)
    names = quantizer.get_feature_names_out()
    for other in (
        codes.tolist(),
        codes.astype(float),
        codes.astype(np.int64),
        np.asfortranarray(codes),
        pd.DataFrame(codes, columns=names),
    ):
        assert_array_equal(quantizer.inverse_transform(other), expected)


@CLASSES_WITH_CODES
def test_codes_that_are_refused(row):
    quantizer = row.fitted()
    last = len(quantizer.codebook_sizes_) - 1
    codes = quantizer.transform(row.data(3)).astype(float)
    for value in (-1, 0.5, np.nan, np.inf, 10**9):
        codes[1, last] = value
        with pytest.raises(
            ValueError, match=rf"codes\[1, {last}\] = {float(value)} is"
        ):
            quantizer.inverse_transform(codes)
    codes[1, last] = quantizer.codebook_sizes_[last]
    with pytest.raises(ValueError, match=rf"column {last} takes the integers 0 to"):
        quantizer.inverse_transform(codes)
    with pytest.raises(ValueError, match="columns"):
        quantizer.inverse_transform(np.zeros((2, last + 2), dtype=int))


@every_row
def test_pickle_and_joblib(row, tmp_path):
    X, estimator = row.data(), row.fitted()
    expected = estimator.transform(X)
    joblib.dump(estimator, tmp_path / "codec.joblib")
    for copy in (
        pickle.loads(pickle.dumps(estimator)),
        joblib.load(tmp_path / "codec.joblib"),
    ):
        assert_array_equal(copy.transform(X), expected)
    fresh = clone(estimator)
    assert fresh.get_params().keys() == estimator.get_params().keys()
    with pytest.raises(NotFittedError):
        fresh.transform(X)


# Of the classes of what quantizers keep, those that others do not have.
KEEPING_MORE = {"vq-ema", "fsq-cdf", "fsq-none", "multiscale-smooth", "rq-of-pairs"}
KEEPING_MORE |= {"spherical-learned-radius", "binary-spherical-float32"}


@each([*ONE_OF_EACH, *(row for row in QUANTIZERS if row.name in KEEPING_MORE)])
def test_skops(row):
    """It takes objects apart by their states, where `pickle` calls what makes them."""
    skops = pytest.importorskip("skops.io")
    data = skops.dumps(row.fitted())
    copy = skops.loads(data, trusted=skops.get_untrusted_types(data=data))
    X = row.data()
    assert_array_equal(copy.transform(X), row.fitted().transform(X))


@every_row
def test_codec_files(row, tmp_path, monkeypatch):
    """... bring back all that there is: what was loaded is saved as the same bytes."""
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    X, estimator, path = row.data(), row.fitted(), tmp_path / "codec"
    if callable(getattr(estimator, "metric", None)):
        with pytest.raises(TypeError, match="is code"):
            skvq.save(estimator, path)
        return
    skvq.save(estimator, path)
    content = path.read_bytes()
    copy, mapped = skvq.load(path), skvq.load(path, mmap=True, verify=False)
    assert vars(copy).keys() == vars(estimator).keys()
    for again in (copy, mapped):
        assert_array_equal(again.transform(X), estimator.transform(X))
    if row.streams:
        expected = pickle.loads(pickle.dumps(estimator))
        for again in (expected, copy, mapped):
            (again if row.codes else again.quantizer_).partial_fit(X[:50])
        assert_array_equal(copy.transform(X), expected.transform(X))
        assert_array_equal(mapped.transform(X), expected.transform(X))
    skvq.save(skvq.load(path), path)
    assert path.read_bytes() == content
    assert repr(clone(copy)) == repr(clone(estimator))


@ignore_few
@each([row for row in TABLE if row.sklearn_checks])
def test_one_feature_and_few_rows(row):
    """... and nothing that was given is changed, nor are attributes of other names."""
    X, weights = mixture(12, 1), np.arange(1.0, 13.0)
    X.flags.writeable = weights.flags.writeable = False
    estimator = row.make()
    before = joblib.hash(estimator)
    parameters = set(vars(estimator))
    estimator.fit(X, sample_weight=weights)
    quantized = estimator.quantize(X) if row.codes else estimator.transform(X)
    assert quantized.shape == X.shape
    assert np.isfinite(quantized).all()
    assert joblib.hash(clone(estimator)) == before
    assert all(name.endswith("_") for name in set(vars(estimator)) - parameters)


@CLASSES_WITH_CODES
def test_pickles_of_another_version_warn(row, monkeypatch):
    data = pickle.dumps(row.fitted())
    monkeypatch.setattr("skvq.base.__version__", "999")
    with pytest.warns(InconsistentVersionWarning, match=r"skvq 999"):
        pickle.loads(data)


@every_class
def test_unfitted(row):
    X = row.data()
    for name in ("transform", "inverse_transform", "quantize", "score"):
        if hasattr(row.make(), name):
            with pytest.raises(NotFittedError):
                getattr(row.make(), name)(X)


@every_quantizer
def test_partial_fit_is_there_where_it_can_be(row):
    assert hasattr(row.make(), "partial_fit") == row.streams
    if not row.streams:
        with pytest.raises(AttributeError, match="partial_fit"):
            row.make().partial_fit  # noqa: B018


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@each(STREAMS)
def test_stream_of_batches_of_any_size(row):
    X = row.data(600)
    quantizer = row.make()
    errors = []
    begin = 0
    for size in (1, 2, 1, 5, 31, 60, 200, 300):
        quantizer.partial_fit(X[begin : begin + size])
        begin += size
        errors.append(-quantizer.score(X))
        assert quantizer.transform(X).max() < max(quantizer.codebook_sizes_)
    assert errors[-1] < 0.7 * errors[0] or (row.given and len(set(errors)) == 1)
    with pytest.raises(ValueError, match="features"):
        quantizer.partial_fit(X[:, :-1])
    assert_array_equal(-quantizer.score(X), errors[-1])


@each([row for row in TABLE if row.given])
def test_one_row_is_enough_where_nothing_is_learned(row):
    one, X = row.make().fit(row.data(1)), row.data()
    assert_array_equal(one.transform(X), row.fitted().transform(X))
    for a, b in zip(tables_of(one), tables_of(row.fitted()), strict=True):
        assert_array_equal(a, b)


# -- the same bits, whatever the circumstances -----------------------------------------


@every_row
def test_same_seed_same_bits(row, two_threads):
    """... on one thread and on two, of a clone, with `fit` or with `fit_transform`."""
    X, one = row.data(), row.fitted()
    two = clone(one)
    codes = two.fit_transform(X)
    for a, b in zip(tables_of(one), tables_of(two), strict=True):
        assert a.tobytes() == b.tobytes()
    assert_array_equal(one.transform(X), codes)


@each([row for row in ONE_OF_EACH if row.codes])
@ignore_few
def test_a_map_teaches_what_the_array_does(row, tmp_path, monkeypatch, two_threads):
    """... in many blocks, with room to hold the rows or none, with weights of zero."""
    X = row.data(300)
    weights = np.arange(len(X)) % 4 * 0.5
    np.save(tmp_path / "X.npy", X)
    there = np.load(tmp_path / "X.npy", mmap_mode="r")
    monkeypatch.setattr("skvq.learning.rows.BLOCK_ELEMENTS", 32 * X.shape[1])
    expected = row.make().fit(X, sample_weight=weights)
    monkeypatch.setattr("skvq.learning.rows.HELD_BYTES", 0)
    found = row.make().fit(there, sample_weight=weights)
    for a, b in zip(tables_of(expected), tables_of(found), strict=True):
        assert a.tobytes() == b.tobytes()
    assert found.distortion_ == expected.distortion_
    for a, b in zip(expected.code_counts_, found.code_counts_, strict=True):
        assert a.tobytes() == b.tobytes()


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        pytest.param(row, kind, id=f"{kind}-{row.name}")
        for i, row in enumerate(QUANTIZERS)
        for kind in ("real", "integer")
        if kind == "real" or row in ONE_OF_EACH or i % 3 == 0
    ],
)
def test_codes_do_not_depend_on_company(row, kind, two_threads):
    """Row by row, in batch, permuted, on one and two threads."""
    X = row.data(333, seed=2)
    quantizer = row.fitted()
    if kind == "integer":
        X = row.parts_metric_is_defined(np.rint(X))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            quantizer = row.make().fit(X[:40])
    codes = quantizer.transform(X)
    with threadpool_limits(1, user_api="blas"):
        assert_array_equal(quantizer.transform(X), codes)
    order = np.random.default_rng(0).permutation(len(X))
    alone = np.concatenate([quantizer.transform(x[None]) for x in X[:20]])
    _same_but_for_rounding(
        quantizer, row, X, codes, quantizer.transform(X[order]), order
    )
    _same_but_for_rounding(quantizer, row, X, codes[:20], alone, np.arange(20))


def _same_but_for_rounding(quantizer, row, X, codes, other, order, atol=0.0):
    differs = (codes[order] != other).any(axis=1)
    if not differs.any():
        return
    x = X[order[differs]]
    a = paired(x, quantizer.inverse_transform(codes[order[differs]]), row.score)
    b = paired(x, quantizer.inverse_transform(other[differs]), row.score)
    assert_allclose(a, b, rtol=1e-5, atol=atol)


@every_quantizer
def test_equal_codewords_give_the_lowest_code(row):
    if row.exact is None or not row.few:
        pytest.skip("no rule for ties")
    X = row.parts_metric_is_defined(np.rint(row.data(3, seed=5)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        quantizer = row.make().fit(X)
    codes = quantizer.transform(X)
    for column, table in zip(codes.T, quantizer.codebooks_, strict=True):
        firsts = np.unique(table + 0.0, axis=0, return_index=True)[1]
        assert np.isin(column, firsts).all()


def test_threads_that_transform_at_once_leave_blas_alone():
    rows = [row for row in QUANTIZERS if row.name in ("vq-defaults", "pq-defaults")]
    before = [lib["num_threads"] for lib in threadpool_info()]
    with ThreadPoolExecutor(8) as pool:
        for row in rows:
            X = row.data(20_000, seed=3)
            expected = row.fitted().transform(X)
            for codes in pool.map(row.fitted().transform, [X] * 16):
                assert_array_equal(codes, expected)
    assert [lib["num_threads"] for lib in threadpool_info()] == before


# -- input of every kind ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "dtype"),
    [
        pytest.param(row, dtype, id=f"{dtype}-{row.name}")
        for i, row in enumerate(TABLE)
        for dtype in ("float32", "float64")
        if dtype == "float32" or row in ONE_OF_EACH or i % 3 == 0
    ],
)
def test_dtypes(row, dtype):
    X = row.data(seed=1, dtype=dtype)
    estimator = row.fitted(dtype)
    result = estimator.transform(X)
    if not row.codes:
        assert result.dtype == dtype
        return
    assert estimator.quantize(X).dtype == dtype
    if row.exact is not None and row.make_is_small:
        ids = token_ids(result, estimator.codebook_sizes_).astype(np.intp)
        table = estimator.full_codebook()
        bias = priced(estimator, row.rate_weight)
        assert_nearest(ids, X, table, row.exact, dtype, row.computed, bias)


@ignore_few
@every_class
@pytest.mark.parametrize("dtype", ["float16", "uint8", "int16", "int64", "bool"])
def test_narrow_and_integer_dtypes_are_computed_in_wider_ones(row, dtype):
    X = row.data(80, seed=1)
    X = ((X > 0) if dtype == "bool" else np.abs(X * 4)).astype(dtype)
    wide = X.astype("float64" if dtype == "int64" else "float32")
    a, b = row.make().fit(X), row.make().fit(wide)
    for one, two in zip(tables_of(a), tables_of(b), strict=True):
        assert one.dtype == two.dtype
        assert_array_equal(one, two)
    assert_array_equal(a.transform(X), b.transform(wide))
    if row.codes:
        assert a.quantize(X).dtype == wide.dtype
        assert a.score(X) == b.score(wide)


@every_row
def test_memory_layouts(row, tmp_path):
    X = row.data(seed=1)
    estimator = row.fitted()
    expected = estimator.transform(X)
    doubled = np.repeat(np.repeat(X, 2, axis=0), 2, axis=1)
    frozen = X.copy()
    frozen.flags.writeable = False
    np.save(tmp_path / "X.npy", X)
    layouts = [
        np.asfortranarray(X),
        doubled[::2, ::2],
        X[::-1][::-1],
        frozen,
        np.load(tmp_path / "X.npy", mmap_mode="r"),
        X.tolist(),
    ]
    for other in layouts:
        assert_array_equal(estimator.transform(other), expected)
    if row in ONE_OF_EACH:
        expected_after = row.make().fit(X).transform(X)
        # Learners are given one layout, whatever X has.
        for other in layouts[:2]:
            assert_array_equal(row.make().fit(other).transform(X), expected_after)


# -- bad input -------------------------------------------------------------------------


def _with(X, value):
    X = X.astype(object if isinstance(value, (str, complex)) else float)
    X[3, -1] = value
    return X


BAD_SAMPLES = {
    "nan": (lambda X: _with(X, np.nan), "NaN"),
    "infinity": (lambda X: _with(X, np.inf), "infinity"),
    "too narrow": (lambda X: X[:, :-1], "features"),
    "too wide": (lambda X: np.hstack([X, X]), "features"),
    "empty": (lambda X: X[:0], "0 sample"),
    "no features": (lambda X: X[:, :0], "0 feature"),
    "one row, flat": (lambda X: X[0], "1D array"),
    "three dimensions": (lambda X: X[None], "dim 3"),
    "strings": (lambda X: _with(X, "one"), "could not convert string"),
    "complex": (lambda X: X + 1j, "Complex data not supported"),
    "objects": (lambda X: np.full(X.shape, None, dtype=object), "NaN|NoneType"),
    "sparse": (lambda X: scipy.sparse.csr_array(X), "[Ss]parse"),
    "dates": (lambda X: X.astype("datetime64[s]"), "real numbers|dtype"),
    "none": (lambda X: None, "array"),
}


@every_class
@pytest.mark.parametrize("kind", BAD_SAMPLES)
def test_bad_samples(row, kind):
    make_bad, message = BAD_SAMPLES[kind]
    good = row.data(40)
    bad = make_bad(good)
    estimator = row.fitted()
    state = pickle.dumps(estimator)
    for name in ("transform", "quantize", "score"):
        if hasattr(estimator, name):
            with pytest.raises((ValueError, TypeError), match=message):
                getattr(estimator, name)(bad)
    assert pickle.dumps(estimator) == state
    if "features" in message:
        return  # a fit takes any width
    fresh = row.make()
    with pytest.raises((ValueError, TypeError), match=message):
        fresh.fit(bad)
    with pytest.raises(NotFittedError):
        fresh.transform(good)


@every_class
def test_a_failed_fit_changes_nothing(row):
    X = row.data()
    estimator = pickle.loads(pickle.dumps(row.fitted()))
    state = pickle.dumps(estimator)
    bad = X.copy()
    bad[-1, -1] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        estimator.fit(bad)
    with pytest.raises(ValueError, match="Negative"):
        estimator.fit(X, sample_weight=np.full(len(X), -1.0))
    assert pickle.dumps(estimator) == state


def test_a_failed_batch_changes_nothing():
    row = STREAMS[0]
    X = row.data(60)
    estimator = row.make().partial_fit(X)
    state = pickle.dumps(estimator)
    X[-1, -1] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        estimator.partial_fit(X)
    assert pickle.dumps(estimator) == state


@every_class
@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (lambda n: np.zeros(n), "zero"),
        (lambda n: -np.ones(n), "Negative"),
        (lambda n: np.full(n, np.nan), "NaN"),
        (lambda n: np.ones(n - 1), r"shape|inconsistent"),
        (lambda n: np.ones((n, 1)), r"1D|dimension"),
    ],
    ids=["zero", "negative", "nan", "short", "2-d"],
)
def test_bad_weights(row, weights, message):
    X = row.data(60)
    estimator = row.make()
    with pytest.raises(ValueError, match=message):
        estimator.fit(X, sample_weight=weights(len(X)))
    if row.codes:
        with pytest.raises(ValueError, match=message):
            row.fitted().score(X, sample_weight=weights(len(X)))


@each([row for row in TABLE if not row.zeros])
def test_zero_rows_are_refused_where_they_have_no_direction(row):
    X = row.data(60).copy()
    X[7] = 0
    with pytest.raises(ValueError, match=r"zero vectors: row 7"):
        row.make().fit(X)
    with pytest.raises(ValueError, match="zero vectors"):
        row.fitted().transform(X)


# -- degenerate, but right -------------------------------------------------------------


@each(FITTED_ON_FEW)
def test_fewer_distinct_samples_than_codewords(row):
    X = row.data(3)[[2, 0, 1, 0, 2, 2]]
    with pytest.warns(ConvergenceWarning, match="distinct samples"):
        estimator = row.make().set_params(**_many_codewords(row)).fit(X)
    for table in tables_of(estimator):
        assert np.isfinite(table).all()
    quantized = estimator.quantize(X) if row.codes else estimator.transform(X)
    metrics = ("sqeuclidean", "manhattan", "euclidean")
    if row.score in metrics and row.zeros and row.represents:
        assert_allclose(quantized, X, atol=1e-6)
    if type(estimator) is skvq.VectorQuantizer and row.zeros:
        assert_array_equal(tables_of(estimator)[0], repeat_cyclically(X, 7))


def _many_codewords(row):
    """Parameters that give every table of the row seven codewords or more."""
    found = {}
    for name, value in row.make().get_params().items():
        if name.split("__")[-1] == "n_codewords" and value is not None:
            found[name] = 7 if isinstance(value, int) else [7] * len(value)
    return found


DEGENERATE = {
    "constant": lambda X: np.full_like(X, 3.5),
    "constant feature": lambda X: np.where(np.arange(X.shape[1]) == 1, 2.0, X),
    "duplicates": lambda X: X[np.arange(len(X)) % 5],
    "two values": lambda X: (X > 0).astype(X.dtype),
    "integers": lambda X: np.rint(X),
    "offset": lambda X: X + 1e4,
    "outlier": lambda X: np.where(np.arange(len(X))[:, None] == 5, X * 1e6, X),
    "minus zero": lambda X: np.where(X > 0, -0.0, 0.0),
}


def _degenerate_cases():
    """All kinds for one row of each class; else some, of nestings fewer."""
    for i, row in enumerate(TABLE):
        one_of = 1 if row in ONE_OF_EACH else 8 if "-of-" in row.name else 4
        for j, kind in enumerate(DEGENERATE):
            marks = marks_of((i + j) % one_of != 0)
            yield pytest.param(row, kind, id=f"{row.name}-{kind}", marks=marks)


@pytest.mark.long
@ignore_few
@pytest.mark.parametrize(("row", "kind"), list(_degenerate_cases()))
def test_degenerate_samples(row, kind):
    degenerate = row.parts_metric_is_defined(DEGENERATE[kind](row.data(60)))
    # In float64, one of each class.
    wide = row in ONE_OF_EACH
    for dtype in (np.float32, np.float64) if wide else (np.float32,):
        X = degenerate.astype(dtype)
        estimator = row.make().fit(X)
        _assert_right(row, estimator, X)
        if row.codes and row.score == "sqeuclidean" and row.learns and not row.streams:
            spread = paired(X, np.broadcast_to(X.mean(axis=0), X.shape)).mean()
            assert -estimator.score(X) <= spread * (1 + 1e-5) + 1e-6


def _assert_right(row, estimator, X):
    """Assert all that can be said of an estimator fitted on any X."""
    for table in tables_of(estimator):
        assert np.isfinite(table).all()
    if not row.codes:
        quantized = estimator.transform(X)
        assert quantized.shape == X.shape
        assert np.isfinite(quantized).all()
        return
    assert np.isfinite(estimator.distortion_)
    codes = estimator.transform(X)
    assert (codes < np.array(estimator.codebook_sizes_)).all()
    decoded = estimator.inverse_transform(codes)
    assert np.isfinite(decoded).all()
    assert_array_equal(estimator.quantize(X), decoded)
    order = np.random.default_rng(0).permutation(len(X))
    # Beside a codeword that is very far away, those near each other are all the same.
    reach = np.linalg.norm(X - np.median(X, axis=0), axis=1).max()
    atol = 16 * np.finfo(X.dtype).eps * float(reach) ** 2
    _same_but_for_rounding(
        estimator, row, X, codes, estimator.transform(X[order]), order, atol
    )
    copy = pickle.loads(pickle.dumps(estimator))
    assert_array_equal(copy.transform(X), codes)
    if row.exact is None or not row.make_is_small or (X == X[0]).all():
        return
    ids = token_ids(codes, estimator.codebook_sizes_).astype(np.intp)
    table = estimator.full_codebook()
    bias = priced(estimator, row.rate_weight)
    assert_nearest(ids, X, table, row.exact, X.dtype, row.computed, bias)
    if row.score == row.exact == "sqeuclidean" and not np.any(bias):
        best = distances(X, table).min(axis=1)
        # Products of outliers may reach far beyond all samples.
        reach = max(np.square(X).max(), np.square(table, dtype=np.float64).max())
        assert -estimator.score(X) <= best.mean() * (1 + 1e-3) + 1e-9 * reach


def _scales():
    """Many for one row of each class, and the ends for those that share learners."""
    many = {"float32": (-148, -130, -60, 60, 124), "float64": (-1070, -500, 500)}
    for row in TABLE:
        for dtype, exponents in many.items():
            if not (row.deterministic or row in ONE_OF_EACH):
                if dtype == "float64":
                    continue
                exponents = exponents[::2]
            yield pytest.param(row, dtype, exponents, id=f"{dtype}-{row.name}")


@pytest.mark.long
@ignore_few
@pytest.mark.parametrize(("row", "dtype", "exponents"), list(_scales()))
def test_scales_near_the_ends_of_the_dtype(row, dtype, exponents):
    """A right answer, or an error that says what overflows; never a NaN."""
    for exponent in exponents:
        X = np.ldexp(row.data(60).astype(dtype), exponent)
        X = row.parts_metric_is_defined(X)
        estimator = row.make()
        try:
            estimator.fit(X)
            quantized = estimator.quantize(X) if row.codes else estimator.transform(X)
        except ValueError as error:
            assert any(
                word in str(error)
                for word in ("overflow", "too large", "gives NaN", "zero vectors")
            ), error
            continue
        assert np.isfinite(quantized).all(), exponent
        for table in tables_of(estimator):
            assert np.isfinite(table).all(), exponent


# -- weights ---------------------------------------------------------------------------

# Whose learners are those of other rows, each of which takes less than a second.
SLOW_TO_REPEAT = {"aq-independent", "rq-greedy", "rq-refined", "kronecker-3"}


@each([row for row in TABLE if row.weights == "exact"])
def test_weights_equal_repeats(row):
    X = row.data(400, dtype=np.float64)
    weights = np.random.default_rng(0).integers(0, 4, len(X))
    a = row.make().fit(X, sample_weight=weights)
    b = row.make().fit(np.repeat(X, weights, axis=0))
    for one, two in zip(tables_of(a), tables_of(b), strict=True):
        assert_allclose(one, two, rtol=1e-9, atol=1e-9)
    assert_array_equal(a.transform(X), b.transform(X))


@each([row for row in TABLE if row.weights == "statistical"], thorough=SLOW_TO_REPEAT)
@pytest.mark.long
def test_weights_equal_repeats_at_most_starts(row, seed):
    """Of weights, the learner makes what repeats make of it, and what none does not.

    A few rows at one end weigh far more than all others together.  Learned without the
    weights, tables serve these rows badly: by how much, is the scale that the chance in
    the starts is measured by, so that a learner that ignores weights cannot pass.  It
    is the median of some starts, since one that ends badly is far off: of 60 starts of
    a greedy chain the median error is 2.8, and the largest 7.2.
    """
    X = row.data(200, dtype=np.float64)
    weights = np.where(X[:, 0] > np.quantile(X[:, 0], 0.85), 40, 1)
    repeated = np.repeat(X, weights, axis=0)

    def error(samples, sample_weight=None):
        errors = []
        for more in range(6):
            estimator = row.make().set_params(**_seed(row, seed + more))
            estimator.fit(samples, sample_weight=sample_weight)
            errors.append(-estimator.score(X, sample_weight=weights))
        return np.median(errors)

    with_repeats, without = error(repeated), error(X)
    assert without > 1.1 * with_repeats  # else the weights would not matter
    assert abs(error(X, weights) - with_repeats) < 0.5 * (without - with_repeats)


def _seed(row, seed):
    names = row.make().get_params()
    return {
        name: seed
        for name in names
        if name.split("__")[-1] == "random_state" and names[name] is not None
    }


@every_class
def test_rows_of_weight_zero_play_no_part(row):
    X = row.data(300)
    junk = np.full((50, X.shape[1]), 1e3, dtype=X.dtype)
    weights = np.r_[np.ones(len(X)), np.zeros(len(junk))]
    a = row.make().fit(np.vstack([X, junk]), sample_weight=weights)
    b = row.make().fit(X, sample_weight=np.ones(len(X)))
    for one, two in zip(tables_of(a), tables_of(b), strict=True):
        assert_array_equal(one, two)


# -- properties ------------------------------------------------------------------------


@st.composite
def matrices(draw, n_features):
    """Small matrices with ties, duplicates and values of very different size."""
    n_samples = draw(st.integers(2, 40))
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    kind = draw(st.sampled_from(["normal", "integer", "duplicates", "heavy", "offset"]))
    X = rng.normal(size=(n_samples, n_features))
    if kind == "integer":
        X = np.rint(3 * X)
    elif kind == "duplicates":
        X = X[rng.integers(0, max(1, n_samples // 3), n_samples)]
    elif kind == "heavy":
        X = X / rng.random(X.shape) ** 3
    elif kind == "offset":
        X = X + 1000 * rng.normal(size=n_features)
    return X.astype(draw(st.sampled_from([np.float32, np.float64])))


@ignore_few
@every_class
@settings(max_examples=12)
@given(data=st.data())
@pytest.mark.long
def test_properties(row, data):
    X = row.parts_metric_is_defined(data.draw(matrices(row.n_features)))
    _assert_right(row, row.make().fit(X), X)
