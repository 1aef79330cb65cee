"""Pictures of quantizers, as scikit-learn draws its own.

========================  ==========================================================
`CodebookDisplay`         the cells and codewords of a quantizer of two features
`RateDistortionDisplay`   distortion over bits, and the bound of a Gaussian source
`CodeUsageDisplay`        how often the codewords of each code column are used
========================  ==========================================================

A display is made by `from_estimator` and its siblings, which also draw it, or from
numbers at hand.  `plot` draws it again, and leaves the axes in `ax_` and the figure in
`figure_`.  Drawing needs matplotlib: ``pip install skvq[demo]``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import check_array
from sklearn.utils.validation import check_is_fitted

from skvq import nearest
from skvq._gaussian import distortion_bound, principal_variances
from skvq._pipelines import find_codec
from skvq._reports import CodeReport
from skvq._typing import (
    GaussianBound,
    MatrixLike,
    NamesLike,
    Number,
    Size,
    Sizes,
    VectorLike,
)
from skvq._weights import check_weights
from skvq.metrics import code_report, distortion, rate_distortion_curve
from skvq.nearest.distinct import unique_rows
from skvq.staged import StagedQuantizer

__all__ = ["CodeUsageDisplay", "CodebookDisplay", "RateDistortionDisplay"]

# What the bound is called in the legend.
_BOUNDS = {
    "covariance": "bound of Gaussian features\nof the same covariance",
    "independent": "bound of independent\nGaussian features",
}
# By which the bound is known among the lines of the axes.
_BOUND_ID = "skvq-gaussian-bound"
# A legend beside axes of our own, where it stays when others draw on them.
_BESIDE = "skvq-beside"
# Curves of one axes are told apart by their marks or dashes, and not by colour alone.
_MARKS = "osD^vPX*<>hd"
_DASHES = ("-", "--", "-.", ":")
# More code columns than this get no entry each in the legend.
_LEGEND_ENTRIES = 10
# The table of all codewords is built up to this size; beyond, those in view are drawn.
_MAX_CODEWORDS = 4096


class CodebookDisplay:
    """Cells and codewords of a quantizer of two features.

    Parameters
    ----------
    xx0 : ndarray of shape (n_columns,)
        Positions of the grid along the first feature.
    xx1 : ndarray of shape (n_rows,)
        Positions of the grid along the second feature.
    cells : ndarray of int, shape (n_rows, n_columns)
        Number of the cell that each point of the grid is in.
    codewords : ndarray of shape (n_codewords, 2)
        The reconstructions.
    samples : ndarray of shape (n_samples, 2), optional
        Samples to show.
    feature_names : sequence of two str, optional
        Labels of the axes.
    name : str, optional
        Title.

    Attributes
    ----------
    image_ : matplotlib AxesImage
        The cells.
    codewords_ : matplotlib PathCollection
        The codewords.
    samples_ : matplotlib PathCollection or None
        The samples.
    ax_ : matplotlib Axes
        The axes.
    figure_ : matplotlib Figure
        The figure.

    See Also
    --------
    CodebookDisplay.from_estimator : Make and draw it from a fitted quantizer.

    Examples
    --------
    >>> import numpy as np
    >>> from skvq import VectorQuantizer
    >>> from skvq.display import CodebookDisplay
    >>> X = np.random.default_rng(0).normal(size=(200, 2))
    >>> quantizer = VectorQuantizer(8, random_state=0).fit(X)
    >>> display = CodebookDisplay.from_estimator(quantizer, X)
    >>> display.codewords.shape
    (8, 2)
    """

    ax_: Any
    codewords_: Any
    figure_: Any
    image_: Any
    samples_: Any

    def __init__(
        self,
        *,
        xx0: NDArray[Any],
        xx1: NDArray[Any],
        cells: NDArray[Any],
        codewords: NDArray[Any],
        samples: NDArray[Any] | None = None,
        feature_names: NamesLike | None = None,
        name: str | None = None,
    ) -> None:
        self.xx0 = xx0
        self.xx1 = xx1
        self.cells = cells
        self.codewords = codewords
        self.samples = samples
        self.feature_names = feature_names
        self.name = name

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: MatrixLike,
        *,
        grid_resolution: Size = 400,
        eps: Number = 0.1,
        show_samples: bool = False,
        name: str | None = None,
        ax: Any = None,
        cmap: Any = "viridis",
        codeword_kwargs: dict[str, Any] | None = None,
        sample_kwargs: dict[str, Any] | None = None,
    ) -> Self:
        """Draw the cells of a fitted quantizer.

        Parameters
        ----------
        estimator : quantizer
            Fitted quantizer of two features, or `QuantizedFeatures` of one.
        X : array-like of shape (n_samples, 2)
            Samples, which say how far the picture reaches.
        grid_resolution : int, default=400
            Number of grid points along each side; a cell smaller than their distance
            may be missed.
        eps : float, default=0.1
            Margin around X, as a share of its extent.
        show_samples : bool, default=False
            Whether to show X.
        name : str, optional
            Title; by default the class of the quantizer and its bits.
        ax : matplotlib Axes, optional
            Axes to draw on; by default those of a new figure.
        cmap : str or Colormap, default="viridis"
            Colours of the cells; they are drawn pale.
        codeword_kwargs : dict, optional
            For `matplotlib.axes.Axes.scatter` of the codewords.
        sample_kwargs : dict, optional
            For `matplotlib.axes.Axes.scatter` of the samples.

        Returns
        -------
        display : CodebookDisplay
            The display, drawn.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        TypeError
            If it is no quantizer.
        ValueError
            If the quantizer does not have two features, or a parameter is out of range.
        sklearn.exceptions.NotFittedError
            If it is not fitted.
        """
        _pyplot(f"{cls.__name__}.from_estimator")
        quantizer = _quantizer_of(estimator)
        if estimator.n_features_in_ != 2:
            raise ValueError(
                f"{type(estimator).__name__} has {estimator.n_features_in_} features; "
                "cells can be drawn of two."
            )
        if int(grid_resolution) < 2 or not eps >= 0:
            raise ValueError(
                "grid_resolution must be 2 or more, and eps 0 or more, got "
                f"{grid_resolution} and {eps}."
            )
        _check_here(X)
        samples = check_array(X, dtype=np.float64, input_name="X")
        if samples.shape[1] != 2:
            raise ValueError(f"X has {samples.shape[1]} features; expected 2.")
        xx0, xx1 = _grid(samples, int(grid_resolution), float(eps))
        grid = np.column_stack([axis.ravel() for axis in np.meshgrid(xx0, xx1)])
        grid_in = _named_like(grid, X, quantizer)
        codes = np.asarray(quantizer.transform(grid_in))
        cells = unique_rows(codes)[1]
        display = cls(
            xx0=xx0,
            xx1=xx1,
            cells=cells.reshape(len(xx1), len(xx0)),
            codewords=_codewords(quantizer, grid_in),
            samples=samples if show_samples else None,
            feature_names=_feature_names(estimator),
            name=name if name is not None else _describe(quantizer),
        )
        return display.plot(
            ax=ax,
            cmap=cmap,
            codeword_kwargs=codeword_kwargs,
            sample_kwargs=sample_kwargs,
        )

    def __repr__(self) -> str:
        return f"<CodebookDisplay of {len(self.codewords)} codewords{_of(self.name)}>"

    def plot(
        self,
        ax: Any = None,
        *,
        name: str | None = None,
        cmap: Any = "viridis",
        codeword_kwargs: dict[str, Any] | None = None,
        sample_kwargs: dict[str, Any] | None = None,
    ) -> Self:
        """Draw the cells.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            Axes to draw on; by default those of a new figure.
        name : str, optional
            Title, instead of the display's own name.
        cmap : str or Colormap, default="viridis"
            Colours of the cells; they are drawn pale.
        codeword_kwargs : dict, optional
            For `matplotlib.axes.Axes.scatter` of the codewords.
        sample_kwargs : dict, optional
            For `matplotlib.axes.Axes.scatter` of the samples.

        Returns
        -------
        display : CodebookDisplay
            The display itself.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        """
        self.ax_, self.figure_ = _axes(ax, f"{type(self).__name__}.plot")
        half0, half1 = (np.diff(xx[:2])[0] / 2 for xx in (self.xx0, self.xx1))
        extent = (
            self.xx0[0] - half0,
            self.xx0[-1] + half0,
            self.xx1[0] - half1,
            self.xx1[-1] + half1,
        )
        self.image_ = self.ax_.imshow(
            _cell_colours(self.cells, cmap),
            extent=extent,
            origin="lower",
            # True angles, unless the picture would be a thin stripe.
            aspect="equal" if 0.2 < _ratio(extent) < 5 else "auto",
        )
        self.samples_ = None
        if self.samples is not None:
            style = {"s": 3, "c": "0.3", "alpha": 0.4, "linewidths": 0}
            self.samples_ = self.ax_.scatter(
                *np.transpose(self.samples), **style | (sample_kwargs or {})
            )
        style = {"s": 14, "c": "black", "zorder": 3}
        self.codewords_ = self.ax_.scatter(
            *np.transpose(self.codewords), **style | (codeword_kwargs or {})
        )
        # A codeword out of view does not widen the picture beyond its cells.
        title = self.name if name is None else name
        self.ax_.set(xlim=extent[:2], ylim=extent[2:], title=title)
        names = self.feature_names
        xlabel, ylabel = names if names is not None else ("feature 0", "feature 1")
        self.ax_.set(xlabel=xlabel, ylabel=ylabel)
        return self


class RateDistortionDisplay:
    r"""Distortion over bits, and the bound of a Gaussian source.

    Both are per feature.  The bound is the least distortion that any code has on
    Gaussian features: with the covariance of the samples, or independent ones of the
    same variances.  It is found by reverse water-filling over variances
    :math:`\sigma_i^2`, with a level :math:`\theta` such that

    .. math::

        R = \frac{1}{d} \sum_i \max(0, \tfrac{1}{2} \log_2 (\sigma_i^2 / \theta)),
        \quad D = \frac{1}{d} \sum_i \min(\theta, \sigma_i^2).

    Other features than Gaussian ones can be quantized better: then the line says by how
    much a quantizer makes use of that.  Where features depend on each other, a curve
    below the bound of independent ones shows that the quantizer makes use of it.

    Parameters
    ----------
    rates : array-like of shape (n_points,)
        Bits per feature, R.
    distortions : array-like of shape (n_points,)
        Mean squared error per feature, D.
    variances : float or array-like of shape (n_features,), optional
        The :math:`\sigma_i^2`: eigenvalues of the covariance, or variances of the
        features; without them, there is no bound.
    bound : {"covariance", "independent"}, default="covariance"
        Which of both they are, for the legend.
    labels : sequence of str, optional
        Text beside each point.
    name : str, optional
        Name of the curve in the legend.

    Attributes
    ----------
    line_ : matplotlib Line2D
        The curve, by increasing rate.
    bound_ : matplotlib Line2D or None
        The bound; one and the same for all displays on the same axes that are of the
        same variances.
    text_ : list of matplotlib Annotation
        The labels.
    ax_ : matplotlib Axes
        The axes.
    figure_ : matplotlib Figure
        The figure.

    See Also
    --------
    RateDistortionDisplay.from_estimators : Make and draw it from fitted quantizers.
    skvq.metrics.rate_distortion_curve : The numbers, per sample.

    References
    ----------
    Cover and Thomas (2006), "Elements of Information Theory", theorem 10.3.3,
    doi:10.1002/047174882X.

    Examples
    --------
    >>> import numpy as np
    >>> from skvq import VectorQuantizer
    >>> from skvq.display import RateDistortionDisplay
    >>> X = np.random.default_rng(0).normal(size=(500, 2))
    >>> fitted = [VectorQuantizer(V, random_state=0).fit(X) for V in (4, 16)]
    >>> display = RateDistortionDisplay.from_estimators(fitted, X)
    >>> display.rates.tolist()
    [1.0, 2.0]
    """

    ax_: Any
    bound_: Any
    figure_: Any
    line_: Any
    text_: list[Any]

    def __init__(
        self,
        rates: VectorLike,
        distortions: VectorLike,
        *,
        variances: VectorLike | None = None,
        bound: GaussianBound = "covariance",
        labels: Sequence[str] | None = None,
        name: str | None = None,
    ) -> None:
        self.rates = rates
        self.distortions = distortions
        self.variances = variances
        self.bound = bound
        self.labels = labels
        self.name = name

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: MatrixLike,
        *,
        sample_weight: VectorLike | None = None,
        bound: GaussianBound = "covariance",
        label: str | None = None,
        name: str | None = None,
        ax: Any = None,
        plot_bound: bool = True,
        line_kwargs: dict[str, Any] | None = None,
        bound_kwargs: dict[str, Any] | None = None,
    ) -> Self:
        """Draw what one fitted quantizer makes of samples.

        A point; or, where its reconstruction is a sum that grows by stages, the curve
        of its partial sums: what is left when only the codes of the first stages are
        read.

        Parameters
        ----------
        estimator : object
            Fitted quantizer, `QuantizedFeatures`, or a pipeline with one of them.
        X : array-like of shape (n_samples, n_features)
            Samples to measure the distortion on.
        sample_weight : array-like of shape (n_samples,), optional
            Weights of the samples.
        bound : {"covariance", "independent"}, default="covariance"
            Of which Gaussian features the bound is: with the covariance of X, or
            independent ones with the variances of the features of X.
        label : str, optional
            Text beside the point; of a curve, beside the last.
        name : str, optional
            Name in the legend; by default the class of the estimator.
        ax : matplotlib Axes, optional
            Axes to draw on; by default those of a new figure.
        plot_bound : bool, default=True
            Whether to draw the bound.
        line_kwargs : dict, optional
            For `matplotlib.axes.Axes.plot` of the point or the curve.
        bound_kwargs : dict, optional
            For `matplotlib.axes.Axes.plot` of the bound.

        Returns
        -------
        display : RateDistortionDisplay
            The display, drawn.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        TypeError, ValueError
            As `skvq.metrics.rate_distortion_curve`.
        """
        _pyplot(f"{cls.__name__}.from_estimator")
        curve = _curve_by_stage(estimator, X, sample_weight)
        if curve is None:
            curve = rate_distortion_curve([estimator], X, sample_weight=sample_weight)
        labels = None if label is None else [""] * (len(curve[0]) - 1) + [label]
        display = cls._of_samples(
            curve,
            X,
            sample_weight,
            bound,
            labels=labels,
            name=name if name is not None else type(estimator).__name__,
        )
        return display.plot(
            ax=ax,
            plot_bound=plot_bound,
            line_kwargs=line_kwargs,
            bound_kwargs=bound_kwargs,
        )

    @classmethod
    def from_estimators(
        cls,
        estimators: Iterable[Any],
        X: MatrixLike,
        *,
        sample_weight: VectorLike | None = None,
        bound: GaussianBound = "covariance",
        labels: Sequence[str] | None = None,
        name: str | None = None,
        ax: Any = None,
        plot_bound: bool = True,
        line_kwargs: dict[str, Any] | None = None,
        bound_kwargs: dict[str, Any] | None = None,
    ) -> Self:
        """Draw the curve of several fitted quantizers.

        To compare several curves, draw the next one on ``ax=display.ax_``.  They share
        one bound, which reaches as far as the longest of them.

        Parameters
        ----------
        estimators : iterable of object
            Fitted quantizers, `QuantizedFeatures`, or pipelines with one of them.
        X : array-like of shape (n_samples, n_features)
            Samples to measure the distortion on.
        sample_weight : array-like of shape (n_samples,), optional
            Weights of the samples.
        bound : {"covariance", "independent"}, default="covariance"
            Of which Gaussian features the bound is: with the covariance of X, or
            independent ones with the variances of the features of X.
        labels : sequence of str, optional
            Text beside each point.
        name : str, optional
            Name of the curve in the legend.
        ax : matplotlib Axes, optional
            Axes to draw on; by default those of a new figure.
        plot_bound : bool, default=True
            Whether to draw the bound.
        line_kwargs : dict, optional
            For `matplotlib.axes.Axes.plot` of the curve.
        bound_kwargs : dict, optional
            For `matplotlib.axes.Axes.plot` of the bound.

        Returns
        -------
        display : RateDistortionDisplay
            The display, drawn.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        TypeError, ValueError
            As `skvq.metrics.rate_distortion_curve`.
        """
        _pyplot(f"{cls.__name__}.from_estimators")
        curve = rate_distortion_curve(estimators, X, sample_weight=sample_weight)
        display = cls._of_samples(
            curve, X, sample_weight, bound, labels=labels, name=name
        )
        return display.plot(
            ax=ax,
            plot_bound=plot_bound,
            line_kwargs=line_kwargs,
            bound_kwargs=bound_kwargs,
        )

    def __repr__(self) -> str:
        n_points = np.asarray(self.rates).size
        return f"<RateDistortionDisplay of {n_points} points{_of(self.name)}>"

    @classmethod
    def _of_samples(
        cls,
        curve: Any,
        X: Any,
        sample_weight: Any,
        bound: GaussianBound,
        **parameters: Any,
    ) -> Self:
        """Return the display of bits and errors per sample, with the bound of X."""
        _check_bound(bound)
        bits, distortions = curve
        samples = check_array(X, dtype=np.float64, input_name="X")
        weights = check_weights(sample_weight, samples)
        if bound == "covariance":
            variances = principal_variances(samples, weights)
        else:
            middle = np.average(samples, axis=0, weights=weights)
            variances = np.average((samples - middle) ** 2, axis=0, weights=weights)
        n_features = samples.shape[1]
        return cls(
            bits / n_features,
            distortions / n_features,
            variances=variances,
            bound=bound,
            **parameters,
        )

    def plot(
        self,
        ax: Any = None,
        *,
        name: str | None = None,
        plot_bound: bool = True,
        line_kwargs: dict[str, Any] | None = None,
        bound_kwargs: dict[str, Any] | None = None,
    ) -> Self:
        """Draw the curve.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            Axes to draw on; by default those of a new figure.
        name : str, optional
            Name of the curve in the legend, instead of the display's own.
        plot_bound : bool, default=True
            Whether to draw the bound, if the variances are known.
        line_kwargs : dict, optional
            For `matplotlib.axes.Axes.plot` of the curve.
        bound_kwargs : dict, optional
            For `matplotlib.axes.Axes.plot` of the bound.

        Returns
        -------
        display : RateDistortionDisplay
            The display itself.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        ValueError
            If there are not as many rates as distortions and labels, rates are not
            finite, or the bound is none.
        """
        rates, distortions = (
            np.asarray(values, dtype=np.float64)
            for values in (self.rates, self.distortions)
        )
        if rates.ndim != 1 or rates.shape != distortions.shape or not rates.size:
            raise ValueError(
                f"rates has shape {rates.shape}, distortions {distortions.shape}; "
                "expected one and the same length, above 0."
            )
        # Distortions that are not are left out by matplotlib, but rates are the axis.
        if not np.isfinite(rates).all():
            raise ValueError(f"rates={self.rates!r}; expected finite numbers.")
        if self.labels is not None and len(self.labels) != len(rates):
            raise ValueError(
                f"labels has {len(self.labels)} entries for {len(rates)} points."
            )
        _check_bound(self.bound)
        own_figure = ax is None
        self.ax_, self.figure_ = _axes(ax, f"{type(self).__name__}.plot")
        self.ax_.set_yscale("log")
        order = np.argsort(rates, kind="stable")
        name = self.name if name is None else name
        style: dict[str, Any] = {"marker": _next_mark(self.ax_)}
        style |= {} if name is None else {"label": name}
        (self.line_,) = self.ax_.plot(
            rates[order], distortions[order], **style | (line_kwargs or {})
        )
        self.bound_ = None
        if plot_bound and self.variances is not None:
            self.bound_ = self._plot_bound(rates, bound_kwargs)
        self.text_ = [
            self.ax_.annotate(
                label,
                point,
                xytext=(5, 5),
                textcoords="offset points",
                fontsize="small",
            )
            for label, point in zip(
                self.labels or [], zip(rates, distortions, strict=True), strict=False
            )
        ]
        self.ax_.set(xlabel="Bits per feature", ylabel="Squared error per feature")
        _add_legend(self.ax_, own_figure)
        return self

    def _plot_bound(self, rates: Any, bound_kwargs: dict[str, Any] | None) -> Any:
        variances = np.atleast_1d(np.asarray(self.variances, dtype=np.float64))
        drawn = next(
            (
                line
                for line in self.ax_.get_lines()
                if line.get_gid() == f"{_BOUND_ID}-{self.bound}"
                and _are_alike(line.skvq_variances, variances)
            ),
            None,
        )
        last = max(rates.max(), 1.0)
        if drawn is not None:
            last = max(last, drawn.get_xdata()[-1])
        # One step in 64 bits of a feature is straight to the eye.
        bits = np.linspace(0.0, last, 65 + int(8 * last))
        n_features = len(variances)
        errors = distortion_bound(variances, n_features * bits) / n_features
        if drawn is not None:
            drawn.set_data(bits, errors)
            drawn.set(**(bound_kwargs or {}))
            self.ax_.relim()
            self.ax_.autoscale_view()
            return drawn
        dashes = "--" if self.bound == "covariance" else ":"
        style = {"color": "black", "linestyle": dashes, "label": _BOUNDS[self.bound]}
        style["gid"] = f"{_BOUND_ID}-{self.bound}"
        (line,) = self.ax_.plot(bits, errors, **style | (bound_kwargs or {}))
        line.skvq_variances = variances
        return line


class CodeUsageDisplay:
    """How often the codewords of each code column are used.

    One line for each code column: the shares of its codewords from the most to the
    least used, times their number, over their rank divided by their number.  A column
    that uses all codewords alike is a line at 1; dead codewords are where it ends.

    Parameters
    ----------
    shares : sequence of ndarray of shape (V_j,)
        Share of the samples that have each code, for each code column.
    perplexities : sequence of float, optional
        Perplexity of each code column, for the legend.
    usages : sequence of float, optional
        Share of the codewords of each code column in use, for the legend.
    name : str, optional
        Title.

    Attributes
    ----------
    lines_ : list of matplotlib Line2D
        One line for each code column.
    uniform_ : matplotlib Line2D
        Where all codewords are used alike.
    ax_ : matplotlib Axes
        The axes.
    figure_ : matplotlib Figure
        The figure.

    See Also
    --------
    CodeUsageDisplay.from_estimator : Make and draw it from a fitted quantizer.
    CodeUsageDisplay.from_codes : Make and draw it from codes.
    CodeUsageDisplay.from_report : Make and draw it from a report.

    Examples
    --------
    >>> import numpy as np
    >>> from skvq import VectorQuantizer
    >>> from skvq.display import CodeUsageDisplay
    >>> X = np.random.default_rng(0).normal(size=(200, 2))
    >>> quantizer = VectorQuantizer(8, random_state=0).fit(X)
    >>> display = CodeUsageDisplay.from_estimator(quantizer, X)
    >>> [len(shares) for shares in display.shares]
    [8]
    """

    ax_: Any
    figure_: Any
    lines_: list[Any]
    uniform_: Any

    def __init__(
        self,
        shares: Sequence[NDArray[Any]],
        *,
        perplexities: Sequence[float] | NDArray[Any] | None = None,
        usages: Sequence[float] | NDArray[Any] | None = None,
        name: str | None = None,
    ) -> None:
        self.shares = shares
        self.perplexities = perplexities
        self.usages = usages
        self.name = name

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: MatrixLike,
        *,
        sample_weight: VectorLike | None = None,
        name: str | None = None,
        ax: Any = None,
        line_kwargs: dict[str, Any] | None = None,
    ) -> Self:
        """Draw the use that samples make of a fitted quantizer's codewords.

        Parameters
        ----------
        estimator : quantizer
            Fitted quantizer, or `QuantizedFeatures` of one.
        X : array-like of shape (n_samples, n_features)
            Samples.
        sample_weight : array-like of shape (n_samples,), optional
            Weights of the samples.
        name : str, optional
            Title; by default the class of the quantizer and its bits.
        ax : matplotlib Axes, optional
            Axes to draw on; by default those of a new figure.
        line_kwargs : dict, optional
            For `matplotlib.axes.Axes.plot` of the lines.

        Returns
        -------
        display : CodeUsageDisplay
            The display, drawn.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        TypeError
            If it is no quantizer.
        ValueError
            If X or the weights are not valid.
        sklearn.exceptions.NotFittedError
            If the quantizer is not fitted.
        """
        _pyplot(f"{cls.__name__}.from_estimator")
        quantizer = _quantizer_of(estimator)
        _check_here(X)
        if quantizer is not estimator:
            X = check_array(X, dtype="numeric", input_name="X")
        return cls.from_codes(
            np.asarray(quantizer.transform(X)),
            quantizer.codebook_sizes_,
            sample_weight=sample_weight,
            name=name if name is not None else _describe(quantizer),
            ax=ax,
            line_kwargs=line_kwargs,
        )

    @classmethod
    def from_codes(
        cls,
        codes: MatrixLike,
        sizes: Sizes,
        *,
        sample_weight: VectorLike | None = None,
        name: str | None = None,
        ax: Any = None,
        line_kwargs: dict[str, Any] | None = None,
    ) -> Self:
        """Draw the use of the codewords in codes.

        Parameters
        ----------
        codes : array-like of int, shape (n_samples, n_codes)
            Codes as `transform` returns them.
        sizes : sequence of int
            Number of codewords V_j of each code column: the `codebook_sizes_` of the
            quantizer.
        sample_weight : array-like of shape (n_samples,), optional
            Weights of the samples.
        name : str, optional
            Title.
        ax : matplotlib Axes, optional
            Axes to draw on; by default those of a new figure.
        line_kwargs : dict, optional
            For `matplotlib.axes.Axes.plot` of the lines.

        Returns
        -------
        display : CodeUsageDisplay
            The display, drawn.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        ValueError
            If codes, sizes or the weights are not valid.
        """
        _pyplot(f"{cls.__name__}.from_codes")
        report = code_report(codes, sizes, sample_weight=sample_weight)
        return cls.from_report(report, name=name, ax=ax, line_kwargs=line_kwargs)

    @classmethod
    def from_report(
        cls,
        report: CodeReport,
        *,
        name: str | None = None,
        ax: Any = None,
        line_kwargs: dict[str, Any] | None = None,
    ) -> Self:
        """Draw the use of the codewords of which a report tells.

        Parameters
        ----------
        report : CodeReport
            What `skvq.metrics.code_report` returns.
        name : str, optional
            Title.
        ax : matplotlib Axes, optional
            Axes to draw on; by default those of a new figure.
        line_kwargs : dict, optional
            For `matplotlib.axes.Axes.plot` of the lines.

        Returns
        -------
        display : CodeUsageDisplay
            The display, drawn.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        TypeError
            If it is no such report.
        """
        _pyplot(f"{cls.__name__}.from_report")
        if not isinstance(report, CodeReport):
            raise TypeError(
                f"report is {report!r}; expected what skvq.metrics.code_report returns."
            )
        columns = report["columns"]
        shares = [np.zeros(column["size"]) for column in columns]
        for row, (codes, found) in zip(shares, report.used, strict=True):
            row[codes] = found
        display = cls(
            tuple(shares),
            perplexities=[column["perplexity"] for column in columns],
            usages=[column["usage"] for column in columns],
            name=name,
        )
        return display.plot(ax=ax, line_kwargs=line_kwargs)

    def __repr__(self) -> str:
        return f"<CodeUsageDisplay of {len(self.shares)} code columns{_of(self.name)}>"

    def plot(
        self,
        ax: Any = None,
        *,
        name: str | None = None,
        line_kwargs: dict[str, Any] | None = None,
    ) -> Self:
        """Draw the use of the codewords.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            Axes to draw on; by default those of a new figure.
        name : str, optional
            Title, instead of the display's own name.
        line_kwargs : dict, optional
            For `matplotlib.axes.Axes.plot` of the lines.

        Returns
        -------
        display : CodeUsageDisplay
            The display itself.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        """
        own_figure = ax is None
        self.ax_, self.figure_ = _axes(ax, f"{type(self).__name__}.plot")
        self.lines_ = []
        for column, shares in enumerate(self.shares):
            size = len(shares)
            used = np.sort(shares[shares > 0])[::-1]
            # The codeword of rank k spans k/V to (k+1)/V.
            edges = np.arange(len(used) + 1) / size
            style = {"drawstyle": "steps-post", "label": self._label(column)}
            if len(self.shares) <= _LEGEND_ENTRIES:
                style["linestyle"] = _DASHES[column % len(_DASHES)]
            (line,) = self.ax_.plot(
                edges, size * np.append(used, used[-1]), **style | (line_kwargs or {})
            )
            self.lines_.append(line)
        self.uniform_ = self.ax_.axhline(1.0, color="black", linestyle="--")
        self.ax_.set(
            yscale="log",
            xlim=(0, 1),
            title=self.name if name is None else name,
            xlabel="Codewords, the most used first (share)",
            ylabel="Use (1: all alike)",
        )
        if len(self.shares) <= _LEGEND_ENTRIES:
            _add_legend(self.ax_, own_figure)
        return self

    def _label(self, column: int) -> str:
        text = f"code {column}"
        if self.perplexities is not None:
            size = len(self.shares[column])
            text += f": perplexity {self.perplexities[column]:.3g} of {size}"
        if self.usages is not None:
            text += f", {self.usages[column]:.1%} in use"
        return text


# -- what they share ---------------------------------------------------------------


def _pyplot(caller: str) -> Any:
    try:
        from matplotlib import pyplot
    except ImportError as error:
        raise ImportError(
            f"{caller} needs matplotlib: pip install skvq[demo]."
        ) from error
    return pyplot


def _axes(ax: Any, caller: str) -> tuple[Any, Any]:
    pyplot = _pyplot(caller)
    if ax is None:
        # The layout leaves room for a legend beside the axes.
        _, ax = pyplot.subplots(layout="constrained")
    return ax, ax.figure


def _next_mark(ax: Any) -> str:
    """Return a mark that the fewest curves on the axes have."""
    there = [line.get_marker() for line in ax.get_lines()]
    return min(_MARKS, key=there.count)


def _add_legend(ax: Any, own_figure: bool) -> None:
    """Add a legend where it covers no line: beside the axes, in a figure of our own.

    On the axes of others, whose neighbours are not known, it is where matplotlib finds
    most room.
    """
    if not ax.get_legend_handles_labels()[0]:
        return
    if own_figure:
        ax.figure.set_size_inches(8.0, 4.8)
    before = ax.get_legend()
    if own_figure or (before is not None and before.get_gid() == _BESIDE):
        place = {"loc": "upper left", "bbox_to_anchor": (1, 1)}
        ax.legend(**place, fontsize="small").set_gid(_BESIDE)
    else:
        ax.legend(loc="best", fontsize="small")


def _check_bound(bound: Any) -> None:
    if bound not in _BOUNDS:
        raise ValueError(f"bound={bound!r}; expected 'covariance' or 'independent'.")


def _are_alike(found: np.ndarray, expected: np.ndarray) -> bool:
    return found.shape == expected.shape and np.allclose(found, expected)


def _curve_by_stage(
    estimator: Any, X: Any, sample_weight: Any
) -> tuple[np.ndarray, np.ndarray] | None:
    """Return bits and distortions of the partial sums; None if it has none."""
    codec = find_codec(estimator)
    quantizer = codec.quantizer
    if not isinstance(quantizer, StagedQuantizer) or quantizer._why_no_stages():
        return None
    _check_here(X)
    codec.check_invertible()
    samples = check_array(X, dtype="numeric", input_name="X")
    codes = np.asarray(quantizer.transform(codec.quantized(X)))
    errors = []
    for partial in quantizer.staged_inverse_transform(codes):
        for _, step in reversed(codec.before):
            partial = step.inverse_transform(partial)
        errors.append(distortion(samples, partial, sample_weight=sample_weight))
    bits = np.cumsum(np.log2(np.asarray(quantizer.codebook_sizes_, dtype=float)))
    return bits[np.asarray(quantizer._decodable_widths()) - 1], np.array(errors)


def _quantizer_of(estimator: Any) -> Any:
    check_is_fitted(estimator)
    quantizer = getattr(estimator, "quantizer_", estimator)
    if not hasattr(quantizer, "codebook_sizes_"):
        raise TypeError(
            f"{type(estimator).__name__} is no quantizer, nor QuantizedFeatures; of a "
            "pipeline, give the step that quantizes, and the samples that it is given."
        )
    return quantizer


def _check_here(X: Any) -> None:
    """Raise if X is a collection of Dask's, all of which would be computed."""
    nearest.backend_of(X)


def _describe(quantizer: Any) -> str:
    return f"{type(quantizer).__name__}, {quantizer.bits_per_sample_:.4g} bits"


def _feature_names(estimator: Any) -> Sequence[str] | None:
    names = getattr(estimator, "feature_names_in_", None)
    return None if names is None else [str(name) for name in names]


def _named_like(grid: np.ndarray, X: Any, quantizer: Any) -> Any:
    """Return the grid with the feature names of X, if the quantizer has seen any."""
    if getattr(quantizer, "feature_names_in_", None) is None or not hasattr(
        X, "columns"
    ):
        return grid
    frame = type(X)(grid)  # pandas and polars agree on this, and on the next line
    frame.columns = list(X.columns)
    return frame


def _grid(samples: np.ndarray, resolution: int, eps: float) -> tuple[np.ndarray, ...]:
    """Return the positions of a grid around the samples."""
    low, high = samples.min(axis=0), samples.max(axis=0)
    # A constant feature gets the extent of the other; a single point gets 1.
    extent = high - low
    widest = extent.max() if extent.max() > 0 else 1.0
    margin = np.where(extent > 0, eps * extent, widest / 2)
    low, high = low - margin, high + margin
    return tuple(np.linspace(low, high, resolution).T)


def _ratio(extent: Sequence[float]) -> float:
    left, right, bottom, top = extent
    return (top - bottom) / (right - left)


def _codewords(quantizer: Any, grid: Any) -> np.ndarray:
    size = float(np.prod(np.asarray(quantizer.codebook_sizes_, dtype=float)))
    if size <= _MAX_CODEWORDS:
        table = quantizer.full_codebook(max_size=_MAX_CODEWORDS)
    else:
        table = np.asarray(quantizer.quantize(grid))
    return table[unique_rows(table)[0]]


def _cell_colours(cells: np.ndarray, cmap: Any) -> np.ndarray:
    """Return pale colours (n_rows, n_columns, 3), and dark borders between cells."""
    from matplotlib import colormaps

    # Hues far apart, in random order: neighbours differ whatever the numbering.
    hues = np.random.default_rng(0).permutation(cells.max() + 1) / (cells.max() + 1)
    colours = (colormaps[cmap] if isinstance(cmap, str) else cmap)(hues[cells])[..., :3]
    colours = 1 - 0.35 * (1 - colours)
    border = np.zeros(cells.shape, dtype=bool)
    border[:, 1:] |= cells[:, 1:] != cells[:, :-1]
    border[1:] |= cells[1:] != cells[:-1]
    colours[border] = 0.3
    return colours


def _of(name: str | None) -> str:
    """Return the name of what is drawn, for representations, if it has one."""
    return "" if name is None else f", {name!r}"
