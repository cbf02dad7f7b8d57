from . import elicit as elicit, flawed_sums as flawed_sums
from .config import ElicitConfig as ElicitConfig, FlawedConfig as FlawedConfig
from .levels import excess as excess, usual_strengths as usual_strengths
from .results import ElicitResults as ElicitResults, FlawedResults as FlawedResults
