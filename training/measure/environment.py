"""What the rows were measured on: device, clocks, software, threads; and a fingerprint of what must not differ."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from graphs.hardware.detect import cpu_identity
from training.measure.clocks import bus_address

#: Rows are pooled only where these agree; the rest of the record is for the reader.
FINGERPRINT_KEYS = (
    "kind", "device", "vendor", "family", "model", "cores", "threads", "compute_units", "torch", "blas", "onednn",
    "cuda", "cudnn", "driver", "cpu_capability",
)  # fmt: skip


def record(kind: str, threads: int | None = None) -> dict[str, Any]:
    """Return the environment of this process.

    Parameters
    ----------
    kind : {"cpu", "gpu"}
    threads : int, optional
        Threads that torch uses; as it is by default.
    """
    import torch

    cpu = cpu_identity()
    out: dict[str, Any] = {
        "kind": kind,
        "device": cpu["name"],
        **{k: cpu[k] for k in ("vendor", "family", "model", "cores")},
        "cache_bytes": caches(),
        "memory_bytes": memory_bytes(),
        "clock_hz": clock_hz(),
        "governor": _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "hypervisor": "hypervisor" in _cpu_flags(),
        # the kernel's version, without the builder's suffix
        "system": f"{platform.system()} {platform.release().split('-')[0]}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "blas": _config("BLAS_INFO") + _found(r"Math Kernel Library Version (\S+)"),
        "onednn": _found(r"MKL-DNN v(\S+)").strip(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": threads or torch.get_num_threads(),
        "load_at_start": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    if kind == "gpu":
        out |= _gpu()
    return out


def fingerprint(environment: dict[str, Any]) -> str:
    """Return 12 hex digits that are equal for two environments whose rows may be pooled."""
    chosen = {k: environment.get(k) for k in FINGERPRINT_KEYS}
    return hashlib.sha256(json.dumps(chosen, sort_keys=True).encode()).hexdigest()[:12]


def differences(a: dict[str, Any], b: dict[str, Any]) -> list[str]:
    """Return in words what makes two fingerprints differ."""
    return [f"{k}: {a.get(k)} / {b.get(k)}" for k in FINGERPRINT_KEYS if a.get(k) != b.get(k)]


def caches() -> dict[str, float]:
    """Return the bytes of each cache level, summed over the caches of this machine (Linux)."""
    found: dict[str, dict[str, float]] = {}
    for cache in Path("/sys/devices/system/cpu").glob("cpu[0-9]*/cache/index*"):
        level, sort, text = (_read(str(cache / n)) for n in ("level", "type", "size"))
        if not level or not text or sort == "Instruction":
            continue
        size = float(text.rstrip("KMG")) * {"K": 1024, "M": 1024**2, "G": 1024**3}.get(text[-1], 1)
        shared = _read(str(cache / "shared_cpu_list")) or str(cache)
        found.setdefault(f"l{level}", {})[shared] = size
    return {level: sum(sizes.values()) for level, sizes in sorted(found.items())}


def memory_bytes() -> float | None:
    """Return the main memory in bytes, None if unknown."""
    try:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (ValueError, OSError, AttributeError):
        return None


def clock_hz() -> float | None:
    """Return the largest clock that the system tells of, None where it hides it."""
    top = _read("/sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq")
    if top:
        return float(top) * 1e3
    found = re.findall(r"^cpu MHz\s*:\s*([\d.]+)", _read("/proc/cpuinfo") or "", re.M)
    return max(map(float, found)) * 1e6 if found else None


def _gpu() -> dict[str, Any]:
    import torch

    p = torch.cuda.get_device_properties(0)
    # nvidia-smi counts all devices, torch those that are visible.
    which = bus_address(p) or "0"
    try:
        done = subprocess.run(
            ["nvidia-smi", "--query-gpu=driver_version,clocks.max.sm,power.limit", "--format=csv,noheader", "-i",
             which], capture_output=True, text=True, timeout=60, check=True,
        )  # fmt: skip
        driver, top, power = (part.strip() for part in done.stdout.strip().split(","))
    except (OSError, subprocess.SubprocessError, ValueError):
        driver = top = power = ""
    clock = re.fullmatch(r"([\d.]+) MHz", top)  # virtual GPUs do not tell it
    return {
        "host": {"device": cpu_identity()["name"], "cores": os.cpu_count()},
        "device": p.name,
        "vendor": "NVIDIA",
        "family": p.major,
        "model": p.minor,
        "compute_units": p.multi_processor_count,
        "cache_bytes": {"l2": float(getattr(p, "L2_cache_size", 0))},
        "memory_bytes": float(p.total_memory),
        "clock_hz": float(clock[1]) * 1e6 if clock else None,
        "power_limit": power,
        "driver": driver,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
    }


def _config(name: str) -> str:
    import torch

    found = re.search(rf"{name}=(\w+)", torch.__config__.show())
    return found[1] if found else ""


def _found(pattern: str) -> str:
    import torch

    found = re.search(pattern, torch.__config__.show())
    return " " + found[1] if found else ""


def _cpu_flags() -> set[str]:
    found = re.search(r"^flags\s*:\s*(.*)$", _read("/proc/cpuinfo") or "", re.M)
    return set(found[1].split()) if found else set()


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None
