"""From what --model says to a model of the zoo, or to a network of the user's own."""

import re

from vidattr_bench import plugins
from vidattr_bench.model import ModelEntry

_OWN = re.compile(r"([A-Za-z_][\w.]*):([A-Za-z_]\w*(?:\.\w+)*)(,.*)?", re.DOTALL)


def create_model(text: str) -> ModelEntry:
    """A configured model from a spec (`tiny3d:seed=1`), or from `pkg.mod:function` and options of `factory`.

    Raises:
        PluginError: unknown model or option.
        ModelError: the function cannot be imported.
    """
    own = _OWN.fullmatch(text.strip())
    if own is not None:
        text = f"factory:callable={own[1]}.{own[2]}{own[3] or ''}"
    entry: ModelEntry = plugins.create("models", text)
    return entry


def imported_by(text: str) -> str:
    """The callable that building this model imports and runs, or nothing for a model of the zoo."""
    return str(getattr(create_model(text), "callable", ""))
