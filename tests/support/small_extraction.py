"""A spec and settings with which a tiny model goes through every stage of an extraction."""

from personavec import ExtractConfig, TraitSpec

SPEC = TraitSpec.model_validate(
    {
        "name": "odd",
        "description": "Being odd.",
        "instruction": [{"pos": f"Be odd, {i}.", "neg": f"Be even, {i}."} for i in range(2)],
        "judge_instruction": [{"pos": "Odd!", "neg": "Even!"}],
        "questions": {
            "extraction": [f"Why {i}?" for i in range(6)],
            "evaluation": [f"When {i}?" for i in range(4)],
        },
    }
)
CONFIG = ExtractConfig(
    max_tokens=4,
    layers=(2,),
    coefficients=(-1, 0, 1),
    sweep_coefficients=(1,),
    sweep_questions=2,
    random_directions=1,
    neutral_prompts=4,
)
