"""The registry of methods: a method is known by its place and file name.

``src/trivet/merge/ties.py`` is ``merge/ties``. A file of a room is a method when it holds ``@method`` at the
top level and its name does not begin with an underscore, so listing reads files and imports none, and adding
a method edits nothing else. A third party installs a package whose sub-folders are named as the rooms and
registers it under the entry-point group ``trivet.methods``::

    [project.entry-points."trivet.methods"]
    acme = "acme_trivet.methods"

Its file ``decode/foo.py`` is then ``decode/acme/foo`` (``decode: {method: acme/foo}`` in a system).
"""

import importlib
import importlib.util
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, entry_points, requires
from pathlib import Path
from typing import Any, TypeVar

from trivet._validation import Config, did_you_mean
from trivet.errors import ConfigError

ENTRY_POINT_GROUP = "trivet.methods"

ROOMS = (
    "data",
    "judges",
    "train",
    "merge",
    "decode",
    "guard",
    "evaluate",
    "stress",
    "protect",
    "multimodal",
    "synthesize",
)

PORTS = frozenset(
    {"Chat", "Checkpoint", "DataSet", "System", "Log", "JudgeArtifact", "GuardArtifact", "Report"}
)
"""What may pass between two methods of a study. ``Checkpoint`` is a language model, or an adapter on one."""

_DECORATOR = re.compile(r"^@(?:catalogue\.|registry\.)?method\b", re.MULTILINE)
_NAME = re.compile(r"[a-z][a-z0-9_]*")
_IMPORT_NAMES = {"pillow": "PIL"}  # distributions whose module has another name

FunctionType = TypeVar("FunctionType", bound=Callable[..., Any])


@dataclass(frozen=True)
class Method:
    """One entry of the catalogue.

    ``paper`` is the arXiv id of its source, ``None`` where the method is common practice. ``version`` is
    raised when its results change. ``takes`` and ``gives`` are ports (``PORTS``), ``needs`` the engine
    operations and hooks without which it is refused.
    """

    name: str
    room: str
    module: str
    function: Callable[..., Any]
    config: type[Config]
    paper: str | None
    version: int
    takes: tuple[str, ...]
    gives: tuple[str, ...]
    needs: tuple[str, ...]


@dataclass(frozen=True)
class _Place:
    """Where a method lies, known without importing it."""

    module: str
    path: Path


_registered: dict[str, Method] = {}


def method(
    *,
    paper: str | None = None,
    version: int = 1,
    takes: tuple[str, ...] = (),
    gives: tuple[str, ...] = (),
    needs: tuple[str, ...] = (),
) -> Callable[[FunctionType], FunctionType]:
    """Register the function that plugs this file's method into its room; the function is returned unchanged.

    The file must define its frozen ``Config`` before the function, and holds one method.

    Raises:
        ConfigError: no ``Config``, an unknown port, a version below 1, or a second method in the same file.
    """

    def register(function: FunctionType) -> FunctionType:
        module = function.__module__
        config = function.__globals__.get("Config")
        if not (isinstance(config, type) and issubclass(config, Config) and config is not Config):
            raise ConfigError(
                "a method's file defines `class Config(trivet._validation.Config)` above the function",
                where=module,
            )
        unknown = sorted({*takes, *gives} - PORTS)
        if unknown:
            raise ConfigError(
                f"unknown port {unknown[0]!r}", where=module, hint=did_you_mean(unknown[0], PORTS)
            )
        if version < 1:
            raise ConfigError(f"a method's version is 1 or more (received {version})", where=module)
        name, room = _name_of(module)
        if name in _registered and _registered[name].function.__qualname__ != function.__qualname__:
            raise ConfigError(
                f"the method {name!r} is registered twice: a file holds one method",
                where=module,
                hint="move the second one to a file of its own",
            )
        _registered[name] = Method(name, room, module, function, config, paper, version, takes, gives, needs)
        return function

    return register


def _name_of(module: str) -> tuple[str, str]:
    """(name, room) of the method in ``module``; elsewhere than in a known place its last parts name it."""
    for name, place in _places().items():
        if place.module == module:
            return name, name.split("/", 1)[0]
    room, _, stem = module.rpartition(".")
    room = room.rpartition(".")[2] or "local"
    return f"{room}/{stem}", room


def names(room: str | None = None) -> list[str]:
    """Names of all methods, sorted, or of those in one room; no method is imported.

    Raises:
        ConfigError: two files or packages claim one name, or a plug-in package is broken.
    """
    return sorted(name for name in _places() if room is None or name.startswith(f"{room}/"))


def source_file(name: str) -> Path:
    """The file of the method ``name``.

    Raises:
        ConfigError: the name is unknown.
    """
    return _place(name).path


def skipped() -> dict[str, str]:
    """Plug-in packages that were left out because an optional package is absent: name → hint."""
    return dict(_plugins()[1])


def find(name: str) -> Method:
    """Import the method ``name`` (``room/file_name``, or ``room/package/file_name`` of a plug-in).

    Raises:
        ConfigError: the name is unknown, or a package that the method needs is not installed.
    """
    place = _place(name)
    try:
        importlib.import_module(place.module)
    except ModuleNotFoundError as error:
        own = place.module.split(".", 1)[0]
        if error.name is None or error.name.split(".", 1)[0] == own:
            raise  # the package's own file is missing: a defect, not an absent option
        raise ConfigError(
            f"the method {name!r} needs the package {error.name!r}, which is not installed",
            hint=_install_hint(error.name),
        ) from None
    if name not in _registered:
        raise ConfigError("the file holds @method but registers nothing when imported", where=str(place.path))
    return _registered[name]


def _place(name: str) -> _Place:
    place = _places().get(name)
    if place is None:
        known = names(name.split("/", 1)[0]) or names()
        raise ConfigError(f"unknown method {name!r}", hint=did_you_mean(name, known))
    return place


def _install_hint(module: str) -> str:
    """How to install the package that holds ``module``: one of Trivet's extras where it is in one."""
    top = module.split(".", 1)[0]
    try:
        requirements = requires("trivet") or []
    except PackageNotFoundError:
        requirements = []
    for requirement in requirements:
        distribution = re.match(r"[A-Za-z0-9._-]+", requirement)
        extra = re.search(r"extra\s*==\s*['\"]([^'\"]+)['\"]", requirement)
        if distribution is None or extra is None or extra[1] == "dev":
            continue
        if _IMPORT_NAMES.get(distribution[0], distribution[0]).replace("-", "_").lower() == top.lower():
            return f"pip install 'trivet[{extra[1]}]'"
    return f"pip install {top}"


@cache
def _places() -> dict[str, _Place]:
    """Every method's place by its name."""
    found: dict[str, _Place] = {}
    root = Path(__file__).resolve().parent.parent
    sources = [("", "trivet", root)]
    sources += [(f"{name}/", package, folder) for name, package, folder in _plugins()[0]]
    for prefix, package, folder in sources:
        for room, stem, place in _scan(package, folder):
            name = f"{room}/{prefix}{stem}"
            if name in found:
                raise ConfigError(
                    f"two files claim the method {name!r}: {found[name].path} and {place.path}",
                    where=ENTRY_POINT_GROUP if prefix else str(folder),
                    hint="rename one of them",
                )
            found[name] = place
    return found


def _scan(package: str, folder: Path) -> Iterator[tuple[str, str, _Place]]:
    """(room, stem, place) of each method file of one package."""
    for room in ROOMS:
        files = sorted((folder / room).glob("*.py")) + sorted((folder / room).glob("*/__init__.py"))
        for path in files:
            stem = path.parent.name if path.name == "__init__.py" else path.stem
            if path.parent == folder / room and path.name == "__init__.py":
                continue
            if _NAME.fullmatch(stem) and _DECORATOR.search(path.read_text(encoding="utf-8")):
                yield room, stem, _Place(f"{package}.{room}.{stem}", path)


@cache
def _plugins() -> tuple[list[tuple[str, str, Path]], dict[str, str]]:
    """Plug-in packages as (name, package, folder), and those skipped with the reason."""
    found: list[tuple[str, str, Path]] = []
    left_out: dict[str, str] = {}
    seen: dict[str, str] = {}
    for point in sorted(entry_points(group=ENTRY_POINT_GROUP), key=lambda point: (point.name, point.value)):
        if seen.setdefault(point.name, point.value) != point.value:
            raise ConfigError(
                f"two installed packages register methods as {point.name!r}:"
                f" {seen[point.name]} and {point.value}",
                where=ENTRY_POINT_GROUP,
                hint="uninstall one of them",
            )
        if any(point.name == name for name, _, _ in found):
            continue  # the same distribution seen twice on the path
        if not _NAME.fullmatch(point.name):
            raise ConfigError(
                f"a plug-in's name holds lower-case letters, digits and underscores, not {point.name!r}",
                where=ENTRY_POINT_GROUP,
            )
        try:
            module = importlib.import_module(point.module)
        except ModuleNotFoundError as error:
            if error.name is None or error.name.split(".", 1)[0] == point.module.split(".", 1)[0]:
                raise
            left_out[point.name] = f"{error.name} is not installed; {_install_hint(error.name)}"
            continue
        found += [(point.name, point.module, Path(folder)) for folder in list(module.__path__)[:1]]
    return found, left_out


def forget() -> None:
    """Look for methods anew, e.g. after a package was installed in this process."""
    _places.cache_clear()
    _plugins.cache_clear()
