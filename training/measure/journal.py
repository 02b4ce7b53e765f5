"""A run's folder while it is being measured: one writer, rows appended one by one, nothing lost by a kill.

``run.json`` (what is measured, on what) and ``plan.jsonl`` are written once, in one step each.  ``rows.jsonl`` grows by
one line a row, on the disk before the next row begins.  A line that a kill cut short is dropped at the next start.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from training.measure.errors import BusyFolderError, RunFolderError
from training.measure.plan import Entry

#: Raise it when an old reader would misread a new folder; a run is then finished by the version that began it.
#: 2: entries that name kernels, models in several modes.  A run of version 1 has none of either, and goes on here.
SCHEMA_VERSION, READABLE = 2, (1, 2)
RUN, PLAN, ROWS, LOCK = "run.json", "plan.jsonl", "rows.jsonl", ".lock"


class Journal:
    """The files of one run.  Use within ``with only_writer(folder)``."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)

    def exists(self) -> bool:
        """Whether a run was begun here."""
        return (self.folder / RUN).is_file()

    def begin(self, about: Mapping[str, Any], plan: Sequence[Entry]) -> None:
        """Write what will be measured.  ``run.json`` comes last: without it there is no run.

        Raises
        ------
        RunFolderError
            If a run was begun here already.
        """
        if self.exists():
            raise RunFolderError(
                f"folder '{self.folder}' holds a run",
                next_step="continue it with --resume, or name another folder",
            )
        (self.folder / ROWS).unlink(missing_ok=True)
        write_whole(self.folder / PLAN, "".join(e.to_json() + "\n" for e in plan))
        write_whole(self.folder / RUN, json.dumps({"schema_version": SCHEMA_VERSION, **about}, indent=1) + "\n")

    def about(self) -> dict[str, Any]:
        """Return what ``run.json`` holds.

        Raises
        ------
        RunFolderError
            If there is no run, or one of another version.
        """
        try:
            about = json.loads((self.folder / RUN).read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise RunFolderError(f"folder '{self.folder}' holds no run", next_step="leave out --resume") from error
        except (OSError, ValueError) as error:
            raise RunFolderError(
                f"the run in '{self.folder}' cannot be read ({error})", next_step="name another folder"
            ) from error
        if about.get("schema_version") not in READABLE:
            raise RunFolderError(
                f"the run in '{self.folder}' has another schema version",
                received=about.get("schema_version"),
                allowed=" or ".join(map(str, READABLE)),
                next_step="finish it with the version of graphs that began it",
            )
        return dict(about)

    def plan(self) -> list[Entry]:
        """Return the plan."""
        lines = (self.folder / PLAN).read_text(encoding="utf-8").splitlines()
        return [Entry.from_json(line) for line in lines]

    def rows(self) -> list[dict[str, Any]]:
        """Return the finished rows, and cut off what a kill left of an unfinished line.

        Raises
        ------
        RunFolderError
            If another line than the last cannot be read: no kill does that.
        """
        path = self.folder / ROWS
        if not path.is_file():
            return []
        rows: list[dict[str, Any]] = []
        good = 0
        data = path.read_bytes()
        lines = data.splitlines(keepends=True)
        for number, line in enumerate(lines, 1):
            row = _read_line(line)
            if row is None and number < len(lines):
                raise RunFolderError(
                    f"line {number} of '{path}' cannot be read", received=line[:60].decode(errors="replace"),
                    next_step="remove that line, and its row is measured again; or start a new folder",
                )  # fmt: skip
            if row is None:
                break
            rows.append(row)
            good += len(line)
        if good < len(data):
            with path.open("r+b") as file:
                file.truncate(good)
                os.fsync(file.fileno())
        return rows

    @contextmanager
    def appending(self) -> Iterator[_Appender]:
        """Yield a function that puts one row on the disk."""
        with (self.folder / ROWS).open("ab", buffering=0) as file:
            yield _Appender(file.fileno())


def _read_line(line: bytes) -> dict[str, Any] | None:
    """Return the row of a finished line, None for any other."""
    if not line.endswith(b"\n"):
        return None
    try:
        return dict(json.loads(line))
    except (ValueError, TypeError):
        return None


class _Appender:
    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def __call__(self, row: Mapping[str, Any]) -> None:
        data = (json.dumps(row, sort_keys=True, separators=(",", ":")) + "\n").encode()
        while data:  # a full disk takes a part, and refuses the rest
            data = data[os.write(self.descriptor, data) :]
        os.fsync(self.descriptor)


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Hold the folder's lock, which the system drops when the process ends, however it ends.

    Raises
    ------
    BusyFolderError
        If another process holds it.
    RunFolderError
        If it is no folder that can be written into.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        opened = (folder / LOCK).open("a+")
    except OSError as error:
        raise RunFolderError(
            f"the folder of a run cannot be written ({error.strerror or error})", received=str(folder),
            allowed="a folder, new or there, that can be written into", next_step="name another folder with --out",
        ) from error  # fmt: skip
    with opened as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            raise BusyFolderError(
                f"another run writes into '{folder}'",
                received=f"process {file.read().strip() or 'unknown'}",
                next_step="wait for it, or name another folder with --out",
            ) from error
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def write_whole(path: Path, text: str) -> None:
    """Write a file in one step: it is there whole, or not at all."""
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
