"""A cell in a file of the user's own: trained, resumed, loaded, drawn, and never run unasked."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from small import small

import minilstm
from minilstm import config, demo, evaluate, gradcheck, interop, report, train, visualize
from minilstm.command import run_command
from minilstm.errors import ConfigError, MinilstmError, RunError
from minilstm.experiments import run_figures
from minilstm.files import write_file
from minilstm.runs import build
from minilstm.runs.own_cell import pinned
from minilstm.training.progress import Progress

CELL = """
from minilstm.backend import xp
from minilstm.layers.init import PAPER_INIT
from minilstm.layers.linear import add_product, affine_dx
from minilstm.layers.rnn import Recurrent


class Twin(Recurrent):
    \"\"\"Two Elman networks whose outputs are multiplied: h = tanh(a_p) tanh(a_q).\"\"\"

    num_gates = 2

    def __init__(self, D, H, rng, init=PAPER_INIT):
        self.D, self.H = D, H
        self.Wx = init.input_weight(rng, D, 2 * H)
        self.Wh = init.recurrent(rng, H, 2)
        self.b = init.bias(2 * H)

    def step(self, run, t):
        add_product(run.h[t], self.Wh.value, out=run.a[t])
        p, q = xp.tanh(run.a[t, :, : self.H]), xp.tanh(run.a[t, :, self.H :])
        run.h[t + 1] = p * q
        run.a[t] = xp.concatenate((p, q), axis=1)

    def step_backward(self, run, t, dy):
        if dy is not None:
            run.dh += dy
        p, q = run.a[t, :, : self.H], run.a[t, :, self.H :]
        da_p, da_q = run.dh * q * (1 - p * p), run.dh * p * (1 - q * q)
        run.a[t] = xp.concatenate((da_p, da_q), axis=1)
        run.dh[...] = affine_dx(run.a[t], self.Wh.value)
"""
NAMED = CELL.replace(
    "num_gates = 2", 'num_gates = 2\n    gate_ranges = {"p": (-1, 1), "q": (-1, 1)}'
)
SMALL = small(
    data={"past": 4},
    model={"hidden": 3, "layers": 1, "conditional": "future"},
    run={"steps": 4, "batch_size": 2, "log_every": 1, "validate_every": 0},
)


def cell_at(path, text=CELL):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return f"{path}:Twin"


def settings(cell):
    return SMALL | {"model": SMALL["model"] | {"cell": cell}}


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    """Training and reports draw nothing: only `visualize` does."""
    monkeypatch.setattr(Progress, "draw", lambda run: None)
    monkeypatch.setattr(run_figures, "draw", lambda runs, folder: None)


@pytest.fixture(scope="module")
def made(tmp_path_factory, train_undrawn):
    """A run, and the file of its cell, which no test changes."""
    folder = tmp_path_factory.mktemp("made")
    cell = cell_at(folder / "mycell.py")
    train_undrawn(settings(cell), folder / "run")
    return folder / "run", folder / "mycell.py"


@pytest.fixture
def run(tmp_path, train_undrawn):
    """A run whose cell stands in tmp_path/mycell.py, which the test may change."""
    train_undrawn(settings(cell_at(tmp_path / "mycell.py")), tmp_path / "run")
    return tmp_path / "run"


def spoiled(path, marker):
    """Change the file of a cell so that running it would leave a trace."""
    path.write_text(f"open({str(marker)!r}, 'w').close()\n" + path.read_text())


# ---------------------------------------------------------------- it works as any cell does


def test_a_run_records_the_path_the_class_and_the_hash_of_the_file(made):
    run, file = made
    found = build.read_config(run).model.cell_file
    assert (Path(found.path), found.name) == (file.resolve(), "Twin")
    assert re.fullmatch("[0-9a-f]{64}", found.sha256)
    assert build.read_config(run).model.cell_name == "Twin"


def test_a_run_of_ones_own_cell_loads_and_predicts(made):
    model = minilstm.load(made[0])
    assert type(model.encoder.layers[0]).__name__ == "Twin"
    assert type(model.encoder.layers[0]) is type(minilstm.load(made[0]).predict.stack.layers[0])
    past = np.random.default_rng(0).random((4, 2, 64), np.float32)
    assert model.rollout(past, 5).shape == (5, 2, 64)


def test_a_resumed_run_ends_with_the_same_bits(run, tmp_path, train_undrawn):
    whole = settings(f"{tmp_path / 'mycell.py'}:Twin") | {"run": SMALL["run"] | {"steps": 6}}
    train_undrawn(whole, tmp_path / "whole")
    assert train.main(["--resume", str(run), "--extend-to", "6", "--quiet"]) == 0
    for name, param in minilstm.load(tmp_path / "whole").params().items():
        resumed = minilstm.load(run).params()[name].value
        np.testing.assert_array_equal(resumed, param.value, err_msg=name)


def test_evaluate_judges_it(made, capsys):
    assert evaluate.main([str(made[0]), "--sequences", "3"]) == 0
    assert "future, free-running" in capsys.readouterr().out


@pytest.mark.parametrize("text, gates", [(CELL, False), (NAMED, True)])
def test_visualize_draws_a_cell_of_two_gates(text, gates, tmp_path, train_undrawn, capsys):
    train_undrawn(settings(cell_at(tmp_path / "mycell.py", text)), tmp_path / "run")
    assert visualize.main([str(tmp_path / "run"), "--only", "fig7", "fig9", "gates"]) == 0
    said = capsys.readouterr().out
    assert (tmp_path / "run" / "figures" / "fig9.png").exists()
    assert ("the cell names no gate_ranges" in said) != gates


def test_visualize_leaves_out_what_a_cell_does_not_have(tmp_path, train_undrawn, capsys):
    text = CELL.replace("self.Wx", "self.V") + "\n    def project(self, run, steps):\n"
    text += "        run.a[steps] = run.x[steps] @ self.V.value + self.b.value\n"
    text += "    def project_backward(self, run, steps, want_dx):\n"
    text += "        return run.a[steps] @ self.V.value.T if want_dx else None\n"
    text += "    def accumulate(self, run):\n        pass\n"
    train_undrawn(settings(cell_at(tmp_path / "mycell.py", text)), tmp_path / "run")
    assert visualize.main([str(tmp_path / "run"), "--only", "fig9"]) == 0
    assert "not drawn: Twin has no input weights Wx" in capsys.readouterr().out


def test_the_gradient_check_takes_a_file(tmp_path, capsys):
    assert gradcheck.main([cell_at(tmp_path / "mycell.py")]) == 0
    said = capsys.readouterr().out
    assert "10 gradients of 1 layer, 0 wrong" in said
    assert f"tests/test_contracts.py --cell {tmp_path / 'mycell.py'}:Twin" in said
    own = Path(__file__).parents[1] / "tutorials" / "own_cells.py"
    assert gradcheck.main([f"{own}:GRU"]) == 0  # a file of the project is named from its folder
    assert "test_contracts.py --cell tutorials/own_cells.py:GRU" in capsys.readouterr().out
    wrong = cell_at(tmp_path / "wrong.py", CELL.replace("(1 - q * q)", "(1 - q)"))
    assert gradcheck.main([wrong]) == 1
    assert "WRONG" in capsys.readouterr().out


def test_the_promises_of_a_layer_are_tried_on_it_by_one_command(tmp_path):
    """This cell breaks one of the two promises: it changes its input."""
    text = CELL.replace("run.h[t + 1] = p * q", "run.h[t + 1] = p * q; run.x[t] *= 1.5")
    command = [sys.executable, "-m", "pytest", "-n", "0", "-q", "-p", "no:cacheprovider"]
    command += ["tests/test_contracts.py", "--cell", cell_at(tmp_path / "mycell.py", text)]
    command += ["-k", "doutputs_and_parameters_survive or outputs_survive"]
    root = Path(__file__).parent.parent
    done = subprocess.run(
        command, env=os.environ | {"PYTEST_ADDOPTS": ""}, cwd=root, capture_output=True, text=True
    )
    assert done.returncode == 1 and re.search(r"\b2 failed, \d+ passed", done.stdout), done.stdout
    assert re.search(r"FAILED .*doutputs_and_parameters_survive\S*\[Twin\]", done.stdout)


def test_it_cannot_be_exported_and_one_line_says_so(made, tmp_path):
    with pytest.raises(ConfigError, match="got Twin, which has no equivalent in PyTorch"):
        interop.main(["export", str(made[0]), str(tmp_path / "weights.safetensors")])


# ---------------------------------------------------------------- nothing runs unasked


def test_a_changed_file_is_refused_and_nothing_of_it_runs(run, tmp_path):
    file, marker = tmp_path / "mycell.py", tmp_path / "it_ran"
    spoiled(file, marker)
    attempts = {
        "load": lambda: minilstm.load(run),
        "evaluate": lambda: evaluate.main([str(run)]),
        "visualize": lambda: visualize.main([str(run)]),
        "export": lambda: interop.main(["export", str(run), str(tmp_path / "out.safetensors")]),
        "resume": lambda: train.main(["--resume", str(run), "--quiet"]),
    }
    for name, attempt in attempts.items():
        with pytest.raises(RunError) as caught:
            attempt()
        said = str(caught.value)
        assert "nothing of it was run" in said and "\n" not in said, name
        assert f"--cell {file}:Twin" in said and "load(run, cell=...)" in said
        assert not marker.exists(), name


def test_a_changed_file_runs_when_it_is_named(run, tmp_path, capsys):
    file, marker = tmp_path / "mycell.py", tmp_path / "it_ran"
    spoiled(file, marker)
    minilstm.load(run, cell=f"{file}:Twin")
    assert marker.exists()
    assert evaluate.main([str(run), "--sequences", "2", "--cell", f"{file}:Twin"]) == 0
    assert visualize.main([str(run), "--only", "fig10", "--cell", f"{file}:Twin"]) == 0
    assert report.main([str(run), "--sequences", "2", "--cell", f"{file}:Twin"]) == 0
    page = ["--out", str(tmp_path / "demo"), "--sequences", "2", "--cell", f"{file}:Twin"]
    assert demo.main([str(run), *page]) == 0
    said = f"note: {file.resolve()} differs from the file that {run} was made with (SHA-256 "
    assert capsys.readouterr().err.count(said) == 1


def test_a_class_takes_the_place_of_the_file(run, tmp_path):
    model = minilstm.load(run)
    (tmp_path / "mycell.py").unlink()
    with pytest.raises(ConfigError, match="expected the file of a cell at"):
        minilstm.load(run)
    again = minilstm.load(run, cell=type(model.encoder.layers[0]))
    np.testing.assert_array_equal(again.flat().value, model.flat().value)


def test_a_cell_that_is_no_class_is_refused_and_not_ignored(run):
    cell = minilstm.load(run).encoder.layers[0]
    for wrong, got in ((cell, "an object of Twin"), (dict, "dict"), (3, "an object of int")):
        with pytest.raises(ConfigError, match=f"subclass of Recurrent, got {got}: pass the class"):
            minilstm.load(run, cell=wrong)


def test_a_moved_file_is_named_to_go_on_and_a_changed_one_needs_force(run, tmp_path, capsys):
    moved = tmp_path / "elsewhere" / "mycell.py"
    moved.parent.mkdir()
    (tmp_path / "mycell.py").rename(moved)
    resume = ["--resume", str(run), "--extend-to", "5", "--quiet", "--cell", f"{moved}:Twin"]
    assert train.main(resume) == 0
    assert build.read_config(run).model.cell_file.path == str(moved.resolve())
    assert "differs" not in capsys.readouterr().err  # the same file at another place
    moved.write_text(CELL + "# changed\n")
    with pytest.raises(RunError, match="model.cell = .* or go on with --force"):
        train.main(resume)
    assert train.main([*resume, "--force"]) == 0
    assert f"note: {moved.resolve()} differs from the file" in capsys.readouterr().err


def test_a_file_inside_the_run_folder_never_runs(run, tmp_path):
    marker, inside = tmp_path / "it_ran", run / "mycell.py"
    cell_at(inside)
    spoiled(inside, marker)
    own = pinned(config.load(overrides=settings(f"{inside}:Twin")))
    write_file(run / "config.toml", own.to_toml())  # with its right hash
    (tmp_path / "link.py").symlink_to(inside)
    for cell in (None, f"{inside}:Twin", f"{tmp_path / 'link.py'}:Twin"):
        with pytest.raises(RunError, match="outside the run folder"):
            minilstm.load(run, cell=cell)
    assert not marker.exists()


def test_a_relative_path_in_a_run_never_runs(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = (run / "config.toml").read_text().replace(f"{tmp_path.resolve()}/", "")
    assert 'cell = "mycell.py:Twin@sha256:' in text
    write_file(run / "config.toml", text)
    with pytest.raises(RunError, match="expected the absolute path.*nothing of it was run"):
        minilstm.load(run)


def test_a_file_of_settings_names_no_cell_without_its_hash(tmp_path):
    file = tmp_path / "settings.toml"
    file.write_text('[model]\ncell = "mycell.py:Twin"\n')
    with pytest.raises(ConfigError, match="expected the hash of a cell's file.*--cell mycell.py:"):
        config.load(config_file=file)


def test_a_cell_is_not_named_for_a_run_that_has_one_of_the_package(tmp_path, train_undrawn):
    train_undrawn(SMALL, tmp_path / "run")
    cell = cell_at(tmp_path / "mycell.py")
    with pytest.raises(ConfigError, match="whose cell is 'peephole'.*leave it out"):
        minilstm.load(tmp_path / "run", cell=cell)
    with pytest.raises(ConfigError, match="whose cell is 'peephole', got PeepholeLSTM: leave it"):
        minilstm.load(tmp_path / "run", cell=minilstm.PeepholeLSTM)
    with pytest.raises(ConfigError, match="whose cell is 'peephole'.*leave it out"):
        train.main(["--resume", str(tmp_path / "run"), "--cell", cell])


# ---------------------------------------------------------------- files that are no cell


@pytest.mark.parametrize(
    "text, name, said",
    [
        ("def (", "Twin", "line 1: expected a file that defines a cell, got SyntaxError"),
        ("x = 1\n1 / 0\n", "Twin", "line 2: expected a file that defines a cell, got ZeroDiv"),
        ("raise SystemExit(3)", "Twin", "line 1: .*SystemExit: 3"),
        (CELL, "Twni", "expected a subclass of Recurrent in .*, got 'Twni': the file has Twin"),
        (CELL, "xp", "got 'xp': the file has Twin"),
        (CELL, "Recurrent", "got 'Recurrent': the file has Twin"),
        ("", "Twin", "got 'Twin': the file has none"),
        (CELL.replace("def step(", "def setp("), "Twin", "line .*expected the cell Twin to define"
         " step, got none: see the docstring of Recurrent"),
        (NAMED.replace('"q": (-1, 1)', ""), "Twin", "one range in gate_ranges for each of"),
    ],
)  # fmt: skip
def test_a_file_that_defines_no_such_cell_is_refused_in_one_line(tmp_path, text, name, said):
    cell_at(tmp_path / "mycell.py", text)
    with pytest.raises(ConfigError, match=said) as caught:
        gradcheck.main([f"{tmp_path / 'mycell.py'}:{name}"])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("end", ["", ":"])
def test_a_file_without_a_class_is_told_the_classes_in_its_text_and_nothing_runs(
    run, tmp_path, capsys, end
):
    file, marker = tmp_path / "mycell.py", tmp_path / "it_ran"
    spoiled(file, marker)
    attempts = (
        lambda: train.main(["--cell", f"{file}{end}"]),
        lambda: evaluate.main([str(run), "--cell", f"{file}{end}"]),
        lambda: gradcheck.main([f"{file}{end}"]),
    )
    for attempt in attempts:
        with pytest.raises(ConfigError) as caught:
            attempt()
        assert str(caught.value) == (
            f"expected a cell as FILE.py:CLASS, got {f'{file}{end}'!r}: add the class, such as "
            f"{file}:Twin; the file defines Twin"
        )
    assert not marker.exists()
    file.write_text("def (")
    with pytest.raises(ConfigError, match="add the class, such as .*:GRU$"):
        train.main(["--cell", str(file)])


@pytest.mark.parametrize("name", ["mycell.py", "mycell.txt:Twin", "mycell:Twin", "nowhere.py:Twin"])
def test_a_cell_that_is_no_file_is_refused_in_one_line(name, tmp_path):
    with pytest.raises(MinilstmError) as caught:
        config_of = config.load(overrides=settings(name))
        build.build_model(config_of, 64)
    assert "FILE.py:CLASS" in str(caught.value) or "FILE:CLASS" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "mistake, said",
    [
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("raise KeyError('Wx')", "KeyError: 'Wx'"),
        ("raise SystemExit(3)", "SystemExit: 3"),
    ],
)
def test_a_mistake_in_a_cell_is_shown_by_its_line(tmp_path, capsys, mistake, said):
    step = "    def step(self, run, t):\n"
    text = CELL.replace(step, f"{step}        {mistake}\n")
    cell, line = cell_at(tmp_path / "mycell.py", text), 1 + text[: text.index(mistake)].count("\n")
    where = f"error: {tmp_path / 'mycell.py'}, line {line}, in step: expected a cell that works"
    for command, words in (
        (gradcheck, [cell]),
        (train, ["--cell", cell, "--quiet", "--steps", "2", "--out", str(tmp_path / "run")]),
    ):
        assert run_command(lambda: command.main(words)) == 2  # noqa: B023
        assert capsys.readouterr().err.splitlines()[-1] == f"{where}, got {said}; mend this line"
