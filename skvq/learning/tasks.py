"""Tasks: what a learner tells of its progress, and whether it is asked to stop.

A learner finds a task in its rows, ``rows.task``.  It begins one task within it for
each iteration, and ends it with what it would return if it stopped there.  Who listens,
if anybody does, and in which words, is not known here: the tasks of this module tell
nobody, and whoever runs the learner may give the rows another (`Rows.under`).
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any


class Task:
    """A stretch of learning that nobody is told of.

    It has no state: a learner may begin a task within it at any time, and the tasks
    within it may be going on at the same time.
    """

    def begin(self, name: str, most: int | None = 0) -> "Task":
        """Return a task within this one, which begins now.

        Parameters
        ----------
        name : str
            What it is called.
        most : int or None
            How many tasks there will be within it, at most; None: nobody knows.
        """
        return self

    def end(self, found: Callable[[], Any] | None = None) -> bool:
        """End this task; return whether those after it are asked not to begin.

        Parameters
        ----------
        found : callable, optional
            Returns what the learner would return if it stopped here; it is called only
            if somebody wants to know.
        """
        return False

    def giving(self, made: Callable[[Any], Any] | None) -> "Task":
        """Return the same task, for a learner whose results others make theirs of.

        Parameters
        ----------
        made : callable or None
            Takes what the learner within ends its tasks with; returns what this task
            would be ended with.  None: nothing can be made of it.
        """
        return self

    def open(
        self, name: str, number: int = 0, found: Callable[[], Any] | None = None
    ) -> "Task":
        """Return a task for the fit of a part, which begins with that fit.

        Parameters
        ----------
        name : str
            What it is called.
        number : int
            Its place among those within this task, where they are done in any order.
        found : callable, optional
            As in `end`, for when the part is fitted.
        """
        return self

    def fitting(self, part: Any, rows: Any) -> AbstractContextManager["Task"]:
        """Begin a task that was opened, and end it behind the block.

        Parameters
        ----------
        part : estimator
            What is fitted in the block.
        rows : Rows
            What it learns from.

        Returns
        -------
        context
            Gives the task that the learner of the part finds in its rows.
        """
        return nullcontext(self)


SILENT = Task()
