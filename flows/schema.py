"""JSON Schemas of what a person writes and of what the compiler answers, made from the models that read and write them.

Editors use the first one through `# yaml-language-server: $schema=…` in front matter.
"""

from __future__ import annotations

from typing import Any

from workflowmaster.flows.attributes import FOREIGN, FrontMatter, StepAttributes
from workflowmaster.flows.plan import SCHEMA, Plan
from workflowmaster.policies import available

_SHORT: dict[str, list[dict[str, Any]]] = {
    "retries": [{"type": "integer"}],
    "network": [{"type": "array", "items": {"type": "string"}}, {"type": "string"}],
    "decisions": [{"type": "string"}],
    "concurrency": [{"type": "string"}],
    "coach": [{"type": "string"}],
    "on": [{"type": "string"}],
}
"""Keys for which a plain value may stand instead of the mapping."""

_DIALECT = "https://json-schema.org/draft/2020-12/schema"


def front_matter_schema() -> dict[str, Any]:
    """Return the schema of a prompt's front matter; a step's attributes are its definition `Step`.

    Policy names are offered and not required: a user's own policies are known only to their machine.
    """
    made = FrontMatter.model_json_schema(by_alias=True)
    step = StepAttributes.model_json_schema(by_alias=True)
    definitions = {**step.pop("$defs", {}), **made.pop("$defs", {}), "Step": step}
    for owner in (made, step):
        # Offered, not required: a person's own policies are known only on their machine.
        owner["properties"]["security-policy"] = {
            "anyOf": [{"enum": list(available())}, {"type": "string"}],
            "default": "standard" if owner is made else None,
        }
        for key, forms in _SHORT.items():
            if key in owner["properties"]:
                owner["properties"][key]["anyOf"] = [*forms, *owner["properties"][key]["anyOf"]]
        # Keys of agents' own prompt files are let through with a note, so an editor must not underline them.
        owner["properties"] |= {key: {} for key in sorted(FOREIGN)}
    inputs = made["properties"]["inputs"]
    plain = [{"type": kind} for kind in ("string", "number", "boolean")]
    inputs["additionalProperties"] = {"anyOf": [inputs["additionalProperties"], *plain]}
    return {"$schema": _DIALECT, "title": "WorkflowMaster prompt: front matter", **made, "$defs": definitions}


def plan_schema() -> dict[str, Any]:
    """Return the schema of a plan as `Plan.model_dump(mode="json")` writes it."""
    made = Plan.model_json_schema(mode="serialization")
    return {"$schema": _DIALECT, "$id": SCHEMA, **made}
