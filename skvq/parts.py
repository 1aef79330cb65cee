"""Parts of the nesting schemes: clones of quantizers with settings of their own."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from itertools import islice
from numbers import Integral
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
from joblib import effective_n_jobs
from numpy.typing import NDArray
from sklearn import config_context, get_config
from sklearn.base import clone
from sklearn.utils import check_random_state
from sklearn.utils.parallel import Parallel, delayed
from sklearn.utils.validation import check_is_fitted

from skvq import nearest
from skvq._checks import check_counts, is_true, naming
from skvq._compat import Accepted, _BaseComposition, _VisualBlock, available_if
from skvq._given import are_shared, as_shared, check_costs, one_or_each
from skvq._typing import BackendName
from skvq._validation import Notice, collected, copy_to_fit, plain_parameters
from skvq.base import BaseQuantizer, check_as_before, reordered_once
from skvq.coding import rates
from skvq.coding.charges import Charges, biases, costs_of
from skvq.learning.rows import Learner, Rows, run, together

# `NestingQuantizer` checks the entries, and names them in its messages.
QUANTIZERS = Accepted(
    lambda value: isinstance(value, list) and len(value) > 0,
    "a list of quantizers, or of pairs of a name and a quantizer",
)
# The value of a nesting scheme's `balance`, other than None.
EVENLY = Accepted(is_true, "True")


class Template(NamedTuple):
    """A quantizer that parts are clones of, and its name in messages."""

    label: str
    quantizer: Any

    def __str__(self) -> str:
        return f"{self.label}={self.quantizer!r}"

    def naming(self) -> AbstractContextManager[Any]:
        """Let errors name it, if there are several quantizers."""
        return nullcontext() if self.label == "quantizer" else naming(self.label)


class Parts:
    """Fitted parts, and what searches and checks need to know of them in every call.

    Parameters
    ----------
    parts : sequence of quantizers
        In the order of their codes.

    Attributes
    ----------
    tables : Tables or None
        Tables of which the codes of all parts are the nearest rows, if there are such.
    biases : list of ndarray or None
        What searches add for the codes of all columns; None if nothing.
    shapes : list of tuple
        Sizes and number of features of each part.
    sizes : tuple of int
        Sizes of all code columns.
    """

    biases: list[NDArray[Any]] | None
    charges: Charges
    parts: tuple[Any, ...]
    shapes: list[tuple[tuple[int, ...], int]]
    sizes: tuple[int, ...]
    tables: nearest.Tables | None

    def __init__(self, parts: Sequence[Any]) -> None:
        self._set(parts)

    def _set(self, parts: Sequence[Any]) -> None:
        self.parts = tuple(parts)
        tables = [part._searched_table() for part in parts]
        self.tables = None if None in tables else nearest.Tables(tables)
        self.shapes = [_shape(part) for part in parts]
        self.sizes = tuple(size for sizes, _ in self.shapes for size in sizes)
        self.charges = charges_of(parts)
        self.biases = biases(self.charges, self.sizes)
        # A fit replaces the attributes dicts, see `take_over`.
        self._known = list(zip(map(vars, parts), tables, strict=True))

    def are(self, parts: Sequence[Any]) -> bool:
        """Return whether these are the parts, fitted and searched as they were."""
        for part in self.parts:  # their own parts may have been replaced
            part._check_as_fitted()
        if len(parts) != len(self._known):
            return False
        for part, (attributes, table) in zip(parts, self._known, strict=True):
            if getattr(part, "__dict__", None) is not attributes:
                return False
            # The metric may have been changed, which keeps the attributes.
            if part._searched_table() is not table:
                return False
        return True

    def check_shapes(self, owner: str, attribute: str, parts: Sequence[Any]) -> None:
        """Raise if sizes and numbers of features of parts have changed."""
        if len(parts) != len(self.parts):
            raise ValueError(
                f"{owner} has {len(parts)} {attribute}, and had {len(self.parts)} when "
                "it was fitted: fit it anew."
            )
        for j, (part, then) in enumerate(zip(parts, self.shapes, strict=True)):
            sizes, width = _shape(part)
            if (sizes, width) != then:
                name = attribute if attribute == "quantizer_" else f"{attribute}[{j}]"
                raise ValueError(
                    f"{name} of {owner} has codebook_sizes_={sizes} and "
                    f"n_features_in_={width}, which were {then[0]} and {then[1]} when "
                    "it was fitted: fit it anew."
                )

    def __getstate__(self) -> dict[Any, Any]:
        return {"parts": self.parts}

    def __setstate__(self, state: dict[Any, Any]) -> None:
        self._set(state["parts"])


class NestingQuantizer(_BaseComposition, BaseQuantizer):
    """Base of schemes whose parts are clones of given quantizers.

    A scheme has the parameters `quantizer`, `n_codewords`, `share_codebook`,
    `rate_weight`, `balance`, `random_state` and `backend`, one that counts the parts,
    whose name is `_COUNT`, and the hook `_default_part()`.  Its fitted parts are
    `quantizers_`; `_parts_` holds what is known of them.
    """

    _COUNT: ClassVar[str]
    # The layout of a list of parts in scikit-learn's diagram.
    _DIAGRAM: ClassVar[str]

    quantizer: Any
    n_codewords: Any
    share_codebook: bool
    rate_weight: Any
    balance: Any
    random_state: Any
    backend: BackendName
    quantizers_: list[BaseQuantizer]
    _made_anew = ("_parts_",)

    # -- parameters ----------------------------------------------------------------

    @property
    def _pairs(self) -> list[tuple[Any, Any]]:
        """Names and quantizers of a list of parts; empty if there is none."""
        if not isinstance(self.quantizer, list):
            return []
        return [
            one if _is_pair(one) else (str(j), one)
            for j, one in enumerate(self.quantizer)
        ]

    @_pairs.setter
    def _pairs(self, pairs: list[tuple[Any, Any]]) -> None:
        self.quantizer = [
            pair if _is_pair(one) else pair[1]
            for one, pair in zip(self.quantizer, pairs, strict=True)
        ]

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the parameters; those of parts have names ``<name>__<parameter>``.

        Parameters
        ----------
        deep : bool, default=True
            Whether to include those of parts.  The name of a part is the one given in a
            list of pairs, 0, 1, ... in a list of quantizers, and ``quantizer`` if all
            parts are clones of one.

        Returns
        -------
        params : dict
            Parameters and their values.
        """
        return self._get_params("_pairs", deep=deep)

    def set_params(self, **params: Any) -> Self:
        """Set parameters; those of parts have names ``<name>__<parameter>``.

        Parameters
        ----------
        **params : dict
            Parameters and their values.  The name of a part of a list sets the part.

        Returns
        -------
        self : object
            The quantizer.

        Raises
        ------
        ValueError
            If there is no such parameter, or if the part is None, which stands for a
            default that is created in every fit.
        """
        quantizer = params.get("quantizer", self.quantizer)
        for name, value in params.items():
            if name.startswith("quantizer__"):
                check_one_part(quantizer, name, value, self._default_part())
        if "quantizer" in params:
            # This comes first, since it holds the parts whose parameters follow.
            self.quantizer = params.pop("quantizer")
        return self._set_params("_pairs", **params)

    def _validate_params(self) -> None:
        super()._validate_params()
        if self._pairs:
            self._check_list()

    def _check_list(self) -> None:
        """Raise if the parameters do not fit a list of parts."""
        for template in self._templates():
            if not isinstance(template.quantizer, BaseQuantizer):
                raise ValueError(
                    f"{template}; expected an instance of a quantizer of skvq, or a "
                    "pair of its name and one."
                )
        names = [name for name, _ in self._pairs]
        for name in names:
            if not isinstance(name, str) or not name:
                raise ValueError(
                    f"quantizer holds the name {name!r}; expected a text, not empty."
                )
        with naming("quantizer"):
            self._validate_names(names)
        if self.n_codewords is not None:
            raise ValueError(
                f"n_codewords={self.n_codewords!r} cannot be set on a list of parts: "
                "give each of them in quantizer its own, and leave n_codewords=None."
            )
        if self.share_codebook:
            raise ValueError(
                "share_codebook=True takes one quantizer, of which one part serves "
                "all; quantizer is a list."
            )
        for template in self._templates():
            with template.naming():
                template.quantizer._validate_params()

    @available_if(lambda self: bool(self._pairs))
    def _sk_visual_block_(self) -> Any:
        return _VisualBlock(
            self._DIAGRAM,
            [one for _, one in self._pairs],
            names=[f"{name}: {type(one).__name__}" for name, one in self._pairs],
            name_details=[str(one) for _, one in self._pairs],
        )

    # -- templates of parts --------------------------------------------------------

    @abstractmethod
    def _default_part(self) -> BaseQuantizer:
        """Return the quantizer that None stands for."""

    def _quantizers(self, default: Any = None) -> list[Any]:
        """Return the quantizers that parts are clones of: one for all, or one for each.

        Parameters
        ----------
        default : quantizer, optional
            The meaning of None, instead of `_default_part()`.
        """
        if self._pairs:
            return [one for _, one in self._pairs]
        if self.quantizer is not None:
            return [self.quantizer]
        return [self._default_part() if default is None else default]

    def _templates(self, default: Any = None) -> list[Template]:
        """Return the same quantizers with their names in messages."""
        labels = ["quantizer"]
        if self._pairs:
            labels = [
                f"quantizer[{one[0]!r}]" if _is_pair(one) else f"quantizer[{j}]"
                for j, one in enumerate(self.quantizer)
            ]
        quantizers = self._quantizers(default)
        return [Template(*pair) for pair in zip(labels, quantizers, strict=True)]

    def _template_of_each(self, n_parts: int, default: Any = None) -> list[Template]:
        """Return the template of each part."""
        templates = self._templates(default)
        return templates * (n_parts // len(templates))

    def _without(self, condition: Callable[[Any], Any]) -> list[Template]:
        """Return the templates whose quantizers do not meet a condition."""
        return [one for one in self._templates() if not condition(one.quantizer)]

    def _n_parts(self) -> int:
        """Return the number of parts that the parameters ask for."""
        return len(self._pairs) or getattr(self, self._COUNT)

    def _count(self) -> str:
        """Return the parameter that gives the number of parts, for messages."""
        return "len(quantizer)" if self._pairs else self._COUNT

    def _tables_in_words(self) -> str:
        """Return the parameters that determine the size of the tables, for messages."""
        sizes = "quantizer" if self._pairs else f"n_codewords={self.n_codewords}"
        return f"Tables of {sizes} for {self._count()}={self._n_parts()}"

    def _new_parts(
        self, n_parts: int, n_codewords: Any, default: Any = None
    ) -> list[Any]:
        """Return unfitted clones with the settings of the scheme.

        Parameters
        ----------
        n_parts : int
            Their number.
        n_codewords : int, sequence of int, or None
            Set on the clones; None: they keep theirs.
        default : quantizer, optional
            As in `_templates`.

        Raises
        ------
        ValueError
            If a sequence has another length, or a part has no such parameter.
        """
        templates = self._template_of_each(n_parts, default)
        parts = [clone(one.quantizer) for one in templates]
        if n_codewords is not None:
            for part, size in zip(parts, part_sizes(n_codewords, n_parts), strict=True):
                _set_size(part, size)
        self._set_costs(parts)
        if self.random_state is not None:
            rng = check_random_state(self.random_state)
            for part in _with_parameter(parts, "random_state"):
                part.set_params(random_state=int(rng.randint(np.iinfo(np.int32).max)))
        if self.backend != "auto":
            for part in _with_parameter(parts, "backend"):
                part.set_params(backend=self.backend)
        return parts

    def _set_costs(self, parts: Sequence[Any]) -> None:
        """Set on unfitted parts the costs of codes that the scheme asks for."""
        for name, value, default in (
            ("rate_weight", self.rate_weight, 0),
            ("balance", self.balance, None),
        ):
            if value is None or value == default:
                continue
            for part in parts:
                if name not in part.get_params(deep=False):
                    raise ValueError(
                        f"{name}={value!r} cannot be set on the part "
                        f"{type(part).__name__}, which has no such parameter: leave "
                        f"{name}={default}."
                    )
                part.set_params(**{name: value})

    def _go_on(self, parts: Sequence[Any]) -> None:
        """Let unfitted parts start from those of the last fit, in a warm start."""
        if self._before_ is None:
            return
        before = self._before_.quantizers_
        check_as_before(self._count(), self._n_parts_in(parts), len(before))
        if len(before) > 1:
            was_shared = are_shared(before)
            check_as_before("share_codebook", self.share_codebook, was_shared)
        for part, then in zip(parts, before, strict=False):  # may be one, shared
            part._before_ = then

    def _n_parts_in(self, parts: Sequence[Any]) -> int:
        """Return the number of distinct parts."""
        return self._n_parts() if self.share_codebook else len(parts)

    def _own_costs(self) -> frozenset[str]:
        """Return the costs that its own parameters add, besides those of parts."""
        return costs_of(self.rate_weight, self.balance)

    def _code_costs(self) -> frozenset[str]:
        each = (one._code_costs() for one in self._quantizers())
        return self._own_costs().union(*each)

    def _with_charges(self, charges: Charges) -> Self:
        copy, own = copy_to_fit(self, fitted=True), iter(charges)
        copy.quantizers_ = [
            part._with_charges(list(islice(own, len(part.codebook_sizes_))))
            for part in self.quantizers_
        ]
        copy._parts_ = Parts(copy.quantizers_)
        # The counts belonged to the codes of another search.
        copy.code_counts_ = rates.no_counts(self.codebook_sizes_)
        copy.distortion_ = np.nan
        return copy

    def _elements_of_parts(
        self, n_codewords: Any, widths: Sequence[int], n_parts: int
    ) -> Any:
        """Return the number of values in the tables of parts.

        Parameters
        ----------
        n_codewords : int, sequence of int, or None
            As in `_new_parts`.
        widths : sequence of int
            The number of features: one for all parts, or one for each.
        n_parts : int
            Their number, which may be very large if they are all alike.
        """
        sizes = [n_codewords]
        if not (n_codewords is None or isinstance(n_codewords, Integral)):
            sizes = part_sizes(n_codewords, n_parts)
        columns = [self._templates(), sizes, list(widths)]
        n_given = max(map(len, columns))
        columns = [column * (n_given // len(column)) for column in columns]
        counts = Counter(zip(*columns, strict=True))
        times = n_parts // n_given
        return times * sum(_elements(*one) * count for one, count in counts.items())

    def _n_tables_of_each(self) -> list[int | None]:
        """Return the numbers of tables of parts: one for all, or one for each."""
        return [one._n_tables() for one in self._quantizers()]

    def _n_tables(self) -> int | None:
        each = self._n_tables_of_each()
        known = [size for size in each if size is not None]
        times = self._n_parts() // len(each)
        return sum(known) * times if len(known) == len(each) else None

    def _deal(self, n_tables: int) -> list[int]:
        """Return how many of the given tables each part gets.

        Parts with one table per feature, whose number is unknown, share equally what
        the others leave.
        """
        each = self._n_tables_of_each()
        if len(each) == 1 and not self._pairs:
            # There are as many parts as there are tables for.
            size, n_parts = each[0], min(self._n_parts(), n_tables)
            if size is None:
                return list(map(len, np.array_split(np.arange(n_tables), n_parts)))
            each = each * (n_tables // size)
        left = n_tables - sum(size for size in each if size is not None)
        n_open = each.count(None)
        share = left // n_open if n_open else 0
        if share * n_open != left or (n_open and share == 0):
            have = [
                f"{one} has {one.quantizer._n_tables() or 'one a feature'}"
                for one in self._templates()
            ]
            raise ValueError(
                f"codebooks has {n_tables} tables, but each part, {', '.join(have)}."
            )
        return [share if size is None else size for size in each]

    def _parts_of_tables(
        self, tables: Sequence[nearest.Table], costs: dict[str, Any]
    ) -> list[Any]:
        """Return parts made from tables; set the parameters that follow from them.

        Parameters
        ----------
        tables : sequence of Table
            The tables of all parts, one part after the other.
        costs : dict
            What searches add for the codes of each table, or None, see `check_costs`.

        Returns
        -------
        parts : list of quantizers
            Clones of one quantizer that have the same tables are the same object.

        Raises
        ------
        ValueError
            If the tables cannot be distributed over the parts.
        """
        given = check_costs(costs, tables, self._code_costs())
        dealt, found, column = iter(tables), {}, 0
        of_parts = [list(islice(dealt, n)) for n in self._deal(len(tables))]
        if self.share_codebook:
            of_parts = _of_one_part(of_parts)
        parts = []
        for j, template in enumerate(self._template_of_each(len(of_parts))):
            own = of_parts[j]
            columns = slice(column, column := column + len(own))
            beside = {name: each[columns] for name, each in given.items()}
            same = [one.tobytes() for each in beside.values() for one in each]
            key = (j if self._pairs else None, *map(id, own), *same)
            if key not in found:
                found[key] = self._part_of_tables(template, own, beside)
            parts.append(found[key])
        self._imply_from(parts)
        return parts

    def _part_of_tables(
        self,
        template: Template,
        tables: list[nearest.Table],
        costs: dict[str, list[Any]],
    ) -> Any:
        part = clone(template.quantizer)
        if not self._pairs and "n_codewords" in part.get_params(deep=False):
            # The default of the class stands for a value that is not set.
            part.set_params(n_codewords=type(part)().n_codewords)
        self._set_costs([part])
        with template.naming():
            beside = {name: costs[name] for name in part._code_costs()}
            part._set_up(tables, beside=beside)
        return part

    def _imply_from(self, parts: list[Any]) -> None:
        """Set the parameters that follow from parts made from tables."""
        if self._pairs:
            names = [name for name, _ in self._pairs]
            self._pairs = list(zip(names, map(clone, parts), strict=True))
            return
        if self._count() == self._COUNT:
            self._imply(**{self._COUNT: len(parts)})
        sizes = [getattr(part, "n_codewords", None) for part in parts]
        whole = [size for size in sizes if isinstance(size, Integral)]
        if len(whole) == len(parts):
            self._imply(n_codewords=one_or_each(whole))

    @property
    def _follows_namespace(self) -> bool:  # type: ignore[override]
        if self.quantizer is None:
            return True  # as its default does; this is asked in every call
        # This may be asked before the parameters have been checked.
        quantizers = self._quantizers()
        return all(getattr(one, "_follows_namespace", False) for one in quantizers)

    def _needs_rows_in_memory(self) -> str | None:
        for template in self._templates():
            why = template.quantizer._needs_rows_in_memory()
            if why is not None:
                return f"its part, {template}: {why}"
        return None

    def _fewest_rows(self) -> int:
        return max(one._fewest_rows() for one in self._quantizers())

    def _can_partial_fit(self) -> bool:
        return all(map(_learns_from_streams, self._quantizers()))

    def _why_no_partial_fit(self) -> str:
        template = self._without(_learns_from_streams)[0]
        why = "."
        if isinstance(template.quantizer, BaseQuantizer):
            why = f": {template.quantizer._why_no_partial_fit()}"
            if getattr(self, "quantizer", template) is None:
                why += " quantizer=VectorQuantizer(learning='minibatch') has one."
        return f"its part, {template}, has none{why}"

    def _can_encode_best(self) -> bool:
        parts = getattr(self, "quantizers_", self._quantizers())
        return all(one._can_encode_best() for one in parts)

    # -- fitted parts --------------------------------------------------------------

    def _why_no_sums(self) -> str | None:
        for part in getattr(self, "quantizers_", self._quantizers()):
            why = part._why_no_sums()
            if why is None and part._n_scales():
                why = "it codes a length of its own, a factor that others do not have."
            if why is not None:
                return f"its part, {part!r}: {why}"
        return None

    def _takes_columns(self) -> bool:
        return all(part._takes_columns() for part in self._quantizers())

    def _why_no_codebooks(self) -> str | None:
        for part in self.quantizers_:
            why = part._why_no_codebooks()
            if why is not None:
                return f"its part, {part!r}: {why}"
        return None

    @cached_property
    def _parts_(self) -> Parts:
        """What is known of the fitted parts; made by a fit, or anew after loading."""
        return Parts(self.quantizers_)

    def _check_as_fitted(self) -> None:
        """Raise if parts or sizes have been replaced by others that do not fit.

        Parts may be replaced by others of the same sizes and widths; what is known of
        them is then found anew.
        """
        parts, known = self.quantizers_, self._parts_
        if not known.are(parts):
            known.check_shapes(type(self).__name__, "quantizers_", parts)
            self._parts_ = Parts(parts)
        if self.codebook_sizes_ != known.sizes:
            raise ValueError(
                f"codebook_sizes_={self.codebook_sizes_} of {type(self).__name__} are "
                f"not those of its quantizers_, {known.sizes}: fit it anew."
            )

    def _codebooks(self) -> list[Any]:
        return [table for part in self.quantizers_ for table in part._codebooks()]

    def _charges(self) -> Charges:
        return self._parts_.charges

    def _why_no_names(self) -> str | None:
        whys = []
        for part in vars(self).get("quantizers_", self._quantizers()):
            whys.append(part._why_no_names())
            if whys[-1] is None:
                return None
        return f"its parts have none: {whys[0]}"

    def _renamed(self, orders: Sequence[np.ndarray | None]) -> dict[str, Any]:
        widths = [len(part.codebook_sizes_) for part in self.quantizers_]
        dealt = iter(orders)
        own = [list(islice(dealt, width)) for width in widths]
        parts = reordered_once(
            self.quantizers_, own, lambda part, some: part._in_order_of(some)
        )
        return {"quantizers_": parts, "_parts_": Parts(parts)}


def check_one_part(quantizer: Any, name: str, value: Any, default: Any) -> None:
    """Raise if there is no single quantizer on which to set a parameter."""
    if quantizer is None:
        raise ValueError(
            f"{name}={value!r} cannot be set while quantizer=None, which stands for "
            f"{default!r}: set quantizer={default!r} first, or with it."
        )
    if isinstance(quantizer, list):
        raise ValueError(
            f"{name}={value!r} cannot be set while quantizer is a list: set that of "
            "a part, by its name or its place, such as 0"
            f"{name.removeprefix('quantizer')}."
        )


def charges_of(parts: Sequence[Any]) -> Charges:
    """Return what searches add for the codes of all columns of fitted parts."""
    return [charge for part in parts for charge in part._charges()]


def _is_pair(one: Any) -> bool:
    return isinstance(one, tuple) and len(one) == 2


def _shape(part: Any) -> tuple[tuple[int, ...], int]:
    """Return sizes and number of features of a fitted part."""
    check_is_fitted(part)
    return part.codebook_sizes_, part.n_features_in_


def _learns_from_streams(quantizer: Any) -> bool:
    return hasattr(quantizer, "partial_fit")


def _with_parameter(parts: Sequence[Any], name: str) -> Iterator[Any]:
    return (part for part in parts if name in part.get_params(deep=False))


def fit_part(
    part: Any, rows: Rows, template: Template | None = None
) -> Learner[list[Notice]]:
    """Fit a part in place; return its warnings.

    Parameters
    ----------
    part : quantizer
        Unfitted, with all settings.
    rows : Rows
        The rows to learn from; their task is one that was opened for it.
    template : Template, optional
        Its template, named in errors.
    """
    with nullcontext() if template is None else template.naming():
        part._validate_params()
        backend = getattr(part, "backend", "auto")
        nearest.check_backend(backend, rows.be)
        with rows.task.fitting(part, rows) as task:
            rows = rows.under(task)
            if backend in ("auto", nearest.chosen()):
                return (yield from _collecting(part._learn(rows)))
            # The part has a backend of its own, unlike pending requests of others.
            with nearest.using(backend):
                return run(_collecting(part._learn(rows)))


def _collecting(learner: Learner[None]) -> Learner[list[Notice]]:
    notices: list[Notice] = []
    found, ends = None, False
    while True:
        with collected() as fresh:
            try:
                asked = learner.send(found)
            except StopIteration:
                ends = True
        notices += fresh
        if ends:
            return notices
        found = yield asked


def fit_parts(
    parts: Sequence[Any],
    of_parts: Sequence[Rows],
    templates: Sequence[Template],
    n_jobs: int | None,
) -> Learner[tuple[list[Any], list[list[Notice]]]]:
    """Fit independent parts, each on its own rows, which may be views of the same rows.

    If memory allows it, parts are fitted one by one or several at a time, each with its
    rows in memory.  Otherwise all learn side by side, sharing passes over the rows.

    Parameters
    ----------
    parts : sequence of quantizers
        Unfitted, with all settings.
    of_parts : sequence of Rows
        The rows of each part; their task is that of the whole.
    templates : sequence of Template
        The template of each part.
    n_jobs : int or None
        Number of joblib processes; None: threads of this process.

    Returns
    -------
    parts : list of quantizers
        Fitted; the given objects, or copies from other processes.
    notices : list of lists
        The warnings of each.
    """
    # Opened here, in their order, since parts may be fitted in threads.
    of_parts = [
        rows.under(rows.task.open("part", j)) for j, rows in enumerate(of_parts)
    ]
    room = min(rows.room() for rows in of_parts)
    if room == 0:
        learners = map(fit_part, parts, of_parts, templates)
        return list(parts), (yield from together(list(learners)))
    n_workers = min(effective_n_jobs(n_jobs), len(parts))
    if n_workers > 1:
        fitted = Parallel(n_jobs=n_workers)(
            delayed(_fit_held)(part, rows.held(), template)
            for part, rows, template in zip(parts, of_parts, templates, strict=True)
        )
        return [part for part, _ in fitted], [notices for _, notices in fitted]
    config = get_config()  # scikit-learn's, which is local to each thread
    notices: list[list[Notice]] = [[] for _ in parts]
    for first in range(0, len(parts), room):

        def fit(i: int, first: Any = first) -> None:
            j = first + i
            with config_context(**config):
                rows = of_parts[j].held()
                notices[j] = _fit_held(parts[j], rows, templates[j])[1]

        of_parts[0].be.map_jobs(fit, min(room, len(parts) - first))
    return list(parts), notices


def _fit_held(part: Any, rows: Rows, template: Template) -> tuple[Any, ...]:
    return part, run(fit_part(part, rows, template))


def _of_one_part(of_parts: list[list[nearest.Table]]) -> list[list[nearest.Table]]:
    """Return the tables of the one part that serves all; raise if they differ."""
    if len({len(own) for own in of_parts}) > 1:
        raise ValueError(
            f"share_codebook=True takes one part in all places, but the given "
            f"codebooks are those of {[len(own) for own in of_parts]} columns."
        )
    same_place = zip(*of_parts, strict=True)
    return list(map(list, zip(*(as_shared(s, True) for s in same_place), strict=True)))


def check_as_begun(name: str, now: Any, then: Any) -> None:
    """Raise if a parameter that a stream cannot change has changed."""
    if now != then:
        raise ValueError(
            f"{name}={now} was {then} when the stream began: fit anew to change it."
        )


def check_sizes_as_begun(n_codewords: Any, parts: Sequence[Any]) -> None:
    """Raise if `n_codewords` has changed, in the same words as for one table."""
    if n_codewords is not None:
        now, then = part_sizes(n_codewords, len(parts)), [p.n_codewords for p in parts]
        check_as_begun("n_codewords", now, then)


def part_sizes(n_codewords: Any, n_parts: int) -> list[int]:
    """Return V of each part, from one int for all or one for each."""
    if isinstance(n_codewords, Integral):
        return [int(n_codewords)] * n_parts
    sizes = list(n_codewords)
    if len(sizes) != n_parts:
        raise ValueError(
            f"n_codewords has {len(sizes)} entries, but there are {n_parts} codebooks; "
            "give one int for all, or one for each."
        )
    return check_counts("n_codewords", sizes)


def _elements(template: Template, size: int | None, width: int) -> int:
    """Return the number of values in the tables of a part with `width` features."""
    part = clone(template.quantizer)
    with template.naming():
        if size is not None:
            _set_size(part, size)
        part._validate_params()
        plain_parameters(part)
        return part._table_elements(width)


def _set_size(part: Any, size: int) -> None:
    given = part._given_size()
    if given not in (None, size):
        raise ValueError(
            f"n_codewords={size} cannot be set on the part {type(part).__name__}, "
            f"whose init is a table of {given} codewords: leave n_codewords=None."
        )
    parameters = part.get_params()
    if "n_codewords" in parameters:
        part.set_params(n_codewords=size)
        return
    own = "n_levels" if "n_levels" in parameters else "own parameters"
    raise ValueError(
        f"n_codewords={size} cannot be set on the part {type(part).__name__}, which "
        f"has no such parameter: set its {own} instead, and leave n_codewords=None."
    )
