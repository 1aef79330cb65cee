"""The second tier of tests: parts that look for what no run of minutes can find.

`schedule` shares out the time, runs each part as a process of its own and writes the
report.  A part is one module with a function ``run(job)``; `harness` has what all parts
use.  Pytest does not collect this folder: `.ci/nightly` runs it.
"""
