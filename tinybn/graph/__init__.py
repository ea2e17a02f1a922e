"""Pictures of how a Tensor was computed: a text tree, SVG, DOT and Mermaid.

    y = tb.ops.batch_norm(x, gamma)                      # with tb.use_fused(False), all its parts
    print(tb.graph.tree(y, names={"x": x, "gamma": gamma}))

Every op is labelled with its shape, the file and lines of its gradient rules, and its numbers if
they are few. Given the spans that `layers` notes, all ops inside a layer are drawn as one box:

    with tb.graph.layers(model) as spans:
        y = model(x)
    print(tb.graph.mermaid(y, spans=spans))

A graph holds only the arrays that gradient rules will read. `watching` keeps the others, too, and
the gradients. In a notebook, a Tensor shows its values and its graph by itself.
"""

from tinybn.graph.history import Span, Vertex, layers, vertices
from tinybn.graph.notebook import show_in_notebooks
from tinybn.graph.svg import svg
from tinybn.graph.text import DEEPEST, dot, mermaid, tree
from tinybn.graph.values import Seen, watching

__all__ = [
    "DEEPEST", "Seen", "Span", "Vertex", "dot", "layers", "mermaid", "svg", "tree", "vertices",
    "watching",
]  # fmt: skip

show_in_notebooks()
