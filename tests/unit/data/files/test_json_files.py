"""JSON and JSON lines, whatever a file's name says and its values are."""

import gzip
import json
from pathlib import Path

import pytest
from foreign_files import BIG, DEEP, LINE, ROW, columns_of

from personavec.data import marks, source_name

LAYOUTS = {
    "lines.json": f"{LINE}\n{LINE}\n",
    "lines with BOM.json": f"\ufeff{LINE}\n\n{LINE}",
    "list with BOM.json": f"\ufeff[{LINE}, {LINE}]",
    "list.jsonl": f"[{LINE},\n{LINE}]",
    "indented.jsonl": json.dumps([ROW, ROW], indent=2),
    "object.json": json.dumps({"version": "1", "data": [ROW, ROW], "by": {"name": "x"}}),
    "indented object.json": json.dumps({"rows": [ROW, ROW]}, indent=1),
}


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("packed", [False, True])
def test_json_is_read_as_what_it_holds(tmp_path: Path, name: str, packed: bool) -> None:
    content = LAYOUTS[name].encode()
    path = tmp_path / (f"{name}.gz" if packed else name)
    path.write_bytes(gzip.compress(content) if packed else content)
    assert columns_of(path) == [ROW, ROW]
    assert source_name(path) == name.partition(".")[0]
    found = marks(path, 1)
    assert found is None or (found[1] == 2 and not packed)
    assert (found is not None) == (name.startswith("lines") and not packed)


def test_values_that_python_cannot_hold_cost_their_row_at_most(tmp_path: Path) -> None:
    lines = [LINE, f'{{"n": {BIG}}}', f'{{"n": -{BIG}}}', f'{{"d": {DEEP}}}', '{"b": "]["}', LINE]
    many = tmp_path / "many.jsonl"
    many.write_text("\n".join(lines))
    listed = tmp_path / "list.json"
    listed.write_text(f"[{', '.join(lines)}]")
    for path in (many, listed):
        found = columns_of(path)
        assert found[:3] == [ROW, {"n": BIG}, {"n": f"-{BIG}"}]
        assert "nested more than" in found[3]
        assert found[4:] == [{"b": "]["}, ROW]
