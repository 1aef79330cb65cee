"""Names that codec files of versions 1 and 2 look for here."""

from skvq.coding.radius import Float32Radius, RadiusCode, ScalarRadius  # noqa: F401
