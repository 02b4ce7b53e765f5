"""Damaged, foreign, newer and hostile model files: each a typed error that says what to do, and no code is run."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import pickle
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toy_hardware import group, make_model

from graphs.errors import ModelFileError, SchemaVersionError
from graphs.hardware.calibration.artifact import ARRAYS, FORMAT, HEADER, SCHEMA_VERSION, load_model, save_model
from graphs.hardware.calibration.calibration import load_calibration
from graphs.hardware.calibration.features import FEATURES_VERSION


@pytest.fixture
def folder(toy_tree: Path) -> Path:
    return toy_tree / "models" / "toy-gpu"


def edit_header(folder: Path, **changes: Any) -> None:
    header = json.loads((folder / HEADER).read_text())
    for key, value in changes.items():
        if value is None:
            header.pop(key)
        else:
            header[key] = value
    (folder / HEADER).write_text(json.dumps(header))


def put_arrays(folder: Path, blob: bytes) -> None:
    """Replace the arrays and make the header vouch for them, as an attacker would."""
    (folder / ARRAYS).write_bytes(blob)
    edit_header(folder, arrays_sha256=hashlib.sha256(blob).hexdigest())


def refuses(folder: Path, *words: str, error: type[ModelFileError] = ModelFileError) -> None:
    with pytest.raises(error) as caught:
        load_model(folder)
    for word in (*words, "fit it again", "graphs train") if error is ModelFileError else words:
        assert word in str(caught.value), f"{word!r} is not in: {caught.value}"


def test_untouched_model_loads(folder: Path) -> None:
    model = load_model(folder)
    assert model.hardware == "toy-gpu"
    assert set(model.families) == {"gemm", "unary"}
    assert set(model.families["gemm"].domains) == {"matmul", "linear"}


def test_flipped_byte(folder: Path) -> None:
    blob = bytearray((folder / ARRAYS).read_bytes())
    blob[len(blob) // 2] ^= 1
    (folder / ARRAYS).write_bytes(blob)
    refuses(folder, "is damaged", "sha256")


@pytest.mark.parametrize("keep", [0, 1, 100, -1])
def test_truncated_arrays(folder: Path, keep: int) -> None:
    blob = (folder / ARRAYS).read_bytes()[:keep]
    (folder / ARRAYS).write_bytes(blob)
    refuses(folder, "is damaged")
    put_arrays(folder, blob)
    refuses(folder, "does not hold plain arrays")


def test_flipped_byte_that_the_header_vouches_for(folder: Path) -> None:
    whole = (folder / ARRAYS).read_bytes()
    for at in range(30, len(whole), max(1, len(whole) // 60)):
        blob = bytearray(whole)
        blob[at] ^= 0xFF
        put_arrays(folder, bytes(blob))
        # some bytes nothing reads, such as time stamps
        with contextlib.suppress(ModelFileError):
            load_model(folder)


def test_missing_files(folder: Path) -> None:
    shutil.copytree(folder, folder.parent / "no-header")
    (folder / ARRAYS).unlink()
    refuses(folder, ARRAYS)
    (folder.parent / "no-header" / HEADER).unlink()
    refuses(folder.parent / "no-header", HEADER)
    refuses(folder.parent / "nothing-there", HEADER)


@pytest.mark.parametrize("text", ["", "{", "not json", '{"a": 1} trailing', "\x00"])
def test_header_that_is_no_json(folder: Path, text: str) -> None:
    (folder / HEADER).write_text(text)
    refuses(folder, f"no readable {HEADER}")


def test_header_that_is_not_text(folder: Path) -> None:
    (folder / HEADER).write_bytes(b"\xff\xfe\x80")
    refuses(folder, f"no readable {HEADER}")


@pytest.mark.parametrize("content", [{}, {"format": "onnx"}, [1], "text", 7, None])
def test_header_of_another_format(folder: Path, content: Any) -> None:
    (folder / HEADER).write_text(json.dumps(content))
    refuses(folder, "not the header of a fitted model", FORMAT)


def test_newer_schema_says_upgrade(folder: Path) -> None:
    edit_header(folder, schema_version=SCHEMA_VERSION + 1)
    refuses(folder, "schema_version", f"received {SCHEMA_VERSION + 1}", "upgrade graphs", error=SchemaVersionError)


def test_older_features_say_fit_again(folder: Path) -> None:
    edit_header(folder, features_version=FEATURES_VERSION - 1)
    refuses(folder, "features_version", "graphs train", error=SchemaVersionError)
    edit_header(folder, features_version=FEATURES_VERSION + 1)
    refuses(folder, "features_version", "upgrade graphs", error=SchemaVersionError)


@pytest.mark.parametrize("key", ["schema_version", "features_version"])
def test_version_left_out_or_odd(folder: Path, key: str) -> None:
    edit_header(folder, **{key: "1"})
    refuses(folder, key, "graphs train", error=SchemaVersionError)
    edit_header(folder, **{key: None})
    refuses(folder, key, "graphs train", error=SchemaVersionError)


@pytest.mark.parametrize("key", ["machine", "families", "hardware"])
def test_header_without_a_part(folder: Path, key: str) -> None:
    edit_header(folder, **{key: None})
    refuses(folder, "incomplete", key)


@pytest.mark.parametrize(
    ("path", "value", "word"),
    [
        (("machine", "bandwidth_bytes_per_s"), -1, "bandwidth"),
        (("machine", "units"), 0, "units"),
        (("machine", "peaks"), {}, "peaks"),
        (("families", "gemm", "t0_s"), -1.0, "t0_s"),
        (("families", "gemm", "t0_s"), float("nan"), "NaN"),
        (("families", "gemm", "members"), [], "members"),
        (("families", "gemm", "interval", "quantile"), -3.0, "interval"),
        (("families", "gemm", "domains", "matmul", "low"), {"flops": "x"}, "domains"),
        (("families", "gemm", "domains", "matmul", "margin"), {}, "domains"),
    ],
)
def test_header_with_numbers_that_cannot_be(folder: Path, path: tuple[str, ...], value: Any, word: str) -> None:
    header = json.loads((folder / HEADER).read_text())
    part = header
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = value
    (folder / HEADER).write_text(json.dumps(header))
    refuses(folder, word)


def test_header_nested_without_end(folder: Path) -> None:
    (folder / HEADER).write_text("[" * 100_000)
    refuses(folder, "nested too deeply")


def test_arrays_that_unpack_to_more_than_a_model(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graphs.hardware.calibration.arrays.MOST_BYTES", 100)
    refuses(folder, "of at most 100")


def test_header_that_leaves_a_member_without_arrays(folder: Path) -> None:
    header = json.loads((folder / HEADER).read_text())
    header["families"]["gemm"]["members"].append({"form": "gp", "weight": 0.5})
    (folder / HEADER).write_text(json.dumps(header))
    with pytest.raises(ModelFileError, match=r"^a regressor of model .* cannot be rebuilt"):
        load_model(folder)


def test_model_of_other_features_is_refused_when_asked(folder: Path) -> None:
    header = json.loads((folder / HEADER).read_text())
    header["families"]["gemm"]["features"][0] = "something_else"
    (folder / HEADER).write_text(json.dumps(header))
    model = load_model(folder)
    with pytest.raises(SchemaVersionError, match=r"something_else.*graphs train"):
        model.answer(group("matmul", m=512, n=512, k=512))
    assert model.answer(group("relu", numel=4096)).source[0] == "model"


class Bomb:
    """Creates a file when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def _object_npz(bomb: Bomb) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, **{"gemm/0/value": np.array([bomb], dtype=object)})
    return stream.getvalue()


def _object_npy(bomb: Bomb) -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.array([bomb], dtype=object))
    return stream.getvalue()


def _pickle_in_zip(bomb: Bomb) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("gemm/0/value.npy", pickle.dumps(bomb))
        archive.writestr("data.pkl", pickle.dumps(bomb))
    return stream.getvalue()


@pytest.mark.parametrize("make", [_object_npz, _object_npy, _pickle_in_zip, pickle.dumps])
def test_pickles_are_refused_and_never_run(folder: Path, tmp_path: Path, make: Any) -> None:
    target = tmp_path / "was-run"
    blob = make(Bomb(target))
    # the bomb itself works, else this would test nothing
    pickle.loads(pickle.dumps(Bomb(target)))
    assert target.exists()
    target.unlink()
    put_arrays(folder, blob)
    with pytest.raises(ModelFileError, match="graphs train"):
        load_model(folder)
    assert not target.exists()


def test_a_single_array_is_no_archive(folder: Path) -> None:
    stream = io.BytesIO()
    np.save(stream, np.zeros(3))
    put_arrays(folder, stream.getvalue())
    refuses(folder, "does not hold plain arrays")


@pytest.mark.parametrize("bad", [np.array([np.nan]), np.array([np.inf]), np.array(["x"]), np.array([1j])])
def test_unusable_numbers(folder: Path, bad: np.ndarray) -> None:
    with np.load(folder / ARRAYS) as stored:
        arrays = dict(stored)
    arrays["gemm/0/value"] = bad
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    put_arrays(folder, stream.getvalue())
    refuses(folder, "gemm/0/value", "finite numbers")


def test_saving_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    save_model(make_model(), tmp_path / "a")
    save_model(make_model(), tmp_path / "b")
    for name in (HEADER, ARRAYS):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == sorted([HEADER, ARRAYS])


def test_header_fields_survive_a_second_save(folder: Path, tmp_path: Path) -> None:
    save_model(load_model(folder), tmp_path / "again")
    assert (tmp_path / "again" / HEADER).read_text() == (folder / HEADER).read_text()


def test_calibration_of_a_folder_a_header_a_profile(toy_tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calibration = load_calibration(toy_tree / "profiles" / "toy-gpu.json")
    assert calibration.model is not None
    assert calibration.metadata.source == "made up"


def test_model_of_other_hardware_is_refused(toy_tree: Path) -> None:
    save_model(make_model(hardware="h100-sxm"), toy_tree / "models" / "toy-gpu")
    with pytest.raises(ModelFileError, match="other hardware"):
        load_calibration(toy_tree / "profiles" / "toy-gpu.json")


def test_folder_of_a_model_finds_its_profile(tmp_path: Path) -> None:
    save_model(make_model(hardware="h100-sxm"), tmp_path / "mine")
    for source in (tmp_path / "mine", str(tmp_path / "mine"), tmp_path / "mine" / HEADER):
        calibration = load_calibration(source)
        assert calibration.profile.id == "h100-sxm"
        assert calibration.model is not None
        assert calibration.model.families["gemm"].t0_s == 2e-6


def test_profile_without_a_model_still_gives_its_bandwidth(toy_tree: Path) -> None:
    path = toy_tree / "profiles" / "toy-gpu.json"
    shutil.rmtree(toy_tree / "models")
    with pytest.raises(ModelFileError, match="points to a fitted model that is not there"):
        load_calibration(path)
    raw = json.loads(path.read_text())
    del raw["model"]
    path.write_text(json.dumps(raw))
    calibration = load_calibration(path)
    assert calibration.model is None
    assert calibration.bandwidth_efficiency == pytest.approx(0.8)
    assert calibration.get_efficiency("matmul", matrix_size=512) == 0.20


def test_damaged_model_behind_a_profile_is_an_error_not_the_default(toy_tree: Path) -> None:
    (toy_tree / "models" / "toy-gpu" / ARRAYS).write_bytes(b"")
    with pytest.raises(ModelFileError):
        load_calibration(toy_tree / "profiles" / "toy-gpu.json")
