"""The trellis-coded scheme: paths, levels, bits, and what is refused."""

import itertools

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from skvq import TrellisQuantizer, UniformQuantizer, nearest
from skvq._codec.classes import BY_NAME as KINDS
from skvq.coding.trellis import TrellisCode, gaussian_windows
from skvq.nearest import Trellis


def gaussian(n_rows, n_features, seed=0, dtype=np.float32):
    rng = np.random.default_rng([seed, n_features])
    return rng.normal(size=(n_rows, n_features)).astype(dtype)


def cyclic_windows(codes, trellis, rates):
    """Windows of each step, in plain Python, of a path whose end is its beginning."""
    steps = [j for j, rate in enumerate(rates) if rate]
    k = trellis.step_bits
    shift = [rates[j] - 1 if trellis.has_subsets else 0 for j in steps]
    bits = [codes[j] >> s for j, s in zip(steps, shift, strict=True)]
    state = 0
    for _ in range(2):  # once around, and the state is that of the end
        windows = []
        for u in bits:
            windows.append(state << k | u)
            state = windows[-1] % trellis.n_states
    return dict(zip(steps, windows, strict=True))


def decoded_by_hand(code, quantizer, trellis):
    rates = quantizer.rates_
    windows = cyclic_windows(code, trellis, rates)
    values = []
    for j, (levels, rate) in enumerate(zip(quantizer.alphabets_, rates, strict=True)):
        place = 0
        if rate:
            place = windows[j]
            if trellis.has_subsets:
                within = code[j] % 2 ** (rate - 1)
                place = 4 * within + int(trellis.subsets[place])
        values.append(levels[place])
    return values


TINY = [
    (TrellisQuantizer([1, 2, 0, 1], n_states=4), Trellis.ungerboeck(4)),
    (TrellisQuantizer(2, n_states=8), Trellis.ungerboeck(8)),
    (
        TrellisQuantizer([1, 0, 1, 1, 1], n_states=16, trellis="bitshift"),
        Trellis.bitshift(4, 1),
    ),
    (TrellisQuantizer(2, n_states=16, trellis="bitshift"), Trellis.bitshift(4, 2)),
]


@pytest.mark.parametrize(("quantizer", "trellis"), TINY)
def test_the_full_codebook_holds_all_paths(quantizer, trellis):
    n_features = len(quantizer.n_bits) if np.ndim(quantizer.n_bits) else 4
    X = gaussian(200, n_features)
    quantizer.fit(X)
    table = quantizer.full_codebook()
    codes = list(itertools.product(*map(range, quantizer.codebook_sizes_)))
    expected = [decoded_by_hand(code, quantizer, trellis) for code in codes]
    assert_array_equal(table, np.array(expected, np.float32))
    # No path is nearer than the nearest.  In so few features the state at the seam is
    # often another one; the more features, the less it matters.
    errors = ((X[:, None].astype(float) - table) ** 2).sum(axis=2).min(axis=1)
    found = ((X - quantizer.quantize(X).astype(float)) ** 2).sum(axis=1)
    assert (found >= errors * (1 - 1e-6)).all()
    assert found.mean() < 1.6 * errors.mean()
    # All paths from a state to itself are the codebook's: where the state is that of
    # the best path, the search is exact.
    best = np.array(codes)[((X[:, None] - table) ** 2).sum(axis=2).argmin(axis=1)]
    states = [
        list(cyclic_windows(code, trellis, quantizer.rates_).values())[-1]
        % trellis.n_states
        for code in best.tolist()
    ]
    _, distances = nearest.viterbi(
        X, quantizer.alphabets_, quantizer.rates_, trellis, ends=np.array(states)
    )
    assert_allclose(distances, errors, rtol=1e-5)


@pytest.mark.parametrize(
    ("parameters", "most"),
    [
        ({"n_bits": 1}, 0.3034),
        ({"n_bits": 2}, 0.0859),
        ({"n_bits": 2, "n_states": 32}, 0.0835),
        ({"n_bits": 2, "n_states": 256, "trellis": "bitshift"}, 0.0830),
    ],
)
def test_errors_of_gaussian_features(parameters, most, seed):
    train, test = gaussian(200, 128, seed), gaussian(100, 128, seed + 1)
    quantizer = TrellisQuantizer(share_alphabets=True, **parameters).fit(train)
    assert -quantizer.score(test) < 1.02 * most * (test.astype(float) ** 2).sum() / 100


def test_levels_of_a_gaussian_are_quantiles_spread_over_the_ways_to_go():
    for window_bits, k in [(2, 1), (4, 2), (10, 2), (9, 3), (8, 4)]:
        levels = gaussian_windows(window_bits, k)
        assert len(np.unique(levels)) == 2**window_bits
        assert_allclose(np.sort(levels), -np.sort(-levels)[::1][::-1])
        assert abs(levels.mean()) < 1e-12
        # The levels to go to from a state are one in each of equally probable cells.
        order = np.argsort(np.argsort(levels)).reshape(-1, 2**k)
        cells = np.sort(order >> (window_bits - k), axis=1)
        assert (cells == np.arange(2**k)).all()
    # Files hold the levels; but the same fit is to give the same ones in any version.
    ranks = [
        np.argsort(np.argsort(gaussian_windows(*bits))) for bits in [(4, 2), (16, 2)]
    ]
    assert ranks[0].tolist() == [10, 14, 2, 6, 0, 4, 8, 12, 15, 11, 7, 3, 5, 1, 13, 9]
    assert ranks[1][[0, 1, 2, 3, 4, 5, -1]].tolist() == [
        40953,
        57337,
        8185,
        24569,
        25253,
        8869,
        25521,
    ]


def test_training_never_loses_what_the_start_has():
    X = gaussian(200, 5) ** 3
    errors = [TrellisQuantizer(2, max_iter=n).fit(X).distortion_ for n in range(5)]
    assert (np.diff(errors) <= 0).all()
    assert errors[-1] < errors[0]
    start = TrellisQuantizer(2, max_iter=0).fit(X)
    assert start.n_iter_ == 0
    scalar = UniformQuantizer(8, levels="lloyd-max").fit(X)
    for levels, table in zip(start.alphabets_, scalar.codebooks_, strict=True):
        assert_allclose(levels, table[:, 0], rtol=1e-5, atol=1e-6)


def test_a_round_moves_levels_to_the_means_of_what_has_chosen_them():
    X, weights = gaussian(60, 6, dtype=np.float64), np.arange(60) % 3
    start = TrellisQuantizer(2, max_iter=0).fit(X, sample_weight=weights)
    after = TrellisQuantizer(2, max_iter=1).fit(X, sample_weight=weights)
    assert after.n_iter_ == 1
    assert after.distortion_ < start.distortion_
    levels = nearest.trellis_levels(start.transform(X), [2] * 6, Trellis.ungerboeck(8))
    for j, alphabet in enumerate(start.alphabets_):
        expected = alphabet.copy()
        for place in range(8):
            chosen = weights * (levels[:, j] == place)
            if chosen.any():
                expected[place] = np.average(X[:, j], weights=chosen)
        assert_allclose(after.alphabets_[j], np.sort(expected), rtol=1e-12)


def test_bits_go_where_errors_fall():
    scales = np.array([16.0, 8, 4, 2, 1, 0.5, 0])
    X = gaussian(500, 7) * scales.astype(np.float32) + 3
    quantizer = TrellisQuantizer(total_bits=10, n_states=4).fit(X)
    assert quantizer.rates_ == (4, 3, 2, 1, 0, 0, 0)
    assert quantizer.bits_per_sample_ == 10
    assert quantizer.codebook_sizes_ == (16, 8, 4, 2, 1, 1, 1)
    assert [len(levels) for levels in quantizer.alphabets_] == [32, 16, 8, 4, 1, 1, 1]
    # A feature without bits is decoded to its mean.
    assert_allclose(quantizer.quantize(X)[:, 4], X[:, 4].mean(), rtol=1e-5)
    shifted = TrellisQuantizer(2, total_bits=9, n_states=64, trellis="bitshift").fit(X)
    assert shifted.rates_ == (2, 2, 2, 2, 0, 0, 0)
    # More bits than can be of use are not spent.
    assert (
        TrellisQuantizer(total_bits=1000, max_iter=0).fit(X[:50]).bits_per_sample_ <= 84
    )


def test_bits_of_constant_features_go_where_a_path_needs_them():
    X = np.ones((5, 4), dtype=np.float32)
    quantizer = TrellisQuantizer(total_bits=6).fit(X)
    assert quantizer.rates_ == (1, 1, 1, 0)
    assert_array_equal(quantizer.quantize(X), X)


def test_alphabets_are_shared_by_rate():
    X = gaussian(100, 6)
    alphabets = (
        TrellisQuantizer([1, 2, 1, 2, 0, 0], n_states=4, share_alphabets=True)
        .fit(X)
        .alphabets_
    )
    assert alphabets[0] is alphabets[2]
    assert alphabets[1] is alphabets[3]
    assert alphabets[4] is not alphabets[5]
    own = TrellisQuantizer(1, n_states=4, trellis="bitshift").fit(X).alphabets_
    assert own[0] is not own[1]
    # ... but they are moved and multiplied, and nothing else.
    ratio = np.ptp(own[1]) / np.ptp(own[0])
    assert_allclose(own[1] - own[1].mean(), ratio * (own[0] - own[0].mean()), atol=1e-5)


def test_many_levels_begin_as_dense_as_few():
    X = gaussian(3000, 3)
    few, many = (TrellisQuantizer(n, max_iter=0).fit(X) for n in (5, 8))
    for small, large in zip(few.alphabets_, many.alphabets_, strict=True):
        assert (len(small), len(large)) == (64, 512)
        # Eight for each, about it; and beyond the ends as well.
        assert_allclose(large.reshape(64, 8).mean(axis=1)[1:-1], small[1:-1], rtol=0.2)
        assert large[0] < small[0] and large[-1] > small[-1]
        assert (np.diff(large) > 0).all()
    # On data of another shape they are better than scalar levels as well.
    skewed, other = np.random.default_rng(0).exponential(size=(2, 3000, 8))
    error = -TrellisQuantizer(7).fit(skewed).score(other)
    assert error < -UniformQuantizer(128, levels="lloyd-max").fit(skewed).score(other)


def test_many_levels_of_few_values():
    X = np.repeat(np.arange(4.0)[:, None], 4, axis=1)
    X[:, 2] = 5.0
    quantizer = TrellisQuantizer(8).fit(np.tile(X, (5, 1)))
    assert_allclose(quantizer.quantize(X), X, atol=1e-2)


@pytest.mark.parametrize(
    ("parameters", "n_features", "message"),
    [
        ({}, 2, r"n_states=8 .*3 features, but n_bits=2 gives some to 2.*n_features=2"),
        ({"n_states": 256}, 7, "n_states=256 .* at least 8 features"),
        ({"total_bits": 2}, 9, "at least 3 features, but total_bits=2"),
        ({"n_bits": [2, 0, 0, 2]}, 4, r"n_bits=\[2, 0, 0, 2\] gives some to 2"),
        ({"n_states": 12}, 4, "n_states=12: expected a power of two from 4 to 256"),
        ({"n_states": 512}, 40, "n_states=512: expected a power of two from 4 to 256"),
        (
            {"trellis": "bitshift"},
            4,
            "n_states=8: expected a power of two from 16 to 65536 .*n_bits=2",
        ),
        ({"trellis": "bitshift", "n_bits": 5}, 4, "n_bits=5: expected an int from 1"),
        ({"trellis": "bitshift", "n_bits": [1, 2]}, 2, r"n_bits=\[1, 2\]: expected"),
        (
            {"alphabets": "gaussian"},
            4,
            "alphabets='gaussian' goes with trellis='bitshift'",
        ),
        ({"n_bits": [1, 2]}, 4, "n_bits has 2 entries"),
        ({"n_bits": [1, 2, 3, 17]}, 4, "n_bits"),
    ],
)
def test_refusals(parameters, n_features, message):
    with pytest.raises(ValueError, match=message):
        TrellisQuantizer(**parameters).fit(gaussian(20, n_features))


def test_what_it_does_not_have():
    quantizer = TrellisQuantizer()
    for name in ("alphabets_", "rates_", "codebooks_"):
        with pytest.raises(AttributeError, match=f"not fitted: it has no {name} yet"):
            getattr(quantizer, name)
    quantizer.fit(gaussian(20, 4))
    with pytest.raises(AttributeError, match=r"no codebooks_: .*`alphabets_`"):
        quantizer.codebooks_  # noqa: B018
    with pytest.raises(AttributeError, match=r"no partial_fit .* all paths change"):
        quantizer.partial_fit  # noqa: B018
    with pytest.raises(ValueError, match="has 2 columns"):
        quantizer.inverse_transform(quantizer.transform(gaussian(3, 4))[:, :2])


def test_alphabets_can_be_given():
    X = gaussian(60, 4)
    fitted = TrellisQuantizer([1, 3, 0, 2], n_states=4).fit(X)
    for given in (
        fitted.alphabets_,
        [levels[:, None] for levels in fitted.alphabets_],
        [levels.tolist() for levels in fitted.alphabets_],
    ):
        brought = TrellisQuantizer.from_codebooks(given, n_states=4)
        assert brought.rates_ == fitted.rates_
        assert brought.n_bits == (1, 3, 0, 2)
        assert_array_equal(brought.transform(X), fitted.transform(X))


FOUR, EIGHT = np.arange(4.0), np.arange(8.0)


@pytest.mark.parametrize(
    ("alphabets", "parameters", "message"),
    [
        ([FOUR, FOUR], {}, "at least 3 features"),
        ([FOUR, FOUR, np.arange(6.0)], {}, r"codebooks\[2\] has 6 levels; expected 1 "),
        ([FOUR, FOUR, np.arange(2.0)], {}, r"codebooks\[2\] has 2 levels; expected 1 "),
        ([FOUR, FOUR, FOUR[::-1]], {}, r"\[2\] is not in ascending order"),
        ([FOUR, FOUR, EIGHT], {"n_bits": 1}, "n_bits=1, but the given"),
        ([FOUR, FOUR, EIGHT], {"total_bits": 3}, "total_bits=3, but .* 4 bits"),
        (
            [FOUR, FOUR, FOUR + 1],
            {"share_alphabets": True},
            r"codebooks\[2\] differs from codebooks\[0\]",
        ),
        (
            [EIGHT, EIGHT, EIGHT],
            {"trellis": "bitshift", "n_states": 16},
            "has 8 levels; expected 1 or n_states=16",
        ),
        ([np.ones((4, 2))] * 3, {}, "one column for each feature"),
    ],
)
def test_alphabets_that_do_not_fit(alphabets, parameters, message):
    with pytest.raises(ValueError, match=message):
        TrellisQuantizer.from_codebooks(alphabets, **parameters)


def test_damaged_codes_are_refused():
    kind = KINDS["skvq.coding.TrellisCode"]
    code = TrellisQuantizer(1, n_states=4).fit(gaussian(20, 3))._code_
    state = kind.take(code)
    assert kind.make(dict(state)).rates == (1, 1, 1)
    alphabets = list(code.alphabets.arrays)

    def with_last(levels):
        return {"alphabets": nearest.Columns([*alphabets[:2], levels])}

    last = alphabets[2]
    for damage, message in [
        (with_last(last[:3]), "has shape"),
        (with_last(last[::-1].copy()), "ascending"),
        (with_last(np.full_like(last, np.nan)), "finite"),
        (with_last(last.astype(np.float64)), "dtype"),
        ({"rates": (1, 1)}, "entries for 3"),
        ({"rates": (1, 0, 0)}, "states of the trellis take 2"),
        ({"rates": [1, 1, 1]}, "expected a tuple"),
        ({"trellis": Trellis.bitshift(4, 1)}, "shape|states"),
    ]:
        with pytest.raises(ValueError, match=message):
            kind.make({**state, **damage})
    with pytest.raises(ValueError, match="state_bits"):
        KINDS["skvq.nearest.Trellis"].make(
            {"state_bits": 99, "step_bits": 1, "has_subsets": True}
        )


def test_a_sample_of_many_rows_is_the_same_however_they_are_cut():
    X = gaussian(5000, 3)
    one = TrellisQuantizer(total_bits=4, max_iter=1).fit(X)
    other = TrellisQuantizer(total_bits=4, max_iter=1).fit(np.asfortranarray(X))
    for a, b in zip(one.alphabets_, other.alphabets_, strict=True):
        assert a.tobytes() == b.tobytes()
    assert isinstance(one._code_, TrellisCode)
