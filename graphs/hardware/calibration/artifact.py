"""Fitted models on disk: one ``.npz`` of plain arrays and one JSON header.  Loading runs no code.

Load is three steps: read the header and check its version, check that the arrays are those the header describes,
then construct.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphs.errors import ModelFileError, SchemaVersionError
from graphs.hardware.calibration import features
from graphs.hardware.calibration.arrays import pack, replace_file, unpack
from graphs.hardware.calibration.domain import Domain
from graphs.hardware.calibration.features import FEATURES_VERSION, Machine
from graphs.hardware.calibration.fitted import EfficiencyModel, FamilyModel, Interval
from graphs.hardware.calibration.header_checks import check, parse_header
from graphs.hardware.calibration.regressors import GaussianProcesses, build

FORMAT = "graphs-efficiency-model"
#: Raise it whenever an old reader would misread a new file: keep the old reader here under its number, and add a
#: test that reads a file of the old version.
SCHEMA_VERSION = 1
HEADER, ARRAYS, CARD = "model.json", "model.npz", "CARD.md"


def save_model(model: EfficiencyModel, folder: Path) -> None:
    """Write header and arrays into `folder`; each file is replaced in one step, arrays first."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, NDArray[Any]] = {}
    families = {}
    for family in model.families.values():
        members, taken = [], 0
        for i, member in enumerate(family.members):
            weights = family.weights[taken : taken + member.n_outputs]
            taken += member.n_outputs
            entry: dict[str, Any] = {"form": member.form, "weights": [float(w) for w in weights]}
            if isinstance(member, GaussianProcesses):
                # weights belong to outputs by their place, and arrays come back in alphabetical order
                entry["partitions"] = list(member.labels)
            members.append(entry)
            for name, value in member.arrays().items():
                arrays[f"{family.family}/{i}/{name}"] = np.asarray(value)
        families[family.family] = {
            "t0_s": family.t0_s,
            "features": list(family.feature_names),
            "members": members,
            "interval": {
                "quantile": family.interval.quantile, "floor": family.interval.floor,
                "level": family.interval.level, "rows": family.interval.rows,
            },
            "domains": {op: d.to_dict() for op, d in family.domains.items()},
            "scores": family.scores,
        }  # fmt: skip
    blob, digest = pack(arrays)
    header = {
        "format": FORMAT,
        "schema_version": SCHEMA_VERSION,
        "hardware": model.hardware,
        "features_version": FEATURES_VERSION,
        "arrays_sha256": digest,
        "machine": {
            "units": model.machine.units, "l2_bytes": model.machine.l2_bytes, "peaks": dict(model.machine.peaks),
            "bandwidth_bytes_per_s": model.machine.bandwidth_bytes_per_s, "kind": model.machine.kind,
        },
        **{k: v for k, v in model.header.items() if k not in _RESERVED},
        "families": families,
    }  # fmt: skip
    # before anything is replaced: a number that is none would make a file that no one can read
    text = json.dumps(header, indent=1, allow_nan=False) + "\n"
    replace_file(folder / ARRAYS, blob)
    replace_file(folder / HEADER, text.encode())


_RESERVED = {"format", "schema_version", "hardware", "features_version", "arrays_sha256", "machine", "families"}


def load_model(folder: Path) -> EfficiencyModel:
    """Load a fitted model.

    Raises
    ------
    ModelFileError
        If a file is missing, damaged, or not a fitted model.
    SchemaVersionError
        If it was written by another version of this package.
    """
    folder = Path(folder)
    header = _read_header(folder)
    arrays = _read_arrays(folder, header)
    origin = str(folder)
    try:
        m = header["machine"]
        machine = Machine(
            units=int(m["units"]), l2_bytes=float(m["l2_bytes"]), peaks={k: float(v) for k, v in m["peaks"].items()},
            bandwidth_bytes_per_s=float(m["bandwidth_bytes_per_s"]), kind=m["kind"],
        )  # fmt: skip
        families = {}
        for name, raw in header["families"].items():
            members = []
            for i, entry in enumerate(raw["members"]):
                prefix = f"{name}/{i}/"
                own = {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}
                member = build(entry["form"], own, origin)
                if isinstance(member, GaussianProcesses):
                    member = member.in_order(entry.get("partitions") or _as_fitted(name, raw["features"]))
                members.append(member)
            families[name] = FamilyModel(
                family=name,
                t0_s=float(raw["t0_s"]),
                feature_names=tuple(raw["features"]),
                members=members,
                weights=np.array([w for e in raw["members"] for w in e["weights"]], dtype=np.float64),
                interval=Interval(**raw["interval"]),
                domains={op: Domain.from_dict(d) for op, d in raw["domains"].items()},
                scores=raw["scores"],
            )
        model = EfficiencyModel(str(header["hardware"]), machine, families, header)
        check(model)
        return model
    except ModelFileError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, IndexError) as error:
        raise ModelFileError(
            f"the header of fitted model '{folder}' is incomplete or unusable ({type(error).__name__}: {error})",
            next_step=_REFIT,
        ) from error


def _as_fitted(family: str, names: list[str]) -> list[str]:
    """Return the order of partitions in training, for models whose header does not give it."""
    return list(features.partitions(family, names, np.zeros((1, len(names)))))


_REFIT = "restore the folder, or fit it again with `graphs train`"


def _read_header(folder: Path) -> dict[str, Any]:
    path = folder / HEADER
    try:
        header = parse_header(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelFileError(f"fitted model '{folder}' has no readable {HEADER} ({error})", next_step=_REFIT) from error
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise ModelFileError(
            f"'{path}' is not the header of a fitted model",
            received=header.get("format") if isinstance(header, dict) else type(header).__name__,
            allowed=FORMAT,
            next_step=_REFIT,
        )
    for key, known in (("schema_version", SCHEMA_VERSION), ("features_version", FEATURES_VERSION)):
        found = header.get(key)
        if found != known:
            newer = isinstance(found, int) and found > known
            raise SchemaVersionError(
                f"fitted model '{folder}' has another {key}",
                received=found,
                allowed=known,
                next_step="upgrade graphs to read it" if newer else "fit it again with `graphs train`",
            )
    return header


def _read_arrays(folder: Path, header: dict[str, Any]) -> dict[str, NDArray[Any]]:
    path = folder / ARRAYS
    try:
        blob = path.read_bytes()
    except OSError as error:
        raise ModelFileError(f"fitted model '{folder}' has no readable {ARRAYS} ({error})", next_step=_REFIT) from error
    return unpack(blob, header.get("arrays_sha256"), str(path), _REFIT)
