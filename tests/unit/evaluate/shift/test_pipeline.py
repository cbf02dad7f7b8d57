"""The finetuning shift on a tiny model and a random adapter: recomputed, restored, gated."""

import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny_models import tiny_spec
from transformers import AutoModelForCausalLM

from personavec import LoadedModel, PersonaVector, TraitSpec
from personavec.cli import main as cli
from personavec.conditions import parse_condition
from personavec.errors import ModelError, SettingsMismatchError, UsageError
from personavec.evaluate.shift import ShiftConfig, ShiftResults, run
from personavec.evaluate.shift.results import ConditionMet
from personavec.judges import Answer, ContrastJudge, Score
from personavec.model import check_tuned, tuned_model
from personavec.progress import Progress
from personavec.results import read
from personavec.rollouts.rollout import iter_rollouts

QUIET = Progress(quiet=True)
CONFIG = ShiftConfig(max_tokens=5, batch_tokens=600, seed=2)
MakeVector = Callable[..., PersonaVector]

SPEC = tiny_spec(evaluation=6)


def adapter(base: LoadedModel, folder: Path, seed: int, name: str | None = None) -> str:
    network = AutoModelForCausalLM.from_pretrained(base.identity.name)
    torch.manual_seed(seed)
    config = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tuned = get_peft_model(network, config)
        tuned.peft_config["default"].base_model_name_or_path = name or base.identity.name
        tuned.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def tuned(base: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> str:
    return adapter(base, tmp_path_factory.mktemp("tuned"), 1)


@pytest.fixture(scope="module")
def control(base: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> str:
    return adapter(base, tmp_path_factory.mktemp("control"), 2)


@pytest.fixture
def vector(base: LoadedModel, random_vector: MakeVector) -> PersonaVector:
    """Read at layer 2, with a spread and a norm that are not 1."""
    made = random_vector(base, layer=2)
    spread = torch.tensor([[0.5, 3.0]]).repeat(len(made.residual_norm), 1)
    return replace(made, neutral_prompt_last=spread, residual_norm=4 * made.residual_norm)


@pytest.fixture(autouse=True)
def _peft_asks_the_hub() -> Iterator[None]:
    """Peft looks up the base model's configuration when it saves and loads."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*is_gradient_checkpointing.*")
        yield


def naive_state(base: LoadedModel, name: str | None, question: str) -> torch.Tensor:
    """The last prompt token at layer 2, from hidden states of a model with the adapter merged."""
    network: Any = AutoModelForCausalLM.from_pretrained(base.identity.name)
    if name:
        from peft import PeftModel

        network = PeftModel.from_pretrained(network, name).merge_and_unload()
    ids = base.chat.prompt_ids([{"role": "user", "content": question}])
    with torch.inference_mode():
        states = network.eval()(torch.tensor([ids]), output_hidden_states=True).hidden_states
    return states[2][0, -1].float()


def test_the_shift_is_the_projected_change_of_the_last_prompt_token(
    base: LoadedModel, tuned: str, control: str, vector: PersonaVector, tmp_path: Path
) -> None:
    found = run(base, tuned, [vector], [SPEC], tmp_path, CONFIG, control=control, progress=QUIET)
    of = found.traits["testing"]
    unit = vector.direction(2) / vector.direction(2).norm()
    states = {
        name: torch.stack([naive_state(base, name, q) for q in SPEC.questions.evaluation])
        for name in (None, tuned, control)
    }
    moved = float(((states[tuned] - states[None]) @ unit).mean())
    benign = float(((states[control] - states[None]) @ unit).mean())
    assert abs(moved - benign) > 0.01
    assert of.shift == pytest.approx(moved, abs=1e-4)
    assert of.control.shift == pytest.approx(benign, abs=1e-4)
    assert of.beyond_control.shift == pytest.approx(moved - benign, abs=1e-4)
    assert of.sigma == pytest.approx(of.shift / 3)
    assert of.norm == pytest.approx(of.shift / 4)
    assert of.low < of.shift < of.high
    assert of.sigma_low == pytest.approx(of.low / 3)
    assert -1 <= of.cosine <= 1


def test_expression_is_that_of_each_models_own_answers(
    base: LoadedModel, tuned: str, vector: PersonaVector, tmp_path: Path
) -> None:
    found = run(base, tuned, [vector], [SPEC], tmp_path, CONFIG, progress=QUIET)
    of = found.traits["testing"]
    expression = {"base": of.expression_base, "tuned": of.expression_tuned}
    judge = ContrastJudge(base)
    texts = {}
    for arm in ("base", "tuned"):
        answers = list(iter_rollouts(tmp_path / "rollouts" / f"{arm}-testing.jsonl"))
        texts[arm] = [r.response for r in answers]
        # Judged again, by the base alone.
        scores = judge.score(SPEC, [Answer(r.question, r.response) for r in answers])
        values = [s.log_odds for s in scores if s.log_odds is not None]
        mean = sum(values) / len(values)
        assert expression[arm].log_odds == pytest.approx(mean, abs=1e-3)
    assert texts["base"] != texts["tuned"]


def test_the_base_is_the_same_before_and_after(base: LoadedModel, tuned: str) -> None:
    ids = torch.arange(12)[None]
    with torch.inference_mode():
        before = base.model(ids).logits
        for _ in range(2):
            with tuned_model(base, tuned) as loaded:
                assert not torch.equal(loaded.model(ids).logits, before)
                assert loaded.identity.declared_base == base.identity.name
            assert torch.equal(base.model(ids).logits, before)
    assert not any("lora" in name for name, _ in base.model.named_modules())


def test_an_adapter_of_another_base_or_none_is_refused(base: LoadedModel, tmp_path: Path) -> None:
    other = adapter(base, tmp_path / "other", 3, name="another")
    with pytest.raises(ModelError, match="is an adapter of 'another'"), tuned_model(base, other):
        pass
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match="no readable LoRA"), tuned_model(base, str(broken)):
        pass
    with pytest.raises(ModelError, match="neither an adapter nor a model"):
        check_tuned(str(tmp_path))


def test_conditions_read_their_unit_and_say_why(
    base: LoadedModel, tuned: str, control: str, vector: PersonaVector, tmp_path: Path
) -> None:
    def met(*texts: str, out: str = "a", against: str | None = None) -> tuple[ConditionMet, ...]:
        conditions = [parse_condition(text, traits=["testing"]) for text in texts]
        found = run(
            *(base, tuned, [vector], [SPEC], tmp_path / out, CONFIG),
            control=against,
            fail_if=conditions,
            progress=QUIET,
        )
        return found.met

    assert met("testing>1e6sigma", "testing<-1e6norm", "testing>100score") == ()
    of = read(ShiftResults, tmp_path / "a" / "results.json").traits["testing"]
    # The same measurements stand for other conditions.
    (found,) = met(f"testing>{of.sigma - 0.01:.6f}", f"testing>{of.sigma + 0.01:.6f}")
    assert found.value == of.sigma
    assert found.reason.startswith("testing: the shift is ")
    (found,) = met("testing>-1e3log_odds")
    assert found.value == of.expression_tuned.log_odds
    (found,) = met("testing>-1e3norm", out="b", against=control)
    assert "beyond the control's" in found.reason


def test_a_continued_run_measures_nothing_again(
    base: LoadedModel, tuned: str, vector: PersonaVector, tmp_path: Path
) -> None:
    first = run(base, tuned, [vector], [SPEC], tmp_path, CONFIG, progress=QUIET)
    (tmp_path / "run" / "tuned" / "last-prompt.safetensors").unlink()
    files = [*tmp_path.rglob("generated.jsonl"), *tmp_path.rglob("scores.jsonl")]
    before = {path: path.read_bytes() for path in files}
    again = run(base, tuned, [vector], [SPEC], tmp_path, CONFIG, progress=QUIET)
    assert again.traits == first.traits
    assert before == {path: path.read_bytes() for path in files}
    with pytest.raises(SettingsMismatchError, match=r"config\.seed"):
        run(base, tuned, [vector], [SPEC], tmp_path, replace(CONFIG, seed=9), progress=QUIET)


def test_bad_requests_are_refused(
    base: LoadedModel, tuned: str, vector: PersonaVector, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="layer 99 does not exist"):
        run(base, tuned, [vector], [SPEC], tmp_path, replace(CONFIG, layer=99), progress=QUIET)
    with pytest.raises(UsageError, match="spec in the same order"):
        run(base, tuned, [vector], [], tmp_path, CONFIG, progress=QUIET)


def test_the_command_prints_one_object_and_exits_with_3(
    base: LoadedModel,
    tuned: str,
    vector: PersonaVector,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    vector.save(tmp_path / "vector")
    (tmp_path / "spec.json").write_text(SPEC.model_dump_json())
    arguments = ["shift", base.identity.name, tuned, "--vectors", str(tmp_path / "vector")]
    arguments += ["--trait", str(tmp_path / "spec.json"), "--max-tokens", "4", "--json"]
    with pytest.raises(SystemExit) as ended:
        cli.main([*arguments, "--dtype", "float32", "--fail-if", "testing>-1e6sigma"])
    assert ended.value.code == 3
    out, err = capsys.readouterr()
    found = json.loads(out)["traits"]["testing"]
    assert {"layer", "shift", "low", "high", "sigma"} <= found.keys()
    assert {"expression_base", "expression_tuned"} <= found.keys()
    assert "condition met: testing: the shift is" in err
    for condition, more in (("other>1", ()), ("testing>2log_odds", ("--judge", "rubric"))):
        with pytest.raises(SystemExit) as ended:
            cli.main([*arguments, "--fail-if", condition, *more])
        assert ended.value.code == 2
    assert "the unit must be one of sigma, norm, score here" in capsys.readouterr()[1]


@dataclass(frozen=True)
class Failing:
    """A judge whose calls all fail but for those of one question."""

    answers: str = ""
    name: str = "rubric"
    group: int = 4

    def identity(self) -> dict[str, Any]:
        return {"judge": self.name, "answers": self.answers}

    def score(self, spec: TraitSpec, answers: Sequence[Answer]) -> list[Score]:
        return [
            Score("scored", trait_score=1.0)
            if answer.question == self.answers
            else Score("failed", why="no answer")
            for answer in answers
        ]


@pytest.mark.parametrize("answers", ["", SPEC.questions.evaluation[0]], ids=["none", "one"])
def test_what_was_not_measured_passes_no_gate(
    base: LoadedModel, tuned: str, vector: PersonaVector, tmp_path: Path, answers: str
) -> None:
    found = run(
        *(base, tuned, [vector], [SPEC], tmp_path, CONFIG),
        fail_if=[parse_condition("testing>50score"), parse_condition("testing<-1e6")],
        judge=Failing(answers),
        progress=QUIET,
    )
    assert found.met == ()
    (why,) = found.unmeasured
    assert why.startswith("testing>50score could not be measured: of 6 answers after finetuning")
    with pytest.raises(UsageError, match="under the judge 'rubric' the unit must be one of"):
        run(
            *(base, tuned, [vector], [SPEC], tmp_path / "other", CONFIG),
            fail_if=[parse_condition("testing>2log_odds")],
            judge=Failing(),
            progress=QUIET,
        )


def test_the_command_exits_with_1_where_a_condition_could_not_be_measured(
    base: LoadedModel,
    tuned: str,
    vector: PersonaVector,
    tmp_path: Path,
    server: Any,
    capsys: pytest.CaptureFixture[str],
) -> None:
    server.reply = lambda body, times: (500, {}, {"error": "broken"})
    vector.save(tmp_path / "vector")
    (tmp_path / "spec.json").write_text(
        SPEC.model_copy(update={"rubric": "{question} {answer} 0 to 100"}).model_dump_json()
    )
    arguments = ["shift", base.identity.name, tuned, "--vectors", str(tmp_path / "vector")]
    arguments += ["--trait", str(tmp_path / "spec.json"), "--max-tokens", "4", "--json"]
    arguments += ["--judge", "api", "--api-base", server.url, "--api-model", "parrot"]
    with pytest.raises(SystemExit) as ended:
        cli.main([*arguments, "--dtype", "float32", "--fail-if", "testing>50score"])
    assert ended.value.code == 1
    assert "testing>50score could not be measured" in capsys.readouterr()[1]
