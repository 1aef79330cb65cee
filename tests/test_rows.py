"""Rows wherever they are: blocks, sums over them, and the learners that ask."""

import gc
import pickle
import tracemalloc
from collections import Counter
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from oracles import distances, unit
from scipy.stats import kstest
from sklearn.cluster import KMeans, kmeans_plusplus
from table import mixture
from threadpoolctl import threadpool_limits

from skvq import nearest
from skvq.learning import online
from skvq.learning import rows as seam
from skvq.learning import start as start_module
from skvq.learning.joint import (
    JointProblem,
    Stack,
    choose_strengths,
    hold_out,
    refine,
    share,
)
from skvq.learning.lloyd import lloyd
from skvq.learning.moments import moments, principal_axes
from skvq.learning.online import learn_epochs, start_from_few
from skvq.learning.quantiles import quantiles
from skvq.learning.random_rows import draw_distinct, times_of, uniforms
from skvq.learning.repair import repaired
from skvq.learning.rows import (
    Block,
    Part,
    Piece,
    Rows,
    close,
    columns,
    extremes,
    in_memory,
    is_mapped,
    less,
    merge,
    picked,
    rotated,
    run,
    scaled,
    together,
    wider,
)
from skvq.learning.start import (
    INITS,
    few_distinct,
    initialise,
    k_means_plus_plus,
    progressive,
    splitting,
)

METRICS = ["sqeuclidean", "cosine", "cityblock"]
# Of the right distribution, a test of it finds less once in ten thousand seeds.
UNLIKELY = 1e-4


@pytest.fixture
def tiny_blocks(monkeypatch):
    """Blocks of 16 rows of 3 features, and histograms that are as small."""
    monkeypatch.setattr(seam, "BLOCK_ELEMENTS", 64)
    monkeypatch.setattr("skvq.learning.quantiles._MOST_BINS", 2**10)


def asked(request):
    """Return the result of one request."""
    return seam.execute([request])[0]


def objective(X, table, metric="sqeuclidean", weights=None):
    return np.average(distances(X, table, metric).min(axis=1), weights=weights)


def same_bits(a, b):
    if isinstance(a, tuple):
        assert len(a) == len(b)
        for one, two in zip(a, b, strict=True):
            same_bits(one, two)
    else:
        assert_array_equal(a, b, strict=isinstance(a, np.ndarray))


# -- the tree --------------------------------------------------------------------------


def in_words(a, b):
    """A join that shows what was joined with what."""
    return (f"({a[0]} {b[0]})",)


def canonical(first, n_blocks, size):
    """What blocks give in an aligned binary tree."""
    if size == 1:
        return (str(first),) if first < n_blocks else None
    left = canonical(first, n_blocks, size // 2)
    right = canonical(first + size // 2, n_blocks, size // 2)
    return left if right is None else in_words(left, right)


@pytest.mark.parametrize("fan_in", range(2, 10))
def test_any_grouping_of_blocks_is_the_same_tree(fan_in):
    rng = np.random.default_rng(fan_in)
    for n_blocks in range(1, 61):
        stacks = [[Piece(0, i, (str(i),))] for i in range(n_blocks)]
        while len(stacks) > 1:
            groups = [stacks[i : i + fan_in] for i in range(0, len(stacks), fan_in)]
            for group in groups:
                rng.shuffle(group)
            stacks = [merge(*group, join=in_words) for group in groups]
        assert close(stacks[0], n_blocks, in_words) == canonical(0, n_blocks, 64)


@given(st.data())
def test_pieces_come_in_any_order(data):
    n_blocks = data.draw(st.integers(1, 40))
    stacks = [[Piece(0, i, (str(i),))] for i in range(n_blocks)]
    while len(stacks) > 1:
        chosen = data.draw(st.permutations(range(len(stacks))))
        some, rest = chosen[: data.draw(st.integers(2, len(stacks)))], set()
        rest = set(range(len(stacks))) - set(some)
        joined = merge(*(stacks[i] for i in some), join=in_words)
        stacks = [joined, *(stacks[i] for i in sorted(rest))]
    assert close(stacks[0], n_blocks, in_words) == canonical(0, n_blocks, 64)


def test_pieces_must_be_disjoint_and_all():
    ones = [Piece(0, i, (np.ones(1),)) for i in range(4)]
    pair = merge(ones[2:])
    assert pair[0][:2] == (1, 1)
    for others in (pair, [ones[3]], [ones[2]], [Piece(2, 0, (np.ones(1),))]):
        with pytest.raises(ValueError, match="in two pieces"):
            merge(pair, others)
    assert close(merge(pair, ones[:2]), 4)[0] == 4
    with pytest.raises(ValueError, match="Of 4 blocks 3"):
        close(merge(pair, ones[1:2]), 4)


def test_blocks_have_a_power_of_two_of_rows():
    sizes = [seam.block_rows(d) for d in (1, 3, 64, 100, 2**22, 2**30)]
    assert sizes == [2**22, 2**20, 2**16, 2**15, 1, 1]


# -- sources ---------------------------------------------------------------------------


class Cluster:
    """Parts on other machines: requests come pickled, and pieces in any order."""

    is_local = False

    def __init__(self, X, weights, n_blocks, fan_in):
        here = Part(X, weights)
        self.n_features, self.dtype = here.n_features, here.dtype
        self.n_rows, self.n_blocks = here.n_rows, here.n_blocks
        self.firsts, self.weighted = here.firsts, here.weighted
        self.fan_in, self.parts = fan_in, []
        self.be = here.be
        for place in range(0, here.n_blocks, n_blocks):
            cut = slice(place * here.size, (place + n_blocks) * here.size)
            w = None if weights is None else weights[cut]
            part = Part(X[cut], w, place, int(here.firsts[place]))
            self.parts.append(pickle.loads(pickle.dumps(part)))

    def is_ready(self):
        return True

    def held(self, views, like):
        return None  # the same bits must come from rows made anew

    def execute(self, requests):
        found = []
        for p, part in enumerate(self.parts):
            there = [self.sent(request, p) for request in requests]
            found.append(pickle.loads(pickle.dumps(part.stacks(there))))
        results = []
        for j, request in enumerate(requests):
            pieces = [stacks[j][0] for stacks in found]
            join = request.join or seam.add
            while len(pieces) > 1:
                pieces = [
                    merge(*pieces[i : i + self.fan_in][::-1], join=join)
                    for i in range(0, len(pieces), self.fan_in)
                ]
            states = [stacks[j][1] for stacks in found]
            value = close(pieces[0], request.of_blocks(self.n_blocks), join)
            results.append(request.result(value, states))
        return results

    @staticmethod
    def sent(request, p):
        def state_of(one):
            return None if one.state is None else one.state[p]

        views = [view._replace(state=state_of(view)) for view in request.views]
        state = state_of(request)
        there = request._replace(source=None, views=tuple(views), state=state)
        return pickle.loads(pickle.dumps(there))


FAR = np.concatenate([np.eye(3)[:2], np.full((4, 3), 1e3)]).astype(np.float32)


def start_of(init, n_codewords=12, metric="sqeuclidean"):
    def learner(rows):
        rng = np.random.RandomState(0)
        return initialise(rows, n_codewords, init, metric, rng)

    return learner


def lloyd_of(metric, how="split", table=FAR):
    def learner(rows):
        start = table.astype(rows.dtype)
        return lloyd(rows, start, metric, dead_codes=how, max_iter=4)

    return learner


def epochs_of(rows, learning="minibatch", dead_codes="split"):
    """Learn in batches, and return the numbers of the state."""
    given = online.OnlineSettings(learning, "sqeuclidean", 0.9, 0.1, dead_codes)
    state = online.start(FAR.astype(rows.dtype))
    rng = np.random.RandomState(0)
    options = {"batch_size": 13, "max_iter": 2, "tol": 1e-4}
    state, learned = yield from learn_epochs(rows, state, given, rng, **options)
    return learned, state.sums, state.counts


def stream_of_few(rows):
    distinct = yield from few_distinct(rows, 100_000)
    state = yield from start_from_few(rows, distinct, 100_000)
    return state.codebook, state.seeds, state.seed_weights


def encode(x, tables):
    """Codes of two stages of four codewords, and losses."""
    stages = [tables[0][:4], tables[0][4:]]
    codes, losses = nearest.nearest_best(x, stages, 2)
    return codes[:, 0, :], losses[:, 0]


PROBLEM = JointProblem([Stack(slice(0, 3), [0, 1], [0, 4], [4, 4])], encode, None, None)


def jointly(rows):
    rng = np.random.RandomState(0)
    found = yield from hold_out(rows, 0.2, 50, rng)
    tables = [np.random.default_rng(0).normal(60, 30, (8, 3)).astype(rows.dtype)]
    chosen = yield from choose_strengths(found, tables, PROBLEM, 3, 1e-3)
    refined = yield from refine(rows, tables, PROBLEM, chosen.strengths)
    strengths = np.array(chosen.strengths)
    return found.X, found.weights, strengths, chosen.loss, *refined.tables


LEARNERS = {
    "moments": moments,
    "axes": principal_axes,
    "quantiles": partial(quantiles, shares=(0.0, 0.3, 0.5, 1.0)),
    "few": partial(few_distinct, n_codewords=100_000),
    "drawn": lambda rows: draw_distinct(rows, 30, np.random.RandomState(0)),
    "all-rows": in_memory,
    **{init: start_of(init) for init in INITS},
    "k-means++, greedy": start_of("k-means++", 30),
    "k-means++, cosine": start_of("k-means++", 12, "cosine"),
    **{metric: lloyd_of(metric) for metric in METRICS},
    "farthest": lloyd_of("sqeuclidean", "farthest"),
    "keep": lloyd_of("sqeuclidean", "keep"),
    **{name: partial(epochs_of, learning=name) for name in ("minibatch", "ema", "sgd")},
    "few distinct": stream_of_few,
    "joint": jointly,
}


@pytest.fixture(params=list(LEARNERS))
def learner(request):
    return LEARNERS[request.param]


def samples(n_samples=200, dtype=np.float32):
    X = mixture(n_samples, 3) * 10 + 100
    X[-5:] = X[:5]
    weights = np.random.default_rng(0).integers(0, 4, n_samples) / 2
    return X.astype(dtype), weights


@pytest.mark.parametrize("weighted, n_blocks, fan_in", [(True, 1, 4), (False, 3, 2)])
def test_any_cut_gives_the_same_bits(learner, weighted, n_blocks, fan_in, tiny_blocks):
    X, weights = samples()
    weights = weights if weighted else None
    rows = Rows.of(Cluster(X, weights, n_blocks, fan_in))
    same_bits(run(learner(rows)), run(learner(Rows(X, weights))))


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_maps_give_the_same_bits(learner, dtype, tmp_path, tiny_blocks):
    X, weights = samples(dtype=dtype)
    np.save(tmp_path / "X.npy", X)
    there = np.load(tmp_path / "X.npy", mmap_mode="r")
    hidden = np.asarray(there)
    expected = run(learner(Rows(X.astype(nearest.compute_dtype(dtype)), weights)))
    same_bits(run(learner(Rows(hidden, weights))), expected)
    same_bits(run(learner(Rows(there, weights).held())), expected)
    same_bits(run(learner(Rows(np.asfortranarray(X), weights))), expected)


def test_threads_change_no_bit(learner, two_threads, monkeypatch):
    monkeypatch.setattr(seam, "BLOCK_ELEMENTS", 2**11)
    X, weights = samples(1000)
    two = run(learner(Rows(X, weights)))
    with threadpool_limits(1, user_api="blas"):
        same_bits(run(learner(Rows(X, weights))), two)


@pytest.mark.parametrize("even", [False, True])
def test_rows_of_weight_zero_are_as_if_removed(learner, even):
    X, weights = samples()
    weights = np.minimum(weights, 1) if even else weights
    weights = (weights > 0.5).astype(float) if even else weights
    X[weights == 0] += 1e6
    kept = weights > 0
    without = Rows(X[kept], None if even else weights[kept])
    same_bits(run(learner(Rows(X, weights))), run(learner(without)))


def test_blocks_without_rows_play_no_part(learner, tiny_blocks):
    X, weights = samples()
    weights += 0.5
    size = seam.block_rows(3)
    weights[3 * size : 5 * size] = weights[8 * size : 9 * size] = 0
    kept = weights > 0
    if learner is not LEARNERS["all-rows"]:
        found = run(learner(Rows.of(Cluster(X, weights, 2, 2))))
        same_bits(found, run(learner(Rows(X, weights))))
    (mean, n) = asked(Rows(X, weights).fold(weighted_sums))
    assert_allclose(mean, weights[kept] @ X[kept], rtol=1e-6)
    assert n == len(X[kept])


def weighted_sums(block):
    assert block.n_rows > 0
    w = block.host_weights()
    return w @ block.x, np.float64(block.n_rows)


def numbers_of(block):
    return (block.first + np.arange(block.n_rows), block.x)


def test_rows_have_numbers(tiny_blocks):
    X, weights = samples()
    rows = Rows(X, weights)
    numbers, x = asked(rows.gather(numbers_of, most=rows.n_rows))
    assert_array_equal(numbers, np.arange((weights > 0).sum()))
    assert_array_equal(x, X[weights > 0])
    chosen = np.array([0, 15, 16, 17, 100, rows.n_rows - 1])
    (found,) = asked(rows.gather(picked, chosen, most=6))
    assert_array_equal(found, x[chosen])
    blocks = rows.blocks_between(100, 120)
    numbers, _ = asked(rows.gather(numbers_of, most=rows.n_rows, blocks=blocks))
    assert numbers[0] <= 100 and numbers[-1] >= 119 and len(numbers) <= 48


def test_gathers_have_a_limit(tiny_blocks):
    rows = Rows(samples()[0])
    with pytest.raises(ValueError, match="rows come together; expected 199"):
        asked(rows.gather(numbers_of, most=199))
    with pytest.raises(ValueError, match="rows come together; expected 7"):
        asked(rows.gather(numbers_of, most=7, blocks=[0]))


def test_extremes(tiny_blocks):
    X, weights = samples()
    low, high = asked(Rows(X, weights).fold(extremes, join=wider))
    assert_array_equal(low, X[weights > 0].min(axis=0))
    assert_array_equal(high, X[weights > 0].max(axis=0))


def bits_of(block):
    return (block.x.sum(axis=0), block.w.sum())


def test_weights_are_there_in_float64(tiny_blocks):
    X, weights = samples()
    _, total = asked(Rows(X, weights.astype(np.float32)).fold(bits_of))
    assert total == weights.sum() and total.dtype == np.float64


# -- memory ----------------------------------------------------------------------------


def test_a_map_is_found_behind_views(tmp_path):
    X = np.lib.format.open_memmap(tmp_path / "X.npy", "w+", np.float32, (8, 3))
    for there in (X, np.asarray(X), np.asarray(X)[2:, :2], np.frombuffer(X.base)):
        assert is_mapped(there)
    for here in (np.array(X), X[:4] + 1, np.asarray(X).copy()[1:]):
        assert not is_mapped(here)


def test_a_map_is_not_copied(tmp_path, monkeypatch):
    monkeypatch.setattr(seam, "BLOCK_ELEMENTS", 2**14)
    monkeypatch.setattr(seam, "HELD_BYTES", 0)
    monkeypatch.setattr("skvq.learning.quantiles._MOST_BINS", 2**10)
    shape = 20_000, 16
    X = np.lib.format.open_memmap(tmp_path / "X.npy", "w+", "uint8", shape)
    X[:] = np.random.default_rng(0).integers(0, 200, shape)
    weights = np.ones(len(X))
    weights[::3] = 2
    rows = Rows(np.asarray(X), weights).held()
    rng = np.random.RandomState(0)
    tracemalloc.start()
    table = run(initialise(rows, 16, "k-means++", "sqeuclidean", rng))
    run(lloyd(rows, table, max_iter=3))
    run(quantiles(rows, [0.5]))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # The state, 12 bytes a row, of which two are there; and 64 kB of a block.
    assert peak < 24 * len(X) + 40 * 2**14 * 4 < 0.7 * X.size * 4 * 4


def test_held_rows_share_one_budget(tmp_path, monkeypatch):
    X = np.lib.format.open_memmap(tmp_path / "X.npy", "w+", np.uint8, (100, 4))
    n_bytes = 100 * 4 * 4
    gc.collect()
    before = seam._held._taken
    monkeypatch.setattr(seam, "HELD_BYTES", before + 2 * n_bytes)
    rows = Rows(X)
    first, second = rows.held(), rows.view(scaled, 2.0).held()
    assert first is not rows and second.views == ()
    assert first.held() is first
    assert rows.held() is rows
    del first
    gc.collect()
    third = rows.held()
    assert third is not rows
    assert rows.view(columns, 0, 1, width=1).held().views
    # Rows of the user's that are in memory have taken as much already.
    here = Rows(np.ones((100, 4), np.float32))
    assert here.held() is here
    assert here.view(scaled, 2.0).held().views == ()
    wide = Rows(np.ones((100, 4), np.uint8))
    assert wide.held() is wide
    del second, third
    gc.collect()
    assert seam._held._taken == before


# -- views -----------------------------------------------------------------------------


def codes_of(block):
    return (np.full(block.n_rows, 1, np.uint8),)


def twice(block):
    return np.repeat(block.x, 2, axis=0) + np.tile([[0.0], [1.0]], (block.n_rows, 1))


@pytest.mark.parametrize("hold", [False, True])
def test_views(hold, tiny_blocks):
    X, weights = samples(dtype=np.float64)
    rows = Rows(X, weights)
    X, weights = X[weights > 0], weights[weights > 0]
    table = np.array([[0.0, 0, 0], [1, 2, 3]])
    axes = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0][:, :2]
    codes = asked(rows.map(codes_of))
    views = {
        "columns": (rows.view(columns, 1, 3, width=2), X[:, 1:]),
        "scaled": (rows.view(scaled, 0.5), X / 2),
        "unit": (rows.view(seam.unit), unit(X)),
        "less": (rows.view(less, table, state=codes), X - table[1]),
        "rotated": (rows.view(rotated, table[1], axes, width=2), (X - table[1]) @ axes),
        "twice": (rows.view(twice, times=2), (X[:, None] + [[0], [1]]).reshape(-1, 3)),
    }
    for view, expected in views.values():
        view = view.held() if hold else view
        found, w = run(in_memory(view))
        assert_allclose(found, expected, rtol=1e-12)
        assert view.n_features == expected.shape[1]
        assert view.n_rows == len(expected)
        assert_array_equal(w, np.repeat(weights, len(expected) // len(X)))
        numbers, _ = asked(view.gather(numbers_of, most=view.n_rows))
        assert_array_equal(numbers, np.arange(view.n_rows))
        # A view of a view, and a state that stays with its rows.
        two = view.view(scaled, 2.0).view(scaled, 3.0)
        state = asked(two.map(sums_of_rows))
        (first_sums,) = asked(two.gather(the_state, state=state, most=two.n_rows))
        assert_allclose(first_sums, 6 * expected.sum(axis=1))


def sums_of_rows(block):
    return (block.x.sum(axis=1),)


def the_state(block):
    return block.state


# -- learners --------------------------------------------------------------------------


def passes(rows):
    """Count the blocks that are made."""
    made = []
    cut = rows.source._cut

    def counted(place):
        made.append(place)
        return cut(place)

    rows.source._cut = counted
    return made


def test_learners_share_their_passes(tiny_blocks):
    X, weights = samples()
    rows = Rows(X, weights)
    slices = [rows.view(columns, j, j + 1, width=1) for j in range(3)]

    def learners():
        for j, view in enumerate(slices):
            yield lloyd(view, X[: 4 + j, j : j + 1], max_iter=2 + j, tol=0)
            yield quantiles(view, [0.5])
        yield moments(Rows(X[:50]))

    apart = []
    made = passes(rows)
    for learner in learners():
        made.clear()
        apart.append((run(learner), len(made)))
    made.clear()
    found = run(together(list(learners())))
    same_bits(tuple(found), tuple(result for result, _ in apart))
    # As many passes as the longest of them needs.
    assert len(made) == max(n for _, n in apart)


def test_learners_within_learners():
    def outer(rows):
        mean = yield from moments(rows)
        found = yield from quantiles(rows, [0.5])
        return mean, found

    X, _ = samples()
    mean, found = run(outer(Rows(X)))
    assert_allclose(mean.mean, X.mean(axis=0, dtype=np.float64))
    same_bits(found, run(quantiles(Rows(X), [0.5])))


def test_a_learner_that_asks_nothing():
    def constant():
        return 3
        yield

    assert run(together([constant(), constant()])) == [3, 3]


# -- moments and quantiles -------------------------------------------------------------


@pytest.mark.parametrize("offset", [0, 1e6])
def test_moments(offset, tiny_blocks):
    X = mixture(500, 3, dtype=np.float64) + offset
    weights = np.random.default_rng(0).gamma(2, size=len(X))
    found = run(moments(Rows(X, weights)))
    mean = np.average(X, axis=0, weights=weights)
    assert_allclose(found.mean, mean, rtol=1e-14)
    expected = weights @ ((X - mean) ** 2).sum(axis=1)
    assert_allclose([found.weight, found.squares], [weights.sum(), expected], rtol=1e-9)


@pytest.mark.parametrize("shape", [(400, 3), (6, 9)])
def test_principal_axes(shape, tiny_blocks):
    X = mixture(*shape, dtype=np.float64)
    X *= np.arange(1, shape[1] + 1)
    repeats = np.random.default_rng(0).integers(1, 4, len(X))
    mean, axes = run(principal_axes(Rows(X, repeats.astype(float))))
    gaps = np.repeat(X, repeats, axis=0) - mean
    assert_allclose(axes.T @ axes, np.eye(min(shape)), atol=1e-12)
    products = (gaps @ axes).T @ (gaps @ axes)
    values = np.linalg.eigvalsh(gaps.T @ gaps)[::-1][: min(shape)]
    assert_allclose(np.diag(products), values, rtol=1e-6, atol=1e-9 * values[0])


SHARES = (0.0, 0.01, 0.25, 0.5, 0.5000001, 1.0)


def sorted_quantiles(X, shares):
    places = np.ceil(np.array(shares) * len(X) * (1 - 1e-12)).astype(int) - 1
    return np.sort(X, axis=0)[np.maximum(places, 0)]


@pytest.mark.parametrize("dtype", ["uint8", "float16", "float32", "float64"])
@pytest.mark.parametrize("shape", [(1, 3), (2, 3), (150, 3), (30, 70)])
@pytest.mark.parametrize("elements", [64, 2**22])
def test_quantiles(dtype, shape, elements, tiny_blocks, monkeypatch):
    monkeypatch.setattr(seam, "BLOCK_ELEMENTS", elements)
    rng = np.random.default_rng(0)
    X = (rng.normal(size=shape) * 40 + 100).astype(dtype)
    expected = sorted_quantiles(X, SHARES).astype(nearest.compute_dtype(dtype))
    same_bits(run(quantiles(Rows(X), SHARES)), expected)
    repeats = rng.integers(1, 5, len(X))
    found = run(quantiles(Rows(X, repeats.astype(float)), SHARES))
    assert_array_equal(found, sorted_quantiles(np.repeat(X, repeats, axis=0), SHARES))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_quantiles_of_all_floats(dtype):
    info = np.finfo(dtype)
    ends = np.array([info.max, info.tiny, info.smallest_subnormal, 1, 1 + info.eps])
    X = np.concatenate([ends, -ends, [0.0, -0.0, 0.0]])[:, None].astype(dtype)
    shares = (np.arange(len(X)) + 1) / len(X)
    assert_array_equal(run(quantiles(Rows(X), shares)), np.sort(X, axis=0))


def test_shares_that_rounding_misses_are_reached():
    for n in range(1, 60):
        X, shares = np.arange(n, dtype=float)[:, None], np.arange(1, n + 1) / n
        found = run(quantiles(Rows(X, np.full(n, 1 / n) * np.pi), shares))
        assert_array_equal(found, X)


def test_zeros_are_equal():
    X = np.array([[-0.0], [1.0], [0.0], [-0.0]])
    found = run(quantiles(Rows(X), [0.25, 0.5, 0.75]))
    assert_array_equal(found, np.zeros((3, 1)))
    assert not np.signbit(found).any()


# -- random numbers --------------------------------------------------------------------


def test_random_numbers_go_by_row(seed):
    whole = uniforms(seed + 5, 0, 1000)
    for first, n in ((0, 1), (1, 7), (4, 4), (333, 667), (999, 1), (5, 0)):
        assert_array_equal(uniforms(seed + 5, first, n), whole[first : first + n])
    assert kstest(whole, "uniform").pvalue > UNLIKELY
    assert not np.intersect1d(whole, uniforms(seed + 6, 0, 1000)).size


def test_times_are_exponential(seed):
    x = np.zeros((5000, 1))
    times = times_of(Block(x, np.full(5000, 4.0), 7, ()), seed + 3)
    assert kstest(times * 4, "expon").pvalue > UNLIKELY
    with np.errstate(all="raise"):
        assert np.isinf(times_of(Block(x, np.full(5000, 5e-324), 7, ()), 3)).any()


@pytest.mark.parametrize("elements", [1, 2**22])
def test_rows_are_drawn_by_the_weight_of_all_that_equal_them(
    elements, monkeypatch, seed
):
    monkeypatch.setattr(seam, "BLOCK_ELEMENTS", elements)
    X, weights = np.array([[0.0], [1], [-0.0], [2]]), np.array([1.0, 3, 2, 4])
    rng, n_draws = np.random.RandomState(seed), 500
    found = Counter(
        tuple(run(draw_distinct(Rows(X, weights), 2, rng)).ravel() + 0.0)
        for _ in range(n_draws)
    )
    mass = {0.0: 0.3, 1.0: 0.3, 2.0: 0.4}
    for first in mass:
        for second in set(mass) - {first}:
            share = mass[first] * mass[second] / (1 - mass[first])
            error = np.sqrt(share * (1 - share) / n_draws)
            assert abs(found[first, second] / n_draws - share) < 4 * error


@pytest.mark.parametrize("weighted", [False, True])
def test_many_rows_are_the_same_in_two_passes(weighted, monkeypatch, tiny_blocks):
    X, weights = samples(1000)
    X = np.rint(X / 8)  # many equal rows
    rows = Rows(X, weights if weighted else None)
    once = run(draw_distinct(rows, 50, np.random.RandomState(0)))
    assert len(np.unique(once, axis=0)) == 50
    monkeypatch.setattr("skvq.learning.random_rows._FEW_ELEMENTS", 0)
    same_bits(run(draw_distinct(rows, 50, np.random.RandomState(0))), once)


def test_drawing_looks_at_few_rows(monkeypatch, seed):
    seen = []
    unique = seam.np.unique

    def unique_rows(rows):
        seen.append(len(rows))
        _, first, group = unique(rows, axis=0, return_index=True, return_inverse=True)
        return first, group.ravel()

    monkeypatch.setattr("skvq.learning.random_rows.unique_rows", unique_rows)
    X = np.random.default_rng(seed).normal(size=(50_000, 2))
    X[::2] = 0
    drawn = run(draw_distinct(Rows(X), 16, np.random.RandomState(seed)))
    assert len(np.unique(drawn, axis=0)) == 16
    assert sum(seen) < 300


def test_equal_rows_fill_up_what_scaling_has_left(tiny_blocks):
    X = np.zeros((40, 1), np.float32)
    X[:3, 0] = [1, 2, 3]
    drawn = run(draw_distinct(Rows(X), 10, np.random.RandomState(0)))
    assert drawn.shape == (10, 1)
    assert_array_equal(np.unique(drawn), [0, 1, 2, 3])


# -- starts ----------------------------------------------------------------------------


def start(X, n, init, weights=None, metric="sqeuclidean", seed=0):
    rng = np.random.RandomState(seed)
    return run(initialise(Rows(X, weights), n, init, metric, rng))


def test_few_distinct_rows(tiny_blocks):
    X = np.rint(mixture(300, 3) / 4)
    distinct = np.unique(X + 0.0, axis=0)
    n = len(distinct)
    assert 20 < n < 200
    same_bits(run(few_distinct(Rows(X), n + 1)), distinct)
    assert run(few_distinct(Rows(X), n)) is None
    same_bits(run(few_distinct(Rows(X), 1000)), distinct)
    rows = Rows(X)
    made = passes(rows)
    assert run(few_distinct(rows, 2)) is None
    assert made == [0]
    mixed = np.array([[0.0], [-0.0], [1]])
    assert_array_equal(run(few_distinct(Rows(mixed), 3)), [[0], [1]])


@pytest.mark.parametrize("init", ["k-means++", "random"])
@pytest.mark.parametrize("n_samples", [60, 3000])
@pytest.mark.parametrize("metric", [*METRICS, "inner_product", "chebyshev"])
def test_starts_are_distinct_samples(init, n_samples, metric, tiny_blocks):
    X = mixture(n_samples, 3)
    table = start(X, 40, init, metric=metric)
    rows = {row.tobytes() for row in X}
    assert len({row.tobytes() for row in table}) == 40
    assert all(row.tobytes() in rows for row in table)
    assert table.dtype == np.float32


@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("weighted", [False, True])
def test_starts_have_as_many_rows_as_are_distinct(init, weighted, tiny_blocks):
    """All that there are, be some of them ever so frequent."""
    distinct = mixture(8, 3)
    X = distinct[np.random.default_rng(0).choice(8, 200, p=[0.6, 0.3, *[1 / 60] * 6])]
    X = np.concatenate([X, distinct])
    weights = np.random.default_rng(0).gamma(2.0, size=len(X)) if weighted else None
    for seed in range(5):
        table = start(X, 8, init, weights, seed=seed)
        assert len(np.unique(np.rint(table * 1e3), axis=0)) == 8
        if init not in ("progressive", "normal"):
            order = np.lexsort(np.rint(table * 1e3).T)
            expected = distinct[np.lexsort(np.rint(distinct * 1e3).T)]
            assert_allclose(table[order], expected, atol=1e-5)


def test_rows_that_differ_by_less_than_distances_tell_are_drawn_once():
    X = np.array([[0.0], [0], [0], [1e-30], [0], [1]], dtype=np.float32)
    for seed in range(10):
        for repeats in (1, 10):
            table = start(np.repeat(X, repeats, axis=0), 3, "k-means++", seed=seed)
            assert_array_equal(np.sort(table.ravel()), X[[0, 3, 5], 0])


@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("exponent", [-100, 110])
def test_values_near_the_ends_of_float32(init, exponent, tiny_blocks):
    X = mixture(200, 3)
    plain, far = (start(x, 20, init) for x in (X, np.ldexp(X, exponent)))
    if init == "normal":
        same_bits(plain, far)
    else:
        assert_allclose(np.ldexp(far, -exponent), plain, rtol=1e-5)


def test_starts_follow_the_weights(tiny_blocks, seed):
    X = mixture(2000, 2, seed)
    weights = np.where(X[:, 0] > np.median(X[:, 0]), 1.0, 1e-12)
    for init in ("k-means++", "random"):
        table = start(X, 20, init, weights, seed=seed)
        assert (table[:, 0] > np.median(X[:, 0])).mean() > 0.9


@pytest.mark.parametrize("n_samples", [1500, 6000])
def test_k_means_plus_plus_is_as_good_as_scikit_learns(n_samples, monkeypatch, seed):
    monkeypatch.setattr(seam, "BLOCK_ELEMENTS", 2**12)
    X = mixture(n_samples, 8, seed, dtype=np.float64)
    # Sorted by cluster: nothing hangs on the order of the rows.
    X = X[np.argsort(X[:, 0])]
    ours, theirs = [], []
    for one in range(seed, seed + 20):
        rng = np.random.RandomState(one)
        table = run(k_means_plus_plus(Rows(X), 64, "sqeuclidean", rng))
        ours.append(objective(X, table))
        theirs.append(objective(X, kmeans_plusplus(X, 64, random_state=one)[0]))
    assert np.mean(ours) < 1.06 * np.mean(theirs)


def test_two_rounds_draw_about_two_candidates_a_codeword(
    monkeypatch, tiny_blocks, seed
):
    seen, greedy = [], start_module.greedy

    def counted(X, n_codewords, weights, *args):
        seen.append((len(X), weights.sum()))
        return greedy(X, n_codewords, weights, *args)

    monkeypatch.setattr(start_module, "greedy", counted)
    X = mixture(2000, 3, seed)
    for more in range(5):
        start(X, 100, "k-means++", seed=seed + more)
    counts, weights = np.transpose(seen)
    assert 170 < counts.mean() < 230
    assert_allclose(weights, len(X))


def test_normal_start_is_normal(seed):
    table = start(mixture(10, 8), 500, "normal", seed=seed)
    assert kstest(table.ravel(), "norm").pvalue > UNLIKELY


@pytest.mark.parametrize("metric", METRICS)
def test_splitting_never_rises_on_doubling(metric):
    X = mixture(500, 4, dtype=np.float64)
    X = unit(X) if metric == "cosine" else X
    tables = [run(splitting(Rows(X), n, metric)) for n in (1, 2, 4, 8, 16, 32)]
    assert (np.diff([objective(X, table, metric) for table in tables]) < 0).all()


def test_splitting_where_distances_cannot_tell_rows_apart():
    X = np.zeros((40, 2), np.float32)
    X[:, 0] = np.arange(40) * np.float32(1.4e-45)
    X[0, 1] = 1.0
    table = run(splitting(Rows(X), 30, "sqeuclidean"))
    assert table.shape == (30, 2)
    assert np.isfinite(table).all()
    for init in ("k-means++", "random", "progressive"):
        table = start(np.repeat(X, 20, axis=0), 30, init)
        assert table.shape == (30, 2)
        assert np.isfinite(table).all()


def test_progressive_is_better_than_its_first_rows(seed):
    X = mixture(2000, 12, seed) @ np.diag(np.arange(1.0, 13)).astype(np.float32)
    rng = np.random.RandomState(seed)
    table = run(progressive(Rows(X), 32, rng))
    first = start(X, 32, "random", seed=seed)
    assert objective(X, table) < 0.8 * objective(X, first)


# -- Lloyd -----------------------------------------------------------------------------


@given(
    seed=st.integers(0, 2**32 - 1),
    metric=st.sampled_from(METRICS),
    dead_codes=st.sampled_from(["split", "farthest", "keep"]),
    weighted=st.booleans(),
    dtype=st.sampled_from([np.float32, np.float64]),
    elements=st.sampled_from([64, 2**22]),
)
@settings(max_examples=40)
def test_objective_never_rises(seed, metric, dead_codes, weighted, dtype, elements):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(rng.integers(20, 120), 3)) + rng.normal()
    X = (unit(X) if metric == "cosine" else X).astype(dtype)
    weights = rng.random(len(X)) + 0.1 if weighted else None
    table = rng.normal(size=(12, 3)) * 3  # some of them far from every sample
    table = (unit(table) if metric == "cosine" else table).astype(dtype)
    values = [objective(X, table, metric, weights)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(seam, "BLOCK_ELEMENTS", elements)
        for _ in range(8):
            rows = Rows(X, weights)
            learned = run(
                lloyd(rows, table, metric, max_iter=1, tol=0, dead_codes=dead_codes)
            )
            table = learned.codebook
            values.append(objective(X, table, metric, weights))
            assert learned.distortion == pytest.approx(values[-1], rel=1e-4, abs=1e-6)
    slack = 1e-5 if dtype == np.float32 else 1e-12
    assert (np.diff(values) <= slack * values[0]).all()


def test_lloyd_equals_scikit_learn_from_the_same_start(monkeypatch):
    X = mixture(2000, 6, dtype=np.float64)
    table = X[::50][:32]
    theirs = KMeans(32, init=table, n_init=1, max_iter=300, tol=0).fit(X)
    for elements in (2**9, 2**22):
        monkeypatch.setattr(seam, "BLOCK_ELEMENTS", elements)
        ours = run(lloyd(Rows(X), table, max_iter=300, tol=0))
        assert ours.distortion == pytest.approx(theirs.inertia_ / len(X), rel=1e-9)
        assert_allclose(ours.codebook, theirs.cluster_centers_, atol=1e-9)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("elements", [64, 2**22])
def test_lloyd_equals_a_loop(metric, elements, monkeypatch):
    monkeypatch.setattr(seam, "BLOCK_ELEMENTS", elements)
    X = mixture(300, 3, dtype=np.float64)
    X = unit(X) if metric == "cosine" else X
    repeats = np.random.default_rng(0).integers(1, 4, len(X))
    rows, table = Rows(X, repeats.astype(float)), X[:12]
    learned = run(lloyd(rows, table, metric, max_iter=4, tol=0, dead_codes="keep"))
    repeated = np.repeat(X, repeats, axis=0)
    for _ in range(learned.n_iter):
        codes = distances(repeated, table, metric).argmin(axis=1)
        cells = [np.sort(repeated[codes == k], axis=0) for k in range(12)]
        if metric == "cityblock":
            table = np.stack([cell[(len(cell) - 1) // 2] for cell in cells])
        else:
            table = np.stack([cell.mean(axis=0) for cell in cells])
        table = unit(table) if metric == "cosine" else table
    assert_allclose(learned.codebook, table, rtol=1e-9)
    assert learned.distortion == pytest.approx(objective(repeated, table, metric))


def test_tolerance_and_max_iter():
    X = mixture(2000, 6)
    assert run(lloyd(Rows(X), X[:32], tol=0, max_iter=3)).n_iter == 3
    assert run(lloyd(Rows(X), X[:32], tol=0.5)).n_iter < 5
    nothing = run(lloyd(Rows(X), X[:32], max_iter=0))
    assert nothing.codebook is not None and nothing.n_iter == 0
    assert nothing.distortion == pytest.approx(objective(X, X[:32]), rel=1e-5)


def test_rows_on_their_codewords():
    X = np.repeat(mixture(8, 3), 5, axis=0)
    learned = run(lloyd(Rows(X), X[::5]))
    assert learned.distortion == pytest.approx(0, abs=1e-10)
    assert_array_equal(learned.codebook, X[::5])


@pytest.mark.parametrize("elements", [64, 2**22])
@pytest.mark.parametrize("how", ["split", "farthest"])
def test_every_codeword_is_used_in_the_end(how, elements, monkeypatch):
    monkeypatch.setattr(seam, "BLOCK_ELEMENTS", elements)
    X = mixture(500, 3)
    table = np.concatenate([X[:2], np.full((14, 3), 1e4, np.float32)])
    learned = run(lloyd(Rows(X), table, dead_codes=how))
    assert len(np.unique(nearest.nearest(X, learned.codebook)[0])) == 16
    keep = run(lloyd(Rows(X), table, dead_codes="keep"))
    assert len(np.unique(nearest.nearest(X, keep.codebook)[0])) <= 2
    assert learned.distortion < keep.distortion


def coded(block, table, metric):
    return (nearest.nearest(block.x, table, metric)[0].astype(np.uint8),)


@pytest.mark.parametrize("elements", [64, 2**22])
@pytest.mark.parametrize("how", ["split", "farthest"])
@pytest.mark.parametrize("metric", METRICS)
def test_repair_never_raises_the_objective(how, metric, elements, monkeypatch):
    monkeypatch.setattr(seam, "BLOCK_ELEMENTS", elements)
    X = mixture(300, 3, dtype=np.float64)
    X = unit(X) if metric == "cosine" else X
    weights = np.random.default_rng(0).gamma(2.0, size=len(X))
    table = np.concatenate([X[:5], np.full((4, 3), 1e3)])
    table = unit(table) if metric == "cosine" else table
    rows = Rows(X, weights)
    codes = asked(rows.map(coded, table, metric))
    own = nearest.nearest(X, table, metric)[0]
    counts = np.bincount(own, weights, minlength=9)
    after = run(repaired(rows, codes, table, counts, metric, how))
    at_start = objective(X, table, metric, weights)
    assert objective(X, after, metric, weights) < at_start
    used = np.bincount(nearest.nearest(X, after, metric)[0], minlength=9)
    assert (used > 0).sum() > (counts > 0).sum()
    if how == "farthest" or elements == 64:
        # A sample says nothing of the codewords that are in use.
        assert_array_equal(after[:5], table[:5])
    assert run(repaired(rows, codes, table, counts, metric, "keep")) is table
    assert run(repaired(rows, codes, table, counts + 1, metric, how)) is table


def test_farthest_rows_are_distinct(tiny_blocks):
    X = np.concatenate([np.zeros((50, 3)), np.full((5, 3), 9.0), [[5.0, 5, 5]]])
    X = X[np.random.default_rng(0).permutation(len(X))]
    table = np.zeros((4, 3))
    rows, counts = Rows(X), np.array([56.0, 0, 0, 0])
    codes = asked(rows.map(coded, table, "sqeuclidean"))
    after = run(repaired(rows, codes, table, counts, "sqeuclidean", "farthest"))
    assert_array_equal(after[:, 0], [0, 9, 5, 0])


@pytest.mark.parametrize("how", ["split", "farthest"])
@pytest.mark.parametrize("elements", [64, 2**22])
def test_repair_does_not_search(how, elements, monkeypatch):
    monkeypatch.setattr(seam, "BLOCK_ELEMENTS", elements)
    searched, inside = [], []

    def count(name):
        search = getattr(nearest, name)

        def counted(X, *args, **options):
            if not inside:  # one may call the other
                searched.append(len(X))
            inside.append(name)
            found = search(X, *args, **options)
            inside.pop()
            return found

        monkeypatch.setattr(nearest, name, counted)

    count("nearest")
    count("nearest_cells")
    X = mixture(500, 3)
    table = np.concatenate([X[:2], np.full((14, 3), 1e4, np.float32)])
    learned = run(lloyd(Rows(X), table, dead_codes=how, max_iter=4, tol=0))
    assert sum(searched) == (learned.n_iter + 1) * len(X)


def test_repair_of_rows_that_are_a_block_each(monkeypatch):
    """By chance, more rows are drawn than a block has."""
    monkeypatch.setattr(seam, "BLOCK_ELEMENTS", 4)
    for n_rows in range(10, 40, 2):
        X = np.random.default_rng(0).normal(size=(n_rows, 4))
        X[:3] *= 30
        table = np.concatenate([X[-2:], np.full((3, 4), 1e4)])
        learned = run(lloyd(Rows(X), table, max_iter=3))
        assert learned.distortion < objective(X, table)


def test_an_update_that_raises_the_distortion_is_discarded(monkeypatch):
    X = mixture(300, 3)
    worse = "skvq.learning.lloyd.cell_means"
    monkeypatch.setattr(worse, lambda sums, counts, codebook, metric: codebook + 5)
    learned = run(lloyd(Rows(X), X[:8]))
    assert learned.n_iter == 1
    assert_array_equal(learned.codebook, X[:8])
    assert learned.distortion == pytest.approx(objective(X, X[:8]), rel=1e-5)


def test_a_table_is_made_ready_once_for_all_blocks(monkeypatch, tiny_blocks):
    made = []
    table_of = nearest.Table

    def counted(codewords, **options):
        made.append(table_of(codewords))
        return made[-1]

    monkeypatch.setattr(nearest, "Table", counted)
    X = mixture(300, 3)
    learned = run(lloyd(Rows(X), X[:8]))
    assert len(made) == learned.n_iter + 1


# -- batches ---------------------------------------------------------------------------


@pytest.mark.parametrize("learning", ["minibatch", "ema", "sgd"])
def test_batches_of_blocks_learn_as_batches_of_all_rows(learning, monkeypatch, seed):
    X = mixture(2000, 5, seed)
    X = X[np.argsort(X[:, 0])]
    given = online.OnlineSettings(learning, "sqeuclidean", 0.99, 0.1, "split")
    errors = []
    for elements in (2**22, 2**12):
        monkeypatch.setattr(seam, "BLOCK_ELEMENTS", elements)
        for more in range(3):
            rng = np.random.RandomState(seed + more)
            state = online.start(X[rng.permutation(len(X))[:32]])
            options = {"batch_size": 64, "max_iter": 4, "tol": 1e-4}
            _, learned = run(learn_epochs(Rows(X), state, given, rng, **options))
            assert learned.distortion == pytest.approx(objective(X, learned.codebook))
            errors.append(learned.distortion)
    # A batch has rows of one block alone, which fixed steps do not average out.
    worse = 1.2 if learning == "sgd" else 1.06
    assert np.mean(errors[3:]) < worse * np.mean(errors[:3])


def test_every_row_is_learned_from_once_a_pass(tiny_blocks):
    X, weights = samples()
    given = online.OnlineSettings("minibatch", "sqeuclidean", 0.9, 0.1, "keep")
    for n in (1, 3):
        state, learned = run(
            learn_epochs(
                Rows(X, weights),
                online.start(X[:4]),
                given,
                np.random.RandomState(0),
                batch_size=5,
                max_iter=n,
                tol=0,
            )
        )
        assert learned.n_iter == n
        assert state.counts.sum() == pytest.approx(n * weights.sum())
        assert_allclose(state.sums.sum(axis=0), n * weights @ X.astype(float))


def test_a_stream_of_few_rows_knows_their_weights(tiny_blocks):
    X, weights = np.rint(samples()[0] / 40), samples()[1]
    codebook, seeds, found = run(stream_of_few(Rows(X, weights)))
    kept = weights > 0
    distinct, group = np.unique(X[kept] + 0.0, axis=0, return_inverse=True)
    assert_array_equal(seeds, distinct)
    assert_allclose(found, np.bincount(group.ravel(), weights[kept]))
    assert_array_equal(codebook[: len(seeds)], distinct)


# -- tables that are improved together -------------------------------------------------


def test_chosen_rows_have_numbers_of_their_own(tiny_blocks):
    X, weights = samples()
    rows = Rows(X, weights)
    X, weights = X[weights > 0], weights[weights > 0]
    low = (X[:, 0] < np.median(X[:, 0])) & (np.arange(len(X)) // 16 != 3)
    some = run(rows.chosen(low_places, np.median(X[:, 0])))
    for each in (some, some.held(), some.view(scaled, 1.0)):
        found, w = run(in_memory(each))
        assert_array_equal(found, X[low])
        assert_array_equal(w, weights[low])
        numbers, _ = asked(each.gather(numbers_of, most=each.n_rows))
        assert_array_equal(numbers, np.arange(each.n_rows))
        for learner in (moments, LEARNERS["k-means++"], LEARNERS["minibatch"]):
            a, b = run(learner(each)), run(learner(Rows(X[low], weights[low])))
            a, b = (one[0] if isinstance(one, tuple) else one for one in (a, b))
            if learner is not LEARNERS["minibatch"]:
                assert_allclose(a, b, rtol=1e-6)
    twice = run(some.chosen(low_places, np.quantile(X[low][:, 0], 0.3)))
    assert 0 < twice.n_rows < some.n_rows
    assert len(run(in_memory(twice))[0]) == twice.n_rows


def low_places(block, most):
    # The fourth block has none.
    kept = block.x[:, 0] < most
    kept &= (block.first + np.arange(block.n_rows)) // 16 != 3
    return np.flatnonzero(kept)


def test_equal_rows_are_held_out_together(tiny_blocks, seed):
    X = np.rint(mixture(2000, 3, seed))
    weights = np.random.default_rng(0).gamma(2.0, size=len(X))
    n = len(np.unique(X + 0.0, axis=0))
    assert n < 1500
    for most, tolerance in ((10_000, 0), (100, 0.3)):
        rng = np.random.RandomState(seed)
        found = run(hold_out(Rows(X, weights), 0.1, most, rng))
        assert abs(found.n_distinct - n) <= tolerance * n
        assert len(found.X) == min(int(0.1 * found.n_distinct), most)
        others, _ = run(in_memory(found.rows))
        held = {row.tobytes() for row in found.X + 0.0}
        assert held.isdisjoint(row.tobytes() for row in others + 0.0)
        is_held = np.array([row.tobytes() in held for row in X + 0.0])
        assert_array_equal(others, X[~is_held])
        assert found.weights.sum() == pytest.approx(weights[is_held].sum())
    none = run(hold_out(Rows(X[:5]), 0.1, 50, np.random.RandomState(0)))
    assert len(none.X) == 0 and none.rows.n_rows == 5


@pytest.mark.parametrize("elements", [512, 2**22])
@pytest.mark.parametrize("weighted", [False, True])
def test_joint_solves_lower_the_loss(weighted, elements, monkeypatch):
    monkeypatch.setattr(seam, "BLOCK_ELEMENTS", elements)
    X, weights = samples(1000)
    rows = Rows(X, weights + 0.5 if weighted else None)
    tables = [np.random.default_rng(0).normal(60, 30, (8, 3)).astype(np.float32)]
    held = run(hold_out(rows, 0.1, 100, np.random.RandomState(0)))
    strengths = run(choose_strengths(held, tables, PROBLEM, 3, 1e-3)).strengths
    assert len(strengths) > 1

    def loss(X, tables, weights):
        return np.average(encode(X, tables)[1], weights=weights)

    X, weights = run(in_memory(rows))
    on_all, on_held = [loss(X, tables, weights)], [loss(held.X, tables, held.weights)]
    for n in range(1, len(strengths) + 1):
        refined = run(refine(held.rows, tables, PROBLEM, strengths[:n])).tables
        on_held.append(loss(held.X, refined, held.weights))
        refined = run(refine(rows, tables, PROBLEM, strengths[:n])).tables
        on_all.append(loss(X, refined, weights))
    assert (np.diff(on_held) < 0).all() and (np.diff(on_all) < 0).all()


def test_a_step_is_the_least_squares_solution(tiny_blocks):
    X, weights = samples()
    tables = [np.random.default_rng(0).normal(60, 30, (8, 3))]
    rows = Rows(X.astype(float), weights)
    (found,) = run(refine(rows, tables, PROBLEM, [0.1])).tables
    codes, _ = encode(X.astype(float), tables)
    rows = np.zeros((len(X), 8))
    np.put_along_axis(rows, codes.astype(int) + [0, 4], 1, axis=1)
    # The ridge: as of samples on the codewords, of a tenth of the mean weight each.
    ridge = np.sqrt(0.1 * weights.sum() / 4) * np.eye(8)
    heavy = np.sqrt(weights)[:, None]
    expected = np.linalg.lstsq(
        np.concatenate([rows * heavy, ridge]),
        np.concatenate([X * heavy, ridge @ tables[0]]),
        rcond=None,
    )[0]
    assert_allclose(found, expected, rtol=1e-8)


def test_one_table_for_all_stages():
    X, _ = samples(500)
    table = np.concatenate([np.zeros((1, 3)), X[:7] / 2]).astype(np.float32)
    fixed = np.arange(8) == 0

    def shared(x, tables):
        codes, losses = nearest.nearest_best(x, [tables[0]] * 2, 2)
        return codes[:, 0, :], losses[:, 0]

    found = run(share(Rows(X), table, 2, shared, fixed))
    assert_array_equal(found[0], 0)
    assert shared(X, [found])[1].sum() < shared(X, [table])[1].sum()
