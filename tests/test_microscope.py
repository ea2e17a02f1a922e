"""Recordings: what they hold is what ran, bit for bit; and the pages and texts made of them."""

import base64
import gzip
import io
import json
import re
import sys
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from numeric import draw

import tinybn as tb
from tinybn import ops
from tinybn.microscope import command, ladder, record, terminal, whatif
from tinybn.microscope.page import of_recordings
from tinybn.microscope.recording import PATHS, Check, Event, Node, Recording
from tinybn.microscope.steps import steps

pytestmark = pytest.mark.host("a recording is made on the host")

COOKIES, FIRST = [[2.0], [10.0], [6.0]], [[1.0], [0.0], [0.0]]
NORMS = {"batch": ops.batch_norm, "layer": ops.layer_norm, "rms": ops.rms_norm}


@pytest.fixture(scope="module")
def cookie():
    return record(COOKIES, FIRST, eps=0.0)


@pytest.fixture(scope="module")
def cookies():
    bundle = whatif.cookies("a command")
    return bundle, bundle.all()


def same(a, b):
    return a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes()


def random_recording(norm, dtype=np.float64, shape=(6, 3), seed=0, **options):
    x, dy = draw(shape, seed=seed, dtype=dtype), draw(shape, seed=seed + 1, dtype=dtype)
    gamma, beta = (draw((shape[1],), seed=seed + k, dtype=dtype) for k in (2, 3))
    gamma[0] = 0
    given = (gamma,) if norm == "rms" else (gamma, beta)
    return record(x, dy, *given, norm=norm, **options), (x, dy, *given)


CASES = [
    (norm, dtype, shape, options)
    for norm in NORMS
    for dtype in (np.float64, np.float32, np.float16)
    for shape in ((6, 3), (2, 5), (8, 2))
    for options in ({}, {"fused": True}, *([{"constant": True}] if norm == "batch" else []))
]


# --- what is recorded is what ran ---


@pytest.mark.parametrize(("norm", "dtype", "shape", "options"), CASES)
def test_contributions_add_up_to_the_gradient_bit_for_bit(norm, dtype, shape, options):
    recording, (x, dy, *params) = random_recording(norm, dtype, shape, **options)
    totals = {}
    for event in recording.events:
        value = event.value
        totals[event.to] = totals[event.to] + value if event.to in totals else value
        assert same(totals[event.to], event.total)
    for i, total in totals.items():
        assert same(total, recording.nodes[i].gradient)
    leaves = [tb.tensor(a, requires_grad=True) for a in (x, *params)]
    moments = {"mean": x.mean(0), "var": x.var(0)} if options.get("constant") else {}
    with tb.use_fused(bool(options.get("fused"))):
        gradients = tb.grad(NORMS[norm](*leaves, **moments), leaves, dy)
    for node, gradient in zip(recording.nodes, gradients, strict=False):
        assert same(node.gradient, gradient.numpy())


def test_the_loss_of_squares_is_recorded_too():
    recording = record(COOKIES, "squares")
    assert [node.symbol for node in recording.nodes][-2:] == ["y²", "L"]
    x = tb.tensor(np.array(COOKIES), requires_grad=True)
    with tb.use_fused(False):
        y = ops.batch_norm(x, np.ones(1), np.zeros(1))
        loss = ops.sum(y * y)
        assert same(recording.gradient, tb.grad(loss, x)[0].numpy())
    assert recording.nodes[-1].value == loss.item()
    assert recording.seed == 1


def test_ones_are_a_seed():
    assert (record(COOKIES, "ones").seed == 1).all()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("fused", [False, True])
def test_an_op_waits_until_its_gradient_is_complete(norm, fused):
    recording, _ = random_recording(norm, fused=fused)
    arrived = dict.fromkeys(range(len(recording.nodes)), 0)
    for event in recording.events:
        node = recording.nodes[event.node]
        assert arrived[event.node] == node.waits
        expected = recording.seed if event.node == recording.output else node.gradient
        assert same(event.upstream, expected)
        arrived[event.to] += 1
        assert event.awaited == recording.nodes[event.to].waits - arrived[event.to]
    assert all(arrived[i] == node.waits for i, node in enumerate(recording.nodes))


@pytest.mark.parametrize(("norm", "dtype", "shape", "options"), CASES[::2])
def test_upstream_times_local_is_the_contribution(norm, dtype, shape, options):
    recording, _ = random_recording(norm, dtype, shape, **options)
    for event in recording.events:
        if event.is_matrix:
            found = np.ravel(event.upstream) @ event.local
        elif event.terms is None:
            found = np.ravel(event.upstream * event.local)
        else:
            np.testing.assert_allclose(event.terms, event.upstream * event.local)
            new = event.terms.ndim - event.value.ndim
            shape = (*[1] * new, *event.value.shape)
            axes = [i for i, n in enumerate(event.terms.shape) if i < new or n != shape[i]]
            found = event.terms.sum(tuple(axes))
        tolerance = {2: 1e-2, 4: 1e-5, 8: 1e-12}[np.dtype(dtype).itemsize]
        np.testing.assert_allclose(
            np.ravel(found), np.ravel(event.value), rtol=tolerance, atol=tolerance
        )


def test_the_cookie_by_hand(cookie):
    expected = {
        "direct": [0.306186, 0, 0],
        "mean": [-0.102062] * 3,
        "variance": [-0.153093, 0.153093, 0],
        "both": [0, 0, 0],
    }
    assert list(cookie.paths) == list(expected)
    for path, numbers in expected.items():
        np.testing.assert_allclose(cookie.paths[path].ravel(), numbers, atol=5e-7)
    assert (cookie.paths["both"] == 0).all()
    np.testing.assert_allclose(cookie.gradient.ravel(), [0.051031, 0.051031, -0.102062], atol=5e-7)
    symbols = [node.symbol for node in cookie.nodes]
    assert symbols == [
        "x",
        "γ",
        "β",
        "μ",
        "d",
        "d",
        "d²",
        "σ²",
        "σ² + ε",
        "√(σ² + ε)",
        "x̂",
        "γ x̂",
        "y",
    ]
    assert cookie.nodes[3].code == "mu = mean(a, axis, keepdims=True)"
    assert re.fullmatch(r"tinybn/ops/norm\.py:\d+", cookie.nodes[3].where)


def test_the_fourth_path_dies_where_mu_gets_its_gradient(cookie):
    (event,) = [e for e in cookie.events if cookie.nodes[e.to].symbol == "μ"]
    assert list(event.upstream_parts) == ["direct", "variance"]
    assert list(event.parts) == ["mean", "both"]
    np.testing.assert_allclose(
        event.upstream_parts["variance"].ravel(), [-0.153093, 0.153093, 0], atol=5e-7
    )
    assert event.parts["both"] == 0


def test_paths_agree_with_explain_batch_norm():
    recording, (x, dy, gamma, _) = random_recording("batch", eps=0.1)
    e = tb.check.explain_batch_norm(x, dy, gamma, eps=0.1)
    found = dict(
        zip(PATHS, (e.direct, e.through_mean, e.through_variance, e.through_both), strict=True)
    )
    for path in PATHS:
        np.testing.assert_allclose(recording.paths[path], found[path], atol=1e-14)


@pytest.mark.parametrize("norm", NORMS)
def test_parts_add_up(norm):
    recording, _ = random_recording(norm)
    split = [e for e in recording.events if e.parts]
    assert len(split) > 5
    for event in split:
        np.testing.assert_allclose(sum(event.parts.values()), event.value, atol=1e-15)
        np.testing.assert_allclose(sum(event.by_path.values()), event.total, atol=1e-15)
        np.testing.assert_allclose(sum(event.upstream_parts.values()), event.upstream, atol=1e-15)
    assert recording.check.paths_off < 1e-15
    assert set(recording.paths) == ({"direct", "variance"} if norm == "rms" else set(PATHS))


@pytest.mark.parametrize("norm", NORMS)
def test_the_check_compares_shapes_numbers_and_differences(norm):
    for fused in (False, True):
        check = random_recording(norm, fused=fused, eps=0.0)[0].check
        assert check.same_shape
        assert check.shape == [6, 3]
        assert check.reference == ("composition" if fused else "closed form")
        assert check.off < 1e-14
        assert check.differences_off < 1e-8
        assert np.abs(check.along).max() < 1e-14
        assert (np.abs(check.sum).max() < 1e-14) == (norm != "rms")


def test_constants_leave_the_direct_path_alone():
    recording = record(COOKIES, FIRST, eps=0.0, constant=True)
    assert list(recording.paths) == ["direct"]
    np.testing.assert_allclose(recording.gradient.ravel(), [0.306186, 0, 0], atol=5e-7)
    constants = [node for node in recording.nodes if node.op == "constant"]
    assert [node.symbol for node in constants] == ["μ", "√(σ² + ε)"]
    assert all(node.gradient is None and node.waits == 0 for node in constants)
    assert recording.check.differences_off < 1e-8


# --- the program ---


@pytest.mark.parametrize(("norm", "dtype", "shape", "options"), CASES[::3])
def test_the_program_computes_each_value_on_the_lines_that_are_marked(norm, dtype, shape, options):
    recording, (x, dy, *params) = random_recording(norm, dtype, shape, **options)
    text = "\n".join(recording.program)
    returned = re.search(r"return (.*)", text)[1]
    text = text.replace(f"return {returned}", f"return ({returned}), locals()")
    space = {"np": np}
    exec(text, space)
    given = {"x": x, "dy": dy, "mean": x.mean(0), "var": x.var(0)}
    given |= dict(zip(("gamma", "beta"), params, strict=False))
    names = re.search(r"step\((.*)\)", text)[1].split(", ")
    (_, *gradients), variables = space["step"](*[given[name] for name in names])
    for node, gradient in zip(recording.nodes, gradients, strict=False):
        assert same(node.gradient, gradient)

    def made_on(lines):
        return [variables[recording.program[i].split(" = ")[0].strip()] for i in lines]

    for node in recording.nodes:
        if node.inputs:
            assert any(same(value, node.value) for value in made_on(node.lines))
            assert not node.lines or recording.program[node.lines[-1]].split()[0] == node.name
    for event in recording.events:
        values = made_on(event.lines)
        handed_on = same(event.value, event.upstream)
        assert handed_on or any(same(value, event.value) for value in values)
    marked = [i for part in (*recording.nodes, *recording.events) for i in part.lines]
    statements = {i for i, line in enumerate(recording.program) if " = " in line}
    assert sorted(marked) == sorted(statements)  # each line once


# --- the data ---


@pytest.mark.parametrize(
    "options", [{}, {"fused": True}, {"constant": True}, {"dtype": np.float32}]
)
def test_json_and_back(options):
    recording, _ = random_recording("batch", **options)
    text = recording.json()
    again = Recording.from_json(text)
    assert again.json() == text
    for a, b in zip(recording.events, again.events, strict=True):
        assert same(a.value, b.value)
    found = json.loads(text)
    for kind, part in (
        (Recording, found),
        (Node, found["nodes"][0]),
        (Event, found["events"][0]),
        (Check, found["check"]),
    ):
        assert list(part) == [f.name for f in fields(kind)]
        described = kind.__doc__
        assert all(re.search(rf"\b{f.name}\b", described) for f in fields(kind))


def test_nan_survives_json():
    recording = record([[1.0], [1.0]], [[1.0], [0.0]], eps=0.0)
    assert np.isnan(recording.gradient).all()
    assert np.isnan(Recording.from_json(recording.json()).gradient).all()


@pytest.mark.parametrize("text", ["[]", "{}", '{"version": 0}'])
def test_other_versions_are_refused(text):
    with pytest.raises(ValueError, match="version 1"):
        Recording.from_json(text)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: record(COOKIES, FIRST, norm="group"), "batch, layer, rms"),
        (lambda: record(COOKIES, FIRST, norm="layer", constant=True), "only batch norm"),
        (lambda: record(COOKIES, FIRST, [1.0], [0.0], norm="rms"), "no beta"),
        (lambda: record([2.0, 10.0], [1.0, 0.0]), r"\(N, C\), got \(2,\)"),
        (lambda: record(COOKIES, [1.0, 0.0, 0.0]), r"dy of shape \(3, 1\)"),
        (lambda: record(COOKIES, "twos"), "'ones' or 'squares', got 'twos'"),
        (lambda: record([[1.0]], [[1.0]]), "one value per channel"),
        (lambda: record(draw((40, 1)), "ones").html(), "at most 32"),
    ],
)
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_recording_says_where_it_comes_from(cookie):
    about = cookie.provenance
    assert about["dtype"] == "float64"
    assert about["numpy"] == np.__version__
    assert "record" in about["command"]
    assert repr(cookie) == "<Recording: batch norm (primitive), 13 nodes, 15 contributions>"


# --- pages ---


def data_of(page):
    packed = re.search(r'id="data">([^<]*)<', page)[1]
    return json.loads(gzip.decompress(base64.b64decode(packed)))


def unfolded(part, packed, texts):
    if isinstance(part, list):
        return [unfolded(p, packed, texts) for p in part]
    if not isinstance(part, dict):
        return part
    if "#" in part:
        return packed["a"][packed["i"][part["#"]]]
    if "$" in part:
        return packed["s"].get(str(part["$"]), texts[part["$"]])
    return {name: unfolded(p, packed, texts) for name, p in part.items()}


def assert_shown(found, value):
    """What the page has is what was recorded."""
    if isinstance(value, dict) and {"dtype", "shape", "data"} <= value.keys():
        assert found == value["data"]
    elif isinstance(value, dict):
        assert found.keys() == value.keys()
        for name in value:
            assert_shown(found[name], value[name])
    elif isinstance(value, list):
        assert len(found) == len(value)
        for a, b in zip(found, value, strict=True):
            assert_shown(a, b)
    elif isinstance(value, float):
        assert found == [value]
    else:
        assert found == value


def test_the_page_holds_every_combination_and_needs_nothing_else(cookies):
    bundle, recordings = cookies
    page = of_recordings(bundle.questions, bundle.start, recordings)
    assert len(page.encode()) < 300_000
    addresses = re.findall(r"\b(?:https?:)?//[^\s\"']+\.[a-z]+[^\s\"']*", page)
    assert set(addresses) <= {"http://www.w3.org/2000/svg"}  # a namespace, which nobody loads
    assert not re.search(
        r"<link(?! rel=\"icon\" href=\"data:,\")|@import|\bsrc=|fetch\(|\{\{", page
    )
    assert len(recordings) == 3 * 4 * 3 * 3 * 2 * 2 - 2 * 3 * 4 * 3 * 2
    data = data_of(page)
    assert data["packed"].keys() == {"/".join(key) for key in recordings}
    for key, recording in list(recordings.items())[::7]:
        packed = data["packed"]["/".join(key)]
        template = data["templates"][packed["t"]]
        found = unfolded(template["structure"], packed, template["texts"])
        assert_shown(found["recording"], json.loads(recording.json()))
        assert len(found["steps"]) == len(steps(recording))


def test_every_step_has_words(cookies):
    for recording in cookies[1].values():
        found = steps(recording)
        words = [f"{step.title} {step.say}" for step in found]
        assert not [text for text in words if "runs." in text or "The rule of" in text]
        assert [step.kind for step in found if step.kind in ("start", "seed", "end")] == [
            "start",
            "seed",
            "end",
        ]
        shown = {line for step in found for line in step.lines}
        statements = {i for i, line in enumerate(recording.program) if " = " in line}
        folded = {
            line
            for e in recording.events
            if recording.nodes[e.node].inside == recording.nodes[e.to].inside
            for line in e.lines
        }
        assert shown >= statements - folded - {
            i for i in statements if "np.full" in recording.program[i]
        }


def test_what_the_switches_say_is_true(cookies):
    recordings = cookies[1]

    def dx(*key):
        return np.abs(recordings[key].gradient).max()

    rest = ("computed", "primitive")
    assert dx("batch", "2,10,6", "ones", "0", *rest) < 1e-15
    assert dx("batch", "2,10,6", "squares", "0", *rest) < 1e-15
    assert 1e-9 < dx("batch", "2,10,6", "squares", "1e-5", *rest) < 1e-6
    assert dx("batch", "2,10", "random", "0", *rest) < 1e-15
    assert dx("layer", "2,10,6", "ones", "0", *rest) > 0.01
    large = recordings["batch", "2,10,6", "random", "0.1", *rest]
    assert np.abs(large.check.along).max() > 1e-4
    before, after = (
        recordings["batch", v, "first", "0", *rest].gradient for v in ("2,10,6", "2,14,6")
    )
    assert abs(before[0, 0] - after[0, 0]) > 0.005


def test_digits_show_a_real_layer():
    bundle = whatif.digits("a command", unit=3, batch=8)
    recording = bundle.first()
    assert recording.gradient.shape == (8, 1)
    assert recording.gradient.dtype == np.float32
    assert recording.nodes[1].value != 1  # gamma has learnt
    assert re.fullmatch(r"example 0, a \d", recording.labels[0])
    row = whatif.digits("a command", norm="layer", example=2).first()
    assert row.gradient.shape == (1, 16)
    assert bundle.make(("rms", "loss", "1e-5", "computed", "fused")).form == "fused"
    assert len(recording.html().encode()) < 100_000


@pytest.mark.parametrize(
    "wrong", [{"unit": 16}, {"unit": -1}, {"batch": 1}, {"batch": 33}, {"example": 8}]
)
def test_digits_refuse_what_is_not_there(wrong):
    with pytest.raises(ValueError, match="expected a"):
        whatif.digits("a command", **wrong)


def test_a_notebook_shows_the_page_in_a_frame(cookie):
    frame = cookie._repr_html_()
    assert frame.startswith('<iframe srcdoc="&lt;!doctype html')
    assert "<script" not in frame


# --- text ---


def test_the_text_has_every_step_and_number(cookie):
    text = str(cookie)
    for step in steps(cookie):
        assert f"{step.kind}: {step.title}\n" in text
    assert "adds       [0.306186  0  0]" in text
    assert "through the variance    [−0.153093  0.153093  0]" in text
    assert "mean, then variance     [0  0  0]" in text
    assert "check: same shape (3, 1) · closed form: max diff" in text
    assert "still waits for 1 more contribution" in text
    assert max(map(len, text.splitlines())) <= 110


def test_without_a_terminal_all_steps_are_printed(cookie, capsys):
    terminal.walk_through(cookie)
    assert capsys.readouterr().out.count("\n[") == len(steps(cookie))


def test_a_terminal_steps_back_and_forth(cookie, monkeypatch):
    class Terminal(io.StringIO):
        isatty = lambda self: True  # noqa: E731

    out = Terminal()
    monkeypatch.setattr(sys, "stdin", Terminal("\n\nb\nq\n"))
    monkeypatch.setattr(sys, "stdout", out)
    terminal.walk_through(cookie)
    assert re.findall(r"\[(\d+)/", out.getvalue()) == ["0", "1", "2", "1"]
    assert out.getvalue().count("Enter: next") == 4


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (-0.0, "0"), (1.0, "1"), (-0.1530931, "−0.153093"), (4.2e-17, "4.2e−17"),
     (1.5e7, "1.5e7"), (np.nan, "nan"), (10.6666667, "10.666667")],
)  # fmt: skip
def test_numbers_are_short_and_0_is_exact(value, text):
    assert terminal.shown(value) == text


# --- the ladder ---


def test_the_ladder_grows_with_batch_norm_only():
    found = ladder.record_ladder("relu", 128, "he")
    arms = {arm.norm: arm for arm in found.arms}
    assert arms["batch"].norms.shape == (found.depth,)
    assert arms["batch"].norms[-1] == 1
    np.testing.assert_allclose(np.prod(arms["batch"].factors), arms["batch"].norms[0])
    assert 1.17 < arms["batch"].growth < 1.27  # 1.218 to 1.230 with seeds 0 to 9
    assert 0.95 < arms["none"].growth < 1.05
    assert 0.95 < arms["layer"].growth < 1.05
    np.testing.assert_allclose(ladder._theory(10**6), (np.pi / (np.pi - 1)) ** 0.5, atol=1e-5)
    assert f"{arms['batch'].growth:.3f} per layer" in ladder.ladder_text(found)
    assert ladder.record_ladder("tanh", 4, "default").theory is None


# --- the command ---


def test_the_command_writes_a_page(tmp_path, monkeypatch, capsys, cookies):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(whatif.Bundle, "all", lambda self: {self.start: self.first()})
    Path("microscope.html").write_text("old")
    command.main([])
    assert capsys.readouterr().out == "wrote microscope.html: open it in a browser\n"
    data = data_of(Path("microscope.html").read_text(encoding="utf-8"))
    assert data["start"] == "batch/2,10,6/first/0/computed/primitive"
    command.main(["--norm", "rms", "--out", "rms.html"])
    page = Path("rms.html").read_text(encoding="utf-8")
    assert data_of(page)["start"].startswith("rms/")
    texts = data_of(page)["templates"][0]["texts"]
    assert "python -m tinybn microscope --norm rms --out rms.html" in texts
    assert sorted(p.name for p in tmp_path.iterdir()) == ["microscope.html", "rms.html"]


def test_the_command_steps_in_the_terminal(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command.main(["--text"])
    assert "The gradient of x is complete" in capsys.readouterr().out
    command.main(["--data", "digits", "--norm", "layer", "--example", "1", "--text"])
    assert "example 1 of 8 digits, a " in capsys.readouterr().out
    command.main(["--view", "ladder", "--text"])
    assert "per layer" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--unit", "3"], "--unit needs --data digits"),
        (["--view", "ladder", "--batch", "4"], "--batch needs --data digits"),
        (["--data", "digits", "--norm", "layer", "--unit", "3"], "use --example"),
        (["--data", "digits", "--example", "3"], "use --unit"),
        (["--data", "digits", "--unit", "99"], "a unit from 0 to 15, got 99"),
        (["--view", "ladder", "--norm", "rms"], "leave out --data and --norm"),
        (["--text", "--out", "a.html"], "leave out --out"),
        (["--seed", "-1"], "a seed from 0"),
    ],
)
def test_the_command_refuses_in_one_line(arguments, message):
    with pytest.raises(SystemExit) as error:
        command.main(arguments)
    assert str(error.value).startswith("microscope: ")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_page_that_cannot_be_written(monkeypatch):
    monkeypatch.setattr(whatif.Bundle, "page", lambda self: "a page")
    with pytest.raises(SystemExit, match=r"no/such/folder.*No such file") as error:
        command.main(["--out", "no/such/folder/page.html"])
    assert "\n" not in str(error.value)
