"""The steps of a recording, in words: what the page and the terminal both show.

The words hold no numbers, so recordings that differ only in numbers share them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from tinybn.microscope.recording import Event, Node, Recording


class Step(NamedTuple):
    """One step.

    Attributes:
        kind: "start", "forward", "seed", "backward" or "end".
        node: the number of the node that runs, forward or backward; -1 at the start and the end.
        event: the number of the contribution, or -1.
        title: a heading.
        say: one or two sentences.
        lines: the numbers of the lines of the program.
    """

    kind: str
    node: int
    event: int
    title: str
    say: str
    lines: list[int]


def steps(recording: Recording) -> list[Step]:
    """All steps: the start, the ops, the seed, the contributions, and the end.

    What happens inside the box of another node (see `Node.inside`) is no step of its own.
    """
    nodes = recording.nodes
    found = [Step("start", -1, -1, "Nothing has run yet", START, [0])]
    for i, node in enumerate(nodes):
        if node.inputs and node.inside == i:
            parts = [other for other in nodes if other.inside == i]
            lines = [line for other in parts for line in other.lines]
            title = (
                f"{node.symbol} = {node.formula}" if node.symbol != node.formula else node.symbol
            )
            found.append(Step("forward", i, -1, title, _forward(recording, node), lines))
    output = nodes[recording.output]
    is_loss = output.symbol == "L"
    say = SEED_OF_LOSS if is_loss else SEED
    found.append(Step("seed", recording.output, -1, f"The backward pass starts at {output.symbol}",
                      say, []))  # fmt: skip
    for k, event in enumerate(recording.events):
        if nodes[event.node].inside == nodes[event.to].inside:
            continue
        title = f"{nodes[event.node].symbol} adds to the gradient of {nodes[event.to].symbol}"
        say = f"{_backward(recording, event)} {_awaited(nodes[event.to], event)}"
        found.append(Step("backward", event.node, k, title, say, event.lines))
    last = len(recording.program) - 1
    found.append(Step("end", -1, -1, "The gradient of x is complete", _end(recording), [last]))
    return found


START = (
    "Values appear as the forward pass computes them. Gradients are blank, which does not mean 0: "
    "nobody knows them yet. A box says how many contributions its gradient waits for."
)
SEED = (
    "Forward, all is known. A loss L comes after y, and the question goes backwards: how does L "
    "change if this changes? For y, the answer is given: the upstream gradient dy = ∂L/∂y."
)
SEED_OF_LOSS = (
    "Forward, all is known. Now the question goes backwards: how does the loss L change if this "
    "changes? For L itself, the answer is 1."
)


def _forward(recording: Recording, node: Node) -> str:
    """What an op does to values."""
    group = {"batch": "the batch", "layer": "the row", "rms": "the row"}[recording.norm]
    root = recording.nodes[node.inputs[-1]].symbol if node.op == "divide" else ""
    said = {
        "μ": f"The mean over {group}. It depends on every x.",
        "d": "How far each x is from the mean. These deviations always sum to 0.",
        "d²": "Squared, so that they cannot cancel.",
        "x²": "Squared, so that they cannot cancel.",
        "σ²": "The mean of the squares: the variance.",
        "ms": "The mean of the squares. RMS norm subtracts no mean first.",
        "x̂": f"Each value is divided by the same {root}.",
        "γ x̂": "Scaled by γ, which training learns.",
        "y²": "Squared.",
        "L": "One number: the loss.",
    }
    if node.op in ("batch_norm", "layer_norm", "rms_norm"):
        return (
            "One fused op computes all of it by the closed form. The program shows its lines; the "
            "graph has nothing to show in between."
        )
    if node.symbol in said:
        return said[node.symbol]
    if node.op == "add" and -1 in node.inputs:
        return "ε keeps what follows away from 0."
    if node.op == "sqrt":
        return "The root brings the squares back to the units of x."
    if node.symbol == "y":
        return "What the layer returns." if node.op != "add" else "Shifted by β: the output."
    return f"{node.op} runs."


def _backward(recording: Recording, event: Event) -> str:
    """Why an op contributes what it does."""
    node, to = recording.nodes[event.node], recording.nodes[event.to]
    reads = node.inputs.count(event.to)
    if event.is_matrix:
        return (
            f"The closed form gives the whole gradient of {to.symbol} at once. The matrix says how "
            f"much each y changes with each {to.symbol}."
        )
    if node.op == "add":
        if to.symbol == "β":
            return "β is added to every value, so its gradient is the sum of theirs: Σ dy."
        return "A sum hands its gradient on unchanged: the local derivative is 1."
    if node.op == "multiply" and reads == 2:
        first = f"{node.symbol} = {node.formula} reads {to.symbol} twice. This is its first factor"
        second = f"And the second factor of {node.formula}: together they make 2{to.symbol}"
        return f"{second if event.input else first}; the local derivative is the other factor."
    if node.op == "multiply" and to.symbol == "γ":
        if recording.norm == "batch":
            return "γ multiplies every x̂, so its gradient is a sum: Σ dy · x̂."
        return "Each value has a γ of its own: dγ = dy · x̂."
    if node.op == "multiply":
        inside = " In this norm γ differs from value to value, so it stays inside all later sums."
        return f"The local derivative is γ.{inside if recording.norm != 'batch' else ''}"
    if node.op == "divide":
        root = recording.nodes[node.inputs[1]].symbol
        if event.input == 0:
            return f"The direct path: each value hands on its own gradient, divided by {root}."
        return (
            f"Every value was divided by the same {root}. So its gradient is a sum over all "
            "values: here they begin to depend on each other."
        )
    if node.op == "sqrt":
        return "The slope of a root r = √v is 1 / (2 r)."
    if node.op == "sum":
        return "L is a plain sum, so each term gets the gradient of L."
    if node.op == "mean" and to.symbol == "x":
        return (
            "Each x has a share of 1/n in the mean, so each gets 1/n of μ's gradient: also an x "
            "whose own dy is 0."
        )
    if node.op == "mean":
        return "Each square has a share of 1/n in the mean, so all get the same."
    if node.op == "subtract" and event.input == 0:
        return (
            "d is complete only now, after everything that read it has contributed. Therefore it "
            "can go on to x, where its local derivative is 1."
        )
    if node.op == "subtract":
        return (
            "μ was subtracted from every value, so it gets minus the sum. What came through σ² "
            "sums to 0, because it is d times a number, and the deviations d sum to 0: moving μ "
            "does not change σ² (∂σ²/∂μ = −2/n · Σ d = 0). Here the fourth path ends."
        )
    return f"The rule of {node.op} multiplies upstream by its local derivative."


def _awaited(to: Node, event: Event) -> str:
    if event.awaited:
        more = (
            "1 more contribution" if event.awaited == 1 else f"{event.awaited} more contributions"
        )
        return f"The gradient of {to.symbol} still waits for {more}."
    return f"The gradient of {to.symbol} is complete."


def _end(recording: Recording) -> str:
    if recording.form == "fused":
        return (
            "One step instead of many: the same numbers, up to rounding. The check compares them."
        )
    if recording.statistics == "constant":
        return (
            "Only the direct path is left: constants get no gradient and hand none on. In training "
            "that would be wrong, because μ and σ² do depend on x."
        )
    if recording.norm == "rms":
        return (
            "Two paths reach x: directly, and through the mean square. No mean is subtracted, so "
            "Σ dx need not be 0."
        )
    return (
        "Three paths reach x: directly, through μ, and through σ². The fourth, through μ "
        "and then σ², adds 0. Their sum is what the closed form says."
    )
