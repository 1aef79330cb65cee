"""What encodes and decodes, and learns nothing.

============  ======================================================================
`levels`      cells on a line, and their levels, of many columns at once
`directions`  lengths and angles of vectors
`radius`      the length of a vector as code columns
`pyramid`     maps of tokens, scale by scale
============  ======================================================================
"""
