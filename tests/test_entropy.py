"""Entropy coding: tables of integers, bytes, files, rates."""

import math
import pickle
import sys
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import skvq
from skvq import (
    ProductQuantizer,
    QuantizedFeatures,
    ResidualQuantizer,
    VectorQuantizer,
)
from skvq._ans import TOTAL, frequencies
from skvq.codes import EntropyCoder, smallest_dtype
from skvq.coding import rates
from skvq.io import CodeReader, CodeWriter, FormatError, load_codes, save_codes
from skvq.metrics import bits_per_sample, entropy_bits
from skvq.model_selection import (
    best_within,
    neg_bits,
    neg_entropy_bits,
    neg_error_within,
    neg_reconstruction_error,
)

constriction = pytest.importorskip("constriction")

SIZES = [(16, 5, 3), (1, 7, 1), (1, 1), (300, 2), (2,), (70_000, 4)]


def codes_for(sizes, n_samples, seed=0):
    """Return codes of which the low ones are frequent."""
    rng = np.random.default_rng(seed)
    columns = [(size * rng.random(n_samples) ** 3).astype(int) for size in sizes]
    return np.stack(columns, axis=1)


def coder_for(sizes, codes=None, **parameters):
    codes = codes_for(sizes, 500, seed=1) if codes is None else codes
    return EntropyCoder(sizes, **parameters).fit(codes)


# -- integers --------------------------------------------------------------------------


def slow_frequencies(weights):
    """Largest rests, one at least, in exact arithmetic."""
    weights, ones = [Fraction(w) for w in weights], set()
    while True:
        free = [i for i in range(len(weights)) if i not in ones]
        total = sum(weights[i] for i in free)
        share = {i: weights[i] * (TOTAL - len(ones)) / total for i in free}
        small = {i for i in free if share[i] < 1}
        if not small:
            break
        ones |= small
    found = [math.floor(share[i]) if i in share else 1 for i in range(len(weights))]
    rest = TOTAL - sum(found)
    for i in sorted(free, key=lambda i: found[i] - share[i])[:rest]:
        found[i] += 1
    return found


@given(
    st.lists(
        st.one_of(
            st.integers(0, 10).map(float),
            st.floats(1e-9, 1e12, allow_subnormal=False),
        ),
        min_size=1,
        max_size=40,
    )
)
@settings(max_examples=60)
def test_frequencies_are_shared_out_by_largest_rests(counts):
    weights = np.array(counts) + 0.02
    found = frequencies(weights)
    assert found.dtype == np.uint32
    assert found.min() >= 1
    assert found.sum(dtype=int) == TOTAL
    # Shares that are rounded may change places where rests are equal.
    assert np.abs(found.astype(int) - slow_frequencies(weights)).max() <= 1


def test_frequencies_of_equal_counts_go_to_the_first():
    found = frequencies(np.ones(3))
    assert found.tolist() == [TOTAL // 3 + 1, TOTAL // 3, TOTAL // 3]
    rare = frequencies(np.r_[1e9, np.full(999, 0.02)])
    assert rare.tolist() == [TOTAL - 999, *[1] * 999]


@pytest.mark.parametrize("size", [2, 3, 256, 5000])
def test_the_model_of_constriction_is_these_integers(size):
    """The state of the coder says in which interval of 2^24 a symbol lies."""
    table = frequencies(np.random.default_rng(size).random(size) ** 20 + 1e-12)
    coder = EntropyCoder._from_frequencies(table, [size])
    model = coder._fitted()._model(0, 0)

    def symbol_at(place):
        state = np.array([place, 0x12345678], dtype=np.uint32)
        return constriction.stream.stack.AnsCoder(state).decode(model)

    ends = np.cumsum(table.astype(int))
    for i in np.unique(np.linspace(0, size - 1, 60).astype(int)):
        assert symbol_at(ends[i] - table[i]) == i
        assert symbol_at(ends[i] - 1) == i


@pytest.mark.parametrize("conditional", [False, True])
@pytest.mark.parametrize("sizes", SIZES[:5], ids=str)
def test_bytes_are_as_many_as_the_frequencies_say(sizes, conditional):
    codes = codes_for(sizes, 3000)
    coder = coder_for(sizes, conditional=conditional)
    bits = coder.bits(codes)
    assert bits.shape == (3000,)
    expected = np.zeros(3000)
    for j, table in enumerate(coder.frequencies_):
        p = table / TOTAL
        rows = p[codes[:, j]] if p.ndim == 1 else p[codes[:, j - 1], codes[:, j]]
        expected -= np.log2(rows)
    assert_allclose(bits, expected, atol=1e-12)
    # Three blocks: a word that the coder ends with, a length and a checksum; and the
    # last bytes of all.
    beside = 8 * len(coder.encode(codes)) - bits.sum() - 3 * 64 - 8 * 24
    assert -3 * 0.1 <= beside <= 3 * 64


# -- encode and decode -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("sizes", "conditional"),
    [*((sizes, False) for sizes in SIZES), *((sizes, True) for sizes in SIZES[:5])],
    ids=str,
)
def test_there_and_back(sizes, conditional):
    codes = codes_for(sizes, 1000)
    coder = coder_for(sizes, conditional=conditional, block_rows=64)
    data = coder.encode(codes.astype(smallest_dtype(max(sizes))))
    assert data == coder.encode(codes)
    decoded = coder.decode(data)
    assert decoded.dtype == smallest_dtype(max(sizes))
    assert_array_equal(decoded, codes)
    for start, stop in [(0, 0), (0, 1), (63, 65), (100, 700), (999, 1000), (3, 3)]:
        assert_array_equal(coder.decode(data, start, stop), codes[start:stop])
    empty = coder.encode(codes[:0])
    assert coder.decode(empty).shape == (0, len(sizes))
    other = pickle.loads(pickle.dumps(coder))
    assert_array_equal(other.decode(data), codes)


def test_only_the_blocks_that_are_asked_for_are_read():
    coder = coder_for((16, 5, 3), block_rows=100)
    codes = codes_for((16, 5, 3), 1000)
    data = bytearray(coder.encode(codes))
    data[-24 - 80 - 10] ^= 1  # in the words of the last block
    assert_array_equal(coder.decode(data, 0, 900), codes[:900])
    with pytest.raises(ValueError, match="block 9"):
        coder.decode(data, 899, 901)


def test_codes_depend_on_the_column_before():
    rng = np.random.default_rng(0)
    first = rng.integers(0, 8, 4000)
    codes = np.stack([first, (first + rng.integers(0, 2, 4000)) % 8], axis=1)
    alone, both = coder_for((8, 8), codes), coder_for((8, 8), codes, conditional=True)
    assert alone.bits(codes).mean() == pytest.approx(6, abs=0.01)
    assert both.bits(codes).mean() == pytest.approx(4, abs=0.01)
    assert [table.shape for table in both.frequencies_] == [(8,), (8, 8)]
    assert both.n_frequencies == 8 + 64
    # A code after one that was never seen before it is as frequent as it is alone.
    rare = EntropyCoder((9, 8), conditional=True).fit(codes[codes[:, 1] < 4])
    table = rare.frequencies_[1][8]
    assert_allclose(table / TOTAL, frequencies(alone_of(codes)) / TOTAL, atol=1e-6)


def alone_of(codes):
    codes = codes[codes[:, 1] < 4]
    return np.bincount(codes[:, 1], minlength=8) + 0.02


def test_bytes_of_another_machine():
    """Written on x86-64 by constriction 0.5.0."""
    counts = [[5, 3, 0, 1], [1], [9, 0.5, 2]]
    coder = EntropyCoder.from_counts(counts, block_rows=8)
    codes = np.array([[i % 4, 0, i * i % 3] for i in range(13)])
    assert [table.tolist() for table in coder.frequencies_] == PINNED_FREQUENCIES
    assert coder.model_id_ == PINNED_ID
    assert_array_equal(coder.decode(bytes.fromhex(PINNED)), codes)
    assert coder.encode(codes).hex() == PINNED
    pairs = EntropyCoder((4, 1, 3), conditional=True, block_rows=8).fit(codes)
    assert_array_equal(pairs.decode(bytes.fromhex(PINNED_PAIRS)), codes)
    assert pairs.encode(codes).hex() == PINNED_PAIRS


PINNED_FREQUENCIES = [
    [9275510, 5580087, 36954, 1884665],
    [16777216],
    [13090873, 754684, 2931659],
]
PINNED_ID = "8bb50bf4804254ad"
PINNED = (
    "3609f992f6b050b6b4000000d3071b49923101000300000064f9d3170200000020c435cc0d00"
    "000000000000080000008bb50bf4804254ad281f6a43"
)
PINNED_PAIRS = (
    "4ca947fadd350000b81d4ea50b00000002000000cc5492d30200000019182a580d0000000000"
    "0000080000001ad3f2c70f713506f5d5aae4"
)


def test_weights_are_repeats_and_have_no_scale():
    codes = codes_for((16, 5), 300)
    weights = np.random.default_rng(0).integers(0, 4, 300)
    repeated = EntropyCoder((16, 5)).fit(np.repeat(codes, weights, axis=0))
    # In units of the mean weight, in which fewer rows are added to by as much.
    counts = [np.bincount(column, weights, 16)[:16] for column in codes.T]
    weighted = EntropyCoder((16, 5)).fit(codes, weights)
    for table, count in zip(weighted.frequencies_, counts, strict=True):
        n_heavy = np.count_nonzero(weights)
        count = count[: len(table)] * (n_heavy / weights.sum())
        assert_array_equal(table, frequencies(count + 0.02))
    scaled = EntropyCoder((16, 5)).fit(codes, weights * 1024.0)
    assert scaled.model_id_ == weighted.model_id_
    assert weighted.model_id_ != repeated.model_id_
    ones = EntropyCoder((16, 5)).fit(codes, np.full(300, 0.3))
    assert ones.model_id_ == EntropyCoder((16, 5)).fit(codes).model_id_


def test_counts_of_a_quantizer_make_the_coder_of_its_training_codes():
    X = np.random.default_rng(0).normal(size=(400, 4))
    pq = ProductQuantizer(2, 8, random_state=0).fit(X)
    a = EntropyCoder.from_counts(pq.code_counts_)
    b = EntropyCoder(pq.codebook_sizes_).fit(pq.transform(X))
    assert a.model_id_ == b.model_id_
    assert a.bits(pq.transform(X)).mean() == pytest.approx(
        entropy_bits(pq, X), abs=1e-5
    )


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: EntropyCoder([2**24 + 1]), ValueError, "at most 16777216"),
        (
            lambda: EntropyCoder([2**13] * 3, conditional=True),
            ValueError,
            "without con",
        ),
        (lambda: EntropyCoder([2] * 9, block_rows=2**30), ValueError, "block_rows"),
        (lambda: EntropyCoder([2], block_rows=0), ValueError, "block_rows"),
        (lambda: EntropyCoder([2.5]), TypeError, "sizes"),
        (lambda: EntropyCoder([4]).encode([[1]]), NotFittedError, "call fit"),
        (lambda: EntropyCoder([4]).bits([[1]]), NotFittedError, "call fit"),
        (lambda: EntropyCoder([4]).fit([[4]]), ValueError, "4 codewords"),
        (lambda: EntropyCoder([4]).fit(np.zeros((0, 1), int)), ValueError, "no rows"),
        (lambda: EntropyCoder([4]).fit([[0]], [-1]), ValueError, "Negative"),
        (lambda: coder_for((4,)).encode([[7]]), ValueError, "4 codewords"),
        (lambda: coder_for((4,)).encode([[0.5]]), TypeError, "integers"),
        (lambda: coder_for((4,)).decode(b""), ValueError, "too early"),
        (lambda: EntropyCoder.from_counts([None]), ValueError, "is None"),
        (lambda: EntropyCoder.from_counts([[0, 0]]), ValueError, "no code was counted"),
        (lambda: EntropyCoder.from_counts([[1, -1]]), ValueError, r"counts\[0\]\[1\]"),
        (lambda: EntropyCoder.from_counts([[1, np.nan]]), ValueError, "finite"),
        (lambda: EntropyCoder.from_counts([[[1]]]), ValueError, "shape"),
        (lambda: EntropyCoder.from_counts([[1e308] * 9]), ValueError, "too much"),
        (
            lambda: EntropyCoder.from_counts([[1]], conditional=True),
            ValueError,
            "pairs",
        ),
    ],
)
def test_refusals(make, error, message):
    with pytest.raises(error, match=message), np.errstate(over="ignore"):
        make()


def test_rows_that_are_not_there():
    coder = coder_for((4,))
    data = coder.encode([[1], [2]])
    with pytest.raises(IndexError, match="rows 1 to 3"):
        coder.decode(data, 1, 3)
    with pytest.raises(ValueError, match="other frequencies"):
        coder_for((4,), np.array([[0], [1]])).decode(data)


def test_without_constriction(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "constriction", None)
    coder = coder_for((4,))
    assert coder.bits([[1]]).shape == (1,)
    with pytest.raises(ImportError, match=r"skvq\[entropy\]"):
        coder.encode([[1]])
    with pytest.raises(ImportError, match=r"skvq\[entropy\]"):
        save_codes(tmp_path / "codes", [[1]], (4,), coder=coder)
    assert not list(tmp_path.iterdir())


# -- damage ----------------------------------------------------------------------------


@pytest.mark.parametrize("conditional", [False, True])
def test_every_flipped_byte_and_every_cut_is_refused(conditional):
    codes = codes_for((16, 5, 3), 50)
    coder = coder_for((16, 5, 3), block_rows=20, conditional=conditional)
    data = coder.encode(codes)
    for place in range(len(data)):
        for bit in (1, 16, 128, 255):
            damaged = bytearray(data)
            damaged[place] ^= bit
            with pytest.raises(ValueError, match="cannot be decoded"):
                coder.decode(damaged)
        with pytest.raises(ValueError, match="cannot be decoded"):
            coder.decode(data[:place])
        with pytest.raises(ValueError, match="cannot be decoded"):
            coder.decode(data[place + 1 :])


def test_blocks_that_change_places_are_refused():
    coder = coder_for((16, 16), block_rows=50)
    codes = codes_for((16, 16), 100)
    one, two = coder.encode(codes[:50]), coder.encode(codes[50:])
    n = len(coder.encode(codes)) - 24 - 16
    assert coder.encode(codes)[:n] == one[: -24 - 8] + two[: -24 - 8]
    both = coder.encode(codes)
    swapped = two[: -24 - 8] + one[: -24 - 8] + both[n:]
    with pytest.raises(ValueError, match="cannot be decoded"):
        coder.decode(swapped)


@pytest.fixture
def path(tmp_path, monkeypatch):
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    return tmp_path / "codes"


def test_every_flipped_byte_and_every_cut_of_a_file_is_refused(path):
    codes, coder = codes_for((9, 3), 60), coder_for((9, 3), block_rows=25)
    save_codes(path, codes, (9, 3), coder=coder)
    with CodeWriter(path, (9, 3), coder=coder, append=True) as writer:
        writer.write(codes[:10])
    content = path.read_bytes()
    assert_array_equal(load_codes(path), np.vstack([codes, codes[:10]]))
    for place in range(len(content)):
        damaged = bytearray(content)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        with pytest.raises(FormatError):
            load_codes(path)
        path.write_bytes(content[:place])
        with pytest.raises(FormatError):
            load_codes(path)
    path.write_bytes(content + b"\0")
    with pytest.raises(FormatError, match="should have"):
        load_codes(path)


# -- files -----------------------------------------------------------------------------


@pytest.mark.parametrize("conditional", [False, True])
@pytest.mark.parametrize("sizes", SIZES[:4], ids=str)
def test_files(sizes, conditional, path):
    codes = codes_for(sizes, 1000)
    coder = coder_for(sizes, conditional=conditional, block_rows=64)
    with CodeWriter(path, sizes, coder=coder, codec_id="ab" * 16) as writer:
        for start, stop in [(0, 1), (1, 300), (300, 300), (300, 1000)]:
            writer.write(codes[start:stop])
            assert writer.n_samples == stop
    whole = path.read_bytes()
    save_codes(path, codes, sizes, coder=coder, codec_id="ab" * 16)
    assert path.read_bytes() == whole
    with CodeReader(path) as reader:
        assert len(reader) == reader.n_samples == 1000
        assert (reader.sizes, reader.method) == (sizes, "entropy")
        assert (reader.n_bits, reader.codec_id) == (None, "ab" * 16)
        assert reader.coder.model_id_ == coder.model_id_
        assert reader.coder.conditional == conditional
        n_bits = 8 * (len(coder.encode(codes)))
        assert reader.bits_per_row == n_bits / 1000
        assert_array_equal(reader.read(60, 200), codes[60:200])
        assert_array_equal(reader[::-7], codes[::-7])
        assert_array_equal(reader[-1], codes[-1])
        assert_array_equal(np.vstack(list(reader.chunks(100))), codes)
        assert len(next(reader.chunks(100))) == 128
        with pytest.raises(IndexError):
            reader.read(0, 1001)
        with pytest.raises(ValueError, match="coded"):
            reader.memory_map()
    assert_array_equal(load_codes(path), codes)


def test_a_file_of_no_rows(path):
    coder = coder_for((4, 4))
    save_codes(path, np.zeros((0, 2), int), (4, 4), coder=coder)
    assert load_codes(path).shape == (0, 2)
    with CodeReader(path) as reader:
        assert math.isnan(reader.bits_per_row)
        assert list(reader.chunks()) == []


def test_packed_files_have_bits_per_row_as_well(path):
    save_codes(path, codes_for((5, 9), 80), (5, 9))
    with CodeReader(path) as reader:
        assert (reader.bits_per_row, reader.coder) == (7, None)


def test_appending(path):
    sizes, codes = (16, 5, 3), codes_for((16, 5, 3), 500)
    coder = coder_for(sizes, block_rows=64)
    for start, stop in [(0, 100), (100, 100), (100, 430), (430, 500)]:
        before = path.read_bytes() if path.exists() else b""
        with CodeWriter(path, sizes, coder=coder, append=True) as writer:
            writer.write(codes[start:stop])
        assert len(before) == 0 or start < stop or path.read_bytes() == before
        assert_array_equal(load_codes(path), codes[:stop])
    with CodeReader(path) as reader:
        assert_array_equal(reader.read(90, 450), codes[90:450])
        again = reader.coder
    with CodeWriter(path, sizes, coder=again, append=True) as writer:
        writer.write(codes)
    assert len(load_codes(path)) == 1000


def test_an_append_that_fails_or_is_killed_leaves_the_rows(path, tmp_path):
    sizes, codes = (16, 5, 3), codes_for((16, 5, 3), 300)
    coder = coder_for(sizes, block_rows=64)
    save_codes(path, codes, sizes, coder=coder)
    before = path.read_bytes()
    with pytest.raises(KeyboardInterrupt):
        with CodeWriter(path, sizes, coder=coder, append=True) as writer:
            writer.write(codes)
            writer._file.flush()
            (tmp_path / "killed").write_bytes(path.read_bytes())
            raise KeyboardInterrupt
    assert path.read_bytes() == before
    killed = tmp_path / "killed"
    assert killed.stat().st_size > len(before)
    with pytest.raises(FormatError):
        load_codes(killed)
    with CodeWriter(killed, sizes, coder=coder, append=True):
        pass
    assert killed.read_bytes() == before


def test_coders_that_do_not_fit_are_refused(path):
    coder, codes = coder_for((4, 3)), codes_for((4, 3), 20)
    with pytest.raises(ValueError, match="coder has sizes"):
        save_codes(path, codes, (4, 4), coder=coder)
    with pytest.raises(TypeError, match="expected a skvq"):
        save_codes(path, codes, (4, 3), coder="entropy")
    with pytest.raises(ValueError, match="with a coder they are not"):
        save_codes(path, codes, (4, 3), coder=coder, method="radix")
    with pytest.raises(NotFittedError):
        save_codes(path, codes, (4, 3), coder=EntropyCoder((4, 3)))
    assert not path.exists()
    with CodeWriter(path, (4, 3), coder=coder) as writer:
        with pytest.raises(ValueError, match="4 codewords"):
            writer.write([[4, 0]])
        writer.write(codes)
    for other in (None, coder_for((4, 3), codes[:5])):
        with pytest.raises(ValueError, match=r"CodeReader\(path\).coder"):
            CodeWriter(path, (4, 3), coder=other, append=True)
    save_codes(path, codes, (4, 3))
    with pytest.raises(ValueError, match="method='entropy'"):
        CodeWriter(path, (4, 3), coder=coder, append=True)


# -- rates -----------------------------------------------------------------------------


def skewed(n_samples=600, seed=0):
    """Return samples of eight values each, of which one is frequent."""
    rng = np.random.default_rng(seed)
    rare = rng.random((n_samples, 2)) >= 0.9
    values = np.where(rare, rng.integers(1, 8, (n_samples, 2)), 0)
    return values + 0.01 * rng.normal(size=(n_samples, 2))


def test_entropy_bits_are_those_of_the_counts():
    X, other = skewed(), skewed(200, seed=1)
    weights = np.random.default_rng(0).integers(0, 3, len(other))
    pq = ProductQuantizer(2, 4, random_state=0).fit(X)
    codes, bits = pq.transform(other), np.zeros(len(other))
    for j, counts in enumerate(pq.code_counts_):
        p = (counts + 0.02) / (counts + 0.02).sum()
        bits -= np.log2(p[codes[:, j]])
    assert entropy_bits(pq, other) == pytest.approx(bits.mean())
    mean = np.average(bits, weights=weights)
    assert entropy_bits(pq, other, sample_weight=weights) == pytest.approx(mean)
    assert neg_entropy_bits(pq, other, sample_weight=weights) == pytest.approx(-mean)
    assert entropy_bits(pq, X) < bits_per_sample(pq)


def test_entropy_bits_through_pipelines_and_dataframes():
    X = pd.DataFrame(skewed(), columns=["a", "b"])
    pq = ProductQuantizer(2, 4, random_state=0)
    model = make_pipeline(StandardScaler(), pq).fit(X)
    expected = entropy_bits(model[-1], StandardScaler().fit_transform(X))
    assert entropy_bits(model, X) == expected
    features = make_pipeline(StandardScaler(), QuantizedFeatures(pq)).fit(X)
    assert entropy_bits(features, X) == expected
    alone = QuantizedFeatures(pq).fit(X)
    assert entropy_bits(alone, X) == entropy_bits(alone.quantizer_, X.to_numpy())
    as_frames = make_pipeline(StandardScaler(), pq).set_output(transform="pandas")
    assert entropy_bits(as_frames.fit(X), X) == expected
    assert pickle.loads(pickle.dumps(neg_entropy_bits)) == neg_entropy_bits


def test_what_has_no_counts_says_so():
    X = skewed()
    vq = VectorQuantizer(4, random_state=0).fit(X)
    given = VectorQuantizer.from_codebooks([vq.codebooks_[0]])
    with pytest.raises(ValueError, match="its tables were given"):
        entropy_bits(given, X)
    fine = skvq.UniformQuantizer(2**17).fit(X)
    assert fine.code_counts_ == (None, None)
    with pytest.raises(ValueError, match="131072 codewords"):
        entropy_bits(fine, X)
    del vq.code_counts_
    with pytest.raises(ValueError, match="fit it again"):
        entropy_bits(vq, X)


def test_counts_of_many_columns_are_not_kept():
    X = np.random.default_rng(0).normal(size=(20, 17))
    assert skvq.UniformQuantizer(2**16).fit(X).code_counts_ == (None,) * 17
    assert skvq.UniformQuantizer(2**16).fit(X[:, :1]).code_counts_[0].sum() == 20


def test_a_search_within_a_rate_that_files_have(path):
    X = skewed()
    grid = {"n_codewords": [2, 4, 8]}
    scoring = {"err": neg_reconstruction_error, "bits": neg_entropy_bits}
    pq = ProductQuantizer(2, random_state=0)
    search = GridSearchCV(pq, grid, scoring=scoring, refit=best_within(4.5), cv=3)
    packed = GridSearchCV(
        pq, grid, scoring=scoring | {"bits": neg_bits}, refit=best_within(4.5), cv=3
    )
    assert packed.fit(X).best_params_["n_codewords"] == 4
    assert search.fit(X).best_params_["n_codewords"] == 8
    one = GridSearchCV(pq, grid, scoring=neg_error_within(4.5, coded=True), cv=3).fit(X)
    assert one.best_params_["n_codewords"] == 8
    assert one.score(X) == neg_reconstruction_error(one, X)
    codec = search.best_estimator_
    coder = EntropyCoder.from_counts(codec.code_counts_)
    save_codes(path, codec.transform(X), codec.codebook_sizes_, coder=coder)
    with CodeReader(path) as reader:
        assert reader.bits_per_row == pytest.approx(entropy_bits(codec, X), abs=0.5)


@pytest.mark.parametrize("rate_weight", [0.0, 0.01])
def test_large_columns_are_counted_by_no_learner(monkeypatch, rate_weight):
    monkeypatch.setattr(rates, "LARGEST_COUNTED", 6)
    monkeypatch.setattr(rates, "MOST_COUNTED", 20)
    X = np.random.default_rng(0).normal(size=(60, 4))
    vq = VectorQuantizer(8, rate_weight=rate_weight, random_state=0)
    assert vq.fit(X).code_counts_ == (None,)
    given = {"rate_weight": rate_weight, "random_state": 0}
    for make in (ProductQuantizer, ResidualQuantizer):
        large, small = make(2, [8, 4], **given).fit(X).code_counts_
        assert large is None
        assert small.sum() == 60
        many = make(4, 6, **given).fit(X)
        assert many.code_counts_ == (None,) * 4
