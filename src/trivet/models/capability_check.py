"""Refuse a request that an engine cannot serve faithfully, naming what it asks for."""

from typing import Any

from trivet.errors import UnsupportedError
from trivet.models.engine import Capabilities, Request


def check_request(request: Request, capabilities: Capabilities) -> None:
    """Refuse what the engine cannot do faithfully.

    Raises:
        UnsupportedError: names what is asked for and not possible.
    """
    default = type(request.sampling)()
    for name in request.sampling.__dataclass_fields__:
        if getattr(request.sampling, name) != getattr(default, name) and name not in capabilities.sampling:
            raise UnsupportedError(f"the engine does not honour the sampling setting {name!r}")
    for hook, used in (
        ("logits", request.hooks.logits),
        ("activations", request.hooks.activations),
        ("gate", request.hooks.gates),
    ):
        if used and hook not in capabilities.hooks:
            raise UnsupportedError(
                f"the engine has no {hook} hook", hint="use the PyTorch engine (engine: torch)"
            )
    if request.top_logprobs > capabilities.top_logprobs:
        raise UnsupportedError(
            f"the engine returns at most {capabilities.top_logprobs} alternatives a token, "
            f"{request.top_logprobs} are asked for"
        )
    if request.text is not None and "extend_prefix" not in capabilities.operations:
        raise UnsupportedError(
            "the engine takes chats, not plain text to be continued",
            hint="use the PyTorch engine (engine: torch)",
        )
    if request.tools and not capabilities.tools:
        raise UnsupportedError("the engine does not take tools")
    if not capabilities.images and any(_has_image(message) for message in request.chat):
        raise UnsupportedError("the engine does not take images")


def _has_image(message: dict[str, Any]) -> bool:
    content = message.get("content")
    return isinstance(content, list) and any(
        isinstance(part, dict) and part.get("type") not in {"text", None} for part in content
    )
