"""Entry point: sub-commands are found through the entry-point group ``graphs.commands``."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from typing import Any

import click

import graphs
from graphs.errors import GraphsError, MissingExtraError

GROUP = "graphs.commands"
#: What an optional dependency is installed with.
_EXTRAS = {"training": "training", "sklearn": "training", "pandas": "training", "pyarrow": "training",
           "joblib": "training", "threadpoolctl": "training", "scipy": "training", "torch": "trace",
           "jinja2": "report"}  # fmt: skip


class Commands(click.Group):
    """A group that loads a sub-command only when it is asked for."""

    @staticmethod
    def _entries() -> dict[str, EntryPoint]:
        return {e.name: e for e in sorted(entry_points(group=GROUP), key=lambda e: e.name)}

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self._entries())

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        entry = self._entries().get(name)
        if entry is None:
            return None
        try:
            command = entry.load()
        except ModuleNotFoundError as error:
            package = (error.name or "").split(".")[0]
            if package not in _EXTRAS:
                raise
            return _missing(name, package, _EXTRAS[package])
        assert isinstance(command, click.Command)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except GraphsError as error:
            click.echo(f"Error: {error}", err=True)
            ctx.exit(2)
        except ModuleNotFoundError as error:
            package = (error.name or "").split(".")[0]
            if package not in _EXTRAS:
                raise
            click.echo(f"Error: {_missing_error(package, _EXTRAS[package])}", err=True)
            ctx.exit(2)


def _missing_error(package: str, extra: str) -> MissingExtraError:
    return MissingExtraError(
        f"this needs the package '{package}', which is not installed",
        next_step=f"install it with `pip install 'graphs[{extra}]'`",
    )


def _missing(name: str, package: str, extra: str) -> click.Command:
    """Return a command that says which extra to install (its help does too)."""
    error = _missing_error(package, extra)

    def fail(**_: Any) -> None:
        raise error

    return click.Command(
        name,
        callback=fail,
        params=[click.Argument(["args"], nargs=-1, type=click.UNPROCESSED)],
        help=f"Not available: {error}",
        short_help=f"(needs the extra '{extra}')",
        context_settings={"ignore_unknown_options": True},
    )


@click.command(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(graphs.__version__, prog_name="graphs")
def cli() -> None:
    """How long deep-learning operators and models take on hardware you may not have."""


def main() -> None:
    """Run the command line."""
    cli(prog_name="graphs")


if __name__ == "__main__":
    main()
