"""What an experiment claims, and how two blocks of seeds give one verdict.

numbers → rule → words: `Experiment.measure` does the arithmetic, `Claim.decide` is the rule, and
`Claim.finding` is the sentence. The rule's words, and whose sentence is tested, are in
claims/NAME.toml.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

from lab.claims import Said, said
from lab.intervals import Interval
from lab.records import Record

SUPPORTED, PARTLY, NOT_SUPPORTED, NOT_RESOLVED = VERDICTS = (
    "supported",
    "partly",
    "not supported",
    "not resolved",
)
BLOCKS = (0, 1000)
"""The first seeds of the two blocks, fixed before any run: a verdict must hold in both."""

Numbers: TypeAlias = Mapping[str, Any]
"""What was found, by name: an `Interval`, or a number without one."""


@dataclass(frozen=True)
class Claim:
    """A sentence, and how numbers decide on it.

    Attributes:
        id: as in "learning_rate.range"; claims/learning_rate.toml says what [range] is.
        decide: the rule, from the numbers of one block to one of VERDICTS.
        finding: what was found, in one sentence, from the numbers of both blocks together.
        answer: two or three plain sentences for the reader who asked.
        picture: the name of the picture to show; the first one if empty.
    """

    id: str
    decide: Callable[[Numbers], str]
    finding: Callable[[Numbers], str]
    answer: Callable[[Numbers], str] | None = None
    picture: str = ""

    @property
    def said(self) -> Said:
        """The quotation, whose it is, and the rule in words."""
        return said(self.id)


@dataclass(frozen=True)
class Picture:
    """A figure with its finding and its caption.

    Attributes:
        draw: from all runs to a figure without a title.
        title: the finding, in fewer than 80 characters.
        caption: what is drawn, and what the band or the bar is. The seeds are added to it.
    """

    draw: Callable[[list[Record]], Any]
    title: Callable[[Numbers], str]
    caption: str


@dataclass(frozen=True)
class Experiment:
    """A question, and how to answer it.

    Attributes:
        name: the name of its file.
        text: the docstring of its file; the first line is the question.
        ran: what was run, in two lines at most.
        configurations: from the size (quick, default or full) to the arms. Seed, data and backend
            are added to each arm, one run per seed.
        run: measures one configuration in a process of its own. It must be a function of a module
            and return what JSON can hold. `diverged_at` is a step, or None.
        measure: from the runs of one block, or of both, to numbers.
        claims: the sentences, in the order in which they are printed.
        pictures: by name; a name is that of a file.
        keys: the columns of the table that tell configurations apart.
        measures: the other columns, shown as median and range, with their formats.
        bands: the range in which each checked number must lie.
        data: the data sets it can use, the default first; empty if it needs none.
        seeds: the number of seeds in a block, for each size.
        blocks: the first seed of each block. Seeds that `suits` refuses are skipped.
        suits: whether a seed is used at all, decided before any training.
        walk: further text to print from all runs, for those who want to see every step.
    """

    name: str
    text: str
    ran: str
    configurations: Callable[[str], list[Record]]
    run: Callable[[Record], Record]
    measure: Callable[[list[Record]], Numbers]
    claims: Sequence[Claim]
    pictures: Mapping[str, Picture]
    keys: Sequence[str]
    measures: Mapping[str, str]
    bands: Mapping[str, tuple[float, float]]
    data: Sequence[str] = ("digits", "fashion")
    seeds: Mapping[str, int] = field(default_factory=lambda: {"quick": 2, "default": 5, "full": 10})
    blocks: Sequence[int] = BLOCKS
    suits: Callable[[int], bool] | None = None
    walk: Callable[[list[Record]], str] | None = None

    @property
    def question(self) -> str:
        """The first line of the text."""
        return self.text.strip().splitlines()[0]

    def block(self, number: int, count: int, later: int = 0) -> list[int]:
        """The first `count` seeds of a block, `later` seeds after its beginning."""
        seed, found = self.blocks[number] + later, list[int]()
        while len(found) < count:
            if self.suits is None or self.suits(seed):
                found.append(seed)
            seed += 1
        return found


class Block(NamedTuple):
    """What one block of seeds says about one claim."""

    seeds: list[int]
    verdict: str
    numbers: dict[str, Interval]


class Verdict(NamedTuple):
    """What all blocks say about one claim.

    Attributes:
        verdict: that of the blocks if they agree, otherwise `NOT_RESOLVED`.
        finding: one sentence, from all seeds.
        answer: plain sentences, or nothing.
        blocks: what each block says.
    """

    claim: Claim
    verdict: str
    finding: str
    answer: str
    blocks: list[Block]


def judge(experiment: Experiment, runs: list[Record], seeds: Sequence[list[int]]) -> list[Verdict]:
    """Decide on each claim, block by block, and tell what all seeds say together."""
    parts = [[r for r in runs if r["seed"] in block] for block in seeds]
    numbers = [experiment.measure(part) for part in parts]
    together = experiment.measure(runs)
    verdicts = []
    for claim in experiment.claims:
        found = [claim.decide(n) for n in numbers]
        for verdict in found:
            if verdict not in VERDICTS:
                raise ValueError(f"{claim.id}: {verdict!r} is no verdict")
        blocks = [
            Block(list(block), verdict, intervals(n))
            for block, verdict, n in zip(seeds, found, numbers, strict=True)
        ]
        verdicts.append(
            Verdict(
                claim,
                found[0] if len(set(found)) == 1 else NOT_RESOLVED,
                claim.finding(together),
                claim.answer(together) if claim.answer else "",
                blocks,
            )
        )
    return verdicts


def intervals(numbers: Numbers) -> dict[str, Interval]:
    """All numbers as intervals; one without an interval is its own."""
    return {
        name: value if isinstance(value, Interval) else Interval(*[float(value)] * 3)
        for name, value in numbers.items()
    }
