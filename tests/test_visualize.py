"""`python -m minilstm.visualize`: every figure, of every kind of run, with its caption."""

import contextlib
import io
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from small import small

from minilstm import visualize
from minilstm.command import run_command
from minilstm.data import as_frames
from minilstm.experiments import run_figures
from minilstm.experiments.run_figures import NAMES
from minilstm.figures import panels, strips, style
from minilstm.runs import run_folder
from minilstm.training.pictures import why_below

TINY = small(data={"num_digits": 2, "future": 4})
KINDS = {
    "composite": {"layers": 2, "conditional": "future"},
    "slides": {"cell": "slides-lstm", "kind": "predictor", "start": "read"},
    "autoencoder": {"kind": "autoencoder"},
    "elman": {"cell": "elman"},
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory, train_undrawn):
    """The folder of a trained run of every kind, and of one on coloured patches."""
    top = tmp_path_factory.mktemp("runs")
    patches = np.random.default_rng(0).integers(0, 256, (20, 16, 8, 7, 3), np.uint8)
    np.save(top / "patches.npy", patches)
    for name, model in KINDS.items():
        train_undrawn(TINY | {"model": TINY["model"] | model}, top / name)
    data = {"source": "patches", "path": str(top / "patches.npy"), "past": 12, "future": 4}
    train_undrawn(TINY | {"data": data}, top / "patches")
    return top


@pytest.fixture(scope="module")
def printed(runs):
    """The output of the command, which has drawn every figure of the composite run."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        assert run_command(lambda: visualize.main([str(runs / "composite")])) == 0
    assert err.getvalue() == ""
    return out.getvalue()


def drawn(runs, out, names=NAMES):
    """Draw figures as PNG only, because a PDF of each would take as long again."""
    folder = run_figures.FigureFolder(out, ("png", "gif"))
    run_figures.draw(run_figures.open_runs(runs), folder, names)
    return folder


def refusal(capsys, *words):
    """Run the command, which must fail with status 2, and return its one line on stderr."""
    try:
        status = run_command(lambda: visualize.main([*map(str, words)]))
    except SystemExit as end:
        status = end.code
    printed = capsys.readouterr()
    assert status == 2 and printed.out == "" and printed.err.count("\n") == 1
    return printed.err


def test_a_composite_run_gets_every_figure_as_png_and_pdf_with_a_caption(runs, printed):
    out = runs / "composite/figures"
    expected = [name for name in NAMES if name != "fig6"]
    pictures = {f"{name}.{kind}" for name in expected for kind in ("png", "pdf")}
    pictures |= {"fig5.gif", "fig8.gif"}
    assert {path.name for path in out.iterdir()} == pictures | {"figures.md"}
    for name in expected:
        assert re.search(rf"^{name} ", printed, re.MULTILINE)
        assert (out / f"{name}.pdf").read_bytes().startswith(b"%PDF")
        with Image.open(out / f"{name}.png") as picture:
            picture.load()
            assert min(picture.size) > 300
    assert re.search("^fig6 +not drawn: no run on patches was given", printed, re.MULTILINE)
    text = (out / "figures.md").read_text()
    assert set(re.findall(r"\]\(([^)]+)\)", text)) == {p for p in pictures if "pdf" not in p}
    for paragraph in text.split("\n## ")[1:]:
        caption = paragraph.split("\n")[2]
        assert re.search("Slides|Paper", caption), caption
        assert " see " in caption.lower(), "it must say what to see"
    assert re.search(r"Output h: \d\.\d\d.* trained, \d\.\d\d.* randomly initialised\.", text)
    assert "1 digit and 3 digits" in text


def test_only_the_figures_asked_for_are_drawn_and_captions_stand_in_them_on_request(
    runs, printed, tmp_path
):
    out = tmp_path / "new/out"
    words = [str(runs / "composite"), "--only", "fig10", "--captions", "--out", str(out)]
    assert visualize.main(words) == 0
    assert {path.name for path in out.iterdir()} == {"fig10.png", "fig10.pdf", "figures.md"}
    usual = Image.open(runs / "composite/figures/fig10.png")
    with usual, Image.open(out / "fig10.png") as captioned:
        assert captioned.height > usual.height + style.DPI / 3


@pytest.mark.parametrize("dropout", [True, False])
def test_a_validation_loss_below_the_training_loss_is_explained(dropout):
    series = {"future": ([1, 3], [9.0, 5.0]), "validation future": ([2, 3], [7.5, 5.5])}
    assert why_below(series, dropout) == ""
    series["validation future"] = ([2, 3], [6.5, 5.5])  # at step 2 the line is at 7
    assert "mean over all steps" in why_below(series, dropout)
    assert ("dropout" in why_below(series, dropout)) == dropout


def test_several_runs_share_one_truth_and_have_separate_figures_of_their_units(
    runs, tmp_path, monkeypatch
):
    calls = []
    monkeypatch.setattr(strips, "prediction_strip", lambda *a: calls.append(a))
    three = [runs / "composite", runs / "autoencoder", runs / "slides"]
    folder = drawn(three, tmp_path, ("fig5", "fig10", "fig7"))
    models = calls[0][2]
    assert list(models) == ["composite", "autoencoder", "slides"]
    assert models["autoencoder"][1] is None and models["slides"][0] is None
    assert calls[0][0].shape == models["composite"][0].shape == (3, 3, 8, 8)
    assert folder.left_out["fig7-autoencoder"].startswith("an autoencoder has no future")
    names = {path.name for path in tmp_path.iterdir()}
    assert {"fig10-composite.png", "fig10-autoencoder.png", "fig7-slides.png"} <= names


def test_the_step_of_a_run_that_still_trains_is_said(runs, tmp_path, capsys):
    words = [str(runs / "slides"), "--only", "fig9", "--out", str(tmp_path)]
    with run_folder.RunFolder(runs / "slides").claim():
        assert visualize.main(words) == 0
    said = capsys.readouterr().err
    assert said.startswith("weights   of step ") and said.endswith(": slides still trains\n")
    assert visualize.main(words) == 0 and capsys.readouterr().err == ""


def test_runs_of_one_folder_name_are_told_apart(runs, capsys, tmp_path):
    shutil.copytree(runs / "slides", tmp_path / "composite")
    found = run_figures.open_runs([runs / "composite", tmp_path / "composite", runs / "slides"])
    names = [f"{runs.name}-composite", f"{tmp_path.name}-composite", "slides"]
    assert [run.name for run in found] == names
    message = refusal(capsys, runs / "composite", runs / "composite")
    assert "different names" in message


def test_a_reconstruction_and_a_prediction_are_those_of_the_model(runs, monkeypatch, tmp_path):
    calls = []
    monkeypatch.setattr(strips, "prediction_strip", lambda *a: calls.append(a))
    (run,) = run_figures.open_runs([runs / "composite"])
    run_figures.draw([run], run_figures.FigureFolder(tmp_path, ("png",)), ("fig5",))
    past, future, models, *_ = calls[0]
    frames = np.concatenate([past, future]).reshape(7, 3, 64).astype(np.float32)
    rebuilt, predicted = models["model"]
    np.testing.assert_allclose(
        rebuilt, run.trained.reconstruction(frames[:3]).reshape(rebuilt.shape), atol=1e-5
    )
    np.testing.assert_allclose(
        predicted, run.trained.rollout(frames[:3], 4).reshape(predicted.shape), atol=1e-5
    )


def test_patches_are_shown_in_colour_and_only_their_last_ten_frames(runs, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(strips, "prediction_strip", lambda *a: calls.append(a))
    folder = drawn([runs / "patches"], tmp_path, ("fig5", "fig6", "fig8", "fig9"))
    past, future, models, _, first, _ = calls[0]
    assert past.shape == (10, 2, 8, 7, 3) and future.shape == (4, 2, 8, 7, 3) and first == 3
    assert past.min() > -1e-6 and past.max() < 1 + 1e-6, "the truth is no longer normalised"
    np.testing.assert_allclose(past * 255, np.rint(past * 255), atol=1e-3)
    (run,) = run_figures.open_runs([runs / "patches"])
    rebuilt = run.trained.reconstruction(run.past[:, :2])[2:]
    rebuilt = as_frames(rebuilt, (8, 7, 3), run.source.scale)
    np.testing.assert_allclose(models["model"][0], rebuilt, atol=1e-4)
    assert {"fig5", "fig8"} <= folder.left_out.keys()
    assert (tmp_path / "fig9.png").exists() and (tmp_path / "fig6.gif").exists()


def test_the_units_with_the_largest_weights_come_first_and_the_same_in_every_panel(
    runs, monkeypatch, tmp_path
):
    pages = []
    monkeypatch.setattr(panels, "weights", lambda rows, *_: pages.append(rows))
    (run,) = run_figures.open_runs([runs / "composite"])
    run_figures.draw([run], run_figures.FigureFolder(tmp_path, ("png",)), ("fig9", "fig10"))
    for model, found in zip(run.models.values(), pages[0].values(), strict=True):
        i, f, g, o = np.split(model.encoder.layers[0].Wx.value.T, 4)
        order = np.argsort(-np.linalg.norm(g, axis=1))
        for shown, whole in zip(found.values(), (i, f, g, o), strict=True):
            np.testing.assert_array_equal(shown, whole[order])
    for model, found in zip(run.models.values(), pages[1].values(), strict=True):
        for decoder, shown in zip((model.reconstruct, model.predict), found.values(), strict=True):
            assert (np.diff(np.linalg.norm(shown, axis=1)) <= 0).all()
            assert {row.tobytes() for row in shown} == {
                row.tobytes() for row in decoder.readout.W.value
            }


def test_figure_7_shows_the_units_with_the_largest_output_and_says_so(runs, monkeypatch, tmp_path):
    pages = []
    monkeypatch.setattr(panels, "activity", lambda rows, *_: pages.append(rows))
    (run,) = run_figures.open_runs([runs / "composite"])
    folder = run_figures.FigureFolder(tmp_path, ("png",))
    run_figures.draw([run], folder, ("fig7",))  # all six units
    assert "6 units of the future decoder, a line" in folder.drawn[0].caption
    monkeypatch.setattr(run_figures, "UNITS", 2)
    run_figures.draw([run], folder, ("fig7",))
    assert "2 units of the future decoder of 6, those whose output h has the largest norm" in (
        folder.drawn[1].caption
    )
    for every, two in zip(pages[0].values(), pages[1].values(), strict=True):
        h = every["output h"][0]
        chosen = np.sort(np.argsort(-np.linalg.norm(h, axis=0))[:2])
        assert h.shape == (100, 6)
        for name, (signal, *_) in two.items():
            np.testing.assert_array_equal(signal, every[name][0][:, chosen])


@pytest.mark.parametrize("kind", ["autoencoder", "elman", "slides"])
def test_every_kind_of_run_gets_the_figures_that_it_can_have(runs, tmp_path, kind):
    drawn([runs / kind], tmp_path, NAMES[2:])
    found = {path.stem for path in tmp_path.glob("*.png")}
    left_out = {"autoencoder": {"fig7"}, "elman": {"gates"}}.get(kind, set())
    assert found == set(NAMES[2:]) - left_out


def test_a_run_of_nothing_but_ones_is_drawn(tmp_path, train_undrawn):
    data = {"frame_size": 2, "digit_size": 1, "num_digits": 1, "past": 1, "future": 1}
    ones = {"data": data, "model": {"hidden": 1}, "run": {"batch_size": 1, "steps": 1}}
    train_undrawn(ones, tmp_path / "run")
    drawn([tmp_path / "run"], tmp_path)
    assert len(list(tmp_path.glob("*.png"))) == 7


def test_the_same_run_gives_the_same_bytes(runs, printed, tmp_path):
    drawn([runs / "composite"], tmp_path, ("fig5", "fig7"))
    found = sorted(path.name for path in tmp_path.iterdir() if path.suffix != ".md")
    assert found == ["fig5.gif", "fig5.png", "fig7.png"]
    for name in found:
        assert (tmp_path / name).read_bytes() == (runs / "composite/figures" / name).read_bytes()


def test_impossible_figures_are_refused_in_one_line(runs, capsys, tmp_path, train_undrawn):
    (tmp_path / "file").write_text("")
    assert "RUN" in refusal(capsys)
    assert "config.toml" in refusal(capsys, tmp_path)
    assert "fig11" in refusal(capsys, runs / "composite", "--only", "fig11")
    assert "choose another" in refusal(capsys, runs / "slides", "--out", tmp_path / "file")
    other = TINY | {"data": TINY["data"] | {"past": 4}}
    train_undrawn(other, tmp_path / "other")
    message = refusal(capsys, runs / "composite", tmp_path / "other", "--out", tmp_path / "out")
    assert "same data" in message and "other" in message


def test_a_folder_without_permission_is_refused_before_anything_is_drawn(
    runs, capsys, monkeypatch, tmp_path
):
    """Root may write anywhere, so the system's answer stands in for the one that others get."""
    monkeypatch.setattr(visualize, "open_runs", lambda *_: pytest.fail("a run was opened"))
    monkeypatch.setattr(os, "access", lambda *_: False)
    for words in ([], ["--out", tmp_path / "new"]):
        said = refusal(capsys, runs / "composite", *words)
        assert "got no permission in" in said and "choose another folder by --out DIR" in said


def test_matplotlib_waits_until_something_is_drawn():
    code = "import sys, minilstm.visualize; print(*{'matplotlib', 'PIL'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
