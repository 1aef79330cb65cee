"""The order of the gallery: by what one wants to do."""

from pathlib import Path

ORDER = [
    # Embeddings compressed and searched.
    "plot_embeddings.py",
    "plot_recall.py",
    "plot_faiss.py",
    # A codec in use.
    "plot_serving.py",
    "plot_dataframes.py",
    # More rows than fit in memory.
    "plot_dask.py",
    "plot_streaming.py",
    # Tokens and ids.
    "plot_tokens.py",
    "plot_semantic_ids.py",
    "plot_digits_classifier.py",
    # Pictures.
    "plot_colour_palette.py",
    "plot_block_compression.py",
    # The schemes beside each other.
    "plot_cells.py",
    "plot_choose_under_a_budget.py",
    "plot_rate_distortion.py",
]


class ByPurpose:
    """Sort the examples of a folder; those that are not listed come last, by name."""

    def __init__(self, folder):
        pass  # there is one folder

    def __call__(self, path):
        """Return what an example is sorted by."""
        name = Path(path).name
        return (ORDER.index(name) if name in ORDER else len(ORDER), name)
