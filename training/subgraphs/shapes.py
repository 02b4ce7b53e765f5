"""Operator calls of each torch.fx node of public networks: ``python -m training.subgraphs shapes`` (torchvision).

The public tables name the nodes of a subgraph and hold no shape.  A node runs the same calls whenever the same
network is traced, so the calls are recorded once, here, and stored in ``data/fx-shapes``: network definitions only,
nothing measured.  Training reads them without torchvision.
"""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graphs.errors import DataError
from graphs.subgraph import Call
from graphs.tracing.compat import ready_torchvision

#: Networks of the public tables.
NETWORKS = (
    "efficientnet_b0", "efficientnet_b1", "maxvit_t", "mobilenet_v2", "mobilenet_v3_large", "mobilenet_v3_small",
    "resnet18", "resnet34", "resnet50", "resnet101", "vgg11", "vgg16", "vit_b_16", "vit_b_32", "vit_l_16",
)  # fmt: skip
#: Those measured at more than one batch, and the batches.
IMAGE_NETWORKS = (*NETWORKS[:2], *NETWORKS[3:10], "vgg16")
BATCHES = (1, 4, 16, 64)
#: Side of the square input images, where another than `SIDE`: seen from the FLOP that the public tables record.
SIDES = {"efficientnet_b1": 240}
SIDE = 224
SCHEMA = "graphs.fx-nodes"
VERSION = 1


@dataclass(frozen=True, slots=True)
class Node:
    """One node of a graph: its module class or function, and the operators that it runs.

    Nodes without operators (views, checks, attributes) only cost their dispatch.
    """

    label: str
    calls: tuple[Call, ...]


def record(network: str) -> dict[str, Any]:
    """Return the stored form of a network's nodes at each of its batches."""
    import torch

    ready_torchvision()
    import torchvision

    batches = {}
    labels: dict[str, str] = {}
    for batch in BATCHES if network in IMAGE_NETWORKS else BATCHES[:1]:
        nodes = _nodes(network, batch)
        labels = {name: node.label for name, node in nodes.items()}
        batches[str(batch)] = {name: node.calls for name, node in nodes.items() if node.calls}
    return {
        "schema": SCHEMA, "version": VERSION, "network": network, "side": SIDES.get(network, SIDE),
        "torch": torch.__version__.split("+")[0], "torchvision": torchvision.__version__.split("+")[0],
        "labels": labels, "calls": batches,
    }  # fmt: skip


def read_nodes(folder: Path, network: str, batch: int) -> dict[str, Node]:
    """Return the nodes of a network at a batch size, by name in program order.

    Raises
    ------
    DataError
    """
    path = folder / f"{network}.json.gz"
    try:
        raw = json.loads(gzip.decompress(path.read_bytes()))
        if (raw.get("schema"), raw.get("version")) != (SCHEMA, VERSION):
            raise ValueError(f"schema {raw.get('schema')!r} version {raw.get('version')!r}")
        calls = raw["calls"][str(batch)]
        return {
            name: Node(label, tuple((op, _plain(params)) for op, params in calls.get(name, ())))
            for name, label in raw["labels"].items()
        }
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise DataError(
            f"the nodes of network '{network}' at batch {batch} cannot be read ({type(error).__name__}: {error})",
            received=str(path),
            allowed=f"schema {SCHEMA}, version {VERSION}",
            next_step="rebuild them with `python -m training.subgraphs shapes` where torchvision is installed",
        ) from error


def write(folder: Path, network: str) -> Path:
    """Record a network and store it; the bytes depend on the content alone."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{network}.json.gz"
    text = json.dumps(record(network), separators=(",", ":"))
    path.write_bytes(gzip.compress(text.encode(), 9, mtime=0))
    return path


def _nodes(network: str, batch: int) -> dict[str, Node]:
    """Interpret the graph of a network on tensors without data and note the calls of each node."""
    import torch
    from torch import fx
    from torch._subclasses.fake_tensor import FakeTensorMode

    from graphs.tracing.compat import library_shims
    from graphs.tracing.frontends import load_model
    from graphs.tracing.recorder import Recorder

    out: dict[str, Node] = {}
    graph = fx.symbolic_trace(load_model(f"torchvision:{network}").factory().eval().to("meta"))
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad(), library_shims():
        recorder = Recorder()

        class Interpreter(fx.Interpreter):
            def run_node(self, n: fx.Node) -> Any:
                before = len(recorder.calls)
                value = super().run_node(n)
                if n.op not in ("placeholder", "output"):
                    target = self.fetch_attr(str(n.target)) if n.op == "call_module" else n.target
                    label = type(target).__name__ if n.op == "call_module" else getattr(target, "__name__", str(target))
                    calls = tuple((c.op, dict(c.params)) for c in recorder.calls[before:] if c.op)
                    out[n.name] = Node(label, calls)
                return value

        side = SIDES.get(network, SIDE)
        images = torch.empty(batch, 3, side, side)
        with recorder, torch._C._AutoDispatchBelowAutograd():
            Interpreter(graph).run(images)
    return out


def _plain(params: dict[str, Any]) -> dict[str, Any]:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in params.items()}
