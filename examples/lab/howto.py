"""Generated tables on the pages of docs/howto, between two comments."""

from __future__ import annotations

from pathlib import Path

from lab.files import write

DOCS = Path(__file__).parent.parent.parent / "docs" / "howto"


def publish(page: Path, name: str, text: str) -> None:
    """Put the text into the page, between the comments `name` and `end`."""
    before, found, rest = page.read_text(encoding="utf-8").partition(f"<!-- {name} -->\n")
    if not found:
        raise ValueError(f"{page} has no comment <!-- {name} -->")
    _, _, after = rest.partition("<!-- end -->")
    write(page, f"{before}{found}```text\n{text}\n```\n<!-- end -->{after}")
