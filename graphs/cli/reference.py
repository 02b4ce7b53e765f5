"""The reference of the command line, made from the commands themselves: ``python -m graphs.cli.reference``."""

from __future__ import annotations

import inspect
from pathlib import Path

import click

from graphs.cli.main import cli

_HEAD = """# Command line

Written by `python -m graphs.cli.reference`; do not edit. `graphs COMMAND --help` prints the same.
Exit codes: 0 done; 1 a check failed (`validate --compare`); 2 a mistake in what was asked, with a line that says what
to do; 3 and 4 what `measure --check` found.
"""


def reference() -> str:
    """Return the reference as Markdown, one section a command."""
    context = click.Context(cli, info_name="graphs")
    parts = [_HEAD]
    for name in cli.list_commands(context):
        command = cli.get_command(context, name)
        assert command is not None
        parts.append(_section(name, command, context))
    return "\n".join(parts)


def _section(name: str, command: click.Command, parent: click.Context) -> str:
    context = click.Context(command, info_name=name, parent=parent)
    usage = " ".join(command.collect_usage_pieces(context))
    text = inspect.cleandoc(command.help or command.short_help or "")
    lines = [f"## graphs {name}", "", f"`graphs {name} {usage}`", "", text, ""]
    lines += ["| option | what it does |", "|---|---|"]
    for p in command.get_params(context):
        record = p.get_help_record(context)
        if record is not None and "--help" not in p.opts:
            option, meaning = (" ".join(part.split()).replace("|", "\\|") for part in record)
            lines.append(f"| `{option}` | {meaning} |")
    return "\n".join(lines) + "\n"


@click.command()
@click.option("--check", is_flag=True, help="fail if docs/cli.md is not what the commands say")
def main(check: bool) -> None:
    """Write docs/cli.md."""
    path = Path(__file__).resolve().parents[2] / "docs" / "cli.md"
    text = reference()
    if check:
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            raise SystemExit("docs/cli.md is not what the commands say; run `python -m graphs.cli.reference`")
        return
    path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
