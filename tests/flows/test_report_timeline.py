"""The timeline and its axis: valid XML, nothing outside the picture, no text over another."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workflowmaster.flows.drawing import fitted, text_width
from workflowmaster.flows.reading import read
from workflowmaster.flows.report import graph_svg, timeline_svg
from workflowmaster.flows.timeaxis import FOLD_WIDTH, make_axis, tick_label, tick_step
from workflowmaster.flows.timeline import MOST_ROWS

SVG = "{http://www.w3.org/2000/svg}"
SIZES = {"minor": 11, "inside": 10.5}


def boxes(svg):
    """Return (left, right, top, bottom, words) of every text, by the estimated width."""
    found = []
    for node in ET.fromstring(svg).iter(f"{SVG}text"):
        words, classes = node.text or "", (node.get("class") or "").split()
        size = next((SIZES[c] for c in classes if c in SIZES), 12)
        width, x, y = text_width(words, size), float(node.get("x")), float(node.get("y"))
        left = x - {"middle": width / 2, "end": width}.get(node.get("text-anchor"), 0)
        found.append((left, left + width, y - size * 0.8, y + size * 0.2, words))
    return found


def overlaps(svg):
    return [
        (a[4], b[4])
        for a, b in combinations(boxes(svg), 2)
        if a[0] < b[1] and b[0] < a[1] and a[2] < b[3] and b[2] < a[3]
    ]


def bars(svg, *classes):
    """Return the rectangles that have all of these classes."""
    return [r for r in ET.fromstring(svg).iter(f"{SVG}rect") if set(classes) <= set((r.get("class") or "").split())]


@pytest.mark.parametrize("draw", [timeline_svg, graph_svg])
def test_texts_do_not_overlap_and_stay_inside(shape, draw):
    svg = draw(shape)
    assert overlaps(svg) == []
    width, height = (float(n) for n in ET.fromstring(svg).get("viewBox").split()[2:])
    for left, right, top, bottom, words in boxes(svg):
        assert left >= 0, words
        assert right <= width, words
        assert top >= 0, words
        assert bottom <= height, words


@pytest.mark.parametrize("draw", [timeline_svg, graph_svg])
def test_only_a_standalone_picture_brings_its_style(shape, draw):
    assert draw(shape).count("<style>") == 1
    assert "<style>" not in draw(shape, standalone=False)


def test_one_row_and_one_bar_per_container(failed_state):
    svg = timeline_svg(failed_state)
    solid = [b for b in bars(svg, "bar") if "parked" not in b.get("class") and b.get("height") != "8"]
    assert len(solid) == sum(len(r.receipts) for s, r in failed_state.results.items() if s not in failed_state.reused)
    assert len(bars(svg, "bar", "bad")) == 1 + 1 + 3  # legend, the attempt out of memory, three failed attempts


def test_rows_say_how_their_steps_stand(failed_state):
    words = [b[4] for b in boxes(timeline_svg(failed_state))]
    for note in ("reused, 3.1 s saved", "3.2 s, 2 attempts", "1.0 s", "7.2 s, 3 attempts, failed", "blocked"):
        assert note in words


def test_a_legend_explains_only_what_is_there(shapes):
    words = {b[4] for b in boxes(timeline_svg(shapes["single"]()))}
    assert "container" in words
    assert not words & {"failed", "critical path", "waiting for a person", "not to scale", "on the host"}


def test_a_long_wait_for_a_person_is_folded(shapes):
    svg = timeline_svg(shapes["prose"]())
    words = [b[4] for b in boxes(svg)]
    assert "2 h 03 min" in words
    assert "not to scale" in words
    widest = max(float(b.get("width")) for b in bars(svg, "bar", "critical"))
    assert widest > 200, "the four minutes of step 5.2 must not be a sliver beside two hours"


def test_many_steps_become_lanes(shapes):
    state = shapes["many"]()
    svg = timeline_svg(state)
    assert len(bars(svg, "bar")) == len(state.plan.tasks) + 3  # and three samples in the legend
    assert "300 steps, at most 12 at once" in [b[4] for b in boxes(svg)]
    lanes = {}
    for bar in bars(svg, "bar")[:-3]:
        lanes.setdefault(bar.get("y"), []).append((float(bar.get("x")), float(bar.get("width"))))
    for lane in lanes.values():
        for (x, width), (after, _) in zip(sorted(lane), sorted(lane)[1:], strict=False):
            assert x + width <= after + 1.6


def test_a_state_in_which_nothing_ran_has_a_picture(make):
    waiting = make.state(make.plan(make.step("a"), make.step("b", "a")), [])
    assert [b[4] for b in boxes(timeline_svg(waiting))][-2:] == ["b", "pending"]
    assert overlaps(timeline_svg(waiting)) == []


def test_a_damaged_clock_cannot_push_bars_out(make):
    plan = make.plan(make.step("a"))
    early = make.result("a", make.receipt(-500, 2.0, queued_seconds=900, parked_seconds=900))
    svg = timeline_svg(make.state(plan, [early], seconds=2.0))
    assert all(0 <= float(b.get("x")) <= 1000 for b in bars(svg, "bar"))


names = st.text(min_size=1, max_size=40)


@st.composite
def runs(draw):
    """Return lists of (name, begin, seconds, queued, parked) in seconds."""
    count = draw(st.integers(1, MOST_ROWS))
    times = st.floats(0, 20_000, allow_nan=False)
    return [(draw(names), *(draw(times) for _ in range(4))) for _ in range(count)]


@settings(max_examples=40, deadline=None)
@given(run=runs())
def test_any_run_is_drawn_readably(make, run):
    steps = [make.step(f"{n}", name=name) for n, (name, *_) in enumerate(run)]
    results = [
        make.result(f"{n}", make.receipt(begin, seconds, queued_seconds=queued, parked_seconds=parked))
        for n, (_, begin, seconds, queued, parked) in enumerate(run)
    ]
    svg = timeline_svg(make.state(make.plan(*steps), results))
    assert overlaps(svg) == []
    for bar in bars(svg, "bar"):
        assert float(bar.get("x")) + float(bar.get("width")) <= 1000


intervals = st.lists(st.tuples(st.floats(0, 1e6), st.floats(0, 1e6)).map(sorted), max_size=12)


@given(intervals)
def test_the_axis_keeps_the_order_of_time(busy):
    total = max((end for _, end in busy), default=0.0)
    axis = make_axis(total, busy, 100, 900)
    moments = sorted({0.0, total, *(t for pair in busy for t in pair)})
    places = [axis.x(moment) for moment in moments]
    assert places == sorted(places)
    assert 100 <= places[0] <= places[-1] <= 900 + 1e-6
    ticks = axis.ticks()
    assert [t.x for t in ticks] == sorted(t.x for t in ticks)
    assert len({t.label for t in ticks}) == len(ticks)


@given(st.floats(0.01, 1e8), st.integers(2, 20))
def test_ticks_are_round_and_few(seconds, most):
    assert seconds / tick_step(seconds, most) <= most or seconds > 30 * 86400 * most


@pytest.mark.parametrize(
    ("seconds", "step", "words"),
    [
        (0, 1, "0"),
        (0.5, 0.1, "0.5 s"),
        (0.02, 0.01, "0.02 s"),
        (45, 5, "45 s"),
        (90, 30, "1:30 min"),
        (7500, 300, "2:05 h"),
        (3 * 86400, 86400, "3 d 00 h"),
    ],
)
def test_tick_labels(seconds, step, words):
    assert tick_label(seconds, step) == words


def test_only_long_idle_stretches_are_folded():
    kept = make_axis(40, [(0, 10), (30, 40)], 0, 1000)
    assert kept.folds == ()
    folded = make_axis(7210, [(0, 5), (7205, 7210)], 0, 1000)
    assert [(f.begin, f.end, f.right - f.left) for f in folded.folds] == [(5, 7205, FOLD_WIDTH)]
    assert folded.x(5) == pytest.approx((1000 - FOLD_WIDTH) / 2)


@given(st.text(max_size=80), st.floats(5, 300))
def test_fitted_text_fits(words, width):
    assert text_width(fitted(words, width, 12), 12) <= width


def test_times_count_from_the_start_and_failures_of_containers_show(make):
    plan = make.plan(make.step("a"), make.step("b", "a"))
    first = make.receipt(1.0, 2.0, timed_out=True, exit_code=None)
    results = [make.result("a", first, make.receipt(4.0, 1.0)), make.result("b", make.receipt(5.5, 1.0))]
    a, b = read(make.state(plan, results)).rows
    assert [(bar.begin, bar.end, bar.verdict, bar.attempt) for bar in a.bars] == [(1, 3, "bad", 1), (4, 5, "ok", 2)]
    assert a.critical
    assert b.critical
    assert a.retried


def test_a_wait_does_not_count_what_an_earlier_container_did(make):
    # As measured in a real run: the check's wait was counted from when the step became ready, not from the work's end.
    work = make.receipt(2.72, 0.05, queued_seconds=2.37)
    check = make.receipt(3.11, 0.07, queued_seconds=2.75, purpose="check")
    row = read(make.state(make.plan(make.step("a")), [make.result("a", work, check)])).rows[0]
    assert [round(bar.queued, 2) for bar in row.bars] == [2.37, 0.34]
    assert row.queued == pytest.approx(2.71)


def test_the_critical_path_follows_the_need_that_ended_last(make):
    steps = [make.step("a"), make.step("slow", "a"), make.step("quick", "a"), make.step("end", "slow", "quick")]
    outcome = read(make.state(make.plan(*steps), make.scheduled(steps, {"slow": 9.0, "quick": 1.0}, slots=2)))
    assert [row.step.id for row in outcome.rows if row.critical] == ["a", "slow", "end"]


def test_a_reused_step_takes_no_time(failed_state):
    row = read(failed_state).rows[0]
    assert (row.reused, row.bars, row.retried) == (True, (), False)
