"""The command line: a module for each command, and what they share.

========================  ==========================================================
`codec`                   ``fit``, ``encode`` and ``decode``
`info`                    ``info``
`compare`                 ``compare``
`demo`                    ``demo``
`schemes`                 the specifications of schemes, ``pca:24+pq:8x256``
`sources`                 data files, read piece by piece
`cache`                   results of ``compare``, kept for the next run
`console`                 errors, progress, tables
========================  ==========================================================

`skvq.__main__` puts them together.
"""
