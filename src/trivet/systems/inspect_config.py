"""Inspect's ``GenerateConfig`` as the options of a request: each field is honoured or refused by name."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trivet._validation import did_you_mean
from trivet.errors import UnsupportedError
from trivet.models.engine import Engine
from trivet.systems.checks import takes_tokens
from trivet.systems.spec import SamplingSpec

if TYPE_CHECKING:
    from inspect_ai.model import GenerateConfig

INSPECT_OWN = frozenset(
    {
        "max_retries", "timeout", "attempt_timeout", "stream_idle_timeout", "max_connections",
        "adaptive_connections", "system_message", "internal_tools", "max_tool_output", "fail_on_refusal",
        "reasoning_history", "cache", "batch",
    }
)  # fmt: skip
"""Fields that Inspect carries out itself, around the provider."""

SAMPLING = frozenset({"temperature", "top_p", "top_k", "frequency_penalty", "presence_penalty", "logit_bias"})
HONOURED = SAMPLING | {
    "max_tokens", "stop_seqs", "seed", "num_choices", "logprobs", "top_logprobs", "parallel_tool_calls",
    "extra_body", "cache_prompt",
}  # fmt: skip

_ADVICE = {
    "best_of": "a system's own decoding method does it: decode: {method: best_of_n, …}",
    "response_schema": "ask for the format in the prompt and check the answer",
    "reasoning_tokens": "max_tokens bounds reasoning and answer together",
}


@dataclass(frozen=True)
class Options:
    """What a request asks for beyond the chat. ``None`` means the system's own value."""

    max_tokens: int | None
    sampling: Mapping[str, Any]
    stop: tuple[str, ...]
    seed: int | None
    choices: int
    logprobs: bool
    top_logprobs: int
    one_tool_call: bool


def read_config(config: "GenerateConfig") -> Options:
    """Read what a request's configuration sets.

    ``extra_body`` may hold the settings that Inspect has no field for: ``min_p`` and ``repetition_penalty``.

    Raises:
        UnsupportedError: names the first field that is set and cannot be honoured.
    """
    given = {name for name in type(config).model_fields if getattr(config, name) is not None}
    for name in sorted(given - INSPECT_OWN - HONOURED):
        raise UnsupportedError(
            f"trivet systems do not honour GenerateConfig.{name}",
            hint=_ADVICE.get(name, f"leave {name} out"),
        )
    if config.cache_prompt is False:
        raise UnsupportedError("trivet systems do not honour GenerateConfig.cache_prompt = False")
    sampling = {name: getattr(config, name) for name in sorted(given & SAMPLING)}
    return Options(
        max_tokens=config.max_tokens,
        sampling={**sampling, **_extra(config.extra_body or {})},
        stop=tuple(config.stop_seqs or ()),
        seed=config.seed,
        choices=config.num_choices or 1,
        logprobs=bool(config.logprobs),
        top_logprobs=(config.top_logprobs or 0) if config.logprobs else 0,
        one_tool_call=config.parallel_tool_calls is False,
    )


def check_options(options: Options, engine: Engine, *, where: str) -> None:
    """Refuse what this engine cannot honour; sampling settings are checked by the engine itself.

    Raises:
        UnsupportedError: names the field.
    """
    kind = engine.description.get("engine", "chosen")
    if options.seed is not None and not engine.capabilities.seed:
        raise UnsupportedError(
            f"the {kind} engine does not honour GenerateConfig.seed", where=where, hint="leave seed out"
        )
    if options.logprobs and not takes_tokens(engine):
        raise UnsupportedError(
            f"the {kind} engine shows no tokens, which GenerateConfig.logprobs needs",
            where=where,
            hint="use the PyTorch engine (engine: torch)",
        )


def _extra(body: Mapping[str, Any]) -> dict[str, Any]:
    known = set(SamplingSpec.model_fields) - SAMPLING
    for name in body:
        if name not in known:
            raise UnsupportedError(
                f"trivet systems do not honour GenerateConfig.extra_body[{name!r}]",
                hint=did_you_mean(name, known),
            )
    return dict(body)
