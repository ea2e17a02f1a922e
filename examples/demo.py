"""An MLP learns real handwritten digits, with batch norm and without, side by side.

Takes about 10 seconds. Then it compares the gradient of batch norm with the closed form: once by
autodiff through primitive ops, and once from the fused op. For example

    python examples/demo.py --seeds 5 --lr 0.01
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from train_mlp import plot

import tinybn as tb
from lab.files import replace_unprintable, survives_a_broken_pipe, table
from lab.training import Config, Run, dataset, train

TARGET = 0.95
RATES = {"none": 0.05, "batch": 0.1}
"""The learning rate of each network: of 0.01, 0.02, 0.05, 0.1, … 1 the one that reaches the target
in the fewest steps on the validation data (median over seeds 1000 to 1005).
"""


def compare_gradients() -> list[tuple[str, ...]]:
    """Errors of autodiff and the fused op against the closed form, on one batch of digits."""
    rng = np.random.default_rng(0)
    batch = tb.data.load("digits").train.x[:64, 20:40]
    given = batch, *rng.uniform(0.5, 2, (2, 20)), rng.standard_normal(batch.shape)
    columns = []
    for fused, dtype in ((False, np.float64), (False, np.float32), (True, np.float32)):
        x, gamma, beta, dy = (tb.tensor(a, dtype=dtype, requires_grad=True) for a in given)
        with tb.use_fused(fused):  # False: the chain rule through mean, subtract, multiply, sqrt, …
            y = tb.ops.batch_norm(x, gamma, beta)
            dx, dgamma, dbeta = tb.grad(y, [x, gamma, beta], dy)

        # In closed form, with NumPy alone, in float64.
        a, g, d = (t.numpy().astype(np.float64) for t in (x, gamma, dy))
        rstd = 1 / np.sqrt(a.var(axis=0) + 1e-5)
        a_hat = (a - a.mean(axis=0)) * rstd
        sums = d.sum(axis=0), (d * a_hat).sum(axis=0)
        closed = g * rstd / len(a) * (len(a) * d - sums[0] - a_hat * sums[1])

        pairs = ((dx, closed), (dgamma, sums[1]), (dbeta, sums[0]))
        columns.append([f"{abs(u.numpy() - v).max() / abs(v).max():.1e}" for u, v in pairs])
    head = ("gradient of", "autodiff, float64", "autodiff, float32", "fused op, float32")
    return [head, *zip(("x", "gamma", "beta"), *columns, strict=True)]


def evaluated_loss(model: tb.nn.Module, config: Config) -> float:
    """The loss on all training data in evaluation mode, without the noise of batch statistics."""
    data = dataset(config.data, config.seed).train
    model.eval()
    with tb.no_grad():
        return tb.ops.cross_entropy(model(tb.tensor(data.x, backend=config.backend)), data.y).item()


def summary(norm: str, runs: Sequence[Run], losses: Sequence[float]) -> tuple[str, ...]:
    """A row of the table: medians over the runs, and how many reached the target."""
    looks = [(run, run.reached(TARGET)) for run in runs]
    steps = [run.steps[i] for run, i in looks if i is not None]
    seconds = [run.seconds[i] for run, i in looks if i is not None]
    test = [run.test_accuracy for run in runs]
    return (
        norm,
        f"{statistics.median(steps):.0f} ({min(steps)}–{max(steps)})" if steps else "never",
        f"{statistics.median(seconds):.2f}" if steps else "–",
        f"{len(steps)} of {len(runs)}",
        f"{statistics.median(test):.1%} ({min(test):.1%}–{max(test):.1%})",
        f"{statistics.median(losses):.1e}",
    )


def title(runs: dict[str, list[Run]]) -> str:
    """The finding of the picture."""
    steps = []
    for done in runs.values():
        looks = [run.reached(TARGET) for run in done]
        if None in looks:
            return "Handwritten digits, the same seeds: with and without batch norm"
        steps.append(statistics.median(r.steps[i] for r, i in zip(done, looks, strict=True) if i))
    return (
        f"Handwritten digits: {TARGET:.0%} after {steps[1]:.0f} steps with batch norm, "
        f"{steps[0]:.0f} without"
    )


def finding(runs: dict[str, list[Run]]) -> str:
    """The speed of batch norm in steps and in seconds, by the medians."""
    ratios = []
    for quantity in ("steps", "seconds"):
        medians = []
        for done in runs.values():
            looks = [(run, run.reached(TARGET)) for run in done]
            values = [getattr(run, quantity)[i] for run, i in looks if i is not None]
            if len(values) < len(done):
                return f"Not every run reached {TARGET:.0%}."
            medians.append(statistics.median(values))
        ratios.append(medians[1] / medians[0])
    return f"Batch norm took {ratios[0]:.2f} times the steps and {ratios[1]:.2f} times the seconds."


@survives_a_broken_pipe
def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    replace_unprintable()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--lr", type=float, help="for both (each its own, the best)")
    parser.add_argument("--epochs", type=int, default=Config.epochs)
    parser.add_argument("--backend", default="numpy", choices=["numpy", "cupy"])
    parser.add_argument("--out", type=Path, default=Path("runs/demo"))
    options = parser.parse_args(arguments)
    runs: dict[str, list[Run]] = {"none": [], "batch": []}
    losses: dict[str, list[float]] = {norm: [] for norm in runs}
    try:
        if options.seeds < 1 or options.epochs < 1:
            raise ValueError("--seeds and --epochs must be at least 1")
        options.out.mkdir(parents=True, exist_ok=True)
        for seed in range(options.seeds):
            for norm, done in runs.items():
                config = Config(
                    norm=norm,
                    seed=seed,
                    lr=RATES[norm] if options.lr is None else options.lr,
                    epochs=options.epochs,
                    backend=options.backend,
                )
                run, model = train(config)
                done.append(run)
                losses[norm].append(evaluated_loss(model, config))
        picture = options.out / "with_and_without.png"
        everything = [run for done in runs.values() for run in done]
        plot(everything, picture, title(runs))
    except (ValueError, OSError, ImportError, tb.BackendUnavailableError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 2

    one = everything[0].config
    layers = "–".join(map(str, one.hidden))
    rates = ", ".join(f"{norm} {done[0].config.lr:g}" for norm, done in runs.items())
    print(f"1797 real handwritten digits; an MLP of {layers}; {one.optimizer}; learning rates:")
    print(f"{rates}; {one.epochs} epochs, batches of {one.batch_size};")
    print(f"{options.seeds} seeds: median (range)\n")
    head = (
        "norm", f"steps to {TARGET:.0%}", "seconds", "reached by", "test accuracy", "training loss"
    )  # fmt: skip
    print(table([head, *(summary(norm, done, losses[norm]) for norm, done in runs.items())]))
    print(f"\n{TARGET:.0%} validation accuracy, measured every {one.every} steps.")
    print("The training loss is that of the trained network in evaluation mode. The picture shows")
    print("that of mini-batches, where the statistics of each batch are noise.")
    print(finding(runs))
    print(f"Picture: {picture}\n")
    print(
        "The gradient of batch norm, by autodiff through primitive ops and by the fused op, against"
    )
    print("the closed form in float64: largest difference, as a fraction of the largest element\n")
    print(table(compare_gradients()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
