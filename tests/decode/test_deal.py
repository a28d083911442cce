"""The search of DeAL on a toy model, against greedy decoding, beam search and brute force."""

import itertools
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from trivet import catalogue
from trivet._validation import validate
from trivet.decode import _deal_trace
from trivet.decode.deal import Config, program
from trivet.errors import ConfigError, EndpointError, UnsupportedError
from trivet.judges import Verdict, unscored
from trivet.models.operations import (
    Commit,
    Continuation,
    Extend,
    Judge,
    Next,
    ProgramContext,
    Sampling,
    Several,
)

PROMPT = (90, 91)
END = 0
LETTERS = ".abcdefghijklmnopqrstuvwxyz"


@dataclass
class Toy:
    """A model over a few letters, whose distribution after each text is drawn from a seed; 0 ends a text.

    ``favourite`` (token → logit) is added everywhere. ``read`` are the texts whose distribution was asked
    for: what an engine would have to feed.
    """

    vocabulary: int = 6
    seed: int = 0
    favourite: dict[int, float] = field(default_factory=dict)
    read: set[tuple[int, ...]] = field(default_factory=set)

    def after(self, answer: tuple[int, ...]) -> np.ndarray:
        logits = np.random.default_rng([self.seed, *answer]).normal(0, 2, self.vocabulary)
        for token, bonus in self.favourite.items():
            logits[token] += bonus
        return (logits - np.logaddexp.reduce(logits)).astype(np.float32)

    def next(self, answer: tuple[int, ...]) -> np.ndarray:
        self.read.add(answer)
        return self.after(answer)

    def greedy(self, answer: tuple[int, ...], length: int) -> tuple[tuple[int, ...], bool]:
        """The continuation, and whether it ends by itself."""
        start = len(answer)
        while len(answer) - start < length:
            token = int(self.after(answer).argmax())
            if token == END:
                return answer[start:], True
            answer = (*answer, token)
        return answer[start:], False

    def extend(self, operation: Extend) -> list[Continuation]:
        assert operation.sampling.temperature == 0 and operation.n == 1
        answer, tops = operation.prefix[len(PROMPT) :], []
        tokens, logprobs = [], []
        for _ in range(operation.max_tokens):
            values = self.next(answer)
            token = int(values.argmax())
            logprobs.append(float(values[token]))
            if token == END:
                return [Continuation(tuple(tokens), spelt(tokens), tuple(logprobs), "stop", tuple(tops))]
            order = np.argsort(-values, kind="stable")[: operation.top_logprobs]
            tops.append(tuple((int(other), float(values[other])) for other in order))
            tokens.append(token)
            answer = (*answer, token)
            if any(stop in spelt(tokens) for stop in operation.stop):
                break
        return [Continuation(tuple(tokens), spelt(tokens), tuple(logprobs), "length", tuple(tops))]


def spelt(tokens: Sequence[int]) -> str:
    return "".join(LETTERS[token] for token in tokens)


@dataclass
class Outcome:
    """What a run gave."""

    parts: list[Continuation]
    trace: list[dict[str, Any]]
    judged: list[list[str]]

    @property
    def tokens(self) -> tuple[int, ...]:
        return tuple(token for part in self.parts for token in part.tokens)

    @property
    def text(self) -> str:
        return "".join(part.text for part in self.parts)

    @property
    def reason(self) -> str:
        return self.parts[-1].stop_reason


class Letter:
    """Scores a text by how often it holds a letter."""

    def __init__(self, letter: str = "c", **failures: Any) -> None:
        self.name, self.letter, self.failures = letter, letter, failures

    def score(self, chats: Sequence[Any]) -> list[Verdict]:
        if "error" in self.failures:
            raise self.failures["error"]
        texts = [chat[-1]["content"] for chat in chats]
        bad = self.failures.get("bad", lambda text: False)
        return [unscored("bad") if bad(text) else Verdict(float(text.count(self.letter))) for text in texts]


def run(
    toy: Toy, objectives: list[dict[str, Any]] | None = None, *, max_tokens: int = 8, judge: Any = None,
    stop: tuple[str, ...] = (), context_length: int | None = None,
    visible: Callable[[str], str] = str, top_logprobs: int = 0, **changes: Any,
) -> Outcome:  # fmt: skip
    """Drive the program by hand; without objectives, a judge that counts the letter c."""
    config = Config(objectives=objectives or [{"type": "judge", "judge": "letter"}], **changes)
    context = ProgramContext(
        prompt=PROMPT, chat=[{"role": "user", "content": "Q"}], max_tokens=max_tokens, sampling=Sampling(),
        stop=stop, top_logprobs=top_logprobs, random=np.random.default_rng(0), encode=lambda text: (),
        decode=spelt, render=lambda chat: (), visible=visible, eos=frozenset({END}),
        context_length=context_length,
    )  # fmt: skip
    outcome = Outcome([], context.trace, [])
    judges = dict.fromkeys(config.judge_specs, judge or Letter())
    running = program(config, context, **judges)
    answer: Any = None
    error: Exception | None = None
    while True:
        try:
            operation = running.throw(error) if error else running.send(answer)
        except StopIteration:
            json.dumps(context.trace, allow_nan=False)
            return outcome
        answer, error = None, None
        if isinstance(operation, Several):
            answer = [
                [toy.next(one.prefix[len(PROMPT) :])] if isinstance(one, Next) else toy.extend(one)
                for one in operation.operations
            ]
        elif isinstance(operation, Judge):
            outcome.judged.append([chat[-1]["content"] for chat in operation.chats])
            try:
                answer = operation.judge.score(operation.chats)
            except Exception as raised:
                error = raised
        else:
            assert isinstance(operation, Commit)
            outcome.parts.append(operation.continuation)


def reference(
    toy: Toy, h: Callable[[str, bool], float], *, max_tokens: int = 8, k: int = 6, ahead: int = 3,
    weight: float = 1.0,
) -> tuple[int, ...]:  # fmt: skip
    """The paper's search with one beam, as plainly as can be: nothing is kept from one step to the next."""
    answer: tuple[int, ...] = ()
    total = 0.0
    while len(answer) < max_tokens:
        values = toy.after(answer)
        scores = []
        for token in np.argsort(-values, kind="stable")[:k].tolist():
            if token == END:
                scores.append((total + values[token] + weight * h(spelt(answer), True), token))
                continue
            longer = (*answer, token)
            rolled, ended = toy.greedy(longer, min(ahead, max_tokens - len(longer)))
            final = ended or len(longer) + len(rolled) == max_tokens
            scores.append((total + values[token] + weight * h(spelt(longer + rolled), final), token))
        token = max(scores, key=lambda pair: pair[0])[1]
        total += float(values[token])
        if token == END:
            break
        answer = (*answer, token)
    return answer


def count_c(text: str, final: bool) -> float:
    return float(text.count("c"))


SEEDS = range(6)


# Reductions


@pytest.mark.parametrize("seed", SEEDS)
def test_one_candidate_is_greedy_decoding(seed: int) -> None:
    for changes in ({}, {"lookahead": 0}, {"heuristic_weight": 50.0}, {"beam_width": 3}):
        toy = Toy(seed=seed)
        outcome = run(toy, candidates=1, **changes)
        tokens, ended = toy.greedy((), 8)
        assert outcome.tokens == tokens
        assert outcome.text == spelt(tokens)
        assert outcome.reason == ("stop" if ended else "length")
        total = sum(len(part.logprobs) for part in outcome.parts)
        assert total == len(tokens) + ended  # one for the end-of-sequence token too


@pytest.mark.parametrize("seed", SEEDS)
def test_one_candidate_is_greedy_whatever_is_forbidden(seed: int) -> None:
    forbidden = [{"type": "regex", "pattern": "[xyz]+", "kind": "hard"}]
    toy = Toy(seed=seed)
    outcome = run(toy, forbidden, candidates=1)
    assert outcome.tokens == toy.greedy((), 8)[0]
    assert outcome.trace[0]["satisfied"] == {"regex": False}


@pytest.mark.parametrize("seed", SEEDS)
def test_without_weight_one_beam_is_greedy_decoding(seed: int) -> None:
    toy = Toy(seed=seed)
    outcome = run(toy, heuristic_weight=0)
    assert outcome.tokens == toy.greedy((), 8)[0]
    assert not outcome.judged and outcome.trace[0]["choices"] == []


def beam_search(toy: Toy, width: int, length: int) -> tuple[int, ...]:
    """Beam search without length penalty; finished texts stay and compete."""
    beams: list[tuple[float, tuple[int, ...]]] = [(0.0, ())]
    while any(len(text) < length and text[-1:] != (END,) for _, text in beams):
        pool = []
        for total, text in beams:
            if text[-1:] == (END,) or len(text) == length:
                pool.append((total, text))
            else:
                values = toy.after(text)
                pool += [(total + float(values[token]), (*text, token)) for token in range(toy.vocabulary)]
        beams = sorted(pool, key=lambda pair: -pair[0])[:width]
    best = max(beams, key=lambda pair: pair[0])[1]
    return best[:-1] if best[-1:] == (END,) else best


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("width", [2, 5, 20])
def test_without_weight_several_beams_are_beam_search(seed: int, width: int) -> None:
    toy = Toy(vocabulary=20, seed=seed)
    outcome = run(toy, heuristic_weight=0, candidates=20, beam_width=width, max_tokens=4)
    assert outcome.tokens == beam_search(toy, width, 4)


@pytest.mark.parametrize("seed", SEEDS)
def test_wide_beams_find_the_likeliest_text_of_all(seed: int) -> None:
    """Exhaustive: V = 20, T = 2 has 401 texts, of which 64 beams lose none that matters."""
    toy = Toy(vocabulary=20, seed=seed)
    outcome = run(toy, heuristic_weight=0, candidates=20, beam_width=64, max_tokens=2)
    everything = [(float(toy.after(())[END]), ())]
    for first in range(1, 20):
        for second in range(20):
            total = float(toy.after(())[first]) + float(toy.after((first,))[second])
            everything.append((total, (first,) if second == END else (first, second)))
    assert outcome.tokens == max(everything, key=lambda pair: pair[0])[1]


# The choice


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("k", "ahead", "weight"), [(6, 3, 1.0), (3, 0, 2.0), (4, 20, 0.5), (2, 1, 5.0)])
def test_equals_the_plain_search(seed: int, k: int, ahead: int, weight: float) -> None:
    toy = Toy(seed=seed)
    outcome = run(toy, candidates=k, lookahead=ahead, heuristic_weight=weight)
    assert outcome.tokens == reference(toy, count_c, k=k, ahead=ahead, weight=weight)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_large_weight_takes_the_best_reachable_text_at_each_step(seed: int) -> None:
    """V = 6, T = 4, lookahead to the end: the first token begins a text of the largest reachable h."""
    toy = Toy(seed=seed)
    outcome = run(toy, candidates=6, lookahead=4, heuristic_weight=1e5, max_tokens=4)
    reachable = {END: 0.0}
    for token in range(1, 6):
        reachable[token] = count_c(spelt((token, *toy.greedy((token,), 3)[0])), True)
    first = outcome.tokens[0] if outcome.tokens else END
    assert reachable[first] == max(reachable.values())
    assert outcome.tokens == reference(toy, count_c, k=6, ahead=4, weight=1e5, max_tokens=4)


@pytest.mark.parametrize("seed", SEEDS)
def test_beams_that_keep_everything_find_the_best_text_of_all(seed: int) -> None:
    """V = 3, T = 3: 64 beams lose nothing, so the answer maximises log P + λh over all 15 texts."""
    toy = Toy(vocabulary=3, seed=seed)
    outcome = run(
        toy, candidates=3, beam_width=64, lookahead=0, max_tokens=3, heuristic_weight=2.0, judge=Letter("b")
    )
    best = (-math.inf, ())
    for length in range(4):
        for text in itertools.product((1, 2), repeat=length):
            total = sum(float(toy.after(text[:place])[token]) for place, token in enumerate(text))
            if length < 3:
                total += float(toy.after(text)[END])
            best = max(best, (total + 2.0 * text.count(2), text))
    assert outcome.tokens == best[1]


@settings(max_examples=30)
@given(st.integers(0, 10_000), st.floats(-5, 5))
def test_an_objective_that_ignores_the_text_changes_nothing(seed: int, value: float) -> None:
    class Constant:
        name = "constant"

        def score(self, chats: Sequence[Any]) -> list[Verdict]:
            return [Verdict(value) for _ in chats]

    toy = Toy(seed=seed)
    assert run(toy, judge=Constant(), max_tokens=5).tokens == toy.greedy((), 5)[0]


@pytest.mark.parametrize("seed", SEEDS)
def test_weights_mix_objectives_linearly(seed: int) -> None:
    def mixed(first: float, second: float, weight: float = 1.0) -> tuple[int, ...]:
        objectives = [
            {"type": "keywords", "concepts": ["c"], "weight": first},
            {"type": "length", "max_words": 1, "weight": second},
        ]
        return run(Toy(seed=seed), objectives, heuristic_weight=weight, visible=" ".join).tokens

    alone = run(
        Toy(seed=seed), [{"type": "keywords", "concepts": ["c"]}], heuristic_weight=3.0, visible=" ".join
    ).tokens
    assert mixed(1, 0, weight=3.0) == alone
    assert mixed(2, 4, weight=1.5) == mixed(1, 2, weight=3.0) == mixed(6, 12, weight=0.5)


def test_a_negative_weight_is_a_cost() -> None:
    toy = Toy(favourite={3: 3.0, END: -20.0})
    less = run(toy, [{"type": "judge", "judge": "letter", "weight": -10}])
    assert less.text.count("c") < spelt(toy.greedy((), 8)[0]).count("c")


def test_running_normalisation_makes_the_unit_of_a_judge_irrelevant() -> None:
    class Large(Letter):
        def score(self, chats: Sequence[Any]) -> list[Verdict]:
            return [Verdict(1000 * verdict.value - 7) for verdict in super().score(chats)]

    for seed in SEEDS:
        small, large = (
            run(Toy(seed=seed), judge=judge, normalize="running").tokens for judge in (Letter(), Large())
        )
        assert small == large


# What is computed


@pytest.mark.parametrize("seed", SEEDS)
def test_rollouts_are_used_again(seed: int) -> None:
    """At most (k − 1)·l + 1 texts are new at each step but the first, which has k·l + 1."""
    toy = Toy(seed=seed, favourite={END: -30.0})
    outcome = run(toy, candidates=4, lookahead=3, max_tokens=20)
    steps = outcome.trace[0]["steps"]
    assert len(outcome.tokens) == steps == 20
    assert len(toy.read) <= 1 + 4 * 3 + 19 * (3 * 3 + 1)


def test_all_that_a_step_asks_of_the_model_is_one_operation() -> None:
    asked: list[int] = []

    class Counting(Toy):
        def extend(self, operation: Extend) -> list[Continuation]:
            asked[-1] += 1
            return super().extend(operation)

    toy = Counting(favourite={END: -30.0})
    config = Config(objectives=[{"type": "keywords", "concepts": ["c"]}], candidates=5, lookahead=3)
    context = ProgramContext(
        PROMPT, [], 6, Sampling(), (), 0, np.random.default_rng(0), lambda text: (), spelt, lambda chat: (),
        eos=frozenset({END}),
    )  # fmt: skip
    running = program(config, context)
    answer: Any = None
    commits = 0
    while True:
        try:
            operation = running.send(answer)
        except StopIteration:
            break
        answer = None
        if isinstance(operation, Several):
            asked.append(0)
            answer = [
                [toy.next(one.prefix[2:])] if isinstance(one, Next) else toy.extend(one)
                for one in operation.operations
            ]
        else:
            commits += 1
    assert commits == 6
    # The first distribution, rollouts, all but the known one near the end, and none at the end.
    assert asked == [0, 5, 5, 5, 4, 4]


def test_texts_are_scored_once() -> None:
    outcome = run(Toy(seed=1), candidates=6, lookahead=8)
    texts = [text for batch in outcome.judged for text in batch]
    finals = [text for text in texts if len(text) == 8]
    assert len(finals) == len(set(finals))


# Ends


@pytest.mark.parametrize("seed", SEEDS)
def test_an_end_inside_the_lookahead_is_the_end_of_the_text(seed: int) -> None:
    """Rollouts stop there, and the text is final."""
    toy = Toy(seed=seed, favourite={END: 2.0})
    objective = [{"type": "length", "min_words": 4, "weight": 3.0}]

    def h(text: str, final: bool) -> float:
        return 3 * ((len(text) - 4) / 4 if final and len(text) < 4 else 1.0)

    outcome = run(toy, objective, candidates=4, lookahead=5, visible=" ".join)
    assert outcome.tokens == reference(toy, h, k=4, ahead=5)


def test_several_end_tokens_are_one_candidate() -> None:
    toy = Toy(seed=3)
    outcome = run(toy, [{"type": "length", "max_words": 1, "weight": 50}], visible=" ".join)
    assert len(outcome.tokens) <= 1
    assert outcome.reason == "stop"


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("width", [1, 3])
def test_a_stop_string_ends_the_answer_and_is_not_part_of_it(seed: int, width: int) -> None:
    toy = Toy(vocabulary=4, seed=seed, favourite={END: -30.0})
    free = run(toy, beam_width=width, max_tokens=12, candidates=4)
    stop = free.text[3:5]
    outcome = run(toy, beam_width=width, max_tokens=12, candidates=4, stop=(stop, "never"))
    assert stop not in outcome.text
    assert all(stop not in text for batch in outcome.judged for text in batch)
    if outcome.reason == "stop_string":
        assert spelt(outcome.tokens).endswith(stop)
        assert outcome.text == spelt(outcome.tokens).split(stop)[0]


def test_greedy_stops_where_it_would(seed: int = 0) -> None:
    toy = Toy(seed=seed, favourite={END: -30.0})
    whole = spelt(toy.greedy((), 12)[0])
    outcome = run(toy, candidates=1, max_tokens=12, stop=(whole[4:6],))
    assert outcome.text == whole[: whole.index(whole[4:6])]


@pytest.mark.parametrize("width", [1, 3])
def test_a_full_context_ends_the_answer(width: int) -> None:
    toy = Toy(favourite={END: -30.0})
    outcome = run(toy, max_tokens=30, context_length=len(PROMPT) + 5, beam_width=width)
    assert (len(outcome.tokens), outcome.reason) == (5, "context")
    assert max(map(len, toy.read)) < 5  # nothing beyond it was asked


@pytest.mark.parametrize("width", [1, 3])
@pytest.mark.parametrize("length", [0, 1])
def test_short_limits(width: int, length: int) -> None:
    outcome = run(Toy(favourite={END: -30.0}), max_tokens=length, beam_width=width)
    assert (len(outcome.tokens), outcome.reason) == (length, "length")


# Hard constraints


@pytest.mark.parametrize("seed", range(15))
@pytest.mark.parametrize("width", [1, 3])
def test_a_length_that_can_be_kept_is_kept(seed: int, width: int) -> None:
    """Few candidates, short sight, and a model that hardly ever ends: less likely tokens are tried."""
    toy = Toy(vocabulary=20, seed=seed, favourite={END: -12.0})
    objective = [{"type": "length", "max_words": 5, "kind": "hard"}]
    outcome = run(
        toy, objective, candidates=2, lookahead=1, max_tokens=12, beam_width=width, visible=" ".join
    )
    assert len(outcome.tokens) <= 5
    assert outcome.trace[0]["satisfied"] == {"length": True}
    assert run(toy, objective, candidates=1, max_tokens=12, visible=" ".join).trace[0]["satisfied"] == {
        "length": len(toy.greedy((), 12)[0]) <= 5
    }


@pytest.mark.parametrize("seed", range(10))
def test_a_pattern_is_kept_token_by_token(seed: int) -> None:
    objective = [{"type": "regex", "pattern": "(ab|cd)+e", "kind": "hard"}]
    outcome = run(Toy(vocabulary=20, seed=seed), objective, candidates=2, lookahead=2, max_tokens=9)
    satisfied = outcome.trace[0]["satisfied"]["regex"]
    # After eight letters and no e the ninth can only be an a or c, which is no whole match.
    assert satisfied or outcome.reason == "length"
    assert not satisfied or outcome.text.endswith("e")


def test_a_hard_keyword_keeps_the_answer_going_until_it_is_there() -> None:
    toy = Toy(seed=5, favourite={END: 6.0, 3: -2.0})
    assert run(toy, [{"type": "keywords", "concepts": ["c"]}], visible=" ".join).tokens == ()
    hard = [{"type": "keywords", "concepts": ["c"], "kind": "hard"}]
    outcome = run(toy, hard, visible=" ".join)
    assert "c" in outcome.text and outcome.trace[0]["satisfied"] == {"keywords": True}


def test_what_cannot_be_met_is_said() -> None:
    hard = [{"type": "keywords", "concepts": ["q"], "kind": "hard"}]  # the toy has no such letter
    for width in (1, 3):
        outcome = run(Toy(seed=2), hard, beam_width=width, visible=" ".join)
        assert outcome.trace[0]["satisfied"] == {"keywords": False}
        assert outcome.reason == "length"


def test_of_several_whole_answers_one_that_meets_the_condition_wins() -> None:
    """``a`` is far likelier, but only ``b`` counts; the judge cannot make up for it."""
    toy = Toy(vocabulary=3, favourite={1: 6.0}, seed=1)
    objectives = [
        {"type": "regex", "pattern": ".*b", "kind": "hard"}, {"type": "judge", "judge": "letter"},
    ]  # fmt: skip
    outcome = run(toy, objectives, candidates=3, beam_width=8, max_tokens=3, lookahead=0, judge=Letter("a"))
    assert outcome.text.endswith("b")
    assert outcome.trace[0]["satisfied"] == {"regex": True}


# Judges that fail


def test_a_candidate_that_could_not_be_scored_is_not_chosen() -> None:
    for seed in SEEDS:
        toy = Toy(seed=seed, favourite={END: -30.0, 2: 1.0})
        outcome = run(toy, judge=Letter(bad=lambda text: "b" in text), lookahead=0)
        assert "b" not in outcome.text
        assert outcome.trace[0]["unscored"] > 0
        assert outcome.trace[0]["reasons"] == ["judge: bad"]


def test_where_nothing_can_be_scored_the_likeliest_goes_on_and_the_trace_says_so() -> None:
    toy = Toy(seed=4)
    outcome = run(toy, judge=Letter(bad=lambda text: True))
    assert outcome.tokens == toy.greedy((), 8)[0]
    note = outcome.trace[0]
    assert note["unscored_steps"] == note["steps"]
    assert "likeliest" in note["note"]


def test_an_endpoint_that_fails_in_the_middle_is_survived() -> None:
    class Flaky(Letter):
        calls = 0

        def score(self, chats: Sequence[Any]) -> list[Verdict]:
            self.calls += 1
            if self.calls in (2, 3):
                raise EndpointError("does not answer")
            return super().score(chats)

    outcome = run(Toy(seed=1, favourite={END: -30.0}), judge=Flaky(), lookahead=1)
    assert len(outcome.tokens) == 8
    assert outcome.trace[0]["unscored_steps"] == 2
    assert outcome.trace[0]["reasons"] == ["judge: does not answer"]


@pytest.mark.parametrize("error", [UnsupportedError("never"), ConfigError("never"), ZeroDivisionError()])
def test_what_will_never_work_and_mistakes_in_code_are_not_hidden(error: Exception) -> None:
    with pytest.raises(type(error)):
        run(Toy(), judge=Letter(error=error))


# What is shown


def test_the_trace_shows_the_candidates_where_the_objectives_changed_the_choice() -> None:
    toy = Toy(seed=2, favourite={END: -30.0, 3: -1.0})
    outcome = run(toy, candidates=3, lookahead=2, heuristic_weight=4.0)
    note = outcome.trace[0]
    assert note["method"] == "deal" and note["steps"] == 8
    assert note["values"] == {"judge": outcome.text.count("c")}
    greedy = toy.greedy((), 8)[0]
    parted = next(place for place in range(8) if greedy[place] != outcome.tokens[place])
    choice = note["choices"][0]
    assert choice["step"] == parted
    kept = [choice["candidates"][place] for place in choice["chosen"]]
    assert [one["text"] for one in kept] == [outcome.text[parted]]
    for one in choice["candidates"]:
        assert one["score"] == pytest.approx(one["logprob"] + 4.0 * one["values"]["judge"], abs=1e-3)
        assert len(one["lookahead"]) == 2


def test_the_trace_of_a_long_answer_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    def noted() -> dict[str, Any]:
        toy = Toy(seed=2, favourite={END: -30.0, 3: -1.0})
        return run(toy, candidates=3, lookahead=2, heuristic_weight=4.0).trace[0]

    whole = noted()
    monkeypatch.setattr(_deal_trace, "TRACE_CHOICES", 1)
    short = noted()
    assert short["choices"] == whole["choices"][:1] and "choices_left_out" not in whole
    assert short["choices_left_out"] == len(whole["choices"]) - 1 > 0


def test_candidates_given_up_unseen_are_shown_too() -> None:
    hard = [{"type": "regex", "pattern": "[^a]*", "kind": "hard"}]
    outcome = run(Toy(seed=1, favourite={1: 5.0}), hard, candidates=3)
    shown = outcome.trace[0]["choices"][0]["candidates"]
    assert [one.get("violates", False) for one in shown if one["text"] == "a"] == [True]


def test_one_beam_streams_and_several_come_at_the_end() -> None:
    toy = Toy(favourite={END: -30.0})
    assert len(run(toy).parts) == 8
    assert len(run(toy, beam_width=2).parts) == 1


@pytest.mark.parametrize("width", [1, 2])
def test_alternatives_are_reported(width: int) -> None:
    toy = Toy(favourite={END: -30.0})
    outcome = run(toy, top_logprobs=2, candidates=1 if width == 1 else 3, beam_width=width)
    tops = [row for part in outcome.parts for row in part.top_logprobs]
    assert [len(row) for row in tops] == [2] * 8
    assert tops[0][0][0] == int(toy.after(()).argmax())


def test_the_objectives_see_what_people_see() -> None:
    outcome = run(Toy(favourite={END: -30.0}), visible=lambda text: text[3:])
    assert max(len(text) for batch in outcome.judged for text in batch) == 5


# Settings


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"objectives": []}, "at least 1"),
        ({"candidates": 0}, "candidates"),
        ({"lookahead": -1}, "lookahead"),
        ({"heuristic_weight": -1}, "heuristic_weight"),
        ({"objectives": [{"type": "length", "max_word": 3}]}, "did you mean 'max_words'"),
        ({"objectives": [{"type": "keyword"}]}, r"objectives\.0: unknown type 'keyword'\n.*mean 'keywords'"),
        ({"objectives": [{"type": "function", "function": "absent_module:f"}]}, "not importable"),
    ],
)
def test_wrong_settings_are_named(changes: dict[str, Any], said: str) -> None:
    values = {"objectives": [{"type": "length", "max_words": 3}], **changes}
    with pytest.raises(ConfigError, match=said):
        validate(catalogue.find("decode/deal").config, values, where="decode")


def test_what_determines_the_results_names_no_judge_by_its_path() -> None:
    config = Config(
        objectives=[
            {"type": "judge", "judge": "folder/head.safetensors"},
            {"type": "judge", "judge": "other"},
        ]
    )
    assert config.judge_specs == {"judge_judge": "folder/head.safetensors", "judge_judge_2": "other"}
    assert "folder" not in json.dumps(config.content())
