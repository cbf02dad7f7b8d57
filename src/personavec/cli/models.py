"""personavec models list | show"""

from __future__ import annotations

from personavec.cli.groups import ModelLoading, PrintOptions
from personavec.results import dump


def list_models(*, output: PrintOptions = PrintOptions()) -> None:
    """List the embedded model and its vectors. Example: `personavec models list`"""
    from personavec.model.description import list_models
    from personavec.model.terminal import show_list

    found = list_models()
    output.tell(dump(found), lambda: show_list(found))


def show(
    model: str = "smollm2",
    /,
    *,
    loading: ModelLoading = ModelLoading(),
    output: PrintOptions = PrintOptions(),
) -> None:
    """Load a model and show what was found in it. Example: `personavec models show smollm2`

    Parameters
    ----------
    model
        smollm2, a Hugging Face id, a folder or a .gguf file.
    """
    from personavec.model import terminal
    from personavec.model.description import describe

    found = describe(loading.load(model))
    output.tell(dump(found), lambda: terminal.show(found))
