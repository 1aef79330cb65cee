"""Measure codebooks that are used evenly: sizes of cells, and what they cost in error.

Claims: of 20,000 rows of dsift and 256 codewords, the largest cell has at most 1.10 of
the mean and the smallest at least .75; the distortion is at most 64,500, and 68,500 of
test rows.  The largest cell of test rows is reported, and the stages of residual codes,
whose prices are learned from the codes that `transform` finds.
"""

import _common  # isort: split

import time
import warnings

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from skvq import ResidualQuantizer, VectorQuantizer

N_ROWS = 20_000
TARGETS = {"largest": 1.10, "smallest": 0.75, "train": 64_500, "test": 68_500}


def quantizers(quick):
    """Yield names and pairs of quantizers, without balance and with it."""
    size = 16 if quick else 256
    options = {"random_state": 0}
    yield (
        f"vector, {size}",
        *(VectorQuantizer(size, balance=b, **options) for b in (None, True)),
    )
    for beam in (1, 5):
        yield (
            f"residual, 3 x {size}, beam {beam}",
            *(
                ResidualQuantizer(3, size, beam_size=beam, balance=b, **options)
                for b in (None, True)
            ),
        )


def sizes(codes, n_codewords):
    """Return the largest cell of any column and the smallest, over the mean."""
    found = [
        np.bincount(column, minlength=size) * size / len(codes)
        for column, size in zip(codes.T, n_codewords, strict=True)
    ]
    return max(map(max, found)), min(map(min, found))


def record(arguments, name, balance, of_test, data):
    """Record the largest cell of test rows, which a page gives."""
    if name.startswith("vector"):
        _common.record(
            arguments,
            "balance.test-cell" if balance else "balance.test-cell-without",
            f"{of_test:.1f}",
            f"the largest cell of test rows over the mean, {name} codewords, "
            f"balance={balance}",
            data=data.name,
        )


def report(arguments):
    """Fit on the training rows; print sizes and errors of these and of test rows."""
    quick = arguments.quick
    for data in _common.data_sets(["dsift"], quick=quick):
        table = _common.Table(
            f"{data.name}, {min(N_ROWS, len(data.train)):,} rows",
            [
                *("quantizer", "balance", "largest", "smallest", "test largest"),
                *("train", "test", "CPU s", "verdict"),
            ],
        )
        X, test = data.train[:N_ROWS], data.test
        for name, *pair in quantizers(quick):
            times = []
            for quantizer in pair:
                began = time.process_time()
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", ConvergenceWarning)
                    quantizer.fit(X)
                took = time.process_time() - began
                times.append(took)
                largest, smallest = sizes(
                    quantizer.transform(X), quantizer.codebook_sizes_
                )
                of_test, _ = sizes(quantizer.transform(test), quantizer.codebook_sizes_)
                record(arguments, name, quantizer.balance, of_test, data)
                train, tested = -quantizer.score(X), -quantizer.score(test)
                said = ""
                if quantizer.balance and name.startswith("vector"):
                    said = _common.verdict(
                        largest <= TARGETS["largest"]
                        and smallest >= TARGETS["smallest"]
                        and train <= TARGETS["train"]
                        and tested <= TARGETS["test"]
                    )
                table.row(
                    *(name, str(quantizer.balance), f"{largest:.3f}"),
                    *(f"{smallest:.3f}", f"{of_test:.2f}", f"{train:.0f}"),
                    *(f"{tested:.0f}", f"{took:.1f}", said),
                )
            if name.startswith("residual"):
                _common.record(
                    arguments,
                    f"balance.residual-fit.{'most' if 'beam 5' in name else 'least'}",
                    f"{times[1] / times[0]:.0f}",
                    f"times the CPU time of the fit without balance, {name}",
                    data=data.name,
                )


def main():
    arguments = _common.settle(
        _common.parser(__doc__.splitlines()[0], repeats=1, records=True).parse_args()
    )
    _common.print_header("Codebooks that are used evenly", arguments)
    print("Targets of the vector quantizer:", TARGETS)
    report(arguments)


if __name__ == "__main__":
    main()
