"""What the nodes of a recorded norm are called on paper, and where they stand in a drawing."""

from __future__ import annotations

from typing import Any

from tinybn.op import Node

SYMBOLS = {
    "x": "x",
    "gamma": "γ",
    "beta": "β",
    "mu": "μ",
    "d": "d",
    "var": "σ²",
    "x_hat": "x̂",
    "loss": "L",
}
"""Names of the program, as the papers write them."""


def symbol_and_formula(node: Node, name: str, inputs: list[str], is_y: bool) -> tuple[str, str]:
    """The symbol of an op's result and its formula, given the symbols of its inputs."""
    op, a, b = node.op.name, inputs[0], inputs[-1]
    square = op == "multiply" and a == b
    formula = {
        "mean": f"mean of {a}",
        "sum": f"sum of {a}",
        "subtract": f"{a} − {b}",
        "recentre": f"{a}, centred again",
        "multiply": f"{a} · {b}",
        "add": f"{a} + {b}",
        "sqrt": f"√({a})",
        "divide": f"{a} / {b}",
    }.get(op, f"{op}({', '.join(inputs)})")
    if is_y:
        return "y", formula
    symbol = SYMBOLS.get(name)
    if square:
        symbol = f"{a}²"
    elif op == "multiply":
        symbol = f"{a} {b}"
    elif op == "subtract":
        symbol = "d"
    elif op == "mean" and not symbol:
        symbol = "ms"  # the mean square of RMS norm
    elif op == "sum":
        symbol = "L"
    return symbol or formula, formula


def layout(nodes: list[Any]) -> list[tuple[int, int]]:
    """The column and row of each node: row 0 from x to the output, row 1 for the detours.

    Each op has a column of its own, in the order in which they ran. Leaves and constants other than
    x stand below the op that reads them. A node inside the box of another shares its place.
    """
    main = {0, len(nodes) - 1}
    i = len(nodes) - 1
    while nodes[i].inputs:
        wide = [
            k
            for k in nodes[i].inputs
            if k >= 0 and (k == 0 or nodes[k].inputs) and nodes[k].value.size == nodes[0].value.size
        ]
        i = wide[0] if wide else next(k for k in nodes[i].inputs if k >= 0)
        main.add(i)
    places: dict[int, tuple[int, int]] = {0: (0, 0)}
    column = 0
    for i, node in enumerate(nodes):
        if node.inputs and node.inside == i:
            column += 1
            places[i] = (column, 0 if i in main else 1)
            beside = [k for k in node.inputs if k > 0 and not nodes[k].inputs]
            places.update({k: (column + n, 1) for n, k in enumerate(beside)})
    for i, node in enumerate(nodes):
        places.setdefault(i, places.get(node.inside, (0, 1)))
    return [places[i] for i in range(len(nodes))]
