"""How many codes keep their names when a codec is fitted again.

Tables are learned on old rows; then a tenth more come.  Ways to learn again from all
rows: a warm start, whose codewords `codes.match` gives the old names; two warm starts,
new rows weighing three times as much in the first; cold starts with other seeds, whose
codewords are matched greedily, the closest pair first, or by `codes.match`.  What
counts is the share of codes of the old rows that are what they were, and the error on
new rows.

New rows are drawn as the old ones, or are others: half of them, times 1.5.

    python benchmarks/refit.py [--quick] [--repeats 20]

With SKVQ_DATA, the folder of data sets, on dsift and patches; else on made-up clusters.
"""

import _common  # isort: split

import os
from copy import deepcopy
from pathlib import Path

import numpy as np
from sklearn.base import clone

from skvq import (
    ProductQuantizer,
    ResidualQuantizer,
    VectorQuantizer,
    codes,
    metrics,
)
from skvq.nearest import DistanceTable


def schemes(quick: bool) -> dict:
    v = 16 if quick else 256
    return {
        f"vector {v}": VectorQuantizer(v, random_state=0),
        f"product 8 x {v}": ProductQuantizer(8, v, random_state=0),
        f"residual 4 x {v}": ResidualQuantizer(4, v, random_state=0),
    }


def greedy_names(old, new) -> list[np.ndarray]:
    """Return names of new codewords: the closest pair first, then the next."""
    found = []
    for before, after in zip(old.codebooks_, new.codebooks_, strict=True):
        gaps = DistanceTable(after)(before)
        names = np.full(len(after), -1)
        taken = np.zeros(len(before), bool)
        for place in np.argsort(gaps, axis=None, kind="stable"):
            i, k = np.unravel_index(place, gaps.shape)
            if names[k] < 0 and not taken[i]:
                names[k], taken[i] = i, True
        found.append(names)
    return found


def kept(before: np.ndarray, after: np.ndarray, names) -> float:
    now = np.stack([own[c] for own, c in zip(names, after.T, strict=True)], axis=1)
    columns, _ = metrics.changed_codes(before, now)
    return 1 - float(columns.mean())


def measure(name: str, quantizer, old, new, n_restarts: int) -> None:
    rows = np.concatenate([old, new])
    first = clone(quantizer).set_params(warm_start=True).fit(old)
    before, at_first = first.transform(old), -first.score(new)
    greedy, assigned, errors = [], [], []
    for seed in range(n_restarts):
        cold = clone(quantizer).set_params(random_state=1 + seed).fit(rows)
        after = cold.transform(old)
        greedy.append(kept(before, after, greedy_names(first, cold)))
        assigned.append(kept(before, after, codes.match(first, cold)))
        errors.append(-cold.score(new))
    print(
        f"| {name} | as it was | 1 | 0 | {at_first:.5g} | "
        f"{percent(at_first, np.mean(errors))} | {percent(at_first, min(errors))} |"
    )
    heavy = np.concatenate([np.ones(len(old)), np.full(len(new), 3.0)])
    for way, weights in ("warm", []), ("warm, new rows first", [heavy]):
        again = deepcopy(first)
        for weight in [*weights, None]:
            again.fit(rows, sample_weight=weight)
        again.rename_codes(codes.match(first, again))
        columns, any_code = metrics.changed_codes(before, again.transform(old))
        error = -again.score(new)
        print(
            f"| {name} | {way} | {1 - columns.mean():.3f} | {any_code:.3f} | "
            f"{error:.5g} | {percent(error, np.mean(errors))} | "
            f"{percent(error, min(errors))} |"
        )
    print(
        f"| {name} | {n_restarts} restarts: most kept, mean error | "
        f"{max(greedy):.3f} greedily, {max(assigned):.3f} matched | | "
        f"{np.mean(errors):.5g} | | |",
        flush=True,
    )


def percent(error: float, other: float) -> str:
    return f"{100 * (error / other - 1):+.2f} %"


def data(quick: bool):
    """Yield names and rows."""
    folder = os.environ.get("SKVQ_DATA")
    if quick or folder is None:
        rng = np.random.default_rng(0)
        centres = 3 * rng.normal(size=(30, 16))
        n = 2_000 if quick else 20_000
        X = centres[rng.integers(30, size=n)] + rng.normal(size=(n, 16))
        yield "clusters", X.astype(np.float32)
        return
    for name in "dsift", "patches":
        yield name, np.load(Path(folder) / f"{name}.npz")["train"].astype(np.float32)


def main() -> None:
    arguments = _common.parser(__doc__.splitlines()[0], repeats=20).parse_args()
    n_restarts = 2 if arguments.quick else arguments.repeats
    print(
        "Targets: kept at least what any restart keeps greedily; error on new rows "
        "within 1 % of a cold refit.\n"
    )
    print(
        "| data, new rows | scheme | refit | codes kept | rows with a change | error "
        "on new rows | to mean restart | to best |"
    )
    print("|" + " - |" * 8)
    for label, X in data(arguments.quick):
        order = np.random.default_rng(0).permutation(len(X))[:20_000]
        n_old = len(order) * 10 // 11
        old, alike = X[order[:n_old]], X[order[n_old:]]
        moved = alike.copy()
        moved[::2] *= np.float32(1.5)
        for kind, new in ("alike", alike), ("moved", moved):
            for name, quantizer in schemes(arguments.quick).items():
                title = f"{label}, {kind} | {name}"
                measure(title, quantizer, old, new, n_restarts)


if __name__ == "__main__":
    main()
