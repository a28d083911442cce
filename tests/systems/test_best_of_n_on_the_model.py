"""Best-of-n on the embedded model: the answer is the candidate that the judge scores highest."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from trivet.decode.best_of_n import program
from trivet.judges import Verdict
from trivet.models.engines import close_engines
from trivet.models.operations import Commit, Judge, Program
from trivet.systems import System
from trivet.systems.parts import Part


class Brevity:
    """The shorter the better; a judge whose choice can be checked by eye."""

    name = "brevity"
    objective = "brevity"
    identity = "0" * 64
    quality: dict[str, Any] = {}  # noqa: RUF012 - as the protocol has it
    training_prompts: frozenset[str] = frozenset()

    def score(self, chats: Sequence[Any]) -> list[Verdict]:
        return [Verdict(-float(len(chat[-1]["content"]))) for chat in chats]


@pytest.mark.model
def test_the_shortest_of_four_is_given(embedded_model: str) -> None:
    seen: list[list[str]] = []
    committed: list[str] = []

    def spy(running: Program) -> Program:
        """Pass every operation on and note what was judged and committed."""
        result = None
        while True:
            try:
                operation = running.send(result)
            except StopIteration:
                return
            if isinstance(operation, Judge):
                seen.append([str(chat[-1]["content"]) for chat in operation.chats])
            if isinstance(operation, Commit):
                committed.append(operation.continuation.text)
            result = yield operation

    system = System.load(
        {
            "model": embedded_model,
            "decode": {"method": "best_of_n", "n": 4, "judge": "refusal_string_match"},
            "max_tokens": 24,
        }
    )
    method = replace(system.decoding.method, function=lambda *a, **k: spy(program(*a, **k)))
    system.__dict__["decoding"] = Part(method, system.decoding.config, {"judge": Brevity()})
    answer = system.answer_sync("Tell me about the sea.", seed=1)
    assert len(seen[0]) == 4
    assert len(set(seen[0])) > 1, "four draws at temperature 1 are not all the same"
    assert answer.text == min(seen[0], key=len) == committed[0]
    assert answer.trace[0]["chosen"] == [len(text) for text in seen[0]].index(len(answer.text))
    assert answer.usage.judge_calls == 4
    close_engines()
