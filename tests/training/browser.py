"""A page in headless Chromium: what a reader would see of it, as numbers."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

CHROMIUM = next((p for p in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if p), None)
#: No background traffic, no profile of anybody's.
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
#: Added to a copy of the page: widths, labels outside their figure, labels that overlap, cells cut off.
PROBE = """<script>
const out = {width: innerWidth, scroll: document.documentElement.scrollWidth, outside: [], overlapping: [], cut: []};
for (const svg of document.querySelectorAll("svg")) {
  const frame = svg.getBoundingClientRect();
  const labels = [...svg.querySelectorAll("text")].map(t => [t.textContent, t.getBoundingClientRect()]);
  for (const [text, b] of labels)
    if (b.left < frame.left - 0.5 || b.right > frame.right + 0.5
        || b.top < frame.top - 0.5 || b.bottom > frame.bottom + 0.5)
      out.outside.push([svg.querySelector("title").textContent, text]);
  for (let i = 0; i < labels.length; i++) for (let j = i + 1; j < labels.length; j++) {
    const [a, b] = [labels[i][1], labels[j][1]];
    const w = Math.min(a.right, b.right) - Math.max(a.left, b.left);
    const h = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
    if (w > 1 && h > 3) out.overlapping.push([svg.querySelector("title").textContent, labels[i][0], labels[j][0]]);
  }
}
for (const box of document.querySelectorAll(".scroll"))
  if (box.scrollWidth > box.clientWidth + 1)
    out.cut.push(box.querySelector("caption").textContent + " " + box.scrollWidth);
const pre = document.createElement("pre");
pre.id = "probe"; pre.textContent = JSON.stringify(out); document.body.append(pre);
</script></body>"""


def probe(page: str, folder: Path, width: int) -> dict[str, Any]:
    """Return what `PROBE` found in a window of a width."""
    assert CHROMIUM is not None
    path = folder / "probe.html"
    # A frame: Chromium's window is never narrower than 500 px, a frame is as narrow as it is told to be.
    inner = quoteattr(page.replace("</body>", PROBE))
    path.write_text(
        f'<body><iframe id="f" style="width:{width}px;height:4000px;border:0" srcdoc={inner}></iframe><script>'
        'f.onload = () => document.body.append(f.contentDocument.getElementById("probe").cloneNode(true))</script>',
        encoding="utf-8",
    )
    done = subprocess.run(
        [CHROMIUM, *FLAGS, f"--user-data-dir={folder / 'profile'}", "--window-size=1400,4000", "--dump-dom",
         path.as_uri()],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    found = re.search(r'<pre id="probe">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found is not None, done.stderr[-500:]
    return dict(json.loads(unescape(found[1])))


def screenshot(page: str, folder: Path, width: int, height: int = 2000) -> bytes:
    """Return a PNG of the page."""
    assert CHROMIUM is not None
    path = folder / "shot.html"
    path.write_text(page, encoding="utf-8")
    png = folder / "shot.png"
    subprocess.run(
        [CHROMIUM, *FLAGS, f"--user-data-dir={folder / 'profile'}", f"--window-size={width},{height}",
         f"--screenshot={png}", path.as_uri()],
        capture_output=True, check=True,
    )  # fmt: skip
    return png.read_bytes()
