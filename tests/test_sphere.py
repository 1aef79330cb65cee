"""Hyperspherical coordinates and the cells of their angles."""

import math

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.estimator_checks import check_estimator

from skvq import ProductQuantizer, sphere
from skvq.grid import UniformQuantizer
from skvq.learning.scalar import cell_moments, quadrature
from skvq.sphere import (
    SphericalQuantizer,
    _all_curves,
    _angles,
    _curves,
    _density,
    _lloyd_max_levels,
    from_spherical,
    to_spherical,
)

COORDINATES = ["standard", "tree"]
TURN = 2 * math.pi


def gaussian(n_samples, n_features, seed=0, dtype=np.float64):
    return (
        np.random.default_rng(seed).normal(size=(n_samples, n_features)).astype(dtype)
    )


def directions(n_samples, n_features, seed=0):
    X = gaussian(n_samples, n_features, seed)
    return X / np.linalg.norm(X, axis=1, keepdims=True)


def awkward(n_features):
    """Zeros, axes, negative last coordinates, and rows that are zero from some k on."""
    eye = np.eye(n_features)
    X = np.vstack([np.zeros((1, n_features)), eye, -eye, gaussian(50, n_features)])
    halves = gaussian(20, n_features)
    halves[:10, n_features // 2 :] = 0
    halves[10:, : n_features // 2] = 0
    ends = gaussian(20, n_features)
    ends[:, -1] = -np.abs(ends[:, -1]) * 10.0 ** np.arange(-20, 0)
    steep = gaussian(20, n_features) * np.logspace(0, -300, n_features)
    return np.vstack([X, -0.0 * X[:3], halves, ends, steep, steep[:, ::-1]])


@pytest.mark.parametrize(
    "estimator",
    [
        SphericalQuantizer(),
        SphericalQuantizer(angles="density", radius="learned"),
        SphericalQuantizer(coordinates="tree", total_bits=20, radius="float32"),
    ],
    ids=repr,
)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_sklearn_checks(estimator):
    check_estimator(estimator, on_skip=None)


# -- coordinates -----------------------------------------------------------------------


@pytest.mark.parametrize("coordinates", COORDINATES)
@pytest.mark.parametrize("n_features", [1, 2, 3, 5, 8, 13, 64, 1024])
def test_there_and_back(n_features, coordinates):
    X = awkward(n_features)
    radius, angles = to_spherical(X, coordinates)
    assert angles.shape == (len(X), n_features - 1)
    assert np.isfinite(angles).all()
    assert_allclose(np.abs(radius), np.linalg.norm(X, axis=1), rtol=1e-12)
    back = from_spherical(radius, angles, coordinates)
    error = np.abs(back - X).max(axis=1)
    assert (error <= 1e-12 * np.linalg.norm(X, axis=1)).all()


@pytest.mark.parametrize("coordinates", COORDINATES)
@pytest.mark.parametrize("exponent", [-1060, -700, 700, 1010])
def test_there_and_back_at_any_scale(coordinates, exponent):
    X = np.ldexp(gaussian(50, 12), exponent)
    radius, angles = to_spherical(X, coordinates)
    back = from_spherical(radius, angles, coordinates)
    assert_allclose(back, X, rtol=1e-11, atol=np.ldexp(1.0, max(exponent - 40, -1070)))
    plain = to_spherical(gaussian(50, 12), coordinates)[1]
    if exponent > -1000:
        assert_array_equal(angles, plain)


@pytest.mark.parametrize("coordinates", COORDINATES)
@pytest.mark.parametrize("n_features", [2, 3, 5, 8, 11])
def test_angles_are_in_their_ranges(coordinates, n_features):
    angles = to_spherical(awkward(n_features), coordinates)[1]
    for column, angle in zip(angles.T, _angles(n_features, coordinates), strict=True):
        assert (column >= angle.low).all()
        assert (column <= angle.high).all()
        if angle.high == TURN:
            assert (column < TURN).all()
    assert_array_equal(angles[0], 0)


def test_the_formula():
    X = gaussian(20, 6)
    radius, angles = to_spherical(X)
    for x, r, theta in zip(X, radius, angles, strict=True):
        product = r
        for k in range(5):
            assert x[k] == pytest.approx(product * math.cos(theta[k]), abs=1e-12)
            product *= math.sin(theta[k])
        assert x[5] == pytest.approx(product, abs=1e-12)


def test_the_tree_of_eight():
    def pair(a, b):
        return math.hypot(a, b), math.atan2(b, a)

    for x in gaussian(10, 8):
        expected, nodes = [], x
        while len(nodes) > 1:
            pairs = [pair(*nodes[i : i + 2]) for i in range(0, len(nodes), 2)]
            expected += [angle % TURN for _, angle in pairs]
            nodes = [length for length, _ in pairs]
        radius, angles = to_spherical(x[None], "tree")
        assert radius[0] == pytest.approx(nodes[0])
        assert_allclose(angles[0], expected, rtol=1e-12)


def test_the_tree_of_five():
    a, b, c, d, e = x = gaussian(1, 5)[0]
    angles = to_spherical(x[None], "tree")[1][0]
    left, right = math.hypot(a, b), math.hypot(c, d)
    assert_allclose(
        angles,
        [
            math.atan2(b, a) % TURN,
            math.atan2(d, c) % TURN,
            math.atan2(right, left),
            math.atan2(e, math.hypot(left, right)),
        ],
    )


def test_bad_coordinates():
    with pytest.raises(ValueError, match="coordinates='polar' is unknown"):
        to_spherical(np.ones((2, 2)), "polar")
    with pytest.raises(ValueError, match="coordinates='polar' is unknown"):
        from_spherical(np.ones(2), np.ones((2, 2)), "polar")
    with pytest.raises(ValueError, match="X has shape"):
        to_spherical(np.ones(3))
    with pytest.raises(ValueError, match="X has shape"):
        to_spherical(np.ones((3, 0)))
    with pytest.raises(ValueError, match="radius has shape"):
        from_spherical(np.ones(3), np.ones((2, 2)))
    for wrong in (np.nan, np.inf, 1j):
        with pytest.raises(ValueError, match=r"X contains|X has dtype"):
            to_spherical(np.array([[wrong, 1.0]]))
        with pytest.raises(ValueError, match=r"angles contains|angles has dtype"):
            from_spherical([1.0], np.array([[wrong]]))
    with pytest.raises(ValueError, match=r"coordinates=\['tree'\] is unknown"):
        to_spherical(np.ones((2, 2)), ["tree"])


# -- cells -----------------------------------------------------------------------------


def nearest_on_their_ranges(angles, tables, specs):
    """Brute force in each angle; the circles close."""
    codes, gaps = [], []
    for column, table, spec in zip(angles.T, tables, specs, strict=True):
        distance = np.abs(column[:, None] - table.ravel())
        if spec.high == TURN:
            distance = np.minimum(distance, TURN - distance)
        codes.append(distance.argmin(axis=1))
        two = np.sort(distance, axis=1)[:, :2]
        gaps.append(np.ptp(two, axis=1) if two.shape[1] > 1 else np.ones(len(two)))
    return np.stack(codes, axis=1), np.stack(gaps, axis=1)


@pytest.mark.parametrize("coordinates", COORDINATES)
@pytest.mark.parametrize("cells", ["uniform", "density"])
@pytest.mark.parametrize("n_features", [2, 3, 7, 16])
def test_codes_are_nearest_in_each_angle(n_features, cells, coordinates):
    X = gaussian(500, n_features)
    sizes = [3 + (5 * k) % 14 for k in range(n_features - 1)]
    quantizer = SphericalQuantizer(sizes, angles=cells, coordinates=coordinates).fit(X)
    assert quantizer.codebook_sizes_ == tuple(sizes)
    specs = _angles(n_features, coordinates)
    angles = to_spherical(X, coordinates)[1]
    expected, gaps = nearest_on_their_ranges(angles, quantizer.codebooks_, specs)
    clear = gaps > 1e-9
    assert_array_equal(quantizer.transform(X)[clear], expected[clear])
    decoded = to_spherical(quantizer.quantize(X), coordinates)[1]
    again = nearest_on_their_ranges(decoded, quantizer.codebooks_, specs)[0]
    assert_array_equal(again, quantizer.transform(X))


def test_equal_cells():
    quantizer = SphericalQuantizer(4).fit(gaussian(5, 3))
    first, last = quantizer.codebooks_
    assert_allclose(first[:, 0], (2 * np.arange(4) + 1) * math.pi / 8)
    assert_allclose(last[:, 0], (2 * np.arange(4) + 1) * math.pi / 4)


def test_edges_belong_to_the_cell_above():
    quantizer = SphericalQuantizer(4).fit(gaussian(5, 2))
    X = [[1, 0], [0, 1], [-1, 0], [0, -1], [1, -1e-30]]
    assert_array_equal(quantizer.transform(X)[:, 0], [0, 1, 2, 3, 3])


def test_the_full_turn_is_half_as_many_cells():
    """What the theory writes: every angle cut on [0, 2 pi]."""
    X = gaussian(500, 5)
    angles = to_spherical(X)[1]
    turn = UniformQuantizer(16, clip_range=(0, TURN)).fit(angles)
    half = SphericalQuantizer([8, 8, 8, 16]).fit(X)
    assert_array_equal(turn.transform(angles), half.transform(X))


@pytest.mark.parametrize("coordinates", COORDINATES)
@pytest.mark.parametrize("n_features", [3, 4, 5, 7, 12, 40])
def test_densities_are_those_of_uniform_directions(n_features, coordinates):
    angles = to_spherical(gaussian(40_000, n_features), coordinates)[1]
    for column, angle in zip(angles.T, _angles(n_features, coordinates), strict=True):
        if angle.high == TURN:
            mean, variance = math.pi, TURN**2 / 12
        else:
            density = _density(angle.shape)
            _, (mean,), _ = cell_moments(density, np.empty(0), np.zeros(1))
            mass, _, error = cell_moments(density, np.empty(0), np.array([mean]))
            variance = error[0] / mass[0]
        assert column.mean() == pytest.approx(mean, abs=5 * column.std() / 200)
        assert column.var() == pytest.approx(variance, rel=0.05)


@pytest.mark.parametrize("size", [1, 2, 5, 16, 100])
def test_matched_levels_are_the_means_of_their_cells(size):
    for n_features in (3, 4, 12, 33, 200):
        for coordinates in COORDINATES:
            for angle in _angles(n_features, coordinates)[-4:]:
                if angle.high == TURN:
                    continue
                levels = _lloyd_max_levels(angle.shape, size)
                edges = (levels[1:] + levels[:-1]) / 2
                mass, mean, _ = cell_moments(_density(angle.shape), edges, levels)
                assert (mass > 0).all()
                assert_allclose(mean, levels, atol=1e-12)


FIGURES = {2: (0.997, 0.1277, 0.1225, 0.1229), 3: (0.367, 0.0357, 0.0345, 0.0347)}
FIGURES[4] = (0.101, 0.0096, 0.0093, 0.0093)


@pytest.mark.parametrize("bits", FIGURES)
def test_errors_of_uniform_directions(bits):
    X, v = directions(15_000, 64), 2**bits
    equal, matched, one_more, tree = FIGURES[bits]

    def error(n_levels, **parameters):
        return SphericalQuantizer(n_levels, **parameters).fit(X).distortion_

    assert error(v) == pytest.approx(equal, rel=0.01)
    assert error(v, angles="density") == pytest.approx(matched, rel=0.01)
    last = [v] * 62 + [2 * v]
    assert error(last, angles="density") == pytest.approx(one_more, rel=0.01)
    levels = [2 * v] * 32 + [v // 2] * 31
    found = error(levels, angles="density", coordinates="tree")
    assert found == pytest.approx(tree, rel=0.01)


def test_errors_in_eight_dimensions():
    X = directions(50_000, 8)
    for cells, figure in (("uniform", 0.0646), ("density", 0.0383)):
        found = SphericalQuantizer(8, angles=cells).fit(X).distortion_
        assert found == pytest.approx(figure, rel=0.01)
    more = SphericalQuantizer([8] * 6 + [16], angles="density").fit(X)
    assert more.distortion_ == pytest.approx(0.0286, rel=0.01)
    tree = SphericalQuantizer(
        [16] * 4 + [4] * 3, angles="density", coordinates="tree"
    ).fit(X)
    assert tree.distortion_ == pytest.approx(0.0287, rel=0.01)


# -- bits spread over the angles -------------------------------------------------------


@pytest.mark.parametrize("coordinates", COORDINATES)
@pytest.mark.parametrize("cells", ["uniform", "density"])
@pytest.mark.parametrize("n_features", [8, 64])
@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.long
def test_spread_bits_beat_equal_bits(n_features, bits, cells, coordinates):
    # Of few angles, the bits are spread almost equally: a small gain, many samples.
    X = directions(64_000 // n_features, n_features)
    chosen = {"angles": cells, "coordinates": coordinates}
    total = bits * (n_features - 1)
    spread = SphericalQuantizer(total_bits=total, **chosen).fit(X)
    equal = SphericalQuantizer(2**bits, **chosen).fit(X)
    assert total - 1 < spread.bits_per_sample_ <= total
    assert spread.distortion_ < equal.distortion_


def test_total_bits():
    X = directions(500, 6)
    none = SphericalQuantizer(total_bits=0).fit(X)
    assert none.codebook_sizes_ == (1,) * 5
    errors = []
    for total in (0, 1, 3, 10, 12.5, 40):
        quantizer = SphericalQuantizer(total_bits=total, angles="density").fit(X)
        assert quantizer.bits_per_sample_ <= total
        errors.append(quantizer.distortion_)
    assert (np.diff(errors) < 0).all()
    both = SphericalQuantizer(total_bits=10, radius="uniform", n_radius_levels=4).fit(X)
    assert 11 < both.bits_per_sample_ <= 12


def test_angles_of_the_chain_together_are_each_of_them_alone():
    angles, sizes = _angles(40, "standard"), (1, 2, 3, 8, 45)
    together = _all_curves(angles, "uniform", sizes)
    for angle, curves in zip(angles, together, strict=True):
        alone = _curves(angle.shape, "uniform", sizes)
        assert_allclose(curves, alone, rtol=0, atol=1e-12)


def test_bits_of_many_angles_take_few_quadratures(monkeypatch):
    """Equal cells of a thousand angles: no integral for each angle and each size."""
    calls = []

    def counted(*arguments):
        calls.append(arguments)
        return quadrature(*arguments)

    monkeypatch.setattr(sphere, "quadrature", counted)
    X = gaussian(4, 1024)
    quantizer = SphericalQuantizer(total_bits=4096).fit(X)
    assert 4095 < quantizer.bits_per_sample_ <= 4096
    assert len(calls) < 100


# -- the length ------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("coordinates", COORDINATES)
def test_lengths(coordinates, dtype):
    X = gaussian(300, 5, dtype=dtype) * 7
    lengths = np.linalg.norm(X, axis=1)

    def fitted(radius):
        quantizer = SphericalQuantizer(
            8, coordinates=coordinates, radius=radius, n_radius_levels=8
        ).fit(X)
        decoded = quantizer.quantize(X)
        assert decoded.dtype == dtype
        return quantizer, np.linalg.norm(decoded, axis=1)

    unit, found = fitted("unit")
    assert_allclose(found, 1, rtol=1e-6)
    assert unit.codebook_sizes_ == (8,) * 4
    exact, found = fitted("float32")
    assert_allclose(found, lengths, rtol=1e-6)
    assert exact.codebook_sizes_[4:] == (32640, 65536)
    assert exact.transform(X).dtype == np.uint16
    uniform, found = fitted("uniform")
    assert np.abs(found - lengths).max() <= np.ptp(lengths) / 16 * 1.001
    learned, found_learned = fitted("learned")
    error = np.square(found - lengths).mean()
    assert np.square(found_learned - lengths).mean() < error
    assert uniform.codebook_sizes_ == learned.codebook_sizes_ == (8,) * 5
    assert_array_equal(exact.transform(X)[:, :4], unit.transform(X))


def test_one_feature_is_a_sign():
    X = np.array([[-3.0], [0.0], [2.0], [4.0], [5e-324]])
    unit = SphericalQuantizer().fit(X)
    assert_array_equal(unit.transform(X)[:, 0], [0, 0, 1, 1, 1])
    assert_array_equal(unit.quantize(X)[:, 0], [-1, -1, 1, 1, 1])
    assert_array_equal(unit.codebooks_[0], [[-1], [1]])
    for coordinates in COORDINATES:
        exact = SphericalQuantizer(radius="float32", coordinates=coordinates).fit(X)
        assert exact.codebook_sizes_ == (2, 32640, 65536)
        assert_array_equal(exact.quantize(X)[:4], X[:4])
        assert SphericalQuantizer(total_bits=9).fit(X).codebook_sizes_ == (2,)


@pytest.mark.parametrize("radius", ["unit", "uniform", "learned", "float32"])
def test_zero_vectors(radius):
    X = gaussian(20, 4)
    X[3] = 0
    X[4] = -0.0
    quantizer = SphericalQuantizer(4, radius=radius, n_radius_levels=4).fit(X)
    codes = quantizer.transform(X)
    assert_array_equal(codes[3], codes[4])
    assert_array_equal(codes[3, :3], 0)
    assert np.isfinite(quantizer.quantize(X)).all()
    if radius == "float32":
        assert_array_equal(quantizer.quantize(X)[3], 0)


def test_few_lengths_are_repeated():
    X = np.array([[3.0, 4.0], [4.0, 3.0], [-5.0, 0.0]])
    with pytest.warns(ConvergenceWarning, match="1 distinct lengths of samples"):
        quantizer = SphericalQuantizer(radius="learned", n_radius_levels=3).fit(X)
    assert_allclose(quantizer.codebooks_[-1][:, 0], 5)


def test_weights_of_lengths_equal_repeats():
    X = gaussian(300, 3)
    weights = np.random.default_rng(1).integers(0, 4, 300)
    for radius in ("uniform", "learned"):
        quantizer = SphericalQuantizer(5, radius=radius, n_radius_levels=5)
        one = quantizer.fit(X, sample_weight=weights).codebooks_
        two = quantizer.fit(np.repeat(X, weights, axis=0)).codebooks_
        assert_allclose(np.vstack(one), np.vstack(two), rtol=1e-12)


# -- the rest --------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.parametrize("coordinates", COORDINATES)
def test_high_dimensions(coordinates):
    X = np.vstack([directions(50, 1024), awkward(1024)])
    quantizer = SphericalQuantizer(
        256, angles="density", coordinates=coordinates, radius="float32"
    ).fit(X)
    decoded = quantizer.quantize(X)
    assert np.isfinite(decoded).all()
    error = np.linalg.norm(decoded[:50] - X[:50], axis=1)
    assert error.max() < 0.05
    lengths = np.linalg.norm(X, axis=1)
    found = np.linalg.norm(decoded, axis=1)
    assert_allclose(found, lengths, rtol=1e-6, atol=1e-40)


def test_codes_of_directions_ignore_the_length():
    X = gaussian(100, 6)
    quantizer = SphericalQuantizer().fit(X)
    for factor in (2.0**-900, 2.0**-3, 2.0**900):
        assert_array_equal(quantizer.transform(X * factor), quantizer.transform(X))


def test_product_of_spherical():
    X = gaussian(200, 6)
    part = SphericalQuantizer(8, radius="float32")
    quantizer = ProductQuantizer(2, quantizer=part).fit(X)
    assert quantizer.codebook_sizes_ == (8, 8, 32640, 65536) * 2
    for half in (slice(0, 3), slice(3, 6)):
        decoded = quantizer.quantize(X)[:, half]
        assert_allclose(decoded, part.fit(X[:, half]).quantize(X[:, half]))


def test_the_number_of_threads_changes_nothing(two_threads):
    X = gaussian(20_000, 9, dtype=np.float32)
    for cells in ("uniform", "density"):
        quantizer = SphericalQuantizer(angles=cells, radius="uniform").fit(X)
        parts = [quantizer.transform(X[i : i + 999]) for i in range(0, 20_000, 999)]
        assert_array_equal(quantizer.transform(X), np.vstack(parts))


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"n_levels": 0}, "'n_levels' parameter"),
        ({"n_levels": [4, 4, 4]}, "n_levels has 3 entries, but X has 2 angles"),
        ({"n_levels": [4, -1]}, "n_levels holds -1"),
        ({"angles": "some"}, "'angles' parameter"),
        ({"total_bits": -1}, "'total_bits' parameter"),
        ({"coordinates": "polar"}, "'coordinates' parameter"),
        ({"radius": "fit"}, "'radius' parameter"),
        ({"n_radius_levels": 0}, "'n_radius_levels' parameter"),
    ],
)
def test_bad_parameters(parameters, message):
    with pytest.raises(ValueError, match=message):
        SphericalQuantizer(**parameters).fit(gaussian(9, 3))


def test_lengths_that_overflow_are_refused():
    X = np.full((3, 4), 1.7e308)
    with pytest.raises(ValueError, match="too large"):
        SphericalQuantizer(radius="uniform").fit(X)


def test_one_row_is_enough_where_no_length_is_learned():
    X = np.random.default_rng(8).normal(size=(40, 4))
    for radius in ("unit", "float32"):
        sphere = SphericalQuantizer(8, radius=radius)
        codes = sphere.fit(X).transform(X)
        assert_array_equal(sphere.fit(X[:1]).transform(X), codes)
    with pytest.raises(ValueError, match="minimum of 2"):
        SphericalQuantizer(8, radius="learned").fit(X[:1])
