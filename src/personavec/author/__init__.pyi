from .config import AuthorConfig as AuthorConfig, Sizes as Sizes
from .pipeline import most_asked as most_asked, run as run
from .results import AuthorResult as AuthorResult
