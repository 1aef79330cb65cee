r"""Losses that encoders and codebooks are trained with, and their gradients.

These are functions of arrays of any library: NumPy, CuPy, array-api-strict, torch or
JAX, whose automatic differentiation passes through them.  They do not use estimators.

=========================  =========================================================
function                   what it favours
=========================  =========================================================
`codebook_loss`            codewords near their samples
`commitment_loss`          samples near their codewords
`vq_loss`                  both
`partial_sum_loss`         both, after every stage of a residual quantizer
`lfq_entropy_loss`         sure bits, even use of codes (lookup-free quantization)
`bsq_entropy_loss`         the same on the unit sphere
`orthogonality_loss`       codewords at right angles
`diversity_loss`           all codewords used, by the entropy of their use
`perplexity_loss`          the same, by its perplexity
=========================  =========================================================

`straight_through` and `rotation_trick` are not losses: they pass the gradient from the
reconstruction to the encoder, across the argmin, which has none.

What follows holds for all of them.

**Shapes.**  The last axis holds the features (or bits, or codewords); all axes before
it hold the n samples.  Squared errors are summed over the features and averaged over
the samples, as in `score`.  Published training code often averages over the features as
well: divide by their number to get its value.

**Gradients.**  With ``return_grad=True`` a loss returns its value, followed by the
gradient with respect to each of its array arguments, in their order, shape and dtype.
The argument of sg[.] in a formula counts as a constant.  Automatic differentiation of
the value gives the same gradients (in torch None, if an argument only occurs in sg).

**Precision.**  Half precision is computed in float32, everything else in its own dtype.
Entropies are in nats.  No branch depends on values of the arrays, so all functions can
be traced and compiled.

**Errors.**  A TypeError is raised for arrays that are not floating, or not of one
library; a ValueError for arrays that are empty or whose shapes do not fit each other,
and for a parameter that is out of its range.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from numbers import Integral, Real
from typing import Any, Literal, overload

from skvq._typing import ArrayT, Number, Size
from skvq.nearest.backends.arrays import (
    array_namespace,
    astype,
    concat,
    is_floating,
    stop_gradient,
)

__all__ = [
    "bsq_entropy_loss",
    "codebook_loss",
    "commitment_loss",
    "diversity_loss",
    "lfq_entropy_loss",
    "orthogonality_loss",
    "partial_sum_loss",
    "perplexity_loss",
    "rotation_trick",
    "rotation_trick_gradient",
    "straight_through",
    "straight_through_gradient",
    "vq_loss",
]

# A bit with a logit beyond this, of either sign, is sure: exp is 0 in every dtype.
_LARGEST_LOGIT = 1e4
# Elements in the tables of bit patterns of a row tile.
_TILE_ELEMENTS = 2**22
# At this size the table of mean probabilities has 2**24 entries.
_MAX_GROUP_SIZE = 24


# -- squared errors ----------------------------------------------------------------


@overload
def codebook_loss(
    X: ArrayT, X_quant: ArrayT, *, return_grad: Literal[False] = False
) -> ArrayT: ...
@overload
def codebook_loss(
    X: ArrayT, X_quant: ArrayT, *, return_grad: Literal[True]
) -> tuple[ArrayT, ArrayT, ArrayT]: ...
def codebook_loss(X: Any, X_quant: Any, *, return_grad: bool = False) -> Any:
    r"""Squared error that moves the codewords towards the samples.

    .. math::
        L = \frac1n \sum_i \lVert \mathrm{sg}[x_i] - q_i \rVert^2, \qquad
        \frac{\partial L}{\partial x_i} = 0, \qquad
        \frac{\partial L}{\partial q_i} = \frac2n (q_i - x_i)

    `skvq.losses` states the shapes, the precision and the errors.

    Parameters
    ----------
    X : array of shape (..., n_features)
        Encoder outputs x.
    X_quant : array of shape (..., n_features)
        Their codewords q.
    return_grad : bool, default=False
        Whether to return the gradients as well.

    Returns
    -------
    loss : array of shape ()
        The loss.
    grad_X, grad_X_quant : arrays of shape (..., n_features)
        Its gradients; only with `return_grad`.

    References
    ----------
    van den Oord, Vinyals and Kavukcuoglu (2017), "Neural Discrete Representation
    Learning", eq. 3, second term, arXiv 1711.00937.

    Examples
    --------
    >>> import numpy as np
    >>> from skvq.losses import codebook_loss
    >>> X, X_quant = np.array([[1.0, 2.0], [0.0, 0.0]]), np.array([[0.0, 2.0]] * 2)
    >>> loss, grad_X, grad_X_quant = codebook_loss(X, X_quant, return_grad=True)
    >>> float(loss)
    2.5
    >>> grad_X_quant.tolist()
    [[-1.0, 0.0], [0.0, 2.0]]
    """
    return _pair_loss(X, X_quant, 1.0, 0.0, return_grad)


@overload
def commitment_loss(
    X: ArrayT, X_quant: ArrayT, *, return_grad: Literal[False] = False
) -> ArrayT: ...
@overload
def commitment_loss(
    X: ArrayT, X_quant: ArrayT, *, return_grad: Literal[True]
) -> tuple[ArrayT, ArrayT, ArrayT]: ...
def commitment_loss(X: Any, X_quant: Any, *, return_grad: bool = False) -> Any:
    r"""Squared error that moves the encoder's outputs towards their codewords.

    .. math::
        L = \frac1n \sum_i \lVert x_i - \mathrm{sg}[q_i] \rVert^2, \qquad
        \frac{\partial L}{\partial x_i} = \frac2n (x_i - q_i), \qquad
        \frac{\partial L}{\partial q_i} = 0

    `skvq.losses` states the shapes, the precision and the errors.

    Parameters
    ----------
    X : array of shape (..., n_features)
        Encoder outputs x.
    X_quant : array of shape (..., n_features)
        Their codewords q.
    return_grad : bool, default=False
        Whether to return the gradients as well.

    Returns
    -------
    loss : array of shape ()
        The loss.
    grad_X, grad_X_quant : arrays of shape (..., n_features)
        Its gradients; only with `return_grad`.

    References
    ----------
    van den Oord, Vinyals and Kavukcuoglu (2017), "Neural Discrete Representation
    Learning", eq. 3, third term, arXiv 1711.00937.

    Examples
    --------
    >>> import numpy as np
    >>> from skvq.losses import commitment_loss
    >>> X, X_quant = np.array([[1.0, 2.0], [0.0, 0.0]]), np.array([[0.0, 2.0]] * 2)
    >>> loss, grad_X, grad_X_quant = commitment_loss(X, X_quant, return_grad=True)
    >>> grad_X.tolist()
    [[1.0, 0.0], [0.0, -2.0]]
    """
    return _pair_loss(X, X_quant, 0.0, 1.0, return_grad)


@overload
def vq_loss(
    X: ArrayT,
    X_quant: ArrayT,
    *,
    beta: Number = ...,
    return_grad: Literal[False] = False,
) -> ArrayT: ...
@overload
def vq_loss(
    X: ArrayT, X_quant: ArrayT, *, beta: Number = ..., return_grad: Literal[True]
) -> tuple[ArrayT, ArrayT, ArrayT]: ...
def vq_loss(
    X: Any, X_quant: Any, *, beta: Number = 0.25, return_grad: bool = False
) -> Any:
    r"""Codebook loss plus `beta` times commitment loss.

    .. math::
        L = \frac1n \sum_i \lVert \mathrm{sg}[x_i] - q_i \rVert^2
            + \frac\beta n \sum_i \lVert x_i - \mathrm{sg}[q_i] \rVert^2, \qquad
        \frac{\partial L}{\partial x_i} = \frac{2\beta}n (x_i - q_i), \qquad
        \frac{\partial L}{\partial q_i} = \frac2n (q_i - x_i)

    `skvq.losses` states the shapes, the precision and the errors.

    Parameters
    ----------
    X : array of shape (..., n_features)
        Encoder outputs x.
    X_quant : array of shape (..., n_features)
        Their codewords q.
    beta : float, default=0.25
        Weight of the commitment loss.
    return_grad : bool, default=False
        Whether to return the gradients as well.

    Returns
    -------
    loss : array of shape ()
        The loss.
    grad_X, grad_X_quant : arrays of shape (..., n_features)
        Its gradients; only with `return_grad`.

    References
    ----------
    van den Oord, Vinyals and Kavukcuoglu (2017), "Neural Discrete Representation
    Learning", eq. 3, second and third terms, arXiv 1711.00937.

    Examples
    --------
    >>> import numpy as np
    >>> from skvq.losses import vq_loss
    >>> float(vq_loss(np.array([[1.0, 2.0]]), np.array([[0.0, 0.0]])))
    6.25
    """
    _check_number(beta, "beta")
    return _pair_loss(X, X_quant, 1.0, beta, return_grad)


@overload
def partial_sum_loss(
    X: ArrayT,
    partial_sums: ArrayT,
    *,
    stage_weights: Sequence[Number] | None = ...,
    beta: Number = ...,
    codebook_weight: Number = ...,
    return_grad: Literal[False] = False,
) -> ArrayT: ...
@overload
def partial_sum_loss(
    X: ArrayT,
    partial_sums: ArrayT,
    *,
    stage_weights: Sequence[Number] | None = ...,
    beta: Number = ...,
    codebook_weight: Number = ...,
    return_grad: Literal[True],
) -> tuple[ArrayT, ArrayT, ArrayT]: ...
def partial_sum_loss(
    X: Any,
    partial_sums: Any,
    *,
    stage_weights: Sequence[Number] | None = None,
    beta: Number = 0.25,
    codebook_weight: Number = 1.0,
    return_grad: bool = False,
) -> Any:
    r"""Squared errors after every stage of a residual quantizer.

    With the partial sums :math:`\hat x_s`, the reconstructions of the first s stages:

    .. math::
        L = \sum_s w_s \frac1n \sum_i \left(
            \alpha \lVert \mathrm{sg}[x_i] - \hat x_{s,i} \rVert^2
            + \beta \lVert x_i - \mathrm{sg}[\hat x_{s,i}] \rVert^2 \right)

    .. math::
        \frac{\partial L}{\partial x_i}
            = \frac{2\beta}n \sum_s w_s (x_i - \hat x_{s,i}), \qquad
        \frac{\partial L}{\partial \hat x_{s,i}}
            = \frac{2\alpha}n w_s (\hat x_{s,i} - x_i)

    The default weights, 1 / n_stages each, give the mean over the stages, which is the
    loss of VAR.  RQ-VAE, whose tables follow moving averages, has
    ``codebook_weight=0``.  The default weights then give the commitment loss of its
    published training code (rq-vae-transformer), a mean; ``stage_weights=[1] *
    n_stages`` give that of the paper, a sum.

    `skvq.losses` states the shapes, the precision and the errors.

    Parameters
    ----------
    X : array of shape (..., n_features)
        Encoder outputs x.
    partial_sums : array of shape (n_stages, ..., n_features)
        Reconstructions after stage 1, 2, ..., n_stages; the codewords of each stage are
        their differences.
    stage_weights : sequence of float, optional
        Weights w_s, which are not normalised: ones give the sum over the stages.  By
        default 1 / n_stages each, for the mean.
    beta : float, default=0.25
        Weight of the commitment terms.
    codebook_weight : float, default=1.0
        Weight :math:`\alpha` of the codebook terms.
    return_grad : bool, default=False
        Whether to return the gradients as well.

    Returns
    -------
    loss : array of shape ()
        The loss.
    grad_X : array of shape (..., n_features)
        Its gradient with respect to X; only with `return_grad`.
    grad_partial_sums : array of shape (n_stages, ..., n_features)
        Its gradient with respect to the partial sums; only with `return_grad`.  The
        gradient for the codewords of stage j is its sum over s >= j.

    Notes
    -----
    The value equals that of the stagewise loss
    :math:`\lVert r_{s-1} - w_s \rVert^2`, since
    :math:`r_{s-1} - w_s = x - \hat x_s`.  The gradients differ: here a stage also
    learns from the errors of later stages.

    References
    ----------
    Lee, Kim, Kim, Cho and Han (2022), "Autoregressive Image Generation using Residual
    Quantization" (RQ-VAE), arXiv 2203.01941.

    Tian, Jiang, Yuan, Peng and Wang (2024), "Visual Autoregressive Modeling: Scalable
    Image Generation via Next-Scale Prediction" (VAR), arXiv 2404.02905.

    Examples
    --------
    >>> import numpy as np
    >>> from skvq.losses import partial_sum_loss
    >>> X = np.array([[4.0, 0.0]])
    >>> partial_sums = np.array([[[2.0, 0.0]], [[3.0, 0.0]]])
    >>> float(partial_sum_loss(X, partial_sums))
    3.125
    """
    _check_number(beta, "beta")
    _check_number(codebook_weight, "codebook_weight")
    xp, (X, partial_sums), dtypes = _check_arrays(X=X, partial_sums=partial_sums)
    if tuple(partial_sums.shape[1:]) != tuple(X.shape):
        raise ValueError(
            f"partial_sums has shape {tuple(partial_sums.shape)}; expected (n_stages, "
            f"*X.shape), X having shape {tuple(X.shape)}."
        )
    weights = _check_stage_weights(stage_weights, partial_sums.shape[0])
    terms = [
        weight * _pair_value(xp, X, partial_sums[s, ...], codebook_weight, beta)
        for s, weight in enumerate(weights)
    ]
    loss = _as_loss(xp, sum(terms[1:], start=terms[0]), X)
    if not return_grad:
        return loss
    pairs = [
        _pair_gradients(xp, X, partial_sums[s, ...], w * codebook_weight, w * beta)
        for s, w in enumerate(weights)
    ]
    grad_X = sum((grad for grad, _ in pairs[1:]), start=pairs[0][0])
    grad_partial_sums = xp.stack([grad for _, grad in pairs])
    return _cast_gradients(xp, loss, (grad_X, grad_partial_sums), dtypes)


def _pair_loss(
    X: Any, X_quant: Any, codebook: Number, commitment: Number, return_grad: bool
) -> Any:
    xp, (X, X_quant), dtypes = _check_pair(X, X_quant)
    loss = _as_loss(xp, _pair_value(xp, X, X_quant, codebook, commitment), X)
    if not return_grad:
        return loss
    gradients = _pair_gradients(xp, X, X_quant, codebook, commitment)
    return _cast_gradients(xp, loss, gradients, dtypes)


def _pair_value(
    xp: Any, X: Any, X_quant: Any, codebook: Number, commitment: Number
) -> Any:
    terms = []
    if codebook:
        error = stop_gradient(X) - X_quant
        terms.append(codebook / _n_samples(X) * xp.sum(error * error))
    if commitment or not terms:
        error = X - stop_gradient(X_quant)
        terms.append(commitment / _n_samples(X) * xp.sum(error * error))
    return sum(terms[1:], start=terms[0])


def _pair_gradients(
    xp: Any, X: Any, X_quant: Any, codebook: Number, commitment: Number
) -> tuple[Any, Any]:
    X, X_quant = stop_gradient(X), stop_gradient(X_quant)
    step = 2.0 / _n_samples(X)
    nothing = xp.zeros_like(X)
    return (
        commitment * step * (X - X_quant) if commitment else nothing,
        codebook * step * (X_quant - X) if codebook else nothing,
    )


# -- entropies of bits -------------------------------------------------------------


@overload
def lfq_entropy_loss(
    X: ArrayT,
    *,
    inverse_temperature: Number = ...,
    scale: Number = ...,
    gamma: Number = ...,
    group_size: Size = ...,
    return_grad: Literal[False] = False,
) -> ArrayT: ...
@overload
def lfq_entropy_loss(
    X: ArrayT,
    *,
    inverse_temperature: Number = ...,
    scale: Number = ...,
    gamma: Number = ...,
    group_size: Size = ...,
    return_grad: Literal[True],
) -> tuple[ArrayT, ArrayT]: ...
def lfq_entropy_loss(
    X: Any,
    *,
    inverse_temperature: Number = 100.0,
    scale: Number = 1.0,
    gamma: Number = 1.0,
    group_size: Size = 18,
    return_grad: bool = False,
) -> Any:
    r"""Entropy loss of lookup-free quantization, for sure bits and even use of codes.

    Over the codewords :math:`c \in \{-s, s\}^L` and with the inverse temperature
    :math:`\tau`:

    .. math::
        p(c \mid x) = \mathrm{softmax}_c(2 \tau\, x \cdot c), \qquad
        L = \frac1n \sum_i H(p(\cdot \mid x_i))
            - \gamma\, H\!\left(\frac1n \sum_i p(\cdot \mid x_i)\right)

    The bits of a sample are independent, with the logits :math:`z = 4 \tau s x`.  So
    the first term is a sum over the bits, of the binary entropy :math:`H_b` of
    :math:`\pi = \sigma(z)`.  The mean over the samples does not factorise: its
    probabilities are all enumerated, as one matrix product of the two halves of the
    bits.  Beyond `group_size` bits, its entropy is replaced by the sum over groups of
    bits, an upper bound.  With m the number of groups, g(j) the group of bit j, and
    :math:`\bar p_g` the mean over the samples of the probabilities of the codes c of
    group g:

    .. math::
        L = \frac1n \sum_{i,j} H_b(\sigma(z_{ij})) - \gamma \sum_{g=1}^m H(\bar p_g)

    .. math::
        \frac{\partial L}{\partial x_{ij}} = \frac{4 \tau s}n \left(
            -z_{ij}\, \pi_{ij} (1 - \pi_{ij})
            + \gamma \sum_c p_{g(j)}(c \mid x_i) (b_j(c) - \pi_{ij})
              \log \bar p_{g(j)}(c) \right)

    where :math:`b_j(c)` is 1 if codeword c is positive in feature j, else 0.

    `skvq.losses` states the shapes, the precision and the errors.

    Parameters
    ----------
    X : array of shape (..., n_bits)
        Encoder outputs x, one feature for each bit.
    inverse_temperature : float, default=100.0
        :math:`\tau`.
    scale : float, default=1.0
        s, the size of the codewords' entries.
    gamma : float, default=1.0
        Weight :math:`\gamma` of the entropy of the mean.
    group_size : int, default=18
        Number of bits enumerated together, at most 24.  More bits are split into as few
        groups of consecutive bits as possible, as `numpy.array_split` does.
    return_grad : bool, default=False
        Whether to return the gradient as well.

    Returns
    -------
    loss : array of shape ()
        The loss, in nats.
    grad_X : array of shape (..., n_bits)
        Its gradient; only with `return_grad`.

    See Also
    --------
    bsq_entropy_loss : The same loss on the unit sphere.

    References
    ----------
    Yu, Lezama et al. (2023), "Language Model Beats Diffusion: Tokenizer is Key to
    Visual Generation" (MAGVIT-v2), arXiv 2310.05737.

    Examples
    --------
    Sure bits and even use of all four codes give the minimum, -log 4:

    >>> import numpy as np
    >>> from skvq.losses import lfq_entropy_loss
    >>> X = np.array([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    >>> round(float(lfq_entropy_loss(X)), 6)
    -1.386294
    """
    _check_number(inverse_temperature, "inverse_temperature", positive=True)
    _check_number(scale, "scale", positive=True)
    xp, (X,), dtypes = _check_arrays(X=X)
    slope = 4.0 * inverse_temperature * scale
    # Clipping avoids the product of an infinite logit and a probability of 0.
    limit = min(_LARGEST_LOGIT / slope, float(xp.finfo(X.dtype).max))
    limit = limit * xp.ones_like(X)
    X = xp.where(X > limit, limit, xp.where(X < -limit, -limit, X))
    loss, gradient = _bit_entropy_loss(xp, slope * X, gamma, group_size, return_grad)
    if not return_grad:
        return loss
    return _cast_gradients(xp, loss, (slope * gradient,), dtypes)


@overload
def bsq_entropy_loss(
    X: ArrayT,
    *,
    inverse_temperature: Number = ...,
    gamma: Number = ...,
    group_size: Size = ...,
    return_grad: Literal[False] = False,
) -> ArrayT: ...
@overload
def bsq_entropy_loss(
    X: ArrayT,
    *,
    inverse_temperature: Number = ...,
    gamma: Number = ...,
    group_size: Size = ...,
    return_grad: Literal[True],
) -> tuple[ArrayT, ArrayT]: ...
def bsq_entropy_loss(
    X: Any,
    *,
    inverse_temperature: Number = 1.0,
    gamma: Number = 1.0,
    group_size: Size = 9,
    return_grad: bool = False,
) -> Any:
    r"""Entropy loss of binary spherical quantization, for sure bits and even use.

    Over the codewords :math:`c \in \{\pm 1/\sqrt L\}^L`, with :math:`u = x/\lVert x
    \rVert` and the inverse temperature :math:`\tau`:

    .. math::
        p(c \mid x) = \mathrm{softmax}_c(-\tau \lVert u - c \rVert^2)
                    = \mathrm{softmax}_c(2 \tau\, u \cdot c)

    It is `lfq_entropy_loss` of u with the scale :math:`1/\sqrt L`: the bits of a sample
    are independent with the logits :math:`z = 4 \tau u / \sqrt L`, and

    .. math::
        L = \frac1n \sum_{i,j} H_b(\sigma(z_{ij})) - \gamma \sum_{g=1}^m H(\bar p_g)

    .. math::
        \frac{\partial L}{\partial x_i} = \frac1{\lVert x_i \rVert}
            \left( v_i - (v_i \cdot u_i) u_i \right), \qquad
        v_i = \frac{\partial L}{\partial u_i}

    A row of zeros, which has no direction, counts as u = 0, with the gradient v.

    `skvq.losses` states the shapes, the precision and the errors.

    Parameters
    ----------
    X : array of shape (..., n_bits)
        Encoder outputs x, one feature for each bit, of any norm.
    inverse_temperature : float, default=1.0
        :math:`\tau`.  The published training code divides the loss by it.
    gamma : float, default=1.0
        Weight :math:`\gamma` of the entropy of the mean.
    group_size : int, default=9
        Number of bits enumerated together, at most 24.  The entropy of more bits is
        replaced by an upper bound, as in `lfq_entropy_loss`.
    return_grad : bool, default=False
        Whether to return the gradient as well.

    Returns
    -------
    loss : array of shape ()
        The loss, in nats.
    grad_X : array of shape (..., n_bits)
        Its gradient; only with `return_grad`.

    See Also
    --------
    lfq_entropy_loss : The same loss without the sphere, with all formulas.

    References
    ----------
    Zhao, Xiong and Krähenbühl (2024), "Image and Video Tokenization with Binary
    Spherical Quantization", arXiv 2406.07548.

    Examples
    --------
    >>> import numpy as np
    >>> from skvq.losses import bsq_entropy_loss
    >>> X = np.array([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    >>> round(float(bsq_entropy_loss(X, inverse_temperature=100.0)), 6)
    -1.386294
    """
    _check_number(inverse_temperature, "inverse_temperature", positive=True)
    xp, (X,), dtypes = _check_arrays(X=X)
    slope = 4.0 * inverse_temperature / math.sqrt(X.shape[-1])
    directions, norms = _unit_rows(xp, X)
    loss, gradient = _bit_entropy_loss(
        xp, slope * directions, gamma, group_size, return_grad
    )
    if not return_grad:
        return loss
    gradient = _through_norm(xp, slope * gradient, directions, norms)
    return _cast_gradients(xp, loss, (gradient,), dtypes)


def _bit_entropy_loss(
    xp: Any, logits: Any, gamma: Any, group_size: Any, return_grad: bool
) -> tuple[Any, Any]:
    """Return the loss of independent bits, and its gradient or None."""
    _check_number(gamma, "gamma")
    if (
        not isinstance(group_size, Integral)
        or not 1 <= int(group_size) <= _MAX_GROUP_SIZE
    ):
        raise ValueError(
            f"group_size must be an integer from 1 to {_MAX_GROUP_SIZE}, got "
            f"{group_size!r}."
        )
    shape = logits.shape
    logits = xp.reshape(logits, (-1, shape[-1]))
    n_samples = logits.shape[0]
    groups = _groups(shape[-1], int(group_size))
    means = [_mean_probabilities(xp, logits[:, bits]) for bits in groups]
    loss = xp.sum(_binary_entropy(xp, logits)) / n_samples
    for mean in means:
        loss = loss - gamma * _entropy(xp, mean)
    loss = _as_loss(xp, loss, logits)
    if not return_grad:
        return loss, None
    logits = stop_gradient(logits)
    negative, positive = _bit_probabilities(xp, logits)
    of_means = [
        _codebook_gradient(xp, logits[:, bits], stop_gradient(mean))
        for bits, mean in zip(groups, means, strict=True)
    ]
    gradient = -logits * negative * positive / n_samples
    gradient = gradient - gamma * concat(xp, of_means, axis=1)
    return loss, xp.reshape(gradient, shape)


def _groups(n_bits: int, group_size: int) -> list[slice]:
    """Cut the bits as evenly as possible into as few groups as possible."""
    n_groups = -(-n_bits // group_size)
    width, wider = divmod(n_bits, n_groups)
    borders = [width * g + min(g, wider) for g in range(n_groups + 1)]
    return [slice(a, b) for a, b in pairwise(borders)]


def _signed(xp: Any, logits: Any) -> tuple[Any, Any, Any]:
    """Return a mask of the positive logits, and exp(-|logit|), which cannot overflow.

    |logit| is computed from the same mask and not by `abs`: at 0, where `abs` has no
    derivative, automatic differentiation must follow one branch in all expressions.
    """
    positive = logits > 0
    size = xp.where(positive, logits, -logits)
    return positive, size, xp.exp(-size)


def _bit_probabilities(xp: Any, logits: Any) -> tuple[Any, Any]:
    """Return the probabilities of -1 and +1, both without cancellation."""
    positive, _, small = _signed(xp, logits)
    large, small = 1 / (1 + small), small / (1 + small)
    return xp.where(positive, small, large), xp.where(positive, large, small)


def _binary_entropy(xp: Any, logits: Any) -> Any:
    _, size, small = _signed(xp, logits)
    return xp.log1p(small) + size * small / (1 + small)


def _entropy(xp: Any, p: Any) -> Any:
    return -xp.sum(p * _safe_log(xp, p))


def _safe_log(xp: Any, p: Any) -> Any:
    """Return log p, and 0 where p is 0, also under automatic differentiation."""
    return xp.log(xp.where(p > 0, p, xp.ones_like(p)))


def _entropy_gradient(xp: Any, p: Any) -> Any:
    """Return the gradient of `_entropy`; 0 where p is 0, the limit of its product."""
    return xp.where(p > 0, -_safe_log(xp, p) - 1, xp.zeros_like(p))


def _mean_probabilities(xp: Any, logits: Any) -> Any:
    """Return the mean probability of each bit pattern (2**left, 2**right).

    The probability of a pattern is a product of one factor from each half of the bits,
    so that the sum over the samples is a matrix product of the factors: no table of
    samples times patterns is ever built.
    """
    total = None
    for rows in _row_tiles(logits):
        left, right = _half_patterns(xp, logits[rows, :])
        found = xp.matmul(left.T, right)
        total = found if total is None else total + found
    return total / logits.shape[0]


def _codebook_gradient(xp: Any, logits: Any, mean: Any) -> Any:
    """Return the gradient of the entropy of the mean with respect to the logits."""
    upstream = _entropy_gradient(xp, mean) / logits.shape[0]
    tiles = []
    for rows in _row_tiles(logits):
        left, right = _half_patterns(xp, logits[rows, :])
        columns = [
            *_bit_sums(xp, left * xp.matmul(right, upstream.T)),
            *_bit_sums(xp, right * xp.matmul(left, upstream)),
        ]
        both = xp.stack([total for _, total in columns], axis=1)
        ones = xp.stack([one for one, _ in columns], axis=1)
        positive = _bit_probabilities(xp, logits[rows, :])[1]
        tiles.append(ones - positive * both)
    return concat(xp, tiles, axis=0)


def _row_tiles(logits: Any) -> Iterator[slice]:
    n_samples, n_bits = logits.shape
    size = max(1, _TILE_ELEMENTS >> (n_bits - n_bits // 2))
    for start in range(0, n_samples, size):
        yield slice(start, min(start + size, n_samples))


def _half_patterns(xp: Any, logits: Any) -> tuple[Any, Any]:
    """Return the probabilities of the patterns of either half of the bits."""
    negative, positive = _bit_probabilities(xp, logits)
    half = logits.shape[1] // 2
    return (
        _patterns(xp, negative[:, :half], positive[:, :half], logits),
        _patterns(xp, negative[:, half:], positive[:, half:], logits),
    )


def _patterns(xp: Any, negative: Any, positive: Any, logits: Any) -> Any:
    """Return the probability of each bit pattern, the last bit least significant."""
    table = xp.ones_like(logits[:, :1])
    for bit in range(negative.shape[1]):
        pair = [table * p[:, bit : bit + 1] for p in (negative, positive)]
        table = xp.reshape(xp.stack(pair, axis=-1), (table.shape[0], -1))
    # This keeps products of two entries normal: subnormal numbers make matrix products
    # a hundred times slower, and are negligible beside a total of 1.
    floor = float(xp.finfo(table.dtype).smallest_normal) ** 0.5
    return xp.where(table < floor, xp.zeros_like(table), table)


def _bit_sums(xp: Any, table: Any) -> Iterator[tuple[Any, Any]]:
    """Yield for each bit the sums over the patterns with it set, and over all."""
    n_samples, n_patterns = table.shape
    total = xp.sum(table, axis=1)
    for bit in range(n_patterns.bit_length() - 1):
        split = xp.reshape(table, (n_samples, 2**bit, 2, -1))
        yield xp.sum(split[:, :, 1, :], axis=(1, 2)), total


# -- codebooks and their use -------------------------------------------------------


@overload
def orthogonality_loss(
    codebook: ArrayT, *, return_grad: Literal[False] = False
) -> ArrayT: ...
@overload
def orthogonality_loss(
    codebook: ArrayT, *, return_grad: Literal[True]
) -> tuple[ArrayT, ArrayT]: ...
def orthogonality_loss(codebook: Any, *, return_grad: bool = False) -> Any:
    r"""Mean squared cosine between different codewords.

    .. math::
        L = \frac1{V^2} \sum_{i \ne j} \cos^2(c_i, c_j)
          = \frac1{V^2} \lVert \hat C \hat C^T - D \rVert_F^2

    with the rows :math:`\hat c_i = c_i / \lVert c_i \rVert` of :math:`\hat C`, D the
    diagonal of :math:`\hat C \hat C^T`, and

    .. math::
        \frac{\partial L}{\partial c_i} = \frac1{\lVert c_i \rVert}
            \left( v_i - (v_i \cdot \hat c_i) \hat c_i \right), \qquad
        v_i = \frac4{V^2} \sum_j \cos(c_i, c_j) \hat c_j

    A codeword of zeros has no direction: its cosines are 0, and so is its entry of D.
    All other entries of D are 1.  Without zero codewords, L is the published loss, a
    sum over all i and j, minus 1/V.

    `skvq.losses` states the shapes, the precision and the errors.

    Parameters
    ----------
    codebook : array of shape (n_codewords, n_features)
        The table of codewords c.
    return_grad : bool, default=False
        Whether to return the gradient as well.

    Returns
    -------
    loss : array of shape ()
        The loss, from 0 (all orthogonal) to 1 - 1/V (all parallel).
    grad_codebook : array of shape (n_codewords, n_features)
        Its gradient; only with `return_grad`.

    References
    ----------
    Shin, Lee, Lee, Lee and Choi (2023), "Exploration into Translation-Equivariant Image
    Quantization", arXiv 2112.00384.

    Examples
    --------
    >>> import numpy as np
    >>> from skvq.losses import orthogonality_loss
    >>> float(orthogonality_loss(np.array([[3.0, 0.0], [0.0, 0.5]])))
    0.0
    >>> float(orthogonality_loss(np.array([[3.0, 0.0], [-1.0, 0.0]])))
    0.5
    """
    xp, (codebook,), dtypes = _check_arrays(codebook=codebook)
    if codebook.ndim != 2:
        raise ValueError(
            f"codebook has shape {tuple(codebook.shape)}; expected (n_codewords, "
            "n_features)."
        )
    size, n_features = codebook.shape
    unit, norms = _unit_rows(xp, codebook)
    # Both Gram matrices have the same norm; the smaller one is built.
    gram = xp.matmul(unit, unit.T) if size < n_features else xp.matmul(unit.T, unit)
    # The diagonal with its rounding errors; it does not depend on the codebook.
    own = stop_gradient(_dot(xp, unit, unit))
    loss = (xp.sum(gram * gram) - xp.sum(own * own)) / size**2
    loss = _as_loss(xp, xp.where(loss > 0, loss, xp.zeros_like(loss)), gram)
    if not return_grad:
        return loss
    unit, gram = stop_gradient(unit), stop_gradient(gram)
    gradient = xp.matmul(gram, unit) if size < n_features else xp.matmul(unit, gram)
    gradient = _through_norm(xp, 4 / size**2 * gradient, unit, norms)
    return _cast_gradients(xp, loss, (gradient,), dtypes)


@overload
def diversity_loss(
    probabilities: ArrayT, *, return_grad: Literal[False] = False
) -> ArrayT: ...
@overload
def diversity_loss(
    probabilities: ArrayT, *, return_grad: Literal[True]
) -> tuple[ArrayT, ArrayT]: ...
def diversity_loss(probabilities: Any, *, return_grad: bool = False) -> Any:
    r"""Negative entropy of the mean use of the codewords.

    With the mean :math:`\bar p_{gv} = \frac1n \sum_i p_{igv}` over n samples, for G
    groups of V codewords:

    .. math::
        L = \frac1{GV} \sum_{g,v} \bar p_{gv} \log \bar p_{gv}, \qquad
        \frac{\partial L}{\partial p_{igv}} = \frac{\log \bar p_{gv} + 1}{n G V}

    `skvq.losses` states the shapes, the precision and the errors.

    Parameters
    ----------
    probabilities : array of shape (n_samples, n_codewords) or \
            (n_samples, n_groups, n_codewords)
        Soft assignments p, such as a softmax over the codewords; their sums are not
        checked.
    return_grad : bool, default=False
        Whether to return the gradient as well.

    Returns
    -------
    loss : array of shape ()
        The loss, from -log(V) / V (even use of all codewords) to 0 (only one in use).
    grad_probabilities : array of the shape of `probabilities`
        Its gradient; only with `return_grad`.  It is 0 for a codeword whose mean is 0,
        the limit of :math:`p \log p` through any softmax.

    See Also
    --------
    perplexity_loss : The same by perplexity, from 0 to 1 - 1/V.
    skvq.metrics.code_entropy : The entropy of hard assignments, in bits.

    References
    ----------
    Baevski, Zhou, Mohamed and Auli (2020), "wav2vec 2.0: A Framework for
    Self-Supervised Learning of Speech Representations", eq. 4, arXiv 2006.11477.

    Examples
    --------
    >>> import numpy as np
    >>> from skvq.losses import diversity_loss
    >>> round(float(diversity_loss(np.eye(4))), 6)
    -0.346574
    """
    xp, (probabilities,), dtypes = _check_probabilities(probabilities)
    mean = xp.mean(probabilities, axis=0)
    count = math.prod(mean.shape)
    loss = _as_loss(xp, -_entropy(xp, mean) / count, mean)
    if not return_grad:
        return loss
    row = -_entropy_gradient(xp, stop_gradient(mean)) / (count * probabilities.shape[0])
    return _cast_gradients(xp, loss, (_repeat(xp, row, probabilities),), dtypes)


@overload
def perplexity_loss(
    probabilities: ArrayT, *, return_grad: Literal[False] = False
) -> ArrayT: ...
@overload
def perplexity_loss(
    probabilities: ArrayT, *, return_grad: Literal[True]
) -> tuple[ArrayT, ArrayT]: ...
def perplexity_loss(probabilities: Any, *, return_grad: bool = False) -> Any:
    r"""Share of the codewords that are idle, by the perplexity of the mean use.

    With the mean :math:`\bar p_{gv} = \frac1n \sum_i p_{igv}` over n samples, for G
    groups of V codewords, and the entropy :math:`H_g = -\sum_v \bar p_{gv} \log
    \bar p_{gv}`:

    .. math::
        L = 1 - \frac1{GV} \sum_g \exp(H_g), \qquad
        \frac{\partial L}{\partial p_{igv}}
            = \frac{\exp(H_g) (\log \bar p_{gv} + 1)}{n G V}

    `skvq.losses` states the shapes, the precision and the errors.

    Parameters
    ----------
    probabilities : array of shape (n_samples, n_codewords) or \
            (n_samples, n_groups, n_codewords)
        Soft assignments p, such as a softmax over the codewords; their sums are not
        checked.
    return_grad : bool, default=False
        Whether to return the gradient as well.

    Returns
    -------
    loss : array of shape ()
        The loss, from 0 (even use of all codewords) to 1 - 1/V (only one in use).
    grad_probabilities : array of the shape of `probabilities`
        Its gradient; only with `return_grad`.  It is 0 for a codeword whose mean is 0.

    See Also
    --------
    diversity_loss : The same by entropy.
    skvq.metrics.perplexity : The perplexity of hard assignments.

    References
    ----------
    Jelinek, Mercer, Bahl and Baker (1977), "Perplexity: a measure of the difficulty of
    speech recognition tasks", doi:10.1121/1.2016299.  As a loss, it is in the published
    code of wav2vec 2.0.

    Examples
    --------
    >>> import numpy as np
    >>> from skvq.losses import perplexity_loss
    >>> round(float(perplexity_loss(np.array([[1.0, 0, 0, 0], [0, 1.0, 0, 0]]))), 6)
    0.5
    """
    xp, (probabilities,), dtypes = _check_probabilities(probabilities)
    mean = xp.mean(probabilities, axis=0)
    count = math.prod(mean.shape)
    entropies = -xp.sum(mean * _safe_log(xp, mean), axis=-1, keepdims=True)
    loss = _as_loss(xp, 1 - xp.sum(xp.exp(entropies)) / count, mean)
    # Rounding may make the loss of even use slightly negative; the gradient stays.
    rounding = 8 * float(xp.finfo(mean.dtype).eps) * (1 + math.log(mean.shape[-1]))
    below = stop_gradient(loss)
    below = xp.where((below < 0) & (below > -rounding), below, xp.zeros_like(below))
    loss = loss - below
    if not return_grad:
        return loss
    row = xp.exp(stop_gradient(entropies)) * -_entropy_gradient(xp, stop_gradient(mean))
    row = row / (count * probabilities.shape[0])
    return _cast_gradients(xp, loss, (_repeat(xp, row, probabilities),), dtypes)


def _repeat(xp: Any, row: Any, like: Any) -> Any:
    # A sum instead of a broadcast view, since users may write to a gradient.
    return xp.zeros_like(stop_gradient(like)) + row


# -- across the argmin -------------------------------------------------------------


def straight_through(X: ArrayT, X_quant: ArrayT) -> ArrayT:
    r"""Return the reconstruction, with the gradient of the identity.

    .. math::
        f(x, q) = \mathrm{sg}[q] + x - \mathrm{sg}[x], \qquad
        \frac{\partial L}{\partial x} = \frac{\partial L}{\partial f}, \qquad
        \frac{\partial L}{\partial q} = 0

    `skvq.losses` states the shapes, the precision and the errors.

    Parameters
    ----------
    X : array of shape (..., n_features)
        Encoder outputs x.
    X_quant : array of shape (..., n_features)
        Their reconstructions q.

    Returns
    -------
    output : array of shape (..., n_features)
        Exactly the values of X_quant.

    See Also
    --------
    straight_through_gradient : Its gradient, without automatic differentiation.

    References
    ----------
    Bengio, Léonard and Courville (2013), "Estimating or Propagating Gradients Through
    Stochastic Neurons for Conditional Computation", arXiv 1308.3432.

    Examples
    --------
    >>> import numpy as np
    >>> from skvq.losses import straight_through
    >>> straight_through(np.array([[0.3, 0.1]]), np.array([[0.0, 1.0]])).tolist()
    [[0.0, 1.0]]
    """
    xp, (X, X_quant), dtypes = _check_pair(X, X_quant)
    # x - sg[x] is exactly 0, so that the codewords are not rounded.
    output = stop_gradient(X_quant) + (X - stop_gradient(X))
    return astype(xp, output, dtypes[1])


def straight_through_gradient(
    X: ArrayT, X_quant: ArrayT, grad_output: ArrayT
) -> ArrayT:
    """Map a gradient at the reconstruction to the encoder, unchanged.

    `skvq.losses` states the shapes, the precision and the errors.

    Parameters
    ----------
    X : array of shape (..., n_features)
        Encoder outputs.
    X_quant : array of shape (..., n_features)
        Their reconstructions.
    grad_output : array of shape (..., n_features)
        Gradient of the training objective with respect to the output of
        `straight_through`.

    Returns
    -------
    grad_X : array of shape (..., n_features)
        Its gradient with respect to X.

    Examples
    --------
    >>> import numpy as np
    >>> from skvq.losses import straight_through_gradient
    >>> X, X_quant = np.array([[1.0, 0.0]]), np.array([[0.0, 2.0]])
    >>> straight_through_gradient(X, X_quant, np.array([[3.0, 4.0]])).tolist()
    [[3.0, 4.0]]
    """
    xp, (X, X_quant, grad_output), dtypes = _check_upstream(X, X_quant, grad_output)
    return astype(xp, grad_output, dtypes[0])


def rotation_trick(X: ArrayT, X_quant: ArrayT) -> ArrayT:
    r"""Return the reconstruction, with the gradient of the rotation that leads to it.

    With :math:`\hat x = x / \lVert x \rVert`, :math:`\hat q = q / \lVert q \rVert` and
    :math:`w = (\hat x + \hat q) / \lVert \hat x + \hat q \rVert`, the scaled rotation

    .. math::
        A = \frac{\lVert q \rVert}{\lVert x \rVert}
            \left( I - 2 w w^T + 2 \hat q \hat x^T \right)

    takes x to q.  It is held constant:

    .. math::
        f(x, q) = \mathrm{sg}[q] + \mathrm{sg}[A] (x - \mathrm{sg}[x]), \qquad
        \frac{\partial L}{\partial x} = A^T \frac{\partial L}{\partial f}, \qquad
        \frac{\partial L}{\partial q} = 0

    so that gradients keep their angle to the codeword: samples of one cell are pushed
    apart or together, while the straight-through estimate moves all of them alike.

    Where x is opposite to q, w is 0 and A a reflection; where x is 0, A is the
    identity, as for `straight_through`; where q is 0, so are A and the gradient.

    `skvq.losses` states the shapes, the precision and the errors.

    Parameters
    ----------
    X : array of shape (..., n_features)
        Encoder outputs x.
    X_quant : array of shape (..., n_features)
        Their reconstructions q.

    Returns
    -------
    output : array of shape (..., n_features)
        Exactly the values of X_quant.

    See Also
    --------
    rotation_trick_gradient : Its gradient, without automatic differentiation.

    References
    ----------
    Fifty, Junkins, Duan, Iyengar, Liu, Amid, Thrun and Ré (2024), "Restructuring Vector
    Quantization with the Rotation Trick", arXiv 2410.06424.

    Examples
    --------
    >>> import numpy as np
    >>> from skvq.losses import rotation_trick
    >>> rotation_trick(np.array([[0.3, 0.1]]), np.array([[0.0, 1.0]])).tolist()
    [[0.0, 1.0]]
    """
    xp, (X, X_quant), dtypes = _check_pair(X, X_quant)
    x, q, w, scale = _rotation(xp, stop_gradient(X), stop_gradient(X_quant))
    step = X - stop_gradient(X)
    turned = step - 2 * _dot(xp, w, step) * w + 2 * _dot(xp, x, step) * q
    return astype(xp, stop_gradient(X_quant) + scale * turned, dtypes[1])


def rotation_trick_gradient(X: ArrayT, X_quant: ArrayT, grad_output: ArrayT) -> ArrayT:
    r"""Map a gradient at the reconstruction to the encoder, by the rotation trick.

    .. math::
        \frac{\partial L}{\partial x} = A^T g = \frac{\lVert q \rVert}{\lVert x \rVert}
            \left( g - 2 (w \cdot g) w + 2 (\hat q \cdot g) \hat x \right)

    `skvq.losses` states the shapes, the precision and the errors.

    Parameters
    ----------
    X : array of shape (..., n_features)
        Encoder outputs x.
    X_quant : array of shape (..., n_features)
        Their reconstructions q.
    grad_output : array of shape (..., n_features)
        Gradient g of the training objective with respect to the output of
        `rotation_trick`.

    Returns
    -------
    grad_X : array of shape (..., n_features)
        Its gradient with respect to X.

    See Also
    --------
    rotation_trick : The output, with all formulas and the reference.

    Examples
    --------
    Here the codeword is the sample, rotated by a right angle and doubled:

    >>> import numpy as np
    >>> from skvq.losses import rotation_trick_gradient
    >>> X, X_quant = np.array([[1.0, 0.0]]), np.array([[0.0, 2.0]])
    >>> rotation_trick_gradient(X, X_quant, np.array([[0.0, 1.0]])).round(9).tolist()
    [[2.0, 0.0]]
    """
    xp, (X, X_quant, grad_output), dtypes = _check_upstream(X, X_quant, grad_output)
    x, q, w, scale = _rotation(xp, stop_gradient(X), stop_gradient(X_quant))
    turned = (
        grad_output
        - 2 * _dot(xp, w, grad_output) * w
        + 2 * _dot(xp, q, grad_output) * x
    )
    return astype(xp, scale * turned, dtypes[0])


def _rotation(xp: Any, X: Any, X_quant: Any) -> tuple[Any, Any, Any, Any]:
    """Return the unit vectors x, q and w of the rotation, and the scale."""
    x, x_norms = _unit_rows(xp, X)
    q, q_norms = _unit_rows(xp, X_quant)
    nowhere = x_norms == 0
    w, w_norms = _unit_rows(xp, x + q)
    # For opposite vectors, w is nothing but rounding.  If x has no direction, there is
    # nothing to rotate or scale.
    opposite = w_norms < 8 * float(xp.finfo(w.dtype).eps)
    w = xp.where(nowhere | opposite, xp.zeros_like(w), w)
    scale = q_norms / xp.where(nowhere, xp.ones_like(x_norms), x_norms)
    return x, q, w, xp.where(nowhere, xp.ones_like(scale), scale)


# -- shared by all -----------------------------------------------------------------


def _dot(xp: Any, a: Any, b: Any) -> Any:
    return xp.sum(a * b, axis=-1, keepdims=True)


def _unit_rows(xp: Any, X: Any) -> tuple[Any, Any]:
    """Return X / |X| and |X| (..., 1); rows of zeros stay zero."""
    # Rows divided by their largest entry are neither too small nor too large to square.
    largest = xp.max(xp.abs(stop_gradient(X)), axis=-1, keepdims=True)
    zero = largest == 0
    largest = xp.where(zero, xp.ones_like(largest), largest)
    X = X / largest
    squares = _dot(xp, X, X)
    # The root has no derivative at 0, which matters even where the result is not used.
    norms = xp.sqrt(xp.where(zero, xp.ones_like(squares), squares))
    return X / norms, xp.where(zero, xp.zeros_like(norms), norms * largest)


def _through_norm(xp: Any, gradient: Any, unit: Any, norms: Any) -> Any:
    """Return the gradient at X for a gradient at X / |X|."""
    unit, norms = stop_gradient(unit), stop_gradient(norms)
    tangent = gradient - _dot(xp, gradient, unit) * unit
    return tangent / xp.where(norms == 0, xp.ones_like(norms), norms)


def _n_samples(X: Any) -> int:
    return math.prod(X.shape[:-1])


def _check_arrays(**arrays: Any) -> tuple[Any, list[Any], list[Any]]:
    """Return the namespace, the arrays in the dtype to compute in, and their dtypes."""
    for name, array in arrays.items():
        # Numbers and None have no namespace, and would be accepted with any.
        if not hasattr(array, "dtype"):
            raise TypeError(
                f"{name} is of type {type(array).__name__}, not a supported array type."
            )
    xp = array_namespace(*arrays.values())
    for name, array in arrays.items():
        if not is_floating(xp, array.dtype):
            raise TypeError(f"{name} has dtype {array.dtype}; expected a floating one.")
        if array.ndim < 1 or 0 in array.shape:
            raise ValueError(
                f"{name} has shape {tuple(array.shape)}; expected at least one sample "
                "of at least one feature."
            )
    dtypes = [array.dtype for array in arrays.values()]
    common = xp.float32
    for dtype in dtypes:
        common = xp.result_type(common, dtype)
    return xp, [astype(xp, array, common) for array in arrays.values()], dtypes


def _check_pair(X: Any, X_quant: Any) -> tuple[Any, Any, Any]:
    xp, found, dtypes = _check_arrays(X=X, X_quant=X_quant)
    _check_same_shape(X=X, X_quant=X_quant)
    return xp, found, dtypes


def _check_upstream(X: Any, X_quant: Any, grad_output: Any) -> tuple[Any, Any, Any]:
    xp, found, dtypes = _check_arrays(X=X, X_quant=X_quant, grad_output=grad_output)
    _check_same_shape(X=X, X_quant=X_quant, grad_output=grad_output)
    return xp, found, dtypes


def _check_probabilities(probabilities: Any) -> Any:
    found = _check_arrays(probabilities=probabilities)
    if probabilities.ndim not in (2, 3):
        raise ValueError(
            f"probabilities has shape {tuple(probabilities.shape)}; expected "
            "(n_samples, n_codewords) or (n_samples, n_groups, n_codewords)."
        )
    return found


def _check_same_shape(**arrays: Any) -> None:
    if len({tuple(array.shape) for array in arrays.values()}) > 1:
        shapes = ", ".join(
            f"{name} has shape {tuple(array.shape)}" for name, array in arrays.items()
        )
        raise ValueError(f"{shapes}; expected one shape.")


def _check_number(value: Any, name: str, *, positive: bool = False) -> None:
    low = "above 0" if positive else "0 or more"
    if not isinstance(value, Real) or isinstance(value, bool):
        raise TypeError(f"{name} must be a number, {low}, got {value!r}.")
    number = float(value)
    if not (number > 0 if positive else number >= 0) or math.isinf(number):
        raise ValueError(f"{name} must be finite and {low}, got {value!r}.")


def _check_stage_weights(
    stage_weights: Sequence[Number] | None, n_stages: int
) -> list[float]:
    if stage_weights is None:
        return [1.0 / n_stages] * n_stages
    weights = list(stage_weights)
    if len(weights) != n_stages:
        raise ValueError(
            f"stage_weights has {len(weights)} entries, but there are {n_stages} "
            "stages."
        )
    for s, weight in enumerate(weights):
        _check_number(weight, f"stage_weights[{s}]")
    return [float(weight) for weight in weights]


def _as_loss(xp: Any, loss: Any, like: Any) -> Any:
    # NumPy before 2 turns a float32 scalar and a Python number into float64.
    return astype(xp, loss, like.dtype)


def _cast_gradients(
    xp: Any, loss: Any, gradients: Sequence[Any], dtypes: Sequence[Any]
) -> tuple[Any, ...]:
    """Return the loss and the gradients, each in the dtype of its argument."""
    cast = (astype(xp, g, dtype) for g, dtype in zip(gradients, dtypes, strict=True))
    return loss, *cast
