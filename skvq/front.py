"""The base of schemes that stand in front of another scheme.

Samples are transformed on the way to a quantizer, the part, and reconstructions are
transformed on the way back.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Self

import numpy as np
from sklearn.base import clone
from sklearn.utils import check_random_state

from skvq import nearest
from skvq._given import check_costs
from skvq._typing import BackendName
from skvq._validation import Notice, copy_to_fit, repeat_warnings
from skvq.base import BaseQuantizer
from skvq.coding.charges import Charges
from skvq.learning.rows import Learner, Rows
from skvq.parts import Parts, Template, check_one_part, fit_part


class FrontQuantizer(BaseQuantizer):
    """Base of schemes with one part that all samples pass through.

    A scheme has the parameter `quantizer`, also `random_state` and `backend` if it
    uses them, and the hook `_default_part()`, which returns the meaning of None.  Its
    fitted part is `quantizer_`; `_parts_` holds what is known of it.
    """

    quantizer: Any
    random_state: Any
    backend: BackendName
    quantizer_: BaseQuantizer
    _made_anew = ("_parts_",)

    @abstractmethod
    def _default_part(self) -> BaseQuantizer:
        """Return the quantizer that None stands for."""

    def _template(self) -> Template:
        """Return the template of the part."""
        quantizer = self.quantizer
        return Template(
            "quantizer", self._default_part() if quantizer is None else quantizer
        )

    def set_params(self, **params: Any) -> Self:
        """Set parameters; those of the part have names ``quantizer__<parameter>``.

        Parameters
        ----------
        **params : dict
            Parameters and their values.

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
        return super().set_params(**params)

    def _new_part(self) -> Any:
        """Return an unfitted clone with the settings of the scheme."""
        part = clone(self._template().quantizer)
        own, names = self.get_params(deep=False), part.get_params(deep=False)
        if own.get("random_state") is not None and "random_state" in names:
            rng = check_random_state(self.random_state)
            part.set_params(random_state=int(rng.randint(np.iinfo(np.int32).max)))
        if own.get("backend", "auto") != "auto" and "backend" in names:
            part.set_params(backend=self.backend)
        return part

    def _n_tasks(self) -> int | None:
        return 1

    def _fit_part(self, rows: Rows, part: Any = None) -> Learner[Any]:
        """Return a part fitted to the rows, which are as the part sees them."""
        if part is None:
            part = self._new_part()
            if self._before_ is not None:
                part._before_ = self._before_.quantizer_
        rows = rows.under(rows.task.open("part"))
        notices: list[Notice] = yield from fit_part(part, rows, self._template())
        repeat_warnings(notices)
        return part

    def _part_of_tables(
        self, tables: list[nearest.Table], costs: dict[Any, Any]
    ) -> Any:
        """Return a part made from tables; set the parameters that follow from them.

        Parameters
        ----------
        tables : list of Table
            The tables of the part.
        costs : dict
            What its search adds for their codes, or None, see `check_costs`.
        """
        part = clone(self._template().quantizer)
        beside = check_costs(costs, tables, part._code_costs())
        with self._template().naming():
            part._set_up(tables, beside=beside)
        self.quantizer = clone(part)
        return part

    # -- passed on to the part -----------------------------------------------------

    @property
    def _follows_namespace(self) -> bool:  # type: ignore[override]
        # This may be asked before the parameters have been checked.
        return getattr(self._template().quantizer, "_follows_namespace", False)

    def _needs_rows_in_memory(self) -> str | None:
        why = self._template().quantizer._needs_rows_in_memory()
        return why and f"its part, {self._template()}: {why}"

    def _fewest_rows(self) -> int:
        return self._template().quantizer._fewest_rows()

    def _table_elements(self, n_features: int) -> int:
        return self._template().quantizer._table_elements(n_features)

    def _slice_widths(self, n_features: int) -> list[int] | None:
        return self._template().quantizer._slice_widths(n_features)

    def _n_tables(self) -> int | None:
        return self._template().quantizer._n_tables()

    def _takes_columns(self) -> bool:
        return self._template().quantizer._takes_columns()

    def _why_no_sums(self) -> str | None:
        part = getattr(self, "quantizer_", self._template().quantizer)
        why = part._why_no_sums()
        return why and f"its part, {part!r}: {why}"

    def _codebooks(self) -> Sequence[nearest.Table | np.ndarray]:
        return self.quantizer_._codebooks()

    def _why_no_codebooks(self) -> str | None:
        why = self.quantizer_._why_no_codebooks()
        return why and f"its part, {self.quantizer_!r}: {why}"

    def _code_costs(self) -> frozenset[str]:
        return self._template().quantizer._code_costs()

    def _charges(self) -> Charges:
        return (*self.quantizer_._charges(), *(None,) * len(self._own_sizes()))

    def _with_charges(self, charges: Charges) -> Self:
        copy, n_own = copy_to_fit(self, fitted=True), len(self._own_sizes())
        copy.quantizer_ = self.quantizer_._with_charges(charges[: len(charges) - n_own])
        copy._parts_ = Parts([copy.quantizer_])
        return copy

    def _why_no_names(self) -> str | None:
        part = vars(self).get("quantizer_", self._template().quantizer)
        why = part._why_no_names()
        return why and f"its part, {part!r}: {why}"

    def _renamed(self, orders: Sequence[np.ndarray | None]) -> dict[str, Any]:
        n_own = len(self.quantizer_.codebook_sizes_)
        if any(order is not None for order in orders[n_own:]):
            raise ValueError(
                f"names of the columns from {n_own} on, which are scales of rows and "
                "places in an order, cannot be changed: expected None."
            )
        part = self.quantizer_._in_order_of(orders[:n_own])
        return {"quantizer_": part, "_parts_": Parts([part])}

    # -- the fitted part -----------------------------------------------------------

    def _own_sizes(self) -> tuple[int, ...]:
        """Return the sizes of code columns after those of the part."""
        return ()

    @cached_property
    def _parts_(self) -> Parts:
        """What is known of the fitted part; found anew after loading."""
        return Parts([self.quantizer_])

    def _check_as_fitted(self) -> None:
        """Raise if the part has been replaced by another that does not fit."""
        parts, known = [self.quantizer_], self._parts_
        if not known.are(parts):
            known.check_shapes(type(self).__name__, "quantizer_", parts)
            self._parts_ = known = Parts(parts)
        if self.codebook_sizes_ != (*known.sizes, *self._own_sizes()):
            raise ValueError(
                f"codebook_sizes_={self.codebook_sizes_} of {type(self).__name__} are "
                f"not those of its quantizer_, {known.sizes}: fit it anew."
            )
