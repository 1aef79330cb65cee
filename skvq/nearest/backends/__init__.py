"""Who computes a block: a class for each array library.

`choice` says which one takes an array, and `register_backend` adds one.
"""
