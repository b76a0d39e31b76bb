"""The language of a step's `if`: comparisons over what earlier steps left, the inputs and the matrix.

A language of its own, small enough to be read in one go, instead of a template engine or Python's `eval`: the words of
a prompt never become code, every name can be checked before anything runs, and evaluating cannot fail. The accepted
cost: no arithmetic, and a name that has no value yet counts as empty.

    if: steps.build.outputs.changed != "0" and not (inputs.draft or matrix.python == "3.13")

Words: `and or not` (also `&& || !`), `== != < <= > >= in`, text in quotes, numbers, `true false null`, parentheses;
`steps.ID.status`, `steps.ID.outputs.NAME` (`steps["tests/3.12"].status` where the id is no plain word), `inputs.NAME`,
`matrix.NAME`; `success()` (the default: nothing before failed), `failure()`, `always()`, `contains(a, b)`,
`startsWith(a, b)`, `endsWith(a, b)`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NoReturn

from workflowmaster.flows.diagnostics import Diagnostic, PromptError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

Value = str | float | bool | None

MAX_DEPTH = 40
"""Deepest nesting of parentheses and `not`."""
FAILED = frozenset(("failed", "blocked"))
"""Statuses that `success()` and `failure()` look for."""

# One token holds a whole dotted name, so that its column and length are the finding's.
_TOKEN = re.compile(
    r"""\s*(?:
    (?P<name>[A-Za-z_][\w-]*(?:\.[\w-]+|\[(?:"[^"]*"|'[^']*')\])*)
  | (?P<number>-?\d+(?:\.\d+)?(?![\w.]))
  | (?P<text>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')
  | (?P<sign>==|!=|<=|>=|&&|\|\||[<>!(),])
    )""",
    re.VERBOSE | re.ASCII,
)
_NUMBER = re.compile(r"\s*[-+]?(\d{1,300}(\.\d*)?|\.\d+)\s*", re.ASCII)
_PART = re.compile(r"""\.?([\w-]+)|\["([^"]*)"\]|\['([^']*)'\]""")
_WORDS = {"&&": "and", "||": "or", "!": "not"}
_CONSTANTS: dict[str, Value] = {"true": True, "false": False, "null": None}
_COMPARISONS = frozenset(("==", "!=", "<", "<=", ">", ">=", "in"))
_FALSE = frozenset(("", "false", "0"))


@dataclass(frozen=True, slots=True)
class StepView:
    """What a condition can see of a step that has ended."""

    status: str
    outputs: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Name:
    """A value a condition asks for: `("steps", "build", "outputs", "changed")`."""

    path: tuple[str, ...]
    column: int
    """Of its first character within the condition; counts from 1."""
    length: int


@dataclass(frozen=True, slots=True)
class Literal:
    """A value written out."""

    value: Value


@dataclass(frozen=True, slots=True)
class Call:
    """An operator or function over parts."""

    operator: str
    parts: tuple[Node, ...]


Node = Name | Literal | Call


@dataclass(frozen=True, slots=True)
class Condition:
    """A parsed `if`."""

    text: str
    root: Node
    names: tuple[Name, ...]
    """Every value it asks for, in order of appearance."""
    looks_at_failures: bool
    """Whether it calls `failure()` or `always()`: such a step is asked even though something before it failed."""


@dataclass(frozen=True, slots=True)
class _Seen:
    """What the names of a condition stand for while it is evaluated."""

    steps: Mapping[str, StepView]
    inputs: Mapping[str, object]
    matrix: Mapping[str, object]


def parse_condition(text: str, *, file: str = "", line: int = 1, column: int = 1) -> Condition:
    """Return the condition. PromptError (a ValueError) with the column of the first thing that cannot be understood.

    `file`, `line` and `column` say where the text stands, so that the error's diagnostic points into the prompt.
    """
    return _Parser(text, file, line, column).whole()


def evaluate(
    condition: Condition,
    *,
    steps: Mapping[str, StepView],
    inputs: Mapping[str, object],
    matrix: Mapping[str, object],
) -> bool:
    """Return whether the step is to run. Pure, and never raises.

    `steps` are the steps before this one, by id. Values that read as numbers are compared as numbers, unless it is
    for equality and both are text; all others as text. Empty text, `0`, `false` and null are false; everything else is
    true. A condition without `failure()` and `always()` also asks for `success()`, as in GitHub Actions.
    """
    seen = _Seen(steps, inputs, matrix)
    if not condition.looks_at_failures and not _succeeded(steps):
        return False
    return truth(_value(condition.root, seen))


def truth(value: object) -> bool:
    """Return whether a value counts as true."""
    if isinstance(value, str):
        return value.strip().lower() not in _FALSE
    return bool(value)


def _succeeded(steps: Mapping[str, StepView]) -> bool:
    return not any(view.status in FAILED for view in steps.values())


def _value(node: Node, seen: _Seen) -> object:
    if isinstance(node, Literal):
        return node.value
    if isinstance(node, Name):
        return _look_up(node.path, seen)
    if node.operator == "and":
        return all(truth(_value(part, seen)) for part in node.parts)
    if node.operator == "or":
        return any(truth(_value(part, seen)) for part in node.parts)
    # These look at the steps themselves; all others only at values.
    if node.operator in _STATUS:
        return _STATUS[node.operator](seen.steps)
    return _OPERATORS[node.operator](*(_value(part, seen) for part in node.parts))


def _look_up(path: tuple[str, ...], seen: _Seen) -> object:
    room, name = path[0], path[1]
    if room == "inputs":
        return seen.inputs.get(name, "")
    if room == "matrix":
        return seen.matrix.get(name, "")
    view = seen.steps.get(name)
    if view is None:
        return ""
    return view.status if path[2] == "status" else view.outputs.get(path[3], "")


def _text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def _numbers(left: object, right: object) -> tuple[float, float] | None:
    texts = _text(left), _text(right)
    if all(_NUMBER.fullmatch(text) for text in texts):
        return float(texts[0]), float(texts[1])
    return None


def _equal(left: object, right: object) -> bool:
    # Two texts are equal as texts: Python 3.1 is not 3.10, though the numbers are.
    both = None if isinstance(left, str) and isinstance(right, str) else _numbers(left, right)
    return both[0] == both[1] if both else _text(left) == _text(right)


def _less(left: object, right: object) -> bool:
    both = _numbers(left, right)
    return both[0] < both[1] if both else _text(left) < _text(right)


_STATUS: Mapping[str, Callable[[Mapping[str, StepView]], bool]] = {
    "success": _succeeded,
    "failure": lambda steps: not _succeeded(steps),
    "always": lambda _steps: True,
}
_OPERATORS: Mapping[str, Callable[..., bool]] = {
    "not": lambda value: not truth(value),
    "==": _equal,
    "!=": lambda left, right: not _equal(left, right),
    "<": _less,
    ">": lambda left, right: _less(right, left),
    "<=": lambda left, right: _less(left, right) or _equal(left, right),
    ">=": lambda left, right: _less(right, left) or _equal(left, right),
    "in": lambda left, right: _text(left) in _text(right),
    "contains": lambda left, right: _text(right) in _text(left),
    "startsWith": lambda left, right: _text(left).startswith(_text(right)),
    "endsWith": lambda left, right: _text(left).endswith(_text(right)),
}
_FUNCTIONS: Mapping[str, int] = {
    "success": 0,
    "failure": 0,
    "always": 0,
    "contains": 2,
    "startsWith": 2,
    "endsWith": 2,
}


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    start: int
    end: int


class _Parser:
    """Recursive descent: or, and, not, comparison, value."""

    def __init__(self, text: str, file: str, line: int, column: int) -> None:
        self._text, self._file, self._line, self._column = text, file, line, column
        self._tokens: Sequence[_Token] = self._split()
        self._index = 0
        self._depth = 0
        self._names: list[Name] = []
        self._functions: set[str] = set()

    def whole(self) -> Condition:
        root = self._either()
        token = self._peek()
        if token.kind != "end":
            self._refuse(f"unexpected {token.text!r}", token, "join two conditions with `and` or `or`")
        late = bool(self._functions & {"failure", "always"})
        return Condition(self._text, root, tuple(self._names), looks_at_failures=late)

    def _split(self) -> list[_Token]:
        tokens, at, text = [], 0, self._text.rstrip()
        while at < len(text):
            found = _TOKEN.match(text, at)
            if not found or not found.lastgroup:
                at += len(text[at:]) - len(text[at:].lstrip())
                odd = _Token("odd", text[at], at, at + 1)
                advice = "use == to compare" if text[at] == "=" else "text stands in quotes"
                self._refuse(f"{text[at]!r} cannot be read here", odd, advice)
            word = found[found.lastgroup]
            kind = "sign" if word in ("and", "or", "not", "in") else found.lastgroup
            tokens.append(_Token(kind, _WORDS.get(word, word), found.start(found.lastgroup), found.end()))
            at = found.end()
        return [*tokens, _Token("end", "end", len(text), len(text) + 1)]

    def _peek(self) -> _Token:
        return self._tokens[self._index]

    def _take(self, *signs: str) -> str:
        token = self._peek()
        if token.kind == "sign" and token.text in signs:
            self._index += 1
            return token.text
        return ""

    def _either(self) -> Node:
        parts = [self._both()]
        while self._take("or"):
            parts.append(self._both())
        return parts[0] if len(parts) == 1 else Call("or", tuple(parts))

    def _both(self) -> Node:
        parts = [self._negation()]
        while self._take("and"):
            parts.append(self._negation())
        return parts[0] if len(parts) == 1 else Call("and", tuple(parts))

    def _negation(self) -> Node:
        # Every way down passes here, so this bounds the whole recursion.
        self._depth += 1
        if self._depth > MAX_DEPTH:
            self._refuse("nested too deep", self._peek(), "split the condition over two steps")
        node = Call("not", (self._negation(),)) if self._take("not") else self._comparison()
        self._depth -= 1
        return node

    def _comparison(self) -> Node:
        left = self._single()
        operator = self._take(*_COMPARISONS)
        return Call(operator, (left, self._single())) if operator else left

    def _single(self) -> Node:
        token = self._peek()
        if self._take("("):
            node = self._either()
            self._expect(")")
            return node
        self._index += 1
        if token.kind == "number":
            return Literal(float(token.text))
        if token.kind == "text":
            return Literal(re.sub(r"\\(.)", r"\1", token.text[1:-1]))
        if token.kind != "name":
            place = "at the end" if token.kind == "end" else f"before {token.text!r}"
            self._refuse(f"a value is missing {place}", token, "a name, a number, or text in quotes")
        if token.text in _CONSTANTS:
            return Literal(_CONSTANTS[token.text])
        return self._call(token) if self._take("(") else self._name(token)

    def _expect(self, sign: str) -> None:
        if not self._take(sign):
            self._refuse(f"{sign!r} is missing", self._peek(), "")

    def _call(self, token: _Token) -> Node:
        wanted = _FUNCTIONS.get(token.text)
        if wanted is None:
            hint = did_you_mean(token.text, _FUNCTIONS)
            self._refuse(f"unknown function {token.text!r}", token, hint or f"known: {', '.join(_FUNCTIONS)}")
        parts: list[Node] = []
        while not self._take(")"):
            if parts:
                self._expect(",")
            parts.append(self._either())
        if len(parts) != wanted:
            self._refuse(f"{token.text}() takes {wanted} values, not {len(parts)}", token, "")
        self._functions.add(token.text)
        return Call(token.text, tuple(parts))

    def _name(self, token: _Token) -> Name:
        path = tuple(found[1] or found[2] or found[3] or "" for found in _PART.finditer(token.text))
        if not _is_known_form(path):
            hint = did_you_mean(path[0], ("steps", "inputs", "matrix"))
            forms = "steps.ID.status, steps.ID.outputs.NAME, inputs.NAME or matrix.NAME; text stands in quotes"
            self._refuse(f"{token.text!r} is no value", token, f"{hint} write {forms}".strip())
        name = Name(path, token.start + 1, token.end - token.start)
        self._names.append(name)
        return name

    def _refuse(self, message: str, token: _Token, advice: str) -> NoReturn:
        start = self._column + token.start
        raise PromptError(
            Diagnostic(
                code="WM308",
                severity="error",
                file=self._file,
                line=self._line,
                column=start,
                end_column=start + max(1, token.end - token.start),
                message=f"if: {message}",
                help=advice,
            )
        )


def _is_known_form(path: tuple[str, ...]) -> bool:
    if path[0] in ("inputs", "matrix"):
        return len(path) == 2
    return path[0] == "steps" and (path[2:] == ("status",) or (len(path) == 4 and path[2] == "outputs"))
