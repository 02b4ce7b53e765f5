"""NeuSight's own method, from its description (Lee et al., ASPLOS 2025), as a baseline on the same splits.

An operator is cut into tiles; the tile is that of the nearest measured shape of the same GPU and operator.  Waves are
tiles over units, rounded up.  A network of all GPUs, one a family of operators, sees four logarithms of a tile against
one unit - FLOP against peak, bytes against bandwidth, bytes of all waves against memory and against the last-level
cache - and answers two numbers between 0 and 1, g and a:

    utilisation = g - a / waves
    latency = waves * tile FLOP * units / (min(peak, intensity * bandwidth) * utilisation)

It is trained on the symmetric relative error of the latency of a wave.  Two differences: the network is smaller (four
layers of 128 instead of eight of 512), to be fitted in a minute; and it is trained on every row that is not held out,
not on large ones only, because small ones are among those it is asked for.  The method has no term for the launch of a
kernel, and none for convolutions.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from sklearn.neighbors import NearestNeighbors

from training.external import neusight
from training.external.machines import NEUSIGHT_SYSTEMS
from training.external.splits import splits

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

#: Networks, and the operators each answers for.
FAMILIES: dict[str, tuple[str, ...]] = {
    "bmm": ("bmm",), "linear": ("linear",), "softmax": ("softmax",), "layernorm": ("layernorm",),
    "vector": ("add", "mul", "pow", "div", "addu", "mulu", "powu", "divu", "relu", "gelu", "tanh"),
}  # fmt: skip
#: Memory of the GPUs, bytes.
MEMORY = {
    "A100-PCIE-40GB": 40e9, "A100-PCIE-80GB": 80e9, "V100-PCIE-32GB": 32e9, "P100-PCIE-16GB": 16e9, "T4": 16e9,
    "P4": 8e9, "MI100": 32e9, "MI210": 64e9,
}  # fmt: skip
WIDTH, HIDDEN = 128, 4
BATCH, EPOCHS, STEPS, RATE = 256, 40, 3500, 2e-3
#: Share of the training rows that picks the epoch.
VALIDATION = 0.2
#: A tile of a product whose kernel's name states none.
_PLAIN_TILE = (128.0, 128.0)
#: Utilisation is at least this: the formula has no lower bound of its own.
_LEAST = 1e-3


@dataclass(frozen=True, slots=True)
class Tiles:
    """Rows cut into tiles, (n,) each; `x` is (n, 4)."""

    x: Array
    waves: Array
    ideal_s: Array
    latency_s: Array

    def take(self, some: NDArray[np.generic]) -> Tiles:
        """Return some of the rows."""
        return Tiles(self.x[some], self.waves[some], self.ideal_s[some], self.latency_s[some])


def predictions(frame: pd.DataFrame, split: str, family: str, seed: int = 0) -> dict[str, Array]:
    """Return the seconds predicted for the held-out rows of each set of a family, in the order of `frame`.

    Parameters
    ----------
    frame : DataFrame
        Rows of `training.external.neusight.read_ops`, all sets.
    split : str
        Name of a split of `training.external.splits`.
    family : str
        Key of `FAMILIES`.
    seed : int
    """
    seen: list[Tiles] = []
    asked: dict[str, Tiles] = {}
    for name, rows in frame[frame["op"].isin(FAMILIES[family])].groupby("set", sort=True):
        held = splits(rows)[split]
        train, query = cut(rows, ~held), cut(rows, held, table=~held)
        seen.append(train)
        asked[str(name)] = query
    network = fit(
        Tiles(*(np.concatenate([getattr(t, f) for t in seen]) for f in ("x", "waves", "ideal_s", "latency_s"))), seed
    )
    return {name: network(tiles) for name, tiles in asked.items()}


def cut(rows: pd.DataFrame, some: Mask, table: Mask | None = None) -> Tiles:
    """Cut some rows of one set into tiles.

    Parameters
    ----------
    rows : DataFrame
        One set.
    some : (n,) bool
    table : (n,) bool, optional
        Measured rows whose tiles are known; the others take that of the nearest of them.  None: `some` know theirs.
    """
    own = rows[some]
    system = NEUSIGHT_SYSTEMS[str(rows["gpu"].iloc[0])].machine
    if table is None:
        tile = _measured_tile(own)
    else:
        known = rows[table]
        shape = [c for c in ("b", "m", "n", "k", "rows", "cols") if known[c].notna().all()]
        nearest = NearestNeighbors(n_neighbors=1).fit(known[shape]).kneighbors(own[shape], return_distance=False)
        tile = _measured_tile(known)[nearest[:, 0]]
    calls = neusight.group(own)
    if rows["op"].iloc[0] in ("bmm", "linear"):
        b, m, n, k = (own[c].to_numpy(dtype=np.float64) for c in ("b", "m", "n", "k"))
        blocks = b * np.ceil(m / tile[:, 0]) * np.ceil(n / tile[:, 1])
        flops = 2 * tile[:, 0] * tile[:, 1] * k
        nbytes = 4 * (tile[:, 0] * k + tile[:, 1] * k + tile[:, 0] * tile[:, 1])
    else:
        # a row of softmax or layernorm; elements of the others
        elements = own["rows"].to_numpy(dtype=np.float64) * own["cols"].to_numpy(dtype=np.float64)
        size = own["cols"].to_numpy(dtype=np.float64) if rows["op"].iloc[0] in ("softmax", "layernorm") else tile[:, 0]
        blocks = np.ceil(elements / size)
        flops, nbytes = (v / elements * size for v in (calls.flops, calls.bytes))
    waves = np.ceil(blocks / system.units)
    peak, bandwidth = system.peaks["fp32"], system.bandwidth_bytes_per_s
    rate = np.minimum(peak, flops * blocks / calls.bytes * bandwidth)
    each = [flops / peak, nbytes / bandwidth, waves * nbytes / MEMORY[str(rows["gpu"].iloc[0])],
            waves * nbytes / system.l2_bytes]  # fmt: skip
    x = np.log2(np.stack(each, axis=1) * system.units)
    return Tiles(x, waves, waves * flops * system.units / rate, own["latency_s"].to_numpy(dtype=np.float64))


def _measured_tile(rows: pd.DataFrame) -> Array:
    """Return (tile rows, tile columns) of products from the kernel's name, (elements, 1) from the grid, (n, 2)."""
    if rows["op"].iloc[0] in ("bmm", "linear"):
        # names of cuBLAS are column-major: the first number runs along our n
        found = rows["kernel"].astype(str).str.extract(r"(\d+)x(\d+)").astype(np.float64)
        return np.stack([found[1].fillna(_PLAIN_TILE[0]), found[0].fillna(_PLAIN_TILE[1])], axis=1)
    elements = rows["rows"].to_numpy(dtype=np.float64) * rows["cols"].to_numpy(dtype=np.float64)
    tile = 2.0 ** np.ceil(np.log2(np.maximum(elements / rows["grid_x"].to_numpy(dtype=np.float64), 1.0)))
    return np.stack([tile, np.ones_like(tile)], axis=1)


class Network:
    """A fitted network of one family."""

    def __init__(self, layers: torch.nn.Sequential, shift: Array, scale: Array) -> None:
        self.layers, self.shift, self.scale = layers, shift, scale

    def __call__(self, tiles: Tiles) -> Array:
        """Return seconds, (n,)."""
        with torch.no_grad():
            used = self.utilisation(self.inputs(tiles), torch.tensor(tiles.waves, dtype=torch.float32))
        return np.asarray(tiles.ideal_s / used.numpy().astype(np.float64))

    def inputs(self, tiles: Tiles) -> torch.Tensor:
        """Return the standardised inputs (n, 4)."""
        return torch.tensor((tiles.x - self.shift) / self.scale, dtype=torch.float32)

    def utilisation(self, x: torch.Tensor, waves: torch.Tensor) -> torch.Tensor:
        """Return g - a / waves, (n,)."""
        g, a = torch.sigmoid(self.layers(x)).unbind(1)
        return (g - a / waves).clamp_min(_LEAST)


def fit(tiles: Tiles, seed: int) -> Network:
    """Train on rows (n,), keeping the epoch that is best on a fifth of them."""
    torch.manual_seed(seed)
    sizes = [tiles.x.shape[1], *[WIDTH] * HIDDEN, 2]
    layers = torch.nn.Sequential()
    for left, right in itertools.pairwise(sizes[:-1]):
        layers.extend([torch.nn.Linear(left, right), torch.nn.ReLU()])
    last = torch.nn.Linear(sizes[-2], sizes[-1])
    layers.append(last)
    network = Network(layers, tiles.x.mean(axis=0), np.maximum(tiles.x.std(axis=0), 1e-9))
    with torch.no_grad():
        # starts at a positive utilisation: g near 0.6, a near 0.05
        last.bias.copy_(torch.tensor([0.5, -3.0]))
    out = np.random.default_rng(seed).random(len(tiles.waves)) < VALIDATION
    train, held = tiles.take(~out), tiles.take(out)
    x, waves, ideal, target = (
        network.inputs(train),
        *(torch.tensor(v, dtype=torch.float32) for v in (train.waves, train.ideal_s, train.latency_s)),
    )
    each = -(-len(target) // BATCH)
    epochs = min(EPOCHS, max(STEPS // each, 1))
    optimiser = torch.optim.AdamW(layers.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=RATE, total_steps=epochs * each)
    best, kept = np.inf, {k: v.clone() for k, v in layers.state_dict().items()}
    for _ in range(epochs):
        for rows in torch.randperm(len(target)).split(BATCH):  # type: ignore[no-untyped-call]
            # waves cancel in the relative error of the latency of a wave
            predicted = ideal[rows] / network.utilisation(x[rows], waves[rows])
            loss = (2 * (predicted - target[rows]).abs() / (predicted + target[rows])).mean()
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(layers.parameters(), 1.0)
            optimiser.step()
            schedule.step()
        error = float(np.abs(network(held) / held.latency_s - 1.0).mean())
        if error < best:
            best, kept = error, {k: v.clone() for k, v in layers.state_dict().items()}
    layers.load_state_dict(kept)
    return network
