"""What a user gets wrong: every marked line is an error for checkers, and no other.

The mark is a part of the message that all checkers have in common, such as "verload" of
"No overloads" and "No overload variant".
"""

import numpy as np

import skvq
from skvq import (
    AdditiveQuantizer,
    BinaryQuantizer,
    FiniteScalarQuantizer,
    KroneckerQuantizer,
    MultiScaleQuantizer,
    ProductQuantizer,
    QuantizedFeatures,
    QuantizedNeighbors,
    ResidualQuantizer,
    RotatedQuantizer,
    ScaledQuantizer,
    SphericalQuantizer,
    TrellisQuantizer,
    UniformQuantizer,
    VectorQuantizer,
)
from skvq.codes import EntropyCoder, pack, token_ids
from skvq.display import CodebookDisplay
from skvq.images import from_blocks, to_blocks
from skvq.io import CodeReader, rows
from skvq.metrics import distortion, perplexity

X = np.zeros((10, 8))
vq = VectorQuantizer(4).fit(X)
pq = ProductQuantizer(2, 4).fit(X)

# -- options and sizes -----------------------------------------------------------------

ProductQuantizer(n_subspaces="eight")  # error: n_subspaces
ProductQuantizer(2.5)  # error: "float"
VectorQuantizer(learning="lloydd")  # error: learning
VectorQuantizer(init="randon")  # error: init
VectorQuantizer(metric="euklidean")  # error: metric
VectorQuantizer(dead_codes="splitt")  # error: dead_codes
VectorQuantizer(backend="cuda")  # error: backend
VectorQuantizer(tol="1e-4")  # error: tol
VectorQuantizer(random_state="seed")  # error: random_state
VectorQuantizer(balance="even")  # error: balance
VectorQuantizer(n_clusters=8)  # error: n_clusters
VectorQuantizer(4, "cosine")  # error: positional
ProductQuantizer(quantizer="vq")  # error: quantizer
ProductQuantizer(quantizer=VectorQuantizer)  # error: type[VectorQuantizer]
ProductQuantizer(widths="44")  # error: widths
ResidualQuantizer(stage_weights="all")  # error: stage_weights
AdditiveQuantizer(assignment="jointly")  # error: assignment
AdditiveQuantizer(ridge="none")  # error: ridge
BinaryQuantizer(scale="fitted")  # error: scale
FiniteScalarQuantizer(squash="sigmoid")  # error: squash
KroneckerQuantizer(16)  # error: SupportsIndex
KroneckerQuantizer(init="random")  # error: init
MultiScaleQuantizer(metric="cityblock")  # error: metric
RotatedQuantizer(rotation="opq")  # error: rotation
RotatedQuantizer(n_components=0.9)  # error: "float"
ScaledQuantizer(n_scale_bits="float64")  # error: n_scale_bits
SphericalQuantizer(radius="log")  # error: radius
TrellisQuantizer(trellis="viterbi")  # error: trellis
UniformQuantizer(clip_range="quantiles")  # error: clip_range
UniformQuantizer(levels="lloyd")  # error: levels
QuantizedFeatures(5)  # error: BaseQuantizer
QuantizedNeighbors(pq, metric="l2")  # error: metric

# -- methods and attributes ------------------------------------------------------------

print(VectorQuantizer(4).fit(X).codebook_)  # error: codebook_
print(vq.cluster_centers_)  # error: cluster_centers_
print(vq.quantizers_)  # error: quantizers_
pq.predict(X)  # error: predict
print(QuantizedFeatures(vq).fit(X).codebooks_)  # error: codebooks_
print(QuantizedNeighbors(pq).fit(X).indices_)  # error: indices_
print(EntropyCoder([4]).fit([[0], [3]]).codes_)  # error: codes_
CodebookDisplay.from_estimator(vq, X).show()  # error: show
vq.fit("data.npy")  # error: "fit"
vq.transform("data.npy")  # error: "transform"
vq.transform(["a", "b"])  # error: str
vq.transform()  # error: X
vq.fit(X, weights=X[:, 0])  # error: weights
vq.score(X, sample_weight="balanced")  # error: sample_weight
vq.set_output(transform="arrow")  # error: transform
vq.encode_best(X, "2")  # error: "encode_best"
pq.distance_table(X, metric="euclidean")  # error: metric
n_bits: int = vq.bits_per_sample_  # error: "float"
VectorQuantizer.from_codebooks("codebooks")  # error: "from_codebooks"
QuantizedNeighbors(pq).fit(X).kneighbors(X, return_distance="no")  # error: verload

# -- functions -------------------------------------------------------------------------

pack("codes", [4, 4])  # error: "pack"
pack([[0, 1]], [4, 4], method="rows")  # error: method
token_ids([[0, 1]], "44")  # error: "token_ids"
EntropyCoder([4]).encode("codes")  # error: "encode"
distortion(X, X, metric=2)  # error: metric
perplexity("codes")  # error: "perplexity"
CodebookDisplay.from_estimator(vq)  # error: X
CodeReader(3)  # error: PathLike
rows()  # error: column
to_blocks(X, (2.0, 2.0))  # error: to_blocks
to_blocks(X, 2, padding="zeros")  # error: padding
from_blocks(X, 8, 2)  # error: from_blocks
skvq.save(vq)  # error: path
skvq.lod("codec.skvq")  # error: lod
