"""The experiments' shared part, and the experiments themselves in their quick size."""

import gzip
import json
import math
import os
import signal
import struct
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import cookie_factory
import experiments
import numpy as np
import pytest
import toy_experiment

import tinybn as tb
from lab import claims, command, page
from lab.files import dumps
from lab.store import Store, StoreError
from lab.training import Config, build, dataset, fit, train
from tinybn import data

pytestmark = pytest.mark.host("examples run on NumPy unless told otherwise (see on_cupy)")

EXAMPLES = Path(experiments.__file__).parent
TOY = toy_experiment.EXPERIMENT
ALL = experiments.experiments()


# --- training ---


def test_arms_of_a_seed_see_the_same_weights_and_batches(monkeypatch):
    seen = {}
    batches = tb.data.Batches.__iter__

    def spy(self):
        for x, y in batches(self):
            seen.setdefault(norm, []).append(x.copy())
            yield x, y

    monkeypatch.setattr(tb.data.Batches, "__iter__", spy)
    weights = {}
    for norm in ("none", "batch", "layer"):
        config = Config(norm=norm, steps=3, seed=7)
        weights[norm] = [p.numpy() for p in build(config).parameters() if p.ndim == 2]
        train(config, progress=False)
    for norm in ("batch", "layer"):
        for a, b in zip(weights["none"], weights[norm], strict=True):
            np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(seen["none"], seen[norm])
    other = build(Config(norm="none", seed=8)).layers[0].weight.numpy()
    assert not np.array_equal(other, weights["none"][0])


def test_a_run_looks_finely_at_first_and_at_its_last_step():
    assert Config(steps=33, every=10, early=6).looks(19) == [2, 4, 6, 10, 20, 30, 33]
    assert Config(epochs=2, every=5).looks(6) == [5, 10, 12]


def test_a_run_ends_at_its_target_and_says_when_it_got_there():
    config = Config(steps=400, every=10, early=100)
    run, _ = train(config, progress=False, stop=0.9)
    measured = run.measures(0.9)
    assert measured["steps_to_target"] <= run.steps[-1] < 400
    assert max(run.accuracy) >= 0.9
    assert measured["validation_steps_to_target"] <= run.steps[-1]
    assert run.test[run.steps.index(measured["steps_to_target"])] >= 0.9
    assert all(a < 0.9 for a in run.test[: run.steps.index(measured["steps_to_target"])])
    never, _ = train(Config(steps=4, every=2), progress=False)
    assert never.measures(0.99)["steps_to_target"] is None


def test_a_diverged_run_ends_cleanly():
    run, _ = train(Config(norm="none", lr=1e6, steps=100), progress=False)
    assert run.diverged_at == run.steps[-1] == 5
    assert run.measures(0.9)["diverged_at"] == 5
    assert not math.isfinite(run.loss[-1])


def test_any_model_can_be_fitted():
    config = Config(steps=60, lr=0.01, optimizer="adam")
    parts = dataset("digits", 0)
    model = tb.nn.Sequential(tb.nn.Linear(64, 10, rng=np.random.default_rng(0)))
    assert fit(model, parts, config, progress=False).test_accuracy > 0.7


# --- the folder ---

PLAN = [{"a": a, "seed": s} for s in (0, 1) for a in (1, 2)]


def test_finished_runs_are_not_done_again_and_none_is_lost(tmp_path):
    store = Store(tmp_path, {"experiment": "x"}, PLAN)
    store.add(PLAN[2], {"m": 0.5})
    store.add(PLAN[0], {"m": math.inf})
    again = Store(tmp_path, {"experiment": "x"}, PLAN)
    assert again.todo() == [PLAN[1], PLAN[3]]
    assert again.runs() == [PLAN[0] | {"m": None}, PLAN[2] | {"m": 0.5}]


def test_a_line_that_was_cut_off_is_done_again(tmp_path):
    store = Store(tmp_path, {"experiment": "x"}, PLAN)
    for config in PLAN[:2]:
        store.add(config, {"m": 1})
    store.path.write_text(store.path.read_text()[:-5])
    again = Store(tmp_path, {"experiment": "x"}, PLAN)
    assert again.todo() == PLAN[1:]
    for config in again.todo():
        again.add(config, {"m": 2})
    assert [r["m"] for r in Store(tmp_path, {"experiment": "x"}, PLAN).runs()] == [1, 2, 2, 2]


def test_more_seeds_join_a_finished_folder(tmp_path):
    Store(tmp_path, {"experiment": "x"}, PLAN[:2]).add(PLAN[0], {"m": 1})
    more = Store(tmp_path, {"experiment": "x"}, PLAN)
    assert more.todo() == PLAN[1:]
    more.add(PLAN[3], {"m": 2})
    del more
    again = Store(tmp_path, {"experiment": "x"}, PLAN[:2])  # and fewer leave the others there
    assert again.runs() == [PLAN[0] | {"m": 1}]
    del again
    assert len(Store(tmp_path, {"experiment": "x"}, PLAN).runs()) == 2


def test_a_folder_remembers_its_first_line_and_what_it_was_kept_for(tmp_path):
    Store(tmp_path, {"experiment": "x", "code": "a", "rules": {"x.y": "1"}}, PLAN).keep("b")
    store = Store(tmp_path, {"experiment": "x", "code": "c", "rules": {"x.y": "2"}}, PLAN)
    assert store.head == {"experiment": "x", "code": "a", "rules": {"x.y": "1"}}
    assert store.code == "b"


def test_a_folder_of_another_experiment_is_refused_and_left_alone(tmp_path):
    Store(tmp_path / "a", {"experiment": "x"}, PLAN).add(PLAN[0], {"m": 1})
    before = (tmp_path / "a" / "runs.jsonl").read_text()
    with pytest.raises(StoreError, match=r"belongs to x \(here y\).*--out"):
        Store(tmp_path / "a", {"experiment": "y"}, PLAN)
    assert (tmp_path / "a" / "runs.jsonl").read_text() == before
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "letter.txt").write_text("dear")
    with pytest.raises(StoreError, match="other files"):
        Store(tmp_path / "b", {"experiment": "x"}, PLAN)
    assert [p.name for p in (tmp_path / "b").iterdir()] == ["letter.txt"]


def other_process(folder, *, then="pass"):
    """Open the store of `folder` in another process, which reports, and does something."""
    code = (
        "import sys, os, signal; from pathlib import Path; from lab.store import Store, StoreError\n"
        f"try:\n    store = Store(Path({str(folder)!r}), {{'experiment': 'x'}}, {PLAN})\n"
        f"    print(len(store.finished)); {then}\n"
        "except StoreError as error: print(error)"
    )
    path = f"{EXAMPLES}{os.pathsep}{EXAMPLES.parent}"
    found = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    return found.stdout + found.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such locks")
def test_two_processes_in_one_folder(tmp_path):
    store = Store(tmp_path, {"experiment": "x"}, PLAN)
    store.add(PLAN[0], {"m": 1})
    assert other_process(tmp_path) == (
        f"{tmp_path} is in use by another process: wait for it, or give another --out\n"
    )
    store.add(PLAN[1], {"m": 1})
    del store
    assert other_process(tmp_path) == "2\n"


@pytest.mark.parametrize("line", ["", "{", "[]", "{}", '{"config": 3}', "\xff", '{"config": {}}'])
def test_a_corrupt_line_names_its_file(tmp_path, line):
    store = Store(tmp_path, {"experiment": "x"}, PLAN)
    store.add(PLAN[0], {"m": 1})
    with store.path.open("ab") as file:
        file.write(line.encode("latin-1") + b"\n")
    with pytest.raises(StoreError, match=r"runs\.jsonl: line 3 is not a finished run; remove"):
        Store(tmp_path, {"experiment": "x"}, PLAN)


@pytest.mark.parametrize("written", range(0, 17, 4))
def test_a_kill_at_the_very_beginning_does_not_block_a_resume(tmp_path, written):
    head = dumps({"experiment": "x"}).encode() + b"\n"
    (tmp_path / ".runs.jsonl.k3j2").write_text("")
    (tmp_path / ".result.json.0a1b.tmp").write_text("")
    (tmp_path / "runs.jsonl").write_bytes(head[:written])
    assert Store(tmp_path, {"experiment": "x"}, PLAN).todo() == PLAN
    assert (tmp_path / "runs.jsonl").read_bytes() == head
    assert not (tmp_path / ".result.json.0a1b.tmp").exists()


def test_only_what_a_kill_left_is_not_called_other_files(tmp_path):
    (tmp_path / ".runs.jsonl.k3j2").write_text("")
    assert Store(tmp_path, {"experiment": "x"}, PLAN).todo() == PLAN


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signal")
def test_a_killed_process_leaves_the_folder_free(tmp_path):
    assert other_process(tmp_path, then="sys.stdout.flush(); os.kill(os.getpid(), 9)") == "0\n"
    assert Store(tmp_path, {"experiment": "x"}, PLAN).todo() == PLAN


def test_a_full_disk_leaves_no_half_line(tmp_path, monkeypatch):
    store = Store(tmp_path, {"experiment": "x"}, PLAN)
    store.add(PLAN[0], {"m": 1})
    before = store.path.read_bytes()

    def full(file):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(StoreError, match=r"runs\.jsonl: No space left on device"):
            store.add(PLAN[1], {"m": 2})
    assert store.path.read_bytes() == before
    assert PLAN[1] in store.todo()
    store.add(PLAN[1], {"m": 2})
    assert len(Store(tmp_path, {"experiment": "x"}, PLAN).runs()) == 2


# --- the command ---


def toy(tmp_path, *flags, **changes):
    changed = replace(TOY, **changes)
    return command.main(changed, ["--quick", "--jobs", "2", "--out", str(tmp_path), *flags])


def test_an_experiment_prints_its_table_and_writes_its_files(tmp_path, capsys):
    assert toy(tmp_path) == 0
    out, err = capsys.readouterr()
    assert err == ""  # no progress bar where there is no terminal
    assert "Is a larger number larger?" in out
    assert "supported: The larger is 2.5 (2 to 3) times as large." in out
    assert "The rule: Supported if the interval of the ratio is above 1." in out
    names = {p.name for p in tmp_path.iterdir()}
    assert names == {"runs.jsonl", "result.json", "runs.csv", "toy_experiment.png"}
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["blocks"] == [[0, 1]]
    (verdict,) = result["verdicts"]
    assert verdict["verdict"] == "supported"
    assert verdict["rule_before_the_runs"]
    assert verdict["blocks"] == [
        {"seeds": [0, 1], "verdict": "supported", "numbers": result["numbers"]}
    ]
    assert result["numbers"] == {"ratio": [2.5, 2, 3], "runs": [4, 4, 4]}
    assert result["configurations"][1]["value"] == {"median": 2.5, "low": 2, "high": 3}
    assert result["pictures"]["toy_experiment"]["caption"] == "A point per run. Seeds 0, 1."
    assert result["versions"]["numpy"] == np.__version__
    assert result["cpu"]
    assert result["arguments"]["size"] == "quick"
    lines = (tmp_path / "runs.csv").read_text().splitlines()
    assert len(lines) == 5
    assert lines[0].startswith("number,backend,seed,value,threads")
    assert (tmp_path / "toy_experiment.png").stat().st_size > 5000
    assert {line.split(",")[4] for line in lines[1:]} == {"1"}  # of OpenBLAS in each process


def test_a_verdict_holds_only_if_both_blocks_agree(tmp_path, capsys):
    assert toy(tmp_path, "--blocks", "2", "--no-plot") == 0
    assert "seeds 0, 1: supported; seeds 1000, 1001: supported" in capsys.readouterr().out
    (claim,) = TOY.claims
    only_large = replace(claim, decide=lambda n: "partly" if n["ratio"].above(100) else "supported")
    assert toy(tmp_path, "--blocks", "2", "--no-plot", claims=[only_large]) == 0
    (verdict,) = json.loads((tmp_path / "result.json").read_text())["verdicts"]
    assert verdict["verdict"] == "not resolved"
    assert [b["verdict"] for b in verdict["blocks"]] == ["supported", "partly"]
    assert [b["seeds"] for b in verdict["blocks"]] == [[0, 1], [1000, 1001]]
    wrong = replace(claim, decide=lambda n: "maybe")
    with pytest.raises(ValueError, match="larger: 'maybe' is no verdict"):
        toy(tmp_path, "--no-plot", claims=[wrong])


def test_blocks_share_no_seed_and_skip_those_that_do_not_suit(tmp_path):
    assert TOY.block(0, 3) == [0, 1, 2]
    assert TOY.block(1, 2, later=5) == [1005, 1006]
    assert replace(TOY, suits=lambda seed: seed % 3 == 1).block(1, 3) == [1000, 1003, 1006]
    options = command.parse(TOY, ["--seed", "3", "--seeds", "2"])
    blocks, runs = command.plan(TOY, options)
    assert blocks == [[3, 4], [1003, 1004]]
    assert [r["seed"] for r in runs] == [3, 3, 4, 4, 1003, 1003, 1004, 1004]


def test_more_seeds_can_be_added_to_a_finished_experiment(tmp_path, capsys):
    assert toy(tmp_path, "--no-plot") == 0
    before = (tmp_path / "runs.jsonl").read_text()
    assert toy(tmp_path, "--no-plot", "--seeds", "3") == 0
    after = (tmp_path / "runs.jsonl").read_text()
    assert after.startswith(before)
    assert after.count("\n") == before.count("\n") + 2
    assert "seeds 0–2" in capsys.readouterr().out


def test_changed_code_keeps_runs_that_it_repeats_and_refuses_others(tmp_path, capsys, monkeypatch):
    assert toy(tmp_path, "--no-plot") == 0
    before = (tmp_path / "runs.jsonl").read_text()
    monkeypatch.setattr(command, "fingerprint", lambda _: "changed")
    assert toy(tmp_path, "--no-plot") == 0
    kept = (tmp_path / "runs.jsonl").read_text()
    assert kept == before + '{"code": "changed", "kept": 4}\n'
    capsys.readouterr()
    monkeypatch.setattr(command, "fingerprint", lambda _: "changed again")
    monkeypatch.setenv("TOY_CHANGE", "1e-15")  # the last digit of 1.0
    assert toy(tmp_path, "--no-plot") == 2
    error = capsys.readouterr().err
    assert "has results of other code: value was 1.0 and is 1.000000000000001" in error
    assert f"rm -r {tmp_path}" in error
    assert (tmp_path / "runs.jsonl").read_text() == kept


def test_a_rule_that_changed_after_the_runs_is_told(tmp_path, monkeypatch):
    assert toy(tmp_path, "--no-plot") == 0
    (claim,) = TOY.claims
    changed = {claim.id: claim.said._replace(rule="Supported, whatever comes.")}
    monkeypatch.setattr(claims, "claims_of", lambda _: changed)
    assert toy(tmp_path, "--no-plot") == 0
    result = json.loads((tmp_path / "result.json").read_text())
    (verdict,) = result["verdicts"]
    assert not verdict["rule_before_the_runs"]
    assert "The rule (changed after the runs): Supported, whatever" in page.rule(verdict, result)


def test_check_exits_with_1_where_a_number_is_outside_of_its_band(tmp_path, capsys):
    assert toy(tmp_path, "--check", "--no-plot") == 0
    assert toy(tmp_path, "--check", "--no-plot", bands={"ratio": (3, 4)}) == 1
    out, err = capsys.readouterr()
    assert "3 to 4: outside" in out
    assert err == "toy_experiment: outside its band: ratio\n"
    assert toy(tmp_path, "--check", "--no-plot", bands={"missing": (3, 4)}) == 1
    assert toy(tmp_path, "--no-plot", bands={"ratio": (3, 4)}) == 0
    assert not (tmp_path / "figure.png").exists()


def test_bands_are_those_of_the_first_data_set(tmp_path, capsys):
    changes = {"data": ("digits", "wine"), "bands": {"ratio": (3, 4)}}
    assert toy(tmp_path, "--data", "wine", "--no-plot", **changes) == 0
    assert "outside" not in capsys.readouterr().out
    assert json.loads((tmp_path / "result.json").read_text())["outside"] == []


def started(command, **options):
    """A process that heeds interrupts, also where a shell has started the tests in the background:
    there they are ignored, and what is ignored would be so in the process, too.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return subprocess.Popen(command, **options)
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no process groups to interrupt")
def test_after_an_interruption_the_same_command_goes_on(tmp_path):
    command = [sys.executable, toy_experiment.__file__, "--quick", "--no-plot", "--jobs", "1"]
    command += ["--out", str(tmp_path / "out"), "--seeds", "3"]
    environment = {
        "PYTHONPATH": os.pathsep.join(sys.path),
        "TOY_SECONDS": "0.5",
        "PATH": "",
    }
    process = started(
        command, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    runs = tmp_path / "out" / "runs.jsonl"
    deadline = time.monotonic() + 60
    while not (runs.exists() and runs.read_text().count("\n") >= 2):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the workers, too
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "of 6 runs; the same command continues from here" in err
    assert err.count("\n") == 1
    first = runs.read_text().splitlines()
    assert 2 <= len(first) < 7
    environment["TOY_SECONDS"] = "0"
    subprocess.run(command, env=environment, check=True, capture_output=True)
    lines = runs.read_text().splitlines()
    assert lines[: len(first)] == first
    configs = [json.dumps(json.loads(line)["config"]) for line in lines[1:]]
    assert len(configs) == len(set(configs)) == 6


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs Linux's list of children")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_experiment_leaves_no_workers_running(how, tmp_path):
    command = [sys.executable, toy_experiment.__file__, "--quick", "--no-plot", "--jobs", "2"]
    environment = {"PYTHONPATH": os.pathsep.join(sys.path), "TOY_SECONDS": "0.2", "PATH": ""}
    process = started(
        [*command, "--out", str(tmp_path), "--seeds", "100"],
        env=environment,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 60
    while not ((runs := tmp_path / "runs.jsonl").exists() and runs.read_text().count("\n") >= 3):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    workers = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    process.send_signal(how)
    process.wait(10)
    assert len(workers) >= 2
    deadline = time.monotonic() + 10
    while any(map(running, workers)):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def running(pid):
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--seeds", "0"], "argument --seeds: expected an integer of at least 1, got 0"),
        (["--seed", "-1"], "at least 0, got -1"),
        (["--jobs", "x"], "at least 1, got x"),
        (["--data", "mnist"], "invalid choice: 'mnist'"),
        (["--data", "fashion", "--check"], "the bands are those of --data digits"),
        (["--data", "fashion", "--data-dir", "/nowhere"], "apt-get install dataset-fashion-mnist"),
        (["--data-dir", "/nowhere"], "only fashion takes a folder"),
        (["--backend", "torch"], "invalid choice: 'torch'"),
        (["--out", str(Path(__file__, "x"))], "test_experiments.py"),
        (["--out", str(EXAMPLES)], "has other files: give another --out"),
        (["--quick", "--full"], "not allowed with"),
    ],
)
def test_bad_input_is_one_line_and_exit_status_2(tmp_path, capsys, flags, message):
    one = next(e for e in ALL if e.name == "with_and_without")
    arguments = ["--out", str(tmp_path / "out"), *flags]
    try:
        status = command.main(one, arguments)
    except SystemExit as exit_:
        status = exit_.code
    error = capsys.readouterr().err
    assert status == 2
    assert error.startswith("with_and_without: ")
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_an_absent_backend_is_one_line_and_exit_status_2(tmp_path, capsys, monkeypatch):
    def absent(name):
        raise tb.BackendUnavailableError("CuPy is not installed: run …")

    monkeypatch.setattr("tinybn.backend.module", absent)
    assert toy(tmp_path / "out", "--backend", "cupy") == 2
    assert capsys.readouterr().err == "toy_experiment: CuPy is not installed: run …\n"
    assert not (tmp_path / "out").exists()


def test_the_code_behind_the_runs_is_tinybn_the_training_loop_and_the_file(monkeypatch):
    before = command.fingerprint(TOY)
    assert command.fingerprint(replace(TOY, bands={})) == before
    changed = []
    read = Path.read_bytes
    monkeypatch.setattr(
        Path, "read_bytes", lambda p: read(p) + b"#" if p.name in changed else read(p)
    )
    for name in ("toy_experiment.py", "training.py", "autodiff.py"):
        changed[:] = [name]
        assert command.fingerprint(TOY) != before
    changed[:] = ["figures.py"]
    assert command.fingerprint(TOY) == before


# --- each experiment ---


@pytest.mark.parametrize("one", ALL, ids=lambda e: e.name)
def test_an_experiments_help_has_its_question_run_time_and_an_example(one, capsys):
    with pytest.raises(SystemExit, match="0"):
        command.main(one, ["--help"])
    text = capsys.readouterr().out
    assert one.question.endswith("?")
    assert one.question in text
    assert f"python examples/{one.name}.py" in text
    assert "second" in text or "minute" in text
    for flag in ("--quick", "--full", "--seeds", "--seed", "--backend", "--out", "--check"):
        assert flag in text


@pytest.mark.parametrize("one", ALL, ids=lambda e: e.name)
def test_an_experiments_configurations_differ(one):
    for size in command.SIZES:
        arms = [dumps(arm, sort_keys=True) for arm in one.configurations(size)]
        assert arms
        assert len(arms) == len(set(arms))
    assert one.bands


@pytest.mark.parametrize("one", ALL, ids=lambda e: e.name)
def test_an_experiments_claims_have_rules_and_a_place_on_the_page(one):
    ids = [claim.id for claim in one.claims]
    assert sorted(ids) == sorted(claims.claims_of(one.name))
    on_page = [claim for section in claims.PAGE.values() for claim in section]
    for claim in one.claims:
        assert on_page.count(claim.id) == 1
        said = claim.said
        assert len(said.sentence) <= page.WIDEST
        assert said.rule.startswith(("Supported", "The", "Steps", "For")) or "upported" in said.rule
        assert (said.whose == "literature") == bool(said.source)
        assert claim.picture in {"", *one.pictures}
    assert next(iter(one.pictures)) == one.name
    assert all(name.startswith(one.name) for name in one.pictures)
    assert all(picture.caption.endswith(".") for picture in one.pictures.values())
    assert len(one.ran) < 240


def test_every_claim_on_the_page_has_a_title_of_its_own():
    titles = [said.title for one in ALL for said in claims.claims_of(one.name).values()]
    assert len({page.slug(title) for title in titles}) == len(titles)
    known = {claim.id for one in ALL for claim in one.claims}
    assert {claim for section in claims.PAGE.values() for claim in section} == known


# --- the report ---


def reported(tmp_path, monkeypatch, *flags):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(experiments, "experiments", lambda: [TOY])
    assert experiments.run_everything(["--report", str(tmp_path), *flags]) == 0
    return tmp_path / "EXPERIMENTS.md"


def test_the_report_has_a_line_and_a_section_per_claim(tmp_path, monkeypatch, capsys):
    path = reported(tmp_path, monkeypatch, "--seeds", "2")
    text = path.read_text()
    assert (
        "| The larger number is larger. | ours | **supported** | "
        "[Larger is larger](#larger-is-larger) |\n"
    ) in text
    assert "### Larger is larger\n\n> The larger number is larger. — our own sentence" in text
    assert "**Supported.** The larger is " in text
    assert "\n\nIt is.\n\n" in text
    assert "![It is larger](docs/experiments/toy_experiment.png)" in text
    assert "*A point per run. Seeds 0, 1 and 1000, 1001.*" in text
    assert "The rule (fixed before the runs" in text
    assert "Blocks: seeds 0, 1: supported; seeds 1000, 1001: supported." in text
    assert text.count("<details>") == text.count("</details>") == 1
    assert (tmp_path / "docs/experiments/toy_experiment.png").stat().st_size > 2000
    assert "toy_experiment" in capsys.readouterr().out
    (entry,) = json.loads((tmp_path / "docs/experiments/results.json").read_text())
    assert entry["id"] == "toy_experiment.larger"
    assert (entry["verdict"], entry["whose"], entry["answer"]) == ("supported", "ours", "It is.")
    assert entry["blocks"][1]["seeds"] == "1000, 1001"
    assert entry["blocks"][1]["numbers"]["ratio"] == [1002.5, 1002, 1003]
    assert entry["picture"] == "docs/experiments/toy_experiment.png"


def test_pictures_and_numbers_are_shown_once(tmp_path, monkeypatch):
    (claim,) = TOY.claims
    said = {
        f"toy_experiment.{name}": claim.said._replace(id=f"toy_experiment.{name}", title=name)
        for name in ("first", "second")
    }
    monkeypatch.setattr(claims, "claims_of", lambda _: said)
    twice = replace(TOY, claims=[replace(claim, id=name) for name in said])
    folder = tmp_path / "runs"
    assert command.main(twice, ["--seeds", "1", "--out", str(folder)]) == 0
    text = page.report([folder], tmp_path).read_text()
    assert text.count("![It is larger]") == 1
    assert text.count("| number | all seeds |") == 1
    assert "The picture is that of [first](#first)." in text
    assert "The numbers are those of [first](#first)." in text


def test_where_nothing_is_random_no_seed_is_told(tmp_path):
    assert command.main(cookie_factory.EXPERIMENT, ["--out", str(tmp_path / "runs")]) == 0
    text = page.report([tmp_path / "runs"], tmp_path).read_text()
    assert "| number | all seeds |\n" in text
    assert "Seeds" not in text.partition("## The four steps")[2]


def test_a_picture_is_copied_in_all_its_colours_and_an_old_one_goes(tmp_path, monkeypatch):
    (tmp_path / "docs/experiments").mkdir(parents=True)
    (tmp_path / "docs/experiments/old.png").write_bytes(b"old")
    reported(tmp_path, monkeypatch, "--seeds", "2")
    drawn = (tmp_path / "runs/toy_experiment/toy_experiment.png").read_bytes()
    assert (tmp_path / "docs/experiments/toy_experiment.png").read_bytes() == drawn
    assert not (tmp_path / "docs/experiments/old.png").exists()


def test_a_quick_look_or_a_missing_picture_is_no_report(tmp_path, monkeypatch):
    assert not reported(tmp_path, monkeypatch, "--quick").exists()
    assert not reported(tmp_path, monkeypatch, "--seeds", "1", "--no-plot").exists()


def test_no_cell_at_the_top_is_too_long():
    verdict = {
        "id": "a.b",
        "sentence": "x" * 121,
        "whose": "ours",
        "verdict": "partly",
        "title": "t",
    }
    with pytest.raises(ValueError, match="b: more than 120 characters in a cell: xxx"):
        page.overview([verdict])


# --- Fashion-MNIST ---


def test_other_data_go_to_the_experiments_that_can_use_them(tmp_path, monkeypatch, capsys):
    other = replace(TOY, data=("digits",))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(experiments, "experiments", lambda: [TOY, other])
    arguments = ["--quick", "--data", "digits", "--report", str(tmp_path)]
    assert experiments.run_everything(arguments) == 0
    assert capsys.readouterr().out.count("median (range) over seeds") == 1
    with pytest.raises(SystemExit) as stopped:
        experiments.run_everything(["--data", "moons"])
    assert stopped.value.code == 2
    assert "no experiment of these can use the data 'moons'" in capsys.readouterr().err


def idx(array):
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


def fashion(folder, count=20, zipped=True):
    rng = np.random.default_rng(0)
    for part, n in (("train", count), ("t10k", count // 2)):
        y = (np.arange(n) % 10).astype(np.uint8)
        x = rng.integers(0, 256, (n, 28, 28)).astype(np.uint8)
        x[:, 0, 0] = y
        x[0, 1, 1] = 255
        for what, array in (("images-idx3", x), ("labels-idx1", y)):
            content = gzip.compress(idx(array)) if zipped else idx(array)
            name = f"{part}-{what}-ubyte" + (".gz" if zipped else "")
            (folder / name).write_bytes(content)


@pytest.mark.parametrize("zipped", [True, False])
def test_fashion_mnist_is_read_from_its_files(tmp_path, zipped):
    fashion(tmp_path, zipped=zipped)
    d = data.load("fashion", folder=tmp_path, validation=0.2, test=0.3)
    assert (d.features, d.classes) == (784, 10)
    assert [len(p.x) for p in (d.train, d.validation, d.test)] == [15, 6, 9]
    for part in d[1:4]:
        assert part.x.dtype == np.float32
        np.testing.assert_allclose(part.x[:, 0] * 255, part.y, atol=1e-4)
    assert max(p.x.max() for p in d[1:4]) == 1
    assert data.load("fashion", folder=tmp_path, scale=False).train.x.max() > 200


def test_a_missing_fashion_mnist_is_named_with_the_cure(tmp_path):
    message = rf"no train-images-idx3-ubyte.gz in {tmp_path}: run `sudo apt-get install dataset-f"
    with pytest.raises(FileNotFoundError, match=message):
        data.load("fashion", folder=tmp_path)


@pytest.mark.parametrize(
    "content",
    [b"", b"\0\0\x08", idx(np.zeros((3, 2), np.uint8))[:-1], idx(np.zeros(3, np.uint8)) + b"x",
     b"\0\0\x0d\x01\0\0\0\0", gzip.compress(idx(np.zeros(99, np.uint8)))[:-9], b"\x1f\x8bxxxx"],
)  # fmt: skip
def test_a_damaged_idx_file_is_refused(tmp_path, content):
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="file is not a whole IDX file of bytes"):
        data.read_idx(path)
