"""The log of a run in TensorBoard's format, written by TensorBoard's own library.

The library is the extra [tensorboard], and only this file imports it, when it is asked for. It
reads the run's metrics.jsonl, so training neither needs it nor waits for it.

Read next: ../runs/run_folder.py, which describes the log.
"""

from __future__ import annotations

from pathlib import Path

from ..errors import ConfigError, RunError, one_line
from ..files import make_folder
from ..runs.build import read_config
from ..runs.run_folder import RunFolder
from ..training.step import OF_ARRAY

FILES = "events.out.tfevents.*"  # the library's names


class TensorBoardLog:
    """The folder RUN/tensorboard, to which `update` adds the rows that are new in the log.

    Raises ConfigError if the library is not installed, RunError if the folder can't be written.
    """

    def __init__(self, folder: RunFolder):
        read_config(folder.path)  # refuse what is no run before anything is made there
        self.path = make_folder(folder.path / "tensorboard")
        self._folder = folder
        self._start()

    def _start(self):
        """Remove what an earlier report wrote, and begin with the first row."""
        try:
            from tensorboard.summary import Writer
        except ImportError as error:
            raise ConfigError(
                f"expected TensorBoard's library for --tensorboard, got {one_line(error)}: install "
                "the extra, pip install -e '.[tensorboard]', or leave --tensorboard out"
            ) from error
        try:
            for path in self.path.glob(FILES):
                path.unlink()
            self._writer, self._written = Writer(str(self.path)), 0
        except OSError as error:
            raise RunError(
                f"{self.path}: expected a folder that can be written, got {one_line(error)}: is "
                "there room?"
            ) from error

    def update(self) -> Path:
        """Write the rows that are new, and wait until they are in the file. Returns the folder."""
        rows = self._folder.rows() if self._folder.log.exists() else []
        if len(rows) < self._written:  # the run went back to an earlier step
            self._writer.close()
            self._start()
        for row in rows[self._written :]:
            for name, value in row.items():
                if name not in ("step", "seconds"):
                    self._writer.add_scalar(tag(name), value, row["step"])
        self._written = len(rows)
        self._writer.flush()
        return self.path

    def close(self) -> None:
        """Close the file."""
        self._writer.close()


def tag(name: str) -> str:
    """Return the name of a column as TensorBoard groups it: "validation/future"."""
    if name.startswith(OF_ARRAY):
        return f"gradient norm/{name.removeprefix(OF_ARRAY)}"
    if name.startswith("validation "):
        return f"validation/{name.removeprefix('validation ')}"
    return f"training/{name.replace('_', ' ')}"
