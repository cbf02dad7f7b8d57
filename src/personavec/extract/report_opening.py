"""The opening of an extraction's report: what was measured, what it says, and how it looks."""

from __future__ import annotations

from markupsafe import Markup

from personavec.extract.conclusion import conclusion
from personavec.extract.report_steering import dose_curve, steered
from personavec.extract.results import ExtractResults
from personavec.report import Look, Pair, opening, signed
from personavec.vectors import Verdict
from personavec.wording import plural

#: The mark of a verdict, and what it is drawn as.
STATES: dict[Verdict, tuple[str, Look]] = {
    "passed": ("✓", "good"),
    "failed": ("✗", "bad"),
    "not decided": ("?", "open"),
}


def opened(results: ExtractResults) -> Markup:
    """The main curve is here; its section has the coherence and the numbers."""
    _, look = STATES[results.verdict.verdict]
    return opening(
        _measured(results),
        conclusion(results.verdict.checks),
        look=look,
        notes=results.notes,
        picture=dose_curve(
            results.dose_response, results.control, results.prompted, results.coherent_range
        ),
        pair=_pair(results),
    )


def _measured(results: ExtractResults) -> str:
    found = (
        f"The vector is what changes in {results.model.name} when it answers "
        f"{plural(results.spec.extraction_questions, 'question')} under system prompts that ask "
        f"for {results.trait.name}, rather than for its opposite."
    )
    doses = [dose.coefficient for dose in results.dose_response]
    if not doses:
        return found
    answers = max(dose.n + dose.empty for dose in results.dose_response)
    directions = len({dose.direction for dose in results.control})
    return (
        f"{found} It was then added at layer {results.layer}, {signed(min(doses))} to "
        f"{signed(max(doses))} times, each time for {plural(answers, 'answer')} to questions that "
        f"neither made the vector nor selected the layer; {plural(directions, 'random direction')} "
        "of the same size did the same at the ends of the coherent range. Log-odds say how much "
        "more an answer reads like the trait than like its opposite: 0 is neither."
    )


def _pair(results: ExtractResults) -> Pair | None:
    """The first question's answers, whatever they show."""
    for transcript in results.transcripts[:1]:
        ordered = sorted(transcript.answers, key=lambda answer: answer.coefficient)
        return Pair(transcript.question, [steered(answer) for answer in ordered])
    return None
