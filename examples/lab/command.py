"""The command that every experiment is: its options, its runs, its tables, and its files."""

from __future__ import annotations

import argparse
import hashlib
import inspect
import math
import os
import platform
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

import tinybn as tb
from lab import claims, training
from lab.figures import save
from lab.files import dumps, replace_unprintable, survives_a_broken_pipe, table, tidy, write
from lab.intervals import Interval, written
from lab.parallel import in_processes, run_all
from lab.records import Record, group, summary, summary_table
from lab.store import Store, StoreError, key_of
from lab.verdicts import Experiment, Verdict, intervals, judge
from tinybn import backend as backends

SIZES = ("quick", "default", "full")


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
        ("quick", "a small version with one block of seeds, for a first look"),
        ("full", "a larger version"),
    ):
        sizes.add_argument(f"--{size}", dest="size", action="store_const", const=size, help=what)
    counts = ", ".join(f"{size} {n}" for size, n in experiment.seeds.items())
    add("--seeds", type=_at_least(1), metavar="N", help=f"how many seeds a block has ({counts})")
    add("--seed", type=_at_least(0), default=0, metavar="N", help="begin so many seeds later")
    if len(experiment.blocks) > 1:
        blocks = [*range(1, len(experiment.blocks) + 1)]
        add("--blocks", type=int, choices=blocks, help="how many blocks of seeds (all; quick 1)")
    if experiment.data:
        add("--data", choices=experiment.data, default=experiment.data[0])
        add("--data-dir", metavar="FOLDER", help="the folder with the files of fashion")
    add("--backend", choices=backends.NAMES, default="numpy")
    add("--out", type=Path, help=f"the folder for the results (runs/{experiment.name})")
    add("--no-plot", action="store_true", help="draw no picture")
    add("--check", action="store_true", help="exit with 1 if a result is outside its band")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    add("--jobs", type=_at_least(1), default=cores or 1, metavar="N", help="processes (all cores)")
    parser.set_defaults(size="default", blocks=None)
    if not experiment.data:
        parser.set_defaults(data=None, data_dir=None)
    options = parser.parse_args(arguments)
    if options.seeds is None:
        options.seeds = experiment.seeds[options.size]
    if options.blocks is None:
        options.blocks = 1 if options.size == "quick" else len(experiment.blocks)
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


def plan(
    experiment: Experiment, options: argparse.Namespace
) -> tuple[list[list[int]], list[Record]]:
    """The seeds of each block, and all configurations, seed by seed, so that the first results can
    already be compared.
    """
    blocks = [experiment.block(i, options.seeds, options.seed) for i in range(options.blocks)]
    common = {"data": options.data, "data_dir": options.data_dir}
    common = {key: value for key, value in common.items() if value is not None}
    arms = experiment.configurations(options.size)
    return blocks, [
        {**common, **arm, "backend": options.backend, "seed": seed}
        for block in blocks
        for seed in block
        for arm in arms
    ]


@survives_a_broken_pipe
def main(experiment: Experiment, arguments: Sequence[str] | None = None, line: int = 0) -> int:
    """The command of an experiment; its progress bars begin on `line`."""
    replace_unprintable()
    options = parse(experiment, arguments)
    try:
        backends.module(options.backend)
        if options.data:
            training.dataset(options.data, options.seed, options.data_dir)
        blocks, todo = plan(experiment, options)
        code = fingerprint(experiment)
        head = {
            "experiment": experiment.name,
            "code": code,
            "rules": {claim.id: claim.said.hash for claim in experiment.claims},
            "commit": claims.commit(experiment.name),
        }
        store = Store(options.out, head, todo)
    except (ValueError, OSError, ImportError, tb.BackendUnavailableError, StoreError) as error:
        print(f"{experiment.name}: {error}", file=sys.stderr)
        return 2
    try:
        if store.code != code:
            still_true(experiment, store, code, options.jobs, line)
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
    return report(experiment, options, store, blocks)


def still_true(experiment: Experiment, store: Store, code: str, jobs: int, line: int) -> None:
    """Keep finished runs after a change of the code, if it changes no result.

    The code is tinybn, the training loop, and the experiment's file. For each value of the
    experiment's first key the quickest finished run is repeated; everything it measures, apart from
    times, must be the same to the last digit.

    Raises:
        StoreError: A result has changed.
    """
    done = store.runs()
    probes = []
    for runs in group(done, experiment.keys[:1]).values():
        quickest = min(runs, key=lambda r: r["run_seconds"])
        probes += [c for c in store.plan if c.items() <= quickest.items()][:1]
    for config, measured in in_processes(
        experiment.run, probes, jobs, f"{experiment.name}: the code has changed", 0, line
    ):
        before, now = (untimed(m) for m in (store.finished[key_of(config)], plain(measured)))
        for name in before.keys() | now.keys():
            if before.get(name) != now.get(name):
                raise StoreError(
                    f"{store.path.parent} has results of other code: {name} was "
                    f"{_short(before.get(name))} and is {_short(now.get(name))} with {config}; "
                    f"{store.another_folder()}"
                )
    store.keep(code)


def untimed(measured: Record) -> Record:
    """All measures but times."""
    return {k: v for k, v in measured.items() if "seconds" not in k and not k.startswith("ms_")}


def plain(measured: Record) -> Record:
    """Measures as a file gives them back."""
    import json

    found: Record = json.loads(dumps(measured))
    return found


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) < 40 else text[:40] + "…"


def report(
    experiment: Experiment, options: argparse.Namespace, store: Store, blocks: list[list[int]]
) -> int:
    """Judge, print the tables, write the files, and check."""
    runs = store.runs()
    verdicts = judge(experiment, runs, blocks)
    rows = summary(runs, experiment.keys, experiment.measures)
    together = experiment.measure(runs)
    numbers = intervals(together)
    usual = not experiment.data or options.data == experiment.data[0]
    bands = experiment.bands if usual else {}
    outside = [name for name, (low, high) in bands.items()
               if name not in numbers or not low <= numbers[name].middle <= high]  # fmt: skip
    print(f"{experiment.question}\n")
    place = f"{options.data}, " if options.data else ""
    told = " and ".join(seeds_text(block) for block in blocks)
    print(f"{place}{len(runs)} runs, {options.backend}; median (range) over seeds {told}")
    print("∞: never, or not a finite number\n")
    print(table(summary_table(rows, experiment.keys, experiment.measures)), end="\n\n")
    print(table(number_table(verdicts[0], numbers, bands, outside)), end="\n\n")
    if experiment.walk is not None:
        print(experiment.walk(runs), end="\n\n")
    for v in verdicts:
        print(tell(v))

    content = {
        "experiment": experiment.name,
        **{key: getattr(options, key) for key in ("size", "data", "backend")},
        "question": experiment.question,
        "ran": " ".join(experiment.ran.split()),
        "verdicts": [as_record(v, experiment, store.head) for v in verdicts],
        "numbers": listed(numbers),
        "bands": bands,
        "outside": outside,
        "arguments": {key: value if isinstance(value, int | str | None) else str(value)
                      for key, value in vars(options).items()},
        "blocks": blocks,
        "versions": versions(options.backend),
        "code": store.code,
        "rules_commit": store.head.get("commit", ""),
        "cpu": cpu(),
        "run_seconds": sum(run["run_seconds"] for run in runs),
        "keys": list(experiment.keys),
        "measures": dict(experiment.measures),
        "pictures": {
            name: {
                "title": picture.title(together),
                "caption": f"{' '.join(picture.caption.split())} Seeds {told}."
                if options.data or len(blocks[0]) > 1
                else " ".join(picture.caption.split()),
            }
            for name, picture in experiment.pictures.items()
        },
        "configurations": rows,
    }  # fmt: skip
    write(options.out / "runs.csv", tidy(runs))
    written_files = ["result.json", "runs.csv"]
    if not options.no_plot:
        for name, picture in experiment.pictures.items():
            save(picture.draw(runs), options.out / f"{name}.png", picture.title(together))
            written_files.append(f"{name}.png")
    write(options.out / "result.json", dumps(content, indent=1) + "\n")
    print(f"written to {options.out}: {', '.join(written_files)}")
    if options.check and outside:
        print(f"{experiment.name}: outside its band: {', '.join(outside)}", file=sys.stderr)
        return 1
    return 0


def seeds_text(seeds: Sequence[int]) -> str:
    """As in "0–4", or "5, 7, 11" where seeds were skipped."""
    if len(seeds) > 2 and [*seeds] == [*range(seeds[0], seeds[-1] + 1)]:
        return f"{seeds[0]}–{seeds[-1]}"
    return ", ".join(map(str, seeds))


def number_table(
    verdict: Verdict,
    numbers: dict[str, Interval],
    bands: Any,
    outside: Sequence[str],
) -> list[tuple[str, ...]]:
    """Each number: from all seeds, from each block, and its band."""
    blocks = verdict.blocks if len(verdict.blocks) > 1 else []
    head = ("number", "all seeds", *(f"seeds {seeds_text(b.seeds)}" for b in blocks), "band")
    return [head] + [
        (
            name,
            value.text(".4g"),
            *(b.numbers[name].text(".4g") if name in b.numbers else "–" for b in blocks),
            _band(bands.get(name), name in outside),
        )
        for name, value in numbers.items()
    ]


def tell(v: Verdict) -> str:
    """A verdict as plain text: whose sentence, what each block says, the finding, the rule."""
    said = v.claim.said
    each = "; ".join(f"seeds {seeds_text(b.seeds)}: {b.verdict}" for b in v.blocks)
    lines = [f"{said.sentence} — {said.by}", f"{v.verdict}: {v.finding}"]
    lines += [each] if len(v.blocks) > 1 else []
    lines += [v.answer] if v.answer else []
    return "\n".join([*lines, f"The rule: {said.rule}", ""])


def as_record(v: Verdict, experiment: Experiment, head: Record) -> Record:
    """A verdict for result.json, with the state of its rule."""
    said = v.claim.said
    fixed = head.get("rules", {}).get(said.id) == said.hash
    return {
        **said._asdict(),
        "sentence": said.sentence,
        "by": said.by,
        "verdict": v.verdict,
        "finding": v.finding,
        "answer": v.answer,
        "picture": v.claim.picture or next(iter(experiment.pictures)),
        "rule_before_the_runs": fixed,
        "blocks": [
            {
                "seeds": b.seeds,
                "verdict": b.verdict,
                "numbers": listed(b.numbers),
            }
            for b in v.blocks
        ],
    }


def listed(numbers: dict[str, Interval]) -> dict[str, list[float | str]]:
    """Middle, low and high of each number; JSON has no infinity, so that is a string."""
    return {
        name: [v if math.isfinite(v) else str(v) for v in value] for name, value in numbers.items()
    }


def _band(band: tuple[float, float] | None, outside: bool) -> str:
    if band is None:
        return "–"
    low, high = (written(v, "g") for v in band)
    return f"{low} to {high}{': outside' if outside else ''}"


def fingerprint(experiment: Experiment) -> str:
    """A hash of the code behind the runs: tinybn, the training loop, and the experiment's file."""
    package, digest = Path(tb.__file__).parent, hashlib.sha256()
    files = [path for path in sorted(package.rglob("*.py"))
             if path.relative_to(package).parts[0] != "examples"]  # fmt: skip
    for path in [*files, Path(training.__file__), Path(inspect.getfile(experiment.run))]:
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
