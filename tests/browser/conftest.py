"""A real browser for the tests: Debian's chromium, driven by Playwright. See `make test-browser`."""

import os
import shutil

import pytest
from playwright.sync_api import sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="session")
def chromium():
    """The running browser. CHROMIUM may name another one."""
    path = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.exit("no chromium: run `sudo apt-get install chromium`, or set CHROMIUM", 2)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(chromium):
    """Opens a file in a page of its own, and checks afterwards that it worked in silence.

    There must be no error or warning on the console, and no request for anything but the file.
    """
    contexts, complaints, requests = [], [], []

    def open_page(path, width=1400, height=900, fragment="", **options):
        options = {"reduced_motion": "reduce", **options}
        context = chromium.new_context(viewport={"width": width, "height": height}, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda m: m.type in ("error", "warning") and complaints.append(m.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(f"{path.as_uri()}{fragment}")
        page.wait_for_selector("body[data-ready]")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []
    assert {url.split(":", 1)[0] for url in requests} <= {"file", "data"}
    assert len([url for url in requests if url.startswith("file")]) == len(contexts)
