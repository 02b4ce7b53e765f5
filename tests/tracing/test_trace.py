"""Traces as data: files, tags, merging, stored families.  Needs no torch."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from graphs.errors import DtypeError, SchemaVersionError, TracingError
from graphs.tracing import Trace, TracedOperator, family, library, trace_file
from graphs.tracing.layout import View, coalesce, pattern
from graphs.tracing.trace import merge


def linear(m: int, dtype: str = "fp32", module: str = "a") -> TracedOperator:
    return TracedOperator("linear", {"m": m, "n": 8, "k": 4, "bias": True}, dtype, 1, module, "aten.linear.default")


def example(batch: int = 2) -> Trace:
    """Return a trace with every kind of match, a list parameter, and calls that repeat."""
    cat = TracedOperator("cat_channels", {"n": batch, "c": [3, 5], "h": 2, "w": 2, "fmt": "contiguous"}, "fp32")
    proxy = TracedOperator("copy", {"numel": 10 * batch}, "fp32", 1, "b", "aten.flip.default", "proxy", "flip")
    missing = TracedOperator("", {}, "fp32", 1, "c", "custom.thing.default", "unmodelled", "no tensor")
    cast = TracedOperator("cast", {"numel": 7 * batch, "to": "fp32"}, "bf16", 1, "d")
    operators, sequence = merge(
        [linear(3 * batch), cat, linear(3 * batch, module="z"), proxy, missing, cast, linear(3 * batch)]
    )
    return Trace(operators, "toy", batch, "fp32", "2.0", 40, 160, 100 * batch + 5, 9, 2, sequence, ("a note",))


@pytest.mark.parametrize("suffix", [".json", ".json.gz"])
def test_saved_and_loaded_is_the_same(tmp_path: Path, suffix: str) -> None:
    trace = example()
    assert Trace.load(trace.save(tmp_path / f"t{suffix}")) == trace
    assert Trace.from_json(trace.to_json()) == trace


def test_a_saved_trace_is_the_same_bytes_each_time(tmp_path: Path) -> None:
    assert example().save(tmp_path / "a.json.gz").read_bytes() == example().save(tmp_path / "b.json.gz").read_bytes()


def test_merging_counts_calls_and_keeps_order_and_paths() -> None:
    trace = example()
    first = trace.operators[0]
    assert (first.op, first.count, first.module) == ("linear", 3, "a")
    assert first.modules == (("a", 2), ("z", 1))
    assert trace.sequence == (0, 1, 0, 2, 3, 4, 0)
    assert len(trace) == 7
    assert trace.flops == 3 * 2 * 6 * 8 * 4
    assert [o.aten for o in trace.unmodelled] == ["custom.thing.default"]


def test_calls_that_differ_in_anything_priced_are_not_merged() -> None:
    merged, _ = merge([linear(2), linear(3), linear(2, "bf16"), replace(linear(2), match="near")])
    assert [o.count for o in merged] == [1, 1, 1, 1]


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda d: d.pop("operators"), "operators"),
        (lambda d: d.update(schema="other"), "schema"),
        (lambda d: d.update(version="one"), "version"),
        (lambda d: d.update(dtype="int4"), "int4"),
        (lambda d: d.update(batch=-1), "batch"),
        (lambda d: d["operators"][0].update(op="lineer"), "lineer"),
        (lambda d: d["operators"][0]["params"].update(m=-1), "m"),
        (lambda d: d["operators"][0].update(count=0), "count"),
        (lambda d: d["operators"][0].update(match="perfect"), "perfect"),
        (lambda d: d["operators"][0].update(surprise=1), "surprise"),
        (lambda d: d.update(sequence=[0, 99]), "sequence"),
        (lambda d: d.update(operators=7), "int"),
    ],
)
def test_damaged_traces_are_refused(damage, words: str) -> None:
    data = json.loads(example().to_json())
    damage(data)
    with pytest.raises(TracingError, match=words) as caught:
        Trace.from_dict(data, "t.json")
    assert "t.json" in str(caught.value)


def test_files_that_are_no_traces_are_refused(tmp_path: Path) -> None:
    whole = example().save(tmp_path / "t.json.gz").read_bytes()
    (tmp_path / "cut.json.gz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.json").write_text("{not json")
    (tmp_path / "list.json").write_text("[]")
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    for name in ("cut.json.gz", "text.json", "list.json", "binary.json", "absent.json"):
        with pytest.raises(TracingError, match=name):
            Trace.load(tmp_path / name)


def test_a_newer_schema_says_so() -> None:
    data = json.loads(example().to_json()) | {"version": 99}
    with pytest.raises(SchemaVersionError, match="99"):
        Trace.from_dict(data)


def test_with_dtype_retags_what_the_dtype_changes() -> None:
    tf32 = example().with_dtype("tf32")
    assert {o.op: o.dtype for o in tf32.operators} == {
        "linear": "tf32", "cat_channels": "fp32", "copy": "fp32", "": "fp32", "cast": "bf16",
    }  # fmt: skip
    half = Trace((linear(2, "bf16"), TracedOperator("cast", {"numel": 4, "to": "bf16"}, "fp32")), dtype="bf16")
    fp16 = half.with_dtype("fp16")
    assert [o.dtype for o in fp16.operators] == ["fp16", "fp32"]
    assert fp16.operators[1].params["to"] == "fp16"
    for dtype in ("bf16", "fp16", "int8"):
        with pytest.raises(DtypeError):
            example().with_dtype(dtype)


def test_traces_are_read_without_torch() -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from graphs.tracing import Trace, trace\nfrom graphs.tracing.library import load_trace\n"
        "from graphs.errors import MissingExtraError\n"
        "try: trace(None, ())\nexcept MissingExtraError as e: print('extra', 'graphs[trace]' in str(e))\n"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "extra True"


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"sequence": [0, 1]}, "stands 1 times"),
        ({"batch": True}, "batch"),
        ({"name": 5}, "name"),
        ({"notes": "abc"}, "notes"),
        ({"dtype": "fp9"}, "dtype"),
    ],
)
def test_a_file_that_says_what_no_tracer_writes_is_refused(change: dict[str, object], match: str) -> None:
    with pytest.raises(TracingError, match=match):
        Trace.from_dict(json.loads(example().to_json()) | change, "t.json")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"count": 10**12}, "more than 1000000 calls"),
        ({"count": True}, "count"),
        ({"module": 4}, "module"),
        ({"count": 2, "modules": [["a", 1]]}, "modules"),
    ],
)
def test_an_operator_that_no_tracer_writes_is_refused(change: dict[str, object], match: str) -> None:
    relu: dict[str, object] = {"op": "relu", "params": {"numel": 3}, "dtype": "fp32"}
    data = {"schema": "graphs.trace", "version": 2, "operators": [relu]}
    assert len(Trace.from_dict(data)) == 1
    with pytest.raises(TracingError, match=match):
        Trace.from_dict(data | {"operators": [relu | change]})


def test_files_that_unpack_or_nest_without_end_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace_file, "MOST_BYTES", 1000)
    bomb = tmp_path / "bomb.json.gz"
    bomb.write_bytes(gzip.compress(b" " * 2000))
    with pytest.raises(TracingError, match="at most 1000 bytes"):
        Trace.load(bomb)
    with pytest.raises(TracingError, match="JSON"):
        Trace.from_json("[" * 100_000)


# Families -------------------------------------------------------------------------------------------------------


def stored(folder: Path, **programs: dict) -> None:
    data = {"schema": family.SCHEMA, "version": family.VERSION, "name": "toy", "torch": "2.0", "programs": programs}
    (folder / "toy.json.gz").write_bytes(gzip.compress(json.dumps(data).encode()))


def test_a_family_answers_any_batch(tmp_path: Path) -> None:
    stored(tmp_path, fp32={"n": family.program(example(8), example(24))})
    for batch in (1, 2, 7, 64):
        assert family.same_calls(library.load_trace("toy", batch, "fp32", tmp_path), example(batch))
    t = library.load_trace("toy", 7, "tf32", tmp_path)
    assert (t.batch, t.dtype, t.operators[0].dtype, t.operators[0].params["m"]) == (7, "tf32", "tf32", 21)
    assert t.peak_activation_bytes == 705


def test_a_family_is_refused_where_a_dimension_does_not_grow_evenly() -> None:
    def squared(batch: int) -> Trace:
        return Trace((linear(batch * batch),), batch=batch, sequence=(0,))

    general = family.program(squared(2), squared(4))
    assert not family.same_calls(family.instance(general, "x", 8, "fp32", ""), squared(8))
    with pytest.raises(TracingError, match="evenly"):
        family.program(squared(2), Trace((linear(5),), batch=5, sequence=(0,)))
    with pytest.raises(TracingError, match="different programs"):
        family.program(squared(2), example(8))


def test_one_program_serves_both_dtypes_only_if_it_is_the_same() -> None:
    def one(dtype: str, *more: TracedOperator) -> dict:
        operators, sequence = merge([linear(2, dtype), *more])
        return family.single(Trace(operators, batch=1, dtype=dtype, sequence=sequence))

    both = family.shared(one("fp32"), one("bf16"))
    assert both is not None
    assert family.instance(both, "x", 1, "bf16", "").operators[0].dtype == "bf16"
    island = TracedOperator("pow2", {"numel": 4}, "fp32")
    assert family.shared(one("fp32"), one("bf16", island)) is None
    kept = family.shared(one("fp32", island), one("bf16", island))
    assert kept is not None
    assert [o.dtype for o in family.instance(kept, "x", 1, "bf16", "").operators] == ["bf16", "fp32"]


def test_missing_traces_name_the_nearest(tmp_path: Path) -> None:
    stored(tmp_path, fp32={"1": family.single(example(1))})
    assert library.names(tmp_path) == ["toy"]
    with pytest.raises(library.UnknownTraceError, match="toy"):
        library.load_trace("tpy", 1, "fp32", tmp_path)
    with pytest.raises(library.UnknownTraceError, match="batch"):
        library.load_trace("toy", 3, "fp32", tmp_path)
    with pytest.raises(TracingError, match="damaged"):
        library.load_trace("toy", 1, "bf16", tmp_path)
    with pytest.raises(DtypeError):
        library.load_trace("toy", 1, "int8", tmp_path)


def test_files_of_another_schema_are_refused(tmp_path: Path) -> None:
    for content, error in (("[]", TracingError), ('{"schema": "graphs.traces", "version": 9}', SchemaVersionError)):
        (tmp_path / "x.json.gz").write_bytes(gzip.compress(content.encode()))
        with pytest.raises(error):
            library.load_trace("x", 1, "fp32", tmp_path)


# Layout -----------------------------------------------------------------------------------------------------------


def view(shape: tuple[int, ...], stride: tuple[int, ...] | None = None) -> View:
    if stride is None:
        steps, step = [], 1
        for n in reversed(shape):
            steps.append(step)
            step *= n
        stride = tuple(reversed(steps))
    return View(shape, stride, "fp32", 4)


def test_layouts_of_operands() -> None:
    out = view((4, 6))
    assert pattern(out, view((4, 6))).kind == "full"
    assert pattern(out, view((6,))).kind == "row"
    assert pattern(out, view((4, 1))).kind == "column"
    assert pattern(out, view((1, 1))).kind == "scalar"
    assert pattern(out, view((4, 6), (1, 4))).kind == "permuted"
    gapped = pattern(out, view((4, 6), (12, 1)))
    assert (gapped.kind, gapped.rows, gapped.cols, gapped.gap) == ("gapped", 4, 6, 12)
    # An expanded tensor is a broadcast by strides.
    assert pattern(out, view((4, 6), (0, 1))).kind == "row"
    assert pattern(view((2, 3, 4, 5)), view((2, 1, 4, 5))).kind == "repeated"
    # Both lie in channels_last: the order of dimensions does not matter.
    last = view((2, 3, 4, 5), (60, 1, 15, 3))
    assert pattern(last, last).kind == "full"
    assert last.channels_last
    assert not last.contiguous
    assert last.dense


def test_bytes_count_a_repeated_dimension_once() -> None:
    assert view((4, 6)).bytes == 96
    assert view((4, 6), (0, 1)).bytes == 24


def test_runs_merge_only_where_all_operands_allow() -> None:
    assert coalesce((2, 1, 3, 4), [(12, 12, 4, 1)])[0] == (24,)
    assert coalesce((2, 3, 4), [(12, 4, 1), (24, 4, 1)])[0] == (2, 12)


@pytest.mark.parametrize("path", [None, 5, b"t.json", ["t.json"]])
def test_a_file_named_by_another_type_is_a_typed_error(path: object) -> None:
    for call in (Trace.load, example().save):
        with pytest.raises(TracingError, match="named by its path") as caught:
            call(path)  # type: ignore[arg-type]
        assert f"received {path!r}" in str(caught.value)


@pytest.mark.parametrize("place", ["absent/t.json", "file/t.json.gz", "."])
def test_a_trace_is_saved_only_where_that_is_possible(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TracingError, match="cannot be written") as caught:
        example().save(tmp_path / place)
    assert str(tmp_path / place) in str(caught.value)


def test_a_collection_of_traces_names_the_model_that_reads_it(tmp_path: Path) -> None:
    from graphs.tracing import library

    path = library.default_folder() / "bert-base-s128.json.gz"
    with pytest.raises(TracingError, match=r"collection of traces.*hf:bert-base-s128"):
        Trace.load(path)
    with pytest.raises(TracingError, match=r"collection of traces.*torchvision:resnet50"):
        Trace.from_dict({"schema": family.SCHEMA, "name": "resnet50"})
    with pytest.raises(TracingError, match="an object with schema 'other'"):
        Trace.from_dict({"schema": "other"})


def test_every_stored_model_is_found_by_the_argument_that_is_named() -> None:
    from graphs.tracing import library
    from graphs.tracing.frontends import trace_model
    from graphs.tracing.trace_file import model_argument

    for name in library.names():
        assert trace_model(model_argument(name), 1).name == name
