"""The methods that a system is built from: a decoding method and guards, with the judges that they use."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trivet import catalogue, judges
from trivet._validation import Config, validate
from trivet.errors import ConfigError
from trivet.judges.base import Judge
from trivet.systems.spec import anchored_model


@dataclass(frozen=True)
class Part:
    """A method of the catalogue with its settings.

    ``judges`` are those that the settings name, by the setting's key. They are built when the part is.
    ``models`` are those that run beside the system's own, by the name that the method gives them.
    """

    method: catalogue.Method
    config: Config
    judges: Mapping[str, Judge]
    models: Mapping[str, str] = field(default_factory=dict)

    def make(self, *arguments: Any) -> Any:
        """Call the method's function: a decoding method gives a program, a guard gives the hooks of one
        request."""
        return self.method.function(self.config, *arguments, **self.judges)

    @property
    def reads_chat(self) -> bool:
        """Whether the chat matters to it, and not the prompt's tokens alone: wherever answers are judged.

        A configuration that knows better has a property ``reads_chat``.
        """
        return bool(getattr(self.config, "reads_chat", "judge" in self.method.needs))

    def content(self) -> dict[str, Any]:
        """What determines its results: name, version and settings, each judge by its identity.

        A configuration whose dump does not say it all, or holds more than that, has a method ``content``.
        """
        content = getattr(self.config, "content", None)
        settings = content() if content is not None else self.config.model_dump(mode="json")
        settings |= {key: judge.identity for key, judge in self.judges.items()}
        return {"method": self.method.name, "version": self.method.version, "config": settings}


def decoding_part(settings: Mapping[str, Any], *, base: Path, where: str) -> Part:
    """The decoding method that ``{"method": NAME, …}`` names.

    Raises:
        ConfigError: there is no such method, or its settings are wrong.
        JudgeError: its judge cannot be built.
    """
    return _part("decode", "method", settings, base, where)


def guard_part(settings: Mapping[str, Any], *, base: Path, where: str) -> Part:
    """The guard that ``{"guard": NAME, …}`` names. Its function takes the settings and gives ``Hooks``.

    Raises:
        ConfigError: there is no such guard, or its settings are wrong.
        JudgeError: its judge cannot be built.
    """
    return _part("guard", "guard", settings, base, where)


def _part(room: str, key: str, settings: Mapping[str, Any], base: Path, where: str) -> Part:
    settings = dict(settings)
    name = settings.pop(key)
    if not catalogue.names(room):
        raise ConfigError(f"unknown {key} {name!r}: there are no {room} methods yet", where=where)
    method = catalogue.find(f"{room}/{name}")
    config = validate(method.config, settings, where=f"{where}: {room} {name}")
    found = {"judge": config.judge} if "JudgeArtifact" in method.takes and hasattr(config, "judge") else {}
    # A method with several judges names them: the keyword of its function → the judge's specification.
    found |= getattr(config, "judge_specs", {})
    resolved = {key: judges.resolve(spec, base=base) for key, spec in found.items()}
    # A method that reads other models names them: its own name for one → the model's.
    names: Mapping[str, str] = getattr(config, "model_names", {})
    return Part(method, config, resolved, {key: anchored_model(name, base) for key, name in names.items()})
