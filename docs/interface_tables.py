"""The tables of the page on the interface: what each estimator takes, and has.

They are made of ``tests/interface/current.txt``, which a test holds to the code.
"""

import re
from collections import defaultdict
from pathlib import Path

SNAPSHOT = Path(__file__).parent.parent / "tests" / "interface" / "current.txt"
# Of a constructor, and of what `fit` sets.
_PARAMETER = re.compile(r"skvq\.([A-Z]\w+)\((?:\d+: )?(\w+)=?(.*)\)")
_ATTRIBUTE = re.compile(r"skvq\.([A-Z]\w+)\.(\w+_)")


def tables(snapshot: str) -> str:
    """Return both tables, in Markdown.

    Parameters
    ----------
    snapshot : str
        The text of the stored interface.
    """
    parameters, attributes = defaultdict(dict), defaultdict(dict)
    for line in snapshot.splitlines():
        if found := _PARAMETER.fullmatch(line):
            estimator, name, default = found.groups()
            parameters[name][estimator] = f"`{default}`" if default else "needed"
        elif found := _ATTRIBUTE.fullmatch(line):
            attributes[found[2]][found[1]] = "✓"
    columns = sorted({one for of in parameters.values() for one in of}, key=_short)
    return (
        f"## Parameters\n\n{_table(parameters, columns)}\n"
        f"## Fitted attributes\n\n{_table(attributes, columns)}"
    )


def write(path: Path) -> None:
    """Write the tables where the page includes them from."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(tables(SNAPSHOT.read_text(encoding="utf-8")), encoding="utf-8")


def _short(estimator: str) -> str:
    return estimator.removesuffix("Quantizer")


def _table(cells: dict[str, dict[str, str]], columns: list[str]) -> str:
    """Return a table with what most estimators have first."""
    lines = ["| | " + " | ".join(map(_short, columns)) + " |"]
    lines.append("| --- |" + " --- |" * len(columns))
    for name in sorted(cells, key=lambda name: (-len(cells[name]), name)):
        row = " | ".join(cells[name].get(column, "") for column in columns)
        lines.append(f"| `{name}` | {row} |")
    return "\n".join(lines) + "\n"
