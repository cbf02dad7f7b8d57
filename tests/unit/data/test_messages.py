"""Messages: the names of speakers."""

from personavec.data import (
    role_of,
)
from personavec.data.messages import SPEAKERS


def test_roles_have_one_table_of_synonyms() -> None:
    for role, names in SPEAKERS.items():
        for name in names:
            shapes = (name, name.upper(), name.title(), name.replace("_", "-"), f" {name} ")
            assert {role_of(shape) for shape in shapes} == {role}
    assert {role_of(unknown) for unknown in ("narrator", "", None, 3, ["user"])} == {None}
