"""Names that files and pickles of versions before 0.2 look for here."""

from skvq.coding.radius import Float32Radius, RadiusCode, ScalarRadius  # noqa: F401
