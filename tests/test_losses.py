"""Losses: values, gradients, array libraries, automatic differentiation, errors."""

import doctest
import itertools
import math
import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
from emulator import emulated_cupy
from numpy.testing import assert_allclose, assert_array_equal

from skvq import losses
from skvq.nearest.backends import arrays

LIBRARIES = ("numpy", "array_api_strict", "torch", "jax", "cupy")


@pytest.fixture(params=LIBRARIES)
def xp(request):
    """Each array library that is installed, and CuPy, which is emulated."""
    if request.param != "cupy":
        yield make_library(request.param)
        return
    if arrays._compat is None:
        pytest.skip("no array-api-compat, without which CuPy has no namespace")
    with emulated_cupy() as cupy:
        yield cupy


def make_library(name):
    module = pytest.importorskip({"jax": "jax.numpy"}.get(name, name))
    if name == "torch" and not hasattr(arrays._compat, "is_torch_array"):
        pytest.skip("no array-api-compat, without which torch has no namespace")
    if name == "jax":
        import jax

        jax.config.update("jax_enable_x64", True)
    return module


def to_numpy(array):
    return array.get() if hasattr(array, "get") else np.asarray(array)


# -- slow and obvious formulas, with the stop-gradients as arguments of their own ----


def squared(a, b):
    return np.sum((a - b) ** 2, axis=-1).mean()


def sigma(z):
    return 1 / (1 + np.exp(-z))


def entropy(p):
    p = p[p > 0]
    return -np.sum(p * np.log(p))


def enumerated(scores):
    """Entropy loss terms over an explicit table of scores (n, n_codewords)."""
    p = np.exp(scores - scores.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    return np.mean([entropy(row) for row in p]), entropy(p.mean(axis=0))


def corners(n_bits):
    return np.array(list(itertools.product([-1.0, 1.0], repeat=n_bits)))


def lfq(x, tau, scale=1.0, gamma=1.0):
    sample, mean = enumerated(2 * tau * x @ corners(x.shape[1]).T * scale)
    return sample - gamma * mean


def bsq(x, tau, gamma=1.0):
    u = x / np.linalg.norm(x, axis=1, keepdims=True)
    table = corners(x.shape[1]) / np.sqrt(x.shape[1])
    distances = ((u[:, None, :] - table) ** 2).sum(axis=2)
    sample, mean = enumerated(-tau * distances)
    return sample - gamma * mean


def orthogonality(c):
    norms = np.linalg.norm(c, axis=1, keepdims=True)
    c = c / np.where(norms > 0, norms, 1)
    return np.sum((c @ c.T * (1 - np.eye(len(c)))) ** 2) / len(c) ** 2


def diversity(p):
    mean = p.mean(axis=0)
    return np.sum(mean * np.log(mean)) / mean.size


def perplexity(p):
    mean = p.mean(axis=0).reshape(-1, p.shape[-1])
    return 1 - sum(math.exp(entropy(row)) for row in mean) / mean.size


def soft(rng, *shape):
    p = rng.gamma(2.0, size=shape)
    return p / p.sum(axis=-1, keepdims=True)


@dataclass(frozen=True)
class Case:
    """A loss with arguments, and the formula with the stop-gradients set apart."""

    name: str
    loss: Callable
    formula: Callable  # (*live, *frozen) -> float
    arrays: tuple


RNG = np.random.default_rng(0)
X, Q = RNG.normal(size=(2, 7, 3))
X4, Q4 = RNG.normal(size=(2, 2, 3, 2, 4))
SUMS = RNG.normal(size=(4, 7, 3))
WEIGHTS = [0.5, 0.0, 2.0, 1.0]
BITS = RNG.normal(size=(9, 5)) / 3


def partial_sums(alpha, beta, weights):
    def formula(x, s, x0, s0):
        return sum(
            w * (alpha * squared(x0, a) + beta * squared(x, b))
            for w, a, b in zip(weights, s, s0, strict=True)
        )

    return formula


CASES = [
    Case("codebook", losses.codebook_loss, lambda x, q, x0, q0: squared(x0, q), (X, Q)),
    Case(
        "commitment",
        losses.commitment_loss,
        lambda x, q, x0, q0: squared(x, q0),
        (X, Q),
    ),
    Case(
        "vq",
        losses.vq_loss,
        lambda x, q, x0, q0: squared(x0, q) + 0.25 * squared(x, q0),
        (X, Q),
    ),
    Case(
        "vq-image-beta-0",
        lambda *a, **k: losses.vq_loss(*a, beta=0, **k),
        lambda x, q, x0, q0: squared(x0, q),
        (X4, Q4),
    ),
    Case(
        "vq-one-sample",
        lambda *a, **k: losses.vq_loss(*a, beta=2, **k),
        lambda x, q, x0, q0: squared(x0, q) + 2 * squared(x, q0),
        (X[0], Q[0]),
    ),
    Case(
        "partial-sums",
        losses.partial_sum_loss,
        partial_sums(1, 0.25, [0.25] * 4),
        (X, SUMS),
    ),
    Case(
        "partial-sums-weighted",
        lambda *a, **k: losses.partial_sum_loss(
            *a, stage_weights=WEIGHTS, beta=0.5, codebook_weight=3.0, **k
        ),
        partial_sums(3, 0.5, WEIGHTS),
        (X, SUMS),
    ),
    Case(
        "partial-sums-rq-vae",
        lambda *a, **k: losses.partial_sum_loss(
            *a, stage_weights=[1] * 4, codebook_weight=0, **k
        ),
        partial_sums(0, 0.25, [1] * 4),
        (X, SUMS),
    ),
    Case(
        "partial-sums-nothing",
        lambda *a, **k: losses.partial_sum_loss(*a, beta=0, codebook_weight=0, **k),
        lambda x, s, x0, s0: 0.0,
        (X, SUMS),
    ),
    Case(
        "lfq",
        lambda a, **k: losses.lfq_entropy_loss(a, inverse_temperature=1.5, **k),
        lambda x, x0: lfq(x, 1.5),
        (BITS,),
    ),
    Case(
        "lfq-parameters",
        lambda a, **k: losses.lfq_entropy_loss(
            a, inverse_temperature=0.7, scale=2.5, gamma=0.3, **k
        ),
        lambda x, x0: lfq(x, 0.7, 2.5, 0.3),
        (BITS,),
    ),
    Case(
        "lfq-groups",
        lambda a, **k: losses.lfq_entropy_loss(
            a, inverse_temperature=1.0, group_size=2, **k
        ),
        lambda x, x0: lfq(x[:, :2], 1) + lfq(x[:, 2:4], 1) + lfq(x[:, 4:], 1),
        (BITS,),
    ),
    Case(
        "lfq-one-bit",
        lambda a, **k: losses.lfq_entropy_loss(a, inverse_temperature=1.0, **k),
        lambda x, x0: lfq(x, 1.0),
        (BITS[:, :1],),
    ),
    Case(
        "lfq-zeros",
        lambda a, **k: losses.lfq_entropy_loss(a, inverse_temperature=1.0, **k),
        lambda x, x0: lfq(x, 1.0),
        (np.where(BITS > 0.1, BITS, 0.0),),
    ),
    Case(
        "bsq",
        lambda a, **k: losses.bsq_entropy_loss(a, gamma=0.8, **k),
        lambda x, x0: bsq(x, 1.0, 0.8),
        (BITS,),
    ),
    Case(
        "bsq-hot",
        lambda a, **k: losses.bsq_entropy_loss(a, inverse_temperature=4.0, **k),
        lambda x, x0: bsq(x, 4.0),
        (BITS * 10,),
    ),
    Case(
        "orthogonality", losses.orthogonality_loss, lambda c, c0: orthogonality(c), (X,)
    ),
    Case(
        "orthogonality-wide",
        losses.orthogonality_loss,
        lambda c, c0: orthogonality(c),
        (X.T,),
    ),
    Case(
        "diversity",
        losses.diversity_loss,
        lambda p, p0: diversity(p),
        (soft(RNG, 6, 4),),
    ),
    Case(
        "diversity-groups",
        losses.diversity_loss,
        lambda p, p0: diversity(p),
        (soft(RNG, 6, 2, 4),),
    ),
    Case(
        "perplexity",
        losses.perplexity_loss,
        lambda p, p0: perplexity(p),
        (soft(RNG, 6, 4),),
    ),
    Case(
        "perplexity-groups",
        losses.perplexity_loss,
        lambda p, p0: perplexity(p),
        (soft(RNG, 6, 2, 4),),
    ),
]

every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def finite_differences(function, array, step=1e-6):
    gradient = np.empty_like(array)
    for index in np.ndindex(array.shape):
        ends = []
        for sign in (1, -1):
            moved = array.copy()
            moved[index] += sign * step
            ends.append(function(moved))
        gradient[index] = (ends[0] - ends[1]) / (2 * step)
    return gradient


# -- every loss --------------------------------------------------------------------


@every_case
def test_value_is_the_formula(case):
    loss = case.loss(*case.arrays)
    assert np.shape(loss) == ()
    assert_allclose(loss, case.formula(*case.arrays, *case.arrays), rtol=1e-10)


@every_case
def test_gradients_are_finite_differences(case):
    loss, *gradients = case.loss(*case.arrays, return_grad=True)
    assert loss == case.loss(*case.arrays)
    assert len(gradients) == len(case.arrays)
    for position, gradient in enumerate(gradients):

        def moved(array, position=position):
            live = list(case.arrays)
            live[position] = array
            return case.formula(*live, *case.arrays)

        expected = finite_differences(moved, case.arrays[position])
        assert gradient.shape == expected.shape
        assert_allclose(gradient, expected, rtol=1e-6, atol=1e-8)


@every_case
def test_every_library_gives_the_same(case, xp):
    expected = case.loss(*case.arrays, return_grad=True)
    arrays = [xp.asarray(array) for array in case.arrays]
    found = case.loss(*arrays, return_grad=True)
    for mine, theirs, like in zip(found, expected, (arrays[0], *arrays), strict=True):
        if xp is not np:
            assert type(mine) is type(like)
        assert mine.dtype == like.dtype
        assert_allclose(to_numpy(mine), theirs, rtol=1e-9, atol=1e-12)
    assert_allclose(float(case.loss(*arrays)), expected[0], rtol=1e-9)


@every_case
def test_float32_stays_float32(case, xp):
    arrays = [xp.asarray(array.astype(np.float32)) for array in case.arrays]
    found = case.loss(*arrays, return_grad=True)
    expected = case.loss(*case.arrays, return_grad=True)
    for mine, theirs in zip(found, expected, strict=True):
        assert mine.dtype == xp.float32
        assert_allclose(to_numpy(mine), theirs, rtol=1e-4, atol=1e-5)


@every_case
def test_half_precision_is_computed_in_float32(case):
    arrays = [array.astype(np.float16) for array in case.arrays]
    loss, *gradients = case.loss(*arrays, return_grad=True)
    wide = [array.astype(np.float32) for array in arrays]
    expected, *expected_gradients = case.loss(*wide, return_grad=True)
    assert loss.dtype == np.float32
    assert loss == expected
    for mine, theirs in zip(gradients, expected_gradients, strict=True):
        assert mine.dtype == np.float16
        assert_array_equal(mine, theirs.astype(np.float16))


@every_case
def test_arguments_stay_as_they_are(case):
    arrays = [array.copy() for array in case.arrays]
    _, *gradients = case.loss(*arrays, return_grad=True)
    for gradient in gradients:
        gradient += 1  # no view of anything, and can be written to
    for before, after in zip(case.arrays, arrays, strict=True):
        assert_array_equal(before, after)


@every_case
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_torch_differentiates(case, dtype):
    torch = make_library("torch")
    arrays = [torch.asarray(a).to(getattr(torch, dtype)) for a in case.arrays]
    for array in arrays:
        array.requires_grad_()
    loss, *gradients = case.loss(*arrays, return_grad=True)
    assert not any(gradient.requires_grad for gradient in gradients)
    loss.backward()
    tight = dtype == "float64"
    for array, gradient in zip(arrays, gradients, strict=True):
        found = torch.zeros_like(array) if array.grad is None else array.grad
        torch.testing.assert_close(
            found,
            gradient,
            rtol=1e-9 if tight else 1e-3,
            atol=1e-12 if tight else 1e-5,
        )


@every_case
def test_torch_bfloat16(case):
    torch = make_library("torch")
    arrays = [torch.asarray(a).to(torch.bfloat16) for a in case.arrays]
    loss, *gradients = case.loss(*arrays, return_grad=True)
    assert loss.dtype == torch.float32
    assert all(gradient.dtype == torch.bfloat16 for gradient in gradients)


@every_case
def test_jax_differentiates_and_compiles(case):
    make_library("jax")
    import jax

    arrays = [jax.numpy.asarray(array) for array in case.arrays]
    every = tuple(range(len(arrays)))
    expected = case.loss(*arrays, return_grad=True)
    loss, found = jax.jit(jax.value_and_grad(case.loss, argnums=every))(*arrays)
    for mine, theirs in zip((loss, *found), expected, strict=True):
        assert_allclose(mine, theirs, rtol=1e-9, atol=1e-12)
    compiled = jax.jit(lambda *a: case.loss(*a, return_grad=True))(*arrays)
    for mine, theirs in zip(compiled, expected, strict=True):
        assert_allclose(mine, theirs, rtol=1e-9, atol=1e-12)


# -- squared errors ----------------------------------------------------------------


def test_codebook_loss_is_the_distortion():
    from skvq import VectorQuantizer

    data = np.random.default_rng(1).normal(size=(200, 3))
    quantizer = VectorQuantizer(8, random_state=0).fit(data)
    found = losses.codebook_loss(data, quantizer.quantize(data))
    assert_allclose(found, -quantizer.score(data))


def test_lloyd_step_is_where_the_codebook_gradient_vanishes():
    from skvq import VectorQuantizer

    data = np.random.default_rng(1).normal(size=(200, 3))
    quantizer = VectorQuantizer(4, random_state=0, max_iter=500, tol=0).fit(data)
    codes = quantizer.transform(data).ravel()
    _, _, gradient = losses.codebook_loss(
        data, quantizer.quantize(data), return_grad=True
    )
    sums = np.array([gradient[codes == code].sum(axis=0) for code in range(4)])
    assert_allclose(sums, 0, atol=1e-12)


def test_partial_sums_equal_the_stagewise_loss_in_value_only():
    codewords = np.diff(SUMS, axis=0, prepend=0)
    residuals = X - np.concatenate([np.zeros_like(X)[None], SUMS[:-1]])
    stagewise = [
        losses.codebook_loss(r, w, return_grad=True)
        for r, w in zip(residuals, codewords, strict=True)
    ]
    loss, _, gradient = losses.partial_sum_loss(
        X, SUMS, stage_weights=[1] * 4, beta=0, return_grad=True
    )
    assert_allclose(loss, sum(value for value, *_ in stagewise))
    # The codeword of stage j is in every partial sum from j on.
    of_codewords = gradient[::-1].cumsum(axis=0)[::-1]
    assert_allclose(of_codewords[-1], stagewise[-1][2])
    assert not np.allclose(of_codewords[0], stagewise[0][2])


def test_weights_of_the_mean_and_of_the_sum_over_stages():
    errors = [np.sum((X - sums) ** 2, axis=-1).mean() for sums in SUMS]
    commitment = {"beta": 1, "codebook_weight": 0}
    mean = losses.partial_sum_loss(X, SUMS, **commitment)
    total = losses.partial_sum_loss(X, SUMS, stage_weights=[1] * 4, **commitment)
    assert_allclose(mean, np.mean(errors))
    assert_allclose(total, np.sum(errors))


def test_one_stage_is_the_plain_loss():
    found = losses.partial_sum_loss(X, Q[None], return_grad=True)
    expected = losses.vq_loss(X, Q, return_grad=True)
    assert_allclose(found[0], expected[0])
    assert_allclose(found[1], expected[1])
    assert_allclose(found[2][0], expected[2])


def test_a_term_without_weight_is_left_out():
    far = np.array([[np.inf, 0.0]])
    # 0 * inf would be NaN.
    assert losses.commitment_loss(np.zeros((1, 2)), far) == np.inf
    gradients = losses.vq_loss(np.zeros((1, 2)), far, beta=0, return_grad=True)
    assert_array_equal(gradients[1], 0)


# -- entropies of bits -------------------------------------------------------------


@pytest.mark.parametrize("n_bits", range(1, 13))
@pytest.mark.parametrize("tau", [0.3, 5.0, 100.0])
def test_lfq_equals_the_full_enumeration(n_bits, tau):
    x = np.random.default_rng(n_bits).normal(size=(20, n_bits)) / 4
    found = losses.lfq_entropy_loss(x, inverse_temperature=tau)
    assert_allclose(found, lfq(x, tau), atol=1e-9)


@pytest.mark.parametrize("n_bits", range(1, 13))
@pytest.mark.parametrize("tau", [0.3, 5.0, 100.0])
def test_bsq_equals_the_full_enumeration(n_bits, tau):
    x = np.random.default_rng(n_bits).normal(size=(20, n_bits))
    found = losses.bsq_entropy_loss(x, inverse_temperature=tau, group_size=12)
    assert_allclose(found, bsq(x, tau), atol=1e-9)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_float32_is_near_the_enumeration_too(dtype):
    x = np.random.default_rng(0).normal(size=(64, 12)) / 4
    found = losses.lfq_entropy_loss(x.astype(dtype), inverse_temperature=2.0)
    assert_allclose(found, lfq(x.astype(dtype).astype(float), 2.0), atol=2e-5)


@pytest.mark.parametrize("n_bits", [10, 18, 36])
def test_bsq_groups_are_those_of_the_published_code(n_bits):
    rng = np.random.default_rng(3)
    x = rng.normal(size=(30, n_bits))
    u = x / np.linalg.norm(x, axis=1, keepdims=True)
    p = sigma(4 * 6.0 * u / np.sqrt(n_bits))
    sample = np.mean([sum(entropy(np.array([b, 1 - b])) for b in row) for row in p])
    mean = 0.0
    for part in np.array_split(p, -(-n_bits // 9), axis=1):
        signs = corners(part.shape[1]) > 0
        joint = np.where(signs, part[:, None, :], 1 - part[:, None, :]).prod(axis=2)
        mean += entropy(joint.mean(axis=0))
    found = losses.bsq_entropy_loss(x, inverse_temperature=6.0)
    assert_allclose(found, sample - mean, rtol=1e-10)


def test_groups_bound_the_entropy_of_the_mean_from_above():
    rng = np.random.default_rng(5)
    x = rng.normal(size=(40, 1)) + 0.3 * rng.normal(size=(40, 12))  # bits that agree
    found = [
        losses.lfq_entropy_loss(x, inverse_temperature=1.0, group_size=size)
        for size in (1, 2, 3, 6, 12)
    ]
    assert np.all(np.diff(found) > 0)


@pytest.mark.parametrize("group_size", [1, 4, 18])
def test_tiles_change_nothing(monkeypatch, group_size):
    x = np.random.default_rng(6).normal(size=(50, 7)) / 4

    def run():
        return losses.lfq_entropy_loss(
            x, inverse_temperature=1.0, group_size=group_size, return_grad=True
        )

    whole = run()
    monkeypatch.setattr(losses, "_TILE_ELEMENTS", 48)
    tiled = run()
    assert_allclose(tiled[0], whole[0], rtol=1e-12)
    assert_allclose(tiled[1], whole[1], rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sure_bits_are_finite(dtype):
    x = np.sign(np.random.default_rng(7).normal(size=(100, 18))).astype(dtype) * 1000
    loss, gradient = losses.lfq_entropy_loss(x, return_grad=True)
    codes = np.unique(x, axis=0, return_counts=True)[1] / 100
    assert_allclose(loss, -entropy(codes), rtol=1e-5)
    assert_array_equal(gradient, 0)


def test_many_bits():
    x = np.random.default_rng(8).normal(size=(16, 100))
    loss, gradient = losses.lfq_entropy_loss(
        x, inverse_temperature=0.1, group_size=10, return_grad=True
    )
    assert np.isfinite(loss)
    assert np.isfinite(gradient).all()


def test_leading_axes_are_samples():
    for loss in (losses.lfq_entropy_loss, losses.bsq_entropy_loss):
        value, gradient = loss(X4, return_grad=True)
        flat_value, flat_gradient = loss(X4.reshape(-1, 4), return_grad=True)
        assert value == flat_value
        assert_array_equal(gradient, flat_gradient.reshape(X4.shape))


def test_bsq_knows_directions_only():
    value, gradient = losses.bsq_entropy_loss(BITS, return_grad=True)
    assert_allclose(losses.bsq_entropy_loss(7 * BITS), value)
    assert_allclose((gradient * BITS).sum(axis=1), 0, atol=1e-12)


def test_bsq_of_a_row_of_zeros():
    x = np.vstack([BITS, np.zeros(5)])
    value, gradient = losses.bsq_entropy_loss(x, return_grad=True)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()
    torch = make_library("torch")
    x = torch.asarray(x).requires_grad_()
    losses.bsq_entropy_loss(x).backward()
    assert_allclose(x.grad.numpy(), gradient, atol=1e-12)


# -- codebooks ---------------------------------------------------------------------


def cosine_sum(c):
    """Sum over all i and j, with the cosine of a codeword with itself left out."""
    total = 0.0
    for i, j in itertools.permutations(range(len(c)), 2):
        norms = np.linalg.norm(c[i]) * np.linalg.norm(c[j])
        total += (c[i] @ c[j] / norms) ** 2 if norms > 0 else 0.0
    return total / len(c) ** 2


@pytest.mark.parametrize("shape", [(2, 2), (1, 3), (3, 8), (8, 3), (40, 4)])
@pytest.mark.parametrize("n_zeros", [0, 1, 2, None])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_orthogonality_of_codewords_of_zeros(shape, n_zeros, dtype):
    c = np.random.default_rng(3).normal(size=shape).astype(dtype)
    c[:n_zeros] = 0
    loss, gradient = losses.orthogonality_loss(c, return_grad=True)
    rtol = 1e-4 if dtype == np.float32 else 1e-12
    assert_allclose(loss, orthogonality(c.astype(float)), rtol=rtol, atol=1e-7)
    assert_allclose(loss, cosine_sum(c.astype(float)), rtol=rtol, atol=1e-7)
    assert loss >= 0
    assert_array_equal(gradient[:n_zeros], 0)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("shape", [(1, 5), (3, 5), (5, 5), (9, 5)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_orthogonality_is_never_negative(shape, dtype):
    for seed in range(20):
        square = np.linalg.qr(np.random.default_rng(seed).normal(size=(5, 5)))[0]
        c = np.zeros(shape, dtype)
        c[: min(shape[0], 5)] = square[: shape[0]]
        assert 0 <= losses.orthogonality_loss(c) < 10 * np.finfo(dtype).eps


DIRECTIONS_ONLY = {
    "bsq": lambda x: losses.bsq_entropy_loss(x, return_grad=True),
    "orthogonality": lambda x: losses.orthogonality_loss(x, return_grad=True),
    "rotation": lambda x: (
        losses.rotation_trick_gradient(x, x[::-1].copy(), np.ones_like(x)),
    ),
}


@pytest.mark.parametrize("name", DIRECTIONS_ONLY)
@pytest.mark.parametrize("exponent", [-120, -100, 100, 120])
def test_lengths_whose_squares_leave_the_dtype(name, exponent):
    x = np.random.default_rng(4).normal(size=(6, 4)).astype(np.float32)
    function = DIRECTIONS_ONLY[name]
    expected, found = function(x), function(np.ldexp(x, exponent))
    assert_allclose(found[0], expected[0], rtol=1e-5, atol=1e-5)
    if name != "rotation":
        assert_allclose(np.ldexp(found[1], exponent), expected[1], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_logits_that_leave_the_dtype(dtype):
    """As sure as bits can be: the same as of merely large ones."""
    signs = np.where(BITS > 0, 1, -1).astype(dtype)
    huge = signs * np.finfo(dtype).max
    expected = losses.lfq_entropy_loss(signs * 100, return_grad=True)
    found = losses.lfq_entropy_loss(huge, return_grad=True)
    assert_allclose(found[0], expected[0], rtol=1e-6)
    assert_array_equal(found[1], 0)
    torch = make_library("torch")
    x = torch.asarray(huge).requires_grad_()
    losses.lfq_entropy_loss(x).backward()
    assert_array_equal(x.grad.numpy(), 0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_perplexity_of_even_use_is_not_negative(dtype):
    for size in range(1, 300):
        loss, gradient = losses.perplexity_loss(
            np.full((1, size), dtype(1) / dtype(size)), return_grad=True
        )
        assert loss >= 0
        assert_allclose(gradient, (1 - np.log(size)), rtol=1e-4, atol=1e-5)


def test_one_row_and_equal_rows():
    row = RNG.normal(size=(1, 4))
    assert losses.orthogonality_loss(row) == 0
    same = np.repeat(row, 5, axis=0)
    assert_allclose(losses.orthogonality_loss(same), 1 - 1 / 5)
    for loss in (losses.lfq_entropy_loss, losses.bsq_entropy_loss):
        # The mean is like each sample: its entropy is the sum of those of the bits.
        assert_allclose(loss(same), 0, atol=1e-12)
        assert_allclose(loss(row), 0, atol=1e-12)
    assert losses.vq_loss(same, same) == 0
    assert losses.partial_sum_loss(same, same[None]) == 0


@pytest.mark.parametrize("loss", [losses.diversity_loss, losses.perplexity_loss])
def test_a_codeword_without_use(loss):
    p = np.array([[1.0, 0.0, 0.0], [0.5, 0.5, 0.0]])
    value, gradient = loss(p, return_grad=True)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()
    assert_array_equal(gradient[:, 2], 0)


def test_ranges_of_diversity_and_perplexity():
    uniform, single = np.full((5, 8), 1 / 8), np.eye(8)[[3] * 5]
    assert_allclose(losses.diversity_loss(uniform), -np.log(8) / 8)
    assert_allclose(losses.diversity_loss(single), 0)
    assert_allclose(losses.perplexity_loss(uniform), 0, atol=1e-15)
    assert_allclose(losses.perplexity_loss(single), 1 - 1 / 8)


# -- over the argmin ---------------------------------------------------------------

MAPS = {
    "straight-through": (losses.straight_through, losses.straight_through_gradient),
    "rotation": (losses.rotation_trick, losses.rotation_trick_gradient),
}
every_map = pytest.mark.parametrize("maps", MAPS.values(), ids=MAPS)
EDGES = {
    "random": (X, Q),
    "image": (X4, Q4),
    "equal": (X, X),
    "opposite": (X, -2 * X),
    "nearly opposite": (X, -X * (1 + 1e-13)),
    "zero sample": (np.zeros_like(X), Q),
    "zero codeword": (X, np.zeros_like(X)),
}
every_edge = pytest.mark.parametrize("pair", EDGES.values(), ids=EDGES)


def rotation(x, q):
    """The matrix of the rotation trick for one vector."""
    norm = np.linalg.norm
    x_hat, q_hat = x / norm(x), q / norm(q)
    w = (x_hat + q_hat) / norm(x_hat + q_hat)
    turn = np.eye(len(x)) - 2 * np.outer(w, w) + 2 * np.outer(q_hat, x_hat)
    return norm(q) / norm(x) * turn


@every_map
@every_edge
def test_maps_give_the_reconstruction(maps, pair, xp):
    x, q = (xp.asarray(array) for array in pair)
    assert_array_equal(to_numpy(maps[0](x, q)), pair[1])


@every_map
def test_maps_keep_dtypes(maps, xp):
    x = xp.asarray(X)
    q = xp.asarray(Q.astype(np.float32))
    assert maps[0](x, q).dtype == xp.float32
    assert maps[1](x, q, q).dtype == xp.float64


@every_map
@every_edge
def test_torch_differentiates_the_maps(maps, pair):
    torch = make_library("torch")
    x, q = (torch.asarray(array).requires_grad_() for array in pair)
    upstream = torch.asarray(np.random.default_rng(9).normal(size=pair[0].shape))
    maps[0](x, q).backward(upstream)
    assert q.grad is None
    found = maps[1](x, q, upstream)
    assert not found.requires_grad
    torch.testing.assert_close(x.grad, found)


@every_map
def test_jax_differentiates_the_maps(maps):
    make_library("jax")
    import jax

    upstream = np.random.default_rng(9).normal(size=X.shape)
    _, pull = jax.vjp(jax.jit(maps[0]), *map(jax.numpy.asarray, (X, Q)))
    grad_X, grad_X_quant = pull(jax.numpy.asarray(upstream))
    assert_allclose(grad_X, maps[1](X, Q, upstream), rtol=1e-9)
    assert_array_equal(grad_X_quant, 0)


def test_rotation_trick_is_the_scaled_rotation():
    upstream = np.random.default_rng(9).normal(size=X.shape)
    found = losses.rotation_trick_gradient(X, Q, upstream)
    for x, q, g, mine in zip(X, Q, upstream, found, strict=True):
        matrix = rotation(x, q)
        turn = matrix * np.linalg.norm(x) / np.linalg.norm(q)
        assert_allclose(turn @ turn.T, np.eye(3), atol=1e-12)
        assert_allclose(np.linalg.det(turn), 1)
        assert_allclose(matrix @ x, q)
        assert_allclose(mine, matrix.T @ g)


def test_rotation_trick_without_rotation():
    g = np.random.default_rng(9).normal(size=X.shape)
    gradient = losses.rotation_trick_gradient
    assert_allclose(gradient(X, X, g), g)
    assert_allclose(gradient(X, 3 * X, g), 3 * g)
    assert_array_equal(gradient(np.zeros_like(X), Q, g), g)
    assert_array_equal(gradient(X, np.zeros_like(X), g), 0)
    # The reflection keeps what is across and turns what is along.
    along = (g * X).sum(axis=1, keepdims=True) * X / (X**2).sum(axis=1, keepdims=True)
    assert_allclose(gradient(X, -X, g), g - 2 * along, atol=1e-12)
    # Divided by their lengths, these are opposite but for rounding.
    for size in (0.1, 0.7, 3.0, 11.0):
        found = gradient(X, -size * X, g)
        assert_allclose(found, size * (g - 2 * along), atol=1e-12 * size)


# -- errors ------------------------------------------------------------------------

PAIRED = [losses.codebook_loss, losses.vq_loss, losses.straight_through]
SINGLE = [
    losses.lfq_entropy_loss,
    losses.bsq_entropy_loss,
    losses.orthogonality_loss,
    losses.diversity_loss,
    losses.perplexity_loss,
]


@pytest.mark.parametrize("dtype", [np.int64, np.bool_, np.complex128])
def test_only_floating_arrays(dtype):
    for loss in PAIRED:
        with pytest.raises(TypeError, match="X_quant has dtype"):
            loss(X, Q.astype(dtype))
    for loss in SINGLE:
        with pytest.raises(TypeError, match=r"has dtype .* expected a floating one"):
            loss(X.astype(dtype))


def test_only_arrays():
    with pytest.raises(TypeError):
        losses.vq_loss([[1.0]], [[1.0]])
    with pytest.raises(TypeError):
        losses.orthogonality_loss("codebook")
    with pytest.raises(TypeError, match="X_quant is of type NoneType"):
        losses.vq_loss(np.ones((2, 3)), None)
    with pytest.raises(TypeError, match="partial_sums is of type int"):
        losses.partial_sum_loss(np.ones((2, 3)), 3)


def test_only_one_library():
    strict = pytest.importorskip("array_api_strict")
    with pytest.raises(TypeError):
        losses.vq_loss(X, strict.asarray(Q))


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), ()])
def test_empty_arrays(shape):
    for loss in PAIRED:
        with pytest.raises(ValueError, match="at least one sample"):
            loss(np.zeros(shape), np.zeros(shape))
    for loss in SINGLE:
        with pytest.raises(ValueError, match="at least one sample"):
            loss(np.zeros(shape))


def test_shapes_that_do_not_match():
    for loss in PAIRED:
        with pytest.raises(ValueError, match=r"X has shape \(7, 3\), X_quant has"):
            loss(X, Q[:5])
    with pytest.raises(ValueError, match="grad_output has shape"):
        losses.rotation_trick_gradient(X, Q, Q[:, :2])
    with pytest.raises(ValueError, match=r"expected \(n_stages, \*X.shape\)"):
        losses.partial_sum_loss(X, Q)
    with pytest.raises(ValueError, match="expected \\(n_codewords, n_features\\)"):
        losses.orthogonality_loss(X[0])
    with pytest.raises(ValueError, match="n_groups"):
        losses.diversity_loss(X[0])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: losses.vq_loss(X, Q, beta=-1), ValueError, "beta must be"),
        (lambda: losses.vq_loss(X, Q, beta=math.nan), ValueError, "beta must be"),
        (lambda: losses.vq_loss(X, Q, beta=math.inf), ValueError, "beta must be"),
        (lambda: losses.vq_loss(X, Q, beta="1"), TypeError, "beta must be"),
        (lambda: losses.vq_loss(X, Q, beta=True), TypeError, "beta must be"),
        (
            lambda: losses.partial_sum_loss(X, SUMS, codebook_weight=-1),
            ValueError,
            "codebook_weight",
        ),
        (
            lambda: losses.partial_sum_loss(X, SUMS, stage_weights=[1, 2]),
            ValueError,
            "stage_weights has 2 entries, but there are 4 stages",
        ),
        (
            lambda: losses.partial_sum_loss(X, SUMS, stage_weights=[1, 2, -3, 4]),
            ValueError,
            r"stage_weights\[2\]",
        ),
        (
            lambda: losses.lfq_entropy_loss(X, inverse_temperature=0),
            ValueError,
            "inverse_temperature must be finite and above 0",
        ),
        (lambda: losses.lfq_entropy_loss(X, scale=0), ValueError, "scale"),
        (lambda: losses.lfq_entropy_loss(X, gamma=-1), ValueError, "gamma"),
        (lambda: losses.lfq_entropy_loss(X, group_size=0), ValueError, "group_size"),
        (lambda: losses.bsq_entropy_loss(X, group_size=25), ValueError, "group_size"),
        (lambda: losses.bsq_entropy_loss(X, group_size=2.0), ValueError, "group_size"),
        (
            lambda: losses.bsq_entropy_loss(X, inverse_temperature=-1),
            ValueError,
            "inverse_temperature",
        ),
    ],
)
def test_parameters_out_of_range(call, error, message):
    with pytest.raises(error, match=message):
        call()


# -- without array-api-compat ------------------------------------------------------


def test_without_compat(monkeypatch):
    monkeypatch.setattr(arrays, "_compat", None)
    strict = pytest.importorskip("array_api_strict")
    expected = losses.vq_loss(X, Q)
    assert losses.vq_loss(X, Q) == expected
    found = losses.vq_loss(strict.asarray(X), strict.asarray(Q))
    assert_allclose(float(found), expected)
    with pytest.raises(TypeError, match="Arrays of several libraries"):
        losses.vq_loss(X, strict.asarray(Q))
    with pytest.raises(TypeError, match="not a supported array type"):
        losses.vq_loss([1.0], [2.0])
    with pytest.raises(TypeError, match="array-api-compat"):
        arrays.array_namespace([1.0])


# -- the page ----------------------------------------------------------------------


def test_page(tree):
    page = tree / "docs" / "losses.md"
    # The fences end the expected outputs.
    text = re.sub(r"^```.*$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    test = doctest.DocTestParser().get_doctest(text, {}, page.name, str(page), 0)
    assert test.examples
    assert doctest.DocTestRunner().run(test).failed == 0


def test_page_in_torch(tree):
    make_library("torch")
    page = tree / "docs" / "losses.md"
    text = page.read_text(encoding="utf-8")
    (program,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    names = {}
    exec(program, names)
    assert names["history"][-1] < 0.5 * names["history"][0]
