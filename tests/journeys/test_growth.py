"""A step may only let its workspace grow by so much."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = [pytest.mark.docker, pytest.mark.prefect]

PROMPT = """\
# Growth

## Steps

### small
- resources: {disk: 2m}
```bash
head -c 1000000 /dev/zero > small
```

### large
- resources: {disk: 2m}
```bash
head -c 5000000 /dev/zero > large
```
"""


def test_a_step_that_writes_more_than_its_disk_fails(
    wm: Any, repository: Callable[..., Any], prompt_file: Callable[..., Path]
) -> None:
    answer = wm.run(prompt_file(PROMPT), repository().path)
    tasks = {task["id"]: task for task in answer.json["tasks"]}
    assert tasks["small"]["status"] == "completed"
    assert tasks["large"]["status"] == "failed"
    assert "grew by more than 2097152 bytes (the last one read: large)" in tasks["large"]["reason"]
    assert answer.code == 1
