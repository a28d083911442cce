"""An answer of a system: what people see, apart from what the model thought and which tools it calls."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from trivet.models.engine import Completion, Usage
from trivet.models.operations import Continuation, StopReason
from trivet.models.reasoning import ReasoningMarkers
from trivet.systems.tool_calls import ToolCall, native_call, parse_tool_calls


@dataclass(frozen=True)
class Answer:
    """One answer.

    ``text`` is without reasoning and tool calls. ``reasoning_tokens`` counts the tokens of reasoning blocks,
    markers included; ``None`` where the engine shows no tokens. ``seconds_to_first_token``: see
    ``Completion``. ``decode`` turns token ids into text, ``None`` where the engine shows no tokens.
    ``system`` is ``name@hash12`` of the system that gave it.
    """

    text: str
    system: str
    stop_reason: StopReason
    usage: Usage
    seconds: float
    continuation: Continuation
    reasoning: str | None = None
    reasoning_tokens: int | None = 0
    tool_calls: tuple[ToolCall, ...] = ()
    seconds_to_first_token: float | None = None
    trace: tuple[dict[str, Any], ...] = ()
    decode: Callable[[Sequence[int]], str] | None = field(default=None, repr=False, compare=False)


def make_answer(
    completion: Completion,
    *,
    system: str,
    markers: ReasoningMarkers | None,
    opened: bool,
    decode: Callable[[Sequence[int]], str] | None,
    tools: Sequence[dict[str, Any]],
) -> Answer:
    """Take the finished completion apart.

    Args:
        opened: the prompt ended inside a reasoning block.
        decode: token ids to text; ``None`` where the engine shows no tokens.
        tools: JSON schemas of the tools that were offered.
    """
    text, reasoning, tokens = completion.text, None, 0 if decode or markers is None else None
    if markers is not None:
        separated = markers.separate(text, opened=opened)
        text, reasoning = separated.text, separated.reasoning
        if decode is not None:
            tokens = _tokens_in(separated.spans, completion.continuation.tokens, decode)
        elif not separated.spans:
            tokens = 0
    calls: tuple[ToolCall, ...] = ()
    if tools and completion.stop_reason != "blocked":
        names = [str(tool["function"]["name"]) for tool in tools]
        if completion.continuation.tool_calls:
            calls = tuple(map(native_call, completion.continuation.tool_calls))
        else:
            text, calls = parse_tool_calls(text, names)
    return Answer(
        text=text,
        system=system,
        stop_reason=completion.stop_reason,
        usage=completion.usage,
        seconds=completion.seconds,
        continuation=completion.continuation,
        reasoning=reasoning,
        reasoning_tokens=tokens,
        tool_calls=calls,
        seconds_to_first_token=completion.seconds_to_first_token,
        trace=completion.trace,
        decode=decode,
    )


def _tokens_in(
    spans: Sequence[tuple[int, int]], tokens: Sequence[int], decode: Callable[[Sequence[int]], str]
) -> int:
    """Tokens whose text lies in the character ranges, a token that straddles a border counting as inside."""
    total = 0
    for start, end in spans:
        total += _tokens_upto(tokens, end, decode) - _tokens_upto(tokens, start + 1, decode) + 1
    return min(total, len(tokens)) if tokens else 0


def _tokens_upto(tokens: Sequence[int], characters: int, decode: Callable[[Sequence[int]], str]) -> int:
    """The least number of tokens whose text has that many characters, by bisection."""
    low, high = 0, len(tokens)
    while low < high:
        middle = (low + high) // 2
        if len(decode(tokens[:middle])) >= characters:
            high = middle
        else:
            low = middle + 1
    return low
