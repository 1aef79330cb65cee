"""
The cells of every scheme
=========================

A quantizer of two features can be looked at: each cell is the region of samples that
share one reconstruction, the dot.  Here are all schemes at about 16 codewords on the
same samples, three clouds of unlike shapes.  The schemes with one table bend their
cells to the samples; those with a formula cut the plane in the same way everywhere.
"""

import matplotlib.pyplot as plt
import numpy as np

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
from skvq.display import CodebookDisplay

rng = np.random.default_rng(0)
X = np.concatenate(
    [
        rng.normal(size=(600, 2)) @ [[0.9, 0.4], [0.0, 0.3]] + [1.0, 1.2],
        rng.normal(size=(300, 2)) * [0.3, 0.7] + [-1.3, 0.4],
        rng.normal(size=(300, 2)) * 0.35 + [0.4, -1.3],
    ]
)

# A new scheme is one more line.
schemes = [
    ("one table", VectorQuantizer(16, random_state=0)),
    ("one table, cosine", VectorQuantizer(16, metric="cosine", random_state=0)),
    ("a table for each feature", ProductQuantizer(2, 4, random_state=0)),
    ("stages of residuals", ResidualQuantizer(2, 4, random_state=0)),
    ("sums, searched together", AdditiveQuantizer(2, 4, random_state=0)),
    (
        "sums, each on its own",
        AdditiveQuantizer(2, 4, assignment="independent", random_state=0),
    ),
    ("a pyramid of tokens", MultiScaleQuantizer(n_codewords=3, random_state=0)),
    ("sizes times directions", KroneckerQuantizer((1, 2), 4, random_state=0)),
    ("equal cells", UniformQuantizer(4)),
    ("Lloyd-Max levels", UniformQuantizer(4, levels="lloyd-max")),
    ("finite scalars, tanh", FiniteScalarQuantizer(4)),
    ("finite scalars, cdf", FiniteScalarQuantizer(4, squash="cdf")),
    ("angles, unit length", SphericalQuantizer(16)),
    (
        "angles and a length",
        SphericalQuantizer(8, radius="learned", n_radius_levels=2),
    ),
    ("signs", BinaryQuantizer()),
    ("signs on the sphere", BinaryQuantizer(spherical=True)),
    (
        "signs and a length",
        BinaryQuantizer(spherical=True, radius="learned", n_radius_levels=4),
    ),
    (
        "stages of signs",
        ResidualQuantizer(2, quantizer=BinaryQuantizer()),
    ),
    (
        "stages of finite scalars",
        ResidualQuantizer(2, quantizer=FiniteScalarQuantizer(2, squash="cdf")),
    ),
]

n_columns = 5
n_rows = -(-len(schemes) // n_columns)
figure, axes = plt.subplots(n_rows, n_columns, figsize=(15, 3.2 * n_rows + 0.4))
figure.suptitle(
    "How each scheme cuts the plane into cells, on the same samples", fontsize=16
)
for ax, (title, quantizer) in zip(axes.flat, schemes, strict=False):
    quantizer.fit(X)
    CodebookDisplay.from_estimator(
        quantizer,
        X,
        show_samples=True,
        name=f"{title}\n{quantizer.bits_per_sample_:.0f} bits",
        ax=ax,
    )
    ax.set(xlabel="", ylabel="", xticks=[], yticks=[])
for ax in axes.flat[len(schemes) :]:
    ax.axis("off")
figure.tight_layout()
# What the picture shows: Nineteen drawings of the same samples and of the cells that
# each scheme cuts the plane into: polygons, rectangles, sectors and rings, with a dot
# in each.
plt.show()
