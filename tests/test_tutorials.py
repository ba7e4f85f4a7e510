"""The tutorials: they run, they open as notebooks, and together they cover the deck."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TUTORIALS = Path(__file__).parent.parent / "tutorials"
SCRIPTS = sorted(TUTORIALS.glob("[0-9][0-9]_*.py"))
TEXTS = {path: path.read_text(encoding="utf-8") for path in SCRIPTS}
each = pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)

# The deck: its headings in its order, each once, and the figures and tables that it names.
HEADINGS = (
    "Unsupervised Learning of Video Representations using LSTMs",
    "Motivation",
    "Neural Networks",
    "Autoencoders",
    "Recurrent Neural Networks",
    "Cells",
    "Simple RNN",
    "Long-Short Term Memory (LSTM)",
    "Recurrent AutoEncoders?",
    "Recurrent Encoder-Decoder",
    "Input at each timestep",
    "Unsupervised Evaluation Strategy",
    "Qualitative",
    "Quantitative",
    "Predicting The Future",
    "Objectives",
    "Understand",
    "Compare",
    "Visualization and Qualitative Analysis",
    "Unsupervised Learning with LSTMs",
    "Transfer Learning for Action Recognition",
    "Benchmarking",
    "Conclusion & Discussion",
)
EXHIBITS = ("Figure 5", "Figure 6", "Figure 11", "Figure 12") + tuple(
    f"Table {n}" for n in (1, 2, 3, 4)
)


def slides_of(text):
    """What the line "Slides: ..." of a tutorial says that it covers, in quotation marks."""
    line = re.search(r"\*Slides?: (.*?)\*\n", text.replace("\n# ", " ").replace("\n#", "\n"))
    return set(re.findall(r'"([^"]+)"', line[1])) if line else set()


COVERED = {slide for text in TEXTS.values() for slide in slides_of(text)}


def test_every_heading_figure_and_table_of_the_deck_is_covered():
    assert {*HEADINGS, *EXHIBITS} - COVERED == set()


@each
def test_a_tutorial_covers_slides_that_exist(script):
    if script.name[:2] == "14":  # which goes beyond the deck
        return
    found = slides_of(TEXTS[script])
    assert found and found <= {*HEADINGS, *EXHIBITS}, found - {*HEADINGS, *EXHIBITS}


def test_the_list_above_is_that_of_the_deck():
    data = os.environ.get("MINILSTM_DATA")
    deck = Path(data, "..", "slides", "slides.md") if data else None
    if not (deck and deck.is_file()):
        pytest.skip("set MINILSTM_DATA to a folder beside slides/slides.md")
    text = deck.read_text(encoding="utf-8")
    headings = re.findall(r"^#+ *(.+?)(?:[0-9a-f]{7,})?$", text, re.MULTILINE)
    assert list(dict.fromkeys(headings)) == list(HEADINGS)
    assert set(re.findall(r"^((?:Figure|Table) \d+)\.", text, re.MULTILINE)) == set(EXHIBITS)


@each
def test_a_tutorial_has_all_its_parts(script):
    text = TEXTS[script]
    wanted = ("**You will do:**", "**You will learn:**", "**You need:**", "**Predict:**", "assert ",
              "## Break it on purpose", "## Exercises", "### Answers",
              "**In the library:**")  # fmt: skip
    positions = [text.find(part) for part in wanted]
    assert min(positions) >= 0, [part for part in wanted if part not in text]
    assert text.index("![") < text.index("# %%\n"), "a picture first"


@each
def test_the_readme_names_a_tutorial_and_shows_its_pictures(script):
    readme = (TUTORIALS / "README.md").read_text(encoding="utf-8")
    assert f"]({script.name})" in readme
    made = set(re.findall(r'kit\.save(?:_file)?\(.*?"(\d\d_\w+)"', TEXTS[script], re.DOTALL))
    for name in made:
        assert f"(images/{name}.png)" in readme, name
        assert (TUTORIALS / "images" / f"{name}.png").stat().st_size < 100_000


def test_every_link_of_the_tutorials_leads_somewhere():
    for text in [*TEXTS.values(), (TUTORIALS / "README.md").read_text(encoding="utf-8")]:
        for target in re.findall(r"\]\((?!https?:|#)([^)#\s]+)", text):
            assert (TUTORIALS / target).exists(), target


@each
def test_a_tutorial_runs_in_fast_mode(script):
    environment = os.environ | {"MINILSTM_FAST": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "error", str(script)],
        env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@each
def test_a_tutorial_opens_as_a_notebook(script):
    jupytext = pytest.importorskip("jupytext", reason="jupytext is not installed")
    cells = jupytext.read(script).cells
    kinds = [cell.cell_type for cell in cells]
    assert kinds[0] == "markdown" and kinds.count("code") >= 4
    assert not [cell for cell in cells if cell.cell_type == "markdown" and "# %%" in cell.source]


@pytest.mark.slow
def test_the_tutorials_execute_as_notebooks():
    pytest.importorskip("nbconvert", reason="nbconvert is not installed")
    gallery = TUTORIALS / "build" / "gallery"
    shutil.rmtree(gallery, ignore_errors=True)  # pages of another time would pass
    command = [sys.executable, str(TUTORIALS / "run.py"), "all", "--fast", "--gallery"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    pages = {f"{path.stem}.html" for path in SCRIPTS} | {"index.html"}
    assert {page.name for page in gallery.iterdir()} == pages
    for page in gallery.glob("*.html"):
        for target in re.findall(
            r'(?:href|src)="(?!https?:|#|data:)([^"#]+)', page.read_text("utf-8")
        ):
            assert (gallery / target).exists(), f"{page.name}: {target}"


def runner(*arguments):
    command = [sys.executable, str(TUTORIALS / "run.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True)


def test_the_command_lists_what_there_is():
    done = runner()
    assert done.returncode == 0 and len(done.stdout.splitlines()) == len(SCRIPTS)


def test_an_unknown_tutorial_is_refused_in_one_line():
    done = runner("99")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "expected all, or numbers of" in done.stderr and "'99'" in done.stderr
