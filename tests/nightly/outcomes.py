"""A plugin of pytest: one line of JSON for each test, written when it has ended.

With --begin-at, tests begin at another place of their order: a run that is cut short
then sees others than the one before.
"""

import json

import pytest


def pytest_addoption(parser):
    parser.addoption("--outcomes", metavar="FILE", help="where lines are appended")
    parser.addoption("--begin-at", type=int, default=0, help="any number")


def pytest_configure(config):
    # With several workers, the process that started them hears of every test.
    if config.getoption("--outcomes") and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Writer(config.getoption("--outcomes")))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config, items):
    place = config.getoption("--begin-at") % max(1, len(items))
    items[:] = items[place:] + items[:place]


class Writer:
    """Appends what became of each test."""

    def __init__(self, path):
        self.path = path

    def pytest_runtest_logreport(self, report):
        if report.when == "call" or report.outcome != "passed":
            message = ""
            if report.failed:
                crash = getattr(report.longrepr, "reprcrash", None)
                message = crash.message if crash else str(report.longrepr)
            self._append(report.nodeid, report.outcome, message, report.duration)

    def pytest_collectreport(self, report):
        if report.failed:
            self._append(report.nodeid, "failed", str(report.longrepr), 0.0)

    def _append(self, name, outcome, message, seconds):
        line = {
            "name": name,
            "outcome": outcome,
            "message": " ".join(message.split())[:300],
            "seconds": round(seconds, 3),
        }
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
