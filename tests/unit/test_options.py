"""Options of the form KEY=VALUE."""

import pytest

from personavec.errors import UsageError
from personavec.options import key_values


def test_values_that_are_json_are_read_as_json_and_others_as_text() -> None:
    given = [
        *("device_map=auto", "low_cpu_mem_usage=true", "a=3", "b=x=y", "c="),
        'quantization_config={"load_in_4bit": true}',
    ]
    assert key_values(given, "--model-arg") == {
        **{"device_map": "auto", "low_cpu_mem_usage": True, "a": 3, "b": "x=y", "c": ""},
        "quantization_config": {"load_in_4bit": True},
    }
    assert key_values([], "--model-arg") == {}


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (["device_map"], "--model-arg device_map: give KEY=VALUE"),
        (["=auto"], "--model-arg =auto: give KEY=VALUE"),
        (["a=1", "a=2"], "--model-arg a is given twice"),
    ],
)
def test_what_is_no_key_and_value_is_bad_usage(given: list[str], named: str) -> None:
    with pytest.raises(UsageError, match=named):
        key_values(given, "--model-arg")
