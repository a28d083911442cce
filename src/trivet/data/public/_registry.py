"""What is known of each public set, and how one of its rows becomes one of ours."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any, NamedTuple

from trivet._validation import did_you_mean
from trivet.data.reading import text_field
from trivet.errors import DataError

MODULES = ("harmful", "preferences", "questions", "refusals", "statements")


class LeftOut(NamedTuple):
    """A row of the source that gives no row of ours, and why; counted, never dropped in silence."""

    reason: str


@dataclass(frozen=True)
class SourceRow:
    """A row as its source has it. ``where`` is its file and line, ``stem`` the file's name without suffix."""

    values: dict[str, Any]
    where: str
    stem: str

    def name(self, *names: str) -> str:
        """The first of ``names`` that is a field of the row; layouts of one set differ in them.

        Raises:
            DataError: none is.
        """
        for name in names:
            if name in self.values:
                return name
        nearest = did_you_mean(names[0], map(str, self.values))
        wanted = " or ".join(map(repr, names))
        raise DataError(f"the field {wanted} is missing", where=self.where, hint=nearest)

    def text(self, *names: str) -> str:
        """The text of the first of ``names`` that is a field.

        Raises:
            DataError: the field is missing, not text, or blank.
        """
        return text_field(self.values, self.name(*names), self.where)

    def optional(self, *names: str) -> str:
        """The text of the first of ``names`` that is a field and not empty, else ``""``."""
        for name in names:
            if self.values.get(name) not in (None, ""):
                return str(self.values[name])
        return ""

    def texts(self, name: str) -> list[str]:
        """The list of texts in a field.

        Raises:
            DataError: the field is missing or not a list of texts.
        """
        value = self.values[self.name(name)]
        if not isinstance(value, list) or not all(isinstance(part, str) for part in value):
            raise self.error(f"the field {name!r} must be a list of texts")
        return value

    def error(self, message: str) -> DataError:
        """A ``DataError`` at this row."""
        return DataError(message, where=self.where)


@dataclass(frozen=True)
class Hub:
    """A data set on the Hugging Face hub.

    ``files``: patterns of its files, by split. ``revision``: a full commit that somebody has published as
    loadable; ``None`` where we know of none, and then the caller names one.
    """

    repository: str
    files: Mapping[str, tuple[str, ...]]
    revision: str | None = None


Convert = Callable[[SourceRow], "dict[str, Any] | LeftOut"]


@dataclass(frozen=True)
class PublicSource:
    """A public data set.

    ``files``: patterns of the names of its files in a local copy, by split, the first split being the
    default. ``columns`` and ``records``: as in ``reading.read_rows``. ``convert``: one row of the source into
    the fields of a row of ``kind`` (without ``id`` where the source has none).
    """

    name: str
    title: str
    kind: str
    licence: str
    source: str
    files: Mapping[str, tuple[str, ...]]
    convert: Convert
    hub: Hub | None = None
    columns: Sequence[str] | None = None
    records: str | None = None

    @property
    def splits(self) -> tuple[str, ...]:
        """The names of its splits, the default first."""
        return tuple(self.files)


_SOURCES: dict[str, PublicSource] = {}


def public_set(
    *,
    title: str,
    kind: str,
    licence: str,
    source: str,
    files: Mapping[str, tuple[str, ...]],
    hub: Hub | None = None,
    columns: Sequence[str] | None = None,
    records: str | None = None,
) -> Callable[[Convert], Convert]:
    """Register the decorated conversion of one row under the function's own name."""

    def register(convert: Convert) -> Convert:
        name = convert.__name__
        if name in _SOURCES:
            raise ValueError(f"the public set {name!r} is registered twice")
        _SOURCES[name] = PublicSource(
            name, title, kind, licence, source, files, convert, hub, columns, records
        )
        return convert

    return register


@cache
def sources() -> Mapping[str, PublicSource]:
    """All public sets by name, sorted."""
    for module in MODULES:
        import_module(f"trivet.data.public.{module}")
    return dict(sorted(_SOURCES.items()))


def public_names() -> tuple[str, ...]:
    """The names of the public sets that can be loaded, sorted."""
    return tuple(sources())


def find(name: str) -> PublicSource:
    """What is known of the set ``name``; a hyphen counts as an underscore.

    Raises:
        DataError: there is no such set; names the nearest.
    """
    found = sources().get(name.replace("-", "_").lower())
    if found is None:
        raise DataError(f"there is no public set {name!r}", hint=did_you_mean(name, sources()))
    return found
