"""Markdown as blocks and sections with their lines."""

from __future__ import annotations

import pytest

from workflowmaster.flows.outline import inline, is_checkbox, parse, sections

NESTED = """\
Before.

# One

text

## Two

1. first
   - nested
   ```bash
   echo
   ```
2. second

> quoted
> # no heading

Setext
------

# Three
"""


def tree():
    return sections(parse(NESTED), NESTED.count("\n"))


def test_sections_nest_by_level_and_end_before_the_next():
    found = [(part.level, part.title, part.line, part.end_line) for part in tree().walk()]
    assert found == [
        (0, "", 1, 22),
        (1, "One", 3, 21),
        (2, "Two", 7, 18),
        (2, "Setext", 19, 21),
        (1, "Three", 22, 22),
    ]


def test_what_stands_before_the_first_heading_is_the_roots():
    assert [block.text for block in tree().blocks] == ["Before."]


def test_items_have_numbers_children_and_lines():
    blocks = next(part for part in tree().walk() if part.title == "Two").blocks
    first, second = blocks[0].children
    assert blocks[0].ordered
    assert (first.level, first.line, second.level, second.line) == (1, 9, 2, 14)
    assert [child.kind for child in first.children] == ["paragraph", "list", "fence"]
    fence = first.first("fence")
    assert (fence.line, fence.end_line, fence.info, fence.text) == (11, 13, "bash", "echo\n")
    assert first.first("quote") is None


def test_quotes_keep_their_headings_to_themselves():
    quote = next(block for part in tree().walk() for block in part.blocks if block.kind == "quote")
    assert [child.kind for child in quote.children] == ["paragraph", "heading"]


def test_tables_and_rules_are_blocks():
    found = parse("| a | b |\n| --- | --- |\n| 1 | 2 |\n\n---\n\n<div>x</div>\n")
    assert [block.kind for block in found] == ["table", "rule", "html"]


@pytest.mark.parametrize(
    ("text", "plain", "lead", "rest", "codes"),
    [
        ("**Bold lead**: the rest", "Bold lead: the rest", "Bold lead", "the rest", ()),
        ("**Lead:** the rest", "Lead: the rest", "Lead", "the rest", ()),
        ("**Lead** - the rest", "Lead - the rest", "Lead", "the rest", ()),
        ("run `a b` and `c`", "run a b and c", "", "run a b and c", ("a b", "c")),
        ("[ ] open **box**", "open box", "", "open box", ()),
        ("[x] **Done**", "Done", "Done", "", ()),
        ("a [link](http://x) and *em*", "a link and em", "", "a link and em", ()),
        ("two\nlines", "two lines", "", "two lines", ()),
        ("**`code` lead**: x", "code lead: x", "code lead", "x", ("code",)),
        ("not **leading**", "not leading", "", "not leading", ()),
        ("", "", "", "", ()),
    ],
)
def test_inline_text(text, plain, lead, rest, codes):
    found = inline(text)
    assert (found.lead, found.rest, found.codes) == (lead, rest, codes)
    assert found.text == plain


def test_check_boxes():
    assert is_checkbox("[ ] a")
    assert is_checkbox("[X] a")
    assert not is_checkbox("[link] a")


def test_deep_nesting_does_not_break_anything():
    assert parse("> " * 500 + "x")
    assert parse("\n".join("  " * depth + "- x" for depth in range(300)))
