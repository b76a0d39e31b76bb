"""The commands about images: `image build`, `image list`, `image sbom`, `image scan`."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

from workflowmaster.flows.admitting import trust
from workflowmaster.flows.looking import out
from workflowmaster.flows.settings import home, load
from workflowmaster.flows.wording import moment

if TYPE_CHECKING:
    import argparse

    from workflowmaster.blocks.advisories import Scan
    from workflowmaster.blocks.engine import Engine
    from workflowmaster.blocks.imagebuild import BuiltImage, Recipe
    from workflowmaster.blocks.signing import Trust

FOUND, NO_DATA = 1, 4
"""Exit codes of a scan that found something grave, and of one that had nothing to look in."""


def build(given: argparse.Namespace) -> int:
    """Build the step image and the proxy's unless they are there already, and sign the former unless it is signed."""
    from workflowmaster.blocks.engine import Engine
    from workflowmaster.blocks.imagebuild import PROXY, STEP

    judge = trust(load())
    built = _built(STEP, force=given.force)
    key = _signed(judge, built, Engine())
    # Steps cannot run in it, so no policy asks for its signature.
    proxy = _built(PROXY, force=given.force)
    body = {**_account(built), "key": key, "proxy": _account(proxy)}
    said = f"{_line_of(built)}, signed with {key}\n{_line_of(proxy)}"
    out(json.dumps(body) if given.json else said)
    return 0


def _built(recipe: Recipe, *, force: bool) -> BuiltImage:
    from workflowmaster.blocks import imagebuild
    from workflowmaster.blocks.engine import SandboxUnavailable, engine_trouble

    try:
        with engine_trouble(f"build {recipe.reference}"):
            return imagebuild.build(recipe, force=force, log=lambda line: sys.stderr.write(line + "\n") and None)
    except imagebuild.ImageBuildError as error:
        raise SandboxUnavailable(f"{recipe.reference} was not built: {error}", reason="image") from error


def _account(built: BuiltImage) -> dict[str, Any]:
    return {"reference": built.reference, "id": built.id, "seconds": round(built.seconds, 2), "how": built.how}


def _line_of(built: BuiltImage) -> str:
    return f"{built.reference}  {built.id[7:19]}  {built.how}, {built.seconds:.1f} s"


def _signed(judge: Trust, built: BuiltImage, engine: Engine) -> str:
    """Sign an image that no trusted manifest lists, and return the key it is signed with."""
    from workflowmaster.blocks import imagebuild
    from workflowmaster.blocks.inventory import inventory
    from workflowmaster.blocks.signing import Manifest

    # Also one that was there before, or was built from another state directory: its label says by which recipe.
    verdict = judge.verdict(built.id)
    recipe = imagebuild.recipe_hash()
    if not verdict.manifest or verdict.manifest.recipe != recipe:
        packages = inventory(engine, built.id).hash
        manifest = Manifest(
            id=built.id, reference=built.reference, recipe=recipe, packages=packages, signed_at=time.time()
        )
        judge.sign(manifest)
        verdict = judge.verdict(built.id)
    return verdict.key


def show_list(given: argparse.Namespace) -> int:
    """List our images: which recipe made them, whose signature they have, and how many containers use them."""
    from workflowmaster.blocks.engine import Engine, engine_trouble

    engine, judge = Engine(), trust(load())
    with engine_trouble("list images"):
        found = engine.client.images(name="workflowmaster/*")
        used = Counter(one["ImageID"] for one in engine.client.containers(all=True))
    rows = [_row(one, judge, used[one["Id"]]) for one in found]
    out(json.dumps(rows) if given.json else "\n".join(map(_line, rows)) or "none: workflowmaster image build")
    return 0


def _row(image: dict[str, Any], judge: Trust, used: int) -> dict[str, Any]:
    from workflowmaster.blocks.imagebuild import RECIPE_LABEL

    verdict = judge.verdict(image["Id"])
    return {
        "id": image["Id"],
        "tags": image.get("RepoTags") or [],
        "bytes": image["Size"],
        "recipe": (image.get("Labels") or {}).get(RECIPE_LABEL),
        "created_at": image["Created"],
        "signed": verdict.manifest is not None,
        "key": verdict.key or None,
        "trouble": verdict.trouble,
        "containers": used,
    }


def _line(row: dict[str, Any]) -> str:
    signed = f"signed {row['key'][:12]}…" if row["signed"] else "not signed"
    return (
        f"{', '.join(row['tags']) or '(no name)':<28} {row['id'][7:19]}  {row['bytes'] / 1e6:>6.0f} MB  "
        f"{moment(row['created_at'])}  recipe {row['recipe'] or 'none'}  {signed}  {row['containers']} containers"
    )


def _chosen(given: argparse.Namespace) -> tuple[Engine, str, str]:
    """Return the engine, the reference that was asked for and its id. SandboxUnavailable if there is no such image."""
    from workflowmaster.blocks.engine import Engine
    from workflowmaster.flows.admitting import identified

    engine, reference = Engine(), given.reference or load().image
    return engine, reference, identified(engine, reference)


def sbom(given: argparse.Namespace) -> int:
    """Print the packages of an image as CycloneDX JSON, or their number and kinds for people."""
    from workflowmaster.blocks import inventory

    engine, reference, image_id = _chosen(given)
    found = inventory.inventory(engine, image_id)
    for place in found.unread:
        sys.stderr.write(f"warning: {place} holds packages that cannot be read here\n")
    if given.json:
        out(inventory.sbom(found, reference))
        return 0
    for package in found.packages:
        out(f"{package.kind:<5} {package.name:<36} {package.version}")
    kinds = Counter(package.kind for package in found.packages)
    said = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items())) or "none"
    sys.stderr.write(f"{reference} {image_id[7:19]}: {said}\n")
    return 0


def scan(given: argparse.Namespace) -> int:
    """Look an image's packages up among the known vulnerabilities; exit code 1 for grave ones, 4 without data."""
    from workflowmaster.blocks import advisories

    engine, reference, image_id = _chosen(given)
    done = advisories.scan(engine, image_id, home() / "images" / "advisories")
    if given.json:
        out(json.dumps({"reference": reference, **done.public()}))
    else:
        _say(done, reference)
    # Asked before the findings: no data has none either.
    if done.data_from is None:
        return NO_DATA
    return FOUND if any(one.severity == "high" for one in done.findings) else 0


def _say(done: Scan, reference: str) -> None:
    for one in done.findings:
        out(f"{one.severity:<7} {one.package:<30} {one.installed} → {one.fixed}  {one.advisory}")
    for line in done.notes:
        sys.stderr.write(f"note: {line}\n")
    if done.data_from is None:
        sys.stderr.write(f"error: {reference} was not scanned: {done.trouble}\n")
        return
    dated = f"data of {moment(done.data_from)}{', which is old' if done.old else ''}"
    sys.stderr.write(f"{reference}: {len(done.findings)} found by {done.scanner}, {dated}\n")
