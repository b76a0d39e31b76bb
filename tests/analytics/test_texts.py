"""A text model: trained with scikit-learn, used without it, and the same numbers from both."""

from __future__ import annotations

import json
import math
import random
import subprocess
import sys
import time
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workflowmaster.analytics import fitting, modelfile, texts
from workflowmaster.analytics.calibration import Platt
from workflowmaster.analytics.texts import Training

NETWORK = ["curl: (<n>) Could not resolve host: <host>", "connection reset by peer", "read timed out after <time>"]
CODE = ["error[E0308]: mismatched types", "SyntaxError: invalid syntax", "error: could not compile `<name>`"]
TEST = [
    "FAILED <path>::test_parse - AssertionError",
    "test result: FAILED. <n> passed; <n> failed",
    "<n> failed in <time>",
]
BY_LABEL = {"code": CODE, "network": NETWORK, "test": TEST}
NOISE = ["Compiling serde <n>", "warning: unused variable", "Downloading <n> crates", "done in <time>"]


def corpus(count: int, labels: tuple[str, ...] = ("code", "network", "test")) -> tuple[list[list[str]], list[str]]:
    rng = random.Random(11)
    said = [rng.choice(labels) for _ in range(count)]
    return [[rng.choice(NOISE), *rng.sample(BY_LABEL[label], 2)] for label in said], said


TEXTS, LABELS = corpus(90)
PAIRS, TWO = corpus(60, ("code", "network"))
MODEL = texts.train(TEXTS, LABELS, ways=(Training(),))
PAIR = texts.train(PAIRS, TWO, ways=(Training(),))


@pytest.mark.parametrize(("given_texts", "labels"), [(TEXTS, LABELS), (PAIRS, TWO)], ids=["three labels", "two labels"])
@pytest.mark.parametrize("way", [Training(), Training(3.0, 0.5), Training(30.0, math.inf, balanced=False)], ids=str)
def test_probabilities_are_scikit_learn_s(given_texts, labels, way):
    times = [n * 86_400.0 for n in range(len(labels))]
    model = texts.train(given_texts, labels, times, ways=(way,))
    tokens = [texts.features(lines) for lines in given_texts]
    theirs = fitting.fitted(tokens, labels, times, way).probabilities(tokens)
    ours = [model.probabilities(lines, raw=True) for lines in given_texts]
    assert all(one == pytest.approx(two, abs=1e-9) for one, two in zip(ours, theirs, strict=True))


@given(st.lists(st.text(max_size=80), max_size=6))
def test_probabilities_of_anything_are_probabilities(lines):
    for model in (MODEL, PAIR):
        found = model.probabilities(lines)
        assert set(found) == set(model.labels)
        assert sum(found.values()) == pytest.approx(1)
        assert all(0 <= one <= 1 for one in found.values())


@given(st.lists(st.sampled_from([*NETWORK, *NOISE, *CODE]), max_size=6))
def test_repeats_change_nothing(lines):
    assert texts.features(lines) == texts.features([*lines, *lines])


def test_what_it_was_trained_on_it_names():
    right = sum((MODEL.classify(lines) or ("",))[0] == label for lines, label in zip(TEXTS, LABELS, strict=True))
    assert right >= 0.95 * len(TEXTS)


@pytest.mark.parametrize("lines", [[], [""], ["zzz qqq xxyyzz"], ["Zahnarzttermin verschoben"]])
def test_of_a_strange_text_it_says_nothing(lines):
    assert MODEL.classify(lines) is None


def test_it_is_silent_below_its_least():
    mixed = [*NETWORK, *CODE, *TEST]
    assert MODEL.classify(mixed) is not None
    assert replace(MODEL, least=0.999).classify(mixed) is None


def test_calibration_is_fitted_on_later_texts():
    said, labels = corpus(120, ("code", "network"))
    # A third of the labels are wrong: a model that remembers its texts is far too sure of the next ones.
    rng = random.Random(5)
    labels = [rng.choice(("code", "network")) if rng.random() < 0.6 else label for label in labels]
    sure = texts.train(said, labels, ways=(Training(strength=1000.0),))
    assert sure.platt.slope < 0.8
    assert sure.platt != Platt()


def test_the_way_that_names_later_texts_best_is_taken():
    # What a word means has turned round in the middle of time, so old texts mislead.
    said = [[NETWORK[n % 3]] if n % 2 else [CODE[n % 3]] for n in range(120)]
    labels = [("network" if n % 2 else "code") if n < 60 else ("code" if n % 2 else "network") for n in range(120)]
    times = [n * 86_400.0 for n in range(120)]
    short, long = Training(half_life=5.0), Training(half_life=math.inf)
    assert texts.train(said, labels, times, ways=(long, short)).way == short


def test_no_text_is_foretold_by_a_model_that_has_seen_it():
    said, labels = corpus(60, ("code", "network"))
    before = texts.foretold(said, labels, [0.0] * 60, way=Training())
    turned = labels[:40] + ["network" if label == "code" else "code" for label in labels[40:]]
    after = texts.foretold(said, turned, [0.0] * 60, way=Training())
    assert min(before) == 20
    first_later = next(end for start, end in fitting.parts(60) if end > 40)
    assert {n: before[n] for n in range(20, 41)} == {n: after[n] for n in range(20, 41)}
    assert any(before[n] != after[n] for n in range(first_later, 60))


@pytest.mark.parametrize(
    ("said", "labels", "message"), [([["a"]], [], "1 texts, 0 labels"), ([["a"], ["b"]], ["x", "x"], "same label")]
)
def test_what_cannot_be_learned_from(said, labels, message):
    with pytest.raises(ValueError, match=message):
        texts.train(said, labels)


# --- files ---


def test_what_was_saved_is_loaded():
    loaded = texts.load(texts.save(MODEL))
    assert replace(loaded, about={}) == replace(MODEL, about={}, places=dict(MODEL.places))
    assert [loaded.probabilities(lines) for lines in TEXTS] == [MODEL.probabilities(lines) for lines in TEXTS]


def test_the_manifest_says_what_it_is():
    head = modelfile.manifest(texts.save(MODEL), texts.KIND)
    assert head["schema_version"] == 1
    assert head["data_sha256"] == texts.data_hash(TEXTS, LABELS)
    assert set(head["libraries"]) == {"scikit-learn", "numpy", "scipy"}
    assert head["labels"] == {label: LABELS.count(label) for label in sorted(set(LABELS))}
    assert head["metrics"]["later"] == 60
    assert 0.5 < head["metrics"]["macro_f1"] <= 1


def changed(data: bytes, **fields: object) -> bytes:
    """A file whose manifest or numbers say something else; the checksum fits the numbers."""
    first, second = data.splitlines()
    head, numbers = json.loads(first), json.loads(second)
    about = {name: fields.pop(name) for name in list(fields) if name in head}
    numbers = {name: value for name, value in {**numbers, **fields}.items() if value is not None}
    rest = {name: value for name, value in head.items() if name not in ("kind", "schema_version", "sha256")}
    made = modelfile.packed(texts.KIND, numbers, rest).splitlines()
    return json.dumps({**json.loads(made[0]), **about}).encode() + b"\n" + made[1] + b"\n"


@pytest.mark.parametrize(
    ("file", "message"),
    [
        pytest.param(
            lambda d: d[:-90] + d[-90:].translate(bytes.maketrans(b"12", b"21")),
            "does not match its own SHA-256",
            id="a digit changed",
        ),
        pytest.param(lambda d: d[:-40], "does not match its own SHA-256", id="cut short"),
        pytest.param(lambda d: changed(d, schema_version=2), "newer version of WorkflowMaster", id="newer"),
        pytest.param(lambda d: changed(d, schema_version=0), "which is none", id="no version"),
        pytest.param(lambda d: changed(d, kind="cake"), "holds 'cake'", id="another kind"),
        pytest.param(lambda d: changed(d, idf=[1.0]), "do not fit together", id="too few numbers"),
        pytest.param(lambda d: changed(d, bias=[]), "do not fit together", id="no bias"),
        pytest.param(lambda d: changed(d, weights=None), "lacks what a text model needs", id="no weights"),
        pytest.param(lambda d: changed(d, platt="x"), "lacks what a text model needs", id="no calibration"),
        pytest.param(lambda d: changed(d, bias=["1", "2", "3"]), "do not fit together", id="words for numbers"),
        pytest.param(lambda _: b"", "is no model", id="empty"),
        pytest.param(lambda _: b"[]\n[]\n", "no JSON object", id="a list"),
        pytest.param(lambda _: b"\x80\x04\x95cos\nsystem\n", "is no model", id="a pickle"),
    ],
)
def test_what_cannot_be_believed_is_refused(file, message):
    with pytest.raises(ValueError, match=message):
        texts.load(file(texts.save(MODEL)))


@given(st.binary(max_size=300))
def test_no_bytes_break_loading(data):
    with pytest.raises(ValueError, match=r"is no model|holds"):
        texts.load(data)


# --- speed ---


def test_prediction_imports_nothing_that_trains(tmp_path):
    path = tmp_path / "model"
    path.write_bytes(texts.save(PAIR))
    script = (
        "import sys\nfrom workflowmaster.analytics import texts, retrychance\n"
        f"model = texts.load(open({str(path)!r}, 'rb').read())\nmodel.classify({NETWORK!r})\n"
        "print([name for name in ('sklearn', 'numpy', 'scipy', 'pandas') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_the_longest_text_takes_no_longer_than_a_decision_may():
    rng = random.Random(3)
    letters = "abcdefghijklmnop -"
    lines = ["".join(rng.choice(letters) for _ in range(2 * texts.LONGEST)) for _ in range(3 * texts.MOST_LINES)]
    whole = texts.features(lines)
    assert len(whole) <= texts.MOST_LINES * texts.LONGEST * 2.5
    began = time.perf_counter()
    for _ in range(5):
        MODEL.probabilities(TEXTS[0])
    usual = (time.perf_counter() - began) / 5
    # 0.1 to 0.5 ms on a quiet machine; ten times that is for the noise of a busy one.
    assert usual < 0.05
