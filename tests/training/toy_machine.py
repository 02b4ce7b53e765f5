"""A machine with the fake GPU of `fake_cuda`, and `graphs measure` on it."""

from __future__ import annotations

import subprocess

import torch
from click.testing import CliRunner
from fake_cuda import FakeDevice

from training.measure import session
from training.measure.cuda import CudaTimer
from training.measure.kernels import BUILDERS
from training.measure.profiler import KernelTimer, Profiler
from training.measure.stopping import StoppingRule
from training.measure.whole import ModelTimer
from training.measure.whole_cuda import cuda_ways

KERNEL_S, FILL_S = 3e-6, 1.25e-6
FILL = "Memset (Device)"
RULE = StoppingRule(min_samples=2, max_samples=3, min_time_s=0)
FOUND = {
    "peak_flops_per_s": {"fp32": 5e13, "tf32": 4e14}, "how": {"fp32": "given", "tf32": "given"}, "left_out": {},
    "bandwidth_bytes_per_s": 3e12,
}  # fmt: skip


def installed(monkeypatch, **options):
    """Return the GPU of a machine on which every operator is one kernel named after it, and attention a fill before.

    Its `breaks_in` is the kind that leaves it unusable, its `profiler_fails_in` the one that cannot be profiled.
    """
    device = FakeDevice(**options).install(monkeypatch)
    device.breaks_in = device.profiler_fails_in = None
    real = subprocess.run

    def asked(command, **options):
        if command[0] != "nvidia-smi":
            return real(command, **options)
        # Two GPUs in the machine; torch reaches the second.
        out = ("Other GPU\nToy GPU\n" if "name" in command[1] else
               "600.1, [N/A], 700.00 W\n" if command[-1] == "00000000:07:00.0" else "1.0, 1 MHz, 1 W\n")  # fmt: skip
        return subprocess.CompletedProcess(command, 0, out, "")

    monkeypatch.setattr(subprocess, "run", asked)
    for op, builder in BUILDERS.items():
        monkeypatch.setitem(BUILDERS, op, _one_kernel(device, op, builder))
    monkeypatch.setattr(session, "measure_ceilings", lambda kind, dtypes: FOUND)
    monkeypatch.setattr(session.networks, "layer_shapes", lambda dtypes, batches: {})
    monkeypatch.setattr(session, "timers", lambda kind, environment, profiled=False: timers(device, profiled))
    monkeypatch.setattr(
        session, "limits_of",
        lambda *_: session.Limits(FOUND["peak_flops_per_s"], 3e12, 1 << 20, 0.05, 4e6),
    )  # fmt: skip
    return device


def _one_kernel(device, op, builder):
    def build(params, maker):
        original, args = builder(params, maker)

        def call(*args):
            if device.profile is not None and op == device.profiler_fails_in:
                raise RuntimeError("CUPTI_ERROR_UNKNOWN (a fake)")
            if op.startswith("sdpa"):
                device.launch(FILL_S, name=FILL, category="gpu_memset")
            device.launch(KERNEL_S, illegal=op == device.breaks_in, name=f"{op}_kernel", what=op)
            return torch.empty(1)

        return (call if maker.device != "meta" else original), args

    return build


def timers(device, profiled=False, rule=RULE):
    """As `session.timers`, with tensors on the host and few samples."""
    op = CudaTimer(1 << 20, rule, device="cpu")
    profiler = Profiler("cpu") if profiled else None
    ways = cuda_ways(op.replays, profiler, rule) if profiled else {}
    model = ModelTimer("cuda", rule, lambda: device.host_s, ways)
    return {"op": op, "model": model, **({"kernels": KernelTimer(op, profiler)} if profiled else {})}


def measured(*args):
    """Run `graphs measure` on the GPU; return what it said."""
    from training.measure.cli import measure

    return CliRunner().invoke(measure, [*args, "--json", "--device", "cuda"])
