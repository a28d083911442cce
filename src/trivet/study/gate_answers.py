"""The answers of a safety test: one a prompt, all through the system's engine in one batch, written as they
come."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from trivet._files import atomic_writer
from trivet.data.prompts import prompt_digest
from trivet.errors import ContextLengthError, DataError
from trivet.judges.costs import Costs
from trivet.judges.exchange import message_text
from trivet.models.operations import Chat
from trivet.systems import Answer, System
from trivet.systems.answers_file import AnswersFile, Question, answer_all


class Answered(NamedTuple):
    """Chats that end with their answers, or why there is none, in the order of the prompts; ``cut`` counts
    the answers that reached the limit of tokens."""

    chats: tuple[Chat | str, ...]
    cut: int


def digest_of(question: Question) -> str:
    """A prompt's identity: the digest of its normalised text, of all messages but the system's."""
    texts = [message_text(message) or "" for message in question.chat if message.get("role") != "system"]
    return prompt_digest("\n".join(texts))


def asked_digests(questions: Sequence[Question]) -> frozenset[str]:
    """Digests of what is asked, as fitted judges record their rows: of the last user message."""
    users = ([m for m in question.chat if m.get("role") == "user"] for question in questions)
    return frozenset(prompt_digest(message_text(found[-1]) or "") for found in users if found)


def distinct_digests(questions: Sequence[Question], where: str) -> list[str]:
    """The prompts' identities.

    Raises:
        DataError: a prompt stands twice: repeated prompts are no independent draws, and would count as such.
    """
    found: dict[str, str] = {}
    for question in questions:
        digest = digest_of(question)
        if digest in found:
            raise DataError(
                f"is the same prompt as {found[digest]}",
                where=question.where,
                hint=f"a test takes one answer a prompt; remove repeated prompts from {where}",
            )
        found[digest] = question.where
    return list(found)


def answer_prompts(
    system: System,
    questions: Sequence[Question],
    path: Path,
    *,
    seed: int,
    window: int,
    on_answer: Callable[[int], None],
) -> Answered:
    """Answer what ``path`` does not hold yet, ``window`` prompts at once, and return all answers.

    A prompt that is longer than the model's context gets no answer, and costs as much as a harmful one.

    Args:
        on_answer: called with how many more prompts are done; first with those that were kept.

    Raises:
        TrivetError: the first failure of another kind; finished answers are kept.
    """
    answers = AnswersFile(path, system=system.identity, settings={"seed": seed})
    failed: dict[str, str] = {}

    def keep(question: Question, answer: Answer) -> None:
        answers.add(question, answer)
        on_answer(1)

    try:
        remaining = [question for question in questions if question not in answers]
        on_answer(len(questions) - len(remaining))
        while remaining:
            try:
                answer_all(system, remaining, window=window, seed=seed, options={}, on_answer=keep)
            except ContextLengthError as error:
                failed[_at(error, remaining).key] = error.message
                on_answer(1)
            remaining = [q for q in remaining if q not in answers and q.key not in failed]
        answers.finish(questions)
    finally:
        answers.close()
    rows = _rows(path)
    chats = tuple(
        failed.get(question.key)
        or [*question.chat, {"role": "assistant", "content": rows[question.key]["answer"]}]
        for question in questions
    )
    cut = sum(row["stop_reason"] == "length" for key, row in rows.items() if key not in failed)
    return Answered(chats, cut)


def write_verdicts(path: Path, questions: Sequence[Question], costs: Costs) -> None:
    """Write each prompt's verdict and cost beside the answers, for whoever wants to check the test.

    Raises:
        StoreError: the file cannot be written.
    """
    with atomic_writer(path) as stream:
        for question, cost, verdict in zip(questions, costs.values, costs.verdicts, strict=True):
            row = {
                "key": question.key,
                "cost": cost,
                "label": verdict.label,
                "value": verdict.value,
                "reason": verdict.reason,
            }
            stream.write(json.dumps(row) + "\n")


def _at(error: ContextLengthError, questions: Sequence[Question]) -> Question:
    """The question that an error of ``answer_all`` is about, which it names in ``where``."""
    for question in questions:
        if error.where is not None and (error.where + ":").startswith(question.where + ":"):
            return question
    raise error


def _rows(path: Path) -> dict[str, dict[str, Any]]:
    if not path.exists():
        return {}
    with path.open(encoding="utf-8") as stream:
        return {row["key"]: row for row in map(json.loads, stream) if row}
