"""The microscope's pages in a real browser."""

import re

import pytest

from tinybn.microscope import ladder, record, whatif
from tinybn.microscope.formatting import shown
from tinybn.microscope.page import of_recordings
from tinybn.microscope.steps import steps

WIDTHS = (360, 800, 1400)
SYMBOL = "#graph g[data-node]"


@pytest.fixture(scope="session")
def bundle():
    found = whatif.cookies("python -m tinybn microscope")
    return found, found.all()


@pytest.fixture(scope="session")
def cookie(bundle):
    return bundle[1][bundle[0].start]


@pytest.fixture(scope="session")
def cookies(bundle, tmp_path_factory):
    path = tmp_path_factory.mktemp("pages") / "microscope.html"
    found, recordings = bundle
    text = of_recordings(found.questions, found.start, recordings)
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def ladders(tmp_path_factory):
    path = tmp_path_factory.mktemp("pages") / "ladder.html"
    path.write_text(
        ladder.ladder_page("python -m tinybn microscope --view ladder", 0), encoding="utf-8"
    )
    return path


def at(page):
    return int(re.match(r"step (\d+) / \d+", page.inner_text("#counter"))[1])


def cells(page, selector):
    return [text.strip() for text in page.locator(selector).all_text_contents()]


def pile_totals(page, pile):
    return cells(page, f"#{pile} text.total")


def numbers(array):
    return [shown(v) for v in array.ravel()]


def state_of(page):
    """All that the page shows, as text and drawing."""
    page.wait_for_timeout(30)
    return page.evaluate(
        "['graph', 'now', 'piles', 'paths'].map((id) => document.getElementById(id).innerHTML)"
    )


def choose(page, name, value):
    page.locator(f"label:has([name={name}][value='{value}'])").click()


def overflow(page):
    return page.evaluate("document.documentElement.scrollWidth - innerWidth")


# --- stepping ---


def test_every_step_forward_and_back(open_page, cookies, cookie):
    page = open_page(cookies)
    found = steps(cookie)
    seen = []
    for k, step in enumerate(found):
        assert at(page) == k
        assert page.inner_text("#title") == step.title
        assert page.inner_text("#say") == step.say
        current = [line.strip() for line in cells(page, "#program li.current")]
        assert current == [cookie.program[i].strip() for i in step.lines]
        live = page.inner_text("#live")
        assert live.startswith(f"Step {k} of {len(found) - 1}. {step.title}")
        if step.kind == "backward":
            assert_contribution(page, cookie, step)
        seen.append(state_of(page))
        page.click("#next")
    assert at(page) == len(found) - 1  # there is no further step
    for k in reversed(range(len(found) - 1)):
        page.click("#back")
        assert at(page) == k
        assert state_of(page) == seen[k]
    page.click("#back")
    assert at(page) == 0
    assert len({str(state) for state in seen}) == len(seen)


def assert_contribution(page, recording, step):
    """The numbers on the page are those of the recording."""
    event = recording.events[step.event]
    assert cells(page, "#numbers td.adds") == numbers(event.value)
    pile = "pile-x" if event.to == recording.x else "pile-now"
    assert pile_totals(page, pile) == numbers(event.total)
    assert f"It adds {', '.join(numbers(event.value))}." in page.inner_text("#live")
    box = page.locator(f"{SYMBOL}.target")
    awaited = f"waits for {event.awaited}" if event.awaited else "complete"
    assert awaited in box.text_content()
    assert f"gradient {', '.join(numbers(event.total))}." in box.get_attribute("aria-label")
    waiting = page.inner_text("#await")
    assert bool(waiting) == bool(event.awaited)
    if event.terms is not None:
        shown_text = page.inner_text("#numbers")
        assert all(number in shown_text for number in numbers(event.terms))
    if len(event.parts) > 1:
        shown_text = page.inner_text("#numbers")
        assert all(n in shown_text for value in event.parts.values() for n in numbers(value))


def test_forward_comes_first_and_gradients_are_blank_not_0(open_page, cookies, cookie):
    page = open_page(cookies)
    boxes = page.locator(SYMBOL)
    leaves = [node for node in cookie.nodes if not node.inputs]
    assert page.locator(f"{SYMBOL}.future").count() == boxes.count() - len(leaves)
    for label in boxes.evaluate_all("(gs) => gs.map((g) => g.getAttribute('aria-label'))"):
        assert "gradient not known yet" in label
    assert "waits for 2" in boxes.nth(0).text_content()
    for _ in range(9):
        page.click("#next")
    assert page.locator(f"{SYMBOL}.future").count() == 0
    assert page.locator("#graph rect.blank").count() == sum(
        node.value.size for i, node in enumerate(cookie.nodes) if node.inside == i
    )
    assert pile_totals(page, "pile-x") == [""] * 3
    assert cells(page, "#paths td") == [""] * 21


def test_three_paths_are_seen_and_a_fourth_with_its_exact_0(open_page, cookies, cookie):
    page = open_page(cookies)
    page.press("body", "End")
    for path, value in cookie.paths.items():
        assert cells(page, f"#paths tr[data-path={path}] td") == numbers(value)
    assert cells(page, "#paths tr[data-path=both].zero td") == ["0"] * 3
    rows = cells(page, "#paths td")
    assert rows[12:15] == numbers(cookie.gradient)
    assert rows[15:18] == numbers(cookie.check.other)
    assert "✔ shape (3, 1)" in page.inner_text("#check")
    assert f"closed form: max diff {shown(cookie.check.off)}" in page.inner_text("#check")
    strands = page.locator("#graph path.strand")
    seen = strands.evaluate_all(
        "(all) => all.map((s) => [s.dataset.path, s.style.strokeDasharray])"
    )
    dashes = dict(seen)
    assert dashes.keys() == {"direct", "mean", "variance", "both", "neutral"}
    assert len({dashes[path] for path in ("direct", "mean", "variance", "both")}) == 4
    assert page.locator("#graph text.zero").count() == 2  # on the fourth path, twice
    hatches = page.locator("pattern path").evaluate_all(
        "(all) => all.map((p) => p.getAttribute('d'))"
    )
    assert len(set(hatches)) == 5


def test_why_the_fourth_path_is_0_is_said_where_it_dies(open_page, cookies, cookie):
    page = open_page(cookies)
    (k,) = [k for k, s in enumerate(steps(cookie)) if s.title == "d adds to the gradient of μ"]
    page.fill("#slider", str(k))
    assert "the deviations d sum to 0" in page.inner_text("#say")
    assert "−1 × (−0.153093 + 0.153093 + 0) = 0" in page.inner_text("#numbers")
    assert page.inner_text("#numbers .zero") == "−1 × (−0.153093 + 0.153093 + 0) = 0"


# --- keys, slider, play, program ---


def test_keys(open_page, cookies, cookie):
    page = open_page(cookies)
    last = len(steps(cookie)) - 1
    for key, step in (
        ("ArrowRight", 1),
        ("ArrowRight", 2),
        ("ArrowLeft", 1),
        ("End", last),
        ("Home", 0),
    ):
        page.keyboard.press(key)
        assert at(page) == step
    page.clock.install()
    page.keyboard.press("Space")
    assert "pause" in page.inner_text("#play")
    page.clock.run_for(4000)
    assert at(page) == 2
    page.keyboard.press("Space")
    page.clock.run_for(4000)
    assert at(page) == 2
    assert "play" in page.inner_text("#play")


def test_playing_ends_at_the_end(open_page, cookies, cookie):
    page = open_page(cookies)
    page.clock.install()
    page.click("#play")
    page.clock.run_for(1800 * 30)
    assert at(page) == len(steps(cookie)) - 1
    assert "play" in page.inner_text("#play")


def test_arrow_keys_in_a_switch_change_the_switch_alone(open_page, cookies):
    page = open_page(cookies, fragment="#step=5")
    page.focus("[name=upstream]:checked")
    page.keyboard.press("ArrowRight")
    assert page.input_value("[name=upstream]:checked") == "ones"
    assert at(page) == 5


def test_after_a_click_on_a_switch_the_arrow_keys_step(open_page, cookies):
    page = open_page(cookies, fragment="#step=5")
    choose(page, "upstream", "random")
    page.wait_for_function("document.activeElement === document.body")
    page.keyboard.press("ArrowRight")
    assert page.input_value("[name=upstream]:checked") == "random"
    assert at(page) == 6


def test_everything_is_reached_with_the_tab_key(open_page, cookies):
    page = open_page(cookies)
    seen = set()
    for _ in range(40):
        page.keyboard.press("Tab")
        seen.add(
            page.evaluate(
                "document.activeElement.id || document.activeElement.name || document.activeElement.tagName"
            )
        )
    ids = {"theme", "first", "back", "play", "next", "last", "slider", "predict", "SUMMARY"}
    assert ids | {"norm", "values", "upstream", "eps", "statistics", "form"} <= seen


def test_the_slider_and_a_line_of_the_program_lead_to_a_step(open_page, cookies, cookie):
    page = open_page(cookies)
    page.fill("#slider", "7")
    assert at(page) == 7
    line = next(i for i, text in enumerate(cookie.program) if text.strip().startswith("d_sqrt ="))
    page.locator("#program li").nth(line).click()
    assert page.inner_text("#title") == "x̂ adds to the gradient of √(σ² + ε)"
    assert page.get_attribute("#program li.current >> nth=0", "aria-current") == "step"


def test_the_address_leads_back_to_the_same_place(open_page, cookies):
    page = open_page(cookies)
    page.fill("#slider", "7")
    choose(page, "norm", "layer")
    fragment = page.evaluate("location.hash")
    again = open_page(cookies, fragment=fragment)
    assert at(again) == 7
    assert again.inner_text("#normname") == "layer norm"


# --- what if ---


def test_every_what_if(open_page, cookies, bundle):
    page = open_page(cookies)
    names = [question.name for question in bundle[0].questions]
    for key, recording in bundle[1].items():
        for name, value in zip(names, key, strict=True):
            if page.input_value(f"[name={name}]:checked") != value:
                choose(page, name, value)
        page.fill("#slider", "99")
        assert at(page) == len(steps(recording)) - 1
        assert pile_totals(page, "pile-x") == numbers(recording.gradient)
        assert page.locator(SYMBOL).count() == len({node.inside for node in recording.nodes})
        assert [t.rstrip() for t in page.locator("#program li").all_text_contents()] == [
            re.sub(r"^ {4}", "  ", line) for line in recording.program
        ]
        assert f"max diff {shown(recording.check.off)}" in page.inner_text("#check")


def test_constants_are_for_batch_norm_only(open_page, cookies):
    page = open_page(cookies)
    choose(page, "statistics", "constant")
    choose(page, "norm", "layer")
    assert page.input_value("[name=statistics]:checked") == "computed"
    assert page.is_disabled("[name=statistics][value=constant]")
    choose(page, "norm", "batch")
    assert page.is_enabled("[name=statistics][value=constant]")


def test_what_was_switched_is_compared_with_what_was_there(open_page, cookies):
    page = open_page(cookies)
    page.press("body", "End")
    assert page.locator("#pile-x rect.ghost").count() == 0
    before = pile_totals(page, "pile-x")
    choose(page, "values", "2,14,6")
    assert page.locator("#pile-x rect.ghost").count() == 3
    assert pile_totals(page, "pile-x")[0] != before[0]  # the first cookie's gradient changes, too
    assert "Only the second cookie changes" in page.inner_text("#whatif")


def test_a_switch_keeps_the_step(open_page, cookies):
    page = open_page(cookies, fragment="#step=23")
    title = page.inner_text("#title")
    choose(page, "eps", "0.1")
    assert page.inner_text("#title") == title


def test_one_fused_op_shows_its_matrix(open_page, cookies, bundle):
    page = open_page(cookies, fragment="#show=batch/2,10,6/first/0/computed/fused&step=3")
    recording = bundle[1]["batch", "2,10,6", "first", "0", "computed", "fused"]
    matrix = [shown_short(v) for v in recording.events[0].local.ravel()]
    assert cells(page, "table.matrix td") == matrix


def shown_short(value):
    return page_number(float(value))


def page_number(value):
    """Four decimals, as in the boxes."""
    return "0" if value == 0 else f"{value:.4f}".rstrip("0").rstrip(".").replace("-", "−")


# --- predict first ---


def test_predict_first_hides_the_next_number_until_asked(open_page, cookies, cookie):
    page = open_page(cookies)
    page.check("#predict")
    page.fill("#slider", "14")
    page.keyboard.press("ArrowRight")  # the direct contribution to d
    assert "Predict: What does x̂ add to the gradient of d?" in page.inner_text("#numbers")
    assert cells(page, "#numbers td.adds") == ["?"] * 3
    assert pile_totals(page, "pile-now") == ["?"] * 3
    assert pile_totals(page, "pile-x") == [""] * 3
    everywhere = page.evaluate(
        "['now', 'piles', 'paths', 'live', 'everything'].map((id) => document.getElementById(id).textContent).join()"
    )
    assert "0.306186, 0, 0" not in everywhere
    assert "gradient not known yet" in page.locator(f"{SYMBOL}.target").get_attribute("aria-label")
    page.click("#reveal")
    assert at(page) == 15
    assert cells(page, "#numbers td.adds") == ["0.306186", "0", "0"]
    page.keyboard.press("ArrowRight")
    assert at(page) == 16
    assert "Predict" in page.inner_text("#numbers")
    page.keyboard.press("ArrowRight")
    assert "Predict" not in page.inner_text("#numbers")
    page.fill("#slider", "0")
    page.keyboard.press("ArrowRight")
    assert "Predict: What is μ?" in page.inner_text("#numbers")
    page.uncheck("#predict")
    assert "Predict" not in page.inner_text("#numbers")


# --- widths, themes, print, words for every mark ---


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_widths_and_themes(open_page, cookies, width, scheme):
    page = open_page(cookies, width, 800, color_scheme=scheme)
    for _ in range(26):
        assert overflow(page) <= 0
        page.click("#next")
    page.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    for norm in ("layer", "rms"):
        choose(page, "norm", norm)
        assert overflow(page) <= 0
    choose(page, "form", "fused")
    assert overflow(page) <= 0
    assert contrast(page, "#say") > 7
    assert contrast(page, ".lede") > 4.5
    assert contrast(page, "#program li.current") > 7
    for graph_text in page.locator("#graph svg").all():
        assert graph_text.bounding_box()["width"] <= width


def contrast(page, selector):
    """The contrast of a text with the page, as WCAG 2 defines it."""
    return page.evaluate(
        """(selector) => {
          const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
          const light = (color) => {
            canvas.fillStyle = color;
            canvas.fillRect(0, 0, 1, 1);
            const [r, g, b] = [...canvas.getImageData(0, 0, 1, 1).data].map((v) => {
              v /= 255;
              return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
            });
            return 0.2126 * r + 0.7152 * g + 0.0722 * b;
          };
          const node = document.querySelector(selector);
          let back = node;
          while (getComputedStyle(back).backgroundColor === "rgba(0, 0, 0, 0)") back = back.parentElement;
          const [a, b] = [getComputedStyle(node).color, getComputedStyle(back).backgroundColor].map(light);
          return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
        }""",
        selector,
    )


def test_the_theme_can_be_switched(open_page, cookies):
    page = open_page(cookies, color_scheme="light")
    background = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(background)
    page.click("#theme")
    dark = page.evaluate(background)
    assert dark != light
    page.click("#theme")
    assert page.evaluate(background) == light


def test_print(open_page, cookies, tmp_path):
    page = open_page(cookies, color_scheme="dark", fragment="#step=25")
    page.click("#theme")
    page.click("#theme")
    page.emulate_media(media="print")
    assert page.is_hidden("#transport")
    assert page.is_hidden("#questions")
    assert page.is_visible("#paths")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 253)"
    assert overflow(page) <= 0
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.is_visible("#legend dl")
    page.pdf(path=tmp_path / "page.pdf")
    assert (tmp_path / "page.pdf").stat().st_size > 10_000


def test_every_mark_is_explained_and_the_page_says_where_it_comes_from(open_page, cookies):
    page = open_page(cookies)
    page.click("#legend summary")
    legend = page.inner_text("#legend")
    for mark in ("A box", "blank gradient", "Dots", "arrow", "strand", "paths", "local", "pile",
                 "tick", "hollow tick", "check", "program", "dashed box", "Keys"):  # fmt: skip
        assert mark in legend
    assert page.locator("#pathkeys svg").count() == 5
    about = page.inner_text("#provenance")
    for word in ("python -m tinybn microscope", "seed 0", "tinybn", "numpy", "dtype float64"):
        assert word in about
    page.click("#everything summary")
    assert page.locator("#everything tr").count() == 13


def test_a_single_recording_has_nothing_to_switch(open_page, tmp_path):
    path = tmp_path / "one.html"
    recording = record([[1.0, 2.0, 4.0, 8.0]], [[1.0, 0.0, 0.0, 0.0]], norm="rms")
    path.write_text(recording.html(), encoding="utf-8")
    page = open_page(path)
    assert page.is_hidden("#switch")
    page.keyboard.press("End")
    assert pile_totals(page, "pile-x") == numbers(recording.gradient)
    assert "through the mean square" in page.inner_text("#paths")


def test_digits(open_page, tmp_path):
    bundle = whatif.digits("a command")
    small = bundle._replace(
        questions=[
            q._replace(
                options=[o for o in q.options if o.value in bundle.start or q.name == "norm"]
            )
            for q in bundle.questions
        ]
    )
    path = tmp_path / "digits.html"
    path.write_text(small.page(), encoding="utf-8")
    for width in WIDTHS:
        page = open_page(path, width)
        for norm in ("batch", "layer", "rms"):
            key = (norm, *bundle.start[1:])
            page.evaluate("document.querySelector('#switch').open = true")
            choose(page, "norm", norm)
            page.fill("#slider", "25")
            assert overflow(page) <= 0
            assert pile_totals(page, "pile-x") == numbers(bundle.make(key).gradient)


# --- the ladder ---


def test_the_ladder(open_page, ladders):
    recording = ladder.record_ladder("relu", 128, "he")
    page = open_page(ladders)
    seen = []
    for step in range(recording.depth + 1):
        assert at(page) == step
        seen.append(page.inner_html("main"))
        for arm in recording.arms:
            assert page.locator(f"#graph [data-arm={arm.norm}]").count() == step
            if step:
                row = cells(page, f"#numbers tr[data-arm={arm.norm}] td")
                assert row[0] == shown(arm.norms[recording.depth - step])
        page.keyboard.press("ArrowRight")
    for arm in recording.arms:
        row = cells(page, f"#numbers tr[data-arm={arm.norm}] td")
        assert row[2] == page_number(arm.growth)
    for step in reversed(range(recording.depth)):
        page.keyboard.press("ArrowLeft")
        assert page.inner_html("main") == seen[step]


def test_every_what_if_of_the_ladder(open_page, ladders):
    page = open_page(ladders, fragment="#step=20")
    for question in ladder.QUESTIONS:
        for option in question.options:
            choose(page, question.name, option.value)
            key = page.evaluate("chosen()")
            found = ladder.record_ladder(key[0], int(key[1]), key[2])
            for arm in found.arms:
                row = cells(page, f"#numbers tr[data-arm={arm.norm}] td")
                assert row[0] == shown(arm.norms[0])
            assert at(page) == 20


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_ladder_at_widths_and_in_themes(open_page, ladders, width, scheme):
    page = open_page(ladders, width, color_scheme=scheme, fragment="#step=12")
    assert overflow(page) <= 0
    assert contrast(page, "#say") > 7
    page.check("#predict")
    page.click("#next")
    assert "Predict" in page.inner_text("#numbers")
    page.click("#reveal")
    assert at(page) == 13
    assert page.locator("#numbers tr").count() == 4
    page.keyboard.press("End")
    assert page.evaluate(
        "document.querySelector('#numbers').scrollWidth <= document.querySelector('#numbers').clientWidth"
    )
