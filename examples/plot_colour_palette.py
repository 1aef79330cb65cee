"""
The colour palette of a photograph
==================================

Every pixel is a sample with three features.  A table of 16 colours takes 4 bits per
pixel; the palette is learned from the picture itself, and `full_codebook` shows it.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_sample_image

from skvq import VectorQuantizer

image = load_sample_image("flower.jpg")[::2, ::2]
pixels = image.reshape(-1, 3).astype(np.float32)

figure, axes = plt.subplots(2, 3, figsize=(10, 5), height_ratios=[5, 1])
for (top, bottom), n_colours in zip(axes.T, (4, 16, 64), strict=True):
    vq = VectorQuantizer(n_colours, random_state=0).fit(pixels)
    top.imshow(vq.quantize(pixels).reshape(image.shape).round().astype(np.uint8))
    top.set_title(
        f"{n_colours} colours, {vq.bits_per_sample_:.0f} bits per pixel\n"
        f"root mean square error {np.sqrt(vq.distortion_ / 3):.1f} of 255"
    )
    palette = vq.full_codebook()
    palette = palette[np.argsort(palette.sum(axis=1))]
    bottom.imshow(palette[None].round().astype(np.uint8), aspect="auto")
    top.axis("off")
    bottom.axis("off")
figure.tight_layout()
plt.show()
