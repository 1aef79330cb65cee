"""Codecs in pipelines: the steps up to the quantizer, and the way back."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import Normalizer
from sklearn.utils.validation import check_is_fitted

Step = tuple[str, Any]


class Codec(NamedTuple):
    """The part of an estimator that leads from X to codes: steps, then a quantizer."""

    before: list[Step]
    step: Any  # the quantizer, or the transformer that wraps it
    quantizer: Any

    def behind(self) -> int:
        """Return the number of steps up to the last one that only encodes."""
        numbers = [
            i for i, (_, step) in enumerate(self.before, 1) if only_encodes(step)
        ]
        return max(numbers, default=0)

    def check_invertible(self, first: int = 0) -> None:
        """Raise a TypeError if a step from `first` on has no inverse."""
        for name, step in self.before[first:]:
            if only_encodes(step):
                raise TypeError(
                    f"step {name!r} ({type(step).__name__}) has no inverse_transform: "
                    "the reconstruction can't be taken back through it to the space "
                    "of X, where the error is measured; "
                    "ReconstructionErrorScorer(behind=True) measures it behind it"
                )
            _check_inverse(name, step)

    def quantized(self, X: Any) -> Any:
        """Return X as the quantizer sees it."""
        for _, step in self.before:
            X = step.transform(X)
        # A quantizer inside another step has seen no feature names.
        return X if quantizes(self.step) else plain(X)

    def decode(self, codes: Any) -> Any:
        """Return reconstructions of codes; steps that only encode leave them alone."""
        X = self.step.inverse_transform(codes)
        for name, step in reversed(self.before):
            if not only_encodes(step):
                _check_inverse(name, step)
                X = step.inverse_transform(X)
        return X


def _check_inverse(name: str, step: Any) -> None:
    if not hasattr(step, "inverse_transform"):
        raise TypeError(
            f"step {name!r} ({type(step).__name__}) has no inverse_transform: "
            "the reconstruction can't be taken back through it to the space of X"
        )


def plain(X: Any) -> Any:
    """Return the values of a dataframe; anything else unchanged."""
    return X.to_numpy() if hasattr(X, "to_numpy") else X


def only_encodes(step: Any) -> bool:
    """Return whether a step is skipped on the way back: its loss is not undone."""
    return isinstance(step, Normalizer)


def find_codec(estimator: Any, *, at_end: bool = False) -> Codec:
    """Return the quantizer in an estimator, and the steps before it.

    Parameters
    ----------
    estimator : object
        A fitted quantizer, `QuantizedFeatures`, or a pipeline with one of them; of a
        fitted search, its best estimator is used.
    at_end : bool, default=False
        Whether the quantizer has to be the last step, with a way back through all
        others: then `transform` gives its codes, and these can be decoded.  Such a
        pipeline may have further quantizers before, and is never a search.

    Returns
    -------
    codec : Codec

    Raises
    ------
    TypeError
        If it holds no quantizer, or not at its end.
    ValueError
        If it holds several.
    sklearn.exceptions.NotFittedError
        If the quantizer is not fitted.
    """
    if at_end and hasattr(estimator, "best_estimator_"):
        raise TypeError(
            f"{type(estimator).__name__} is not a codec; its best_estimator_ is one"
        )
    steps = list(flat_steps(estimator))
    found = [i for i, (_, step) in enumerate(steps) if has_quantizer(step)]
    if at_end:
        _check_end(steps, found)
    elif not found:
        raise TypeError(
            f"{type(estimator).__name__} holds no quantizer: it must be one, be "
            "QuantizedFeatures, or be a pipeline with one of them among its steps, "
            f"which are {[name for name, _ in steps]}"
        )
    elif len(found) > 1:
        raise ValueError(
            f"{type(estimator).__name__} holds several quantizers, in the steps "
            f"{[steps[i][0] for i in found]}: whose codes are to be measured is not "
            "defined; score them one by one"
        )
    step = steps[found[-1]][1]
    check_is_fitted(step)
    return Codec(steps[: found[-1]], step, step if quantizes(step) else step.quantizer_)


def _check_end(steps: list[Step], found: list[int]) -> None:
    """Raise a TypeError unless the last step has a quantizer, and all a way back."""
    names = [type(step).__name__ for _, step in steps]
    if not found or found[-1] != len(steps) - 1:
        what = f"a pipeline of {', '.join(names)}" if len(names) != 1 else names[0]
        raise TypeError(
            "a codec is a quantizer, QuantizedFeatures, or a pipeline that ends in one "
            f"of them, not {what}"
        )
    for name, (_, step) in zip(names, steps, strict=True):
        if not hasattr(step, "inverse_transform") and not only_encodes(step):
            raise TypeError(
                f"{name} has no inverse_transform: codes could not be decoded through "
                "it"
            )


def flat_steps(estimator: Any, prefix: str = "") -> Iterator[Step]:
    """Yield names and estimators of all steps; nested pipelines are expanded."""
    estimator = getattr(estimator, "best_estimator_", estimator)
    if isinstance(estimator, FrozenEstimator):
        estimator = estimator.estimator
    if not isinstance(estimator, Pipeline):
        yield prefix.removesuffix("__") or type(estimator).__name__, estimator
        return
    for name, step in estimator.steps:
        if step is not None and step != "passthrough":
            yield from flat_steps(step, f"{prefix}{name}__")


def quantizes(step: Any) -> bool:
    """Return whether a step is a quantizer."""
    return hasattr(step, "quantize")


def has_quantizer(step: Any) -> bool:
    """Return whether a step is a quantizer, or wraps one as features."""
    # Only QuantizedFeatures holds a quantizer without being one.  The parameter tells
    # before the fit, whose absence raises a better message later.
    inner = getattr(step, "quantizer_", getattr(step, "quantizer", None))
    return quantizes(step) or quantizes(inner)
