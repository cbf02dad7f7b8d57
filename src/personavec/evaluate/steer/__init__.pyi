from .choice import choose_coefficients as choose_coefficients
from .config import SteerConfig as SteerConfig
from .pipeline import run as run, run_folder as run_folder
from .results import SteeredAnswer as SteeredAnswer, SteerResults as SteerResults
from .writing import AnswerSoFar as AnswerSoFar, Piece as Piece
