"""The lesson shows the verdicts of docs/experiments/results.json, and no others."""

import importlib.util
import json
from pathlib import Path

import pytest

pytestmark = pytest.mark.host("about pages")
DOCS = Path(__file__).parents[1] / "docs"
spec = importlib.util.spec_from_file_location("verdicts", DOCS / "verdicts.py")
verdicts = importlib.util.module_from_spec(spec)
spec.loader.exec_module(verdicts)

RESULTS = {
    "a.b": {
        "id": "a.b",
        "title": "Is it fast? (Yes.)",
        "quote": "It is fast.",
        "whose": "tutorial",
        "verdict": "partly",
        "finding": "Twice as fast.",
        "answer": "Yes, twice.",
    },
    "a.c": {"id": "a.c", "answer": ""},
}


def page(kind="verdict", name="a.b", inside="", end="<!-- end -->"):
    return f"Before.\n\n<!-- {kind} {name} -->\n{inside}{end}\n\nAfter.\n"


def test_the_lesson_is_up_to_date():
    assert verdicts.main(["--check"]) == 0


def test_a_verdict_replaces_what_was_there():
    text = verdicts.filled(page(inside="old\n"), RESULTS)
    assert "old" not in text
    assert "> *The tutorial:* “It is fast.”\n>\n> **Measured: partly.** Twice as fast. (" in text
    assert "(../experiments.md#is-it-fast-yes))" in text
    assert text.startswith("Before.\n\n<!-- verdict a.b -->\n> ")
    assert text.endswith("<!-- end -->\n\nAfter.\n")
    assert verdicts.filled(text, RESULTS) == text


@pytest.mark.parametrize(
    ("whose", "by", "shown"),
    [
        ("ours", "our own sentence", "> *Our own claim:* It is fast."),
        ("literature", "Luo et al., in our words", "> *Luo et al., in our words:* It is fast."),
    ],
)
def test_whose_claim_it_is(whose, by, shown):
    results = {"a.b": RESULTS["a.b"] | {"whose": whose, "by": by}}
    assert shown in verdicts.filled(page(), results)


def test_an_answer_is_another_text():
    assert "Yes, twice." in verdicts.filled(page("answer"), RESULTS)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (page(name="a.d"), "no result 'a.d'"),
        (page("answer", "a.c"), "a.c has no answer"),
        (page(end=""), "an <!-- end --> of its own"),
        (page(end="") + page(), "an <!-- end --> of its own"),
        (page() + "<!-- end -->", "an <!-- end --> of its own"),
    ],
)
def test_a_wrong_marker_is_told(given, message):
    with pytest.raises(ValueError, match=message):
        verdicts.filled(given, RESULTS)


def test_the_command_writes_and_checks(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(verdicts, "DOCS", tmp_path)
    (tmp_path / "lesson").mkdir()
    (tmp_path / "experiments").mkdir()
    with pytest.raises(SystemExit, match="make experiments"):
        verdicts.main([])
    (tmp_path / "experiments" / "results.json").write_text(json.dumps([RESULTS["a.b"]]))
    chapter = tmp_path / "lesson" / "01.md"
    chapter.write_text(page())
    assert verdicts.main(["--check"]) == 1
    assert "01.md is not up to date" in capsys.readouterr().err
    assert chapter.read_text() == page()
    assert verdicts.main([]) == 0
    assert "Twice as fast." in chapter.read_text()
    assert verdicts.main(["--check"]) == 0
    chapter.write_text(page(name="a.e"))
    with pytest.raises(SystemExit, match=r"01\.md: no result 'a.e'"):
        verdicts.main([])
