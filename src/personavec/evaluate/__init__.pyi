from . import shift as shift, steer as steer
from .capability import HarnessTask as HarnessTask, TaskScore as TaskScore
from .config import EvaluateConfig as EvaluateConfig
from .cues import (
    Cue as Cue,
    Cues as Cues,
    cues_of as cues_of,
    leaves_room as leaves_room,
    longest_question as longest_question,
    read_cues as read_cues,
)
from .pipeline import questions_to_judge as questions_to_judge, run as run
from .plots import paper_plots as paper_plots
from .results import (
    CapabilityResult as CapabilityResult,
    ComparedModel as ComparedModel,
    CueResults as CueResults,
    EvaluateResults as EvaluateResults,
)
from .shift import last_prompt_states as last_prompt_states
from .subject import (
    SteeredBy as SteeredBy,
    Subject as Subject,
    default_judge as default_judge,
    judging_model as judging_model,
)
