"""Reading prompt files: what is refused, what is mended, what is kept."""

from __future__ import annotations

import codecs
import hashlib
import os

import pytest

from workflowmaster.flows.diagnostics import PromptError
from workflowmaster.flows.mojibake import repair
from workflowmaster.flows.prompts import MAX_BYTES, parse, read

PLAIN = "# Title\n\nSay it.\n"


def codes(error: PromptError) -> list[str]:
    return [one.code for one in error.diagnostics]


def refused(data: bytes) -> PromptError:
    with pytest.raises(PromptError) as caught:
        parse(data, "p.md")
    return caught.value


def twice(text: str) -> bytes:
    """The text as a program leaves it that took UTF-8 for Windows-1252 and saved it again."""
    undefined = {0x81, 0x8D, 0x8F, 0x90, 0x9D}
    return "".join(
        chr(byte) if byte < 0x80 or byte in undefined else bytes((byte,)).decode("cp1252") for byte in text.encode()
    ).encode()


def test_a_file_is_read(tmp_path):
    path = tmp_path / "p.md"
    path.write_text(PLAIN)
    prompt = read(path)
    assert prompt.path == str(path)
    assert prompt.sha256 == hashlib.sha256(PLAIN.encode()).hexdigest()
    assert prompt.lines == ("# Title", "", "Say it.", "")
    assert [block.kind for block in prompt.blocks] == ["heading", "paragraph"]
    assert prompt.diagnostics == ()


def test_no_such_file(tmp_path):
    with pytest.raises(PromptError) as caught:
        read(tmp_path / "none.md")
    assert codes(caught.value) == ["WM101"]
    assert str(tmp_path / "none.md") in str(caught.value)


def test_a_directory(tmp_path):
    with pytest.raises(PromptError) as caught:
        read(tmp_path)
    assert codes(caught.value) == ["WM102"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(tmp_path):
    path = tmp_path / "p.md"
    path.write_text(PLAIN)
    path.chmod(0)
    with pytest.raises(PromptError, match="cannot be opened"):
        read(path)


def test_a_path_through_a_file(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(PromptError) as caught:
        read(tmp_path / "file" / "p.md")
    assert codes(caught.value) == ["WM102"]


@pytest.mark.parametrize(
    ("data", "code", "line"),
    [
        (b"", "WM104", 1),
        (b" \n\t\n", "WM104", 1),
        (b"---\nname: x\n---\n", "WM104", 1),
        (b"# x\n\xff\xfe\n", "WM103", 2),
        (b"# \xe9t\xe9\n", "WM103", 1),
        (b"# x\n\nbell \x07\n", "WM103", 3),
        (b"\x7fELF\x02\x01\x01\x00\x00", "WM103", 1),
        (b"---\nname: [1\n---\n# x\n", "WM106", 3),
        (b"---\n- a\n---\n# x\n", "WM109", 2),
        (b"---\nname: x\n\n# Title\n", "WM107", 1),
        (b"---\na: 1\nb: 2\na: 3\n---\n# x\n", "WM108", 4),
        (b"---\na: &x 1\n---\n# x\n", "WM114", 2),
    ],
)
def test_what_is_no_prompt(data, code, line):
    error = refused(data)
    assert codes(error) == [code]
    assert error.diagnostics[0].line == line


def test_a_file_that_is_too_large():
    assert codes(refused(b"# x\n" + b"a" * MAX_BYTES)) == ["WM112"]


@pytest.mark.parametrize(
    "data",
    [
        codecs.BOM_UTF8 + PLAIN.encode(),
        PLAIN.replace("\n", "\r\n").encode(),
        PLAIN.replace("\n", "\r").encode(),
        PLAIN.encode("utf-16"),
    ],
    ids=["mark", "crlf", "cr", "utf-16"],
)
def test_foreign_spellings_of_the_same_text(data):
    prompt = parse(data, "p.md")
    assert prompt.text == PLAIN
    assert prompt.diagnostics == ()
    assert prompt.sha256 == hashlib.sha256(data).hexdigest()


def test_utf_16_with_a_mark_but_broken():
    assert codes(refused(codecs.BOM_UTF16_LE + b"a")) == ["WM103"]


@pytest.mark.parametrize(
    "text", ["It\N{RIGHT SINGLE QUOTATION MARK}s “quoted” — naïve café 🔒 ├── ✅ 日本語", "Ü und ß", "🤖🤖"]
)
def test_text_that_was_encoded_twice_is_mended(text):
    prompt = parse(b"# x\n\n" + twice(text), "p.md")
    assert prompt.lines[2] == text
    assert [(one.code, one.severity, one.line) for one in prompt.diagnostics] == [("WM105", "warning", 3)]


@pytest.mark.parametrize(
    "text", ["It\N{RIGHT SINGLE QUOTATION MARK}s “fine” — café 🔒", "20 °C, Â° alone", "ÀÉÎ", "plain"]
)
def test_text_that_is_right_is_left_alone(text):
    assert repair(text) == (text, 0)


def test_only_the_broken_part_of_a_mixed_text_is_mended():
    broken = twice("naïve — 🔒").decode()
    assert repair(f"café\n{broken} ✅") == ("café\nnaïve — 🔒 ✅", 2)


def test_front_matter_keeps_its_places():
    prompt = parse(b"---\nname: x\non:\n  schedule: daily\n---\n\n# Title\n", "p.md")
    assert prompt.front.values == {"name": "x", "on": {"schedule": "daily"}}
    assert prompt.front.at("on", "schedule") == (4, 13, 18)
    assert prompt.front.key("name") == (2, 1, 5)
    assert prompt.body_line == 6
    assert prompt.blocks[0].line == 7


@pytest.mark.parametrize("text", ["---\n\n# Title\n", "---\nJust a rule above.\n"])
def test_a_rule_at_the_top_is_no_front_matter(text):
    assert parse(text.encode(), "p.md").front.values == {}


def test_a_fence_without_an_end_is_named():
    prompt = parse(b"# x\n\n```bash\necho\n", "p.md")
    assert [(one.code, one.line) for one in prompt.diagnostics] == [("WM110", 3)]


@pytest.mark.parametrize(
    "text", ["```\na\n```\n", "````\n```\na\n````", "~~~ sh\na\n~~~", "- a\n  ```\n  b\n  ```\n", "    code\n"]
)
def test_a_fence_with_an_end_is_not(text):
    assert parse(text.encode(), "p.md").diagnostics == ()


def test_comments_in_fences_are_no_headings():
    prompt = parse(b"# Title\n\n```bash\n# not a heading\n```\n\n## Next\n", "p.md")
    assert [(section.title, section.line) for section in prompt.root.walk()] == [("", 1), ("Title", 1), ("Next", 7)]


@pytest.mark.parametrize(
    ("line", "words", "place"),
    [(1, "Title", (1, 3, 8)), (1, "missing", (1, 1, 8)), (3, "", (3, 1, 8)), (99, "x", (99, 1, 2))],
)
def test_places_of_words(line, words, place):
    assert parse(PLAIN.encode(), "p.md").place(line, words) == place
