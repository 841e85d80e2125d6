"""A headless Chromium driven through its own debugging port; just what the acceptance tests need.

Elements are found by their visible text, as a person finds them.
"""

import base64
import itertools
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from websockets.sync.client import ClientConnection, connect

PATIENCE_SECONDS = 90
_CLICKABLE = "button, a, [role=tab], [role=button]"
_FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars"),
    *("--remote-debugging-port=0", "--window-size=1400,860", "--disable-dev-shm-usage"),
)
_KEYS = {"Tab": (9, ""), "Enter": (13, "\r"), " ": (32, " ")}
_FIND = """(selector, text) => [...document.querySelectorAll(selector)]
    .filter(it => it.innerText !== undefined && it.innerText.trim() === text && it.getClientRects().length)
    .map(it => {
        it.scrollIntoView({block: 'center'});
        const box = it.getBoundingClientRect();
        return [box.x + box.width / 2, box.y + box.height / 2];
    })"""


def program() -> str | None:
    """Return the path of the browser, None where none is installed."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Browser:
    """One page. What it tells of itself gathers in `events`, once a domain of them is enabled."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)
        self.events: list[dict[str, Any]] = []

    def ask(self, method: str, **parameters: Any) -> Any:
        """Send one command and return its result."""
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            answer = json.loads(self._socket.recv(timeout=PATIENCE_SECONDS))
            if answer.get("id") == number:
                assert "error" not in answer, answer["error"]
                return answer["result"]
            self.events.append(answer)

    def evaluate(self, expression: str) -> Any:
        """Return the value of a JavaScript expression; a promise is waited for."""
        answer = self.ask("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        return answer["result"].get("value")

    def open(self, address: str) -> None:
        """Go to a page."""
        self.ask("Page.navigate", url=address)

    def text(self) -> str:
        """Return the text a person sees."""
        return str(self.evaluate("document.body ? document.body.innerText : ''"))

    def wait_for(self, *texts: str, seconds: float = PATIENCE_SECONDS) -> str:
        """Wait until the page shows all texts; return all it shows."""
        self._until(lambda: all(text in self.text() for text in texts), f"{texts} to be shown", seconds)
        return self.text()

    def click(self, text: str, selector: str = _CLICKABLE) -> None:
        """Click what shows exactly this text; the last one, which is drawn on top of the others."""
        self._press(*self._spots(text, selector)[-1])

    def click_until(self, text: str, *any_of: str, everywhere: bool = False) -> str:
        """Click until the page shows one of some texts, and return it; while it loads, clicks are lost.

        `everywhere` clicks all that shows the text, not only what is drawn on top.
        """
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            for spot in self._spots(text, _CLICKABLE)[0 if everywhere else -1 :]:
                self._press(*spot)
            # Not sooner again: a second click could close what the first is about to open.
            again = time.monotonic() + 5
            while time.monotonic() < again:
                shown = self.text()
                if found := next((it for it in any_of if it in shown), None):
                    return found
                time.sleep(0.25)
            assert time.monotonic() < deadline, f"clicked {text!r} for {any_of}; the page shows:\n{shown}"

    def _spots(self, text: str, selector: str) -> list[list[float]]:
        find = f"({_FIND})({json.dumps(selector)}, {json.dumps(text)})"
        self._until(lambda: bool(self.evaluate(find)), f"{text!r} to click on", PATIENCE_SECONDS)
        spots: list[list[float]] = self.evaluate(find)
        return spots

    def _press(self, x: float, y: float) -> None:
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            self.ask("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def press(self, *keys: str) -> None:
        """Press keys, one after the other: those of _KEYS."""
        for key in keys:
            number, text = _KEYS[key]
            for kind in ("keyDown", "keyUp"):
                self.ask(
                    "Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=number, text=text
                )

    def resize(self, width: int, height: int) -> None:
        """Show the page in another size, in pixels."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.ask("Emulation.setDeviceMetricsOverride", **size)

    def picture(self, path: Path) -> None:
        """Save what is shown as PNG, once animations have ended."""
        time.sleep(1)
        shot = self.ask("Page.captureScreenshot", format="png")
        path.write_bytes(base64.b64decode(shot["data"]))

    def _until(self, holds: Callable[[], bool], what: str, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < deadline, (
                f"waited {seconds} s for {what}; the page shows:\n{self.text()}"
            )
            time.sleep(0.25)


@contextmanager
def open_browser(profile: Path) -> Iterator[Browser]:
    """Start a browser with a profile of its own and stop it, with all its processes, afterwards."""
    binary = program()
    assert binary is not None
    command = [binary, *_FLAGS, f"--user-data-dir={profile}", "about:blank"]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        with connect(_page_address(profile), max_size=None) as socket:
            yield Browser(socket)
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(10)


def _page_address(profile: Path) -> str:
    port_file = profile / "DevToolsActivePort"
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not port_file.exists() or not port_file.read_text().strip():
        assert time.monotonic() < deadline, "the browser did not start"
        time.sleep(0.1)
    port = port_file.read_text().split()[0]
    with urlopen(f"http://127.0.0.1:{port}/json/list", timeout=PATIENCE_SECONDS) as answer:
        pages = [it for it in json.load(answer) if it["type"] == "page"]
    return str(pages[0]["webSocketDebuggerUrl"])
