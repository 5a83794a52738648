"""Makes the pictures in docs/images from real pages: the quickstart round, finished, and one like it while it runs.

The only thing that is changed on them are the names of this machine and its user.
.venv/bin/python docs/screenshots.py [HOME]     about three minutes on two cores; less with a HOME it has used before
"""

# ruff: noqa: S603  (starts fsq itself, with arguments written here)

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

CHECKOUT = Path(__file__).resolve().parent.parent
IMAGES = CHECKOUT / "docs" / "images"
FSQ = Path(sys.executable).with_name("fsq")
CHROMIUM = "/usr/bin/chromium"
DECISIONS = 4  # of the running round
CURVE = re.compile(r"at step 1[024]0; its baseline had")  # a running job with a curve worth looking at
USER, HOST = "researcher", "gpu-1"
PATIENCE_MS = 300_000
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
RENAME = """([from, to]) => {
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) texts.currentNode.data = texts.currentNode.data.replace(new RegExp(from, "g"), to);
}"""


def main(home: Path) -> None:
    environment = os.environ | {"FSQ_HOME": str(home), "OMP_WAIT_POLICY": "PASSIVE", "LOGNAME": USER}
    subprocess.run([FSQ, "run", "examples/quickstart.yaml"], cwd=CHECKOUT, env=environment, check=True)
    subprocess.run([FSQ, "submit", _second_round(home)], cwd=CHECKOUT, env=environment, check=True)
    with _process(environment, "work"), _process(environment, "serve", "--port", "0") as server:
        address = _address(server)
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
            _take_all(browser, address)
            browser.close()


def _second_round(home: Path) -> Path:
    """The quickstart with another name and seed, so that nothing of it is known yet."""
    text = (CHECKOUT / "examples" / "quickstart.yaml").read_text()
    seed = int(time.time()) % 1000
    path = home / "night.yaml"
    path.write_text(text.replace("round: quickstart", f"round: night_{seed}\nseeds: [{seed}]"))
    return path


@contextmanager
def _process(environment: dict[str, str], *arguments: str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [FSQ, *arguments], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            yield process
        finally:
            process.terminate()


def _address(server: subprocess.Popen[str]) -> str:
    assert server.stdout is not None  # noqa: S101  (a pipe)
    for line in server.stdout:
        if found := re.search(r"http://\S+:\d+", line):
            return found[0]
    raise SystemExit("the server did not start")


def _take_all(browser: Browser, address: str) -> None:
    night = f"{address}{_newest(browser, address)}"
    _take(browser, night, "round", height=1700, is_running=True)
    _take(browser, night, "round-dark", height=1700, is_running=True, scheme="dark")
    _take(browser, night, "round-phone", width=390, height=1700, factor=1.5, is_running=True)
    _take(browser, f"{address}/", "rounds")
    _take(browser, f"{address}/workers", "workers")


def _newest(browser: Browser, address: str) -> str:
    """The path of the newest round, which is the running one."""
    page = browser.new_page()
    page.goto(address)
    path = page.locator(".rounds a").first.get_attribute("href")
    page.close()
    return str(path)


def _take(
    browser: Browser,
    url: str,
    name: str,
    *,
    width: int = 1280,
    height: int = 500,
    factor: float = 1,
    scheme: str = "light",
    is_running: bool = False,
) -> None:
    """Takes a picture; of a round that is running once that has something to show."""
    context = browser.new_context(
        viewport={"width": width, "height": height},
        device_scale_factor=factor,
        color_scheme="dark" if scheme == "dark" else "light",
    )
    page = context.new_page()
    page.goto(url)
    if is_running:
        page.locator("tbody tr").nth(DECISIONS - 1).wait_for(timeout=PATIENCE_MS)
        page.get_by_text(CURVE).first.wait_for(timeout=PATIENCE_MS)
    page.locator("main:not([data-waiting])").wait_for()
    page.evaluate(RENAME, [rf"\b{re.escape(socket.gethostname())}\b", HOST])
    page.screenshot(path=IMAGES / f"{name}.png")
    context.close()


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as folder:
            main(Path(folder))
