"""Is a larger number larger?

A second. For example: python toy_experiment.py
"""

import os
import sys
import time
from pathlib import Path

from lab import claims
from lab.command import main
from lab.figures import panels
from lab.intervals import median_interval
from lab.records import ratios, where
from lab.verdicts import NOT_SUPPORTED, SUPPORTED, Claim, Experiment, Picture

claims.FOLDERS.append(Path(__file__).parent)


def configurations(size):
    return [{"number": number} for number in (1, 2)]


def run(config):
    time.sleep(float(os.environ.get("TOY_SECONDS", "0")))
    value = config["number"] + config["seed"] * (config["number"] - 1)
    value += float(os.environ.get("TOY_CHANGE", "0"))
    return {"value": value, "threads": int(os.environ["OPENBLAS_NUM_THREADS"])}


def measure(runs):
    factor = ratios(where(runs, number=2), where(runs, number=1), "value")
    return {"ratio": median_interval(factor), "runs": len(runs)}


def draw(runs):
    figure, ((ax,),) = panels()
    ax.plot([r["value"] for r in runs])
    return figure


EXPERIMENT = Experiment(
    name="toy_experiment",
    text=__doc__,
    ran="Two numbers.",
    configurations=configurations,
    run=run,
    measure=measure,
    claims=(
        Claim(
            "toy_experiment.larger",
            decide=lambda n: SUPPORTED if n["ratio"].above(1) else NOT_SUPPORTED,
            finding=lambda n: f"The larger is {n['ratio'].text()} times as large.",
            answer=lambda n: "It is.",
        ),
    ),
    pictures={"toy_experiment": Picture(draw, lambda n: "It is larger", "A point per run.")},
    keys=("number",),
    measures={"value": ".1f"},
    bands={"ratio": (2, 3)},
    data=(),
)

if __name__ == "__main__":
    sys.exit(main(EXPERIMENT))
