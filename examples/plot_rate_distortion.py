"""
Error against bits, for all schemes
===================================

What every scheme makes of the same samples at the same budgets: 8 x 8 blocks of two
photographs, 64 numbers each.  Schemes are fitted on 4,000 blocks and judged on 2,000
others.

Photographs: china.jpg and flower.jpg of scikit-learn's samples, by danielbuechele
(https://www.flickr.com/photos/danielbuechele/6061409035/) and vultilion
(https://www.flickr.com/photos/vultilion/6056698931/), CC BY 2.0
(https://creativecommons.org/licenses/by/2.0/), cut and quantized.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_sample_images
from sklearn.decomposition import PCA
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline

from skvq import (
    AdditiveQuantizer,
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
from skvq.display import RateDistortionDisplay
from skvq.images import to_blocks

greys = [image.mean(axis=2)[:424, :640] for image in load_sample_images().images]
X = np.vstack([to_blocks(grey, 8) for grey in greys]).astype(np.float32)
train, test = train_test_split(X, train_size=4000, test_size=2000, random_state=0)

# %%
# The schemes
# -----------
# One table is the best that its bits can buy, as long as it can be learned: 10 bits are
# 1024 codewords, for 4,000 samples.  All others build large codebooks from small
# tables.  Those that quantize features one by one come after PCA, which takes most of
# the dependence out, and they keep as many components as the budget has levels for.
# FSQ, signs and angles want features of one scale, so that PCA whitens for them; that
# spends as many bits on small components as on large ones.

seed = {"random_state": 0}
schemes = {
    "naive": {V: VectorQuantizer(V, **seed) for V in (4, 16, 64, 256, 1024)},
    "product": {m: ProductQuantizer(m, 256, **seed) for m in (1, 2, 4, 8)},
    "product, behind PCA": {
        k: make_pipeline(PCA(4 * k), ProductQuantizer(k, 256, **seed))
        for k in (1, 2, 4, 8)
    },
    # These samples are dense: the greedy chain need not be tried.
    "residual": {
        m: ResidualQuantizer(m, 256, fit_beam_size=5, **seed) for m in (1, 2, 4)
    },
    "additive": {m: AdditiveQuantizer(m, 256, **seed) for m in (2, 4)},
    "Kronecker": {V: KroneckerQuantizer((8, 8), V, **seed) for V in (16, 64)},
    # 1 + 4 + 16 tokens for a block: 21 bits and more
    "multi-scale": {
        V: MultiScaleQuantizer((8, 8, 1), (1, 2, 4), V, **seed) for V in (2, 4, 8)
    },
    "uniform, behind PCA": {
        k: make_pipeline(PCA(k), UniformQuantizer(8, levels="lloyd-max"))
        for k in (3, 5, 11, 21)
    },
    "FSQ, behind PCA": {
        k: make_pipeline(PCA(k, whiten=True), FiniteScalarQuantizer(8, squash="cdf"))
        for k in (3, 5, 11, 21)
    },
    "signs, behind PCA": {
        k: make_pipeline(PCA(k, whiten=True), BinaryQuantizer())
        for k in (8, 16, 32, 64)
    },
    "angles and length, behind PCA": {
        b: make_pipeline(
            PCA(8, whiten=True),
            SphericalQuantizer(angles="density", total_bits=b, radius="learned"),
        )
        for b in (8, 16, 32, 48)
    },
}

# %%
# The curves
# ----------

# Colours that colour-blind readers can tell apart (Petroff 2021); marks differ as well.
plt.style.use("petroff10")
figure, ax = plt.subplots(figsize=(10, 5.5), layout="constrained")


def draw(name, estimators):
    """Add the curve of fitted estimators, and print its points."""
    display = RateDistortionDisplay.from_estimators(
        estimators, test, name=name, ax=ax, plot_bound=False
    )
    figures = zip(display.rates, display.distortions, strict=True)
    print(f"{name:30}", *(f"{64 * b:4.0f} bits: {d:5.0f}" for b, d in figures))


for name, estimators in schemes.items():
    draw(name, [estimator.fit(train) for estimator in estimators.values()])
    if name == "residual":
        # A wider search, over the tables that there are.
        wider = [one.set_params(beam_size=5) for one in estimators.values()]
        draw("residual, beam of 5", wider)
ax.set_title("What each scheme makes of its bits, on blocks of two photographs")
ax.legend(loc="upper left", bbox_to_anchor=(1, 1))
# What the picture shows: Squared error against bits for twelve schemes, falling from
# left to right; additive codes are lowest at half a bit per feature and product codes
# at one bit, while signs stay where they are.
plt.show()
