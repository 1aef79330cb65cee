"""Names that have changed: as files have them."""

from collections.abc import Mapping
from typing import Any

# By class, the names that parameters and fitted attributes had in files and pickles
# before they were renamed.  A line stays for good, since files stay readable.
IN_FILES: dict[str, Mapping[str, str]] = {
    "BinaryQuantizer": {"radius_levels": "n_radius_levels"},
    "FiniteScalarQuantizer": {
        "levels": "n_levels",
        "bound": "squash",
        "formula": "squash_formula",
    },
    "SphericalQuantizer": {"radius_levels": "n_radius_levels"},
    "TrellisQuantizer": {"levels": "alphabets"},
    "UniformQuantizer": {
        "feature_range": "clip_range",
        "feature_range_": "clip_range_",
        "density": "feature_distribution",
        "ends": "range_ends",
    },
}


def with_new_names(cls: type[Any], state: Mapping[str, Any]) -> dict[str, Any]:
    """Return the state of an estimator under the names that it has today.

    Parameters
    ----------
    cls : type
        Its class, or one that inherits from it.
    state : mapping
        Parameters and attributes, as a file or a pickle has them.

    Returns
    -------
    state : dict
    """
    old: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        old |= IN_FILES.get(base.__name__, {})
    if old:
        # A class of a user's may have a parameter of such a name.
        own = set(cls._get_param_names())
        old = {name: new for name, new in old.items() if name not in own}
    return {old.get(name, name): value for name, value in state.items()}
