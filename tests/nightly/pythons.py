"""The suite on every Python that is found, by `.ci/all_pythons`."""

from nightly.harness import script


def run(job):
    script(job, ".ci/all_pythons")
