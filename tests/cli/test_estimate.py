"""`graphs estimate`: one machine, several machines, several batches, charts."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner, Result

from graphs.cli.main import cli
from graphs.figures import Scale
from graphs.tracing.trace import Trace, TracedOperator

ROOT = Path(__file__).parents[2]

SVG = "{http://www.w3.org/2000/svg}"


def run(*args: str) -> Result:
    return CliRunner().invoke(cli, ["estimate", *map(str, args)], prog_name="graphs")


def data(*args: str):
    out = run(*args, "--json")
    assert out.exit_code == 0, out.output
    return json.loads(out.output)


@pytest.fixture
def trace_file(tmp_path):
    operators = (
        TracedOperator("matmul", {"m": 2048, "n": 2048, "k": 2048}, "fp32", count=3, module="encoder.layers.0"),
        TracedOperator("relu", {"numel": 2**24}, "fp32", module="encoder.layers.1"),
        TracedOperator("matmul", {"m": 1024, "n": 1024, "k": 1024}, "fp32", module="head"),
    )
    return str(Trace(operators, name="toy", batch=8, dtype="fp32").save(tmp_path / "toy.json"))


def test_time_by_kind_module_and_bound_adds_up(trace_file) -> None:
    e = data(trace_file, "--hardware", "i7-12700k")
    assert e["batch"] == 8  # of the trace: --batch need not repeat it
    assert e["throughput_per_s"] == pytest.approx(8 / e["latency_s"])
    for group in ("by_kind", "by_module", "by_bound"):
        assert sum(s["latency_s"] for s in e[group]) == pytest.approx(e["latency_s"])
        assert sum(s["share"] for s in e[group]) == pytest.approx(1.0)
    assert [s["name"] for s in e["by_module"]] == ["encoder", "head"]
    deep = data(trace_file, "--hardware", "i7-12700k", "--depth", 3)
    assert {s["name"]: s["calls"] for s in deep["by_module"]} == {
        "encoder.layers.0": 3, "encoder.layers.1": 1, "head": 1,
    }  # fmt: skip
    assert {s["name"] for s in e["by_bound"]} == {"compute", "memory"}


def test_text_has_total_throughput_sums_and_split(trace_file) -> None:
    out = run(trace_file, "--hardware", "i7-12700k", "--mode", "eager").output
    for words in ("toy, batch 8, fp32, eager time on i7-12700k", "inputs/s", "time by kind", "time by module",
                  "by bound: compute", "Device busy"):  # fmt: skip
        assert words in out, words
    assert "Device busy" not in run(trace_file, "--hardware", "i7-12700k").output


def test_comparison_is_the_single_estimates_side_by_side(trace_file) -> None:
    ids = ("h100-sxm", "xeon-16c", "i7-12700k")
    points = data(trace_file, "--compare", ",".join(ids))["points"]
    assert [p["hardware"] for p in points] == list(ids)
    for p, name in zip(points, ids, strict=True):
        assert p["latency_s"] == data(trace_file, "--hardware", name)["latency_s"]
        assert p["relative"] == pytest.approx(p["latency_s"] / points[0]["latency_s"])
    text = run(trace_file, "--compare", ",".join(ids)).output
    assert "1.00 x" in text
    assert f"{points[2]['relative']:.2f} x" in text
    assert text.count("█") > 20


def test_without_calibration_beside_it(trace_file) -> None:
    points = data(trace_file, "--hardware", "i7-12700k", "--compare-uncalibrated")["points"]
    assert [p["calibration"] for p in points] == ["calibrated", "20 % default"]
    default = data(trace_file, "--hardware", "i7-12700k", "--calibration", "none")
    assert points[1]["latency_s"] == default["latency_s"] > 2 * points[0]["latency_s"]
    assert points[1]["interval_s"] == [None, None]
    path = ["--calibration", str(ROOT / "profiles" / "i7-12700k.json")]
    named = data(trace_file, "--hardware", "i7-12700k", *path, "--compare-uncalibrated")["points"]
    assert [p["latency_s"] for p in named] == [p["latency_s"] for p in points]


def test_sweep_traces_each_batch_and_charts_the_throughput(tmp_path) -> None:
    pytest.importorskip("torch")
    svg = tmp_path / "sweep.svg"
    points = data("torchvision:resnet18", "--compare", "h100-sxm,i7-12700k", "--sweep", "batch=4,1", "--svg", svg)[
        "points"
    ]
    assert [(p["batch"], p["hardware"]) for p in points] == [
        (1, "h100-sxm"), (1, "i7-12700k"), (4, "h100-sxm"), (4, "i7-12700k"),
    ]  # fmt: skip
    assert points[2]["flops"] == 4 * points[0]["flops"]
    assert [p["relative"] for p in points][::2] == [1.0, 1.0]
    root = ElementTree.fromstring(svg.read_text())
    plot = next(g for g in root.iter(f"{SVG}g") if g.get("class") == "plot")
    y = Scale.parse(plot.get("data-y", ""))
    marks = {p.get("data-marks"): p.get("d", "") for p in plot if p.get("data-marks")}
    for name in ("h100-sxm", "i7-12700k"):
        drawn = [float(v.split()[1].removesuffix("h0")) for v in marks[name].split("M")[1:]]
        expected = [p["throughput_per_s"] for p in points if p["hardware"] == name]
        assert list(y.inverse(drawn)) == pytest.approx(expected, rel=0.02)
    assert "batch 4" in run("torchvision:resnet18", "--hardware", "h100-sxm", "--sweep", "batch=1,4").output


def test_charts_of_one_estimate_and_of_a_comparison(trace_file, tmp_path) -> None:
    for args in (("--hardware", "i7-12700k"), ("--compare", "h100-sxm,i7-12700k")):
        svg = tmp_path / "chart.svg"
        out = run(trace_file, *args, "--svg", svg)
        assert out.exit_code == 0, out.output
        points = data(trace_file, *args)
        expected = [p["latency_s"] for p in points.get("points", points.get("by_kind"))]
        root = ElementTree.fromstring(svg.read_text())
        plot = next(g for g in root.iter(f"{SVG}g") if g.get("class") == "plot")
        x = Scale.parse(plot.get("data-x", ""))
        ends = [float(r.get("data-end", "nan")) for r in plot if r.get("data-end")]
        assert list(x.inverse(ends)) == pytest.approx(expected, abs=0.002 * max(expected))


def test_thermal_profile_is_used_and_named(trace_file) -> None:
    args = (trace_file, "--hardware", "jetson-orin-agx", "--calibration", "none")
    low, high = (data(*args, "--thermal-profile", p) for p in ("15w", "maxn"))
    assert low["latency_s"] > high["latency_s"]
    assert low["hardware_asked"] == "jetson-orin-agx@15w"
    assert "on jetson-orin-agx@15w: " in run(*args, "--thermal-profile", "15w").output
    assert (
        data(trace_file, "--hardware", "jetson-orin-agx@15w", "--calibration", "none")["latency_s"] == low["latency_s"]
    )


def test_training_step_is_longer_and_says_that_it_is_not_validated() -> None:
    pytest.importorskip("torch")
    forward = data("torchvision:resnet18", "--hardware", "h100-sxm")
    out = run("torchvision:resnet18", "--hardware", "h100-sxm", "--training-step", "--json")
    assert out.exit_code == 0, out.output
    step = json.loads(out.output)
    assert 2 * forward["flops"] < step["flops"] < 3.5 * forward["flops"]
    assert step["latency_s"] > 1.5 * forward["latency_s"]
    assert any("not validated" in n for n in step["notes"])
    # errors of forward passes say nothing of it
    assert step["interval_s"] == [None, None]
    assert "no training step was measured" in step["interval_source"]
    assert forward["interval_s"][0] < forward["latency_s"] < forward["interval_s"][1]


def test_an_optimizer_adds_its_update_and_its_state() -> None:
    pytest.importorskip("torch")
    args = ("torchvision:resnet18", "--hardware", "h100-sxm", "--training-step")
    plain, sgd, adamw = data(*args), data(*args, "--optimizer", "sgd"), data(*args, "--optimizer", "adamw")
    weights = plain["memory"]["parameters_bytes"]
    assert [e["memory"]["optimizer_bytes"] for e in (plain, sgd, adamw)] == [0, 0, 2 * weights]
    update = [[o for o in e["operators"] if o["module"] == "(optimizer)"] for e in (plain, sgd, adamw)]
    # sgd reads weight and gradient and writes the weight; adamw reads and writes two states besides
    assert [sum(o["bytes"] for o in u) for u in update] == [0, 3 * weights, 7 * weights]
    for e, u in zip((sgd, adamw), update[1:], strict=True):
        # within one estimate, since processes round in single precision by what is asked at once
        rest = [o for o in e["operators"] if o["module"] != "(optimizer)"]
        assert [(o["op"], o["params"]) for o in rest] == [(o["op"], o["params"]) for o in plain["operators"]]
        assert e["latency_s"] - sum(o["latency_s"] for o in rest) == pytest.approx(sum(o["latency_s"] for o in u))
        assert e["flops"] == plain["flops"]


def test_a_folder_of_a_subgraph_model_is_a_calibration(trace_file) -> None:
    shipped = data(trace_file, "--hardware", "jetson-orin-agx")
    assert (
        data(trace_file, "--hardware", "jetson-orin-agx", "--calibration", ROOT / "models/jetson-orin-agx") == shipped
    )


def test_a_trace_without_calls_says_so(tmp_path) -> None:
    path = Trace((), name="nothing").save(tmp_path / "t.json")
    assert run(path, "--hardware", "h100-sxm").output.strip() == (
        "nothing, batch unknown, fp32, device time on h100-sxm: no operator calls."
    )


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["TRACE"], "Missing option '--hardware'"),
        (["TRACE", "--hardware", "i7-12700k", "--compare", "h100-sxm,xeon-16c"], "leave out --hardware"),
        (["TRACE", "--compare", "h100-sxm"], "two machines or more"),
        (["TRACE", "--compare", "h100-sxm,h1000"], "unknown hardware"),
        (["TRACE", "--hardware", "i7-12700k", "--sweep", "size=3"], "batch=N,N"),
        (["TRACE", "--hardware", "i7-12700k", "--sweep", "batch=0,2"], "batch=N,N"),
        (["TRACE", "--hardware", "i7-12700k", "--sweep", "batch=1,2"], "a saved trace is of one batch"),
        (["TRACE", "--hardware", "i7-12700k", "--batch", "2", "--sweep", "batch=8"], "leave out --batch"),
        (["TRACE", "--hardware", "i7-12700k", "--calibration", "none", "--compare-uncalibrated"], "leave out --calib"),
        (["TRACE", "--hardware", "i7-12700k", "--thermal-profile", "30w"], "thermal"),
        (["TRACE", "--hardware", "jetson-orin-agx@30w", "--thermal-profile", "15w"], "two thermal profiles"),
        (["TRACE", "--hardware", "i7-12700k", "--training-step"], "holds a forward pass only"),
        (["TRACE", "--hardware", "i7-12700k", "--optimizer", "sgd"], "add --training-step"),
        (["TRACE", "--hardware", "i7-12700k", "--svg", "FILE/a.svg"], "the chart cannot be written"),
        (["TRACE", "--hardware", "zzz"], "one of"),
        (["TRACE", "--hardware", "absent.json"], "no such profile file"),
    ],
)  # fmt: skip
def test_mistakes_get_a_line_that_says_what_to_do(args, words, trace_file) -> None:
    out = run(*[a.replace("TRACE", trace_file).replace("FILE", trace_file) for a in args])
    assert out.exit_code == 2
    assert words in out.stderr
    assert "Traceback" not in out.output
