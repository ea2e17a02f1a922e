"""A recording in a terminal: the same steps as on the page."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterator
from typing import TYPE_CHECKING

from tinybn.microscope.formatting import row, shown
from tinybn.microscope.steps import Step, steps

if TYPE_CHECKING:
    from tinybn.microscope.recording import Recording

PATH_NAMES = {
    "direct": "direct",
    "mean": "through the mean",
    "variance": "through the variance",
    "both": "mean, then variance",
}


def of_recording(recording: Recording) -> str:
    """All steps, one after the other."""
    found = steps(recording)
    parts = [header(recording)]
    parts += [of_step(recording, step, k, len(found)) for k, step in enumerate(found)]
    return "\n\n".join(parts) + "\n"


def header(recording: Recording) -> str:
    """What was recorded, and where the numbers come from."""
    about = ", ".join(f"{key} {value}" for key, value in recording.provenance.items())
    return (
        f"{recording.subject}\n{recording.norm} norm ({recording.form}), ε = "
        f"{shown(recording.eps)}, upstream: {recording.upstream}, statistics "
        f"{recording.statistics}\n{about}"
    )


def of_step(recording: Recording, step: Step, number: int, count: int) -> str:
    """One step: a heading, its sentence, the numbers, and the lines of the program."""
    lines = [f"[{number}/{count - 1}] {step.kind}: {step.title}"]
    lines += textwrap.wrap(step.say, 96, initial_indent="    ", subsequent_indent="    ")
    lines += [f"    {text}" for text in _numbers(recording, step)]
    lines += [f"    > {recording.program[i].strip()}" for i in step.lines if number]
    return "\n".join(lines)


def _path(recording: Recording, path: str) -> str:
    rms = recording.norm == "rms" and path == "variance"
    return "through the mean square" if rms else PATH_NAMES[path]


def _numbers(recording: Recording, step: Step) -> Iterator[str]:
    nodes = recording.nodes
    if step.kind == "start":
        yield f"x = {row(nodes[recording.x].value)}"
    elif step.kind == "forward":
        last = [node for node in nodes if node.inside == step.node][-1]
        yield f"{nodes[step.node].symbol} = {row(last.value)}"
    elif step.kind == "seed":
        yield f"upstream = {row(recording.seed)}"
    elif step.kind == "backward":
        event = recording.events[step.event]
        yield f"upstream   {row(event.upstream)}"
        yield f"local      {row(event.local)}" + ("  (a matrix)" if event.is_matrix else "")
        if event.terms is not None:
            yield f"products   {row(event.terms)}, summed"
        yield f"adds       {row(event.value)}"
        if len(event.parts) > 1:
            before = event.upstream_parts.values()
            for upstream, (path, value) in zip(before, event.parts.items(), strict=True):
                yield f"  {_path(recording, path):<24}{row(upstream)} makes {row(value)}"
        if nodes[event.to].waits > 1:
            yield f"so far     {row(event.total)}"
    else:
        for path, value in recording.paths.items():
            yield f"{_path(recording, path):<24}{row(value)}"
        check = recording.check
        yield f"{'gradient of x':<24}{row(recording.gradient)}"
        yield f"{check.reference:<24}{row(check.other)}"
        same = f"same shape {check.other.shape}" if check.same_shape else "another shape"
        yield f"check: {same} · {check.reference}: max diff {shown(check.off)}"
        yield f"       finite difference: max diff {shown(check.differences_off)}"
        yield f"       Σ dx = {row(check.sum)} · x̂·dx = {row(check.along)}"


def walk_through(recording: Recording) -> None:
    """Print the steps: all of them, or on a terminal one at each press of Enter."""
    found = steps(recording)
    write = sys.stdout.write
    write(header(recording) + "\n\n")
    stepwise = sys.stdin.isatty() and sys.stdout.isatty()
    at = 0
    while at < len(found):
        write(of_step(recording, found[at], at, len(found)) + "\n\n")
        at += 1
        if stepwise and at < len(found):
            write("Enter: next   b: back   q: quit > ")
            sys.stdout.flush()
            answer = sys.stdin.readline()
            if answer.strip() == "q" or not answer:
                return
            at = max(at - 2, 0) if answer.strip() == "b" else at
