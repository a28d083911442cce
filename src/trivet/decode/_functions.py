"""A user's Python function as an objective: found by ``module:name``, checked, called beside the batch."""

import importlib
import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from operator import attrgetter
from pathlib import Path
from typing import Any

from trivet._files import sha256_file
from trivet.judges import Verdict, unscored
from trivet.models.operations import Chat

PARAMETERS = ("prompt", "continuation", "final")


@cache
def load_function(address: str) -> Callable[..., Any]:
    """The function that ``module:name`` means.

    Its parameters must be ``prompt``, ``continuation`` and ``final``: it was written as an objective, and a
    file from elsewhere cannot make any other function of this machine read a model's text.

    Raises:
        ValueError: says which part of the address is wrong.
    """
    module_name, _, name = address.partition(":")
    if not module_name or not name:
        raise ValueError(f"{address!r} is not of the form module:function")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise ValueError(
            f"the module {error.name!r} is not importable: install it or set PYTHONPATH"
        ) from None
    except Exception as error:  # whatever a user's module does when it is imported
        raise ValueError(f"importing {module_name!r} fails: {_said(error)}") from None
    try:
        function = attrgetter(name)(module)
    except AttributeError:
        raise ValueError(f"the module {module_name!r} has no {name!r}") from None
    if not callable(function):
        raise ValueError(f"{address!r} is not a function")
    try:
        found = tuple(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        found = ()
    if found != PARAMETERS:
        raise ValueError(f"{address!r} must take the parameters {', '.join(PARAMETERS)}")
    return function  # type: ignore[no-any-return]


def fingerprint(address: str) -> str:
    """SHA-256 of the file that defines the function, so that answers of an edited one are not taken over.

    Of the address alone where there is no such file.
    """
    try:
        return sha256_file(Path(inspect.getsourcefile(load_function(address)) or ""))
    except (OSError, TypeError):
        return address


@dataclass(frozen=True)
class FunctionCalls:
    """Calls ``function`` once for each (continuation, final) pair; as a scorer it runs beside the batch."""

    function: Callable[..., Any]
    prompt: str
    texts: tuple[tuple[str, bool], ...]

    def score(self, chats: Sequence[Chat]) -> list[Verdict]:
        """One verdict for each pair; a call that fails, or gives no finite number, is not scored."""
        return [self._one(continuation, final) for continuation, final in self.texts]

    def _one(self, continuation: str, final: bool) -> Verdict:
        try:
            value = float(self.function(prompt=self.prompt, continuation=continuation, final=final))
        except Exception as error:  # a user's function may raise anything
            return unscored(_said(error))
        return Verdict(value) if math.isfinite(value) else unscored(f"the function gave {value}")


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:200]
