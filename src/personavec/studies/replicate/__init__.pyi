from .config import ReplicateConfig as ReplicateConfig, ReplicateInputs as ReplicateInputs
from .dry_run import Plan as Plan, Rate as Rate, measured_rate as measured_rate, planned as planned
from .pipeline import Selection as Selection, run as run
from .results import ReplicateResults as ReplicateResults, Statement as Statement
from .study import Inputs as Inputs, Sources as Sources, Study as Study
