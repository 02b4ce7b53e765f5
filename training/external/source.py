"""Where public measurements come from, and reading their files with every column checked."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from graphs.errors import DataError
from training.dataset.store import file_hash

#: Environment variable that names the folder with one sub-folder a source.
VARIABLE = "GRAPHS_EXTERNAL_DATA"


@dataclass(frozen=True, slots=True)
class Source:
    """A public set of measurements.

    Attributes
    ----------
    name : str
        Sub-folder of the data.
    title, repository, commit, date, licence : str
        Of the repository the rows were taken from.
    method : str
        How it measured.
    """

    name: str
    title: str
    repository: str
    commit: str
    date: str
    licence: str
    method: str

    def provenance(self, files: Sequence[Path]) -> dict[str, Any]:
        """Return where figures come from, with the hash of each file read."""
        return {
            "source": self.title, "repository": self.repository, "commit": self.commit, "date": self.date,
            "licence": self.licence, "method": self.method,
            "files": {path.name: file_hash(path) for path in files},
        }  # fmt: skip


AICONFIGURATOR = Source(
    "aiconfigurator", "AIConfigurator", "https://github.com/ai-dynamo/aiconfigurator",
    "095f58a51c4ca8e61b66ec108d86f223f8d559ce", "2026-08-21", "Apache-2.0",
    "CUDA-graph replay through TensorRT-LLM; GEMM weights rotate through up to five copies",
)  # fmt: skip
NEUSIGHT = Source(
    "neusight", "NeuSight", "https://github.com/sitar-lab/NeuSight", "6945927", "2025-06-23", "MIT-style",
    "CUDA events around one eager call, mean of the 5 fastest of 25: the launch gap is inside",
)  # fmt: skip


def data_folder(source: Source, data: Path | None = None) -> Path:
    """Return the folder of one source in `data`, or in the folder that the environment names, or in ``external`` there.

    Raises
    ------
    DataError
    """
    named = data or (Path(os.environ[VARIABLE]) if os.environ.get(VARIABLE) else None)
    found = [] if named is None else [p for p in (named / source.name, named / "external" / source.name) if p.is_dir()]
    if not found:
        raise DataError(
            f"the measurements of {source.title} were not found",
            received="no folder" if named is None else named.name,
            allowed=f"a folder that holds '{source.name}/' or 'external/{source.name}/'",
            next_step=f"name it with --data or in {VARIABLE}",
        )
    return found[0]


def read_rows(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    """Read a table that must have `columns` and positive finite ``latency_ms``.

    Raises
    ------
    DataError
    """
    try:
        # whole columns at once: mixed columns (kernel names that may be absent) are guessed piecewise otherwise
        frame = pd.read_csv(path, low_memory=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"table '{path.name}' cannot be read ({error})", next_step="check the file") from error
    missing = [c for c in columns if c not in frame]
    if missing:
        raise DataError(
            f"'{path.name}' lacks the columns {', '.join(missing)}",
            received=list(frame.columns),
            allowed=", ".join(columns),
            next_step="check that it is the file of this source",
        )
    latency = pd.to_numeric(frame["latency_ms"], errors="coerce").to_numpy(dtype=np.float64)
    bad = ~(np.isfinite(latency) & (latency > 0))
    if bad.any():
        raise DataError(
            f"{int(bad.sum())} rows of '{path.name}' have an unusable latency",
            received=frame["latency_ms"].iloc[int(np.argmax(bad))],
            allowed="finite milliseconds > 0",
            next_step="remove or repair these rows",
        )
    return frame.assign(latency_s=latency * 1e-3)
