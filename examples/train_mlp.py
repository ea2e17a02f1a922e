"""Train an MLP on real data, with any norm: does it learn, and how fast?

Takes about 2 seconds. For example

    python examples/train_mlp.py --norm batch
    python examples/train_mlp.py --data wine --norm layer --hidden 32 32 --lr 0.01 --epochs 40

writes model.npz, result.json and curves.png to the folder --out, and prints a table.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

import tinybn as tb
from tinybn import checkpoint

OPTIMIZERS = {"sgd": tb.optim.SGD, "adam": tb.optim.Adam, "adamw": tb.optim.AdamW}
STYLES = {  # one colour (colour-blind safe: Okabe & Ito) and one line style per norm, everywhere
    "none": ("#000000", "--"),
    "batch": ("#0072B2", "-"),
    "layer": ("#D55E00", "-."),
    "group": ("#009E73", ":"),
    "rms": ("#CC79A7", (0, (3, 1, 1, 1))),
}


@dataclass(frozen=True)
class Config:
    """What to train, on what, and how."""

    norm: str = "batch"
    data: str = "digits"
    hidden: Sequence[int] = (64, 64, 64)
    activation: str = "relu"
    init: str = "he"
    optimizer: str = "sgd"
    lr: float = 0.05
    batch_size: int = 64
    epochs: int = 20
    seed: int = 0
    backend: str = "numpy"
    every: int = 5
    """Steps from one look at the validation data to the next."""


@dataclass
class Run:
    """What came of it. The lists have one entry per look at the validation data."""

    config: Config
    steps: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    """Of training alone, since the start."""
    loss: list[float] = field(default_factory=list)
    """Of the mini-batch of that step."""
    accuracy: list[float] = field(default_factory=list)
    """On the validation data."""
    diverged_at: int | None = None
    test_accuracy: float = math.nan

    def reached(self, target: float) -> int | None:
        """The first look at which the validation accuracy was at least `target`."""
        return next((i for i, a in enumerate(self.accuracy) if a >= target), None)


def accuracy(model: tb.nn.Module, part: tb.data.Part, backend: str) -> float:
    """The fraction of `part` that the model, in evaluation mode, labels rightly."""
    model.eval()
    with tb.no_grad():
        scores = model(tb.tensor(part.x, backend=backend)).numpy()
    model.train()
    return float((scores.argmax(axis=1) == part.y).mean())


def train(config: Config, *, progress: bool = True) -> tuple[Run, tb.nn.Module]:
    """Train as `config` says. Weights and batches have seeds of their own, so that two runs that
    differ in the norm alone see the same batches in the same order.
    """
    data = tb.data.load(config.data, seed=config.seed)
    weights, order = (np.random.default_rng([config.seed, i]) for i in range(2))
    with tb.use_backend(config.backend):
        model = tb.nn.MLP(
            [data.features, *config.hidden, data.classes],
            config.norm,
            config.activation,
            init=config.init,
            rng=weights,
        )
        x = tb.tensor(data.train.x).data
    momentum = {"momentum": 0.9} if config.optimizer == "sgd" else {}
    optimizer = OPTIMIZERS[config.optimizer](model.parameters(), config.lr, **momentum)
    batches = tb.data.Batches(x, data.train.y, config.batch_size, drop_last=True, rng=order)
    run = Run(config)
    step, spent = 0, 0.0
    bar = tqdm(
        total=config.epochs * len(batches),
        desc=f"norm={config.norm} seed={config.seed}",
        unit="step",
        disable=None if progress else True,  # None: off where stderr is no terminal
        leave=False,
    )
    with bar, np.errstate(over="ignore", invalid="ignore"):  # a diverged run is told by its loss
        for _ in range(config.epochs):
            for xb, yb in batches:
                start = time.perf_counter()
                loss = tb.ops.cross_entropy(model(xb), yb)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                spent += time.perf_counter() - start
                step += 1
                bar.update()
                if step % config.every == 0:
                    start = time.perf_counter()
                    run.loss.append(loss.item())  # a GPU has done all steps when it has this number
                    spent += time.perf_counter() - start
                    run.steps.append(step)
                    run.seconds.append(spent)
                    run.accuracy.append(accuracy(model, data.validation, config.backend))
                    bar.set_postfix(loss=f"{run.loss[-1]:.3f}", accuracy=f"{run.accuracy[-1]:.1%}")
                    if not math.isfinite(run.loss[-1]):
                        run.diverged_at = step
                        return run, model
    run.test_accuracy = accuracy(model, data.test, config.backend)
    return run, model


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells, the first row being the head, as aligned plain text."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(f"{c:>{w}}" for c, w in zip(row, widths, strict=True)) for row in rows]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def plot(runs: Sequence[Run], path: Path, title: str) -> None:
    """Draw loss and validation accuracy over steps: per norm the median, and a band over seeds."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained", dpi=120)
    left, right = figure.subplots(1, 2)
    for norm in dict.fromkeys(run.config.norm for run in runs):
        colour, style = STYLES[norm]
        group = [run for run in runs if run.config.norm == norm]
        shortest = min(len(run.steps) for run in group)
        for axes, what in ((left, "loss"), (right, "accuracy")):
            curves = np.array([getattr(run, what)[:shortest] for run in group])
            steps = group[0].steps[:shortest]
            axes.plot(
                steps, np.median(curves, 0), color=colour, linestyle=style, label=f"norm: {norm}"
            )
            axes.fill_between(steps, curves.min(0), curves.max(0), color=colour, alpha=0.15, lw=0)
    left.set(xlabel="step", ylabel="training loss (mini-batch)", yscale="log")
    right.set(xlabel="step", ylabel="validation accuracy")
    right.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    right.legend(loc="lower right", frameon=False)
    for axes in (left, right):
        axes.grid(alpha=0.3, lw=0.5)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title)
    temporary = path.with_suffix(".tmp.png")
    figure.savefig(temporary)
    temporary.replace(path)


def write_json(path: Path, content: Any) -> None:
    """Write `content` to `path`, atomically."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(content, indent=1) + "\n")
    temporary.replace(path)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add, default = parser.add_argument, Config()
    add("--norm", default=default.norm, choices=["none", *tb.nn.NORMS])
    add("--data", default=default.data, choices=tb.data.NAMES)
    add("--hidden", default=default.hidden, type=int, nargs="*", metavar="WIDTH")
    add("--activation", default=default.activation, choices=["relu", "tanh", "sigmoid"])
    add("--init", default=default.init, choices=["default", "he", "xavier"])
    add("--optimizer", default=default.optimizer, choices=[*OPTIMIZERS])
    add("--lr", default=default.lr, type=float)
    add("--batch-size", default=default.batch_size, type=int)
    add("--epochs", default=default.epochs, type=int)
    add("--seed", default=default.seed, type=int)
    add("--backend", default=default.backend, choices=["numpy", "cupy"])
    add("--out", default=Path("runs/train_mlp"), type=Path)
    add("--no-plot", action="store_true")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command: train, print a table, write the files."""
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
    write_json(out / "result.json", asdict(run))
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
