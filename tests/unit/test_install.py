"""What installs the package: its metadata, the Dockerfile, and what the documentation says."""

import ast
import json
import re
import shlex
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch
from no_weights import hide_weights
from tiny_models import build, random_vector, saved
from transformers import BitsAndBytesConfig

from personavec.cli import app
from personavec.cli.main import main
from personavec.doctor.extras import ADDS
from personavec.errors import ModelError, PersonavecError, missing_extra
from personavec.model import embedded_gguf
from personavec.model.embedded import EMBEDDED_PACKAGE, INSTALL_EMBEDDED
from personavec.model.sources import from_pretrained
from personavec.serve import ServeConfig, serving
from personavec.serve.config import ServeInputs

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "personavec"
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
DOCKERFILE = (ROOT / "Dockerfile").read_text("utf-8")
#: What a requirement is called where it is imported.
IMPORTED = {
    "lazy-loader": "lazy_loader", "lm-eval": "lm_eval", "prometheus-client": "prometheus_client",
    "scikit-learn": "sklearn", "sse-starlette": "sse_starlette",
}  # fmt: skip
#: What is imported and comes with a requirement of ours, by the name of its package.
WITH_OTHERS = {
    "jinja2": ("torch", "jinja2"),
    "pydantic_core": ("pydantic", "pydantic-core"),
    "starlette": ("fastapi", "starlette"),
    "tokenizers": ("transformers", "tokenizers"),
    "typing_extensions": ("pydantic", "typing-extensions"),
}


def imported_as(requirement: str) -> str:
    name = re.match(r"[\w-]+", requirement)
    assert name is not None
    return IMPORTED.get(name[0], name[0])


def imports(path: Path) -> set[str]:
    """The top-level packages that a file imports, wherever it does."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            found.add(node.module.partition(".")[0])
    return found - {"personavec", "_typeshed"} - sys.stdlib_module_names


def test_all_that_is_imported_is_required_by_the_core_or_an_extra() -> None:
    core = {imported_as(requirement) for requirement in PROJECT["dependencies"]}
    extra = {imported_as(r) for name, rs in EXTRAS.items() if name != "test" for r in rs}
    used = set().union(*map(imports, PACKAGE.rglob("*.py")))
    assert used - core - extra == set(WITH_OTHERS)
    server = set().union(*map(imports, (PACKAGE / "serve").rglob("*.py")))
    assert server <= core | set(WITH_OTHERS)


@pytest.mark.parametrize(("owner", "package"), WITH_OTHERS.values())
def test_what_comes_with_others_does(owner: str, package: str) -> None:
    required = [re.split(r"[^\w-]", text)[0] for text in metadata.requires(owner) or ()]
    assert owner in map(imported_as, PROJECT["dependencies"])
    assert package in (name.lower().replace("_", "-") for name in required)


def test_type_checkers_are_told_of_the_annotations() -> None:
    assert (PACKAGE / "py.typed").is_file()


def test_the_line_that_brings_the_weights_is_the_same_everywhere() -> None:
    pages = ["README.md", "docs/install.md"]
    assert all(f"\n{INSTALL_EMBEDDED}" in (ROOT / page).read_text("utf-8") for page in pages)
    pinned = INSTALL_EMBEDDED.rpartition(" ")[2]
    for name in ("Makefile", "Dockerfile", "README.md", "docs/install.md"):
        text = (ROOT / name).read_text("utf-8")
        assert set(re.findall(rf"{EMBEDDED_PACKAGE}==[\w.]+", text)) == {pinned}
    assert metadata.version(EMBEDDED_PACKAGE) == pinned.partition("==")[2]


def test_without_the_weights_one_line_says_what_brings_them(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hide_weights(monkeypatch)
    with pytest.raises(ModelError) as caught:
        embedded_gguf()
    assert str(caught.value).endswith(f"run: {INSTALL_EMBEDDED}")
    for command in (["steer", "Hi?", "--vectors", "evil"], ["serve", "--port", "0"]):
        with pytest.raises(SystemExit) as ended:
            main(command)
        assert ended.value.code == 1
        assert f"run: {INSTALL_EMBEDDED}" in capsys.readouterr().err


def test_the_table_of_extras_lists_those_that_there_are() -> None:
    text = (ROOT / "docs" / "install.md").read_text("utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \| ([^|]*?) \|", text.split("## Extras")[1], re.MULTILINE))
    listed = {name: rows[name] for name in ADDS}
    assert all(listed[name].startswith(adds) for name, adds in ADDS.items())
    assert set(ADDS) == set(EXTRAS) - {"test"}


def test_every_extra_that_is_asked_for_exists() -> None:
    asked = set()
    for path in [*PACKAGE.rglob("*.py"), *(ROOT / "docs").glob("*.md"), ROOT / "README.md"]:
        text = path.read_text("utf-8")
        asked |= set(re.findall(r'(?:missing_extra|check_extras)\("(\w+)"', text))
        for names in re.findall(r"personavec\[([\w,]+)\]", text):
            asked |= set(names.split(","))
    assert asked - {"EXTRA", "NAME", "smollm2"} == set(ADDS)  # The log tells of smollm2.
    assert all(f"pip install 'personavec[{name}]'" in str(missing_extra(name)) for name in ADDS)


@pytest.mark.parametrize("bits", [8, 4])
def test_a_quantised_model_without_its_extra_says_which_one_it_needs(
    bits: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = f"transformers.quantizers.quantizer_bnb_{bits}bit.is_bitsandbytes_available"
    monkeypatch.setattr(place, lambda: False)
    saved(tmp_path)
    config = BitsAndBytesConfig(load_in_8bit=bits == 8, load_in_4bit=bits == 4)
    with pytest.raises(PersonavecError, match=r"personavec\[quantise\]"):
        from_pretrained(str(tmp_path), torch.float32, {"quantization_config": config})


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions with their arguments."""
    joined = re.sub(r"\\\n\s*", "", re.sub(r"^#.*\n", "", DOCKERFILE, flags=re.MULTILINE))
    return [(line.split(" ")[0], line.partition(" ")[2]) for line in joined.splitlines() if line]


def arguments(name: str) -> list[str]:
    return [text for instruction, text in instructions() if instruction == name]


def test_the_container_has_what_it_copies() -> None:
    ignored = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    kept = {line[1:] for line in ignored if line.startswith("!")}
    copied = [shlex.split(text)[:-1] for text in arguments("COPY")]
    sources = {name for names in copied if "--from=build" not in names for name in names}
    assert "*" in ignored
    assert sources == kept
    assert all((ROOT / name).exists() for name in sources)
    # What the build reads, by pyproject.toml.
    assert {PROJECT["readme"], *PROJECT["license-files"], "src"} <= sources


def test_the_container_runs_as_a_user_and_keeps_caches_in_a_volume() -> None:
    (user,), (volume,), (environment,) = arguments("USER"), arguments("VOLUME"), arguments("ENV")
    assert int(user) >= 1000
    assert f"--uid {user} " in DOCKERFILE
    variables = dict(pair.split("=") for pair in environment.split())
    assert {"PERSONAVEC_CACHE", "HF_HOME"} <= variables.keys()
    assert all(Path(place).is_relative_to(volume) for place in variables.values())


def test_the_container_serves_to_other_addresses_with_a_key_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (line,) = arguments("ENTRYPOINT")
    program, *words = json.loads(line)
    assert program in PROJECT["scripts"]
    _, bound, _ = app.build(words).parse_args(words, exit_on_error=False, print_error=False)
    (inputs,) = (v for v in bound.arguments.values() if isinstance(v, ServeInputs))
    assert inputs.host == "0.0.0.0"
    (port,) = arguments("EXPOSE")
    assert int(port) == inputs.port
    monkeypatch.delenv("PERSONAVEC_API_KEY", raising=False)
    said = subprocess.run(
        [sys.executable, "-m", "personavec", *words, "--port", "0"], capture_output=True, text=True
    )
    assert said.returncode == 2
    assert "PERSONAVEC_API_KEY" in said.stderr


def test_the_containers_health_check_tells_a_server_from_none() -> None:
    (line,) = arguments("HEALTHCHECK")
    _, *code = json.loads(line.partition(" CMD ")[2])
    tiny = build()

    def healthy(url: str) -> bool:
        here = [part.replace("http://127.0.0.1:8000", url) for part in code]
        assert here != code
        return not subprocess.run([sys.executable, *here], stderr=subprocess.DEVNULL).returncode

    config = ServeConfig(name="tiny", api_key="secret")
    with serving(tiny, {"evil": random_vector(tiny, trait="evil")}, config) as (url, _):
        assert healthy(url)
    assert not healthy(url)
