"""How well past failures tell whether a rerun helps: `python tests/benchmarks/failures.py --logs FILE`, in the order of time.

FILE (or the variable FAILURE_LOGS) is a Parquet table of failed CI jobs: `text`, `ts`, `job_name`, and `intermittent`, the
label: whether a rerun helps. What came after the failure (`rerun_passed`, the counts of reruns) is never looked at.

Each log is judged as a run would judge it: the shipped rules and `decisive` choose and mask the lines, and models know
the labels of earlier days only. The ridge's strength and the calibration of each day come from the predictions for
earlier days. Once a night: an expanding window with a fold for each day on which something failed. In blocks: six equal
folds, so a model is weeks to months old. The first third is only learned from.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise

os.environ.setdefault("OMP_NUM_THREADS", "1")

from workflowmaster.analytics import calibration, fitting, retrychance, texts
from workflowmaster.analytics.retrychance import DAY, Trial
from workflowmaster.flows import failurerules
from workflowmaster.flows.facts import TRANSIENT
from workflowmaster.flows.fingerprints import masked
from workflowmaster.flows.learned import described
from workflowmaster.flows.understanding import Evidence, understand

YES, NO = "succeeded", "failed"
BLOCKS = 6
FIRST = 30
"""Logs before which nothing is predicted, not even to choose by."""
DRAWS = 2_000
"""Resamples of the logs that an interval is taken from."""
EXIT = re.compile(r"exit (?:code|status):? ([0-9]+)")

Said = dict[int, float]


@dataclass(frozen=True)
class Log:
    """One failed job."""

    at: float
    job: str
    cls: str
    fingerprint: str
    about: list[str]
    helps: bool

    @property
    def day(self) -> int:
        return int(self.at // DAY)


def read(path: str) -> list[Log]:
    """Read the table, and understand each log as a run would."""
    import pandas as pd

    rules = failurerules.load()
    table = pd.read_parquet(path, columns=["text", "ts", "job_name", "intermittent"]).sort_values("ts", kind="stable")
    found = []
    for row in table.itertuples():
        codes = EXIT.findall(row.text[-2_000:])
        evidence = Evidence("failure", "", int(codes[-1]) if codes else 1, row.text)
        failure = understand(evidence, rules, now=row.ts.timestamp())
        about = described([masked(line) for line in failure.lines], failure.cls)
        at = row.ts.to_pydatetime().replace(tzinfo=UTC).timestamp()
        found.append(Log(at, row.job_name, failure.cls, failure.fingerprint, about, bool(row.intermittent)))
    return found


def nights(logs: list[Log]) -> list[tuple[int, int]]:
    """(end of what was known, end of the day), for every day with failures."""
    edges = [n for n in range(1, len(logs)) if logs[n].day != logs[n - 1].day] + [len(logs)]
    return [(one, two) for one, two in pairwise(edges) if one >= FIRST]


def blocks(logs: list[Log]) -> list[tuple[int, int]]:
    """Six equal folds of the last two thirds, and what is before them for choosing."""
    return [
        (one, two) for one, two in pairwise([FIRST, *dict(fitting.parts(len(logs), BLOCKS)), len(logs)]) if one < two
    ]


def foretold(logs: list[Log], folds: list[tuple[int, int]], ways: tuple[texts.Training, ...]) -> tuple[Said, Said]:
    """Predict each fold from the logs before it: as the regression says, and calibrated."""
    tokens = [texts.features(log.about) for log in logs]
    labels, times = [YES if log.helps else NO for log in logs], [log.at for log in logs]
    tried: dict[texts.Training, list[fitting.Later]] = {way: [] for way in ways}
    raw: Said = {}
    calibrated: Said = {}
    for known, end in folds:
        way = min(ways, key=lambda one: fitting.loss(tried[one]))
        platt = fitting.calibrated(tried[way], 2)
        for one in ways:
            model = fitting.fitted(tokens[:known], labels[:known], times[:known], one)
            for place, told in enumerate(model.probabilities(tokens[known:end]), known):
                tried[one].append(fitting.Later(place, told, labels[place]))
        for one in tried[way][-(end - known) :]:
            raw[one.place] = one.probabilities[YES]
            calibrated[one.place] = platt(calibration.logit(one.probabilities[YES]))
    return raw, calibrated


def rates(logs: list[Log], key: str) -> Said:
    """Predict each log by the share, until the day before, of those that are like it (shrunk as everywhere)."""
    found: Said = {}
    known = retrychance.Rates()
    waiting: list[Trial] = []
    for n, log in enumerate(logs):
        while waiting and int(waiting[0].at // DAY) < log.day:
            known.add(waiting.pop(0))
        cls = {"all": "", "job": log.job, "class": log.cls}[key]
        found[n] = known.of_class(cls, log.at) if cls else known.of_all(log.at)
        waiting.append(Trial(log.fingerprint, cls, log.helps, at=log.at))
    return found


def chances(logs: list[Log], said: Said) -> Said:
    """Predict each log by rates and text together, as `retrychance` does."""
    trials = [
        Trial(log.fingerprint, log.cls, log.helps, text=said.get(n), at=log.at, known_at=(log.day + 1) * DAY)
        for n, log in enumerate(logs)
    ]
    return {n: told[0] for n, told in enumerate(retrychance.foretold(trials))}


def measured(logs: list[Log], said: Said) -> dict[str, float]:
    """Score the last two thirds; the interval is of resampled logs."""
    places = range(len(logs) // 3, len(logs))
    pairs = [(said[n], logs[n].helps) for n in places]
    rng = random.Random(0)
    draws = sorted(_f1(rng.choices(pairs, k=len(pairs))) for _ in range(DRAWS))
    told, truth = [p for p, _ in pairs], [y for _, y in pairs]
    return {
        "macro_f1": _f1(pairs),
        "low": draws[int(0.025 * DRAWS)],
        "high": draws[int(0.975 * DRAWS)],
        "wrong": sum((p >= 0.5) != y for p, y in pairs),
        "brier": calibration.brier(told, truth),
        "ece": calibration.ece(told, truth),
        "logs": len(pairs),
    }


def _f1(pairs: list[tuple[float, bool]]) -> float:
    return calibration.macro_f1([y for _, y in pairs], [p >= 0.5 for p, _ in pairs])


def decisions_a_second(logs: list[Log]) -> float:
    """Train on everything, save, load, and decide about each log."""
    labels = [YES if log.helps else NO for log in logs]
    model = texts.load(texts.save(texts.train([log.about for log in logs], labels, [log.at for log in logs])))
    began = time.perf_counter()
    for log in logs:
        model.probabilities(log.about)
    return len(logs) / (time.perf_counter() - began)


def main() -> int:
    """Print one row for each way of telling."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--logs", default=os.environ.get("FAILURE_LOGS", ""), help="Parquet file of failed jobs")
    options.add_argument("--json", action="store_true")
    given = options.parse_args()
    if not given.logs or not os.path.exists(given.logs):
        sys.stderr.write("skipped: no logs (--logs FILE, or FAILURE_LOGS)\n")
        return 0
    logs = read(given.logs)
    nightly = nights(logs)
    raw, calibrated = foretold(logs, nightly, texts.GRID)
    rows: dict[str, Said] = {
        "base rate": rates(logs, "all"),
        "rate of the job's name": rates(logs, "job"),
        "rules alone: the class passes by itself": {n: float(log.cls in TRANSIENT) for n, log in enumerate(logs)},
        "rate of the rules' class": rates(logs, "class"),
        "text, in six blocks": foretold(logs, blocks(logs), texts.GRID)[1],
        "text, nightly, not calibrated": raw,
        "text, nightly": calibrated,
        "text and rates, nightly": chances(logs, raw),
    }
    table = {name: measured(logs, said) for name, said in rows.items()}
    speed = decisions_a_second(logs)
    if given.json:
        print(json.dumps({"rows": table, "decisions_a_second": speed}))
        return 0
    first, last = (f"{datetime.fromtimestamp(log.at, UTC):%Y-%m-%d}" for log in (logs[len(logs) // 3], logs[-1]))
    print(f"{len(logs)} logs; scored: {first} to {last}, {table['base rate']['logs']} logs, {len(nightly)} nights")
    print(f"{'':<42} {'macro-F1':>8}  {'95 %':<13} {'wrong':>5} {'Brier':>6} {'ECE':>6}")
    for name, one in table.items():
        between = f"{one['low']:.3f}–{one['high']:.3f}"
        print(
            f"{name:<42} {one['macro_f1']:>8.3f}  {between:<13} {one['wrong']:>5.0f} {one['brier']:>6.3f} {one['ece']:>6.3f}"
        )
    print(f"{speed:,.0f} decisions a second")
    return 0


if __name__ == "__main__":
    sys.exit(main())
