"""The demo: computed when it runs, two files, its loss beside the mean image's, what comes next."""

import json
import re
import shutil
import webbrowser
from html import unescape
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small import small

from minilstm import config, demo
from minilstm.command import run_command
from minilstm.evaluation import judging, kept_predictions
from minilstm.experiments import demo_page
from minilstm.layers.losses import BernoulliCrossEntropy
from minilstm.runs import build

SETTINGS = small(data={"future": 4}, model={"layers": 1})


@pytest.fixture(scope="module")
def made(tmp_path_factory, train_undrawn):
    """A small run under the name that the demo asks for, and its demo."""
    top = tmp_path_factory.mktemp("demo")
    train_undrawn(SETTINGS, top / "one-digit")
    return top


@pytest.fixture(autouse=True)
def here(made, tmp_path, monkeypatch):
    """A folder with the run one-digit. No browser is ever opened, and no predictions are kept."""
    shutil.copytree(made / "one-digit", tmp_path / "one-digit")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(webbrowser, "open", lambda *_: pytest.fail("a browser was opened"))
    monkeypatch.setattr(demo_page, "KEPT", tmp_path / "none.npz")
    return tmp_path


def call(*arguments):
    """The exit status of the demo, called in this process."""
    try:
        return run_command(lambda: demo.main([str(word) for word in arguments]))
    except SystemExit as end:  # argparse refuses
        return end.code


def test_the_demo_writes_a_film_and_a_page_and_prints_their_paths(here, capsys):
    assert call("--sequences", 20) == 0
    said = capsys.readouterr().out
    assert str(here / "demo" / "prediction.gif") in said
    assert str(here / "demo" / "demo.html") in said
    assert sorted(path.name for path in (here / "demo").iterdir()) == [
        "demo.html", "prediction.gif"
    ]  # fmt: skip
    with Image.open("demo/prediction.gif") as film:
        assert film.n_frames == 7


def test_the_demo_prints_the_loss_beside_that_of_the_mean_image(capsys):
    settings = config.load(overrides=SETTINGS)
    frames = judging.sequences(build.open_source(settings, "test"), 20)
    mean = judging.mean_image(settings)
    expected = judging.loss_of_mean_image(BernoulliCrossEntropy(), mean, frames[3:])
    _, logits = judging.decode(build.load_run("one-digit"), frames, 3)
    loss = judging.loss_per_step(BernoulliCrossEntropy(), logits, frames[3:]).mean()
    assert call("--sequences", 20) == 0
    said = capsys.readouterr().out
    assert f"future  {loss:.1f} (nats per frame)" in said
    assert f"{expected:.1f} (nats per frame) by the mean image" in said


def test_the_demo_computes_its_predictions_when_it_runs():
    def pixels():
        assert call("--sequences", 5) == 0
        with Image.open("demo/prediction.gif") as film:
            film.seek(5)
            return np.asarray(film).copy()

    before = pixels()
    path = Path("one-digit/checkpoint.safetensors")
    data = bytearray(path.read_bytes())
    start = int.from_bytes(data[:8], "little") + 8
    weights = np.frombuffer(data, np.float32, offset=start)
    weights *= 8
    path.write_bytes(data)
    assert (pixels() != before).any()


def test_the_page_plays_the_predictions_and_says_what_to_type_next(here, capsys):
    assert call("--sequences", 20) == 0
    said, text = capsys.readouterr().out, Path("demo/demo.html").read_text("utf-8")
    data = json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])
    assert data["sequences"] == 6 and data["width"] == 8
    for command in demo_page.what_next("one-digit"):
        assert command in said and command in unescape(text)
    assert 'id="evaluation"' in text and 'id="yours"' in text and 'id="full"' not in text


def test_the_kept_predictions_of_the_model_of_full_size_are_shown_if_there_are_some(
    here, monkeypatch
):
    settings = config.load(overrides=SETTINGS)
    frames = judging.sequences(build.open_source(settings, "test"), 16)
    (model, about), mean = build.read_run("one-digit"), judging.mean_image(settings)
    result = judging.evaluate(model, frames, 3, mean, (8, 8))
    kept_predictions.keep("kept.npz", model, about, frames, settings, result, "0123abc")
    monkeypatch.setattr(demo_page, "KEPT", Path("kept.npz"))
    assert call("--sequences", 5) == 0
    text = unescape(Path("demo/demo.html").read_text("utf-8"))
    assert 'id="full"' in text
    cost = result["future"]["free_running"]["mean"]
    assert f"The loss of its predicted future is {cost:.1f} nats per frame" in text


def test_a_browser_is_opened_only_on_request(monkeypatch, here):
    opened = []
    monkeypatch.setattr(webbrowser, "open", lambda address: opened.append(address) or True)
    assert call("--sequences", 5) == 0 and not opened
    assert call("--sequences", 5, "--open") == 0
    assert opened == [(here / "demo" / "demo.html").as_uri()]


def test_without_a_browser_the_demo_says_so_and_succeeds(monkeypatch, capsys):
    monkeypatch.setattr(webbrowser, "open", lambda address: False)
    assert call("--sequences", 5, "--open") == 0
    assert "no browser was found" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words, said",
    [(["--sequences", "0"], "number from 1 to"), (["nowhere"], "run folder of minilstm.train")],
)
def test_the_demo_refuses_in_one_line(words, said, capsys):
    assert call(*words) == 2
    printed = capsys.readouterr().err
    assert said in printed and printed.count("\n") == 1
