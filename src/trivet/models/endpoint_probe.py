"""What an OpenAI-compatible endpoint really does, found out by asking it a few tokens at a time."""

from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import openai

_MESSAGES = [{"role": "user", "content": "Write a short story about a journey."}]
_HOT = 2.0  # the highest temperature that every server accepts
_TOKENS = 12
_PIXEL = (
    "data:image/png;base64,"
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg=="
)
_TOOL = {
    "type": "function",
    "function": {"name": "lookup", "parameters": {"type": "object", "properties": {}}},
}


@dataclass(frozen=True)
class Probe:
    """What the endpoint was seen to do.

    ``sampling`` names fields of ``Sampling``; ``length_key`` the field that limits an answer's tokens.
    """

    sampling: frozenset[str]
    top_logprobs: int
    seed: bool
    tools: bool
    images: bool
    greedy_repeats: bool
    length_key: str

    def as_json(self) -> dict[str, Any]:
        """The probe as plain JSON."""
        return asdict(self) | {"sampling": sorted(self.sampling)}


def probe_endpoint(client: "openai.OpenAI", model: str) -> Probe:
    """Ask for at most 12 tokens some twenty times.

    A filter (``top_p``, ``top_k``, ``min_p``) is honoured when, at temperature 2, its strictest setting gives
    the greedy answer; that can only be seen where greedy answers repeat and hot ones differ, otherwise only
    ``temperature`` and ``top_p``, which the API itself defines, are taken as given. ``presence_penalty`` and
    ``frequency_penalty`` are part of the API and count as honoured where they are not refused.
    """

    length_key = "max_tokens"
    create: Any = client.chat.completions.create

    def ask(length: int = _TOKENS, **settings: Any) -> Any:
        arguments = {"temperature": 0.0, "messages": _MESSAGES, length_key: length} | settings
        return create(model=model, **arguments)

    def text(**settings: Any) -> str:
        return ask(**settings).choices[0].message.content or ""

    if not _accepted(ask):
        length_key = "max_completion_tokens"  # what newer models of some providers insist on
    greedy = text()
    greedy_repeats = greedy == text()
    hot_differs = greedy_repeats and any(text(temperature=_HOT) != greedy for _ in range(2))
    sampling = {"temperature", "top_p"}
    for name in ("presence_penalty", "frequency_penalty"):
        if _accepted(partial(ask, 1, **{name: 0.5})):
            sampling.add(name)
    if hot_differs:
        for name, strictest in (("top_k", 1), ("min_p", 1.0)):
            settings: dict[str, Any] = {"temperature": _HOT, "extra_body": {name: strictest}}
            if _accepted(partial(ask, **settings)) and text(**settings) == text(**settings) == greedy:
                sampling.add(name)
    return Probe(
        sampling=frozenset(sampling),
        top_logprobs=_most_logprobs(ask),
        seed=_accepted(lambda: ask(1, seed=1)) and _seed_works(text),
        tools=_accepted(lambda: ask(1, tools=[_TOOL])),
        images=_accepted(lambda: ask(1, messages=_image_messages())),
        greedy_repeats=greedy_repeats,
        length_key=length_key,
    )


def _accepted(ask: Any) -> bool:
    """True where the endpoint does not refuse the request; faults of the connection still raise."""
    import openai

    try:
        ask()
    except (openai.BadRequestError, openai.UnprocessableEntityError, openai.NotFoundError):
        return False
    except openai.InternalServerError:
        return False  # several servers answer 500 to a setting that they do not know
    return True


def _most_logprobs(ask: Any) -> int:
    import openai

    for count in (20, 5, 1):
        try:
            answer = ask(1, logprobs=True, top_logprobs=count)
        except openai.APIStatusError:
            continue
        entries = getattr(answer.choices[0].logprobs, "content", None)
        if entries and entries[0].top_logprobs:
            return count
    return 0


def _seed_works(text: Any) -> bool:
    first = text(temperature=_HOT, seed=1)
    return bool(first == text(temperature=_HOT, seed=1) != text(temperature=_HOT, seed=2))


def _image_messages() -> list[dict[str, Any]]:
    return [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "What is this?"},
                {"type": "image_url", "image_url": {"url": _PIXEL}},
            ],
        }
    ]
