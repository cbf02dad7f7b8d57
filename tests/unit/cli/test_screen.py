"""The options of `screen`."""

import pytest

from personavec.cli.screen import with_ray_address


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["a.jsonl", "--ray"], ["a.jsonl", "--ray", "auto"]),
        (["--ray", "--json", "a.jsonl"], ["--ray", "auto", "--json", "a.jsonl"]),
        (["--ray", "head:6379", "a.jsonl"], ["--ray", "head:6379", "a.jsonl"]),
        (["--ray", "a.jsonl"], ["--ray", "auto", "a.jsonl"]),
        (["--ray=head:6379"], ["--ray=head:6379"]),
        (["a.jsonl"], ["a.jsonl"]),
    ],
)
def test_ray_may_stand_without_an_address(given: list[str], expected: list[str]) -> None:
    assert with_ray_address(given) == expected
