"""One measuring run from the request to the data set: device, ceilings, plan, rows, tables, profile."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graphs.errors import DtypeError, GraphsError, UnknownHardwareError
from training.dataset.store import read_manifest, read_ops
from training.measure import extend, networks
from training.measure.active import fitted, most_telling
from training.measure.ceilings import measure_ceilings
from training.measure.environment import differences, fingerprint, record
from training.measure.errors import DeviceKindError, RunFolderError
from training.measure.finish import finish, write_profile
from training.measure.journal import Journal, only_writer, write_whole
from training.measure.plan import DTYPE_WEIGHTS, Entry, Limits, WholeModel, config_key, make_plan
from training.measure.runner import run
from training.measure.target import chosen_hardware

Report = Callable[[str], None]
#: What a row takes on average, seconds: samples, warm timing, buffers.  Sizes the plan; the clock keeps the budget.
_ROW_S = {"cpu": 0.25, "gpu": 0.12}
#: Share of the operators whose kernels are named: a fourth costs a few per cent of the time.
DEFAULT_KERNELS = {"cpu": 0.0, "gpu": 0.25}
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
        Whether to time forward passes of whole networks, at most 40 % of the budget; on a GPU in device time too.
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
    kernels : float or None
        Share of the operators whose CUDA kernels are named; None: `DEFAULT_KERNELS`.
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
    kernels: float | None = None


def measure(request: Request, report: Report = lambda _: None) -> dict[str, Any]:
    """Measure, and write the data set and the profile into ``request.out``; return a summary.

    Raises
    ------
    BusyFolderError, RunFolderError, UnknownHardwareError, DtypeError, DataError, DeviceKindError, DeviceLostError
    """
    journal = Journal(request.out)
    if request.resume:
        journal.about()  # a folder without a run is refused before anything is made in it
    elif not journal.exists() and (held := [f for f in ("ops.parquet", "manifest.json") if (request.out / f).exists()]):
        raise RunFolderError(
            f"folder '{request.out}' holds a data set, which measuring would replace", received=", ".join(held),
            allowed="a folder without one", next_step="name another folder with --out",
        )  # fmt: skip
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
        plan = journal.plan()
        report(f"measuring {hardware}: {environment['device']}, {environment['threads']} threads,"
               f" {len(plan)} entries planned, budget {request.budget_s / 60:.1f} min")  # fmt: skip
        own = timers(kind, environment, any(map(needs_profiler, plan)))
        rows = run(request.out, own, None if request.rows else request.budget_s, report)
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
    share_of_kernels(request, kind)
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
    models: list[WholeModel] = []
    if request.whole:
        most = 0.4 * request.budget_s
        own = tuple(d for d in dtypes if d in ("fp32", "bf16")) or dtypes
        for m in networks.whole_models(limits, own, request.batches, kind=kind):
            cost = 10 * len(m.modes) * m.expected_s + 1.0
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
    share = share_of_kernels(request, kind)
    plan = make_plan(limits, rows, request.seed, shapes, asked, models, request.kinds or None, share)
    if missing := wanted - {e.key for e in plan}:
        report(f"  {len(missing)} of {len(wanted)} operators of the networks are left out: they take too long or too"
               " much memory for this machine and budget, or their dtype is not measured")  # fmt: skip
    return plan


def share_of_kernels(request: Request, kind: str) -> float:
    """Return the share of the operators whose kernels are named on a kind of device.

    Raises
    ------
    DeviceKindError
        If a share is asked for where nothing launches kernels.
    GraphsError
        For what is no share.
    """
    share = DEFAULT_KERNELS[kind] if request.kernels is None else request.kernels
    if not 0 <= share <= 1:
        raise GraphsError("the share of operators whose kernels are named is no share", received=share,
                          allowed="0 to 1", next_step="give such a --kernels, or leave it out")  # fmt: skip
    if share and kind != "gpu":
        raise DeviceKindError("names of kernels are recorded on CUDA devices only, and this run is of a CPU",
                              received=f"--kernels {share:g}", allowed="0 on a CPU",
                              next_step="leave out --kernels, or choose the GPU with --device cuda")  # fmt: skip
    return share


def needs_profiler(entry: Entry) -> bool:
    """Whether an entry is of what only a profiler can tell."""
    return entry.what == "kernels" or entry.params.get("mode") == "kernels"


def timers(kind: str, environment: dict[str, Any], profiled: bool = False) -> dict[str, Any]:
    """Return the timers of a device, by what is timed; `profiled`: also those that need a profiler."""
    from training.measure.whole import ModelTimer

    cache = max(environment["cache_bytes"].values(), default=1e6)
    if kind != "gpu":
        from training.measure.timers import CpuTimer

        return {"op": CpuTimer(cache), "model": ModelTimer("cpu")}
    from training.measure.cuda import CudaTimer

    op = CudaTimer(cache)
    if not profiled:
        return {"op": op, "model": ModelTimer("cuda")}
    from training.measure.profiler import KernelTimer, Profiler
    from training.measure.whole_cuda import cuda_ways

    profiler = Profiler()
    return {
        "op": op, "kernels": KernelTimer(op, profiler),
        "model": ModelTimer("cuda", ways=cuda_ways(op.replays, profiler)),
    }  # fmt: skip


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
