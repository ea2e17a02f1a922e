"""Pictures of a graph show every op once, with its shape, its rules and what it is made of."""

import linecache
import re
from html import escape
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from numeric import draw

import tinybn as tb
from tinybn import graph, ops
from tinybn.op import primitive


def leaves():
    x = tb.tensor(draw((6, 3), dtype=np.float32), requires_grad=True)
    gamma = tb.tensor(draw((3,), dtype=np.float32), requires_grad=True)
    return x, gamma


def composed_batch_norm():
    x, gamma = leaves()
    with tb.use_fused(False):
        return ops.batch_norm(x, gamma), {"x": x, "gamma": gamma}


def test_the_tree_of_batch_norm_reads_like_its_formula():
    y, names = composed_batch_norm()
    titles = [
        line.split("   tinybn/")[0].rstrip()
        for line in graph.tree(y, names=names, values=False).splitlines()
    ]
    assert titles == [
        "multiply (6, 3) float32",
        "├─ gamma (3,) float32",
        "└─ divide (6, 3) float32",
        "   ├─ #1 recentre (6, 3) float32",
        "   │  └─ subtract (6, 3) float32",
        "   │     ├─ x (6, 3) float32",
        "   │     └─ mean (1, 3) float32",
        "   │        └─ x (6, 3) float32",
        "   └─ sqrt (1, 3) float32",
        "      └─ add (1, 3) float32",
        "         └─ mean (1, 3) float32",
        "            └─ multiply (6, 3) float32",
        "               └─ #1 recentre (6, 3) float32   (see above)",
    ]


def test_a_fused_op_is_one_box():
    x, gamma = leaves()
    y = ops.batch_norm(x, gamma)
    lines = graph.tree(y, names={"x": x}, values=False).splitlines()
    assert len(lines) == 3
    assert re.fullmatch(r"batch_norm \(6, 3\) float32   tinybn/ops/fused.py:\d+", lines[0])
    assert lines[1:] == ["├─ x (6, 3) float32", "└─ leaf (3,) float32"]


def test_the_lines_named_are_those_of_the_gradient_rules():
    x, _ = leaves()
    place = re.search(r"tinybn/ops/elementwise.py:(\d+), (\d+)", graph.tree(x / 2))
    file = Path(tb.__file__).parent / "ops" / "elementwise.py"
    assert "g / b" in linecache.getline(str(file), int(place[1]))
    assert "-g * y / b" in linecache.getline(str(file), int(place[2]))


def test_an_op_of_ones_own_is_shown_with_its_own_file():
    @primitive(lambda g: 2 * g)
    def twice(xp, a):
        return 2 * a

    assert "test_graph.py:" in graph.tree(twice(leaves()[0]))
    assert "shape.py:" in graph.tree(ops.concatenate([leaves()[0], leaves()[0]]))


def test_layers_are_collapsed_with_their_parameters_and_the_model_is_left_as_it_was():
    model = tb.nn.MLP([3, 8, 2], "batch", rng=np.random.default_rng(0))
    x = leaves()[0]
    with tb.use_fused(False), graph.layers(model) as spans:
        loss = ops.cross_entropy(model(x), np.array([0, 1, 0, 1, 1, 0]))
    lines = graph.tree(loss, spans=spans, names={"x": x}).splitlines()
    found = [
        line.strip(" │├└─") for line in lines if "ops" in line or "1 op" in line or " x " in line
    ]
    found = [re.sub(r"   +", "  ", line) for line in found if "tinybn/" not in line]
    assert found == [
        "Linear(8, 2) (6, 2) float32  2 ops",
        "ReLU() (6, 8) float32  1 op",
        "BatchNorm(8) (6, 8) float32  10 ops",
        "Linear(3, 8, bias=False) (6, 8) float32  1 op",
        "x (6, 3) float32",
    ]
    assert len(graph.tree(loss).splitlines()) > 2 * len(lines)
    assert all("forward" not in vars(module) for module in model.modules())


@pytest.mark.parametrize("draw_graph", [graph.mermaid, graph.dot])
def test_mermaid_and_dot_have_a_box_per_op_and_an_arrow_per_input(draw_graph):
    y, names = composed_batch_norm()
    text = draw_graph(y, names=names)
    found = graph.vertices(y, names=names)
    arrows = re.findall(r"n(\d+) --?> n(\d+)", text)
    expected = [(str(j), str(i)) for i, vertex in enumerate(found) for j in vertex.inputs]
    assert arrows == expected
    assert all(int(j) < int(i) for j, i in arrows)  # what is made of something comes after it
    assert len(re.findall(r"^  n\d+ ?[\[(]", text, re.MULTILINE)) == len(found) == 11


def test_a_leaf_is_its_own_picture_and_constants_are_named():
    x, _ = leaves()
    assert graph.tree(x) == "leaf (6, 3) float32"
    assert "constant (3,) float32" in graph.tree(x * tb.tensor([1.0, 2.0, 3.0]))


def test_long_graphs_are_drawn_without_recursion():
    y, _ = leaves()
    for _ in range(3000):
        y = -y
    assert len(graph.vertices(y)) == 3001


def test_boxes_come_after_what_they_are_made_of_and_the_result_last():
    model = tb.nn.MLP([3, 8, 2], "batch", rng=np.random.default_rng(0))
    x = leaves()[0]
    tied = model[0].weight  # read inside a layer, and outside of it
    with graph.layers(model) as spans:
        y = model(x) @ tb.ops.transpose(tied[:, :2])
    found = graph.vertices(y, names={"x": x, "tied": tied}, spans=spans)
    assert all(j < i for i, vertex in enumerate(found) for j in vertex.inputs)
    assert [vertex.title for vertex in found[:2]] == ["x", "tied"]
    assert (found[-1].title, found[-1].array) == ("matmul", "(6, 3) float32")
    linear = next(vertex for vertex in found if vertex.title.startswith("Linear(3"))
    assert linear.inputs == [0]  # its own weight is not drawn there


def test_a_graph_that_was_freed_is_refused():
    x, _ = leaves()
    y = (x * 2).sum()
    y.backward()
    with pytest.raises(RuntimeError, match=r"behind 'sum' was freed.*retain_graph"):
        graph.tree(y)


def test_a_layer_that_is_used_twice_is_noted_twice_and_left_as_it_was():
    relu = tb.nn.ReLU()
    model = tb.nn.Sequential(tb.nn.Linear(3, 4), relu, tb.nn.Linear(4, 2), relu)
    own = relu.forward = relu.forward
    with graph.layers(model) as outer, graph.layers(model) as spans:
        y = model(leaves()[0])
    assert [span.label for span in spans].count("ReLU()") == 2
    assert len(outer) == len(spans) == 4
    assert graph.tree(y, spans=spans).count("ReLU()") == 2
    assert relu.forward is own
    assert "forward" not in vars(model[0])


def test_the_tree_of_a_long_graph_stays_narrow_and_shows_every_op_once():
    y, _ = leaves()
    for _ in range(3000):
        y = -y
    lines = graph.tree(y).splitlines()
    assert max(map(len, lines)) < 200
    assert sum("elementwise.py" in line for line in lines) == 3000
    below = [re.search(r"#\d+", line)[0] for line in lines if line.endswith("(see below)")]
    starts = [line.split()[0] for line in lines if line.startswith("#")]
    assert below == starts
    assert len(starts) == 3000 // graph.DEEPEST - 1


def test_names_of_users_break_no_picture_and_send_nothing_to_the_terminal():
    x, _ = leaves()
    name = 'a\\n"<b>`#1;\n\x1b[31m\u2028]'
    names = {name: x}
    y = x * 2
    assert "\x1b" not in graph.tree(y, names=names)
    assert len(graph.tree(y, names=names).splitlines()) == 2
    assert r'label="a\\n\"<b>`#1;\\n\\x1b[31m\\u2028]\n(6, 3) float32"' in graph.dot(y, names=names)
    assert len(graph.dot(y, names=names).splitlines()) == 6
    text = re.search(r'n0\(\["(.*)"\]\)', graph.mermaid(y, names=names))[1]
    shown = re.sub(r"#(\d+);", lambda m: chr(int(m[1])), text.rsplit("<br>", 1)[0])
    assert shown == r'a\n"<b>`#1;\n\x1b[31m\u2028]'
    assert not set(text.removesuffix("<br>(6, 3) float32")) & set('<>"`\\')


def cookie():
    x = tb.tensor([[2.0], [10.0], [6.0]], requires_grad=True)
    return x, tb.tensor([1.0], requires_grad=True), [[1.0], [0.0], [0.0]]


def numbers(boxes):
    return {(box.title, box.value): box.gradient for box in boxes}


on_the_host = pytest.mark.host("numbers on a GPU are not shown: that would wait for it")


@on_the_host
def test_what_was_watched_is_drawn_even_after_the_graph_was_freed():
    x, gamma, dy = cookie()
    with tb.use_fused(False), graph.watching() as seen:
        y = ops.batch_norm(x, gamma, eps=0.0)
        y.backward(dy)
    with pytest.raises(RuntimeError, match="was freed"):
        graph.vertices(y)
    found = numbers(graph.vertices(y, names={"x": x, "gamma": gamma}, values=seen))
    assert found == {
        ("x", "[[2], [10], [6]]"): "[[0.05103], [0.05103], [-0.1021]]",
        ("gamma", "[1]"): "[-1.225]",
        ("mean", "[[6]]"): "[[-0.3062]]",
        ("subtract", "[[-4], [4], [0]]"): "[[0.1531], [0.1531], [0]]",
        ("recentre", "[[-4], [4], [0]]"): "[[0.1531], [0.1531], [0]]",
        ("multiply", "[[16], [16], [0]]"): "[[0.01914], [0.01914], [0.01914]]",
        ("mean", "[[10.67]]"): "[[0.05741]]",
        ("add", "[[10.67]]"): "[[0.05741]]",
        ("sqrt", "[[3.266]]"): "[[0.375]]",
        ("divide", "[[-1.225], [1.225], [0]]"): "[[1], [0], [0]]",
        ("multiply", "[[-1.225], [1.225], [0]]"): "[[1], [0], [0]]",
    }


@on_the_host
def test_gradients_that_were_watched_are_those_of_grad_and_add_up():
    x, gamma, dy = cookie()
    with tb.use_fused(False), graph.watching() as seen:
        y = ops.batch_norm(x, gamma, eps=0.0)
        tb.grad(y, x, dy, create_graph=True)
        tb.grad(y, x, dy)
    (box,) = (b for b in graph.vertices(y, names={"x": x}, values=seen) if b.title == "x")
    assert box.gradient == "[[0.1021], [0.1021], [-0.2041]]"
    assert x.grad is None


@on_the_host
def test_numbers_that_the_graph_holds_anyway_are_shown():
    x, gamma, _ = cookie()
    (x * gamma).sum().backward()
    with tb.use_fused(False):
        y = ops.batch_norm(x, gamma, eps=0.0)
    found = numbers(graph.vertices(y, names={"x": x}))
    assert found["x", "[[2], [10], [6]]"] == "[[1], [1], [1]]"  # its .grad
    assert found["sqrt", "[[3.266]]"] == ""
    assert ("add", "") in found  # no rule reads this sum
    assert {box.value for box in graph.vertices(y, values=False)} == {""}
    assert " = [[2], [10], [6]]   gradient [[1], [1], [1]]\n" in graph.tree(y)
    assert "<br>= #" not in graph.mermaid(y)
    assert "<br>= [[3.266]]" in graph.mermaid(y)
    assert r"\n= [[3.266]]" in graph.dot(y)


@on_the_host
def test_arrays_with_many_numbers_are_not_printed():
    x, _ = leaves()
    with graph.watching() as seen:
        y = x * 2
        y.backward(np.ones((6, 3), np.float32))
    assert numbers(graph.vertices(y, values=seen)) == {("leaf", ""): "", ("multiply", ""): ""}
    assert seen.values == seen.gradients == {}


def test_numbers_on_a_gpu_are_not_fetched():
    x, gamma, _ = cookie()
    with graph.watching() as seen:
        y = ops.batch_norm(x, gamma)
    shown = [box.value for values in (True, seen) for box in graph.vertices(y, values=values)]
    assert all(shown) == (x.backend == "numpy")
    assert any(shown) == (x.backend == "numpy")


def boxes_and_ends(picture):
    """The boxes of an SVG picture as (left, top, right, bottom), and the ends of its arrows."""
    root = ElementTree.fromstring(picture)
    space = "{http://www.w3.org/2000/svg}"
    boxes = []
    for box in root.iter(f"{space}rect"):
        x, y, w, h = (float(box.get(key)) for key in ("x", "y", "width", "height"))
        boxes.append((x, y, x + w, y + h))
    return boxes, [path.get("d") for path in root.iter(f"{space}path")], root


@pytest.mark.parametrize("fused", [False, True])
def test_svg_draws_every_box_once_and_apart(fused):
    model = tb.nn.MLP([3, 8, 2], "batch", rng=np.random.default_rng(0))
    with tb.use_fused(fused):
        y = ops.cross_entropy(model(leaves()[0]), np.array([0, 1, 0, 1, 1, 0]))
    boxes, arrows, root = boxes_and_ends(graph.svg(y))
    assert len(boxes) == len(graph.vertices(y))
    for i, a in enumerate(boxes):
        for b in boxes[:i]:
            assert a[2] < b[0] or b[2] < a[0] or a[3] < b[1] or b[3] < a[1]
    width, height = float(root.get("width")), float(root.get("height"))
    assert all(-1 <= a[0] < a[2] <= width and -1 <= a[1] < a[3] <= height for a in boxes)
    heads = sum(d.count("M") == 2 for d in arrows)
    assert heads == sum(len(vertex.inputs) for vertex in graph.vertices(y))


def test_svg_arrows_avoid_the_boxes():
    y, names = composed_batch_norm()
    boxes, arrows, _ = boxes_and_ends(graph.svg(y, names=names))
    bends = [re.search(r"(\S+) (\S+)V(\S+)$", d) for d in arrows]
    bends = [[*map(float, bend.groups())] for bend in bends if bend]
    assert bends  # x to d, and d to x_hat, go past other boxes
    for x, top, bottom in bends:
        assert bottom - top > 20  # past the whole box
        assert not any(a[0] <= x <= a[2] and top < a[3] and a[1] < bottom for a in boxes)


def test_large_graphs_are_cut_with_a_note():
    y, _ = leaves()
    for _ in range(3000):
        y = -y
    picture = graph.svg(y)
    assert picture.count("<rect") == 41
    assert "… 2961 more" in picture
    assert len(picture) < 30_000
    assert graph.svg(y, most=5).count("<rect") == 6
    assert graph.svg(leaves()[0]).count("<rect") == 1


def test_svg_escapes_the_names_of_users():
    x, _ = leaves()
    picture = graph.svg(x * 2, names={'<b>"&': x})
    assert "<b>" not in picture
    ElementTree.fromstring(picture)


def test_a_notebook_shows_a_tensor_with_its_graph():
    x, gamma, dy = cookie()
    assert x._repr_html_() == f"<pre>{escape(repr(x))}</pre>"
    y = ops.batch_norm(x, gamma)
    shown = y._repr_html_()
    assert shown.startswith("<pre>tensor([[-1.22474")
    assert "<details open><summary>graph: 3 boxes</summary><svg" in shown
    z = y + 0
    y.backward(dy)
    assert "A backward pass has freed its graph" in y._repr_html_()
    assert "freed a part of its graph" in z._repr_html_()
    for _ in range(100):
        x = -x
    assert "<details><summary>graph: 40 of 101 boxes</summary>" in x._repr_html_()


@pytest.mark.parametrize("what", ["program", "table", "explanation"])
def test_a_notebook_prints_what_has_a_text(what):
    class Printer:
        def text(self, text):
            self.printed = text

    made = {
        "program": lambda: tb.program(lambda x: x * 2, np.ones(3)),
        "table": lambda: tb.check.compare("rms_norm", [np.eye(3)], orders=1),
        "explanation": lambda: tb.check.explain_batch_norm([[1.0], [2.0]], [[1.0], [0.0]]),
    }[what]()
    made._repr_pretty_(printer := Printer(), False)
    assert printer.printed == str(made)
    assert len(printer.printed.splitlines()) > 2
