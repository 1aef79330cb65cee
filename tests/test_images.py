"""Blocks of pictures and back, and palettes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.testing import assert_array_equal
from sklearn import config_context

from skvq import VectorQuantizer
from skvq.images import from_blocks, palette, to_blocks

SIDES = st.integers(1, 7)
SHAPES = st.one_of(st.tuples(SIDES, SIDES), st.tuples(SIDES, SIDES, st.integers(1, 4)))
DTYPES = st.sampled_from(["u1", "i2", ">i4", "f2", "f4", "f8", "?", "c8", "u8"])


@given(
    arrays.arrays(DTYPES, SHAPES), st.one_of(SIDES, st.tuples(SIDES, SIDES)), st.data()
)
def test_there_and_back(picture, block, data):
    rows = to_blocks(picture, block)
    height, width = (block, block) if isinstance(block, int) else block
    n_channels = picture.shape[2] if picture.ndim == 3 else 1
    down, across = -(-picture.shape[0] // height), -(-picture.shape[1] // width)
    assert rows.shape == (down * across, height * width * n_channels)
    assert rows.dtype == picture.dtype and rows.flags.c_contiguous
    back = from_blocks(rows, picture.shape, block)
    assert back.dtype == picture.dtype and back.shape == picture.shape
    assert_array_equal(back, picture)
    # A block is where it was, and what hangs over repeats the last row and column.
    i, j = data.draw(st.integers(0, down - 1)), data.draw(st.integers(0, across - 1))
    ys = np.minimum(np.arange(i * height, (i + 1) * height), picture.shape[0] - 1)
    xs = np.minimum(np.arange(j * width, (j + 1) * width), picture.shape[1] - 1)
    assert_array_equal(rows[i * across + j], picture[np.ix_(ys, xs)].ravel())


def test_the_picture_is_left_alone():
    picture = np.zeros((4, 4, 3), dtype=np.uint8)
    to_blocks(picture, 2)[:] = 1
    rows = to_blocks(picture, (4, 4))
    rows[:] = 2
    from_blocks(rows, picture.shape, 4)[:] = 3
    assert not picture.any() and (rows == 2).all()


def test_numbers_are_rounded_and_clipped_where_integers_are_wanted():
    rows = np.array([[-3.0, 300.0, 1.6, 254.5]])
    found = from_blocks(rows, (2, 2), 2, dtype=np.uint8)
    assert found.dtype == np.uint8 and found.ravel().tolist() == [0, 255, 2, 254]
    signed = from_blocks(rows.astype(np.int16), (2, 2), 2, dtype="i1")
    assert signed.ravel().tolist() == [-3, 127, 1, 127]
    wide = np.array([[2.0**63, -(2.0**63), 1e300, 5.0]])
    assert from_blocks(wide, (2, 2), 2, dtype="i8").ravel().tolist() == [
        *(2**63 - 1, -(2**63), 2**63 - 1, 5)
    ]
    half = rows.astype(np.float16)
    assert from_blocks(half, (2, 2), 2, dtype="i8").ravel().tolist() == [
        -3,
        300,
        2,
        254,
    ]
    assert from_blocks(rows, (2, 2), 2, dtype="f4").dtype == np.float32
    assert from_blocks(rows > 0, (2, 2), 2, dtype="u1").ravel().tolist() == [0, 1, 1, 1]
    with pytest.raises(ValueError, match=r"rows hold NaN or infinity.*uint8"):
        from_blocks(rows * np.nan, (2, 2), 2, dtype=np.uint8)


def test_bools_are_true_from_a_half_on():
    rows = np.array([[0.1, 0.9, 0.5, -2.0]])
    found = from_blocks(rows, (2, 2), 2, dtype=bool)
    assert found.dtype == bool and found.ravel().tolist() == [False, True, True, False]
    mask = np.array([[True, False], [False, False]])
    colors, indices = palette(mask, 1, random_state=0)
    assert colors.dtype == bool and not colors[indices].any()


def test_sizes_are_integers_of_any_type():
    picture = np.arange(24).reshape(4, 6)
    expected = to_blocks(picture, 2)
    for block in (np.uint8(2), (np.int64(2), np.uint8(2)), np.array([2, 2])):
        assert_array_equal(to_blocks(picture, block), expected)
    first = from_blocks(expected[:1], np.array([2, 2], np.int8), np.uint8(2))
    assert_array_equal(first, picture[:2, :2])


def test_bad_pictures_and_blocks():
    picture = np.zeros((4, 6))
    for bad in (np.zeros(3), np.zeros((2, 2, 2, 2)), np.zeros((0, 3))):
        for call in (lambda x: to_blocks(x, 2), palette):
            with pytest.raises(ValueError, match="picture has shape"):
                call(bad)
    for block in (0, -1, 2.0, True, "2", (2,), (2, 2, 3), (2, 0), (2, True), None):
        with pytest.raises(ValueError, match=r"block_shape(=| holds).*expected"):
            to_blocks(picture, block)
        with pytest.raises(ValueError, match=r"block_shape(=| holds).*expected"):
            from_blocks(picture, (4, 6), block)
    with pytest.raises(ValueError, match="padding='zeros'; expected 'edge' or 'none'"):
        to_blocks(picture, 2, padding="zeros")
    with pytest.raises(ValueError, match="4 x 6 without a rest; padding='edge'"):
        to_blocks(picture, 4, padding="none")
    assert to_blocks(picture, 2, padding="none").shape == (6, 4)
    for shape in (4, (4,), (4, 0), (4, 6.0), (4, 6, 1, 1), (True, 6)):
        with pytest.raises(ValueError, match=r"^shape(=| holds).*expected"):
            from_blocks(np.zeros((6, 4)), shape, 2)
    with pytest.raises(ValueError, match=r"rows has shape \(6, 4\); .* shape \(4, 4\)"):
        from_blocks(np.zeros((6, 4)), (4, 4), 2)


@pytest.mark.parametrize("shape", [(30, 20), (30, 20, 3)])
@pytest.mark.parametrize("dtype", ["u1", "f4"])
def test_palettes(shape, dtype):
    picture = np.random.default_rng(0).integers(0, 256, shape).astype(dtype)
    colors, indices = palette(picture, 5, random_state=0)
    assert colors.dtype == picture.dtype and colors.shape == (5, *shape[2:])
    assert indices.dtype == np.uint8 and indices.shape == shape[:2]
    pixels = picture.reshape(600, -1)
    vq = VectorQuantizer(5, random_state=0).fit(pixels)
    expected = vq.quantize(pixels).reshape(shape)
    expected = np.rint(expected) if dtype == "u1" else expected
    assert_array_equal(colors[indices], expected.astype(dtype))
    sums = vq.full_codebook().sum(axis=1)
    assert_array_equal(
        colors.reshape(5, -1)[np.argsort(np.argsort(sums))],
        (np.rint(vq.full_codebook()) if dtype == "u1" else vq.full_codebook()),
    )


def test_many_colours_have_wider_indices():
    picture = np.arange(900).reshape(30, 30)
    colors, indices = palette(picture, 300, random_state=0)
    assert indices.dtype == np.uint16 and len(colors) == 300
    assert (np.diff(colors) >= 0).all()


@pytest.mark.parametrize("container", ["pandas", "polars"])
def test_palettes_are_arrays_whatever_transformers_return(container):
    pytest.importorskip(container)
    picture = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    expected = palette(picture, 4, random_state=0)
    with config_context(transform_output=container):
        found = palette(picture, 4, random_state=0)
    assert_array_equal(found[0], expected[0])
    assert_array_equal(found[1], expected[1])
