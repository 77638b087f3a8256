"""A headless Chromium that tests steer through its debugging pipe; without one, tests that want it are skipped."""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions"),
)
_TIMEOUT_S = 60.0


def find_browser() -> str:
    """Return the path of Chromium; skips the test if there is none."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip("no Chromium here: apt-get install --no-install-recommends chromium")
    return found


class Tab:
    """A page in the browser.

    Attributes:
        events: what the browser said of it, method and parameters.
    """

    def __init__(self, commands: int, answers: int) -> None:
        self._commands, self._answers = commands, answers
        self._left = b""
        self._number = 0
        self._session: str | None = None
        self.events: list[tuple[str, dict[str, Any]]] = []
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a command and return its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]

    def open(self, path: Path, *, width: int, height: int = 900, dark: bool = False) -> None:
        """Load a file, and forget what was said before."""
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])
        self.events.clear()
        self.send("Page.navigate", url=path.as_uri())
        while not any(method == "Page.loadEventFired" for method, _ in self.events):
            self._note(self._next())

    def evaluate(self, expression: str) -> Any:
        """Return the value of a JavaScript expression in the page, by way of JSON."""
        found = self.send("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def requests(self) -> list[str]:
        """Return the URLs that the page asked for, itself included."""
        return [params["request"]["url"] for method, params in self.events if method == "Network.requestWillBeSent"]

    def complaints(self) -> list[Any]:
        """Return errors, exceptions and other lines of the console."""
        kinds = {
            "Runtime.consoleAPICalled",
            "Runtime.exceptionThrown",
            "Log.entryAdded",
            "Page.javascriptDialogOpening",
        }
        return [params for method, params in self.events if method in kinds]

    def _next(self) -> dict[str, Any]:
        until = time.monotonic() + _TIMEOUT_S
        while b"\0" not in self._left:
            ready, _, _ = select.select([self._answers], [], [], max(until - time.monotonic(), 0))
            assert ready, f"the browser says nothing for {_TIMEOUT_S} s"
            data = os.read(self._answers, 1 << 16)
            assert data, "the browser has ended"
            self._left += data
        line, _, self._left = self._left.partition(b"\0")
        message = json.loads(line)
        self._note(message)
        return message

    def _note(self, message: dict[str, Any]) -> None:
        if "method" in message and message.get("sessionId") == self._session:
            self.events.append((message["method"], message["params"]))


@contextmanager
def open_tab(scratch: Path) -> Iterator[Tab]:
    """Start a browser with an empty profile in `scratch`, and yield a page of it; the browser ends with the block."""
    path = find_browser()
    read_commands, commands = os.pipe()
    answers, write_answers = os.pipe()
    arguments = [path, *FLAGS, f"--user-data-dir={scratch / 'profile'}", "--remote-debugging-pipe"]
    # The browser reads commands from descriptor 3 and answers on 4.
    script = f'exec "$0" "$@" 3<&{read_commands} 4>&{write_answers}'
    with (scratch / "browser.log").open("wb") as log:
        process = subprocess.Popen(
            ["bash", "-c", script, *arguments], pass_fds=(read_commands, write_answers), stdout=log, stderr=log
        )
        try:
            os.close(read_commands)
            os.close(write_answers)
            yield Tab(commands, answers)
        finally:
            os.close(commands)  # it ends when nobody can command it
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            os.close(answers)
