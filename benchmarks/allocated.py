"""Measure allocated bits, and one step for all features, behind a PCA.

Claims, of the test rows of the data sets: with `total_bits` Lloyd-Max levels come below
the stated distortions, for whole bits at 1, 2 and 4 bits per feature, and for any
numbers of levels at 1 and 2; with one step the curve of the distortion over the ideal
code lengths of held-out rows, interpolated in the logarithm of the distortion, comes
below the stated ones at 64 and 128 bits; and `target_bits` is met on the training rows
within .1%.  The CPU time of a fit is printed beside.

With SKVQ_DATA, the folder of dsift.npz, patches.npz and sift5k.npz (uint8 `train` and
`test`); without it, on normal rows of falling spread, which have no targets.
"""

import _common  # isort: skip

import os
import time
from pathlib import Path

import numpy as np

from skvq import UniformQuantizer
from skvq.coding.rates import code_lengths

# Test distortions, by bits per feature, and whether these are whole.
ALLOCATED = {
    "dsift": {
        (1, True): 18940,
        (2, True): 6410,
        (4, True): 613,
        (1, False): 18570,
        (2, False): 6180,
    },
    "patches": {
        (1, True): 4625,
        (2, True): 1715,
        (4, True): 310,
        (1, False): 4545,
        (2, False): 1725,
    },
}
# At 64 and 128 bits of a row.
STEPS = {
    "patches": (1130, 250),
    "sift5k": (23000, 11100),
    "dsift": (30100, 15250),
}
CASES = list(ALLOCATED["dsift"])


def sets(quick):
    """Yield a name and the principal components of training and test rows."""
    folder = os.environ.get("SKVQ_DATA")
    if folder is None:
        n, d = (1500, 12) if quick else (6000, 32)
        X = np.random.default_rng(0).normal(size=(n, d)) * 100 * 0.85 ** np.arange(d)
        yield "normal", X[: 2 * n // 3], X[2 * n // 3 :]
        return
    for name in STEPS:
        with np.load(Path(folder) / f"{name}.npz") as found:
            train, test = (found[key].astype(np.float64) for key in ("train", "test"))
        if quick:
            train, test = train[:1000, ::8], test[:500, ::8]
        mean = train.mean(axis=0)
        axes = np.linalg.eigh(np.cov((train - mean).T))[1][:, ::-1]
        yield name, (train - mean) @ axes, (test - mean) @ axes


def fitted(quantizer, X):
    """Return the fitted quantizer, and the CPU seconds that it took."""
    start = time.thread_time()
    quantizer.fit(X)
    return quantizer, time.thread_time() - start


def rate(quantizer, train, X):
    """Return the mean of -log2 of the shares that codes of X have in training."""
    columns = zip(quantizer.transform(train).T, quantizer.transform(X).T, strict=True)
    bits = 0.0
    for (seen, codes), size in zip(columns, quantizer.codebook_sizes_, strict=True):
        bits += code_lengths(np.bincount(seen, minlength=size))[codes].mean()
    return bits


def allocated(name, train, test):
    d = train.shape[1]
    for bits, whole in CASES:
        quantizer = UniformQuantizer(
            levels="lloyd-max", total_bits=bits * d, powers_of_two=whole
        )
        quantizer, seconds = fitted(quantizer, train)
        target = ALLOCATED.get(name, {}).get((bits, whole), "-")
        kind = "powers of two" if whole else "any numbers"
        print(
            f"{name:8} {bits} bits, {kind:13} {-quantizer.score(test):10.1f}  target "
            f"{target:>6}  {quantizer.bits_per_sample_:.2f} bits, {seconds:.2f} s"
        )


def stepped(name, train, test, n_steps):
    # A narrow set has fewer bits in it.
    most = min(180, 8 * train.shape[1])
    curve, off, spent = [], 0.0, 0.0
    for target in np.geomspace(40, most, n_steps):
        quantizer, seconds = fitted(UniformQuantizer(target_bits=target), train)
        off = max(off, abs(rate(quantizer, train, train) / target - 1))
        curve.append((rate(quantizer, train, test), -quantizer.score(test)))
        spent += seconds
    bits, errors = np.transpose(curve)
    for place, at in enumerate((64, 128)):
        error = np.exp(np.interp(at, bits, np.log(errors)))
        target = STEPS.get(name, ("-", "-"))[place]
        print(f"{name:8} step, {at:3} bits held out  {error:10.1f}  target {target:>6}")
    print(
        f"{name:8} training rates off by {off:.4%} at most, target .1%; "
        f"{spent / n_steps:.2f} s a fit"
    )


def main():
    args = _common.parser(__doc__, repeats=1).parse_args()
    for name, train, test in sets(args.quick):
        allocated(name, train, test)
        stepped(name, train, test, 3 if args.quick else 16)


if __name__ == "__main__":
    main()
