from . import calibrate as calibrate
from .ordinary import survey as survey
from .pipeline import MonitorConfig as MonitorConfig, run as run
from .readings import (
    Gauge as Gauge,
    TurnReading as TurnReading,
    gauge as gauge,
    project_conversation as project_conversation,
    read_conversation as read_conversation,
    read_turn as read_turn,
)
