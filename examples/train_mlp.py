"""Train an MLP on real data, with any norm: does it learn, and how fast?

Takes about 2 seconds. For example

    python examples/train_mlp.py --norm batch
    python examples/train_mlp.py --data wine --norm layer --hidden 32 32 --lr 0.01 --epochs 40

prints a table and writes model.npz, result.json and curves.png to the folder --out.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from figures import band, panels, percent, save
from results import dumps, replace_unprintable, table, write
from training import OPTIMIZERS, Config, Run, train

import tinybn as tb
from tinybn import checkpoint


def plot(runs: Sequence[Run], path: Path, title: str) -> None:
    """Draw loss and validation accuracy over steps: per norm the median, and a band over seeds."""
    figure, ((left, right),) = panels(1, 2)
    for norm in dict.fromkeys(run.config.norm for run in runs):
        group = [run for run in runs if run.config.norm == norm]
        shortest = min(len(run.steps) for run in group)
        for axes, what in ((left, "loss"), (right, "accuracy")):
            curves = (getattr(run, what)[:shortest] for run in group)
            band(axes, group[0].steps[:shortest], [*zip(*curves, strict=True)], norm)
    left.set(xlabel="step", ylabel="training loss (mini-batch)", yscale="log")
    right.set(xlabel="step", ylabel="validation accuracy")
    percent(right.yaxis)
    right.legend(loc="lower right", frameon=False)
    save(figure, path, title)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add, default = parser.add_argument, Config()
    add("--norm", default=default.norm, choices=["none", *tb.nn.NORMS])
    add("--data", default=default.data, choices=tb.data.NAMES)
    add("--data-dir", metavar="FOLDER", help="the folder with the files of fashion")
    add("--hidden", default=default.hidden, type=int, nargs="*", metavar="WIDTH")
    add("--activation", default=default.activation, choices=["relu", "tanh", "sigmoid"])
    add("--init", default=default.init, choices=["default", "he", "xavier"])
    add("--optimizer", default=default.optimizer, choices=[*OPTIMIZERS])
    add("--lr", default=default.lr, type=float)
    add("--batch-size", default=default.batch_size, type=int)
    add("--epochs", default=default.epochs, type=int)
    add("--seed", default=default.seed, type=int)
    add("--backend", default=default.backend, choices=["numpy", "cupy"])
    add("--no-compile", dest="compile", action="store_false", help="run the step op by op")
    add("--out", default=Path("runs/train_mlp"), type=Path)
    add("--no-plot", action="store_true")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command: train, print a table, write the files."""
    replace_unprintable()
    options = vars(parse(arguments))
    out, no_plot = options.pop("out"), options.pop("no_plot")
    try:
        if options["epochs"] < 1 or options["seed"] < 0:
            raise ValueError("--epochs must be at least 1 and --seed at least 0")
        out.mkdir(parents=True, exist_ok=True)
        run, model = train(Config(**options))
        checkpoint.save(out / "model.npz", model.state_dict())
    except (ValueError, OSError, ImportError, tb.BackendUnavailableError) as error:
        print(f"train_mlp: {error}", file=sys.stderr)
        return 2
    print(f"{model}\n")
    looks = sorted({round(i) for i in np.geomspace(1, len(run.steps), 10)})
    rows = [
        (str(run.steps[i - 1]), f"{run.seconds[i - 1]:.2f}", f"{run.loss[i - 1]:.4f}",
         f"{run.accuracy[i - 1]:.1%}")
        for i in looks
    ]  # fmt: skip
    print(table([("step", "seconds", "loss", "validation accuracy"), *rows]))
    if run.diverged_at is not None:
        print(
            f"\nDiverged at step {run.diverged_at}: the loss is {run.loss[-1]}. Try a smaller --lr."
        )
    else:
        print(f"\ntest accuracy {run.test_accuracy:.1%}")
    result = asdict(run) | {"test_accuracy": run.test_accuracy}
    write(out / "result.json", dumps(result, indent=1) + "\n")
    written = ["model.npz", "result.json"]
    if not no_plot:
        layers = "–".join(map(str, run.config.hidden)) or "no hidden layer"
        title = f"{run.config.data}: {layers}, norm: {run.config.norm}"
        plot([run], out / "curves.png", title)
        written.append("curves.png")
    print(f"written to {out}: {', '.join(written)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
