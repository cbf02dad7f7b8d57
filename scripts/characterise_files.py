"""Canonical text forms of what the commands write, and what differs between two folders of them.

A canonical form keeps the figures, to five significant digits, and drops what no two runs share:
times, versions, addresses, and the folder that a run was in.
"""

from __future__ import annotations

import base64
import csv
import difflib
import hashlib
import io
import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from html.parser import HTMLParser
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import torch

#: Keys whose values no two runs share.
DROPPED = re.compile(
    r"(.*_)?(seconds|time|timestamp|date|created|created_at|pid|duration|elapsed|runtime|version"
    r"|versions|per_second|mtime)"
)
#: Such figures in texts, and addresses, ids and random names.
TEXTS: tuple[tuple[str, str], ...] = (
    (r"https?://127\.0\.0\.1:\d+", "http://HOST"),
    (r"\b(chatcmpl|cmpl)-[0-9a-zA-Z]+", r"\1-ID"),
    (r"\b\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d(\.\d+)?)?(Z|[+-]\d\d:\d\d)?)?", "DATE"),
    (r"\b[\d.,]+ ?(s|ms|min|h|seconds|minutes)\b(?! per)", "TIME"),
    (r"\b[\d.,]+ (tokens|rows|turns|texts|answers)(/s| a second| per second)", r"RATE \1"),
    (r"\b(personavec|torch|transformers|trl|peft|accelerate|datasets) v?\d+\.\d+[\w.+]*", r"\1 V"),
    (r"-?\d+\.\d{6,}(e[-+]?\d+)?", ""),
)
#: Names in pages behind which the version of something stands.
SHOWN = ("personavec", "torch", "transformers", "trl", "peft", "accelerate")
#: Records that are written as an endpoint's replies arrive.
UNORDERED = ("generated.jsonl", "scores.jsonl")
DIGITS = 5
#: Longer canonical texts are kept as their hash: tokenizers, for the most part.
LONGEST = 2_000_000
#: Files that are not results: locks, caches, what a killed run would continue from in binary.
SKIPPED = re.compile(
    r"(^|/)(\.[^/]*|[^/]*\.lock|answers|naturals-cache"
    r"|rng_state\.pth|training_args\.bin|(optimizer|scheduler)\.pt)(/|$)"
)


def rounded(value: float) -> Any:
    if not math.isfinite(value):
        return str(value)
    return float(f"{value:.{DIGITS}g}") + 0.0


class Canonical:
    """Makes canonical forms; `folder` is the run's, which texts may name."""

    def __init__(self, folder: Path):
        root = Path(__file__).resolve().parents[1]
        self._paths = [(str(folder.resolve()), "FOLDER"), (str(root), "ROOT")]
        self._paths += [(str(Path.home()), "HOME")]

    def text(self, text: str) -> str:
        for path, name in self._paths:
            text = text.replace(path, name)
        for pattern, instead in TEXTS:
            by = instead or (lambda found: str(rounded(float(found[0]))))
            text = re.sub(pattern, by, text)
        return text

    def value(self, value: Any) -> Any:
        if isinstance(value, Mapping):
            kept = {str(k): v for k, v in value.items() if not DROPPED.fullmatch(str(k))}
            return {self.text(k): self.value(v) for k, v in sorted(kept.items())}
        if isinstance(value, list | tuple):
            return [self.value(v) for v in value]
        if isinstance(value, float):
            return rounded(value)
        if value is None or isinstance(value, bool | int):
            return value
        if isinstance(value, bytes):
            return {"bytes": len(value), "sha256": hashlib.sha256(value).hexdigest()[:16]}
        return self.text(str(value))

    def dump(self, value: Any) -> str:
        return json.dumps(self.value(value), indent=1, ensure_ascii=False) + "\n"

    def lines(self, values: Sequence[Any]) -> str:
        return "".join(json.dumps(self.value(v), ensure_ascii=False) + "\n" for v in values)

    def file(self, path: Path) -> tuple[str, str]:
        """The ending and the text of a file's canonical form."""
        form = FORMS.get(path.suffix.lower(), _bytes)
        ending, text = form(self, path)
        if len(text) > LONGEST:
            digest = hashlib.sha256(text.encode()).hexdigest()[:16]
            return ".json", self.dump({"long": len(text), "sha256": digest})
        return ending, text


def tensor(found: torch.Tensor) -> dict[str, Any]:
    """Shape, statistics, and a hash of the rounded values."""
    record: dict[str, Any] = {"dtype": str(found.dtype), "shape": list(found.shape)}
    values = found.detach().to(torch.float64).flatten()
    if not len(values):
        return record
    scale = 10.0 ** (DIGITS - 1 - torch.floor(torch.log10(values.abs().clamp_min(1e-30))))
    steps = torch.round(values * scale) / scale
    digest = hashlib.sha256((steps.float() + 0.0).numpy().tobytes()).hexdigest()[:16]
    figures = {"mean": values.mean(), "std": values.std(correction=0), "norm": values.norm()}
    figures |= {"min": values.min(), "max": values.max()}
    return record | {k: rounded(float(v)) for k, v in figures.items()} | {"sha256": digest}


def _json(form: Canonical, path: Path) -> tuple[str, str]:
    return ".json", form.dump(json.loads(path.read_text("utf-8")))


def _jsonl(form: Canonical, path: Path) -> tuple[str, str]:
    lines = [line for line in path.read_text("utf-8").splitlines() if line.strip()]
    text = form.lines([json.loads(line) for line in lines])
    if path.name in UNORDERED:
        text = "".join(sorted(text.splitlines(keepends=True)))
    return ".jsonl", text


def _csv(form: Canonical, path: Path) -> tuple[str, str]:
    rows = csv.DictReader(io.StringIO(path.read_text("utf-8"), newline=""))
    return ".jsonl", form.lines([{k: _number(v) for k, v in row.items()} for row in rows])


def _number(text: Any) -> Any:
    try:
        return float(text) if re.fullmatch(r"-?\d+\.\d+(e[-+]?\d+)?", text) else text
    except TypeError:
        return text


def _parquet(form: Canonical, path: Path) -> tuple[str, str]:
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    schema = {"schema": {field.name: str(field.type) for field in table.schema}}
    return ".jsonl", form.lines([schema, *table.to_pylist()])


def _safetensors(form: Canonical, path: Path) -> tuple[str, str]:
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        tensors = {name: tensor(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118
        return ".json", form.dump({"metadata": file.metadata() or {}, "tensors": tensors})


def _pt(form: Canonical, path: Path) -> tuple[str, str]:
    return ".json", form.dump(_plain(torch.load(path, weights_only=True)))


def _plain(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return tensor(value)
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value


def _gguf(form: Canonical, path: Path) -> tuple[str, str]:
    from gguf import GGUFReader

    reader = GGUFReader(path)
    fields = {name: str(field.contents()) for name, field in reader.fields.items()}
    tensors = {t.name: tensor(torch.tensor(np.array(t.data))) for t in reader.tensors}
    return ".json", form.dump({"fields": fields, "tensors": tensors})


def _html(form: Canonical, path: Path) -> tuple[str, str]:
    page = _Page()
    page.feed(path.read_text("utf-8"))
    charts = [json.dumps(form.value(_chart(chart))) for chart in page.charts]
    texts = _without_times(page.texts)
    return ".txt", form.text("\n".join([*texts, "", "charts:", *charts])) + "\n"


def _without_times(texts: Sequence[str]) -> list[str]:
    """A page's texts without the values of times and versions. Each stands behind its name."""
    kept = list(texts)
    for i in range(1, len(kept)):
        name = kept[i - 1].lower().replace(" ", "_")
        if name in SHOWN or DROPPED.fullmatch(name):
            kept[i] = "…"
    if "Seconds by stage" in kept:
        place = kept.index("Seconds by stage") + 2
        while place < len(kept) and re.fullmatch(r"[\d.,]+", kept[place]):
            kept[place], place = "…", place + 2
    return kept


class _Page(HTMLParser):
    """The texts that a page shows, and the data of its charts."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.charts: list[Any] = []
        self._in: str | None = None
        self._script = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("script", "style"):
            self._in = "chart" if ("type", "application/json") in attrs else tag
            self._script = ""

    def handle_endtag(self, tag: str) -> None:
        if tag in ("script", "style"):
            if self._in == "chart":
                self.charts.append(json.loads(self._script))
            self._in = None

    def handle_data(self, data: str) -> None:
        if self._in:
            self._script += data
        elif text := " ".join(data.split()):
            self.texts.append(text)


def _chart(value: Any) -> Any:
    """A chart without its template, its packed numbers unpacked."""
    if isinstance(value, Mapping):
        if "bdata" in value:
            return np.frombuffer(base64.b64decode(value["bdata"]), value["dtype"]).tolist()
        return {k: _chart(v) for k, v in value.items() if k != "template"}
    return [_chart(v) for v in value] if isinstance(value, list) else value


def _text(form: Canonical, path: Path) -> tuple[str, str]:
    return ".txt", form.text(path.read_text("utf-8"))


def _bytes(form: Canonical, path: Path) -> tuple[str, str]:
    return ".json", form.dump(path.read_bytes())


FORMS: dict[str, Callable[[Canonical, Path], tuple[str, str]]] = {
    ".json": _json,
    ".jsonl": _jsonl,
    ".csv": _csv,
    ".parquet": _parquet,
    ".safetensors": _safetensors,
    ".pt": _pt,
    ".gguf": _gguf,
    ".html": _html,
    ".txt": _text,
    ".md": _text,
    ".py": _text,
    ".jinja": _text,
    ".sh": _text,
}


# What differs


def compare(a: Path, b: Path, most: int) -> Iterator[str]:
    """Lines that say what differs between two canonical folders; none where nothing does."""
    names = [{str(p.relative_to(f)) for p in f.rglob("*") if p.is_file()} for f in (a, b)]
    for which, only in (("A", names[0] - names[1]), ("B", names[1] - names[0])):
        others = names[1] if which == "A" else names[0]
        yield from (f"only in {which}: {part}" for part in _parts(only, others))
    for name in sorted(names[0] & names[1]):
        texts = [(f / name).read_text("utf-8") for f in (a, b)]
        if texts[0] == texts[1]:
            continue
        yield f"{name}"
        if name.endswith((".json", ".jsonl")):
            told = list(_values(*(_loaded(name, text) for text in texts)))
        else:
            lines = [text.splitlines() for text in texts]
            told = list(difflib.unified_diff(lines[0], lines[1], "A", "B", lineterm="", n=0))[2:]
        yield from (f"  {line}" for line in told[:most])
        if len(told) > most:
            yield f"  … and {len(told) - most} more"


def _parts(only: Iterable[str], others: Iterable[str]) -> list[str]:
    """Files that one side lacks; a folder that it lacks as a whole is one entry, with its count."""
    known = {str(parent) for name in others for parent in PurePath(name).parents}
    counts: Counter[str] = Counter()
    for name in only:
        parents = [str(parent) for parent in PurePath(name).parents if str(parent) not in known]
        counts[f"{parents[-1]}/" if parents else name] += 1
    return [f"{name}{_times(n)}" for name, n in sorted(counts.items())]


def _loaded(name: str, text: str) -> Any:
    if name.endswith(".json"):
        return json.loads(text)
    return [json.loads(line) for line in text.splitlines()]


def _values(a: Any, b: Any) -> Iterator[str]:
    """Keys that one side lacks, once for all rows of a list, and values that differ."""
    only: dict[str, dict[str, int]] = {"A": defaultdict(int), "B": defaultdict(int)}
    renamed: dict[tuple[str, str], int] = defaultdict(int)
    differing: dict[str, list[str]] = defaultdict(list)

    def walk(x: Any, y: Any, path: str) -> None:
        if isinstance(x, dict) and isinstance(y, dict):
            gone, come = [k for k in x if k not in y], [k for k in y if k not in x]
            for key in list(gone):
                alike = [k for k in come if _told(y[k]) == _told(x[key])]
                if len(alike) == 1 and sum(_told(x[k]) == _told(x[key]) for k in gone) == 1:
                    renamed[_join(path, key), alike[0]] += 1
                    gone.remove(key)
                    come.remove(alike[0])
            for which, keys in (("A", gone), ("B", come)):
                for key in keys:
                    only[which][_join(path, key)] += 1
            for key in (k for k in x if k in y):
                walk(x[key], y[key], _join(path, key))
        elif isinstance(x, list) and isinstance(y, list):
            if len(x) != len(y):
                differing[path].append(f"{len(x)} entries -> {len(y)} entries")
            for left, right in zip(x, y, strict=False):
                walk(left, right, f"{path}[*]")
        elif _told(x) != _told(y):
            differing[path].append(f"{_told(x)} -> {_told(y)}")

    walk(a, b, "")
    for (path, name), n in renamed.items():
        yield f"key renamed, same value: {path} -> {name}{_times(n)}"
    for which in ("A", "B"):
        yield from (f"key only in {which}: {path}{_times(n)}" for path, n in only[which].items())
    for path, found in differing.items():
        yield f"value differs: {path or '(all)'}{_times(len(found))}: {found[0]}"


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _times(n: int) -> str:
    return "" if n == 1 else f" (×{n})"


def _told(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    if len(text) <= 120:
        return text
    return f"{text[:100]}… ({hashlib.sha256(text.encode()).hexdigest()[:8]})"
