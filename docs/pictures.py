"""Draw the pictures of the site's first page: ``draw(FOLDER)``.

They are the cells of every scheme in the plane, and a photograph before and after.
Each build makes them anew, with the quantizers themselves.  Cells are told apart by
their borders; their colours only help.
"""

from pathlib import Path

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_sample_image

from skvq import (
    AdditiveQuantizer,
    BinaryQuantizer,
    FiniteScalarQuantizer,
    KroneckerQuantizer,
    MultiScaleQuantizer,
    ProductQuantizer,
    ResidualQuantizer,
    RotatedQuantizer,
    ScaledQuantizer,
    SphericalQuantizer,
    TrellisQuantizer,
    UniformQuantizer,
    VectorQuantizer,
)
from skvq.images import from_blocks, to_blocks

# Pale tints of a palette that colour-blind readers can tell apart (Okabe and Ito 2008).
TINTS = ("#d5e8f5", "#fbe7cf", "#d6efe6", "#f3e1ec", "#fcf7d3", "#e6e6e6")
BORDER, CODEWORD, SAMPLE = "#4a4a4a", "#0b4f8a", "#6f6f6f"
LOW, HIGH, PIXELS = -3.2, 3.2, 480


def schemes():
    """Return a quantizer of two features for each page of ``docs/schemes``."""
    seed = {"random_state": 0}
    return {
        "vector": VectorQuantizer(24, **seed),
        "product": ProductQuantizer(2, 5, **seed),
        "residual": ResidualQuantizer(2, 5, **seed),
        "additive": AdditiveQuantizer(2, 5, **seed),
        "multiscale": MultiScaleQuantizer(n_codewords=3, **seed),
        "kronecker": KroneckerQuantizer(factor_sizes=(1, 2), n_codewords=5, **seed),
        "rotated": RotatedQuantizer(ProductQuantizer(2, 5), rotation="pca", **seed),
        "scaled": ScaledQuantizer(VectorQuantizer(8), n_scale_bits=2, **seed),
        "uniform": UniformQuantizer(5),
        "fsq": FiniteScalarQuantizer(5),
        "trellis": TrellisQuantizer(2, n_states=4),
        "binary": BinaryQuantizer(),
        "spherical": SphericalQuantizer(8, radius="learned", n_radius_levels=3),
    }


def clouds():
    """Return samples of three unlike shapes, float64 of shape (900, 2)."""
    rng = np.random.default_rng(0)
    return np.concatenate(
        [
            rng.normal(size=(450, 2)) @ [[0.9, 0.45], [0.0, 0.3]] + [0.9, 1.1],
            rng.normal(size=(225, 2)) * [0.35, 0.75] + [-1.3, 0.3],
            rng.normal(size=(225, 2)) * 0.4 + [0.5, -1.4],
        ]
    )


def cells(quantizer):
    """Return the number of the cell of each pixel, and the reconstructions in sight."""
    places = LOW + (np.arange(PIXELS) + 0.5) * (HIGH - LOW) / PIXELS
    plane = np.stack(np.meshgrid(places, places), axis=-1).reshape(-1, 2)
    codes, numbers = np.unique(quantizer.transform(plane), axis=0, return_inverse=True)
    return numbers.reshape(PIXELS, PIXELS), quantizer.inverse_transform(codes)


def painted(numbers):
    """Return the picture of the cells, RGB, with a border where the number changes."""
    tints = np.array([matplotlib.colors.to_rgb(tint) for tint in TINTS])
    picture = tints[numbers % len(tints)]
    border = np.zeros(numbers.shape, bool)
    for axis in (0, 1):
        changes = np.diff(numbers, axis=axis) != 0
        first = [slice(None)] * 2
        second = [slice(None)] * 2
        first[axis], second[axis] = slice(None, -1), slice(1, None)
        border[tuple(first)] |= changes
        border[tuple(second)] |= changes
    picture[border] = matplotlib.colors.to_rgb(BORDER)
    return picture


def picture_of(quantizer, path, samples):
    """Fit a quantizer to the samples and draw its cells into a file."""
    quantizer.fit(samples)
    numbers, codewords = cells(quantizer)
    figure = plt.figure(figsize=(2.4, 2.4), dpi=2 * PIXELS / 4.8)
    ax = figure.add_axes((0, 0, 1, 1))
    ax.imshow(painted(numbers), extent=(LOW, HIGH, LOW, HIGH), origin="lower")
    ax.scatter(*samples[::3].T, s=1.5, color=SAMPLE, alpha=0.6, linewidths=0)
    ax.scatter(*codewords.T, s=16, color=CODEWORD, edgecolors="white", linewidths=0.7)
    ax.set(xlim=(LOW, HIGH), ylim=(LOW, HIGH))
    ax.axis("off")
    figure.savefig(path)
    plt.close(figure)


def photograph(path):
    """Draw a photograph, the right half of it from codes of one bit per pixel."""
    photo = load_sample_image("china.jpg")[:424, :640]
    height, width = photo.shape[:2]
    # Each block of 64 pixels is a sample, and has 8 codes of 8 bits.
    blocks = to_blocks(photo, 8)
    codec = RotatedQuantizer(ProductQuantizer(8, 256), random_state=0).fit(blocks)
    after = from_blocks(codec.quantize(blocks), photo.shape, 8, dtype=np.uint8)
    both = photo.copy()
    both[:, width // 2 :] = after[:, width // 2 :]
    figure = plt.figure(figsize=(width / 100, height / 100), dpi=150)
    ax = figure.add_axes((0, 0, 1, 1))
    ax.imshow(both)
    ax.axvline(width / 2, color="white", linewidth=2)
    words = {"color": "white", "fontsize": 13, "fontweight": "bold"}
    box = {"facecolor": "black", "alpha": 0.65, "linewidth": 0, "pad": 5}
    ax.text(14, 28, "24 bits per pixel", **words, bbox=box)
    ax.text(width - 14, 28, "1 bit per pixel", **words, bbox=box, ha="right")
    ax.axis("off")
    figure.savefig(path)
    plt.close(figure)


def draw(folder: Path) -> None:
    """Draw all into a folder, the cells in files named after the pages of schemes."""
    folder.mkdir(parents=True, exist_ok=True)
    samples = clouds()
    for name, quantizer in schemes().items():
        picture_of(quantizer, folder / f"{name}.png", samples)
    photograph(folder / "photograph.png")
