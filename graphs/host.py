"""The host's part of eager execution: how long each call takes to launch, and the queue between host and device."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphs.errors import GraphsError

#: CUDA kernels that a call launches where it is more than one: medians of profiled calls on an H100 (cuDNN 9, fp16 and
#: bf16 convolutions change the layout and back; split-K products reduce afterwards).
KERNELS = {
    "conv2d/1/contiguous/full": 1, "conv2d/1/contiguous/half": 2, "conv2d/k/contiguous/full": 2,
    "conv2d/k/contiguous/half": 4, "conv2d/1/channels_last/full": 2, "conv2d/k/channels_last/full": 4,
    "conv1d/half": 4, "conv_transpose2d/half": 4, "conv_transpose2d/full": 2, "sdpa/half": 2, "sdpa_mask/half": 3,
}  # fmt: skip
#: What a caller may say of a host in a mapping.
SETTINGS = ("operator_s", "kernel_s", "start_s", "gap_s", "scale")


def call_key(op: str, params: Mapping[str, Any], dtype: str) -> str:
    """Return the class of calls that take the host equally long: kind, layout of convolutions, width of the dtype.

    >>> call_key("conv2d", {"k": 3, "fmt": "contiguous"}, "bf16"), call_key("relu", {"numel": 8}, "fp32")
    ('conv2d/k/contiguous/half', 'relu/full')
    """
    width = "half" if dtype in ("fp16", "bf16") else "full"
    layout = params.get("fmt") or "contiguous"
    if op == "conv2d":
        return f"conv2d/{'1' if params.get('k') == 1 else 'k'}/{layout}/{width}"
    if op in ("dwconv2d", "batchnorm"):
        return f"{op}/{layout}/{width}"
    return f"{op}/{width}"


@dataclass(frozen=True)
class Host:
    """Launch times of one machine's host.

    ``seconds of a call = scale * (operator_s + table_scale * table_s[class] + kernel_s * kernels[class])``.

    Attributes
    ----------
    operator_s : float
        Of every call.
    table_s : dict of str to float
        Measured seconds of a class of calls (`call_key`) launched back to back on an idle device.
    table_scale : float
        What those become inside a model, where modules and views run between the calls.
    kernel_s : float
        Of every kernel that a call launches.
    start_s : float
        Once a forward pass: first launch and last wait.
    gap_s : float
        Between two kernels of an eager pass on the device, beyond that of a CUDA graph.
    scale : float
        Another host: 0.5 launches twice as fast.
    """

    operator_s: float = 0.0
    table_s: Mapping[str, float] = field(default_factory=dict)
    table_scale: float = 0.0
    kernel_s: float = 0.0
    start_s: float = 0.0
    gap_s: float = 0.0
    scale: float = 1.0

    def call_s(self, op: str, params: Mapping[str, Any], dtype: str) -> float:
        """Return the seconds that the host is busy with one call."""
        key = call_key(op, params, dtype)
        own = self.operator_s + self.kernel_s * KERNELS.get(key, 1)
        if self.table_scale:
            own += self.table_scale * self._measured(key)
        return self.scale * own

    def _measured(self, key: str) -> float:
        if key in self.table_s:
            return self.table_s[key]
        # a layout or width that was not measured: the kind; a kind that was not measured: the middle of all
        kind = key.split("/")[0]
        like = [v for k, v in self.table_s.items() if k.split("/")[0] == kind] or list(self.table_s.values())
        return float(np.median(like)) if like else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for the fitted model's header."""
        return {
            "operator_s": self.operator_s, "table_scale": self.table_scale, "start_s": self.start_s,
            "gap_s": self.gap_s, "table_s": {k: float(f"{v:.4g}") for k, v in sorted(self.table_s.items())},
        }  # fmt: skip

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Host:
        """Read what `to_dict` wrote; ``host_s_per_call`` is the form of older models."""
        if "host_s_per_call" in raw:
            return cls(operator_s=float(raw["host_s_per_call"]))
        numbers = {k: float(raw.get(k, 0.0)) for k in ("operator_s", "table_scale", "start_s", "gap_s")}
        return cls(table_s={k: float(v) for k, v in raw.get("table_s", {}).items()}, **numbers)

    def with_settings(self, given: Host | float | Mapping[str, float] | None) -> Host:
        """Return the host that a caller asked for.

        Parameters
        ----------
        given : Host, float, mapping or None
            None: this one.  A number: seconds an operator, and nothing else.  A mapping: any of `SETTINGS`;
            ``operator_s`` or ``kernel_s`` replace what was measured of calls, ``scale`` alone speeds it up or down.

        Raises
        ------
        GraphsError
            For negative or unknown settings.
        """
        if given is None or isinstance(given, Host):
            return self if given is None else given
        asked = dict(given) if isinstance(given, Mapping) else {"operator_s": given}
        for name, value in asked.items():
            if name not in SETTINGS:
                raise GraphsError("unknown setting of the host", received=name, allowed=", ".join(SETTINGS))
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
                raise GraphsError(
                    f"the host's {name} is not a time or a factor", received=value, allowed="a number from 0 up",
                    next_step="give seconds, such as 2e-5, or a factor for scale",
                )  # fmt: skip
        base = self
        if "operator_s" in asked or "kernel_s" in asked:
            base = replace(self, operator_s=0.0, kernel_s=0.0, table_scale=0.0)
        if not isinstance(given, Mapping):
            base = Host()
        changes: dict[str, Any] = {k: float(v) for k, v in asked.items()}
        return replace(base, **changes)


def queue_s(host_s: NDArray[np.float64], device_s: NDArray[np.float64], start_s: float = 0.0) -> float:
    """Return when the last call ends, if the host launches calls in order and the device runs them in order.

    Call i starts when the host has launched it and call i - 1 has ended:
    ``end_i = max(end_{i-1}, launched_i) + device_i``, which is
    ``max over i of (host_0 + ... + host_i + device_i + ... + device_n)``.

    Parameters
    ----------
    host_s, device_s : (n,) float64
        Seconds of each call, in program order.
    start_s : float

    Examples
    --------
    >>> queue_s(np.array([2.0, 2.0, 2.0]), np.array([1.0, 1.0, 5.0]))  # the host is the slower one until the last
    11.0
    """
    if not len(host_s):
        return start_s
    return start_s + float(np.max(np.cumsum(host_s) + np.cumsum(device_s[::-1])[::-1]))
