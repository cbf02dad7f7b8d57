from . import foreground as foreground
from .config import ServeConfig as ServeConfig
from .guards import parse_guard as parse_guard
from .server import bound as bound, make_server as make_server, run as run, serving as serving
