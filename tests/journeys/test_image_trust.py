"""Which images a run takes: by name, by id, by signature, by recipe; and what a step sees of its image's variables."""

from __future__ import annotations

import json
import secrets
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from workflowmaster import policies
from workflowmaster.blocks import imagebuild
from workflowmaster.blocks.signing import Manifest, Trust
from workflowmaster.flows import compiled
from workflowmaster.flows.asking import Options
from workflowmaster.flows.settings import Settings
from workflowmaster.policies import PolicyError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = [pytest.mark.docker, pytest.mark.prefect]

STEP = imagebuild.DEFAULT_IMAGE


@pytest.fixture(scope="module")
def variant() -> Iterator[Callable[..., tuple[str, str]]]:
    """Make an image of another id out of the step image, under a name; return the reference and the id."""
    made: list[str] = []

    def make(repository: str, *lines: str) -> tuple[str, str]:
        reference = f"{repository}:wm-test-{secrets.token_hex(4)}"
        recipe = "\n".join([f"FROM {STEP}", f"LABEL wm-test={reference}", *lines])
        subprocess.run(
            ["docker", "build", "-q", "-t", reference, "-"], input=recipe.encode(), check=True, capture_output=True
        )
        made.append(reference)
        return reference, id_of(reference)

    yield make
    subprocess.run(["docker", "rmi", "-f", *made], capture_output=True, check=False)


def id_of(reference: str) -> str:
    form = ["docker", "image", "inspect", "-f", "{{.Id}}", reference]
    return subprocess.run(form, capture_output=True, text=True, check=True).stdout.strip()


def prompt(policy: str, image: str, work: str = "echo ran") -> str:
    return f"# Trust\n\n## Steps\n\n### one\n- policy: {policy}\n- image: {image}\n```bash\n{work}\n```\n"


def sign(home: Path, image_id: str, recipe: str) -> Path:
    known = {"id": image_id, "reference": "workflowmaster/other:1", "packages": "0" * 64}
    return Trust(home / "images").sign(Manifest(**known, recipe=recipe, signed_at=1.0))


@pytest.mark.parametrize("policy", ["minimal", "development", "standard", "testing", "hardened", "paranoid"])
def test_the_step_image_runs_under_every_policy_as_image_build_leaves_it(
    wm: Any, repository: Callable[..., Any], prompt_file: Callable[..., Path], policy: str
) -> None:
    said = wm.run(prompt_file(prompt(policy, STEP).replace("- image", "- reason: try\n- image")), repository().path)
    assert said.code == 0, said.text


@pytest.mark.parametrize(
    ("policy", "repository_", "signed", "said"),
    [
        ("testing", "debian", None, "is a tag that may be moved: write it as debian@sha256:"),
        ("testing", "workflowmaster/other", None, "is a tag that may be moved: sign it with `workflowmaster image build`"),
        ("hardened", "workflowmaster/other", None, "is not: no signed manifest lists it; build and sign it with"),
        ("paranoid", "workflowmaster/other", "another", "was built by another recipe than this version's"),
    ],
)  # fmt: skip
def test_what_is_refused_names_the_image_the_policy_the_rule_and_the_mend(
    wm: Any,
    repository: Callable[..., Any],
    prompt_file: Callable[..., Path],
    variant: Callable[..., tuple[str, str]],
    policy: str,
    repository_: str,
    signed: str | None,
    said: str,
) -> None:
    reference, image_id = variant(repository_)
    if signed:
        sign(wm.home, image_id, signed)
    repo, runs = repository(), wm.home / "workflows"
    before = (repo.state(), sorted(runs.glob("*")))
    refused = wm.run(prompt_file(prompt(policy, reference)), repo.path)
    assert refused.code == 5, refused.text
    assert refused.json["exit_code"] == 5
    rule = policies.load(policy).image
    assert f"prompt.md:5: step one: policy {policy!r} wants images that are {rule}, and {reference!r}" in refused.err
    assert image_id[7:19] in refused.err
    assert said in refused.err
    assert (repo.state(), sorted(runs.glob("*"))) == before


def test_a_tampered_manifest_is_refused_until_the_image_is_signed_anew(
    command_line: Callable[..., Any],
    prefect_server: Any,
    repository: Callable[..., Any],
    prompt_file: Callable[..., Path],
) -> None:
    line = command_line(PREFECT_API_URL=prefect_server.url)
    (manifest,) = (line.home / "images").glob("*.json")
    manifest.write_text(manifest.read_text().replace('"signed_at": 1.0', '"signed_at": 2.0'))
    refused = line.run(prompt_file(prompt("hardened", STEP)), repository().path)
    assert refused.code == 5
    assert f"is not: {manifest} was changed after it was signed; build and sign it with" in refused.err
    assert line("image", "build").code == 0
    assert line.run(prompt_file(prompt("hardened", STEP)), repository().path).code == 0


@pytest.mark.long
def test_a_teams_key_is_trusted_by_a_setting(
    command_line: Callable[..., Any],
    prefect_server: Any,
    repository: Callable[..., Any],
    prompt_file: Callable[..., Path],
) -> None:
    theirs, ours = (command_line(PREFECT_API_URL=prefect_server.url) for _ in range(2))
    shutil.rmtree(ours.home / "images")
    (ours.home / "images").mkdir()
    for path in (theirs.home / "images").iterdir():
        if path.suffix in (".json", ".sig"):
            shutil.copy(path, ours.home / "images")
    good = prompt_file(prompt("hardened", STEP))
    refused = ours.run(good, repository().path)
    assert refused.code == 5
    key = Trust(theirs.home / "images").own_key
    assert f"is signed with the key {key}, which is not among `trusted_image_keys`" in refused.err
    assert ours.run(good, repository().path, WORKFLOWMASTER_TRUSTED_IMAGE_KEYS=key).code == 0
    wrong = ours.run(good, repository().path, WORKFLOWMASTER_TRUSTED_IMAGE_KEYS=f"{key},nonsense")
    assert (wrong.code, "'nonsense' is no public key" in wrong.err) == (2, True)


@pytest.mark.long
def test_a_resume_keeps_the_image_it_began_with_and_says_when_that_is_gone(
    wm: Any, repository: Callable[..., Any], prompt_file: Callable[..., Path], variant: Callable[..., tuple[str, str]]
) -> None:
    (reference, first), (other, second) = variant("debian"), variant("debian")
    work = "test -e /workspace/never; echo failed >&2; exit 1"
    failed = wm.run(prompt_file(prompt("standard", reference, work)), repository().path)
    assert failed.code == 1
    workflow = failed.json["workflow_id"]
    subprocess.run(["docker", "tag", other, reference], check=True)
    assert id_of(reference) == second
    assert wm("resume", workflow, "--json", "-q").code == 1
    state = json.loads((wm.folder(workflow) / "state.json").read_text())
    assert state["images"] == {reference: first}
    assert {one["image_id"] for one in state["results"]["one"]["receipts"]} == {first}
    subprocess.run(["docker", "rmi", "-f", first], check=True, capture_output=True)
    gone = wm("resume", workflow, "--json", "-q")
    assert gone.code == 4
    assert f"{reference} was pinned to {first}, and the engine no longer has that image" in gone.err


@pytest.mark.long
def test_a_lock_holds_a_tag_that_a_run_alone_would_not_take(
    home: Path,
    tmp_path: Path,
    repository: Callable[..., Any],
    prompt_file: Callable[..., Path],
    variant: Callable[..., tuple[str, str]],
) -> None:
    home.mkdir()
    (reference, image_id), settings = variant("debian"), Settings()
    source = prompt_file(prompt("testing", reference))
    lock = compiled.locked(Options(prompt=str(source)), settings, tmp_path)
    assert lock.images == {reference: image_id}
    path = tmp_path / "trust.lock.json"
    path.write_text(lock.model_dump_json())
    journey = compiled.journey_of(path, workspace=str(repository().path), inputs={})
    assert (journey.held, journey.record.images) == ("lock", {reference: image_id})
    journey.abandon()
    source = prompt_file(prompt("hardened", "workflowmaster/step:1"))
    with pytest.raises(PolicyError, match="no signed manifest lists it"):
        compiled.locked(Options(prompt=str(source)), settings, tmp_path)


SEES = "env -0 | tr '\\0' '\\n' | cut -d= -f1 | sort | tr '\\n' ' '"
PLAN = {"HOME", "LANG", "WM_ATTEMPT", "WM_OUTPUT", "WM_STEP", "INPUT_WHO", "STEP_FIRST_MADE"}
SHELLS = {"PWD"}
IMAGES = {"PATH", "HOSTNAME", "SPY"}
SEEN = {
    "minimal": PLAN | SHELLS | IMAGES | {"OWN"},
    "development": PLAN | SHELLS | IMAGES | {"OWN"},
    "standard": PLAN | SHELLS | IMAGES | {"OWN"},
    "testing": PLAN | SHELLS | IMAGES | {"OWN"},
    "hardened": PLAN | SHELLS | {"PATH"},
    "paranoid": PLAN | SHELLS | {"PATH"},
    # The runtime itself sets HOME where nobody else does: to the home that the image names for the uid, or `/`.
    "nothing": SHELLS | {"HOME"},
    "few": SHELLS | {"HOME", "PATH", "STEP_FIRST_MADE"},
}


def test_a_step_sees_what_its_policy_lets_through_and_nothing_of_its_image(
    wm: Any, repository: Callable[..., Any], prompt_file: Callable[..., Path], variant: Callable[..., tuple[str, str]]
) -> None:
    """`env -0` under each policy, in an image that sets a variable of its own."""
    reference, image_id = variant("workflowmaster/other", "ENV SPY=seen")
    sign(wm.home, image_id, imagebuild.recipe_hash())
    own = wm.home / "policies"
    own.mkdir()
    (own / "nothing.yaml").write_text("extends: hardened\nenvironment: []\n")
    (own / "few.yaml").write_text("extends: hardened\nenvironment: [PATH, 'STEP_*']\n")
    text = f"---\ninputs: {{who: {{default: me}}}}\nimage: {reference}\n---\n# See\n\n## Steps\n\n### first\n"
    text += '- outputs: [made]\n```bash\necho made=1 >> "$WM_OUTPUT"\n```\n'
    for policy, names in SEEN.items():
        env = "- env: {OWN: mine}\n" if "OWN" in names else ""
        text += f"\n### {policy}\n- needs: first\n- policy: {policy}\n- reason: a look\n{env}```sh\n{SEES}\n```\n"
    done = wm.run(prompt_file(text), repository().path)
    assert done.code == 0, done.text
    folder = wm.folder(done.json["workflow_id"])
    seen = {policy: set((folder / "logs" / f"{policy}.1.log").read_text().split()) for policy in SEEN}
    # The way to the proxy, where there is one, is the run's own: no list has to name it.
    ways = {policy: {name for name in names if name.upper().endswith("_PROXY")} for policy, names in seen.items()}
    assert {policy for policy, names in ways.items() if names} <= {"development"}
    assert {policy: names - ways[policy] for policy, names in seen.items()} == SEEN


def test_pid_1_does_not_have_it_either(
    wm: Any, repository: Callable[..., Any], prompt_file: Callable[..., Path], variant: Callable[..., tuple[str, str]]
) -> None:
    reference, image_id = variant("workflowmaster/other", "ENV SPY=seen")
    sign(wm.home, image_id, imagebuild.recipe_hash())
    work = "tr '\\0' '\\n' </proc/1/environ"
    done = wm.run(prompt_file(prompt("hardened", reference, work)), repository().path)
    assert done.code == 0, done.text
    log = (wm.folder(done.json["workflow_id"]) / "logs/one.1.log").read_text()
    assert "PATH=" in log
    assert "SPY" not in log
