"""A headless Chromium driven through its debugging pipe: real key presses, real downloads, no further package."""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path

FAINT = """(() => {
  document.querySelectorAll('details').forEach(d => d.open = true);
  const canvas = new OffscreenCanvas(1, 1).getContext('2d', { willReadFrequently: true });
  const rgba = css => { canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = css; canvas.fillRect(0, 0, 1, 1);
    const d = canvas.getImageData(0, 0, 1, 1).data; return [d[0], d[1], d[2], d[3] / 255]; };
  const over = (top, below) => [0, 1, 2].map(n => top[n] * top[3] + below[n] * (1 - top[3]));
  const light = c => [0.2126, 0.7152, 0.0722].reduce((sum, part, n) => { const v = c[n] / 255;
    return sum + part * (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4); }, 0);
  const page = matchMedia('(prefers-color-scheme: dark)').matches ? [18, 18, 18] : [255, 255, 255], found = {};
  const ground = node => { let below = node ? ground(node.parentElement) : page; if (!node) return below;
    const style = getComputedStyle(node);
    const colours = [style.backgroundColor, ...(style.backgroundImage.match(/rgba?\\([^)]*\\)/) || [])];
    for (const colour of colours) below = over(rgba(colour), below);
    return below; };
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const node = texts.currentNode.parentElement, words = texts.currentNode.data.trim();
    if (!words || node.matches('script, style, option') || node.closest(':disabled')
      || !node.checkVisibility({ visibilityProperty: true })) continue;
    const style = getComputedStyle(node), below = ground(node), own = rgba(style.color), size = parseFloat(style.fontSize);
    for (let each = node; each; each = each.parentElement) own[3] *= getComputedStyle(each).opacity;
    const [a, b] = [light(over(own, below)), light(below)].sort((x, y) => y - x), contrast = (a + 0.05) / (b + 0.05);
    if (contrast < (size >= 24 || (size >= 18.6 && style.fontWeight >= 700) ? 3 : 4.5))
      found[`${node.tagName}.${node.className} ${contrast.toFixed(2)}`] ??= words.slice(0, 40);
  }
  return JSON.stringify(Object.entries(found).map(each => each.join(': ')));
})()"""


def find(install: bool = True) -> str | None:
    """The browser's path; None where there is none, and it is not to be or cannot be installed (which needs root on Debian)."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if shutil.which(name):
            return shutil.which(name)
    if install and os.geteuid() == 0 and shutil.which("apt-get"):
        subprocess.run(["apt-get", "update", "-qq"], capture_output=True, timeout=300, check=False)
        subprocess.run(["apt-get", "install", "-y", "-qq", "chromium"], capture_output=True, timeout=300, check=False)
    return shutil.which("chromium")


class Chromium:
    """One page in a headless browser.

    Args:
        binary: the browser.
        folder: for its profile and its downloads.
    """

    def __init__(self, binary: str, folder: Path):
        self.downloads = folder / "downloads"
        self.downloads.mkdir(parents=True)
        to_browser, self._send = os.pipe()
        self._receive, from_browser = os.pipe()
        flags = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--remote-debugging-pipe",
        ]

        flags.append(f"--user-data-dir={folder / 'profile'}")
        shell = f'exec "$@" 3<&{to_browser} 4>&{from_browser}'  # the browser expects the pipes as descriptors 3 and 4
        self._process = subprocess.Popen(
            ["bash", "-c", shell, "bash", binary, *flags],
            pass_fds=(to_browser, from_browser),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_browser)
        os.close(from_browser)
        self._buffer, self._number, self._session = b"", 0, None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.call("Page.enable")
        session, self._session = self._session, None
        self.call(
            "Browser.setDownloadBehavior", behavior="allow", downloadPath=str(self.downloads), eventsEnabled=False
        )
        self._session = session

    def call(self, method: str, **params):
        """One command of the DevTools protocol; returns its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._send, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]

    def _next(self, seconds: float = 30) -> dict:
        while b"\0" not in self._buffer:
            if not select.select([self._receive], [], [], seconds)[0]:
                raise TimeoutError("the browser does not answer")
            data = os.read(self._receive, 1 << 20)
            if not data:
                raise RuntimeError("the browser ended")
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(line)

    def open(self, page: Path) -> None:
        """Load a file and wait until it is ready."""
        # The page before it may be the same file, and answers for a moment more.
        self.evaluate("window.pageBefore = true")
        self.call("Page.navigate", url=page.as_uri())
        self.wait("!window.pageBefore && document.readyState === 'complete' && location.protocol === 'file:'")
        frame = "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
        self.call("Runtime.evaluate", expression=frame, awaitPromise=True)

    def resize(self, width: int, height: int, dark: bool = False) -> None:
        """Lay the page out in a window of so many CSS px; dark: for a person who prefers dark colours."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def evaluate(self, expression: str):
        """A JavaScript expression's value."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        if "exceptionDetails" in result:
            raise RuntimeError(result["exceptionDetails"])
        return result["result"].get("value")

    def faint(self) -> list[str]:
        """Texts that stand out less from their ground than WCAG asks (contrast 4.5; 3 where large), opacity counted: tag, class,
        contrast, first words. What is folded is opened; what is hidden or disabled counts not."""
        return json.loads(self.evaluate(FAINT))

    def wait(self, expression: str, seconds: float = 20):
        """Wait until an expression is true."""
        end = time.monotonic() + seconds
        while not self.evaluate(expression):
            if time.monotonic() > end:
                raise TimeoutError(expression)
            time.sleep(0.05)

    def press(self, key: str) -> None:
        """Press and release one key."""
        text = {"text": key} if len(key) == 1 else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key)

    def downloaded(self, name: str, seconds: float = 20) -> Path:
        """The finished download of that name."""
        path, end = self.downloads / name, time.monotonic() + seconds
        while not path.exists():
            if time.monotonic() > end:
                raise TimeoutError(f"no download {name}")
            time.sleep(0.05)
        return path

    def screenshot(self, path: Path) -> None:
        """Save a png of the window."""
        import base64

        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))

    def close(self) -> None:
        """End the browser."""
        self._session = None
        os.write(self._send, json.dumps({"id": 0, "method": "Browser.close"}).encode() + b"\0")
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._send)
        os.close(self._receive)
