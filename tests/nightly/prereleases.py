"""The suite on pre-releases of what skvq needs, by `.ci/prereleases`."""

from nightly.harness import script


def run(job):
    script(job, ".ci/prereleases")
