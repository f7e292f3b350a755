"""Links between the pages of the repository: every file that a page names is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "benchmarks").rglob("*.md")])
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)\s]*)?\)")


def links(text: str) -> list[str]:
    """What the links and pictures of a page point to, without those to other sites and without code."""
    prose = re.sub(r"^```.*?^```|`[^`\n]*`", "", text, flags=re.DOTALL | re.MULTILINE)
    return [target for target in LINK.findall(prose) if "://" not in target and not target.startswith("mailto:")]


def test_links_are_found_outside_code_alone() -> None:
    text = "[a](b.md#c) ![d](e/f.png) `[g](h)` [i](https://j.k) [l](#m)\n```\n[n](o)\n```\n[p](q.md)"
    assert links(text) == ["b.md", "e/f.png", "q.md"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_links_to_what_is_there(page: Path) -> None:
    missing = [target for target in links(page.read_text(encoding="utf-8")) if not (page.parent / target).exists()]
    assert not missing
