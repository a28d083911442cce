"""Options of the verbs that open a system."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from trivet.systems import System

Function = TypeVar("Function", bound=Callable[..., Any])

EMBEDDED = "smollm2-135m-instruct"


def engine_options(function: Function) -> Function:
    """``--engine``, ``--device`` and ``--dtype``."""
    for option in (
        click.option("--dtype", help="float32, bfloat16, float16, or auto."),
        click.option("--device", help="Such as cpu or cuda:0; by default the system's own, else auto."),
        click.option("--engine", help="torch, llamacpp, or auto; by default the system's own, else auto."),
    ):
        function = option(function)
    return function


@contextmanager
def open_system(source: str, engine: str | None, device: str | None, dtype: str | None) -> "Iterator[System]":
    """Open the system that a path or a model's name means, and close its engine at the end.

    Where neither the options nor the system name an engine, it is ``auto``: here people talk to a model, and
    nothing is compared.

    Raises:
        TrivetError: its specification is wrong, or its model cannot be loaded.
    """
    from trivet._validation import validate
    from trivet.models.engines import close_engines
    from trivet.systems import System, SystemSpec, load_spec

    spec, folder = load_spec(source)
    if engine is None and "engine" not in spec.model_fields_set:
        engine = "auto"
    given = {"engine": engine, "device": device, "dtype": dtype}
    values = {**spec.model_dump(), **{key: value for key, value in given.items() if value is not None}}
    try:
        yield System(validate(SystemSpec, values, where=source), base=folder).open()
    finally:
        close_engines()
