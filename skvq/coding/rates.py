"""What codes cost, when frequent ones are written in fewer bits than rare ones."""

import numpy as np

# What is added to every count, so that a code which was never seen has a probability.
UNSEEN = 0.02


def code_lengths(counts: np.ndarray) -> np.ndarray:
    """Return what each code of a column costs, -log2 of its probability.

    Parameters
    ----------
    counts : ndarray of shape (n_codewords,)
        How often each code was seen; all of them together are more than zero.

    Returns
    -------
    bits : ndarray of float64, shape (n_codewords,)
        With probabilities in proportion to the counts, of which each is raised by
        `UNSEEN`.
    """
    smoothed = np.asarray(counts, dtype=np.float64) + UNSEEN
    return np.log2(smoothed.sum()) - np.log2(smoothed)
