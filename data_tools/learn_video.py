"""Learn your own film: from a video to a page that shows what a model predicts of it.

    python -m data_tools.learn_video CLIP.mp4 --minutes 10

The folder runs/film-CLIP then holds the result of each stage:

    film.npz      squares of the small film for training, and the small film itself
    plan.json     the settings, facts of the film, and the number of steps for these minutes
    run/          the run: python -m minilstm.evaluate, report and train --resume take it
    film.html     the page, with film.gif and film.png in it

The film is scaled down so that its shorter side has 48 pixels. The model learns squares of 16x16
pixels, at random places and times, wherever something moves. It sees 10 frames of a square and
predicts the next 10. Two frames of a sequence are about a tenth of a second apart: less if the film
is short, more if it has fewer than 10 frames a second. The page assembles whole frames from
predicted squares.

Why squares, and not whole frames? A film of 15 seconds has about 300 sequences of whole frames, and
a model learns them by heart. The same film has many thousand squares in motion. For the same reason
every square for training is mirrored and turned at random, and half of them run backwards.

Only the first 9,000 frames of a film are read. Only the longest shot among them is used, because no
model can predict what comes after a cut. The times at which something moves are split: the last
eighth is the test split, the eighth before it is the validation split. The model is trained on no
frame of these two.

The number of steps is chosen before training, because the learning rate falls along a curve that
must end with the run. A few steps are timed. The number is such that the whole command ends after
about `--minutes`. After Ctrl-C the same command resumes. More minutes need a new run in another
folder, because the schedule of the learning rate ends with the run.

Read next: minilstm/config/presets/film.toml (the model), minilstm/experiments/film_page.py (the
page).
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import sys
import time
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np

from minilstm.backend import use_backend
from minilstm.command import Parser, at_least, run_command
from minilstm.config import Config, load
from minilstm.data.rng import Purpose, keyed_rng
from minilstm.errors import DataError, RunError, named, number_of, one_line, whole_number
from minilstm.experiments.film_page import Film, FilmPage, cut_squares, write_film_page
from minilstm.files import replacing, shell_word, write_file
from minilstm.runs.run_folder import RunFolder
from minilstm.streams import progress_bar
from minilstm.training import loop, pace

from .extract_patches import motion, resized, shots
from .options import add_numbers
from .resumable import as_they_are
from .video import frame_rate, read_frames

PLAN = "plan.json"
RATE = 10  # frames a second that a model sees, if the film is long enough
SIDE, SIZE = 48, 16  # the shorter side of the small film, and the side of a square, in pixels
LENGTH = 20  # frames of a sequence: the past and the future of presets/film.toml
SHARE = 8  # the test split is 1/8 of the times with motion, the validation split another 1/8
LEAST = 5  # length of the shortest shot that is accepted, in sequences end to end
MOST_FRAMES = 9000  # of a film: five minutes of 30 frames a second
SQUARES = {"train": (0, 6000), "validation": (9, 500), "test": (8, 500)}  # group, most squares
TRIED = 20_000  # squares whose motion is measured
FEW = 20  # a film with fewer squares in motion in one of the splits is refused
MOTION = 3.0  # grey levels: a square with less motion is not used, as in extract_patches.py
OTHER_SECONDS = 15  # of the command besides training steps: its start, checkpoints and the page


def small(frame: np.ndarray) -> np.ndarray:
    """Scale a frame, uint8 (height, width, 3), so that its shorter side has SIDE pixels."""
    height, width, _ = frame.shape
    scale = SIDE / min(height, width)
    return resized(frame, round(height * scale), round(width * scale))


def longest_shot(frames: Iterable[np.ndarray]) -> tuple[int, list[np.ndarray], int, int]:
    """Return the longest shot of frames, uint8 (height, width, 3).

    The values are: the number of its first frame, its frames, and the numbers of cuts and of frames
    in the film.
    """
    best, shot, start, cuts, total = (0, []), [], 0, -1, 0
    for item in shots(frames):
        if item is not None:
            number, frame = item
            start = start if shot else number
            shot.append(frame)
            total += 1
            continue
        cuts += 1
        if len(shot) > len(best[1]):
            best = start, shot
        shot = []
    return *best, cuts, total


def step_of(n: int, rate: float, T: int) -> int:
    """Return the distance between two frames of a sequence of T, in frames of the film.

    The film has n frames, `rate` a second. A sequence is at most an eighth as long as the film.
    """
    return max(1, min(round(rate / RATE), (n // SHARE - 1) // (T - 1)))


def moving_squares(film: np.ndarray, T: int, step: int, seed: int) -> np.ndarray:
    """Find squares in motion: int (M, 3), first frame, row and column, sorted by time.

    film uint8 (n, height, width, 3). A sequence has T frames, `step` apart. The motion of TRIED
    squares at random places and times is measured.
    """
    n, height, width, _ = film.shape
    rng = keyed_rng(Purpose.FILM_SQUARES, seed, 0)
    last = np.array([n - step * (T - 1), height - SIZE + 1, width - SIZE + 1])
    tried = np.unique(rng.integers(0, last, (TRIED, 3)), axis=0)  # also sorts them
    moves = [
        motion(cut_squares(film, tried[k : k + 500], T, step, SIZE))
        for k in range(0, len(tried), 500)
    ]
    return tried[np.concatenate(moves) >= MOTION]


def augmented(square: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Augment a square (T, SIZE, SIZE, 3): mirror, turn and reverse it, each at random."""
    backwards, upside_down, mirrored, turned = rng.integers(0, 2, 4)
    square = square[:: -1 if backwards else 1]
    square = square[:, :: -1 if upside_down else 1, :: -1 if mirrored else 1]
    return square.swapaxes(1, 2) if turned else square


def split_in_time(starts: np.ndarray, length: int) -> dict[str, np.ndarray]:
    """Return the sequences of each split: {split: mask, bool (M,)}.

    starts (M,) are the first frames of sequences of `length` frames. Of the different starts, the
    last eighth is the test split, and the eighth before it is the validation split. A sequence that
    reaches into the next split belongs to none.
    """
    times = np.unique(starts)
    held = -(-len(times) // SHARE)
    test = times[-held]
    before = times[times <= test - length]
    validation = before[-min(held, len(before) // 2) :][0] if len(before) > 1 else test
    return {
        "train": starts <= validation - length,
        "validation": (starts >= validation) & (starts <= test - length),
        "test": starts >= test,
    }


def cut_film(video: Path, seed: int, T: int) -> tuple[dict, dict]:
    """Read a film. Return the arrays of film.npz, and facts for the page.

    The arrays are: patches uint8 (N, T, SIZE, SIZE, 3), N squares of all splits; groups int (N,),
    as in SQUARES; places int (N, 3), as of `moving_squares`; film uint8 (n, height, width, 3).
    Raises VideoError, and DataError for a film that is too short or in which too little moves.
    """
    rate, remarks = frame_rate(video), []
    frames = islice(read_frames(video, remarks=remarks), MOST_FRAMES)
    frames = progress_bar(frames, desc="reading", unit="frame")
    start, shot, cuts, total = longest_shot(map(small, frames))
    for remark in remarks:
        print(remark, file=sys.stderr)
    n = len(shot)
    if n < LEAST * T:
        raise DataError(
            f"{video}: expected {LEAST * T} frames or more without a cut, got {n} (read: "
            f"{number_of(total, 'frame')} in {total / rate:.1f} seconds, {rate:.2g} a second, with "
            f"{number_of(cuts, 'cut') if cuts else 'no cut'}): use a film of one shot with more "
            "frames, such as 5 seconds at 25 frames a second"
        )
    film, step = np.stack(shot), step_of(n, rate, T)
    length = step * (T - 1) + 1
    places = moving_squares(film, T, step, seed)
    parts = split_in_time(places[:, 0], length) if len(places) else {}
    rng, chosen, groups = keyed_rng(Purpose.FILM_SQUARES, seed, 1), {}, []
    for name, (group, most) in SQUARES.items():
        found = np.flatnonzero(parts.get(name, []))
        if len(found) < FEW:
            raise DataError(
                f"{video}: expected squares in motion in every part of the film, got {len(found)} "
                f"for {name}: use a longer film, or one in which more moves"
            )
        order = rng.permutation(found)
        again = -(-most // len(order)) if name == "train" else 1  # each time augmented anew
        chosen[name] = places[np.tile(order, again)[:most]]
        groups += [group] * len(chosen[name])
    cut = {name: cut_squares(film, found, T, step, SIZE) for name, found in chosen.items()}
    cut["train"] = np.stack([augmented(square, rng) for square in cut["train"]])
    arrays = {
        "patches": np.concatenate(list(cut.values())),
        "groups": np.array(groups),
        "places": np.concatenate(list(chosen.values())),
        "film": film,
    }
    ends = {name: int(places[parts[name], 0].max()) + length for name in SQUARES}
    facts = {
        "rate": rate, "cuts": cuts, "start": start, "frames": n, "step": step, "ends": ends,
        "squares": {name: len(found) for name, found in chosen.items()},
        "test_from": int(places[parts["test"], 0].min()),
        "test": most_moving(places[parts["test"], 0], 2, length),
        "known": most_moving(places[parts["train"], 0], 1, length)[0],
    }  # fmt: skip
    return arrays, facts


def most_moving(starts: np.ndarray, count: int, length: int) -> list[int]:
    """Return the first frames of up to `count` sequences with the most squares in motion, sorted.

    starts (M,) are the first frames of squares in motion. A sequence has `length` frames. Two
    results are at least half a sequence apart.
    """
    times, moving = np.unique(starts, return_counts=True)
    around = np.convolve(moving, np.ones(5), "same")  # one time has few squares: a noisy count
    found = []
    while len(found) < count and around.max() > 0:
        found.append(int(times[around.argmax()]))
        around = np.where(abs(times - found[-1]) < length // 2, 0, around)
    return sorted(found)


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Lock the folder for this process alone. Make it; at the end remove it if it is empty.

    Raises RunError for a folder of something else, one that can't be written to, and one in which
    another process works.
    """
    try:
        there = [name for name in os.listdir(folder) if name[0] != "."]
    except FileNotFoundError:
        there = []
    except OSError as error:
        raise RunError(
            f"{folder}: expected a folder to write to, got {one_line(error)}: choose another --out"
        ) from error
    if there and PLAN not in there:
        raise RunError(
            f"{folder}: expected a new folder, or one of this command, got another: choose "
            "another --out"
        )
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    with RunFolder(folder).claim():
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                if set(os.listdir(folder)) <= {".lock"}:
                    (folder / ".lock").unlink(missing_ok=True)
                    for path in made:
                        path.rmdir()


class Plan:
    """The file plan.json of a folder: settings, facts of the film, and the number of steps."""

    def __init__(self, folder: Path, settings: dict):
        """Read the plan of an earlier command with the same settings, or begin one with these.

        Raises RunError for other settings, with the command for a new folder, and for a file that
        is damaged.
        """
        self.file, self.known = folder / PLAN, settings
        if not self.file.exists():
            return
        with self.reading():
            self.known = dict(json.loads(self.file.read_text("utf-8")))
            other = [name for name in settings if self.known[name] != settings[name]]
        if other:
            name = other[0]
            was, given = in_words(self.known[name]), in_words(settings[name])
            (video, _), minutes, seed = settings.values()
            new = beside(folder, "other" if name == "video" else f"{given}-{name}")
            raise RunError(
                f"{folder}: expected the {name} that it was begun with ({was}), got {given}: "
                f"begin a new run with {command_of(video, minutes, seed, new)}"
            )

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """Turn errors that a damaged plan causes inside into a RunError of one line."""
        try:
            yield
        except (OSError, ValueError, TypeError, LookupError) as error:
            raise RunError(
                f"{self.file}: expected what this command wrote, got {named(error)}: choose "
                "another --out"
            ) from error

    def write(self, **more) -> None:
        """Add facts to the file."""
        self.known |= more
        write_file(self.file, json.dumps(self.known, indent=1))


def config_of(folder: Path, plan: Plan, started: float) -> Config:
    """Return the settings of the run. The number of steps comes from plan.json.

    The first call times a few steps and enters the number. `started` is the value of
    time.monotonic(), in seconds, at which the command began.
    """
    path = str((folder / "film.npz").resolve())
    config = load(["film"], overrides={"data": {"path": path}, "run": {"seed": plan.known["seed"]}})
    if "steps" not in plan.known and not RunFolder(folder / "run").config.exists():
        each = pace.seconds_per_step(config)
        left = 60 * plan.known["minutes"] - (time.monotonic() - started) - OTHER_SECONDS
        plan.write(seconds_per_step=each, steps=max(1, int(left / each)))
    with plan.reading():
        steps = whole_number("steps", plan.known["steps"], 1)
    config = pace.with_steps(config, steps)
    every = {"log_every": 50, "validate_every": 10, "checkpoint_every": 10}  # times in a run
    every = {name: max(1, steps // times) for name, times in every.items()}
    return dataclasses.replace(config, run=dataclasses.replace(config.run, **every))


def learn(video: Path, folder: Path, minutes: float, seed: int) -> FilmPage:
    """Cut the film, train, and write the page. Skip stages that are done. Return the page.

    Raises RunError for a folder of another film or other settings, or in which another process
    works, VideoError and DataError for a film that can't be learned, and Interrupted after a stop
    signal.
    """
    started = time.monotonic()
    with alone_in(folder):
        plan = Plan(folder, {"video": as_they_are([video])[0], "minutes": minutes, "seed": seed})
        if "film" not in plan.known:
            arrays, facts = cut_film(video, seed, LENGTH)
            plan.write()
            with replacing(folder / "film.npz") as temporary, open(temporary, "wb") as file:
                np.savez(file, **arrays)
            plan.write(film=facts)
        film = film_of(folder, plan)
        print("\n".join(film.told), flush=True)
        config, run = config_of(folder, plan, started), folder / "run"
        steps = number_of(config.run.steps, "step", ",")
        print(f"{steps}, so that the command ends after about {minutes:g} min\n", flush=True)
        resumes, same = RunFolder(run).config.exists(), command_of(video, minutes, seed, folder)
        with use_backend(config.run.backend, config.run.precision):
            loop.train(config, run, resume=resumes, go_on=same)
        return write_film_page(run, folder, film, what_next(video, folder, minutes, seed))


def film_of(folder: Path, plan: Plan) -> Film:
    """Return the small film of a folder, with sentences about it.

    Raises DataError if film.npz can't be read, RunError if plan.json lacks a fact.
    """
    path = folder / "film.npz"
    try:
        with np.load(path, allow_pickle=False) as arrays:
            frames = arrays["film"]
    except Exception as error:  # a damaged zip fails in many ways
        raise DataError(
            f"{path}: expected what this command wrote, got {named(error)}: remove {folder}, and "
            "start again"
        ) from error
    with plan.reading():
        return _described(Path(plan.known["video"][0]).name, frames, plan.known["film"])


def _described(name, frames, facts):
    """Return the small film with sentences about it. `facts` are those of `cut_film`."""
    rate, step, cuts = facts["rate"], facts["step"], facts["cuts"]
    ends, count = facts["ends"], facts["squares"]
    n, height, width, _ = frames.shape
    past = load(["film"]).data.past
    longest = ""
    if cuts:
        longest = f": the longest of {cuts + 1} shots, from {facts['start'] / rate:.1f} s on"
    told = [
        f"The film: {n} frames in {n / rate:.1f} seconds, scaled to {width}x{height} pixels"
        f"{longest}.",
        f"Training: {count['train']:,} squares of {SIZE}x{SIZE} pixels from the first "
        f"{ends['train'] / rate:.1f} seconds. Something moves in each. They are mirrored, turned "
        "and reversed in time at random.",
        f"Test: {count['test']:,} such squares from the end, {facts['test_from'] / rate:.1f} to "
        f"{ends['test'] / rate:.1f} s, unchanged. Between the two are "
        f"{count['validation']:,} squares for validation.",
        f"The model sees {past} frames of a square and predicts the next {LENGTH - past}. There is "
        f"one frame every {step / rate:.2g} seconds.",
    ]
    return Film(
        name, frames, step, step / rate,
        ends["train"], facts["test"], facts["known"], told,
    )  # fmt: skip


def default_folder(video: Path) -> Path:
    """Return the folder that the command fills if no other is asked for."""
    return Path(f"runs/film-{video.stem}")


def beside(folder: Path, ending: str) -> Path:
    """Return the folder for another run on the same film, named by what differs."""
    first = re.sub(r"-[\d.]+-minutes$", "", folder.name)
    return folder.with_name(f"{first}-{ending}")


def in_words(value: float | list) -> str:
    """Return a setting of plan.json in words: a number, or [path, fingerprint] of a film."""
    if isinstance(value, list):
        return re.sub("(sha256 .{8}).*", r"\1...", " of ".join(map(str, value)))
    return str(value).removesuffix(".0")


def command_of(video: str | Path, minutes: float, seed: int, folder: Path) -> str:
    """Return the whole command for these settings, to be pasted."""
    words = [f"python -m data_tools.learn_video {shell_word(video)}"]
    words.append(f"--minutes {in_words(minutes)}")
    if seed:
        words.append(f"--seed {seed}")
    if folder != default_folder(Path(video)):
        words.append(f"--out {shell_word(folder)}")
    return " ".join(words)


def what_next(video: Path, folder: Path, minutes: float, seed: int) -> dict[str, str]:
    """Return the commands to type next: {command: why}."""
    run, film, larger = (shell_word(folder / name) for name in ("run", "film.npz", "larger"))
    minutes = float(f"{3 * minutes:.3g}")
    longer = command_of(video, minutes, seed, beside(folder, f"{in_words(minutes)}-minutes"))
    train = f"python -m minilstm.train film --path {film}"
    return {
        longer: "train a new model for three times as long",
        f"{train} --hidden 512 --out {larger}": "train a larger model on the same squares",
        f"python -m minilstm.evaluate {run}": "print the table of losses again",
        f"python -m minilstm.report {run}": "see everything about the run on one page",
        f"python -m data_tools.inspect_file {film} --sheet sheet.png": "see some squares",
    }


def main(arguments: list[str] | None = None) -> int:
    parser = Parser(
        prog="python -m data_tools.learn_video",
        description="Train a model on a film of your own, and write a page that shows what the "
        "model predicts of a part that it has never seen. Needs the extra [video].",
    )
    parser.add_argument("video", metavar="VIDEO", help="a film of 100 frames or more "
                        "(4 seconds at 25 frames a second), best of one shot of 10 seconds to 5 "
                        "minutes")  # fmt: skip
    parser.add_argument(
        "--minutes", type=at_least(float, 0.01), default=10.0, metavar="M",
        help="time for the whole command (default: 10)",
    )  # fmt: skip
    parser.add_argument(
        "--out", metavar="DIR", help="folder for all files (default: runs/film-VIDEO)"
    )
    add_numbers(parser, ("--seed", 0, 0, "seed of the choice of squares and of the training"))
    options = parser.parse_args(arguments)
    video = Path(options.video)
    folder = Path(options.out or default_folder(video))
    page = learn(video, folder, options.minutes, options.seed)
    print("\n" + page.table)
    print(f"page      {page.path.resolve()}")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
