"""What the lesson says about itself: minutes, exercises; and its pictures. test_pages.py runs it."""

import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.host("about pages")
LESSON = Path(__file__).parents[1] / "docs" / "lesson"
CHAPTERS = sorted(LESSON.glob("[01]*.md"))
CELL = re.compile(r"```\{code-cell\} python\n(.*?)```", re.DOTALL)


def minutes(text):
    """200 words a minute, and 20 lines of code; code that only draws is folded away."""
    body = text.split("---\n", 2)[2]
    shown = [cell for cell in CELL.findall(body) if "hide-input" not in cell]
    lines = [line for cell in shown for line in cell.splitlines() if line.strip()]
    words = re.sub(r"```.*?```", "", body, flags=re.DOTALL).split()
    return len(words) / 200 + len(lines) / 20


def test_it_takes_about_an_hour():
    index = (LESSON / "index.md").read_text(encoding="utf-8")
    total = 0
    assert len(CHAPTERS) == 12
    for path in CHAPTERS:
        text = path.read_text(encoding="utf-8")
        said = int(re.search(r"^\*(\d+) minutes\.\*$", text, re.MULTILINE)[1])
        assert abs(said - minutes(text)) <= 2, f"{path.name}: {minutes(text):.1f} minutes"
        assert f"]({path.name}) | {said} |" in index
        total += said
    assert 50 <= total <= 70


def test_every_exercise_has_its_chapter():
    exercises = pytest.importorskip("tinybn.exercises.text")
    index = (LESSON / "index.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`.*`) \| \[\d+\]\((.*)\) \|$", index, re.MULTILINE)
    found = []
    for names, chapter in rows:
        text = (LESSON / chapter).read_text(encoding="utf-8")
        for name in re.findall(r"`(\w+)`", names):
            assert f"**`{name}`**" in text, f"{chapter} does not ask for {name}"
            found.append(name)
    assert sorted(found) == sorted(exercises.names())


def test_a_picture_is_described_and_takes_the_color_of_the_page():
    pytest.importorskip("matplotlib")
    from pictures import PATHS, Picture, bars, piles

    picture = Picture("What <it> shows", 2)
    bars(picture.axes[0], ["1", "2"], [1.0, -2.0], title="bars")
    piles(picture.axes[1], ["1", "2"], {name: [0.5, -0.5] for name in PATHS})
    html = picture._repr_html_()
    assert 'role="img" aria-label="What &lt;it&gt; shows"' in html
    assert "currentColor" in html
    assert "#000000" not in html
    assert "−2" in html


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_every_picture_says_what_it_shows(path):
    text = path.read_text(encoding="utf-8")
    for cell in CELL.findall(text):
        if "import" in cell and "Picture" in cell:
            assert cell.startswith(":tags: [hide-input]\n\n")
            assert re.search(r'Picture\(\s*"[^"]{20,}"', cell)
