"""A workflow's state, told to people: every text and picture of a run comes from here.

Each function is pure: a `WorkflowState`, and where a log is quoted the raw logs by step id, go in; text comes out. All
of them read the state through `reading.read`, so no two of them can disagree about what happened.
"""

from workflowmaster.flows.artifact import markdown
from workflowmaster.flows.closing import closing, failure_excerpt
from workflowmaster.flows.graphpicture import graph_svg
from workflowmaster.flows.htmlreport import html
from workflowmaster.flows.proposal import issue_text, pull_request
from workflowmaster.flows.timeline import timeline_svg

__all__ = [
    "closing",
    "failure_excerpt",
    "graph_svg",
    "html",
    "issue_text",
    "markdown",
    "pull_request",
    "timeline_svg",
]
