"""`skvq.codes.EntropyCoder`, which writes frequent codes in fewer bits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import NotFittedError

from skvq import _ans
from skvq._checks import columns_in_words
from skvq._code_checks import check_codes, check_integer, check_sizes, sent
from skvq._compat import published_in
from skvq._typing import MatrixLike, Size, Sizes, VectorLike
from skvq._weights import check_weights

# The most frequencies in all tables together, 4 bytes each.
MOST_FREQUENCIES = 2**26


@published_in("skvq.codes")
class EntropyCoder:
    r"""Write codes in fewer bits the more frequent they are, and read them back.

    A code of probability p takes -log2 p bits, instead of the log2 V bits that each
    code of V codewords takes in packed files [1]_.  Probabilities are tables of
    integers that sum to 2^24, one table for each code column, computed here from
    counts.  The coder is the asymmetric numeral system [2]_ of constriction [3]_, which
    must be installed: ``pip install 'skvq[entropy]'``.

    Rows are coded in independent blocks, each checked by a CRC-32 over its codes, its
    number of rows and the tables.

    Parameters
    ----------
    sizes : sequence of int, length n_codes
        Number of codewords V_j behind each code column: the `codebook_sizes_` of the
        quantizer.  At most 2^24 each; columns of size 1 take no bits.
    conditional : bool, default=False
        Whether a column has a table for each code of the column before it.  This takes
        fewer bits if columns depend on each other, but V_{j-1} times as many numbers
        have to be learned and stored.
    block_rows : int, default=1024
        Rows in a block.  A block takes about 96 bits in addition to its codes, and is
        the smallest unit of decoding.

    Attributes
    ----------
    n_frequencies : int
        Number of entries in all tables.
    frequencies_ : tuple of ndarray of uint32
        For each column, integers (V_j,) that sum to 2^24, each at least 1; (V_{j-1},
        V_j) for columns that depend on the one before.  Read-only.
    model_id_ : str
        A hash of sizes and frequencies, 16 hexadecimal digits.

    Raises
    ------
    TypeError
        If a size or `block_rows` is not an integer.
    ValueError
        If a size is above 2^24, the tables would have more than 2^26 entries, or a
        block more than 2^28 codes.

    See Also
    --------
    skvq.io.save_codes : Writes files of such codes, with the tables.
    skvq.metrics.entropy_bits : The bits that a fitted codec's codes take.
    pack : Packing, with the same number of bits for each row.

    References
    ----------
    .. [1] C. E. Shannon, "A Mathematical Theory of Communication", Bell System
       Technical Journal 27, 1948, doi:10.1002/j.1538-7305.1948.tb01338.x.
    .. [2] J. Duda, "Asymmetric numeral systems", arXiv 0902.0271, 2009.
    .. [3] R. Bamler, "Understanding Entropy Coding With Asymmetric Numeral Systems
       (ANS): a Statistician's Perspective", arXiv 2201.01741, 2022.

    Examples
    --------
    >>> import numpy as np
    >>> from skvq.codes import EntropyCoder, pack
    >>> rng = np.random.default_rng(0)
    >>> codes = rng.binomial(15, 0.5, size=(10_000, 4))
    >>> coder = EntropyCoder([16] * 4).fit(codes)
    >>> data = coder.encode(codes)
    >>> len(data), pack(codes, [16] * 4).nbytes
    (15128, 20000)
    >>> bool((coder.decode(data, 5_000, 5_010) == codes[5_000:5_010]).all())
    True
    >>> round(float(coder.bits(codes).mean()), 2)
    11.98
    """

    block_rows: int
    conditional: bool
    sizes: tuple[int, ...]

    def __init__(
        self,
        sizes: Sizes,
        *,
        conditional: bool = False,
        block_rows: Size = 1024,
    ) -> None:
        self.sizes = check_sizes(sizes)
        self.conditional = bool(conditional)
        self.block_rows = check_integer(block_rows, "block_rows", 1, 2**31)
        for j, size in enumerate(self.sizes):
            if size > _ans.TOTAL:
                raise ValueError(
                    f"sizes[{j}] is {size}; frequencies of sum 2^24 are for at most "
                    f"{_ans.TOTAL} codewords"
                )
        if self.n_frequencies > MOST_FREQUENCIES:
            raise ValueError(
                f"sizes ask for {self.n_frequencies} frequencies; expected at most "
                f"{MOST_FREQUENCIES}" + ", without conditional=True" * self.conditional
            )
        if self.block_rows * len(self.sizes) > _ans.MOST_CODES:
            raise ValueError(
                f"block_rows={self.block_rows} of {len(self.sizes)} codes; a block has "
                f"at most {_ans.MOST_CODES} codes"
            )

    def __repr__(self) -> str:
        known = "not fitted"
        if hasattr(self, "frequencies_"):
            known = f"{self.n_frequencies} frequencies, model {self.model_id_}"
        return f"<EntropyCoder for {columns_in_words(self.sizes)}; {known}>"

    @classmethod
    def from_counts(
        cls,
        counts: Sequence[VectorLike | None] | NDArray[Any],
        *,
        conditional: bool = False,
        block_rows: Size = 1024,
    ) -> Self:
        """Return a coder made from counts.

        Parameters
        ----------
        counts : sequence of array-like of shape (n_codewords,)
            How often each code was seen, for each column: the `code_counts_` of a
            quantizer.  Each count is raised by .02, so that codes which were not seen
            can be written too.
        conditional : bool, default=False
            True is refused: it needs counts of pairs, which `fit` takes from codes.
        block_rows : int, default=1024
            Rows in a block.

        Returns
        -------
        coder : EntropyCoder
            The coder, ready for use.

        Raises
        ------
        ValueError
            If counts are negative or not finite, all zero in a column, or None, as
            quantizers report for columns with more than 2^16 codewords.
        """
        if conditional:
            raise ValueError(
                "conditional=True needs counts of pairs of codes: use "
                "EntropyCoder(sizes, conditional=True).fit(codes)"
            )
        columns = [_checked_counts(j, found) for j, found in enumerate(counts)]
        coder = cls([len(column) for column in columns], block_rows=block_rows)
        coder._learn([column[None] for column in columns])
        return coder

    def fit(self, codes: MatrixLike, sample_weight: VectorLike | None = None) -> Self:
        """Count codes and make the tables.

        Parameters
        ----------
        codes : array-like of int, shape (n_samples, n_codes)
            Codes as `transform` returns them, for example of the training samples; at
            least one row.
        sample_weight : array-like of shape (n_samples,), optional
            Weights of the rows: none negative, not all zero; only their ratios matter.

        Returns
        -------
        self : EntropyCoder
            The coder.

        Raises
        ------
        TypeError, ValueError
            If the codes do not fit `sizes`, or the weights are not valid.
        """
        _, codes = check_codes(codes, self.sizes)
        if not len(codes):
            raise ValueError("codes has no rows: there is nothing to count")
        weights = check_weights(sample_weight, codes)
        if weights is not None:
            weights = weights * (np.count_nonzero(weights) / weights.sum())
        counts = []
        for j, (n_contexts, size) in enumerate(self._shapes()):
            places = codes[:, j].astype(np.intp)
            if n_contexts > 1:
                places += codes[:, j - 1].astype(np.intp) * size
            found = np.bincount(places, weights, n_contexts * size)
            counts.append(found.astype(np.float64).reshape(n_contexts, size))
        self._learn(counts)
        return self

    def bits(self, codes: MatrixLike) -> NDArray[np.float64]:
        """Return the bits that the codes of each row take.

        Parameters
        ----------
        codes : array-like of int, shape (n_samples, n_codes)
            Codes as `transform` returns them.

        Returns
        -------
        bits : ndarray of float64, shape (n_samples,)
            The sum of -log2(frequency / 2^24) over the columns.  `encode` takes their
            total, plus about 96 bits for each block.

        Raises
        ------
        TypeError, ValueError
            If the codes do not fit `sizes`.
        """
        model = self._fitted()
        be, codes = check_codes(codes, self.sizes)
        return sent(be, model.bits(codes))

    def encode(self, codes: MatrixLike) -> bytes:
        """Return codes as bytes.

        Parameters
        ----------
        codes : array-like of int, shape (n_samples, n_codes)
            Codes as `transform` returns them.

        Returns
        -------
        data : bytes
            The coded rows, without the frequencies; `decode` needs a coder that has the
            same ones.

        Raises
        ------
        TypeError, ValueError
            If the codes do not fit `sizes`.
        ImportError
            If constriction is not installed.
        """
        writer = self._writer()
        _, codes = check_codes(codes, self.sizes)
        return writer.add(codes) + writer.end()

    def decode(
        self, data: bytes, start: int = 0, stop: int | None = None
    ) -> NDArray[Any]:
        """Return the codes of all rows or some.

        Parameters
        ----------
        data : bytes-like
            The result of `encode`.
        start : int, default=0
            The first row.
        stop : int, optional
            The row after the last; None: the end.

        Returns
        -------
        codes : ndarray of shape (stop - start, n_codes)
            In the smallest unsigned dtype that holds the largest size.

        Raises
        ------
        IndexError
            If rows are out of range.
        ValueError
            If the data are damaged, in the index or in blocks of these rows, or were
            written with other frequencies.
        ImportError
            If constriction is not installed.
        """
        model, content = self._fitted(), memoryview(data).cast("B")
        try:
            found = _ans.open_segment(
                model, lambda begin, end: bytes(content[begin:end]), len(content)
            )
            if found.start:
                raise ValueError(f"its first {found.start} bytes belong to no block")
            stop = found.n_rows if stop is None else stop
            if not 0 <= start <= stop <= found.n_rows:
                raise IndexError(
                    f"rows {start} to {stop} are not within the {found.n_rows} rows"
                )
            return found.rows(start, stop)
        except ValueError as error:
            raise ValueError(f"data cannot be decoded: {error}") from error

    @property
    def n_frequencies(self) -> int:
        """Number of entries in all tables."""
        return sum(map(math.prod, self._shapes()))

    @property
    def frequencies_(self) -> tuple[NDArray[np.uint32], ...]:
        """Frequencies of the codes of each column."""
        return tuple(
            table[0] if shape[0] == 1 else table
            for table, shape in zip(self._fitted().tables, self._shapes(), strict=True)
        )

    @property
    def model_id_(self) -> str:
        """A hash of sizes and frequencies."""
        return self._fitted().id.hex()

    # -- for files ---------------------------------------------------------------------

    @classmethod
    def _from_frequencies(
        cls, tables: NDArray[np.uint32], sizes: Sequence[int], **parameters: Any
    ) -> Self:
        """Return a coder from all its frequencies in one array; check them."""
        coder = cls(sizes, **parameters)
        shapes = coder._shapes()
        split = np.split(tables, np.cumsum([math.prod(shape) for shape in shapes])[:-1])
        coder._model = _ans.Model(
            [table.reshape(shape) for table, shape in zip(split, shapes, strict=True)]
        )
        for table in coder._model.tables:
            if (table < 1).any() or (table.sum(1, dtype=np.int64) != _ans.TOTAL).any():
                raise ValueError("its frequencies do not add up to 2^24")
        return coder

    def _writer(self) -> _ans.Writer:
        return _ans.Writer(self._fitted(), self.block_rows)

    # -- shared by the methods ---------------------------------------------------------

    _model: _ans.Model | None = None

    def _shapes(self) -> list[tuple[int, int]]:
        """Return the shape of each column's table: (n_contexts, n_codewords)."""
        before = [1, *self.sizes[:-1]] if self.conditional else [1] * len(self.sizes)
        return list(zip(before, self.sizes, strict=True))

    def _learn(self, counts: list[NDArray[np.float64]]) -> None:
        self._model = _ans.Model([_table(found) for found in counts])

    def _fitted(self) -> _ans.Model:
        if self._model is None:
            raise NotFittedError(
                "This EntropyCoder has no frequencies yet: call fit, or make it by "
                "from_counts."
            )
        return self._model


def _table(counts: NDArray[np.float64]) -> NDArray[np.uint32]:
    """Return frequencies for counts (n_contexts, n_codewords)."""
    if len(counts) == 1:
        return _ans.frequencies(counts[0] + _ans.UNSEEN)[None]
    # Counts of pairs are raised in proportion to the counts of single codes.
    single = counts.sum(axis=0) + _ans.UNSEEN
    prior = single * (_ans.UNSEEN * len(single) / math.fsum(single))
    return np.stack([_ans.frequencies(row + prior) for row in counts])


def _checked_counts(j: int, counts: Any) -> NDArray[np.float64]:
    if counts is None:
        raise ValueError(
            f"counts[{j}] is None: quantizers do not count columns of so many "
            "codewords; use EntropyCoder(sizes).fit(codes)"
        )
    counts = np.asarray(counts, dtype=np.float64)
    if counts.ndim != 1 or not len(counts):
        raise ValueError(
            f"counts[{j}] has shape {counts.shape}; expected (n_codewords,)"
        )
    wrong = np.flatnonzero(~(counts >= 0) | np.isinf(counts))
    if wrong.size:
        raise ValueError(
            f"counts[{j}][{wrong[0]}] is {counts[wrong[0]]}; expected a finite number "
            "of zero or more"
        )
    if not counts.any():
        raise ValueError(f"counts[{j}] are all zero: no code was counted")
    if not counts.sum() < 2.0**1000:
        raise ValueError(f"counts[{j}] add up to {counts.sum()}, which is too much")
    return counts
