"""`python -m minilstm.reproduce`: the runs, the verdicts, the pictures; and what stops it."""

import dataclasses
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small import small

from minilstm import config, reproduce, train
from minilstm.backend import to_numpy
from minilstm.command import run_command
from minilstm.config import ClassifySettings
from minilstm.data import Actions, load_digits
from minilstm.data.actions import changes_of
from minilstm.errors import ConfigError, RunError, number_of
from minilstm.experiments import (
    accuracy_table,
    action_experiments,
    budget,
    charts,
    many_runs,
    table2,
    targets,
    verdicts,
)
from minilstm.experiments.action_fit import Fit, mean_accuracy
from minilstm.experiments.many_runs import Trial, steps_made, train_all
from minilstm.experiments.scales import SCALES
from minilstm.experiments.table_definitions import TABLES
from minilstm.experiments.targets import FIGURES, Request
from minilstm.figures import style
from minilstm.files import write_file
from minilstm.runs import build, checkpoint
from minilstm.runs.build import open_clips
from minilstm.runs.run_folder import RunFolder

SMALLEST = small(
    data={"future": 2},
    model={"hidden": 4},
    run={"batch_size": 2, "steps": 4, "checkpoint_every": 2, "keep": 2},
)


def trial(path, **run):
    return Trial(path, config.load(overrides=SMALLEST | {"run": SMALLEST["run"] | run}))


@pytest.fixture
def reproduced(capsys, tasks_here):
    """Run the command, which must succeed, and return what it prints."""

    def printed(*words):
        with tasks_here():
            status = run_command(lambda: reproduce.main([*map(str, words)]))
        found = capsys.readouterr()
        assert status == 0, found.err
        return found.out

    return printed


def refusal(capsys, *words):
    """Run the command, which must fail with status 2, and return its one line on stderr."""
    try:
        status = run_command(lambda: reproduce.main([*map(str, words)]))
    except SystemExit as end:
        status = end.code
    said = capsys.readouterr().err
    assert status == 2 and said.startswith("error: ") and said.count("\n") == 1, said
    return said


# ---------------------------------------------------------------- many runs


def test_runs_are_trained_once_and_interrupted_runs_resume_to_the_same_bits(tmp_path):
    trials = [trial(tmp_path / "runs" / f"seed{seed}", seed=seed) for seed in (0, 1)]
    train_all(trials, workers=2)
    assert [steps_made(t) for t in trials] == [4, 4]
    paths = [RunFolder(t.path).checkpoint for t in trials]
    whole, times = paths[0].read_bytes(), paths[1].stat().st_mtime_ns
    shutil.copy(paths[0].with_name("checkpoint-0000000002.safetensors"), paths[0])
    assert steps_made(trials[0]) == 2
    train_all(trials, workers=1)
    again, about = checkpoint.read(paths[0])
    paths[0].write_bytes(whole)
    before, _ = checkpoint.read(paths[0])
    assert about["step"] == 4
    assert all((again[name] == before[name]).all() for name in before)
    assert paths[1].stat().st_mtime_ns == times, "a finished run was touched"


def test_an_evaluation_is_kept_until_its_run_continues(tmp_path, train_undrawn):
    t = trial(tmp_path / "one")
    train_undrawn(SMALLEST, t.path)
    (first,) = many_runs.evaluate_all([t], 1, 10)
    assert first["sequences"] == 10
    kept = tmp_path / "one.evaluation-10.json"
    written = RunFolder(t.path).checkpoint.stat().st_mtime_ns
    assert kept.stat().st_mtime_ns == written
    kept.write_text('{"kept": true}')
    os.utime(kept, ns=(written, written))
    assert many_runs.evaluate_all([t], 1, 10) == [{"kept": True}]
    before = time.time() - 1000  # the clock was set back before the run continued
    os.utime(RunFolder(t.path).checkpoint, (before, before))
    assert many_runs.evaluate_all([t], 1, 10) == [first]


def test_one_process_at_a_time_works_on_the_runs_of_a_folder(tmp_path, train_undrawn):
    t = trial(tmp_path / "one")
    with RunFolder(tmp_path).claim():  # by another process
        with pytest.raises(RunError, match="got another process that works in it"):
            train_all([t], 1)
        train_undrawn(SMALLEST, t.path)
        with pytest.raises(RunError, match="got another process that works in it"):
            many_runs.evaluate_all([t], 1, 10)
    found = many_runs.evaluate_all([t], 1, 10)
    with RunFolder(tmp_path).claim():  # nothing is left to do
        train_all([t], 1)
        assert many_runs.evaluate_all([t], 1, 10) == found


def test_a_damaged_evaluation_is_refused_by_name(tmp_path, train_undrawn):
    t = trial(tmp_path / "one")
    train_undrawn(SMALLEST, t.path)
    many_runs.evaluate_all([t], 1, 10)
    kept = tmp_path / "one.evaluation-10.json"
    for text in ("{", "[]", ""):
        kept.write_text(text)
        shutil.copystat(RunFolder(t.path).checkpoint, kept)
        with pytest.raises(RunError, match="one.evaluation-10.json: expected a whole file of JSON"):
            many_runs.evaluate_all([t], 1, 10)


def test_runs_on_a_file_that_was_replaced_are_no_runs_on_the_new_one(tmp_path, train_undrawn):
    files = [tmp_path / f"{name}.npy" for name in ("old", "new")]
    for k, file in enumerate(files):
        np.save(file, np.random.default_rng(k).integers(0, 256, (30, 20, 8, 8), np.uint8))
    settings = SMALLEST | {"data": SMALLEST["data"] | {"source": str(files[0])}}
    t = Trial(tmp_path / "one", config.load(overrides=settings))
    train_undrawn(settings, t.path)
    train_all([t], 1)  # nothing is left to do
    shutil.copy(files[1], files[0])
    with pytest.raises(RunError, match="expected the data that .* got other sequences"):
        train_all([t], 1)


def test_a_folder_with_other_settings_is_refused_and_they_are_named(tmp_path, train_undrawn):
    train_undrawn(SMALLEST, tmp_path / "one")
    found = r"expected .*one to hold .*, got run\.seed = 0, not 7: delete this folder to train this"
    with pytest.raises(RunError, match=found):
        train_all([trial(tmp_path / "one", seed=7)], 1)
    train.main(["--resume", str(tmp_path / "one"), "--extend-to", "6", "--quiet"])
    with pytest.raises(RunError, match=r"got run\.steps = 6, not 4: delete this folder"):
        train_all([trial(tmp_path / "one")], 1)  # its weights are of another step


def test_a_finished_run_whose_free_settings_were_changed_is_still_the_run(tmp_path, train_undrawn):
    t = trial(tmp_path / "one")
    train_undrawn(SMALLEST, t.path)
    words = "--keep", "3", "--minutes", "5", "--threads", "1", "--quiet"
    train.main(["--resume", str(t.path), *words])
    settings = build.read_config(t.path).run
    assert (settings.keep, settings.minutes) == (3, 5) != (t.config.run.keep, t.config.run.minutes)
    assert steps_made(t) == 4
    train_all([t], 1)
    assert build.read_config(t.path).run == settings, "it was left alone"


def test_a_run_that_was_stopped_with_a_limit_of_minutes_is_finished_without_it(
    tmp_path, train_undrawn, tasks_here
):
    t = trial(tmp_path / "one")
    train_undrawn(SMALLEST, t.path)
    file = RunFolder(t.path).checkpoint
    shutil.copy(file.with_name("checkpoint-0000000002.safetensors"), file)
    limited = dataclasses.replace(t.config, run=dataclasses.replace(t.config.run, minutes=1e-9))
    write_file(RunFolder(t.path).config, limited.to_toml())
    with tasks_here():
        train_all([t], 1)
    assert steps_made(t) == 4


def test_moved_data_are_recorded_in_their_runs(tmp_path, train_undrawn):
    here, moved = tmp_path / "here.npz", tmp_path / "moved.npz"
    frames = np.random.default_rng(0).integers(0, 256, (30, 20, 8, 8), np.uint8)
    np.savez(here, patches=frames)
    data = SMALLEST["data"] | {"source": "patches", "path": str(here)}
    train_undrawn(SMALLEST | {"data": data}, tmp_path / "one")
    here.rename(moved)
    there = Trial(
        tmp_path / "one", config.load(overrides=SMALLEST | {"data": data | {"path": str(moved)}})
    )
    assert steps_made(there) == 4
    train_all([there], 1)
    assert build.read_config(there.path) == there.config
    many_runs.evaluate_all([there], 1, 5)  # finds them
    np.savez(moved, patches=frames[::-1])
    with pytest.raises(RunError, match="expected the data that .* got other patches"):
        train_all([there], 1)
    file = RunFolder(there.path).checkpoint
    arrays, about = checkpoint.read(file)
    checkpoint.write(file, arrays, {"minilstm": json.dumps(about | {"data": {}})})
    again = dataclasses.replace(there.config.data, path=str(here))
    unknown = Trial(there.path, dataclasses.replace(there.config, data=again))
    with pytest.raises(RunError, match="got data.path = .*moved.npz', not .*here.npz'"):
        steps_made(unknown)  # nothing says what its data were


def test_a_failing_run_is_named_with_its_error_and_stops_the_others(tmp_path):
    broken = config.load(overrides=SMALLEST | {"data": {"digits": str(tmp_path / "nowhere")}})
    long = trial(tmp_path / "long", steps=10**6)
    with pytest.raises(RunError, match=r"^broken: .*minilstm\.train failed: .*nowhere"):
        train_all([long, Trial(tmp_path / "broken", broken)], 2)
    with RunFolder(long.path).claim():  # no process holds it
        pass


def test_runs_stop_in_good_order_after_ctrl_c_and_when_their_command_is_killed(tmp_path):
    code = (
        "import sys\nfrom pathlib import Path\nfrom minilstm.command import run_command\n"
        "from minilstm.config import from_toml\n"
        "from minilstm.experiments.many_runs import Trial, train_all\n"
        "trials = [Trial(Path(p), from_toml(Path(sys.argv[1]))) for p in sys.argv[2:]]\n"
        "sys.exit(run_command(lambda: train_all(trials, 2)))"
    )
    settings = tmp_path / "long.toml"
    long = trial(tmp_path, steps=10**6, minutes=1, checkpoint_every=0, log_every=1)
    settings.write_text(long.config.to_toml())
    runs = [RunFolder(tmp_path / name) for name in "ab"]
    command = [sys.executable, "-c", code, settings, *(run.path for run in runs)]
    steps = [0, 0]
    for signum, status in ((signal.SIGKILL, -9), (signal.SIGINT, 130)):
        parent = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        while any(last_step(run) <= n for run, n in zip(runs, steps, strict=True)):
            assert parent.poll() is None, parent.stderr.read()
            time.sleep(0.1)
        parent.send_signal(signum)
        _, said = parent.communicate(timeout=60)
        assert parent.returncode == status, said
        assert signum == signal.SIGKILL or said.endswith("interrupted\n")
        before, steps = steps, [step_when_released(run) for run in runs]
        assert all(now > then for now, then in zip(steps, before, strict=True))


def last_step(run):
    """Return the last step in its log, or 0 without a log."""
    rows = run.rows() if run.log.exists() else []
    return rows[-1]["step"] if rows else 0


def step_when_released(run):
    """Wait until no process holds the folder, and return the step of its checkpoint."""
    deadline = time.monotonic() + 30
    while True:
        try:
            with run.claim():
                return checkpoint.read(run.checkpoint)[1]["step"]
        except RunError:
            assert time.monotonic() < deadline, f"{run.path} is still being trained in"
            time.sleep(0.1)


# ---------------------------------------------------------------- Table 2 in words


def judged(free, forced=None):
    future = {"free_running": {"mean": free}} | (
        {"teacher_forced": {"mean": forced}} if forced else {}
    )
    baselines = {"copy of the last frame": 300.0, "mean image": 200.0, "entropy bound": 20.0}
    return {
        "unit": "nats per frame", "sequences": 50, "frame_shape": [32, 32], "future": future,
        "baselines": {name: {"mean": value} for name, value in baselines.items()},
    }  # fmt: skip


def analysed(levels, scatter=1.0):
    """Analyse losses around `levels`, by row, of five seeds."""
    rng = np.random.default_rng(2)
    shared = rng.normal(0, 20, 5)  # the same in every row of a seed
    rows = {
        row: [judged(levels[row] + x + scatter * rng.normal(), 90.0) for x in shared]
        for row in table2.ROWS
    }
    about = {"scale": "small", "why": "Because.", "trained": {"digits": "9 sequences"}}
    return table2.analyse({"digits": rows}, about)


def test_every_verdict_of_table_2_can_occur_and_is_put_into_words():
    levels = {
        "predictor": 150, "composite": 140, "conditional-predictor": 160,
        "conditional-composite": 140, "scheduled-predictor": 145, "scheduled-composite": 190,
    }  # fmt: skip
    found = analysed(levels)
    claims = found["data"]["digits"]["claims"]
    assert {name: claim["verdict"] for name, claim in claims.items()} == {
        "composite beats predictor": "holds",
        "conditional composite beats conditional predictor": "holds",
        "conditional predictor beats predictor": "does not hold",
        "conditional composite beats composite": "undecided",
        "scheduled predictor beats predictor": "holds",
        "scheduled composite beats composite": "does not hold",
        "scheduled predictor beats conditional predictor": "holds",
        "scheduled composite beats conditional composite": "does not hold",
        "scheduled composite beats scheduled predictor": "does not hold",
    }
    said = table2.text(found)
    assert "- composite beats predictor: as in the slides." in said
    assert re.search(
        r"- conditional predictor beats predictor: .* NOT here\. .*: -[3456]\.\d %\.", said
    )
    assert re.search(
        r"composite beats composite: holds in the slides; undecided here. .* above \d\.\d %\.", said
    )
    assert "these are not: scheduled composite.\n" in said
    assert (
        "teacher forcing the conditional predictor has a loss of 90.0, less than" in said
        and "exposure bias" in said
    )
    assert "Because." in said and "9 sequences" in said


def test_seeds_that_scatter_together_can_only_be_compared_in_pairs():
    levels = dict.fromkeys(table2.ROWS, 150) | {"composite": 147}
    claim = analysed(levels, 0.5)["data"]["digits"]["claims"]["composite beats predictor"]
    assert claim["verdict"] == "holds"
    rows = analysed(levels, 0.5)["data"]["digits"]["rows"]
    assert np.std(rows["predictor"]["free_running"]) > 5 * 200 * claim["difference"]["error"]


def test_table_2_has_the_slides_numbers_and_their_order_is_the_claims():
    published = [(r.published["digits"], r.published["patches"]) for r in table2.ROWS.values()
                 if not r.ours]  # fmt: skip
    assert published == [(350.2, 225.2), (344.9, 210.7), (343.5, 221.3), (341.2, 208.1)]
    for data in ("digits", "patches"):
        for name, gain in table2.CLAIMS["the slides'"].items():
            assert gain(table2.published_shares(data)) > 0, name


def test_teacher_forced_numbers_are_shown_and_decide_nothing():
    levels = dict.fromkeys(table2.ROWS, 150)
    said = table2.text(analysed(levels))
    row = next(line for line in said.splitlines() if line.startswith("| conditional predictor"))
    assert row.split("|")[5].strip() == "90.0 ± 0.0"
    assert "teacher-forced †" in said and "† given the true frame" in said


# ---------------------------------------------------------------- action recognition in words


def test_tables_of_accuracies_have_the_slides_numbers_and_gains():
    scale = SCALES["small"].actions
    slides = {}
    for name, make in TABLES.items():
        table, asked = make(scale, {"rgb": "pixels", "flow": "changes"})
        assert set(table.published) <= set(asked), name
        tested = verdicts.tested(
            table.families,
            {cell: [0.5, 0.6] for cell in asked},
            {cell: value / 100 for cell, value in table.published.items()},
        )
        slides |= {claim: about["published"] for claim, about in tested.items()}
    assert slides["composite beats baseline, small"] == pytest.approx(0.670 - 0.637)
    assert slides["conditional composite beats baseline, full"] == pytest.approx(0.758 - 0.745)
    assert slides["composite beats autoencoder, full"] == pytest.approx(0.758 - 0.751)
    assert slides["the composite's gain shrinks as labels grow"] == pytest.approx(0.033 - 0.013)
    assert slides["LSTM beats single frame, changes"] == pytest.approx(0.743 - 0.722)
    assert slides["both beat changes alone"] == pytest.approx(0.843 - 0.777)
    assert len({row[1] for row in TABLES["table4"](scale, {})[0].quoted}) == 8  # seven and theirs


def test_every_verdict_on_accuracies_can_occur():
    table, asked = TABLES["table3"](SCALES["small"].actions, {"rgb": "pixels"})
    rng = np.random.default_rng(0)
    level = {row: 0.5 for row, _ in asked} | {"composite": 0.7, "autoencoder": 0.4}
    values = {(row, c): level[row] + 0.02 * rng.normal(size=5) for row, c in asked}
    about = {"scale": "small", "each": "seed", "trained": "x", "shared": "y", "remarks": "z"}
    found = accuracy_table.analyse(table, values, about)
    verdicts = {name: claim["verdict"] for name, claim in found["claims"].items()}
    assert verdicts["composite beats baseline, small"] == "holds"
    assert verdicts["autoencoder beats baseline, full"] == "does not hold"
    assert verdicts["predictor beats baseline, small"] == "undecided"
    said = accuracy_table.text(table, found)
    assert "- composite beats baseline, small: as in the slides." in said
    assert "- autoencoder beats baseline, full: holds in the slides, NOT here." in said
    assert re.search(r"\| composite \| Composite Model \| [67]\d\.\d ± \d\.\d % \| 67\.0 \|", said)


def test_streams_are_fused_by_their_probabilities():
    def result(*rows):
        return {"labels": [0, 1], "probabilities": {"lstm": rows}}

    sure, wrong = result([0.9, 0.1], [0.4, 0.6]), result([0.4, 0.6], [0.6, 0.4])
    assert mean_accuracy([sure]) == 1 and mean_accuracy([wrong]) == 0
    assert mean_accuracy([sure, wrong]) == 0.5  # the second clip: a tie, and the first wins


# ---------------------------------------------------------------- the command


@pytest.fixture(scope="module")
def out(tmp_path_factory, tasks_here):
    """A folder in which table2 has been reproduced at the scale smoke, with patches at hand."""
    top = tmp_path_factory.mktemp("reproduced")
    patches = np.random.default_rng(0).integers(0, 256, (20, 29, 6, 6, 3), np.uint8)
    np.save(top / "patches.npy", patches)
    words = ["table2", "--scale", "smoke", "--out", str(top / "out")]
    with tasks_here():
        assert run_command(lambda: reproduce.main(words)) == 0
    return top / "out"


def test_table_2_is_written_as_text_numbers_and_pictures(out, reproduced):
    said = (out / "table2.md").read_text()
    for row in table2.ROWS.values():
        assert f"| {row.title}" in said
    assert "350.2" in said and "means ± standard errors over 2 seeds" in said
    assert "All seeds are judged on the same sequences, so errors" in said
    found = json.loads((out / "table2.json").read_text())
    assert list(found["data"]) == ["digits"]
    assert found["data"]["digits"]["test_sequences"] == 20
    with Image.open(out / "table2.png") as picture:
        assert picture.width == int(13.33 * style.DPI)
    assert (out / "table2.pdf").read_bytes().startswith(b"%PDF")
    printed = reproduced("table2", "--scale", "smoke", "--out", out)
    assert "12 runs, 12 of them finished" in printed and said.split("![")[0].strip() in printed


def test_rows_of_one_seed_see_the_same_data(out):
    settings = {}
    for row in table2.ROWS:
        (path,) = (out / "runs").glob(f"digits-{row}-2x8-seed1")
        settings[row] = config.from_toml(path / "config.toml")
    one = settings["predictor"]
    assert all((s.data, s.run, s.optimizer) == (one.data, one.run, one.optimizer)
               for s in settings.values())  # fmt: skip


def test_rows_of_one_seed_start_from_the_same_weights_in_every_array_that_they_share(out):
    from minilstm.runs.build import build_model

    drawn = {}
    for row in table2.ROWS:
        (path,) = (out / "runs").glob(f"digits-{row}-2x8-seed1")
        settings = config.from_toml(path / "config.toml")
        init = dataclasses.replace(settings.init, peephole_scale=0.1)  # drawn too, where asked for
        model = build_model(dataclasses.replace(settings, init=init), 144)
        drawn[row] = {name: to_numpy(param.value) for name, param in model.params().items()}
    shared = 0
    for one, other in itertools.combinations(drawn.values(), 2):
        for name in one.keys() & other.keys():
            if one[name].shape == other[name].shape:
                shared += 1
                assert (one[name] == other[name]).all(), name
    assert shared > 15 * 16, "the encoder and a decoder of every pair of the six rows"
    different = [v for name, v in drawn["composite"].items() if name.endswith("0.Wh")]
    assert len(different) == 3 and (different[1] != different[2]).any()


@pytest.mark.parametrize("target", [name for name in FIGURES if name != "fig6"])
def test_figures_are_drawn_from_runs_that_the_table_trained(out, target, reproduced):
    printed = reproduced(target, "--scale", "smoke", "--out", out)
    missing = {"fig5": 1}.get(target, 0)
    assert (
        f"{'3 runs' if target == 'fig5' else '1 run'}, {3 - missing if target == 'fig5' else 1}"
        in printed
    )
    for name in (target, "fig10") if target == "fig9" else (target,):
        with Image.open(out / f"{name}.png") as picture:
            assert picture.width > 300
    said = (out / f"{target}.md").read_text()
    assert "scale smoke" in said and "igure" in said and f"{target}.png" in said


def test_figure_6_is_of_patches_and_needs_them(out, reproduced, capsys):
    assert "--patches FILE" in refusal(capsys, "fig6", "--scale", "smoke", "--out", out)
    patches = out.parent / "patches.npy"
    reproduced("fig6", "--scale", "smoke", "--out", out, "--patches", patches)
    with Image.open(out / "fig6.png") as picture:
        assert np.asarray(picture).std(axis=2).any(), "colours"


@pytest.mark.parametrize(
    "target, seeds",
    [
        pytest.param("table1", 2, marks=pytest.mark.slow),  # test_real_clips.py runs it, too
        ("table4", 2),
        pytest.param("table3", 1, marks=pytest.mark.slow),
        pytest.param("fig12", 2, marks=pytest.mark.slow),
    ],
)
def test_action_tables_are_written_as_text_numbers_and_pictures(out, target, seeds, reproduced):
    words = [target, "--scale", "smoke", "--out", out, "--workers", 2, "--seeds", seeds]
    printed = reproduced(*words)
    said = (out / f"{target}.md").read_text()
    each = "draw" if target == "fig12" else "seed"
    assert f"over {number_of(seeds, each)}" in said and "(1 of 18, 5.6 %)" in said
    found = json.loads((out / f"{target}.json").read_text())
    shares = [x for row in found["accuracies"].values() for v in row.values() for x in v]
    assert shares and all(0 <= x <= 1 for x in shares)
    with Image.open(out / f"{target}.png") as picture:
        assert picture.width == int(13.33 * style.DPI)
    if target == "table4":
        assert "89.1" in said and "12 fits after" not in printed


def test_a_fit_of_other_settings_in_the_same_out_is_refused(out, tmp_path):
    fits = action_experiments.Plan(out, SCALES["smoke"].actions, "bundled", "numpy")
    name, fit = fits.fit("baselines", "rgb", 3, 0)  # which needs no run
    action_experiments.fit_all({name: fit}, tmp_path, 1)
    action_experiments.fit_all({name: fit}, tmp_path, 1)  # found, and left alone
    other = dataclasses.replace(fit, settings=fit.settings | {"dropout": 0.25})
    with pytest.raises(RunError, match="other settings: delete this file to make this fit anew"):
        action_experiments.fit_all({name: other}, tmp_path, 1)


def test_a_fit_whose_digits_percepts_or_runs_were_moved_is_the_same_fit(tmp_path):
    fit = Fit({"digits": "/here", "labels": 3}, "/here/runs/one", percepts="/here/rgb")
    text = json.dumps({"fit": dataclasses.asdict(fit)})
    (tmp_path / "a.result.json").write_text(text)
    moved = dataclasses.replace(
        fit, settings=fit.settings | {"digits": "/there"}, run="/there/one", percepts="/there/rgb"
    )
    assert action_experiments.fit_all({"a": moved}, tmp_path, 1)["a"] == json.loads(text)
    for change in ({"run": "/here/runs/two"}, {"settings": fit.settings | {"digits": "bundled"}}):
        with pytest.raises(RunError, match=f"other {next(iter(change))}: delete"):
            action_experiments.fit_all({"a": dataclasses.replace(fit, **change)}, tmp_path, 1)


def test_rows_of_one_seed_learn_from_the_same_labelled_clips():
    plan = action_experiments.Plan(Path("out"), SCALES["smoke"].actions, "bundled", "numpy")
    parts = [
        open_clips(ClassifySettings(**plan.fit(method, "rgb", 3, 1)[1].settings))
        for method in ("baselines", "baseline", "composite")
    ]
    for learn, validation, test in parts:
        assert (learn.frames == parts[0][0].frames).all()
        assert (test.frames == parts[0][2].frames).all()
        assert len(learn) == 3 * 18 and len(validation) == 18 and len(test) == 36
    other = open_clips(ClassifySettings(**plan.fit("baseline", "rgb", 3, 0)[1].settings))
    assert (other[0].frames != parts[0][0].frames).any()
    assert (other[2].frames == parts[0][2].frames).all()


def test_a_plan_trains_nothing_and_prints_the_cost(tmp_path, reproduced):
    printed = reproduced("table2", "--scale", "paper", "--plan", "--out", tmp_path / "out")
    assert "30 runs, 0 of them finished: 445,320 steps to go" in printed
    assert re.search(r"[\d,]+\.\d hours at 5 TFLOP/s", printed)
    assert not (tmp_path / "out").exists()


def test_runs_of_more_than_a_day_on_a_cpu_start_by_an_explicit_word_only(
    tmp_path, capsys, monkeypatch
):
    started = []
    monkeypatch.setattr(targets, "train_all", lambda trials, workers: started.append(len(trials)))
    words = "fig8", "--scale", "paper", "--workers", 2, "--out", tmp_path / "out"
    said = refusal(capsys, *words)
    assert "at most 24 hours on this CPU, got about" in said and "by --long" in said
    assert not started and not (tmp_path / "out").exists()
    refusal(capsys, *words, "--long")  # nothing was trained, so there is no run to draw
    assert started == [1]


def test_at_the_slides_size_digits_have_our_recipe_and_paper_is_asked_for_by_name():
    large = Request("table2", "paper", Path("out"), 1)
    paper = dataclasses.replace(large, preset="paper", precision="float64")
    composite, old = (r.trial("digits", "composite").config for r in (large, paper))
    assert composite == config.load(["table2-composite", "large"])
    assert old.optimizer.rule == "rmsprop" and old.run.steps == 20_000
    assert old.run.precision == "float64"
    assert paper.trial("patches", "composite") == dataclasses.replace(
        large, precision="float64"
    ).trial("patches", "composite")
    scheduled = large.trial("digits", "scheduled-composite").config.feeding
    assert scheduled.inputs == "scheduled" and scheduled.truth_steps == 11_133


def test_on_a_gpu_table_2_has_one_run_at_a_time_and_one_seed(monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(reproduce, "reproduce", lambda request: asked.append(request) or "")
    for words in ([], ["--backend", "cupy"], ["--backend", "cupy", "--seeds", "3"]):
        assert reproduce.main(["table2", "--plan", *words]) == 0
    assert [len(request.repetitions()) for request in asked] == [5, 1, 3]
    assert [request.workers for request in asked] == [os.cpu_count(), 1, 1]


def test_one_row_alone_is_trained_and_the_others_stay_empty(tmp_path, reproduced):
    words = ["table2", "--scale", "smoke", "--out", tmp_path / "out", "--seeds", 1, "--only"]
    said = reproduced(*words, "conditional-predictor")
    assert "1 run, 0 of them finished" in said
    assert len(list((tmp_path / "out" / "runs").glob("*/"))) == 1
    assert "| composite | Composite Model |  |  |  | 344.9 | 0.548 |" in said
    assert re.search(r"\| conditional predictor \| [\w ]+ \| \d+\.\d \| .* \| 343\.5 \|", said)
    assert "Nats per frame of one seed, on 20 test sequences of 12x12 pixels. Every row" in said
    assert "No ordering of the rows is tested: with one seed" in said and "verdict" not in said
    assert (tmp_path / "out" / "table2.png").exists()
    said = reproduced(*words, "predictor")  # the finished row stays in the table
    assert re.search(r"\| conditional predictor \| [\w ]+ \| \d+\.\d \|", said)
    assert "| composite | Composite Model |  |  |  | 344.9 | 0.548 |" in said


def test_only_claims_whose_rows_are_there_are_tested():
    levels = dict.fromkeys(table2.ROWS, 150)
    rows = {row: [judged(levels[row] + k) for k in range(3)] for row in ("predictor", "composite")}
    about = {"scale": "small", "why": "Because.", "trained": {"digits": {
        "predictor": "9 sequences", "composite": "8 sequences"}}}  # fmt: skip
    found = table2.analyse({"digits": rows}, about)
    assert list(found["data"]["digits"]["claims"]) == ["composite beats predictor"]
    said = table2.text(found)
    assert "THE ROWS DIFFER" in said and "composite: 8 sequences" in said


# ---------------------------------------------------------------- a budget of minutes


@pytest.fixture
def paced(monkeypatch):
    """A GPU that makes a step in 10 ms. The list has the steps that runs were timed with."""
    timed = []
    monkeypatch.setattr(
        budget.pace, "seconds_per_step", lambda settings: timed.append(settings.run.steps) or 0.01
    )
    return timed


def test_minutes_become_steps_once_for_all_seeds_and_later_commands(tmp_path, paced):
    trials = [trial(tmp_path / f"row-seed{seed}", seed=seed) for seed in (0, 1)]
    assert budget.in_time(trials) == trials and not paced
    planned = budget.in_time(trials, 0.5, plan=True)
    assert not (tmp_path / "steps.json").exists() and len(paced) == 1
    chosen = budget.in_time(trials, 0.5)
    assert chosen == planned and len(paced) == 2, "one row is timed once"
    for found in (chosen, budget.in_time(trials), budget.in_time(trials, 0.5)):
        assert {t.config.run.steps for t in found} == {3000}
        assert {t.config.optimizer.schedule_steps for t in found} == {3000}
        assert [t.config.run.seed for t in found] == [0, 1]
    assert len(paced) == 2, "later commands time nothing"
    with pytest.raises(ConfigError, match=r"expected --minutes-per-run 0\.5 for row, .* got 2"):
        budget.in_time(trials, 2)


def test_minutes_come_too_late_for_a_run_that_has_begun(tmp_path, paced):
    begun = trial(tmp_path / "row-seed0")
    begun.path.mkdir()
    RunFolder(begun.path).config.write_text(begun.config.to_toml())
    with pytest.raises(ConfigError, match="expected no --minutes-per-run for row, which has begun"):
        budget.in_time([begun], 1)
    assert not paced


@pytest.mark.parametrize("text", ["", "[]", '{"row": 3}', '{"row": {"steps": 0, "minutes": 1}}'])
def test_a_damaged_file_of_steps_is_refused_by_name(tmp_path, text):
    (tmp_path / "steps.json").write_text(text)
    with pytest.raises(RunError, match=r"steps\.json: expected steps and minutes"):
        budget.in_time([trial(tmp_path / "row-seed0")])


def test_the_plan_for_a_gpu_has_minutes_and_memory_of_every_row(tmp_path, paced, monkeypatch):
    trials = [trial(tmp_path / f"{row}-seed{k}", steps=6000) for row in "ab" for k in (0, 1)]
    said = budget.cost_on_gpu(trials).splitlines()
    assert len(paced) == 2 and len(said) == 3
    assert re.match(
        r"a: 2 runs of 6,000 steps, 10 ms each: 1\.0 minutes a run; \d+ [MG]B of", said[0]
    )
    assert said[2].startswith("Together 4 minutes")
    monkeypatch.setattr(budget.resources, "free_memory", lambda: 1000)
    assert "do not fit" in budget.cost_on_gpu(trials)


@pytest.mark.parametrize(
    "words, expected",
    [
        (["table3", "--only", "composite"], "expected table2 for --only"),
        (["fig12", "--precision", "float64"], "expected table2 or fig5 to fig9 for --precision"),
        (["table2", "--minutes-per-run", "3"], "expected --backend cupy for --minutes-per-run"),
        (["table2", "--minutes-per-run", "-3", "--backend", "cupy"], "--minutes-per-run"),
        (["table2", "--preset", "large"], "expected --scale paper for --preset"),
        (["table2", "--only", "compound"], "--only"),
        (["table9"], "table2"),
        (["table2", "--seeds", "0"], "--seeds"),
        (["table2", "--scale", "smoke", "--digits", "nowhere"], "nowhere"),
        (["table2", "--scale", "smoke", "--patches", "nowhere.npy"], "nowhere.npy"),
    ],
)
def test_impossible_requests_are_refused_before_anything_is_trained(
    words, expected, tmp_path, capsys
):
    assert expected in refusal(capsys, *words, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_another_digits_folder_in_the_same_out_is_refused(out, capsys, tmp_path):
    said = refusal(capsys, "fig7", "--scale", "smoke", "--out", out, "--digits", tmp_path)
    assert "data.digits" in said


def test_scales_are_ordinary_settings_for_every_row_and_kind_of_data():
    for name, scale in SCALES.items():
        request = Request("table2", name, Path("out"), 1, 1, patches="p.npy")
        for data in ("digits", "patches"):
            settings = [request.trial(data, row).config for row in table2.ROWS]
            sizes = {
                (s.run.steps, s.run.batch_size, s.model.hidden, s.model.layers) for s in settings
            }
            assert len(sizes) == 1, "every row trains on the same number of sequences"
            assert settings[0].run.steps >= settings[0].optimizer.warmup_steps
        assert scale.seeds >= 2 and scale.why


@pytest.mark.parametrize("name", SCALES)
def test_the_learning_rate_of_a_pretraining_falls_until_its_last_step(name, tmp_path):
    scale = SCALES[name]
    plan = action_experiments.Plan(tmp_path, scale.actions, "bundled", "numpy")
    settings = plan.pretraining("composite", "rgb", 0).config
    assert settings.optimizer.schedule_steps == settings.run.steps
    recorded = scale.percepts.pretraining
    assert recorded["optimizer"]["schedule_steps"] == recorded["run"]["steps"]


def test_changes_are_half_the_difference_of_neighbouring_frames_and_127_where_none():
    digits = load_digits()[0][:50]
    pixels, changes = (Actions(digits, 12, 6 - k, seed=3, changes=bool(k)) for k in (0, 1))
    frames, found = pixels.batch(2, 4).astype(int), changes.batch(2, 4)
    assert found.shape == (5, 4, 12, 12) and found.dtype == np.uint8
    assert (found == (255 + frames[1:] - frames[:-1]) // 2).all()
    assert (changes_of(np.zeros((3, 2), np.uint8)) == 127).all()
    assert changes_of(np.array([[0], [255], [0]], np.uint8)[:, 0]).tolist() == [255, 0]


# ---------------------------------------------------------------- what is trained


def test_the_runs_of_a_table_differ_in_row_and_seed_and_in_nothing_else():
    request = Request("table2", "small", Path("out"), 1)
    trials = {
        (row, seed): request.trial("digits", row, seed) for row in table2.ROWS for seed in (0, 3)
    }
    assert len({trial.path for trial in trials.values()}) == len(trials)
    for (row, seed), trial in trials.items():
        assert trial.config.run.seed == seed
        model, scheduled = trial.config.model, row.startswith("scheduled")
        assert model.kind == ("predictor" if row.endswith("predictor") else "composite")
        conditional = scheduled or row.startswith("conditional")
        assert model.conditional == ("future" if conditional else "none")
        assert trial.config.feeding.inputs == ("scheduled" if scheduled else "truth")
    pairs = config.differences(trials["predictor", 0].config, trials["predictor", 3].config)
    assert pairs == ["run.seed = 3, not 0"]


def test_the_fits_of_a_table_differ_in_method_stream_and_seed():
    plan = Request("table1", "small", Path("out"), 1).action_plan()[0]
    for stream, method, seed in itertools.product(
        ("rgb", "flow"), ("composite", "baseline", "baselines"), (0, 3)
    ):
        name, fit = plan.fit(method, stream, 2, seed)
        assert fit.settings["seed"] == seed and fit.settings["labels"] == 2
        assert fit.settings["changes"] == (stream == "flow")
        assert fit.baselines == (method == "baselines")
        if method != "baselines":
            assert fit.settings["encoder"] == {"composite": "finetuned"}.get(method, "scratch")
            assert f"{action_experiments.STREAMS[stream]}-composite-seed{seed}" in fit.run
            trained = plan.pretraining("composite", stream, seed).config
            assert trained.data.source == action_experiments.STREAMS[stream]
            assert trained.run.seed == seed


def test_rows_have_one_name_in_table_picture_and_verdict():
    rng = np.random.default_rng(0)
    for target, define in TABLES.items():
        table, asked = define(SCALES["smoke"].actions, {"rgb": "pixels", "flow": "changes"})
        values = {cell: rng.random(3) for cell in asked}
        about = {"scale": "s", "each": "seed", "trained": "x", "shared": "y", "remarks": "z"}
        found = accuracy_table.analyse(table, values, about)
        names = {table.name(row) for row in table.rows}
        said = accuracy_table.text(table, found)
        first_cells = set(re.findall(r"^\| ([^|]+) \|", said, re.MULTILINE))
        if target == "fig12":
            levels = [next(iter(charts.accuracy_curves(table, found)[0].values()))]
        else:
            rows, _, _ = charts.accuracy_chart(table, found)
            panels = [panel for row in rows for panel in row.items()]
            levels = [lines for title, lines in panels if "accuracy" in title]
        assert levels and all(set(lines) <= names for lines in levels) and names <= first_cells
        for claim in found["claims"]:
            if " beats " in claim:
                better, worse = claim.split(",")[0].split(" beats ")
                assert {better, worse} <= names, claim


def test_table_2_has_one_name_for_a_row_in_table_picture_and_verdict():
    found = analysed(dict.fromkeys(table2.ROWS, 100.0))
    names = {row.short for row in table2.ROWS.values()}
    first_cells = set(re.findall(r"^\| ([^|]+) \|", table2.text(found), re.MULTILINE))
    (panels,), _, _ = charts.table2_chart(found)
    assert names <= first_cells and set(next(iter(panels.values()))) == names
    claims = found["data"]["digits"]["claims"]
    assert all(set(claim.split(" beats ")) <= names for claim in claims)
