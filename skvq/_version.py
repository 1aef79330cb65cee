"""The version, in a module that imports nothing else."""

__version__ = "0.2.0.dev0"
