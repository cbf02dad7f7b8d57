from .pipeline import (
    AuthorConfig as AuthorConfig,
    Sizes as Sizes,
    most_asked as most_asked,
    run as run,
)
