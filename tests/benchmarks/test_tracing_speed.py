"""Speed and memory of tracing, as ratios within one run: `make benchmark`.

Targets on an idle machine: trace and estimate of ResNet-50 in 1.5 s, of a 7 B transformer in 5 s, each under 1 GB.
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from graphs.estimation import estimate_trace  # noqa: E402
from graphs.hardware.mappers.registry import create_mapper  # noqa: E402
from graphs.tracing import trace, zoo  # noqa: E402

#: Prints processor seconds and peak memory (MB) of what is put in.
REPORT = """
import resource
{body}
used = resource.getrusage(resource.RUSAGE_SELF)
print(used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)
"""
ESTIMATE = """
from graphs.estimation import estimate_trace
from graphs.hardware.mappers.registry import create_mapper
from graphs.tracing.frontends import trace_model
estimate_trace(trace_model("torchvision:resnet50", 8, "bf16"), create_mapper("h100-sxm"))
"""


def cost(body: str, **environment: str) -> tuple[float, float]:
    """Return processor seconds and megabytes of a fresh interpreter."""
    program = REPORT.format(body=textwrap.dedent(body))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True,
                          env={**os.environ, "OMP_NUM_THREADS": "1", **environment})  # fmt: skip
    seconds, megabytes = (float(v) for v in done.stdout.split()[-2:])
    return seconds, megabytes


def test_cold_estimates_cost_little_more_than_importing_torch(benchmark, tmp_path) -> None:
    torch_only, _ = cost("import torch")
    stored, _ = cost(ESTIMATE)
    (live, megabytes) = benchmark.pedantic(lambda: cost(ESTIMATE, GRAPHS_TRACES=str(tmp_path)), rounds=1)
    benchmark.extra_info |= {"import torch": torch_only, "stored": stored, "live": live, "megabytes": megabytes}
    assert stored < torch_only
    assert live < 3 * torch_only
    assert megabytes < 1000


def test_estimating_takes_less_than_tracing(benchmark) -> None:
    module, mapper = zoo.resnet50().eval(), create_mapper("h100-sxm")
    x = torch.empty(8, 3, 224, 224, device="meta")
    t = benchmark(lambda: trace(module, x, dtype="bf16"))
    assert len(t) == 174
    estimate_trace(t, mapper)


@pytest.mark.parametrize("layers", [4, 32])
def test_layers_of_a_7b_transformer(benchmark, layers: int) -> None:
    """Blocks repeat: each distinct call is priced once, so a layer costs its dispatch only."""
    with torch.device("meta"):
        block = nn.TransformerEncoderLayer(4096, 32, 11008, batch_first=True, norm_first=True)
        module = nn.TransformerEncoder(block, layers, enable_nested_tensor=False).train()
    x = torch.empty(1, 512, 4096, device="meta")
    t = benchmark(lambda: trace(module, x, dtype="bf16"))
    benchmark.extra_info["calls a layer"] = len(t) / layers
    assert len(t.operators) < 20
