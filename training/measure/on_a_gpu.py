"""All there is to do on a GPU at hand, in one command: ``python -m training.measure.on_a_gpu --out DIR``.

Needs no installation of this project, only torch for CUDA and the extra `training`.  Tests the CUDA path on the real
device, measures for the budget, starts again where a call has left the device unusable, and says how far the rows are
from those committed for this hardware.  Called again with the same folder it goes on.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import click

from training.measure.journal import ROWS, RUN

#: The command of `graphs measure`, without its entry point.
_MEASURE = "from training.measure.cli import measure; measure()"
_TESTS = "tests/training/test_measure_gpu.py"
#: Starts that may follow one another without a single new row.
_IDLE_STARTS = 2


def rows_in(folder: Path) -> int:
    """Return how many rows a run has finished."""
    path = folder / ROWS
    return path.read_bytes().count(b"\n") if path.is_file() else 0


def measured(folder: Path, arguments: tuple[str, ...], python: tuple[str, ...] = (sys.executable,)) -> int:
    """Measure into a folder until the run ends well, each start in a process of its own; return the starts it took.

    A GPU that answers nothing any more answers a new process.

    Raises
    ------
    click.ClickException
        If starts bring no rows any more.
    """
    starts = idle = 0
    while True:
        before = rows_in(folder)
        resume = ("--resume",) if (folder / RUN).is_file() else ()
        done = subprocess.run([*python, "-c", _MEASURE, "--device", "cuda", "--out", str(folder), *resume, *arguments])
        starts += 1
        if done.returncode == 0:
            return starts
        idle = idle + 1 if rows_in(folder) == before else 0
        if idle >= _IDLE_STARTS:
            raise click.ClickException(f"the run in '{folder}' makes no progress; see what it said above")


@click.command()
@click.option("--out", type=click.Path(path_type=Path), required=True, help="folder of the run")
@click.option("--budget", default="20m", show_default=True, help="time for measuring, of all starts together")
@click.option("--skip-tests", is_flag=True, help="do not test the CUDA path first")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def main(out: Path, budget: str, skip_tests: bool, arguments: tuple[str, ...]) -> None:
    """Test and measure.  ARGUMENTS go to `graphs measure` (after ``--``)."""
    started = time.monotonic()
    if not skip_tests:
        tests = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-m", "gpu", "-q", "-rfE", _TESTS]
        if subprocess.run(tests).returncode:
            click.echo("the CUDA path fails its tests here (above); what is measured next is to be judged by them")
    starts = measured(out, ("--budget", budget, *arguments))
    click.echo(f"{rows_in(out)} rows in {starts} starts, {(time.monotonic() - started) / 60:.0f} min")


if __name__ == "__main__":
    main()
