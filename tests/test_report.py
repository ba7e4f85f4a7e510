"""report.html: all in one file, the numbers of evaluate, and a slider that works in a browser."""

import base64
import dataclasses
import io
import json
import re
import shlex
import shutil
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from PIL import Image
from small import small

from minilstm import config, evaluate, report
from minilstm.command import run_command
from minilstm.data import as_frames
from minilstm.evaluation import kept_predictions
from minilstm.experiments import report_page, run_figures
from minilstm.experiments.report_page import CHART, ticks
from minilstm.runs import checkpoint
from minilstm.training import loop
from minilstm.training.progress import Progress

TINY = small(data={"num_digits": 2, "future": 4}, run={"log_every": 1})
KINDS = {
    "conditional": {"conditional": "future"},
    "predictor": {"kind": "predictor", "start": "read", "cell": "slides-lstm"},
    "autoencoder": {"kind": "autoencoder", "cell": "elman"},
}
WORDS = ["--sequences", "30"]


DRAWN = ("conditional", "patches")  # figures of the others are drawn by test_visualize.py


def reported(run, *words):
    """Write the report of a run, without figures unless the run is one of DRAWN."""
    draw = run_figures.draw if run.name in DRAWN else lambda runs, folder: None
    with mock.patch.object(run_figures, "draw", draw):
        assert report.main([str(run), *WORDS, *words]) == 0


@pytest.fixture(scope="module")
def runs(tmp_path_factory, train_undrawn):
    """A run folder of every kind with its report, and of one on coloured patches."""
    top = tmp_path_factory.mktemp("runs")
    patches = np.random.default_rng(0).integers(0, 256, (20, 7, 8, 6, 3), np.uint8)
    np.save(top / "patches.npy", patches)
    for name, model in KINDS.items():
        train_undrawn(TINY | {"model": TINY["model"] | model}, top / name)
    data = {"source": "patches", "path": str(top / "patches.npy"), "past": 3, "future": 4}
    train_undrawn(TINY | {"data": data}, top / "patches")
    for run in (*KINDS, "patches"):
        reported(top / run)
    return top


def page(run):
    """The text of a run's report."""
    return (run / "report.html").read_text("utf-8")


def script_data(text):
    """Return the data that the script of a page plays."""
    return json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])


class Links(HTMLParser):
    """Everything in a page that a browser would go and get, and the ids that it has."""

    def __init__(self, text):
        super().__init__()
        self.found, self.ids = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found += [v for k, v in attrs if k in ("src", "href", "srcset", "data", "action")]
        self.ids += [v for k, v in attrs if k == "id"]


# ------------------------------------------------------------------------------- what it says


def test_a_report_shows_the_full_size_model_if_the_package_has_its_predictions(runs, monkeypatch):
    run = runs / "conditional"
    opened = run_figures.open_run(run)
    monkeypatch.setattr(kept_predictions, "KEPT", runs / "kept.npz")
    assert report_page.full_size_section(opened) == ""
    words = [str(run), "--sequences", "20", "--keep", str(runs / "kept.npz"), "--commit", "abc"]
    assert evaluate.main(words) == 0
    said = report_page.full_size_section(opened)
    assert "These predictions are not of this run." in said and "commit abc" in said
    assert "trained 2 steps of 4 sequences in 6.3 minutes from start to end (steps and" in said
    assert "20 test sequences, nats" in said
    assert 'src="data:image/webp;base64,' in said and "squared error" in said
    assert report_page.full_size_section(run_figures.open_run(runs / "patches")) == ""


@pytest.mark.parametrize("kind", [*KINDS, "patches"])
def test_a_report_is_one_file_that_asks_for_no_other(runs, kind):
    text = page(runs / kind)
    links = Links(text)
    outside = [link for link in links.found if not link.startswith(("data:", "#"))]
    assert not outside and "http://" not in text and "https://" not in text
    assert "url(" not in text and "@import" not in text
    assert "default-src 'none'" in text, "the browser is told to refuse what is not in the page"
    assert len(links.ids) == len(set(links.ids))
    assert {link[1:] for link in links.found if link.startswith("#")} <= set(links.ids)
    assert "$" not in re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL)


@pytest.mark.parametrize("kind", [*KINDS, "patches"])
def test_the_table_has_the_numbers_of_evaluate(runs, kind, capsys):
    assert evaluate.main([str(runs / kind), *WORDS]) == 0
    printed = capsys.readouterr().out
    text = unescape(page(runs / kind))
    table = re.search(r"<tbody>(.*?)</tbody>", text, re.DOTALL)[1]
    cells = [cell for cell in re.findall(r"<td>([^<]*)</td>", table) if cell]
    rows = [line[36:] for line in printed.splitlines()[3:] if re.search(r"\d\.\d+$", line)]
    assert cells == [number for row in rows for number in row.split()] and len(cells) > 8
    # an autoencoder has no future, so the baselines of the future are left out
    assert ("the best baseline" in text) == (kind != "autoencoder")
    if kind != "autoencoder":
        verdict = printed[printed.index("future is ") :].partition("\n\n")[0].splitlines()
        assert [line for line in verdict if line not in text] == []


@pytest.mark.parametrize("kind", [*KINDS, "patches"])
def test_the_frames_that_are_played_are_the_truth_and_what_the_model_makes(runs, kind):
    data = script_data(page(runs / kind))
    raw = base64.b64decode(data["sheet"].removeprefix("data:image/webp;base64,"))
    with Image.open(io.BytesIO(raw)) as picture:
        sheet = np.array(picture.convert("RGB"))
    (run,) = run_figures.open_runs([runs / kind])
    N, h, w = data["sequences"], data["height"], data["width"]
    assert sheet.shape == (2 * N * h, 7 * w, 3) and N == min(6, run.source.num_sequences)
    cells = sheet.reshape(N, 2, h, 7, w, 3).transpose(1, 3, 0, 2, 4, 5)  # truth and model; time
    truth = run.source.batch(0, 200)[:, :N]
    truth = truth if truth.ndim == 5 else np.stack([truth] * 3, axis=-1)
    np.testing.assert_array_equal(cells[0], truth)
    if run.trained.predict:
        made = run.trained.rollout(run.past[:, :N], 4)
        made = as_frames(made, run.source.frame_shape, run.source.scale)
        made = np.rint(255 * np.clip(made, 0, 1))
        made = made if made.ndim == 5 else np.stack([made] * 3, axis=-1)
        assert np.abs(cells[1, 3:] - made).max() <= 1
    else:
        assert (cells[1, 3:] == 235).all() and data["predicted"] == "not predicted"


def test_a_report_has_every_figure_with_its_caption_and_all_settings(runs):
    text = page(runs / "conditional")
    assert text.count("<figure>") == text.count("<figcaption>") == 7
    assert "Slides, Figure 5." in text and "Paper, Figure 10." in text
    assert "<td>future</td>" in text and "conditional: future" in text
    assert re.search(r'<th scope="row">numpy</th><td>\d+\.\d+', text), "the environment"
    settings = shlex.quote(str(runs / "conditional" / "config.toml"))
    assert 'id="training"' in text and f"train --config {settings} --out NEW" in text


@pytest.mark.parametrize("name", ["my runs/a", "-dash"])
def test_the_printed_command_works_in_the_folder_where_it_was_printed(
    runs, tmp_path, monkeypatch, name
):
    shutil.copytree(runs / "predictor", tmp_path / name)
    monkeypatch.chdir(tmp_path)
    report_page.write_report(name, sequences=5)
    text = unescape(page(Path(name)))
    command = re.search("<pre>(python -m minilstm.train .*) --out NEW</pre>", text)[1]
    file = shlex.split(command)[-1]
    assert not file.startswith("-"), "it would be read as a flag"
    assert config.from_toml(Path(file)).model.kind == "predictor"


def test_the_model_of_the_slides_size_stands_after_all_that_is_of_the_run(
    runs, tmp_path, monkeypatch
):
    run = shutil.copytree(runs / "predictor", tmp_path / "run")
    monkeypatch.setattr(report_page, "full_size_section", lambda run: "another")
    reported(run)
    found = re.findall('<section id="(.*?)">', page(run))
    assert found[-2:] == ["settings", "size"]


def test_a_run_on_a_gpu_says_so(runs):
    opened = run_figures.open_run(runs / "predictor")
    about = {"step": 78_000, "seconds": 69.0, "environment": {"device": "a card"}}
    said = report_page.summary_of(dataclasses.replace(opened, about=about))
    assert "trained 78,000 steps in 1 min 9 s on a GPU, on moving-mnist" in said
    about["environment"] = {"numpy": "2"}
    assert "GPU" not in report_page.summary_of(dataclasses.replace(opened, about=about))


def test_the_page_of_a_run_that_still_trains_is_about_one_checkpoint(runs, tmp_path, monkeypatch):
    """Training writes a checkpoint while the figures are drawn. The numbers are of the old one."""
    shutil.copytree(runs / "predictor", tmp_path / "run")

    def train_meanwhile(opened, figures):
        about = opened[0].about | {"step": 98_765}
        checkpoint.save(tmp_path / "run" / "checkpoint.safetensors", opened[0].trained, None, about)

    monkeypatch.setattr(run_figures, "draw", train_meanwhile)
    assert report.main([str(tmp_path / "run"), *WORDS]) == 0
    assert "98,765" not in page(tmp_path / "run")
    assert report.main([str(tmp_path / "run"), *WORDS]) == 0
    assert "trained 98,765 steps" in page(tmp_path / "run")


def test_a_name_that_looks_like_markup_stays_text(runs, tmp_path):
    folder = tmp_path / "<b>&'$name"
    shutil.copytree(runs / "predictor", folder)
    reported(folder)
    text = page(folder)
    assert "<h1>&lt;b&gt;&amp;&#x27;$name</h1>" in text and "<b>&" not in text


def test_a_run_without_a_log_or_an_environment_has_a_report_too(runs, tmp_path):
    shutil.copytree(runs / "predictor", tmp_path / "run")
    (tmp_path / "run/metrics.jsonl").unlink()
    reported(tmp_path / "run", "--best")  # best has none
    text = page(tmp_path / "run")
    assert 'id="training"' not in text and "environment" not in text
    assert "smallest validation loss" in text


def test_a_new_run_in_its_place_takes_the_report_away(runs, tmp_path, monkeypatch):
    monkeypatch.setattr(Progress, "draw", lambda run: None)
    shutil.copytree(runs / "predictor", tmp_path / "run")
    settings = config.load(overrides=TINY)
    loop.train(settings, tmp_path / "run", force=True, quiet=True)
    assert not (tmp_path / "run/report.html").exists()


def test_impossible_reports_are_refused_in_one_line(runs, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(run_figures, "draw", lambda runs, folder: None)

    def refusal(*words):
        try:
            status = run_command(lambda: report.main([*map(str, words)]))
        except SystemExit as end:
            status = end.code
        printed = capsys.readouterr()
        assert status == 2 and printed.out == "" and printed.err.count("\n") == 1
        return printed.err

    assert "RUN" in refusal()
    assert "config.toml" in refusal(tmp_path)
    assert "number from 1 to" in refusal(runs / "predictor", "--sequences", 0)
    shutil.copytree(runs / "predictor", tmp_path / "run")
    (tmp_path / "run/report.html").unlink()
    (tmp_path / "run/metrics.jsonl").write_text("no row\n")
    assert "metrics.jsonl" in refusal(tmp_path / "run", *WORDS)
    (tmp_path / "run/checkpoint.safetensors").unlink()
    assert "checkpoint" in refusal(tmp_path / "run")
    assert not (tmp_path / "run/report.html").exists()


@pytest.mark.parametrize("kind", [*KINDS, "patches"])
def test_no_word_of_the_chart_stands_among_its_curves(runs, kind):
    """Numbers stand left of the curves or below them. The key names each curve, by its dashes."""
    width, height = CHART
    key, chart = re.search(r'(<ul class="key">.*?</ul>)(<svg.*?</svg>)', page(runs / kind)).groups()
    curves = re.findall(r'<polyline points="([^"]*)".*?dasharray="([^"]*)"', chart)
    for points, _ in curves:
        xy = np.array([point.split(",") for point in points.split()], float)
        assert (xy >= 0).all() and (xy <= CHART).all() and xy[:, 1].min() > 28  # below the cursor's
    words = re.findall(r'<text x="([^"]*)" y="([^"]*)"(.*?)>', chart)
    assert len(words) >= 4 and chart.count("<text") == len(words) + 1  # and the cursor's number
    assert all(
        (float(x) < 0 and 'anchor="end"' in how) or float(y) - 28 >= height for x, y, how in words
    )
    styles = re.findall(r'style="stroke: ([^"]*)".*?dasharray="([^"]*)"', key)
    assert [dashes for _, dashes in styles] == [dashes for _, dashes in curves]
    assert len(set(styles)) == len(styles) == len(re.findall(r"</svg>[a-z ]+</li>", key))


def test_the_ticks_of_the_chart_are_few_and_round():
    for highest in (0.013, 0.9, 1.0, 7, 52.3, 195, 1443, 9.99e6):
        found = ticks(highest)
        assert 2 <= len(found) <= 6 and found[0] == 0 and found[-1] < highest
        assert f"{found[1]:.0e}"[0] in "125"


# -------------------------------------------------------------------------- in a real browser


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """A headless Chromium without a network, driven by its own driver."""
    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (program and driver):
        pytest.skip("no Chromium is installed, with its driver")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = program
    profile = tmp_path_factory.mktemp("profile")
    flags = "headless no-sandbox disable-gpu disable-quic no-first-run disable-sync "
    flags += "disable-background-networking disable-component-update force-prefers-reduced-motion "
    flags += f"window-size=1200,900 user-data-dir={profile}"
    for flag in flags.split():
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(driver)
    browser = webdriver.Chrome(options=options, service=service)
    yield browser
    browser.quit()


def opened(browser, run):
    """Open a report and wait until its frames are there."""
    from selenium.webdriver.support.ui import WebDriverWait

    browser.get(Path(run, "report.html").as_uri())
    shown = "return document.getElementById('said').textContent"
    WebDriverWait(browser, 20).until(lambda browser: browser.execute_script(shown))
    return browser


def at_frame(browser, t):
    """Move the slider, and return the red values of all canvases: (canvas, height, width)."""
    return np.array(
        browser.execute_script(
            """
            const slider = document.getElementById("time");
            slider.value = arguments[0];
            slider.dispatchEvent(new Event("input"));
            return Array.from(document.querySelectorAll("canvas"), canvas => {
              const image = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
              return Array.from(image.data.filter((_, k) => k % 4 === 0));
            });
            """,
            t,
        )
    )


@pytest.mark.parametrize("kind", DRAWN)
def test_a_browser_shows_the_page_without_complaint_and_with_all_its_pictures(runs, browser, kind):
    opened(browser, runs / kind)
    assert browser.get_log("browser") == []
    pictures = browser.execute_script(
        "return Array.from(document.images, i => [i.complete, i.naturalWidth, i.alt])"
    )
    assert len(pictures) >= 6
    assert all(complete and width > 300 and alt for complete, width, alt in pictures)
    fetched = browser.execute_script(
        "return performance.getEntriesByType('resource').map(entry => entry.name)"
    )
    assert all(name.startswith("data:") for name in fetched)
    for width in (320, 500, 1200):  # nothing sticks out at the side
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        shown = "return [document.documentElement.scrollWidth, innerWidth]"
        needed, there = browser.execute_script(shown)
        assert needed <= there == width
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@pytest.mark.parametrize("kind", ["conditional", "patches"])
def test_the_slider_shows_the_frame_that_it_says(runs, browser, kind):
    opened(browser, runs / kind)
    (run,) = run_figures.open_runs([runs / kind])
    N = min(6, run.source.num_sequences)
    truth = run.source.batch(0, 200)[:, :N]
    truth = (truth if truth.ndim == 4 else truth[..., 0]).reshape(7, N, -1)
    places = []
    for t in (1, 3, 4, 7, 2):
        canvases = at_frame(browser, t)
        np.testing.assert_array_equal(canvases[::2], truth[t - 1])
        said = browser.execute_script("return document.getElementById('said').textContent")
        assert said == f"frame {t} of 7, {'reconstructed' if t <= 3 else 'predicted'}"
        cursor = browser.execute_script(
            "return document.getElementById('cursor').getBoundingClientRect().x"
        )
        places.append(cursor)
        error = browser.execute_script("return document.getElementById('error').textContent")
        assert float(error) > 0
    assert places[0] < places[4] < places[1] < places[2] < places[3]
    errors = [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    assert not errors  # there are warnings, of the many pixels that this test reads


def test_play_moves_the_slider_and_pause_stops_it(runs, browser):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    opened(browser, runs / "conditional")
    button = browser.find_element(By.ID, "play")
    value = "return document.getElementById('time').value"
    assert button.text == "Play", "who asked for less motion gets none by itself"
    before = browser.execute_script(value)
    button.click()
    assert button.text == "Pause"
    WebDriverWait(browser, 20).until(lambda b: b.execute_script(value) != before)
    button.click()
    assert button.text == "Play"
    stopped = browser.execute_script(value)
    browser.execute_async_script("setTimeout(arguments[0], 700)")  # a frame or more, if it played
    assert browser.execute_script(value) == stopped
