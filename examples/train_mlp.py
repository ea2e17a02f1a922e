"""Train an MLP on real data, with any norm: does it learn, and how fast?

Takes about 2 seconds. For example

    python examples/train_mlp.py --norm batch
    python examples/train_mlp.py --data wine --norm layer --hidden 32 32 --lr 0.01 --epochs 40
    mpiexec -n 2 python examples/train_mlp.py --distributed

prints a table and writes model.npz, result.json and curves.png to the folder --out. The file
checkpoint.npz there lets --resume go on after an interruption, and end with the same numbers. It
also has the model with the best validation accuracy.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

import tinybn as tb
from lab import across_ranks
from lab.figures import band, panels, percent, save
from lab.files import dumps, replace_unprintable, survives_a_broken_pipe, table, write
from lab.resume import Keeper
from lab.training import OPTIMIZERS, Config, Run, train
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
    """The command line; of the settings of a run, only those that it names."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
    )
    add = parser.add_argument
    add("--norm", choices=["none", *tb.nn.NORMS])
    add("--data", choices=tb.data.NAMES)
    add("--data-dir", metavar="FOLDER", help="the folder with the files of fashion")
    add("--hidden", type=int, nargs="*", metavar="WIDTH")
    add("--activation", choices=["relu", "tanh", "sigmoid"])
    add("--init", choices=["default", "he", "xavier"])
    add("--optimizer", choices=[*OPTIMIZERS])
    add("--lr", type=float)
    add("--batch-size", type=int)
    add("--epochs", type=int)
    add("--seed", type=int)
    add("--backend", choices=["numpy", "cupy"])
    add("--no-compile", dest="compile", action="store_false", help="run the step op by op")
    add("--distributed", default=False, action="store_true", help="on the ranks of mpiexec")
    add("--out", default=Path("runs/train_mlp"), type=Path)
    add("--no-plot", default=False, action="store_true")
    add("--resume", default=False, action="store_true", help="go on from --out's checkpoint.npz")
    add("--save-every", default=None, type=int, metavar="STEPS", help="(an epoch)")
    return parser.parse_args(arguments)


@survives_a_broken_pipe
def main(arguments: Sequence[str] | None = None) -> int:
    """The command: train, write the files, print a table."""
    replace_unprintable()
    given = vars(parse(arguments))
    options = "out", "no_plot", "resume", "save_every", "distributed"
    out, no_plot, resume, every, distributed = map(given.pop, options)
    path = out / "checkpoint.npz"
    keeper = None
    try:
        if given.get("epochs", 1) < 1 or given.get("seed", 0) < 0:
            raise ValueError("--epochs must be at least 1 and --seed at least 0")
        if every is not None and every < 1:
            raise ValueError("--save-every must be at least 1")
        if distributed:
            with tb.distributed.connect() as comm:
                run, model = across_ranks.train(
                    Config(**given), comm, path, resume=resume, every=every
                )
            if comm.rank > 0:
                return 0
        elif resume:
            keeper = Keeper.resumed(path, given, every)
        else:
            out.mkdir(parents=True, exist_ok=True)
            keeper = Keeper(path, asdict(Config(**given)), every)
        if keeper is not None:
            with keeper:
                run, model = train(Config(**keeper.config), keeper=keeper)
        checkpoint.save(out / "model.npz", model.state_dict())
        result = asdict(run) | {"test_accuracy": run.test_accuracy}
        write(out / "result.json", dumps(result, indent=1) + "\n")
        if not no_plot:
            layers = "–".join(map(str, run.config.hidden)) or "no hidden layer"
            title = f"{run.config.data}: {layers}, norm: {run.config.norm}"
            plot([run], out / "curves.png", title)
    except KeyboardInterrupt:
        step = None if keeper is None else keeper.saved
        after = "" if step is None else f" and saved at step {step}; add --resume to go on"
        print(f"\ntrain_mlp: interrupted{after}", file=sys.stderr)
        return 130
    except (ValueError, OSError, ImportError, tb.BackendUnavailableError) as error:
        step = None if keeper is None else keeper.saved
        after = f" (saved at step {step}; add --resume to go on)" if step else ""
        print(f"train_mlp: {error}{after}", file=sys.stderr)
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
    written = ["model.npz", "result.json", *([] if no_plot else ["curves.png"])]
    best = "" if keeper is None else "; checkpoint.npz has the best model, too"
    print(f"written to {out}: {', '.join(written)}{best}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
