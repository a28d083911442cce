"""Log-likelihoods of given continuations under the bare model, a diagnostic and not a leg."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from trivet.errors import UnsupportedError
from trivet.models.engine import Request
from trivet.models.operations import Chat, Commit, Continuation, Program, ProgramContext, Score, Tokens
from trivet.systems.checks import besides_the_model
from trivet.systems.waiting import Pending

if TYPE_CHECKING:
    from trivet.systems.system import System


def submit_scores(system: "System", prompt: str | Chat, continuations: Sequence[str]) -> Pending[list[float]]:
    """Score each continuation after the prompt; the answer is one number for each.

    Raises:
        UnsupportedError: the system is more than a model and a system prompt, or the engine cannot score.
        ValueError: a continuation or a plain-text prompt is empty.
    """
    _check(system)
    if not all(continuations) or not (prompt.strip() if isinstance(prompt, str) else prompt):
        raise ValueError("the prompt and every continuation hold text")
    results: list[float] = []

    def program(context: ProgramContext) -> Program:
        for prefix, tokens in [_split(context, prompt, text) for text in continuations]:
            scores = yield Score(prefix, (tokens,))
            results.append(float(scores[0].sum()))
        yield Commit(Continuation((), "", (), "stop"))

    chat = system.chat(prompt if not isinstance(prompt, str) else [{"role": "user", "content": prompt}])
    request = Request(chat=chat, program=program, seed=0, max_tokens=1)
    return Pending(system.engine.submit(request), lambda _: results)


def _check(system: "System") -> None:
    extra = besides_the_model(system)
    if extra:
        raise UnsupportedError(
            f"log-likelihoods are the bare model's, and this system has {' and '.join(extra)}",
            where=system.name,
            hint="measure the system without them, or use an evaluation that generates answers",
        )
    if "score" not in system.engine.capabilities.operations:
        raise UnsupportedError(
            f"the {system.engine.description.get('engine', 'chosen')} engine cannot score given tokens",
            where=system.name,
            hint="use the PyTorch engine (engine: torch)",
        )


def _split(context: ProgramContext, prompt: str | Chat, text: str) -> tuple[Tokens, Tokens]:
    """Tokens of the prompt and of the continuation.

    Plain text is encoded as a whole and then cut at the number of the prompt's tokens, so that a word which
    crosses the border is tokenised as in running text; spaces at the prompt's end belong to the continuation.
    """
    if not isinstance(prompt, str):
        return context.prompt, context.encode(text)
    stripped = prompt.rstrip()
    whole = context.encode(prompt + text)
    length = max(1, min(len(context.encode(stripped)), len(whole) - 1))
    return whole[:length], whole[length:]
