"""Bits that are spread over features, and one step for all of them."""

import re

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.exceptions import ConvergenceWarning

from skvq import FiniteScalarQuantizer, UniformQuantizer
from skvq.coding.rates import code_lengths
from skvq.learning.allocation import best_sizes, candidate_sizes
from skvq.learning.levels import best_levels, level_errors
from skvq.learning.steps import cells_of_step

SPREADS = np.array([8.0, 3.0, 1.0, 0.4, 0.05])


def samples(n_samples=600, seed=0, dtype=np.float64):
    X = np.random.default_rng(seed).normal(size=(n_samples, len(SPREADS)))
    return (X * SPREADS).astype(dtype)


def square(quantizer, X):
    return np.square(X - quantizer.quantize(X)).mean(axis=0)


WAYS = {
    "minmax": UniformQuantizer(),
    "ends": UniformQuantizer(range_ends="levels"),
    "quantile": UniformQuantizer(clip_range="quantile"),
    "given": UniformQuantizer(clip_range=(-9.0, 9.0)),
    "gaussian": UniformQuantizer(clip_range="gaussian"),
    "lloyd-max": UniformQuantizer(levels="lloyd-max"),
    "laplacian": UniformQuantizer(levels="lloyd-max", feature_distribution="laplacian"),
    "fsq": FiniteScalarQuantizer(squash="none"),
}


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_allocation_follows_the_training_errors(way, whole):
    X, total = samples(), 9
    est = WAYS[way].__class__(**WAYS[way].get_params())
    est.set_params(total_bits=total, powers_of_two=whole).fit(X)
    assert est.bits_per_sample_ <= total + 1e-9
    sizes = tuple(2**k for k in range(7)) if whole else candidate_sizes(6)
    curves = [X.var(axis=0)]
    for size in sizes[1:]:
        one = WAYS[way].__class__(**WAYS[way].get_params()).set_params(n_levels=size)
        curves.append(square(one.fit(X), X))
    chosen = best_sizes(np.transpose(curves), np.log2(sizes), total)
    expected = sum(curves[i][j] for j, i in enumerate(chosen))
    assert est.distortion_ <= expected * (1 + 1e-3)
    if way != "lloyd-max":  # where errors with many levels are estimates
        assert est.codebook_sizes_ == tuple(sizes[i] for i in chosen)
    for j, size in enumerate(est.codebook_sizes_):
        if size == 1:
            assert_allclose(est.codebooks_[j].ravel(), X[:, j].mean(), atol=1e-12)


def test_features_without_bits_and_totals_of_nothing():
    X = samples()
    none = UniformQuantizer(total_bits=0).fit(X)
    assert none.codebook_sizes_ == (1,) * X.shape[1]
    assert_allclose(none.distortion_, X.var(axis=0).sum())
    low, high = none.clip_range_
    assert_array_equal(low, X.min(axis=0))
    assert_array_equal(high, X.max(axis=0))
    X[:, 1] = 5.0  # no bit helps a constant
    some = UniformQuantizer(levels="lloyd-max", total_bits=6).fit(X)
    assert some.codebook_sizes_[1] == 1
    assert_array_equal(some.quantize(X)[:, 1], 5.0)


@pytest.mark.parametrize("levels", ["uniform", "lloyd-max"])
def test_more_bits_than_can_be_used(levels):
    X = np.repeat(np.arange(5.0), 4)[:, None]
    with pytest.warns(ConvergenceWarning, match=r"total_bits=40 is more than"):
        est = UniformQuantizer(levels=levels, total_bits=40).fit(X)
    if levels == "lloyd-max":
        assert est.codebook_sizes_ == (5,)
        assert est.distortion_ < 1e-12


def test_weights_are_repeats_for_allocated_bits():
    X, weights = samples(300), np.random.default_rng(1).integers(0, 4, 300)
    for est in (UniformQuantizer(total_bits=8), WAYS["fsq"].set_params(total_bits=8)):
        one = est.fit(X, sample_weight=weights).codebook_sizes_
        assert one == est.fit(np.repeat(X, weights, axis=0)).codebook_sizes_


def test_level_errors_are_those_of_the_best_levels():
    sizes = (1, 2, 3, 8, 32, 64, 100)
    for n in (20, 300, 3000):
        x = np.sort(np.random.default_rng(n).laplace(size=n)) * 1e5
        weights = np.random.default_rng(0).integers(1, 4, n).astype(float)
        ((errors, exponent),) = level_errors([(x, weights)], sizes)
        found = np.ldexp(errors, 2 * exponent)
        for size, error in zip(sizes, found, strict=True):
            (levels,) = best_levels([(x, weights)], [size])
            gaps = np.abs(x[:, None] - levels).min(axis=1) ** 2
            best = np.average(gaps, weights=weights)
            few = n <= 512 and size <= 64
            slack = 1e-9 * x.var()
            # Beyond 1024 values neither is the best there is.
            least = best if n <= 1024 else 0.99 * best
            assert least - slack <= error <= best * (1 if few else 1.35) + slack


# -- one step --------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_cells_of_a_step(dtype):
    X, step = samples(dtype=dtype), 0.75
    est = UniformQuantizer(step=step).fit(X)
    places = np.floor(X.astype(float) / step + 0.5).astype(int)
    # A cell more at either end of several.
    spare = np.ptp(places, axis=0) > 0
    first = places.min(axis=0) - spare
    assert_array_equal(est.transform(X), places - first)
    assert est.codebook_sizes_ == tuple(np.ptp(places, axis=0) + 1 + 2 * spare)
    assert est.step_ == step
    for j, table in enumerate(est.codebooks_):
        for k, level in enumerate(table[:, 0], start=first[j]):
            own = X[places[:, j] == k, j].astype(float)
            assert_allclose(level, own.mean() if own.size else k * step, rtol=1e-6)
    # Edges belong above, and what is beyond the range to the end cells.
    ends = np.full((2, 5), [[-1e9], [1e9]])
    assert_array_equal(est.transform(ends)[0], 0)
    assert_array_equal(est.transform(ends)[1], np.array(est.codebook_sizes_) - 1)
    edge = np.full((1, 5), 0.375)
    assert_array_equal(
        est.transform(edge)[0],
        np.clip(1 - first, 0, np.array(est.codebook_sizes_) - 1),
    )


def test_tables_of_a_step():
    X = samples(dtype=np.float32)
    est = UniformQuantizer(step=0.3).fit(X)
    again = UniformQuantizer.from_codebooks(est.codebooks_, step=0.3)
    assert_array_equal(again.transform(3 * X), est.transform(3 * X))
    with pytest.raises(ValueError, match=r"step=0\.5: the given codebooks"):
        UniformQuantizer.from_codebooks(est.codebooks_, step=0.5)
    with pytest.raises(ValueError, match=r"target_bits=3, .* give step="):
        UniformQuantizer.from_codebooks(est.codebooks_, target_bits=3)
    bits = UniformQuantizer(total_bits=8, clip_range=(-9.0, 9.0)).fit(X)
    with pytest.raises(ValueError, match=r"total_bits=5, but .* take 7.9"):
        UniformQuantizer.from_codebooks(bits.codebooks_, total_bits=5)
    again = UniformQuantizer.from_codebooks(bits.codebooks_, total_bits=8)
    assert_array_equal(again.transform(X), bits.transform(X))


@pytest.mark.parametrize("target", [0.5, 3.0, 12.0, 30.0])
def test_the_step_of_a_rate(target):
    X = samples(20_000)
    est = UniformQuantizer(target_bits=target).fit(X)
    codes, rate = est.transform(X), 0.0
    for column, size in zip(codes.T, est.codebook_sizes_, strict=True):
        counts = np.bincount(column, minlength=size)
        rate += code_lengths(counts)[column].mean()
    assert abs(rate - target) <= 1e-3 * target
    same = UniformQuantizer(step=est.step_).fit(X)
    for one, other in zip(est.codebooks_, same.codebooks_, strict=True):
        assert_array_equal(one, other)


def test_rates_that_no_step_has():
    X = np.repeat(np.arange(4.0), 50)[:, None] - 1.5
    with pytest.warns(ConvergenceWarning, match=r"target_bits=1.7 is not a rate"):
        UniformQuantizer(target_bits=1.7).fit(X)
    # The nearest is that of the most cells that are counted, and not none.
    with pytest.warns(ConvergenceWarning, match=r"=90 is not .* the nearest is 10\.7"):
        est = UniformQuantizer(target_bits=90).fit(X)
    assert est.distortion_ < 1e-12
    with pytest.warns(ConvergenceWarning, match=r"the nearest is 0 bits"):
        zeros = UniformQuantizer(target_bits=1).fit(np.zeros((9, 2)))
    assert zeros.codebook_sizes_ == (1, 1)


def test_absurd_steps():
    X = samples()
    with pytest.raises(ValueError, match=r"step=1e-06.* would take .* GiB"):
        UniformQuantizer(step=1e-6).fit(X)
    for step in (1e-9, 1e-300):
        with pytest.raises(ValueError, match=r"2\*\*32 cells.* larger step"):
            UniformQuantizer(step=step).fit(X)
    assert cells_of_step(np.array([-1.0]), np.array([1.0]), 1e-12) is None


def test_memory_maps_give_the_same_bits(tmp_path):
    X = samples(3000, dtype=np.float32)
    there = np.lib.format.open_memmap(tmp_path / "X.npy", "w+", X.dtype, X.shape)
    there[:] = X
    for parameters in ({"total_bits": 8}, {"step": 0.5}, {"target_bits": 6.0}):
        est = UniformQuantizer(**parameters)
        one = est.fit(X).codebooks_
        for a, b in zip(one, est.fit(there).codebooks_, strict=True):
            assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("est", "message"),
    [
        (UniformQuantizer(step=1.0, target_bits=2), "step=1.0 and target_bits=2"),
        (UniformQuantizer(total_bits=1, step=1.0), "total_bits=1 and step=1.0"),
        (
            UniformQuantizer(total_bits=4, share_levels=True),
            "total_bits=4 with share_levels=True",
        ),
        (UniformQuantizer(total_bits=4, levels=[[1.0]] * 5), "nothing to choose"),
        (UniformQuantizer(step=1.0, levels="lloyd-max"), "with levels='lloyd-max'"),
        (
            UniformQuantizer(step=1.0, range_ends="levels"),
            "step=1.0 with range_ends='levels'",
        ),
        (
            UniformQuantizer(target_bits=1.0, clip_range=(0, 1)),
            "with clip_range=(0, 1)",
        ),
        (FiniteScalarQuantizer(total_bits=4), "total_bits=4 with squash='tanh'"),
        (
            FiniteScalarQuantizer(total_bits=4, squash="none", decode_to="values"),
            "total_bits=4 with decode_to='values'",
        ),
    ],
)
def test_what_does_not_go_together(est, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        est.fit(samples())
