"""Every claim of the tutorial, measured: runs all experiments and writes EXPERIMENTS.md.

Takes less than half an hour on two cores. After an interruption, the same command continues where
it stopped. More seeds join those that are finished (--seeds 10). After a change of the code, a few
finished runs are repeated; all are kept if these give the same to the last digit. For example

    python examples/experiments.py --quick --check

writes no report. Other options (--seeds, --backend, --jobs, --full) apply to each experiment.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from lab.claims import PAGE
from lab.command import Parser, main, parse
from lab.files import replace_unprintable, survives_a_broken_pipe, table
from lab.page import report
from lab.verdicts import Experiment

HERE = Path(__file__).parent
NAMES = list(dict.fromkeys(claim.partition(".")[0] for page in PAGE.values() for claim in page))
"""The files with experiments, in the tutorial's order."""


def experiments() -> list[Experiment]:
    """All experiments."""
    names = [n for n in NAMES if (HERE / f"{n}.py").exists()]  # JOIN: all
    names = [n for n in names if "lab.command" in (HERE / f"{n}.py").read_text()]
    return [importlib.import_module(name).EXPERIMENT for name in names]


@survives_a_broken_pipe
def run_everything(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    replace_unprintable()
    parser = Parser(
        "experiments",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", nargs="*", choices=NAMES, metavar="NAME", help="run only these")
    parser.add_argument(
        "--report", type=Path, default=HERE.parent, help="where EXPERIMENTS.md goes"
    )
    parser.add_argument("--data", metavar="NAME", help="run only the experiments that can use it")
    options, flags = parser.parse_known_args(arguments)
    chosen = [e for e in experiments() if not options.only or e.name in options.only]
    if options.data:
        chosen = [experiment for experiment in chosen if options.data in experiment.data]
        flags += ["--data", options.data]
    if not chosen:
        parser.error(f"no experiment of these can use the data {options.data!r}")
    parsed = [parse(experiment, flags) for experiment in chosen]
    if any(flag.partition("=")[0] == "--out" for flag in flags):
        parser.error("--out is for one experiment alone")
    rows, worst = [("experiment", "seconds", "result")], 0
    for experiment in tqdm(chosen, desc="experiments", unit="", position=0, disable=None):
        start = time.perf_counter()
        status = main(experiment, flags, line=1)
        print("\n" + "=" * 100 + "\n", flush=True)
        if status == 130:
            return status
        said = {0: "done", 1: "outside its band"}.get(status, "not run")
        rows.append((experiment.name, f"{time.perf_counter() - start:.0f}", said))
        worst = max(worst, status)
    print(table(rows))
    whole = not (options.only or options.data)
    if worst == 0 and whole and all(p.size != "quick" and not p.no_plot for p in parsed):
        print(f"written: {report([p.out for p in parsed], options.report)}")
    return worst


if __name__ == "__main__":
    sys.exit(run_everything())
