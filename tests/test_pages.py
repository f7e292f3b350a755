"""The pages of the repository as they are read: code that ends, tables that begin, settings that models have."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from ganfuse.engine.options import option_names
from ganfuse.models import list_models, model_info
from tests.test_links import PAGES, ROOT

MODELS = ROOT / "docs" / "models.md"
NAMES = re.compile(r"`([^`]+)`")
PLAIN = re.compile(r"[a-z][\w-]*|\d[\d,]*(\.\d+)?(e-?\d+)?")


def faults(text: str) -> list[str]:
    """Code that does not end before the next heading or the end of the page, and rows of tables without a head."""
    found, in_code, before = [], False, ""
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("```"):
            in_code = not in_code
        elif in_code:
            # Comments in code have one sign.
            if line.startswith("## "):
                found.append(f"line {number}: a heading in code")
        elif line.startswith("|") and not before.startswith("|"):
            following = text.splitlines()[number : number + 1]
            if not following or not re.fullmatch(r"\|( ?:?-+:? ?\|)+", following[0]):
                found.append(f"line {number}: a table without a head")
        before = line
    return [*found, "code that does not end"] if in_code else found


def test_faults_are_found() -> None:
    good = "# A\n\n| a | b |\n| --- | ---: |\n| 1 | 2 |\n\n```bash\n# b\n```\n\n## C\n"
    assert faults(good) == []
    assert faults("```bash\nls\n## B\n\n```\nls\n```\n") == ["line 3: a heading in code", "code that does not end"]
    assert faults("text\n| 1 | 2 |\n") == ["line 2: a table without a head"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_code_ends_and_tables_have_heads(page: Path) -> None:
    assert faults(page.read_text(encoding="utf-8")) == []


def sections(text: str) -> Iterator[tuple[str, str]]:
    """The anchor of each heading, and what stands below it up to the next one."""
    parts = re.split(r"^#+ (.+)$", text, flags=re.MULTILINE)
    for title, body in zip(parts[1::2], parts[2::2]):
        yield re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-"), body


def documented(text: str) -> dict[str, list[tuple[list[str], str]]]:
    """Of each model that has a table of settings the names and the defaults of every row."""
    anchors = {anchor: name for name, anchor in re.findall(r"\[`([\w-]+)`\]\(#([\w-]+)\)", text)}
    found: dict[str, list[tuple[list[str], str]]] = {}
    for anchor, body in sections(text):
        for table in re.findall(r"^\| key \| default \| \|\n\|[- |]+\n((?:\|.*\n)+)", body, flags=re.MULTILINE):
            for row in table.splitlines():
                keys, default = [cell.strip() for cell in row.split("|")[1:3]]
                found.setdefault(anchors[anchor], []).append((NAMES.findall(keys), default))
    return found


def _like(value: object, word: str) -> object:
    """The word as a value of the other's kind; numbers may have commas."""
    if isinstance(value, bool):
        return {"true": True, "false": False}.get(word, word)
    return type(value)(word.replace(",", "")) if isinstance(value, int | float) else word


PAGE = MODELS.read_text(encoding="utf-8")


def test_every_model_has_a_section() -> None:
    linked = dict(re.findall(r"\[`([\w-]+)`\]\(#([\w-]+)\)", PAGE))
    assert set(linked) == set(list_models())
    assert set(linked.values()) <= {anchor for anchor, _ in sections(PAGE)}
    assert {"ugatit", "progan", "cyclegan"} <= set(documented(PAGE))


@pytest.mark.parametrize(("model", "rows"), documented(PAGE).items(), ids=documented(PAGE))
def test_settings_of_a_model_are_its_own(model: str, rows: list[tuple[list[str], str]]) -> None:
    config = model_info(model).config
    for keys, default in rows:
        for key in keys:
            assert key in config or key in option_names(), f"{model} has no setting {key}"
        # Where the page has a plain value for each, it is the default; an open one follows from other settings.
        words = default.replace("`", "").split(", ")
        if len(words) == len(keys) and all(map(PLAIN.fullmatch, words)):
            said = {key: word for key, word in zip(keys, words) if config.get(key) is not None}
            assert {key: str(config[key]) for key in said} == {key: str(_like(config[key], said[key])) for key in said}
