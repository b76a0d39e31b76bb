"""The prompt that is torn apart: every kind of step in few seconds, and each says outside that it runs.

A sandboxed step has no way to count itself that a crash could not take along: its log, its files and its container are
all ours to lose. So it knocks, over the engine's own bridge, at a listener that nothing under test owns (`tally`), and
does not go on before it was heard. What it leaves depends on nothing else: not on attempts, clocks or addresses.
"""

from __future__ import annotations

TEMPLATE = """\
---
name: Torn apart
security-policy: minimal
max-parallel: 2
---
# Torn apart

## Steps

### seed
- outputs: [word]
```bash
{knock}
echo seed > seed.txt
echo word=sesame >> "$WM_OUTPUT"
```

### issue
- needs: seed
- uses: create-issue

### left
- needs: seed
```bash
{knock}
sleep {pause:g}
echo "left of $STEP_SEED_WORD" > left.txt
```
```bash check
{knock}
grep sesame left.txt
```

### right
- needs: seed
- retries: {{max: 3, wait: 100ms}}
```bash
{knock}
test "$WM_ATTEMPT" -ge 2
echo right > right.txt
```

### sealed
- needs: seed
- policy: hardened
```bash
mkdir -p /out/workspace
echo sealed > /out/workspace/sealed.txt
```

### join
- needs: [left, right, sealed]
```bash
{knock}
cat seed.txt left.txt right.txt sealed.txt > joined.txt
sleep 0.2
```

### last
- needs: [join, issue]
- checkpoint: true
```bash
{knock}
sha256sum joined.txt > last.txt
```
"""

KNOCK = 'exec 3<>/dev/tcp/{address} && echo "$HOSTNAME $WM_STEP ${{WM_ATTEMPT:-check}}" >&3 && read -r heard <&3'
"""Says which container runs which step, and waits until that is written down. The engine made the host's name."""

STEPS = ("seed", "issue", "left", "right", "sealed", "join", "last")
COUNTED = ("seed", "left", "right", "join", "last")
"""Steps that knock. `sealed` has no network; the engine's own account of its ends stands for it."""

FILES = ("joined.txt", "last.txt", "left.txt", "right.txt", "sealed.txt", "seed.txt")
"""What the whole leaves, besides what was there."""


def prompt(address: str, *, pause: float = 0.3) -> str:
    """Return the prompt's text for a listener at `host/port`; `pause` is how many seconds `left` works."""
    return TEMPLATE.format(knock=KNOCK.format(address=address), pause=pause)
