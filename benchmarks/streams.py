"""Compare the online learners of `VectorQuantizer` with MiniBatchKMeans.

Claims, for each of the three learners, averaged over five seeds: `fit` with defaults
ends at a training distortion of at most scikit-learn's, and a test distortion of at
most 1.005 times it.  One pass over shuffled rows is no worse than without repairs of
dead codewords by more than 0.2%.  Rows that come sorted by class leave at most twice
the error of shuffled ones.

Distortion: the squared error summed over features and averaged over rows.
"""

import _common  # isort: split

import warnings

import numpy as np
from sklearn.cluster import MiniBatchKMeans
from sklearn.exceptions import ConvergenceWarning

from skvq import VectorQuantizer

LEARNERS = ("minibatch", "ema", "sgd")
TEST_LIMIT = 1.005
REPAIR_LIMIT = 1.002
SORTED_LIMIT = 2.0


def error(model, X):
    """Return the mean distance of rows from the codewords of either library."""
    by_peer = isinstance(model, MiniBatchKMeans)
    return -model.score(X) / (len(X) if by_peer else 1)


def streamed(model, X, size):
    for begin in range(0, len(X), size):
        model.partial_fit(X[begin : begin + size])
    return model


def peer(n_codewords, seed):
    return MiniBatchKMeans(n_codewords, n_init=1, random_state=seed)


def ours(n_codewords, seed, learning, **others):
    return VectorQuantizer(n_codewords, learning=learning, random_state=seed, **others)


def fits(data, size, n_seeds):
    """Print the errors of `fit`, and the passes that it took."""
    table = _common.Table(
        f"`fit` of {size} codewords on {data.name}: mean over {n_seeds} seeds",
        ["learner", "train", "test", "x train", "x test", "passes", "verdict"],
    )
    makers = {"MiniBatchKMeans": lambda seed: peer(size, seed)}
    for learning in LEARNERS:
        makers[learning] = lambda seed, name=learning: ours(size, seed, name)
    reference = None
    for name, make in makers.items():
        models = [make(seed).fit(data.train) for seed in range(n_seeds)]
        train, test = (
            float(np.mean([error(model, X) for model in models]))
            for X in (data.train, data.test)
        )
        reference = reference or (train, test)
        shares = train / reference[0], test / reference[1]
        table.row(
            name,
            f"{train:.1f}",
            f"{test:.1f}",
            *(f"{share:.4f}" for share in shares),
            ", ".join(str(model.n_iter_) for model in models),
            _common.verdict(shares[0] <= 1, shares[1] <= TEST_LIMIT),
        )


def shuffled_streams(data, size, n_seeds, sizes):
    """Print the training errors of one pass, with repairs and without."""
    table = _common.Table(
        f"one pass over {data.name}, {size} codewords: mean over {n_seeds} seeds",
        ["learner", "rows of a batch", "repaired", "kept", "ratio", "verdict"],
    )
    for learning in LEARNERS:
        for rows in sizes:
            repaired, kept = (
                np.mean(
                    [
                        error(
                            streamed(
                                ours(size, seed, learning, dead_codes=how),
                                data.train,
                                rows,
                            ),
                            data.train,
                        )
                        for seed in range(n_seeds)
                    ]
                )
                for how in ("split", "keep")
            )
            table.row(
                learning,
                rows,
                f"{repaired:.1f}",
                f"{kept:.1f}",
                f"{repaired / kept:.4f}",
                _common.verdict(repaired <= REPAIR_LIMIT * kept),
            )


def sorted_streams(n_rows, size, n_seeds):
    """Print the errors of ten distant classes, one after the other."""
    table = _common.Table(
        f"ten classes of {n_rows:,} rows, {size} codewords, batches of 500: "
        f"{n_seeds} seeds",
        ["learner", "sorted", "shuffled", "largest ratio", "verdict"],
    )
    for name in ("MiniBatchKMeans", *LEARNERS):
        found = []
        for seed in range(n_seeds):
            rng = np.random.default_rng(seed)
            centres = np.repeat(10 * rng.normal(size=(10, 8)), n_rows, axis=0)
            X = (centres + rng.normal(size=centres.shape)).astype(np.float32)
            order = rng.permutation(len(X))
            found.append(
                [
                    error(
                        streamed(
                            peer(size, seed)
                            if name == "MiniBatchKMeans"
                            else ours(size, seed, name),
                            rows,
                            500,
                        ),
                        X,
                    )
                    for rows in (X, X[order])
                ]
            )
        in_order, shuffled = np.transpose(found)
        worst = (in_order / shuffled).max()
        table.row(
            name,
            ", ".join(f"{value:.1f}" for value in in_order),
            ", ".join(f"{value:.2f}" for value in shuffled),
            f"{worst:.2f}",
            "-"
            if name == "MiniBatchKMeans"
            else _common.verdict(worst <= SORTED_LIMIT),
        )


def main():
    arguments = _common.settle(
        _common.parser(__doc__.splitlines()[0], repeats=5).parse_args()
    )
    _common.print_header("Streams", arguments)
    warnings.filterwarnings("ignore", category=ConvergenceWarning)
    quick, n_seeds = arguments.quick, arguments.repeats
    size = 32 if quick else 256
    data = _common.data_sets(("dsift",), quick=quick)[-1]
    fits(data, size, n_seeds)
    shuffled_streams(data, size, n_seeds, (200,) if quick else (200, 1000))
    sorted_streams(300 if quick else 3000, 64, n_seeds)


if __name__ == "__main__":
    main()
