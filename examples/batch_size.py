"""Does batch norm need large batches, and does layer norm do better with small and varying ones?

The tutorial's questions 1 and 2. MLPs learn from equally many examples with batches of 2 to 256:
without norm, with batch norm, and with layer norm. Each uses the best of five learning rates,
chosen by validation accuracy. Batch norm is evaluated with running statistics, as usual, and with
the statistics of test batches of the training size (Wu & Johnson 2021, 2105.07576, section 3).

How much of a random gradient dy passes through a norm? Batch norm removes two of its B components
(along 1 and along x̂), so the root mean square of |dx| σ / |dy| over the channels is √((B - 2) / B).

In the sequence task, a recurrent network with a norm in each step reads 0 to 8 rows of one digit
and then another digit row by row, and names the second digit. It is also tested on sequences twice
as long as any it learned from (Ba et al. 2016, 1607.06450, section 3).

Two minutes on two cores. For example

    python examples/batch_size.py --quick
"""

from __future__ import annotations

import math
import sys
from typing import Any

import numpy as np
from experiment import NOT_SUPPORTED, PARTLY, SUPPORTED, Experiment, Verdict, main
from figures import MARKS, NAMES, STYLES, band, panels, percent
from results import Record, choose, group, spread, values, where
from training import Config, build, dataset, fit, right, stream

import tinybn as tb

NORMS = ("none", "batch", "layer")
SIZES = (2, 4, 8, 16, 32, 64, 128, 256)
RATES = (0.01, 0.03, 0.1, 0.3, 1.0)
SEQUENCE_SIZES = (4, 16)
SEQUENCE_RATES = (0.1, 0.3)
WIDTH = 64
CHANNELS = 2048
"""So many random ones see how much of the gradient comes through."""


def configurations(size: str) -> list[Record]:
    """`examples`: how many to learn from, batch by batch, repeatedly."""
    quick = size == "quick"
    examples = {"quick": 1200, "default": 4000, "full": 24_000}[size]
    batches = (2, 8, 64) if quick else SIZES
    arms: list[Record] = [
        {"task": "image", "norm": norm, "batch_size": b, "lr": lr, "examples": examples}
        for norm in NORMS
        for b in batches
        for lr in (RATES[1:4:2] if quick else RATES)
    ]
    examples = {"quick": 1200, "default": 3000, "full": 24_000}[size]
    return arms + [
        {"task": "sequence", "norm": norm, "batch_size": b, "lr": lr, "examples": examples}
        for norm in NORMS
        for b in SEQUENCE_SIZES
        for lr in (SEQUENCE_RATES[:1] if quick else SEQUENCE_RATES)
    ]


def run(config: Record) -> Record:
    """Train, and measure accuracies with running and batch statistics, and how much of dy passes.

    `longer` is the accuracy on longer sequences.
    """
    rest = {key: value for key, value in config.items() if key not in ("task", "examples")}
    steps = config["examples"] // config["batch_size"]
    options = Config(**rest, hidden=(WIDTH, WIDTH), momentum=0.0, steps=steps, every=steps)
    data = dataset(options.data, options.seed, options.data_dir)
    longer: dict[str, tb.data.Part] = {}
    if config["task"] == "image":
        model: tb.nn.Module = build(options)
    else:
        rng = stream(options.seed, "noise")
        rows = math.isqrt(data.features)
        longer = {"longer": sequences(data.test, 3 * rows, 3 * rows, rng)}
        parts = [sequences(p, 0, rows, rng) for p in (data.train, data.validation, data.test)]
        data = data._replace(train=parts[0], validation=parts[1], test=parts[2])
        with tb.use_backend(options.backend):
            model = Reader(rows, data.classes, options)
    done = fit(model, data, options)
    measured = done.measures(math.inf)
    measured["running"] = measured["test_accuracy"]
    for name, part in longer.items():
        x = tb.tensor(part.x, backend=options.backend)
        measured[f"{name}_running"] = float(right(model, x, part.y).mean())
    for name, part in {"": data.test, **longer}.items():
        accuracy = with_batch_statistics(model, part, options)
        measured[f"{name}_batch_statistics" if name else "batch_statistics"] = accuracy
    return measured | {"passed": passed(options)}


def with_batch_statistics(model: tb.nn.Module, part: tb.data.Part, options: Config) -> float:
    """The accuracy in training mode, with the statistics of batches of the test data."""
    order = stream(options.seed, "noise").permutation(len(part.x))
    hits = 0
    with tb.no_grad(), np.errstate(all="ignore"):
        for i in np.array_split(order, max(1, len(order) // options.batch_size)):
            scores = model(tb.tensor(part.x[i], backend=options.backend)).numpy()
            hits += int((scores.argmax(axis=1) == part.y[i]).sum())
    return hits / len(order)


def passed(options: Config) -> float:
    """The root mean square of |dx| σ / |dy| for a random dy.

    x is a random projection of a batch of the data. σ and | | are those of a channel, or of an
    example for layer norm.
    """
    rng = stream(options.seed, "noise")
    data = dataset(options.data, options.seed, options.data_dir).train.x[: options.batch_size]
    width = WIDTH if options.norm == "layer" else CHANNELS
    projected = data.astype(np.float64) @ rng.standard_normal((data.shape[1], width))
    x = tb.tensor(projected, requires_grad=True, backend=options.backend)
    dy = rng.standard_normal(x.shape)
    if options.norm == "none":
        return 1.0
    op: Any = {"batch": tb.ops.batch_norm, "layer": tb.ops.layer_norm}[options.norm]
    axis = 0 if options.norm == "batch" else 1
    dx = tb.grad(op(x, eps=0.0), x, tb.tensor(dy, backend=options.backend))[0].numpy()
    part = (dx**2).sum(axis) * x.numpy().var(axis) / (dy**2).sum(axis)
    return float(np.sqrt(part.mean()))


def sequences(part: tb.data.Part, least: int, most: int, rng: np.random.Generator) -> tb.data.Part:
    """Each image row by row, after the last `least` to `most` rows of another image.

    x is (n, time, row + 1): the last number is 1, and 0 where a sequence has ended.
    """
    n = len(part.x)
    rows = math.isqrt(part.x.shape[1])
    images = part.x.reshape(n, rows, rows)
    x = np.zeros((n, most + rows, rows + 1), np.float32)
    for i, length in enumerate(rng.integers(least, most + 1, n)):
        before = images[rng.integers(n, size=-(-most // rows))].reshape(-1, rows)
        x[i, : length + rows, :rows] = np.concatenate([before[len(before) - length :], images[i]])
        x[i, : length + rows, rows] = 1
    return tb.data.Part(x, part.y)


class Reader(tb.nn.Module):
    """h ← tanh(norm(x W + h U)) for each x of a sequence, then the classes of the last h.

    All steps share one norm, because the length is not known beforehand.
    """

    def __init__(self, features: int, classes: int, options: Config) -> None:
        rng, bias = stream(options.seed, "weights"), options.norm != "batch"
        self.input = tb.nn.Linear(features, WIDTH, bias, init="xavier", rng=rng)
        self.state = tb.nn.Linear(WIDTH, WIDTH, bias=False, init="xavier", rng=rng)
        self.norm = None if options.norm == "none" else tb.nn.NORMS[options.norm](WIDTH)
        self.output = tb.nn.Linear(WIDTH, classes, rng=rng)

    def forward(self, x: Any) -> tb.Tensor:
        h: Any = None
        for t in range(x.shape[1]):
            z = self.input(x[:, t, :-1])
            z = z if h is None else z + self.state(h)
            new = tb.ops.tanh(z if self.norm is None else self.norm(z))
            h = new if h is None else h + x[:, t, -1:] * (new - h)  # a finished one stays
        return self.output(h)


def best(runs: list[Record]) -> list[Record]:
    """The runs at the learning rate with the best validation accuracy."""
    return where(
        runs, lr=choose(runs, lambda rs: -spread(values(rs, "validation_accuracy")).median)
    )


def behind(runs: list[Record], b: int, measure: str, other: str = "layer") -> list[float]:
    """How much lower batch norm's accuracy is than that of another norm, for each seed."""
    arms = [best(where(runs, norm=norm, batch_size=b)) for norm in (other, "batch")]
    of = [dict(zip((r["seed"] for r in rs), values(rs, measure), strict=True)) for rs in arms]
    return [of[0][seed] - of[1][seed] for seed in of[0]]


def cost(losses: Any) -> str:
    """Losses of accuracy, in points."""
    return spread([100 * float(v) for v in losses]).text(".1f")


def judge(runs: list[Record]) -> list[Verdict]:
    """ "Larger batches" is supported, if with batches of 2 batch norm is behind layer norm by more
    than 2 points of test accuracy for every seed, and with its best batch of 32 and more, by less
    than that in the median; partly, if it is behind in the median. The gradient's part is, if every
    run is within 3 % of √((B - 2)/B). "Layer norm for sequences" is supported, if it is ahead of
    batch norm by more than 2 points for every seed, with each batch size, and with sequences as
    long as those learnt from and longer ones; partly, if with one of these in the median.
    """
    images, read = where(runs, task="image"), where(runs, task="sequence")
    sizes = sorted({r["batch_size"] for r in images})
    lag = {b: spread(behind(images, b, "running")) for b in sizes}
    large = min(lag[b].median for b in sizes if b >= 32)
    at = {
        (norm, b): spread(values(best(where(images, norm=norm, batch_size=b)), "running"))
        for norm in NORMS
        for b in sizes
    }
    batch_2 = best(where(images, norm="batch", batch_size=2))
    own = spread(values(batch_2, "batch_statistics"))
    if lag[2].low > 0.02 and large < 0.02:
        larger = SUPPORTED
    else:
        larger = PARTLY if lag[2].median > 0.02 else NOT_SUPPORTED
    top = max(at["batch", b].median for b in sizes)
    enough = min(b for b in sizes if at["batch", b].median > top - 0.02)
    through = where(images, norm="batch", lr=RATES[1])
    off = max(abs(r["passed"] - math.sqrt(1 - 2 / r["batch_size"])) for r in through)
    measures = ("running", "longer_running")
    ahead = {(b, m): spread(behind(read, b, m)) for b in SEQUENCE_SIZES for m in measures}
    said = {
        (norm, b, m): spread(values(best(where(read, norm=norm, batch_size=b)), m)).text(".1%")
        for norm in NORMS
        for b in SEQUENCE_SIZES
        for m in (*measures, "batch_statistics", "longer_batch_statistics")
    }
    arms = {(norm, b): best(where(read, norm=norm, batch_size=b))
            for norm in NORMS for b in SEQUENCE_SIZES}  # fmt: skip
    few, many = SEQUENCE_SIZES
    longer = [r["running"] - r["longer_running"] for b in (few, many) for r in arms["batch", b]]
    smaller, smaller_layer = (
        np.subtract(values(arms[norm, many], "running"), values(arms[norm, few], "running"))
        for norm in ("batch", "layer")
    )
    if min(v.low for v in ahead.values()) > 0.02:
        sequence = SUPPORTED
    else:
        sequence = PARTLY if max(v.median for v in ahead.values()) > 0.02 else NOT_SUPPORTED
    return [
        Verdict(
            claim="Batch norm works better with larger batches.",
            verdict=larger,
            finding=f"With batches of 2 batch norm gets to {at['batch', 2].median:.0%}, layer norm "
            f"to {at['layer', 2].median:.0%}; with 64 to {at['batch', 64].median:.0%} and "
            f"{at['layer', 64].median:.0%}, from equally many examples",
            why="Test accuracy at the best learning rate, batch norm with running statistics: "
            + "; ".join(
                f"{n} {at['batch', n].text('.1%')}, layer norm {at['layer', n].text('.1%')}, "
                f"none {at['none', n].text('.1%')}"
                for n in sizes
            )
            + f". With the statistics of test batches of 2 it is {own.text('.1%')}. From {enough} "
            "on batch norm is within 2 points of its best; with the largest batches all have few "
            "steps.",
            numbers={
                "behind layer norm with 2": lag[2].median,
                "behind layer norm with 64": lag[64].median,
                "batch norm with 2": at["batch", 2].median,
            },
        ),
        Verdict(
            claim="Batch norm lets √((B - 2)/B) of a random gradient through: nothing with B = 2.",
            verdict=SUPPORTED if off < 0.03 else NOT_SUPPORTED,
            finding=f"All parts measured are within {off:.3f} of √((B - 2)/B)",
            why="Measured "
            + ", ".join(
                f"{spread(values(rs, 'passed')).median:.3g} with {size}"
                for (size,), rs in group(through, ["batch_size"]).items()
            )
            + "; at most "
            f"{off:.3f} from the formula. Layer norm: "
            f"{spread(values(where(images, norm='layer'), 'passed')).median:.3f} with any batch, "
            f"√((C - 2)/C) being {math.sqrt(1 - 2 / WIDTH):.3f} for its C = {WIDTH}.",
            numbers={"off √((B - 2)/B)": off},
        ),
        Verdict(
            claim="Layer norm is the better choice for varying batches and sequences.",
            verdict=sequence,
            finding="Sequences: layer norm is ahead of batch norm by "
            + " and by ".join(
                f"{100 * ahead[b, 'running'].median:.0f} points with batches of {b}"
                for b in SEQUENCE_SIZES
            ),
            why="Test accuracy in the sequence task: "
            + "; ".join(
                f"batches of {b}: layer norm {said['layer', b, 'running']}, batch norm with "
                f"running statistics {said['batch', b, 'running']}, with batch statistics "
                f"{said['batch', b, 'batch_statistics']}, none {said['none', b, 'running']}; "
                f"sequences longer than any learnt from {said['layer', b, 'longer_running']}, "
                f"{said['batch', b, 'longer_running']}, "
                f"{said['batch', b, 'longer_batch_statistics']} and "
                f"{said['none', b, 'longer_running']}"
                for b in SEQUENCE_SIZES
            )
            + f". Longer sequences cost batch norm {cost(longer)} points, smaller batches "
            f"{cost(smaller)} (layer norm {cost(smaller_layer)}). (With images, see above.)",
            numbers={
                f"sequences, layer norm ahead with {b}": ahead[b, "running"].median
                for b in SEQUENCE_SIZES
            },
        ),
    ]


def draw(runs: list[Record]) -> Any:
    """Accuracy against batch size; what part of the gradient comes through; sequences."""
    figure, ((left, middle, right_),) = panels(1, 3, width=12.5, height=3.9)
    images = where(runs, task="image")
    sizes = sorted({r["batch_size"] for r in images})
    for norm in NORMS:
        arms = [best(where(images, norm=norm, batch_size=b)) for b in sizes]
        band(left, sizes, [[r["running"] for r in rs] for rs in arms], norm, mark=True)
        if norm == "batch":
            samples = [[r["batch_statistics"] for r in rs] for rs in arms]
            band(left, sizes, samples, norm, mark=True, linestyle=":", mfc="white", lw=1.2,
                 label="batch norm, batch statistics")  # fmt: skip
    left.set(ylabel="test accuracy, best learning rate", ylim=(None, 1.0))
    percent(left.yaxis)
    left.set_title("images, equally many examples", fontsize=9)
    left.legend(frameon=False, fontsize=8, loc="lower center")
    for norm in NORMS:
        parts = [spread(values(where(images, norm=norm, batch_size=b), "passed")) for b in sizes]
        middle.plot(sizes, [v.median for v in parts], MARKS[norm], color=STYLES[norm][0], ms=4,
                    label=NAMES[norm])  # fmt: skip
    dense = np.geomspace(2, max(sizes), 200)
    middle.plot(dense, np.sqrt(1 - 2 / dense), color="0.35", lw=0.9, ls=(0, (1, 1.5)),
                label="√((B − 2)/B)")  # fmt: skip
    middle.set(ylabel="|dx| σ / |dy|", ylim=(-0.04, 1.05))
    middle.set_title("part of a random gradient that comes through", fontsize=9)
    middle.legend(frameon=False, fontsize=8, loc="lower right")
    for ax in (left, middle):
        ax.set(xscale="log", xlabel="batch size")
        ax.set_xticks(sizes, [str(b) for b in sizes])
        ax.minorticks_off()
    groups = {
        f"{'longer, ' if longer else ''}\nbatches of {b}": (b, f"{longer}running")
        for b in SEQUENCE_SIZES
        for longer in ("", "longer_")
    }
    read = where(runs, task="sequence")
    for i, (b, measure) in enumerate(groups.values()):
        for shift, norm in zip((-0.25, 0, 0.25), NORMS, strict=True):
            found = spread(values(best(where(read, norm=norm, batch_size=b)), measure))
            right_.bar(i + shift, found.median, 0.22, color=STYLES[norm][0], alpha=0.75,
                       label=NAMES[norm] if i == 0 else None)  # fmt: skip
            right_.plot([i + shift] * 2, [found.low, found.high], color="0.2", lw=1.5)
            right_.annotate(f"{100 * found.median:.0f}", (i + shift, found.high), xytext=(0, 2),
                            textcoords="offset points", ha="center", fontsize=7)  # fmt: skip
    right_.set_xticks(range(len(groups)), [*groups], fontsize=8)
    right_.set(ylabel="test accuracy", ylim=(0, 1.25))
    right_.set_yticks([0, 0.25, 0.5, 0.75, 1])
    percent(right_.yaxis)
    right_.set_title("sequences of varying length", fontsize=9)
    right_.legend(frameon=False, fontsize=8, ncols=3, loc="upper center", columnspacing=1)
    return figure


EXPERIMENT = Experiment(
    name="batch_size",
    text=__doc__,
    configurations=configurations,
    run=run,
    judge=judge,
    draw=draw,
    keys=("task", "norm", "batch_size", "lr"),
    measures={
        "running": ".1%",
        "batch_statistics": ".1%",
        "passed": ".3f",
        "loss": ".3g",
        "ms_per_step": ".2f",
    },
    # From 8 other seeds in the quick size (medians 0.26, -0.17, 0.59, 0.005, 0.27; single seeds 0.2
    # to 0.43, -0.38 to -0.08, 0.49 to 0.73, at most 0.006, -0.16 to 0.60) and 5 in the default size
    # (medians 0.30, -0.02, 0.66, 0.008, 0.20).
    bands={
        "behind layer norm with 2": (0.08, 0.55),
        "behind layer norm with 64": (-0.45, 0.03),
        "batch norm with 2": (0.4, 0.8),
        "off √((B - 2)/B)": (0, 0.03),
        "sequences, layer norm ahead with 4": (0, 0.65),
    },
)

if __name__ == "__main__":
    sys.exit(main(EXPERIMENT))
