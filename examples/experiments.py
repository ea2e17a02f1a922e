"""Every claim of the tutorial, measured: runs all experiments and writes EXPERIMENTS.md.

Takes about a quarter of an hour on two cores. After an interruption, the same command continues
where it stopped. For example

    python examples/experiments.py --quick --check

which writes no report. Other options (--seeds, --backend, --jobs, --full) apply to each experiment.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from experiment import Experiment, Parser, main, parse
from results import Record, replace_unprintable, survives_a_broken_pipe, table, write
from tqdm import tqdm

HERE = Path(__file__).parent
ORDER = (
    "cookie_factory",
    "with_and_without",
    "learning_rate",
    "gradient_ladder",
    "deep_network",
    "batch_size",
    "epsilon",
    "feature_scaling",
    "regularizer",
    "covariate_shift",
    "placement",
    "train_and_eval",
)
HEAD = """# Every claim of the tutorial, measured

Made by `make experiments`. A popular explanation of batch norm, sentence by sentence, put to the
test on real data with several seeds. A verdict that contradicts it is a result, not a failure.
Numbers are medians with the range over seeds in brackets; all of them, and more, are in the
`result.json` that the command leaves in `runs/`.

"""


def experiments() -> list[Experiment]:
    """The experiments that exist, in the tutorial's order."""
    names = [name for name in ORDER if (HERE / f"{name}.py").exists()]
    return [importlib.import_module(name).EXPERIMENT for name in names]


def read(folder: Path) -> Record:
    """The results of a finished experiment."""
    result: Record = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    return result


def row(folder: Path, pictures: Path, root: Path) -> list[str]:
    """The lines of the report's table for the finished experiment in `folder`."""
    result = read(folder)
    name = result["experiment"]
    picture = pictures / f"{name}.png"
    shrink(folder / "figure.png", picture)
    shown = f"![{result['verdicts'][0]['finding']}]({picture.relative_to(root)})"
    n = len(result["seeds"])
    seeds = f" ({n} seed{'s' if n > 1 else ''})" if result["data"] or n > 1 else ""
    lines = []
    for i, v in enumerate(result["verdicts"]):
        measured = f"**{v['finding']}.** {v['why']}{seeds}"
        link = f"[`{name}`](examples/{name}.py) {shown}" if i == 0 else f"`{name}`, as above"
        cells = (v["claim"], measured, f"**{v['verdict']}**", link)
        lines.append("| " + " | ".join(c.replace("|", "\\|") for c in cells) + " |")
    return lines


def shrink(source: Path, target: Path) -> None:
    """Copy a picture with 64 colours, which takes a third of the bytes."""
    from io import BytesIO

    from PIL import Image

    content = BytesIO()
    Image.open(source).convert("RGB").quantize(64).save(content, "PNG", optimize=True)
    write(target, content.getvalue())


def provenance(results: Sequence[Record]) -> str:
    """The processor, the versions, and how long everything took."""
    seconds = sum(r["run_seconds"] for r in results)
    several = {", ".join(f"{k} {v}" for k, v in r["versions"].items()) for r in results}
    where = {r["cpu"] for r in results}
    return (
        f"\n{'; '.join(sorted(where))}; {'; '.join(sorted(several))}; {seconds:.0f} core-seconds.\n"
    )


def report(folders: Sequence[Path], root: Path) -> Path:
    """Write EXPERIMENTS.md to `root`, and its pictures to docs/experiments there."""
    pictures = root / "docs" / "experiments"
    pictures.mkdir(parents=True, exist_ok=True)
    head = ["| the tutorial says | we measured | verdict | experiment |", "|---|---|---|---|"]
    lines = [line for folder in folders for line in row(folder, pictures, root)]
    results = [read(folder) for folder in folders]
    path = root / "EXPERIMENTS.md"
    write(path, HEAD + "\n".join([*head, *lines]) + "\n" + provenance(results))
    return path


@survives_a_broken_pipe
def run_everything(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    replace_unprintable()
    parser = Parser(
        "experiments",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", nargs="*", choices=ORDER, metavar="NAME", help="run only these")
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
    if worst == 0 and whole and all(p.size != "quick" for p in parsed):
        print(f"written: {report([p.out for p in parsed], options.report)}")
    return worst


if __name__ == "__main__":
    sys.exit(run_everything())
