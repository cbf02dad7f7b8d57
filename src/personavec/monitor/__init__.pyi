from . import calibrate as calibrate
from .config import CalibrateConfig as CalibrateConfig, MonitorConfig as MonitorConfig
from .ordinary import survey as survey
from .pipeline import run as run
from .readings import (
    Gauge as Gauge,
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
