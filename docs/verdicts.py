"""Write what the experiments found into the lesson.

    python docs/verdicts.py            # after `make experiments`
    python docs/verdicts.py --check    # exit with 1 if a page is not up to date

A page of docs/lesson/ asks for a verdict or an answer by its id in docs/experiments/results.json:

    <!-- verdict learning_rate.range -->
    <!-- end -->

What stands between the two comments is replaced.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent
MARKER = re.compile(r"(<!-- (verdict|answer) (\S+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)
WHOSE = {"tutorial": "The tutorial", "ours": "Our own claim"}


def verdict(result: dict[str, Any]) -> str:
    """Whose claim it is, the verdict, and the finding, as a quotation in Markdown."""
    whose, claim = WHOSE.get(result["whose"]), result["quote"]
    if result["whose"] == "tutorial":
        claim = f"“{claim.strip('“”')}”"
    elif result["whose"] == "literature":  # quoted there already, or in our words
        whose = result["by"]
    title = result["title"].lower().replace(" ", "-")
    section = "".join(c for c in title if c.isalnum() or c == "-")
    return (
        f"> *{whose}:* {claim}\n"
        ">\n"
        f"> **Measured: {result['verdict']}.** {result['finding'].strip()} "
        f"([all numbers](../experiments.md#{section}))\n"
    )


def answer(result: dict[str, Any]) -> str:
    """The answer to a question of the tutorial, as a quotation in Markdown."""
    if not result["answer"]:
        raise ValueError(f"{result['id']} has no answer")
    return f"> **The answer of the experiments.** {result['answer'].strip()}\n"


WRITE = {"verdict": verdict, "answer": answer}


def filled(page: str, results: dict[str, dict[str, Any]]) -> str:
    """The page with every marked part replaced.

    Raises:
        ValueError: the results have no such id, or a marker lacks its `<!-- end -->`.
    """

    def replaced(match: re.Match[str]) -> str:
        begin, kind, name, _, end = match.groups()
        if name not in results:
            raise ValueError(f"no result {name!r}: there are {', '.join(sorted(results))}")
        return begin + WRITE[kind](results[name]) + end

    begins = re.findall(r"<!-- (?:verdict|answer) (.*?)-->", page)
    if len(begins) != len(MARKER.findall(page)) or len(begins) != page.count("<!-- end -->"):
        raise ValueError("a marker needs an id without spaces, and an <!-- end --> of its own")
    return MARKER.sub(replaced, page)


def main(arguments: list[str]) -> int:
    """The command; the exit status."""
    path = DOCS / "experiments" / "results.json"
    if not path.exists():
        sys.exit(f"{path} is missing: run make experiments")
    results = {result["id"]: result for result in json.loads(path.read_text(encoding="utf-8"))}
    stale = False
    for page in sorted((DOCS / "lesson").glob("*.md")):
        before = page.read_text(encoding="utf-8")
        try:
            after = filled(before, results)
        except ValueError as error:
            sys.exit(f"{page}: {error}")
        if after == before:
            continue
        if "--check" in arguments:
            sys.stderr.write(f"{page} is not up to date: run python docs/verdicts.py\n")
            stale = True
        else:
            page.write_text(after, encoding="utf-8")
    return int(stale)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
