"""What scalar schemes have beside the contract: given tables, streams, shared levels.

``data/tokenizers.npz`` holds samples, tokens and reconstructions of the quantizers of
vector-quantize-pytorch 1.32.0; ``data/tokenizers.py`` has made it.
"""

import pickle
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from table import BY_NAME, TABLE, each, mixture

from skvq import (
    BinaryQuantizer,
    FiniteScalarQuantizer,
    ProductQuantizer,
    UniformQuantizer,
)
from skvq.codes import from_signed, to_signed, token_ids
from skvq.coding.levels import Grid
from skvq.learning.rows import Rows, run
from skvq.learning.scalar import Moments, distinct_of_all

with np.load(Path(__file__).parent / "data" / "tokenizers.npz") as stored:
    STORED = dict(stored)
LEVELS = STORED["levels"].tolist()
RESIDUAL_LEVELS = STORED["residual_levels"].tolist()


def values(levels, symmetric):
    """Return the code values of FSQ, as tables."""
    found = []
    for size in levels:
        code, half = np.arange(size), size // 2
        value = 2 * code / (size - 1) - 1 if symmetric else (code - half) / half
        found.append(value[:, None].astype(np.float32))
    return found


# -- trained tokenizers ----------------------------------------------------------------


@pytest.mark.parametrize("how", ["fit", "codebooks"])
@pytest.mark.parametrize(
    ("name", "levels", "parameters"),
    [
        ("fsq", [8, 5, 3, 6], {}),
        ("fsq-clamp", [8, 5, 3, 6], {"squash": "clamp"}),
        ("fsq-symmetric", LEVELS, {"squash_formula": "symmetric"}),
    ],
)
def test_tokens_of_a_trained_fsq(name, levels, parameters, how):
    X = STORED[f"{name}/X"]
    if how == "fit":
        fsq = FiniteScalarQuantizer(levels, decode_to="values", **parameters)
        fsq.fit(X[:1])
    else:
        tables = values(levels, name == "fsq-symmetric")
        fsq = FiniteScalarQuantizer.from_codebooks(tables, **parameters)
    codes = fsq.transform(X)
    assert_array_equal(token_ids(codes, levels, order="F"), STORED[f"{name}/tokens"])
    assert_allclose(fsq.inverse_transform(codes), STORED[f"{name}/X_quant"], rtol=1e-6)
    assert_allclose(fsq.code_values(codes), STORED[f"{name}/X_quant"], rtol=1e-6)


def residual(parts, X):
    """Return the codes of each stage, and the sum, of stages that need no samples."""
    left, total, codes = X, 0, []
    for part in parts:
        codes.append(part.fit(X[:1]).transform(left))
        decoded = part.inverse_transform(codes[-1])
        left, total = left - decoded, total + decoded
    return codes, total


@pytest.mark.parametrize("squash", ["clamp", "tanh", "grid"])
def test_tokens_of_a_trained_residual_fsq(squash):
    levels = np.array(RESIDUAL_LEVELS)
    name = "rfsq-tanh" if squash == "tanh" else "rfsq"
    X = STORED[f"{name}/X"]
    if squash != "tanh":
        reach = (1 + 1 / (levels - 1)).astype(np.float32)
        X = np.tanh(X / reach) * reach
    parts = []
    for stage in range(3):
        scale = levels ** -float(stage)
        part = FiniteScalarQuantizer(
            levels,
            squash=squash,
            squash_formula="symmetric",
            scale=scale,
            decode_to="values",
        )
        if squash == "grid":  # which the clamped squash is
            part = UniformQuantizer(
                levels, clip_range=(-scale, scale), range_ends="levels"
            )
        parts.append(part)
    codes, total = residual(parts, X)
    tokens = np.stack([token_ids(c, levels, order="F") for c in codes], axis=1)
    assert_array_equal(tokens, STORED[f"{name}/tokens"])
    assert_allclose(total, STORED[f"{name}/X_quant"], rtol=1e-5, atol=1e-6)


def test_tokens_of_a_trained_lfq():
    X = STORED["lfq/X"]
    for lfq in (
        BinaryQuantizer(scale=0.5).fit(X[:1]),
        BinaryQuantizer.from_codebooks([[[-0.5], [0.5]]] * 6),
    ):
        codes = lfq.transform(X)
        assert_array_equal(token_ids(codes, [2] * 6), STORED["lfq/tokens"])
        assert_array_equal(lfq.inverse_transform(codes), STORED["lfq/X_quant"])


def test_tokens_of_a_trained_residual_lfq():
    parts = [BinaryQuantizer(scale=2.0**-stage) for stage in range(4)]
    codes, total = residual(parts, STORED["rlfq/X"])
    tokens = np.stack([token_ids(c, [2] * 6) for c in codes], axis=1)
    assert_array_equal(tokens, STORED["rlfq/tokens"])
    assert_allclose(total, STORED["rlfq/X_quant"], rtol=1e-6)


def test_the_symmetric_form():
    """As section 3.2 of Parker et al. has it; two levels are the signs."""
    z = np.random.default_rng(0).normal(size=(5000, 4))
    levels = np.array([2, 3, 8, 11])
    fsq = FiniteScalarQuantizer(levels, squash_formula="symmetric").fit(z)
    codes = fsq.transform(z)
    steps = np.floor((levels - 1) * (np.tanh(z) + 1) / 2 + 0.5)
    assert_array_equal(codes, steps)
    assert_allclose(fsq.code_values(codes), 2 / (levels - 1) * steps - 1, atol=1e-15)
    assert_array_equal(codes[:, 0], z[:, 0] >= 0)
    bounded = fsq.bounded_values(z)
    assert_array_equal(np.floor(bounded + 0.5) + levels // 2, codes)
    assert_array_equal(fsq.transform(np.zeros((1, 4))), [[1, 1, 4, 5]])


@pytest.mark.parametrize("squash_formula", ["corrected", "paper", "symmetric"])
@pytest.mark.parametrize("squash", ["tanh", "clamp"])
def test_the_scale_divides_samples_and_multiplies_values(squash, squash_formula):
    X = mixture(400, 3, dtype=np.float64)
    scale = np.array([0.5, 2, 4])  # exact
    parameters = {
        "squash": squash,
        "squash_formula": squash_formula,
        "decode_to": "values",
    }
    one = FiniteScalarQuantizer([4, 5, 2], **parameters).fit(X / scale)
    other = FiniteScalarQuantizer([4, 5, 2], scale=scale, **parameters).fit(X)
    assert_array_equal(other.transform(X), one.transform(X / scale))
    assert_array_equal(other.quantize(X), one.quantize(X / scale) * scale)
    assert_array_equal(other.bounded_values(X), one.bounded_values(X / scale))
    codes = other.transform(X)
    assert_array_equal(other.code_values(codes), one.code_values(codes))


@pytest.mark.parametrize("make", [BinaryQuantizer, FiniteScalarQuantizer])
@pytest.mark.parametrize(
    ("scale", "message"),
    [
        ([1, 2], "one positive number for all of 3 features"),
        ([1, 2, 0], "finite numbers above zero"),
        ([1, 2, np.nan], "finite numbers above zero"),
        (["a", "b", "c"], "one positive number"),
        (0, "'scale' parameter"),
        ({1: 2}, "'scale' parameter"),
    ],
)
def test_bad_scales(make, scale, message):
    with pytest.raises(ValueError, match=message):
        make(scale=scale).fit(mixture(20, 3))


# -- given tables ----------------------------------------------------------------------


SCALAR = [
    row
    for row in TABLE
    if type(row.make()) in (UniformQuantizer, FiniteScalarQuantizer, BinaryQuantizer)
]


def is_found_from_samples(row):
    return getattr(row.make(), "squash", "tanh") in ("cdf", "none")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@each([row for row in SCALAR if not is_found_from_samples(row)])
def test_its_own_tables_give_the_same_codes(row, dtype):
    fitted, X = row.fitted(dtype), row.data(seed=1, dtype=dtype)
    names = ("spherical", "radius", "squash", "squash_formula", "scale", "share_levels")
    parameters = row.make().get_params()
    given = {name: parameters[name] for name in names if name in parameters}
    if hasattr(fitted, "step_"):
        given["step"] = fitted.step_
    brought = type(fitted).from_codebooks(fitted.codebooks_, **given)
    assert_array_equal(brought.transform(X), fitted.transform(X))
    assert_array_equal(brought.quantize(X), fitted.quantize(X))
    assert brought.quantize(X).dtype == dtype
    assert brought.codebook_sizes_ == fitted.codebook_sizes_
    assert brought.n_features_in_ == X.shape[1]
    for a, b in zip(brought.codebooks_, fitted.codebooks_, strict=True):
        assert_array_equal(a, b)
    if brought._fewest_rows() == 1:
        # Its parameters say all there is.
        again = clone(brought).fit(X[:1])
        assert_array_equal(again.transform(X), fitted.transform(X))
    copy = pickle.loads(pickle.dumps(brought))
    assert_array_equal(copy.transform(X), fitted.transform(X))


def test_what_brought_estimators_say_of_themselves():
    X = mixture(200, 3)
    own = UniformQuantizer(4, levels="lloyd-max").fit(X)
    brought = UniformQuantizer.from_codebooks(own.codebooks_)
    assert brought.n_levels == 4
    for given, table in zip(brought.levels, own.codebooks_, strict=True):
        assert_array_equal(given, table[:, 0])
    assert (
        UniformQuantizer.from_codebooks(
            [[[0.0], [1.0]], [[2.0]]], levels="lloyd-max"
        ).get_params()
        == UniformQuantizer((2, 1), levels="lloyd-max").get_params()
    )
    signs = [[[-1.0], [1.0]], [[-2.0], [2.0]]]
    assert BinaryQuantizer.from_codebooks(signs).scale == (1.0, 2.0)
    assert BinaryQuantizer.from_codebooks(signs[:1] * 3).scale == 1.0
    fsq = FiniteScalarQuantizer.from_codebooks(values([3, 5], False))
    assert (fsq.n_levels, fsq.decode_to) == ((3, 5), "values")
    means = [2 * table for table in values([3, 3], False)]
    fsq = FiniteScalarQuantizer.from_codebooks(means)
    assert (fsq.n_levels, fsq.decode_to) == (3, "means")


@pytest.mark.parametrize("range_ends", ["edges", "levels"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_given_range_makes_tables_a_grid_again(range_ends, dtype):
    X = mixture(3000, 4, dtype=dtype)
    grid = UniformQuantizer([300, 7, 2, 1], range_ends=range_ends).fit(X)
    brought = UniformQuantizer.from_codebooks(
        grid.codebooks_, clip_range=grid.clip_range_, range_ends=range_ends
    )
    assert type(brought._codec_) is Grid
    edges = np.stack(grid.clip_range_).astype(dtype)
    near = np.vstack([X, edges, np.nextafter(edges, -np.inf)])
    assert_array_equal(brought.transform(near), grid.transform(near))
    assert brought.n_levels == (300, 7, 2, 1)
    for a, b in zip(brought.clip_range_, grid.clip_range_, strict=True):
        assert_array_equal(a, b)
    assert np.isnan(brought.clipped_share_).all()
    assert np.isnan(brought.distortion_)
    with pytest.raises(ValueError, match=r"codebooks\[0\] is off its levels by"):
        UniformQuantizer.from_codebooks(grid.codebooks_, clip_range=(0, 1))


def test_repeated_and_equal_levels():
    tables = [[[1.0], [5.0], [1.0], [5.0]], [[2.0], [2.0], [3.0], [3.0]]]
    brought = UniformQuantizer.from_codebooks(tables)
    X = np.array([[0, 2], [1, 2.4], [3, 2.5], [9, 9]])
    assert_array_equal(brought.transform(X), [[0, 0], [0, 0], [1, 2], [1, 2]])
    assert_array_equal(brought.codebooks_[0], tables[0])


BAD_TABLES = {
    "wide": (
        UniformQuantizer,
        [[[1.0, 2.0]]],
        {},
        r"codebooks\[0\] has shape \(1, 2\)",
    ),
    "descending": (UniformQuantizer, [[[1.0], [0.0]]], {}, "not ascending"),
    "nan": (UniformQuantizer, [[[np.nan], [0.0]]], {}, "NaN"),
    "unshared": (
        UniformQuantizer,
        [[[0.0], [1.0]], [[0.0], [2.0]]],
        {"share_levels": True},
        r"codebooks\[1\] differs from codebooks\[0\]",
    ),
    "other levels": (
        UniformQuantizer,
        [[[0.0], [1.0]]],
        {"levels": [[0.0, 2.0]]},
        r"levels\[0\] differs from codebooks\[0\]",
    ),
    "cdf": (FiniteScalarQuantizer, [[[0.0], [1.0]]], {"squash": "cdf"}, "'clamp'"),
    "one level": (FiniteScalarQuantizer, [[[0.0]]], {}, r"codebooks\[0\]=1"),
    "no values": (
        FiniteScalarQuantizer,
        [[[0.0], [1.0]]],
        {"decode_to": "values"},
        "not the code values",
    ),
    "no signs": (BinaryQuantizer, [[[0.0], [1.0]]], {}, r"expected \[\[-s\], \[s\]\]"),
    "three": (BinaryQuantizer, [[[-1.0], [0.0], [1.0]]], {}, r"expected \[\[-s\]"),
    "scale": (BinaryQuantizer, [[[-1.0], [1.0]]], {"scale": 2}, "scale=2: codebooks"),
    "sphere": (
        BinaryQuantizer,
        [[[-1.0], [1.0]]] * 2,
        {"spherical": True},
        "spherical=True: codebooks",
    ),
    "radius": (
        BinaryQuantizer,
        [[[-1.0], [1.0]]],
        {"spherical": True, "radius": "learned"},
        "lengths, ascending",
    ),
    "float32": (
        BinaryQuantizer,
        [[[-1.0], [1.0]]] * 3,
        {"spherical": True, "radius": "float32"},
        "last two of codebooks",
    ),
}


@pytest.mark.parametrize("kind", BAD_TABLES)
def test_tables_that_are_refused(kind):
    make, tables, parameters, message = BAD_TABLES[kind]
    with pytest.raises(ValueError, match=message):
        make.from_codebooks(tables, **parameters)


@pytest.mark.parametrize(
    ("levels", "message"),
    [
        ([[0, 1]], "levels has 1 entries, but X has 2 features"),
        ([[0, 1], [1, 0]], r"levels\[1\]: levels are not ascending"),
        ([[0, 1], []], r"levels\[1\] has shape \(0,\)"),
        ([[0, 1], [[0], [1]]], r"levels\[1\] has shape \(2, 1\)"),
        ([[0, 1], [0, np.inf]], r"levels\[1\] contains NaN or infinity"),
        ([[0, 1], ["a", "b"]], r"levels\[1\]: expected an array of numbers"),
        ({"a": 1}, "'levels' parameter"),
    ],
)
def test_bad_levels(levels, message):
    with pytest.raises(ValueError, match=message):
        UniformQuantizer(levels=levels).fit(mixture(20, 2))


# -- levels at both ends ---------------------------------------------------------------


def test_ends_are_levels():
    X = mixture(500, 5)
    quantizer = UniformQuantizer([255, 2, 3, 1, 16], range_ends="levels").fit(X)
    low, high = X.min(axis=0), X.max(axis=0)
    for j, table in enumerate(quantizer.codebooks_):
        if len(table) == 1:
            assert_allclose(table, [[(low[j] + high[j]) / 2]], rtol=1e-6)
        else:
            steps = np.linspace(low[j], high[j], len(table), dtype=np.float64)
            assert_allclose(table[:, 0], steps, rtol=0, atol=1e-6)
            assert_array_equal(table[[0, -1], 0], [low[j], high[j]])
    bound = (high - low) / np.maximum(np.array(quantizer.codebook_sizes_) - 1, 1) / 2
    assert (np.abs(quantizer.quantize(X) - X) <= bound * (1 + 1e-4)).all()
    cells = UniformQuantizer([255, 2, 3, 1, 16]).fit(X)
    bound = (high - low) / np.array(cells.codebook_sizes_) / 2
    assert (np.abs(cells.quantize(X) - X) <= bound * (1 + 1e-4)).all()


def test_the_best_grid_is_one_whatever_its_ends_are():
    X = mixture(500, 2, dtype=np.float64)
    for family in ("gaussian", "laplacian"):
        edges, levels = (
            UniformQuantizer([5, 1], clip_range=family, range_ends=range_ends).fit(X)
            for range_ends in ("edges", "levels")
        )
        for a, b in zip(edges.codebooks_, levels.codebooks_, strict=True):
            assert_allclose(a, b, atol=1e-12)
        low, high = levels.clip_range_
        assert_allclose([low[0], high[0]], levels.codebooks_[0][[0, -1], 0])


def test_a_range_of_nearly_all_numbers_has_ends_too():
    largest = np.finfo(np.float64).max / 4
    quantizer = UniformQuantizer(3, clip_range=(-largest, largest), range_ends="levels")
    table = quantizer.fit([[0.0]]).codebooks_[0][:, 0]
    assert_allclose(table, [-largest, 0, largest], atol=1e290)
    quantizer.set_params(n_levels=2, clip_range=(-4 * largest, 4 * largest))
    with pytest.raises(
        ValueError, match="range_ends='levels': the cells of the outermost"
    ):
        quantizer.fit([[0.0]])


def test_codes_of_sentence_transformers():
    """Its quantize_embeddings rounds down to steps of a 255th of the range."""
    X = mixture(2000, 8)
    low, high = X.min(axis=0), X.max(axis=0)
    steps = (high - low) / 255
    theirs = ((X - low) / steps).astype(np.uint8)
    clear = np.abs((X - low) / steps - np.rint((X - low) / steps)) > 1e-3
    cells = UniformQuantizer(clip_range=(low, high + steps)).fit(X[:1])
    assert_array_equal(cells.transform(X)[clear], theirs[clear])
    assert_array_equal(to_signed(theirs, [256] * 8), theirs.astype(int) - 128)
    ours = UniformQuantizer(range_ends="levels").fit(X)
    decoded = low + steps * theirs
    assert ours.distortion_ < 0.26 * ((decoded - X) ** 2).sum(axis=1).mean()


# -- one set of levels -----------------------------------------------------------------


@pytest.mark.parametrize(
    "parameters",
    [
        {"clip_range": "minmax"},
        {"clip_range": "quantile"},
        {"clip_range": "gaussian"},
        {"clip_range": "laplacian"},
        {"clip_range": (-2, 3)},
        {"levels": "lloyd-max"},
        {"levels": "lloyd-max", "feature_distribution": "gaussian"},
        {"levels": "lloyd-max", "feature_distribution": "laplacian"},
        {"clip_range": "minmax", "range_ends": "levels"},
    ],
    ids=str,
)
@pytest.mark.parametrize("weighted", [False, True])
def test_shared_levels_are_those_of_all_values(parameters, weighted):
    X = mixture(300, 4, dtype=np.float64)
    weights = np.arange(len(X)) % 3 if weighted else None
    shared = UniformQuantizer(5, share_levels=True, **parameters)
    shared.fit(X, sample_weight=weights)
    repeated = None if weights is None else np.repeat(weights, 4)
    one = UniformQuantizer(5, **parameters)
    one.fit(X.reshape(-1, 1), sample_weight=repeated)
    tables = shared.codebooks_
    assert len({id(table) for table in tables}) == 1
    assert_allclose(tables[0], one.codebooks_[0], rtol=1e-12, atol=1e-12)
    assert_array_equal(
        shared.transform(X), one.transform(X.reshape(-1, 1)).reshape(-1, 4)
    )
    if hasattr(one, "clip_range_"):
        assert_allclose(shared.clip_range_, np.repeat(one.clip_range_, 4, axis=1))
        assert_allclose(shared.clipped_share_, np.repeat(one.clipped_share_, 4))
    assert shared.codebook_sizes_ == (5,) * 4
    copy = pickle.loads(pickle.dumps(shared))
    assert len({id(table) for table in copy.codebooks_}) == 1


@pytest.fixture
def many_blocks(monkeypatch):
    monkeypatch.setattr("skvq.learning.rows.BLOCK_ELEMENTS", 256)
    monkeypatch.setattr("skvq.learning.rows.HELD_BYTES", 0)


@pytest.mark.parametrize("how", ["minmax", "quantile", "gaussian", "lloyd-max"])
def test_shared_levels_of_rows_elsewhere(how, tmp_path, many_blocks):
    da = pytest.importorskip("dask.array")
    X = mixture(500, 4)
    np.save(tmp_path / "X.npy", X)
    parameters = {"clip_range": how}
    if how == "lloyd-max":
        parameters = {"levels": how}
    quantizer = UniformQuantizer(5, share_levels=True, **parameters).fit(X)
    for there in (
        np.load(tmp_path / "X.npy", mmap_mode="r"),
        da.from_array(X, chunks=(100, 4)),
    ):
        found = clone(quantizer).fit(there)
        assert_array_equal(found.codebooks_[3], quantizer.codebooks_[3])


def test_shared_levels_of_more_values_than_are_kept(many_blocks, monkeypatch):
    X = mixture(3000, 4, dtype=np.float64)
    X[7, 2] = 100
    quantizer = UniformQuantizer(6, levels="lloyd-max", share_levels=True)
    best = quantizer.fit(X).distortion_
    monkeypatch.setattr("skvq.grid._MOST_VALUES", 500)
    few = quantizer.fit(X)
    assert few.distortion_ < 1.005 * best
    assert few.codebooks_[0][-1] == 100
    values, weights = run(distinct_of_all(Rows(X), 500))
    assert 250 < len(values) <= 500
    assert (np.diff(values) > 0).all()
    assert weights.sum() == X.size
    assert values @ weights == pytest.approx(X.sum(), rel=1e-12)


def test_shared_levels_that_are_given():
    X = mixture(50, 3)
    quantizer = UniformQuantizer(levels=[[-1, 0, 2]], share_levels=True).fit(X)
    assert_array_equal(quantizer.codebooks_[2], [[-1], [0], [2]])
    brought = UniformQuantizer.from_codebooks(quantizer.codebooks_, share_levels=True)
    assert len(brought.levels) == 1
    assert_array_equal(brought.transform(X), quantizer.transform(X))
    same = UniformQuantizer(4, share_levels=True, clip_range=(-1, 1))
    tables = same.fit(X).codebooks_
    assert len({id(table) for table in tables}) == 1


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"n_levels": [2, 3, 4]}, "all features have the same levels; give one int"),
        ({"clip_range": ([0, 0, 0], 1)}, "two numbers"),
        ({"levels": [[0, 1]] * 3}, "expected 1, one array with share_levels=True"),
    ],
)
def test_bad_shared_levels(parameters, message):
    with pytest.raises(ValueError, match=message):
        UniformQuantizer(share_levels=True, **parameters).fit(mixture(20, 3))


def test_shared_levels_of_few_values_are_a_warning():
    X = np.array([[1.0, 2.0], [2.0, 1.0]])
    with pytest.warns(ConvergenceWarning, match="In the one set of levels: 2 distinct"):
        quantizer = UniformQuantizer(3, levels="lloyd-max", share_levels=True).fit(X)
    assert_array_equal(quantizer.codebooks_[1], [[1], [2], [1]])
    with pytest.warns(ConvergenceWarning, match="In the one set of levels: the range"):
        UniformQuantizer(3, share_levels=True).fit(np.ones((3, 2)))


# -- streams ---------------------------------------------------------------------------


def _streams():
    for row in SCALAR:
        if row.streams:
            yield row
    yield BY_NAME["pq-of-uniform"]


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("weighted", [False, True])
@each(list(_streams()))
def test_a_stream_teaches_what_all_rows_do(row, weighted):
    X = row.data(300, dtype=np.float64)
    weights = np.arange(len(X)) % 3 + 1.0 if weighted else None
    cuts = [0, 1, 3, 60, 200, 300]
    fitted, stream = row.make().fit(X, sample_weight=weights), row.make()
    begun = row.make().fit(
        X[:60], sample_weight=weights if weights is None else weights[:60]
    )
    for start, stop in pairwise(cuts):
        cut = slice(start, stop)
        w = None if weights is None else weights[cut]
        stream.partial_fit(X[cut], sample_weight=w)
        if start >= 60:
            begun.partial_fit(X[cut], sample_weight=w)
    for found in (stream, begun):
        for a, b in zip(found.codebooks_, fitted.codebooks_, strict=True):
            assert_allclose(a, b, rtol=1e-9, atol=1e-9)
        if hasattr(fitted, "clipped_share_") and "gaussian" not in row.name:
            assert_allclose(found.clipped_share_, fitted.clipped_share_, atol=1e-12)


def test_streams_that_cannot_go_on():
    X = mixture(60, 3)
    uniform = UniformQuantizer(4).fit(X)
    with pytest.raises(ValueError, match="clip_range=gaussian was minmax when the"):
        uniform.set_params(clip_range="gaussian").partial_fit(X)
    with pytest.raises(ValueError, match="share_levels=True was False when the stream"):
        uniform.set_params(clip_range="minmax", share_levels=True).partial_fit(X)
    fsq = FiniteScalarQuantizer(4).fit(X)
    with pytest.raises(ValueError, match=r"n_levels=\(5, 5, 5\) was \(4, 4, 4\)"):
        fsq.set_params(n_levels=5).partial_fit(X)
    fsq.set_params(n_levels=4)
    for changed in (
        {"scale": 2.0},
        {"squash_formula": "symmetric"},
        {"squash": "clamp"},
    ):
        with pytest.raises(ValueError, match="other cells than the stream began with"):
            clone(fsq).fit(X).set_params(**changed).partial_fit(X)
    brought = FiniteScalarQuantizer.from_codebooks([[[0.0], [9.0], [10.0]]] * 3)
    with pytest.raises(ValueError, match="was made from codebooks"):
        brought.partial_fit(X)
    for other, why in (
        (UniformQuantizer(clip_range="quantile"), "'minmax', 'gaussian'"),
        (UniformQuantizer(levels="lloyd-max"), "'data' does not .*; 'gaussian'"),
        (FiniteScalarQuantizer(squash="cdf"), "'tanh' and 'clamp'"),
        (BinaryQuantizer(spherical=True, radius="learned"), "'unit' and 'float32'"),
    ):
        with pytest.raises(AttributeError, match=why):
            other.partial_fit  # noqa: B018


def test_moments_of_huge_and_tiny_streams():
    x = mixture(60, 2, dtype=np.float64)
    for exponent in (-1060, -600, 0, 600, 1018):
        one, two = (
            Moments(
                len(part), *np.ldexp([part.mean(axis=0), part.std(axis=0)], exponent)
            )
            for part in (x[:20], x[20:])
        )
        both = one.joined(two)
        assert both.weight == 60
        rtol = 1e-12 if exponent > -1000 else 1e-3
        assert_allclose(both.mean, np.ldexp(x.mean(axis=0), exponent), rtol=rtol)
        assert_allclose(both.spread, np.ldexp(x.std(axis=0), exponent), rtol=rtol)


def test_what_a_given_range_clips_is_counted():
    X = np.array([[0.0], [1.0], [2.0], [3.0]])
    grid = UniformQuantizer(4, clip_range=(0.5, 2.5))
    grid.partial_fit(X[:1])
    assert_array_equal(grid.clipped_share_, [1])
    grid.partial_fit(X[1:])
    assert_allclose(grid.clipped_share_, [0.5])


# -- names -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "quantizer",
    [UniformQuantizer(4), FiniteScalarQuantizer(), BinaryQuantizer()],
    ids=lambda q: type(q).__name__,
)
def test_codes_keep_the_names_of_features(quantizer):
    X = pd.DataFrame(mixture(50, 3), columns=["a", "b", "c"])
    quantizer = clone(quantizer).set_output(transform="pandas")
    assert list(quantizer.fit_transform(X).columns) == ["a", "b", "c"]
    assert list(quantizer.fit(X.to_numpy()).get_feature_names_out()) == [
        "x0",
        "x1",
        "x2",
    ]
    with pytest.raises(ValueError, match="input_features"):
        quantizer.fit(X).get_feature_names_out(["a", "b", "d"])


def test_names_of_codes_with_a_length():
    bsq = BinaryQuantizer(spherical=True, radius="float32").fit(mixture(50, 2))
    assert list(bsq.get_feature_names_out()) == [
        f"binaryquantizer{j}" for j in range(4)
    ]


# -- signed codes ----------------------------------------------------------------------


def test_signed_codes():
    sizes = (256, 255, 1, 2, 300)
    codes = np.array([[0, 0, 0, 0, 0], [255, 254, 0, 1, 299], [128, 127, 0, 1, 150]])
    signed = to_signed(codes, sizes)
    assert signed.dtype == np.int16
    assert_array_equal(signed[:2], [[-128, -127, 0, -1, -150], [127, 127, 0, 0, 149]])
    assert_array_equal(signed[2], [0, 0, 0, 0, 0])
    back = from_signed(signed, sizes)
    assert back.dtype == np.uint16
    assert_array_equal(back, codes)
    assert to_signed(codes[:, :2].astype(np.uint8), sizes[:2]).dtype == np.int8
    wide = np.array([[0], [2**32 - 1]], dtype=np.uint32)
    assert to_signed(wide, [2**32]).dtype == np.int32
    assert_array_equal(from_signed(to_signed(wide, [2**32]), [2**32]), wide)
    assert to_signed(codes[:0], sizes).shape == (0, 5)


@pytest.mark.parametrize(
    ("function", "codes", "message"),
    [
        (to_signed, [[256]], r"codes\[0, 0\] is 256: column 0 has 256 codewords, 0 to"),
        (from_signed, [[128]], r"signed\[0, 0\] is 128: column 0 .*-128 to 127"),
        (from_signed, [[0], [-129]], r"signed\[1, 0\] is -129"),
        (from_signed, [[0, 1]], "signed has 2 columns"),
        (from_signed, [0], "signed must be 2-d"),
        (from_signed, [[0.0]], "signed must be integers"),
    ],
)
def test_signed_codes_that_are_refused(function, codes, message):
    with pytest.raises((ValueError, TypeError), match=message):
        function(np.array(codes), [256])


def test_product_of_fixed_parts_streams():
    X = mixture(50, 4)
    product = ProductQuantizer(2, quantizer=BinaryQuantizer(scale=1))
    assert_array_equal(product.partial_fit(X[:1]).transform(X), X > 0)
