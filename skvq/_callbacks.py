"""Fits told to scikit-learn's callbacks, in its words.

The tasks of a fit are those of `skvq.learning.tasks`; here each has a context of
scikit-learn's, by which progress bars and other callbacks know its place.  Before
scikit-learn 1.9 there are none, and all tasks are silent.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple

from sklearn.base import clone

from skvq._compat import (
    OF_A_RUNNING_FIT,
    callback_management_context,
    has_callbacks,
)
from skvq.learning.rows import HELD_BYTES, Rows, in_memory, run
from skvq.learning.tasks import SILENT, Task

# Returns the attributes of an estimator, given what its learner would return if it
# stopped there.
StateOf = Callable[[Any], dict[str, Any]]


class _Data(NamedTuple):
    """What hooks are told of the training data: values, or callables that give them."""

    X: Any = None
    y: Any = None
    metadata: Any = None

    @classmethod
    def given(cls, X: Any, y: Any, sample_weight: Any) -> "_Data":
        """Return those of a fit, as the user gives them."""
        if sample_weight is None:
            return cls(X, y)
        return cls(X, y, {"sample_weight": sample_weight})

    @classmethod
    def of(cls, rows: Rows) -> "_Data":
        """Return those of a part, which are made only for hooks that ask for them."""
        if not rows.source.is_local and rows.n_bytes > HELD_BYTES:
            return cls()  # they stay where they are

        def X() -> Any:
            return run(in_memory(rows))[0]

        def metadata() -> Any:
            weights = run(in_memory(rows))[1]
            return None if weights is None else {"sample_weight": weights}

        return cls(X, None, metadata)


class _Told(Task):
    """A task of which callbacks are told.

    Parameters
    ----------
    context : CallbackContext
        scikit-learn's.
    estimator : estimator
        Whose fit it is a part of.
    data : _Data
        What is learned from.
    state : callable, optional
        Returns, of what the task ends with, all attributes of the estimator as if it
        had stopped there; None: that is not known.
    found : callable, optional
        What the task ends with, if it is for the fit of a part.
    """

    def __init__(
        self,
        context: Any,
        estimator: Any,
        data: _Data,
        state: StateOf | None = None,
        found: Callable[[], Any] | None = None,
    ):
        self._context, self._estimator = context, estimator
        self._data, self._state, self._found = data, state, found

    def begin(self, name: str, most: int | None = 0) -> Task:
        """Return a task within this one, which begins now."""
        if most == 0 and not has_callbacks(self._estimator):
            return SILENT  # with nothing within it, there is nobody to be told
        context = self._context.subcontext(task_name=name, max_subtasks=most)
        task = _Told(context, self._estimator, self._data, self._state)
        task.start()
        return task

    def start(self) -> None:
        """Tell callbacks that the task begins."""
        self._context.call_on_fit_task_begin(
            estimator=self._estimator, **self._data._asdict()
        )

    def end(self, found: Callable[[], Any] | None = None) -> bool:
        """End this task; return whether those after it are asked not to begin."""
        state, attributes = self._state, None
        if found is not None and state is not None:

            def attributes() -> dict[str, Any]:
                # All at once, as `take_over` does: what an earlier fit has left on the
                # estimator is no part of it.
                return {"__dict__": state(found())}

        return self._context.call_on_fit_task_end(
            estimator=self._estimator,
            **self._data._asdict(),
            reconstruction_attributes=attributes,
        )

    def giving(self, made: Callable[[Any], Any] | None) -> Task:
        """Return the same task, for a learner whose results others make theirs of."""
        outer, state = self._state, None
        if outer is not None and made is not None:

            def state(found: Any) -> dict[str, Any]:
                return outer(made(found))

        return _Told(self._context, self._estimator, self._data, state)

    def open(
        self, name: str, number: int = 0, found: Callable[[], Any] | None = None
    ) -> Task:
        """Return a task for the fit of a part, which begins with that fit."""
        place = None if self._context.sequential_subtasks else number
        context = self._context.subcontext(task_name=name, task_id=place)
        return _Told(context, self._estimator, _Data(), self._state, found)

    def fitting(self, part: Any, rows: Rows) -> AbstractContextManager[Task]:
        """Begin a task that was opened, and end it behind the block."""
        return self._fitting(part, _Data.of(rows), rows)

    @contextmanager
    def _fitting(self, part: Any, data: _Data, rows: Rows) -> Iterator[Task]:
        outer = _Told(self._context, self._estimator, data, self._state)
        # It sets attributes of the part alone, and may be held across the requests of a
        # learner, unlike what sets variables of the context of a thread.
        with self._context.propagate_callback_context(part):
            outer.start()
            with callback_management_context(part):
                task = _root(part, part, rows, data)
                yield task
                task.end(lambda: None)
            outer.end(self._found)

    def __reduce__(self) -> Any:
        # To another process go the places of a task, and no training data.
        return _Told, (self._context, self._estimator, _Data())


def fit_task(
    estimator: Any, learning: Any, rows: Rows, data: tuple[Any, Any, Any]
) -> Task:
    """Begin the fit of an estimator; return the task of its learner.

    Parameters
    ----------
    estimator : estimator
        What the user has, and callbacks know; they are set up.
    learning : estimator
        What learns: the same, or a copy that the estimator takes over from.
    rows : Rows
        What it learns from.
    data : tuple
        X, y and sample_weight for callbacks, as the user gives them.
    """
    if not _has_contexts(estimator):
        return SILENT
    told = _who_is_told(estimator, learning)
    return _root(told, learning, rows, _Data.given(*data))


def _root(told: Any, learning: Any, rows: Rows, data: _Data) -> Task:
    """Begin the task of a whole fit, in whose tree are all others."""
    context = told._init_callback_context(
        max_subtasks=learning._n_tasks(), sequential_subtasks=learning._TASKS_IN_TURN
    )

    def state(found: dict[str, Any] | None) -> dict[str, Any]:
        # None: all is done.
        return _lasting(told if found is None else learning._as_if_stopped(rows, found))

    task = _Told(context, told, data, state)
    task.start()
    return task


def fit_clone(
    estimator: Any,
    learning: Any,
    X: Any,
    data: tuple[Any, Any, Any],
    sample_weight: Any = None,
) -> tuple[Any, Task]:
    """Fit a clone of the quantizer of an estimator, as the one task of its fit.

    Parameters
    ----------
    estimator, learning, data
        As in `fit_task`.
    X, sample_weight : object
        Samples and weights that the clone is fitted on.

    Returns
    -------
    quantizer : quantizer
        Fitted.
    task : Task
        To be ended when the estimator has taken over.
    """
    part, weights = clone(estimator.quantizer), {"sample_weight": sample_weight}
    if not _has_contexts(estimator):
        return part.fit(X, None, **weights), SILENT
    told = _who_is_told(estimator, learning)
    context = told._init_callback_context(max_subtasks=1)
    given = _Data.given(*data)
    task = _Told(context, told, given, lambda _: _lasting(told))
    task.start()
    # What is frozen learns nothing, and has nothing to tell.
    if not hasattr(type(part), "set_callbacks"):
        return part.fit(X, None, **weights), task
    inner = context.subcontext(task_name="quantizer")
    leaf = _Told(inner, told, given)
    with inner.propagate_callback_context(part):
        leaf.start()
        part.fit(X, None, **weights)
        leaf.end()
    return part, task


def _has_contexts(estimator: Any) -> bool:
    """Whether this scikit-learn has callbacks."""
    return hasattr(estimator, "_init_callback_context")


def _who_is_told(estimator: Any, learning: Any) -> Any:
    """Return which estimator is to hold the context of a fit.

    It is the user's where anybody listens.  If not, it is the copy that learns, so that
    fits of one estimator in several threads leave it alone until they are done.
    """
    listened = has_callbacks(estimator) or "_parent_callback_ctx" in vars(estimator)
    return estimator if listened else learning


def _lasting(estimator: Any) -> dict[str, Any]:
    """Return the attributes of an estimator that stay when a fit is done."""
    attributes = dict(vars(estimator))
    for name in OF_A_RUNNING_FIT:
        attributes.pop(name, None)
    return attributes
