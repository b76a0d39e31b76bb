"""The commands that keep house: `init`, `clean`, `ui`."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

from workflowmaster.flows import embedded, serving
from workflowmaster.flows.looking import out
from workflowmaster.flows.settings import home, load

if TYPE_CHECKING:
    import argparse


def init(given: argparse.Namespace) -> int:
    """Save one `DockerSandbox` document per policy on the server, where operators see and tighten their limits.

    On a configured server also the automation that notices runs whose heartbeat has stopped.
    """
    with serving.server() as own:
        from workflowmaster.flows import automation, documents

        if own:
            own.wait_ready()
        saved = asyncio.run(documents.save(force=given.force))
        # A server of our own is there only while a run is, so its automations would notice nothing.
        watch = "" if own else asyncio.run(automation.install(force=given.force))
    for name, what in saved.items():
        out(f"docker-sandbox/{name:<12} {what}")
    if watch:
        out(f"automation     {watch:<10} {automation.NAME}")
    return 0


def clean(given: argparse.Namespace) -> int:
    """Remove what runs have left behind whose owner is proven dead, and nothing else."""
    from workflowmaster.blocks.engine import Engine
    from workflowmaster.flows import claim
    from workflowmaster.flows.auditkeeping import drop_all
    from workflowmaster.flows.running import INFRASTRUCTURE
    from workflowmaster.flows.sweeping import sweep_all

    swept = sweep_all(Engine())
    dropped, trouble = drop_all(load())
    locks = claim.tidy()
    swept.trouble += trouble
    if given.json:
        out(json.dumps({"removed": swept.removed, **asdict(swept), "audit_files": dropped, "locks": locks}))
    else:
        kinds = ("containers", "networks", "volumes", "mounts", "folders")
        out(", ".join(f"{len(getattr(swept, kind))} {kind}" for kind in kinds) + " removed")
    if swept.overdue and not given.json:
        names = " ".join(swept.overdue)
        sys.stderr.write(f"past their deadline, but not ours to judge from here: docker rm -f {names}\n")
    if swept.kept and not given.json:
        names = " ".join(swept.kept)
        sys.stderr.write(f"kept, for `resume` goes on with them and `cancel` removes them: {names}\n")
    for line in swept.trouble:
        sys.stderr.write(f"{line}\n")
    return INFRASTRUCTURE if swept.trouble else 0


def ui(given: argparse.Namespace) -> int:
    """Serve the database of runs without a server, with the Prefect UI, until interrupted."""
    url = serving.api_url()
    if url:
        out(f"a Prefect server is configured: open {url.removesuffix('/api')}")
        return 0
    os.environ.update(embedded.environment(home()))
    # The pages ask the address they are told, and by default that is port 4200, whatever port serves them.
    os.environ["PREFECT_UI_API_URL"] = f"http://127.0.0.1:{given.port}/api"
    sys.stderr.write(f"Prefect UI of {home()}: http://127.0.0.1:{given.port}/v2/runs (Ctrl-C ends it)\n")
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(given.port)]
    os.execv(sys.executable, command)  # noqa: S606 - we become the server
    return 1
