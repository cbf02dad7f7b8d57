from . import calibrate as calibrate
from .config import CalibrateConfig as CalibrateConfig, MonitorConfig as MonitorConfig
from .ordinary import dialogues as dialogues, survey as survey
from .pipeline import run as run
from .plots import paper_plots as paper_plots
from .readings import (
    Gauge as Gauge,
    Readings as Readings,
    TurnReading as TurnReading,
    gauge as gauge,
    project_conversation as project_conversation,
    read_conversation as read_conversation,
    read_turn as read_turn,
)
from .results import (
    MonitorResults as MonitorResults,
    summarised as summarised,
    summarised_calibration as summarised_calibration,
)
