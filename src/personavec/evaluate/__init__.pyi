from . import shift as shift, steer as steer
from .capability import HarnessTask as HarnessTask, TaskScore as TaskScore
from .cues import Cue as Cue, cues_of as cues_of, read_cues as read_cues
from .pipeline import (
    EvaluateConfig as EvaluateConfig,
    SteeredBy as SteeredBy,
    Subject as Subject,
    run as run,
)
from .report import described as described, estimate as estimate
from .shift import last_prompt_states as last_prompt_states
from .steer import steered_answers as steered_answers
