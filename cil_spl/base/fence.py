"""The fence around ``_target_``: what a config may have called.

A config names functions and classes by their paths. It may come from somebody else, so what it names has to lie in this
package, or in a module that the user has named.
"""

from __future__ import annotations

from typing import Any

from cil_spl.base.errors import RequestError

# What configs of earlier versions name, and where it is now.
MOVED = {
    "cil_spl.observer.ChipObserver": "cil_spl.chip.observer.ChipObserver",
    "cil_spl.task.classification": "cil_spl.tasks.classification.classification",
}


def check_target(group: str, target: Any, extensions: list[str]) -> None:
    if not isinstance(target, str):
        raise RequestError(f"{group}._target_={target}: needs the path of a function")
    modules = ["cil_spl", *extensions]
    if not any(target == m or target.startswith(f"{m}.") for m in modules):
        raise RequestError(
            f"{group}._target_={target}: only functions of {', '.join(modules)} are run; if you trust that module, "
            f"allow it with extensions=[{target.rpartition('.')[0]}]"
        )


def locate(target: str) -> Any:
    """The object that a ``_target_`` names.

    Raises:
        RequestError: there is none.
    """
    from hydra.utils import get_object

    try:
        return get_object(target)
    except Exception as error:
        raise RequestError(f"_target_={target}: {error}") from None
