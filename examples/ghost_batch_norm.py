"""Ghost batch norm: what if each rank normalizes its own part of the batch?

Without synchronised batch norm, k ranks with B / k examples each normalize groups of B / k examples.
One process that normalizes a batch in groups does exactly the same, so this needs no MPI. It trains
MLPs on real digits with batches of 64 in groups of 64 to 2, and takes about a minute. For example

    python examples/ghost_batch_norm.py --seeds 5

prints a table and writes result.json and ghost_batch_norm.png to the folder --out. (Hoffer, Hubara &
Soudry 2017, 1705.08741, named these groups ghost batches.)
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import numpy as np
from tqdm import tqdm

import tinybn as tb
from lab.figures import panels, percent, save
from lab.files import dumps, replace_unprintable, survives_a_broken_pipe, table, write
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


def plot(found: dict[int, list[dict[str, float]]], path: Path) -> None:
    """Draw loss and accuracy against the size of a group: a point per seed, a line of medians."""
    figure, ((left, right),) = panels(1, 2)
    for axes, what, label in (
        (left, "loss", "training loss, last epoch"),
        (right, "accuracy", "test accuracy"),
    ):
        sizes = sorted(found)
        for size in sizes:
            axes.plot([size] * len(found[size]), [r[what] for r in found[size]], "o", color="#8A8A8A", ms=3)
        axes.plot(sizes, [median(r[what] for r in found[size]) for size in sizes], color="#0072B2")
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
    options = parser.parse_args(arguments)
    if any(size < 2 or BATCH % size for size in options.groups) or options.seeds < 1:
        print(f"ghost_batch_norm: groups must divide {BATCH}, and be of 2 or more", file=sys.stderr)
        return 2
    options.out.mkdir(parents=True, exist_ok=True)
    todo = [(group, seed) for group in options.groups for seed in range(options.seeds)]
    found: dict[int, list[dict[str, float]]] = {group: [] for group in options.groups}
    for group, seed in tqdm(todo, desc="ghost batch norm", disable=None, leave=False):
        found[group].append(train(group, seed, options.epochs))
    rows = [
        (str(group), f"{BATCH // group}", *(
            f"{np.median(values):.4f} ({min(values):.4f} to {max(values):.4f})"
            for values in ([r[what] for r in runs] for what in ("loss", "accuracy"))
        ))
        for group, runs in found.items()
    ]  # fmt: skip
    print(table([("group", "ranks", "training loss", "test accuracy"), *rows]))
    write(options.out / "result.json", dumps(found, indent=1) + "\n")
    plot(found, options.out / "ghost_batch_norm.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
