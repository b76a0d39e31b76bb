"""Rules that say what a line of a log means: read from YAML, checked, and made ready to be tried.

Data, so that an operator can add what their tools print without touching code. A rule is found by its words, all in
one pass, and only then are its patterns tried. Words match whole words, so the commonest mistake of such
tables, "author" taken for `auth`, cannot be made with them.

A pattern could make a decision hang, for a step may print what it likes. So lines are cut (`decisive.LONGEST`), a
pattern that could take long on such a line is refused (`patternrisk`). The accepted cost: a few harmless patterns must
be written in another way.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from workflowmaster.flows.decisive import LONGEST, Gate, Line, cut
from workflowmaster.flows.diagnostics import Report
from workflowmaster.flows.located import Located, read_mapping
from workflowmaster.flows.patternrisk import risk
from workflowmaster.flows.plan import FailureClass, Kind
from workflowmaster.flows.retryafter import WORDS
from workflowmaster.flows.settings import SettingsError
from workflowmaster.flows.weighing import A_WORD, THAT

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Iterator, Sequence

    from workflowmaster.flows.decisive import Survey

SHIPPED = Path(__file__).with_name("failure_rules.yaml")
"""Our own rules. Those of an operator are tried first."""


def _harmless(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{pattern!r} is no regular expression: {error}") from None
    if fault := risk(pattern, LONGEST):
        raise ValueError(f"{pattern!r} could take for ever: {fault}")
    return pattern


Pattern = Annotated[str, AfterValidator(_harmless)]


class Rule(BaseModel):
    """One row: which lines mean what."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[a-z][a-z0-9-]{1,39}$")
    cls: FailureClass = Field(alias="class")
    words: tuple[Annotated[str, Field(min_length=1)], ...] = Field(min_length=1)
    """One of them must be in the line, whole, in any case."""
    patterns: tuple[Pattern, ...] = ()
    """Of which the line must hold one besides, where there are any; regular expressions, in any case."""
    unless: Pattern = Field(default="", alias="not")
    """What the line must not hold."""
    where: Literal["errors", "anywhere"] = "errors"
    """Lines that report a fault, or every line."""
    kinds: tuple[Kind, ...] = ()
    """Kinds of steps it is for; empty means all."""
    confidence: float = Field(default=0.9, gt=0, le=1)
    examples: tuple[str, ...] = Field(min_length=1)
    """Lines it must match."""
    counterexamples: tuple[str, ...] = Field(min_length=1)
    """Lines with such words that it must not match."""
    yields: tuple[str, ...] = ()
    """Classes or names of rules that are the cause, where another line means one of them: pip says that there is no
    such package when the index did not answer."""
    advice: str = ""
    """What a person can do about it, in one sentence."""

    def matches(self, line: str) -> bool:
        """Whether a line that has one of the words means this."""
        if self.patterns and not any(_compiled(pattern).search(line) for pattern in self.patterns):
            return False
        return not (self.unless and _compiled(self.unless).search(line))

    @model_validator(mode="after")
    def _no_gap_of_words(self) -> Self:
        for word in self.words:
            if word != word.strip():
                raise ValueError(f"the word {word!r} begins or ends with a space; words are matched whole already")
        return self


@dataclass(frozen=True)
class Match:
    """A rule that holds, and the line that says so."""

    rule: Rule
    line: str
    confidence: float
    """The rule's, less where only a weak line says so."""


WEAK = 0.7
"""What a match is worth where no line in a tool's own form for a fault has it, but only a word of trouble."""

NEAR = 40
"""Lines from the end of a log in which a fault counts before all others: what failed last is why it ended."""


FIELDS = tuple(field.alias or name for name, field in Rule.model_fields.items())
"""Keys of a rule in a file."""

FEW_WORDS = 10
"""Words that are quicker looked for one by one."""


class Rules:
    """Rules in the order they are tried, made ready."""

    def __init__(self, rules: Iterable[Rule]) -> None:
        """Make rules ready, in this order: the first that holds decides."""
        from ahocorasick_rs import AhoCorasick, Implementation

        self.all = tuple(rules)
        self._owners = [number for number, rule in enumerate(self.all) for _ in rule.words]
        words = [word.lower() for rule in self.all for word in rule.words]
        self._words = AhoCorasick(words, implementation=Implementation.DFA)
        self._anywhere = frozenset(rule.name for rule in self.all if rule.where == "anywhere")
        further = dict.fromkeys(word for rule in self.all if rule.where == "anywhere" for word in rule.words)
        self.gate = Gate([*further, *WORDS])

    def __iter__(self) -> Iterator[Rule]:
        """Iterate over the rules in their order."""
        return iter(self.all)

    def advice(self, source: str) -> str:
        """Return what a person can do about a failure of that `source`; empty where its rule does not say."""
        kind, _, name = source.partition(":")
        return next((rule.advice for rule in self.all if kind == "rule" and rule.name == name), "")

    def judge(self, seen: Survey, kind: str = "command") -> Match | None:
        """Return the first rule that holds: of the decisive lines near the end, then of all, then of weaker ones."""
        strong = [line for line in seen.chosen if line.weight > A_WORD]
        near = [line for line in strong if line.number >= len(seen.lines) - NEAR]
        weak = [line for line in seen.found if line.weight <= THAT][-NEAR:]
        match = self._first(near, kind) or self._first(strong, kind) or self._first(weak, kind, worth=WEAK)
        if match is None:
            return self._first(seen.others(NEAR), kind, worth=WEAK, among=self._anywhere)
        return self._cause(match.rule, seen, kind) or match

    def _cause(self, rule: Rule, seen: Survey, kind: str) -> Match | None:
        """Return what another line says about why a rule came to hold, where the rule yields to that."""
        names = frozenset(self._chosen(rule.yields))
        words = [word.lower() for one in self.all if one.name in names for word in one.words]
        lines = [*seen.found, *seen.others(NEAR)] if words else []
        if len(words) <= FEW_WORDS:
            lines = [line for line in lines if any(word in line.text.lower() for word in words)]
        return self._first(lines, kind, among=names)

    def read(self, sentence: str, kind: str = "command") -> Match | None:
        """Judge a single line, such as our own reason."""
        return self._first([Line(0, cut(sentence), A_WORD, verdict=False)], kind, worth=WEAK)

    def _chosen(self, names: Iterable[str]) -> frozenset[str]:
        """Return the names of the rules that are named, or whose class is."""
        wanted = frozenset(names)
        return frozenset(rule.name for rule in self.all if rule.name in wanted or rule.cls in wanted)

    def _first(
        self, lines: Iterable[Line], kind: str, *, worth: float = 1.0, among: frozenset[str] | None = None
    ) -> Match | None:
        """Try rules in their order on lines."""
        named: dict[int, list[str]] = {}
        for line in lines:
            for number in self._named(line.text):
                # What a failed test is called, or expected, says nothing about anything but that it failed.
                if not line.verdict or self.all[number].cls == "test_failure":
                    named.setdefault(number, []).append(line.text)
        for number in sorted(named):
            rule = self.all[number]
            if (not rule.kinds or kind in rule.kinds) and (among is None or rule.name in among):
                text = next((text for text in named[number] if rule.matches(text)), None)
                if text is not None:
                    return Match(rule, text, round(rule.confidence * worth, 4))
        return None

    def _named(self, line: str) -> set[int]:
        """Return the numbers of the rules of which a word is in the line, whole."""
        low = line.lower()
        hits = self._words.find_matches_as_indexes(low, overlapping=True)
        return {self._owners[word] for word, start, end in hits if _whole(low, start, end)}


def load(places: Iterable[Path] = ()) -> Rules:
    """Return the rules of those files and folders (their `*.yaml`, by name), and then ours.

    SettingsError names file and line of the first mistake; also a rule that does not do what its examples say.
    """
    files = [path for place in places for path in (sorted(place.glob("*.yaml")) if place.is_dir() else [place])]
    written = [_tried(path, read(path)) for path in files]
    own = [rule for rules in written for rule, _ in rules]
    known = {*get_args(FailureClass), *(rule.name for rule in (*own, *shipped()))}
    for path, rules in zip(files, written, strict=True):
        _look_up(path, rules, known)
    return Rules((*own, *shipped())) if own else _ours()


@cache
def shipped() -> tuple[Rule, ...]:
    """Return our own rules."""
    return tuple(rule for rule, _ in read(SHIPPED))


@cache
def _ours() -> Rules:
    return Rules(shipped())


def read(path: Path) -> list[tuple[Rule, int]]:
    """Read a file of rules: each with its line."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: the failure rules cannot be read: {error}") from error
    report = Report(str(path))
    located = read_mapping(text, line=1, report=report)
    if located is None:
        first = report.diagnostics[0]
        raise SettingsError(f"{path}:{first.line}: {first.message}")
    rows = located.values.get("rules")
    if not isinstance(rows, list) or set(located.values) != {"rules"}:
        raise SettingsError(f"{path}:1: a file of failure rules is `rules:` and a list of rules below it")
    return [(_rule(path, located, number, row), located.at("rules", number)[0]) for number, row in enumerate(rows)]


def _rule(path: Path, located: Located, number: int, row: Any) -> Rule:
    try:
        return Rule.model_validate(row)
    except ValidationError as error:
        # A misspelt field is why another one is missing.
        faults = sorted(error.errors(), key=lambda one: one["type"] != "extra_forbidden")
        first = faults[0]
        if first["type"] == "extra_forbidden":
            first["msg"] = f"there is no such field; there are {', '.join(FIELDS)}"
        field = first["loc"][0] if first["loc"] else ""
        line = located.at("rules", number, *([str(field)] if field else []))[0]
        name = row.get("name", f"number {number + 1}") if isinstance(row, dict) else f"number {number + 1}"
        raise SettingsError(f"{path}:{line}: rule {name}: {field or 'it'}: {first['msg']}") from error


def _look_up(path: Path, rules: Sequence[tuple[Rule, int]], known: Container[str]) -> None:
    """Refuse a rule that yields to what does not exist: a misspelt name would never be the cause."""
    for rule, line in rules:
        if lost := [name for name in rule.yields if name not in known]:
            raise SettingsError(f"{path}:{line}: rule {rule.name}: yields: there is no class and no rule {lost[0]}")


def _tried(path: Path, rules: list[tuple[Rule, int]]) -> list[tuple[Rule, int]]:
    """Hold rules to their own examples."""
    for rule, line in rules:
        if wrong := misjudged(rule):
            raise SettingsError(f"{path}:{line}: rule {rule.name}: {wrong}")
    return rules


def misjudged(rule: Rule) -> str:
    """Return which of its examples a rule does not judge as they say, in a sentence; empty if all."""
    alone = Rules([rule])
    kind = rule.kinds[0] if rule.kinds else "command"
    for text in rule.examples:
        if not alone.read(text, kind):
            return f"it does not match its example {text!r}"
    for text in rule.counterexamples:
        if alone.read(text, kind):
            return f"it matches its counterexample {text!r}"
    return ""


def _whole(text: str, start: int, end: int) -> bool:
    """Whether a match is no part of a longer word: `auth` is not in `author`, nor `timeout` in `test_timeout`."""
    before, after = text[max(start - 1, 0) : start], text[end : end + 1]
    return not (_wordy(before) and _wordy(text[start])) and not (_wordy(after) and _wordy(text[end - 1]))


def _wordy(sign: str) -> bool:
    return sign.isalnum() or sign == "_"


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.IGNORECASE)
