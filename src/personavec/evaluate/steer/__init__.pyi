from .config import SteerConfig as SteerConfig
from .pipeline import run as run
from .results import SteeredAnswer as SteeredAnswer, SteerResults as SteerResults
