"""Formulas as MathML, written when the site is built: the pages need no script and no network."""

from docutils.nodes import SkipNode
from math_core import LatexError, LatexToMathML
from sphinx.errors import SphinxError

CONVERTER = LatexToMathML(fancy_error=False)


def mathml(node, *, display):
    """The formula of a node as MathML.

    Raises:
        SphinxError: it has a mistake, or a command that is not known.
    """
    latex = node.astext()
    try:
        return CONVERTER.convert_with_local_state(latex, displaystyle=display)
    except LatexError as error:
        raise SphinxError(f"{node.source}:{node.line}: {error}\n{latex}") from error


def inline(translator, node):
    """Write a formula in a line of text."""
    translator.body.append(mathml(node, display=False))
    raise SkipNode


def block(translator, node):
    """Write a formula on lines of its own; it scrolls where the screen is too narrow."""
    translator.body.append(f'<div class="math" tabindex="0">{mathml(node, display=True)}</div>')
    raise SkipNode


def setup(app):
    """For Sphinx."""
    app.add_html_math_renderer("mathml", (inline, None), (block, None))
    return {"parallel_read_safe": True}
