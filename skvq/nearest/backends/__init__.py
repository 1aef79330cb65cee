"""Backends: a class for each array library, which computes blocks of rows.

`choice` says which backend computes with an array, and `register_backend` adds one.
"""
