"""Chromium without a window, told what to do by its DevTools protocol."""

from __future__ import annotations

import base64
import itertools
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from websockets.sync.client import connect

from tests.real.programs import ROOT, Case, program, short_place

#: How long anything may take, in seconds.
PATIENCE: Final = 60.0

_KEYS: Final = {
    "Tab": ("Tab", 9, ""),
    "Enter": ("Enter", 13, "\r"),
    "Space": (" ", 32, " "),
    "ArrowDown": ("ArrowDown", 40, ""),
    "ArrowUp": ("ArrowUp", 38, ""),
}


class AdminServer:
    """``tests.gateway.admin.admin_server`` as a program; :attr:`url` is where it is."""

    def __init__(self, case: Case) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.gateway.admin.admin_server"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        case.addCleanup(self._stop)
        assert self._process.stdout is not None
        self.url = f"http://127.0.0.1:{int(self._process.stdout.readline())}"

    def _stop(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(PATIENCE)
        self._process.stdout.close()


class Chromium:
    """
    One browser with one page. What its console and its network said is in :attr:`complaints` and
    :attr:`visited`.
    """

    def __init__(self, case: Case) -> None:
        profile = short_place(case)
        self._process = subprocess.Popen(
            [
                program("chromium") or "chromium",
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--no-first-run",
                "--disable-background-networking",
                "--disable-component-update",
                "--hide-scrollbars",
                "--remote-debugging-port=0",
                f"--user-data-dir={profile}",
                "about:blank",
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        case.addCleanup(self._stop)
        self.complaints: list[str] = []
        self.visited: list[str] = []
        self._ids = itertools.count(1)
        self._loads = 0
        port, path = self._address(profile / "DevToolsActivePort")
        self._socket = connect(f"ws://127.0.0.1:{port}{path}", max_size=None, open_timeout=PATIENCE)
        self._session: str | None = None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: object) -> Any:
        """One command; what it gives."""
        number = next(self._ids)
        message: dict[str, object] = {"id": number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        self._socket.send(json.dumps(message))
        deadline = time.monotonic() + PATIENCE
        while True:
            told = json.loads(self._socket.recv(deadline - time.monotonic()))
            if told.get("id") == number:
                assert "error" not in told, (method, told["error"])
                return told["result"]
            self._note(told)

    def look(self, *, width: int = 1000, height: int = 800, dark: bool = False, phone: bool = False) -> None:
        """The size of the window, and what its user prefers."""
        scale = 2 if phone else 1
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=scale,
            mobile=phone,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def go(self, url: str) -> None:
        """Load a page."""
        self.loading(lambda: self.call("Page.navigate", url=url))

    def loading(self, act: Callable[[], object]) -> None:
        """Do something that loads a page, and wait for that."""
        before = self._loads
        act()
        self.until(lambda: self._loads > before, "the page to load")

    def until(self, condition: Callable[[], object], what: str) -> None:
        """Wait for a condition."""
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < deadline, f"waited for {what} in vain"
            with suppress(TimeoutError):
                self._note(json.loads(self._socket.recv(0.05)))

    def until_focus(self, expression: str) -> None:
        """
        Wait until ``expression`` is true of ``e``, the element that has the focus: an element that asks for
        it gets it when the page is first drawn, which may be after it has loaded.
        """
        asked = f"(e => Boolean({expression}))(document.activeElement)"
        self.until(lambda: self.run(asked), f"the focus where {expression}")

    def run(self, expression: str) -> Any:
        """What an expression of JavaScript gives."""
        told = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in told, told
        return told["result"].get("value")

    def press(self, *keys: str) -> None:
        """Keys, one after the other."""
        for name in keys:
            key, code, text = _KEYS[name]
            common = {"key": key, "code": name, "windowsVirtualKeyCode": code}
            self.call("Input.dispatchKeyEvent", type="keyDown", text=text, **common)
            self.call("Input.dispatchKeyEvent", type="keyUp", **common)

    def write(self, text: str) -> None:
        """Text, as from a keyboard."""
        self.call("Input.insertText", text=text)

    def tab_to(self, expression: str) -> None:
        """Press the tabulator until ``expression`` is true of ``e``, the element that has the focus."""
        for _ in range(60):
            self.press("Tab")
            if self.run(f"(e => Boolean({expression}))(document.activeElement)"):
                return
        raise AssertionError(f"no tabulator reaches {expression}")

    @property
    def text(self) -> str:
        """What can be read on the page."""
        return str(self.run("document.body.innerText"))

    def picture(self, path: Path, *, whole: bool = True) -> None:
        """What the page looks like, as a PNG."""
        told = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(told["data"]))

    def _note(self, told: Any) -> None:
        method, said = told.get("method"), told.get("params", {})
        if method == "Page.loadEventFired":
            self._loads += 1
        elif method == "Network.requestWillBeSent":
            self.visited.append(said["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(json.dumps(said["exceptionDetails"])[:400])
        elif method == "Log.entryAdded" and said["entry"]["level"] in {"warning", "error"}:
            self.complaints.append(said["entry"]["text"])
        elif method == "Runtime.consoleAPICalled" and said["type"] in {"error", "warning"}:
            self.complaints.append(json.dumps(said["args"])[:400])

    def _address(self, file: Path) -> tuple[int, str]:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            with suppress(FileNotFoundError):
                match = re.fullmatch(r"(\d+)\n(/\S+)", file.read_text())
                if match is not None:
                    return int(match[1]), match[2]
            time.sleep(0.02)
        raise AssertionError("chromium does not start")

    def _stop(self) -> None:
        with suppress(Exception):
            self._session = None
            self.call("Browser.close")
            self._socket.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
