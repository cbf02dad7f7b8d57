"""Shape and type checks on every function of the package, and markers by folder."""

import signal
from collections.abc import Iterator

from jaxtyping import install_import_hook

# Before personavec is imported. As for type checkers, an int is a float.
CHECKER = "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))"
install_import_hook("personavec", CHECKER)

from pathlib import Path  # noqa: E402

import pytest  # noqa: E402
from hypothesis import settings  # noqa: E402

# Examples touch the disk, and machines that run tests are busy: time says nothing here.
settings.register_profile("personavec", deadline=None)
settings.load_profile("personavec")

#: Slow by nature: the embedded model, and real servers.
SLOW = [Path(__file__).parent / "model", Path(__file__).parent / "live"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what lies in tests/model and tests/live, so that `-m "not model"` leaves it out."""
    for item in items:
        if set(SLOW) & set(item.path.parents):
            item.add_marker(pytest.mark.model)


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Processes that the test starts can be interrupted.

    Where a script started the suite in its background, SIGINT is ignored, which children inherit.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
