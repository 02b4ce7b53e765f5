"""Named arrays as one blob of bytes: written the same for the same arrays, read without running code."""

from __future__ import annotations

import hashlib
import io
import os
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphs.errors import ModelFileError

#: What the arrays of one model may take unpacked: a hundred times the largest model.  Members that state less than
#: they hold are cut off there by zipfile.
MOST_BYTES = 1 << 30
#: What numpy, zipfile and zlib raise on bytes that are no archive of plain arrays.
_UNREADABLE = (
    OSError, ValueError, EOFError, KeyError, TypeError, AttributeError, RuntimeError, MemoryError, zipfile.BadZipFile,
    zlib.error,
)  # fmt: skip


def pack(arrays: dict[str, NDArray[Any]]) -> tuple[bytes, str]:
    """Return a compressed ``.npz`` in fixed order with fixed time stamps, and its SHA-256."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name in sorted(arrays):
            member = io.BytesIO()
            np.lib.format.write_array(member, np.asarray(arrays[name]), allow_pickle=False)
            info = zipfile.ZipInfo(name + ".npy", date_time=(2000, 1, 1, 0, 0, 0))
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, member.getvalue())
    blob = stream.getvalue()
    return blob, hashlib.sha256(blob).hexdigest()


def unpack(blob: bytes, digest: object, origin: str, next_step: str) -> dict[str, NDArray[Any]]:
    """Return the arrays of a blob.

    Parameters
    ----------
    blob : bytes
    digest : str
        The SHA-256 that the header gives; anything else does not match.
    origin : str
        What error messages call the file.
    next_step : str
        What they advise.

    Raises
    ------
    ModelFileError
        If the blob is not the one with this digest, or holds anything but finite numbers.
    """
    found = hashlib.sha256(blob).hexdigest()
    if found != digest:
        raise ModelFileError(
            f"'{origin}' is damaged: it is not the file that its header describes",
            received=f"sha256 {found[:12]}...", allowed=f"sha256 {str(digest)[:12]}...", next_step=next_step,
        )  # fmt: skip
    try:
        with zipfile.ZipFile(io.BytesIO(blob)) as archive:
            size = sum(member.file_size for member in archive.infolist())
        if size > MOST_BYTES:
            raise ValueError(f"{size} bytes unpacked, of at most {MOST_BYTES}")
        with np.load(io.BytesIO(blob), allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
    except _UNREADABLE as error:
        raise ModelFileError(f"'{origin}' does not hold plain arrays ({error})", next_step=next_step) from error
    for name, value in arrays.items():
        # numpy gives members that are no arrays as bytes
        kind = value.dtype.kind if isinstance(value, np.ndarray) else ""
        if not kind or kind not in "fiu" or (kind == "f" and not np.isfinite(value).all()):
            raise ModelFileError(
                f"array '{name}' of '{origin}' is not usable",
                received=str(getattr(value, "dtype", type(value).__name__)),
                allowed="finite numbers", next_step=next_step,
            )  # fmt: skip
    return arrays


def replace_file(path: Path, content: bytes) -> None:
    """Write a file whole or not at all: what stood there stays until the new one is complete."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(content)
    os.replace(temporary, path)
