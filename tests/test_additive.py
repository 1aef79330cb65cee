"""The additive scheme: the search for sums, and codes that ignore each other."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from oracles import assert_nearest, distances, paired
from table import mixture

from skvq import AdditiveQuantizer, ProductQuantizer, VectorQuantizer
from skvq.nearest import improve_sums, nearest_best


def tables_and_rows(seed=0, sizes=(7, 5, 9), n_samples=200, n_features=6):
    rng = np.random.default_rng(seed)
    tables = [rng.normal(size=(size, n_features)) for size in sizes]
    return tables, rng.normal(size=(n_samples, n_features)) * 2


def sums(codes, tables):
    return sum(table[column] for table, column in zip(tables, codes.T, strict=True))


# -- iterated conditional modes --------------------------------------------------------


def test_one_round_is_the_loop_over_the_tables():
    tables, X = tables_and_rows()
    start = np.zeros((len(X), 3), dtype=int)
    codes, found = improve_sums(X, tables, start, n_rounds=1, n_sweeps=2)
    expected = start.copy()
    for _ in range(2):
        for j, table in enumerate(tables):
            left = X - sums(expected, tables) + table[expected[:, j]]
            expected[:, j] = distances(left, table).argmin(axis=1)
    assert_array_equal(codes, expected)
    assert_allclose(found, paired(X, sums(codes, tables)), rtol=1e-10)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_more_rounds_never_give_a_worse_sum(dtype):
    tables, X = tables_and_rows(sizes=(16, 16, 16, 16))
    X, tables = X.astype(dtype), [table.astype(dtype) for table in tables]
    start = nearest_best(X, tables, 1)[0][:, 0]
    before = paired(X, sums(start, tables))
    first = before.mean()
    for n_rounds in (0, 1, 2, 3, 5, 9, 17):
        codes, found = improve_sums(X, tables, start, n_rounds=n_rounds, seed=3)
        after = paired(X, sums(codes, tables))
        assert (after <= before * (1 + 1e-5)).all()
        assert_allclose(found, after, rtol=1e-4)
        before = after
    assert before.mean() < 0.9 * first


def test_equal_codewords_and_tables_of_one_row():
    tables, X = tables_and_rows()
    tables = [np.repeat(tables[0], 2, axis=0), tables[1][:1], tables[2]]
    start = np.full((len(X), 3), 0)
    start[:, 0] = 13
    codes, _ = improve_sums(X, tables, start, n_rounds=4)
    assert (codes[:, 0] % 2 == 0).all()
    assert (codes[:, 1] == 0).all()


def test_codes_to_improve_are_checked():
    tables, X = tables_and_rows()
    with pytest.raises(ValueError, match="codes has shape"):
        improve_sums(X, tables, np.zeros((3, 3), int), n_rounds=1)
    with pytest.raises(ValueError, match=r"codebooks\[0\]"):
        improve_sums(X[:, :2], tables, np.zeros((len(X), 3), int), n_rounds=1)


# -- joint -----------------------------------------------------------------------------


def test_effort_never_gives_a_worse_code():
    X = mixture(600)
    quantizer = AdditiveQuantizer(4, 16, beam_size=2, max_iter=3, random_state=0).fit(X)
    before = np.full(len(X), np.inf)
    for n_rounds in (0, 1, 2, 4, 8):
        errors = paired(X, quantizer.set_params(n_rounds=n_rounds).quantize(X))
        assert (errors <= before * (1 + 1e-5)).all()
        before = errors


def test_tiny_products_are_searched_exhaustively():
    X = mixture(400)
    quantizer = AdditiveQuantizer(3, 8, beam_size=1, n_rounds=0, random_state=0).fit(X)
    ids = quantizer.transform(X).astype(int) @ [64, 8, 1]
    assert_nearest(ids, X, quantizer.full_codebook(), dtype=np.float32)


@pytest.mark.long
def test_refinement_helps_samples_it_has_not_seen():
    rng = np.random.default_rng(0)
    X, test = rng.normal(size=(4000, 8)), rng.normal(size=(4000, 8))
    plain = AdditiveQuantizer(3, 16, max_iter=0, random_state=0).fit(X)
    refined = AdditiveQuantizer(3, 16, random_state=0).fit(X)
    assert refined.n_iter_ == len(refined.ridge_) > 1
    assert refined.score(test) > plain.score(test)


def test_shared_table_is_stored_once():
    X = mixture(400)
    quantizer = AdditiveQuantizer(3, 9, share_codebook=True, random_state=0).fit(X)
    first, *others = quantizer.codebooks_
    assert all(table is first for table in others)
    one = VectorQuantizer(9, random_state=0).fit(X)
    assert quantizer.distortion_ < one.distortion_


# -- independent -----------------------------------------------------------------------


@pytest.mark.parametrize("n_codebooks", [1, 2, 4, 8])
@pytest.mark.long
def test_independent_codes_are_each_an_argmin(n_codebooks):
    X = mixture(500) + 3
    quantizer = AdditiveQuantizer(
        n_codebooks, 5, assignment="independent", random_state=0
    ).fit(X)
    codes = quantizer.transform(X)
    for column, table in zip(codes.T, quantizer.codebooks_, strict=True):
        assert_nearest(column, X, table, dtype=np.float32)


@pytest.mark.long
def test_independent_is_never_worse_than_its_members():
    X = mixture(200, n_features=4)
    before = VectorQuantizer(6, random_state=0).fit(X).distortion_ * (1 + 1e-6)
    for m in (1, 2, 4):
        quantizer = AdditiveQuantizer(m, 6, assignment="independent", random_state=0)
        found = quantizer.fit(X).distortion_
        product = ProductQuantizer(m, 6, random_state=0).fit(X).distortion_
        assert found <= min(before, product * (1 + 1e-6))
        before = found * (1 + 1e-6)


def test_independent_codes_cannot_share_a_table():
    quantizer = AdditiveQuantizer(assignment="independent", share_codebook=True)
    with pytest.raises(ValueError, match="share_codebook=True with assignment"):
        quantizer.fit(mixture(50))


def test_sizes_that_do_not_fit():
    X = mixture(50)
    with pytest.raises(ValueError, match="n_codewords has 2 entries"):
        AdditiveQuantizer(3, [4, 4]).fit(X)
    with pytest.raises(ValueError, match="one n_codewords for all"):
        AdditiveQuantizer(2, [4, 5], share_codebook=True).fit(X)
