"""Rotations in front of other schemes."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.linalg import hadamard
from sklearn.decomposition import PCA
from sklearn.model_selection import GridSearchCV
from table import pq, rq

from skvq import (
    BinaryQuantizer,
    ProductQuantizer,
    QuantizedNeighbors,
    ResidualQuantizer,
    RotatedQuantizer,
    ScaledQuantizer,
    UniformQuantizer,
    VectorQuantizer,
)
from skvq.coding.turns import HadamardTurn, powers_of_two
from skvq.learning.rotation import mixing_rounds

ROTATIONS = ["balanced", "pca", "random", "hadamard", "learned"]


def spread(n_samples=400, n_features=12, seed=0):
    """Samples of correlated features about a mean that is not zero."""
    rng = np.random.default_rng(seed)
    mixed = np.linalg.qr(rng.normal(size=(n_features, n_features)))[0]
    scales = 8 * 0.7 ** np.arange(n_features)
    X = rng.laplace(size=(n_samples, n_features)) * scales @ mixed + 3
    return X.astype(np.float32)


X = spread()


def rotated(quantizer=None, **parameters):
    quantizer = pq(3, 8) if quantizer is None else quantizer
    return RotatedQuantizer(quantizer, **{"random_state": 0, **parameters})


# -- rotations -------------------------------------------------------------------------


@pytest.mark.parametrize("n_components", [None, 7])
@pytest.mark.parametrize("rotation", ROTATIONS)
def test_formula(rotation, n_components):
    """(x - mean) C^T, the part, and back; C has orthonormal rows."""
    est = rotated(rotation=rotation, n_components=n_components).fit(X)
    C, mean = est.components_, est.mean_
    k = n_components or X.shape[1]
    assert C.shape == (k, X.shape[1])
    assert C.dtype == mean.dtype == np.float32
    assert_allclose(C @ C.T, np.eye(k), atol=1e-6)
    assert_allclose(mean, X.mean(axis=0, dtype=float), rtol=1e-6)
    Z = (X - mean) @ C.T
    assert (est.transform(X) == est.quantizer_.transform(Z)).mean() > 0.999
    codes = est.transform(X)
    expected = est.quantizer_.inverse_transform(codes) @ C + mean
    assert_allclose(est.inverse_transform(codes), expected, atol=1e-4)
    assert_array_equal(est.quantize(X), est.inverse_transform(codes))
    error = np.square(X - est.quantize(X), dtype=float).sum(axis=1).mean()
    assert est.distortion_ == pytest.approx(error, rel=1e-5)
    assert est.score(X) == pytest.approx(-error, rel=1e-5)
    if k < X.shape[1]:
        cut = np.square(X - mean, dtype=float).sum() - np.square(Z, dtype=float).sum()
        assert error == pytest.approx(est.quantizer_.distortion_ + cut / len(X), 1e-4)


def test_codebooks_are_those_of_the_part():
    est = rotated().fit(X)
    for own, of_part in zip(est.codebooks_, est.quantizer_.codebooks_, strict=True):
        assert own is of_part
    assert [table.shape for table in est.codebooks_] == [(8, 4)] * 3


@pytest.mark.parametrize("n_components", [None, 3])
def test_principal_axes_are_those_of_scikit_learn(n_components):
    est = rotated(rotation="pca", n_components=n_components).fit(X)
    peer = PCA(n_components, svd_solver="full").fit(X.astype(float))
    gaps = (
        est.components_ * np.sign((est.components_ * peer.components_).sum(1))[:, None]
    )
    assert_allclose(gaps, peer.components_, atol=1e-4)


def test_weights_are_those_of_principal_axes():
    weights = np.random.default_rng(0).integers(1, 4, len(X))
    est = rotated(rotation="pca").fit(X, sample_weight=weights)
    again = rotated(rotation="pca").fit(np.repeat(X, weights, axis=0))
    assert_allclose(est.mean_, again.mean_, rtol=1e-6)
    assert_allclose(est.components_, again.components_, atol=1e-4)


def test_balanced_axes_are_spread_over_slices():
    """Transcription: the axes by falling variance, to the slice of least product."""
    est = rotated(pq(4, 4)).fit(X)
    variances = ((X - est.mean_) @ est.components_.T).var(axis=0, dtype=float)
    own = np.log(variances).reshape(4, 3).sum(axis=1)
    falling = np.sort(variances)[::-1]
    slices = [[] for _ in range(4)]
    floor = np.log(falling.max() * 1e-12)
    for variance in falling:
        room = [s for s in slices if len(s) < 3]
        min(room, key=lambda s: sum(s)).append(np.log(variance) - floor)
    expected = [sum(s) + 3 * floor for s in slices]
    assert_allclose(np.sort(own), np.sort(expected), rtol=1e-3)


@pytest.mark.parametrize(
    ("part", "widths"),
    [
        (ProductQuantizer(5), [3, 3, 2, 2, 2]),
        (ProductQuantizer(widths=[2, 10]), [2, 10]),
        (ProductQuantizer(2, quantizer=ProductQuantizer(2)), [3, 3, 3, 3]),
        (ResidualQuantizer(2, quantizer=ProductQuantizer(3)), [4, 4, 4]),
        (VectorQuantizer(4), None),
        (UniformQuantizer(4), None),
        (RotatedQuantizer(ProductQuantizer(3)), None),
    ],
)
def test_slices_of_parts(part, widths):
    assert part._slice_widths(12) == widths


def test_without_slices_balanced_is_pca():
    found = [
        rotated(UniformQuantizer(4), rotation=name).fit(X)
        for name in ("balanced", "pca")
    ]
    assert_array_equal(*[each.components_ for each in found])


def test_fewer_samples_than_features():
    few = X[:5]
    with pytest.warns(match="fewer|distinct"):
        est = rotated(pq(3, 8)).fit(few)
    assert_allclose(est.components_ @ est.components_.T, np.eye(12), atol=1e-6)
    assert_allclose(est.quantize(few), few, atol=1e-4)


def test_random_rotations_are_haar(seed):
    """Entries have the moments of uniform directions, and both determinants come."""
    found = [
        rotated(BinaryQuantizer(), rotation="random", random_state=seed + more)
        .fit(X[:20])
        .components_.astype(float)
        for more in range(200)
    ]
    entries, d = np.array(found), X.shape[1]
    assert_allclose(entries.mean(axis=0), 0, atol=5 / np.sqrt(200 * d))
    assert_allclose((entries**2).mean(axis=0), 1 / d, atol=5 * np.sqrt(2 / 200) / d)
    assert_allclose((entries**4).mean(), 3 / (d * (d + 2)), rtol=0.05)
    signs = np.sign([np.linalg.det(one) for one in found])
    assert 70 < (signs > 0).sum() < 130


@pytest.mark.parametrize("d", [1, 2, 5, 12, 64, 100, 127])
@pytest.mark.parametrize("share", [1.0, 0.6])
def test_hadamard(d, share):
    """The fast form is the product of orders, signs and blocks of H."""
    k = max(1, round(share * d))
    signs, orders = mixing_rounds(d, 3, np.random.RandomState(0))
    turn = HadamardTurn(np.zeros(d), signs, orders, k)
    expected = np.eye(d)
    for sign, order in zip(signs, orders, strict=True):
        blocks, start = np.zeros((d, d)), 0
        for width in powers_of_two(d):
            cut = slice(start, start + width)
            blocks[cut, cut] = hadamard(width) / np.sqrt(width)
            start += width
        expected = expected[:, order] * sign @ blocks
    assert sorted(powers_of_two(d)) == [w for w in 2 ** np.arange(8) if d & w]
    assert_allclose(turn.components, expected[:, :k].T, atol=1e-12)
    rows = np.random.default_rng(0).normal(size=(70, d))
    assert_allclose(turn.there(rows), rows @ turn.components.T, atol=1e-12)
    there = turn.there(rows)
    assert_allclose(turn.back(there), there @ turn.components, atol=1e-12)


def test_hadamard_mixes_all_blocks():
    """No feature stays where it is, of 65 = 64 + 1 features neither."""
    for seed in range(20):
        signs, orders = mixing_rounds(65, 3, np.random.RandomState(seed))
        turn = HadamardTurn(np.zeros(65), signs, orders, 65)
        assert abs(turn.components).max() < 0.8


def test_given_matrix():
    C = np.linalg.qr(np.random.default_rng(1).normal(size=(12, 12)))[0][:5]
    est = rotated(rotation=C.tolist()).fit(X)
    assert_allclose(est.components_, C, rtol=1e-6)
    assert rotated(rotation=C, n_components=5).fit(X).components_.shape == (5, 12)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"rotation": np.eye(11)}, r"rotation has shape \(11, 11\); expected \(n_comp"),
        ({"rotation": np.eye(13)[:, :12]}, "no more rows than columns"),
        ({"rotation": np.eye(12), "n_components": 3}, r"expected \(3, 12\)"),
        ({"rotation": 2 * np.eye(12)}, "not orthonormal: .* off the identity by 3"),
        ({"rotation": np.full((12, 12), np.nan)}, "rotation contains NaN"),
        ({"rotation": np.ones(12)}, "rotation"),
        ({"rotation": "opq"}, "The 'rotation' parameter"),
        ({"n_components": 13}, "n_components=13 is more than the 12 features"),
        ({"n_components": 0}, "The 'n_components' parameter"),
        ({"quantizer": PCA()}, "The 'quantizer' parameter"),
    ],
)
def test_what_is_refused(parameters, message):
    with pytest.raises(ValueError, match=message):
        rotated(**parameters).fit(X)


# -- learned ---------------------------------------------------------------------------


def clusters_in_slices(n_samples=3000, seed=0):
    """Samples of a product of clusters, in a rotation that variances do not show."""
    rng = np.random.default_rng(seed)
    slices = [
        (5 * rng.normal(size=(16, 4)))[rng.integers(16, size=n_samples)]
        for _ in range(3)
    ]
    X = np.hstack(slices) + 0.5 * rng.normal(size=(n_samples, 12))
    mixed = np.linalg.qr(rng.normal(size=(12, 12)))[0]
    return (X @ mixed + 3).astype(np.float32)


def test_learned_rotation_gains_or_is_balanced(seed):
    X = clusters_in_slices(seed=seed)
    balanced, learned = (
        rotated(pq(3, 16), rotation=name).fit(X) for name in ("balanced", "learned")
    )
    assert learned.n_iter_ > 1
    assert learned.distortion_ < 0.97 * balanced.distortion_
    assert learned.quantizer_.distortion_ == learned.distortion_
    for own, counts in zip(
        learned.quantizer_.code_counts_, learned.code_counts_, strict=True
    ):
        assert_array_equal(own, counts)
    assert learned.distortion_ == pytest.approx(-learned.score(X), rel=1e-5)
    # The subspace is that of the principal axes, also where some are cut off.
    cut = rotated(pq(3, 16), rotation="learned", n_components=6).fit(X)
    axes = rotated(pq(3, 16), n_components=6).fit(X).components_
    assert_allclose(cut.components_ @ axes.T @ axes, cut.components_, atol=1e-5)


def test_learned_rotation_of_huge_samples():
    # The squares of what it gains are beyond float64.
    huge = np.random.default_rng(0).normal(size=(300, 12)) * 1e150
    assert np.isfinite(rotated(rotation="learned").fit(huge).distortion_)


def test_learned_rotation_of_noise_is_balanced():
    noise = np.random.default_rng(0).normal(size=(300, 12)).astype(np.float32)
    found = [rotated(rotation=name).fit(noise) for name in ("balanced", "learned")]
    assert found[1].n_iter_ == 1
    assert_array_equal(*[each.components_ for each in found])
    assert_array_equal(*[each.transform(noise) for each in found])


@pytest.mark.parametrize(
    "part",
    [
        VectorQuantizer(4),
        UniformQuantizer(4),
        ResidualQuantizer(2, 4),
        ProductQuantizer(3, 4, share_codebook=True),
        ProductQuantizer(3, quantizer=VectorQuantizer(4, metric="manhattan")),
        # Frequencies, and the objective, would be those of other tables.
        ProductQuantizer(3, 4, rate_weight=0.5),
    ],
)
def test_learned_rotations_want_products(part):
    with pytest.raises(ValueError, match="'learned' needs a product of tables"):
        rotated(part, rotation="learned").fit(X)


# -- as other schemes ------------------------------------------------------------------


def test_prefixes_decode_with_the_mean():
    est = rotated(rq(3, 8), rotation="pca", n_components=9).fit(X)
    codes = est.transform(X)
    stages = list(est.staged_inverse_transform(codes))
    assert len(stages) == 3
    for n, decoded in enumerate(stages, 1):
        assert_array_equal(decoded, est.inverse_transform(codes[:, :n]))
        assert_allclose(decoded.mean(axis=0), est.mean_, atol=0.5)
        expected = est.quantizer_.inverse_transform(codes[:, :n]) @ est.components_
        assert_allclose(decoded, expected + est.mean_, atol=1e-4)
    scores = list(est.staged_score(X))
    assert scores == sorted(scores)
    assert scores[-1] == pytest.approx(est.score(X), rel=1e-6)


def test_stages_are_there_where_the_part_has_them():
    for est in (rotated(), rotated().fit(X)):
        assert not hasattr(est, "staged_score")
        with pytest.raises(
            AttributeError, match="no staged_score: its quantizer, Prod"
        ):
            est.staged_inverse_transform  # noqa: B018
    assert hasattr(rotated(rq()), "staged_score")
    assert hasattr(rotated(rotated(rq())), "staged_score")
    assert not hasattr(rotated(rotated()), "staged_score")


def test_part_of_a_residual_is_searched_by_beam():
    part = rotated(pq(2, 4), random_state=None, n_components=8)
    est = ResidualQuantizer(2, quantizer=part, random_state=0).fit(X)
    wider = est.set_params(beam_size=6)
    found = wider.score(X)
    assert found > est.set_params(beam_size=1).score(X)
    # The best codes of the rotated part are the best of all.
    one = rotated(pq(2, 4), n_components=8).fit(X)
    codes = one._encode_best(X, 5).astype(int)
    book = one.full_codebook()
    gaps = ((X[:, None].astype(float) - book[None]) ** 2).sum(axis=2)
    expected = np.sort(gaps, axis=1)[:, :5]
    ids = codes @ [4, 1]
    assert_allclose(np.take_along_axis(gaps, ids, axis=1), expected, rtol=1e-4)


def test_the_part_is_seeded_and_follows_settings():
    part = ProductQuantizer(3, 8)
    est = RotatedQuantizer(part, random_state=3, backend="numpy").fit(X)
    assert est.quantizer_.backend == "numpy"
    assert est.quantizer_.random_state is not None
    assert RotatedQuantizer(pq(3, 8)).fit(X).quantizer_.random_state == 0
    est.set_params(quantizer__n_subspaces=2)
    assert part.n_subspaces == 2
    with pytest.raises(ValueError, match="cannot be set while quantizer=None"):
        RotatedQuantizer().set_params(quantizer__n_subspaces=2)


def test_another_part_is_noticed():
    est = rotated().fit(X)
    est.quantizer_ = pq(2, 8).fit(X)
    with pytest.raises(ValueError, match="quantizer_ of RotatedQuantizer has"):
        est.transform(X)


def test_no_streams():
    with pytest.raises(AttributeError, match="those of all samples"):
        rotated(BinaryQuantizer()).partial_fit  # noqa: B018


# -- given tables ----------------------------------------------------------------------


@pytest.mark.parametrize("rotation", ["balanced", "learned", "random"])
def test_given_tables(rotation):
    est = rotated(rotation=rotation, n_components=9).fit(X)
    again = RotatedQuantizer.from_codebooks(
        est.codebooks_,
        quantizer=est.quantizer,
        rotation=est.components_,
        mean=est.mean_,
    )
    assert_array_equal(again.transform(X), est.transform(X))
    assert_array_equal(again.quantize(X), est.quantize(X))
    assert again.n_features_in_ == 12
    about_zero = RotatedQuantizer.from_codebooks(
        est.codebooks_, rotation=est.components_, quantizer=ProductQuantizer(3)
    )
    assert_array_equal(about_zero.mean_, np.zeros(12))
    assert_array_equal(
        about_zero.transform(X - est.mean_), est.transform(X), strict=True
    )


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"rotation": "hadamard"}, "no from_codebooks with rotation='hadamard'"),
        ({}, "no from_codebooks with rotation='balanced'"),
        ({"rotation": np.eye(12)[:8]}, "rotation has 8 rows, but codebooks have 12"),
        ({"rotation": np.eye(12), "mean": np.zeros(3)}, "mean has 3 entries"),
        ({"rotation": np.eye(12), "mean": np.full(12, np.inf)}, "mean contains inf"),
    ],
)
def test_given_tables_that_do_not_fit(parameters, message):
    tables = rotated().fit(X).codebooks_
    with pytest.raises(ValueError, match=message):
        RotatedQuantizer.from_codebooks(tables, **{"quantizer": pq(3, 8), **parameters})


# -- searches --------------------------------------------------------------------------

PARTS = {
    "product": lambda: pq(3, 8),
    "residual": lambda: rq(3, 8),
    "length": lambda: BinaryQuantizer(
        spherical=True, radius="learned", n_radius_levels=9
    ),
}


@pytest.mark.parametrize("metric", ["sqeuclidean", "cosine", "inner_product"])
@pytest.mark.parametrize("n_components", [None, 7])
@pytest.mark.parametrize("part", PARTS)
def test_neighbours_are_those_of_reconstructions(part, n_components, metric):
    est = rotated(PARTS[part](), rotation="random", n_components=n_components).fit(X)
    search = QuantizedNeighbors(est, n_neighbors=9, metric=metric)
    if part == "length" and metric == "cosine":
        with pytest.raises(ValueError, match="'cosine' is no sum over codes"):
            search.fit_codes(est.transform(X))
        return
    search.fit_codes(est.transform(X))
    queries = spread(20, seed=5)
    rows = est.quantize(X).astype(float)
    products = queries @ rows.T
    if metric == "sqeuclidean":
        expected = (queries.astype(float) ** 2).sum(1)[:, None] - 2 * products
        expected += (rows**2).sum(1)
    elif metric == "cosine":
        lengths = np.linalg.norm(queries, axis=1)[:, None] * np.linalg.norm(
            rows, axis=1
        )
        expected = 1 - products / lengths
    else:
        expected = -products
    found, index = search.kneighbors(queries)
    nearest = np.sort(expected, axis=1)[:, :9]
    assert_allclose(found, nearest, rtol=1e-4, atol=1e-4)
    assert_allclose(
        np.take_along_axis(expected, index, 1), nearest, rtol=1e-4, atol=1e-4
    )


def test_lengths_about_zero_have_cosines():
    est = rotated(PARTS["length"](), rotation=np.eye(12)).fit(X)
    given = RotatedQuantizer.from_codebooks(
        est.codebooks_, quantizer=est.quantizer, rotation=est.components_
    )
    codes = given.transform(X)
    table = given.distance_table(X[:5], "cosine")
    factor, offset = given.row_terms(codes, "cosine")
    assert offset is None
    entries = 2 * np.arange(12) + codes[:, :12].astype(int)
    rows = given.inverse_transform(codes).astype(float)
    lengths = np.linalg.norm(X[:5], axis=1)[:, None] * np.linalg.norm(rows, axis=1)
    expected = 1 - X[:5] @ rows.T / lengths
    assert_allclose(1 + factor * table[:, entries].sum(2), expected, atol=1e-5)


# -- the bound -------------------------------------------------------------------------


def unbiased():
    return ScaledQuantizer(BinaryQuantizer(scale=1), scaling="unbiased")


@pytest.mark.parametrize("rotation", ["random", "hadamard"])
def test_inner_products_are_within_the_bound(rotation):
    d = 64
    rows = np.random.default_rng(0).laplace(size=(500, d)).astype(np.float32) ** 3 + 2
    queries = np.random.default_rng(1).normal(size=(40, d)).astype(np.float32)
    est = rotated(unbiased(), rotation=rotation).fit(rows)
    bound = est.inner_product_error_bound(rows, queries)
    assert bound.shape == (40, 500)
    # Transcription, with reconstructions about the mean of an unbiased scale.
    centred = (rows - est.mean_).astype(float)
    Z = centred @ est.components_.T
    signs = np.where(Z > 0, 1.0, -1.0)
    lengths = np.linalg.norm(Z, axis=1)
    a = (signs * Z).sum(1) / lengths / np.sqrt(d)
    scale = lengths**2 / (signs * Z).sum(1)
    decoded = (scale[:, None] * signs) @ est.components_
    expected = np.linalg.norm(queries, axis=1)[:, None] * (
        lengths * np.sqrt(1 - a**2) / a * 1.9 / np.sqrt(d - 1)
    )
    assert_allclose(bound, expected, rtol=1e-4)
    errors = abs(queries @ (decoded - centred).T)
    assert (errors > bound).mean() < 0.1
    assert_allclose(
        est.inner_product_error_bound(rows, queries, eps0=3.8), 2 * bound, rtol=1e-6
    )


def test_rows_at_the_mean_have_no_error():
    est = rotated(unbiased(), rotation="random").fit(X)
    bound = est.inner_product_error_bound(est.mean_[None], X[:2])
    assert_array_equal(bound, [[0.0], [0.0]])


@pytest.mark.parametrize(
    ("parameters", "eps0", "message"),
    [
        ({"rotation": "pca"}, 1.9, "rotation='pca' has no bound"),
        ({"rotation": np.eye(12)}, 1.9, "has no bound"),
        ({"rotation": "random"}, 1.9, r"quantizer=BinaryQuantizer\(\) has no bound"),
        ({"rotation": "random", "n_components": 5}, 1.9, "n_components=5 are coded"),
        ({"rotation": "random"}, 0, "eps0=0; expected a positive number"),
        ({"rotation": "random"}, "wide", "eps0='wide'; expected a positive"),
    ],
)
def test_what_has_no_bound(parameters, eps0, message):
    est = rotated(BinaryQuantizer(), **parameters).fit(X)
    with pytest.raises(ValueError, match=message):
        est.inner_product_error_bound(X, X, eps0=eps0)


def test_grids_over_rotations_and_parts():
    X = spread(240, 8)
    grid = GridSearchCV(
        RotatedQuantizer(ProductQuantizer(2, 4, random_state=0), random_state=0),
        {
            "rotation": ["balanced", "random"],
            "quantizer__n_subspaces": [2, 4],
        },
        cv=2,
    ).fit(X)
    assert len(grid.cv_results_["params"]) == 4
    assert grid.best_params_["quantizer__n_subspaces"] == 4
    assert grid.best_estimator_.quantizer_.n_subspaces_ == 4
