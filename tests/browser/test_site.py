"""The site that `make docs` built, opened from disk in a real browser."""

import functools
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).parents[2]
SITE = ROOT / "docs" / "_build" / "html"
PAGES = sorted(path.relative_to(SITE).as_posix() for path in SITE.rglob("*.html"))
OWN = [page for page in PAGES if not page.startswith("_static/")]  # without the microscope's
WIDTHS = (1400, 800, 360)


@pytest.fixture(scope="module", autouse=True)
def _built():
    assert PAGES, "there is no site to test: run `make docs` first"


@pytest.fixture
def tab(chromium):
    """A page that notes what goes wrong: errors of scripts, failures, and uses of a network."""
    context = chromium.new_context(color_scheme="light")
    page = context.new_page()
    page.wrong = []
    page.on("console", lambda m: m.type in ("error", "warning") and page.wrong.append(m.text))
    page.on("pageerror", lambda error: page.wrong.append(str(error)))
    page.on("requestfailed", lambda request: page.wrong.append(f"failed: {request.url}"))
    page.on(
        "request",
        lambda request: (
            urlsplit(request.url).scheme not in ("file", "data", "blob")
            and page.wrong.append(f"network: {request.url}")
        ),
    )
    yield page
    context.close()


def url(page):
    return (SITE / page).as_uri()


@pytest.mark.parametrize("page", OWN)
def test_a_page_opens_and_fits_at_three_widths_in_two_themes(tab, page):
    tab.goto(url(page))
    assert tab.title()
    grounds = []
    for theme in ("light", "dark"):
        tab.emulate_media(color_scheme=theme)
        grounds.append(tab.evaluate("getComputedStyle(document.body).backgroundColor"))
        for width in WIDTHS:
            tab.set_viewport_size({"width": width, "height": 900})
            seen, needed = tab.evaluate("[innerWidth, document.documentElement.scrollWidth]")
            assert needed <= seen, f"{theme}, {width} wide: {needed} needed"
    assert grounds[0] != grounds[1]
    broken = "[...document.images].filter(i => i.complete && !i.naturalWidth).map(i => i.src)"
    assert tab.evaluate(broken) == []
    assert tab.wrong == []


@pytest.mark.parametrize(
    ("words", "page"),
    [
        ("batch_norm", "api/ops.html#tinybn.ops.batch_norm"),
        ("gradcheck", "api/check.html#tinybn.check.gradcheck"),
        ("resume", "howto/checkpoints.html"),
    ],
)
def test_the_search_works_from_disk(tab, words, page):
    tab.goto(url("index.html"))
    tab.get_by_role("searchbox").or_(tab.get_by_placeholder("Search")).first.fill(words)
    tab.keyboard.press("Enter")
    tab.wait_for_selector("#search-results li a")
    found = [a.get_attribute("href") for a in tab.locator("#search-results li a").all()]
    assert any(re.sub(r"\?[^#]*", "", href).endswith(page) for href in found), found
    assert tab.wrong == []


def test_the_theme_can_be_chosen_and_is_remembered(tab):
    tab.goto(url("index.html"))
    tab.set_viewport_size({"width": 1400, "height": 900})
    button = tab.locator(".theme-toggle-content button")
    seen = []
    for _ in range(3):
        button.click()
        seen.append(tab.locator("body").get_attribute("data-theme"))
    assert {*seen} == {"light", "dark", "auto"}
    while tab.locator("body").get_attribute("data-theme") != "dark":
        button.click()
    tab.reload()
    assert tab.locator("body").get_attribute("data-theme") == "dark"


def test_formulas_are_set_in_the_font_of_the_site(tab):
    tab.goto(url("howto/fused_op.html"))
    tab.evaluate("document.fonts.ready.then(() => 0)")
    assert tab.evaluate("document.fonts.check('16px \"tinybn Math\"')")
    box = tab.locator("math").first.bounding_box()
    assert box["width"] > 50
    assert box["height"] > 15
    assert tab.wrong == []


# without a browser


class Links(HTMLParser):
    """The ids of a page, its links, and what it loads."""

    def __init__(self):
        super().__init__()
        self.ids, self.links, self.loaded = set(), [], []

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.ids |= {given.get("id"), given.get("name") if tag == "a" else None}
        for name in ("src", "href", "data"):
            if given.get(name):
                place = self.links if tag == "a" else self.loaded
                place.append(given[name])


@functools.cache
def read(path):
    parser = Links()
    parser.feed(path.read_text(encoding="utf-8"))
    return parser


@pytest.mark.parametrize("page", PAGES)
def test_no_link_is_dead(page):
    found = read(SITE / page)
    assert [a for a in found.loaded if re.match(r"(https?:)?//", a)] == [], "loads from a network"
    dead = []
    for link in [*found.links, *found.loaded]:
        parts = urlsplit(link)
        if parts.scheme:
            assert parts.scheme in ("http", "https", "data", "mailto"), link
            continue
        target = (SITE / page).parent / unquote(parts.path) if parts.path else SITE / page
        if not target.is_file():
            dead.append(link)
        elif target.suffix == ".html" and parts.fragment:
            dead += [] if unquote(parts.fragment) in read(target.resolve()).ids else [link]
    assert dead == []


def test_every_chapter_with_code_is_offered_as_a_notebook():
    chapters = [
        path
        for path in sorted((ROOT / "docs" / "lesson").glob("*.md"))
        if "{code-cell}" in path.read_text(encoding="utf-8")
    ]
    assert chapters
    for path in chapters:
        notebook = json.loads((SITE / "notebooks" / f"{path.stem}.ipynb").read_text("utf-8"))
        code = [c for c in notebook["cells"] if c["cell_type"] == "code"]
        assert len(code) == path.read_text(encoding="utf-8").count("```{code-cell}")
        text = "\n".join("".join(c["source"]) for c in notebook["cells"])
        assert not re.search(r"!\[[^\]]*\]\((?!data:)", text), "a picture is not inside"
        for link in re.findall(r"(?<!!)\[[^\]]*\]\((?!https?:)([^)]+)\)", text):
            assert (SITE / "notebooks" / link).is_file(), f"{path.name}: {link}"
        links = read(SITE / "lesson" / f"{path.stem}.html").links
        assert f"../notebooks/{path.stem}.ipynb" in links
        for module in re.findall(r"^(?:import|from) (engine|pictures)\b", text, re.MULTILINE):
            assert f"../notebooks/{module}.py" in links


def test_every_entry_of_the_reference_is_on_a_page():
    entries = set()
    for path in sorted((ROOT / "docs" / "api").glob("*.md")):
        found = re.findall(r"^\.\. (?:auto)?\w+:: (tinybn\.[\w.]+)", path.read_text("utf-8"), re.M)
        missing = {*found} - read(SITE / "api" / f"{path.stem}.html").ids
        assert not missing, path.name
        entries |= {*found}
    assert len(entries) > 100
