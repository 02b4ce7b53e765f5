"""The real subgraph tables, where GRAPHS_EXTERNAL_DATA names their folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from training.subgraphs.dataset import CAMPAIGNS, read_subgraphs

SHAPES = Path(__file__).parents[2] / "data" / "fx-shapes"


@pytest.mark.external
@pytest.mark.parametrize("hardware", sorted(CAMPAIGNS))
def test_every_row_finds_its_nodes_and_the_recorded_flop_confirm_the_shapes(hardware: str, external_data: Path) -> None:
    folder = next(p for p in (external_data, external_data / "external") if (p / "branes_graphs").is_dir())
    data = read_subgraphs(folder / "branes_graphs", SHAPES, hardware)
    dropped = {k for k in data.counts if k.startswith("dropped")}
    assert dropped == {"dropped: precision is emulated here, or not asked for"}
    assert data.counts["kept"] == {"i7-12700k": 4506, "ryzen-9-8945hs": 2364, "jetson-orin-agx": 36048}[hardware]
    # rows without FLOP are kept: their time is part of a model's
    assert data.counts["flagged: no FLOP, learned as latency"] > 0.3 * data.counts["kept"]
