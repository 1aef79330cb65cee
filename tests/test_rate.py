"""Codebooks whose search weighs the bits of a code against its error."""

import logging

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from oracles import distances
from sklearn.model_selection import GridSearchCV
from table import mixture

from skvq import (
    FiniteScalarQuantizer,
    ProductQuantizer,
    ResidualQuantizer,
    UniformQuantizer,
    VectorQuantizer,
)
from skvq.coding.charges import ideal_bits
from skvq.learning.lloyd import lloyd
from skvq.learning.rows import Rows, run


def counted(codes, size, weights=None):
    return np.bincount(codes.ravel(), weights, size)


def by_hand(X, table, price, n_updates):
    """Alternate table and frequencies as Chou, Lookabaugh and Gray say; yield all."""
    X, table = X.astype(float), table.astype(float)
    bits = np.full(len(table), np.log2(len(table)))
    for _ in range(n_updates + 1):
        found = distances(X, table) + price * bits
        codes = found.argmin(axis=1)
        yield table, bits, codes, found.min(axis=1).mean()
        counts = counted(codes, len(table))
        table = table.copy()
        for k in np.flatnonzero(counts):
            table[k] = X[codes == k].mean(axis=0)
        with np.errstate(divide="ignore"):
            bits = np.minimum(-np.log2(counts / counts.sum()), 24)


@pytest.mark.parametrize("price", [0.1, 1.0, 8.0])
def test_it_is_the_iteration_of_the_paper(price):
    X = mixture(dtype=np.float64)
    start = X[::32]
    for n, (table, bits, codes, value) in enumerate(by_hand(X, start, price, 4)):
        if n == 0:
            continue
        vq = VectorQuantizer(
            len(start), init=start, rate_weight=price, max_iter=n, tol=0
        ).fit(X)
        assert_allclose(vq.codebooks_[0], table)
        assert_allclose(vq.code_lengths_[0], bits)
        assert_array_equal(vq.transform(X).ravel(), codes)
        assert vq.objective_ == pytest.approx(value)
        assert_array_equal(vq.code_counts_[0], counted(codes, len(start)))
        mean_bits = bits[codes].mean()
        assert vq.distortion_ + price * mean_bits == pytest.approx(vq.objective_)
        assert vq.score(X) == pytest.approx(-vq.distortion_)


@pytest.mark.parametrize("price", [1e-3, 0.3, 2.0, 20.0])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_objective_never_rises(price, weighted):
    X = mixture(400, seed=3)
    weights = np.random.default_rng(0).random(400) if weighted else None
    values = []
    for n in range(1, 16):
        options = {"max_iter": n, "tol": 0, "rate_weight": price}
        learned = run(lloyd(Rows(X, weights), X[:24], **options))
        values.append(learned.objective)
    assert (np.diff(values) <= 0).all()
    assert values[-1] < values[0]


def test_codewords_that_are_not_worth_their_bits_stay():
    X = mixture()
    vq = VectorQuantizer(32, rate_weight=5.0, random_state=0, max_iter=100).fit(X)
    counts, bits = vq.code_counts_[0], vq.code_lengths_[0]
    empty = counts == 0
    assert 0 < empty.sum() < 32
    assert (bits[empty] == 24).all()
    assert vq.codebooks_[0].shape == (32, X.shape[1])
    assert np.isfinite(vq.codebooks_[0]).all()
    # One is taken where it is worth 24 bits.
    far = vq.codebooks_[0] + 1e4
    given = VectorQuantizer.from_codebooks(
        [np.concatenate([vq.codebooks_[0], far[:1]])],
        rate_weight=5.0,
        code_lengths=[np.append(bits, 24.0)],
    )
    assert given.transform(far[:1])[0, 0] == 32


def test_a_high_price_leaves_one_codeword():
    X = mixture()
    for price in (1e6, 1e300):
        vq = VectorQuantizer(8, rate_weight=price, random_state=0).fit(X)
        assert len(np.unique(vq.transform(X))) == 1
        assert vq.code_lengths_[0].min() == 0
        assert_allclose(vq.quantize(X[:1])[0], X.mean(axis=0), rtol=1e-4, atol=1e-5)


def test_frequencies_have_a_smallest_one():
    assert_array_equal(ideal_bits(np.array([2.0, 1.0, 1.0, 0.0])), [1, 2, 2, 24])
    assert_allclose(ideal_bits(np.array([1.0, 2.0**-30])), [0, 24], atol=1e-8)


def test_fewer_samples_than_codewords():
    X = np.repeat(mixture(5), [4, 3, 2, 1, 1], axis=0)
    with pytest.warns(match="5 distinct samples are fewer"):
        vq = VectorQuantizer(8, rate_weight=1e-9, random_state=0).fit(X)
    assert_array_equal(vq.quantize(X), X)
    assert sorted(vq.code_counts_[0]) == [0, 0, 0, 1, 1, 2, 3, 4]


def test_higher_prices_are_fewer_bits():
    X = mixture(2000)
    for make in (
        lambda price: VectorQuantizer(32, rate_weight=price, random_state=0),
        lambda price: ProductQuantizer(2, 16, rate_weight=price, random_state=0),
        lambda price: ResidualQuantizer(
            2, 16, rate_weight=price, beam_size=3, random_state=0
        ),
    ):
        bits, errors = [], []
        for price in (0.02, 0.2, 2.0):
            quantizer = make(price).fit(X)
            codes = quantizer.transform(X)
            bits.append(
                sum(
                    own[column].mean()
                    for own, column in zip(
                        quantizer.code_lengths_, codes.T.astype(int), strict=True
                    )
                )
            )
            errors.append(quantizer.distortion_)
            expected = errors[-1] + price * bits[-1]
            assert quantizer.objective_ == pytest.approx(expected, rel=1e-5)
            assert -quantizer.score(X) == pytest.approx(errors[-1], rel=1e-5)
            for own, column in zip(quantizer.code_counts_, codes.T, strict=True):
                assert_array_equal(own, counted(column, len(own)))
        assert bits == sorted(bits, reverse=True)
        assert errors == sorted(errors)


def test_a_beam_ranks_sums_by_errors_and_bits():
    """Kept widely enough, it finds the best sum; with parts without one table too."""
    X = mixture(100, seed=1)
    price = 3.0
    for quantizer in (None, ProductQuantizer(1, 4), ProductQuantizer(2, 2)):
        options = {"rate_weight": price, "random_state": 0, "fit_beam_size": 2}
        n_codewords = 4 if quantizer is None else None
        rq = ResidualQuantizer(2, n_codewords, quantizer=quantizer, **options)
        rq.fit(mixture()).set_params(beam_size=16)
        total = np.zeros(1)
        for bits in rq.code_lengths_:
            total = np.add.outer(total, price * bits).ravel()
        table, sizes = rq.full_codebook(), rq.codebook_sizes_
        best = (distances(X, table) + total).argmin(axis=1)
        expected = np.stack(np.unravel_index(best, sizes), axis=1)
        assert_array_equal(rq.transform(X), expected)
        assert (best != distances(X, table).argmin(axis=1)).any()
        # Those of one part of another scheme.
        best = np.argsort(distances(X, table) + total, axis=1)[:, :3]
        found = rq._encode_best(X.astype(np.float64), 3)
        expected = np.stack(np.unravel_index(best, sizes), axis=2)
        assert_array_equal(found, expected)


def test_prefixes_are_decoded():
    X = mixture()
    rq = ResidualQuantizer(3, 4, rate_weight=0.5, beam_size=3, random_state=0).fit(X)
    codes = rq.transform(X)
    assert_allclose(
        rq.inverse_transform(codes[:, :2]),
        rq.codebooks_[0][codes[:, 0]] + rq.codebooks_[1][codes[:, 1]],
        rtol=1e-6,
    )
    scores = list(rq.staged_score(X))
    assert len(scores) == 3
    assert scores[-1] == pytest.approx(rq.score(X))


def test_parts_may_have_prices_of_their_own():
    X = mixture()
    vq = VectorQuantizer(4, random_state=0)
    priced = VectorQuantizer(4, random_state=0, rate_weight=3.0)
    pq = ProductQuantizer(quantizer=[vq, priced, UniformQuantizer(3)]).fit(X)
    first, second, *others = pq.code_lengths_
    assert (first == 0).all()
    assert (second > 0).any()
    assert not any(own.any() for own in others)
    alone = priced.fit(X[:, 2:4])
    assert_array_equal(pq.transform(X)[:, 1], alone.transform(X[:, 2:4]).ravel())
    costs = pq.objective_ - pq.distortion_
    assert costs == pytest.approx(alone.objective_ - alone.distortion_)
    # That of the whole is set on all of them.
    shared = ProductQuantizer(3, quantizer=vq, rate_weight=2.0).fit(X)
    assert [part.rate_weight for part in shared.quantizers_] == [2.0] * 3


def test_counts_are_in_the_mean_weight():
    X, weights = mixture(), np.random.default_rng(0).integers(0, 4, 320).astype(float)
    for quantizer in (
        VectorQuantizer(8, random_state=0),
        VectorQuantizer(8, random_state=0, rate_weight=0.5),
        ProductQuantizer(2, 8, random_state=0),
        ResidualQuantizer(2, 8, random_state=0, rate_weight=0.5),
    ):
        quantizer.fit(X, sample_weight=weights)
        codes = quantizer.transform(X)
        for own, column in zip(quantizer.code_counts_, codes.T, strict=True):
            assert own.dtype == np.float64
            # Rows of weight zero play no part.
            assert own.sum() == pytest.approx((weights > 0).sum())
            mean = weights[weights > 0].mean()
            expected = counted(column, len(own), weights) / mean
            assert_allclose(own, expected)


def test_without_a_price_there_are_no_lengths():
    vq = VectorQuantizer(4, random_state=0)
    with pytest.raises(AttributeError, match="has no code_lengths_"):
        vq.code_lengths_  # noqa: B018
    vq.fit(mixture())
    assert not hasattr(vq, "code_lengths_")
    assert not hasattr(vq, "objective_")
    assert_array_equal(vq.code_counts_[0], counted(vq.transform(mixture()), 4))


@pytest.mark.parametrize(
    ("quantizer", "message"),
    [
        (VectorQuantizer(4, metric="cosine"), "takes metric='sqeuclidean' and"),
        (VectorQuantizer(4, learning="ema"), "got metric=.* and learning='ema'"),
        (VectorQuantizer(4, learning="fixed"), "learning='lloyd'"),
        (
            ProductQuantizer(2, quantizer=FiniteScalarQuantizer(4)),
            "cannot be set on the part FiniteScalarQuantizer",
        ),
        (ResidualQuantizer(2, 4, n_refine=2), "does not go with n_refine=2"),
        (ResidualQuantizer(2, 4, share_codebook=True), "share_codebook=True"),
        (
            ResidualQuantizer(2, 4, stage_weights=[1, 1], beam_size=2),
            "use stage_weights=None",
        ),
    ],
)
def test_what_does_not_go_with_a_price(quantizer, message):
    with pytest.raises(ValueError, match=f"rate_weight=0.5 .*{message}"):
        quantizer.set_params(rate_weight=0.5).fit(mixture())


def test_a_price_of_parts_does_not_go_with_refinement_either():
    part = VectorQuantizer(4, rate_weight=0.5)
    rq = ResidualQuantizer(2, quantizer=part, n_refine=1)
    with pytest.raises(ValueError, match=r"A rate_weight, which quantizer=.* has"):
        rq.fit(mixture())
    with pytest.raises(ValueError, match="learning='lloyd'"):
        VectorQuantizer(4, rate_weight=1, learning="sgd").partial_fit(mixture())


@pytest.mark.parametrize("value", [-1.0, np.nan, np.inf, "1", True])
@pytest.mark.parametrize("cls", [VectorQuantizer, ProductQuantizer, ResidualQuantizer])
def test_prices_that_are_none(cls, value):
    with pytest.raises(ValueError, match="rate_weight"):
        cls(rate_weight=value).fit(mixture())


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"rate_weight": 1.0}, "needs code_lengths beside codebooks"),
        ({"code_lengths": [np.ones(4)]}, "play no part without a rate_weight"),
        ({"rate_weight": 1.0, "code_lengths": [np.ones(3)]}, r"\(3,\); expected \(4,"),
        ({"rate_weight": 1.0, "code_lengths": [-np.ones(4)]}, r"\[0\] ranges from -1"),
        ({"rate_weight": 1.0, "code_lengths": [[np.nan] * 4]}, "contains NaN"),
        ({"rate_weight": 1.0, "code_lengths": [np.ones(4)] * 2}, "has 2 arrays"),
        ({"rate_weight": 1.0, "code_lengths": np.ones(4)}, r"shape \(4,\); expected a"),
        ({"rate_weight": 1.0, "code_lengths": 3}, "code_lengths=3; expected"),
        (
            {"rate_weight": 1.0, "code_lengths": [np.ones(4)], "metric": "cosine"},
            "takes metric='sqeuclidean'",
        ),
    ],
)
def test_lengths_that_are_refused(parameters, message):
    table = mixture(4)
    with pytest.raises(ValueError, match=message):
        VectorQuantizer.from_codebooks([table], **parameters)
    if "metric" not in parameters:
        with pytest.raises(ValueError, match=message):
            ProductQuantizer.from_codebooks([table], **parameters)


def test_equal_tables_of_different_lengths_are_parts_apart():
    table = mixture(4, 2)
    lengths = [np.zeros(4), np.array([0.0, 9.0, 9.0, 9.0])]
    pq = ProductQuantizer.from_codebooks(
        [table, table], rate_weight=1e6, code_lengths=lengths
    )
    X = np.hstack([table, table])
    assert_array_equal(pq.transform(X), [[0, 0], [1, 0], [2, 0], [3, 0]])
    rq = ResidualQuantizer.from_codebooks(
        [table, table], rate_weight=1e6, code_lengths=lengths[:1] * 2
    )
    assert np.isnan(rq.objective_)
    assert_allclose(rq.code_lengths_, lengths[:1] * 2)


def test_stages_at_a_price_learn_from_the_sums_that_are_coded(seed):
    # Further sums of a sample use codes that no sample has, and tables that serve them
    # have no frequencies of the codes that it has.
    X = np.random.default_rng(seed).normal(size=(600, 4))
    part = VectorQuantizer(8, rate_weight=0.8)
    rq = ResidualQuantizer(3, quantizer=part, random_state=seed).fit(X)
    assert rq.fit_beam_size_ == 1
    mean = np.square(X - X.mean(axis=0)).sum(axis=1).mean()
    assert rq.objective_ < 1.05 * mean


def test_searches_over_prices():
    X = mixture()
    for quantizer in (
        VectorQuantizer(8, random_state=0),
        ProductQuantizer(2, 4, random_state=0),
        ResidualQuantizer(2, 4, random_state=0, fit_beam_size=1),
    ):
        grid = GridSearchCV(quantizer, {"rate_weight": [0.0, 0.5, 50.0]}, cv=2).fit(X)
        scores = grid.cv_results_["mean_test_score"]
        assert scores[2] < min(scores[:2])
        assert scores[0] != scores[1]


def test_updates_are_logged(caplog):
    with caplog.at_level(logging.DEBUG, logger="skvq.learning"):
        vq = VectorQuantizer(8, rate_weight=1.0, random_state=0).fit(mixture())
    last = [one.getMessage() for one in caplog.records if "lloyd" in one.message][-1]
    assert last.endswith(f"objective {vq.objective_:.6g}")


def test_peers_have_no_prices():
    pytest.importorskip("faiss")
    pytest.importorskip("nanopq")
    from skvq.interop import to_faiss, to_nanopq

    X = mixture()
    vq = VectorQuantizer(4, rate_weight=1.0, random_state=0).fit(X)
    pq = ProductQuantizer(2, 4, rate_weight=1.0, random_state=0).fit(X)
    for export, quantizer in ((to_faiss, vq), (to_faiss, pq), (to_nanopq, pq)):
        with pytest.raises(ValueError, match="price of bits to distances"):
            export(quantizer)
