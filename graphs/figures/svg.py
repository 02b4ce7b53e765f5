"""A small writer of SVG: escaped, indented by group, with the style that every figure shares."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from xml.sax.saxutils import escape, quoteattr

#: Okabe and Ito's colours, which readers with a colour deficiency can tell apart; lighter variants on dark ground.
#: Efficiency classes e0 (lowest) to e5 run from violet to yellow-green with rising lightness.
STYLE = """
.gf{--ink:#1d2329;--muted:#5b6570;--rule:#d5dae0;--ground:#ffffff;--c1:#0b63a5;--c2:#b8500a;--c3:#0a7d5c;--c4:#a0488a;
--c5:#7a6a00;--c6:#5b6570;--e0:#5b2a86;--e1:#4053a5;--e2:#20748f;--e3:#1d8f6d;--e4:#5b9e2d;--e5:#c08a00;
font-family:system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif;font-size:12px;display:block}
@media screen and (prefers-color-scheme:dark){.gf{--ink:#e6eaee;--muted:#a3adb8;--rule:#3a424b;--ground:#15191d;
--c1:#64b5f6;--c2:#ff9e5e;--c3:#4fd1a5;--c4:#e08fc9;--c5:#e3d04c;--c6:#a3adb8;
--e0:#b58ae0;--e1:#8a9bf0;--e2:#5fb8d6;--e3:#4fd1a5;--e4:#a4dc6a;--e5:#f3d04c}}
.gf text{fill:var(--ink)}.gf .m{fill:var(--muted)}.gf .t{font-weight:600;font-size:13px}
.gf .r{stroke:var(--rule);stroke-width:1;fill:none}.gf .a{stroke:var(--muted);stroke-width:1;fill:none}
.gf .g{stroke:var(--ink);stroke-width:1.2;fill:none}.gf .d{stroke-dasharray:5 4}
.gf .p{stroke-width:3.2;stroke-linecap:round;fill:none}.gf .i{stroke-width:1;fill:none;opacity:.28}
.gf .l{stroke-width:2;fill:none;stroke-linejoin:round}.gf .w{stroke:var(--ink);stroke-width:1.4;fill:none}
.gf .c1{stroke:var(--c1)}.gf .c2{stroke:var(--c2)}.gf .c3{stroke:var(--c3)}.gf .c4{stroke:var(--c4)}
.gf .c5{stroke:var(--c5)}.gf .c6{stroke:var(--c6)}
.gf .ck{stroke:var(--ink)}.gf .fk{fill:var(--ink)}.gf .e0{stroke:var(--e0)}.gf .e1{stroke:var(--e1)}
.gf .e2{stroke:var(--e2)}.gf .e3{stroke:var(--e3)}.gf .e4{stroke:var(--e4)}.gf .e5{stroke:var(--e5)}
.gf .f1{fill:var(--c1)}.gf .f2{fill:var(--c2)}.gf .f3{fill:var(--c3)}.gf .f4{fill:var(--c4)}.gf .f5{fill:var(--c5)}
.gf .f6{fill:var(--c6)}.gf .fe0{fill:var(--e0)}.gf .fe1{fill:var(--e1)}.gf .fe2{fill:var(--e2)}
.gf .fe3{fill:var(--e3)}.gf .fe4{fill:var(--e4)}.gf .fe5{fill:var(--e5)}
""".strip().replace("\n", "")

#: Height of the title of a figure that stands alone, px.
TITLE_ROOM = 28.0
#: Width of a character of 12 px text, px: generous, so that no label is clipped.
CHARACTER = 6.7


def number(value: float) -> str:
    """Return a coordinate to a tenth of a pixel."""
    text = f"{value:.1f}"
    return text[:-2] if text.endswith(".0") else text


def fill(colour: str) -> str:
    """Return the class that fills with a colour class."""
    return f"f{colour[1:]}" if colour.startswith("c") else f"f{colour}"


def text_width(text: str) -> float:
    """Return about how wide 12 px text is, px."""
    return CHARACTER * len(text)


class Svg:
    """One figure.

    Parameters
    ----------
    width, height : float
        Size of the view box, px.
    title, desc : str
        What it shows, and what is to be seen in it, for readers who do not see it.
    key : str
        Prefix of its ids, unique in a page.
    """

    def __init__(self, width: float, height: float, title: str, desc: str, key: str = "figure") -> None:
        self.width, self.height, self.title, self.desc, self.key = width, height, title, desc, key
        self._parts: list[str] = []

    def add(self, tag: str, text: str | None = None, **attributes: object) -> None:
        """Add an element; ``class_`` is class, and ``data_x`` is data-x."""
        start = f"<{tag}{self._attributes(attributes)}"
        self._parts.append(f"{start}/>" if text is None else f"{start}>{escape(text)}</{tag}>")

    @contextmanager
    def group(self, **attributes: object) -> Iterator[None]:
        """Put what is added inside into a group."""
        self._parts.append(f"<g{self._attributes(attributes)}>")
        yield
        self._parts.append("</g>")

    def text(
        self, x: float, y: float, text: str, anchor: str = "start", class_: str = "", turned: bool = False
    ) -> None:
        """Add a label; `turned` runs upwards."""
        more: dict[str, object] = {"class_": class_} if class_ else {}
        if turned:
            more["transform"] = f"rotate(-90 {number(x)} {number(y)})"
        self.add("text", text, x=number(x), y=number(y), text_anchor=anchor, **more)

    def line(self, x1: float, y1: float, x2: float, y2: float, class_: str) -> None:
        """Add a straight line."""
        self.add("path", d=f"M{number(x1)} {number(y1)}L{number(x2)} {number(y2)}", class_=class_)

    @staticmethod
    def _attributes(attributes: dict[str, object]) -> str:
        return "".join(f" {k.rstrip('_').replace('_', '-')}={quoteattr(str(v))}" for k, v in attributes.items())

    def render(self, style: bool = True) -> str:
        """Return the figure; without `style` for a page that holds `STYLE` once and shows the title itself."""
        room = TITLE_ROOM if style else 0.0
        box = f"0 {number(-room)} {number(self.width)} {number(self.height + room)}"
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" class="gf" viewBox="{box}"'
            f' role="img" aria-labelledby="{self.key}-t {self.key}-d">'
            f'<title id="{self.key}-t">{escape(self.title)}</title><desc id="{self.key}-d">{escape(self.desc)}</desc>'
        )
        alone = ""
        if style:
            most = int((self.width - 16) / (1.15 * CHARACTER))
            shown = self.title if len(self.title) <= most else self.title[: most - 1] + "…"
            alone = f"<style>{STYLE}.gf{{background:var(--ground)}}</style>"
            alone += f'<text class="t" x="8" y="-8">{escape(shown)}</text>'
        return head + alone + "".join(self._parts) + "</svg>"
