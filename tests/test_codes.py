import math
import re
from itertools import product

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy import sparse

from skvq.codes import (
    _bits_of_product,
    from_token_ids,
    one_hot,
    pack,
    packed_bits,
    smallest_dtype,
    token_ids,
    unpack,
)

METHODS = ["columns", "radix"]
LAYOUTS = [(method, aligned) for method in METHODS for aligned in (True, False)]
ORDERS = ["big", "little"]
each_layout = pytest.mark.parametrize(("method", "row_aligned"), LAYOUTS)

a_size = st.one_of(
    st.integers(1, 9),
    st.integers(1, 2**32),
    st.integers(0, 32).map(lambda bits: 2**bits),
    st.integers(1, 32).map(lambda bits: 2**bits - 1),
)
SOME_SIZES = [
    (1,),
    (1, 1, 1),
    (2,) * 9,
    (256,) * 8,
    (256,) * 40,
    (5, 1, 7, 1000),
    (2**32,),
    (2**32, 2**32, 2**32),
    (2**32 - 1,) * 5,
    (1, 2**32, 1, 3),
    (3,) * 200,
]


@st.composite
def sizes_and_rows(draw, size=a_size, max_columns=12):
    sizes = draw(st.lists(size, min_size=1, max_size=max_columns))
    row = st.tuples(*(st.integers(0, V - 1) for V in sizes))
    return tuple(sizes), draw(st.lists(row, max_size=20))


def as_codes(rows, sizes):
    return np.array(rows, dtype=np.int64).reshape(len(rows), len(sizes))


def random_codes(sizes, n_samples=50, seed=0):
    rng = np.random.default_rng(seed)
    codes = [rng.integers(0, V, n_samples) for V in sizes]
    return np.stack(codes, axis=1).astype(smallest_dtype(max(sizes)))


def python_token(row, sizes):
    token = 0
    for code, V in zip(row, sizes, strict=True):
        token = token * V + int(code)
    return token


def python_bits(row, sizes, method, bitorder):
    """One row as a string of zeros and ones, with Python's own integers."""
    if method == "columns":
        numbers = [
            (int(code), (V - 1).bit_length())
            for code, V in zip(row, sizes, strict=True)
        ]
    else:
        numbers = [(python_token(row, sizes), (math.prod(sizes) - 1).bit_length())]
    bits = [f"{number:0{width}b}" for number, width in numbers if width]
    return "".join(bits if bitorder == "big" else [one[::-1] for one in bits])


def python_bytes(bits, bitorder):
    bits += "0" * (-len(bits) % 8)
    found = [bits[i : i + 8] for i in range(0, len(bits), 8)]
    return [int(one if bitorder == "big" else one[::-1], 2) for one in found]


def python_pack(rows, sizes, method, row_aligned, bitorder):
    bits = [python_bits(row, sizes, method, bitorder) for row in rows]
    if not row_aligned:
        return np.array(python_bytes("".join(bits), bitorder), dtype=np.uint8)
    n_bytes = -(-packed_bits(sizes, method=method) // 8)
    packed = [python_bytes(row, bitorder) for row in bits]
    return np.array(packed, dtype=np.uint8).reshape(len(rows), n_bytes)


def check_pack(rows, sizes):
    codes = as_codes(rows, sizes)
    for (method, row_aligned), bitorder in product(LAYOUTS, ORDERS):
        layout = {"method": method, "row_aligned": row_aligned, "bitorder": bitorder}
        packed = pack(codes, sizes, **layout)
        assert packed.dtype == np.uint8
        np.testing.assert_array_equal(packed, python_pack(rows, sizes, **layout))
        back = unpack(packed, sizes, n_samples=len(rows), **layout)
        np.testing.assert_array_equal(back, codes)
        assert back.dtype == smallest_dtype(max(sizes))


@given(sizes_and_rows())
@example(((1, 1), [(0, 0)] * 3))
@example(((2**32,) * 3, [(2**32 - 1,) * 3, (0, 1, 0)]))
def test_pack_writes_the_bits_of_python_integers_and_unpack_reads_them(case):
    sizes, rows = case
    check_pack(rows, sizes)


@pytest.mark.parametrize("sizes", SOME_SIZES, ids=lambda sizes: str(sizes)[:20])
def test_pack_holds_the_extreme_codes(sizes):
    largest = tuple(V - 1 for V in sizes)
    check_pack([largest, (0,) * len(sizes), largest], sizes)


@each_layout
@pytest.mark.parametrize("bitorder", ORDERS)
@pytest.mark.parametrize("sizes", [(256,) * 8, (5, 1000, 1, 3), (300,) * 11])
def test_pack_and_unpack_agree_across_row_tiles(sizes, method, row_aligned, bitorder):
    # enough rows for many tiles, and no multiple of eight
    n_samples = 40_003
    codes = random_codes(sizes, n_samples)
    layout = {"method": method, "row_aligned": row_aligned, "bitorder": bitorder}
    packed = pack(codes, sizes, **layout)
    back = unpack(packed, sizes, n_samples=n_samples, **layout)
    np.testing.assert_array_equal(back, codes)
    if row_aligned:
        np.testing.assert_array_equal(pack(codes[-5:], sizes, **layout), packed[-5:])
        np.testing.assert_array_equal(unpack(packed[7:9], sizes, **layout), codes[7:9])
    else:
        assert packed.nbytes == math.ceil(
            n_samples * packed_bits(sizes, method=method) / 8
        )


@given(st.lists(a_size, min_size=1, max_size=30))
def test_packed_bits_is_the_formula_in_exact_arithmetic(sizes):
    columns = sum(next(b for b in range(33) if 2**b >= V) for V in sizes)
    total = math.prod(sizes)
    radix = next(b for b in range(32 * 30 + 1) if 2**b >= total)
    assert packed_bits(sizes) == packed_bits(sizes, method="columns") == columns
    assert packed_bits(sizes, method="radix") == radix <= columns
    for method, n_bits in [("columns", columns), ("radix", radix)]:
        codes = np.zeros((3, len(sizes)), dtype=np.uint8)
        assert pack(codes, sizes, method=method).shape == (3, math.ceil(n_bits / 8))
        stream = pack(codes, sizes, method=method, row_aligned=False)
        assert stream.shape == (math.ceil(3 * n_bits / 8),)


def test_packed_bits_knows_no_rounding():
    # in floats, the sum of these logarithms rounds to 64
    assert packed_bits([2**32, 2**31, 2, 1]) == 64
    assert packed_bits([2**32, 2**32 - 1], method="radix") == 64
    assert packed_bits([3] * 1000, method="radix") == (3**1000 - 1).bit_length()


@given(st.lists(a_size, min_size=1, max_size=60), st.integers(1, 70))
@example([65537, 4294901761], 2)  # 2**48 + 1
@example([65537, 4294901761] * 20, 1)
def test_bits_of_a_product_need_few_of_its_digits(sizes, precision):
    exact = (math.prod(sizes) - 1).bit_length()
    assert _bits_of_product(tuple(sizes), precision) == exact


def test_bits_of_very_many_columns():
    assert packed_bits((2**32 - 1,) * 200_000, method="radix") == 32 * 200_000


@each_layout
@pytest.mark.parametrize("sizes", [(7, 300), (1, 1)])
def test_zero_rows(sizes, method, row_aligned):
    layout = {"method": method, "row_aligned": row_aligned}
    packed = pack(np.zeros((0, 2), dtype=np.uint16), sizes, **layout)
    assert packed.size == 0
    assert packed.ndim == (2 if row_aligned else 1)
    back = unpack(packed, sizes, n_samples=0, **layout)
    assert back.shape == (0, 2)
    assert back.dtype == smallest_dtype(max(sizes))
    assert token_ids(back, sizes).shape == (0,)
    assert from_token_ids(np.zeros(0, dtype=int), sizes).shape == (0, 2)
    assert one_hot(back, sizes).shape == (0, sum(sizes))
    assert one_hot(back, sizes, sparse=False).shape == (0, sum(sizes))


@each_layout
def test_codes_of_any_integer_dtype_and_memory_layout(method, row_aligned):
    sizes = (100, 77, 128)
    codes = random_codes(sizes)
    layout = {"method": method, "row_aligned": row_aligned}
    packed = pack(codes, sizes, **layout)
    read_only = codes.copy()
    read_only.flags.writeable = False
    twice = np.repeat(codes, 2, axis=0)
    variants = [codes.astype(t) for t in ("i1", "i8", "u2", "u8", ">u4", "<i2")]
    variants += [np.asfortranarray(codes), twice[::2], read_only]
    for variant in variants:
        np.testing.assert_array_equal(pack(variant, sizes, **layout), packed)
        np.testing.assert_array_equal(
            token_ids(variant, sizes), token_ids(codes, sizes)
        )
    np.testing.assert_array_equal(pack(codes.tolist(), list(sizes), **layout), packed)
    np.testing.assert_array_equal(pack(codes, np.array(sizes), **layout), packed)


def test_codes_in_dataframes():
    pandas, polars = pytest.importorskip("pandas"), pytest.importorskip("polars")
    sizes = (100, 77)
    codes = random_codes(sizes)
    for frame in (pandas.DataFrame(codes), polars.DataFrame(codes, schema=["a", "b"])):
        np.testing.assert_array_equal(pack(frame, sizes), pack(codes, sizes))


@each_layout
def test_packed_survives_a_file(tmp_path, method, row_aligned):
    sizes = (5, 200, 3)
    codes = random_codes(sizes)
    layout = {"method": method, "row_aligned": row_aligned}
    path = tmp_path / "codes.bin"
    pack(codes, sizes, **layout).tofile(path)
    read = np.fromfile(path, dtype=np.uint8)
    if row_aligned:
        read = read.reshape(len(codes), -1)
    back = unpack(read, sizes, n_samples=len(codes), **layout)
    np.testing.assert_array_equal(back, codes)


@given(sizes_and_rows(size=st.integers(1, 40)), st.sampled_from("CF"))
@example(((2**32, 2**31 - 1), [(2**32 - 1, 2**31 - 2)]), "C")
@example(((2,) * 62, [(1,) * 62]), "F")
@example(((1,) * 70, [(0,) * 70]), "C")
def test_token_ids_are_the_mixed_radix_numbers(case, order):
    sizes, rows = case
    if math.prod(sizes) > 2**63 - 1:
        with pytest.raises(ValueError, match=r"2\*\*63 - 1"):
            token_ids(as_codes(rows, sizes), sizes, order=order)
        return
    ids = token_ids(as_codes(rows, sizes), sizes, order=order)
    step = 1 if order == "C" else -1
    expected = [python_token(row[::step], sizes[::step]) for row in rows]
    assert ids.dtype == np.int64
    assert ids.tolist() == expected
    back = from_token_ids(ids, sizes, order=order)
    assert back.dtype == smallest_dtype(max(sizes))
    np.testing.assert_array_equal(back, as_codes(rows, sizes))


@pytest.mark.parametrize("order", ["C", "F"])
def test_token_ids_agree_with_numpy_and_number_every_tuple_once(order):
    sizes = (3, 1, 4, 2)
    ids = np.arange(24)
    codes = from_token_ids(ids, sizes, order=order)
    np.testing.assert_array_equal(token_ids(codes, sizes, order=order), ids)
    numpy_ids = np.ravel_multi_index(codes.astype(int).T, sizes, order=order)
    np.testing.assert_array_equal(numpy_ids, ids)


def test_token_ids_in_f_order_are_those_of_fsq():
    # the published code: basis = cumprod of (1, *levels[:-1]), ids = codes @ basis
    levels = np.array([8, 5, 5, 5])
    codes = random_codes(levels.tolist())
    basis = np.concatenate([[1], np.cumprod(levels[:-1])])
    np.testing.assert_array_equal(token_ids(codes, levels, order="F"), codes @ basis)


def test_token_ids_do_not_wrap_around_in_the_dtype_of_the_codes():
    codes = np.array([[255, 255]], dtype=np.uint8)
    assert token_ids(codes, (256, 256)).tolist() == [65535]


@given(sizes_and_rows(size=st.integers(1, 300), max_columns=5))
def test_one_hot_marks_the_codes(case):
    sizes, rows = case
    expected = np.zeros((len(rows), sum(sizes)))
    for i, row in enumerate(rows):
        for j, code in enumerate(row):
            expected[i, sum(sizes[:j]) + code] = 1
    codes = as_codes(rows, sizes)
    dense = one_hot(codes, sizes, sparse=False)
    np.testing.assert_array_equal(dense, expected)
    assert dense.dtype == np.float64
    marked = one_hot(codes, sizes)
    assert isinstance(marked, sparse.csr_array)
    assert marked.nnz == codes.size
    assert marked.has_canonical_format
    np.testing.assert_array_equal(marked.toarray(), expected)


@pytest.mark.parametrize("dtype", [np.float32, np.uint8, bool])
def test_one_hot_has_the_dtype_asked_for(dtype):
    codes = np.array([[255, 1]], dtype=np.uint8)
    for sparse_output in (True, False):
        assert (
            one_hot(codes, (256, 2), dtype=dtype, sparse=sparse_output).dtype == dtype
        )


def test_one_hot_is_narrow_where_the_table_is_wide():
    marked = one_hot(np.array([[2**32 - 1, 2**32 - 1]]), (2**32, 2**32))
    assert marked.shape == (1, 2**33)
    assert marked.indices.tolist() == [2**32 - 1, 2**33 - 1]
    assert one_hot(np.array([[1, 0]]), (2, 3)).indices.dtype == np.int32


def test_one_hot_times_the_stacked_codebooks_is_the_additive_reconstruction():
    rng = np.random.default_rng(0)
    codebooks = [rng.normal(size=(V, 3)) for V in (4, 7)]
    codes = random_codes((4, 7))
    expected = codebooks[0][codes[:, 0]] + codebooks[1][codes[:, 1]]
    np.testing.assert_allclose(one_hot(codes, (4, 7)) @ np.vstack(codebooks), expected)


@pytest.mark.parametrize("bits", [8, 16, 32])
def test_smallest_dtype_changes_just_past_each_power(bits):
    assert smallest_dtype(2**bits) == np.dtype(f"uint{bits}")
    assert smallest_dtype(2**bits + 1) == np.dtype(f"uint{2 * bits}")


def test_smallest_dtype_at_its_ends():
    assert smallest_dtype(1) == np.uint8
    assert smallest_dtype(2**64) == np.uint64
    assert smallest_dtype(np.int64(300)) == np.uint16


# Bad input


@pytest.mark.parametrize("function", [pack, token_ids, one_hot])
@pytest.mark.parametrize(
    ("codes", "error", "message"),
    [
        ([[0, 0], [0, 7]], ValueError, "codes[1, 1] is 7: column 1 has 7 codewords"),
        ([[0, 0], [-1, 0]], ValueError, "codes[1, 0] is -1: column 0 has 5 codewords"),
        ([[0, 2**63]], ValueError, "codes[0, 1] is 9223372036854775808"),
        ([[0.0, 1.0]], TypeError, "integers in every column, got dtype float64"),
        ([[True, False]], TypeError, "integers in every column, got dtype bool"),
        ([["0", "1"]], TypeError, "integers in every column, got dtype <U1"),
        ([[0, None]], TypeError, "integers in every column, got dtype object"),
        ([[0, 1, 2]], ValueError, "codes has 3 columns, sizes=(5, 7) has 2"),
        ([[0]], ValueError, "codes has 1 columns, sizes=(5, 7) has 2"),
        ([0, 1], ValueError, "codes must be 2-d"),
        ([[[0, 1]]], ValueError, "codes must be 2-d"),
    ],
)
def test_bad_codes(function, codes, error, message):
    codes = np.array(codes, dtype=np.uint64 if "9223" in message else None)
    with pytest.raises(error, match=re.escape(message)):
        function(codes, (5, 7))


@pytest.mark.parametrize(
    ("sizes", "error", "message"),
    [
        ((5, 0), ValueError, "sizes[1] must be from 1 to 4294967296, got 0"),
        ((-5, 2), ValueError, "sizes[0] must be from 1 to 4294967296, got -5"),
        ((2, 2**32 + 1), ValueError, "sizes[1] must be from 1 to 4294967296"),
        ((5, 2.0), TypeError, "sizes[1] must be an integer, got 2.0"),
        ((5, True), TypeError, "sizes[1] must be an integer, got True"),
        (5, TypeError, "sizes must be a sequence of integers, one per code column"),
        ((), ValueError, "sizes must name at least one code column"),
    ],
)
def test_bad_sizes(sizes, error, message):
    zeros = np.zeros((1, 2), dtype=np.uint8)
    for call in (
        lambda: pack(zeros, sizes),
        lambda: unpack(zeros, sizes),
        lambda: packed_bits(sizes),
        lambda: token_ids(zeros, sizes),
        lambda: from_token_ids(zeros[0], sizes),
        lambda: one_hot(zeros, sizes),
    ):
        with pytest.raises(error, match=re.escape(message)):
            call()


def test_bad_options():
    with pytest.raises(ValueError, match="bitorder must be 'big' or 'little'"):
        pack([[1]], (2,), bitorder="middle")
    with pytest.raises(ValueError, match="bitorder must be 'big' or 'little'"):
        unpack(np.zeros((1, 1), np.uint8), (2,), bitorder=None)
    zeros = np.zeros((1, 2), dtype=np.uint8)
    with pytest.raises(ValueError, match="method must be 'columns' or 'radix'"):
        pack(zeros, (2, 2), method="bits")
    with pytest.raises(ValueError, match="method must be 'columns' or 'radix'"):
        unpack(zeros, (2, 2), method="bits")
    with pytest.raises(ValueError, match="order must be 'C' or 'F', got 'A'"):
        token_ids(zeros, (2, 2), order="A")
    for size, error in [(0, ValueError), (2**64 + 1, ValueError), (2.0, TypeError)]:
        with pytest.raises(error, match="size must be"):
            smallest_dtype(size)


@pytest.mark.parametrize("method", METHODS)
def test_packed_of_another_length(method):
    sizes = (5, 300, 7)
    codes = random_codes(sizes)
    rows = pack(codes, sizes, method=method)
    stream = pack(codes, sizes, method=method, row_aligned=False)
    for wrong in (rows[:, :-1], np.hstack([rows, rows])):
        with pytest.raises(ValueError, match="truncated, too long"):
            unpack(wrong, sizes, method=method)
    with pytest.raises(ValueError, match="truncated, too long"):
        unpack(rows, sizes, method=method, n_samples=49)
    for wrong in (stream[:-1], np.append(stream, np.uint8(0))):
        with pytest.raises(ValueError, match="truncated, too long"):
            unpack(wrong, sizes, method=method, row_aligned=False, n_samples=50)


def test_packed_of_another_form():
    rows = pack(np.zeros((4, 2), dtype=int), (5, 5))
    stream = rows.ravel()
    with pytest.raises(ValueError, match="must be 2-d with row_aligned=True"):
        unpack(stream, (5, 5))
    with pytest.raises(ValueError, match="must be 1-d with row_aligned=False"):
        unpack(rows, (5, 5), row_aligned=False, n_samples=4)
    with pytest.raises(ValueError, match="n_samples must be given"):
        unpack(stream, (5, 5), row_aligned=False)
    with pytest.raises(TypeError, match="dtype uint8, got int64"):
        unpack(rows.astype(np.int64), (5, 5))
    with pytest.raises(TypeError, match=r"np\.frombuffer"):
        unpack(stream.tobytes(), (5, 5), row_aligned=False, n_samples=4)
    with pytest.raises(TypeError, match=r"n_samples must be an integer, got 4\.0"):
        unpack(rows, (5, 5), n_samples=4.0)
    with pytest.raises(ValueError, match="n_samples must be from 0"):
        unpack(rows, (5, 5), n_samples=-1)


@pytest.mark.parametrize("method", METHODS)
def test_padding_bits_that_are_not_zero(method):
    codes = np.zeros((5, 3), dtype=int)
    rows = pack(codes, (4, 4, 4), method=method)
    rows[3, -1] |= 1
    with pytest.raises(ValueError, match="padding bits at the end of row 3 of packed"):
        unpack(rows, (4, 4, 4), method=method)
    stream = pack(codes, (4, 4, 4), method=method, row_aligned=False)
    stream[-1] |= 2
    with pytest.raises(ValueError, match="padding bits at the end of packed"):
        unpack(stream, (4, 4, 4), method=method, row_aligned=False, n_samples=5)


def test_the_lowest_bits_first_are_as_numpy_and_faiss_have_them():
    codes = random_codes((32, 32, 32))
    bits = np.unpackbits(codes[:, :, None], axis=2, bitorder="little")[:, :, :5]
    rows = np.packbits(bits.reshape(len(codes), 15), axis=1, bitorder="little")
    np.testing.assert_array_equal(pack(codes, (32,) * 3, bitorder="little"), rows)
    stream = pack(codes, (32,) * 3, bitorder="little", row_aligned=False)
    np.testing.assert_array_equal(stream, np.packbits(bits, bitorder="little"))
    rows[3, -1] |= 128
    with pytest.raises(ValueError, match="padding bits at the end of row 3"):
        unpack(rows, (32,) * 3, bitorder="little")
    faiss = pytest.importorskip("faiss")
    codes = random_codes((1024,) * 7).astype(np.int32)
    found = pack(codes, (1024,) * 7, bitorder="little")
    np.testing.assert_array_equal(found, faiss.pack_bitstrings(codes, 10))


@pytest.mark.parametrize("row_aligned", [True, False])
def test_packed_codes_that_their_codebook_does_not_have(row_aligned):
    n_samples = 30_001  # the bad row lies in a later tile
    codes = np.zeros((n_samples, 2), dtype=np.uint16)
    codes[-2] = (3, 511)
    packed = pack(codes, (4, 512), row_aligned=row_aligned)
    with pytest.raises(
        ValueError, match=r"code 511 in row 29999, column 1, .* 500 cod"
    ):
        unpack(packed, (4, 500), row_aligned=row_aligned, n_samples=n_samples)


@pytest.mark.parametrize("sizes", [(5, 5, 5), (5,) * 40, (1, 2**32 - 1, 2**32 - 1)])
def test_packed_token_ids_that_their_codebooks_do_not_have(sizes):
    n_bits = packed_bits(sizes, method="radix")
    n_bytes = -(-n_bits // 8)
    packed = np.zeros((3, n_bytes), dtype=np.uint8)
    for token in (math.prod(sizes), 2**n_bits - 1):
        shifted = token << (8 * n_bytes - n_bits)
        packed[1] = np.frombuffer(shifted.to_bytes(n_bytes, "big"), dtype=np.uint8)
        with pytest.raises(ValueError, match="token id in row 1 that"):
            unpack(packed, sizes, method="radix")


def test_too_many_tokens_for_an_integer():
    codes = np.zeros((1, 8), dtype=np.uint8)
    with pytest.raises(ValueError, match=r"2\*\*63 - 1.*pack\(codes, sizes, method="):
        token_ids(codes, (256,) * 8)
    with pytest.raises(ValueError, match=r"2\*\*63 - 1"):
        from_token_ids([0], (256,) * 8)


@pytest.mark.parametrize(
    ("ids", "error", "message"),
    [
        ([0, 15], ValueError, "ids[1] is 15: sizes=(3, 5) make 15 tokens, 0 to 14"),
        ([-1], ValueError, "ids[0] is -1"),
        ([[0]], ValueError, "ids must be 1-d"),
        ([0.0], TypeError, "ids must be integers, got dtype float64"),
        (np.array([2**64 - 1], dtype=np.uint64), ValueError, "ids[0] is 1844674407"),
    ],
)
def test_bad_token_ids(ids, error, message):
    with pytest.raises(error, match=re.escape(message)):
        from_token_ids(ids, (3, 5))
