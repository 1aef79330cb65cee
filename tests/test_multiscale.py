"""The multi-scale scheme, against loops over tokens in float64."""

import math

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from oracles import distances
from sklearn.exceptions import ConvergenceWarning
from table import mixture

from skvq import MultiScaleQuantizer, VectorQuantizer
from skvq.coding.pyramid import (
    Pyramid,
    Smoothing,
    area_matrix,
    cubic_matrix,
    identity_kernels,
    kernel_of_scales,
)
from skvq.learning import multiscale as learning
from skvq.learning.rows import Rows, run
from skvq.nearest import Table

# -- slow transcriptions ---------------------------------------------------------------


def slow_area(line, n_out):
    """Average over all values that a cell touches, as adaptive pooling does."""
    n_in = len(line)
    result = []
    for i in range(n_out):
        begin, end = math.floor(i * n_in / n_out), math.ceil((i + 1) * n_in / n_out)
        result.append(sum(line[begin:end]) / (end - begin))
    return np.array(result)


def slow_cubic(line, n_out, a=-0.75):
    """Cubic convolution at half-pixel centres, the border values going on."""

    def weight(t):
        t = abs(t)
        if t <= 1:
            return (a + 2) * t**3 - (a + 3) * t**2 + 1
        if t < 2:
            return a * t**3 - 5 * a * t**2 + 8 * a * t - 4 * a
        return 0.0

    n_in = len(line)
    result = []
    for i in range(n_out):
        place = (i + 0.5) * (n_in / n_out) - 0.5
        total = 0.0
        for k in range(math.floor(place) - 1, math.floor(place) + 3):
            total += weight(place - k) * line[min(max(k, 0), n_in - 1)]
        result.append(total)
    return np.array(result)


def slow_grid(f, grid, resample):
    """Resample a map (H, W, C), one line of one channel at a time."""
    h, w = grid
    tall = np.empty((h, f.shape[1], f.shape[2]))
    for j, c in np.ndindex(f.shape[1], f.shape[2]):
        tall[:, j, c] = resample(f[:, j, c], h)
    result = np.empty((h, w, f.shape[2]))
    for i, c in np.ndindex(h, f.shape[2]):
        result[i, :, c] = resample(tall[i, :, c], w)
    return result


def slow_smooth(h, kernel, rho, bias=0.0):
    """(1 - rho) h + rho conv(h), place by place."""
    result = (1 - rho) * h + rho * bias
    tall, wide = kernel.shape[0] // 2, kernel.shape[1] // 2
    for i, j in np.ndindex(*h.shape[:2]):
        for di, dj in np.ndindex(*kernel.shape[:2]):
            y, x = i + di - tall, j + dj - wide
            if 0 <= y < h.shape[0] and 0 <= x < h.shape[1]:
                result[i, j] += rho * (h[y, x] @ kernel[di, dj])
    return result


def slow_encode(f, grids, table, kernels=None, of_scale=None, rho=0.5, biases=None):
    """Return codes, and the reconstruction after each scale."""
    rest, total, codes, sums = f.astype(np.float64), np.zeros(f.shape), [], []
    for k, grid in enumerate(grids):
        z = rest if grid == f.shape[:2] else slow_grid(rest, grid, slow_area)
        found = distances(z.reshape(-1, f.shape[2]), table).argmin(axis=1)
        e = table[found].reshape(*grid, -1).astype(np.float64)
        h = e if grid == f.shape[:2] else slow_grid(e, f.shape[:2], slow_cubic)
        if kernels is not None:
            bias = 0.0 if biases is None else biases[of_scale[k]]
            h = slow_smooth(h, kernels[of_scale[k]], rho, bias)
        rest, total = rest - h, total + h
        codes.extend(found)
        sums.append(total.ravel())
    return np.array(codes), np.array(sums)


SIZES = [(1, 1), (2, 1), (5, 1), (5, 2), (8, 4), (16, 10), (16, 13), (7, 7), (3, 2)]


@pytest.mark.parametrize(("large", "small"), SIZES)
def test_operators(large, small):
    line = np.random.default_rng(0).normal(size=large)
    assert_allclose(area_matrix(large, small) @ line, slow_area(line, small))
    short = line[:small]
    assert_allclose(
        cubic_matrix(small, large) @ short, slow_cubic(short, large), atol=1e-14
    )
    assert_allclose(area_matrix(large, small).sum(axis=1), 1)
    assert_allclose(cubic_matrix(small, large).sum(axis=1), 1)


def test_cubic_convolution_is_that_of_image_libraries():
    """The weights half a pixel off a centre, by hand: a = -3/4."""
    row = cubic_matrix(8, 16)[5]  # at 2.25: 1.25 from 1, ..., 1.75 from 4
    a, near, far = -0.75, [0.25, 0.75], [1.25, 1.75]
    expected = [
        a * far[0] ** 3 - 5 * a * far[0] ** 2 + 8 * a * far[0] - 4 * a,
        1.25 * near[0] ** 3 - 2.25 * near[0] ** 2 + 1,
        1.25 * near[1] ** 3 - 2.25 * near[1] ** 2 + 1,
        a * far[1] ** 3 - 5 * a * far[1] ** 2 + 8 * a * far[1] - 4 * a,
    ]
    assert_allclose(row, [0, *expected, 0, 0, 0])
    assert_allclose(row[1:5], [-0.10546875, 0.87890625, 0.26171875, -0.03515625])


@pytest.mark.parametrize("n_kernels", [1, 2, 3, 4])
def test_kernels_go_to_the_nearest_tick(n_kernels):
    of_scale = kernel_of_scales(n_kernels, 10)
    assert of_scale[0] == 0
    assert of_scale[-1] == n_kernels - 1
    assert (np.diff(of_scale) >= 0).all()
    assert set(of_scale) == set(range(n_kernels))
    for n_scales in (2, 5, 10):
        edge = 1 / 3 if n_kernels == 4 else 1 / 2
        ticks = np.linspace(edge / n_kernels, 1 - edge / n_kernels, n_kernels)
        gaps = [np.abs(ticks - k / (n_scales - 1)) for k in range(n_scales)]
        chosen = kernel_of_scales(n_kernels, n_scales)
        for gap, kernel in zip(gaps, chosen, strict=True):
            assert gap[kernel] == gap.min()


def test_transposes():
    rng = np.random.default_rng(0)
    kernels = rng.normal(size=(2, 3, 3, 2, 2))
    smoothing = Smoothing(kernels, (0, 1), 0.3)
    pyramid = Pyramid((5, 4, 2), [(2, 3), (5, 4)], np.float64, smoothing)
    maps = rng.normal(size=(3, 5, 4, 2))
    for scale, back in enumerate(pyramid.grow_transposed(maps)):
        tokens = rng.normal(size=(3, *pyramid.scales[scale], 2))
        there = np.sum(pyramid.grow(tokens, scale) * maps)
        assert there == pytest.approx(np.sum(tokens * back))


# -- codes -----------------------------------------------------------------------------

CASES = [
    ((6, 5, 2), [(1, 1), (2, 2), (3, 4), (6, 5)], 0),
    ((4, 4, 3), [(1, 1), (3, 3)], 0),
    ((4, 6, 1), [(1, 1), (2, 3), (4, 6)], 2),
    ((9, 1, 2), [(1, 1), (2, 1), (4, 1), (9, 1)], 1),
]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("shape", "grids", "n_smoothers"), CASES, ids=str)
def test_codes_against_loops_over_tokens(shape, grids, n_smoothers, dtype):
    d = int(np.prod(shape))
    X = np.cumsum(mixture(60, d, dtype=np.float64), axis=1).astype(dtype)
    quantizer = MultiScaleQuantizer(
        shape, grids, 7, n_smoothers=n_smoothers, smoothing=0.4, random_state=0
    ).fit(X)
    table, kernels = quantizer.codebooks_[0], quantizer.kernels_
    of_scale = kernel_of_scales(n_smoothers, len(grids)) if n_smoothers else None
    test, codes = X[:25], quantizer.transform(X[:25])
    staged = list(quantizer.staged_inverse_transform(codes))
    rtol = 1e-4 if dtype == np.float32 else 1e-9
    for i, x in enumerate(test):
        expected, sums = slow_encode(
            x.reshape(shape), grids, table, kernels, of_scale, 0.4
        )
        assert_array_equal(codes[i], expected)
        found = np.array([stage[i] for stage in staged])
        assert_allclose(found, sums, rtol=rtol, atol=rtol * np.abs(x).max())
    assert_array_equal(quantizer.quantize(test), staged[-1])
    widths = np.cumsum([h * w for h, w in grids])
    for width, stage in zip(widths, staged, strict=True):
        assert_array_equal(quantizer.inverse_transform(codes[:, :width]), stage)
        assert len(list(quantizer.staged_inverse_transform(codes[:, :width]))) <= len(
            grids
        )
    with pytest.raises(ValueError, match=rf"decodes {widths[0]} or"):
        quantizer.inverse_transform(codes[:, : widths[-1] - 1])


def test_one_scale_is_the_naive_scheme_over_tokens():
    X = mixture(200, 4 * 4 * 3)
    weights = np.arange(200) % 5
    quantizer = MultiScaleQuantizer((4, 4, 3), (4,), 16, random_state=3)
    quantizer.fit(X, sample_weight=weights)
    vq = VectorQuantizer(16, max_iter=20, tol=1e-3, random_state=3)
    used = weights > 0
    vq.fit(X[used].reshape(-1, 3), sample_weight=np.repeat(weights[used], 16))
    assert_array_equal(quantizer.codebooks_[0], vq.codebooks_[0])
    tokens = X.reshape(-1, 3)
    assert_array_equal(quantizer.transform(X).ravel(), vq.transform(tokens).ravel())
    assert_array_equal(quantizer.quantize(X).reshape(-1, 3), vq.quantize(tokens))
    assert quantizer.score(X) == pytest.approx(16 * vq.score(tokens))


def test_scales_of_no_tokens_but_one():
    """The first scale alone is the mean of the map's tokens, quantized."""
    X = mixture(100, 12, dtype=np.float64)
    quantizer = MultiScaleQuantizer((2, 3, 2), [1], 5, random_state=0).fit(X)
    means = X.reshape(100, 6, 2).mean(axis=1)
    found = distances(means, quantizer.codebooks_[0]).argmin(axis=1)
    assert_array_equal(quantizer.transform(X)[:, 0], found)
    expected = np.tile(quantizer.codebooks_[0][found], 6)
    assert_allclose(quantizer.quantize(X), expected)


def test_next_scale_input():
    X = mixture(80, 4 * 6 * 2, dtype=np.float64)
    grids = [(1, 1), (2, 3), (4, 6)]
    quantizer = MultiScaleQuantizer((4, 6, 2), grids, 6, random_state=0).fit(X)
    codes = quantizer.transform(X[:5])
    for width, grid in ((1, (2, 3)), (7, (4, 6))):
        seen = quantizer.next_scale_input(codes[:, :width])
        maps = quantizer.inverse_transform(codes[:, :width]).reshape(5, 4, 6, 2)
        expected = [slow_grid(one, grid, slow_area).reshape(-1, 2) for one in maps]
        assert_allclose(seen, expected, atol=1e-12)
    with pytest.raises(ValueError, match="decodes 1 or 7"):
        quantizer.next_scale_input(codes)
    single = MultiScaleQuantizer((4, 6, 2), [(4, 6)], 6, random_state=0).fit(X)
    with pytest.raises(ValueError, match="there is no next one"):
        single.next_scale_input(single.transform(X))


def test_one_table_for_all_tokens():
    quantizer = MultiScaleQuantizer((4, 4, 1), n_codewords=9, random_state=0)
    quantizer.fit(mixture(60, 16))
    assert quantizer.scales_ == ((1, 1), (2, 2), (4, 4))
    assert quantizer.codebook_sizes_ == (9,) * 21
    assert len({id(table) for table in quantizer.codebooks_}) == 1
    assert_array_equal(quantizer.codebooks_[0][0], [0])
    assert quantizer.bits_per_sample_ == pytest.approx(21 * np.log2(9))


@pytest.mark.parametrize(
    ("n_features", "map_shape", "expected"),
    [
        (6, None, (1, 2, 4, 6)),
        (8, None, (1, 2, 4, 8)),
        (1, None, (1,)),
        (12, (6, 2), (1, 2, 4, 6)),
        (24, (4, 6, 1), ((1, 1), (2, 2), (4, 4), (4, 6))),
        (10, (1, 5, 2), ((1, 1), (1, 2), (1, 4), (1, 5))),
    ],
)
def test_default_scales(n_features, map_shape, expected):
    quantizer = MultiScaleQuantizer(map_shape, n_codewords=4, random_state=0)
    assert quantizer.fit(mixture(80, n_features)).scales_ == expected


# -- learning --------------------------------------------------------------------------


def photo_maps(count, size):
    """Cut (size, size, 3) maps from photographs."""
    pytest.importorskip("PIL")
    from sklearn.datasets import load_sample_images

    rng = np.random.default_rng(0)
    parts = []
    for image in load_sample_images().images:
        views = np.lib.stride_tricks.sliding_window_view(
            image, (size, size), axis=(0, 1)
        )
        places = [rng.integers(0, n, count // 2) for n in views.shape[:2]]
        parts.append(views[places[0], places[1]].transpose(0, 2, 3, 1))
    return np.concatenate(parts).reshape(count, -1).astype(np.float32)


@pytest.mark.parametrize("n_smoothers", [0, 2])
def test_every_scale_lowers_the_distortion_of_photographs(n_smoothers):
    X = photo_maps(600, 4)
    quantizer = MultiScaleQuantizer(
        (4, 4, 3), (1, 2, 3, 4), 16, n_smoothers=n_smoothers, random_state=0
    ).fit(X[:400])
    for data in (X[:400], X[400:]):
        scores = list(quantizer.staged_score(data))
        assert (np.diff(scores) > 0).all()
        assert scores[-1] == pytest.approx(quantizer.score(data))
        assert scores[-1] > 0.1 * scores[0]


def test_weighted_staged_score():
    X = mixture(100, 8)
    quantizer = MultiScaleQuantizer(n_codewords=6, random_state=0).fit(X)
    weights = np.arange(100) % 3
    repeated = list(quantizer.staged_score(np.repeat(X, weights, axis=0)))
    assert_allclose(
        list(quantizer.staged_score(X, sample_weight=weights)), repeated, rtol=1e-6
    )


@pytest.mark.parametrize("n_smoothers", [0, 1])
def test_the_distortion_never_rises(n_smoothers):
    X = np.cumsum(mixture(300, 16), axis=1)
    values = [
        MultiScaleQuantizer(
            (4, 4, 1),
            n_codewords=8,
            n_smoothers=n_smoothers,
            max_iter=k,
            tol=0,
            random_state=0,
        )
        .fit(X)
        .distortion_
        for k in range(1, 7)
    ]
    assert (np.diff(values) <= 1e-5 * values[0]).all()
    assert values[-1] < values[0]


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("smooth", [False, True])
def test_steps_solve_the_least_squares(smooth, weighted, monkeypatch):
    """Against a dense design matrix, with a ridge too weak to matter."""
    monkeypatch.setattr(learning, "_RIDGE", 1e-9)
    monkeypatch.setattr(learning, "_MAX_GRADIENTS", 200)
    monkeypatch.setattr(learning, "_ENOUGH", 1e-24)
    rng = np.random.default_rng(0)
    shape, grids = (4, 3, 2), [(1, 1), (2, 2), (4, 3)]
    smoothing = None
    if smooth:
        kernels = identity_kernels(2, 2, flat=False)
        kernels = kernels + 0.1 * rng.normal(size=kernels.shape)
        smoothing = Smoothing(kernels, (0, 0, 1), 0.5)
    pyramid = Pyramid(shape, grids, np.float64, smoothing)
    X = rng.normal(size=(120, 24))
    weights = rng.integers(1, 4, 120).astype(float) if weighted else None
    table = np.concatenate([np.zeros((1, 2)), rng.normal(size=(5, 2))])
    rows = Rows(X, weights)
    state = run(learning._encoded(rows, pyramid, table))
    ((codes,),) = state.codes
    roots = np.sqrt(np.ones(120) if weights is None else weights)

    def columns(change, unit):
        """The design matrix: what each unit change does to the reconstructions."""
        base = change(np.zeros(unit))
        found = []
        for k in range(int(np.prod(unit))):
            one = np.zeros(unit)
            one.flat[k] = 1
            found.append(((change(one) - base) * roots[:, None]).ravel())
        return np.array(found).T

    rest = ((X - pyramid.decode(codes, Table(table))) * roots[:, None]).ravel()

    def decoded(step):
        step = np.concatenate([np.zeros((1, 2)), step])
        return pyramid.decode(codes, Table(table + step))

    best = np.linalg.lstsq(columns(decoded, (5, 2)), rest, rcond=None)[0]
    step = run(learning._table_step(rows, state))
    assert_array_equal(step[0], 0)
    assert_allclose(step[1:].ravel(), best, rtol=1e-5, atol=1e-6)
    if not smooth:
        return

    def smoothed(step):
        other = smoothing._replace(kernels=smoothing.kernels + step)
        return pyramid.with_smoothing(other).decode(codes, Table(table))

    design = columns(smoothed, smoothing.kernels.shape)
    best = np.linalg.lstsq(design, rest, rcond=None)[0]
    step = run(learning._kernel_step(rows, state, smoothing)).ravel()
    least = np.square(rest - design @ best).sum()
    assert np.square(rest - design @ step).sum() <= least * (1 + 1e-6)


@pytest.mark.long
def test_convolutions_lower_the_distortion(seed):
    X = photo_maps(300, 4)
    plain, smooth = [], []
    for more in range(3):
        quantizer = MultiScaleQuantizer(
            (4, 4, 3), (1, 2, 4), 16, max_iter=5, random_state=seed + more
        )
        plain.append(quantizer.fit(X).distortion_)
        assert quantizer.kernels_ is None
        smooth.append(quantizer.set_params(n_smoothers=3).fit(X).distortion_)
        assert quantizer.kernels_.shape == (3, 3, 3, 3, 3)
    assert np.mean(smooth) < np.mean(plain)


def test_few_tokens():
    X = mixture(3, 8)
    with pytest.warns(ConvergenceWarning, match="24 distinct tokens are fewer"):
        quantizer = MultiScaleQuantizer(n_codewords=32).fit(X)
    assert quantizer.codebooks_[0].shape == (32, 1)
    assert np.isfinite(quantizer.codebooks_[0]).all()
    again = MultiScaleQuantizer(n_codewords=40)
    with pytest.warns(ConvergenceWarning):
        again.fit(X)
    assert again.distortion_ <= np.square(X - X.mean(axis=0)).sum(axis=1).mean()


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"map_shape": (4, 4)}, "holds 16 numbers, but X has 12 features"),
        ({"map_shape": (12,)}, r"expected \(height, width, channels\)"),
        ({"map_shape": (2, 6.0)}, r"expected \(height, width, channels\)"),
        ({"map_shape": (2, 3, 2), "scales": []}, "scales is empty"),
        ({"map_shape": (2, 3, 2), "scales": [1, 3]}, "more than the map's own 2 x 3"),
        ({"map_shape": (2, 3, 2), "scales": [2, 1]}, "from coarse to fine"),
        ({"map_shape": (2, 3, 2), "scales": [(1, 2), (2, 1)]}, "coarse to fine"),
        ({"map_shape": (2, 3, 2), "scales": [1.5]}, "scales holds 1.5"),
        ({"map_shape": (2, 3, 2), "scales": [(1, 1, 1)]}, r"holds \(1, 1, 1\)"),
        ({"map_shape": (2, 3, 2), "scales": [0]}, "scales holds 0"),
        ({"scales": [13]}, "more than the map's own 12 x 1"),
        ({"scales": "coarse"}, "'scales' parameter"),
        ({"smoothing": 0}, "'smoothing' parameter"),
    ],
)
def test_bad_parameters(parameters, message):
    with pytest.raises(ValueError, match=message):
        MultiScaleQuantizer(n_codewords=4, **parameters).fit(mixture(50, 12))
