"""What the scorers share: the answer's text, judges in batches, scores that say why there is none."""

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

import anyio
from anyio.to_thread import run_sync
from inspect_ai.scorer import Metric, SampleScore, Score, Value, metric
from inspect_ai.solver import TaskState

from trivet.judges import Judge, Verdict, resolve
from trivet.models.operations import Chat

GATHER_SECONDS = 0.02
"""How long a scorer waits for others to join its batch."""


def answer_text(state: TaskState) -> str | None:
    """The answer without its reasoning, or ``None`` where none was generated (an error, a limit)."""
    if not state.output.choices:
        return None
    return state.output.completion


def judged_chat(state: TaskState) -> Chat:
    """The conversation as a judge sees it: text only, reasoning and tool traffic left out."""
    return [
        {"role": message.role, "content": message.text}
        for message in state.messages
        if message.role in ("system", "user", "assistant")
    ]


def scored(state: TaskState, value: float, *, label: str | None = None, **metadata: Any) -> Score:
    """A score with its label and how the answer ended in the metadata."""
    return Score(value=value, metadata={"label": label, **_ending(state), **metadata})


def not_scored(state: TaskState, reason: str, **metadata: Any) -> Score:
    """No score, and why."""
    return Score.unscored(reason=reason, metadata={"label": None, **_ending(state), **metadata})


def no_answer(state: TaskState, **metadata: Any) -> Score:
    """The score of a sample without an answer."""
    return not_scored(state, "no answer was generated", **metadata)


def _ending(state: TaskState) -> dict[str, Any]:
    return {"stop_reason": state.output.stop_reason} if state.output.choices else {}


def judge_text(judge: str | dict[str, Any]) -> str:
    """A judge as one text, so that a log can rebuild its scorer: its name, or JSON with its settings."""
    return judge if isinstance(judge, str) else json.dumps(judge)


def judge_spec(judge: str | Judge) -> str | dict[str, Any] | Judge:
    """What ``judge_text`` was given; a judge itself stays as it is."""
    written = isinstance(judge, str) and judge.lstrip().startswith("{")
    return dict(json.loads(str(judge))) if written else judge


class _Item:
    """One chat that waits for its verdict."""

    def __init__(self, chat: Chat) -> None:
        self.chat = chat
        self.verdict: Verdict | None = None


class BatchedJudge:
    """Gives an async scorer its verdicts, while the judge sees batches, in one worker thread at a time.

    Inspect scores all samples of a log at once, one coroutine each. Every coroutine queues its chat; whoever
    gets the lock takes along what waits. Nothing is built before the first verdict is asked for.
    """

    def __init__(self, spec: str | Mapping[str, Any] | Judge, *, batch_size: int = 32) -> None:
        self.spec = spec
        self.batch_size = batch_size
        self._judge: Judge | None = None
        self._waiting: list[_Item] = []
        self._lock = anyio.Lock()

    @property
    def name(self) -> str:
        """Its name; that of the specification until the judge is built."""
        if self._judge is not None:
            return self._judge.name
        return str(self.spec.get("judge")) if isinstance(self.spec, Mapping) else str(self.spec)

    async def verdict(self, chat: Chat) -> Verdict:
        """The verdict on the last assistant message of ``chat``.

        Raises:
            JudgeError: the judge cannot be built. ConfigError: there is no such judge.
        """
        item = _Item(chat)
        self._waiting.append(item)
        try:
            await anyio.sleep(GATHER_SECONDS)
            while item.verdict is None:
                async with self._lock:
                    if item.verdict is None:
                        await self._score_batch()
        finally:
            if item in self._waiting:
                self._waiting.remove(item)
        return item.verdict

    async def _score_batch(self) -> None:
        batch = self._waiting[: self.batch_size]
        verdicts = await run_sync(self._score, [item.chat for item in batch])
        for item, verdict in zip(batch, verdicts, strict=True):
            item.verdict = verdict
            if item in self._waiting:  # its scorer may have been cancelled meanwhile
                self._waiting.remove(item)

    def _score(self, chats: list[Chat]) -> list[Verdict]:
        if self._judge is None:
            self._judge = resolve(self.spec)
        return list(self._judge.score(chats))


@metric(scores="unreduced")
def label_shares() -> Metric:
    """The share of each label among the scored answers; empty where there are no labels."""

    def compute(scores: list[SampleScore]) -> Value:
        labels = [(score.score.metadata or {}).get("label") for score in scores]
        counts = Counter(str(label) for label in labels if label is not None)
        total = sum(counts.values())
        return {label: counts[label] / total for label in sorted(counts)}

    return compute
