"""Quantizers on other libraries' devices, and as modules of torch."""

import pickle

import numpy as np
import pytest
from arrays.libraries import EMULATED, library_name, load, put
from numpy.testing import assert_allclose, assert_array_equal
from sklearn import config_context
from sklearn.linear_model import LinearRegression
from table import BY_NAME, each, mixture

from skvq import ResidualQuantizer, UniformQuantizer, VectorQuantizer
from skvq._arrays import to_host
from skvq.interop import to_arrays, to_torch
from skvq.nearest import HOST, backend_of


def rows(*names):
    return each([BY_NAME[name] for name in names])


# -- fitted copies on another device ---------------------------------------------------

# A table, parts that are shared, parts in parts, arrays beside tables, and what keeps
# tables of its own.
MOVED = rows(
    *("vq-cosine-ema", "pq-of-shared-pq-ema", "rq-shared", "binary-spherical-learned"),
    *("uniform-quantile", "fsq-cdf", "multiscale-smooth", "aq-exhaustive"),
    *("kronecker-3", "spherical-defaults", "rotated-hadamard", "rotated-pca-cut"),
)


@MOVED
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_there_and_back(other, row):
    if other.__name__ == EMULATED and row.name != "rq-shared":
        pytest.skip("one row is enough beside other libraries")
    X, estimator = row.data(60), row.fitted()
    codes, given = estimator.transform(X), put(other, X)
    there = to_arrays(estimator, other)
    found = there.transform(given)
    decoded = there.inverse_transform(found)
    assert {library_name(a) for a in (found, decoded, *there.codebooks_)} == {
        other.__name__
    }
    assert_array_equal(to_host(found), codes)
    assert_allclose(to_host(decoded), estimator.quantize(X), rtol=1e-5, atol=1e-5)
    assert there.score(given) == pytest.approx(estimator.score(X), rel=1e-5)
    again = to_arrays(there, np)
    for one in (estimator, again):
        assert {backend_of(value) for value in vars(one).values()} == {HOST}
        assert_array_equal(one.transform(X), codes)
    with pytest.raises(ValueError, match="must use the same namespace"):
        again.transform(given)
    # Parts that were one object are one.
    if "shared" in row.name:
        parts = there.quantizers_
        if hasattr(parts[0], "quantizers_"):
            parts = parts[0].quantizers_
        assert parts[0] is parts[-1]


def test_streams_go_on_there():
    torch, X = load("torch"), mixture(120)
    here = VectorQuantizer(4, learning="ema", random_state=0).partial_fit(X[:60])
    there = to_arrays(here, torch)
    here.partial_fit(X[60:])
    there.partial_fit(put(torch, X[60:]))
    assert_allclose(to_host(there.codebooks_[0]), here.codebooks_[0], rtol=1e-5)


def test_devices_are_named():
    torch = load("torch")
    estimator = BY_NAME["pq-even"].fitted()
    there = to_arrays(estimator, torch, device="cpu")
    assert str(there.codebooks_[0].device) == "cpu"
    assert isinstance(to_arrays(estimator, np, device="cpu").codebooks_[0], np.ndarray)
    for xp, device in [(torch, "moon"), (np, "cuda")]:
        with pytest.raises(ValueError, match=f"device='{device}'"):
            to_arrays(estimator, xp, device=device)
    for xp in (list, "torch", None):
        with pytest.raises(ValueError, match="expected a library of arrays"):
            to_arrays(estimator, xp)
    with pytest.raises(ValueError, match="backend='numpy' computes on the host"):
        to_arrays(VectorQuantizer.from_codebooks([X3], backend="numpy"), torch)
    with pytest.raises(TypeError, match="expected a fitted quantizer"):
        to_arrays(LinearRegression(), torch)


X3 = mixture(3, 4)

# -- the rule for codes ----------------------------------------------------------------


def test_codes_follow_the_rule_of_samples(other):
    row = BY_NAME["rq-greedy"]
    estimator, codes = row.fitted(), row.fitted().transform(row.data(5))
    there, given = to_arrays(estimator, other), put(other, codes.astype(np.int64))
    for decode in ("inverse_transform", "staged_inverse_transform"):
        message = rf"ResidualQuantizer\.{decode}\(\).*numpy; codes is one of "
        with pytest.raises(ValueError, match=message + other.__name__):
            list(getattr(estimator, decode)(given))
    # What is not NumPy's needs no permission, where it is that of the tables; codes of
    # the host, as files hold them, are sent there.
    with config_context(array_api_dispatch=False):
        for some in (given, codes, codes.tolist()):
            assert library_name(there.inverse_transform(some)) == other.__name__


def test_without_dispatch_codes_are_read_as_samples_are():
    torch = load("torch")
    estimator = BY_NAME["vq-normal"].fitted()
    codes = torch.asarray([[0], [1]])
    found = estimator.inverse_transform(codes)
    assert_array_equal(found, estimator.codebooks_[0][:2])


def test_remedies_are_true():
    """Each message says what makes the call work."""
    torch = load("torch")
    estimator = BY_NAME["vq-normal"].fitted()
    x = torch.from_numpy(BY_NAME["vq-normal"].data(5))
    of_a_model = x.clone().requires_grad_()
    for X, remedy in [
        (of_a_model, ".detach()"),
        (x.bfloat16(), ".float()"),
        (of_a_model.bfloat16(), ".detach().float()"),
    ]:
        with pytest.raises(TypeError) as caught:
            estimator.transform(X)
        assert str(caught.value).endswith(f"an array of torch: give X{remedy}.")
        assert estimator.transform(eval(f"X{remedy}")).shape == (5, 1)
    # Where torch computes, there is nothing to be mended.
    there = to_arrays(estimator, torch)
    for X in (of_a_model, x.bfloat16()):
        assert library_name(there.transform(X)) == "torch"
        assert not there.quantize(X).requires_grad


# -- modules of torch ------------------------------------------------------------------

MODULES = rows(
    *("vq-defaults", "vq-cosine", "vq-inner-product", "pq-uneven", "pq-shared"),
    *("pq-of-pq", "pq-of-cosine", "pq-of-uniform", "pq-of-rq", "rq-shared"),
    *("rq-of-fsq", "rq-of-binary", "uniform-sizes", "uniform-two-bytes", "lloyd-max"),
    *("fsq-sizes", "fsq-paper", "fsq-cdf", "fsq-none", "binary-defaults"),
    *("binary-spherical", "binary-spherical-uniform", "binary-spherical-learned"),
    *("vq-rate", "pq-rate", "rq-rate"),
    *("rotated-defaults", "rotated-hadamard", "rotated-pca-cut", "rotated-binary"),
)


def assert_same_codes(estimator, X, found):
    """Codes are equal but where codewords are equally near."""
    codes = estimator.transform(X)
    others = (found != codes).any(axis=1)
    if others.any():
        decoded = (estimator.inverse_transform(c[others]) for c in (codes, found))
        errors = [np.square(X[others] - d).sum(axis=1) for d in decoded]
        assert_allclose(*errors, rtol=1e-5)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@MODULES
def test_modules_are_quantizers(row):
    assert_quantizes(row, np.float32)


@rows("pq-uneven", "uniform-sizes")
def test_modules_in_double_precision(row):
    assert_quantizes(row, np.float64)


def assert_quantizes(row, dtype):
    torch = load("torch")
    estimator, X = row.fitted(dtype), row.data(dtype=dtype)
    codec, x = to_torch(estimator), torch.from_numpy(np.array(X))
    codes = codec.encode(x)
    assert codes.dtype == torch.int64
    assert_same_codes(estimator, X, codes.numpy())
    decoded = codec.decode(codes).numpy()
    assert decoded.dtype == dtype
    expected = estimator.inverse_transform(codes.numpy())
    assert_allclose(decoded, expected, rtol=1e-6, atol=1e-6)
    # Any leading axes.
    deep = codec.encode(x.reshape(4, 5, -1, x.shape[1]))
    assert torch.equal(deep.reshape(codes.shape), codes)
    assert torch.equal(codec.decode(deep).reshape(x.shape), codec.decode(codes))
    assert_modules_are_torch_s(torch, codec, x, codes)


def assert_modules_are_torch_s(torch, codec, x, codes):
    """Tables are buffers, gradients go straight through, states lead back."""
    assert not list(codec.parameters())
    given = x.clone().requires_grad_()
    quantized = codec(given)
    assert torch.equal(quantized, codec.decode(codes))
    (quantized * x).sum().backward()
    assert torch.equal(given.grad, x)
    copy = pickle.loads(pickle.dumps(codec))
    assert torch.equal(copy.encode(x), codes)
    for buffer in copy.buffers():
        buffer.zero_()
    copy.load_state_dict(codec.state_dict())
    assert torch.equal(copy.decode(codes), quantized)


def test_modules_take_half_precision_and_integers():
    torch = load("torch")
    codec = to_torch(BY_NAME["pq-uneven"].fitted())
    x = torch.from_numpy(BY_NAME["pq-uneven"].data(20)).half()
    assert torch.equal(codec.encode(x), codec.encode(x.float()))
    assert codec(x).dtype == torch.float16
    whole = x.round().to(torch.int8)
    assert torch.equal(codec(whole), codec(whole.float()))


def test_values_beside_edges_and_beyond_the_range():
    torch = load("torch")
    grid = UniformQuantizer(7, clip_range=([-0.3, 1.0, 5.0], [0.7, 1.1, 1e9]))
    grid.fit(mixture(20, 3))
    low, high = grid.clip_range_
    edges = low + np.arange(-1, 9)[:, None] * (high - low) / 7
    X = np.vstack([edges, np.nextafter(edges, -np.inf), np.nextafter(edges, np.inf)])
    found = to_torch(grid).encode(torch.from_numpy(X)).numpy()
    assert_array_equal(found, grid.transform(X))
    # A range that is one point.
    with pytest.warns(match="one point"):
        flat = UniformQuantizer(4).fit(np.ones((3, 2)))
    assert to_torch(flat).encode(torch.tensor([[0.0, 2.0]])).tolist() == [[0, 0]]


def test_data_far_from_the_origin():
    torch = load("torch")
    X = mixture(300) + np.float32(1000)
    vq = VectorQuantizer(16, random_state=0).fit(X)
    found = to_torch(vq).encode(torch.from_numpy(X)).numpy()
    assert_array_equal(found, vq.transform(X))


def test_what_has_no_module():
    load("torch")
    for name, error, message in [
        ("vq-manhattan", ValueError, "metric='manhattan' has no module of torch"),
        ("rq-beam", ValueError, r"beam_size=5 .* set_params\(beam_size=1\)"),
        ("binary-spherical-float32", ValueError, "radius='float32'"),
        ("aq-exhaustive", TypeError, "AdditiveQuantizer has no module of torch"),
        ("kronecker-2", TypeError, "KroneckerQuantizer has no module"),
        ("multiscale-map", TypeError, "MultiScaleQuantizer has no module"),
        ("spherical-defaults", TypeError, "SphericalQuantizer has no module"),
        ("pq-of-spherical", TypeError, "SphericalQuantizer has no module"),
    ]:
        with pytest.raises(error, match=message):
            to_torch(BY_NAME[name].fitted())
    codec = to_torch(BY_NAME["pq-uneven"].fitted())
    with pytest.raises(ValueError, match=r"x has shape \(2, 5\); expected \(..., 6\)"):
        codec.encode(mixture(2, 5))
    with pytest.raises(ValueError, match=r"codes has shape \(2, 5\)"):
        codec.decode(np.zeros((2, 5)))


def test_a_beam_that_is_given_up_has_a_module():
    torch = load("torch")
    tables = [mixture(5, 3), mixture(4, 3, seed=1)]
    rq = ResidualQuantizer.from_codebooks(tables, beam_size=3)
    rq.set_params(beam_size=1)
    X = mixture(50, 3)
    found = to_torch(rq).encode(torch.from_numpy(X)).numpy()
    assert_array_equal(found, rq.transform(X))


@rows("pq-uneven", "rq-of-fsq", "uniform-4", "rotated-pca-cut")
def test_modules_are_compiled_whole(row):
    """... by the backend that only captures: what makes code of it is torch's own."""
    torch = load("torch")
    codec, x = to_torch(row.fitted()), torch.from_numpy(row.data(20))
    compiled = torch.compile(codec, fullgraph=True, backend="eager")
    assert torch.equal(compiled(x), codec(x))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@rows("pq-uneven", "rq-greedy")
def test_modules_are_exported_to_onnx(row):
    torch = load("torch")
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    X, codec = row.data(), to_torch(row.fitted())
    program = torch.onnx.export(
        codec.encoder(),
        (torch.from_numpy(X[:3]),),
        dynamo=True,
        dynamic_shapes=({0: torch.export.Dim("n_samples")},),
        verbose=False,
    )
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString())
    (codes,) = session.run(None, {session.get_inputs()[0].name: X})
    assert_same_codes(row.fitted(), X, codes)
