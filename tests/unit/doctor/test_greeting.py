"""`personavec` alone: it says what it is, and what to try."""

import shlex
import subprocess
import sys

import pytest

from personavec.cli import app
from personavec.doctor import greeting
from personavec.doctor.greeting import TRIALS, Trial, greet
from personavec.doctor.processor import has_bf16
from personavec.doctor.results import Processor
from personavec.errors import ModelError
from personavec.model.embedded import INSTALL_EMBEDDED
from personavec.traits import bundled_traits, load_trait


def processor(cores: int, quota: float | None = None, **features: bool) -> Processor:
    return Processor(
        name="any",
        architecture="x86_64",
        features=features,
        cores=cores,
        quota=quota,
        memory_gib=None,
    )


def test_it_greets_without_torch_and_succeeds() -> None:
    code = """
import sys
from personavec.cli.main import main
try:
    main([])
except SystemExit as ended:
    assert not ended.code
assert not {"torch", "transformers"} & sys.modules.keys()
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert [trial.command for trial in TRIALS if trial.command not in done.stdout] == []
    assert max(map(len, done.stdout.splitlines())) <= 80


@pytest.mark.parametrize("trial", TRIALS, ids=lambda trial: trial.command.split()[1])
def test_what_it_offers_can_be_pasted(trial: Trial) -> None:
    program, *words = shlex.split(trial.command)
    assert program == "personavec"
    app.build(words).parse_args(words, exit_on_error=False, print_error=False)


def test_times_are_of_the_processor() -> None:
    trial = TRIALS[-1]
    fast, slow = processor(2, avx512_bf16=True), processor(2, avx2=True)
    assert trial.seconds(slow) > 1.5 * trial.seconds(fast)
    assert trial.seconds(processor(4, avx512_bf16=True)) < trial.seconds(fast)
    assert trial.seconds(processor(8, 2.0, avx512_bf16=True)) == trial.seconds(fast)
    assert trial.seconds(processor(1, avx512_bf16=True)) == pytest.approx(trial.bf16)
    assert has_bf16({"neon": True, "bf16": True})


def test_missing_weights_come_first(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing() -> None:
        raise ModelError("missing")

    monkeypatch.setattr(greeting, "embedded_gguf", missing)
    greet()
    shown = capsys.readouterr().out
    assert shown.index(INSTALL_EMBEDDED) < shown.index(TRIALS[0].command)


@pytest.mark.parametrize("trait", bundled_traits())
def test_half_of_a_bundled_set_shows_its_trait(trait: str) -> None:
    from personavec.cli.screen import _source
    from personavec.data import raw_rows

    rows = list(raw_rows(_source(f"bundled:{trait}")))
    assert 2 * sum(row.columns["shows"] for row in rows) == len(rows)
    assert len(rows) == len(load_trait(trait)[0].checks)


def test_other_names_stay_names() -> None:
    from personavec.cli.screen import _source

    assert [_source(name) for name in ("rows.jsonl", "owner/bundled:x")] == [
        "rows.jsonl",
        "owner/bundled:x",
    ]
