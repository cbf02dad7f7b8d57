from . import elicit as elicit
from .elicit import excess as excess, usual_strengths as usual_strengths
