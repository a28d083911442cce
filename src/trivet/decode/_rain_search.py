"""The search of RAIN: what it asks of the engine, in which order, and what it notes of it."""

from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from trivet.decode import _rain_tree as tree
from trivet.decode import _similarity
from trivet.decode._rain_evaluation import CRITERIA, SelfEvaluation, judged_value
from trivet.decode._rain_proposals import Proposer
from trivet.decode._rain_tree import Node
from trivet.errors import ContextLengthError
from trivet.models.operations import (
    Commit,
    Continuation,
    Extend,
    Hidden,
    Judge,
    Operation,
    Program,
    ProgramContext,
    Scorer,
    Several,
    StopReason,
    Tokens,
)
from trivet.models.torch_engine.detokenizer import Detokenizer, cut

if TYPE_CHECKING:
    from trivet.decode.rain import Config

Result = TypeVar("Result")
Steps = Generator[Operation, Any, Result]

CLAUSE_ENDS = (",", ".", "?", ":", ";", "\n")
"""What ends a simulated clause."""

TRACE_STEPS, TRACE_TEXT = 256, 80
"""The trace shows so many committed token sets, and so many characters of each candidate."""


class Search:
    """One answer's search, from the prompt to its end."""

    def __init__(self, config: "Config", context: ProgramContext, judge: Scorer | None) -> None:
        self._config, self._context, self._judge = config, context, judge
        self._root = Node(tree.TokenSet(()))
        self._answer: Tokens = ()  # committed
        self._proposer = Proposer(config, context)
        self._shown = Detokenizer(context.decode, context.stop)
        self._values: dict[str, float | None] = {}
        self._evaluation = SelfEvaluation(
            criterion=CRITERIA[config.criterion],
            kind=config.value,
            examples=config.examples,
            chat=context.chat,
            continues=context.continues,
            encode=context.encode,
            render=context.render,
            context_length=context.context_length,
        )
        self._steps: list[dict[str, Any]] = []
        self._note: dict[str, Any] = {
            "method": "rain", "evaluator": "the model itself" if judge is None else _name(judge),
            "criterion": config.criterion if judge is None else None,
            "searches": 0, "rewound_tokens": 0, "evaluations": 0, "evaluations_remembered": 0,
            "evaluations_failed": {}, "steps": self._steps, "steps_left_out": 0,
        }  # fmt: skip

    def run(self) -> Program:
        """Commit token set after token set until the answer ends."""
        self._context.trace.append(self._note)  # now, so that a blocked answer has its trace
        ended: StopReason | None = None
        if self._proposer.room(()) < 1:
            yield Commit(Continuation((), "", (), self._proposer.limit_reason))
            return
        while ended is None:
            searches = yield from self._decide()
            best = tree.best_child(self._root)
            assert best is not None
            self._note_step(best, searches)
            yield Commit(self._continuation(best))
            ended = best.token_set.ended
            self._answer += best.token_set.tokens
            self._root = best
            tree.mix_root(best, self._config.root_uniform)

    def _decide(self) -> Steps[int]:
        """Search until one child of the root may be committed; returns the number of searches."""
        config, inherited = self._config, self._root.full_visits
        count = 0
        for _ in range(inherited, tree.search_limit(inherited, config.searches, config.least_searches)):
            yield from self._search()
            count += 1
            best = tree.best_child(self._root)
            if tree.settled(best, visits=config.min_visits, value=config.value_threshold):
                return count
        if not self._root.children:
            yield from self._proposer.expand(self._root, self._answer, uniform=config.root_uniform)
        return count

    def _search(self) -> Steps[None]:
        """Walk down to a leaf, finish its clause, evaluate, and bring the value back."""
        config, node = self._config, self._root
        path, state = [node], self._answer
        while node.full_visits and node.token_set.ended is None:
            uniform = config.root_uniform if node is self._root else 0.0
            if node.children:
                yield from self._proposer.grow(node, state, uniform=uniform)
            else:
                yield from self._proposer.expand(node, state, uniform=uniform)
            node = tree.select(node, config.exploration)
            path.append(node)
            state += node.token_set.tokens
        tail = yield from self._simulate(node, state)
        value, tail_states = yield from self._evaluate(node, state, tail)
        tree.back_up(
            path,
            value,
            self._spans(path, tail, tail_states),
            similarity_weight=config.similarity_weight,
            similarity_threshold=config.similarity_threshold,
        )
        self._note["searches"] += 1
        self._note["rewound_tokens"] += len(state) + len(tail) - len(self._answer)

    def _simulate(self, leaf: Node, state: Tokens) -> Steps[Tokens]:
        """Sample on until the clause ends; what the prompt ends with counts as such an end."""
        tail: Tokens = ()
        proposer, room = self._proposer, self._config.simulation_tokens
        if leaf.token_set.ended is not None:
            return ()
        while (left := min(proposer.room(state + tail), room - len(tail))) > 0:
            text = self._context.decode(state + tail)
            if not text or text.endswith(CLAUSE_ENDS) or proposer.stopped(text):
                break
            if not tail:
                first = yield from proposer.first_of_simulation(leaf, state)
                if first is None:
                    break
                tail = (first,)
                continue
            (more,) = yield Extend(
                prefix=self._context.prompt + state + tail,
                max_tokens=left,
                sampling=proposer.simulation,
                stop=(*CLAUSE_ENDS, *self._context.stop),
            )
            tail += more.tokens
            if more.stop_reason != "stop_string":
                break
        return tail

    def _evaluate(
        self, leaf: Node, state: Tokens, tail: Tokens
    ) -> Steps[tuple[float | None, np.ndarray | None]]:
        """The value of the answer so far, and the sum of the hidden states of the tail's tokens.

        The questions and the hidden states of what is new go through the model in one batch.
        """
        text = self._context.visible(self._text(state + tail))
        known = text in self._values
        asked = [] if known or self._judge is not None else self._questions(text)
        new = len(tail) + (len(leaf.token_set.tokens) if leaf.states is None else 0)
        whole = self._context.prompt + state + tail
        layer = self._config.embedding_layer
        hidden = [Hidden(whole, (layer,), tuple(range(-new, 0)))] if new else []
        results: list[Any] = []
        if asked or hidden:
            results = yield Several((*(question for question, _ in asked), *hidden))
        tail_states = None
        if hidden:
            rows = results.pop()[layer].astype(np.float64)
            own = new - len(tail)
            if own:
                leaf.states = rows[:own].sum(0)
            tail_states = rows[own:].sum(0)
        if known:
            self._note["evaluations_remembered"] += 1
        elif self._judge is not None:
            yield from self._ask_judge(text)
        elif asked:
            self._note["evaluations"] += 1
            self._values[text] = self._evaluation.value(asked, [reply for (reply,) in results])
            if self._values[text] is None:
                self._failed("the model gives no probabilities")
        return self._values[text], tail_states

    def _questions(self, text: str) -> list[Any]:
        """What to ask the model. Where not even the first question fits the context, the request fails."""
        try:
            return self._evaluation.questions(text)
        except ContextLengthError:
            if not self._values:
                raise
            self._failed("the self-evaluation does not fit the context")
            self._values[text] = None
            return []

    def _ask_judge(self, text: str) -> Steps[None]:
        assert self._judge is not None
        chat = self._context.answered(text)
        (verdict,) = yield Judge(self._judge, (chat,))
        self._note["evaluations"] += 1
        value = None
        if verdict.value is None:
            self._failed(str(verdict.reason))
        else:
            value = judged_value(verdict.value, self._config.judge_low, self._config.judge_high)
        self._values[text] = value

    def _failed(self, reason: str) -> None:
        failed = self._note["evaluations_failed"]
        reason = reason if reason in failed or len(failed) < 8 else "other reasons"
        failed[reason[:200]] = failed.get(reason[:200], 0) + 1

    def _spans(
        self, path: Sequence[Node], tail: Tokens, tail_states: np.ndarray | None
    ) -> list[np.ndarray | None]:
        """For each node of the path, the embedding of its tokens and of all that follows them."""
        spans: list[np.ndarray | None] = []
        total: Any = 0.0 if tail_states is None else tail_states
        count = len(tail)
        for node in reversed(path[1:]):
            if node.states is not None:
                total = total + node.states
                count += len(node.token_set.tokens)
            spans.append(_similarity.span_embedding(np.atleast_1d(total), count))
        return [None, *reversed(spans)]

    def _text(self, tokens: Tokens) -> str:
        """The answer as text, cut before a stop string."""
        return cut(self._context.decode(tokens), self._context.stop)[0]

    def _continuation(self, best: Node) -> Continuation:
        """The token set as a part of the answer; characters that are not whole wait for the next one."""
        chosen = best.token_set
        text = "".join(self._shown.add(token) for token in chosen.tokens if not self._shown.stopped)
        if chosen.ended is not None:
            text += self._shown.finish()
        return Continuation(
            chosen.tokens,
            text,
            chosen.logprobs,
            chosen.ended or "length",
            chosen.alternatives,
            end_token=chosen.end_token,
        )

    def _note_step(self, best: Node, searches: int) -> None:
        """Note what was chosen among what; a long answer's later steps are counted only."""
        if len(self._steps) >= TRACE_STEPS:
            self._note["steps_left_out"] += 1
            return
        self._steps.append(
            {
                "rewinds": searches,  # each search goes back to what is committed
                "chosen": self._root.children.index(best),
                "candidates": [self._shown_candidate(child) for child in self._root.children],
            }
        )

    def _shown_candidate(self, child: Node) -> dict[str, Any]:
        return {
            "text": self._context.decode(child.token_set.tokens)[:TRACE_TEXT],
            "tokens": len(child.token_set.tokens),
            "ended": child.token_set.ended,
            "prior": round(child.prior, 6),
            "visits": round(child.visits, 6),
            "full_visits": child.full_visits,
            "value": round(child.value, 6) if child.weight else None,
        }


def _name(judge: Scorer) -> str:
    return str(getattr(judge, "name", type(judge).__name__))
