"""Paths through trellises, against all paths there are and a search in plain Python."""

import itertools

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import norm

from skvq import nearest as engine
from skvq.nearest import Columns, Trellis, native, trellis_levels, viterbi
from skvq.nearest.backends.host import NumpyBackend
from skvq.nearest.backends.native import NativeBackend

UNGERBOECK = [Trellis.ungerboeck(2**bits) for bits in range(2, 9)]
BITSHIFT = [
    Trellis.bitshift(*bits)
    for bits in [(2, 1), (5, 1), (4, 2), (6, 2), (7, 3), (6, 3), (8, 4)]
]
TRELLISES = UNGERBOECK + BITSHIFT


def name_of(trellis):
    kind = "ungerboeck" if trellis.has_subsets else "bitshift"
    return f"{kind}-{trellis.n_states}-{trellis.step_bits}"


def native_backend():
    """The compiled search's backend, or skip."""
    if native.library() is None:
        pytest.skip("there is no compiled engine here")
    return NativeBackend(native.library())


def use(monkeypatch, be):
    """Let `viterbi` search by a backend."""
    monkeypatch.setattr(engine, "backend_for", lambda X, work: be)
    return be


@pytest.fixture
def numpy_search(monkeypatch):
    return use(monkeypatch, NumpyBackend())


@pytest.fixture(params=["numpy", "native"])
def search(request, monkeypatch):
    """Either search: they are the same to the bit, as is tested below."""
    compiled = request.param == "native"
    return use(monkeypatch, native_backend() if compiled else NumpyBackend())


def make_rates(rng, trellis, n_features, most=5):
    if trellis.has_subsets:
        return rng.integers(0, most + 1, n_features).tolist()
    return (trellis.step_bits * rng.integers(0, 2, n_features)).tolist()


def make(rng, trellis, rates, n, dtype="float32", grid=None):
    """Rows and alphabets; on a grid, with ties between levels and between paths."""

    def numbers(*shape):
        found = rng.normal(size=shape)
        return (found if grid is None else np.rint(found * grid) / grid).astype(dtype)

    alphabets = [numbers(trellis.alphabet_size(rate)) for rate in rates]
    if trellis.has_subsets:
        alphabets = [np.sort(levels) for levels in alphabets]
    return numbers(n, len(rates)), alphabets


def choices(x, levels, rate, trellis, window):
    """Code and place of the level that a window stands for, for a value."""
    if rate == 0:
        return 0, 0
    if not trellis.has_subsets:
        return window % 2**rate, window
    subset = int(trellis.subsets[window])
    own = levels[subset::4].astype(np.float64)
    within = int((x >= (own[1:] + own[:-1]) / 2).sum())
    return (window % 2) << (rate - 1) | within, 4 * within + subset


def in_plain_python(row, alphabets, rates, trellis, begin=None, end=None):
    """Viterbi's search in the arithmetic that is promised: states from 0 to S - 1.

    Returns places in the alphabets, codes, and the states of the path.
    """
    S, k = trellis.n_states, trellis.step_bits
    inf = row.dtype.type(np.inf)
    cost = [row.dtype.type(0) if begin in (None, s) else inf for s in range(S)]
    survivors = []
    for x, levels, rate in zip(row, alphabets, rates, strict=True):
        if rate == 0:
            survivors.append(None)
            continue
        new, windows = [], []
        for t in range(S):
            sums = []
            for w in range(t, S << k, S):
                gap = x - levels[choices(x, levels, rate, trellis, w)[1]]
                sums.append(cost[w >> k] + gap * gap)
            best = min(range(2**k), key=sums.__getitem__)
            new.append(sums[best])
            windows.append(t + S * best)
        cost = new
        survivors.append(windows)
    state = min(range(S), key=cost.__getitem__) if end is None else end
    found, states = [], [state]
    for j in reversed(range(len(rates))):
        window = 0
        if rates[j]:
            window = survivors[j][state]
            state = window >> k
        found.append(choices(row[j], alphabets[j], rates[j], trellis, window))
        states.append(state)
    codes, places = np.array(found[::-1], dtype=int).reshape(-1, 2).T
    return codes, places, states[::-1]


def tail_biting_in_plain_python(row, alphabets, rates, trellis):
    active = np.flatnonzero(rates)
    half = len(active) // 2
    order = np.concatenate([active[half:], active[:half]])
    exchanged = [[each[j] for j in order] for each in (alphabets, rates)]
    *_, states = in_plain_python(row[order], *exchanged, trellis)
    seam = states[len(active) - half]
    return in_plain_python(row, alphabets, rates, trellis, seam, seam)


def squared(X, alphabets, places):
    values = np.array(
        [levels[places[:, j]] for j, levels in enumerate(alphabets)], np.float64
    )
    gaps = X.astype(np.float64) - values.T.reshape(X.shape)
    return (gaps**2).sum(axis=1)


# -- the paths -------------------------------------------------------------------------


@pytest.mark.parametrize("trellis", TRELLISES[:3] + BITSHIFT[:4], ids=name_of)
def test_no_path_is_better(numpy_search, trellis):
    rng = np.random.default_rng(0)
    n_steps = min(6, 12 // trellis.step_bits)
    rates = [1, 0, 2, 3, 1, 2, 1][: n_steps + 1]
    if not trellis.has_subsets:
        rates = [trellis.step_bits * (rate > 0) for rate in rates]
    X, alphabets = make(rng, trellis, rates, 4, "float64")
    # The levels and the last state of every path, by its bits, from every state.
    S, k = trellis.n_states, trellis.step_bits
    best = np.full((len(X), S, S), np.inf)
    for i, state in itertools.product(range(len(X)), range(S)):
        costs = np.zeros(1)
        states = np.array([state])
        for x, levels, rate in zip(X[i], alphabets, rates, strict=True):
            windows = states[:, None]
            if rate:
                windows = ((states << k)[:, None] + np.arange(2**k)).ravel()[:, None]
            gaps = [
                (x - levels[choices(x, levels, rate, trellis, int(w))[1]]) ** 2
                for w in windows[:, 0]
            ]
            costs = np.repeat(costs, len(windows) // len(states)) + gaps
            states = windows[:, 0] % S if rate else states
        np.minimum.at(best[i, state], states, costs)
    _, distances = viterbi(X, alphabets, rates, trellis, ends="free")
    assert_allclose(distances, best[:, 0].min(axis=1), rtol=1e-12)
    for state in range(S):
        _, distances = viterbi(X, alphabets, rates, trellis, ends=np.full(4, state))
        assert_allclose(distances, best[:, state, state], rtol=1e-12)
    _, distances = viterbi(X, alphabets, rates, trellis)
    tied = np.einsum("iss->is", best)
    assert (np.abs(tied - distances[:, None]).min(axis=1) < 1e-12).all()


@pytest.mark.parametrize("trellis", TRELLISES, ids=name_of)
@pytest.mark.parametrize(("dtype", "grid"), [("float32", 2), ("float64", None)])
def test_the_very_path(numpy_search, trellis, grid, dtype):
    rng = np.random.default_rng(1)
    n_features = trellis.n_forgetting + 3
    rates = [*make_rates(rng, trellis, 3), *[trellis.step_bits] * n_features]
    rng.shuffle(rates)
    n = max(1, min(9, 256 // trellis.n_windows))
    X, alphabets = make(rng, trellis, rates, n, dtype, grid)
    states = rng.integers(0, trellis.n_states, n)
    for ends in ("free", "tail_biting", states):
        codes, distances = viterbi(X, alphabets, rates, trellis, ends=ends)
        places, _ = viterbi(X, alphabets, rates, trellis, ends=ends, as_levels=True)
        assert_array_equal(trellis_levels(codes, rates, trellis, ends=ends), places)
        assert_allclose(distances, squared(X, alphabets, places), rtol=1e-12)
        for i, row in enumerate(X):
            given = row, alphabets, rates, trellis
            if isinstance(ends, str) and ends == "tail_biting":
                expected = tail_biting_in_plain_python(*given)
            elif isinstance(ends, str):
                expected = in_plain_python(*given, begin=0)
            else:
                expected = in_plain_python(*given, begin=ends[i], end=ends[i])
            assert_array_equal(codes[i], expected[0])
            assert_array_equal(places[i], expected[1])


@pytest.mark.parametrize("rate", [1, 2, 3, 4, 5, 7])
def test_values_between_two_levels(search, rate):
    # Of two levels of a subset that are equally near, the upper.
    trellis, rates = Trellis.ungerboeck(8), [rate] * 5
    rng = np.random.default_rng(17)
    levels = np.cumsum(2 * rng.integers(0, 3, 2 ** (rate + 1))).astype(np.float32)
    X = rng.choice((levels[4:] + levels[:-4]) / 2 if rate > 1 else levels, (40, 5))
    codes, _ = viterbi(X, [levels] * 5, rates, trellis)
    for row, code in zip(X, codes, strict=True):
        given = row, [levels] * 5, rates, trellis
        assert_array_equal(code, tail_biting_in_plain_python(*given)[0])


@pytest.mark.parametrize("trellis", UNGERBOECK, ids=name_of)
def test_subsets(trellis):
    # On which the compiled search relies, with the same checks of parity.
    low, high = trellis.subsets.reshape(2, -1, 2)
    assert_array_equal(low[:, 0], high[:, 1])
    assert_array_equal(low[:, 1], high[:, 0])
    assert_array_equal(low[:, 0] ^ 2, low[:, 1])
    # Of the windows that a state begins, and of those that lead to one, no two have
    # one subset.
    assert_array_equal(np.bincount(trellis.subsets), [trellis.n_states // 2] * 4)


def test_tail_biting_is_nearly_the_best(numpy_search):
    rng = np.random.default_rng(2)
    trellis, rates = Trellis.ungerboeck(8), [2] * 32
    X = rng.normal(size=(200, 32)).astype(np.float32)
    alphabets = [np.linspace(-2.2, 2.2, 8, dtype=np.float32)] * 32
    _, found = viterbi(X, alphabets, rates, trellis)
    tied = [
        viterbi(X, alphabets, rates, trellis, ends=np.full(200, state))[1]
        for state in range(8)
    ]
    best = np.min(tied, axis=0)
    assert (found >= best).all()
    assert found.mean() < 1.05 * best.mean() < 0.97 * np.mean(tied)


# -- rows, whatever they are -----------------------------------------------------------


@pytest.mark.parametrize("trellis", [TRELLISES[1], TRELLISES[9]], ids=name_of)
def test_rows_by_themselves(search, trellis, two_threads):
    rng = np.random.default_rng(3)
    rates = make_rates(rng, trellis, 20)
    X, alphabets = make(rng, trellis, rates, 100)
    alphabets = Columns(alphabets)
    whole = viterbi(X, alphabets, rates, trellis)
    for n in [*range(20), 63, 100]:
        order = rng.permutation(100)[:n]
        codes, distances = viterbi(X[order], alphabets, rates, trellis)
        assert codes.shape == (n, 20)
        assert_array_equal(codes, whole[0][order])
        assert_array_equal(distances, whole[1][order])
        # On no more threads than one, and without distances.
        for i in range(0, n, 7):
            alone, nothing = viterbi(
                X[order[i : i + 1]], alphabets, rates, trellis, return_distances=False
            )
            assert nothing is None
            assert_array_equal(alone[0], codes[i])


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int32", "uint32", "int64"])
def test_dtypes_of_codes(search, dtype):
    rng = np.random.default_rng(4)
    trellis, rates = Trellis.ungerboeck(16), [3, 0, 8, 1, 2, 4, 5]
    X, alphabets = make(rng, trellis, rates, 19)
    expected, _ = viterbi(X, alphabets, rates, trellis)
    codes, _ = viterbi(X, alphabets, rates, trellis, dtype=dtype)
    assert codes.dtype == dtype
    assert_array_equal(codes, expected)
    assert (codes.max(axis=0) < 2 ** np.array(rates)).all()


@pytest.mark.parametrize("dtype", ["float16", "uint8", "int8", "bool", "int64", ">f4"])
def test_dtypes_of_rows(search, dtype):
    rng = np.random.default_rng(5)
    trellis, rates = Trellis.ungerboeck(8), [2] * 12
    X = np.clip(np.rint(3 * rng.normal(size=(30, 12)) + 4), 0, 9).astype(dtype)
    alphabets = [np.linspace(0, 8, 8, dtype=np.float32)] * 12
    codes, distances = viterbi(X, alphabets, rates, trellis)
    wide = np.float64 if dtype == "int64" else np.float32
    expected = viterbi(X.astype(wide), alphabets, rates, trellis)
    assert_array_equal(codes, expected[0])
    assert_array_equal(distances, expected[1])


def test_layouts_of_rows(search):
    rng = np.random.default_rng(6)
    trellis, rates = Trellis.bitshift(6, 2), [2] * 9
    X, alphabets = make(rng, trellis, rates, 40)
    expected, _ = viterbi(X, alphabets, rates, trellis)
    memory = np.zeros(X.nbytes + 1, np.uint8)
    odd = memory[1:].view(np.float32).reshape(X.shape)
    odd[...] = X
    fixed = X.copy()
    fixed.flags.writeable = False
    wide = np.repeat(np.repeat(X, 3, axis=0), 2, axis=1)
    for given in (np.asfortranarray(X), odd, fixed, wide[::3, ::2], X[::-1][::-1]):
        assert_array_equal(viterbi(given, alphabets, rates, trellis)[0], expected)
    assert_array_equal(viterbi(X[::-1], alphabets, rates, trellis)[0], expected[::-1])
    one = viterbi(np.broadcast_to(X[3], X.shape), alphabets, rates, trellis)[0]
    assert_array_equal(one, np.broadcast_to(expected[3], X.shape))
    for levels in alphabets:
        levels.flags.writeable = False
    backwards = [levels[::-1].copy()[::-1] for levels in alphabets]
    assert_array_equal(viterbi(X, backwards, rates, trellis)[0], expected)


@pytest.mark.parametrize("exponent", [-120, -40, 40, 110])
def test_scales(search, exponent):
    rng = np.random.default_rng(7)
    trellis, rates = Trellis.ungerboeck(8), [2, 1, 0, 3] * 3
    X, alphabets = make(rng, trellis, rates, 30)
    codes, distances = viterbi(X, alphabets, rates, trellis)
    X, *alphabets = (np.ldexp(each, exponent) for each in (X, *alphabets))
    found = viterbi(X, alphabets, rates, trellis)
    assert_array_equal(found[0], codes)
    assert_allclose(found[1], np.ldexp(distances, 2 * exponent), rtol=1e-6)


def test_far_from_the_origin(search):
    rng = np.random.default_rng(8)
    trellis, rates = Trellis.ungerboeck(8), [2] * 12
    X, alphabets = make(rng, trellis, rates, 30, grid=64)
    expected = viterbi(X, alphabets, rates, trellis)
    X, *alphabets = (each + np.float32(4096) for each in (X, *alphabets))
    found = viterbi(X, alphabets, rates, trellis)
    assert_array_equal(found[0], expected[0])
    assert_array_equal(found[1], expected[1])


def test_columns_are_made_ready_once(search, monkeypatch):
    rng = np.random.default_rng(9)
    trellis, rates = Trellis.ungerboeck(8), [2] * 6
    X, alphabets = make(rng, trellis, rates, 5)
    alphabets, made = Columns(alphabets), []
    make_ready = type(search).trellis_search
    monkeypatch.setattr(
        type(search),
        "trellis_search",
        lambda be, form: made.append(form) or make_ready(be, form),
    )
    for _ in range(3):
        viterbi(X, alphabets, rates, trellis)
    viterbi(X, alphabets, [2] * 6, Trellis.ungerboeck(8), ends="free")
    assert len(made) == 1
    viterbi(X.astype(np.float64), alphabets, rates, trellis)
    assert len(made) == 2


def test_shared_alphabets_are_kept_once(search):
    rng = np.random.default_rng(10)
    trellis = Trellis.bitshift(8, 2)
    X, (levels, other) = make(rng, trellis, [2, 2], 5)
    X = np.repeat(X, 10, axis=1)
    columns = Columns([levels] * 19 + [other])
    found = viterbi(X, columns, [2] * 20, trellis)
    forms = [form for form in columns._forms.values() if hasattr(form, "begins")]
    assert min(len(form.levels) for form in forms) == 2 * len(levels)
    apart = viterbi(X, [levels.copy() for _ in range(19)] + [other], [2] * 20, trellis)
    assert_array_equal(found[0], apart[0])


# -- both searches ---------------------------------------------------------------------


@pytest.mark.parametrize("trellis", TRELLISES, ids=name_of)
def test_native_is_numpys(trellis, monkeypatch):
    compiled, rng = native_backend(), np.random.default_rng(11)
    for n_features, dtype in itertools.product((0, 1, 9, 40), ("float32", "float64")):
        rates = make_rates(rng, trellis, n_features, most=9)
        X, alphabets = make(rng, trellis, rates, 37, dtype, rng.choice([None, 4]))
        for j, rate in enumerate(rates):
            if trellis.has_subsets and rate > 1:
                # Between two levels, and there rounded up.
                wide = alphabets[j].astype(np.float64)
                edges = rng.choice((wide[4:] + wide[:-4]) / 2, 20).astype(dtype)
                X[:10, j], X[10:20, j] = edges[:10], np.nextafter(edges[10:], np.inf)
        given = rng.integers(0, trellis.n_states, 37)
        few = np.count_nonzero(rates) < trellis.n_forgetting
        for ends in ("free",) if few else ("free", "tail_biting", given):
            found = []
            for be in (NumpyBackend(), compiled):
                use(monkeypatch, be)
                found.append(viterbi(X, alphabets, rates, trellis, ends=ends))
            assert_array_equal(found[0][0], found[1][0])
            assert_array_equal(found[0][1], found[1][1])


@pytest.mark.parametrize("ends", ["free", "tail_biting"])
def test_native_in_many_calls(monkeypatch, ends):
    use(monkeypatch, native_backend())
    rng = np.random.default_rng(12)
    trellis = Trellis.bitshift(7, 2)
    X, alphabets = make(rng, trellis, [2] * 11, 30)
    expected = viterbi(X, alphabets, [2] * 11, trellis, ends=ends)
    # So few that a call takes one, two or three steps of a group of rows.
    for windows in (1, 400, 700):
        monkeypatch.setattr(
            "skvq.nearest.backends.native_trellis._MOST_WINDOWS", windows
        )
        found = viterbi(X, alphabets, [2] * 11, trellis, ends=ends)
        assert_array_equal(found[0], expected[0])
        assert_array_equal(found[1], expected[1])


# -- what is known of trellises --------------------------------------------------------


def gaussian(trellis, rate, alphabet, ends, n_rounds):
    """Error over power of rows that were not trained on, after rounds of centroids."""
    X = np.random.default_rng(13).normal(size=(256, 256)).astype(np.float32)
    given, size = ([rate] * 256, trellis), len(alphabet)
    for _ in range(n_rounds):
        levels = [alphabet.astype(np.float32)] * 256
        places, _ = viterbi(X[:128], levels, *given, ends=ends, as_levels=True)
        counts = np.bincount(places.ravel(), minlength=size)
        sums = np.bincount(places.ravel(), X[:128].ravel(), minlength=size)
        alphabet = np.where(counts > 0, sums / np.maximum(counts, 1), alphabet)
        if trellis.has_subsets:
            alphabet = np.sort(alphabet)
    levels = [alphabet.astype(np.float32)] * 256
    _, found = viterbi(X[128:], levels, *given, ends=ends)
    return found.mean() / (X[128:].astype(np.float64) ** 2).sum(axis=1).mean()


def normal_quantiles(rate):
    """Levels to begin with, farther apart than those of a scalar quantizer."""
    size = 2 ** (rate + 1)
    return 1.2 * norm.ppf((np.arange(size) + 0.5) / size)


# Error of a Gaussian with trained alphabets; the scalar quantizer's is .3628 and .1173,
# the bound .25 and .0625.  Of free ends as signal to noise, in dB, by Marcellin and
# Fischer (1990).
@pytest.mark.parametrize(
    ("n_states", "rate", "tail_biting", "free"),
    [(4, 1, 0.3156, 5.05), (8, 1, 0.3034, 5.22), (8, 2, 0.0859, 10.70)],
)
def test_gaussian(n_states, rate, tail_biting, free):
    trellis, start = Trellis.ungerboeck(n_states), normal_quantiles(rate)
    found = gaussian(trellis, rate, start, "tail_biting", 6)
    assert 0.96 * tail_biting < found < 1.02 * tail_biting
    found = gaussian(trellis, rate, start, "free", 6)
    assert -10 * np.log10(found) == pytest.approx(free, abs=0.12)


def test_gaussian_bitshift():
    # Better than eight states of subsets, and worse than what is known of 2^12 windows.
    table = np.random.default_rng(15).normal(size=256)
    found = gaussian(Trellis.bitshift(8, 2), 2, table, "tail_biting", 4)
    assert 0.0746 < found < 0.0864


# -- what is refused -------------------------------------------------------------------

GOOD = {
    "X": np.zeros((3, 4), np.float32),
    "alphabets": [np.arange(8.0)] * 4,
    "rates": [2, 2, 2, 2],
    "trellis": Trellis.ungerboeck(8),
}
BAD = {
    "trellis=8": {"trellis": 8},
    "alphabets\\[1\\] has shape": {
        "alphabets": [np.arange(8.0), np.arange(4.0), *[np.arange(8.0)] * 2]
    },
    "alphabets\\[0\\] is not in ascending": {"alphabets": [-np.arange(8.0)] * 4},
    "alphabets\\[0\\] holds": {"alphabets": [np.array([*range(7), np.nan])] * 4},
    "X has 3 columns; expected 4": {"X": np.zeros((3, 3))},
    "rates has 3 entries for 4": {"rates": [2, 2, 2]},
    "rates holds -1": {"rates": [2, 2, 2, -1]},
    "rates holds 1.5": {"rates": [2, 2, 2, 1.5]},
    "rates holds 17": {"rates": [2, 2, 2, 17]},
    "rates holds 3; expected 0 or the 2 bits": {
        "trellis": Trellis.bitshift(5, 2),
        "rates": [2, 2, 2, 3],
    },
    "rates has bits for 2 features": {
        "rates": [2, 2, 0, 0],
        "alphabets": [np.arange(8.0)] * 2 + [np.zeros(1)] * 2,
    },
    "ends='tied'": {"ends": "tied"},
    "ends has shape": {"ends": np.zeros(2, int)},
    "ends has dtype": {"ends": np.zeros(3)},
    "ends\\[..., 0\\] ranges from 0 to 8": {"ends": np.array([0, 8, 1])},
    "X has dtype": {"X": np.zeros((3, 4), complex)},
    "X has shape": {"X": np.zeros(4)},
}


@pytest.mark.parametrize(("message", "given"), BAD.items(), ids=BAD)
def test_refusals(message, given):
    with pytest.raises(ValueError, match=message):
        viterbi(**{**GOOD, **given})


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30])
@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("trellis", [TRELLISES[1], BITSHIFT[2]], ids=name_of)
def test_rows_out_of_reach(search, value, exact, trellis):
    rng = np.random.default_rng(16)
    X, alphabets = make(rng, trellis, [2, 0, 2, 2, 2], 40)
    for place in ((0, 0), (39, 4), (17, 1)):
        bad = X.copy()
        bad[place] = value
        if place[1] == 1 and np.isfinite(value):
            continue  # of a feature without bits, any number will do
        with pytest.raises(ValueError, match=r"NaN or infinity|overflow"):
            viterbi(bad, alphabets, [2, 0, 2, 2, 2], trellis, return_distances=exact)


NO_SEQUENCES = [None, 2, 2.0, "2222", b"22", {2}, {2: 2}, np.array(2)]
NO_COUNTS = [None, 3.0, np.float64(3), "3", True, np.True_, np.nan, [3], np.zeros(2)]
MASKED = np.ma.masked_less(np.arange(8.0), 1)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("rates", [*NO_SEQUENCES, [2.0] * 4, [True, 2, 2, 2], [[2], [2, 2]], [None]]),
        ("alphabets", NO_SEQUENCES),
        ("alphabets", [[MASKED, *[np.arange(8.0)] * 3], [list("abcdefgh")] * 4]),
        ("alphabets", [[[[1], [1, 2]]] * 4, [np.full(8, np.longdouble("1e400"))] * 4]),
        ("trellis", [None, 8, "8", Trellis]),
        ("ends", [None, 1, 2.5, "FREE", [[1], [1, 2]], np.zeros(3), [True, None, 0]]),
        ("X", [None, 1.0, "a", np.array(1.0), [[1], [1, 2]], MASKED[None, :4]]),
    ],
    ids=lambda given: given if isinstance(given, str) else "",
)
def test_errors_name_the_parameter(name, values):
    for value in values:
        with pytest.raises(ValueError, match=rf"\b{name}\b"):
            viterbi(**{**GOOD, name: value})


def test_errors_of_codes():
    given = [1, 1, 1], Trellis.ungerboeck(4)
    expected = trellis_levels([[0, 1, 1]], *given)
    for dtype in ("bool", "uint8", "uint64", "int16"):
        codes = np.array([[0, 1, 1]], dtype)
        assert_array_equal(trellis_levels(codes, *given), expected)
    masked = np.ma.masked_less([[0, 1, 1]], 1)
    for codes in ([[0.5, 1, 1]], [[0.0, 1, 1]], [[np.nan] * 3], [[-1, 0, 0]], masked):
        with pytest.raises(ValueError, match=r"codes.*(expected|masked)"):
            trellis_levels(codes, *given)


@pytest.mark.parametrize("trellis", [TRELLISES[1], BITSHIFT[2]], ids=name_of)
def test_levels_near_the_largest_numbers(search, trellis):
    rng = np.random.default_rng(18)
    X, alphabets = make(rng, trellis, [2] * 6, 20, "float64", 64)
    expected = viterbi(X, alphabets, [2] * 6, trellis)
    for dtype, exponent in (("float32", 124), ("float64", 1019)):
        largest = [np.ldexp(each, exponent).astype(dtype) for each in (X, *alphabets)]
        given = largest[0], largest[1:], [2] * 6, trellis
        codes, _ = viterbi(*given, return_distances=False)
        assert_array_equal(codes, expected[0])
        if dtype == "float32":
            found = viterbi(*given)[1]
            assert_array_equal(found, np.ldexp(expected[1], 2 * exponent))
        else:
            with pytest.raises(ValueError, match="Distances between X and the alph"):
                viterbi(*given)


@pytest.mark.parametrize(
    ("make_it", "good", "bad"),
    [
        (lambda x: Trellis(state_bits=x), 3, [1, 9]),
        (lambda x: Trellis(3, step_bits=x), 1, [0, 2]),
        (lambda x: Trellis(3, step_bits=x, has_subsets=False), 3, [0, 4]),
        (lambda x: Trellis.ungerboeck(n_states=x), 8, [2, 12, 512, 10**30]),
        (lambda x: Trellis.bitshift(window_bits=x), 8, [3, 17]),
        (lambda x: Trellis.bitshift(8, step_bits=x), 3, [0, 5]),
        (lambda x: Trellis.ungerboeck(8).alphabet_size(rate=x), 3, [-1, 17]),
    ],
)
def test_integers_of_trellises(make_it, good, bad):
    # Of 8 bits, a power of two would wrap around.
    assert make_it(np.int8(good)) == make_it(good)
    assert repr(make_it(np.int8(good))) == repr(make_it(good))
    for value in [*bad, *NO_COUNTS]:
        with pytest.raises(ValueError, match=r"_bits=|n_states=|rate="):
            make_it(value)


def test_has_subsets_is_true_or_false():
    assert Trellis(3, has_subsets=np.True_) == Trellis(3)
    for value in (None, 1, "True", np.zeros(2)):
        with pytest.raises(ValueError, match="has_subsets="):
            Trellis(3, has_subsets=value)


def test_trellises_that_are_none():
    with pytest.raises(ValueError, match="n_states=12; expected a power of two"):
        Trellis.ungerboeck(12)
    with pytest.raises(ValueError, match="step_bits=5"):
        Trellis.bitshift(16, 5)
    for bits in (3, 17):
        with pytest.raises(ValueError, match=f"window_bits={bits}"):
            Trellis.bitshift(bits, 2)
    with pytest.raises(ValueError, match=r"codes\[..., 1\] ranges from 4 to 4"):
        trellis_levels([[1, 4, 0]], [1, 2, 1], Trellis.ungerboeck(4))


@pytest.mark.parametrize("dtype", [object, "V7", float, None, complex, "U3", "i1"])
def test_dtypes_that_hold_no_codes(dtype, search):
    """Before any work: the compiled engine writes what it is told to."""
    X, alphabet = np.zeros((3, 12)), np.arange(512.0)
    with pytest.raises(ValueError, match=r"dtype=.*expected an integer dtype"):
        viterbi(X, [alphabet] * 12, [8] * 12, TRELLISES[1], dtype=dtype)
    with pytest.raises(ValueError, match=r"dtype=.*expected an integer dtype"):
        trellis_levels(np.zeros((3, 12), int), [8] * 12, TRELLISES[1], dtype=dtype)


def test_codes_in_the_other_order_of_bytes(search):
    X = np.random.default_rng(0).normal(size=(5, 12))
    given = X, [np.linspace(-2, 2, 4)] * 12, [1] * 12, TRELLISES[1]
    assert_array_equal(viterbi(*given, dtype=">i4")[0], viterbi(*given)[0])


def test_an_array_that_features_share_has_the_levels_of_each(search):
    alphabet = np.linspace(-2, 2, 4)
    for rate in (0, 2):
        with pytest.raises(ValueError, match=r"alphabets\[11\] has shape \(4,\)"):
            viterbi(np.zeros((2, 12)), [alphabet] * 12, [1] * 11 + [rate], TRELLISES[1])


def test_a_trellis_cannot_be_changed():
    with pytest.raises(ValueError, match="read-only"):
        TRELLISES[1].subsets[:] = 3
