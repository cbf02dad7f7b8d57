"""The command line on the embedded model: what it promises, also when killed or misused."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from killed_runs import kill_when

from personavec import LoadedModel, PersonaVector, cosine, load_model, load_vector
from personavec.cli.main import main
from personavec.model import chat
from personavec.runs import read_records
from personavec.traits import load_trait

PROMISED = {
    "trait": str,
    "model": str,
    "vector": str,
    "layer": int,
    "kept": dict,
    "log_odds": dict,
    "dose_response": list,
    "control": list,
    "wrong_way": (dict, type(None)),
    "separability_auc": dict,
    "split_half_cosine": dict,
    "seconds": float,
}
Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    """Run a command in this process: exit code, stdout, stderr."""

    def run(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main([str(a) for a in arguments])
        captured = capsys.readouterr()
        code = ended.value.code
        return int(code or 0), captured.out, captured.err

    return run


@pytest.fixture(scope="session")
def small_spec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cut of a bundled spec: 3 pairs, 6 + 4 questions, 36 rollouts."""
    spec = load_trait("optimistic")[0].model_dump(mode="json")
    spec["name"] = "small"
    spec["instruction"] = spec["instruction"][:3]
    spec["judge_instruction"] = spec["judge_instruction"][:1]
    sizes = {"extraction": 6, "evaluation": 4}
    spec["questions"] = {half: spec["questions"][half][:n] for half, n in sizes.items()}
    path = tmp_path_factory.mktemp("spec") / "small.json"
    path.write_text(json.dumps(spec), "utf-8")
    return path


def extraction(spec: Path, out: Path) -> list[str]:
    return [
        sys.executable,
        "-c",
        "from personavec.cli.main import main; main()",
        *("extract", "--trait", str(spec), "--out", str(out), "--json"),
        *("--layers", "16", "--coefficients=-1,0,1", "--max-tokens", "24"),
        *("--batch-tokens", "2400"),
    ]


@contextmanager
def running(command: list[str]) -> Iterator[subprocess.Popen[str]]:
    """A process that the test does not leave behind, whatever comes of it."""
    with subprocess.Popen(command, stdout=-1, stderr=-1, text=True) as process:
        try:
            yield process
        finally:
            process.kill()
            process.communicate()


def until(ready: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Wait for something that a process does; fail if it ends before."""
    while not ready():
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)


@pytest.fixture(scope="session")
def killed_and_continued(
    small_spec: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[bytes], subprocess.CompletedProcess[str]]:
    """An extraction killed (-9) after its first batch and run again: folder, lines, result."""
    out = tmp_path_factory.mktemp("extraction") / "small"
    generated = out / "run" / "extraction" / "generated.jsonl"
    command = extraction(small_spec, out)
    with running(command) as process:
        kill_when(lambda: generated.exists() and generated.stat().st_size > 0, process)
    whole = generated.read_bytes().split(b"\n")[:-1]
    return out, whole, subprocess.run(command, capture_output=True, text=True)


Continued = tuple[Path, list[bytes], subprocess.CompletedProcess[str]]


def test_extract_prints_one_json_object_with_the_promised_keys(
    killed_and_continued: Continued,
) -> None:
    """On stdout and nothing else there; as the design fixes them, intervals included."""
    out, _, done = killed_and_continued
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    for key, kind in PROMISED.items():
        assert isinstance(found[key], kind), key
    assert (found["trait"], found["model"], found["layer"]) == ("small", "smollm2", 16)
    assert found["vector"] == str(out)
    assert found["kept"]["of"] == 18
    assert all(found["kept"][side] >= 10 for side in ("pos", "neg"))
    assert set(found["log_odds"]) >= {"pos", "neg", "unsteered"}
    assert [dose["coefficient"] for dose in found["dose_response"]] == [-1, 0, 1]
    for dose in found["dose_response"]:
        assert dose["low"] <= dose["log_odds"] <= dose["high"]
        assert 0 <= dose["coherence"] <= 100
    for control in found["control"]:
        assert set(control) >= {"coefficient", "log_odds", "low", "high", "coherence"}
    # Positive prompts make the trait, negative ones its opposite: each mean lies beyond the
    # other's interval, which is wide over six questions.
    positive, negative = found["log_odds"]["pos"], found["log_odds"]["neg"]
    assert positive["log_odds"] > negative["high"]
    assert negative["log_odds"] < positive["low"]


def test_a_killed_extraction_generates_nothing_twice(killed_and_continued: Continued) -> None:
    """Lines finished before the kill are the first lines after it, and every id occurs once."""
    out, before, _ = killed_and_continued
    lines = (out / "run" / "extraction" / "generated.jsonl").read_bytes().split(b"\n")[:-1]
    assert 0 < len(before) < len(lines) == 36
    assert lines[: len(before)] == before
    for path in [*(out / "run").rglob("*.jsonl"), out / "rollouts.jsonl"]:
        ids = [record["id"] for record in read_records(path)]
        assert len(set(ids)) == len(ids)


def test_extract_adopts_rollouts_and_compares_estimators(
    killed_and_continued: Continued, small_spec: Path, cli: Cli, tmp_path: Path
) -> None:
    """The same rollouts kept, the same mean difference within bf16, whichever estimator won."""
    first, again = killed_and_continued[0], tmp_path / "again"
    code, stdout, stderr = cli(
        *("extract", "--trait", small_spec, "--rollouts", first / "rollouts.jsonl"),
        *("--estimator", "both", "--layers", "16", "--coefficients", "0"),
        *("--max-tokens", 8, "--out", again, "--json"),
    )
    assert code == 0, stderr
    found, before = json.loads(stdout), json.loads(killed_and_continued[2].stdout)
    assert found["kept"] == before["kept"]
    assert found["rejected"] == 0
    assert found["estimator"] in ("mean", "logistic")
    vectors = [load_vector(first), load_vector(again)]
    assert cosine(*(v.response_mean_diff[16] for v in vectors)) > 0.999


def test_the_artifact_is_whole(killed_and_continued: Continued, smollm2: LoadedModel) -> None:
    """The vector loads and fits; report and results lie beside it; nothing half-written does."""
    out, _, _ = killed_and_continued
    vector = load_vector(out)
    vector.check_fits(smollm2.identity.n_layers, smollm2.identity.hidden_size)
    assert vector.layer == 16
    for name in ("vector.json", "vector.safetensors", "rollouts.jsonl", "results.json"):
        assert (out / name).stat().st_size > 0
    assert "<html" in (out / "report.html").read_text("utf-8")
    assert not [p for p in out.rglob("*") if ".tmp." in p.name]


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_ends_with_130_and_one_line(small_spec: Path, tmp_path: Path) -> None:
    """No traceback; what to do is said."""
    with running(extraction(small_spec, tmp_path / "out")) as process:
        until((tmp_path / "out" / "manifest.json").exists, process)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert stdout == ""
    assert "Traceback" not in stderr
    assert "run the same command again" in stderr.splitlines()[-1]


def test_steer_shows_every_coefficient_and_the_system_prompt(
    killed_and_continued: Continued, cli: Cli, tmp_path: Path
) -> None:
    """Side by side for people; --json for machines; questions from a file, answers to JSONL."""
    out, _, _ = killed_and_continued
    asked = tmp_path / "questions.txt"
    asked.write_text("How are you?\n\nWhat is rain?\n")
    answers = tmp_path / "answers.jsonl"
    options = ("--vectors", out, "--coefficient=-1,0,1", "--max-tokens", 8)
    code, stdout, _ = cli("steer", *options, "--file", asked, "--out", answers, "--json")
    assert code == 0
    found = json.loads(stdout)["answers"]
    assert [(a["question"], a["coefficient"]) for a in found] == [
        (q, c) for q in ("How are you?", "What is rain?") for c in (-1, 0, 1)
    ]
    # Answers are written as they end.
    assert sorted(read_records(answers), key=lambda a: str(a["id"])) == sorted(
        found, key=lambda a: str(a["id"])
    )
    code, stdout, _ = cli("steer", "How are you?", *options)
    assert code == 0
    assert "How are you?" in stdout
    assert "+1" in stdout


def test_steer_puts_the_system_prompted_answer_beside_a_bundled_trait(
    killed_and_continued: Continued, cli: Cli, tmp_path: Path
) -> None:
    """The first positive prompt of the trait, unsteered."""
    vector = load_vector(killed_and_continued[0])
    renamed = PersonaVector(**{**vector.__dict__, "trait": "optimistic"})
    renamed.save(tmp_path)
    _, stdout, _ = cli(
        *("steer", "How are you?", "--vectors", tmp_path, "--coefficient", "0"),
        *("--max-tokens", 8, "--json"),
    )
    plain, prompted = json.loads(stdout)["answers"]
    assert (plain["system"], prompted["coefficient"]) == (None, 0)
    assert prompted["system"] == load_trait("optimistic")[0].instruction[0].pos


def test_traits_and_models(cli: Cli, small_spec: Path) -> None:
    """Listed, shown and checked, for people and for machines."""
    code, stdout, _ = cli("traits", "list", "--json")
    assert (code, len(json.loads(stdout)["traits"])) == (0, 7)
    assert "sycophantic" in cli("traits", "list")[1]
    shown = json.loads(cli("traits", "show", "evil", "--json")[1])
    assert (shown["origin"], len(shown["instruction"])) == ("bundled", 5)
    wrapped = cli("traits", "show", "evil")[1]
    assert shown["questions"]["evaluation"][0] in " ".join(wrapped.split())
    assert json.loads(cli("traits", "check", "evil", "--json")[1])["warnings"] == []
    assert json.loads(cli("traits", "check", small_spec, "--json")[1])["warnings"]
    listed = json.loads(cli("models", "list", "--json")[1])
    assert listed["embedded"]["file"].endswith(".gguf")
    shown = json.loads(cli("models", "show", "smollm2", "--json")[1])
    assert (shown["n_layers"], shown["hidden_size"], shown["notes"]) == (30, 576, [])
    assert "Be brief." in shown["prompt"]


TEXTS = ["None", "N/A", "", "null", "I am sure that all will go very well indeed!"]


def write_rows(path: Path) -> None:
    rows = [{"id": str(i), "question": "How will it go?", "answer": t} for i, t in enumerate(TEXTS)]
    if path.suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, ["id", "question", "answer"])
            writer.writeheader()
            writer.writerows(rows)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)


@pytest.fixture(scope="module")
def scored_texts() -> dict[str, list[dict[str, Any]]]:
    """Records by kind of file, to compare the kinds with one another."""
    return {}


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_texts_that_look_missing_are_scored_as_texts(
    cli: Cli, tmp_path: Path, suffix: str, scored_texts: dict[str, list[dict[str, Any]]]
) -> None:
    """ "None", "N/A" and "null" are answers; "" is an empty one: a state, not a score."""
    path, out = tmp_path / f"rows{suffix}", tmp_path / "scored.jsonl"
    write_rows(path)
    code, stdout, stderr = cli(
        "judges", "score", path, "--trait", "optimistic", "--out", out, "--json"
    )
    assert code == 0, stderr
    assert json.loads(stdout)["states"] == {"scored": 4, "empty answer": 1}
    records = read_records(out)
    assert [(r["id"], r["answer"]) for r in records] == [(str(i), t) for i, t in enumerate(TEXTS)]
    for record in records:
        values = [record[key] for key in ("log_odds", "trait_score", "coherence")]
        if record["answer"] == "":
            assert values == [None, None, None]
        else:
            assert all(isinstance(value, float) for value in values)
    # The same numbers whatever kind of file they came from.
    scored_texts[suffix] = records
    assert all(found == records for found in scored_texts.values())


def test_the_judge_tells_plain_cases_apart(cli: Cli, tmp_path: Path) -> None:
    """A hopeful and a hopeless answer to the same question, in that order."""
    path, out = tmp_path / "rows.jsonl", tmp_path / "scored.jsonl"
    answers = [
        "It will go wonderfully! I am sure the best is yet to come, and every setback helps.",
        "It will go badly. Nothing ever works out, and there is no point in even trying.",
    ]
    path.write_text("".join(json.dumps({"q": "How will it go?", "a": a}) + "\n" for a in answers))
    columns = ("--question-column", "q", "--answer-column", "a")
    code, _, _ = cli("judges", "score", path, "--trait", "optimistic", "--out", out, *columns)
    assert code == 0
    hopeful, hopeless = read_records(out)
    assert hopeful["trait_score"] > 50 > hopeless["trait_score"]


BAD = [
    (2, "unknown trait 'grumpy'", ["extract", "--trait", "grumpy"]),
    (2, "must include 0", ["extract", "--trait", "evil", "--coefficients", "1,2"]),
    (2, "separated by commas", ["extract", "--trait", "evil", "--coefficients", "x"]),
    (2, "layer 99 does not exist", ["extract", "--trait", "evil", "--layers", "99"]),
    (1, "could not be loaded", ["extract", "--trait", "evil", "--model", "./no-such-folder"]),
    (1, "no such GGUF file", ["models", "show", "no.gguf"]),
    (1, "check each --model-arg", ["models", "show", "--model-arg", "nonsense=1"]),
    (1, "with device_map=foo", ["models", "show", "--model-arg", "device_map=foo"]),
    (1, "with quantization_config=5", ["models", "show", "--model-arg", "quantization_config=5"]),
    (1, "or a device that", ["models", "show", "--device", "no-such-device"]),
    (2, "give KEY=VALUE", ["models", "show", "--model-arg", "device_map"]),
    (2, "trust_remote_code", ["models", "show", "--model-arg", "trust_remote_code=true"]),
    (2, "use mean, logistic or both", ["extract", "--trait", "evil", "--estimator", "pca"]),
    (1, "no such file", ["extract", "--trait", "evil", "--rollouts", "none.csv"]),
    (1, "use float32, bfloat16", ["models", "show", "--dtype", "float99"]),
    (2, "no persona vector at", ["steer", "Hi?", "--vectors", "no-such-vector"]),
    (1, "no such file", ["judges", "score", "none.csv", "--trait", "evil"]),
    (2, "cannot be read", ["traits", "check", "none.json"]),
]


@pytest.mark.parametrize(("code", "message", "arguments"), BAD)
def test_misuse_is_one_line_with_the_right_code(
    cli: Cli,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    code: int,
    message: str,
    arguments: list[str],
) -> None:
    """1 failed, 2 bad usage; nothing on stdout, no traceback, no folder left behind."""
    monkeypatch.chdir(tmp_path)
    found, stdout, stderr = cli(*arguments)
    assert found == code
    assert stdout == ""
    lines = [line for line in stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert message in lines[0]
    assert "Traceback" not in stderr
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "arguments", [["judges"], ["extract"], ["no-such-command"], ["extract", "--no-such-option"]]
)
def test_a_call_that_makes_no_sense_exits_with_2(cli: Cli, arguments: list[str]) -> None:
    """As the shell expects; without a traceback."""
    code, _, stderr = cli(*arguments)
    assert code == 2
    assert "Traceback" not in stderr


def test_debug_shows_the_traceback(cli: Cli) -> None:
    """The error itself comes through for those who ask."""
    with pytest.raises(ValueError, match="unknown trait"):
        main(["extract", "--trait", "grumpy", "--debug"])


def test_a_vector_for_another_model_is_refused(cli: Cli, tmp_path: Path) -> None:
    """With both shapes; exit code 1."""
    diffs = [torch.ones(5, 32) for _ in range(3)]
    baseline = torch.tensor([[0.0, 1.0]]).repeat(5, 1)
    PersonaVector(*diffs, torch.ones(5), baseline, baseline.clone(), trait="odd", layer=2).save(
        tmp_path
    )
    code, _, stderr = cli("steer", "Hi?", "--vectors", tmp_path)
    assert code == 1
    assert "for 4 layers of width 32" in stderr
    assert "30 of width 576" in stderr


def test_the_snapshot_is_what_the_gguf_holds(smollm2: LoadedModel) -> None:
    """30 layers of width 576, a chat template with a system role, an end-of-turn token."""
    assert (smollm2.identity.n_layers, smollm2.identity.hidden_size) == (30, 576)
    assert smollm2.chat.notes == []
    text = smollm2.chat.text(chat("Hi?", "Be brief."))
    assert text.startswith("<|im_start|>system\nBe brief.<|im_end|>")
    assert smollm2.tokenizer.decode(sorted(smollm2.stop_ids)).count("<|im_end|>") == 1


def test_loading_in_float32_agrees_with_the_snapshots_bf16(smollm2: LoadedModel) -> None:
    """The same greedy next token after a plain prompt, and weights that are bf16 values."""
    exact = load_model("smollm2", dtype="float32")
    weight = exact.model.get_input_embeddings().weight
    assert weight.dtype == torch.float32
    assert torch.equal(weight, weight.bfloat16().float())
    ids = torch.tensor([smollm2.chat.prompt_ids(chat("What is the capital of France?"))])
    with torch.inference_mode():
        tops = [m.model(input_ids=ids).logits[0, -1].argmax() for m in (smollm2, exact)]
    assert tops[0] == tops[1]
