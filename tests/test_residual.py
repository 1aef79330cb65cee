"""The residual scheme, and the beam search that it runs on."""

import itertools
import tracemalloc

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from oracles import paired
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV
from table import mixture

from skvq import (
    FiniteScalarQuantizer,
    ProductQuantizer,
    ResidualQuantizer,
    VectorQuantizer,
)
from skvq.codes import token_ids
from skvq.learning import rows as seam
from skvq.nearest import nearest_best

# -- the beam search -------------------------------------------------------------------


def tables_of(sizes, n_features=4, seed=0):
    rng = np.random.default_rng(seed)
    return [
        rng.normal(size=(size, n_features)) / (1 + j) for j, size in enumerate(sizes)
    ]


def beam_by_hand(x, tables, beam_size, n_best, stage_weights=None):
    """Python's own loop over one row, in float64; sums and their losses, best first."""
    weights = [0.0] * (len(tables) - 1) + [1.0]
    if stage_weights is not None:
        weights = list(stage_weights)
    kept = [((), 0.0, x)]
    for j, table in enumerate(tables):
        grown = []
        for codes, loss, rest in kept:
            for code, word in enumerate(table):
                left = rest - word
                cost = loss + sum(weights[j:]) * (left @ left)
                grown.append(
                    (cost, (*codes, code), loss + weights[j] * (left @ left), left)
                )
        grown.sort(key=lambda one: one[0])
        keep = n_best if j == len(tables) - 1 else beam_size
        kept = [one[1:] for one in grown[:keep]]
    return [codes for codes, _, _ in kept], [loss for _, loss, _ in kept]


@pytest.mark.parametrize("beam_size", [1, 2, 5, 12, 40])
@pytest.mark.parametrize("n_best", [1, 3, 17])
@pytest.mark.parametrize("stage_weights", [None, [1.0, 0.0, 2.0]])
def test_beam_search_equals_a_loop(beam_size, n_best, stage_weights, two_threads):
    tables = tables_of([7, 16, 6])
    X = mixture(40, 4, dtype=np.float64)
    codes, losses = nearest_best(
        X, tables, beam_size, n_best=n_best, stage_weights=stage_weights
    )
    for x, found, loss in zip(X, codes, losses, strict=True):
        expected, values = beam_by_hand(x, tables, beam_size, n_best, stage_weights)
        assert [tuple(one) for one in found.tolist()] == expected
        assert_allclose(loss, values, rtol=1e-9)


def test_beam_search_goes_on_from_sums_at_hand():
    tables = tables_of([8, 8, 8, 8])
    X = mixture(50, 4, dtype=np.float64)
    begun, _ = nearest_best(X, tables[:2], 5, n_best=5)
    codes, losses = nearest_best(X, tables, 5, n_best=3, begin=begun)
    whole, values = nearest_best(X, tables, 5, n_best=3)
    assert_array_equal(codes, whole)
    assert_allclose(losses, values)


def test_a_beam_of_all_sums_is_exhaustive():
    tables = tables_of([4, 5, 3])
    X = mixture(60, 4, dtype=np.float64)
    codes, losses = nearest_best(X, tables, 20)
    sums = np.array([sum(words) for words in itertools.product(*tables)])
    gaps = ((X[:, None] - sums) ** 2).sum(axis=2)
    assert_array_equal(token_ids(codes[:, 0], [4, 5, 3]), gaps.argmin(axis=1))
    assert_allclose(losses[:, 0], gaps.min(axis=1))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_beam_search_far_from_the_origin(dtype):
    offset = 1000.0
    tables = tables_of([16, 16])
    X = mixture(200, 4, dtype=np.float64)
    _, expected = nearest_best(X, tables, 8)
    moved = [(tables[0] + offset).astype(dtype), tables[1].astype(dtype)]
    _, losses = nearest_best((X + offset).astype(dtype), moved, 8)
    tolerance = 5e-3 if dtype == np.float32 else 1e-9
    assert_allclose(losses, expected, rtol=tolerance, atol=tolerance)


# -- codes -----------------------------------------------------------------------------


def test_greedy_codes_are_the_formula():
    X = mixture(300)
    rq = ResidualQuantizer(3, 8, random_state=0).fit(X)
    rest = X.astype(np.float64)
    for column, table in zip(rq.transform(X).T, rq.codebooks_, strict=True):
        gaps = ((rest[:, None] - table) ** 2).sum(axis=2)
        found = gaps[np.arange(len(X)), column]
        assert_allclose(found, gaps.min(axis=1), rtol=1e-4, atol=1e-5)
        rest = rest - table[column]


def test_codes_are_a_beam_search_over_the_tables():
    X = mixture(50, dtype=np.float64)
    rq = ResidualQuantizer(3, 8, random_state=0, beam_size=4).fit(X)
    codes = rq.transform(X)
    for x, code in zip(X, codes, strict=True):
        assert beam_by_hand(x, rq.codebooks_, 4, 1)[0] == [tuple(code)]


def test_the_beam_may_be_changed_after_fit():
    X = mixture(400)
    rq = ResidualQuantizer(4, 16, random_state=0).fit(X)
    errors = []
    for beam_size in (1, 4, 16):
        rq.set_params(beam_size=beam_size)
        errors.append(-rq.score(X))
    assert errors[0] > errors[1] > errors[2]
    assert rq.set_params(beam_size=1).score(X) == -errors[0]


PRODUCT = ProductQuantizer(2, 4)


@pytest.mark.parametrize("beam_size", [1, 3])
def test_beam_over_products_equals_brute_force_over_their_tables(beam_size):
    X = mixture(60, dtype=np.float64)
    rq = ResidualQuantizer(2, quantizer=PRODUCT, random_state=0, beam_size=beam_size)
    rq.fit(X)
    tables = [part.full_codebook() for part in rq.quantizers_]
    for x, code in zip(X, rq.transform(X), strict=True):
        expected = beam_by_hand(x, tables, beam_size, 1)[0][0]
        assert tuple(token_ids(code.reshape(2, 2), [4, 4])) == expected


def test_stages_have_uneven_sizes_and_prefixes_are_whole_stages():
    X = mixture(400)
    rq = ResidualQuantizer(2, quantizer=PRODUCT, random_state=0).fit(X)
    codes = rq.transform(X)
    assert codes.shape == (400, 4)
    first = rq.inverse_transform(codes[:, :2])
    assert_array_equal(first, rq.quantizers_[0].quantize(X))
    for width in (1, 3):
        with pytest.raises(ValueError, match="decodes 2 or 4"):
            rq.inverse_transform(codes[:, :width])


def test_staged_results():
    X = mixture(400)
    rq = ResidualQuantizer(4, 8, random_state=0).fit(X)
    codes = rq.transform(X)
    staged = list(rq.staged_inverse_transform(codes))
    assert len(staged) == 4
    weights = np.random.default_rng(0).random(len(X))
    scores = list(rq.staged_score(X, sample_weight=weights))
    for s, (decoded, score) in enumerate(zip(staged, scores, strict=True)):
        assert_array_equal(decoded, rq.inverse_transform(codes[:, : s + 1]))
        expected = np.average(paired(X, decoded), weights=weights)
        assert score == pytest.approx(-expected, rel=1e-5)
    assert scores[-1] == pytest.approx(rq.score(X, sample_weight=weights), rel=1e-6)
    assert len(list(rq.staged_inverse_transform(codes[:, :2]))) == 2


# -- learning --------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.long
def test_distortion_never_rises_over_greedy_stages(seed, shared):
    X = mixture(30 + 100 * seed, seed=seed)
    rq = ResidualQuantizer(6, 8, random_state=seed, share_codebook=shared).fit(X)
    scores = np.array(list(rq.staged_score(X)))
    assert (np.diff(scores) >= -1e-6 * abs(scores[0])).all()


def digits():
    return load_digits().data.astype(np.float32)


@pytest.mark.long
def test_one_table_serves_all_stages():
    X = digits()
    rq = ResidualQuantizer(6, 64, share_codebook=True, random_state=0).fit(X)
    assert len({id(table) for table in rq.codebooks_}) == 1
    assert len({id(part) for part in rq.quantizers_}) == 1
    assert not rq.codebooks_[0][0].any()
    assert rq.quantizers_[0].n_codewords == 64
    scores = np.array(list(rq.staged_score(X)))
    assert (np.diff(scores) > 0).all()
    # K-means on X alone is all that the first stage could have for itself.
    alone = VectorQuantizer(64, random_state=0).fit(X)
    assert -scores[-1] < 0.65 * alone.distortion_
    own = ResidualQuantizer(6, 64, random_state=0).fit(X)
    assert own.distortion_ < rq.distortion_


def test_shared_codes_of_a_beam_are_in_one_order():
    X = digits()[:200]
    rq = ResidualQuantizer(4, 16, share_codebook=True, random_state=0, beam_size=4)
    codes = rq.fit_transform(X)
    sizes = np.linalg.norm(rq.codebooks_[0], axis=1)[codes]
    assert (np.diff(sizes, axis=1) <= 1e-4).all()


def test_fewer_distinct_samples_than_a_shared_table_holds():
    X = mixture(5)[[0, 1, 2, 3, 4] * 4]
    rq = ResidualQuantizer(2, 12, share_codebook=True, random_state=0)
    with pytest.warns(ConvergenceWarning, match="5 distinct samples"):
        rq.fit(X)
    assert_allclose(rq.quantize(X), X)


@pytest.mark.parametrize("beam_size", [1, 5])
@pytest.mark.parametrize("quantizer", [None, PRODUCT], ids=["of tables", "of products"])
@pytest.mark.long
def test_refinement_is_never_worse_on_its_own_objective(beam_size, quantizer):
    X = mixture(700)
    sizes = None if quantizer is PRODUCT else 8
    plain = ResidualQuantizer(
        3, sizes, quantizer=quantizer, random_state=0, beam_size=beam_size
    )
    refined = clone(plain).set_params(n_refine=3).fit(X)
    assert refined.distortion_ < plain.fit(X).distortion_
    test = X[::-1] + np.float32(0.01)
    assert refined.score(test) > plain.score(test)


def test_refinement_of_few_samples_does_not_overfit():
    X = digits()
    train, test = X[:600], X[600:]
    rq = ResidualQuantizer(4, 64, random_state=0, beam_size=4).fit(train)
    plain = rq.score(test)
    refined = rq.set_params(n_refine=4).fit(train).score(test)
    assert refined >= plain * 1.005


def test_refinement_keeps_the_zero_of_a_shared_table():
    X = digits()
    rq = ResidualQuantizer(
        4, 32, share_codebook=True, random_state=0, n_refine=2, beam_size=2
    ).fit(X)
    assert not rq.codebooks_[0][0].any()
    assert len({id(table) for table in rq.codebooks_}) == 1


def test_stage_weights_trade_early_stages_against_the_last():
    X = digits()[:900]
    curves = []
    for weights in ([1, 1, 1, 1], [20, 5, 2, 1]):
        rq = ResidualQuantizer(
            4, 16, stage_weights=weights, n_refine=2, beam_size=4, random_state=0
        )
        curves.append(-np.array(list(rq.fit(X).staged_score(X))))
    even, early = curves
    assert early[0] < even[0]
    assert early[-1] > even[-1]


def test_stage_weights_minimise_the_weighted_loss():
    X = digits()
    weights = np.array([4.0, 2.0, 1.0])
    losses = []
    for n_refine in (0, 3):
        rq = ResidualQuantizer(
            3,
            16,
            stage_weights=weights,
            n_refine=n_refine,
            beam_size=4,
            fit_beam_size=5,
            random_state=0,
        ).fit(X)
        losses.append(-weights @ np.array(list(rq.staged_score(X))))
    assert losses[1] < losses[0]


# -- parameters ------------------------------------------------------------------------

FSQ = FiniteScalarQuantizer(3)
FIXED = VectorQuantizer(4, learning="fixed")
COSINE = VectorQuantizer(4, metric="cosine")


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"stage_weights": [1, 1, 1]}, "would do nothing"),
        ({"stage_weights": [1, 1], "n_refine": 1}, r"n_stages=3 finite numbers"),
        ({"stage_weights": [1, -1, 1], "n_refine": 1}, "zero or more"),
        ({"stage_weights": [1, 1, 0], "n_refine": 1}, "the last one positive"),
        ({"stage_weights": [1, np.nan, 1], "n_refine": 1}, "finite"),
        ({"quantizer": FSQ, "beam_size": 2}, r"beam_size=2 .*FiniteScalarQuantizer"),
        ({"quantizer": COSINE, "beam_size": 2}, r"beam_size=2 .*cosine"),
        ({"quantizer": FSQ, "n_refine": 1}, r"n_refine=1 .*FiniteScalarQuantizer"),
        ({"quantizer": FIXED, "n_refine": 1}, r"n_refine=1 .*fixed"),
        ({"quantizer": FSQ, "share_codebook": True}, "takes a VectorQuantizer"),
        ({"quantizer": PRODUCT, "share_codebook": True}, "takes a VectorQuantizer"),
        ({"n_codewords": [4, 4, 5], "share_codebook": True}, "one n_codewords for all"),
        ({"n_codewords": [4, 4]}, "n_codewords has 2 entries"),
        ({"quantizer": FSQ, "n_codewords": 4}, "set its n_levels"),
    ],
)
def test_parameters_that_do_not_go_together(parameters, message):
    with pytest.raises(ValueError, match=message):
        ResidualQuantizer(3, **parameters).fit(mixture(60))


def test_a_beam_that_is_asked_for_after_fit_is_checked_too():
    rq = ResidualQuantizer(2, quantizer=FSQ).fit(mixture(60))
    with pytest.raises(ValueError, match="beam_size=3"):
        rq.set_params(beam_size=3).transform(mixture(60))


def test_staged_scores_of_a_memory_map_copy_no_more_than_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(seam, "BLOCK_ELEMENTS", 2**14)
    X, weights = np.zeros((100_000, 8), np.float32), np.ones(100_000)
    X[:300], weights[300] = mixture(300, 8), 0
    np.save(tmp_path / "X.npy", X)
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    rq = ResidualQuantizer(2, 4, random_state=0).fit(X[:300])
    tracemalloc.start()
    try:
        scores = list(rq.staged_score(mapped, sample_weight=weights))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < mapped.nbytes
    assert scores[-1] == pytest.approx(rq.score(X, sample_weight=weights), rel=1e-6)


def test_parts_receive_every_relevant_parameter():
    part = VectorQuantizer(16, init="random", max_iter=3, random_state=7)
    rq = ResidualQuantizer(2, quantizer=part).fit(mixture(100))
    for fitted in rq.quantizers_:
        assert fitted.get_params() == part.get_params()
    rq = ResidualQuantizer(2, 4, quantizer=part, random_state=0, backend="numpy")
    first, second = (fit.get_params() for fit in rq.fit(mixture(100)).quantizers_)
    assert first["n_codewords"] == 4
    assert first["backend"] == "numpy"
    assert first["random_state"] != second["random_state"]


def test_stages_of_formulas():
    X = mixture(200)
    rq = ResidualQuantizer(2, quantizer=FSQ).fit(X)
    first, second = rq.quantizers_
    left = X - first.quantize(X)
    assert_allclose(rq.quantize(X), first.quantize(X) + second.quantize(left))
    assert rq.codebook_sizes_ == (3,) * 12


def test_nesting_and_grid_search():
    X = mixture(300)
    inner = ResidualQuantizer(2, 4, quantizer=VectorQuantizer(max_iter=2))
    outer = ProductQuantizer(2, quantizer=inner, random_state=0)
    search = GridSearchCV(outer, {"quantizer__beam_size": [1, 4]}, cv=2).fit(X)
    errors = search.cv_results_["mean_test_score"]
    assert errors[0] != errors[1]
    assert search.best_estimator_.codebook_sizes_ == (4, 4, 4, 4)


def test_stages_learn_from_a_stream():
    X = mixture(2000)
    part = VectorQuantizer(8, learning="ema", decay=0.9, random_state=0)
    rq = ResidualQuantizer(3, quantizer=part)
    for batch in np.array_split(X, 40):
        rq.partial_fit(batch)
    scores = np.array(list(rq.staged_score(X)))
    assert (np.diff(scores) > 0).all()
    before = [table.copy() for table in rq.codebooks_]
    with pytest.raises(ValueError, match="infinity"):
        rq.partial_fit(np.full((3, 6), np.inf))
    for table, copy in zip(rq.codebooks_, before, strict=True):
        assert_array_equal(table, copy)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"share_codebook": True}, "learns from all samples at once"),
        ({"n_refine": 1}, "n_refine=1 encodes all samples again"),
    ],
)
def test_streams_that_cannot_be(parameters, message):
    part = VectorQuantizer(8, learning="ema")
    with pytest.raises(AttributeError) as error:
        ResidualQuantizer(2, quantizer=part, **parameters).partial_fit  # noqa: B018
    assert message in str(error.value)


def test_progressive_start_takes_squared_distances_only():
    with pytest.raises(ValueError, match="'progressive' cannot minimise"):
        VectorQuantizer(4, init="progressive", metric="manhattan").fit(mixture(50))


def test_many_samples_are_cut_to_what_a_stage_learns_from(monkeypatch, seed):
    monkeypatch.setattr("skvq.residual._MIN_TRAINING_ROWS", 100)
    X = mixture(400, seed=seed)
    rq = ResidualQuantizer(3, 8, random_state=seed, beam_size=4)
    tables = rq.fit(X).codebooks_
    again = rq.fit(X).codebooks_
    for one, two in zip(tables, again, strict=True):
        assert_array_equal(one, two)
    monkeypatch.undo()
    assert rq.distortion_ < 1.2 * rq.fit(X).distortion_
