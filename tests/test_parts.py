"""Parts of different kinds: lists of quantizers in the nesting schemes."""

import copy
import os
import pickle

import dask.array
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from oracles import assert_nearest, paired
from sklearn import config_context
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer, StandardScaler
from sklearn.utils import estimator_html_repr
from table import mixture, vq

import skvq
from skvq import (
    BinaryQuantizer,
    FiniteScalarQuantizer,
    ProductQuantizer,
    QuantizedFeatures,
    QuantizedNeighbors,
    ResidualQuantizer,
    UniformQuantizer,
    VectorQuantizer,
)
from skvq.interop import to_arrays

BOTH = pytest.mark.parametrize("cls", [ProductQuantizer, ResidualQuantizer])


def directions(n_samples=300):
    X = mixture(n_samples)
    return X / np.linalg.norm(X, axis=1, keepdims=True)


def colbert(**parameters):
    """A cosine codebook, and buckets of what it leaves."""
    quantizer = [
        ("centroid", VectorQuantizer(16, metric="cosine")),
        ("rest", UniformQuantizer(4, clip_range="quantile")),
    ]
    return ResidualQuantizer(quantizer=quantizer, random_state=0, **parameters)


def slices(**parameters):
    quantizer = [vq(8, random_state=None), UniformQuantizer(3), BinaryQuantizer()]
    return ProductQuantizer(quantizer=quantizer, random_state=0, **parameters)


# -- codes -----------------------------------------------------------------------------


def test_a_cosine_codebook_and_buckets_of_what_it_leaves():
    X = directions()
    rq = colbert().fit(X)
    first, second = rq.quantizers_
    assert_allclose(np.linalg.norm(rq.codebooks_[0], axis=1), 1, rtol=1e-6)
    codes = rq.transform(X)
    assert_nearest(codes[:, 0], X, first.codebooks_[0], "cosine", np.float32)
    rest = X - first.codebooks_[0][codes[:, 0]]
    assert_array_equal(codes[:, 1:], second.transform(rest))
    decoded = rq.inverse_transform(codes)
    assert_array_equal(decoded, rq.quantize(X))
    assert_allclose(decoded, X - rest + second.quantize(rest), atol=1e-6)
    # Squared distances, whatever the metric of a stage.
    assert rq.score(X) == pytest.approx(-paired(X, decoded).mean(), rel=1e-5)
    assert rq.distortion_ == pytest.approx(-rq.score(X), rel=1e-5)
    scores = list(rq.staged_score(X))
    assert scores[0] == pytest.approx(-paired(X, X - rest).mean(), rel=1e-5)
    assert scores[1] == pytest.approx(rq.score(X), rel=1e-6)
    assert_array_equal(rq.inverse_transform(codes[:, :1]), first.quantize(X))
    loaded = pickle.loads(pickle.dumps(rq))
    assert_array_equal(loaded.transform(X), codes)
    assert list(loaded.staged_score(X)) == scores


def test_slices_of_given_widths_and_kinds():
    X = mixture()
    pq = slices(widths=[1, 3, 2]).fit(X)
    assert pq.n_subspaces_ == 3
    assert pq.codebook_sizes_ == (8, 3, 3, 3, 2, 2)
    cuts = [slice(0, 1), slice(1, 4), slice(4, 6)]
    alone = [part.transform(X[:, cut]) for part, cut in zip(pq.quantizers_, cuts)]  # noqa: B905
    assert_array_equal(pq.transform(X), np.hstack(alone))
    assert pq.distortion_ == pytest.approx(-pq.score(X), rel=1e-5)


def test_widths_without_a_list():
    X = mixture()
    pq = ProductQuantizer(64, [2, 5, 3], widths=[3, 1, 2], random_state=0).fit(X)
    assert [table.shape for table in pq.codebooks_] == [(2, 3), (5, 1), (3, 2)]
    even = ProductQuantizer(64, 4, widths=np.array([2, 2, 2]), random_state=0).fit(X)
    assert_array_equal(
        even.transform(X), ProductQuantizer(3, 4, random_state=0).fit_transform(X)
    )
    shared = clone(even).set_params(share_codebook=True).fit(X)
    assert len({id(table) for table in shared.codebooks_}) == 1


@BOTH
def test_one_quantizer_and_a_list_of_the_same_are_one(cls):
    X = mixture()
    one = cls(2, quantizer=VectorQuantizer(4), random_state=0).fit(X)
    many = cls(9, quantizer=[VectorQuantizer(4)] * 2, random_state=0).fit(X)
    assert many.codebook_sizes_ == (4, 4)
    assert_array_equal(one.transform(X), many.transform(X))
    assert one.distortion_ == many.distortion_


def test_a_beam_over_tables_and_products():
    X = mixture(60, dtype=np.float64)
    rq = ResidualQuantizer(
        quantizer=[VectorQuantizer(6), ProductQuantizer(2, 3)],
        random_state=0,
        beam_size=6,
    ).fit(X)
    assert rq.fit_beam_size_ == 6
    # Of the first stage all are kept, so that the sums are searched exhaustively.
    gaps = ((X[:, None] - rq.full_codebook()) ** 2).sum(axis=2)
    assert_allclose(paired(X, rq.quantize(X)), gaps.min(axis=1))


def test_refinement_of_tables_in_different_slices():
    """Next to the best tables for the codes found, where stages are cut differently."""
    X = mixture(600, dtype=np.float64)
    parts = [
        vq(8, max_iter=1, init="random"),
        ProductQuantizer(2, 6, widths=[2, 4]),
        ProductQuantizer(2, 5),
    ]
    rq = ResidualQuantizer(quantizer=parts, random_state=0, fit_beam_size=1)
    plain = rq.fit(X).distortion_
    refined = rq.set_params(n_refine=4).fit(X)
    shapes = [table.shape for table in refined.codebooks_]
    assert shapes == [(8, 6), (6, 2), (6, 4), (5, 3), (5, 3)]
    ones = [
        np.eye(len(table))[column]
        for table, column in zip(
            refined.codebooks_, refined.transform(X).T, strict=True
        )
    ]
    best = 0.0
    # Features, and the columns of the codes that decode them.
    for cut, columns in (
        (slice(0, 2), (0, 1, 3)),
        (slice(2, 3), (0, 2, 3)),
        (slice(3, 6), (0, 2, 4)),
    ):
        A = np.hstack([ones[j] for j in columns])
        rest = X[:, cut] - A @ np.linalg.lstsq(A, X[:, cut], rcond=None)[0]
        best += (rest**2).sum(axis=1).mean()
    assert best < refined.distortion_ < min(1.01 * best, plain)


def test_one_stage_of_several_columns_keeps_their_order():
    X = mixture()
    part = ProductQuantizer(2, 8, random_state=0)
    rq = ResidualQuantizer(1, quantizer=part, beam_size=3).fit(X)
    assert_array_equal(rq.quantize(X), rq.quantizers_[0].quantize(X))


def test_settings_reach_every_part():
    quantizer = [VectorQuantizer(4), UniformQuantizer(4), VectorQuantizer(4)]
    pq = ProductQuantizer(quantizer=quantizer, random_state=0, backend="numpy")
    first, second, third = pq.fit(mixture()).quantizers_
    assert first.random_state != third.random_state
    assert first.backend == third.backend == "numpy"
    assert "random_state" not in second.get_params()
    assert quantizer[0].random_state is None
    assert not hasattr(quantizer[0], "codebook_sizes_")


@pytest.mark.parametrize("make", [colbert, lambda: slices(widths=[1, 3, 2])])
def test_rows_of_dask_teach_the_same(make, monkeypatch):
    X = directions()
    expected = make().fit(X)
    monkeypatch.setattr("skvq.learning.rows.HELD_BYTES", 0)
    lazy = dask.array.from_array(X, chunks=(100, 6))
    found = make().fit(lazy)
    assert_array_equal(found.transform(X), expected.transform(X))
    assert found.distortion_ == expected.distortion_


# -- parameters by name ----------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("names", [("a", "b"), ("0", "1")])
def test_parameters_of_parts_have_their_names(cls, names):
    quantizer = [VectorQuantizer(4), UniformQuantizer(3)]
    if names[0] == "a":
        quantizer = list(zip(names, quantizer, strict=True))
    one, other = names
    outer = cls(quantizer=quantizer)
    parameters = outer.get_params()
    assert parameters[f"{one}__n_codewords"] == 4
    assert parameters[f"{other}__n_levels"] == 3
    assert isinstance(parameters[other], UniformQuantizer)
    assert not set(names) & set(outer.get_params(deep=False))
    outer.set_params(**{f"{one}__n_codewords": 5, other: BinaryQuantizer()})
    assert outer.fit(mixture()).codebook_sizes_[0] == 5
    assert set(outer.codebook_sizes_[1:]) == {2}
    # In the form in which it was given.
    assert isinstance(outer.quantizer[1], tuple) == (one == "a")
    # Parameters of what is set with them.
    outer.set_params(**{"0__max_iter": 3, "quantizer": [VectorQuantizer(2)]})
    assert outer.quantizer[0].max_iter == 3
    with pytest.raises(ValueError, match="Invalid parameter '2'"):
        outer.set_params(**{"2__max_iter": 3})
    with pytest.raises(
        ValueError, match=r"quantizer is a list: .* such as 0__max_iter"
    ):
        outer.set_params(quantizer__max_iter=3)
    wrapped = QuantizedFeatures(cls(quantizer=quantizer))
    assert f"quantizer__{one}__n_codewords" in wrapped.get_params()


def test_clones_are_deep():
    rq = colbert()
    copied = clone(rq)
    assert copied.quantizer[0][0] == "centroid"
    assert copied.quantizer[0][1] is not rq.quantizer[0][1]
    copied.set_params(centroid__n_codewords=3)
    assert rq.quantizer[0][1].n_codewords == 16
    assert repr(copied).count("Quantizer(") == 3


def test_a_search_reaches_into_the_list():
    X = directions()
    grid = [
        {"centroid__n_codewords": [2, 8], "rest__n_levels": [2, 4]},
        {"rest": [FiniteScalarQuantizer(3)], "centroid__metric": ["sqeuclidean"]},
    ]
    found = GridSearchCV(colbert(), grid, cv=2).fit(X)
    assert len(found.cv_results_["params"]) == 5
    assert found.best_params_ == {"centroid__n_codewords": 8, "rest__n_levels": 4}
    assert found.best_estimator_.codebook_sizes_ == (8, *[4] * 6)


@pytest.mark.parametrize(
    ("estimator", "kind"), [(colbert(), "serial"), (slices(), "parallel")]
)
def test_diagrams_show_the_parts(estimator, kind):
    block = estimator._sk_visual_block_()
    assert block.kind == kind
    assert block.estimators == [part for _, part in estimator._pairs]
    assert block.names[1].endswith(": UniformQuantizer")
    html = estimator_html_repr(estimator)
    assert html.count("sk-estimator ") >= len(estimator.quantizer)
    assert f'class="sk-{kind}"' in html
    one = ProductQuantizer(quantizer=VectorQuantizer())
    assert "quantizer: VectorQuantizer" in estimator_html_repr(one)


def test_weights_are_routed_to_the_whole():
    X = directions()
    weights = np.arange(300.0)
    with config_context(enable_metadata_routing=True):
        rq = colbert().set_fit_request(sample_weight=True)
        rq.set_score_request(sample_weight=True)
        pipeline = make_pipeline(Normalizer(), clone(rq))
        pipeline.fit(X, sample_weight=weights)
        search = GridSearchCV(rq, {"rest__n_levels": [2, 4]}, cv=2)
        search.fit(X, sample_weight=weights)
    expected = colbert().fit(Normalizer().transform(X), sample_weight=weights)
    assert_array_equal(pipeline[-1].codebooks_[0], expected.codebooks_[0])
    assert search.best_params_ == {"rest__n_levels": 4}


# -- what is refused -------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize(
    ("quantizer", "message"),
    [
        ([], r"'quantizer' parameter of .* a list of quantizers.* Got \[\]"),
        ((vq(), vq()), "'quantizer' parameter of "),
        ([vq(), "vq"], r"quantizer\[1\]='vq'; expected an instance of a quantizer"),
        ([("a", StandardScaler())], r"quantizer\['a'\]=StandardScaler\(\); expected"),
        ([("a", vq()), ("a", vq())], r"quantizer: Names .* not unique: \['a', 'a'\]"),
        ([("1", vq()), vq()], "quantizer: Names .* not unique"),
        ([("a__b", vq())], "quantizer: .*must not contain __"),
        ([("n_codewords", vq())], "conflict with constructor arguments"),
        ([(3, vq())], "quantizer holds the name 3"),
        ([("", vq())], "quantizer holds the name ''"),
        ([vq(), vq(0)], r"quantizer\[1\]: The 'n_codewords' parameter of Vector"),
        (
            [vq(), ("b", vq(init=np.ones((4, 9))))],
            r"quantizer\['b'\]: init has shape \(4, 9\)",
        ),
        (
            [vq(), ProductQuantizer(widths=[1, 9])],
            r"quantizer\[1\]: widths=\[1, 9\] are 10 together",
        ),
        ([vq(), vq(2**31)], r"Tables of quantizer for len\(quantizer\)=2.* GiB"),
    ],
)
def test_lists_that_are_refused(cls, quantizer, message):
    with pytest.raises(ValueError, match=message):
        cls(quantizer=quantizer).fit(mixture(40))


@BOTH
@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"n_codewords": 4}, "n_codewords=4 cannot be set on a list of parts"),
        ({"n_codewords": [4, 4]}, r"n_codewords=\[4, 4\] cannot be set on a list"),
        ({"share_codebook": True}, "share_codebook=True takes one quantizer"),
    ],
)
def test_parameters_that_take_one_quantizer(cls, parameters, message):
    with pytest.raises(ValueError, match=message):
        cls(quantizer=[vq(), vq()], **parameters).fit(mixture(40))


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"beam_size": 2}, r"beam_size=2 needs .*; quantizer\['b'\]=Uniform"),
        ({"fit_beam_size": 2}, r"fit_beam_size=2 needs .*; quantizer\['b'\]=Uniform"),
        (
            {"n_refine": 1},
            r"n_refine=1 needs .*; quantizer\['b'\]=Uniform.* has others",
        ),
        ({"stage_weights": [1], "n_refine": 1}, r"expected n_stages=2|has others"),
    ],
)
def test_what_all_stages_have_to_do(parameters, message):
    quantizer = [("a", vq()), ("b", UniformQuantizer(4))]
    with pytest.raises(ValueError, match=message):
        ResidualQuantizer(quantizer=quantizer, **parameters).fit(mixture(40))
    fitted = ResidualQuantizer(quantizer=quantizer).fit(mixture(40))
    with pytest.raises(ValueError, match=r"quantizers_\[1\]=UniformQ.* finds one"):
        fitted.set_params(beam_size=2).transform(mixture(40))


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"widths": [1, 2]}, r"widths=\[1, 2\] are 3 together; .* which is 6"),
        ({"widths": [0, 6]}, "widths holds 0"),
        ({"widths": [3.0, 3.0]}, "widths holds 3.0"),
        ({"widths": 6}, "'widths' parameter of"),
        ({"widths": [2, 4], "n_codewords": [3]}, "n_codewords has 1 entries, .* 2 cod"),
        ({"widths": [2, 4], "share_codebook": True}, r"len\(widths\)=2 cuts 6"),
        (
            {"widths": [6], "quantizer": [vq(), vq()]},
            "has 1 entries, but quantizer has",
        ),
        ({"quantizer": [vq()] * 7}, "quantizer has 7 parts, but X has n_features=6"),
    ],
)
def test_widths_that_are_refused(parameters, message):
    with pytest.raises(ValueError, match=message):
        ProductQuantizer(**parameters).fit(mixture(40))


@BOTH
def test_streams_and_rows_in_memory_name_the_part(cls):
    streams = vq(learning="ema")
    assert hasattr(cls(quantizer=[streams, streams]), "partial_fit")
    with pytest.raises(AttributeError, match=r"part, quantizer\['b'\]=Vec.*'lloyd'"):
        cls(quantizer=[streams, ("b", vq())]).partial_fit  # noqa: B018
    lazy = dask.array.ones((40, 6))
    with pytest.raises(ValueError, match=r"part, quantizer\[1\]=Vec.*'manhattan'"):
        cls(quantizer=[vq(), vq(metric="manhattan")]).fit(lazy)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"quantizer": [vq(learning="ema")] * 3}, r"len\(quantizer\)=3 was 2"),
        ({"widths": [3, 3]}, r"widths=\[3, 3\] was \[2, 4\]"),
    ],
)
def test_streams_go_on_as_they_began(changed, message):
    pq = ProductQuantizer(quantizer=[vq(learning="ema")] * 2, widths=[2, 4])
    pq.partial_fit(mixture(40))
    if "quantizer" in changed:
        pq.set_params(widths=None)
    with pytest.raises(ValueError, match=message):
        pq.set_params(**changed).partial_fit(mixture(40))


# -- parts that are replaced -----------------------------------------------------------


def calls(estimator, X, codes):
    """Yield what makes use of the fitted parts."""
    yield lambda: estimator.distance_table(X)
    yield lambda: estimator.row_terms(codes)
    yield lambda: skvq.save(estimator, os.devnull)
    yield lambda: to_arrays(estimator, np)
    yield lambda: QuantizedNeighbors(estimator).fit_codes(codes)
    for name in ("transform", "quantize", "score"):
        yield lambda name=name: getattr(estimator, name)(X)
    yield lambda: estimator.inverse_transform(codes)
    yield lambda: estimator.full_codebook()
    if isinstance(estimator, ResidualQuantizer):
        yield lambda: list(estimator.staged_score(X))
        yield lambda: list(estimator.staged_inverse_transform(codes))


@pytest.mark.parametrize(
    "make",
    [
        lambda: ProductQuantizer(3, 4, random_state=0),
        lambda: ResidualQuantizer(3, 4, random_state=0, fit_beam_size=1),
        slices,
    ],
)
@pytest.mark.parametrize("how", ["larger", "wider", "fewer", "unfitted", "sizes"])
def test_parts_of_other_sizes_are_an_error(make, how):
    X = mixture(100)
    estimator = make().fit(X)
    codes = estimator.transform(X)
    first = estimator.quantizers_[0]
    width = first.n_features_in_
    if how == "larger":
        estimator.quantizers_[0] = vq(9).fit(X[:, :width])
        message = r"quantizers_\[0\] of \w+ has codebook_sizes_=\(9,\)"
    elif how == "wider":
        data = np.zeros((2, width + 1)) + [[0], [1]]
        estimator.quantizers_[0] = vq(first.codebook_sizes_[0]).set_params(
            init=np.arange(first.codebook_sizes_[0])[:, None] + np.zeros(width + 1),
            learning="fixed",
        )
        estimator.quantizers_[0].fit(data)
        message = rf"n_features_in_={width + 1}, which were .* and {width} when"
    elif how == "fewer":
        estimator.quantizers_ = estimator.quantizers_[:-1]
        message = r"has \d quantizers_, and had \d when"
    elif how == "unfitted":
        estimator.quantizers_ = [clone(part) for part in estimator.quantizers_]
        message = "is not fitted yet"
    else:
        estimator.codebook_sizes_ = (99, *estimator.codebook_sizes_[1:])
        message = r"codebook_sizes_=\(99, .* are not those of its quantizers_"
    error = NotFittedError if how == "unfitted" else ValueError
    for call in calls(estimator, X, codes):
        with pytest.raises(error, match=message):
            call()
    estimator.fit(X)
    assert_array_equal(estimator.transform(X), codes)


def test_parts_of_parts_are_looked_at():
    X = mixture(100)
    outer = ProductQuantizer(2, quantizer=ProductQuantizer(3, 4)).fit(X)
    outer.quantizers_[1].quantizers_[2] = vq(5).fit(X[:, :1])
    with pytest.raises(ValueError, match=r"quantizers_\[2\] of ProductQuantizer"):
        outer.transform(X)


@BOTH
@pytest.mark.parametrize("how", ["replaced", "in the list", "fitted anew"])
@pytest.mark.parametrize(
    "carry", [lambda x: x, copy.deepcopy, None], ids=["itself", "copied", "pickled"]
)
def test_parts_of_the_same_sizes_may_be_replaced(cls, how, carry):
    X = mixture(100)
    carry = carry or (lambda one: pickle.loads(pickle.dumps(one)))
    part = vq(max_iter=1)
    estimator = carry(cls(2, quantizer=part, random_state=0).fit(X))
    other = cls(2, quantizer=part, random_state=1).fit(X * 2 + 1)
    if how == "replaced":
        estimator.quantizers_ = list(other.quantizers_)
    else:
        for j, part in enumerate(other.quantizers_):
            if how == "in the list":
                estimator.quantizers_[j] = part
            else:
                table = part.codebooks_[0]
                estimator.quantizers_[j].set_params(learning="fixed", init=table)
                estimator.quantizers_[j].fit(table)
    assert_array_equal(estimator.transform(X), other.transform(X))
    assert_array_equal(estimator.quantize(X), other.quantize(X))
    assert_array_equal(carry(estimator).transform(X), other.transform(X))


@BOTH
def test_a_metric_that_is_set_on_a_part_counts_from_the_next_call_on(cls):
    X = mixture(100)
    estimator = cls(2, 8, random_state=0).fit(X)
    before = estimator.transform(X)
    estimator.quantizers_[0].set_params(metric="cosine")
    codes = estimator.transform(X)
    assert (codes != before).any()
    assert_array_equal(pickle.loads(pickle.dumps(estimator)).transform(X), codes)


def test_what_is_no_part_is_told():
    X = mixture(40)
    estimator = ProductQuantizer(2, 4).fit(X)
    estimator.quantizers_[1] = "a part"
    with pytest.raises(TypeError, match="a part is not an estimator instance"):
        estimator.transform(X)


# -- tables of a given size ------------------------------------------------------------


def test_a_fixed_table_has_the_size_that_it_has():
    X, table = mixture(), mixture(5, seed=1)
    fixed = VectorQuantizer(learning="fixed", init=table.tolist())
    assert fixed.fit(X).codebook_sizes_ == (5,)
    assert_array_equal(fixed.codebooks_[0], table)
    with pytest.raises(
        ValueError, match=r"init has shape \(5, 4\).*\(n_codewords, 6\)"
    ):
        clone(fixed).set_params(init=table[:, :4]).fit(X)
    with pytest.raises(ValueError, match=r"\(n_codewords, n_features\) = \(256, 6\)"):
        VectorQuantizer(init=table).fit(X)
    rq = ResidualQuantizer(2, quantizer=fixed).fit(X)
    assert rq.codebook_sizes_ == (5, 5)
    assert rq.set_params(n_codewords=5).fit(X).codebook_sizes_ == (5, 5)
    with pytest.raises(
        ValueError, match=r"n_codewords=4 cannot .* table of 5 codewords"
    ):
        rq.set_params(n_codewords=4).fit(X)


# -- given codebooks -------------------------------------------------------------------


def test_given_codebooks_are_dealt_out_to_the_parts():
    X = directions()
    parts = [
        ("a", VectorQuantizer(8, metric="cosine")),
        ("b", ProductQuantizer(2, widths=[2, 4])),
        ("c", VectorQuantizer(5)),
    ]
    rq = ResidualQuantizer(quantizer=parts, random_state=0).fit(X)
    quantizer = [VectorQuantizer(metric="cosine"), parts[1], VectorQuantizer()]
    given = ResidualQuantizer.from_codebooks(rq.codebooks_, quantizer=quantizer)
    assert_array_equal(given.transform(X), rq.transform(X))
    assert_array_equal(given.quantize(X), rq.quantize(X))
    # What they tell is set where a fit would look for it, and not on what was given.
    assert [part.n_codewords for _, part in given._pairs] == [8, 256, 5]
    assert quantizer[0].n_codewords == 256
    assert given.n_codewords is None
    assert clone(given).fit(X).codebook_sizes_ == rq.codebook_sizes_


def test_given_codebooks_tell_the_widths():
    X = mixture()
    pq = ProductQuantizer(3, 4, widths=[3, 1, 2], random_state=0).fit(X)
    given = ProductQuantizer.from_codebooks(pq.codebooks_)
    assert given.widths == [3, 1, 2]
    assert (given.n_subspaces, given.n_codewords) == (3, 4)
    assert_array_equal(given.transform(X), pq.transform(X))
    assert ProductQuantizer.from_codebooks(pq.codebooks_[:1] * 2).widths is None
    with pytest.raises(ValueError, match=r"widths=\[2, 2, 2\], but .*=\[3, 1, 2\]"):
        ProductQuantizer.from_codebooks(pq.codebooks_, widths=[2, 2, 2])


@pytest.mark.parametrize(
    ("quantizer", "message"),
    [
        ([vq(), vq()], r"has 3 tables, but each part, quantizer\[0\]=.* has 1, quant"),
        ([vq(4), vq(4), ("c", vq(5))], r"quantizer\['c'\]: n_codewords=5, but .*=4"),
        ([vq(4), ProductQuantizer(2)], r"n_features|features"),
    ],
)
def test_given_codebooks_that_do_not_fit_the_parts(quantizer, message):
    table = np.ones((4, 2)) * [[0], [1], [2], [3]]
    with pytest.raises(ValueError, match=message):
        ResidualQuantizer.from_codebooks(
            [table, table + 1, table / 2], quantizer=quantizer
        )
