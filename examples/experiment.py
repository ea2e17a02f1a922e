"""What all experiments share: options, parallel runs, continuing after an interruption, the table,
the verdict and the files. An experiment's own file has its question, its configurations, what it
measures, the rule for its verdict, and its picture.
"""

from __future__ import annotations

import argparse
import hashlib
import inspect
import math
import os
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np
import training
from figures import save
from parallel import run_all
from results import (
    Record,
    dumps,
    replace_unprintable,
    summary,
    summary_table,
    survives_a_broken_pipe,
    table,
    tidy,
    write,
)
from store import Store, StoreError

import tinybn as tb
from tinybn import backend as backends

SIZES = ("quick", "default", "full")
SUPPORTED, PARTLY, NOT_SUPPORTED, NOT_RESOLVED = VERDICTS = (
    "supported",
    "partly",
    "not supported",
    "not resolved",
)


class Verdict(NamedTuple):
    """What the data say about one sentence.

    Attributes:
        claim: the sentence.
        verdict: one of VERDICTS.
        finding: the result, short enough for the title of a picture.
        why: the figures behind the verdict (medians, ranges).
        numbers: what `--check` compares with the experiment's bands.
    """

    claim: str
    verdict: str
    finding: str
    why: str
    numbers: Mapping[str, float]


@dataclass(frozen=True)
class Experiment:
    """A question, and how to answer it.

    Attributes:
        name: the name of its file.
        text: the docstring of its file; the first line is the question.
        configurations: from the size (one of SIZES) to the arms. Seed, data and backend are added
            to each arm, one run per seed.
        run: measures one configuration in a process of its own. It must be a function of a module
            and return what JSON can hold. `diverged_at` is a step, or None.
        judge: from all runs to the verdicts; the first finding is the title of the picture.
        draw: from all runs to a figure without a title.
        keys: the columns of the table that tell configurations apart.
        measures: the other columns, shown as median and range, with their formats.
        bands: the range in which each checked number of the verdicts must lie.
        data: the data sets it can use, the default first; empty if it needs none.
        seeds: the number of seeds for each size.
        walk: further text to print from all runs, for those who want to see every step.
    """

    name: str
    text: str
    configurations: Callable[[str], list[Record]]
    run: Callable[[Record], Record]
    judge: Callable[[list[Record]], Sequence[Verdict]]
    draw: Callable[[list[Record]], Any]
    keys: Sequence[str]
    measures: Mapping[str, str]
    bands: Mapping[str, tuple[float, float]]
    data: Sequence[str] = ("digits", "fashion")
    seeds: Mapping[str, int] = field(default_factory=lambda: {"quick": 2, "default": 5, "full": 10})
    walk: Callable[[list[Record]], str] | None = None

    @property
    def question(self) -> str:
        """The first line of the text."""
        return self.text.strip().splitlines()[0]


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        print(f"{self.prog}: {message} (see --help)", file=sys.stderr)
        sys.exit(2)


def parse(experiment: Experiment, arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options that all experiments have."""
    parser = Parser(
        experiment.name,
        description=experiment.text,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    sizes = parser.add_mutually_exclusive_group()
    for size, what in (
        ("quick", "a small version, for a first look"),
        ("full", "a larger version"),
    ):
        sizes.add_argument(f"--{size}", dest="size", action="store_const", const=size, help=what)
    counts = ", ".join(f"{size} {n}" for size, n in experiment.seeds.items())
    add("--seeds", type=_at_least(1), metavar="N", help=f"how many seeds ({counts})")
    add("--seed", type=_at_least(0), default=0, metavar="N", help="the first seed")
    if experiment.data:
        add("--data", choices=experiment.data, default=experiment.data[0])
        add("--data-dir", metavar="FOLDER", help="the folder with the files of fashion")
    add("--backend", choices=backends.NAMES, default="numpy")
    add("--out", type=Path, help=f"the folder for the results (runs/{experiment.name})")
    add("--no-plot", action="store_true", help="draw no picture")
    add("--check", action="store_true", help="exit with 1 if a result is outside its band")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    add("--jobs", type=_at_least(1), default=cores or 1, metavar="N", help="processes (all cores)")
    parser.set_defaults(size="default")
    if not experiment.data:
        parser.set_defaults(data=None, data_dir=None)
    options = parser.parse_args(arguments)
    if options.seeds is None:
        options.seeds = experiment.seeds[options.size]
    if options.check and options.data and options.data != experiment.data[0]:
        parser.error(f"--check: the bands are those of --data {experiment.data[0]}")
    if options.out is None:
        parts = [experiment.name, *([] if options.size == "default" else [options.size])]
        parts += [options.data] if options.data and options.data != experiment.data[0] else []
        options.out = Path("runs", "-".join(parts))
    return options


def _at_least(least: int) -> Callable[[str], int]:
    def integer(text: str) -> int:
        if not text.lstrip("-").isdigit() or int(text) < least:
            raise argparse.ArgumentTypeError(f"expected an integer of at least {least}, got {text}")
        return int(text)

    return integer


def plan(experiment: Experiment, options: argparse.Namespace) -> list[Record]:
    """All configurations, seed by seed, so that the first results can already be compared."""
    common = {"data": options.data, "data_dir": options.data_dir}
    common = {key: value for key, value in common.items() if value is not None}
    return [
        {**common, **arm, "backend": options.backend, "seed": seed}
        for seed in range(options.seed, options.seed + options.seeds)
        for arm in experiment.configurations(options.size)
    ]


@survives_a_broken_pipe
def main(experiment: Experiment, arguments: Sequence[str] | None = None, line: int = 0) -> int:
    """The command of an experiment; its progress bars begin on `line`."""
    replace_unprintable()
    options = parse(experiment, arguments)
    todo = plan(experiment, options)
    identity = {
        "experiment": experiment.name,
        **{key: getattr(options, key) for key in ("size", "seed", "seeds", "data", "data_dir")},
        "backend": options.backend,
        "code": fingerprint(experiment),
    }
    try:
        backends.module(options.backend)
        for name in {config["data"] for config in todo if "data" in config}:
            training.dataset(name, options.seed, options.data_dir)
        store = Store(options.out, identity, todo)
    except (ValueError, OSError, ImportError, tb.BackendUnavailableError, StoreError) as error:
        print(f"{experiment.name}: {error}", file=sys.stderr)
        return 2
    try:
        run_all(experiment.run, store, options.jobs, experiment.name, line)
    except KeyboardInterrupt:
        print(
            f"{experiment.name}: interrupted after {len(store.finished)} of {len(todo)} runs; "
            "the same command continues from here",
            file=sys.stderr,
        )
        return 130
    except StoreError as error:
        print(f"{experiment.name}: {error}; the same command continues from here", file=sys.stderr)
        return 2
    return report(experiment, options, store.runs(), identity)


def report(
    experiment: Experiment, options: argparse.Namespace, runs: list[Record], identity: Record
) -> int:
    """Judge, print the tables, write the files, and check."""
    verdicts = experiment.judge(runs)
    rows = summary(runs, experiment.keys, experiment.measures)
    numbers = {name: value for v in verdicts for name, value in v.numbers.items()}
    usual = not experiment.data or options.data == experiment.data[0]
    bands = experiment.bands if usual else {}
    outside = [name for name, (low, high) in bands.items()
               if not low <= numbers.get(name, math.nan) <= high]  # fmt: skip
    seeds = [*range(options.seed, options.seed + options.seeds)]
    print(f"{experiment.question}\n")
    place = f"{options.data}, " if options.data else ""
    print(f"{place}{len(runs)} runs, {options.backend}; median (range) over seeds {seeds}")
    print("∞: never, or not a finite number\n")
    print(table(summary_table(rows, experiment.keys, experiment.measures)), end="\n\n")
    print(table([("number", "value", "band"), *(
        (name, f"{value:.4g}", _band(bands.get(name), name in outside))
        for name, value in numbers.items())]), end="\n\n")  # fmt: skip
    if experiment.walk is not None:
        print(experiment.walk(runs), end="\n\n")
    for v in verdicts:
        print(f'"{v.claim}"\n{v.verdict}: {v.why}\n')

    content = {
        **{key: identity[key] for key in ("experiment", "size", "data", "backend", "code")},
        "question": experiment.question,
        "verdicts": [v._asdict() for v in verdicts],
        "bands": bands,
        "outside": outside,
        "arguments": {key: value if isinstance(value, int | str | None) else str(value)
                      for key, value in vars(options).items()},
        "seeds": seeds,
        "versions": versions(options.backend),
        "cpu": cpu(),
        "run_seconds": sum(run["run_seconds"] for run in runs),
        "configurations": rows,
    }  # fmt: skip
    write(options.out / "runs.csv", tidy(runs))
    written = ["result.json", "runs.csv"]
    if not options.no_plot:
        save(experiment.draw(runs), options.out / "figure.png", verdicts[0].finding)
        written.append("figure.png")
    write(options.out / "result.json", dumps(content, indent=1) + "\n")
    print(f"written to {options.out}: {', '.join(written)}")
    if options.check and outside:
        print(f"{experiment.name}: outside its band: {', '.join(outside)}", file=sys.stderr)
        return 1
    return 0


def _band(band: tuple[float, float] | None, outside: bool) -> str:
    if band is None:
        return "–"
    return f"{band[0]:g} to {band[1]:g}{': outside' if outside else ''}"


def fingerprint(experiment: Experiment) -> str:
    """A hash of the code behind the runs: tinybn, the training loop, and the experiment's file.

    It leaves out the file's text, its judge, its picture and everything from EXPERIMENT on, which
    can change without running anything again.
    """
    text = inspect.getsource(sys.modules[experiment.run.__module__]).split("\nEXPERIMENT = ")[0]
    for function in filter(None, (experiment.judge, experiment.draw, experiment.walk)):
        text = text.replace(inspect.getsource(function), "")
    text = text.replace(experiment.text, "")
    digest = hashlib.sha256(text.encode())
    package = Path(tb.__file__).parent
    for path in [*sorted(package.rglob("*.py")), Path(training.__file__)]:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def versions(backend: str) -> dict[str, str]:
    """The versions of everything that made the numbers."""
    found = {"python": platform.python_version(), "numpy": np.__version__, "tinybn": tb.__version__}
    return found | ({} if backend == "numpy" else {backend: backends.module(backend).__version__})


def cpu() -> str:
    """The processor that the seconds were measured on."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        model = platform.processor() or platform.machine()
    return f"{model}, {os.cpu_count()} cores"
