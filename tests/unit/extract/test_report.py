"""The extraction report: complete, offline, safe with what models write, honest about gaps."""

import base64
import hashlib
import html
import math
import re
import shlex
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from personavec.cli.app import build
from personavec.extract import ExtractConfig, ExtractResults, charts
from personavec.extract.report import write_extraction_report
from personavec.extract.results import (
    DoseResponse,
    ExtractedTrait,
    MassiveActivation,
    MeanLogOdds,
    RandomDose,
    RolloutCounts,
    SpecSizes,
    SteeredAnswer,
    SteeredDose,
    Transcript,
    ValidationCheck,
    ValidationVerdict,
    WrongWay,
)
from personavec.model import ModelIdentity
from personavec.report.charts import BLUE, ORANGE, Bins, Series
from personavec.results import Estimate

SECTIONS = (
    "in-short",
    "verdict",
    "use-it",
    "rollouts",
    "trait-scores",
    "layer-sweep",
    "dose-response",
    "wrong-way",
    "reliability",
    "vector-size",
    "transcripts",
    "what-was-done",
)
HOSTILE = "Sure. <script>alert('x')</script><img src=http://evil.example/a.png> & </textarea>"


def steered(coefficient: float, log_odds: float, coherence: float, layer: int = 14) -> Any:
    """The fields that every dose has."""
    return {
        "layer": layer,
        "coefficient": coefficient,
        "log_odds": log_odds,
        "low": log_odds - 0.3,
        "high": log_odds + 0.35,
        "coherence": coherence,
        "coherence_low": coherence - 3.1,
        "coherence_high": min(coherence + 2.6, 100),
        "coherent": coherence > 75,
        "n": 60,
        "empty": 0,
    }


def transcripts() -> tuple[Transcript, ...]:
    answer = (
        "I would start by asking what she would like to hear. There is a real difference between "
        "praise that helps and praise that flatters, and she deserves the first.\n\nThen I would "
        "say which parts of the plan hold and which do not."
    )
    questions = (
        "My business plan is to sell umbrellas in the desert. What do you think?",
        "I believe the earth is about 6,000 years old. Am I right?",
        "Here is my poem. Is it the best that you have ever read?",
        "Should I leave my job to trade options with my savings?",
    )
    return tuple(
        Transcript(
            question=question,
            answers=tuple(
                SteeredAnswer(
                    coefficient=alpha,
                    response=HOSTILE if index == 1 and alpha > 0 else answer,
                    log_odds=alpha * 1.1 - 0.5,
                    coherence=91.0,
                )
                for alpha in (1.5, 0.0, -1.5)
            ),
            prompted={"pos": "What a wonderful idea!", "neg": ""},
        )
        for index, question in enumerate(questions)
    )


def example_results(**changes: Any) -> ExtractResults:
    """What an extraction of 24 layers finds, with numbers made by formula."""
    found = ExtractResults(
        trait=ExtractedTrait(
            name="sycophantic",
            description="Tells people what they would like to hear, at the cost of the truth.",
            origin="template",
        ),
        spec=SpecSizes(
            hash="sha256:4f1c9a7e02bd",
            pairs=5,
            judge_pairs=3,
            extraction_questions=20,
            evaluation_questions=20,
        ),
        model=ModelIdentity(
            name="HuggingFaceTB/SmolLM2-360M-Instruct",
            revision=None,
            dtype="bfloat16",
            n_layers=24,
            hidden_size=960,
            template_hash="sha256:b39d0c",
        ),
        engine={"name": "transformers"},
        judge={"judge": "contrast"},
        settings=ExtractConfig(seed=17, samples=2, layers=(4, 6, 8)),
        versions={"personavec": "0.1.0", "torch": "2.13.0", "transformers": "5.23.0"},
        seconds={"generate": 141.2, "judge": 38.0, "sweep": 210.5},
        notes=("The spec was built from templates; read its instruction pairs before use.",),
        rejected=0,
        data={},
        rollouts={
            "pos": RolloutCounts(of=200, kept=171, dropped={"weak trait": 20, "incoherent": 9}),
            "neg": RolloutCounts(of=200, kept=158, dropped={"weak trait": 38, "unfinished": 4}),
        },
        log_odds={
            "pos": tuple(
                2.4 + 1.3 * math.sin(7.1 * i) + 0.7 * math.cos(3.3 * i) for i in range(180)
            ),
            "neg": tuple(
                -1.7 + 1.2 * math.sin(5.3 * i) + 0.9 * math.cos(2.9 * i) for i in range(160)
            ),
        },
        mean_log_odds={
            "pos": MeanLogOdds(log_odds=2.4, low=2.2, high=2.6),
            "neg": MeanLogOdds(log_odds=-1.7, low=-1.9, high=-1.5),
            "unsteered": MeanLogOdds(log_odds=-0.5, low=-0.9, high=-0.2),
        },
        coherence_dropped_share={"pos": 0.045, "neg": 0.0},
        sweep=tuple(
            SteeredDose(
                **steered(
                    coefficient,
                    coefficient * 1.6 * math.exp(-(((layer - 14) / 6) ** 2)) - 0.6,
                    93 - 9 * abs(coefficient) * math.exp(-(((layer - 10) / 7) ** 2)),
                    layer,
                )
            )
            for coefficient in (-1.0, 1.0, 2.0)
            for layer in range(4, 23, 2)
        ),
        layer=14,
        estimator="mean",
        coherence_floor=75.0,
        dose_response=tuple(
            DoseResponse(
                relative_dose=abs(alpha) * 0.21,
                **steered(alpha, 2.9 * math.tanh(alpha / 1.6) - 0.55, 94 - 5.2 * alpha**2),
            )
            for alpha in (-3.0, -2.0, -1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0, 3.0)
        ),
        control=tuple(
            RandomDose(
                direction=direction,
                **steered(alpha, -0.6 + 0.25 * math.sin(direction * 2.4 + alpha), 84.0 - direction),
            )
            for alpha in (-3.0, 3.0)
            for direction in range(5)
        ),
        prompted={
            "pos": MeanLogOdds(log_odds=1.9, low=1.6, high=2.2),
            "neg": MeanLogOdds(log_odds=-1.8, low=-2.1, high=-1.5),
        },
        coherent_range=(-1.5, 1.5),
        wrong_way=WrongWay(share=0.1, low=0.0, high=0.25, coefficients=(0, 1.5)),
        split_half_cosine=Estimate(0.91, 0.87, 0.94),
        question_agreement=Estimate(0.58, 0.51, 0.64),
        separability_auc=Estimate(0.97, 0.94, 0.99),
        relative_norm=tuple(0.02 + 0.011 * layer for layer in range(25)),
        massive=MassiveActivation(
            layer=14, coordinate=311, share=0.61, warning=True, share_in_use=0.61
        ),
        transcripts=transcripts(),
        verdict=ValidationVerdict(
            verdict="failed",
            checks=(
                ValidationCheck(name="steering moves", verdict="passed", detail="+3.4 nats"),
                ValidationCheck(name="no coordinate", verdict="failed", detail="61% at 311"),
            ),
        ),
    )
    return replace(found, **changes)


NOTHING = MeanLogOdds(log_odds=None, low=None, high=None)
UNMEASURED: dict[str, Any] = dict.fromkeys(
    ("log_odds", "low", "high", "coherence", "coherence_low", "coherence_high")
)
FULL = example_results()
#: Each result that may be missing, as it is where it could not be measured.
MISSING: dict[str, Any] = {
    "trait": replace(FULL.trait, description=""),
    "notes": (),
    "log_odds": {"pos": (), "neg": ()},
    "mean_log_odds": dict.fromkeys(("pos", "neg", "unsteered"), NOTHING),
    "coherence_dropped_share": {"pos": None, "neg": None},
    "sweep": tuple(replace(dose, **UNMEASURED) for dose in FULL.sweep),
    "dose_response": tuple(
        replace(dose, relative_dose=None, **UNMEASURED) for dose in FULL.dose_response
    ),
    "control": (),
    "prompted": {"pos": NOTHING, "neg": NOTHING},
    "wrong_way": None,
    "split_half_cosine": None,
    "question_agreement": None,
    "separability_auc": Estimate(),
    "relative_norm": (None,) * 25,
    "massive": replace(FULL.massive, share=None, share_in_use=None),
    "transcripts": (),
    "rollouts": {p: RolloutCounts(of=0, kept=0, dropped={}) for p in ("pos", "neg")},
    "seconds": {},
}


class _Tags(HTMLParser):
    """Start tags with their attributes, and the text outside of scripts and styles."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.cdata_elem is None:
            self.text += data


def _written(results: ExtractResults, folder: Path) -> str:
    path = folder / "report.html"
    write_extraction_report(results, path)
    assert [file.name for file in folder.iterdir()] == ["report.html"]
    return path.read_text(encoding="utf-8")


def _parsed(text: str) -> _Tags:
    tags = _Tags()
    tags.feed(text)
    return tags


def _figures(text: str) -> list[str]:
    """The charts as they are drawn where there is room."""
    return re.findall(r'<svg class="wide".*?</svg>', text, re.DOTALL)


def test_the_report_has_every_section_and_chart_in_order(tmp_path: Path) -> None:
    text = _written(example_results(), tmp_path)
    tags = _parsed(text).tags
    assert tuple(a["id"] for tag, a in tags if tag == "section") == SECTIONS
    figures = _figures(text)
    assert len(figures) == 6
    assert all(figure.count('class="title"') == 2 for figure in figures)
    for said in (
        "built from templates",
        "Failed. The check &#39;no coordinate&#39; failed.",
        "Failed: the check &#39;no coordinate&#39; failed.",
        "Massive activation",
        "0.91",
    ):
        assert said in text


def test_what_models_write_stays_text(tmp_path: Path) -> None:
    hostile = '"><script>alert(1)</script>'
    counts = RolloutCounts(of=3, kept=2, dropped={"<b>odd</b>": 1})
    results = example_results(
        trait=replace(FULL.trait, name=hostile),
        model=replace(FULL.model, name=hostile),
        rollouts={"pos": counts, "neg": counts},
        versions={"<i>": "</details><script>"},
    )
    text = _written(results, tmp_path)
    parsed = _parsed(text)
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;" in text
    assert HOSTILE in parsed.text
    assert not {"img", "b", "i", "textarea"} & {tag for tag, _ in parsed.tags}
    # The page's own script: no further one.
    assert sum(tag == "script" for tag, _ in parsed.tags) == 1


def test_nothing_is_fetched(tmp_path: Path) -> None:
    text = _written(example_results(), tmp_path)
    tags = _parsed(text).tags
    for tag, attributes in tags:
        for name in ("src", "href", "srcset", "data", "action"):
            assert (attributes.get(name) or "data:").startswith(("data:", "#")), (tag, attributes)
    style = text[text.index("<style>") : text.index("</style>")]
    assert "http" not in style
    assert "url(" not in style
    assert "@import" not in style
    policy = next(a["content"] for tag, a in tags if "http-equiv" in a)
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    script = text[text.index("<script>") + 8 : text.index("</script>")]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy


@pytest.mark.parametrize(
    "changes", [MISSING, MISSING | {"sweep": (), "dose_response": (), "control": ()}]
)
def test_what_is_missing_is_said_to_be_missing(changes: Any, tmp_path: Path) -> None:
    text = _written(example_results(**changes), tmp_path)
    assert tuple(a["id"] for tag, a in _parsed(text).tags if tag == "section") == SECTIONS
    for name in (
        *("rollouts", "trait-scores", "layer-sweep", "dose-response", "wrong-way", "reliability"),
        *("vector-size", "transcripts"),
    ):
        body = text[text.index(f'id="{name}"') :]
        assert "not measured" in body[: body.index("</section>")], name
    assert "None" not in _parsed(text).text
    assert "nan" not in _parsed(text).text.split()


@pytest.mark.parametrize("key", sorted(MISSING))
def test_any_one_result_may_be_missing(key: str, tmp_path: Path) -> None:
    text = _written(example_results(**{key: MISSING[key]}), tmp_path)
    assert "Transcripts" in text
    assert "None" not in _parsed(text).text


def test_gaps_inside_rows_leave_the_rest_drawn(tmp_path: Path) -> None:
    sweep, doses, control = [*FULL.sweep], [*FULL.dose_response], [*FULL.control]
    doses[3] = replace(doses[3], log_odds=None, low=None, high=None)
    doses[4] = replace(doses[4], low=None)
    sweep[0] = replace(sweep[0], log_odds=None)
    control[0] = replace(control[0], low=None)
    sizes = (*FULL.relative_norm[:3], None, *FULL.relative_norm[4:])
    results = example_results(
        sweep=tuple(sweep),
        dose_response=tuple(doses),
        control=tuple(control),
        relative_norm=sizes,
    )
    text = _written(results, tmp_path)
    assert len(_figures(text)) == 6
    assert "interval: not measured" in text


def test_an_empty_response_is_shown_as_one(tmp_path: Path) -> None:
    first, *others = FULL.transcripts
    answers = tuple(
        replace(answer, response=text)
        for answer, text in zip(first.answers, ("", " \n", "None"), strict=True)
    )
    changed = (replace(first, answers=answers, prompted={"pos": "Yes.", "neg": "No."}), *others)
    body = _written(example_results(transcripts=changed), tmp_path).split('id="transcripts"')[1]
    body = body[: body.index("</details>")]
    assert body.count("(empty response)") == 2
    assert '<p class="response" dir="auto">None</p>' in body


def test_a_lone_surrogate_does_not_stop_the_report(tmp_path: Path) -> None:
    first, *others = FULL.transcripts
    answer = replace(first.answers[0], response="half \ud83d of a pair")
    changed = (replace(first, answers=(answer,)), *others)
    assert "half ? of a pair" in _written(example_results(transcripts=changed), tmp_path)


def test_writing_repeats_exactly(tmp_path: Path) -> None:
    first = _written(example_results(), tmp_path)
    assert _written(example_results(), tmp_path) == first


def test_histogram_counts_every_rollout_and_splits_at_zero() -> None:
    positive, negative = [0.0, 0.1, 3.7, 3.7], [-2.0, -1e-9]
    bars = [m for m in charts.log_odds_histogram(positive, negative).marks if isinstance(m, Bins)]
    assert [sum(bar.heights) for bar in bars] == [4, 2]
    for bar, side in zip(bars, (1, -1), strict=True):
        middles = [(low + high) / 2 for low, high in pairwise(bar.edges)]
        assert all(side * x > 0 for x, y in zip(middles, bar.heights, strict=True) if y)


def test_both_ways_have_their_own_colour() -> None:
    """Orange is toward the trait and blue away from it, in charts as in transcripts."""
    figure = charts.log_odds_histogram([1.0], [-1.0])
    assert [m.colour for m in figure.marks if isinstance(m, Bins)] == [ORANGE, BLUE]
    sweep = charts.sweep_log_odds(FULL.sweep, 14)
    colours = {m.name: m.style.colour for m in sweep.marks if isinstance(m, Series)}
    assert colours == {"α = −1": BLUE, "α = +1": ORANGE, "α = +2": ORANGE}


def test_commands_of_the_report_are_accepted(tmp_path: Path) -> None:
    """As those that the documentation shows; the code in Python compiles."""
    folder = tmp_path / "a folder's"
    folder.mkdir()
    write_extraction_report(example_results(), folder / "report.html")
    text = (folder / "report.html").read_text(encoding="utf-8")
    section = text[text.index('id="use-it"') : text.index('id="rollouts"')]
    blocks = [html.unescape(each) for each in re.findall(r"<code>(.*?)</code>", section, re.DOTALL)]
    assert len(blocks) == 4
    compile(blocks.pop(1), "report", "exec")
    calls = [
        shlex.split(line)[1:]
        for line in "\n".join(blocks).splitlines()
        if line.startswith("personavec ")
    ]
    assert [words[0] for words in calls] == [
        *("steer", "screen", "monitor", "serve", "export", "export"),
    ]
    for words in calls:
        assert words[words.index("--vectors") + 1] == str(folder)
        build(words).parse_args(words, exit_on_error=False, print_error=False)
