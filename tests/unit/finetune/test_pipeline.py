"""Finetuning on tiny models: what every mitigation leaves, and that a kill costs nothing."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_models
import torch
import training_runs
from killed_runs import kill_when
from training_runs import Make, pulled_along, run

from personavec import LoadedModel
from personavec.cli.main import main
from personavec.errors import SettingsMismatchError, UsageError
from personavec.finetune import Mitigation, Schedule
from personavec.model import wrap_model
from personavec.runs import read_records


@pytest.mark.parametrize(
    "mitigation",
    [
        Mitigation(),
        Mitigation("preventative", coefficient=1.0),
        Mitigation("random", coefficient=Schedule(((0.0, 1.0), (1.0, 2.0)))),
        Mitigation("caft"),
        Mitigation("penalty", strength=1.0),
        Mitigation("kl", strength=0.5),
    ],
    ids=lambda m: m.name,
)
def test_every_mitigation_trains_and_leaves_the_base_as_it_was(
    fresh: Callable[..., LoadedModel], random_vector: Make, tmp_path: Path, mitigation: Mitigation
) -> None:
    loaded = fresh()
    vector = pulled_along(loaded, random_vector(loaded, layer=2))
    before = {k: v.clone() for k, v in loaded.model.state_dict().items()}
    inputs = torch.tensor([loaded.chat.prompt_ids([{"role": "user", "content": "hello"}])])
    with torch.no_grad():
        logits = loaded.model(inputs).logits
    found = run(loaded, tmp_path, vector, mitigation=mitigation)
    after = loaded.model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[k], after[k]) for k in before)
    with torch.no_grad():
        assert torch.equal(loaded.model(inputs).logits, logits)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in loaded.model.modules())
    assert found.steps == 4
    assert found.losses[-1] < found.losses[0]
    # The adapter holds LoRA weights and nothing else, and its card says what was done.
    from safetensors.torch import load_file

    names = load_file(tmp_path / "model" / "adapter_model.safetensors").keys()
    assert all(".lora_A." in name or ".lora_B." in name for name in names)
    assert mitigation.name in (tmp_path / "model" / "README.md").read_text()
    drift = read_records(tmp_path / "drift.jsonl")
    assert [record["step"] for record in drift] == [0, 2, 4]
    assert drift[0]["traits"]["testing"]["change"] == 0
    assert drift[-1]["traits"]["testing"]["low"] <= drift[-1]["traits"]["testing"]["high"]
    assert -1 <= drift[-1]["pull"]["testing"]["toward"] <= 1
    # Called again, it is finished.
    assert run(loaded, tmp_path, vector, mitigation=mitigation) == found
    with pytest.raises(SettingsMismatchError):
        run(loaded, tmp_path, vector, mitigation=mitigation, training={"seed": 1})


def test_full_finetuning_trains_every_weight(
    fresh: Callable[..., LoadedModel], tmp_path: Path
) -> None:
    loaded = fresh()
    before = {k: v.clone() for k, v in loaded.model.state_dict().items()}
    found = run(loaded, tmp_path, training={"full": True})
    assert found.losses[-1] < found.losses[0]
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    tuned = wrap_model(model, AutoTokenizer.from_pretrained(tmp_path / "model"))
    changed = [k for k, v in tuned.model.state_dict().items() if not torch.equal(v, before[k])]
    assert len(changed) > 0.9 * len(before)
    half = fresh()
    half.model.bfloat16()
    with pytest.raises(UsageError, match="float32"):
        run(half, tmp_path / "half", training={"full": True})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--mitigation", "preventative"], "coefficient"),
        (["--mitigation", "caft"], "--vectors"),
        (["--stop-if", "evil>3"], "no vector for trait"),
        (["--vectors", "evil", "--stop-if", "evil>3score"], "unit"),
        (["--mitigation", "preventative", "--coefficient", "x"], "--coefficient x: give a number"),
        (["--dose", "much"], "auto"),
        (["--vectors", "nowhere"], "no persona vector"),
    ],
)
def test_bad_usage_is_told_before_a_model_is_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"prompt": "q", "completion": "a"}))
    given = ["finetune", str(path), "--model", str(tmp_path / "nothing"), *arguments]
    with pytest.raises(SystemExit) as ended:
        main(given)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


# In processes of their own: a kill, and two of them at work

PROGRAM = """
import sys
from pathlib import Path
sys.path[:0] = [{support!r}, {scripts!r}]
import tiny_models
import torch
torch.set_num_threads(1)
import training_runs
out, accumulation = Path(sys.argv[1]), int(sys.argv[2])
model = tiny_models.build()
training = dict(accumulation=accumulation, epochs=6, checkpoint_every=3)
training_runs.run(model, out, training=training)
"""


def _program(tmp_path: Path) -> list[str]:
    path = tmp_path / "program.py"
    support, scripts = (str(Path(m.__file__).parent) for m in (training_runs, tiny_models))
    path.write_text(PROGRAM.format(support=support, scripts=scripts))
    return [str(path)]


def _environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}


def _losses(out: Path) -> list[float]:
    return json.loads((out / "results.json").read_text())["losses"]


LONGER: dict[str, Any] = {"training": {"epochs": 6, "checkpoint_every": 3}}


@pytest.fixture(scope="module")
def undisturbed(
    fresh: Callable[..., LoadedModel], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[float]]:
    """The folder and the losses of a run in one process."""
    whole = tmp_path_factory.mktemp("undisturbed")
    return whole, run(fresh(), whole, **LONGER).losses


def test_killed_and_continued_it_ends_at_the_same_loss(
    fresh: Callable[..., LoadedModel], undisturbed: tuple[Path, list[float]], tmp_path: Path
) -> None:
    whole, losses = undisturbed
    out = tmp_path / "killed"
    command = [sys.executable, *_program(tmp_path), str(out), "2"]
    with subprocess.Popen(command, env=_environment(), start_new_session=True) as process:
        kill_when(lambda: any(out.glob("run/checkpoint-*")), process, group=True)
    assert not (out / "results.json").exists()
    # What a kill leaves of a checkpoint that was being written.
    (out / "run" / "checkpoint-11").mkdir()
    continued = run(fresh(), out, **LONGER).losses
    assert continued == pytest.approx(losses, abs=1e-6)
    # Checkpoints fall on readings, or a continued log would lack the steps between the two.
    kept = (whole / "run").glob("checkpoint-*")
    assert {int(path.name.split("-")[1]) % 2 for path in kept} == {0}
    pulls = [
        [r["pull"]["testing"]["toward"] for r in read_records(folder / "drift.jsonl") if r["pull"]]
        for folder in (whole, out)
    ]
    assert pulls[0] == pytest.approx(pulls[1], abs=1e-4)
    assert [r["step"] for r in read_records(out / "drift.jsonl")] == [0, 2, 4, 6, 8, 10, 12]


def test_two_processes_have_the_loss_curve_of_one(
    undisturbed: tuple[Path, list[float]], tmp_path: Path
) -> None:
    out = tmp_path / "two"
    # The kind of launch that starts one process a device; where they run, and with it gloo, is
    # said by the environment.
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu"]
    launch += ["--num_processes", "2"]
    launch += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    launch += ["--main_process_port", "0"]
    command = [*launch, *_program(tmp_path), str(out), "1"]
    subprocess.run(command, env=_environment(), check=True, timeout=300, capture_output=True)
    assert _losses(out) == pytest.approx(undisturbed[1], abs=1e-4)
