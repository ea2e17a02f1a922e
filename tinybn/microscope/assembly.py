"""From what a `Watcher` saw to the nodes and events of a recording."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np

from tinybn.microscope.drawing import SYMBOLS, layout, symbol_and_formula
from tinybn.microscope.programs import Listing
from tinybn.microscope.recording import PATHS, Event, Floats, Node
from tinybn.microscope.source import rule_of
from tinybn.microscope.watching import Added, Watcher
from tinybn.tensor import Tensor

NUMBER = -1
"""The place of a Python number, such as ε, among the inputs of a node."""


class Assembly:
    """Numbers for the nodes: first the leaves, then the ops, each after its constants."""

    def __init__(
        self,
        watcher: Watcher,
        listing: Listing,
        leaves: dict[str, Tensor],
        moments: list[Floats],
    ) -> None:
        self.watcher, self.listing, self.leaves, self.moments = watcher, listing, leaves, moments
        self.number: dict[Any, int] = {leaf: i for i, leaf in enumerate(leaves.values())}

    def nodes(self, gradients: dict[str, Tensor]) -> list[Node]:
        """The nodes, with their gradients and their places in a drawing."""
        waits = Counter(added.source for added in self.watcher.added)
        found = [
            Node("leaf", name, SYMBOLS[name], "", [], leaf.numpy(), gradients[name].numpy(),
                 waits[leaf], i, "", "", [], 0, 0)
            for i, (name, leaf) in enumerate(self.leaves.items())
        ]  # fmt: skip
        totals = {added.source: added.total for added in self.watcher.added}
        y = self._y()
        for k, made in enumerate(self.watcher.made):
            node, name = made.node, self.listing.names[k]
            inputs = [self._input(found, node, i) for i in range(len(node.op.names))]
            symbols = ["ε" if i == NUMBER else found[i].symbol for i in inputs]
            symbol, formula = symbol_and_formula(node, name, symbols, node is y)
            self.number[node] = i = len(found)
            inside = i
            if node.op.name == "recentre":  # rounding's business, drawn with the difference
                inside = inputs[0]
            found.append(
                Node(node.op.name, name, symbol, formula, inputs, made.value, totals.get(node),
                     waits[node], inside, made.where, made.code, self.listing.forward[k], 0, 0)
            )  # fmt: skip
        found[-1] = replace(found[-1], gradient=self.watcher.seed)
        places = layout(found)
        return [
            replace(node, column=column, row=row)
            for node, (column, row) in zip(found, places, strict=True)
        ]

    def _y(self) -> Any:
        """The node of the norm's output: the last one that is not part of a loss."""
        made = self.watcher.made
        return made[-3].node if made[-1].node.op.name == "sum" else made[-1].node

    def _input(self, found: list[Node], node: Any, i: int) -> int:
        """The number of an input. A constant array gets a node, a number gets none."""
        source = self.watcher.sources[node][i]
        if source is not None:
            return self.number[source]
        value = self.watcher.constants[node][i]
        if node.op.name == "subtract":
            value, symbol = self.moments[0], "μ"
        elif node.op.name == "divide":
            symbol = "√(σ² + ε)"
        else:
            return NUMBER
        found.append(
            Node("constant", symbol, symbol, "a constant", [], np.array(value), None,
                 0, len(found), "", "", [], 0, 0)
        )  # fmt: skip
        return len(found) - 1

    def events(self) -> list[Event]:
        """The contributions."""
        awaited = Counter(added.source for added in self.watcher.added)
        found = []
        for k, added in enumerate(self.watcher.added):
            awaited[added.source] -= 1
            found.append(self._event(added, awaited[added.source], self.listing.backward[k]))
        return found

    def _event(self, added: Added, awaited: int, lines: list[int]) -> Event:
        rule, where = rule_of(added.node.op, added.input)
        return Event(
            node=self.number[added.node],
            input=added.input,
            to=self.number[added.source],
            upstream=added.upstream,
            local=added.local,
            is_matrix=added.is_matrix,
            terms=added.terms,
            value=added.value,
            total=added.total,
            awaited=awaited,
            upstream_parts=named(added.upstream_parts),
            parts=named(added.parts),
            by_path=named(added.by_path),
            rule=rule,
            rule_where=where,
            lines=lines,
        )

    def paths(self, leaf: Tensor) -> dict[str, Floats]:
        """The gradient of a leaf by path."""
        return named(self.watcher.parts.get(leaf, {}))


def named(parts: dict[frozenset[str], Floats]) -> dict[str, Floats]:
    """Parts by the names of their paths, in the order of PATHS."""
    names = {"both" if len(by) == 2 else next(iter(by), "direct"): v for by, v in parts.items()}
    return {name: names[name] for name in PATHS if name in names}
