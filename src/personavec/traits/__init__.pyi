from .linting import Flaw as Flaw, Part as Part, flaws as flaws, lint as lint
from .loading import (
    bundled_traits as bundled_traits,
    checks_file as checks_file,
    load_trait as load_trait,
    neutral_prompts as neutral_prompts,
)
from .spec import (
    BUNDLED as BUNDLED,
    POLARITIES as POLARITIES,
    Check as Check,
    InstructionPair as InstructionPair,
    Origin as Origin,
    Polarity as Polarity,
    TraitName as TraitName,
    TraitSpec as TraitSpec,
    check_trait_name as check_trait_name,
)
from .templates import question_bank as question_bank, template_spec as template_spec
