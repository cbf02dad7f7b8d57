"""Ordinary dialogues: what they are, and that what a guard would stop is what the server stops."""

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from personavec import LoadedModel, PersonaVector, load_vector
from personavec.conditions import parse_condition
from personavec.model.engine import DecodeJob, Request, Sampling, StepLoop
from personavec.monitor import gauge, ordinary, project_conversation
from personavec.monitor.ordinary import FILE, MOST, DialogueReadings, OrdinaryCheck
from personavec.progress import Progress
from personavec.serve import parse_guard
from personavec.serve.guards import GuardedRow
from personavec.serve.watch import Watch
from personavec.traits import BUNDLED
from personavec.vectors import Ordinary, bundled_vectors
from personavec.vectors.limits import ChartRule

QUIET = Progress(quiet=True)
MakeVector = Callable[..., PersonaVector]


def test_the_dialogues_are_ordinary_talk_of_several_turns() -> None:
    rows = ordinary.dialogues()
    assert len(rows) >= 100
    assert len({row.id for row in rows}) == len(rows)
    for row in rows:
        assert 4 <= len(row.messages) <= 12
        roles = [m["role"] for m in row.messages if m["role"] != "system"]
        assert roles == ["user", "assistant"] * (len(roles) // 2)
        assert all(message["content"].strip() for message in row.messages)
    texts = Counter(message["content"] for row in rows for message in row.messages)
    # Written one by one: hardly a sentence comes twice.
    assert sum(n > 1 for n in texts.values()) <= 12


@pytest.fixture
def vector(llama: LoadedModel, random_vector: MakeVector) -> PersonaVector:
    made = random_vector(llama, layer=2)
    made.neutral_prompt_last[2] = torch.tensor([0.3, 1.7])
    made.neutral_response_mean[2] = torch.tensor([-0.2, 0.6])
    made.residual_norm[2] = 5.0
    rule = ChartRule(0.5, 2.0)
    return replace(made, ordinary=Ordinary(((0.5, 2.0), (1.0, 1.0)), rule, rule, n=80))


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Five dialogues, and a cache of its own."""
    rows = ordinary.dialogues()[:5]
    monkeypatch.setattr(ordinary, "dialogues", lambda: rows)
    monkeypatch.setenv("PERSONAVEC_CACHE", str(tmp_path / "cache"))


@pytest.mark.usefixtures("few")
def test_readings_are_those_of_each_conversation(llama: LoadedModel, vector: PersonaVector) -> None:
    talk = ordinary.read(llama, [vector], progress=QUIET)[vector.trait]
    for row, last, mean in zip(
        ordinary.dialogues(), talk.prompt_last, talk.response_mean, strict=True
    ):
        alone = project_conversation(llama, vector, row.messages)
        assert last == pytest.approx([r.prompt_last for r in alone], abs=1e-3)
        assert mean == pytest.approx([r.response_mean for r in alone], abs=1e-3)


@pytest.mark.usefixtures("few")
def test_a_second_start_reads_nothing_and_another_vector_or_model_does(
    llama: LoadedModel, vector: PersonaVector, random_vector: MakeVector, tmp_path: Path
) -> None:
    cache = tmp_path / "cache" / "ordinary"
    first = ordinary.read(llama, [vector], progress=QUIET)
    [file] = cache.iterdir()
    before = file.stat()
    assert ordinary.read(llama, [vector], progress=QUIET) == first
    assert (file.stat().st_ino, file.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    other = random_vector(llama, layer=3)
    assert ordinary.read(llama, [other], progress=QUIET) != first
    assert len([*cache.iterdir()]) == 2
    retrained = LoadedModel(
        llama.model, llama.tokenizer, llama.chat, replace(llama.identity, weights="others")
    )
    ordinary.read(retrained, [vector], progress=QUIET)
    assert len([*cache.iterdir()]) == 3
    for damage in ("", "{}", "[1]", '{"format": 1, "model": []}', file.read_text()[:-20]):
        file.write_text(damage)
        assert ordinary.read(llama, [vector], progress=QUIET) == first


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("unit", ["sigma", "norm"])
def test_what_a_guard_would_stop_is_what_the_server_stops(
    llama: LoadedModel, vector: PersonaVector, unit: str
) -> None:
    """The forecast before every reply, as the running batch hands it to a guard."""
    talk = ordinary.read(llama, [vector], progress=QUIET)[vector.trait]
    condition = parse_condition(f"{vector.trait}>0{unit}")
    highest = sorted(
        max(ordinary.in_unit(vector, value, condition) for value in turns)
        for turns in talk.prompt_last
    )
    line = (highest[2] + highest[3]) / 2
    guard = parse_guard(f"{vector.trait}>{line:.6f}{unit}: refuse", {vector.trait: vector})
    found = ordinary.check_guard("guard", guard.condition, vector, talk)
    assert (len(found.dialogues), found.of) == (2, 5)
    reading = gauge([vector], llama)
    loop = StepLoop(llama, directions=reading.directions)
    refused = set()
    for row in ordinary.dialogues():
        for place, message in enumerate(row.messages):
            if message["role"] != "assistant":
                continue
            ids = tuple(llama.chat.prompt_ids(row.messages[:place]))
            own = GuardedRow([guard], reading, {vector.trait: vector}, ())
            loop.submit(DecodeJob(Request("a", ids), Sampling(1), read=True, guard=own))
            while loop.busy:
                loop.step()
            if own.acted:
                refused.add(row.id)
    loop.close()
    assert set(found.dialogues) == refused


@pytest.mark.usefixtures("few")
def test_where_an_alarm_would_be_raised_is_where_the_server_raises_it(
    llama: LoadedModel, vector: PersonaVector
) -> None:
    talk = ordinary.read(llama, [vector], progress=QUIET)[vector.trait]
    found = ordinary.check_alarm(vector, talk)
    assert vector.ordinary is not None
    quiet_server = replace(vector.ordinary, server=ChartRule(0.05, 1e9))
    raised = set()
    for row in ordinary.dialogues():
        watch = Watch({vector.trait: quiet_server})
        readings = iter(project_conversation(llama, vector, row.messages))
        for place, message in enumerate(row.messages):
            if message["role"] != "assistant":
                continue
            _, counted = watch.take(row.messages[:place], [(message["content"], [next(readings)])])
            if counted:
                raised.add(row.id)
    assert set(found.dialogues) == raised
    assert found.of == 5


def test_more_than_one_in_a_hundred_is_too_many() -> None:
    assert not OrdinaryCheck("a guard", ("x",), 109).too_many
    assert OrdinaryCheck("a guard", ("x", "y"), 109).too_many
    assert str(OrdinaryCheck("a guard", ("x", "y"), 109)).endswith("in 2 of 109 ordinary dialogues")
    # What could not be measured is no clean bill.
    assert OrdinaryCheck("a guard", (), 0).too_many
    assert "no ordinary dialogue could be read" in str(OrdinaryCheck("a guard", (), 0))


def shipped(trait: str) -> DialogueReadings:
    record = json.loads((BUNDLED / "vectors" / trait / FILE).read_text("utf-8"))
    return DialogueReadings(
        *(tuple(map(tuple, record[name])) for name in ("prompt_last", "response_mean"))
    )


def test_the_readings_that_are_shipped_are_of_what_is_shipped() -> None:
    for trait in bundled_vectors():
        record = json.loads((BUNDLED / "vectors" / trait / FILE).read_text("utf-8"))
        assert record["vector"] == load_vector(trait).hash, "run `make bundle`"
        assert record["dialogues"] == ordinary.dialogues_hash(), "run `make bundle`"
        assert record["model"]["name"] == "smollm2"


def test_the_documented_guards_stop_no_ordinary_talk() -> None:
    """Every guard of the page but those whose share of ordinary talk it gives."""
    page = (Path(__file__).parents[3] / "docs" / "serve.md").read_text("utf-8")
    vectors = {trait: load_vector(trait) for trait in bundled_vectors()}
    texts = [part.split("'")[0] for part in page.split("--guard '")[1:]]
    assert len(texts) >= 2
    for text in texts:
        guard = parse_guard(text, vectors)
        trait = guard.condition.trait
        found = ordinary.check_guard(text, guard.condition, vectors[trait], shipped(trait))
        assert (len(found.dialogues), found.of) == (0, len(ordinary.dialogues())), text
    rows = [
        line.split("|")
        for line in page.splitlines()
        if line.startswith("| `") and " of 109" in line
    ]
    assert len(rows) == 4
    for _, condition, share, *_ in rows:
        met = parse_condition(condition.strip(" `"), traits=list(vectors))
        found = ordinary.check_guard("", met, vectors[met.trait], shipped(met.trait))
        assert share.strip() == f"{len(found.dialogues)} of {found.of}"
        assert found.too_many == (len(found.dialogues) / found.of > MOST)
