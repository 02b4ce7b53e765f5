"""Held-out predictions on disk: what the twin model said of rows it did not see.

The shipped model is fitted on all rows.  Its twin, of the same recipe, is fitted without the held-out rows, predicts
them once while training, and is thrown away: the predictions stay beside the shipped model.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from graphs import ops
from graphs.errors import ModelFileError
from graphs.hardware.calibration.calibration import HardwareCalibration
from graphs.hardware.mappers.registry import create_mapper
from training.dataset.splits import config_key
from training.fit.model import Trained, calibration_with

FILE = "held_out.parquet"


def keys_of(frame: pd.DataFrame) -> list[str]:
    """Return the key of each row as it is written."""
    return [config_key(o, d, p) for o, d, p in zip(frame["op"], frame["dtype"], frame["params"], strict=True)]


def predict(frame: pd.DataFrame, calibration: HardwareCalibration) -> pd.DataFrame:
    """Return `frame` with predicted_s, low_s, high_s, source, reason and extrapolated_s added.

    `extrapolated_s` is what the model would have said outside its domain too.
    """
    groups = ops.group_operators(frame["op"], frame["dtype"], frame["params"])
    hardware = calibration.profile.id
    e = create_mapper(hardware, calibration=calibration).map_operators(groups)
    x = create_mapper(hardware, calibration=calibration, out_of_domain="extrapolate").map_operators(groups)
    return frame.assign(
        predicted_s=e.latency_s, low_s=e.interval_low_s, high_s=e.interval_high_s, source=e.source.astype(object),
        reason=e.reason, extrapolated_s=x.latency_s,
    )  # fmt: skip


def predict_unseen(trained: Trained) -> pd.DataFrame:
    """Return the held-out rows with what the twin says of them (see `predict`)."""
    held_out = trained.frame[trained.frame["split"] != "train"].reset_index(drop=True)
    return predict(held_out, calibration_with(trained.twin))


def write(predicted: pd.DataFrame, folder: Path) -> None:
    """Write held-out predictions beside the model."""
    small = pd.DataFrame(
        {
            "key": keys_of(predicted),
            "dtype": predicted["dtype"],
            **{c: predicted[c] for c in ("predicted_s", "low_s", "high_s", "extrapolated_s")},
            "source": predicted["source"],
            "reason": predicted["reason"],
        }
    )  # fmt: skip
    small.astype(dict.fromkeys(("predicted_s", "low_s", "high_s", "extrapolated_s"), np.float32)).to_parquet(
        folder / FILE, index=False, compression="zstd"
    )


def read(folder: Path, frame: pd.DataFrame) -> pd.DataFrame:
    """Return the held-out rows of `frame` with the stored predictions of the twin.

    Raises
    ------
    ModelFileError
        If the predictions are missing, cannot be read, or are not those of these rows.
    """
    path = Path(folder) / FILE
    if not path.is_file():
        raise ModelFileError(
            f"'{folder}' has no held-out predictions ({FILE})",
            next_step="fit the model again with `graphs train`, or give rows with --ops",
        )
    columns = ("predicted_s", "low_s", "high_s", "extrapolated_s", "source", "reason")
    try:
        stored = pd.read_parquet(path, columns=["key", "dtype", *columns])
    except Exception as error:  # pandas and pyarrow raise many kinds; all mean that the file is not readable
        raise ModelFileError(
            f"the held-out predictions '{path}' cannot be read ({error})",
            allowed="the parquet file that `graphs train` writes",
            next_step="fit the model again with `graphs train`, or give rows with --ops",
        ) from error
    held_out = frame[frame["split"] != "train"].reset_index(drop=True)
    if keys_of(held_out) != stored["key"].tolist() or held_out["dtype"].tolist() != stored["dtype"].tolist():
        raise ModelFileError(
            f"the held-out predictions in '{folder}' are not those of the present data",
            received=f"{len(stored)} predictions",
            allowed=f"{len(held_out)} held-out rows",
            next_step="fit the model again with `graphs train`",
        )
    return held_out.assign(**{c: stored[c].to_numpy() for c in columns})
