"""The additive scheme: a reconstruction is a sum of one codeword from each table."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any, Literal

import numpy as np
from sklearn.utils import check_random_state

from skvq import nearest
from skvq._checks import check_count, check_memory
from skvq._compat import RANDOM_STATE, SIZE, SIZES, Interval, StrOptions
from skvq._given import are_shared, as_shared, one_or_each, one_width
from skvq._typing import Assignment, BackendName, Number, RandomState, Size, Sizes
from skvq._validation import warn
from skvq.base import BaseQuantizer, reordered_once, reordered_table
from skvq.coding.sums import codeword_entries
from skvq.learning import additive as learning
from skvq.learning import least_squares, rotation
from skvq.learning.rows import Learner, Rows
from skvq.learning.start import few_distinct, repeat_cyclically
from skvq.parts import fit_part, part_sizes
from skvq.product import ProductQuantizer
from skvq.residual import ResidualQuantizer
from skvq.vector import VectorQuantizer

# Beam of the residual quantizer that learning starts from.
_START_BEAM = 5


class AdditiveQuantizer(BaseQuantizer):
    r"""Replace each sample by a sum of codewords, one from each of several tables.

    The additive scheme: :math:`\hat x = \sum_j W_j[c_j]`, with tables :math:`W_j` of
    shape (V_j, d) that all span the whole space.  They hold :math:`d \sum_j V_j`
    numbers and represent a codebook of :math:`V = \prod_j V_j` codewords.  Product and
    residual quantizers are special cases, so it is the most accurate of the three at
    equal bits, and takes the most work to learn and to encode.

    Parameters
    ----------
    n_codebooks : int, default=4
        m, the number of tables.
    n_codewords : int or sequence of int, default=256
        V_j, for all tables or for each.
    assignment : {"joint", "independent"}, default="joint"
        "joint": the codes of a sample are searched for together, for the sum nearest to
        it (additive quantization).  "independent": :math:`\sum_j f(x, W_j)`, each code
        is the codeword of its own table nearest to the sample, whatever the others are;
        the tables are learned so that these sums reconstruct.
    share_codebook : bool, default=False
        Whether one table serves all codes; for joint assignment only, since independent
        codes in one table would all be equal.
    beam_size : int, default=32
        Number of partial sums kept in the search for the codes of a sample.
    n_rounds : int, default=4
        Rounds of iterated conditional modes after the beam.  A round improves one code
        at a time until no code can be improved; all rounds but the first begin by
        replacing a code at random.  More rounds never give a sample a worse code.
    fit_beam_size : int, default=8
        The beam size in the rounds of `fit`.
    max_iter : int, default=25
        The most rounds of `fit`: encode all samples, solve for all tables.  With
        independent assignment, the most rounds that improve the rotation.
    tol : float, default=1e-3
        Learning stops when a round lowers the distortion by at most this share of it.
    ridge : "auto" or float, default="auto"
        How strongly the tables of a round are drawn towards those before it: the weight
        of each earlier codeword, in units of the mean weight of a codeword's samples,
        which is n_samples / V_j if all samples weigh the same.  "auto": the strength
        that is best for a fifth of the distinct samples, at most 4096, which are held
        out of the rounds; there are no rounds if none helps these.
        rounds; there are no rounds if none helps these.
    random_state : int, RandomState instance or None, default=None
        Source of random numbers for the start of the tables, for the rows held out, and
        for the codes replaced in `n_rounds`, whose seed is drawn in `fit`.
    backend : {"auto", "numpy", "native", "cupy"}, default="auto"
        Where distances are computed: by the library of X ("auto"; NumPy's arrays by the
        compiled engine, where it was built, and on a GPU where there is one and the
        work is worth it), by NumPy, by the compiled engine, or on a GPU.

    Attributes
    ----------
    codebooks_ : tuple of ndarray of shape (V_j, n_features)
        The tables W_1..W_m; with `share_codebook`, the same one m times.
    codebook_sizes_ : tuple of int
        V_1..V_m.
    bits_per_sample_ : float
        Sum of log2 V_j.
    n_iter_ : int
        Number of rounds of least squares; 1 if there were none.
    ridge_ : tuple of float
        Strength of the ridge in each of these rounds; empty if none helped.
    distortion_ : float
        Mean squared distance of the training samples from their reconstructions, with
        the codes found in `fit`.  If `transform` searches more thoroughly (beyond 4096
        sums, by `beam_size` and `n_rounds`), ``-score(X)`` is lower.
    code_counts_ : tuple of ndarray of shape (V_j,)
        How often each code of each column occurs in the training samples, in units of
        the mean weight.  None for columns of more than 2^16 codewords.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of shape (n_features,)
        Names of the features, if the training samples had them.

    See Also
    --------
    ProductQuantizer : Tables for slices of the features, each searched by itself.

    Notes
    -----
    Up to 4096 sums, the joint argmin is exact over all of them, and `beam_size` and
    `n_rounds` play no part.  Beyond, it is NP-hard in general, and the search finds a
    good sum.  The random numbers of the search are the same for all samples, so the
    code of a sample depends neither on its place nor on the other samples.

    Independent codes cannot correct each other, so the tables that reconstruct lie in
    subspaces of their own: those of a product quantizer, padded with zeros, in a
    rotation that is learned with them.  The training distortion is never above that of
    `ProductQuantizer` with the same sizes and seed, nor of one table alone, and never
    rises as tables are added.

    Fewer distinct samples than codewords in the largest table give a
    ConvergenceWarning: that table then repeats the samples, and the others are zero.

    References
    ----------
    Babenko and Lempitsky (2014), "Additive Quantization for Extreme Vector
    Compression", CVPR, doi:10.1109/CVPR.2014.124.

    Martinez, Clement, Hoos and Little (2016), "Revisiting Additive Quantization", ECCV,
    doi:10.1007/978-3-319-46475-6_9.

    Martinez, Zakhmi, Hoos and Little (2018), "LSQ++: Lower Running Time and Higher
    Recall in Multi-Codebook Quantization", ECCV, doi:10.1007/978-3-030-01270-0_30.

    Ge, He, Ke and Sun (2013), "Optimized Product Quantization for Approximate Nearest
    Neighbor Search", CVPR, doi:10.1109/CVPR.2013.379.

    Examples
    --------
    >>> import numpy as np
    >>> from skvq.additive import AdditiveQuantizer
    >>> X = np.random.default_rng(0).normal(size=(1000, 8))
    >>> aq = AdditiveQuantizer(3, n_codewords=16, random_state=0).fit(X)
    >>> codes = aq.transform(X)
    >>> codes.shape, aq.bits_per_sample_
    ((1000, 3), 12.0)
    >>> total = sum(table[column] for table, column in zip(aq.codebooks_, codes.T))
    >>> bool(np.allclose(aq.inverse_transform(codes), total))
    True
    """

    share_codebook: bool

    n_iter_: int
    ridge_: tuple[float, ...]
    _tables_: nearest.Tables
    _seed_: int

    _parameter_constraints = {  # noqa: RUF012
        "n_codebooks": [SIZE],
        "n_codewords": [SIZE, SIZES],
        "assignment": [StrOptions({"joint", "independent"})],
        "share_codebook": ["boolean"],
        "beam_size": [SIZE],
        "n_rounds": [Interval(Integral, 0, None, closed="left")],
        "fit_beam_size": [SIZE],
        "max_iter": [Interval(Integral, 0, None, closed="left")],
        "tol": [Interval(Real, 0, None, closed="left")],
        "ridge": [StrOptions({"auto"}), Interval(Real, 0, None, closed="neither")],
        "random_state": RANDOM_STATE,
        "backend": [StrOptions(set(nearest.BACKENDS))],
    }
    _follows_namespace = True

    def __init__(
        self,
        n_codebooks: Size = 4,
        n_codewords: Size | Sizes = 256,
        *,
        assignment: Assignment = "joint",
        share_codebook: bool = False,
        beam_size: Size = 32,
        n_rounds: Size = 4,
        fit_beam_size: Size = 8,
        max_iter: Size = 25,
        tol: Number = 1e-3,
        ridge: Number | Literal["auto"] = "auto",
        random_state: RandomState = None,
        backend: BackendName = "auto",
    ) -> None:
        self.n_codebooks = n_codebooks
        self.n_codewords = n_codewords
        self.assignment = assignment
        self.share_codebook = share_codebook
        self.beam_size = beam_size
        self.n_rounds = n_rounds
        self.fit_beam_size = fit_beam_size
        self.max_iter = max_iter
        self.tol = tol
        self.ridge = ridge
        self.random_state = random_state
        self.backend = backend

    def _n_tasks(self) -> int | None:
        # Two starts at most, and what improves the tables of each.
        return 4 if self.assignment == "joint" else None

    def _fit(self, rows: Rows) -> Learner[dict[str, Any]]:
        self._check_memory(rows)
        sizes = part_sizes(self.n_codewords, int(self.n_codebooks))
        self._check_shared(sizes)
        rng = check_random_state(self.random_state)
        seed = self._search_seed(rng)
        few = yield from few_distinct(rows, max(sizes))
        if few is not None:
            warn(
                f"{{}} distinct samples are fewer than n_codewords={max(sizes)}: "
                "one codebook repeats them, and the others are zero.",
                len(few),
            )
            learned = learning.LearnedSum(self._repeated(few, sizes))
        elif self.assignment == "independent":
            learned = yield from self._learn_independently(rows, sizes, seed)
        else:
            task = rows.task.giving(lambda learned: self._found(learned, sizes, seed))
            learned = yield from learning.learn_jointly(
                rows.under(task),
                sizes,
                rng,
                start=self._residual_start(),
                shared=self.share_codebook,
                beam_size=int(self.fit_beam_size),
                strength=None if self.ridge == "auto" else float(self.ridge),
                max_iter=int(self.max_iter),
                tol=float(self.tol),
            )
        found = self._found(learned, sizes, seed)
        if learned.distortion is not None:
            joint = self.assignment == "joint"
            found["code_counts_"] = yield from learning.code_counts(
                rows,
                learned.tables,
                learning.SearchEffort(int(self.fit_beam_size)) if joint else None,
                joint and self.share_codebook,
            )
        return found

    def _found(
        self, learned: learning.LearnedSum, sizes: Sequence[int], seed: int
    ) -> dict[str, Any]:
        """Return the fitted attributes."""
        found = {
            "_tables_": learned.tables,
            "_seed_": seed,
            "ridge_": learned.strengths,
            "n_iter_": max(1, len(learned.strengths)),
            "codebook_sizes_": tuple(sizes),
        }
        if learned.distortion is not None:
            # Searching again as `transform` does would take as long as several rounds.
            found["distortion_"] = learned.distortion
        return found

    def _from_tables(self, tables: list[nearest.Table]) -> dict[str, Any]:
        tables = as_shared(tables, self.share_codebook)
        n_features = one_width([table.shape[1] for table in tables])
        sizes = list(map(len, tables))
        self._imply(n_codebooks=len(tables), n_codewords=one_or_each(sizes))
        self.share_codebook = self.share_codebook or are_shared(tables)
        self._check_shared(sizes)
        return {
            "n_features_in_": n_features,
            "_tables_": nearest.Tables(tables),
            "_seed_": self._search_seed(check_random_state(self.random_state)),
            "ridge_": (),
            "n_iter_": 1,
            "codebook_sizes_": tuple(sizes),
        }

    def _n_tables(self) -> int | None:
        return int(self.n_codebooks)

    def _search_seed(self, rng: np.random.RandomState) -> int:
        """Return the seed of the search's schedule."""
        if isinstance(self.random_state, Integral):
            return int(self.random_state)
        return int(rng.randint(np.iinfo(np.int32).max))

    def _residual_start(self) -> Any:
        """Return a learner of the stacked tables from which learning starts."""
        residual = ResidualQuantizer(
            self.n_codebooks,
            self.n_codewords,
            share_codebook=self.share_codebook,
            beam_size=_START_BEAM,
            backend=self.backend,
        )
        n_tables = 1 if self.share_codebook else int(self.n_codebooks)

        def start(rows: Rows, rng: np.random.RandomState) -> Learner[np.ndarray]:
            residual.random_state = int(rng.randint(np.iinfo(np.int32).max))
            # Few distinct residuals need no warning.
            yield from fit_part(residual, rows.under(rows.task.open("start")))
            # How stages learn is chosen once, on nearly all samples, then kept.
            residual.fit_beam_size = residual.fit_beam_size_
            tables = residual._codebooks()[:n_tables]
            return np.concatenate([table.codewords for table in tables])

        return start

    def _table_elements(self, n_features: int) -> int:
        return n_features * self._n_rows()

    def _n_rows(self) -> int:
        """Return the number of codewords of all tables together."""
        sizes = self.n_codewords
        if isinstance(sizes, Integral):
            return int(sizes) * (1 if self.share_codebook else int(self.n_codebooks))
        sizes = part_sizes(sizes, int(self.n_codebooks))
        return sizes[0] if self.share_codebook else sum(sizes)

    def _check_memory(self, rows: Rows) -> None:
        n, d = rows.n_rows, rows.n_features
        n_bytes = rows.dtype.itemsize * self._table_elements(d) + n * int(
            self.n_codebooks
        )
        if self.assignment == "joint":
            n_pairs = n * int(self.n_codebooks) ** 2
            n_bytes += least_squares.system_bytes(self._n_rows(), d, n_pairs)
        check_memory(
            f"Tables of n_codewords={self.n_codewords} for n_codebooks="
            f"{self.n_codebooks}, their least squares, and the codes of {n} rows",
            n_bytes,
            rows.n_bytes,
        )

    def _check_shared(self, sizes: Sequence[int]) -> None:
        if not self.share_codebook:
            return
        if self.assignment == "independent":
            raise ValueError(
                "share_codebook=True with assignment='independent' would give every "
                f"sample the same code {self.n_codebooks} times: use "
                "assignment='joint', or share_codebook=False."
            )
        if len(set(sizes)) > 1:
            raise ValueError(
                f"share_codebook=True takes one n_codewords for all {len(sizes)} "
                f"codebooks; got {sizes}."
            )

    def _repeated(self, few: Any, sizes: Sequence[int]) -> nearest.Tables:
        """Return tables for fewer distinct samples than codewords."""
        zero = np.zeros_like(few[:1])
        if self.share_codebook:
            rest = repeat_cyclically(few, sizes[0] - 1)
            table = nearest.Table(np.concatenate([zero, rest]))
            return nearest.Tables([table] * len(sizes))
        largest = int(np.argmax(sizes))
        return nearest.Tables(
            [
                repeat_cyclically(few if j == largest else zero, size)
                for j, size in enumerate(sizes)
            ]
        )

    def _learn_independently(
        self, rows: Rows, sizes: Sequence[int], seed: int
    ) -> Learner[learning.LearnedSum]:
        """Return the best tables for m codebooks, given the best for one less."""
        best: list[np.ndarray] = []
        lowest = np.inf
        for m, size in enumerate(sizes, start=1):
            # Adding a codebook of zeros makes nothing worse.
            best = [*best, np.zeros((size, rows.n_features), rows.dtype)]
            for tables in (yield from self._candidates(rows, sizes[:m], seed)):
                value = yield from learning.independent_distortion(
                    rows, nearest.Tables(tables)
                )
                if value < lowest:
                    best, lowest = tables, value
        return learning.LearnedSum(nearest.Tables(best), lowest)

    def _candidates(
        self, rows: Rows, sizes: Sequence[int], seed: int
    ) -> Learner[list[list[np.ndarray]]]:
        """Return candidates: one table, tables of a product quantizer, rotated ones."""
        m, d, found = len(sizes), rows.n_features, []
        # Few distinct slices need no warning.
        if sizes[-1] > max(sizes[:-1], default=0):
            alone = VectorQuantizer(sizes[-1], random_state=seed)
            yield from fit_part(alone, rows.under(rows.task.open("part")))
            zeros = [np.zeros((size, d), rows.dtype) for size in sizes[:-1]]
            found.append([*zeros, alone._table_.codewords])
        if m > d:
            return found  # the last slice would be empty
        pq = ProductQuantizer(m, sizes, random_state=seed, backend=self.backend)
        yield from fit_part(pq, rows.under(rows.task.open("part")))
        product_tables = [table.codewords for table in pq._codebooks()]
        found.append(rotation.in_slices(product_tables))
        if 1 < m:
            turned = yield from rotation.in_rotated_slices(
                rows.under(rows.task.giving(None)),
                product_tables,
                np.random.RandomState(seed),
                max_iter=int(self.max_iter),
                tol=float(self.tol),
            )
            found.append(turned)
        return found

    def _encode(self, X: Any) -> Any:
        if self.assignment == "independent":
            return learning.encode_independently(X, self._tables_)
        # Both may have been changed after the fit, unseen by the constraints.
        search = learning.SearchEffort(
            check_count("beam_size", self.beam_size),
            check_count("n_rounds", self.n_rounds, 0, largest=None),
            self._seed_,
        )
        codes, _ = learning.encode(X, self._tables_, search)
        # Codes of one table may be permuted; the smallest permutation names the sum.
        if not are_shared(self._tables_):
            return codes
        return nearest.backend_of(codes).xp.sort(codes, axis=1)

    def _entries(self, X: Any, metric: str) -> Any:
        return np.concatenate(
            [codeword_entries(X, table, metric) for table in self._tables_], axis=1
        )

    def _is_concatenation(self) -> bool:
        return len(self._tables_) == 1

    def _decode(self, codes: Any) -> Any:
        return learning.decode(codes, self._tables_)

    def _codebooks(self) -> Any:
        return self._tables_

    def _why_no_names(self) -> str | None:
        shared = self.share_codebook
        if self.__sklearn_is_fitted__():
            shared = are_shared(self._tables_)
        return "share_codebook=True sorts the codes of a row." if shared else None

    def _renamed(self, orders: Sequence[np.ndarray | None]) -> dict[str, Any]:
        tables = reordered_once(list(self._tables_), orders, reordered_table)
        return {"_tables_": nearest.Tables(tables)}
