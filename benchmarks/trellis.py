"""Measure what trellises leave of Gaussian features, and of real ones behind PCA.

Claims: at 1, 2 and 3 bits a feature the error over the power of 2^19 test samples is
at most 1.01 times .3034, .0859, .0243 with 8 states and .2845, .0816, .0231 with 256;
at 2 bits at most .0735 with 2^12 windows of the bitshift trellis, and .0700 with 2^16.
Whole test sets behind PCA at 128 bits: sift5k at most 11,800 with 8 states and 11,650
with 32, patches 1,357 and 1,345.

Times are of the CPU and one thread: what else the machine does plays little part.
"""

import argparse
import time

import _common
import numpy as np
from _common import Table, print_header, verdict
from threadpoolctl import threadpool_limits

from skvq import TrellisQuantizer

N_FEATURES, TRAIN_ROWS, TEST_ROWS = 256, 4096, 2048
GAUSSIAN = {8: (0.3034, 0.0859, 0.0243), 256: (0.2845, 0.0816, 0.0231)}
# By L: what is claimed, and how many test rows there are, as they take long.
BITSHIFT = {12: (0.0735, 2048), 16: (0.0700, 1024)}
# Errors of the best scalar levels at 1, 2 and 3 bits (Max, 1960); what is possible is
# 4^-bits.
SCALAR = (0.3634, 0.1175, 0.03454)
REAL = {"sift5k": {8: 11_800, 32: 11_650}, "patches": {8: 1_357, 32: 1_345}}


def main() -> None:
    """Print the tables."""
    arguments = parse()
    print_header("Trellises", arguments)
    with threadpool_limits(1):
        record(arguments, gaussian(arguments.quick))
        real(arguments.quick)


def parse() -> argparse.Namespace:
    """Return the options; there is one run, as nothing is drawn but the samples."""
    return _common.parser(__doc__.splitlines()[0], repeats=1, records=True).parse_args()


def record(arguments: argparse.Namespace, errors: dict[int, list[float]]) -> None:
    """Record what scalar levels cost, and what is gained at 1 to 3 bits beside them."""
    cost = [error * 4**n_bits for n_bits, error in enumerate(SCALAR, start=1)]
    gains = [
        100 * (1 - e / SCALAR[n - 1]) for n, found in errors.items() for e in found
    ]
    for end, choose, sign in (("least", min, ""), ("most", max, "%")):
        _common.record(
            arguments,
            f"trellis.scalar.{end}",
            f"{choose(cost):.1f}",
            f"error of the best scalar levels over what is possible; {end}",
            data="1 to 3 bits (Max, 1960)",
        )
        _common.record(
            arguments,
            f"trellis.gain.{end}",
            f"{choose(gains):.0f}{sign}",
            f"percent that the error is below that of the best scalar levels; {end}",
            data="Gaussian features, 1 to 3 bits",
        )


def gaussian(quick: bool) -> dict[int, list[float]]:
    """Print errors over power of independent Gaussian features; return them by bits."""
    errors: dict[int, list[float]] = {1: [], 2: [], 3: []}
    rng = np.random.default_rng(0)
    n_train, n_test = (64, 32) if quick else (TRAIN_ROWS, TEST_ROWS)
    train = rng.normal(size=(n_train, N_FEATURES)).astype(np.float32)
    test = rng.normal(size=(n_test, N_FEATURES)).astype(np.float32)
    table = Table(
        "Gaussian features, error over power",
        ("trellis", "bits", "error", "claim", "fit, s", "encode, ns a feature", ""),
    )
    for n_states, limits in GAUSSIAN.items():
        if quick and n_states > 8:
            continue
        for n_bits, limit in enumerate(limits, start=1):
            quantizer = TrellisQuantizer(
                n_bits, n_states=n_states, share_alphabets=True
            )
            name = f"{n_states} states"
            error = row(table, name, quantizer, train, test, 1.01 * limit)
            errors[n_bits].append(error)
    for window_bits, (limit, n_rows) in BITSHIFT.items():
        if quick and window_bits > 12:
            continue
        quantizer = TrellisQuantizer(
            2,
            n_states=2**window_bits,
            trellis="bitshift",
            alphabets="gaussian",
            share_alphabets=True,
        )
        name = f"bitshift, 2^{window_bits} windows"
        # Nothing but a mean and a scale is learned, which few rows tell well enough.
        few = train[:128] if quick else train
        error = row(table, name, quantizer, few[:128], test[:n_rows], limit)
        errors[2].append(error)
    return errors


def row(table, name, quantizer, train, test, limit) -> float:
    """Print the error of one quantizer, and return it."""
    began = time.process_time()
    quantizer.fit(train)
    fitted = time.process_time()
    codes = quantizer.transform(test)
    encoded = time.process_time()
    gaps = test - quantizer.inverse_transform(codes).astype(np.float64)
    error = (gaps**2).sum() / (test.astype(np.float64) ** 2).sum()
    table.row(
        name,
        quantizer.rates_[0],
        f"{error:.5f}",
        f"{limit:.5f}",
        f"{fitted - began:.1f}",
        f"{1e9 * (encoded - fitted) / test.size:.0f}",
        verdict(error <= limit),
    )
    return error


def real(quick: bool) -> None:
    """Print mean squared distances of test sets behind PCA."""
    table = Table(
        "Behind PCA, 128 bits a row",
        ("data", "states", "test distortion", "claim", "fit, s"),
    )
    for data in _common.data_sets(list(REAL), quick=quick):
        mean = data.train.mean(axis=0)
        covariance = np.cov((data.train - mean).T.astype(np.float64))
        axes = np.linalg.eigh(covariance)[1][:, ::-1]
        train, test = (
            ((X - mean) @ axes).astype(np.float32) for X in (data.train, data.test)
        )
        for n_states, limit in REAL.get(data.name, {8: np.inf, 32: np.inf}).items():
            began = time.process_time()
            quantizer = TrellisQuantizer(total_bits=128, n_states=n_states).fit(train)
            seconds = time.process_time() - began
            error = -quantizer.score(test)
            claim = f"{limit} {verdict(error <= limit)}" if np.isfinite(limit) else ""
            table.row(data.name, n_states, f"{error:.1f}", claim, f"{seconds:.1f}")


if __name__ == "__main__":
    main()
