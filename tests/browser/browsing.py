# SPDX-License-Identifier: AGPL-3.0-or-later
"""The built manual behind a server, and a real browser that looks at it: Playwright with the system's Chromium."""

import contextlib
import functools
import http.server
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest
from conftest import CONFIG_DIR, ROOT, clean_environment

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
SIZES = [(1300, 900), (390, 844)]
SCHEMES = ["light", "dark"]


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves files and says nothing."""

    def log_message(self, *args):
        pass


@functools.lru_cache(maxsize=1)
def site():
    """Return the folder of the manual, built once a process."""
    pytest.importorskip("mkdocs", reason="mkdocs is in the extra `docs`")
    pytest.importorskip("mkdocstrings", reason="mkdocstrings is in the extra `docs`")
    folder = Path(tempfile.mkdtemp(prefix="site-", dir=CONFIG_DIR))  # which conftest removes at the end
    (folder / "home").mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder / "site")],
        cwd=ROOT,
        env=clean_environment(folder / "home", NO_MKDOCS_2_WARNING="1"),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return folder / "site"


@pytest.fixture(scope="module")
def address(request):
    """Serve the manual and yield the address of a test file's `PAGE`."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=site())) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/{request.module.PAGE}/"
        server.shutdown()


@pytest.fixture(scope="module")
def browser():
    """Start the system's Chromium, or skip with what is missing."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is in the extra `browser`")
    if CHROMIUM is None:
        pytest.skip("no Chromium on the PATH, as apt-get install chromium brings it")
    root = ["--no-sandbox"] if os.geteuid() == 0 else []  # Chromium's own sandbox refuses root
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=root)
        yield browser
        browser.close()


@contextlib.contextmanager
def opened(browser, size=SIZES[0], allowed=(), before=None, **options):
    """Yield a page of this size; at the end, it has met no error and asked no other host.

    Args:
        browser: What the fixture of this name yields.
        size: Width and height.
        allowed: Parts of errors in the console that belong to the test.
        before: JavaScript to run before that of the page.
        options: Others of Playwright's contexts.
    """
    context = browser.new_context(viewport={"width": size[0], "height": size[1]}, **options)
    if before:
        context.add_init_script(before)
    context.set_default_timeout(15_000)
    page = context.new_page()
    errors, hosts = [], set()
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda request: hosts.add(request.url.split("/")[2]))
    yield page
    assert [error for error in errors if not any(part in error for part in allowed)] == []
    assert {host.split(":")[0] for host in hosts} <= {"127.0.0.1", ""}  # files, and blobs, have no host
    context.close()


def overflow(page):
    """Return by how many pixels the page is wider than the window."""
    return page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")


def unnamed(page, root):
    """Return the controls that a screen reader could not name."""
    return page.evaluate(
        """(root) => [...document.querySelector(root).querySelectorAll("input, select, button, [tabindex]")]
          .filter((e) => !(e.getAttribute("aria-label") || e.innerText || (e.labels && e.labels.length) ||
                           e.querySelector("img[alt]")))
          .map((e) => e.outerHTML)""",
        root,
    )


def contrast(page, selector):
    """Return the contrast (1 to 21, by WCAG) of an element's text with the ground of the page."""
    return page.evaluate(
        """(selector) => {
          const paint = document.createElement("canvas").getContext("2d");
          const mixed = (layers) => {
            paint.clearRect(0, 0, 1, 1);
            layers.forEach((colour) => { paint.fillStyle = colour; paint.fillRect(0, 0, 1, 1); });
            return [...paint.getImageData(0, 0, 1, 1).data].slice(0, 3);
          };
          const linear = (v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
          const light = (rgb) => rgb.reduce((sum, v, k) => sum + linear(v / 255) * [0.2126, 0.7152, 0.0722][k], 0);
          const element = document.querySelector(selector);
          const grounds = [];
          for (let e = element; e; e = e.parentElement) grounds.unshift(getComputedStyle(e).backgroundColor);
          const [a, b] = [light(mixed([...grounds, getComputedStyle(element).color])), light(mixed(grounds))];
          return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
        }""",
        selector,
    )
