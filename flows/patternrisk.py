"""Whether a regular expression could take for ever on a line. Pure.

Python's engine goes back on its steps, and nothing can stop it while it does. What a step prints is chosen by the step,
so the worst line counts. Two things make patterns explode: a repeat inside a repeat, which is refused, and several gaps
in a row that may each be long, whose product is bounded. The accepted cost: this is a sum on paper, and refuses a few
patterns that would be quick. Narrow repeats such as `[0-9]+` are free, because what follows them ends them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

MOST_STEPS = 5_000_000
"""Steps that a pattern may take on one line at worst: a twentieth of a second."""

FEW = 3
"""Times that a group with a repeat in it may be repeated."""

_TOKEN = re.compile(
    r"(?P<atom>\\.|\[\^?\]?(?:\\.|[^\]\\])*\])"
    r"|(?P<open>\((?:\?(?:[:=!>]|<[=!]|P<\w+>))?)"
    r"|(?P<repeat>[*+?]|\{[0-9]*,?[0-9]*\})[?+]?"
    r"|(?P<sign>[()|])"
    r"|(?P<other>.)",
    re.DOTALL,
)
_WIDE = re.compile(r"\.|\[\^|\\[SwWD]")


@dataclass
class _Group:
    """A group that is being read."""

    longest: int
    steps: int = 1
    """Of the branch under way."""
    most: int = 1
    """Of the branches before it."""
    starts: int = 0
    """Places of a line at which the branch under way may begin; 0 before its first token."""
    loops: bool = False
    """Whether a repeat or a choice is in it."""
    last: str = ""
    """The last atom; `loop` for a group that loops."""
    inner: int = 1
    """Steps of the last group in it."""

    def begin(self, text: str) -> None:
        """Note where the branch under way may begin, by its first token."""
        self.starts = self.starts or (1 if text == "^" else self.longest)

    def end(self, *, outermost: bool) -> int:
        """End a branch; return the steps of the longest so far, with all it may begin at if it is outermost."""
        self.most = max(self.most, self.steps * (self.starts or 1 if outermost else 1))
        self.steps, self.starts, self.last = 1, 0, ""
        return self.most


def risk(pattern: str, longest: int) -> str:
    """Return why a pattern that compiles could take for ever on a line of `longest` characters; empty if it cannot."""
    stack = [_Group(longest)]
    for found in _TOKEN.finditer(pattern):
        kind, text = str(found.lastgroup), found[0]
        stack[-1].begin(text)
        if kind == "open":
            stack.append(_Group(longest))
        elif text == ")":
            _close(stack)
        elif text == "|":
            stack[-1].end(outermost=len(stack) == 1)
            stack[-1].loops = True
        elif kind == "repeat":
            if fault := _repeat(stack[-1], str(found["repeat"]), longest):
                return fault
        else:
            stack[-1].last = text
    steps = stack[0].end(outermost=True)
    return f"it may take {steps:,} steps on a line; bound its gaps, as in `.{{0,40}}`" if steps > MOST_STEPS else ""


def _close(stack: list[_Group]) -> None:
    done = stack.pop()
    stack[-1].inner = done.end(outermost=False)
    stack[-1].steps *= stack[-1].inner
    stack[-1].loops |= done.loops
    stack[-1].last = "loop" if done.loops else "group"


def _repeat(group: _Group, sign: str, longest: int) -> str:
    most = _most(sign, longest)
    if most <= 1:
        return ""
    if group.last == "loop" and most > FEW:
        return "a repeat or a choice stands inside a repeat"
    if group.last == "loop":
        group.steps *= group.inner ** (most - 1)
    group.loops = True
    if _WIDE.match(group.last):
        group.steps *= most
    return ""


def _most(sign: str, longest: int) -> int:
    if sign == "?":
        return 1
    if sign in "*+" or sign.endswith(",}"):
        return longest
    return min(int(sign.strip("{}").split(",")[-1]), longest)
