"""Grids, levels matched to densities, and finite scalar quantization."""

import pickle
import sys
import tracemalloc

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from oracles import first_argmin
from scipy import stats
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.estimator_checks import check_estimator

from skvq import FiniteScalarQuantizer, ProductQuantizer, UniformQuantizer, nearest
from skvq.codes import token_ids
from skvq.coding.levels import Grid, Levels
from skvq.finite import recommended_levels
from skvq.learning.rows import Rows, run
from skvq.learning.scalar import (
    DENSITIES,
    GAUSSIAN,
    cell_moments,
    distinct,
    equal_shares,
    level_means,
    level_shares,
    mean_error,
    standard_levels,
    uniform_reach,
)
from skvq.nearest import tile_rows


def gaussian(n_samples, n_features=1, seed=0, dtype=np.float32):
    return (
        np.random.default_rng(seed).normal(size=(n_samples, n_features)).astype(dtype)
    )


@pytest.mark.parametrize(
    "estimator",
    [
        UniformQuantizer(),
        UniformQuantizer(levels="lloyd-max"),
        UniformQuantizer(5, clip_range="quantile"),
        FiniteScalarQuantizer(),
        FiniteScalarQuantizer(squash="cdf"),
        FiniteScalarQuantizer(squash="none"),
    ],
    ids=repr,
)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_sklearn_checks(estimator):
    check_estimator(estimator, on_skip=None)


# -- the grid --------------------------------------------------------------------------


def edges_of(low, high, size):
    return low + np.arange(size) * (high - low) / size


def oracle(X, low, high, sizes):
    """Search the edges in float64; half-open cells."""
    columns = [
        np.searchsorted(edges_of(*cut)[1:], x.astype(np.float64), side="right")
        for x, *cut in zip(X.T, low, high, sizes, strict=True)
    ]
    return np.stack(columns, axis=1)


def test_integers_are_rounded_down_and_a_half_is_added():
    X = np.arange(-3.0, 15.0, 0.25)[:, None]
    grid = UniformQuantizer(10, clip_range=(0, 10)).fit(X)
    expected = np.clip(np.floor(X), 0, 9) + 0.5
    assert_array_equal(grid.quantize(X), expected)
    assert_array_equal(grid.codebooks_[0][:, 0], np.arange(10) + 0.5)


def test_levels_are_the_midpoints():
    grid = UniformQuantizer([3, 4], clip_range=([-1, 0], [2, 1])).fit(gaussian(9, 2))
    assert_allclose(grid.codebooks_[0][:, 0], [-0.5, 0.5, 1.5])
    assert_allclose(grid.codebooks_[1][:, 0], [0.125, 0.375, 0.625, 0.875])
    low, high = grid.clip_range_
    assert_array_equal(low, [-1, 0])
    assert_array_equal(high, [2, 1])


RANGES = {
    "integers": lambda rng, size: (low := float(rng.integers(-99, 99)), low + size),
    "decimals": lambda rng, size: (
        low := round(rng.normal(), 2),
        low + round(rng.exponential() + 0.01, 2),
    ),
    "unit": lambda rng, size: (0.0, 1.0),
    "any": lambda rng, size: (low := rng.normal(), low + rng.exponential()),
    "far away": lambda rng, size: (1000 + rng.normal(), 1010.0),
    "very far away": lambda rng, size: (1e6, 1e6 + 1),
    "large": lambda rng, size: (-1e300, rng.random() * 1e300),
    "small": lambda rng, size: (rng.normal() * 1e-290, 1e-289),
    "nearly all there is": lambda rng, size: (-1.5e308, 1.7e308),
    "denormal": lambda rng, size: (0.0, 5e-321),
}


@pytest.mark.parametrize("kind", RANGES)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")
def test_cells_are_exact_at_their_edges(kind, dtype):
    """On the edge, on the next number below, and anywhere else."""
    rng = np.random.default_rng(0)
    # What the oracle multiplies everything with, lest it overflow or lose digits.
    unit = {"nearly all there is": 2.0**-20, "denormal": 2.0**1000}.get(kind, 1.0)
    for _ in range(20):
        sizes = tuple(int(size) for size in rng.integers(1, 400, 3))
        ends = np.array([RANGES[kind](rng, size) for size in sizes])
        low, high = ends.T * unit
        edges = [
            edges_of(*cut)[np.arange(400) % cut[2]]
            for cut in zip(low, high, sizes, strict=True)
        ]
        edges = np.stack(edges, axis=1) / unit
        inside = (low + rng.random((400, 3)) * (high - low)) / unit
        X = np.vstack([edges, np.nextafter(edges, -np.inf), inside]).astype(dtype)
        X = X[np.isfinite(X).all(axis=1)]
        if len(X):
            found = Grid(*ends.T, sizes).encode(X)
            expected = oracle(X.astype(np.float64) * unit, low, high, sizes)
            assert_array_equal(found, expected)


def test_integer_data_on_an_integer_grid():
    """Every value is on an edge."""
    X = np.random.default_rng(0).integers(0, 256, (5000, 4)).astype(np.float32)
    grid = UniformQuantizer(256, clip_range=(0, 256)).fit(X)
    assert_array_equal(grid.transform(X), X)
    assert_array_equal(grid.transform(X.astype(np.uint8)), X)
    mixed = X.copy()
    mixed[::20] += 0.5
    assert_array_equal(grid.transform(mixed), np.floor(mixed))


def test_values_beyond_the_range_go_to_the_end_cells():
    X = np.array([[-1e38], [-1.0], [1.0], [3e38]], dtype=np.float32)
    grid = UniformQuantizer(4, clip_range=(-1, 1)).fit(X)
    assert_array_equal(grid.transform(X)[:, 0], [0, 0, 3, 3])
    assert_allclose(grid.clipped_share_, 0.5)
    weighted = UniformQuantizer(4, clip_range=(-1, 1))
    weighted.fit(X, sample_weight=[1, 2, 3, 4])
    assert_allclose(weighted.clipped_share_, 0.5)
    weighted.fit(X, sample_weight=[1, 5, 5, 0])
    assert_allclose(weighted.clipped_share_, 1 / 11)


def test_codes_are_the_nearest_of_all_levels():
    X = gaussian(300, 3)
    for quantizer in (
        UniformQuantizer([3, 5, 7]),
        UniformQuantizer([8, 2, 4], clip_range="gaussian"),
        UniformQuantizer([3, 5, 20], levels="lloyd-max"),
        UniformQuantizer(
            [3, 5, 7], levels="lloyd-max", feature_distribution="laplacian"
        ),
    ):
        quantizer.fit(X)
        ids = token_ids(quantizer.transform(X), quantizer.codebook_sizes_)
        assert_array_equal(ids, first_argmin(X, quantizer.full_codebook()))


def test_any_number_of_levels():
    X = gaussian(200, 2, dtype=np.float64)
    grid = UniformQuantizer(2**32).fit(X)
    codes = grid.transform(X)
    assert codes.dtype == np.uint32
    assert grid.bits_per_sample_ == 64
    step = np.ptp(X, axis=0) / 2**32
    assert (np.abs(grid.quantize(X) - X) <= step * 0.51).all()
    assert codes.min() == 0
    assert codes.max() == 2**32 - 1
    one = UniformQuantizer(1).fit(X)
    assert_allclose(one.quantize(X)[0], (X.min(axis=0) + X.max(axis=0)) / 2)


def test_it_is_the_product_of_grids_of_one_feature():
    X = gaussian(500, 4)
    grid = UniformQuantizer(6).fit(X)
    product = ProductQuantizer(4, quantizer=UniformQuantizer(6)).fit(X)
    assert_array_equal(product.transform(X), grid.transform(X))
    assert_array_equal(product.quantize(X), grid.quantize(X))


def test_constant_features():
    X = np.column_stack([np.full(20, 3.5), gaussian(20)[:, 0]]).astype(np.float32)
    for quantizer in (
        UniformQuantizer(4),
        UniformQuantizer(4, clip_range="gaussian"),
        UniformQuantizer(4, clip_range="quantile"),
        UniformQuantizer(4, levels="lloyd-max", feature_distribution="gaussian"),
        UniformQuantizer(4, levels="lloyd-max", feature_distribution="laplacian"),
        FiniteScalarQuantizer(4, squash="cdf"),
        FiniteScalarQuantizer(4, squash="none"),
        FiniteScalarQuantizer(4),
    ):
        if getattr(quantizer, "squash", "cdf") == "tanh":  # it learns no range
            quantizer.fit(X)
        else:
            with pytest.warns(ConvergenceWarning, match=r"In 1 of 2 features \(0\): "):
                quantizer.fit(X)
        assert_array_equal(quantizer.quantize(X)[:, 0], 3.5)
        assert len(np.unique(quantizer.transform(X)[:, 0])) == 1
        assert np.isfinite(quantizer.quantize(X + 1e30)).all()


def test_quantile_range():
    X = np.append(np.arange(1000.0), 1e9)[:, None]
    grid = UniformQuantizer(
        4, clip_range="quantile", quantile_range=(10, 90), levels="uniform"
    ).fit(X)
    assert_array_equal(np.ravel(grid.clip_range_), [100, 900])
    assert_allclose(grid.clipped_share_, 200 / 1001)
    weights = np.random.default_rng(0).integers(0, 5, len(X))
    a = UniformQuantizer(clip_range="quantile").fit(X, sample_weight=weights)
    b = UniformQuantizer(clip_range="quantile").fit(np.repeat(X, weights, axis=0))
    assert_array_equal(np.ravel(a.clip_range_), np.ravel(b.clip_range_))


def test_memory_of_encoding_is_that_of_a_tile(two_threads):
    X = gaussian(200_000, 16)
    for quantizer in (
        UniformQuantizer(),
        UniformQuantizer(64, levels="lloyd-max", feature_distribution="gaussian"),
        FiniteScalarQuantizer(),
        FiniteScalarQuantizer(squash="none"),
    ):
        quantizer.fit(X[:1000])
        quantizer._encode(X[:1000])
        tracemalloc.start()
        codes = quantizer._encode(X)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < codes.nbytes + 4e6


@pytest.mark.parametrize("n_columns", [1, 3, 7, 64])
def test_doubtful_places_of_many_tiles(n_columns):
    """A few values on edges, in each of many tiles, and none of them at a border."""
    rng = np.random.default_rng(0)
    X = rng.random((300_000 // n_columns, n_columns)).astype(np.float32)
    on_edge = rng.random(X.shape) < 1e-3
    X[on_edge] = (rng.integers(0, 101, on_edge.sum()) / 100).astype(np.float32)
    low, high, sizes = np.zeros(n_columns), np.ones(n_columns), (100,) * n_columns
    assert len(X) > 4 * tile_rows(n_columns)
    found = Grid(low, high, sizes).encode(X)
    assert_array_equal(found, oracle(X.astype(np.float64), low, high, sizes))


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"n_levels": 0}, "'n_levels' parameter"),
        ({"n_levels": 2**32 + 1}, "'n_levels' parameter"),
        ({"n_levels": [2, 3]}, "n_levels has 2 entries, but X has 3"),
        ({"n_levels": [2, 3, 0]}, "n_levels holds 0"),
        ({"n_levels": [2, 3, 4.5]}, r"n_levels holds 4\.5"),
        ({"n_levels": [2, 3, True]}, "n_levels holds True"),
        ({"clip_range": "all"}, "'clip_range' parameter"),
        ({"clip_range": (1, 0)}, r"clip_range=\(1, 0\): expected finite low"),
        ({"clip_range": (0, 0)}, "low < high"),
        ({"clip_range": (0, np.inf)}, "finite"),
        ({"clip_range": (np.nan, 1)}, "finite"),
        ({"clip_range": (0, 1, 2)}, "expected \\(low, high\\)"),
        ({"clip_range": ([0, 0], [1, 1])}, "two arrays of 3"),
        ({"quantile_range": (0, 101)}, "quantile_range"),
        ({"quantile_range": (5, 5)}, "quantile_range"),
        ({"quantile_range": (5,)}, "quantile_range"),
        ({"quantile_range": ("a", "b")}, "quantile_range"),
        ({"levels": "best"}, "'levels' parameter"),
        ({"feature_distribution": "beta"}, "'feature_distribution' parameter"),
    ],
)
def test_bad_parameters(parameters, message):
    with pytest.raises(ValueError, match=message):
        UniformQuantizer(**parameters).fit(gaussian(9, 3))


# -- matched to a density --------------------------------------------------------------

# bits: (levels of the positive half, error), (step, error) of equal cells
GAUSSIAN_FIGURES = {
    1: ([0.797885], 0.363380, 1.5958, 0.363380),
    2: ([0.45278, 1.51042], 0.117482, 0.99569, 0.118846),
    3: ([0.24509, 0.75601, 1.34391, 2.15195], 0.034548, 0.58602, 0.037440),
    4: (
        [0.12840, 0.38805, 0.65676, 0.94234, 1.25623, 1.61805, 2.06902, 2.73259],
        *(0.009501, 0.33520, 0.011543),
    ),
}
# Noll and Zelinski (1979); Jayant and Noll (1984), table 4.4
LAPLACIAN_FIGURES = {
    1: ([0.70711], 0.5),
    2: ([0.41976, 1.83397], 0.17620),
    3: ([0.23340, 0.83296, 1.67247, 3.08668], 0.05448),
}


@pytest.mark.parametrize("bits", GAUSSIAN_FIGURES)
def test_gaussian_figures(bits):
    table, error, step, uniform_error = GAUSSIAN_FIGURES[bits]
    levels = standard_levels("gaussian", 2**bits)
    assert_allclose(levels[2 ** (bits - 1) :], table, atol=1e-5)
    assert_array_equal(levels, -levels[::-1])
    halfway = (levels[1:] + levels[:-1]) / 2
    assert mean_error(GAUSSIAN, halfway, levels) == pytest.approx(error, abs=1e-6)
    reach = uniform_reach("gaussian", 2**bits)
    assert 2 * reach / 2**bits == pytest.approx(step, abs=5e-5)

    X = gaussian(400_000, dtype=np.float64)
    X = (X - X.mean()) / X.std()
    matched = UniformQuantizer(
        2**bits, levels="lloyd-max", feature_distribution="gaussian"
    ).fit(X)
    assert_allclose(matched.codebooks_[0][2 ** (bits - 1) :, 0], table, atol=1e-4)
    assert matched.distortion_ == pytest.approx(error, rel=0.01)
    learned = UniformQuantizer(2**bits, levels="lloyd-max").fit(X)
    assert learned.distortion_ <= matched.distortion_
    assert_allclose(learned.codebooks_[0], matched.codebooks_[0], atol=0.05)
    equal = UniformQuantizer(2**bits, clip_range="gaussian").fit(X)
    assert equal.distortion_ == pytest.approx(uniform_error, rel=0.01)
    low, high = equal.clip_range_
    assert (high - low)[0] / 2**bits == pytest.approx(step, abs=1e-4)


@pytest.mark.parametrize("bits", LAPLACIAN_FIGURES)
def test_laplacian_figures(bits):
    table, error = LAPLACIAN_FIGURES[bits]
    levels = standard_levels("laplacian", 2**bits)
    assert_allclose(levels[2 ** (bits - 1) :], table, atol=1e-4)
    X = stats.laplace(3, 2).rvs((400_000, 1), random_state=0)
    matched = UniformQuantizer(
        2**bits, levels="lloyd-max", feature_distribution="laplacian"
    ).fit(X)
    spread = np.sqrt(2) * 2
    expected = 3 + spread * levels
    assert_allclose(matched.codebooks_[0][:, 0], expected, atol=0.02 * spread)
    assert matched.distortion_ / spread**2 == pytest.approx(error, rel=0.015)
    equal = UniformQuantizer(2**bits, clip_range="laplacian").fit(X)
    assert matched.distortion_ <= equal.distortion_ * 1.001


@pytest.mark.parametrize("name", DENSITIES)
@pytest.mark.parametrize("size", [1, 2, 3, 5, 17, 256, 1000])
def test_lloyd_max_is_a_fixed_point(name, size):
    levels = standard_levels(name, size)
    assert len(levels) == size
    assert (np.diff(levels) > 0).all()
    halfway = (levels[1:] + levels[:-1]) / 2
    mass, mean, _ = cell_moments(DENSITIES[name], halfway, levels)
    assert (mass > 0).all()
    assert_allclose(mean, levels, atol=1e-12)
    assert standard_levels(name, size) is levels
    assert not levels.flags.writeable


@pytest.mark.parametrize("size", [2, 3, 8, 256])
def test_uniform_reach_is_the_best(size):
    for name in DENSITIES:
        errors = []
        best = uniform_reach(name, size)
        for reach in (best, best * 0.99, best * 1.01):
            edges = np.linspace(-reach, reach, size + 1)
            levels = (edges[1:] + edges[:-1]) / 2
            errors.append(mean_error(DENSITIES[name], edges[1:-1], levels))
        assert errors[0] < min(errors[1:])


def test_uniform_reach_at_many_levels_goes_on():
    for name in DENSITIES:
        exact, beyond = uniform_reach(name, 4096), uniform_reach(name, 4097)
        assert beyond == pytest.approx(exact, rel=1e-3)


def test_weights_of_levels_equal_repeats():
    X = np.random.default_rng(0).gamma(1, size=(500, 2))
    weights = np.random.default_rng(1).integers(0, 4, 500)
    for fitted_to in ("data", "gaussian", "laplacian"):
        quantizer = UniformQuantizer(
            7, levels="lloyd-max", feature_distribution=fitted_to
        )
        one = quantizer.fit(X, sample_weight=weights).codebooks_
        two = quantizer.fit(np.repeat(X, weights, axis=0)).codebooks_
        assert_allclose(one, two, rtol=1e-12, atol=1e-12)


def test_few_distinct_samples_are_repeated():
    X = np.array([[1.0], [5.0], [1.0], [2.0]])
    with pytest.warns(ConvergenceWarning, match="In the one feature: 3 distinct"):
        quantizer = UniformQuantizer(5, levels="lloyd-max").fit(X)
    assert_array_equal(quantizer.codebooks_[0][:, 0], [1, 2, 5, 1, 2])
    assert_array_equal(quantizer.transform(X)[:, 0], [0, 2, 0, 1])
    assert quantizer.codebook_sizes_ == (5,)


# -- searches over levels --------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "kind",
    ["few", "even", "gaussian", "heavy", "clustered", "equal", "extreme", "denormal"],
)
def test_levels_are_found(kind, dtype, two_threads):
    """By all three searches; on the edges and beside them."""
    rng = np.random.default_rng(0)
    size = 5 if kind == "few" else 200
    single = dtype == np.float32
    edges = {
        "even": lambda: np.arange(size - 1.0),
        "heavy": lambda: np.sort(rng.standard_cauchy(size - 1) ** 3),
        "clustered": lambda: np.append(np.arange(size - 2) * 1e-9, 1e9),
        "equal": lambda: np.sort(rng.integers(0, 9, size - 1) / 3),
        "denormal": lambda: np.ldexp(np.arange(size - 1.0), -1074 + 925 * single),
        "extreme": lambda: np.sort(rng.normal(size=size - 1) * 1e300),
    }.get(kind, lambda: np.sort(rng.normal(size=size - 1)))
    edges = [edges(), edges()[: size // 2], np.array([0.5]), np.array([])]
    levels = Levels([np.arange(len(edge) + 1.0) for edge in edges], edges=edges)
    places = np.concatenate(edges)
    X = rng.choice(places, (2000, 4))
    X[:500] = np.nextafter(X[:500], -np.inf)
    X[500:1000] = np.nextafter(X[500:1000], np.inf)
    X[1000:1500] = rng.normal(size=(500, 4)) * np.abs(places).max()
    with np.errstate(over="ignore"):
        X = X.astype(dtype)
    X = X[np.isfinite(X).all(axis=1)]
    expected = [
        np.searchsorted(edge, x.astype(np.float64), side="right")
        for edge, x in zip(edges, X.T, strict=True)
    ]
    assert_array_equal(levels.encode(X), np.stack(expected, axis=1))


def test_what_levels_are_made_ready_for_is_kept_and_not_pickled():
    X = gaussian(300, 2)
    levels = Levels([np.arange(100.0), np.arange(5.0)])
    codes, size = levels.encode(X), len(pickle.dumps(levels))
    values = levels.decode(codes, np.float32)
    edges, tables = levels._edges._forms, levels._tables._forms
    kept = [*edges.values(), *tables.values()]
    assert len(kept) == 2
    assert_array_equal(levels.encode(X), codes)
    assert_array_equal(levels.decode(codes, np.float32), values)
    assert [*edges.values(), *tables.values()] == kept
    assert len(pickle.dumps(levels)) == size
    copy = pickle.loads(pickle.dumps(levels))
    assert_array_equal(copy.encode(X), codes)
    grid = Grid(np.zeros(2), np.ones(2), (7, 9))
    before = pickle.dumps(grid)
    codes = grid.encode(X)
    assert pickle.dumps(grid) == before
    assert_array_equal(pickle.loads(before).encode(X), codes)


def test_columns_that_do_not_fit_are_named():
    X, codes = gaussian(5, 3), np.zeros((5, 3), dtype=np.intp)
    grid, tables = Grid(np.zeros(2), np.ones(2), (7, 9)), [np.arange(3.0)] * 2
    for search in (
        lambda: nearest.equal_cells(X, grid),
        lambda: nearest.equal_levels(codes, grid),
        lambda: nearest.cells_between(X, tables),
        lambda: nearest.entries(codes, tables),
    ):
        with pytest.raises(ValueError, match=r"(X|codes) has 3 columns; expected 2"):
            search()
    with pytest.raises(ValueError, match="two dimensions"):
        nearest.row_norms(X[0])


def test_weighted_statistics():
    values, mass = distinct(np.array([3.0, 1.0, 3.0]), np.array([1.0, 2.0, 0.5]))
    assert_array_equal(values, [1, 3])
    assert_array_equal(mass, [2, 1.5])
    assert_array_equal(equal_shares(np.arange(8.0), np.ones(8), 4), [1.5, 3.5, 5.5])


def test_means_of_empty_levels_lie_between_their_neighbours():
    X = np.array([[1.0], [3.0], [11.0]])
    codec = Levels([np.array([-9, 2, 4.5, 6, 11, 20])])  # codes 1, 1 and 4
    (means,) = level_means(*run(level_shares(Rows(X), codec, (6,))), (6,))
    assert_allclose(means, [2, 2, 5, 8, 11, 11])
    rows = Rows(X, np.array([3.0, 1.0, 1.0]))
    (weighted,) = level_means(*run(level_shares(rows, codec, (6,))), (6,))
    assert_allclose(weighted, [1.5, 1.5, 4 + 2 / 3, 7 + 5 / 6, 11, 11])


# -- finite scalar quantization --------------------------------------------------------

LEVEL_SETS = [
    (8, 6, 5),
    (8, 5, 5, 5),
    (7, 5, 5, 5, 5),
    (8, 8, 8, 6, 5),
    (8, 8, 8, 5, 5, 5),
]


class PublishedFSQ:
    """The listing in appendix A of Mentzer et al., statement by statement.

    With ``corrected`` the two changes that make the shift and the range right.
    """

    def __init__(self, levels, corrected):
        self.levels = np.asarray(levels)
        self.basis = np.concatenate(([1], np.cumprod(self.levels[:-1])))
        self.sign, self.inverse = (1, np.arctanh) if corrected else (-1, np.tan)

    def bound(self, z):
        half_l = (self.levels - 1) * (1 + self.sign * 1e-3) / 2
        offset = np.where(self.levels % 2 == 1, 0.0, 0.5)
        shift = self.inverse(offset / half_l)
        return np.tanh(z + shift) * half_l - offset

    def quantize(self, z):
        return np.round(self.bound(z)) / (self.levels // 2)

    def codes_to_indexes(self, zhat):
        half = self.levels // 2
        return ((zhat * half + half) * self.basis).sum(axis=-1).astype(np.uint32)


@pytest.mark.parametrize("size", [2, 3, 8, 255, 2000])
@pytest.mark.parametrize("squash_formula", ["corrected", "paper"])
def test_fsq_codes_are_not_rounded_by_the_dtype(squash_formula, size):
    published = PublishedFSQ([size], corrected=squash_formula == "corrected")
    fsq = FiniteScalarQuantizer(size, squash_formula=squash_formula).fit(
        gaussian(3000, 1)
    )
    # Next to the borders, where tanh of float32 is not sure of the code.
    codes = fsq.transform(np.linspace(-9, 9, 10**5)[:, None])[:, 0]
    x = np.linspace(-9, 9, 10**5)[np.flatnonzero(np.diff(codes))]
    x = (x[:, None] + np.linspace(0, 2e-4, 200)).astype(np.float32).ravel()[:, None]
    bounded = published.bound(x.astype(np.float64))
    clear = np.abs(bounded - np.floor(bounded) - 0.5) > 1e-12 * size
    expected = np.clip(np.round(bounded) + size // 2, 0, size - 1)
    assert clear.any()
    assert_array_equal(fsq.transform(x)[clear], expected[clear])
    assert_array_equal(fsq.transform(x), fsq.transform(x.astype(np.float64)))


@pytest.mark.parametrize("levels", LEVEL_SETS, ids=str)
@pytest.mark.parametrize("squash_formula", ["corrected", "paper"])
def test_fsq_is_the_published_one(levels, squash_formula):
    z = gaussian(20_000, len(levels), dtype=np.float64) * 2
    published = PublishedFSQ(levels, corrected=squash_formula == "corrected")
    fsq = FiniteScalarQuantizer(levels, squash_formula=squash_formula).fit(z)
    assert_array_equal(fsq.bounded_values(z), published.bound(z))
    codes = fsq.transform(z)
    assert_array_equal(fsq.code_values(codes), published.quantize(z))
    ids = token_ids(codes, levels, order="F")
    assert_array_equal(ids, published.codes_to_indexes(published.quantize(z)))
    for j, size in enumerate(levels):
        assert_array_equal(np.unique(codes[:, j]), np.arange(size))
    assert fsq.bits_per_sample_ == pytest.approx(np.log2(np.prod(levels)))

    single = z.astype(np.float32)
    codes = fsq.transform(single)
    bounded = published.bound(single.astype(np.float64))
    clear = np.abs(bounded - np.floor(bounded) - 0.5) > 1e-5
    expected = np.round(bounded) + np.asarray(levels) // 2
    assert_array_equal(codes[clear], expected[clear])
    assert_allclose(fsq.bounded_values(single), bounded, atol=1e-5)
    assert fsq.bounded_values(single).dtype == np.float32


@pytest.mark.parametrize(
    "method, check",
    [("bounded_values", "base.check_samples"), ("code_values", "base.check_codes")],
)
def test_values_are_of_one_fit_if_another_ends_meanwhile(method, check, monkeypatch):
    X = np.random.default_rng(0).normal(size=(50, 3))
    fsq = FiniteScalarQuantizer(5).fit(X)
    given = X if method == "bounded_values" else fsq.transform(X)
    expected = getattr(fsq, method)(given)
    module, name = check.split(".")
    original = getattr(sys.modules[f"skvq.{module}"], name)

    def checked(*args, **kwargs):
        monkeypatch.undo()
        fsq.set_params(n_levels=9).fit(X[:, :2].astype(np.float32))
        return original(*args, **kwargs)

    monkeypatch.setattr(f"skvq.{check}", checked)
    found = getattr(fsq, method)(given)
    assert found.dtype == expected.dtype
    assert_array_equal(found, expected)


def test_the_two_formulas_differ_in_few_ids():
    z = gaussian(100_000, 3, dtype=np.float64)
    one = FiniteScalarQuantizer((8, 6, 5)).fit(z).transform(z)
    two = FiniteScalarQuantizer((8, 6, 5), squash_formula="paper").fit(z).transform(z)
    assert 0.001 < (one != two).any(axis=1).mean() < 0.05


def test_recommended_levels():
    assert [recommended_levels(bits) for bits in (8, 10, 12, 14, 16)] == LEVEL_SETS
    with pytest.raises(ValueError, match=r"total_bits=9.*\[8, 10, 12, 14, 16\]"):
        recommended_levels(9)
    with pytest.raises(ValueError, match=r"total_bits=\[8\]"):
        recommended_levels([8])


@pytest.mark.parametrize("squash", ["tanh", "cdf", "none"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_fsq_is_a_grid_after_squash_and_shift(squash, dtype):
    levels = (8, 6, 5, 2, 3)
    X = gaussian(3000, 5, dtype=dtype)
    fsq = FiniteScalarQuantizer(levels, squash=squash).fit(X)
    place = fsq.bounded_values(X) + np.array(levels) // 2 + dtype(0.5)
    grid = UniformQuantizer(levels, clip_range=(np.zeros(5), levels)).fit(place)
    differs = (grid.transform(place) != fsq.transform(X)).any(axis=1)
    near = (np.abs(place - np.rint(place)) < 1e-5).any(axis=1)
    assert not differs[~near].any()
    assert near.mean() < 0.01


def test_fsq_of_half_way_values():
    """Half to even of the bounded value, which a linear squash meets exactly."""
    for size in (4, 5, 6, 7):
        X = np.arange(0, size - 0.5, 0.5)[:, None]
        for dtype in (np.float32, np.float64):
            fsq = FiniteScalarQuantizer(size, squash="none").fit(X.astype(dtype))
            bounded = fsq.bounded_values(X.astype(dtype))
            assert_array_equal(bounded, X - size // 2)
            codes = fsq.transform(X.astype(dtype))
            assert_array_equal(codes, np.round(bounded) + size // 2)


def test_fsq_without_bound_spreads_the_levels_over_the_range():
    X = np.linspace(-3, 5, 4001)[:, None]
    fsq = FiniteScalarQuantizer(5, squash="none").fit(X)
    codes = fsq.transform([[-9], [-3], [-2.1], [-1.9], [1], [4.1], [5], [99]])[:, 0]
    assert_array_equal(codes, [0, 0, 0, 1, 2, 4, 4, 4])
    assert_allclose(fsq.codebooks_[0][1:4, 0], [-1, 1, 3], atol=2e-3)


def test_fsq_decodes_to_the_means_of_its_levels():
    X = gaussian(5000, 2)
    for squash in ("tanh", "cdf", "none"):
        fsq = FiniteScalarQuantizer((8, 5), squash=squash).fit(X)
        codes = fsq.transform(X)
        for j, table in enumerate(fsq.codebooks_):
            for code in np.unique(codes[:, j]):
                mean = X[codes[:, j] == code, j].mean(dtype=np.float64)
                assert table[code, 0] == pytest.approx(mean, rel=1e-5)


@pytest.mark.parametrize(("size", "error"), [(5, 0.092), (8, 0.050)])
def test_fsq_as_a_codec_of_gaussians(size, error):
    X = gaussian(200_000)
    fsq = FiniteScalarQuantizer(size).fit(X)
    assert fsq.distortion_ == pytest.approx(error, rel=0.02)


def test_cdf_uses_every_token():
    rng = np.random.default_rng(0)
    X = np.column_stack(
        [
            rng.exponential(size=20_000),
            rng.lognormal(sigma=2, size=20_000),
            -rng.gamma(0.5, size=20_000),
        ]
    )
    levels = recommended_levels(8)
    fsq = FiniteScalarQuantizer(levels, squash="cdf").fit(X)
    codes = fsq.transform(X)
    for j, size in enumerate(levels):
        counts = np.bincount(codes[:, j], minlength=size)
        assert np.ptp(counts) <= 1
    ids = token_ids(codes, levels)
    assert len(np.unique(ids)) == 240
    tanh = FiniteScalarQuantizer(levels).fit(X).transform(X)
    assert len(np.unique(token_ids(tanh, levels))) < 240
    bounded = fsq.bounded_values(X)
    assert_allclose(bounded.min(axis=0), -0.5 - np.array(levels) // 2)
    assert_allclose(np.ptp(bounded, axis=0), levels)
    order = np.argsort(X[:, 0])
    assert (np.diff(bounded[order, 0]) >= 0).all()


def test_cdf_of_weighted_samples():
    X = gaussian(400, 2, dtype=np.float64)
    weights = np.random.default_rng(1).integers(0, 4, 400)
    fsq = FiniteScalarQuantizer(5, squash="cdf")
    one = fsq.fit(X, sample_weight=weights).transform(X)
    two = fsq.fit(np.repeat(X, weights, axis=0)).transform(X)
    assert_array_equal(one, two)


def test_cdf_where_one_value_outweighs_a_level():
    X = np.array([0.0] * 90 + [1.0] * 5 + [2.0] * 5)[:, None]
    with pytest.warns(ConvergenceWarning, match="2 levels have samples, fewer than"):
        fsq = FiniteScalarQuantizer(8, squash="cdf").fit(X)
    codes = fsq.transform([[-1], [0], [0.4], [0.6], [1], [2], [3]])[:, 0]
    assert (np.diff(codes.astype(int)) >= 0).all()
    assert_allclose(fsq.quantize(X[:90]), 0, atol=1e-12)
    assert np.isfinite(fsq.bounded_values(X)).all()


def test_thousands_of_levels_stay_in_range():
    z = np.array([[-50.0], [0.0], [50.0]])
    fsq = FiniteScalarQuantizer(4001).fit(z)
    assert_array_equal(fsq.transform(z)[:, 0], [0, 2000, 4000])


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"n_levels": 1}, "'n_levels' parameter"),
        ({"n_levels": 2**17}, "'n_levels' parameter"),
        ({"n_levels": (8, 6)}, "n_levels has 2 entries, but X has 3 features"),
        ({"n_levels": (8, 6, 1)}, "n_levels holds 1"),
        ({"squash": "sigmoid"}, "'squash' parameter"),
        ({"squash_formula": "mine"}, "'squash_formula' parameter"),
    ],
)
def test_bad_fsq_parameters(parameters, message):
    with pytest.raises(ValueError, match=message):
        FiniteScalarQuantizer(**parameters).fit(gaussian(9, 3))


def test_bad_codes_have_no_values():
    fsq = FiniteScalarQuantizer((3, 5)).fit(gaussian(20, 2))
    with pytest.raises(ValueError, match=r"codes\[0, 1\] = 5"):
        fsq.code_values([[0, 5]])
    with pytest.raises(ValueError, match="features"):
        fsq.bounded_values(gaussian(3, 3))


@pytest.mark.parametrize("squash", ["tanh", "cdf", "none"])
def test_the_number_of_threads_changes_nothing(squash, two_threads):
    X = gaussian(30_000, 8)
    fsq = FiniteScalarQuantizer(squash=squash).fit(X)
    expected = np.vstack([fsq.transform(X[i : i + 999]) for i in range(0, 30_000, 999)])
    assert_array_equal(fsq.transform(X), expected)
    bounded = [fsq.bounded_values(X[i : i + 999]) for i in range(0, 30_000, 999)]
    assert_array_equal(fsq.bounded_values(X), np.vstack(bounded))
