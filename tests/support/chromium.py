"""A real browser, without a window and without a network."""

import json
import re
import shutil
import subprocess

import pytest


def _works(program):
    """Tells whether it is more than a hint on where to get the browser."""
    path = shutil.which(program)
    return (
        path and not subprocess.run([path, "--version"], capture_output=True).returncode
    )


_PROGRAM = next(filter(_works, ("chromium", "chromium-browser", "google-chrome")), None)
_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--host-resolver-rules=MAP * ~NOTFOUND",
    "--enable-logging=stderr",
)

needed = pytest.mark.skipif(_PROGRAM is None, reason="there is no Chromium")


class Page:
    """A page as the browser shows it.

    Attributes:
      dom: Its elements, as HTML, when its scripts have run.
      console: What stands in the console.
      requests: What it asked the network for.
    """

    def __init__(self, path, scratch):
        log = scratch / "network.json"
        command = [
            _PROGRAM,
            *_FLAGS,
            f"--user-data-dir={scratch / 'profile'}",
            f"--log-net-log={log}",
            "--dump-dom",
            path.as_uri(),
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=100)
        assert done.returncode == 0, done.stderr
        self.dom = done.stdout
        self.console = re.findall(r"CONSOLE.*?\] (.*)", done.stderr)
        self.requests = _requests(log)


def _requests(log):
    """Returns the addresses that a page of a file has asked for.

    The browser has requests of its own; a page's come from an origin, that of files
    being "null".
    """
    found = set()
    for event in json.loads(log.read_text())["events"]:
        params = event.get("params", {})
        if params.get("initiator") == "null" and "url" in params:
            found.add(params["url"])
    return sorted(found)
