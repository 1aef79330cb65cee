"""Displays: what they draw, scikit-learn's convention, errors."""

import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skvq import (
    MultiScaleQuantizer,
    ProductQuantizer,
    QuantizedFeatures,
    ResidualQuantizer,
    RotatedQuantizer,
    VectorQuantizer,
    metrics,
)
from skvq._gaussian import distortion_bound, n_coded, principal_variances
from skvq._pipelines import find_codec
from skvq.display import CodebookDisplay, CodeUsageDisplay, RateDistortionDisplay
from skvq.metrics import code_report

matplotlib = pytest.importorskip("matplotlib")

RNG = np.random.default_rng(0)
X = RNG.normal(size=(300, 2)) * [2.0, 1.0] + 5
WIDE = RNG.normal(size=(300, 4))
WEIGHTS = RNG.integers(0, 3, size=300).astype(float)


@pytest.fixture(autouse=True)
def no_window():
    matplotlib.use("Agg")
    yield
    from matplotlib import pyplot

    pyplot.close("all")


@pytest.fixture
def ax():
    from matplotlib import pyplot

    return pyplot.subplots()[1]


def vq(n_codewords=8, **parameters):
    return VectorQuantizer(n_codewords, random_state=0, **parameters)


def pq(n_subspaces=2, n_codewords=4):
    return ProductQuantizer(n_subspaces, n_codewords, random_state=0)


MAKERS = {
    "codebook": lambda **k: CodebookDisplay.from_estimator(
        vq().fit(X), X, grid_resolution=20, **k
    ),
    "rate": lambda **k: RateDistortionDisplay.from_estimator(vq().fit(X), X, **k),
    "rates": lambda **k: RateDistortionDisplay.from_estimators([vq().fit(X)], X, **k),
    "usage": lambda **k: CodeUsageDisplay.from_estimator(vq().fit(X), X, **k),
    "codes": lambda **k: CodeUsageDisplay.from_codes([[0], [1], [1]], [4], **k),
}
every_display = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)


# -- the convention ----------------------------------------------------------------


@every_display
def test_axes_and_figure(make, ax):
    display = make()
    assert display.figure_ is display.ax_.figure
    display.figure_.canvas.draw()  # whatever warns, warns now
    assert make(ax=ax).ax_ is ax
    first = display.ax_
    assert display.plot(ax=ax) is display
    assert display.ax_ is ax
    display.plot()
    assert display.ax_ not in (ax, first)


@every_display
def test_text(make):
    display = make()
    for label in (display.ax_.get_xlabel(), display.ax_.get_ylabel()):
        assert label
    named = make(name="of my own")
    legend = named.ax_.get_legend()
    texts = [named.ax_.get_title()]
    texts += [] if legend is None else [text.get_text() for text in legend.get_texts()]
    assert "of my own" in texts


@every_display
def test_matplotlib_missing(make, monkeypatch):
    display = make()
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"pip install skvq\[demo\]"):
        make()
    with pytest.raises(ImportError, match=r"Display\.plot needs matplotlib"):
        display.plot()


@pytest.mark.long
def test_matplotlib_is_imported_late():
    code = "import sys, skvq.display; assert 'matplotlib' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


# -- cells -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "quantizer",
    [vq(), vq(metric="cosine"), pq(), QuantizedFeatures(pq()), vq(1)],
    ids=["vq", "cosine", "pq", "features", "one codeword"],
)
def test_cells_are_those_of_the_quantizer(quantizer):
    quantizer.fit(X)
    display = CodebookDisplay.from_estimator(quantizer, X, grid_resolution=31, eps=0.2)
    inner = getattr(quantizer, "quantizer_", quantizer)
    assert display.cells.shape == (31, 31)
    grid = np.stack(np.meshgrid(display.xx0, display.xx1), axis=-1).reshape(-1, 2)
    codes = [tuple(row) for row in inner.transform(grid)]
    pairs = set(zip(codes, display.cells.ravel().tolist(), strict=True))
    assert len(pairs) == len(set(codes)) == display.cells.max() + 1
    assert_allclose(display.codewords, np.unique(inner.full_codebook(), axis=0))
    assert_allclose(display.codewords_.get_offsets(), display.codewords)
    # Row and column are second and first feature, as in the picture.
    extent = display.image_.get_extent()
    width = X.max(axis=0) - X.min(axis=0)
    low = X.min(axis=0) - 0.2 * width
    high = X.max(axis=0) + 0.2 * width
    half = (high - low) / 60
    assert_allclose(extent[0::2], low - half)
    assert_allclose(extent[1::2], high + half)
    assert display.image_.origin == "lower"


def test_cells_have_borders():
    # Two cells on either side of x = 0.
    table = np.array([[-1.0, 0.0], [1.0, 0.0]])
    quantizer = VectorQuantizer(2, learning="fixed", init=table).fit(X - 5)
    corners = np.array([[-1.0, -1.0], [1.0, 1.0]])
    display = CodebookDisplay.from_estimator(quantizer, corners)
    colours = np.asarray(display.image_.get_array())
    columns = colours[0]
    assert (colours == columns).all()
    border = np.flatnonzero((columns == 0.3).all(axis=1))
    assert border.tolist() == [200]
    assert_array_equal(columns[:200], columns[:1].repeat(200, axis=0))
    assert not np.allclose(columns[0], columns[-1])


def test_samples():
    quantizer = vq().fit(X)
    display = CodebookDisplay.from_estimator(
        quantizer, X, show_samples=True, sample_kwargs={"s": 7}
    )
    assert_allclose(display.samples_.get_offsets(), X)
    assert display.samples_.get_sizes().tolist() == [7]
    assert CodebookDisplay.from_estimator(quantizer, X).samples_ is None


def test_too_many_codewords_are_shown_where_they_are_in_view():
    fine = pq(2, 100).fit(np.random.default_rng(1).normal(size=(500, 2)))
    display = CodebookDisplay.from_estimator(fine, X[:50] - 5, grid_resolution=40)
    assert 0 < len(display.codewords) <= 1600


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_feature_names(library):
    frames = pytest.importorskip(library)
    frame = frames.DataFrame({"height": X[:, 0], "weight": X[:, 1]})
    quantizer = vq().fit(frame)
    display = CodebookDisplay.from_estimator(quantizer, frame, grid_resolution=20)
    assert display.ax_.get_xlabel() == "height"
    assert display.ax_.get_ylabel() == "weight"
    quantizer.set_output(transform=library)
    CodebookDisplay.from_estimator(quantizer, frame, grid_resolution=20)
    CodeUsageDisplay.from_estimator(quantizer, frame)
    features = QuantizedFeatures(vq()).fit(frame)
    display = CodebookDisplay.from_estimator(features, frame, grid_resolution=20)
    assert display.ax_.get_xlabel() == "height"
    CodeUsageDisplay.from_estimator(features, frame)


@pytest.mark.parametrize(
    "samples", [X * [1, 0], X * [0, 1], X * 0, X[:1], X * [1, 1e6]]
)
def test_extents(samples):
    display = CodebookDisplay.from_estimator(vq().fit(X), samples, grid_resolution=20)
    left, right, bottom, top = display.image_.get_extent()
    assert left < samples[:, 0].min() <= samples[:, 0].max() < right
    assert bottom < samples[:, 1].min() <= samples[:, 1].max() < top
    display.figure_.canvas.draw()


def test_bad_codebooks():
    make = CodebookDisplay.from_estimator
    with pytest.raises(ValueError, match="has 4 features; cells can be drawn of two"):
        make(vq().fit(WIDE), WIDE)
    with pytest.raises(ValueError, match="X has 4 features; expected 2"):
        make(vq().fit(X), WIDE)
    with pytest.raises(NotFittedError):
        make(vq(), X)
    for parameters in ({"grid_resolution": 1}, {"eps": -1}, {"eps": np.nan}):
        with pytest.raises(ValueError, match="grid_resolution must be 2 or more"):
            make(vq().fit(X), X, **parameters)


@pytest.mark.parametrize("display", [CodebookDisplay, CodeUsageDisplay])
def test_only_quantizers(display):
    for estimator in (StandardScaler(), make_pipeline(StandardScaler(), vq())):
        with pytest.raises(TypeError, match="is no quantizer"):
            display.from_estimator(estimator.fit(X), X)


# -- rate and distortion -----------------------------------------------------------


def test_curve():
    fitted = [vq(16).fit(WIDE), pq(4, 2).fit(WIDE), vq(2).fit(WIDE)]
    display = RateDistortionDisplay.from_estimators(
        fitted, WIDE, sample_weight=WEIGHTS, labels=["a", "b", "c"], name="curve"
    )
    bits, distortions = metrics.rate_distortion_curve(
        fitted, WIDE, sample_weight=WEIGHTS
    )
    assert_allclose(display.rates, bits / 4)
    assert_allclose(display.distortions, distortions / 4)
    covariance = np.cov(WIDE.T, aweights=WEIGHTS, ddof=0)
    assert display.bound == "covariance"
    assert_allclose(display.variances, np.linalg.eigvalsh(covariance)[::-1])
    independent = RateDistortionDisplay.from_estimators(
        fitted, WIDE, sample_weight=WEIGHTS, bound="independent"
    )
    assert_allclose(independent.variances, np.diag(covariance))
    x, y = display.line_.get_data()
    assert_allclose(x, [0.25, 1, 1])  # a curve goes from left to right
    assert_allclose(y, display.distortions[[2, 0, 1]])
    assert [text.get_text() for text in display.text_] == ["a", "b", "c"]
    assert_allclose([text.xy for text in display.text_], np.c_[bits, distortions] / 4)
    assert display.ax_.get_yscale() == "log"


def test_bound():
    display = RateDistortionDisplay([1.0, 3.0], [2.0, 0.2], variances=4.0).plot()
    rates, bound = display.bound_.get_data()
    assert rates[-1] == 3
    assert_allclose(bound, 4.0 * 2.0 ** (-2 * rates))
    assert legend_of(display) == ["bound of Gaussian features of the same covariance"]
    other = RateDistortionDisplay([1.0], [2.0], variances=4.0, bound="independent")
    assert legend_of(other.plot()) == ["bound of independent Gaussian features"]
    with pytest.raises(ValueError, match="bound='gaussian'; expected 'covariance' or"):
        RateDistortionDisplay([1.0], [2.0], bound="gaussian").plot()
    with pytest.raises(ValueError, match="bound=None; expected 'covariance' or"):
        RateDistortionDisplay.from_estimator(vq().fit(X), X, bound=None)
    assert display.plot(plot_bound=False).bound_ is None
    without = RateDistortionDisplay([1.0], [2.0]).plot()
    assert without.bound_ is None
    assert without.ax_.get_legend() is None
    dotted = display.plot(bound_kwargs={"linestyle": ":"}, line_kwargs={"marker": "x"})
    assert dotted.bound_.get_linestyle() == ":"
    assert dotted.line_.get_marker() == "x"


def test_curves_differ_by_more_than_their_colour():
    curves = [RateDistortionDisplay([1.0, 2.0], [4.0, 1.0 + i]) for i in range(13)]
    ax = curves[0].plot().ax_
    for curve in curves[1:]:
        curve.plot(ax=ax)
    marks = [curve.line_.get_marker() for curve in curves]
    assert len(set(marks[:12])) == 12
    assert marks[12] == marks[0]
    codes = RNG.integers(0, 4, size=(50, 4))
    few = CodeUsageDisplay.from_codes(codes, [4] * 4).lines_
    assert len({line.get_linestyle() for line in few}) == 4
    many = CodeUsageDisplay.from_codes(np.tile(codes, 3), [4] * 12).lines_
    assert {line.get_linestyle() for line in many} == {"-"}


def legend_of(display):
    texts = display.ax_.get_legend().get_texts()
    return [" ".join(text.get_text().split()) for text in texts]


@pytest.mark.parametrize("n", [1, 2, 5])
def test_the_bound_is_that_of_the_best_level(n):
    """Beside a level found by bisection."""
    variances = np.append(RNG.exponential(size=n) ** 3, [0.0, 0.0])
    bits = np.array([0.0, 0.1, 1.0, 3.0, 7.0, 40.0])
    for asked, found in zip(bits, distortion_bound(variances, bits), strict=True):
        low, high = 1e-60, variances.max()
        for _ in range(300):
            level = np.sqrt(low * high)
            spent = np.maximum(0, np.log2(variances[:n] / level) / 2).sum()
            low, high = (level, high) if spent > asked else (low, level)
        assert found == pytest.approx(np.minimum(level, variances).sum(), rel=1e-9)
        coded = (variances > level * (1 + 1e-9)).sum()
        assert n_coded(variances, asked) == max(1, coded)
    assert distortion_bound(np.zeros(3), bits).tolist() == [0.0] * 6


def test_variances_of_few_rows():
    few = WIDE[:3] - [5, 0, 0, 0]
    expected = np.linalg.eigvalsh(np.cov(few.T, ddof=0))[::-1]
    assert_allclose(principal_variances(few), expected, atol=1e-12)
    display = RateDistortionDisplay.from_estimator(vq(2).fit(WIDE), few)
    assert_allclose(display.variances, expected, atol=1e-12)


def test_one_bound_for_all_curves(ax):
    """As far as the longest curve, whichever comes first."""
    for order in ([2, 64], [64, 2]):
        ax.clear()
        displays = [
            RateDistortionDisplay.from_estimator(vq(V).fit(X), X, name=str(V), ax=ax)
            for V in order
        ]
        first, second = (display.bound_ for display in displays)
        assert first is second
        assert len(ax.get_lines()) == 3
        assert first.get_xdata()[-1] == 3
        assert len(legend_of(displays[0])) == 3
        low, high = ax.get_xlim()
        assert low < 0 and high > 3
    others = RateDistortionDisplay.from_estimator(vq(2).fit(X), X[:50], ax=ax)
    assert others.bound_ is not first  # that of other samples
    kind = RateDistortionDisplay.from_estimator(
        vq(2).fit(X), X, ax=ax, bound="independent", bound_kwargs={"label": "mine"}
    )
    again = RateDistortionDisplay.from_estimator(
        vq(4).fit(X), X, ax=ax, bound="independent"
    )
    assert again.bound_ is kind.bound_ and kind.bound_ is not first


STAGED = {
    "residual": ResidualQuantizer(3, 4, random_state=0),
    "parts of several codes": ResidualQuantizer(2, quantizer=[pq(2, 4), vq(3)]),
    "multi-scale": MultiScaleQuantizer((2, 2, 1), (1, 2), 4, random_state=0),
    "rotated": RotatedQuantizer(ResidualQuantizer(2, 4, random_state=0)),
    "features": QuantizedFeatures(ResidualQuantizer(2, 4, random_state=0)),
    "pipeline": make_pipeline(
        StandardScaler(), PCA(3), ResidualQuantizer(3, 4, random_state=0)
    ),
}


@pytest.mark.parametrize("name", STAGED)
def test_staged_schemes_have_a_curve(name):
    estimator = clone(STAGED[name]).fit(WIDE)
    display = RateDistortionDisplay.from_estimator(
        estimator, WIDE, sample_weight=WEIGHTS, label="last"
    )
    codec = find_codec(estimator)
    widths = codec.quantizer._decodable_widths()
    sizes = np.log2(codec.quantizer.codebook_sizes_)
    assert_allclose(display.rates, [sizes[:w].sum() / 4 for w in widths])
    codes = codec.quantizer.transform(codec.quantized(WIDE))
    for width, found in zip(widths, display.distortions, strict=True):
        decoded = (
            codec.decode(codes[:, :width])
            if name != "features"
            else (codec.quantizer.inverse_transform(codes[:, :width]))
        )
        error = metrics.distortion(WIDE, decoded, sample_weight=WEIGHTS)
        assert found == pytest.approx(error / 4)
    assert len(display.line_.get_xdata()) == len(widths)
    texts = [text.get_text() for text in display.text_]
    assert texts == [""] * (len(widths) - 1) + ["last"]
    # Several of them are a point each.
    points = RateDistortionDisplay.from_estimators([estimator], WIDE)
    assert_allclose(points.rates, display.rates[-1:])


def test_a_rotation_of_no_stages_is_a_point():
    display = RateDistortionDisplay.from_estimator(
        RotatedQuantizer(vq()).fit(WIDE), WIDE
    )
    assert len(display.rates) == 1


def covered(display):
    """Return the points of lines that are below the legend."""
    display.figure_.canvas.draw()
    box = display.ax_.get_legend().get_window_extent()
    return [
        point
        for line in display.ax_.get_lines()
        for point in line.get_transform().transform(line.get_xydata())
        if box.contains(*point)
    ]


@pytest.mark.parametrize("own", [True, False], ids=["own figure", "given axes"])
def test_legends_cover_no_data(own):
    from matplotlib import pyplot

    def axes():
        return None if own else pyplot.subplots()[1]

    fitted = [vq(V).fit(WIDE) for V in (2, 8, 64)]
    rates = RateDistortionDisplay.from_estimators(fitted, WIDE, name="a", ax=axes())
    for name in "bcd":
        RateDistortionDisplay.from_estimator(
            ResidualQuantizer(3, 4, random_state=0).fit(WIDE),
            WIDE,
            name=name,
            ax=rates.ax_,
        )
    displays = [rates]
    for alike in (pq(2, 8).fit(X), pq(4, 16).fit(WIDE)):
        samples = X if alike.n_features_in_ == 2 else WIDE
        displays.append(CodeUsageDisplay.from_estimator(alike, samples, ax=axes()))
    for display in displays:
        assert not covered(display)
        if own:
            legend = display.ax_.get_legend().get_window_extent()
            assert not legend.overlaps(display.ax_.get_window_extent())
            width, height = display.figure_.canvas.get_width_height()
            assert legend.x1 <= width and legend.y0 >= 0 and legend.y1 <= height


def test_bound_of_no_distortion_is_below_everything():
    rows = np.array([[0.0], [1.0]])
    perfect = VectorQuantizer(2, init=rows).fit(rows)
    display = RateDistortionDisplay.from_estimator(perfect, rows, label="perfect")
    assert display.distortions.tolist() == [0]
    display.figure_.canvas.draw()
    assert display.text_[0].get_text() == "perfect"


def test_pipelines_and_frames():
    frame = pd.DataFrame(WIDE, columns=list("abcd"))
    model = make_pipeline(StandardScaler(), vq()).fit(frame)
    display = RateDistortionDisplay.from_estimator(model, frame)
    assert display.name == "Pipeline"
    assert display.rates.tolist() == [0.75]


def test_bad_curves():
    for rates, distortions in ([[1, 2], [1]], [[], []], [[[1]], [[1]]]):
        with pytest.raises(ValueError, match="the same length"):
            RateDistortionDisplay(rates, distortions).plot()
    with pytest.raises(ValueError, match="labels has 1 entries for 2 points"):
        RateDistortionDisplay([1, 2], [1, 2], labels=["a"]).plot()
    for rate in (np.nan, np.inf):
        with pytest.raises(ValueError, match=r"rates=.*; expected finite numbers"):
            RateDistortionDisplay([1, rate], [1, 2], variances=1.0).plot()


# -- use of codewords --------------------------------------------------------------


def test_shares():
    codes = [[0, 1], [1, 1], [1, 1], [3, 0]]
    display = CodeUsageDisplay.from_codes(codes, (4, 2), sample_weight=[1, 1, 1, 5])
    assert_allclose(display.shares[0], [1 / 8, 2 / 8, 0, 5 / 8])
    assert_allclose(display.shares[1], [5 / 8, 3 / 8])
    edges, heights = display.lines_[0].get_data()
    assert_allclose(edges, [0, 0.25, 0.5, 0.75])
    assert_allclose(heights, [2.5, 1, 0.5, 0.5])
    legend = [text.get_text() for text in display.ax_.get_legend().get_texts()]
    assert "code 0: perplexity 2.46 of 4, 75.0% in use" in legend


def test_use_by_estimator():
    quantizer = pq(2, 8).fit(WIDE)
    display = CodeUsageDisplay.from_estimator(quantizer, WIDE, sample_weight=WEIGHTS)
    codes = quantizer.transform(WIDE)
    assert_allclose(
        display.perplexities, metrics.perplexity(codes, sample_weight=WEIGHTS)
    )
    assert_allclose([shares.sum() for shares in display.shares], 1)
    assert [len(shares) for shares in display.shares] == [8, 8]
    assert display.ax_.get_title() == "ProductQuantizer, 6 bits"


def test_many_code_columns_have_no_legend():
    codes = np.random.default_rng(1).integers(0, 4, size=(50, 12))
    display = CodeUsageDisplay.from_codes(codes, [4] * 12)
    assert len(display.lines_) == 12
    assert display.ax_.get_legend() is None


def test_use_from_shares_only():
    display = CodeUsageDisplay([np.array([0.5, 0.5])]).plot()
    legend = [text.get_text() for text in display.ax_.get_legend().get_texts()]
    assert legend == ["code 0"]


def test_bad_use():
    with pytest.raises(ValueError, match="Column 0 of codes goes up to 4"):
        CodeUsageDisplay.from_codes([[4]], [4])
    with pytest.raises(NotFittedError):
        CodeUsageDisplay.from_estimator(vq(), X)


# -- the page ----------------------------------------------------------------------


def test_page(tree):
    page = tree / "docs" / "metrics.md"
    text = page.read_text(encoding="utf-8")
    (program,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    names = {}
    exec(program, names)
    assert all(ax.get_xlabel() for ax in names["axes"])


def test_use_from_a_report():
    codes = [[0, 0], [1, 1], [3, 0]]
    report = code_report(codes, (4, 2))
    display = CodeUsageDisplay.from_report(report, name="title")
    expected = CodeUsageDisplay.from_codes(codes, (4, 2), name="title")
    for found, own in zip(display.shares, expected.shares, strict=True):
        assert_allclose(found, own)
    assert_allclose(display.perplexities, expected.perplexities)
    assert display.ax_.get_title() == "title"
    with pytest.raises(TypeError, match="code_report"):
        CodeUsageDisplay.from_report(report.as_dict())
