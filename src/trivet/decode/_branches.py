"""Branches of a lookahead search: how one grows, which are kept, how one becomes the answer."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from trivet.decode._heuristic import Scored
from trivet.decode._lookahead import Following
from trivet.models.operations import Continuation, ProgramContext, StopReason, Tokens
from trivet.models.torch_engine.detokenizer import Detokenizer, cut


@dataclass(frozen=True)
class Branch:
    """One partial answer of the search, or a whole one where ``ended`` says how it ended.

    ``logprob`` is log P(y_{1:t} | p) in nats after penalties and bias, ``logprobs`` and ``alternatives`` are
    the model's own, for each token (the end-of-sequence token, which is not among ``tokens``, has one of the
    former). ``parent`` and ``rank`` say which beam it comes from and how likely its last token was there.
    """

    tokens: Tokens = ()
    logprob: float = 0.0
    logprobs: tuple[float, ...] = ()
    alternatives: tuple[tuple[tuple[int, float], ...], ...] = ()
    ended: StopReason | None = None
    end_token: int | None = None
    parent: int = 0
    rank: int = 0
    text: str = ""
    dead: bool = False  # it violates a hard constraint for good
    lookahead: str = ""
    scored: Scored | None = None
    score: float = 0.0

    @property
    def unscored(self) -> bool:
        """Whether it should have been scored and could not be."""
        return self.scored is not None and self.scored.total is None


def expand(beam: Branch, following: Following, room: int, context: ProgramContext) -> list[Branch]:
    """The branches that follow ``beam``, likeliest first; ``room`` is the largest number of answer tokens."""
    found: list[Branch] = []
    for rank, option in enumerate(following.options):
        branch = replace(
            beam,
            logprob=beam.logprob + option.logprob,
            logprobs=(*beam.logprobs, option.own),
            rank=rank,
            lookahead="",
            scored=None,
            score=beam.logprob + option.logprob,
        )
        if option.token in context.eos:
            if not any(other.ended == "stop" for other in found):  # further end tokens say the same
                found.append(replace(branch, ended="stop", end_token=option.token))
            continue
        tokens = (*beam.tokens, option.token)
        text, stopped = cut(context.decode(tokens), context.stop)
        ended: StopReason | None = "stop_string" if stopped else None
        if not stopped and len(tokens) >= room:
            ended = context.limit[1]
        alternatives = (*beam.alternatives, following.alternatives[: context.top_logprobs])
        found.append(replace(branch, tokens=tokens, text=text, alternatives=alternatives, ended=ended))
    return found


def keep(pool: Sequence[Branch], width: int) -> list[Branch]:
    """The best ``width`` branches, best first.

    One that could not be scored comes after all that could, one that violates a hard constraint for good
    after those that do not; then the larger c(y_t) wins, and the first among equals.
    """
    return sorted(pool, key=lambda one: (not one.unscored, not one.dead, one.score), reverse=True)[:width]


def piece(branch: Branch, written: Detokenizer) -> Continuation:
    """The last token of a branch, with the text that is certain now."""
    if branch.ended == "stop":
        last = branch.logprobs[-1:]
        return Continuation((), written.finish(), last, "stop", end_token=branch.end_token)
    text = written.add(branch.tokens[-1])
    text += written.finish() if branch.ended else ""
    tops = branch.alternatives[-1:] if branch.alternatives[-1] else ()
    return Continuation(branch.tokens[-1:], text, branch.logprobs[-1:], branch.ended or "length", tops)


def whole(branch: Branch, context: ProgramContext) -> Continuation:
    tops = branch.alternatives if context.top_logprobs else ()
    return Continuation(
        branch.tokens,
        branch.text,
        branch.logprobs,
        branch.ended or "length",
        tops,
        end_token=branch.end_token,
    )
