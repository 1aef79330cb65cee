"""What a user writes: it runs, and checkers of types have nothing to say about it.

`assert_type` makes them tell what they take each result for.
"""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, assert_type

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

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
from skvq.base import BaseQuantizer
from skvq.codes import (
    EntropyCoder,
    UniqueIds,
    capacitate,
    from_token_ids,
    match,
    offsets,
    pack,
    packed_bits,
    smallest_dtype,
    token_ids,
    unpack,
)
from skvq.display import CodebookDisplay, CodeUsageDisplay, RateDistortionDisplay
from skvq.images import from_blocks, palette, to_blocks
from skvq.io import CodeReader, CodeWriter, load_codes, rows, save_codes
from skvq.losses import commitment_loss, rotation_trick
from skvq.metrics import (
    CodeReport,
    DriftReport,
    code_report,
    distortion,
    drift,
    perplexity,
    rate_distortion_curve,
)
from skvq.model_selection import best_within, neg_bits, neg_reconstruction_error
from skvq.nearest import nearest

rng = np.random.default_rng(0)
X = rng.normal(size=(60, 8)).astype(np.float32)
weights = np.ones(60)

# -- the class itself after each call that returns self --------------------------------

assert_type(
    AdditiveQuantizer(2, 4, n_rounds=1, random_state=0).fit(X), AdditiveQuantizer
)
assert_type(BinaryQuantizer(scale=1.0).fit(X), BinaryQuantizer)
assert_type(BinaryQuantizer(scale=np.ones(8)).fit(X), BinaryQuantizer)
assert_type(FiniteScalarQuantizer([8] * 8, squash="cdf").fit(X), FiniteScalarQuantizer)
assert_type(KroneckerQuantizer((2, 4), 4, random_state=0).fit(X), KroneckerQuantizer)
assert_type(MultiScaleQuantizer((2, 2, 2), n_codewords=4).fit(X), MultiScaleQuantizer)
assert_type(ProductQuantizer(2, 4).fit(X), ProductQuantizer)
assert_type(ResidualQuantizer(2, 4, beam_size=2).fit(X), ResidualQuantizer)
assert_type(RotatedQuantizer(ProductQuantizer(2, 4)).fit(X), RotatedQuantizer)
assert_type(RotatedQuantizer(BinaryQuantizer(), rotation=np.eye(8)), RotatedQuantizer)
assert_type(ScaledQuantizer(BinaryQuantizer(), scaling="norm").fit(X), ScaledQuantizer)
assert_type(SphericalQuantizer(4, radius="float32").fit(X), SphericalQuantizer)
assert_type(TrellisQuantizer(2, trellis="bitshift", n_states=16), TrellisQuantizer)
assert_type(UniformQuantizer(clip_range=(-3, 3)).fit(X), UniformQuantizer)
assert_type(UniformQuantizer(8, levels="lloyd-max").fit(X), UniformQuantizer)

vq = VectorQuantizer(4, random_state=0).fit(X, sample_weight=weights)
assert_type(vq, VectorQuantizer)
assert_type(VectorQuantizer(4, learning="ema").partial_fit(X), VectorQuantizer)
assert_type(vq.set_params(max_iter=3), VectorQuantizer)
assert_type(vq.set_output(transform="default"), VectorQuantizer)
assert_type(vq.get_params(), dict[str, Any])
assert_type(VectorQuantizer.from_codebooks([X[:4]], max_iter=1), VectorQuantizer)
assert_type(VectorQuantizer.from_codebooks(X[None, :4]), VectorQuantizer)
assert_type(VectorQuantizer.from_codebooks(vq.codebooks_), VectorQuantizer)
assert_type(VectorQuantizer(4, init=[[0.0, 1.0], [2.0, 3.0]]), VectorQuantizer)
assert_type(
    VectorQuantizer(np.int64(4), tol=np.float32(0), init=X[:4]), VectorQuantizer
)
assert_type(VectorQuantizer(4, metric="cityblock"), VectorQuantizer)
assert_type(VectorQuantizer(4, metric=lambda x, y: abs(x - y).sum()), VectorQuantizer)
assert_type(VectorQuantizer(4, random_state=np.random.RandomState(0)), VectorQuantizer)
assert_type(
    VectorQuantizer(4, balance=True).fit(X).rename_codes([None]), VectorQuantizer
)

# -- fitted attributes -----------------------------------------------------------------

assert_type(vq.codebooks_, tuple[NDArray[Any], ...])
assert_type(vq.codebook_sizes_, tuple[int, ...])
assert_type(vq.bits_per_sample_, float)
assert_type(vq.distortion_, float)
assert_type(vq.n_iter_, int)
assert_type(vq.n_features_in_, int)
assert_type(vq.code_counts_, tuple[NDArray[np.float64] | None, ...])

pq = ProductQuantizer(2, [4, 8], random_state=0).fit(X)
assert_type(pq.quantizers_, list[BaseQuantizer])
assert_type(pq.n_subspaces_, int)
parts = [VectorQuantizer(4), VectorQuantizer(8)]
assert_type(ProductQuantizer(quantizer=parts).fit(X), ProductQuantizer)
named = [("first", VectorQuantizer(4)), ("second", UniformQuantizer(4))]
assert_type(ProductQuantizer(quantizer=named, widths=[4, 4]), ProductQuantizer)

# -- what methods return ---------------------------------------------------------------

codes = pq.transform(X)
assert_type(codes, NDArray[Any])
assert_type(pq.fit_transform(X), NDArray[Any])
assert_type(pq.inverse_transform(codes), NDArray[Any])
assert_type(pq.quantize([[0.0] * 8, [1.0] * 8]), NDArray[Any])
assert_type(pq.score(X, sample_weight=weights), float)
assert_type(pq.full_codebook(), NDArray[Any])
assert_type(pq.get_feature_names_out(), NDArray[Any])
assert_type(pq.encode_best(X, 2), tuple[NDArray[Any], NDArray[np.float64]])
assert_type(pq.distance_table(X[:2], metric="cosine"), NDArray[np.float64])
rq = ResidualQuantizer(2, 4, random_state=0).fit(X)
assert_type(rq.staged_score(X), Iterator[float])
assert_type(rq.staged_inverse_transform(rq.transform(X)), Iterator[NDArray[Any]])

# -- search, features, pipelines -------------------------------------------------------

search = QuantizedNeighbors(pq, n_neighbors=3, rerank=10).fit(X)
assert_type(search, QuantizedNeighbors)
assert_type(search.kneighbors(X), tuple[NDArray[np.float64], NDArray[np.intp]])
assert_type(search.kneighbors(X, return_distance=False), NDArray[np.intp])
assert_type(
    QuantizedNeighbors(FrozenEstimator(pq)).fit_codes(codes), QuantizedNeighbors
)
assert_type(QuantizedFeatures(vq).fit(X), QuantizedFeatures)
assert_type(QuantizedFeatures(vq).fit(X).quantizer_, BaseQuantizer)

pipeline = make_pipeline(StandardScaler(), VectorQuantizer(4, random_state=0))
pipeline.fit(X)
Pipeline([("vq", QuantizedFeatures(vq)), ("kmeans", KMeans(2))]).fit(X)
cross_val_score(VectorQuantizer(4), X, cv=2)
grid = GridSearchCV(
    VectorQuantizer(random_state=0),
    {"n_codewords": [2, 4]},
    scoring={"err": neg_reconstruction_error, "bits": neg_bits},
    # It takes "bool" for the type, which is that of the default.
    refit=best_within(2.0),  # pyright: ignore[reportArgumentType]
    cv=2,
).fit(X)

# -- codes, metrics, losses, the engine ------------------------------------------------

sizes = pq.codebook_sizes_
assert_type(pack(codes, sizes, method="radix"), NDArray[np.uint8])
assert_type(unpack(pack(codes, sizes), sizes), NDArray[Any])
assert_type(packed_bits([4, 8]), int)
assert_type(token_ids(codes, sizes), NDArray[np.int64])
assert_type(from_token_ids([0, 5, 31], sizes), NDArray[Any])
assert_type(offsets(np.array([4, 8])), NDArray[np.int64])
np.zeros(3, dtype=smallest_dtype(256))
coder = EntropyCoder(sizes, conditional=False).fit(codes)
assert_type(coder, EntropyCoder)
assert_type(EntropyCoder.from_counts(vq.code_counts_), EntropyCoder)
assert_type(coder.encode(codes), bytes)
assert_type(coder.decode(coder.encode(codes)), NDArray[Any])
assert_type(match(pq, pq), tuple[NDArray[np.intp], ...])
assert_type(match([X[:4]], [X[:4]]), tuple[NDArray[np.intp], ...])
candidates, errors = pq.encode_best(X, 6)
assert_type(UniqueIds(sizes, overflow="digit").assign(candidates, errors), NDArray[Any])
assert_type(
    capacitate([[0, 1], [0, 1]], [[0.0, 1.0], [0.0, 3.0]], max_size=1), NDArray[np.intp]
)

assert_type(distortion(X, pq.quantize(X), metric="cosine"), float)
assert_type(perplexity(codes), NDArray[np.float64])
assert_type(code_report(codes, sizes), CodeReport)
assert_type(drift(pq, X), DriftReport)
assert_type(
    rate_distortion_curve([vq, pq], X), tuple[NDArray[np.float64], NDArray[np.float64]]
)

assert_type(
    commitment_loss(X, pq.quantize(X), return_grad=True)[0].shape, tuple[Any, ...]
)
assert_type(rotation_trick(X, X + 1).shape, tuple[Any, ...])
nearest(X, X[:4], "cosine", return_distances=False)

# -- files -----------------------------------------------------------------------------

with TemporaryDirectory() as folder:
    path = Path(folder) / "codec.skvq"
    skvq.save(pq, path, details={"of": "nothing"})
    loaded: ProductQuantizer = skvq.load(path)
    assert_type(loaded.transform(X), NDArray[Any])
    save_codes(Path(folder) / "codes", codes, sizes)
    assert_type(load_codes(str(Path(folder) / "codes")), NDArray[Any])
    with CodeWriter(Path(folder) / "more", sizes) as writer:
        assert_type(writer, CodeWriter)
        writer.write(codes)
    with CodeReader(Path(folder) / "more") as reader:
        assert_type(reader.read(), NDArray[Any])
        assert_type(len(reader), int)

# -- data frames and pictures ----------------------------------------------------------

lists = np.empty(2, dtype=object)
lists[:] = [[0.0, 1.0], [2.0, 3.0]]
assert_type(rows(lists), NDArray[Any])
picture = np.zeros((6, 4, 3), dtype=np.uint8)
blocks = to_blocks(picture, (2, np.int64(4)))
assert_type(blocks, NDArray[Any])
assert_type(from_blocks(blocks, picture.shape, (2, 4), dtype=np.uint8), NDArray[Any])
assert_type(to_blocks(picture.tolist(), 2, padding="none"), NDArray[Any])
assert_type(
    palette(X[:, :2], 3, random_state=np.random.RandomState(0)),
    tuple[NDArray[Any], NDArray[Any]],
)

# -- displays --------------------------------------------------------------------------

flat = VectorQuantizer(4, random_state=0).fit(X[:, :2])
cells = CodebookDisplay.from_estimator(flat, X[:, :2], grid_resolution=10)
assert_type(cells, CodebookDisplay)
assert_type(cells.plot(), CodebookDisplay)
assert_type(RateDistortionDisplay.from_estimators([vq, pq], X), RateDistortionDisplay)
assert_type(CodeUsageDisplay.from_codes(codes, sizes), CodeUsageDisplay)
