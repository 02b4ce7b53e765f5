"""`graphs detect`: this machine, and the profile and fitted model that match it."""

from __future__ import annotations

import json
from dataclasses import asdict

import click

from graphs.hardware.detect import MEASURE_COMMAND, DetectedHardware, detect_hardware


@click.command()
@click.option("--json", "as_json", is_flag=True, help="print JSON")
def detect(as_json: bool) -> None:
    """Name this machine's devices, and the profile and fitted model of each."""
    found = detect_hardware()
    if as_json:
        click.echo(json.dumps([asdict(d) for d in found], indent=2))
        return
    for device in found:
        click.echo(_line(device))
        for warning in device.warnings:
            click.echo(f"  warning: {warning}")
    if not any(d.model for d in found):
        click.echo(f"No fitted model matches: {MEASURE_COMMAND}.")


def _line(device: DetectedHardware) -> str:
    if device.hardware is None:
        return f"{device.kind}: {device.name}: no profile"
    model = f"fitted model {device.model}" if device.model else "no fitted model (the 20 % default answers)"
    return f"{device.kind}: {device.name}: {device.hardware}, {model}"
