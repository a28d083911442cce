"""The token sets that RAIN proposes below a node."""

import math
from collections.abc import Generator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch

from trivet.decode import _lookahead
from trivet.decode import _rain_tree as tree
from trivet.decode._rain_tree import NextTokens, Node, TokenSet
from trivet.models.operations import (
    Continuation,
    Extend,
    Next,
    Operation,
    ProgramContext,
    Sampling,
    Several,
    StopReason,
    Tokens,
)
from trivet.models.torch_engine.detokenizer import cut
from trivet.models.torch_engine.sampling import Draw, draw

if TYPE_CHECKING:
    from trivet.decode.rain import Config

Result = TypeVar("Result")
Steps = Generator[Operation, Any, Result]

_PLAIN = Sampling()
_POSSIBLE = 1e-9  # a token of less than this share of the best one's probability is not proposed


class Proposer:
    """Proposes token sets, and knows where an answer ends.

    The distribution after a node is asked for once, and its first tokens are drawn from it with the request's
    own random stream; only what follows distinct first tokens goes through the model, in one batch.
    """

    def __init__(self, config: "Config", context: ProgramContext) -> None:
        self._config, self._context = config, context
        own = context.sampling
        temperature = own.temperature or config.proposal_temperature
        self._greedy = own.unfiltered()
        self._sampled = replace(own, temperature=temperature, top_k=config.proposal_top_k)
        self.simulation = replace(own, temperature=own.temperature or config.simulation_temperature, top_k=0)
        # What is left to do to a distribution to which the penalties have been applied.
        self._filters = Sampling(temperature, own.top_p, config.proposal_top_k, own.min_p)
        self._simulated = replace(self._filters, temperature=self.simulation.temperature, top_k=0)
        self._kept = max(config.candidates, config.max_children, config.proposal_top_k, context.top_logprobs)
        self._limit, self.limit_reason = context.limit

    def room(self, state: Tokens) -> int:
        """Tokens that may still follow the answer so far."""
        return self._limit - len(state)

    def stopped(self, text: str) -> bool:
        """Whether a stop string of the request is in the text."""
        return cut(text, self._context.stop)[1]

    def expand(self, node: Node, state: Tokens, *, uniform: float) -> Steps[None]:
        """Give a node its children. ``state``: the answer up to it; ``uniform``: see ``tree.expand``."""
        length = self._length(node, state)
        following = yield from self._following(node, state)
        if length == 1:
            sets = [self._single(following, rank, state) for rank in range(self._config.candidates)]
            found = [token_set for token_set in sets if token_set is not None]
        else:
            attempts, others_wanted = self._config.attempts, self._config.candidates - 1
            draws = others_wanted if attempts is None or not others_wanted else attempts
            found = yield from self._sequences(following, state, length, draws, greedy=True)
            greedy, others = found[0], found[1 : self._config.candidates]
            clamped = tree.clamped_greedy(greedy.probability, [other.probability for other in others])
            found = [replace(greedy, probability=clamped), *others]
        tree.expand(node, found, uniform=uniform)

    def grow(self, node: Node, state: Tokens, *, uniform: float) -> Steps[None]:
        """Add a child where all are bad and alike: the next most likely token, or a new sequence.

        The released code draws a greedy sequence beside it, which is among the children already.
        """
        length, config = self._length(node, state), self._config
        if not tree.may_grow(node, length, most=config.max_children, variance=config.growth_variance):
            return
        following = yield from self._following(node, state)
        if length == 1:
            token_set = self._single(following, len(node.children), state)
            found = [] if token_set is None else [token_set]
        else:
            found = yield from self._sequences(following, state, length, 1, greedy=False)
        for token_set in found:
            tree.add_child(node, token_set, uniform=uniform)

    def first_of_simulation(self, node: Node, state: Tokens) -> Steps[int | None]:
        """Draw the token that follows a node in a simulation; ``None`` for the end of the answer."""
        adjusted = yield from self._ask(node, state)
        token = draw(torch.from_numpy(adjusted)[None], [Draw(self._simulated, self._context.random)])[0].token
        return None if token in self._context.eos else token

    def _length(self, node: Node, state: Tokens) -> int:
        return min(tree.token_set_length(node.depth, self._config.token_set_lengths), self.room(state))

    def _following(self, node: Node, state: Tokens) -> Steps[NextTokens]:
        if node.following is None:
            yield from self._ask(node, state)
        assert node.following is not None
        return node.following

    def _ask(self, node: Node, state: Tokens) -> Steps[np.ndarray]:
        """The next-token log-probabilities after a node, penalties applied; the node keeps the largest."""
        prefix = self._context.prompt + state
        logprobs: np.ndarray
        if self._greedy == _PLAIN:
            (logprobs,) = yield Next(prefix)
            adjusted = logprobs
        else:
            operations = (Next(prefix), Next(prefix, sampling=self._greedy))
            (logprobs,), (adjusted,) = yield Several(operations)
        # Sorting the whole vocabulary takes 40 times longer.
        likeliest = np.array(_lookahead.best(adjusted, self._kept))
        node.following = NextTokens(likeliest, adjusted[likeliest], logprobs[likeliest])
        return adjusted

    def _single(self, following: NextTokens, rank: int, state: Tokens) -> TokenSet | None:
        """The token of a rank as a set; ``None`` where there is no such token."""
        if rank >= len(following.tokens):
            return None
        # Divided by the sum among siblings, this is the softmax over them.
        distance = float(following.adjusted[rank] - following.adjusted[0]) / self._filters.temperature
        probability = float(np.exp(distance))
        return self._first(following, rank, probability, state) if probability >= _POSSIBLE else None

    def _first(self, following: NextTokens, rank: int, probability: float, state: Tokens) -> TokenSet:
        """A set of one token so far."""
        token, logprob = int(following.tokens[rank]), float(following.logprobs[rank])
        if token in self._context.eos:
            return TokenSet((), probability, "stop", (logprob,), end_token=token)
        order = np.argsort(-following.logprobs, kind="stable")[: self._context.top_logprobs]
        best = tuple((int(following.tokens[at]), float(following.logprobs[at])) for at in order)
        return self._closed(TokenSet((token,), probability, None, (logprob,), (best,) if best else ()), state)

    def _sequences(
        self, following: NextTokens, state: Tokens, length: int, draws: int, *, greedy: bool
    ) -> Steps[list[TokenSet]]:
        """Distinct sequences of ``length`` tokens: the greedy one first if wanted, then sampled ones."""
        ranks = [(rank, self._sampled) for rank in self._draw_first(following, draws)]
        if greedy:
            ranks.insert(0, (0, self._greedy))
        starts = [
            self._first(following, rank, self._first_probability(following, rank), state) for rank, _ in ranks
        ]
        operations = tuple(
            Extend(
                prefix=self._context.prompt + state + start.tokens,
                max_tokens=length - 1,
                sampling=sampling,
                stop=self._context.stop,
                top_logprobs=max(self._config.proposal_top_k, self._context.top_logprobs),
            )
            for start, (_, sampling) in zip(starts, ranks, strict=True)
            if start.ended is None
        )
        results = iter((yield Several(operations)) if operations else ())
        distinct: dict[Any, TokenSet] = {}
        for start in starts:
            token_set = start
            if start.ended is None:
                (more,) = next(results)
                token_set = self._joined(start, more, state)
            distinct.setdefault(token_set.key, token_set)
        return list(distinct.values())

    def _draw_first(self, following: NextTokens, draws: int) -> list[int]:
        """Ranks of the first tokens of the sampled sequences."""
        if not draws:
            return []
        order = np.argsort(following.tokens)  # in the vocabulary's order, as the engine draws
        rows = torch.from_numpy(following.adjusted[order]).repeat(draws, 1)
        drawn = draw(rows, [Draw(self._filters, self._context.random) for _ in range(draws)])
        return [int(order[one.token]) for one in drawn]

    def _first_probability(self, following: NextTokens, rank: int) -> float:
        scaled = following.adjusted / self._filters.temperature
        return _share(float(scaled[rank]), scaled[: self._config.proposal_top_k])

    def _joined(self, start: TokenSet, more: Continuation, state: Tokens) -> TokenSet:
        """A first token and its continuation as one set."""
        probability = start.probability
        for logprob, best in zip(more.logprobs, more.top_logprobs):
            kept = np.array([value for _, value in best[: self._config.proposal_top_k]])
            probability *= _share(logprob / self._filters.temperature, kept / self._filters.temperature)
        if more.stop_reason == "stop":  # the end of sequence comes without alternatives
            probability *= math.exp(more.logprobs[-1])
        ended: StopReason | None = more.stop_reason if more.stop_reason in ("stop", "stop_string") else None
        asked = self._context.top_logprobs
        joined = TokenSet(
            start.tokens + more.tokens,
            probability,
            ended,
            start.logprobs + more.logprobs,
            start.alternatives + tuple(row[:asked] for row in more.top_logprobs if asked),
            more.end_token,
        )
        return self._closed(joined, state)

    def _closed(self, token_set: TokenSet, state: Tokens) -> TokenSet:
        """The set with the reason why the answer ends with it, where a stop string or a limit ends it."""
        if token_set.ended == "stop":
            return token_set
        whole = state + token_set.tokens
        if self._context.stop and self.stopped(self._context.decode(whole)):
            count = len(token_set.tokens)
            while count > 1 and self.stopped(self._context.decode(whole[: len(state) + count - 1])):
                count -= 1
            cut = token_set.alternatives[:count]
            tokens, logprobs = token_set.tokens[:count], token_set.logprobs[:count]
            return TokenSet(tokens, token_set.probability, "stop_string", logprobs, cut)
        if self.room(whole) < 1:
            return replace(token_set, ended=self.limit_reason)
        return token_set


def _share(scaled: float, kept: np.ndarray) -> float:
    """Probability of a token in the distribution truncated to the ``kept`` logarithms, at most 1."""
    highest = float(kept.max())
    return min(1.0, float(np.exp(scaled - highest) / np.exp(kept - highest).sum()))
