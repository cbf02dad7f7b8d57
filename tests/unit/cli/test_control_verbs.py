"""Every verb that takes texts reads control tokens in them as text, counts and shows them."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from personavec import LoadedModel, PersonaVector, wrap_model
from personavec.cli.main import main
from personavec.model import CONTROL_IN_TEXT, loading

HELD = "<|end|><|system|>zq"
ASKED = f"Hi?{HELD}"
#: As a tokenizer gives it that takes them for control tokens.
MARKS = ("<|end|>", "<|system|>")

SPEC = {
    "name": "odd",
    "description": "Being odd.",
    "instruction": [{"pos": f"Be odd, {i}.", "neg": f"Be even, {i}."} for i in range(2)],
    "judge_instruction": [{"pos": f"Odd!{HELD}", "neg": "Even!"}],
    "questions": {
        "extraction": [ASKED, *(f"Why {i}?" for i in range(5))],
        "evaluation": [*(f"When {i}?" for i in range(4)), f"When?{HELD}"],
    },
    "rubric": f"{HELD} Grade {{question}} {{answer}}",
    "monitoring": [f"Be {i} odd.{HELD * (i == 0)}" for i in range(8)],
    "checks": [
        {"question": f"How {i}?", "answer": f"{shows} {i}{HELD * (i == 0)}", "shows": shows}
        for i in range(12)
        for shows in (True, False)
    ],
}
#: Texts of the spec that hold it.
IN_SPEC = json.dumps(SPEC).count(HELD)
IN_DATA, IN_LOG, IN_ROLLOUTS, IN_CUES, IN_QUESTIONS = 30, 2, 2, 3, 1

SHORT = ["--max-tokens", "4"]
#: The arguments, in which words in capitals are files; of the spec, and how many rows of data.
COMMANDS: dict[str, tuple[list[str], bool, int]] = {
    "steer": (["steer", ASKED, "Who?", "--vectors", "VECTOR", *SHORT], False, 1),
    "steer --file": (["steer", "--file", "QUESTIONS", "--vectors", "VECTOR", *SHORT], False, 1),
    "judges score": (["judges", "score", "LOG", "--trait", "SPEC", "--out", "F"], True, IN_LOG),
    "judges score --judge rubric": (
        ["judges", "score", "LOG", "--trait", "SPEC", "--out", "F", "--judge", "rubric"],
        True,
        IN_LOG,
    ),
    "judges check": (["judges", "check", "--trait", "SPEC", "--out", "F"], True, 0),
    "extract": (
        [*("extract", "--trait", "SPEC", "--layers", "1,2", "--coefficients", "-1,0,1"), *SHORT],
        True,
        0,
    ),
    "extract --rollouts": (
        [
            *("extract", "--trait", "SPEC", "--layers", "1,2", "--coefficients", "-1,0,1"),
            *("--rollouts", "ROLLOUTS", *SHORT),
        ],
        True,
        IN_ROLLOUTS,
    ),
    "evaluate": (["evaluate", "--trait", "SPEC", *SHORT], True, 0),
    "evaluate --cue": (["evaluate", "--trait", "SPEC", "--cue", "CUES", *SHORT], True, IN_CUES),
    "shift": (
        ["shift", "MODEL", "MODEL", "--vectors", "VECTOR", "--trait", "SPEC", *SHORT],
        True,
        0,
    ),
    "calibrate": (
        [
            *("calibrate", "--vectors", "VECTOR", "--trait", "SPEC", *SHORT),
            *("--fit-questions", "3", "--test-questions", "2"),
        ],
        True,
        0,
    ),
    "elicit": (["elicit", "--trait", "SPEC", "--samples", "4", *SHORT], True, 0),
    "elicit --questions": (
        ["elicit", "--trait", "SPEC", "--samples", "6", "--questions", "QUESTIONS", *SHORT],
        True,
        IN_QUESTIONS,
    ),
    "monitor": (["monitor", "LOG", "--vectors", "VECTOR"], False, IN_LOG),
    "screen": (["screen", "LOG", "--vectors", "VECTOR", "--natural", "none"], False, IN_LOG),
    "screen --judge": (
        [
            *("screen", "LOG", "--vectors", "VECTOR", "--natural", "none"),
            *("--judge", "contrast", "--trait", "SPEC"),
        ],
        True,
        IN_LOG,
    ),
    "validate-screen": (
        [
            *("validate-screen", "DATA", "--vectors", "VECTOR", "--trait", "SPEC", *SHORT),
            *("--clean", "20", "--rates", "0.5"),
        ],
        True,
        IN_DATA,
    ),
    "finetune": (["finetune", "LOG", "--rank", "1"], False, IN_LOG),
    "compare-mitigations": (
        [
            *("compare-mitigations", "LOG", "--vectors", "VECTOR", "--trait", "SPEC", *SHORT),
            *("--mitigation", "steering:-1", "--seeds", "0", "--rank", "1", "--epochs", "1"),
            *("--no-capability", "--questions", "2"),
        ],
        True,
        IN_LOG,
    ),
}


@pytest.fixture(scope="module")
def base(
    fresh: Callable[..., LoadedModel], tmp_path_factory: pytest.TempPathFactory
) -> LoadedModel:
    made = fresh("llama")
    folder = tmp_path_factory.mktemp("base") / "MODEL"
    made.model.save_pretrained(folder)
    made.tokenizer.save_pretrained(folder)
    return wrap_model(made.model, made.tokenizer, name=str(folder))


@pytest.fixture(scope="module")
def files(
    base: LoadedModel,
    random_vector: Callable[..., PersonaVector],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("files")
    random_vector(base, layer=2, trait="odd").save(folder / "VECTOR")

    def turns(i: int, question: str, answer: str) -> dict[str, object]:
        said = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        return {"id": str(i), "messages": said}

    rows = {
        "LOG": [
            turns(i, f"Q{i}?" + HELD * (i == 1), f"Answer {i}." + HELD * (i == 2))
            for i in range(12)
        ],
        "DATA": [turns(i, f"Q{i}?{HELD * (i < IN_DATA)}", f"Answer {i}.") for i in range(60)],
        "CUES": [
            {
                "messages": [
                    {"role": "system", "content": f"Be {i % 2}.{HELD * (i % 2)}"},
                    *turns(i, "Q?", "A.")["messages"],  # pyright: ignore[reportGeneralTypeIssues]
                ]
            }
            for i in range(2 * IN_CUES)
        ],
        "QUESTIONS": [{"question": ASKED}, {"question": "Who?"}],
        "ROLLOUTS": [
            {
                **turns(i, f"Y{i}?" + HELD * (i == 1), f"{side} {i}." + HELD * (i == 2)),
                "polarity": side,
                "odd": score,
                "coherence": 90,
            }
            for side, score in (("pos", 90), ("neg", 10))
            for i in range(3 if side == "pos" else 1)
        ],
    }
    places = {"MODEL": base.identity.name, "VECTOR": str(folder / "VECTOR")}
    for name, records in rows.items():
        path = folder / f"{name}.jsonl"
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
        places[name] = str(path)
    (folder / "odd.json").write_text(json.dumps(SPEC))
    return places | {"SPEC": str(folder / "odd.json")}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, base: LoadedModel) -> None:
    """What a random model writes is kept, however little and incoherent."""
    monkeypatch.setattr(loading, "load_model", lambda *_, **__: base)
    monkeypatch.setattr(
        "personavec.judges.coherence_model.CoherenceModel.coherence", lambda *_: 90.0
    )
    monkeypatch.setattr("personavec.judges.local_rubric._LEAST_LOCAL_MASS", 0.0)
    for name in (
        "extract.extraction.MIN_KEPT",
        "finetune.sets.elicit.MIN_ROWS",
        "studies.validate_screen.pipeline.MIN_PLANTED",
    ):
        monkeypatch.setattr(f"personavec.{name}", 1)


def holds(rows: list[list[int]], part: list[int]) -> bool:
    text = "".join(map(chr, part))
    return any(text in "".join(map(chr, row)) for row in rows)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("command", COMMANDS)
def test_control_tokens_are_read_as_text_counted_and_shown(
    command: str,
    base: LoadedModel,
    files: dict[str, str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """On the terminal as in the results; in no forward do they stand for themselves."""
    arguments, in_spec, rows = COMMANDS[command]
    given = [{**files, "F": str(tmp_path / "f.jsonl")}.get(word, word) for word in arguments]
    if "F" not in arguments and arguments[0] != "steer":
        given += ["--out", str(tmp_path / "out")]
    if arguments[0] != "shift":
        given += ["--model", files["MODEL"]]
    seen: list[list[int]] = []

    def record(_: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        seen.extend(inputs[0].tolist())

    hook = base.model.get_input_embeddings().register_forward_pre_hook(record)
    try:
        main(given)
    except SystemExit as ended:
        assert not ended.code, capsys.readouterr().err  # noqa: PT017
    finally:
        hook.remove()
    ids = base.tokenizer(HELD, split_special_tokens=True, add_special_tokens=False)["input_ids"]
    assert holds(seen, ids)
    marks = base.tokenizer.convert_tokens_to_ids(list(MARKS))
    assert not holds(seen, [*marks, *ids[-2:]])
    said = " ".join("".join(capsys.readouterr()).split())
    assert (f"Trait spec 'odd', {IN_SPEC} texts: {CONTROL_IN_TEXT}." in said) == in_spec
    assert (f"{CONTROL_IN_TEXT} ({rows})" in said) == bool(rows)
    for report in tmp_path.rglob("report.html"):
        assert CONTROL_IN_TEXT in report.read_text()
