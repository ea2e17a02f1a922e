"""The quotations and the rules: which sentence is tested, whose it is, and what decides on it.

Each experiment has a file claims/NAME.toml with a table per claim:

    [range]
    title = "Sensitivity to the learning rate"
    quote = "less sensitive to the learning rate"
    whose = "tutorial"
    rule = "Supported if …"

`whose` is tutorial, literature or ours. A rule is committed before the runs that it judges: the
runs remember a hash of the rule, and the page says whether the rule is still the same.
"""

from __future__ import annotations

import functools
import hashlib
import subprocess
import tomllib
from pathlib import Path
from typing import NamedTuple

FOLDERS = [Path(__file__).parent / "claims"]
"""Where NAME.toml is looked for."""
TUTORIAL = "Batch Normalization — The Cookie Factory Story"
WHOSE = ("tutorial", "literature", "ours")

PAGE: dict[str, list[str]] = {
    "The problem": [
        "covariate_shift.reason",
        "covariate_shift.cut",
        "covariate_shift.gradient",
        "covariate_shift.smoother",
        "units.different",
    ],
    "The four steps": [
        "cookie_factory.steps",
        "cookie_factory.paths",
        "gamma_beta.learn",
        "gamma_beta.alone",
    ],
    "The benefits": [
        "gradient_ladder.gradients",
        "gradient_ladder.rate",
        "gradient_ladder.batch",
        "swings.swings",
        "regularizer.noise",
        "regularizer.norm",
        "regularizer.fashion",
        "memorizing.gap",
        "memorizing.labels",
    ],
    "The stations": ["placement.order", "placement.bias", "stations.some"],
    "Layer norm": ["train_and_eval.layer"],
    "The code": ["cookie_factory.code", "train_and_eval.modes", "train_and_eval.running"],
    "The three experiments": [
        "with_and_without.speed",
        "learning_rate.range",
        "learning_rate.scale",
        "learning_rate.decay",
        "deep_network.smoothly",
        "deep_network.impossible",
        "deep_network.skip",
        "deep_network.breaks",
    ],
    "The four questions": [
        "batch_size.larger",
        "batch_size.plateau",
        "batch_size.gradient",
        "sequences.lengths",
        "train_and_eval.varying",
        "epsilon.zero",
        "epsilon.bound",
        "epsilon.any",
        "feature_scaling.input",
        "feature_scaling.hidden",
    ],
}
"""The sections of the page, in the tutorial's order, with the ids of their claims."""


class Said(NamedTuple):
    """A sentence and the rule by which it is judged.

    Attributes:
        quote: the sentence. The tutorial's is quoted; the literature's has “quotation marks” of its
            own if it is in the words of its authors.
        source: where the literature says so; empty for the tutorial and for ourselves.
        rule: when the sentence counts as supported, partly supported, or not.
    """

    id: str
    title: str
    quote: str
    whose: str
    rule: str
    source: str = ""

    @property
    def sentence(self) -> str:
        """The sentence, in quotation marks if it is the tutorial's."""
        return f"“{self.quote}”" if self.whose == "tutorial" else self.quote

    @property
    def by(self) -> str:
        """Whose sentence it is, in words."""
        own = self.quote.startswith("“")
        literature = self.source if own else f"{self.source}, in our words"
        return {"tutorial": "the tutorial", "ours": "our own sentence"}.get(self.whose, literature)

    @property
    def hash(self) -> str:
        """A hash of the sentence and its rule: it changes when either does."""
        return hashlib.sha256(f"{self.quote}\n{self.rule}".encode()).hexdigest()[:16]


def path_of(experiment: str) -> Path:
    """The file with the claims of an experiment."""
    paths = [folder / f"{experiment}.toml" for folder in FOLDERS]
    return next((path for path in paths if path.exists()), paths[0])


@functools.cache
def claims_of(experiment: str) -> dict[str, Said]:
    """The claims of an experiment, by id, in the order of their file."""
    path = path_of(experiment)
    if not path.exists():
        return {}
    tables = tomllib.loads(path.read_text(encoding="utf-8"))
    return {f"{experiment}.{name}": _said(f"{experiment}.{name}", table, path)
            for name, table in tables.items()}  # fmt: skip


def said(claim: str) -> Said:
    """The claim with this id.

    Raises:
        KeyError: No file has it.
    """
    experiment = claim.partition(".")[0]
    found = claims_of(experiment)
    if claim not in found:
        raise KeyError(f"{path_of(experiment)} has no claim {claim}")
    return found[claim]


def _said(claim: str, table: dict[str, str], path: Path) -> Said:
    try:
        found = Said(claim, **{key: " ".join(text.split()) for key, text in table.items()})
    except TypeError as error:
        raise ValueError(f"{path}: [{claim.partition('.')[2]}]: {error}") from error
    if found.whose not in WHOSE:
        raise ValueError(f"{path}: {claim} is whose? one of {WHOSE}, not {found.whose!r}")
    return found


def commit(experiment: str) -> str:
    """The commit that last changed the rules of an experiment, and its date.

    Empty where there is no git, or where the file differs from what is committed.
    """
    path = path_of(experiment)

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(path.parent), *arguments, "--", path.name]
        found = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603
        return found.stdout.strip()

    try:
        if git("status", "--porcelain"):
            return ""
        return git("log", "-1", "--format=%h of %cs")
    except (OSError, subprocess.CalledProcessError):
        return ""
