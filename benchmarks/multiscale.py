"""Compare codes of maps at equal bits: multi-scale, product and residual.

Maps of 8 x 8 pixels of 3 channels, cut from the photographs that scikit-learn bundles:
the left two thirds to train on, the right third to test on.
"""

import _common  # isort: split

import time

import numpy as np

from skvq import MultiScaleQuantizer, ProductQuantizer, ResidualQuantizer

SIZE = 8
CASES = [(1, 2, 4), (1, 2, 4, 8)]
N_CODEWORDS = 256


def maps(n_rows):
    """Return maps to train on, and half as many to test on, (n_rows, 8 * 8 * 3)."""
    _common.peer("PIL", extra="demo")
    from sklearn.datasets import load_sample_images

    rng = np.random.default_rng(0)
    train, test = [], []
    for image in load_sample_images().images:
        border = 2 * image.shape[1] // 3
        train.append(cut(image[:, :border], n_rows // 2, rng))
        test.append(cut(image[:, border:], n_rows // 4, rng))
    return np.concatenate(train), np.concatenate(test)


def cut(image, count, rng):
    views = np.lib.stride_tricks.sliding_window_view(image, (SIZE, SIZE), axis=(0, 1))
    places = [rng.integers(0, n, count) for n in views.shape[:2]]
    chosen = views[places[0], places[1]].transpose(0, 2, 3, 1)
    return chosen.reshape(count, -1).astype(np.float32)


def contestants(scales, size):
    """Return schemes that take as many codes of as many codewords."""
    n_codes = sum(p * p for p in scales)
    multiscale = MultiScaleQuantizer((SIZE, SIZE, 3), scales, size)
    smooth = MultiScaleQuantizer((SIZE, SIZE, 3), scales, size, n_smoothers=4)
    return {
        "multi-scale": multiscale,
        "multi-scale, 4 convolutions": smooth,
        "product": ProductQuantizer(n_codes, size),
        "residual": ResidualQuantizer(n_codes, size),
    }


def numbers(quantizer):
    """Return how many numbers the decoder holds."""
    tables = {id(table): table.size for table in quantizer.codebooks_}
    kernels = getattr(quantizer, "kernels_", None)
    return sum(tables.values()) + (0 if kernels is None else kernels.size)


def keep(arguments, key, figure, what, scales):
    """Record what convolutions cost beside a pyramid without them."""
    what = f"{what} with 4 convolutions than without, scales {scales}"
    data = "maps of photographs"
    _common.record(arguments, f"multiscale.{key}", figure, what, data=data)


def main():
    parser = _common.parser(__doc__.splitlines()[0], repeats=1, records=True)
    arguments = _common.settle(parser.parse_args())
    data = "Data: 8 x 8 x 3 maps of scikit-learn's photographs."
    _common.print_header("Maps at equal bits", arguments, data)
    train, test = maps(400 if arguments.quick else 8_000)
    size = 16 if arguments.quick else N_CODEWORDS
    variance = np.square(test - train.mean(axis=0)).sum(axis=1).mean()
    print(f"\nTotal variance of the test maps: {variance:,.0f}.")
    for scales in CASES[:1] if arguments.quick else CASES:
        n_bits = sum(p * p for p in scales) * np.log2(size)
        table = _common.Table(
            f"scales {scales}: {n_bits:.0f} bits a map",
            ["scheme", "train", "test", "test PSNR, dB", "numbers stored", "fit s"],
        )
        errors, times = [], []
        for name, quantizer in contestants(scales, size).items():
            start = time.perf_counter()
            quantizer.set_params(random_state=0).fit(train)
            seconds = time.perf_counter() - start
            error = -quantizer.score(test)
            errors.append(error)
            times.append(seconds)
            psnr = 10 * np.log10(255**2 * test.shape[1] / error)
            table.row(
                name,
                f"{quantizer.distortion_:,.0f}",
                f"{error:,.0f}",
                f"{psnr:.2f}",
                f"{numbers(quantizer):,}",
                f"{seconds:.1f}",
            )
            if name.startswith("multi"):
                curve = [f"{-score:,.0f}" for score in quantizer.staged_score(test)]
                table.row(f"- after each scale: {', '.join(curve)}", *[""] * 5)
        if scales == CASES[0]:
            figure = f"{100 * (errors[1] / errors[0] - 1):.0f}"
            keep(arguments, "convolutions", figure, "percent of error more", scales)
        else:
            figure = f"{times[1] / times[0]:.0f}"
            keep(arguments, "training", figure, "times the time of training", scales)


if __name__ == "__main__":
    main()
