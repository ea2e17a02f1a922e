"""EXPERIMENTS.md, its pictures and docs/experiments/results.json, from finished experiments."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from lab.claims import PAGE, TUTORIAL
from lab.command import seeds_text
from lab.files import dumps, write
from lab.intervals import Interval
from lab.records import Record, summary_table

WIDEST = 120
"""A cell of the table at the top has no more characters."""
HEAD = f"""# Every claim of the tutorial, measured

“{TUTORIAL}” explains batch norm to beginners. This page puts its
sentences to the test, in its order, together with some sentences from the literature and some of
our own. The data are real, and a verdict counts only if two separate sets of random seeds agree on
it. A verdict that contradicts the tutorial is a result, not a failure.

**How to read this page.** A *seed* fixes a network's first weights and the order of its examples.
Each experiment runs on two blocks of seeds (0, 1, … and 1000, 1001, …). A rule, written down
beforehand, turns the numbers of a block into *supported*, *partly* or *not supported*. If the
blocks disagree, the sentence is *not resolved*. Networks that are compared share their seeds, so
they begin with the same weights and see the same examples. A number such as 3.1 (2.8 to 3.4) is an
estimate with its 95 % confidence interval over seeds. ∞ means that a network never got there; it
counts as the slowest, and no seed is left out.

The rules are the files in `examples/lab/claims`. Each section says whether its
rule was fixed before its runs. `make experiments` repeats everything and writes this page.

"""


def read(folder: Path) -> Record:
    """The results of a finished experiment."""
    result: Record = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    return result


def slug(title: str) -> str:
    """The anchor that GitHub and the site give a heading."""
    return "".join(c for c in title.lower().replace(" ", "-") if c.isalnum() or c == "-")


def cell(text: str) -> str:
    """A cell of a Markdown table."""
    return text.replace("|", "\\|")


def overview(verdicts: Sequence[Record]) -> str:
    """The table at the top: one line per claim.

    Raises:
        ValueError: A sentence is too long for a cell.
    """
    lines = ["| sentence | whose | verdict | more |", "|---|---|---|---|"]
    for v in verdicts:
        title = v["title"]
        cells = (v["sentence"], v["whose"], f"**{v['verdict']}**", f"[{title}](#{slug(title)})")
        for text in cells:
            if len(text) > WIDEST:
                raise ValueError(f"{v['id']}: more than {WIDEST} characters in a cell: {text}")
        lines.append("| " + " | ".join(map(cell, cells)) + " |")
    return "\n".join(lines) + "\n"


def section(verdict: Record, result: Record, shown: dict[str, str]) -> str:
    """The section of a claim.

    Args:
        shown: the pictures and experiments that the page has shown already, each with the title of
            its section. What this one shows is added.
    """
    v, name = verdict, result["experiment"]
    parts = [f"### {v['title']}", f"> {v['sentence']} — {v['by']}"]
    parts.append(f"**{v['verdict'][0].upper()}{v['verdict'][1:]}.** {v['finding']}")
    if v["answer"]:
        parts.append(v["answer"])
    if len({b["verdict"] for b in v["blocks"]}) > 1:
        each = "; ".join(f"seeds {seeds_text(b['seeds'])}: {b['verdict']}" for b in v["blocks"])
        parts.append(f"The two blocks of seeds differ, so this is not resolved: {each}.")
    picture = v["picture"]
    if f"{picture}.png" in shown:
        title = shown[f"{picture}.png"]
        parts.append(f"The picture is that of [{title}](#{slug(title)}).")
    else:
        shown[f"{picture}.png"] = v["title"]
        about = result["pictures"][picture]
        parts.append(f"![{about['title']}](docs/experiments/{picture}.png)")
        parts.append(f"*{about['caption']}*")
    parts.append(f"What ran: {result['ran']} [`{name}.py`](examples/{name}.py)")
    parts.append(f"<details><summary>The rule and all numbers</summary>\n\n{rule(v, result)}")
    if name in shown:
        parts.append(f"The numbers are those of [{shown[name]}](#{slug(shown[name])}).")
    else:
        shown[name] = v["title"]
        parts.append(numbers(v, result))
    return "\n\n".join(parts) + "\n\n</details>\n\n"


def rule(verdict: Record, result: Record) -> str:
    """The rule, when it was fixed, and what each block of seeds says."""
    v = verdict
    fixed = "changed after the runs"
    if v["rule_before_the_runs"]:
        commit = result["rules_commit"]
        fixed = "fixed before the runs" + (f", in commit {commit}" if commit else "")
    lines = [f"The rule ({fixed}): {v['rule']}"]
    if len(v["blocks"]) > 1:
        told = [f"seeds {seeds_text(b['seeds'])}: {b['verdict']}" for b in v["blocks"]]
        lines += [f"Blocks: {'; '.join(told)}."]
    return "\n\n".join(lines)


def numbers(verdict: Record, result: Record) -> str:
    """All numbers, block by block, and the medians per configuration."""
    blocks = verdict["blocks"]
    head = ["number", "all seeds", *(f"seeds {seeds_text(b['seeds'])}" for b in blocks)]
    rows = [
        [name, _text(value), *(_text(b["numbers"].get(name)) for b in blocks)]
        for name, value in result["numbers"].items()
    ]
    if len(blocks) == 1:
        head, rows = head[:2], [row[:2] for row in rows]
    first, *rest = summary_table(result["configurations"], result["keys"], result["measures"])
    title = "Each configuration: median (range) over all seeds."
    return "\n".join([*markdown(head, rows), "", title, "", *markdown(first, rest)])


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A table's lines."""
    lines = ["| " + " | ".join(map(cell, row)) + " |" for row in (head, *rows)]
    return [lines[0], "|" + "---|" * len(head), *lines[1:]]


def _text(value: Sequence[float | str] | None) -> str:
    """A number of result.json."""
    return "–" if value is None else Interval(*map(float, value)).text(".4g")


def provenance(results: Sequence[Record]) -> str:
    """The processor, the versions, and how long everything took."""
    seconds = sum(r["run_seconds"] for r in results)
    several = {", ".join(f"{k} {v}" for k, v in r["versions"].items()) for r in results}
    codes = sorted({r["code"][:8] for r in results})
    return (
        "## Where the numbers come from\n\n"
        f"{'; '.join(sorted({r['cpu'] for r in results}))}; {'; '.join(sorted(several))} "
        f"(code {', '.join(codes)}); {seconds:.0f} core-seconds. Every run, with its seed, is in "
        "the `runs.csv` that the command leaves in `runs/NAME`; "
        "[results.json](docs/experiments/results.json) has the verdicts.\n"
    )


def report(folders: Sequence[Path], root: Path) -> Path:
    """Write EXPERIMENTS.md to `root`, and pictures and results.json to docs/experiments there."""
    results = {result["experiment"]: result for result in map(read, folders)}
    verdicts = {v["id"]: v | {"section": section_of(v["id"]), "experiment": name}
                for name, result in results.items() for v in result["verdicts"]}  # fmt: skip
    order = [*(claim for claims in PAGE.values() for claim in claims if claim in verdicts),
             *(claim for claim in verdicts if not section_of(claim))]  # fmt: skip
    pictures = root / "docs" / "experiments"
    pictures.mkdir(parents=True, exist_ok=True)
    text, shown, last = HEAD + overview([verdicts[c] for c in order]) + "\n", dict[str, str](), ""
    for claim in order:
        v = verdicts[claim]
        if v["section"] != last:
            last = v["section"]
            text += f"## {last}\n\n"
        text += section(v, results[v["experiment"]], shown)
    for folder in folders:
        for name in read(folder)["pictures"]:
            shutil.copyfile(folder / f"{name}.png", pictures / f"{name}.png")
    for old in pictures.glob("*.png"):
        if not any(old.stem in result["pictures"] for result in results.values()):
            old.unlink()
    write(pictures / "results.json", dumps([for_docs(verdicts[c]) for c in order], indent=1) + "\n")
    path = root / "EXPERIMENTS.md"
    write(path, text + provenance([*results.values()]))
    return path


def section_of(claim: str) -> str:
    """The section of the page that a claim belongs to; empty if it is on no page."""
    return next((name for name, claims in PAGE.items() if claim in claims), "")


def for_docs(verdict: Record) -> Record:
    """A verdict as other pages read it."""
    blocks = [b | {"seeds": seeds_text(b["seeds"])} for b in verdict["blocks"]]
    return verdict | {"blocks": blocks, "picture": f"docs/experiments/{verdict['picture']}.png"}
