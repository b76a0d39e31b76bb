"""The commands that keep house: `image`, `init`, `clean`, `ui`."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import TYPE_CHECKING

from workflowmaster.flows import embedded, serving
from workflowmaster.flows.looking import out
from workflowmaster.flows.settings import home

if TYPE_CHECKING:
    import argparse


def image(given: argparse.Namespace) -> int:
    """Build the step image unless it is there already, or list our images."""
    from workflowmaster.blocks import imagebuild
    from workflowmaster.blocks.engine import Engine, engine_trouble

    if given.what == "list":
        with engine_trouble("list images"):
            found = Engine().client.images(name="workflowmaster/*")
        rows = [{"id": one["Id"], "tags": one.get("RepoTags") or [], "bytes": one["Size"]} for one in found]
        text = "\n".join(f"{', '.join(r['tags']):<32} {r['id'][7:19]}  {r['bytes'] / 1e6:.0f} MB" for r in rows)
        out(json.dumps(rows) if given.json else text)
        return 0
    built = imagebuild.build(force=given.force, log=lambda line: sys.stderr.write(line + "\n") and None)
    body = {"reference": built.reference, "id": built.id, "seconds": round(built.seconds, 2), "how": built.how}
    out(json.dumps(body) if given.json else f"{built.reference}  {built.id[7:19]}  {built.how}, {built.seconds:.1f} s")
    return 0


def init(given: argparse.Namespace) -> int:
    """Save one `DockerSandbox` document per policy on the server, where operators see and tighten their limits."""
    with serving.server() as own:
        from workflowmaster.flows import documents

        if own:
            own.wait_ready()
        saved = asyncio.run(documents.save(force=given.force))
    for name, what in saved.items():
        out(f"docker-sandbox/{name:<12} {what}")
    return 0


def clean(given: argparse.Namespace) -> int:
    """Remove containers whose owner is proven dead, and nothing else."""
    from workflowmaster.blocks.engine import Engine
    from workflowmaster.flows.sweeping import sweep

    removed = sweep(Engine())
    out(json.dumps({"removed": removed}) if given.json else f"{len(removed)} containers removed")
    return 0


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
