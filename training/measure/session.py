"""One measuring run from the request to the data set: device, ceilings, plan, rows, tables, profile."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graphs.errors import DtypeError, GraphsError, UnknownHardwareError
from graphs.hardware.detect import DetectedHardware, cpu_identity, detect_hardware
from graphs.hardware.profile import load_profile
from training.dataset.store import read_manifest, read_ops
from training.measure import extend, networks
from training.measure.active import fitted, most_telling
from training.measure.ceilings import measure_ceilings
from training.measure.environment import differences, fingerprint, record
from training.measure.errors import RunFolderError
from training.measure.finish import finish, write_profile
from training.measure.journal import Journal, only_writer, write_whole
from training.measure.plan import DTYPE_WEIGHTS, Entry, Limits, config_key, make_plan
from training.measure.runner import run

Report = Callable[[str], None]
#: What a row takes on average, seconds: samples, warm timing, buffers.  Sizes the plan; the clock keeps the budget.
_ROW_S = {"cpu": 0.25, "gpu": 0.12}
DEFAULT_DTYPES = {"cpu": ("fp32", "bf16", "fp16"), "gpu": ("fp32", "tf32", "bf16", "fp16")}


@dataclass(frozen=True, slots=True)
class Request:
    """What a user asks `graphs measure` for.

    Attributes
    ----------
    hardware : str
        Id, or ``auto``.
    out : Path
    budget_s : float
        Seconds of measuring, without the ceilings (about 10 s).
    resume : bool
    models : tuple of str
        Networks whose operators are measured first, all of them.
    whole : bool
        Whether to time forward passes of whole networks, at most 40 % of the budget.
    threads : int or None
    rows : int or None
        Exact number of configurations, instead of as many as the budget allows.
    dtypes, batches : tuples
        Empty `dtypes`: those that the device runs without emulation.
    only_models : bool
        Nothing but the operators of `models`.
    like : str or None
        Hardware whose fitted model chooses the configurations.
    kinds : tuple of str
        Operator kinds; all if empty.
    extends : Path or None
        Data set of this hardware: a sample of it is timed again, then what it is short of.
    """

    hardware: str
    out: Path
    budget_s: float
    resume: bool = False
    models: tuple[str, ...] = ()
    whole: bool = False
    threads: int | None = None
    rows: int | None = None
    seed: int = 0
    dtypes: tuple[str, ...] = ()
    batches: tuple[int, ...] = (1, 8)
    only_models: bool = False
    like: str | None = None
    device: str | None = None
    note: str = ""
    kinds: tuple[str, ...] = ()
    extends: Path | None = None


def measure(request: Request, report: Report = lambda _: None) -> dict[str, Any]:
    """Measure, and write the data set and the profile into ``request.out``; return a summary.

    Raises
    ------
    BusyFolderError, RunFolderError, UnknownHardwareError, DtypeError, DataError, DeviceLostError
    """
    journal = Journal(request.out)
    if request.resume:
        journal.about()  # a folder without a run is refused before anything is made in it
    with only_writer(request.out):
        if request.resume:
            about = journal.about()
            kind = about["environment"]["kind"]
        elif journal.exists():
            raise RunFolderError(f"folder '{request.out}' holds a run",
                                 next_step="continue it with --resume, or name another folder")  # fmt: skip
        else:
            kind, hardware = chosen_hardware(request.hardware, request.device)
        # A resumed run goes on with the threads it began with.
        begun_with = about["environment"]["threads"] if request.resume else None
        environment = prepared(kind, request.threads or begun_with)
        if request.resume:
            hardware = about["hardware"]
            check_same(about, environment, request)
        else:
            about = _begin(journal, request, hardware, environment, report)
        report(f"measuring {hardware}: {environment['device']}, {environment['threads']} threads,"
               f" {len(journal.plan())} entries planned, budget {request.budget_s / 60:.1f} min")  # fmt: skip
        rows = run(request.out, timers(kind, environment), None if request.rows else request.budget_s, report)
        summary = finish(request.out, rows)
        profile = write_profile(request.out, hardware, about["environment"], about["ceilings"])
        if about.get("extends"):
            summary["agreement"] = _agreement(Path(about["extends"]), request.out)
    return {"hardware": hardware, "out": str(request.out), "profile": str(profile), **summary}


def _agreement(old: Path, new: Path) -> dict[str, Any]:
    """Compare a run with the data set it extends, and write down the outcome."""
    found = extend.agreement(*(read_ops(folder / "ops.parquet").frame for folder in (old, new)))
    write_whole(new / extend.AGREEMENT, json.dumps(found | {"with": str(old)}, indent=1) + "\n")
    return found


def chosen_hardware(asked: str, device: str | None) -> tuple[str, str]:
    """Return the kind of device to measure and its hardware id.

    A known id must be a device of this machine; an unknown one is a new name for the GPU, or the CPU if there is none.

    Raises
    ------
    UnknownHardwareError
        For the id of hardware that this machine is not, and a kind of device that the system does not tell of.
    """
    import torch

    found = detect_hardware()
    reached = torch.cuda.is_available()
    default = device or ("gpu" if reached else "cpu")
    if reached:
        found = _as_reached(found, torch.cuda.get_device_name(0))
    if asked == "auto":
        own = next((d for d in found if d.kind == default), None)
        if own is None:
            raise UnknownHardwareError(f"the system tells of no {default}", received=asked,
                                       allowed=", ".join(f"{d.kind}: {d.name}" for d in found),
                                       next_step="give --device cpu, or a name for it with --hardware")  # fmt: skip
        return own.kind, own.hardware or new_id(own.name, own.kind)
    for d in found:
        if asked == d.hardware:
            return d.kind, asked
    try:
        known = load_profile(asked)
    except UnknownHardwareError:
        if not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", asked):
            raise UnknownHardwareError("a hardware id is made of small letters, digits and dashes", received=asked,
                                       next_step="choose such a name") from None  # fmt: skip
        return default, asked
    raise UnknownHardwareError(
        f"this machine is not '{known.id}'", received=asked,
        allowed=", ".join(f"{d.name} ({d.hardware or 'no profile'})" for d in found),
        next_step="give --hardware auto, or a new name for this machine",
    )  # fmt: skip


def _as_reached(found: list[DetectedHardware], name: str) -> list[DetectedHardware]:
    """Return the devices with one GPU only: the one torch runs on, which need not be the system's first.

    A slice of a GPU has a name of its own, and so no profile; in a container the system may tell of no GPU at all.
    """
    own = next((d for d in found if d.kind == "gpu" and d.name == name), DetectedHardware("gpu", name, None))
    return [own, *(d for d in found if d.kind != "gpu")]


def new_id(name: str, kind: str) -> str:
    """Return a hardware id made of a device's name.

    >>> new_id("NVIDIA GeForce RTX 4090", "gpu")
    'nvidia-geforce-rtx-4090'
    """
    text = re.sub(r"\((r|tm)\)|processor|cpu|@.*", " ", name.lower())
    slug = re.sub(r"[^a-z0-9]+", "-", text).strip("-") or "machine"
    return slug if kind == "gpu" else f"{slug}-{cpu_identity()['cores']}c"


def prepared(kind: str, threads: int | None) -> dict[str, Any]:
    """Set the threads and return the environment's record.

    Raises
    ------
    UnknownHardwareError
        If the framework cannot reach a GPU that is to be measured.
    """
    import torch

    if kind == "gpu" and not torch.cuda.is_available():
        raise UnknownHardwareError(f"torch {torch.__version__} reaches no CUDA device here",
                                   next_step="install a build of torch for CUDA, or give --device cpu")  # fmt: skip
    if threads is not None:
        torch.set_num_threads(threads)
    return record(kind)


def check_same(about: dict[str, Any], environment: dict[str, Any], request: Request) -> None:
    """Raise `RunFolderError` if a run cannot go on here: another machine, software, or number of threads."""
    if fingerprint(environment) != about["fingerprint"]:
        raise RunFolderError(
            f"the run in '{request.out}' was begun on another machine or with other software",
            received="; ".join(differences(environment, about["environment"])) + " (here / there)",
            next_step="continue it there, or start a new folder: rows of different fingerprints are not pooled",
        )
    if request.hardware not in ("auto", about["hardware"]):
        raise RunFolderError(f"the run in '{request.out}' is of other hardware", received=request.hardware,
                             allowed=about["hardware"], next_step="name another folder")  # fmt: skip


def _begin(
    journal: Journal, request: Request, hardware: str, environment: dict[str, Any], report: Report
) -> dict[str, Any]:
    kind = environment["kind"]
    if unknown := sorted(set(request.dtypes) - set(DTYPE_WEIGHTS)):
        raise DtypeError("there is nothing to measure in these dtypes", received=", ".join(unknown),
                         allowed=", ".join(DTYPE_WEIGHTS), next_step="choose from these")  # fmt: skip
    # What a plan needs is checked before anything takes time.
    networks.check_names(request.models)
    if request.only_models and not request.models:
        raise GraphsError("--only-models has no networks to measure", next_step="name them with --models")
    if request.like is not None:
        fitted(request.like)
    if request.extends is not None and (of := read_manifest(request.extends)["hardware"]) != hardware:
        raise RunFolderError(f"the data in '{request.extends}' are of other hardware", received=hardware, allowed=of,
                             next_step="extend the data of this machine, or leave out --extend")  # fmt: skip
    report("measuring sustained peaks and bandwidth")
    found = measure_ceilings("cuda" if kind == "gpu" else "cpu", request.dtypes or DEFAULT_DTYPES[kind])
    for dtype, reason in found["left_out"].items():
        report(f"  {dtype} is left out: {reason}")
    for dtype, rate in found["peak_flops_per_s"].items():
        report(f"  {dtype}: {rate / 1e9:.4g} GFLOP/s sustained")
    report(f"  bandwidth: {found['bandwidth_bytes_per_s'] / 1e9:.4g} GB/s sustained")
    about = {
        "hardware": hardware, "environment": environment, "fingerprint": fingerprint(environment), "ceilings": found,
        "seed": request.seed, "models": list(request.models), "like": request.like,
        "extends": str(request.extends) if request.extends is not None else None,
        "note": request.note or "Steady state over rotating buffer sets; warm_us: one set; see docs/measuring.md",
    }  # fmt: skip
    journal.begin(about, planned(request, limits_of(request.budget_s, environment, found), kind, report))
    return journal.about()


def limits_of(budget_s: float, environment: dict[str, Any], found: dict[str, Any]) -> Limits:
    """Return the limits of a plan: on small machines and budgets, smaller shapes."""
    memory = environment["memory_bytes"] or 4e9
    return Limits(
        peaks=found["peak_flops_per_s"],
        bandwidth_bytes_per_s=found["bandwidth_bytes_per_s"],
        cache_bytes=max(environment["cache_bytes"].values(), default=1e6),
        max_call_s=min(max(budget_s / 6000, 0.02), 0.4) if environment["kind"] == "cpu" else 0.05,
        max_bytes=min(memory / 16, 4e9 if environment["kind"] == "gpu" else 1e9),
    )


def planned(request: Request, limits: Limits, kind: str, report: Report) -> list[Entry]:
    """Return the plan of a request."""
    dtypes = tuple(limits.peaks)
    models: list[tuple[str, int, str, float]] = []
    if request.whole:
        most = 0.4 * request.budget_s
        own = tuple(d for d in dtypes if d in ("fp32", "bf16")) or dtypes
        for m in networks.whole_models(limits, own, request.batches):
            cost = 10 * m[3] + 1.0
            if cost <= min(most, 25.0):
                models.append(m)
                most -= cost
        report(f"  {len(models)} whole models")
    asked = networks.operators_of(request.models, dtypes, request.batches) if request.models else []
    if request.extends is not None:
        old = read_ops(request.extends / "ops.parquet").frame
        asked = [*extend.asked(old, limits, request.seed), *asked]
    wanted = {config_key(*row) for row in asked}
    # Twice as many as expected to fit: the order is such that any prefix is balanced.
    rows = 0 if request.only_models else request.rows or int(2 * request.budget_s / _ROW_S[kind])
    if request.like is not None and rows:
        shapes = networks.layer_shapes(dtypes, request.batches)
        drawn = make_plan(limits, min(4 * rows, 8000), request.seed, shapes, (), (), request.kinds or None)
        asked = [*asked, *most_telling(drawn, request.like, rows)]
        rows, shapes = 0, {}
        report(f"  {len(asked)} operators chosen where the model of {request.like} is least sure")
    else:
        shapes = networks.layer_shapes(dtypes, request.batches) if rows else {}
    plan = make_plan(limits, rows, request.seed, shapes, asked, models, request.kinds or None)
    if missing := wanted - {e.key for e in plan}:
        report(f"  {len(missing)} of {len(wanted)} operators of the networks are left out: they take too long or too"
               " much memory for this machine and budget, or their dtype is not measured")  # fmt: skip
    return plan


def timers(kind: str, environment: dict[str, Any]) -> dict[str, Any]:
    """Return the timers of a device, by what is timed."""
    from training.measure.whole import ModelTimer

    cache = max(environment["cache_bytes"].values(), default=1e6)
    if kind == "gpu":
        from training.measure.cuda import CudaTimer

        return {"op": CudaTimer(cache), "model": ModelTimer("cuda")}
    from training.measure.timers import CpuTimer

    return {"op": CpuTimer(cache), "model": ModelTimer("cpu")}


def budget_seconds(text: str) -> float:
    """Return the seconds in ``90s``, ``10m``, ``1.5h`` or a plain number of seconds.

    >>> budget_seconds("10m"), budget_seconds("45")
    (600.0, 45.0)
    """
    found = re.fullmatch(r"\s*([\d.]+)\s*([smh]?)\s*", text)
    try:
        value = float(found[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[found[2]] if found else 0.0
    except ValueError:
        value = 0.0
    if value <= 0:
        raise GraphsError("a budget is a positive time", received=text, allowed="90s, 10m, 1.5h",
                          next_step="give one of these forms")  # fmt: skip
    return value
