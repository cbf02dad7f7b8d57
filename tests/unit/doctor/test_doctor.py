"""`personavec doctor`: what it finds, how fast, and what it must not tell."""

import getpass
import json
import os
import subprocess
import sys
import tomllib
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch
from no_weights import hide_weights

from personavec.doctor import run
from personavec.doctor.caches import HOLDS, sizes
from personavec.doctor.device import chosen
from personavec.doctor.extras import ADDS, find_extras
from personavec.doctor.privacy import private
from personavec.doctor.processor import features, quota
from personavec.doctor.results import Cache
from personavec.doctor.terminal import said_extra, said_processor, said_size, show
from personavec.model.embedded import INSTALL_EMBEDDED
from personavec.model.loading import choose_device

ROOT = Path(__file__).parents[3]
EXTRAS: dict[str, list[str]] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))[
    "project"
]["optional-dependencies"]
#: As a package's metadata has the extras' requirements.
REQUIREMENTS = [f'{r}; extra == "{name}"' for name, rs in EXTRAS.items() for r in rs]
SECRET = "sk-0123456789"


def doctor(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own."""
    code = (
        "import sys\nfrom personavec.cli.main import main\n"
        "try:\n main(['doctor', *sys.argv[1:]])\n"
        "finally:\n assert not {'torch', 'transformers'} & sys.modules.keys()"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **variables}
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def test_it_answers_at_once_and_loads_no_torch() -> None:
    before = os.times().children_user
    ended = doctor("--json")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert os.times().children_user - before < 2
    found = json.loads(ended.stdout)
    assert found["versions"]["torch"] == torch.__version__
    assert found["versions"]["transformers"] == metadata.version("transformers")
    assert found["versions"]["python"] == sys.version.split()[0]
    assert found["weights"]["file"].endswith(".gguf")
    assert Path(found["weights"]["file"].replace("~", str(Path.home()))).is_file()


def test_it_names_the_device_that_models_are_loaded_on() -> None:
    assert run().device.name == choose_device(None)


@pytest.mark.parametrize(
    ("built", "accelerators", "has_rocm", "device"),
    [
        ("cuda: Optional[str] = '12.8'\nhip: Optional[str] = None\n", ["H200"], False, "cuda"),
        ("cuda: Optional[str] = '12.8'\nhip: Optional[str] = None\n", [], True, "cpu"),
        ("cuda: Optional[str] = None\nhip: Optional[str] = '6.4'\n", [], True, "cuda"),
        ("cuda: Optional[str] = None\nhip: Optional[str] = None\n", ["H200"], True, "cpu"),
        ("cuda = '12.8'\n", ["H200"], False, "cuda"),
    ],
)
def test_the_device_follows_torchs_build_and_what_is_there(
    built: str, accelerators: list[str], has_rocm: bool, device: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(sys, "platform", "linux")
    assert chosen(built, accelerators, has_rocm=has_rocm)[0] == device


def test_the_processors_features_are_read_from_its_flags() -> None:
    assert features("flags\t\t: fpu avx2 avx512f\nflags\t\t: fpu\n") == {
        "avx2": True, "avx512": True, "avx512_bf16": False, "amx_bf16": False,
    }  # fmt: skip
    arm = features("processor: 0\nFeatures\t: fp asimd bf16\n")
    assert arm == {"neon": True, "sve": False, "i8mm": False, "bf16": True}
    assert features("model name: other\n") == {}
    assert (quota("150000 100000\n"), quota("max 100000\n"), quota("")) == (1.5, None, None)


@pytest.mark.parametrize(
    ("flags", "meant"),
    [
        ("avx2 avx512f avx512_bf16", "fast with those for bf16, and need no amx_bf16"),
        ("avx2 avx512f avx512_bf16 amx_bf16", "fast with those for bf16"),
        ("avx2 avx512f", "models run but take longer"),
    ],
)
def test_what_the_instructions_mean_is_said(flags: str, meant: str) -> None:
    found = replace(run().processor, features=features(f"flags\t\t: {flags}\n"))
    assert said_processor(found).endswith(meant)


def test_every_cache_says_what_it_holds() -> None:
    assert [cache.name for cache in run().caches] == list(HOLDS)
    assert "no such" not in said_size(Cache("models", "~/x", None, whole=True))


def test_each_extra_says_what_is_missing_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = {"datasets": "5.0", "peft": "0.17", "vllm": "0.31.0"}

    def version(name: str) -> str:
        if name not in installed:
            raise metadata.PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr(metadata, "version", version)
    found = {extra.name: extra.missing for extra in find_extras([*REQUIREMENTS, "torch>=2.4"])}
    assert found.keys() == set(EXTRAS) - {"test"} == set(ADDS)
    assert found["datasets"] == []
    assert found["finetune"] == ["trl>=1.16"]
    assert found["vllm"] == ["vllm<0.33,>=0.32 (0.31.0 is installed)"]
    assert found["ray"] == ["ray>=2.50"]
    (unknown, *_) = find_extras(["torch>=2.4"])
    assert "install the package again" in unknown.missing[0]
    said = {extra.name: said_extra(extra) for extra in find_extras(REQUIREMENTS)}
    assert said["datasets"] == "yes"
    assert said["vllm"] == "no: lacks vllm<0.33,>=0.32 (0.31.0 is installed)"
    assert said_extra(unknown) == unknown.missing[0]


def test_a_package_that_only_lies_on_the_path_has_extras_that_are_unknown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def requires(name: str) -> list[str]:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "requires", requires)
    assert all("install the package again" in extra.missing[0] for extra in run().extras)


def test_it_tells_no_key_and_no_user(tmp_path: Path) -> None:
    home, cache = tmp_path / "people" / "jane.doe", tmp_path / "scratch" / "jane.doe" / "cache"
    (home / ".cache").mkdir(parents=True)
    cache.mkdir(parents=True)
    (cache / "weights").write_bytes(bytes(3 << 20))
    secret = {"PERSONAVEC_API_KEY": SECRET, "HF_TOKEN": SECRET, "OPENAI_API_KEY": SECRET}
    user = {"HOME": str(home), "LOGNAME": "jane.doe", "XDG_CACHE_HOME": ""}
    for arguments in ((), ("--json",)):
        ended = doctor(*arguments, **secret, **user, PERSONAVEC_CACHE=str(cache), COLUMNS="300")
        assert (ended.returncode, ended.stderr) == (0, "")
        assert SECRET not in ended.stdout
        assert "jane.doe" not in ended.stdout
        assert "~/.cache/huggingface/hub" in ended.stdout
        assert f"{tmp_path.name}/scratch/USER/cache" in ended.stdout
    cached: list[dict[str, Any]] = json.loads(ended.stdout)["caches"]
    assert [(c["name"], c["bytes"], c["whole"]) for c in cached] == [
        ("personavec", 3 << 20, True), ("models", None, True), ("datasets", None, True),
    ]  # fmt: skip


def test_a_home_right_below_the_root_names_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/cache")
    monkeypatch.setattr(getpass, "getuser", lambda: "jane")
    assert private(Path("/cache/personavec")) == "~/personavec"
    assert private(Path("/var/cache/jane/x")) == "/var/cache/USER/x"


def test_a_size_counts_no_link_twice_and_says_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blob = tmp_path / "blobs" / "a"
    blob.parent.mkdir()
    blob.write_bytes(bytes(5 << 20))
    (tmp_path / "snapshots").mkdir()
    (tmp_path / "snapshots" / "weights").symlink_to(blob)
    (tmp_path / "again").symlink_to(blob.parent)
    assert list(sizes(tmp_path)) == [5 << 20]
    monkeypatch.setenv("PERSONAVEC_CACHE", str(tmp_path))
    assert said_size(run().caches[0]) == "5 MiB"
    monkeypatch.setattr("personavec.doctor.caches.SECONDS", -1)
    assert said_size(run().caches[0]) == "over 5 MiB"


def test_without_the_weights_it_says_what_brings_them(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hide_weights(monkeypatch)
    weights = run().weights
    assert (weights.file, weights.converted, weights.install) == (None, False, INSTALL_EMBEDDED)
    show(run())
    assert INSTALL_EMBEDDED in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("columns", ["40", "80"])
def test_no_path_is_cut_in_a_narrow_terminal(columns: str, tmp_path: Path) -> None:
    deep = tmp_path.joinpath("a-rather-long-name-of-a-folder", "b" * 60)
    ended = doctor(PERSONAVEC_CACHE=str(deep), COLUMNS=columns)
    assert "…" not in ended.stdout
    assert str(deep) in ended.stdout
    # A path that is longer than the line stands alone on it, so that it can be copied.
    assert all(
        len(line) <= int(columns) or len(line.split()) == 1 for line in ended.stdout.splitlines()
    )
