"""Encoding and decoding; nothing here learns.

============  ======================================================================
`levels`      scalar codecs of many columns at once: cells and their levels
`squash`      bounded rounding of features, for finite scalars
`trellis`     codes that are paths through a trellis
`directions`  lengths and angles of vectors
`radius`      the length of a vector as code columns
`turns`       rotations of rows about their mean
`pyramid`     maps of tokens, scale by scale
`charges`     what searches add to errors for codes
`rates`       counts of codes and the bits that they cost
`sums`        distances as sums over codes
============  ======================================================================
"""
