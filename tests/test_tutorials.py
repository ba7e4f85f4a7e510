"""The tutorials run, open as notebooks, and together cover the slides."""

import base64
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import scripts

from minilstm.errors import ConfigError

ROOT = Path(__file__).parent.parent
TUTORIALS = ROOT / "tutorials"
SCRIPTS = sorted(TUTORIALS.glob("[0-9][0-9]_*.py"))
READMES = [
    path
    for folder in (
        ROOT,
        *(ROOT / name for name in ("minilstm", "tutorials", "tests", "data_tools")),
    )
    for path in sorted(folder.glob("*.md" if folder == ROOT else "**/*.md"))
]
TEXTS = {path: path.read_text(encoding="utf-8") for path in SCRIPTS}
each = pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)

# Headings of the slides in their order, each once, and the figures and tables that they name.
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
    """Return the names in quotation marks of the line "Slides: ..." of a tutorial."""
    line = re.search(r"\*Slides?: (.*?)\*\n", text.replace("\n# ", " ").replace("\n#", "\n"))
    return set(re.findall(r'"([^"]+)"', line[1])) if line else set()


COVERED = {slide for text in TEXTS.values() for slide in slides_of(text)}


def test_every_heading_figure_and_table_of_the_slides_is_covered():
    assert {*HEADINGS, *EXHIBITS} - COVERED == set()


@each
def test_a_tutorial_covers_slides_that_exist(script):
    if script.name[:2] == "14":  # it covers the published code, not slides
        return
    found = slides_of(TEXTS[script])
    assert found and found <= {*HEADINGS, *EXHIBITS}, found - {*HEADINGS, *EXHIBITS}


def test_the_lists_of_headings_and_exhibits_agree_with_the_slides():
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
    made = set(re.findall(r'kit\.save(?:_\w+)?\(.*?"(\d\d_\w+)"', TEXTS[script], re.DOTALL))
    for name in made:
        assert f"(images/{name}.png)" in readme, name
        assert (TUTORIALS / "images" / f"{name}.png").stat().st_size < 100_000


def links_of(text):
    """Return the pairs (words, path) of a text's links to files, without their #fragments."""
    return re.findall(r"\[([^\]\n]*)\]\((?!https?:|mailto:|#)([^)#\s]+)(?:#[^)\s]*)?\)", text)


@pytest.mark.parametrize("path", [*SCRIPTS, *READMES], ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_to_a_file_leads_somewhere(path):
    for _, target in links_of(path.read_text(encoding="utf-8")):
        assert (path.parent / target).exists(), target


@pytest.mark.parametrize("path", [*SCRIPTS, TUTORIALS / "README.md"], ids=lambda path: path.stem)
def test_a_pointer_into_the_library_names_the_file_and_what_stands_in_it(path):
    text = path.read_text(encoding="utf-8").replace("\n# ", " ")
    for words, target in links_of(text):
        if target.startswith("..") and target.endswith(".py"):
            assert target.endswith("/" + words), f"{words} stands for {target}"
    pointers = re.findall(r"\]\((\S+?\.py)\)((?:(?:,| and)? `[\w.]+`)+)", text)
    for target, names in pointers:
        code = (TUTORIALS / target).read_text(encoding="utf-8")
        for name in re.findall(r"\w+", names):
            defined = re.search(rf"^ *(?:def|class) {name}\b|^{name}\b.* =", code, re.MULTILINE)
            assert defined, f"{target} defines no {name}"


def contents(folder):
    """Return the bytes and the time of every file of a folder, except what git ignores."""
    found = {}
    for path in folder.rglob("*"):
        if path.is_file() and not {"build", "__pycache__"} & set(path.relative_to(folder).parts):
            found[path] = path.read_bytes(), path.stat().st_mtime_ns
    return found


def full_length(script, **changes):
    """Run a script without MINILSTM_FAST."""
    environment = {name: value for name, value in os.environ.items() if name != "MINILSTM_FAST"}
    command = [sys.executable, "-W", "error", str(script)]
    done = subprocess.run(command, env=environment | changes, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_full_run_changes_no_committed_file_and_prints_its_questions():
    before = contents(TUTORIALS)
    printed = full_length(TUTORIALS / "04_unrolling.py")
    assert contents(TUTORIALS) == before
    assert (TUTORIALS / "build" / "images" / "04_unrolling.png").exists()
    start, *questions = printed.split("\n\n")[0].split("\n")
    assert start.startswith("Predict") and questions[0].lstrip().startswith("1. ")
    numbered = [line for line in questions if re.match(r" *\d+\. ", line)]
    assert len(numbered) == TEXTS[TUTORIALS / "04_unrolling.py"].count("**Predict:**")


def test_committed_pictures_are_renewed_when_asked(tmp_path):
    for name in ("kit.py", "04_unrolling.py"):
        shutil.copy(TUTORIALS / name, tmp_path)
    full_length(tmp_path / "04_unrolling.py", MINILSTM_RENEW_IMAGES="1", PYTHONPATH=str(ROOT))
    assert [path.name for path in (tmp_path / "images").iterdir()] == ["04_unrolling.png"]
    assert not (tmp_path / "build").exists()


@each
def test_a_tutorial_runs_in_fast_mode(script, tmp_path):
    printed = tmp_path / "printed"
    status = scripts.run(script, printed, MINILSTM_FAST="1")
    assert status == 0, printed.read_text("utf-8")


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
    shutil.rmtree(gallery, ignore_errors=True)  # pages of an earlier run would hide a failure
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


# ---------------------------------------------------------------- the gallery

GALLERY = TUTORIALS / "gallery"
PAGES = sorted(GALLERY.glob("*.html"))


@pytest.fixture
def run_module(monkeypatch):
    monkeypatch.syspath_prepend(TUTORIALS)
    spec = importlib.util.spec_from_file_location("tutorials_run", TUTORIALS / "run.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_pages_of_the_gallery_are_those_of_the_scripts(run_module):
    """A page takes a minute to renew, so here an old one is only named. CI refuses such a skip."""
    if old := [path.stem for path in run_module.stale()]:
        pytest.skip(
            f"no page, or an old one: {', '.join(old)}: python tutorials/run.py stale --gallery"
        )


def test_a_page_is_stale_when_its_script_has_changed(run_module, monkeypatch, tmp_path):
    first, second, *others = run_module.tutorials()
    head = '<meta name="script-sha256" content="%s">'
    (tmp_path / f"{first.stem}.html").write_text(head % run_module.hash_of(first))
    (tmp_path / f"{second.stem}.html").write_text(head % run_module.hash_of(first))
    monkeypatch.setattr(run_module, "GALLERY", tmp_path)
    assert run_module.stale() == [second, *others]
    assert run_module.chosen(["stale"]) == [second, *others]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_a_page_of_the_gallery_stands_alone(path):
    text = path.read_text("utf-8")
    assert "<script" not in text and "fast mode. Its numbers" not in text
    shown = re.sub(r'data:image/png;base64,[^"]*', "", text)
    shown = re.sub(r"<[^>]*>", "", shown)  # no absolute path of the machine that made the page
    assert not re.search(r"(?<![\w.:/])/(?:[\w.-]+/)+[\w.-]+\.(?:py|npy|toml|safetensors)", shown)
    for target in re.findall(r'(?:href|src)="(?!https?:|#|data:)([^"#]+)', text):
        assert target in {"index.html", *(f"{path.stem}.html" for path in SCRIPTS)}, target
    assert "$" not in re.sub(r"<pre>.*?</pre>|<style>.*?</style>", "", text, flags=re.DOTALL)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_a_page_shows_the_committed_pictures(path):
    """A page and its pictures are of one run: `python tutorials/run.py N --gallery --images`."""
    committed = {picture.read_bytes() for picture in (TUTORIALS / "images").glob("*.png")}
    shown = re.findall(r'src="data:image/png;base64,([^"]+)"', path.read_text("utf-8"))
    if path.stem != "index":  # which has small copies
        assert shown and {base64.b64decode(picture) for picture in shown} <= committed


def test_the_page_of_percepts_was_made_with_the_weights_of_imagenet():
    assert "weights: those of ImageNet" in (GALLERY / "17_percepts.html").read_text("utf-8")


def test_printed_text_is_one_block_and_its_tables_are_tables(run_module):
    script, printed = SCRIPTS[0], "| claim | p |\n| --- | --- |\n| a &lt; b | **0.1** |\n"
    page = run_module.laid_out(script, f"<pre>one\n{run_module.BETWEEN}|x| > |y|\n{printed}</pre>")
    assert "<pre>one\n|x| > |y|\n</pre><table>" in page
    rows = "<tr><th>claim</th><th>p</th></tr><tr><td>a &lt; b</td><td><b>0.1</b></td></tr>"
    assert f"<table>{rows}</table>" in page and "---" not in page.partition("<nav>")[2]


def test_a_page_keeps_its_outputs_only_if_its_code_is_the_same(run_module):
    def cell(kind, k, inside):
        return f'<div class="cell border-box-sizing {kind}_cell rendered" id="cell-id={k}">{inside}'

    def code(k, text, output=""):
        source = f'<div class="highlight hl-ipython3"><pre>{text}</pre></div>'
        return cell("code", k, source + output + "</div>")

    old = "<nav>" + cell("text", 8, "old</div>") + code(9, "<b>x</b> = 1 &lt; 2  # old", "[True]")
    new = "<nav>" + cell("text", 0, "new</div>") + code(1, "<b>x</b> = 1 &lt; 2  # new")
    kept = run_module.with_outputs(new, old, "04.py")
    assert kept == new.replace("</pre></div>", "</pre></div>[True]")
    for other in (new.replace("1", "3"), new + code(2, "y")):
        with pytest.raises(ConfigError, match="with the code that its page shows"):
            run_module.with_outputs(other, old, "04.py")


def test_the_name_of_a_function_keeps_its_distance(run_module):
    convert = pytest.importorskip("latex2mathml.converter", reason="needs latex2mathml").convert
    formula = run_module.spaced(convert(r"y \log p = \log(1 - p)"))
    assert '<mi>y</mi><mo lspace=".17em" rspace=".17em">log</mo><mi>p</mi>' in formula
    assert '<mo>&#x0003D;</mo><mo lspace="0" rspace="0">log</mo>' in formula


def test_a_line_is_not_broken_between_a_formula_and_its_full_stop(run_module):
    math = '<math display="inline"><mi>y</mi></math>'
    block = math.replace("inline", "block")
    html = run_module.INLINE.sub(run_module.together, f"any ({math}), {math} is {math}. {block}.")
    kept = (
        f'<span class="together">({math}),</span> {math} is <span class="together">{math}.</span>'
    )
    assert html == f"any {kept} {block}."


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_a_page_of_the_gallery_has_colours_for_a_dark_screen(path):
    text = path.read_text("utf-8")
    assert "color-scheme: light dark" in text and "(prefers-color-scheme: dark)" in text


def test_the_gallery_is_small():
    assert sum(path.stat().st_size for path in PAGES) < 10_000_000


def runner(*arguments):
    command = [sys.executable, str(TUTORIALS / "run.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True)


def test_the_command_lists_what_there_is():
    done = runner()
    assert done.returncode == 0 and len(done.stdout.splitlines()) == len(SCRIPTS)


@pytest.mark.parametrize(
    "words, said",
    [
        ("99", "got '99': choose from them"),
        ("all 3", "got 'all' beside others: choose from them"),
        ("--gallery", "expected numbers of tutorials, all or stale for --gallery"),
        ("3 --threads 0", "expected --threads >= 1, got 0"),
    ],
)
def test_what_the_runner_cannot_do_is_refused_in_one_line(words, said):
    done = runner(*words.split())
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and said in done.stderr


def test_fast_pictures_are_never_committed():
    done = runner("4", "--fast", "--images")
    assert done.returncode == 2 and "expected --fast or --images, got both" in done.stderr
