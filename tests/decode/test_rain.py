"""RAIN as a program: on a small world whose truth is known, and on a tiny model in the engine."""

import itertools
import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from trivet import catalogue
from trivet._validation import validate
from trivet.decode import _rain_search
from trivet.decode.rain import Config, program
from trivet.errors import ConfigError, ContextLengthError, EngineError
from trivet.judges import Verdict, unscored
from trivet.models.engine import Completion, GateDecision, Hooks, Request
from trivet.models.names import resolve_model
from trivet.models.operations import (
    Chat,
    Commit,
    Continuation,
    Extend,
    Hidden,
    Judge,
    Next,
    Program,
    ProgramContext,
    Sampling,
    Several,
)
from trivet.models.torch_engine import TorchEngine

# -- a small world: eight letters, answers of four, and a rule that says which are safe

LETTERS = "abcdefgh"


class World:
    """Answers a program's operations with the distributions of a Markov chain over eight letters.

    ``row(prefix)`` gives the next letter's probabilities; all else follows from it exactly.
    """

    def __init__(self, row: Callable[[tuple[int, ...]], np.ndarray], seed: int, depth: int = 4) -> None:
        self.row, self.chance = row, np.random.default_rng([seed, 7])
        self.context = ProgramContext(
            prompt=(8,), chat=[{"role": "user", "content": "?"}], max_tokens=depth, sampling=Sampling(),
            stop=(), top_logprobs=0, random=np.random.default_rng([seed, 1]), encode=lambda text: (),
            decode=lambda tokens: "".join(LETTERS[token] for token in tokens), render=lambda chat: (),
        )  # fmt: skip
        self.committed: list[Continuation] = []
        self.batches: list[int] = []

    def run(self, config: Config, judge: Any) -> str:
        running, result = program(config, self.context, judge=judge), None
        while True:
            try:
                operation = running.send(result)
            except StopIteration:
                return "".join(part.text for part in self.committed)
            if isinstance(operation, Several):
                self.batches.append(len(operation.operations))
                result = [self.answer(one) for one in operation.operations]
            else:
                result = self.answer(operation)

    def answer(self, operation: Any) -> Any:
        match operation:
            case Next():
                return [np.log(self.row(operation.prefix[1:]) + 1e-30).astype(np.float32)]
            case Extend():
                return [self.extend(operation) for _ in range(operation.n)]
            case Hidden():  # another direction for each text
                (layer,) = operation.layers
                ends = range(len(operation.tokens) - len(operation.positions) + 1, len(operation.tokens) + 1)
                seeds = [[*operation.tokens[:end]] for end in ends]
                return {layer: np.stack([np.random.default_rng(seed).normal(size=16) for seed in seeds])}
            case Judge():
                return operation.judge.score(operation.chats)
            case Commit():
                self.committed.append(operation.continuation)
                return None
        raise AssertionError(operation)

    def extend(self, operation: Extend) -> Continuation:
        tokens, logprobs, tops = operation.prefix[1:], [], []
        for _ in range(operation.max_tokens):
            row = self.row(tokens)
            order = np.argsort(-row)
            kept = order[: operation.sampling.top_k or 8]
            weights = row[kept] / row[kept].sum()
            drawn = (
                int(self.chance.choice(kept, p=weights)) if operation.sampling.temperature else int(order[0])
            )
            best = order[: operation.top_logprobs]
            tops.append(tuple((int(token), math.log(row[token])) for token in best))
            logprobs.append(math.log(row[drawn]))
            tokens = (*tokens, drawn)
        new = tokens[len(operation.prefix) - 1 :]
        return Continuation(new, self.context.decode(new), tuple(logprobs), "length", tuple(tops))


def uniform(prefix: tuple[int, ...]) -> np.ndarray:
    return np.full(8, 1 / 8)


def peaked(prefix: tuple[int, ...], world: int = 0) -> np.ndarray:
    weights = np.random.default_rng([world, len(prefix), *prefix]).exponential(size=8) ** 2 + 0.02
    return weights / weights.sum()


class Always:
    """A judge with one opinion."""

    name = "always"

    def __init__(self, value: float | None) -> None:
        self.verdict = unscored("no opinion") if value is None else Verdict(value)
        self.seen: list[str] = []

    def score(self, chats: Sequence[Chat]) -> list[Verdict]:
        self.seen += [chat[-1]["content"] for chat in chats]
        return [self.verdict for _ in chats]


def safe(text: str) -> bool:
    return sum(map(LETTERS.index, text)) % 8 == 3  # every beginning can still become safe, few do


class Truth:
    """Knows which answers are safe."""

    name = "truth"

    def score(self, chats: Sequence[Chat]) -> list[Verdict]:
        return [Verdict(float(safe(chat[-1]["content"]))) for chat in chats]


def vanilla_rate(world: int) -> float:
    """The chance that an answer of the world itself is safe, exactly."""
    total = 0.0
    for letters in itertools.product(range(8), repeat=3):
        chance = math.prod(peaked(letters[:at], world)[letters[at]] for at in range(3))
        last = next(letter for letter in range(8) if safe("".join(LETTERS[at] for at in (*letters, letter))))
        total += chance * peaked(letters, world)[last]
    return total


def test_the_share_of_safe_answers_tends_to_1_as_searches_grow() -> None:
    rates, worlds = [], range(40)
    for searches in (4, 16, 64):
        config = Config(searches=searches, least_searches=searches // 2, judge="truth")
        answers = [World(partial(peaked, world=seed), seed).run(config, Truth()) for seed in worlds]
        assert all(len(answer) == 4 for answer in answers)
        rates.append(sum(map(safe, answers)) / len(answers))
    vanilla = float(np.mean([vanilla_rate(world) for world in worlds]))
    assert 0.05 < vanilla < 0.2
    assert vanilla < rates[0] < rates[1] <= rates[2]
    assert rates[2] >= 0.95


def test_what_is_always_good_is_committed_after_8_searches() -> None:
    world = World(uniform, 3)
    judge = Always(1.0)
    world.run(Config(judge="always"), judge)
    steps = world.context.trace[0]["steps"]
    # One search expands the root, seven visit one child; below it that child's own child was visited in six
    # of the seven, so that one more search is enough each time.
    assert [step["rewinds"] for step in steps] == [8, 1, 1]
    (first, *_) = steps
    assert [child["full_visits"] for child in first["candidates"]] == [7] + [0] * 7
    assert first["candidates"][0]["value"] == 1
    assert judge.seen[0] == "", "the first search evaluates the prompt itself"


def test_what_is_always_bad_takes_all_the_searches() -> None:
    world = World(uniform, 3)
    world.run(Config(judge="always", searches=50), Always(0.0))
    rewinds = [step["rewinds"] for step in world.context.trace[0]["steps"]]
    first = world.context.trace[0]["steps"][0]
    assert rewinds[0] == 50
    assert all(count >= 15 for count in rewinds), "15 at least, however much was inherited"
    assert sum(child["full_visits"] for child in first["candidates"]) == 50 - 1


def test_a_judge_without_opinion_leaves_the_order_of_the_priors() -> None:
    world = World(peaked, 3)
    answer = world.run(Config(judge="always"), Always(None))
    note = world.context.trace[0]
    assert len(answer) == 4
    assert note["evaluations_failed"] == {"no opinion": note["evaluations"]}
    first = note["steps"][0]
    assert all(child["value"] is None for child in first["candidates"])
    assert first["chosen"] == 0, "the most likely one"


def test_a_bad_and_uniform_node_grows_by_one_child_at_a_time_and_not_beyond_its_limit() -> None:
    def candidates(**changes: Any) -> list[int]:
        settings = {"candidates": 3, "growth_variance": 10.0, "token_set_lengths": (1, 2), "max_children": 6}
        world = World(uniform, 3, depth=5)
        world.run(Config(judge="always", **(settings | changes)), Always(0.0))
        return [len(step["candidates"]) for step in world.context.trace[0]["steps"]]

    assert candidates()[0] == 6
    assert max(candidates()) == 6
    assert max(candidates(max_children=20)) > 6, "sequences grow too"
    assert candidates(max_children=20)[0] == 8, "there are no more letters"
    assert candidates(growth_variance=0.0)[0] == 3


def test_no_room_gives_an_empty_answer() -> None:
    world = World(uniform, 3, depth=0)
    assert world.run(Config(judge="always"), Always(1.0)) == ""
    assert [part.stop_reason for part in world.committed] == ["length"]


def test_nothing_is_evaluated_twice() -> None:
    judge = Always(0.0)
    world = World(uniform, 3)
    world.run(Config(judge="always"), judge)
    note = world.context.trace[0]
    assert max(Counter(judge.seen).values()) == 1
    assert note["evaluations"] == len(judge.seen)
    assert note["evaluations"] + note["evaluations_remembered"] == note["searches"]


def test_proposals_go_through_the_model_in_one_batch() -> None:
    world = World(uniform, 3, depth=9)
    world.run(Config(judge="always", token_set_lengths=(3,)), Always(1.0))
    assert max(world.batches) == 10  # the greedy sequence and nine draws


def test_more_attempts_fill_up_what_was_drawn_twice() -> None:
    def widest(attempts: int | None) -> int:
        world = World(peaked, 3)
        config = Config(judge="always", token_set_lengths=(2,), proposal_top_k=2, attempts=attempts)
        world.run(config, Always(1.0))
        return max(len(step["candidates"]) for step in world.context.trace[0]["steps"])

    assert widest(None) <= 4 == widest(60), "two letters make four pairs"


def test_the_trace_of_a_long_answer_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_rain_search, "TRACE_STEPS", 2)
    world = World(uniform, 3)
    world.run(Config(judge="always"), Always(1.0))
    note = world.context.trace[0]
    assert (len(note["steps"]), note["steps_left_out"]) == (2, 1)
    judge = Always(None)
    judge.score = lambda chats: [unscored(f"{chats[0][-1]['content']} {'x' * 999}")]  # type: ignore[method-assign]
    world = World(uniform, 3)
    world.run(Config(judge="always"), judge)
    failed = world.context.trace[0]["evaluations_failed"]
    assert len(failed) == 9 and max(map(len, failed)) == 200


# -- a tiny model in the engine

LONG = "What is the capital of France? The capital of France is Paris, a city on the river Seine."
PROMPTS = ("Hello", LONG, "Say yes.", "The trivet stands on three legs", "0123456789 (yes) [no]")
FEW: dict[str, Any] = {"searches": 5, "least_searches": 2, "min_visits": 2, "examples": 0, "candidates": 4}
"""A small search; the tiny model's context of 512 tokens has no room for worked examples."""


@pytest.fixture(scope="module")
def engine(tiny_model_folder: Path) -> Iterator[TorchEngine]:
    engine = TorchEngine(resolve_model(str(tiny_model_folder)))
    yield engine
    engine.close()


def request(
    prompt: str = "Hello", *, judge: Any = None, config: Config | None = None, **changes: Any
) -> Request:
    config = config or Config(**FEW)
    values: dict[str, Any] = {"seed": 1, "max_tokens": 16, **changes}
    chat = [{"role": "user", "content": prompt}]
    return Request(chat, lambda context: program(config, context, judge=judge), **values)


def run(engine: TorchEngine, *requests: Request) -> list[Completion]:
    return [handle.result(120) for handle in [engine.submit(one) for one in requests]]


def greedy(context: ProgramContext) -> Program:
    yield Extend(
        context.prompt, context.max_tokens, sampling=context.sampling, stop=context.stop,
        top_logprobs=context.top_logprobs, commit=True,
    )  # fmt: skip


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"sampling": Sampling(repetition_penalty=1.4, presence_penalty=0.5, logit_bias=((7, 3.0),))},
        {"sampling": Sampling(logit_bias=((2, 9.0),))},  # ends early
        {"top_logprobs": 3},
        {"max_tokens": 1},
    ],
)
def test_with_one_candidate_it_is_greedy_decoding(engine: TorchEngine, changes: dict[str, Any]) -> None:
    one = Config(**(FEW | {"candidates": 1}))
    ours = run(engine, *[request(prompt, config=one, **changes) for prompt in PROMPTS])
    chats = [[{"role": "user", "content": prompt}] for prompt in PROMPTS]
    plain = run(
        engine, *[Request(chat, greedy, **{"seed": 1, "max_tokens": 16, **changes}) for chat in chats]
    )
    for got, expected in zip(ours, plain):
        assert got.continuation.tokens == expected.continuation.tokens
        assert (got.text, got.stop_reason) == (expected.text, expected.stop_reason)
        np.testing.assert_allclose(got.continuation.logprobs, expected.continuation.logprobs, atol=1e-4)
        for row, other in zip(got.continuation.top_logprobs, expected.continuation.top_logprobs, strict=True):
            assert [token for token, _ in row] == [token for token, _ in other]


def test_with_one_candidate_a_stop_string_ends_it_where_it_ends_greedy_decoding(engine: TorchEngine) -> None:
    one = Config(**(FEW | {"candidates": 1}))
    for prompt in PROMPTS[:2]:
        chat = [{"role": "user", "content": prompt}]
        whole = run(engine, Request(chat, greedy, seed=1, max_tokens=16))[0].text
        for start in range(0, len(whole) - 2, max(1, len(whole) // 5)):
            stop = (whole[start : start + 3],)
            if "\ufffd" in stop[0]:
                continue
            (got,) = run(engine, request(prompt, config=one, stop=stop))
            (expected,) = run(engine, Request(chat, greedy, seed=1, max_tokens=16, stop=stop))
            assert (got.text, got.stop_reason) == (expected.text, "stop_string")
            assert got.continuation.tokens == expected.continuation.tokens


def test_a_result_does_not_depend_on_the_batch(engine: TorchEngine) -> None:
    settings = [{"max_tokens": 9 + 3 * index, "seed": index} for index in range(len(PROMPTS))]
    requests = [request(prompt, **own) for prompt, own in zip(PROMPTS, settings)]
    alone = []
    for one in requests:
        engine._runner.tree.clear()
        alone += run(engine, one)
    others = [
        Request([{"role": "user", "content": "x" * 40}], greedy, seed=0, max_tokens=60) for _ in range(3)
    ]
    together = run(engine, *others, *reversed(requests))[3:][::-1]
    for one, other in zip(alone, together):
        assert one.continuation.tokens == other.continuation.tokens
        assert leaves(one.trace) == pytest.approx(leaves(other.trace), abs=1e-4)


def leaves(value: Any) -> dict[str, Any]:
    """Every value of a nested structure by its path."""
    if not isinstance(value, dict | list | tuple):
        return {"": -1e9 if value is None else value if isinstance(value, int | float) else hash(value)}
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    return {f"{key}/{path}": leaf for key, part in pairs for path, leaf in leaves(part).items()}


class Watermark:
    """Adds to half of the vocabulary, chosen by the token before."""

    def __init__(self, prompt_length: int) -> None:
        self.prompt_length = prompt_length

    @staticmethod
    def green(previous: int, size: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(previous)
        return torch.randperm(size, generator=generator)[: size // 2]

    def __call__(self, tokens: Any, prompt_length: int, logits: torch.Tensor) -> torch.Tensor:
        assert prompt_length == self.prompt_length, "only the request's own answer is marked"
        logits[self.green(tokens[-1], len(logits))] += 12.0
        return logits


NEVER_STOP = Sampling(temperature=1.0, logit_bias=((2, -1e9),))


def test_a_watermark_stays_in_the_answer(engine: TorchEngine) -> None:
    prompt = engine.render([{"role": "user", "content": "Hello"}])
    hooks = Hooks(logits=(Watermark(len(prompt)),))
    marked, free = run(
        engine,
        request(hooks=hooks, sampling=NEVER_STOP, max_tokens=40),
        request(sampling=NEVER_STOP, max_tokens=40),
    )
    size = engine._own.model.get_input_embeddings().weight.shape[0]

    def share(tokens: tuple[int, ...]) -> float:
        pairs = itertools.pairwise((prompt[-1], *tokens))
        return float(np.mean([after in Watermark.green(before, size) for before, after in pairs]))

    assert len(marked.continuation.tokens) == 40
    assert share(marked.continuation.tokens) > 0.9
    assert share(free.continuation.tokens) < 0.8


class WordGate:
    """Ends the answer at a forbidden character."""

    def __init__(self, forbidden: str) -> None:
        self.forbidden = forbidden

    def __call__(self, chat: Chat, text: str, final: bool) -> GateDecision:
        place = text.find(self.forbidden)
        if place >= 0:
            return GateDecision(release=place, stop=True, replacement="[stopped]")
        return GateDecision(release=len(text) if final else max(text.rfind(" "), 0))


def test_a_gate_ends_the_search_and_shows_nothing_it_has_not_passed(engine: TorchEngine) -> None:
    (whole,) = run(engine, request(sampling=NEVER_STOP))
    forbidden = whole.text[len(whole.text) // 6]
    pieces: list[str] = []
    gated = request(sampling=NEVER_STOP, hooks=Hooks(gates=(WordGate(forbidden),)), on_text=pieces.append)
    (answer,) = run(engine, gated)
    before = whole.text[: whole.text.index(forbidden)]
    assert answer.text == before + "[stopped]" == "".join(pieces)
    assert answer.stop_reason == "blocked"
    assert 0 < len(answer.trace[0]["steps"]) < len(whole.trace[0]["steps"])
    assert answer.usage.forward_tokens < whole.usage.forward_tokens, "what is blocked is not searched further"


class Steer:
    """Adds a vector after the first block."""

    layers = (1,)

    def __init__(self, size: float) -> None:
        self.size = size

    def __call__(self, layer: int, position: int, hidden: torch.Tensor) -> torch.Tensor:
        return hidden + self.size * torch.linspace(-1, 1, hidden.shape[1])


def test_steering_works_under_it(engine: TorchEngine) -> None:
    def texts(*sizes: float) -> list[str]:
        hooks = [Hooks(activations=(Steer(size),)) for size in sizes]
        return [one.text for one in run(engine, *[request(hooks=hook) for hook in hooks])]

    (plain,) = run(engine, request())
    unmoved, moved = texts(0.0, 5.0)
    assert unmoved == plain.text != moved


def test_an_end_inside_a_proposal_ends_that_proposal(engine: TorchEngine) -> None:
    ends = Sampling(temperature=1.0, logit_bias=((2, 4.0),))
    completions = run(
        engine, *[request(p, sampling=ends, max_tokens=24, seed=s) for p in PROMPTS[:3] for s in (1, 2)]
    )
    candidates = [
        child for one in completions for step in one.trace[0]["steps"] for child in step["candidates"]
    ]
    inside = [child for child in candidates if child["ended"] == "stop" and child["tokens"] > 0]
    assert inside, "some sequence ends after its first tokens"
    for one in completions:
        last = one.trace[0]["steps"][-1]
        assert last["candidates"][last["chosen"]]["ended"] == one.stop_reason
        assert all(step["candidates"][step["chosen"]]["ended"] is None for step in one.trace[0]["steps"][:-1])
        assert 2 not in one.continuation.tokens
        if one.stop_reason == "stop":
            assert len(one.continuation.logprobs) == len(one.continuation.tokens) + 1
    assert {one.stop_reason for one in completions} >= {"stop"}


def test_the_trace_agrees_with_the_answer(engine: TorchEngine) -> None:
    (one,) = run(engine, request(LONG, sampling=NEVER_STOP, max_tokens=30))
    (note,) = json.loads(json.dumps(one.trace, allow_nan=False))
    assert (note["method"], note["evaluator"], note["criterion"]) == ("rain", "the model itself", "harmless")
    steps = note["steps"]
    assert sum(step["candidates"][step["chosen"]]["tokens"] for step in steps) == 30
    assert sum(step["rewinds"] for step in steps) == note["searches"]
    assert note["evaluations"] + note["evaluations_remembered"] == note["searches"]
    for step in steps:
        children = step["candidates"]
        assert children[step["chosen"]]["visits"] == max(child["visits"] for child in children)
        for child in children:
            assert child["visits"] >= child["full_visits"]
            assert child["value"] is None or -1 <= child["value"] <= 1
    assert one.usage.completion_tokens == 30


def test_a_request_that_evaluates_itself_asks_no_judge(engine: TorchEngine) -> None:
    (one,) = run(engine, request())
    assert one.usage.judge_calls == 0 < one.trace[0]["evaluations"]


@pytest.mark.parametrize("criterion", ["harmless", "truthful"])
@pytest.mark.parametrize("kind", ["vote", "probability"])
def test_votes_take_few_values_and_probabilities_many(engine: TorchEngine, criterion: Any, kind: Any) -> None:
    config = Config(**(FEW | {"criterion": criterion, "value": kind, "similarity_weight": 0.0}))
    seen: set[float] = set()

    def spied(context: ProgramContext) -> Program:
        from trivet.decode._rain_search import Search

        search = Search(config, context, None)
        yield from search.run()
        seen.update(value for value in search._values.values() if value is not None)

    run(engine, Request([{"role": "user", "content": "Hello"}], spied, seed=1, max_tokens=16))
    if kind == "vote":
        assert seen <= ({-1.0, 0.0, 1.0} if criterion == "harmless" else {-1.0, 1.0})
    else:
        assert all(-1 <= value <= 1 for value in seen) and not seen & {-1.0, 0.0, 1.0}


def test_a_judge_that_raises_ends_the_request_with_its_error(engine: TorchEngine) -> None:
    class Broken:
        name = "broken"
        calls = 0

        def score(self, chats: Sequence[Chat]) -> list[Verdict]:
            self.calls += 1
            if self.calls > 3:
                raise EngineError("the judge is gone")
            return [Verdict(0.5) for _ in chats]

    with pytest.raises(EngineError, match="the judge is gone"):
        run(engine, request(judge=Broken()))
    assert run(engine, request())[0].text, "the engine goes on"


def test_a_self_evaluation_that_never_fits_is_refused(engine: TorchEngine) -> None:
    with pytest.raises(ContextLengthError, match="self-evaluation takes"):
        run(engine, request(config=Config(**(FEW | {"examples": 4}))))


def test_one_that_has_grown_too_long_is_no_value(engine: TorchEngine) -> None:
    config = Config(**(FEW | {"token_set_lengths": (8,)}))
    room = 512 - len(engine.render([{"role": "user", "content": ""}]))
    # The first question, about an empty answer, just fits.
    for length in range(room, 0, -4):
        prompt = "~" * length
        try:
            (one,) = run(engine, request(prompt, config=config, sampling=NEVER_STOP))
            break
        except ContextLengthError:
            continue
    failed = one.trace[0]["evaluations_failed"]
    assert failed.keys() == {"the self-evaluation does not fit the context"}
    assert one.stop_reason == "length" and len(one.continuation.tokens) == 16


def test_a_full_context_ends_the_answer(engine: TorchEngine) -> None:
    prompt = "~" * 470
    length = len(engine.render([{"role": "user", "content": prompt}]))
    config = Config(**FEW)
    judge = Always(0.5)
    (one,) = run(engine, request(prompt, judge=judge, config=config, sampling=NEVER_STOP, max_tokens=100))
    assert one.stop_reason == "context"
    assert len(one.continuation.tokens) == 512 - length


def test_characters_that_lie_in_two_token_sets_are_whole(engine: TorchEngine) -> None:
    def no_broken_pieces(piece: str) -> None:
        pieces.append(piece)

    for seed in range(3):
        pieces: list[str] = []
        (one,) = run(engine, request(seed=seed, sampling=NEVER_STOP, max_tokens=24, on_text=no_broken_pieces))
        assert "".join(pieces) == one.text == engine._own.decode(one.continuation.tokens)


def test_going_back_leaves_the_logits_of_a_fresh_pass_and_costs_one_token(engine: TorchEngine) -> None:
    def rewinds(context: ProgramContext) -> Program:
        yield from program(Config(**FEW), context)
        prefix = context.prompt
        found.append((yield Next(prefix))[0])
        for step in range(2):  # deep into a branch, then back
            prefix_of_branch = (*prefix, 20 + step, 30, 40)
            yield Extend(prefix_of_branch, 5)
        found.append((yield Next((*prefix, 20)))[0])

    found: list[Any] = []
    run(engine, Request([{"role": "user", "content": "Hello"}], rewinds, seed=1, max_tokens=12))
    engine._runner.tree.clear()

    def fresh(context: ProgramContext) -> Program:
        found.append((yield Next(context.prompt))[0])
        engine._runner.tree.clear()
        found.append((yield Next((*context.prompt, 20)))[0])

    run(engine, Request([{"role": "user", "content": "Hello"}], fresh, seed=1, max_tokens=12))
    np.testing.assert_allclose(found[0], found[2], atol=2e-5)
    np.testing.assert_allclose(found[1], found[3], atol=2e-5)


def test_what_is_committed_is_in_the_kv_tree(engine: TorchEngine) -> None:
    """After every outer step the next one begins with one token, not with the prompt."""
    seen: list[tuple[int, int]] = []

    def watched(context: ProgramContext) -> Program:
        running, result, answer = program(Config(**FEW), context), None, context.prompt
        while True:
            try:
                operation = running.send(result)
            except StopIteration:
                return
            if isinstance(operation, Commit):
                answer = answer + operation.continuation.tokens
                stored, _ = engine._runner.tree.match(answer, len(answer))
                seen.append((stored, len(answer)))
            result = yield operation

    run(engine, Request([{"role": "user", "content": LONG}], watched, seed=1, max_tokens=20))
    assert seen
    # The last token of a set is fed when something follows it.
    assert all(length - stored <= 10 for stored, length in seen)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"searches": 0}, "searches"),
        ({"serches": 5}, "did you mean 'searches'"),
        ({"token_set_lengths": []}, "token_set_lengths"),
        ({"token_set_lengths": [1, 0]}, "1 to 1000"),
        ({"judge_low": 1.0}, "must differ"),
        ({"criterion": "kind"}, "criterion"),
        ({"value": "votes"}, "value"),
        ({"proposal_top_k": 0}, "proposal_top_k"),
    ],
)
def test_wrong_settings_are_named(settings: dict[str, Any], said: str) -> None:
    entry = catalogue.find("decode/rain")
    with pytest.raises(ConfigError, match=said):
        validate(entry.config, settings, where="decode")


def test_the_defaults_are_those_of_the_released_code() -> None:
    config = Config()
    assert (config.searches, config.least_searches, config.min_visits, config.value_threshold) == (
        50,
        15,
        6,
        0.8,
    )
    assert (config.candidates, config.proposal_top_k, config.max_children) == (10, 15, 20)
    assert (config.exploration, config.similarity_weight, config.similarity_threshold) == (2.0, 0.2, 0.95)
    assert (config.token_set_lengths, config.root_uniform, config.growth_variance) == (
        (1, 2, 4, 10),
        0.25,
        0.03,
    )
    assert config.judge_specs == {} and Config(judge="refusal").judge_specs == {"judge": "refusal"}
