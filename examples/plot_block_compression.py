"""
A photograph at one bit per pixel
=================================

The photograph is cut in blocks, each block is a sample, and every scheme gets the same
budget: one bit per pixel instead of 24.  The block may be larger the smaller the tables
are that a scheme needs, and larger blocks leave more to gain.  The codebooks are
learned from the left half of the photograph, and judged on the right one: judged on
their own samples, large tables would seem better than they are.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_sample_image
from sklearn.decomposition import PCA
from sklearn.pipeline import make_pipeline

from skvq import (
    BinaryQuantizer,
    FiniteScalarQuantizer,
    KroneckerQuantizer,
    MultiScaleQuantizer,
    ProductQuantizer,
    ResidualQuantizer,
    SphericalQuantizer,
    UniformQuantizer,
    VectorQuantizer,
)
from skvq.finite import recommended_levels
from skvq.images import from_blocks, to_blocks
from skvq.metrics import bits_per_sample, psnr

left, photograph = np.hsplit(load_sample_image("flower.jpg")[:416], 2)


def training_blocks(side):
    """Take 4,000 blocks at any place of the left half."""
    windows = np.lib.stride_tricks.sliding_window_view(left, (side, side, 3))
    windows = windows.reshape(-1, side * side * 3)
    rows = np.random.default_rng(0).choice(len(windows), 4_000, replace=False)
    return windows[rows].astype(np.float32)


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
    # Blocks of a photograph are dense: the greedy chain need not be tried.
    "residual, 8 x 256": (
        8,
        ResidualQuantizer(8, 256, beam_size=5, fit_beam_size=5, **seed),
    ),
    "Kronecker, 256 x 256": (4, KroneckerQuantizer((16, 3), 256, **seed)),
    # 1 + 4 + 9 + 18 tokens, coarse to fine; a token is a colour.
    "multi-scale, 32 tokens of 256": (
        16,
        MultiScaleQuantizer((16, 16, 3), [1, 2, 3, (3, 6)], 256, **seed),
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

figure, axes = plt.subplots(3, 4, figsize=(13, 9), layout="constrained")
figure.suptitle(
    "A detail as it was, and from one bit per pixel by each scheme", fontsize=16
)
axes = axes.ravel()
axes[0].imshow(photograph[130:290, 20:220])
axes[0].set_title("24 bits per pixel")
for ax, (name, (side, codec)) in zip(axes[1:], schemes.items(), strict=False):
    blocks = to_blocks(photograph, side).astype(np.float32)
    codes = codec.fit(training_blocks(side)).transform(blocks)
    decoded = codec.inverse_transform(codes)
    image = from_blocks(decoded, photograph.shape, side, dtype=np.uint8)
    bits = bits_per_sample(codec) / side**2
    quality = psnr(photograph, image)
    print(f"{name:25} {side} x {side} {bits:6.3f} bits per pixel, {quality:.2f} dB")
    ax.imshow(image[130:290, 20:220])
    ax.set_title(f"{name}\n{bits:.2f} bits per pixel, {quality:.1f} dB")
for ax in axes:
    ax.axis("off")
# What the picture shows: A detail of a photograph of a flower and ten reconstructions
# of it from one bit per pixel, of which that by residual codes is the nearest and that
# by signs the coarsest.
plt.show()

# %%
# Photograph: flower.jpg of scikit-learn's samples, by vultilion
# (https://www.flickr.com/photos/vultilion/6056698931/), CC BY 2.0
# (https://creativecommons.org/licenses/by/2.0/), cut and quantized.
