"""
A photograph at one bit per pixel
=================================

The photograph is cut in blocks, each block is a sample, and every scheme gets the same
budget: one bit per pixel instead of 24.  The block may be larger the smaller the tables
are that a scheme needs, and larger blocks leave more to gain.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_sample_image
from sklearn.decomposition import PCA
from sklearn.pipeline import make_pipeline

from skvq import (
    BinaryQuantizer,
    FiniteScalarQuantizer,
    ProductQuantizer,
    SphericalQuantizer,
    UniformQuantizer,
    VectorQuantizer,
)
from skvq.grid import recommended_levels
from skvq.metrics import bits_per_sample, psnr

photograph = load_sample_image("flower.jpg")[80:400, 120:520]


def to_blocks(image, side):
    """Cut an image in square blocks; each is a row, pixel by pixel."""
    rows, columns, channels = image.shape
    cut = image.reshape(rows // side, side, columns // side, side, channels)
    return cut.swapaxes(1, 2).reshape(-1, side * side * channels).astype(np.float32)


def to_image(blocks, shape, side):
    """Put blocks together again."""
    rows, columns, channels = shape
    cut = blocks.reshape(rows // side, columns // side, side, side, channels)
    return cut.swapaxes(1, 2).reshape(shape).round().clip(0, 255).astype(np.uint8)


# %%
# The schemes
# -----------
# Those of one table, or of tables for slices, take pixels.  Those that quantize numbers
# one by one come after PCA, and spend the 16 bits of a 4 x 4 block on its first
# components: the more levels for each, the fewer components.  FSQ, signs and angles
# treat all features alike, so that these must have one scale: PCA whitens for them.

seed = {"random_state": 0}
schemes = {
    "naive, 16 codewords": (2, VectorQuantizer(16, **seed)),
    "product, 8 x 256": (8, ProductQuantizer(8, 256, **seed)),
    "product, PCA, 2048 + 32": (
        4,
        make_pipeline(PCA(24), ProductQuantizer(2, [2048, 32], **seed)),
    ),
    "uniform, PCA, 6 sizes": (
        4,
        make_pipeline(
            PCA(6), UniformQuantizer([32, 8, 8, 4, 4, 2], levels="lloyd-max")
        ),
    ),
    "FSQ, PCA": (
        4,
        make_pipeline(
            PCA(6, whiten=True), FiniteScalarQuantizer(recommended_levels(16))
        ),
    ),
    "signs, PCA": (4, make_pipeline(PCA(16, whiten=True), BinaryQuantizer())),
    "angles and length, PCA": (
        4,
        make_pipeline(
            PCA(5, whiten=True),
            SphericalQuantizer(4, angles="density", radius="learned"),
        ),
    ),
}

# %%
# What comes out
# --------------

figure, axes = plt.subplots(2, 4, figsize=(13, 6), layout="constrained")
axes = axes.ravel()
axes[0].imshow(photograph[60:220, 100:300])
axes[0].set_title("24 bits per pixel")
for ax, (name, (side, codec)) in zip(axes[1:], schemes.items(), strict=True):
    blocks = to_blocks(photograph, side)
    codes = codec.fit(blocks).transform(blocks)
    image = to_image(codec.inverse_transform(codes), photograph.shape, side)
    bits = bits_per_sample(codec) / side**2
    quality = psnr(photograph.reshape(-1, 3), image.reshape(-1, 3))
    print(f"{name:25} {side} x {side} {bits:6.3f} bits per pixel, {quality:.2f} dB")
    ax.imshow(image[60:220, 100:300])
    ax.set_title(f"{name}\n{bits:.2f} bits per pixel, {quality:.1f} dB")
for ax in axes:
    ax.axis("off")
plt.show()
