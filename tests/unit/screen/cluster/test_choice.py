"""The way to the module that needs Ray."""

import sys

import pytest

from personavec.errors import PersonavecError
from personavec.screen import cluster as package
from personavec.screen.cluster import cluster


def test_without_ray_the_command_that_installs_it_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "personavec.screen.cluster.on_ray", None)
    monkeypatch.delattr(package, "on_ray", raising=False)
    with pytest.raises(PersonavecError, match=r"pip install 'personavec\[ray\]'"):
        cluster()
