"""The machines that the sources name: which profile each is, and the peaks its rows are priced against.

A peak is the one the source itself pairs with the machine where it states one (its efficiencies then compare), else
the profile's.
"""

from __future__ import annotations

from dataclasses import dataclass

from graphs.errors import DataError
from graphs.hardware.calibration.features import Machine

#: Element sizes in bytes of input, weight and output, by the GEMM dtype of AIConfigurator.
GEMM_BYTES: dict[str, tuple[float, float, float]] = {
    "bfloat16": (2, 2, 2), "fp8": (1, 1, 2), "fp8_block": (1, 1, 2), "nvfp4": (0.5, 0.5, 2),
    "int8_wo": (2, 1, 2), "int4_wo": (2, 0.5, 2), "sq": (1, 1, 2),
}  # fmt: skip
#: Which peak a GEMM dtype runs at: weight-only quantisation multiplies in bf16.
GEMM_UNIT = {
    "bfloat16": "bf16", "fp8": "fp8", "fp8_block": "fp8", "nvfp4": "fp4", "int8_wo": "bf16", "int4_wo": "bf16",
    "sq": "fp8",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class System:
    """One machine of a source.

    Attributes
    ----------
    hardware : str
        Id of the base profile.
    stack : str
        Software that was measured, as it appears in the id of the fitted model.
    machine : Machine
        ``peaks`` by the words of `GEMM_UNIT`; fp8 also stands for int8, which runs at the same rate.
    """

    hardware: str
    stack: str
    machine: Machine


def _system(hardware: str, stack: str, units: int, l2: float, bandwidth: float, **peaks: float) -> System:
    return System(hardware, stack, Machine(units, l2 * 1e6, peaks, bandwidth * 1e9, "gpu"))


#: Peaks and bandwidths as AIConfigurator states them; SM counts and L2 from the base profiles.
AIC_SYSTEMS: dict[str, System] = {
    "a100_sxm": _system("a100-sxm-80gb", "trtllm1.0", 108, 41.943040, 2039, bf16=312e12, fp8=624e12),
    "h100_sxm": _system("h100-sxm", "trtllm1.3", 132, 50, 3350, bf16=989e12, fp8=1978e12),
    "h200_sxm": _system("h200-sxm", "trtllm1.3", 132, 60, 4800, bf16=989e12, fp8=1978e12),
    "l40s": _system("l40s", "trtllm1.3", 142, 100.663296, 864, bf16=362.05e12, fp8=733e12),
    "b200_sxm": _system("b200", "trtllm1.3", 148, 126, 7700, bf16=2250e12, fp8=4500e12, fp4=9000e12),
}
#: As NeuSight's own configuration states them, with the SM counts its profiler implies where they disagree.
NEUSIGHT_SYSTEMS: dict[str, System] = {
    "A100-PCIE-40GB": _system("a100-pcie-40gb", "torch2.1", 108, 41.943040, 1555, fp32=19.492e12),
    "A100-PCIE-80GB": _system("a100-pcie-80gb", "torch2.1", 108, 41.943040, 1935, fp32=19.492e12),
    "V100-PCIE-32GB": _system("v100-pcie-32gb", "torch2.1", 80, 6.291456, 900, fp32=14.029e12),
    "P100-PCIE-16GB": _system("p100-pcie-16gb", "torch2.1", 56, 4.194304, 732, fp32=9.519e12),
    "T4": _system("t4", "torch2.1", 40, 4.194304, 320, fp32=8.141e12),
    "P4": _system("p4", "torch2.1", 20, 2.097152, 192, fp32=5.699e12),
    "MI100": _system("mi100", "torch2.4", 120, 8.388608, 1230, fp32=23.1e12),
    "MI210": _system("mi210", "torch2.4", 104, 16.777216, 1640, fp32=22.6e12),
}


def system(systems: dict[str, System], name: str) -> System:
    """Return a system of a source, or raise `DataError` for one that is not known."""
    try:
        return systems[name]
    except KeyError:
        raise DataError(
            "measurements of a machine that is not known here",
            received=name,
            allowed=", ".join(systems),
            next_step="add its peaks with their source to training/external/machines.py",
        ) from None
