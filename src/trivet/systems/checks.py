"""A system that needs what its engine lacks is refused with the reason, never approximated."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from trivet.errors import UnsupportedError
from trivet.models.engine import Engine
from trivet.models.operations import Chat, Sampling
from trivet.systems.parts import Part
from trivet.systems.spec import PLAIN

if TYPE_CHECKING:
    from trivet.systems.system import System

_ADVICE = "use the PyTorch engine (engine: torch) with the model's own weights"


def besides_the_model(system: "System") -> list[str]:
    """What a system has that its bare model has not, but for a system prompt."""
    method = system.spec.decode["method"]
    return [f"the decoding method {method}"] * (method != PLAIN) + ["guards"] * bool(system.guards)


def check_capabilities(engine: Engine, parts: Sequence[Part], sampling: Sampling, *, where: str) -> None:
    """Refuse what the engine cannot do faithfully.

    Raises:
        UnsupportedError: names the method or setting and what it needs.
    """
    capabilities = engine.capabilities
    kind = engine.description.get("engine", "this")
    offered = capabilities.operations | capabilities.hooks
    for part in parts:
        lacking = sorted(set(part.method.needs) - offered)
        if lacking:
            raise UnsupportedError(
                f"{part.method.name} needs {', '.join(lacking)}, which the {kind} engine does not offer",
                where=where,
                hint=_ADVICE,
            )
        _check_settings(part.config, part.method.name, engine, where)
    _check_settings(sampling, "sampling", engine, where)


def _check_settings(settings: Any, name: str, engine: Engine, where: str) -> None:
    """Sampling fields that differ from the neutral value must be among those that the engine honours."""
    neutral = Sampling()
    for field in Sampling.__dataclass_fields__:
        value = getattr(settings, field, getattr(neutral, field))
        if value != getattr(neutral, field) and field not in engine.capabilities.sampling:
            kind = engine.description.get("engine", "this")
            raise UnsupportedError(
                f"{name}: the {kind} engine does not honour {field!r}", where=where, hint=_ADVICE
            )


def takes_tokens(engine: Engine) -> bool:
    """Whether the engine shows token ids; endpoints take chats and give text."""
    return "extend_prefix" in engine.capabilities.operations


def check_tools(
    engine: Engine,
    chat: Chat,
    tools: Sequence[dict[str, Any]],
    tool_choice: str | dict[str, Any] | None,
    *,
    where: str,
) -> None:
    """Refuse tools that the model would never see, and a choice that cannot be forced.

    Raises:
        UnsupportedError: the chat template leaves the tools out, or ``tool_choice`` asks for a call.
    """
    if not tools or tool_choice == "none" or not takes_tokens(engine):
        return
    if tool_choice not in (None, "auto"):
        raise UnsupportedError(
            f"tool_choice {tool_choice!r}: this engine cannot force a tool call",
            where=where,
            hint='let the model decide (tool_choice "auto")',
        )
    if engine.render(chat, tools) == engine.render(chat):
        raise UnsupportedError(
            "the model's chat template does not show tools to the model",
            where=where,
            hint="use a model that was trained to call tools",
        )
