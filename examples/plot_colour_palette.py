"""
The colour palette of a photograph
==================================

Every pixel is a sample with three features.  A table of 16 colours takes 4 bits per
pixel; `skvq.images.palette` learns the table from the picture itself, and says which
of its colours each pixel has.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_sample_image

from skvq.images import palette
from skvq.metrics import distortion

photograph = load_sample_image("flower.jpg")[::2, ::2]

figure, axes = plt.subplots(
    2, 3, figsize=(10, 3.35), height_ratios=[7, 1], layout="constrained"
)
figure.suptitle("A flower in the colours that serve it best")
for (top, bottom), n_colors in zip(axes.T, (4, 16, 64), strict=True):
    colors, indices = palette(photograph, n_colors, random_state=0)
    picture = colors[indices]
    error = distortion(photograph.reshape(-1, 3), picture.reshape(-1, 3)) / 3
    top.imshow(picture)
    top.set_title(
        f"{n_colors} colours, {np.log2(n_colors):.0f} bits per pixel\n"
        f"root mean square error {np.sqrt(error):.1f} of 255"
    )
    bottom.imshow(colors[None], aspect="auto")
    top.axis("off")
    bottom.axis("off")
# What the picture shows: A photograph of a flower in 4, in 16 and in 64 colours, above
# a strip of these colours; in 64 it looks smooth.
plt.show()

# %%
# Photograph: flower.jpg of scikit-learn's samples, by vultilion
# (https://www.flickr.com/photos/vultilion/6056698931/), CC BY 2.0
# (https://creativecommons.org/licenses/by/2.0/), cut and quantized.
