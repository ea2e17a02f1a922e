"""Is a larger number larger?

A second. For example: python toy_experiment.py
"""

import os
import sys
import time

from experiment import SUPPORTED, Experiment, Verdict, main
from figures import panels
from results import ratios, spread, where


def configurations(size):
    return [{"number": number} for number in (1, 2)]


def run(config):
    time.sleep(float(os.environ.get("TOY_SECONDS", "0")))
    value = config["number"] + config["seed"] * (config["number"] - 1)
    return {"value": value, "threads": int(os.environ["OPENBLAS_NUM_THREADS"])}


def judge(runs):
    factor = spread(ratios(where(runs, number=2), where(runs, number=1), "value"))
    return [
        Verdict(
            claim="The larger number is larger.",
            verdict=SUPPORTED,
            finding="It is",
            why=f"the larger is {factor.low:g} ({factor.low:g}–{factor.high:g}) times as large",
            numbers={"ratio": factor.median},
        )
    ]


def draw(runs):
    figure, ((ax,),) = panels()
    ax.plot([r["value"] for r in runs])
    return figure


EXPERIMENT = Experiment(
    name="toy_experiment",
    text=__doc__,
    configurations=configurations,
    run=run,
    judge=judge,
    draw=draw,
    keys=("number",),
    measures={"value": ".1f"},
    bands={"ratio": (2, 3)},
    data=(),
)

if __name__ == "__main__":
    sys.exit(main(EXPERIMENT))
