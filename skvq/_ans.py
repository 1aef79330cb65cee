r"""Blocks of codes as bytes: integer frequencies, constriction's coder, an index.

Frequencies are integers that sum to 2^24, each at least 1.  The model of a column is
constriction's `Categorical` of exactly these.  It is passed the frequencies minus one:
it gives each symbol one, and shares out the rest in proportion to these numbers, whose
float32 sum equals the rest, so that nothing is rounded.

Rows are coded in independent blocks.  The bytes of some rows, written by `Writer` and
read by `Segment`, are little-endian:

==============  ====================================================================
bytes           content
==============  ====================================================================
4 w             the words of each block, one block after the other
8 n             for each of the n blocks: the number w of its words, and a CRC-32 over
                the id of the model, the number of rows, the number of the block, and
                the codes, column by column, in the smallest unsigned dtype
8               number of rows
4               number of rows in a block; the last block may have fewer
8               id of the model
4               CRC-32 of everything from the numbers of words on
==============  ====================================================================

They are therefore read from the end.
"""

import hashlib
import math
import struct
import zlib
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

# Added to every count, so that codes which were never seen have a probability.
UNSEEN = 0.02
PRECISION = 24
TOTAL = 2**PRECISION
# The most codes in a block; a block is decoded as a whole.
MOST_CODES = 2**28
_FOOTER = struct.Struct("<QI8sI")
_CRC_BYTES = 4
_COVERED = struct.Struct("<8sQQ")

Read = Callable[[int, int], bytes]


def frequencies(weights: NDArray[np.float64]) -> NDArray[np.uint32]:
    """Return integers that sum to 2^24, each at least 1, in proportion to weights.

    Shares below 1 become 1.  The others divide what is left: each gets its integer
    part, and those with the largest remainders get one more, the first ones among equal
    remainders.  The sum of the weights is rounded once and everything else is single
    float operations, so the integers are the same on every machine.

    Parameters
    ----------
    weights : ndarray of shape (n_codewords,)
        Positive; at most 2^24 of them.

    Returns
    -------
    frequencies : ndarray of uint32, shape (n_codewords,)
    """
    ones = np.zeros(len(weights), dtype=bool)
    share = weights
    while not ones.all():
        left = TOTAL - int(np.count_nonzero(ones))
        share = weights * (left / math.fsum(weights[~ones]))
        small = ~ones & (share < 1)
        if not small.any():
            break
        ones |= small
    whole = np.where(ones, 1, np.floor(share)).astype(np.int64)
    rest = TOTAL - int(whole.sum())
    if rest >= 0:
        fraction = np.where(ones, -1, share - whole)
        whole[np.argsort(-fraction, kind="stable")[:rest]] += 1
    else:  # some shares were rounded up to an integer
        whole[np.argsort(-whole, kind="stable")[:-rest]] -= 1
    return whole.astype(np.uint32)


def code_dtype(sizes: Sequence[int]) -> np.dtype:
    """Return the smallest unsigned dtype that holds codes, in the files' byte order."""
    return np.min_scalar_type(max(sizes) - 1).newbyteorder("<")


class Model:
    """The frequencies of the codes of each column.

    Parameters
    ----------
    tables : sequence of ndarray of uint32, shape (n_contexts, n_codewords)
        For each column, a row of frequencies that sum to 2^24 for each code of the
        column before; or a single row for all.
    """

    def __init__(self, tables: Sequence[NDArray[np.uint32]]) -> None:
        self.tables = [_locked(table) for table in tables]
        self.sizes = tuple(table.shape[1] for table in tables)
        self._models: dict[tuple[int, int], Any] = {}
        digest = hashlib.sha256()
        for table in self.tables:
            digest.update(struct.pack("<QQ", *table.shape))
            digest.update(table.astype("<u4").tobytes())
        self.id = digest.digest()[:8]

    def __getstate__(self) -> dict[Any, Any]:
        return {**vars(self), "_models": {}}

    @cached_property
    def _lengths(self) -> list[NDArray[np.float64]]:
        return [PRECISION - np.log2(table) for table in self.tables]

    def bits(self, codes: NDArray[Any]) -> NDArray[np.float64]:
        """Return the bits of each row's codes, without the overhead of blocks."""
        bits = np.zeros(len(codes))
        for j, lengths in enumerate(self._lengths):
            before = codes[:, j - 1] if len(lengths) > 1 else np.intp(0)
            bits += lengths[before, codes[:, j]]
        return bits

    def encode(self, columns: NDArray[Any]) -> NDArray[np.uint32]:
        """Return the words of a block of codes (n_codes, n_rows)."""
        coder = _constriction().stream.stack.AnsCoder()
        # The coder is a stack: what is to be decoded first is encoded last.
        for j in range(len(columns) - 1, -1, -1):
            symbols = columns[j].astype(np.int32)
            if self.sizes[j] == 1:
                continue
            if len(self.tables[j]) == 1:
                coder.encode_reverse(symbols, self._model(j, 0))
                continue
            order, borders = _by_context(columns[j - 1])
            symbols = symbols[order]
            for context, start, stop in reversed(borders):
                coder.encode_reverse(symbols[start:stop], self._model(j, context))
        return coder.get_compressed()

    def decode(self, words: NDArray[np.uint32], n_rows: int) -> NDArray[Any]:
        """Return the codes (n_codes, n_rows) of a block; ValueError if there are none.

        Damaged words may also decode to other codes.
        """
        coder = _constriction().stream.stack.AnsCoder(words)
        columns = np.zeros((len(self.sizes), n_rows), dtype=code_dtype(self.sizes))
        for j, table in enumerate(self.tables):
            if self.sizes[j] == 1:
                continue
            if len(table) == 1:
                columns[j] = coder.decode(self._model(j, 0), n_rows)
                continue
            order, borders = _by_context(columns[j - 1])
            for context, start, stop in borders:
                found = coder.decode(self._model(j, context), stop - start)
                columns[j, order[start:stop]] = found
        if not coder.is_empty():
            raise ValueError("there are words that belong to no code")
        return columns

    def _model(self, j: int, context: int) -> Any:
        if (j, context) not in self._models:
            self._models[j, context] = _categorical(self.tables[j][context])
        return self._models[j, context]


def _by_context(before: NDArray[Any]) -> tuple[NDArray[np.intp], list[Any]]:
    """Return the rows in order of their context, and each context with its range."""
    order = np.argsort(before, kind="stable")
    contexts, starts = np.unique(before[order], return_index=True)
    stops = [*starts[1:].tolist(), len(before)]
    return order, list(zip(contexts.tolist(), starts.tolist(), stops, strict=True))


def _categorical(table: NDArray[np.uint32]) -> Any:
    model = _constriction().stream.model
    if len(table) < TOTAL - 1:
        return model.Categorical((table - 1).astype(np.float32), perfect=False)
    # There are too many for the fast way; the other way finds these very frequencies.
    return model.Categorical(table.astype(np.float32), perfect=True)


def _constriction() -> Any:
    try:
        import constriction
    except ImportError as error:
        raise ImportError(
            "Entropy coding needs constriction: pip install 'skvq[entropy]'."
        ) from error
    return constriction


def _locked(table: NDArray[np.uint32]) -> NDArray[np.uint32]:
    table = np.ascontiguousarray(table, dtype=np.uint32)
    table.flags.writeable = False
    return table


# -- blocks ----------------------------------------------------------------------------


class Writer:
    """Writes rows as bytes.

    Parameters
    ----------
    model : Model
        The frequencies.
    block_rows : int
        Number of rows in a block.
    """

    def __init__(self, model: Model, block_rows: int) -> None:
        _constriction()  # an ImportError should come before the first block
        self._model, self._block_rows = model, block_rows
        self._rest = np.empty((0, len(model.sizes)), dtype=code_dtype(model.sizes))
        self._index: list[tuple[int, int]] = []
        self.n_rows = 0

    def add(self, codes: NDArray[Any]) -> bytes:
        """Take more rows, which are valid; return the bytes that they complete."""
        self.n_rows += len(codes)
        if len(self._rest):
            codes = np.concatenate([self._rest, codes])
        whole = len(codes) // self._block_rows * self._block_rows
        found = [
            self._block(codes[start : start + self._block_rows])
            for start in range(0, whole, self._block_rows)
        ]
        self._rest = codes[whole:].astype(self._rest.dtype)
        return b"".join(found)

    def end(self) -> bytes:
        """Return the last bytes: the last block and the index."""
        last = self._block(self._rest) if len(self._rest) else b""
        index = np.array(self._index, dtype="<u4").tobytes()
        footer = _FOOTER.pack(self.n_rows, self._block_rows, self._model.id, 0)
        footer = footer[:-_CRC_BYTES]
        crc = zlib.crc32(footer, zlib.crc32(index))
        return last + index + footer + struct.pack("<I", crc)

    def _block(self, codes: NDArray[Any]) -> bytes:
        columns = np.ascontiguousarray(codes.T, dtype=self._rest.dtype)
        words = self._model.encode(columns)
        self._index.append(
            (len(words), _crc(self._model.id, columns, len(self._index)))
        )
        return words.astype("<u4").tobytes()


def _crc(model_id: bytes, columns: NDArray[Any], number: int) -> int:
    covered = _COVERED.pack(model_id, columns.shape[1], number)
    return zlib.crc32(columns.data, zlib.crc32(covered))


class Segment(NamedTuple):
    """The rows that one `Writer` has written."""

    model: Model
    read: Read  # returns the bytes between two places
    n_rows: int
    block_rows: int
    places: NDArray[np.int64]  # where blocks begin, and where the last one ends
    crcs: NDArray[np.int64]
    end: int

    @property
    def start(self) -> int:
        """The place of the first byte."""
        return int(self.places[0])

    def rows(self, start: int, stop: int) -> NDArray[Any]:
        """Return the codes of some rows, reading only their blocks.

        A ValueError is raised if these are damaged.
        """
        shape = stop - start, len(self.model.sizes)
        codes = np.empty(shape, dtype=code_dtype(self.model.sizes).newbyteorder("="))
        for number in range(start // self.block_rows, -(-stop // self.block_rows)):
            first = number * self.block_rows
            low, high = max(start, first), min(stop, first + self.block_rows)
            found = self._block(number)[:, low - first : high - first]
            codes[low - start : high - start] = found.T
        return codes

    def _block(self, number: int) -> NDArray[Any]:
        n_rows = min(self.block_rows, self.n_rows - number * self.block_rows)
        data = self.read(int(self.places[number]), int(self.places[number + 1]))
        words = np.frombuffer(data, dtype="<u4").astype(np.uint32)
        try:
            columns = self.model.decode(words, n_rows)
        except ValueError as error:
            raise ValueError(f"block {number} is not a coded block: {error}") from error
        if _crc(self.model.id, columns, number) != self.crcs[number]:
            raise ValueError(f"the checksum of block {number} does not match")
        return columns


def open_segment(model: Model, read: Read, end: int) -> Segment:
    """Return the segment that ends at a place; a ValueError if there is none."""
    if end < _FOOTER.size:
        raise ValueError("it ends too early")
    footer = read(end - _FOOTER.size, end)
    n_rows, block_rows, model_id, crc = _FOOTER.unpack(footer)
    if model_id != model.id:
        raise ValueError("it was coded with other frequencies, or is damaged")
    n_blocks = -(-n_rows // block_rows) if block_rows else n_rows + 1
    index_start = end - _FOOTER.size - 8 * n_blocks
    if index_start < 0 or block_rows * len(model.sizes) > MOST_CODES:
        raise ValueError("there is no room for its index")
    data = read(index_start, end - _FOOTER.size)
    if zlib.crc32(footer[:-_CRC_BYTES], zlib.crc32(data)) != crc:
        raise ValueError("the checksum of its index does not match")
    index = np.frombuffer(data, dtype="<u4").reshape(n_blocks, 2).astype(np.int64)
    ends = np.append(0, 4 * np.cumsum(index[:, 0]))
    if ends[-1] > index_start:
        raise ValueError("there is no room for its blocks")
    places = index_start - ends[-1] + ends
    return Segment(model, read, n_rows, block_rows, places, index[:, 1], end)
