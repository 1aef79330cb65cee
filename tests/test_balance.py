"""Codebooks that are used evenly, and labels of bounded sizes."""

import itertools
import logging

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from oracles import distances
from scipy.special import logsumexp
from sklearn.exceptions import ConvergenceWarning
from table import mixture

from skvq import (
    FiniteScalarQuantizer,
    ProductQuantizer,
    ResidualQuantizer,
    RotatedQuantizer,
    ScaledQuantizer,
    VectorQuantizer,
)
from skvq.codes import capacitate


def vq(size=8, **parameters):
    return VectorQuantizer(size, **{"balance": True, "random_state": 0, **parameters})


def sinkhorn(D, targets, eps, n_rounds=4000):
    """Entropic transport of rows of weight one to columns, in the log domain."""
    g = np.zeros(D.shape[1])
    for _ in range(n_rounds):
        f = -eps * logsumexp((g - D) / eps, axis=1)
        g = eps * (np.log(targets) - logsumexp((f[:, None] - D) / eps, axis=0))
    return np.exp((f[:, None] + g - D) / eps)


def test_cells_are_even_and_codes_those_of_the_priced_search(seed):
    X = mixture(1000, dtype=np.float64)
    plain = vq(16, balance=None, random_state=seed).fit(X)
    quantizer = vq(16, random_state=seed).fit(X)
    counts, (prices,) = quantizer.code_counts_[0], quantizer.prices_
    mean = len(X) / 16
    assert plain.code_counts_[0].max() > 1.25 * mean
    assert counts.max() < 1.12 * mean
    assert counts.min() > 0.7 * mean
    assert prices.min() == 0 < prices.max()
    found = distances(X, quantizer.codebooks_[0])
    codes = (found + prices).argmin(axis=1)
    assert_array_equal(quantizer.transform(X).ravel(), codes)
    assert_array_equal(np.bincount(codes, minlength=16), counts)
    assert quantizer.distortion_ == pytest.approx(found[np.arange(1000), codes].mean())
    nearest = found.min(axis=1).mean()
    assert quantizer.nearest_distortion_ == pytest.approx(nearest)
    # Some starts leave a cell between two clouds.
    assert nearest < quantizer.distortion_ < 4 * plain.distortion_
    assert not hasattr(plain, "prices_")
    assert not hasattr(quantizer, "code_lengths_")
    assert not hasattr(quantizer, "objective_")


def test_it_costs_no_more_than_transport_of_the_same_weights():
    X = mixture(300, seed=2)
    quantizer = vq(6).fit(X)
    D, counts = distances(X, quantizer.codebooks_[0]), quantizer.code_counts_[0]
    plan = sinkhorn(D, counts, 0.02 * np.median(D))
    assert_allclose(plan.sum(axis=0), counts, rtol=0.005)
    cost = (plan * D).sum() / len(X)
    assert 0.97 * cost < quantizer.distortion_ < 1.001 * cost
    # And to equal weights, which are nearly those.
    plan = sinkhorn(D, np.full(6, 50.0), 0.02 * np.median(D))
    cost = (plan * D).sum() / len(X)
    assert quantizer.distortion_ == pytest.approx(cost, rel=0.03)


@pytest.mark.parametrize("n_best", [1, 2, 7])
@pytest.mark.parametrize(
    "make",
    [
        lambda: vq(8),
        lambda: ProductQuantizer(2, 4, balance=True, random_state=0),
        lambda: ResidualQuantizer(3, 4, balance=True, random_state=0),
        lambda: RotatedQuantizer(ResidualQuantizer(2, 8, balance=True)),
    ],
)
def test_of_several_codes_the_first_is_that_of_transform_and_others_are_near(
    make, n_best
):
    X = mixture(300, dtype=np.float64)
    quantizer = make().fit(X)
    codes, errors = quantizer.encode_best(X, n_best)
    assert codes.shape[:2] == errors.shape == (300, n_best)
    assert_array_equal(codes[:, 0], quantizer.transform(X))
    assert (np.diff(errors[:, 1:], axis=1) >= -1e-9).all()
    assert {len(np.unique(some, axis=0)) for some in codes} == {n_best}
    assert errors.min(axis=1).mean() <= quantizer.distortion_ * (1 + 1e-9)


def test_rounds_that_go_too_far_are_taken_back_with_smaller_steps(seed):
    rng = np.random.default_rng(seed)
    X = np.concatenate(
        [rng.normal(at, 0.002, (n, 1)) for at, n in ((-1, 420), (0, 160), (1, 420))]
    )
    for more in range(4):
        counts = vq(3, random_state=seed + more).fit(X).code_counts_[0]
        assert counts.max() < 1.05 * counts.mean()


@pytest.mark.parametrize(("scale", "shift"), [(0.01, 0), (0.1, 0), (1, 5), (1, 1000)])
def test_a_warm_start_on_other_rows_is_no_worse(scale, shift, seed):
    X = np.random.default_rng(seed).normal(size=(1000, 4))
    Y = X * scale + shift
    cold = vq(16).fit(Y)
    quantizer = vq(16, warm_start=True).fit(X).fit(Y)
    counts = quantizer.code_counts_[0]
    assert counts.max() < 1.2 * counts.mean()
    assert quantizer.distortion_ < 1.2 * cold.distortion_


def test_what_is_not_even_is_told():
    X = np.random.default_rng(0).exponential(size=(3000, 1))
    plain = vq(64, balance=None).fit(X)
    with pytest.warns(ConvergenceWarning, match="% of its share"):
        quantizer = vq(64).fit(X)
    assert quantizer.code_counts_[0].max() < plain.code_counts_[0].max()


def test_a_row_for_each_codeword_warns_of_no_weight():
    X = np.arange(49.0)[:, None]
    assert_array_equal(vq(49).fit(X).code_counts_[0], 1)


def test_levelled_stages_do_not_tell_of_another_search():
    X = mixture(400, dtype=np.float64)
    quantizer = ResidualQuantizer(2, 8, balance=True, beam_size=3).fit(X)
    for part in quantizer.quantizers_:
        assert np.isnan(part.distortion_)
        assert not part.code_counts_[0].any()
    assert np.isfinite(quantizer.distortion_)


def test_stages_with_one_table_for_several_columns_are_not_searched_by_beam():
    X = mixture(400, dtype=np.float64)
    part = ProductQuantizer(2, 4, share_codebook=True)
    for parameters in ({}, {"beam_size": 3}, {"fit_beam_size": 5}):
        quantizer = ResidualQuantizer(2, quantizer=part, balance=True, **parameters)
        with pytest.raises(ValueError, match="prices of their own: use 1 for both"):
            quantizer.fit(X)
    quantizer = ResidualQuantizer(2, quantizer=part, balance=True, fit_beam_size=1)
    for stage in quantizer.fit(X).quantizers_:
        assert stage.quantizers_[0] is stage.quantizers_[1]
    again = ResidualQuantizer.from_codebooks(
        quantizer.codebooks_,
        quantizer=part,
        balance=True,
        fit_beam_size=1,
        prices=quantizer.prices_,
    )
    assert_array_equal(again.transform(X), quantizer.transform(X))


def test_a_stage_that_rotates_is_levelled_under_a_beam():
    X = mixture(400, dtype=np.float64)
    stage = RotatedQuantizer(vq(8))
    quantizer = ResidualQuantizer(2, quantizer=stage, beam_size=3).fit(X)
    for counts in quantizer.code_counts_:
        assert counts.max() < 1.3 * counts.mean()


def test_shares_and_weights(seed):
    X = mixture(2000, seed=seed + 1)
    shares = np.array([5, 3, 1, 1, 2, 4.0])
    counts = vq(6, balance=shares).fit(X).code_counts_[0]
    assert_allclose(counts / 2000, shares / 16, rtol=0.1)
    scaled = vq(6, balance=7 * shares).fit(X).code_counts_[0]
    assert_allclose(scaled, counts, rtol=0.1)
    weights = np.random.default_rng(0).random(2000)
    quantizer = vq(6).fit(X, sample_weight=weights)
    codes = quantizer.transform(X).ravel()
    found = np.bincount(codes, weights, 6) / weights.sum()
    assert_allclose(found, 1 / 6, rtol=0.03)
    assert_allclose(quantizer.code_counts_[0], 2000 * found, rtol=1e-6)


@pytest.mark.parametrize("factor", [2.0**-40, 2.0**40])
def test_the_scale_of_samples_plays_no_part(factor):
    X = mixture(500)
    one, other = vq().fit(X), vq().fit(X * np.float32(factor))
    assert_array_equal(other.code_counts_[0], one.code_counts_[0])
    assert_allclose(other.prices_[0], one.prices_[0] * factor**2, rtol=1e-6)


def test_far_clusters_are_cut():
    rng = np.random.default_rng(0)
    X = np.concatenate([rng.normal(size=(900, 4)), 100 + rng.normal(size=(100, 4))])
    counts = vq(2).fit(X).code_counts_[0]
    assert counts.max() < 550
    plain = vq(2, balance=None).fit(X)
    assert plain.code_counts_[0].max() == 900


def test_memory_maps_give_the_same(tmp_path):
    X = mixture(500)
    np.save(tmp_path / "X.npy", X)
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    one, other = vq().fit(X), vq().fit(mapped)
    assert_array_equal(other.codebooks_[0], one.codebooks_[0])
    assert_array_equal(other.prices_[0], one.prices_[0])


def test_a_weight_above_every_share_is_warned_of():
    X, weights = mixture(200), np.ones(200)
    weights[0] = 100
    with pytest.warns(
        ConvergenceWarning, match="1 samples have each more of the weight"
    ):
        vq().fit(X, sample_weight=weights)


def test_few_distinct_samples_are_kept():
    X = np.repeat(mixture(5), 3, axis=0)
    with pytest.warns(ConvergenceWarning, match="5 distinct samples are fewer"):
        quantizer = vq().fit(X)
    assert_array_equal(quantizer.quantize(X), X)
    assert (quantizer.prices_[0] == 0).all()
    one = vq(1).fit(mixture())
    assert one.prices_[0].tolist() == [0]
    # Tables that hold every sample have no distance to be in proportion to.
    exact = vq(5, init="splitting").fit(X)
    assert exact.distortion_ == 0


def test_the_largest_cell_is_logged(caplog):
    with caplog.at_level(logging.DEBUG, logger="skvq.learning"):
        vq().fit(mixture())
    assert any("largest cell" in one.getMessage() for one in caplog.records)


@pytest.mark.parametrize("beam_size", [1, 4])
def test_stages_are_even_in_the_codes_of_their_search(beam_size, seed):
    X = mixture(1000, seed=seed)
    rq = ResidualQuantizer(
        3, 8, balance=True, beam_size=beam_size, fit_beam_size=3, random_state=0
    ).fit(X)
    codes = rq.transform(X)
    for column, counts in zip(codes.T, rq.code_counts_, strict=True):
        assert_array_equal(np.bincount(column, minlength=8), counts)
        assert counts.max() < 1.2 * 125
        assert counts.min() > 0.8 * 125
    assert rq.distortion_ == pytest.approx(-rq.score(X), rel=1e-5)
    assert [len(prices) for prices in rq.prices_] == [8, 8, 8]
    # Another beam is less even, and works.
    assert rq.set_params(beam_size=2).transform(X).shape == codes.shape


def test_parts_of_parts_are_balanced():
    X = mixture(1000)
    part = ProductQuantizer(2, 4, balance=True)
    rq = ResidualQuantizer(2, quantizer=part, beam_size=2, random_state=0).fit(X)
    for counts in rq.code_counts_:
        assert counts.max() < 1.1 * 250
    assert_array_equal(rq.quantizers_[0].prices_, rq.prices_[:2])
    mixed = [vq(4), VectorQuantizer(4, rate_weight=0.5)]
    pq = ProductQuantizer(quantizer=mixed, random_state=0).fit(X)
    assert pq.code_counts_[0].max() < 1.1 * 250
    assert (pq.prices_[0] > 0).any()
    assert (pq.prices_[1] == 0).all()
    assert (pq.code_lengths_[0] == 0).all()
    given = ProductQuantizer.from_codebooks(
        pq.codebooks_,
        quantizer=mixed,
        code_lengths=pq.code_lengths_,
        prices=pq.prices_,
    )
    assert_array_equal(given.transform(X), pq.transform(X))
    for front in (
        RotatedQuantizer(vq(4), rotation="random", random_state=0),
        ScaledQuantizer(vq(4)),
    ):
        counts = front.fit(X).code_counts_[0]
        assert counts.max() < 1.1 * 250
        assert_array_equal(front.prices_[0], front.quantizer_.prices_[0])


@pytest.mark.parametrize(
    ("quantizer", "message"),
    [
        (vq(metric="cosine"), "balance=True takes metric='sqeuclidean' and"),
        (vq(learning="ema"), "got metric=.* and learning='ema'"),
        (vq(rate_weight=0.5), "rate_weight=0.5 does not: use balance=None"),
        (vq(balance=[1, 2]), r"balance has shape \(2,\)"),
        (vq(2, balance=[1, 0]), "balance ranges from 0.0 to 1.0"),
        (vq(2, balance=[1, np.nan]), "balance contains NaN"),
        (vq(balance=False), "'balance' parameter"),
        (
            ProductQuantizer(2, quantizer=FiniteScalarQuantizer(4), balance=True),
            "balance=True cannot be set on the part FiniteScalarQuantizer",
        ),
        (ResidualQuantizer(2, 4, n_refine=2, balance=True), "balance=True does not"),
        (
            ResidualQuantizer(2, 4, share_codebook=True, quantizer=vq(4)),
            "A balance, which quantizer=.* share_codebook=True",
        ),
        (
            ResidualQuantizer(2, 4, stage_weights=[1, 1], beam_size=2, balance=True),
            "use stage_weights=None",
        ),
    ],
)
def test_what_does_not_go_with_balance(quantizer, message):
    with pytest.raises(ValueError, match=message):
        quantizer.fit(mixture())


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"balance": True}, "A balance needs prices beside codebooks"),
        ({"prices": [np.ones(4)]}, "prices are given, but play no part without"),
        ({"balance": True, "prices": [-np.ones(4)]}, r"prices\[0\] ranges from -1"),
        ({"balance": True, "prices": [np.ones(3)]}, r"\(3,\); expected \(4,"),
    ],
)
def test_prices_that_are_refused(parameters, message):
    for cls in (VectorQuantizer, ProductQuantizer):
        with pytest.raises(ValueError, match=message):
            cls.from_codebooks([mixture(4)], **parameters)


def test_peers_have_no_prices():
    pytest.importorskip("faiss")
    from skvq.interop import to_faiss

    with pytest.raises(ValueError, match="adds prices of codes to distances"):
        to_faiss(vq(4).fit(mixture()))


# -- labels of bounded sizes -----------------------------------------------------------


def cheapest(candidates, errors, least, most, size):
    """All choices, one by one."""
    best = np.inf
    for places in itertools.product(range(candidates.shape[1]), repeat=len(candidates)):
        rows = np.arange(len(candidates))
        counts = np.bincount(candidates[rows, list(places)], minlength=size)
        if counts.min() >= least and counts.max() <= most:
            best = min(best, errors[rows, list(places)].sum())
    return best


@pytest.mark.parametrize("seed", range(12))
def test_labels_are_the_cheapest_of_all_choices(seed):
    rng = np.random.default_rng(seed)
    n, size = 7, 4
    candidates = np.stack([rng.permutation(size)[:3] for _ in range(n)])
    if seed % 3 == 0:
        candidates[:, 2] = candidates[:, 0]  # twice
    errors = rng.random((n, 3)) * 10.0 ** rng.integers(-9, 9)
    least, most = [(0, 2), (1, 3), (1, 2)][seed % 3]
    expected = cheapest(candidates, errors, least, most, size)
    options = {"min_size": least, "max_size": most, "n_labels": size}
    if np.isinf(expected):
        with pytest.raises(ValueError, match="cannot be met"):
            capacitate(candidates, errors, **options)
        return
    labels = capacitate(candidates, errors, **options)
    counts = np.bincount(labels, minlength=size)
    assert counts.min() >= least
    assert counts.max() <= most
    cost = np.where(candidates == labels[:, None], errors, np.inf).min(axis=1).sum()
    assert cost == pytest.approx(expected)


def test_labels_of_more_rows_are_those_of_prices():
    """Sizes of a balanced table as bounds: no choice is better than its own codes."""
    X = mixture(300)
    quantizer = vq(6).fit(X)
    D = distances(X, quantizer.codebooks_[0])
    candidates = np.argsort(D, axis=1)
    errors = np.take_along_axis(D, candidates, axis=1)
    labels = capacitate(candidates, errors, min_size=50, max_size=50)
    assert (np.bincount(labels) == 50).all()
    cost = D[np.arange(300), labels].mean()
    assert cost == pytest.approx(quantizer.distortion_, rel=0.03)
    free = capacitate(candidates, errors)
    assert_array_equal(free, candidates[:, 0])


@pytest.mark.parametrize(
    ("candidates", "options", "message"),
    [
        ([[0], [0], [1]], {"max_size": 1}, "leaves room for 2 rows, but there are 3"),
        ([[0], [0], [1]], {"min_size": 2}, "takes 4 rows, but there are 3"),
        ([[0], [0], [0], [1]], {"max_size": 2}, "max_size=2 cannot .* by 1 rows.*s 0"),
        ([[0], [0], [0], [1]], {"min_size": 2}, "min_size=2 cannot .* by 1 rows.*s 1"),
        ([[0], [1]], {"min_size": 3, "max_size": 2}, "more than max_size=2"),
        ([[0], [1]], {"max_size": 0}, "max_size=0; expected"),
        ([[0], [1]], {"min_size": -1}, "min_size=-1; expected"),
        ([[0], [3]], {"n_labels": 2}, "ranges from 0 to 3; expected labels from 0 to"),
        ([[-1], [0]], {}, "ranges from -1"),
        ([0, 1], {}, r"shape \(2,\)"),
        ([[0.5], [1.0]], {}, "dtype float64; expected integers"),
    ],
)
def test_bounds_that_cannot_be_met(candidates, options, message):
    errors = np.zeros(np.shape(candidates))
    with pytest.raises(ValueError, match=message):
        capacitate(candidates, errors, **options)


def test_errors_that_are_none():
    with pytest.raises(ValueError, match="errors contains NaN"):
        capacitate([[0, 1]], [[0.0, np.nan]])
    with pytest.raises(ValueError, match=r"errors has shape \(1, 1\)"):
        capacitate([[0, 1]], [[0.0]])
