"""Reports of `skvq.metrics`: mappings for programs that print as tables."""

import copy
import html
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skvq._compat import published_in

# Number of table rows that are shown; the mapping has all of them.
_MOST_SHOWN = 40


class Report(Mapping[str, Any]):
    """A mapping from names to findings.

    Values are numbers, texts, None, and lists and dicts of these, so that `json.dumps`
    accepts the result of `as_dict`.

    Parameters
    ----------
    facts : dict
        The findings, by name.
    """

    def __init__(self, facts: dict[str, Any]) -> None:
        self._facts = facts

    def __getitem__(self, name: str) -> Any:
        """Return a finding."""
        return self._facts[name]

    def __iter__(self) -> Iterator[str]:
        """Yield the names of the findings."""
        return iter(self._facts)

    def __len__(self) -> int:
        """Return the number of findings."""
        return len(self._facts)

    def as_dict(self) -> dict[str, Any]:
        """Return a copy of all findings.

        Returns
        -------
        facts : dict
            Findings by name.
        """
        return copy.deepcopy(self._facts)

    @abstractmethod
    def _title(self) -> str:
        """Return the title, one line."""

    @abstractmethod
    def _tables(self) -> list[list[list[str]]]:
        """Return tables of cells, each beginning with a row of names."""

    def __str__(self) -> str:
        """Return the tables as text."""
        return "\n\n".join([self._title(), *map(_aligned, self._tables())])

    def __repr__(self) -> str:
        """Return the tables too: whoever looks at a report wants to read it."""
        return str(self)

    def _repr_html_(self) -> str:
        tables = "".join(map(_as_html, self._tables()))
        return f"<p>{html.escape(self._title())}</p>{tables}"


@published_in("skvq.metrics")
class CodeReport(Report):
    """The findings of `skvq.metrics.code_report`.

    A mapping from names to findings that prints as a table, also in notebooks.

    Parameters
    ----------
    facts : dict
        The findings.
    used : sequence of (ndarray, ndarray)
        For each column, the codes in use, ascending, and their shares.

    Attributes
    ----------
    used : tuple of (ndarray, ndarray)
        The same.

    See Also
    --------
    skvq.display.CodeUsageDisplay.from_report : Draws it.
    """

    used: tuple[tuple[NDArray[Any], NDArray[Any]], ...]

    def __init__(
        self, facts: dict[str, Any], used: Sequence[tuple[np.ndarray, np.ndarray]]
    ) -> None:
        super().__init__(facts)
        self.used = tuple(used)

    def _title(self) -> str:
        return f"Codes of {self['rows']:,} rows"

    def _tables(self) -> list[list[list[str]]]:
        names = list(self["columns"][0])
        use = [["column", *names]]
        for j, column in enumerate(self["columns"]):
            use.append([str(j), *(_number(column[name]) for name in names)])
        rows = [["first columns", "distinct rows", "collision rate", "duplicate rate"]]
        for j, prefix in enumerate(self["prefixes"], 1):
            rows.append([str(j), *map(_number, prefix.values())])
        return [use, rows]


@published_in("skvq.metrics")
class DriftReport(Report):
    """The findings of `skvq.metrics.drift`.

    A mapping from names to findings that prints as a table, also in notebooks.

    Parameters
    ----------
    facts : dict
        The findings.
    """

    def _title(self) -> str:
        rows, trained = self["rows"], self["training_rows"]
        against = "" if trained is None else f" against {trained:,.10g} of the fit"
        return f"Drift of {rows:,} rows{against}"

    def _tables(self) -> list[list[list[str]]]:
        whole = [["", "here", "in the fit", "ratio"]]
        whole.append(
            ["distortion"]
            + [
                _number(self[name])
                for name in ("distortion", "training_distortion", "distortion_ratio")
            ]
        )
        shares = [["share of the rows", ""]]
        shares.append(
            ["with a code that no row of the fit has", _number(self["new_rows"])]
        )
        if self["outside"] is not None:
            shares.append(
                ["outside the range of a feature", _number(self["outside_rows"])]
            )
        codes = [["column", "divergence", "expected", "excess", "new cells"]]
        for j, column in enumerate(self["columns"]):
            codes.append([str(j), *map(_number, column.values())])
        tables = [whole, shares, codes]
        if self["outside"] is not None:
            outside = [["feature", "outside"]]
            outside += [[str(j), _number(x)] for j, x in enumerate(self["outside"])]
            tables.append(outside)
        return tables


def _number(value: float | int | None) -> str:
    if value is None:
        return "-"
    if isinstance(value, int):
        return f"{value:,}"
    # Show significant digits, without an exponent where people would not write one.
    text = f"{value:.4g}"
    if 0.0005 <= abs(value) < 0.9995:
        text = f"{value:.3f}".rstrip("0")
    return text


def _shown(table: list[list[str]]) -> list[list[str]]:
    if len(table) - 1 <= _MOST_SHOWN:
        return table
    return [*table[: _MOST_SHOWN + 1], ["..."] + [""] * (len(table[0]) - 1)]


def _aligned(table: list[list[str]]) -> str:
    table = _shown(table)
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    # Columns of row names are left-aligned, unless they are numbers.
    text = not table[1][0].isdecimal()
    return "\n".join(
        "  ".join(
            cell.ljust(width) if text and i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in table
    )


def _as_html(table: list[list[str]]) -> str:
    head, *rows = _shown(table)

    def line(cells: list[str], tag: str) -> str:
        inner = "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells)
        return f"<tr>{inner}</tr>"

    body = "".join(line(row, "td") for row in rows)
    return f"<table><thead>{line(head, 'th')}</thead><tbody>{body}</tbody></table>"
