"""What the documents say is so: examples run, the reference is current, links lead somewhere."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

import pytest

_DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGES = sorted(str(p.relative_to(_DOCS)) for p in _DOCS.rglob("*.md"))


def test_every_example_for_python_runs(root) -> None:
    pytest.importorskip("torch")
    text = (root / "docs" / "python.md").read_text(encoding="utf-8")
    fences = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(fences) >= 10
    assert all(f.startswith(">>>") and f.endswith("\n\n") for f in fences)
    # Exactly the fenced lines, so that an example outside a fence is not run in silence.
    test = doctest.DocTestParser().get_doctest("".join(fences), {}, "python.md", "docs/python.md", 0)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    failures: list[str] = []
    runner.run(test, out=failures.append)
    assert not failures, "".join(failures)


def test_the_command_line_reference_is_made_from_the_commands(root) -> None:
    pytest.importorskip("sklearn")
    from graphs.cli.reference import reference

    written = (root / "docs" / "cli.md").read_text(encoding="utf-8")
    assert written == reference(), "run `python -m graphs.cli.reference`"


@pytest.mark.parametrize("page", PAGES)
def test_links_between_pages_lead_somewhere(root, page) -> None:
    text = (root / "docs" / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", text):
        assert ((root / "docs" / page).parent / target).exists(), target
