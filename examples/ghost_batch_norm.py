"""Ghost batch norm: what if each rank normalizes its own part of the batch?

Without synchronised batch norm, each of k ranks normalizes its B / k examples by themselves. One
process that normalizes a batch in groups does exactly the same, so this needs no MPI. It trains
MLPs on real digits with batches of 64 in groups of 64 to 2, and takes about a minute. For example

    python examples/ghost_batch_norm.py --seeds 5

prints a table and writes ghost_batch_norm.json and ghost_batch_norm.png to the folder --out.
(Hoffer, Hubara & Soudry 2017, 1705.08741, named these groups ghost batches.)
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from tqdm import tqdm

import tinybn as tb
from lab.figures import OTHERS, STYLES, panels, percent, save
from lab.files import dumps, replace_unprintable, survives_a_broken_pipe, table, write
from lab.howto import DOCS, publish
from lab.training import Config, build, dataset, fit

BATCH = 64
GROUPS = (64, 32, 16, 8, 4, 2)


class GhostBatchNorm(tb.nn.BatchNorm):
    """Batch norm that, in training, normalizes each group of `group` examples by itself."""

    def __init__(self, num_features: int, group: int) -> None:
        super().__init__(num_features)
        self.group = group

    def forward(self, x: tb.Tensor) -> tb.Tensor:
        if not self.training:
            return super().forward(x)
        starts = range(0, len(x), self.group)
        groups = [super(GhostBatchNorm, self).forward(x[i : i + self.group]) for i in starts]
        return tb.ops.concatenate(groups)


def train(group: int, seed: int, epochs: int) -> dict[str, float]:
    """The training loss, median over the last epoch's looks, and the test accuracy."""
    config = Config(batch_size=BATCH, epochs=epochs, seed=seed)
    plain, data = build(config), dataset(config.data, seed)
    layers = [
        GhostBatchNorm(layer.num_features, group) if isinstance(layer, tb.nn.BatchNorm) else layer
        for _, layer in plain.children()
    ]
    run = fit(tb.nn.Sequential(*layers), data, config, progress=False)
    looks = max(1, len(run.loss) // epochs)
    return {"loss": float(median(run.loss[-looks:])), "accuracy": run.test_accuracy}


def report(found: Mapping[Any, Sequence[Mapping[str, float]]]) -> str:
    """The table: medians over seeds, and the range."""
    rows = [("group", "ranks", "training loss", "test accuracy")]
    for group, runs in found.items():
        loss, accuracy = ([r[what] for r in runs] for what in ("loss", "accuracy"))
        rows.append(
            (
                str(group),
                str(BATCH // int(group)),
                f"{median(loss):.4f} ({min(loss):.4f} to {max(loss):.4f})",
                f"{median(accuracy):.1%} ({min(accuracy):.1%} to {max(accuracy):.1%})",
            )
        )
    return table(rows)


def plot(found: dict[int, list[dict[str, float]]], path: Path) -> None:
    """Draw loss and accuracy against the size of a group: a point per seed, a line of medians."""
    figure, ((left, right),) = panels(1, 2)
    for axes, what, label in (
        (left, "loss", "training loss, last epoch"),
        (right, "accuracy", "test accuracy"),
    ):
        sizes = sorted(found)
        for size in sizes:
            values = [r[what] for r in found[size]]
            axes.plot([size] * len(values), values, "o", color=OTHERS[3], ms=3)
        medians = [median(r[what] for r in found[size]) for size in sizes]
        axes.plot(sizes, medians, color=STYLES["batch"][0])
        axes.set_xscale("log", base=2)
        axes.set(xlabel="examples normalized together", ylabel=label)
        axes.set_xticks(sizes, map(str, sizes))
    left.set_yscale("log")
    percent(right.yaxis)
    save(figure, path, f"Ghost batch norm: batches of {BATCH}, normalized in groups")


@survives_a_broken_pipe
def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    replace_unprintable()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--groups", type=int, nargs="*", default=[*GROUPS])
    parser.add_argument("--out", type=Path, default=Path("runs/ghost_batch_norm"))
    parser.add_argument("--publish", action="store_true", help="write docs/howto, too")
    options = parser.parse_args(arguments)
    if any(size < 2 or BATCH % size for size in options.groups) or options.seeds < 1:
        print(f"ghost_batch_norm: groups must divide {BATCH}, and be of 2 or more", file=sys.stderr)
        return 2
    options.out.mkdir(parents=True, exist_ok=True)
    todo = [(group, seed) for group in options.groups for seed in range(options.seeds)]
    found: dict[int, list[dict[str, float]]] = {group: [] for group in options.groups}
    for group, seed in tqdm(todo, desc="ghost batch norm", disable=None, leave=False):
        found[group].append(train(group, seed, options.epochs))
    print(report(found))
    for folder in (options.out, *([DOCS] if options.publish else [])):
        write(folder / "ghost_batch_norm.json", dumps(found, indent=1) + "\n")
        plot(found, folder / "ghost_batch_norm.png")
    if options.publish:
        publish(DOCS / "distributed.md", "ghosts", report(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
