"""What to measure: a seeded plan, stratified, in an order of which every prefix is balanced.

Each kind and dtype is a stream with a weight; streams are merged so that after any number of rows each has had its
share.  Within a stream, random shapes and layer shapes of real networks alternate, and each next configuration is
drawn from the stratum (FLOP, intensity, working set against the cache, in factors of four) that has had fewest rows.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from graphs import ops
from graphs.errors import GraphsError
from training.measure.shapes import DRAWS, draw

#: Rows of a kind relative to the others: where time goes in networks, and where efficiency has most structure.
WEIGHTS = {
    "linear": 10, "matmul": 4, "addmm": 3, "bmm": 5, "conv2d": 14, "dwconv2d": 6, "conv1d": 2, "conv_transpose2d": 2,
    "sdpa": 6, "sdpa_mask": 2, "sdpa_decode": 3, "softmax": 3, "layernorm": 3, "batchnorm": 4, "maxpool2d": 3,
    "avgpool2d": 2, "adaptive_avgpool2d": 2, "relu_nd": 3, "add_nd": 3, "cat_channels": 3, "permute_copy": 3,
    "transpose": 2, "gelu": 2, "add": 2, "mul_channel": 2,
}  # fmt: skip
#: Rows in each dtype relative to the others.
DTYPE_WEIGHTS = {"fp32": 1.0, "tf32": 0.4, "bf16": 0.5, "fp16": 0.25}
#: Share of the rows that are timed a second time, later in the run.
RETEST_SHARE = 0.06
#: Of a stream's rows, how many have layer shapes of real networks where there are such.
REAL_SHARE = 0.5
_CANDIDATES = 6
#: Which configurations have their kernels named is drawn apart from the plan.
_KERNELS_STREAM = 1


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing to measure.

    Attributes
    ----------
    index : int
        Position in the plan.
    what : str
        ``op``, ``retest`` (of the entry `of`), ``kernels`` (names of what the call of the entry `of` runs) or
        ``model``.
    op, dtype : str
        `op` is the model's name for models.
    params : dict
        ``{"batch": n, "mode": m}`` for models.
    expected_s : float
        Predicted time of one call.
    source : str
        ``random``, ``network`` or ``asked``.
    """

    index: int
    what: str
    op: str
    dtype: str
    params: Mapping[str, Any] = field(default_factory=dict)
    expected_s: float = 0.0
    source: str = "random"
    of: int = -1

    @property
    def key(self) -> str:
        """What makes two entries the same configuration."""
        return config_key(self.op, self.dtype, self.params)

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, line: str) -> Entry:
        return cls(**json.loads(line))


class WholeModel(NamedTuple):
    """A network to time as a whole, once in each mode, one after the other.

    Attributes
    ----------
    name : str
    batch : int
    dtype : str
    expected_s : float
        Predicted time of one pass.
    modes : tuple of str
        In the words of `training.dataset.schema.MODES`.
    """

    name: str
    batch: int
    dtype: str
    expected_s: float
    modes: tuple[str, ...] = ("eager",)


@dataclass(frozen=True, slots=True)
class Limits:
    """What of a machine the plan needs to know.

    Attributes
    ----------
    peaks : dict of str to float
        FLOP/s per dtype; the dtypes measured are its keys.
    bandwidth_bytes_per_s, cache_bytes : float
    max_call_s : float
        No configuration whose predicted call takes longer.
    max_bytes : float
        No configuration that moves more.
    overhead_s : float
        Least time of a call.
    """

    peaks: Mapping[str, float]
    bandwidth_bytes_per_s: float
    cache_bytes: float
    max_call_s: float
    max_bytes: float
    overhead_s: float = 5e-6

    def expected_s(self, dtype: str, flops: float, nbytes: float) -> float:
        """Return the predicted time of a call: half the peaks, plus the overhead.

        Deliberately rough: it sizes the plan, and the runner keeps the budget by the clock.
        """
        return max(flops / (0.5 * self.peaks[dtype]), nbytes / (0.5 * self.bandwidth_bytes_per_s)) + self.overhead_s


def config_key(op: str, dtype: str, params: Mapping[str, Any]) -> str:
    """Return the identity of a configuration, defaults filled in."""
    checked = params if op not in ops.kinds() else ops.get(op).validate(params)
    return f"{op}|{dtype}|{json.dumps(checked, sort_keys=True)}"


def make_plan(
    limits: Limits,
    rows: int,
    seed: int = 0,
    network_rows: Mapping[tuple[str, str], Sequence[Mapping[str, Any]]] | None = None,
    asked: Iterable[tuple[str, str, Mapping[str, Any]]] = (),
    models: Iterable[WholeModel] = (),
    kinds: Iterable[str] | None = None,
    kernels: float = 0.0,
) -> list[Entry]:
    """Return a plan of about `rows` operator configurations.

    Parameters
    ----------
    limits : Limits
    rows : int
        Configurations besides `asked`; the retests, models and names of kernels come on top.
    seed : int
        Same seed, limits and inputs give the same plan.
    network_rows : dict of (op, dtype) to list of params, optional
        Layer shapes of real networks.
    asked : iterable of (op, dtype, params)
        Measured first, all of them that the limits allow.
    models : iterable of WholeModel
        Spread evenly.
    kinds : iterable of str, optional
        Only these operator kinds; all by default.
    kernels : float
        Share of the configurations whose kernels are named, each after it is timed; what is timed, and in which
        order, does not depend on it.
    """
    rng = np.random.default_rng(seed)
    seen: set[str] = set()
    first = []
    for op, dtype, params in asked:
        made = _entry(op, dtype, params, limits, "asked")
        if made is not None and made.key not in seen:
            seen.add(made.key)
            first.append(made)
    order = _streams(limits, rows, rng, list(kinds) if kinds is not None else sorted(DRAWS))
    makers = {
        s: _Stream(*s, limits, rng, [dict(p) for p in (network_rows or {}).get(s, ())], seen)
        for s in sorted(set(order))
    }
    body = [e for e in (makers[s].next() for s in order) if e is not None]
    timed = _with_models(_with_retests([*first, *body], rng), list(models))
    return number(_with_kernels(timed, kernels, np.random.default_rng([seed, _KERNELS_STREAM])))


def _streams(limits: Limits, rows: int, rng: np.random.Generator, kinds: list[str]) -> list[tuple[str, str]]:
    """Return the stream of each row: the j-th row of a stream of weight w stands at time (j + u) / w."""
    if not rows:
        return []
    streams = [(k, d) for k in kinds for d in limits.peaks if d != "tf32" or ops.get(k).uses_matrix_units]
    weight = np.array([WEIGHTS.get(k, 1.0) * DTYPE_WEIGHTS[d] for k, d in streams])
    share = weight / weight.sum() * rows
    due = [((j + u) / s, i) for i, (s, u) in enumerate(zip(share, rng.random(len(share)), strict=True))
           for j in range(int(np.ceil(s)) + 1)]  # fmt: skip
    return [streams[i] for _, i in sorted(due)[:rows]]


class _Stream:
    """Configurations of one kind and dtype."""

    def __init__(
        self, op: str, dtype: str, limits: Limits, rng: np.random.Generator, real: list[Mapping[str, Any]],
        seen: set[str],
    ) -> None:  # fmt: skip
        self.op, self.dtype, self.limits, self.rng, self.seen = op, dtype, limits, rng, seen
        self.counts: dict[tuple[int, ...], int] = {}
        self.real: list[Mapping[str, Any]] = [real[i] for i in rng.permutation(len(real))]
        self.made = self.from_networks = 0

    def next(self) -> Entry | None:
        """Return the next configuration, or None if no new one was found."""
        wants_real = bool(self.real) and self.from_networks < REAL_SHARE * (self.made + 1)
        chosen = self._best(self._from_networks() if wants_real else self._random())
        if chosen is None and wants_real:
            chosen = self._best(self._random())
        if chosen is None:
            return None
        self.made += 1
        self.from_networks += chosen.source == "network"
        stratum = self._stratum(chosen)
        self.counts[stratum] = self.counts.get(stratum, 0) + 1
        self.seen.add(chosen.key)
        return chosen

    def _random(self) -> list[Entry]:
        found: list[Entry] = []
        for _ in range(60):
            made = _entry(self.op, self.dtype, draw(self.op, self.rng), self.limits, "random")
            if made is not None and made.key not in self.seen:
                found.append(made)
            if len(found) == _CANDIDATES:
                break
        return found

    def _from_networks(self) -> list[Entry]:
        found: list[Entry] = []
        while self.real and len(found) < _CANDIDATES:
            made = _entry(self.op, self.dtype, self.real.pop(), self.limits, "network")
            if made is not None and made.key not in self.seen:
                found.append(made)
        return found

    def _best(self, candidates: list[Entry]) -> Entry | None:
        if not candidates:
            return None
        chosen = min(candidates, key=lambda e: self.counts.get(self._stratum(e), 0))
        if chosen.source == "network":
            self.real = [e.params for e in candidates if e is not chosen] + self.real
        return chosen

    def _stratum(self, e: Entry) -> tuple[int, ...]:
        cost = ops.evaluate(e.op, e.params, ops.itemsize(e.dtype))
        return (
            int(np.log(max(cost.flops, 1)) / np.log(4)),
            int(np.log(max(cost.flops, 1) / cost.bytes) / np.log(4)),
            int(np.log(cost.bytes / max(self.limits.cache_bytes, 1.0)) / np.log(4)),
        )


def _entry(op: str, dtype: str, params: Mapping[str, Any], limits: Limits, source: str) -> Entry | None:
    """Return a checked entry, or None where the limits or the kind forbid it."""
    if op == "cast" and (params.get("to") == dtype or params.get("to") not in ("fp32", "fp16", "bf16")):
        return None
    try:
        checked = ops.get(op).validate(params)
    except GraphsError:
        return None  # a random shape whose parameters do not fit together
    if dtype not in limits.peaks:
        return None
    cost = ops.evaluate(op, checked, ops.itemsize(dtype))
    expected = limits.expected_s(dtype, cost.flops, cost.bytes)
    if expected > limits.max_call_s or _held_bytes(op, checked, cost.bytes, dtype) > limits.max_bytes:
        return None
    plain = {k: list(v) if isinstance(v, tuple) else v for k, v in checked.items()}
    return Entry(-1, "op", op, dtype, plain, expected, source)


def _held_bytes(op: str, params: Mapping[str, Any], nbytes: float, dtype: str) -> float:
    """Return the bytes that must be held, which for look-ups include the table."""
    if op == "embedding":
        return float(nbytes + params["vocab"] * params["dim"] * ops.itemsize(dtype))
    if op == "index_select":
        return float(nbytes + params["rows"] * params["cols"] * ops.itemsize(dtype))
    return nbytes


def _with_retests(entries: list[Entry], rng: np.random.Generator) -> list[Entry]:
    """Insert second timings, each 20 to 200 rows after the first.  `of` is the position of the first in `entries`."""
    out: list[tuple[float, int, Entry]] = [(float(i), i, e) for i, e in enumerate(entries)]
    for i, e in enumerate(entries):
        if rng.random() < RETEST_SHARE:
            later = i + float(rng.integers(20, 200)) + 0.5
            out.append((later, i, Entry(-1, "retest", e.op, e.dtype, e.params, e.expected_s, e.source, i)))
    out.sort(key=lambda t: (t[0], t[1]))
    position = {i: p for p, (_, i, e) in enumerate(out) if e.what == "op"}
    return [e if e.what == "op" else Entry(**{**asdict(e), "of": position[i]}) for _, i, e in out]


def _with_models(entries: list[Entry], models: list[WholeModel]) -> list[Entry]:
    """Insert whole models at even distances.

    In the first half: the second is there for the case that rows take less time than expected.
    """
    every = max(1, len(entries) // (2 * (len(models) + 1))) if models else 0
    waiting = list(models)

    def due(i: int, entry: Entry) -> list[Entry]:
        return _passes(waiting.pop(0)) if waiting and (i + 1) % every == 0 else []

    out = _inserted(entries, due)
    return out + [e for m in waiting for e in _passes(m)]


def _passes(m: WholeModel) -> list[Entry]:
    return [
        Entry(-1, "model", m.name, m.dtype, {"batch": m.batch, "mode": mode}, m.expected_s, "network")
        for mode in m.modes
    ]


def _with_kernels(entries: list[Entry], share: float, rng: np.random.Generator) -> list[Entry]:
    """Insert, after a share of the operators, the naming of their kernels."""

    def due(i: int, entry: Entry) -> list[Entry]:
        if entry.what != "op" or rng.random() >= share:
            return []
        return [replace(entry, index=-1, what="kernels", of=i)]

    return _inserted(entries, due)


def _inserted(entries: list[Entry], due: Callable[[int, Entry], list[Entry]]) -> list[Entry]:
    """Insert what is `due` after each entry; `of`, there a position in `entries`, moves along."""
    out: list[Entry] = []
    moved: dict[int, int] = {}
    for i, e in enumerate(entries):
        moved[i] = len(out)
        out += [new if new.of < 0 else replace(new, of=moved[new.of]) for new in (e, *due(i, e))]
    return out


def number(entries: Sequence[Entry]) -> list[Entry]:
    """Return the entries with their positions."""
    return [Entry(**{**asdict(e), "index": i}) for i, e in enumerate(entries)]
