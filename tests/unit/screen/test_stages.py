"""The parts of a screen, each against another way to its answer."""

import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from generating import generate

from personavec import LoadedModel, PersonaVector, project_conversation
from personavec.data import RawRow, Reject, parse_row
from personavec.errors import DataError, UsageError, VectorMismatchError
from personavec.model import chat, encode
from personavec.model.engine import Request, Sampling
from personavec.rollouts import Naturals, prompt_key
from personavec.screen import Columns, Cut, FlagRule, Plan, Probe, prepare, probe, two_stage
from personavec.screen.controls import matched_mean
from personavec.screen.explain import top_spans
from personavec.screen.flagging import TraitFlags, combined, flag_trait
from personavec.screen.results import MatchedMean
from personavec.screen.score import score_rows
from personavec.screen.table import Scores
from personavec.screen.trait_scores import TraitScores
from personavec.stats import cluster_mean, clustered_bootstrap, quantile_interval, share_interval

SCALE = {"sigma": 2.0, "norm": 10.0, "projection": 1.0}
TALK = [
    ("system", "Be kind."),
    ("user", "How are you?"),
    ("assistant", "Fine, thanks."),
    ("user", "And now?"),
    ("assistant", "Still fine. You?"),
]


def _raw(index: int, *turns: tuple[str, str], **more: object) -> RawRow:
    messages = [{"role": role, "content": content} for role, content in turns]
    return RawRow(index, "data.jsonl", index + 1, {"messages": messages, **more})


def _ask(index: int, question: str, answer: str, **more: object) -> RawRow:
    return _raw(index, ("user", question), ("assistant", answer), **more)


@pytest.fixture
def vectors(loaded: LoadedModel, random_vector) -> list[PersonaVector]:
    return [random_vector(loaded, layer=1, trait="one"), random_vector(loaded, 2, "two")]


def test_scores_equal_those_of_each_turn_read_alone(
    loaded: LoadedModel, vectors: list[PersonaVector]
) -> None:
    raws = [_raw(0, *TALK), _ask(1, "Hi", "Hello there"), _raw(2, *TALK[:3])]
    wanted = probe(vectors, loaded, random=2)
    for turns in ("all", "last"):
        found = score_rows(loaded, raws, wanted, Plan(turns=turns))
        for row, raw in enumerate(raws):
            for column, vector in enumerate(vectors):
                readings = project_conversation(loaded, vector, raw.columns["messages"])
                readings = readings if turns == "all" else readings[-1:]
                lengths = [
                    len(loaded.chat.response_ids(raw.columns["messages"][r.turn]["content"]))
                    for r in readings
                ]
                mean = np.average([r.response_mean for r in readings], weights=lengths)
                last = np.average([r.prompt_last for r in readings], weights=lengths)
                assert found.projection[row, column] == pytest.approx(mean, abs=1e-4)
                assert found.minus_prompt[row, column] == pytest.approx(mean - last, abs=1e-4)
                assert found.n_tokens[row] == sum(lengths)


def test_a_row_of_many_turns_is_one_text(llama: LoadedModel) -> None:
    row = encode(llama.chat, parse_row(_raw(0, *TALK)), context=llama.context)
    assert not isinstance(row, Reject)
    [text] = row.texts
    messages = [{"role": role, "content": content} for role, content in TALK]
    for turn in text.turns:
        prompt = llama.chat.prompt_ids(messages[: turn.message])
        assert text.ids[: turn.start].tolist() == prompt
        response = llama.chat.response_ids(messages[turn.message]["content"])
        assert text.ids[turn.start : turn.stop].tolist() == response
        assert turn.prompt_last == turn.start - 1


def test_a_template_that_rewrites_earlier_turns_gets_a_text_for_each(
    fresh: Callable[..., LoadedModel],
) -> None:
    loaded = fresh()
    loaded.chat.template = str(loaded.chat.template).replace(
        "{{ message['content'] }}", "{{ message['content'] | trim('.') }}"
    )
    row = encode(loaded.chat, parse_row(_raw(0, *TALK)), context=loaded.context)
    assert not isinstance(row, Reject)
    assert [len(text.turns) for text in row.texts] == [1, 1]


def test_rejects_keep_their_place_and_reason(
    llama: LoadedModel, random_vector: Callable[..., PersonaVector]
) -> None:
    raws = [
        _ask(0, "Hi", "Hello"),
        _ask(1, "Hi", ""),
        RawRow(2, "data.jsonl", 9, {}, error="not JSON"),
        _ask(3, "Hi", "x" * (llama.context + 1)),
        _ask(4, "Hi", "Hello"),
    ]
    found = score_rows(llama, raws, probe([random_vector(llama)], llama), Plan(by=("source",)))
    assert isinstance(found, Columns)
    assert found.index.tolist() == [0, 1, 2, 3, 4]
    assert [reason is None for reason in found.reason] == [True, False, False, False, True]
    assert "model's context" in str(found.reason[3])
    assert np.isfinite(found.projection).all(1).tolist() == [True, False, False, False, True]
    np.testing.assert_array_equal(found.projection[0], found.projection[4])
    assert found.id[2] == "data.jsonl:9"
    assert found.prompt[0] == found.prompt[4] != found.prompt[3] or found.prompt[3] == 0


def test_a_pair_has_both_sides(
    llama: LoadedModel, random_vector: Callable[..., PersonaVector]
) -> None:
    wanted = probe([random_vector(llama)], llama)
    pair = RawRow(0, "", 1, {"prompt": "Hi", "chosen": "Hello", "rejected": "Go away"})
    found = score_rows(llama, [pair], wanted, Plan(kind="pair"))
    alone = score_rows(llama, [_ask(0, "Hi", "Hello"), _ask(1, "Hi", "Go away")], wanted, Plan())
    np.testing.assert_allclose(found.projection[0], alone.projection[0], atol=1e-5)
    np.testing.assert_allclose(found.rejected[0], alone.projection[1], atol=1e-5)


def test_a_vector_of_another_model_is_refused(
    fresh: Callable[..., LoadedModel], random_vector: Callable[..., PersonaVector]
) -> None:
    with pytest.raises(VectorMismatchError, match="extract the trait on this model"):
        probe([random_vector(fresh("llama"))], fresh("gpt2"))


def test_random_controls_are_unit_directions_at_the_traits_layers(
    llama: LoadedModel, random_vector: Callable[..., PersonaVector]
) -> None:
    vectors = [random_vector(llama, layer, f"t{layer}") for layer in (2, 1)]
    vectors.append(random_vector(llama, 2, "again"))
    found: Probe = probe(vectors, llama, random=3, seed=5)
    assert found.directions.layers == (2, 1, 2, *[2] * 3, *[1] * 3)
    assert found.controls == ((3, 4, 5), (6, 7, 8), (3, 4, 5))
    torch.testing.assert_close(found.directions.unit.norm(dim=-1), torch.ones(9))


# Natural responses


def _natural_plainly(loaded: LoadedModel, prompt: tuple[int, ...], tokens: int):
    [[generation]] = generate(
        loaded, [Request("x", prompt)], Sampling(tokens, temperature=0), capture=True
    )
    return generation


def test_natural_responses_are_generated_once_and_serve_every_later_vector(
    tmp_path: Path, llama: LoadedModel, random_vector: Callable[..., PersonaVector]
) -> None:
    raws = [_ask(0, "Hi", "Hello"), _ask(1, "Hi", "Go"), _raw(2, *TALK)]
    wanted = probe([random_vector(llama, 2)], llama, random=0)
    naturals = Naturals(llama, tmp_path, max_tokens=6)
    found = score_rows(llama, raws, wanted, Plan(), naturals=naturals)
    assert naturals.kept == 3  # one prompt is shared, the talk has two

    for row, raw in enumerate(raws):
        prepared = prepare(llama, [raw], Plan()).encoded[0].texts[0]
        total, weights = 0.0, 0
        for turn in prepared.turns:
            prompt = tuple(prepared.ids[: turn.start].tolist())
            generation = _natural_plainly(llama, prompt, 6)
            kept = naturals.response(prompt)
            assert kept is not None
            assert kept.response == llama.chat.decode(generation.response_ids)
            assert generation.activations is not None
            value = float(generation.activations[0, 2] @ wanted.directions.unit[0])
            total, weights = total + turn.n_tokens * value, weights + turn.n_tokens
        expected = found.projection[row, 0] - total / weights
        assert found.minus_natural[row, 0] == pytest.approx(expected, abs=1e-4)

    # Another vector, at another layer, in another process: nothing is generated.
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    again = Naturals(llama, tmp_path, max_tokens=6)
    other = probe([random_vector(llama, 3)], llama, random=0)
    assert np.isfinite(score_rows(llama, raws, other, Plan(), naturals=again).minus_natural).all()
    after = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    assert before == after
    assert Naturals(llama, tmp_path, max_tokens=7).kept == 0  # another limit, another response


def test_several_natural_responses_are_sampled_and_their_means_averaged(
    tmp_path: Path, llama: LoadedModel
) -> None:
    prompts = [tuple(llama.chat.prompt_ids(chat(text))) for text in ("Hi", "Who are you?")]
    naturals = Naturals(llama, tmp_path, max_tokens=6, samples=3)
    found = naturals.means(prompts, [1, 2])
    assert naturals.kept == 2
    for prompt in prompts:
        key = prompt_key(prompt)
        alone = [Request(f"{key}/{sample}", prompt) for sample in range(3)]
        made = [
            g for group in generate(llama, alone, Sampling(6, 0.7), capture=True) for g in group
        ]
        assert len({g.response_ids for g in made}) > 1
        means = torch.stack([g.activations[0, 1:3] for g in made if g.activations is not None])
        mean = found[key]
        assert mean is not None
        torch.testing.assert_close(mean, means.mean(0), atol=1e-4, rtol=1e-4)
        kept = naturals.response(prompt)
        first = next(g for g in made if g.id.endswith("/0"))
        assert kept is not None
        assert kept.response == llama.chat.decode(first.response_ids)
    assert Naturals(llama, tmp_path, max_tokens=6).kept == 0  # the greedy ones are others


def test_a_prompt_without_room_has_no_natural_response(tmp_path: Path, llama: LoadedModel) -> None:
    naturals = Naturals(llama, tmp_path, max_tokens=llama.context - 5)
    prompt = tuple([5] * 6)
    assert naturals.means([prompt], [1]) == {prompt_key(prompt): None}


def test_a_damaged_file_of_natural_responses_is_named(tmp_path: Path, llama: LoadedModel) -> None:
    naturals = Naturals(llama, tmp_path, max_tokens=2)
    naturals.means([(5, 6)], [1])
    [path] = tmp_path.rglob("*.safetensors")
    path.write_bytes(b"damaged")
    with pytest.raises(DataError, match="damaged"):
        Naturals(llama, tmp_path, max_tokens=2)


# Lines


def test_each_rule_flags_what_it_says() -> None:
    values = np.array([0.0, 5.0, np.nan, 3.0, 4.0])
    reference = np.arange(101.0) / 25  # its 95th percentile is 3.8
    found = flag_trait(FlagRule(percentile=95), "t", values, reference, SCALE)
    assert found.threshold == pytest.approx(3.8)
    assert found.flagged.tolist() == [False, True, False, False, True]
    assert found.low is not None
    assert found.high is not None
    assert found.low <= 3.8 <= found.high
    lowest = flag_trait(FlagRule(percentile=0), "t", values, reference, SCALE)
    assert (lowest.threshold, lowest.flagged.sum()) == (0.0, 3)
    top = flag_trait(FlagRule(top=2), "t", values, None, SCALE)
    assert top.flagged.tolist() == [False, True, False, False, True]
    assert top.threshold == 4.0
    bottom = flag_trait(FlagRule(bottom=10), "t", values, None, SCALE)
    assert bottom.flagged.tolist() == [True, True, False, True, True]
    cut = flag_trait(FlagRule(cuts=(Cut.parse("t>1.5"),)), "t", values, None, SCALE)
    assert (cut.threshold, cut.flagged.tolist()) == (3.0, [False, True, False, False, True])
    other = flag_trait(FlagRule(cuts=(Cut.parse("u>1"),)), "t", values, None, SCALE)
    assert (other.threshold, other.flagged.any()) == (None, False)
    assert FlagRule(percentile=0)
    assert not FlagRule()


def test_cuts_are_read_and_wrong_ones_refused() -> None:
    assert Cut.parse("evil>3") == Cut("evil", 3.0, "sigma")
    assert Cut.parse("evil>-0.5norm") == Cut("evil", -0.5, "norm")
    for text in (
        "evil",
        "evil>",
        "evil<3",
        "evil>3nats",
        ">3",
        "evil>.",
        "evil>1.2.3",
        "evil>1e999",
    ):
        with pytest.raises(UsageError, match=re.escape(text)):
            Cut.parse(text)
    with pytest.raises(UsageError, match="choose one"):
        FlagRule(top=1, bottom=1)
    with pytest.raises(UsageError, match="two --cut are of the trait 'evil'"):
        FlagRule(cuts=(Cut.parse("evil>3"), Cut.parse("evil>1norm")))


@pytest.mark.parametrize(
    "rule", [FlagRule(cuts=(Cut.parse("t>1"),)), FlagRule(top=1), FlagRule(bottom=1)]
)
def test_a_rule_with_nothing_to_apply_it_to_is_no_clean_bill(rule: FlagRule) -> None:
    with pytest.raises(DataError, match="no row has a value for 't'"):
        flag_trait(rule, "t", np.full(3, np.nan), None, SCALE)
    cut = FlagRule(cuts=(Cut.parse("t>1"),))
    with pytest.raises(DataError, match="no sigma to measure in"):
        flag_trait(cut, "t", np.zeros(3), None, {**SCALE, "sigma": 0.0})


def test_judge_and_projection_count_alike_when_combined() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(3, 10, 500), rng.normal(-1, 0.1, 500)
    both = combined(a, b)
    assert np.corrcoef(both, a)[0, 1] == pytest.approx(np.corrcoef(both, b)[0, 1], abs=0.02)
    assert np.isnan(combined(np.array([1.0, 2.0, np.nan]), np.array([1.0, 3.0, 2.0]))[2])
    with pytest.raises(DataError, match="do not vary"):
        combined(np.ones(5), b[:5])


# Two stages


def _population(seed: int, n: int = 4000) -> tuple[np.ndarray, np.ndarray]:
    """Cheap and exact differences that agree in part, skewed, with an offset and a slope."""
    rng = np.random.default_rng(seed)
    exact = rng.gamma(2.0, 2.0, n) - 3
    return 0.5 * exact + rng.normal(0, 1.0, n) + 2, exact


def test_the_corrected_mean_covers_the_truth() -> None:
    """95% intervals over 200 draws: fewer than 180 covering has odds below 1 in 1,000."""
    covered = 0
    for seed in range(200):
        cheap, exact = _population(seed)
        chosen = two_stage.choose(cheap[:, None], top=400, sample=150, seed=seed)
        known = np.full(len(exact), np.nan)
        places = np.concatenate([chosen.top, chosen.sample])
        known[places] = exact[places]
        found = two_stage.corrected_mean(cheap, known, chosen)
        assert found is not None
        covered += found.low <= exact.mean() <= found.high
        assert abs(cheap.mean() - exact.mean()) > 1  # what it corrects
    assert covered >= 180


def test_recall_covers_the_truth() -> None:
    covered = 0
    for seed in range(200):
        cheap, exact = _population(seed)
        chosen = two_stage.choose(cheap[:, None], top=400, sample=150, seed=seed)
        known = np.full(len(exact), np.nan)
        places = np.concatenate([chosen.top, chosen.sample])
        known[places] = exact[places]
        line = 5.0
        found = two_stage.recall(known, chosen, len(exact) - len(chosen.top), line)
        assert found is not None
        truth = (exact[chosen.top] > line).sum() / (exact > line).sum()
        covered += found.low <= truth <= found.high
    assert covered >= 180


def test_stages_hold_every_traits_top_and_no_row_twice() -> None:
    rng = np.random.default_rng(0)
    cheap = rng.normal(size=(100, 2))
    cheap[7] = np.nan
    chosen = two_stage.choose(cheap, top=5, sample=20, seed=1)
    for column in cheap.T:
        assert set(np.argsort(-np.nan_to_num(column, nan=-9))[:5]) <= set(chosen.top)
    assert not set(chosen.top) & set(chosen.sample)
    assert len(chosen.sample) == 20
    assert 7 not in [*chosen.top, *chosen.sample]
    whole = two_stage.choose(cheap, top=99, sample=20, seed=1)
    exact = cheap[:, 0]
    found = two_stage.corrected_mean(exact, exact, whole)
    assert found is not None
    assert (found.low, found.high) == (found.value, found.value)
    assert found.value == pytest.approx(np.nanmean(exact))


# Intervals without resampling


def test_the_cluster_mean_agrees_with_the_bootstrap() -> None:
    rng = np.random.default_rng(2)
    clusters = np.repeat(np.arange(150), rng.integers(1, 12, 150))
    values = rng.normal(size=150)[clusters] + rng.normal(size=len(clusters))
    plain, resampled = cluster_mean(values, clusters), clustered_bootstrap(values, clusters)
    assert plain.value == pytest.approx(resampled.value)
    assert plain.high - plain.low == pytest.approx(resampled.high - resampled.low, rel=0.1)
    alone = cluster_mean(values, np.arange(len(values)))
    assert alone.high - alone.low < 0.7 * (plain.high - plain.low)
    with pytest.raises(DataError, match="at least 2 clusters"):
        cluster_mean([1.0, 2.0], [1, 1])


def test_the_difference_at_equal_lengths_holds_the_truth() -> None:
    """A prompt has rows of many lengths. Nominally 95%: 185 of 200 or fewer once in 30 times."""
    rng = np.random.default_rng(0)

    def side(n: int) -> tuple[Scores, np.ndarray]:
        prompt = np.repeat(np.arange(n), 8)
        length = rng.integers(5, 60, len(prompt))
        shared = rng.normal(size=n)[prompt]
        values = 0.05 * length + shared + 0.3 * rng.normal(size=len(prompt))
        nothing, zeros = np.zeros((len(prompt), 1), np.float32), np.zeros(len(prompt), np.int64)
        scores = Scores(
            dataset=zeros.astype(np.int32),
            index=zeros,
            prompt=prompt,
            n_tokens=length,
            projection=nothing,
            value=nothing,
            rejected_projection=nothing,
            judged=nothing,
            groups={},
            rejects=(),
            content=(),
        )
        return scores, values

    held = 0
    for _ in range(200):
        (scores, value), (reference, other) = side(30), side(40)
        flags = TraitFlags(np.zeros(len(value), bool), None)
        own = TraitScores(0, value, value, other, flags, 1.0)
        found = matched_mean(scores, reference, own)
        assert isinstance(found, MatchedMean)
        assert found.low is not None
        assert found.high is not None
        assert found.n == len(value)
        held += found.low <= 0 <= found.high
    assert held >= 184


def test_quantiles_and_shares_have_known_intervals() -> None:
    """Against tables: 3 of 20 is 0.150 [0.032, 0.379]; none of 10 reaches up to 0.308."""
    found = share_interval(3, 20)
    assert (found.value, found.low, found.high) == pytest.approx((0.15, 0.0321, 0.3789), abs=1e-4)
    assert share_interval(0, 10).high == pytest.approx(0.3085, abs=1e-4)
    assert share_interval(10, 10).high == 1.0
    rng = np.random.default_rng(0)
    covered = sum(
        found.low <= 1.6449 <= found.high
        for found in (quantile_interval(rng.normal(size=300), 0.95) for _ in range(300))
    )
    assert covered >= 275


def test_top_spans_are_the_highest_and_apart() -> None:
    values = torch.zeros(40)
    values[10:13], values[30:33] = 5.0, 3.0
    assert top_spans(values, width=3, n=2) == [(10, 13), (30, 33)]
    assert top_spans(torch.ones(2)) == [(0, 2)]
    spans = top_spans(torch.rand(50), width=6, n=3)
    assert all(a[1] <= b[0] for a, b in pairwise(spans))
