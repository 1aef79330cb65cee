"""Given codebooks in other libraries; and VAR's quantizer, as torch computes it."""

import numpy as np
import pytest
from arrays.libraries import put
from numpy.testing import assert_allclose, assert_array_equal
from sklearn import config_context
from table import mixture

from skvq import MultiScaleQuantizer, ProductQuantizer
from skvq._arrays import to_host


def test_tables_decide_where_it_is_fitted(xp):
    rng = np.random.default_rng(0)
    tables = [rng.normal(size=(5, 3)).astype(np.float32) for _ in range(2)]
    X = mixture(30, 6)
    with config_context(array_api_dispatch=True):
        own = ProductQuantizer.from_codebooks([put(xp, table) for table in tables])
        assert type(own.codebooks_[0]) is type(put(xp, tables[0]))
        codes = own.transform(put(xp, X))
        assert type(codes) is type(put(xp, X))
    expected = ProductQuantizer.from_codebooks(tables).transform(X)
    assert_array_equal(to_host(codes), expected)


@pytest.mark.parametrize("cosine", [False, True])
def test_the_quantizer_of_visual_autoregressive_models(cosine):
    """By torch's own interpolation and convolution (Tian et al. 2024)."""
    torch = pytest.importorskip("torch")
    nn = torch.nn.functional
    rng = np.random.default_rng(0)
    sides, n_channels, n_smoothers, rho = (1, 2, 3, 5, 8), 4, 4, 0.5
    table = rng.normal(size=(32, n_channels)).astype(np.float32)
    weights = 0.2 * rng.normal(size=(n_smoothers, n_channels, n_channels, 3, 3))
    biases = 0.1 * rng.normal(size=(n_smoothers, n_channels))
    X = np.cumsum(mixture(16, 8 * 8 * n_channels), axis=1) / 8
    own = MultiScaleQuantizer.from_codebooks(
        [table],
        map_shape=(8, 8, n_channels),
        scales=sides,
        smoothing=rho,
        metric="cosine" if cosine else "sqeuclidean",
        kernels=weights.transpose(0, 3, 4, 2, 1),
        biases=biases,
    )
    codebook = torch.from_numpy(table)
    weights = torch.from_numpy(weights.astype(np.float32))
    biases = torch.from_numpy(biases.astype(np.float32))
    ticks = np.linspace(1 / 3 / n_smoothers, 1 - 1 / 3 / n_smoothers, n_smoothers)
    rest = torch.from_numpy(X).reshape(-1, 8, 8, n_channels).permute(0, 3, 1, 2)
    total, codes = torch.zeros_like(rest), []
    for k, side in enumerate(sides):
        last = k == len(sides) - 1
        z = rest if last else nn.interpolate(rest, (side, side), mode="area")
        z = z.permute(0, 2, 3, 1).reshape(-1, n_channels)
        if cosine:
            found = (nn.normalize(z) @ nn.normalize(codebook).T).argmax(dim=1)
        else:
            found = torch.cdist(z.double(), codebook.double()).argmin(dim=1)
        codes.append(found.reshape(len(X), -1))
        h = codebook[found].reshape(len(X), side, side, -1).permute(0, 3, 1, 2)
        if not last:
            h = nn.interpolate(h.contiguous(), (8, 8), mode="bicubic")
        j = np.argmin(np.abs(ticks - k / (len(sides) - 1)))
        smooth = nn.conv2d(h, weights[j], biases[j], padding=1)
        h = (1 - rho) * h + rho * smooth
        rest, total = rest - h, total + h
    assert_array_equal(own.transform(X), torch.cat(codes, dim=1).numpy())
    total = total.permute(0, 2, 3, 1).reshape(len(X), -1).numpy()
    assert_allclose(own.quantize(X), total, atol=1e-4)
    with config_context(array_api_dispatch=True):
        there = own.from_codebooks(
            [codebook],
            map_shape=(8, 8, n_channels),
            scales=sides,
            metric=own.metric,
            kernels=own.kernels_,
            biases=own.biases_,
        ).transform(torch.from_numpy(X))
    assert isinstance(there, torch.Tensor)
    assert_array_equal(there.numpy(), own.transform(X))
