"""Measure what entropy-coded files take: bits against distortion, on rows held out.

PCA, one step for all axes, codes coded with the frequencies of the training rows.  Bits
are those in the file for each held-out row: payload, index of blocks and checksums;
not the tables and the header of the file, which many rows share.  The distortion is
that of the same rows.  Between the steps, its logarithm is interpolated over the bits.

Tables are one for each column; or one for each code of the column before.

Claim for the former, at 64 and 128 bits a row: at most 1,130 and 250 on `patches`,
23,000 and 11,100 on `sift5k`, 30,100 and 15,250 on `dsift` (residual quantization with
a beam of 32 has 2,893, 21,076 and 23,463 at 64 packed bits).

    SKVQ_DATA=... python benchmarks/entropy.py
"""

import tempfile
import time
from pathlib import Path

import _common
import numpy as np

from skvq import RotatedQuantizer, UniformQuantizer
from skvq.codes import EntropyCoder
from skvq.io import CodeReader, save_codes

N_STEPS = 14
BUDGETS = (64, 128)
TARGETS = {
    "patches": (1130, 250),
    "sift5k": (23000, 11100),
    "dsift": (30100, 15250),
}


def in_file(coder, codes, folder):
    """Return bits per row in a file, and CPU seconds of writing and of reading it."""
    path = Path(folder, "codes")
    began = time.thread_time()
    save_codes(path, codes, coder.sizes, coder=coder)
    encode, began = time.thread_time() - began, time.thread_time()
    with CodeReader(path) as reader:
        assert np.array_equal(reader[:], codes)
        return reader.bits_per_row, encode, time.thread_time() - began


def coder_of(quantizer, X, conditional):
    """Return a coder that has learned from the training rows."""
    if not conditional:
        return EntropyCoder.from_counts(quantizer.code_counts_)
    coder = EntropyCoder(quantizer.codebook_sizes_, conditional=True)
    return coder.fit(quantizer.transform(X))


def measured(quantizer, coder, X, folder):
    """Return bits, distortion, and microseconds a row of writing and reading."""
    codes = quantizer.transform(X)
    bits, encode, decode = in_file(coder, codes, folder)
    error = np.square(quantizer.inverse_transform(codes) - X).sum(axis=1).mean()
    ideal = coder.bits(codes).mean()
    return bits, error, ideal, 1e6 * encode / len(X), 1e6 * decode / len(X)


def quantizer_of(rate):
    """Return principal axes and one step, whose codes take a rate in training."""
    return RotatedQuantizer(UniformQuantizer(target_bits=rate), rotation="pca")


def main():
    arguments = _common.settle(
        _common.parser(__doc__.splitlines()[0], repeats=1).parse_args()
    )
    _common.print_header("Entropy-coded files", arguments)
    summary = []
    for data in _common.data_sets(tuple(TARGETS), quick=arguments.quick):
        train, test = data.train, data.test
        rates = np.geomspace(40, 170, 3 if arguments.quick else N_STEPS)
        quantizers = [quantizer_of(rate).fit(train) for rate in rates]
        targets = TARGETS.get(data.name, (None, None))
        for conditional in (False, True):
            how = "each column alone"
            if conditional:
                how, targets = "each depending on the one before", (None, None)
            table = _common.Table(
                f"{data.name}, {len(test):,} rows held out; {how}",
                [
                    *("step", "bits in the file", "distortion", "by the frequencies"),
                    *("us to write", "us to read"),
                ],
            )
            curve = []
            for quantizer in quantizers:
                coder = coder_of(quantizer, train, conditional)
                with tempfile.TemporaryDirectory() as folder:
                    found = measured(quantizer, coder, test, folder)
                curve.append(found[:2])
                table.row(
                    f"{quantizer.quantizer_.step_:.2f}", *(f"{v:.2f}" for v in found)
                )
            bits, errors = np.array(curve).T
            for budget, target in zip(BUDGETS, targets, strict=True):
                error = np.exp(np.interp(budget, bits, np.log(errors)))
                summary.append((data.name, how, budget, error, target))
    table = _common.Table(
        "between the steps, the logarithm of the distortion interpolated",
        ["data", "tables", "bits in the file", "distortion", "target", "verdict"],
    )
    for name, how, budget, error, target in summary:
        verdict = "-" if target is None else _common.verdict(error <= target)
        target = "-" if target is None else f"<= {target}"
        table.row(name, how, budget, f"{error:.1f}", target, verdict)


if __name__ == "__main__":
    main()
