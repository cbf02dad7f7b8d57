from .guards import parse_guard as parse_guard
from .replies import Settings as Settings
from .server import bound as bound, make_server as make_server, run as run, serving as serving
