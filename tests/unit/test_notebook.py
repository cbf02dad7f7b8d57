"""Cards: what a notebook shows of vectors, readings and results."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest
from tiny_models import random_vector
from verb_jobs import JOBS, Given, spec, write_model, write_rows

import personavec as pv
from personavec import LoadedModel, PersonaVector
from personavec.evaluate import EvaluateConfig, EvaluateResults
from personavec.evaluate.shift.conclusion import conclusion as shift_says
from personavec.evaluate.shift.results import ShiftResults
from personavec.extract.results import ExtractResults
from personavec.model import Message
from personavec.monitor import MonitorConfig, MonitorResults
from personavec.results import read
from personavec.screen import FlagRule, ScreenConfig, ScreenResults
from personavec.studies.compare_mitigations.conclusion import conclusion as compare_says
from personavec.studies.compare_mitigations.results import CompareResults
from personavec.studies.validate_screen.conclusion import conclusion as validate_says
from personavec.studies.validate_screen.results import ValidateScreenResults
from personavec.wording import estimated, signed

ORANGE, BLUE = "217, 102, 31", "42, 130, 199"


def parsed(html: str) -> ElementTree.Element:
    """The card as XML: every element is closed and every text escaped."""
    return ElementTree.fromstring(html)


def text_of(html: str) -> str:
    return " ".join("".join(parsed(html).itertext()).split())


@pytest.fixture
def conversation() -> list[Message]:
    return [
        {"role": "user", "content": "Is 1 < 2 & <script>alert(1)</script>?"},
        {"role": "assistant", "content": "Yes, <b>it</b> is é so."},
        {"role": "user", "content": "And?"},
        {"role": "assistant", "content": "So on."},
    ]


def test_a_conversation_is_shown_in_coloured_tokens(
    llama: LoadedModel, random_vector: Callable[..., PersonaVector], conversation: list[Message]
) -> None:
    """Every token once, in order; its colour and its line are those of its sign."""
    vector = random_vector(llama)
    readings = pv.read_conversation(llama, [vector], conversation, tokens=True)
    answers = conversation[1::2]
    for reading, pieces, message in zip(readings, readings.pieces, answers, strict=True):
        assert "".join(piece.text for piece in pieces) == message["content"]
        # The baseline of the tiny vector is 0 with a spread of 1: sigma is the projection.
        by_token = sum(reading.tokens or ()) / reading.n_tokens
        assert reading.response_mean_sigma == pytest.approx(by_token, abs=1e-3)
    html = readings._repr_html_()
    assert "<script>" not in html
    shown = [each for each in parsed(html).iter("span") if "title" in each.attrib]
    every = [piece for pieces in readings.pieces for piece in pieces]
    assert [each.text for each in shown] == [piece.text for piece in every]
    for each, piece in zip(shown, every, strict=True):
        assert each.attrib["title"] == f"{signed(piece.sigma, 1)} σ"
        colour, line = (ORANGE, "solid") if piece.sigma > 0 else (BLUE, "dotted")
        assert colour in each.attrib["style"]
        assert line in each.attrib["style"]


def test_without_tokens_the_texts_stand_plain(
    llama: LoadedModel, random_vector: Callable[..., PersonaVector], conversation: list[Message]
) -> None:
    readings = pv.project_conversation(llama, random_vector(llama), conversation)
    assert readings.pieces == ()
    text = text_of(readings._repr_html_())
    assert all(" ".join(str(m["content"]).split()) in text for m in conversation)


def test_a_bundled_vector_shows_its_dose_response() -> None:
    """A mark at every dose that was measured, open where answers were not coherent."""
    vector = pv.load_vector("optimistic")
    html = vector._repr_html_()
    doses = [dose for dose in vector.meta["dose_response"] if dose["log_odds"] is not None]
    marks = [each.attrib["fill"] for each in parsed(html).iter("circle")]
    assert marks == ["currentColor" if dose["coherent"] else "none" for dose in doses]
    heights = [float(each.attrib["cy"]) for each in parsed(html).iter("circle")]
    order = sorted(range(len(doses)), key=lambda i: -doses[i]["log_odds"])
    assert heights[order[0]] == min(heights)
    assert heights[order[-1]] == max(heights)
    assert vector.verdict is not None
    assert vector.verdict.words in text_of(html).lower()


def test_a_vector_without_measurements_shows_what_it_has(llama: LoadedModel) -> None:
    vector = random_vector(llama)
    vector.meta["dose_response"] = [{"odd": True}]
    html = vector._repr_html_()
    assert "persona vector: testing" in text_of(html)
    assert not list(parsed(html).iter("svg"))


KINDS = {
    "extract": (
        ExtractResults,
        pv.ExtractConfig(
            samples=2, max_tokens=4, coherence_floor=-1, sweep_questions=2,
            coefficients=(-1, 0, 1), random_directions=1, neutral_prompts=3,
        ),
    ),
    "evaluate": (EvaluateResults, EvaluateConfig(samples=2, max_tokens=4)),
    "screen": (ScreenResults, ScreenConfig(rule=FlagRule(top=5), random_directions=1)),
    "monitor": (MonitorResults, MonitorConfig()),
}  # fmt: skip


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Given:
    folder = tmp_path_factory.mktemp("inputs")
    write_model(folder)
    (folder / "spec.json").write_text(json.dumps(spec(4, 4)))
    rows = [{"prompt": f"Say {i}.", "completion": "stone " * (i % 5 + 1)} for i in range(12)]
    write_rows(folder / "rows.jsonl", rows)
    turns = [
        {"role": role, "content": f"{role} {i}"} for i in range(2) for role in ("user", "assistant")
    ]
    write_rows(folder / "log.jsonl", [{"messages": turns}] * 6)
    return Given.read(folder, device="cpu")


#: Results of small runs of the embedded model, and what the card's table says of each row.
STORED = {
    "shift": (ShiftResults, lambda found: found.traits),
    "compare-mitigations": (CompareResults, lambda found: found.arms),
    "validate-screen": (ValidateScreenResults, lambda found: found.methods.values()),
}
SAYS = {"shift": shift_says, "compare-mitigations": compare_says, "validate-screen": validate_says}


@pytest.mark.parametrize("verb", STORED)
def test_results_of_studies_show_their_conclusion_and_a_row_for_each(verb: str) -> None:
    kind, names = STORED[verb]
    results = read(kind, Path(__file__).parent / "terminal" / f"{verb}.json")
    html = results._repr_html_()
    assert SAYS[verb](results) in text_of(html)
    body = parsed(html).find(".//tbody")
    assert body is not None
    cells = [["".join(cell.itertext()) for cell in row] for row in body]
    assert [row[0] for row in cells] == [each.replace(" -", " −") for each in names(results)]
    assert all(re.search(r"\d|yes|no", "".join(row[1:])) for row in cells)
    assert not re.search(r"\bnan\b|None", text_of(html))


def test_a_shift_is_shown_with_its_interval_and_what_random_directions_do() -> None:
    results = read(ShiftResults, Path(__file__).parent / "terminal" / "shift.json")
    text = text_of(results._repr_html_())
    for own in results.traits.values():
        moved = (own.beyond_control or own).in_sigma
        assert estimated(moved, "+.2f").replace("-", "−") in text
        # The largest of the random directions is stored in units of the residual stream.
        assert f"±{abs(own.random_largest * own.sigma / own.shift):.2f}" in text


@pytest.mark.parametrize("verb", KINDS)
def test_results_show_their_conclusion_and_a_table(verb: str, given: Given, tmp_path: Path) -> None:
    kind, config = KINDS[verb]
    JOBS[verb](given, config, tmp_path)
    results = read(kind, tmp_path / "results.json")
    html = results._repr_html_()
    text = text_of(html)
    said = {
        "extract": lambda: results.verdict.words.partition(":")[0],
        "evaluate": lambda: "of answers show testing",
        "screen": lambda: f"5 of {results.rows} rows are flagged",
        "monitor": lambda: "alarms of drift in 6 conversations",
    }[verb]()
    assert said.lower() in text.lower()
    assert len(list(parsed(html).iter("tr"))) >= 2
    assert not re.search(r"\bnan\b|None", text)
