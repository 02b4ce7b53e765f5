"""Kernel names of some measured calls, from the profiler: import and reading.

``python -m training.dataset.kernels HARDWARE --table FILE --names FILE`` checks and converts them to
``data/HARDWARE/kernels.parquet`` and ``kernel_names.json``.
"""

from __future__ import annotations

import gzip
import json
import os
import re
from pathlib import Path

import click
import numpy as np
import pandas as pd

from graphs.errors import DataError
from graphs.hardware.profile import load_profile
from training.dataset.splits import config_key
from training.dataset.store import read_table

TABLE, NAMES = "kernels.parquet", "kernel_names.json"
_COLUMNS = ("op", "dtype", "params", "kernels")
#: Words that tell what a kernel does, the first that fits; the others are told by the name without its sizes.
_KNOWN = (
    "nvjet", "gemmSN", "gemv", "splitKreduce", "winograd", "fft", "implicit_convolve_sgemm", "precomputed_convolve",
    "convolve_common_engine", "dgrad", "conv2d_c1_k1", "conv_depthwise2d", "nchwToNhwc", "nhwcToNchw",
    "tensorTransformGeneric", "genericTranspose", "nhwcAddPadding", "elementwise_kernel", "fmha", "sdpa_sm90",
    "flash_fwd", "reduce_kernel", "softmax",
)  # fmt: skip


def family_of_kernel(name: str) -> str:
    """Return what a kernel is, without dtype, tile and stage sizes.

    >>> family_of_kernel("nvjet_sm90_tst_64x16_64x16_2x4_h_bz_bias_NNT")
    'nvjet'
    >>> family_of_kernel("sm80_xmma_fprop_implicit_gemm_f32f32_f32f32_f32_nchwkcrs_nchw_tilesize128x32x8_stage3")
    'sm80_xmma_fprop_implicit_gemm'
    """
    for word in _KNOWN:
        if word in name:
            return word
    if found := re.search(r"sm\d\d_xmma_\w*?(?:implicit_gemm|gemm|convolution)(?:_indexed)?", name):
        return found[0]
    if found := re.search(r"cutlass(?:_\d\d)?_(?:wmma_tensorop|tensorop|simt)", name):
        return found[0] + ("_fprop" if "fprop" in name else "")
    return re.sub(r"[<(].*", "", name.removeprefix("void "))[:40]


def tile_of_kernel(name: str) -> tuple[int, int]:
    """Return the rows and columns of the output tile that a name tells, (0, 0) where it tells none.

    >>> tile_of_kernel("nvjet_sm90_tst_192x64_64x16_2x4_h_bz_bias_NNT")
    (192, 64)
    """
    found = (
        re.search(r"tilesize(\d+)x(\d+)x\d+", name)
        or re.search(r"nvjet_sm90_\w+?_(\d+)x(\d+)_\d+", name)
        or re.search(r"_(\d+)x(\d+)_\d+x\d+", name)
    )
    return (int(found[1]), int(found[2])) if found else (0, 0)


def convert(table: pd.DataFrame, names: dict[str, str]) -> tuple[pd.DataFrame, dict[str, str]]:
    """Return the stored form of a profiler table, and the names it uses.

    Parameters
    ----------
    table : DataFrame
        op, dtype, params (JSON) and kernels: JSON list of [name id, microseconds], one entry a kernel of the call.
    names : dict of str
        By name id.

    Returns
    -------
    DataFrame, dict of str
        op, dtype, params (canonical JSON), kernels (ids) and kernels_us (float32), in the order of the call.

    Raises
    ------
    DataError
        For a missing column, a call without kernels, an unknown id, a bad duration or a configuration twice.
    """
    missing = [c for c in _COLUMNS if c not in table]
    if missing:
        raise DataError(
            f"the kernel table lacks the columns {', '.join(missing)}",
            received=", ".join(map(str, table.columns)),
            allowed=", ".join(_COLUMNS),
            next_step="add or rename them",
        )
    rows = []
    seen: dict[str, int] = {}
    for i, (op, dtype, params, text) in enumerate(table[list(_COLUMNS)].itertuples(index=False)):
        calls = json.loads(text)
        where = f"row {i} of the kernel table"
        if not calls or any(str(k) not in names for k, _ in calls):
            raise DataError(f"{where} has no kernels or unknown ones", received=text[:80], allowed="ids of the names")
        if not all(np.isfinite(us) and us > 0 for _, us in calls):
            raise DataError(f"{where} has a bad duration", received=text[:80], allowed="positive microseconds")
        key = config_key(op, dtype, params)
        if key in seen:
            raise DataError(f"{where} repeats row {seen[key]}", received=key, next_step="keep one of them")
        seen[key] = i
        canonical = json.dumps(json.loads(params), sort_keys=True, separators=(",", ":"))
        rows.append((op, dtype, canonical, [int(k) for k, _ in calls], [float(us) for _, us in calls]))
    out = pd.DataFrame(rows, columns=["op", "dtype", "params", "kernels", "kernels_us"])
    used = sorted({k for row in out["kernels"] for k in row})
    return out, {str(k): names[str(k)] for k in used}


def write_kernels(folder: Path, frame: pd.DataFrame, names: dict[str, str]) -> None:
    """Write both files; each is replaced in one step."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema(
        [(c, pa.string()) for c in ("op", "dtype", "params")]
        + [("kernels", pa.list_(pa.int16())), ("kernels_us", pa.list_(pa.float32()))]
    )
    temporary = folder / f".{TABLE}.tmp"
    pq.write_table(
        pa.Table.from_pandas(frame, schema=schema, preserve_index=False),
        temporary, compression="zstd", compression_level=19,
    )  # fmt: skip
    os.replace(temporary, folder / TABLE)
    temporary = folder / f".{NAMES}.tmp"
    temporary.write_text(json.dumps(names, indent=0) + "\n", encoding="utf-8")
    os.replace(temporary, folder / NAMES)


def read_kernels(folder: Path) -> pd.DataFrame:
    """Return key, longest (kernel family of the longest kernel), tile_m and tile_n (its tile) and count (of kernels).

    Raises
    ------
    DataError
        If the folder has no kernel names.
    """
    if not (folder / TABLE).is_file() or not (folder / NAMES).is_file():
        raise DataError(f"'{folder}' has no kernel names", next_step="import them: python -m training.dataset.kernels")
    frame = pd.read_parquet(folder / TABLE)
    names = json.loads((folder / NAMES).read_text(encoding="utf-8"))
    families = {int(k): (family_of_kernel(v), *tile_of_kernel(v)) for k, v in names.items()}
    longest = [families[int(k[np.argmax(us)])] for k, us in zip(frame["kernels"], frame["kernels_us"], strict=True)]
    out = pd.DataFrame(longest, columns=["longest", "tile_m", "tile_n"])
    keys = [config_key(*row) for row in zip(frame["op"], frame["dtype"], frame["params"], strict=True)]
    return out.assign(key=keys, count=frame["kernels"].map(len).to_numpy())


@click.command()
@click.argument("hardware")
@click.option("--table", type=click.Path(exists=True, path_type=Path), required=True, help="op, dtype, params, kernels")
@click.option("--names", type=click.Path(exists=True, path_type=Path), required=True, help="JSON: id -> kernel name")
@click.option("--out", type=click.Path(path_type=Path), help="default: data/HARDWARE")
def main(hardware: str, table: Path, names: Path, out: Path | None) -> None:
    """Import the profiler's kernel names of calls on HARDWARE."""
    folder = out or Path("data") / load_profile(hardware).id
    raw = names.read_bytes()
    text = gzip.decompress(raw) if names.suffix == ".gz" else raw
    frame, used = convert(read_table(table), json.loads(text))
    folder.mkdir(parents=True, exist_ok=True)
    write_kernels(folder, frame, used)
    click.echo(f"kernels: {len(frame)} calls, {len(used)} names")


if __name__ == "__main__":
    main()
