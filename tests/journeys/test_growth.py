"""A step may only let its files grow by so much: while it runs, and in what it leaves."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = [pytest.mark.docker, pytest.mark.prefect]

Answer = dict[str, Any]

PROMPT = """\
# Growth

## Steps

### small
- resources: {disk: 2m}
```bash
head -c 1000000 /dev/zero > small
```

### sparse
- resources: {disk: 2m}
- continue-on-error: true
```bash
truncate -s 1T sparse
```

### slow
- resources: {disk: 30m}
- continue-on-error: true
```bash
echo harmed > a.txt
n=0; while :; do head -c 1000000 /dev/zero > f$n; n=$((n+1)); sleep 0.02; done
```

### layer
- resources: {disk: 30m}
- security-policy: minimal
- reason: its root file system can be written
- continue-on-error: true
```bash
n=0; while :; do head -c 1000000 /dev/zero > /var/tmp/f$n; n=$((n+1)); sleep 0.02; done
```

### after
- needs: small, slow, layer
```bash
cat a.txt; ls
```

### large
- needs: after
- resources: {disk: 2m}
```bash
head -c 5000000 /dev/zero > large
```
"""


@pytest.fixture(scope="module")
def said(wm: Any, repo: Any, before: dict[str, object], prompt_file: Callable[..., Path]) -> Any:
    return wm.run(prompt_file(PROMPT), repo.path)


def test_a_step_below_its_cap_completes(tasks: dict[str, Answer]) -> None:
    assert tasks["small"]["status"] == "completed"


@pytest.mark.parametrize("name", ["slow", "layer"])
def test_a_step_that_goes_on_growing_is_killed_and_told_its_cap(
    wm: Any, said: Any, tasks: dict[str, Answer], name: str
) -> None:
    task = tasks[name]
    assert (task["status"], task["exit_code"], task["timed_out"]) == ("failed", 137, False)
    assert task["reason"].endswith("(it let its files grow by more than 31,457,280 bytes)")
    assert "it was stopped" in task["reason"]
    assert task["seconds"] < 60
    log = wm("logs", said.json["workflow_id"], "--step", name).out
    assert "[workflowmaster: stopped, because it let its files grow by more than 31,457,280 bytes]" in log


def test_what_was_written_in_an_instant_is_found_when_it_is_taken_in(said: Any, tasks: dict[str, Answer]) -> None:
    assert tasks["large"]["status"] == "failed"
    # The watch may be faster than the step's end on a slow machine; both say the cap.
    assert re.search(r"gr[eo]w by more than 2,?097,?152 bytes", tasks["large"]["reason"])
    assert said.code == 1


def test_a_sparse_terabyte_counts_in_full_and_is_never_read(tasks: dict[str, Answer]) -> None:
    assert "grew by more than 2097152 bytes (the last one read: sparse)" in tasks["sparse"]["reason"]
    assert tasks["sparse"]["seconds"] < 60


def test_the_next_step_starts_from_what_was_there_before(wm: Any, said: Any, tasks: dict[str, Answer]) -> None:
    assert tasks["after"]["status"] == "completed"
    log = wm("logs", said.json["workflow_id"], "--step", "after").out
    assert log.splitlines() == ["one", "two", "three", "a.txt", "small"]


def test_the_users_checkout_is_untouched(repo: Any, before: dict[str, object], said: Any) -> None:
    assert repo.state() == before
