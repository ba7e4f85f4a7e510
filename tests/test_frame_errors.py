"""Errors per frame as later papers print them, and the predictions that the package keeps."""

import builtins
import json
import zipfile

import numpy as np
import pytest

from minilstm import config, evaluate
from minilstm.data import MovingMNIST
from minilstm.errors import ConfigError, DataError, RunError, ShapeError
from minilstm.evaluation import judging, kept_predictions
from minilstm.evaluation.frame_errors import frame_errors, in_words
from minilstm.runs import build, checkpoint

T, N, SHAPE = 3, 5, (9, 8)
TINY = {
    "data": {"frame_size": 12, "digit_size": 7, "past": 3, "future": 4},
    "model": {"hidden": 6},
    "run": {"batch_size": 4, "steps": 3},
}


@pytest.fixture
def pair():
    rng = np.random.default_rng(2)
    return [rng.integers(0, 256, (T, N, 72)).astype(np.float32) / 255 for _ in range(2)]


def test_errors_are_sums_over_pixels_and_means_over_frames_and_sequences(pair):
    found = frame_errors(*pair, SHAPE)
    for name, power in (("squared error", 2), ("absolute error", 1)):
        each = []
        for n in range(N):
            sums = [
                sum(abs(float(t) - float(p)) ** power for t, p in zip(*frame, strict=True))
                for frame in zip(pair[0][:, n], pair[1][:, n], strict=True)
            ]
            each.append(sum(sums) / T)
        mean = sum(each) / N
        spread = sum((x - mean) ** 2 for x in each) / (N - 1)
        assert found[name]["mean"] == pytest.approx(mean, rel=1e-6)
        assert found[name]["standard_error"] == pytest.approx((spread / N) ** 0.5, rel=1e-6)
        assert found[name]["sequences"] == N


def test_ssim_is_that_of_uniform_windows_of_seven_pixels_on_bytes(pair):
    pytest.importorskip("skimage", reason="scikit-image is not installed")
    t, p = (np.rint(255 * x).reshape(T, N, *SHAPE) for x in pair)
    values = []
    for i in range(SHAPE[0] - 6):
        for j in range(SHAPE[1] - 6):
            a, b = (x[:, :, i : i + 7, j : j + 7].reshape(T, N, 49) for x in (t, p))
            ma, mb = a.mean(2), b.mean(2)
            va, vb = a.var(2, ddof=1), b.var(2, ddof=1)
            cov = ((a - ma[..., None]) * (b - mb[..., None])).sum(2) / 48
            c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
            up = (2 * ma * mb + c1) * (2 * cov + c2)
            values.append(up / ((ma**2 + mb**2 + c1) * (va + vb + c2)))
    found = frame_errors(*pair, SHAPE)["SSIM"]
    assert found["mean"] == pytest.approx(np.mean(values), rel=1e-9)
    assert frame_errors(pair[0], pair[0], SHAPE)["SSIM"]["mean"] == pytest.approx(1)


def test_without_scikit_image_and_for_tiny_frames_ssim_is_left_out_with_the_reason(
    pair, monkeypatch
):
    assert "7x7" in frame_errors(*pair, (12, 6))["SSIM"]["skipped"]

    def missing(name, *rest):
        if name.startswith("skimage"):
            raise ImportError(name)
        return real(name, *rest)

    real = builtins.__import__
    monkeypatch.setattr(builtins, "__import__", missing)
    found = frame_errors(*pair, SHAPE)
    assert "SSIM" in in_words(found)[-1] and "pip install -e '.[metrics]'" in in_words(found)[-1]
    assert found["squared error"]["mean"] > 0


def test_errors_stand_below_the_table_of_evaluate(run, capsys):
    assert evaluate.main([str(run), "--sequences", "20"]) == 0
    said = capsys.readouterr().out
    assert "squared error" in said and "per frame, summed over pixels, 20 sequences" in said


@pytest.mark.parametrize("value", [-0.01, 1.01, np.nan])
def test_pixels_outside_0_to_1_are_refused_before_they_wrap_around_as_bytes(pair, value):
    t, p = pair
    p[1, 2, 3] = value
    for name, frames in (("prediction", (t, p)), ("truth", (p, t))):
        with pytest.raises(DataError, match=rf"{name}: expected values in \[0, 1\]"):
            frame_errors(*frames, SHAPE)


def test_bytes_and_frames_of_another_shape_have_no_errors(pair):
    t, p = pair
    with pytest.raises(ShapeError, match="got uint8: divide bytes by 255"):
        frame_errors(t, (255 * p).astype(np.uint8), SHAPE)
    for wrong, shape in ((p[0], SHAPE), (p, (9, 9))):
        with pytest.raises(ShapeError, match="expected truth and prediction"):
            frame_errors(t, wrong, shape)


def test_one_sequence_has_no_standard_error(pair):
    found = frame_errors(*(x[:, :1] for x in pair), SHAPE)
    assert found["squared error"]["standard_error"] is None
    assert "±" not in "".join(in_words(found))


# ---------------------------------------------------------------- kept predictions


@pytest.fixture(scope="module")
def run(tmp_path_factory, train_undrawn):
    path = tmp_path_factory.mktemp("run") / "run"
    train_undrawn(TINY, path)
    return path


def test_kept_predictions_are_those_of_the_run_with_all_that_was_asked_of_it(run, capsys):
    path = run.parent / "kept.npz"
    words = [str(run), "--sequences", "20", "--json", "--keep", str(path), "--commit", "abc"]
    assert evaluate.main(words) == 0
    kept = kept_predictions.read_kept(path)
    assert kept.result["frame_errors"]["squared error"]["sequences"] == 20
    assert kept.result == json.loads(capsys.readouterr().out)
    assert kept.config == build.read_config(run)
    assert (kept.about["step"], kept.about["commit"]) == (3, "abc")
    model, about = build.read_run(run)
    checkpoint.save(run / "best.safetensors", model, None, about | {"step": 2})
    assert evaluate.main([*words, "--best"]) == 0
    assert kept_predictions.read_kept(path).about["step"] == 2
    assert kept.about["seconds"] > 0 and kept.about["numpy"] == np.__version__

    settings = config.load(overrides=TINY)
    source = build.open_source(settings, "test")
    assert isinstance(source, MovingMNIST)
    frames = source.batch(0, judging.CHUNK_SEQUENCES)[:, :16]
    assert (kept.past == frames[:3]).all() and (kept.future == frames[3:]).all()
    model = build.load_run(run)
    logits = judging.decode(model, judging.sequences(source, 16), 3)
    for found, z in zip((kept.reconstruction, kept.prediction), logits, strict=True):
        expected = (255 / (1 + np.exp(-z.astype(float)))).reshape(found.shape)
        assert found.dtype == np.uint8 and abs(found - expected).max() < 0.51
    with zipfile.ZipFile(path) as file:
        assert all(info.compress_type == zipfile.ZIP_DEFLATED for info in file.infolist())


def test_a_missing_or_damaged_file_of_kept_predictions_is_one_line(tmp_path):
    with pytest.raises(RunError, match="no such file: make it from a trained run"):
        kept_predictions.read_kept(tmp_path / "none.npz")
    for content in (b"", b"PK\x03\x04 and no more"):
        (tmp_path / "bad.npz").write_bytes(content)
        with pytest.raises(RunError, match=r"bad.npz: expected kept predictions, got \w+"):
            kept_predictions.read_kept(tmp_path / "bad.npz")
    np.savez(tmp_path / "bad.npz", past=np.array([{}], object))
    with pytest.raises(RunError, match="bad.npz"):
        kept_predictions.read_kept(tmp_path / "bad.npz")


def test_predictions_that_are_no_pixels_are_not_kept(tmp_path):
    settings = config.load(overrides=TINY | {"data": {"source": "action-changes"}})
    model = build.build_model(settings, 9)
    with pytest.raises(ConfigError, match="leave --keep out"):
        kept_predictions.keep(tmp_path / "k.npz", model, {}, np.zeros((7, 1, 9)), settings, {})
