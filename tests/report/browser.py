"""A headless Chromium, spoken to by its DevTools protocol over two pipes: no port, and no driver of its own."""

import base64
import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
from dataclasses import dataclass, field

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = [
    "--headless",
    "--no-sandbox",  # it refuses to have one as root, and loads nothing but the tests' own files
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",  # small in containers
    "--hide-scrollbars",
    "--remote-debugging-pipe",
]
# Chromium reads commands from descriptor 3 and answers on 4; what else it says goes to standard error.
WITH_PIPES = 'exec "$@" 3<&0 4>&1 </dev/null >&2'
SILENCE_SECONDS = 30  # a browser that says nothing for so long hangs


def program():
    return next(filter(None, map(shutil.which, PROGRAMS)), None)


@dataclass
class Look:
    """What a page was seen to be and to do."""

    requests: list[str] = field(default_factory=list)  # all that it asked for, itself included
    complaints: list[str] = field(default_factory=list)  # console errors and warnings, exceptions
    values: dict = field(default_factory=dict)  # what the JavaScript expressions came to
    screenshot: bytes = b""  # a PNG


class Browser:
    """One process for many pages."""

    def __init__(self, profile):
        command = ["sh", "-c", WITH_PIPES, "chromium", program(), *FLAGS, f"--user-data-dir={profile}", "about:blank"]
        self.process = subprocess.Popen(
            command,
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self.received = b""
        self.last_id = 0

    def close(self):
        """End it in order if it still answers, and all of its processes in any case."""
        try:
            with contextlib.suppress(OSError, EOFError):
                self.call("Browser.close")
            self.process.wait(SILENCE_SECONDS)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process.stdin.close()
            self.process.stdout.close()

    def look(self, url, width, phone=False, dark=False, expressions=None):
        """Load a page in a window of this width, and see what it does until it has been painted.

        A phone lays out a page that does not say otherwise for a far wider window.
        """
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        found = Look()

        def call(method, **parameters):
            return self.call(method, session, lambda event: note(found, event), **parameters)

        for domain in ("Page", "Network", "Log", "Runtime"):
            call(f"{domain}.enable")
        call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=phone)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        call("Emulation.setEmulatedMedia", features=[scheme])
        call("Page.navigate", url=url)
        # Its turns come after the page's own: fonts, pictures and two frames.
        call("Runtime.evaluate", expression=PAINTED, awaitPromise=True)
        for name, expression in (expressions or {}).items():
            answer = call("Runtime.evaluate", expression=expression, returnByValue=True)
            if "exceptionDetails" in answer:
                raise ValueError(f"{expression}: {answer['exceptionDetails']}")
            found.values[name] = answer["result"]["value"]
        picture = call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        found.screenshot = base64.b64decode(picture["data"])
        self.call("Target.closeTarget", targetId=target)
        return found

    def call(self, method, session=None, on_event=lambda event: None, **parameters):
        self.last_id += 1
        message = {"id": self.last_id, "method": method, "params": parameters}
        if session:
            message["sessionId"] = session
        self.process.stdin.write(json.dumps(message).encode() + b"\0")
        while (answer := self.receive()).get("id") != self.last_id:
            on_event(answer)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return answer["result"]

    def receive(self):
        while b"\0" not in self.received:
            if not select.select([self.process.stdout], [], [], SILENCE_SECONDS)[0]:
                raise TimeoutError("chromium does not answer")
            if not (data := self.process.stdout.read(65536)):
                raise EOFError("chromium has ended")
            self.received += data
        message, _, self.received = self.received.partition(b"\0")
        return json.loads(message)


PAINTED = """
new Promise(resolve => {
    const painted = () => document.fonts.ready.then(
        () => requestAnimationFrame(() => requestAnimationFrame(resolve)));
    document.readyState === "complete" ? painted() : addEventListener("load", painted);
})
"""


def note(found, event):
    about = event.get("params", {})
    match event.get("method"):
        case "Network.requestWillBeSent":
            found.requests.append(about["request"]["url"])
        case "Log.entryAdded" if about["entry"]["level"] in ("error", "warning"):
            found.complaints.append(about["entry"]["text"])
        case "Runtime.consoleAPICalled" if about["type"] in ("error", "warning", "assert"):
            found.complaints.append(" ".join(str(value.get("value")) for value in about["args"]))
        case "Runtime.exceptionThrown":
            found.complaints.append(about["exceptionDetails"]["text"])
