"""What a mapper is asked about: a fused subgraph, its tensors, its parallelism, and numeric precisions."""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypeVar

from graphs import ops
from graphs.errors import DtypeError, OperatorParameterError


class Precision(StrEnum):
    """Numeric formats, by the names that profiles and operators use."""

    FP64 = "fp64"
    FP32 = "fp32"
    TF32 = "tf32"
    FP16 = "fp16"
    BF16 = "bf16"
    FP8 = "fp8"
    FP8_E4M3 = "fp8_e4m3"
    FP8_E5M2 = "fp8_e5m2"
    FP4 = "fp4"
    INT64 = "int64"
    INT32 = "int32"
    INT16 = "int16"
    INT8 = "int8"
    INT4 = "int4"

    @property
    def dtype(self) -> str:
        """The dtype of operators in this format; raises `DtypeError` for formats below one byte."""
        return ops.canonical(self.value)


class OperationType(StrEnum):
    """Kinds of operation that a fusion report names."""

    CONV2D = "conv2d"
    CONV2D_DEPTHWISE = "conv2d_depthwise"
    CONV2D_POINTWISE = "conv2d_pointwise"
    LINEAR = "linear"
    MATMUL = "matmul"
    ADDMM = "addmm"
    BMM = "bmm"
    MULTIHEAD_ATTENTION = "multihead_attention"
    BATCHNORM = "batchnorm"
    LAYERNORM = "layernorm"
    SOFTMAX = "softmax"
    RELU = "relu"
    RELU6 = "relu6"
    SILU = "silu"
    SWISH = "swish"
    GELU = "gelu"
    HARDSWISH = "hardswish"
    SIGMOID = "sigmoid"
    ADD = "add"
    SUB = "sub"
    MUL = "mul"
    DIV = "div"
    ELEMENTWISE = "elementwise"
    SQUEEZE_EXCITE = "squeeze_excite"
    DROPOUT = "dropout"
    STOCHASTIC_DEPTH = "stochastic_depth"
    MAXPOOL = "maxpool"
    AVGPOOL = "avgpool"
    ADAPTIVEAVGPOOL = "adaptiveavgpool"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class TensorDescriptor:
    """Shape and dtype of one tensor.

    Attributes
    ----------
    shape : tuple of int
    dtype : str
        Any spelling that `graphs.ops.canonical` knows.
    size_bytes : int
        Computed from shape and dtype when left out.
    layout : str
        ``"NCHW"`` or ``"NHWC"`` for images: the order in memory; the shape is always (n, c, h, w).

    Raises
    ------
    OperatorParameterError, DtypeError
    """

    shape: tuple[int, ...]
    dtype: str = "fp32"
    size_bytes: int | None = None
    layout: str = "NCHW"

    def __post_init__(self) -> None:
        try:
            shape = tuple(_count(f"a dimension of tensor shape {self.shape!r}", d, low=1) for d in self.shape)
        except TypeError:
            raise _unusable("a tensor's shape", self.shape, "a sequence of integers") from None
        object.__setattr__(self, "shape", shape)
        size = math.prod(shape) * ops.itemsize(self.dtype) if self.size_bytes is None else self.size_bytes
        object.__setattr__(self, "size_bytes", _count("size_bytes of a tensor", size))

    @property
    def numel(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class ParallelismDescriptor:
    """Independent work items of a subgraph; `total_threads` is the product unless given."""

    batch: int = 1
    channels: int = 1
    spatial: int = 1
    total_threads: int | None = None

    def __post_init__(self) -> None:
        for name in ("batch", "channels", "spatial"):
            object.__setattr__(self, name, _count(f"{name} of a parallelism descriptor", getattr(self, name), low=1))
        total = self.batch * self.channels * self.spatial if self.total_threads is None else self.total_threads
        object.__setattr__(self, "total_threads", _count("total_threads of a parallelism descriptor", total, low=1))


#: An operator of a subgraph: its kind and parameters, in the words of `graphs.ops`.
Call = tuple[str, Mapping[str, Any]]
_E = TypeVar("_E", bound=StrEnum)


@dataclass(frozen=True, slots=True)
class FusedSubgraph:
    """Operators that run as one unit.

    The latency of a subgraph comes from the best description it carries: `operators` (exact shapes), else the
    shapes of its tensors, else its totals.

    Attributes
    ----------
    subgraph_id : int or str
    node_ids, node_names : sequence of str
    operation_types : sequence of OperationType
        Names are accepted too.
    fusion_pattern : str
    total_flops : float
        FLOP, a multiply-add is 2; counted from `operators` when 0.
    total_macs : float
    total_input_bytes, total_output_bytes, total_weight_bytes : float
        Traffic across the boundary of the subgraph.
    internal_bytes : float
        Traffic that fusion keeps on chip; not part of `total_bytes`.
    arithmetic_intensity : float
        FLOP / byte, recomputed whenever FLOP and bytes are known.
    num_operators : int
    parallelism : ParallelismDescriptor, optional
    input_tensors, output_tensors, weight_tensors : sequence of TensorDescriptor
    operators : sequence of (op, params)
        What the subgraph runs, kernel by kernel.
    depends_on, dependency_type, recommended_bottleneck, partition_reason, partition_criteria, fusion_candidates
        What a partitioner recorded; carried along.

    Raises
    ------
    OperatorParameterError
        For a negative or non-finite number, an unknown operation type, or unusable operator parameters.
    UnknownOperatorError
        For an unknown kind in `operators`.

    Examples
    --------
    >>> s = FusedSubgraph(0, operators=[("matmul", {"m": 2048, "n": 2048, "k": 2048})])
    >>> s.total_flops, round(s.arithmetic_intensity, 2)
    (17179869184, 341.33)
    """

    subgraph_id: int | str
    node_ids: Sequence[str] = ()
    node_names: Sequence[str] = ()
    operation_types: Sequence[OperationType] = ()
    fusion_pattern: str = ""
    total_flops: float = 0
    total_macs: float = 0
    total_input_bytes: float = 0
    total_output_bytes: float = 0
    total_weight_bytes: float = 0
    internal_bytes: float = 0
    arithmetic_intensity: float = 0.0
    num_operators: int = 1
    parallelism: ParallelismDescriptor | None = None
    depends_on: Sequence[int | str] = ()
    dependency_type: str = "sequential"
    recommended_bottleneck: str = ""
    input_tensors: Sequence[TensorDescriptor] = ()
    output_tensors: Sequence[TensorDescriptor] = ()
    weight_tensors: Sequence[TensorDescriptor] = ()
    partition_reason: str = ""
    partition_criteria: Mapping[str, Any] = field(default_factory=dict)
    fusion_candidates: Sequence[int | str] = ()
    operators: Sequence[Call] = ()

    def __post_init__(self) -> None:
        for name in (*_TOTALS, "internal_bytes", "arithmetic_intensity"):
            _amount(f"{name} of subgraph {self.subgraph_id!r}", getattr(self, name))
        _count(f"num_operators of subgraph {self.subgraph_id!r}", self.num_operators, low=1)
        self._set("operation_types", tuple(_member(OperationType, "operation type", t) for t in self.operation_types))
        for name in ("node_ids", "node_names", "depends_on", "input_tensors", "output_tensors", "weight_tensors"):
            self._set(name, tuple(getattr(self, name)))
        self._set("operators", tuple(_call(entry) for entry in self.operators))
        if self.operators:
            self._set("num_operators", len(self.operators))
            if not self.total_flops:
                self._set("total_flops", self.cost(self.dtype)[0])
            if not self.total_macs:
                self._set("total_macs", self.total_flops / 2)
        nbytes = self.total_bytes or (self.cost(self.dtype)[1] if self.operators else 0)
        if self.total_flops and nbytes:
            self._set("arithmetic_intensity", self.total_flops / nbytes)
        if not self.recommended_bottleneck:
            self._set("recommended_bottleneck", _recommend(self.arithmetic_intensity))

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    @property
    def total_bytes(self) -> float:
        """Bytes across the boundary: inputs, outputs and weights; 0 if they were not given."""
        return self.total_input_bytes + self.total_output_bytes + self.total_weight_bytes

    @property
    def dtype(self) -> str:
        """Dtype of the first tensor that is described, else fp32."""
        tensors = (*self.input_tensors, *self.weight_tensors, *self.output_tensors)
        return ops.canonical(tensors[0].dtype) if tensors else "fp32"

    @property
    def name(self) -> str:
        """The fusion pattern, else the names of the nodes, else the id."""
        return self.fusion_pattern or "+".join(map(str, self.node_names)) or str(self.subgraph_id)

    def cost(self, dtype: str) -> tuple[int, int]:
        """Return exact FLOP and bytes of `operators` in a dtype, each kernel's operands counted once."""
        costs = [ops.evaluate(op, params, ops.itemsize(dtype)) for op, params in self.operators]
        return sum(int(c.flops) for c in costs), sum(int(c.bytes) for c in costs)


#: The older name of the same description.
SubgraphDescriptor = FusedSubgraph
_TOTALS = ("total_flops", "total_macs", "total_input_bytes", "total_output_bytes", "total_weight_bytes")


def as_precision(value: Precision | str) -> Precision:
    """Return a precision given as a member, its value, or another spelling of its dtype.

    Raises
    ------
    DtypeError

    >>> as_precision("torch.float16")
    <Precision.FP16: 'fp16'>
    """
    name = str(value)
    if name in _values(Precision):
        return Precision(name)
    dtype = ops.canonical(name)
    if dtype not in _values(Precision):
        raise DtypeError(
            "not a numeric precision", received=value, allowed=", ".join(_values(Precision)), next_step="choose one"
        )
    return Precision(dtype)


def _recommend(intensity: float) -> str:
    for above, name in ((50.0, "compute_bound"), (10.0, "balanced"), (1.0, "memory_bound")):
        if intensity > above:
            return name
    return "bandwidth_bound"


def _call(entry: Any) -> Call:
    try:
        op, params = entry
    except (TypeError, ValueError):
        raise _unusable("an operator of a subgraph", entry, '(op, params), such as ("relu", {"numel": 8})') from None
    kind = ops.get(op)
    return kind.name, kind.validate(ops.parse_params(params))


def _member(enum: type[_E], what: str, value: Any) -> _E:
    try:
        return enum(value)
    except ValueError:
        raise _unusable(f"an {what} of a subgraph", value, ", ".join(_values(enum))) from None


def _values(enum: Iterable[StrEnum]) -> list[str]:
    return [m.value for m in enum]


def _amount(what: str, value: Any) -> None:
    number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or value < 0:
        raise _unusable(what, value, "a finite number >= 0")


def _count(what: str, value: Any, low: int = 0) -> int:
    _amount(what, value)
    if value != int(value) or value < low:
        raise _unusable(what, value, f"an integer >= {low}")
    return int(value)


def _unusable(what: str, received: Any, allowed: str) -> OperatorParameterError:
    return OperatorParameterError(f"{what} is not usable", received=received, allowed=allowed, next_step="correct it")
