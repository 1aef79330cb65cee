"""Ids that no two rows share, and their pieces."""

import pickle
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching
from table import mixture, rq, vq

from skvq import ResidualQuantizer, UniformQuantizer, metrics
from skvq.codes import (
    UniqueIds,
    disambiguate,
    from_token_ids,
    from_vocabulary,
    offsets,
    token_ids,
)


def most_alone(candidates, sizes):
    """How many rows can have a candidate of their own, whoever has which."""
    ids = token_ids(candidates.reshape(-1, len(sizes)), sizes)
    rows = np.repeat(np.arange(len(candidates)), candidates.shape[1])
    shape = (len(candidates), int(np.prod(sizes)))
    # Old versions of SciPy match by indices of 32 bits alone.
    places = rows.astype(np.int32), ids.astype(np.int32)
    graph = csr_array((np.ones(len(ids), bool), places), shape=shape)
    return int((maximum_bipartite_matching(graph, perm_type="column") >= 0).sum())


def one_by_one(candidates, errors):
    """The rule, written down: rows in order, each takes its first free id."""

    def place(i):
        gain = errors[i][1] - errors[i][0] if len(errors[i]) > 1 else 0.0
        return -gain, candidates[i].tolist(), errors[i].tolist(), i

    taken, left, ids = set(), [], {}
    for i in sorted(range(len(candidates)), key=place):
        free = [c for c in map(tuple, candidates[i].tolist()) if c not in taken]
        if free:
            taken.add(free[0])
            ids[i] = free[0]
        else:
            left.append(i)
    return ids, left


@st.composite
def questions(draw):
    n, width = draw(st.integers(1, 12)), draw(st.integers(1, 4))
    m = draw(st.integers(1, 2))
    seed = draw(st.integers(0, 2**16))
    rng = np.random.default_rng(seed)
    candidates = rng.integers(0, 3, (n, width, m))
    errors = np.sort(rng.integers(0, 3, (n, width)), axis=1).astype(float)
    return (3,) * m, candidates, errors


@settings(max_examples=60, deadline=None)
@given(questions())
def test_ids_are_those_of_the_rule(question):
    sizes, candidates, errors = question
    n = len(candidates)
    expected, left = one_by_one(candidates, errors)
    ids = UniqueIds(sizes, overflow="digit")
    given = ids.assign(candidates, errors)
    assert (given[:, None, :-1] == candidates).all(axis=2).any(axis=1).all()
    n_alone = most_alone(candidates, sizes)
    assert (given[:, -1] == 0).sum() == n_alone
    if not left:
        assert_array_equal(given[:, :-1], [expected[i] for i in range(n)])
    order = np.random.default_rng(0).permutation(n)
    other = UniqueIds(sizes, overflow="digit").assign(candidates[order], errors[order])
    assert_array_equal(np.unique(other, axis=0), np.unique(given, axis=0))
    assert_array_equal(ids.row_of(given), np.arange(len(given)))
    assert metrics.collision_rate(given) == 0
    assert ids.n_digits_ == 1 + given[:, -1].max()
    assert ids.sizes_ == (*sizes, ids.n_digits_)
    moved = (given[:, :-1] != candidates[:, 0]).any(axis=1) | (given[:, -1] > 0)
    assert_array_equal(ids.moved_, moved)
    strict = UniqueIds(sizes)
    if n_alone < n:
        with pytest.raises(ValueError, match=r"have no free id|do not suffice"):
            strict.assign(candidates, errors)
        assert not hasattr(strict, "ids_")
    else:
        assert_array_equal(strict.assign(candidates, errors), given[:, :-1])


@pytest.fixture(scope="module")
def catalogue():
    # Some rows are equal, and some are near.
    X = mixture(300).astype(np.float64)
    X[100:110] = X[100]
    return X, rq(3, 8).fit(X)


def asked(codec, X, **options):
    ids = UniqueIds(codec.codebook_sizes_, **options)
    ids.assign(*codec.encode_best(X, 2), lambda rows, n: codec.encode_best(X[rows], n))
    return ids


def test_ids_of_a_residual_quantizer(catalogue):
    X, codec = catalogue
    assert metrics.duplicate_rate(codec.transform(X)) > 0.1
    ids = asked(codec, X)
    assert ids.ids_.dtype == np.uint8
    assert ids.ids_.shape == (300, 3)
    assert metrics.duplicate_rate(ids.ids_) == 0
    assert 2 < ids.width_ <= 256
    assert 0 < ids.moved_.mean() < 1
    first = codec.encode_best(X, 2)[1][:, 0]
    own = ((X - codec.inverse_transform(ids.ids_)) ** 2).sum(axis=1)
    assert np.allclose(ids.excess_, own - first)
    assert (ids.excess_[~ids.moved_] == 0).all()


@pytest.mark.parametrize("overflow", ["error", "digit"])
def test_the_set_of_ids_does_not_depend_on_the_order(catalogue, overflow):
    X, codec = catalogue
    how = {"overflow": overflow, "max_width": 256 if overflow == "error" else 3}
    expected = np.unique(asked(codec, X, **how).ids_, axis=0)
    assert len(expected) == 300
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(300)
        other = asked(codec, X[order], **how)
        assert_array_equal(np.unique(other.ids_, axis=0), expected)


def test_rows_are_added_and_the_others_keep_theirs(catalogue):
    X, codec = catalogue
    new = np.concatenate([X[100:120], X[:5] + 0.01])
    for how in ({}, {"overflow": "digit", "max_width": 2}):
        ids = asked(codec, X, **how)
        before = ids.ids_.copy()
        given = ids.add(
            *codec.encode_best(new, 2),
            widen=lambda rows, n: codec.encode_best(new[rows], n),
        )
        assert_array_equal(ids.ids_[:300], before)
        assert_array_equal(ids.ids_[300:], given)
        assert metrics.duplicate_rate(ids.ids_) == 0
        assert_array_equal(ids.row_of(ids.ids_), np.arange(325))
        assert len(ids.moved_) == len(ids.excess_) == 325
        copy = pickle.loads(pickle.dumps(ids))
        assert_array_equal(copy.row_of(given), np.arange(300, 325))
        none = ids.add(np.zeros((0, 1, 3), int), np.zeros((0, 1)))
        assert none.shape == (0, ids.ids_.shape[1])


def test_what_fails_changes_nothing(catalogue):
    X, codec = catalogue
    ids = asked(codec, X)
    before = ids.ids_.copy()
    with pytest.raises(ValueError, match=r"10 of 10 rows .* among 1 .*: rows 0, 1, "):
        ids.add(before[:10, None, :], np.zeros((10, 1)))
    with pytest.raises(ZeroDivisionError):
        ids.add(before[:3, None, :], np.zeros((3, 1)), widen=lambda rows, n: 1 / 0)
    assert_array_equal(ids.ids_, before)
    assert_array_equal(ids.row_of(before), np.arange(300))


def test_widening_ends():
    questions = []

    def widen(rows, n):
        questions.append((rows.tolist(), n))
        shape = (len(rows), min(n, 4))
        numbers = np.broadcast_to(np.arange(shape[1]), shape)
        return numbers[:, :, None], numbers.astype(float)

    candidates, errors = np.zeros((6, 1, 1), int), np.zeros((6, 1))
    ids = UniqueIds([9], overflow="digit")
    given = ids.assign(candidates, errors, widen=widen)
    # The third answer is no wider than the second one.
    assert questions == [([1, 2, 3, 4, 5], 2), ([2, 3, 4, 5], 4), ([4, 5], 8)]
    assert given.tolist() == [[0, 0], [1, 0], [2, 0], [3, 0], [0, 1], [1, 1]]
    assert ids.width_ == 4
    questions.clear()
    UniqueIds([9], overflow="digit", max_width=2).assign(
        candidates, errors, widen=widen
    )
    assert [n for _, n in questions] == [2]


def test_others_move_on_to_make_room():
    # The first row takes 0, the second 1; the third one wants nothing but 0.
    candidates = np.array([[0, 1], [1, 2], [0, 0]])[:, :, None]
    errors = [[0.0, 5.0], [0.0, 4.0], [1.0, 2.0]]
    ids = UniqueIds([3])
    assert ids.assign(candidates, errors).tolist() == [[1], [2], [0]]
    assert ids.excess_.tolist() == [5.0, 4.0, 0.0]
    assert ids.moved_.tolist() == [True, True, False]
    assert ids.row_of([[0], [1], [2]]).tolist() == [2, 0, 1]
    # Those from before stay.
    later = UniqueIds([3])
    later.assign(candidates[:1], errors[:1])
    assert later.add(candidates[1:2], errors[1:2]).tolist() == [[1]]
    with pytest.raises(ValueError, match="1 of 1 rows have no free id among 2 cand"):
        later.add(candidates[2:], errors[2:])


def test_digits_outgrow_the_dtype():
    ids = UniqueIds([2], overflow="digit")
    given = ids.assign(np.zeros((300, 1, 1), np.uint8), np.zeros((300, 1)))
    assert given.dtype == np.uint16
    assert_array_equal(np.sort(given[:, 1]), np.arange(300))
    assert ids.sizes_ == (2, 300)


def test_large_codes():
    sizes = (2**32, 2**20, 2**32)  # more than 63 bits
    candidates = np.array([[[2**32 - 1, 5, 7]], [[1, 2**20 - 1, 0]]])
    ids = UniqueIds(sizes)
    assert_array_equal(ids.assign(candidates, np.zeros((2, 1))), candidates[:, 0])
    assert ids.row_of([[1, 2**20 - 1, 0], [1, 2**20 - 1, 1]]).tolist() == [1, -1]


def test_errors_in_another_order_are_taken():
    ids = UniqueIds([4])
    given = ids.assign([[[3], [1]], [[3], [2]]], [[2.0, 1.0], [2.0, 5.0]])
    assert given.tolist() == [[1], [3]]
    assert ids.excess_.tolist() == [-1.0, 0.0]


@pytest.mark.parametrize(
    ("candidates", "errors", "message"),
    [
        ([[[0, 1]]], [[1.0]], r"shape \(1, 1, 2\); expected .* 1\), since sizes"),
        ([[0]], [[1.0]], r"candidates has shape \(1, 1\)"),
        (np.zeros((2, 0, 1), int), np.zeros((2, 0)), "candidates has shape"),
        ([[[0]]], [1.0], r"errors has shape \(1,\); expected \(1, 1\)"),
        ([[[0], [4]]], [[1.0, 2.0]], r"candidates\[0, 1, 0\] is 4: column 0 has 4"),
        ([[[-1]]], [[1.0]], r"candidates\[0, 0, 0\] is -1"),
        ([[[0]], [[1]]], [[1.0], [np.nan]], r"errors\[1, 0\] is nan"),
        (np.zeros((5, 1, 1), int), np.zeros((5, 1)), "make 4 ids, .* for 5 rows"),
    ],
)
def test_bad_candidates(candidates, errors, message):
    with pytest.raises(ValueError, match=message):
        UniqueIds([4]).assign(candidates, errors)


def test_bad_questions():
    ids = UniqueIds([4])
    with pytest.raises(TypeError, match="candidates must be integers"):
        ids.assign([[[0.0]]], [[1.0]])
    with pytest.raises(TypeError, match="errors must be real"):
        ids.assign([[[0]]], [["a"]])
    with pytest.raises(ValueError, match="call assign first"):
        ids.row_of([[0]])
    with pytest.raises(ValueError, match="widen returned candidates of 2 rows; it was"):
        ids.assign(
            [[[0]], [[0]]],
            [[0.0], [0.0]],
            widen=lambda rows, n: (np.zeros((2, 2, 1), int), np.zeros((2, 2))),
        )
    with pytest.raises(ValueError, match="overflow must be 'error' or 'digit'"):
        UniqueIds([4], overflow="drop")
    with pytest.raises(ValueError, match="max_width=0"):
        UniqueIds([4], max_width=0)
    with pytest.raises(TypeError, match="sizes"):
        UniqueIds(4)


# -- the beam --------------------------------------------------------------------------


@pytest.mark.parametrize("weights", [None, (0.0, 1.0, 1.0)])
def test_the_first_code_is_that_of_a_beam_as_large(weights):
    X = mixture(90).astype(np.float64)
    codec = rq(3, 8, beam_size=2, stage_weights=weights).fit(X)
    for n_best, beam in ((1, 2), (2, 2), (7, 7)):
        codes, errors = codec.encode_best(X, n_best)
        assert codes.shape == (90, n_best, 3)
        codec.set_params(beam_size=beam)
        assert_array_equal(codes[:, 0], codec.transform(X))
        codec.set_params(beam_size=2)
        if weights is None:
            assert (np.diff(errors, axis=1) >= -1e-9).all()


def test_all_codes_are_found_and_no_more():
    X = mixture(40).astype(np.float64)
    codec = ResidualQuantizer(2, 4, random_state=0).fit(X)
    codes, errors = codec.encode_best(X, 99)
    assert codes.shape == (40, 16, 2)
    expected = ((X[:, None] - codec.full_codebook()) ** 2).sum(axis=2)
    assert np.allclose(errors, np.sort(expected, axis=1))
    order = np.argsort(expected, axis=1, kind="stable")
    everything = from_token_ids(order.ravel(), (4, 4))
    assert_array_equal(codes, everything.reshape(40, 16, 2))


def test_fits_decide_whether_there_are_several():
    X = mixture(40)
    cosine = rq(2, None, quantizer=vq(4, metric="cosine"))
    for codec in (cosine, UniformQuantizer()):
        with pytest.raises(AttributeError, match="takes VectorQuantizer under metric="):
            codec.encode_best  # noqa: B018
    # What was fitted counts, and not what the next fit will be of.
    codec = rq(2, None, quantizer=vq(4)).fit(X)
    codec.set_params(quantizer=vq(4, metric="cosine"))
    assert codec.encode_best(X, 3)[0].shape == (40, 3, 2)
    codec = rq(2, 4).fit(X)
    for value in (0, 2.5, True, None):
        with pytest.raises(ValueError, match="n_best="):
            codec.encode_best(X, value)


# -- pieces ----------------------------------------------------------------------------


def test_ranks_among_equals():
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 3, (50, 2)).astype(np.uint8)
    seen, expected = Counter(), []
    for row in map(tuple, codes.tolist()):
        expected.append([*row, seen[row]])
        seen[row] += 1
    found = disambiguate(codes)
    assert_array_equal(found, np.array(expected, np.uint8), strict=True)
    assert disambiguate(codes[:0]).shape == (0, 3)
    assert disambiguate(np.zeros((257, 1), np.uint8)).dtype == np.uint16
    assert disambiguate(codes.astype(np.int16)).dtype == np.int16
    share = 1 - len(np.unique(codes, axis=0)) / 50
    assert metrics.duplicate_rate(codes) == pytest.approx(share)
    assert np.mean(found[:, -1] > 0) == pytest.approx(share)
    with pytest.raises(TypeError, match="codes must be integers"):
        disambiguate([[0.5]])
    with pytest.raises(ValueError, match="codes must be 2-d"):
        disambiguate([1, 2])


def test_one_vocabulary():
    sizes = (256, 3, 1, 2**32)
    codes = np.array([[255, 2, 0, 2**32 - 1], [0, 0, 0, 0]], dtype=np.uint32)
    begins = offsets(sizes)
    assert begins.dtype == np.int64
    assert begins.tolist() == [0, 256, 259, 260]
    tokens = codes + begins
    assert tokens.dtype == np.int64
    assert_array_equal(from_vocabulary(tokens, sizes), codes, strict=True)
    with pytest.raises(ValueError, match=r"tokens\[0, 1\] is 5: .* 256 to 258"):
        from_vocabulary([[0, 5]], (256, 3))
