"""The pages in headless Chromium: nothing clipped, nothing overlapping, on a screen, a phone and in the dark."""

from __future__ import annotations

import struct

import pytest
from browser import CHROMIUM, probe, screenshot
from report_rows import made_up, models, summary_of

from training.validate.compare import compare
from training.validate.compare_render import page as compare_page
from training.validate.page import page

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed: the page is not looked at")


@pytest.fixture(scope="module")
def pages():
    rows, train = made_up()
    s = {**summary_of(rows, train), "models": models()}
    curve = [{"share": v, "median_ape": 0.1 / v, "mape": 0.2 / v, "rows": 10} for v in (0.25, 0.5, 1.0)]
    return {"report": page({**s, "learning_curve": curve}), "compare": compare_page(compare(s, s, ("a", "b")))}


@pytest.mark.parametrize(("name", "width"), [("report", 390), ("report", 1280), ("compare", 390)])
def test_nothing_is_clipped_or_overlaps(pages, name, width, tmp_path) -> None:
    found = probe(pages[name], tmp_path, width)
    assert found == {"width": width, "scroll": width, "outside": [], "overlapping": [], "cut": []}


def test_the_probe_sees_what_is_wrong(tmp_path) -> None:
    text = '<text x="5" y="22">one</text><text x="8" y="24">two</text><text x="95" y="40">beyond the edge</text>'
    wide = '<div class="scroll" style="overflow-x:auto"><table><caption>c</caption><tr><td style="min-width:2000px">'
    html = f'<body><svg width="100" height="50"><title>t</title>{text}</svg>{wide}x</td></tr></table></div></body>'
    found = probe(html, tmp_path, 390)
    assert found["overlapping"] == [["t", "one", "two"]]
    assert found["outside"] == [["t", "beyond the edge"]]
    assert len(found["cut"]) == 1


def test_screenshot_is_as_wide_as_the_window_and_not_blank(pages, tmp_path) -> None:
    png = screenshot(pages["report"], tmp_path, 390)
    width, height = struct.unpack(">II", png[16:24])
    assert (width, height) == (390, 2000)
    assert len(png) > 50_000
