"""Several operations in one yield: results, batch, cost, and what a long search may hold."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trivet.errors import ContextLengthError, UnsupportedError
from trivet.models.engine import Request, Usage
from trivet.models.names import resolve_model
from trivet.models.operations import (
    Commit,
    Continuation,
    Extend,
    Hidden,
    Next,
    ProgramContext,
    Sampling,
    Score,
    Several,
)
from trivet.models.torch_engine import TorchEngine

NEVER_STOP = Sampling(logit_bias=((2, -1e9),))


@pytest.fixture
def engine(tiny_model_folder: Path) -> Iterator[TorchEngine]:
    engine = TorchEngine(resolve_model(str(tiny_model_folder)))
    yield engine
    engine.close()


def ask(engine: TorchEngine, steps: Callable[[ProgramContext], Any], seed: int = 0) -> tuple[Any, Usage]:
    """Run a generator function as a program; what it returns, and its costs."""
    box = []

    def program(context: ProgramContext) -> Any:
        box.append((yield from steps(context)))

    chat = [{"role": "user", "content": "What is the capital of France?"}]
    done = engine.submit(Request(chat, program=program, seed=seed, max_tokens=24)).result(60)
    return box[0], done.usage


def test_each_operation_has_its_own_result_in_order(engine: TorchEngine) -> None:
    def together(context: ProgramContext) -> Any:
        prompt = context.prompt
        return (
            yield Several(
                (
                    Extend(prompt, 5, n=2, sampling=NEVER_STOP),
                    Next(prompt),
                    Score(prompt, ((5, 6), (), (7,))),
                    Extend((*prompt, 9), 0),
                    Hidden(prompt, (1,)),
                )
            )
        )

    def apart(context: ProgramContext) -> Any:
        prompt = context.prompt
        extended = yield Extend(prompt, 5, n=2, sampling=NEVER_STOP)
        following = yield Next(prompt)
        scored = yield Score(prompt, ((5, 6), (), (7,)))
        nothing = yield Extend((*prompt, 9), 0)
        return [extended, following, scored, nothing, (yield Hidden(prompt, (1,)))]

    (results, _), (expected, _) = ask(engine, together), ask(engine, apart)
    assert [one.tokens for one in results[0]] == [one.tokens for one in expected[0]]
    np.testing.assert_allclose(results[1][0], expected[1][0], atol=1e-4)
    assert [len(one) for one in results[2]] == [2, 0, 1]
    for one, other in zip(results[2], expected[2]):
        np.testing.assert_allclose(one, other, atol=1e-4)
    assert results[3] == [Continuation((), "", (), "length")]
    np.testing.assert_allclose(results[4][1], expected[4][1], atol=1e-4)


def test_they_run_in_one_batch_and_what_they_share_is_computed_once(engine: TorchEngine) -> None:
    def branches(context: ProgramContext) -> Any:
        yield Next(context.prompt)
        before = engine._runner.steps
        yield Several(
            tuple(Extend((*context.prompt, token), 6, sampling=NEVER_STOP) for token in range(10, 18))
        )
        return engine._runner.steps - before

    steps, usage = ask(engine, branches)
    assert steps == 6
    assert usage.forward_tokens == usage.prompt_tokens + 8 * 6  # the last drawn token of each is not fed


def test_a_shared_prefix_that_nobody_has_computed_yet_is_computed_by_one_of_them(engine: TorchEngine) -> None:
    def branches(context: ProgramContext) -> Any:
        yield Several(tuple(Extend((*context.prompt, token), 1) for token in range(10, 18)))

    _, usage = ask(engine, branches)
    assert usage.forward_tokens == usage.prompt_tokens + 8


def test_random_streams_differ_between_them_and_follow_the_seed(engine: TorchEngine) -> None:
    def draws(context: ProgramContext) -> Any:
        sampling = Sampling(2.0, logit_bias=NEVER_STOP.logit_bias)
        return (yield Several(tuple(Extend(context.prompt, 8, sampling=sampling) for _ in range(3))))

    first, again, other = (ask(engine, draws, seed)[0] for seed in (1, 1, 2))
    tokens = [[one.tokens for [one] in found] for found in (first, again, other)]
    assert tokens[0] == tokens[1] != tokens[2]
    assert len(set(tokens[0])) == 3


def test_none_at_all_gives_an_empty_list(engine: TorchEngine) -> None:
    def nothing(context: ProgramContext) -> Any:
        return (yield Several(()))

    assert ask(engine, nothing)[0] == []


def test_one_that_cannot_be_fails_them_all_and_the_program_may_go_on(engine: TorchEngine) -> None:
    def steps(context: ProgramContext) -> Any:
        try:
            yield Several((Extend(context.prompt, 3), Extend(context.prompt * 100, 3)))
        except ContextLengthError:
            return (yield Extend(context.prompt, 3, sampling=NEVER_STOP))

    assert len(ask(engine, steps)[0][0].tokens) == 3


def test_an_unknown_model_ends_the_request(engine: TorchEngine) -> None:
    def steps(context: ProgramContext) -> Any:
        yield Several((Next(context.prompt), Next(context.prompt, models=("other",))))

    with pytest.raises(UnsupportedError, match="other"):
        ask(engine, steps)


def test_what_is_no_computation_is_refused_where_it_is_made() -> None:
    with pytest.raises(ValueError, match="Commit cannot be one of Several"):
        Several((Commit(Continuation((), "", (), "stop")),))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="stands alone"):
        Several((Extend((1,), 1, commit=True),))


def test_a_program_knows_where_answers_end(engine: TorchEngine) -> None:
    def steps(context: ProgramContext) -> Any:
        yield Next(context.prompt)
        return context.eos, context.context_length

    assert ask(engine, steps)[0] == (frozenset({2}), 512)


def test_a_long_search_holds_only_what_its_last_operation_computed(tiny_model_folder: Path) -> None:
    """Branches that were given up are dropped when there is no room; the branch under way never is."""
    engine = TorchEngine(resolve_model(str(tiny_model_folder)), tree_bytes=40_000)
    held = []

    def search(context: ProgramContext) -> Any:
        prefix = context.prompt
        for _ in range(20):
            rolled = yield Several(
                tuple(Extend((*prefix, token), 8, sampling=NEVER_STOP) for token in range(10, 18))
            )
            held.append(engine._runner.tree.nbytes)
            prefix = (*prefix, 10, rolled[0][0].tokens[0])
        return prefix

    _, usage = ask(engine, search)
    step = 8 * 8 * 2 * 2 * 2 * 8 * 4  # branches × tokens × keys and values × layers × heads × width × bytes
    assert max(held) < 40_000 + 3 * step < 20 * step
    # Beyond the tree's room nothing on the way to the live branch was computed twice.
    assert usage.forward_tokens <= usage.prompt_tokens + 20 * (8 * 8 + 1)
    engine.close()


def test_next_honours_penalties_and_bias_as_drawing_does(engine: TorchEngine) -> None:
    """Greedy decoding with penalties is what following the largest entry of ``Next`` gives."""
    sampling = Sampling(
        temperature=0.7,  # plays no part in Next
        repetition_penalty=1.4,
        presence_penalty=0.8,
        frequency_penalty=0.5,
        logit_bias=((2, -1e9), (40, 2.0)),
    )

    def steps(context: ProgramContext) -> Any:
        [drawn] = yield Extend(context.prompt, 10, sampling=replace(sampling, temperature=0.0))
        found: tuple[int, ...] = ()
        for _ in range(10):
            [following] = yield Next((*context.prompt, *found), sampling=sampling)
            assert np.logaddexp.reduce(following) == pytest.approx(0, abs=1e-3)
            found = (*found, int(following.argmax()))
        return drawn.tokens, found

    drawn, found = ask(engine, steps)[0]
    assert drawn == found
