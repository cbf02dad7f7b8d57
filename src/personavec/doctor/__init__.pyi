from .pipeline import run as run
from .results import DoctorResults as DoctorResults
