"""A language model as a judge, or a panel of them: it grades by a rubric, in words that are read back.

``model`` names what grades, as everywhere in Trivet (``inspect:openai/…``, ``openai:URL#name``, a local
model); without it the models bound to Inspect's role ``grader`` do (``--model-role grader=…``). Nothing is
graded by a model unless it is asked for. A reply that cannot be read is "could not score". The verdict of a
panel is the label that more than half of its members gave, a member that failed counting as one (Verga et
al., "Replacing Judges with Juries", arXiv 2404.18796). Graders prefer their own kind and long answers.
"""

import functools
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import CancelledError
from typing import Any, Literal, Protocol

import anyio
from anyio import from_thread
from pydantic import Field

from trivet._files import canonical_json, sha256_text
from trivet._validation import Config as BaseConfig
from trivet.errors import EngineError, JudgeError
from trivet.judges.base import Verdict, unscored
from trivet.judges.exchange import NotJudgeableError, exchange
from trivet.judges.grader_prompts import RUBRICS, comparison_prompt, grading_prompt, parse_verdict
from trivet.judges.submission import submit
from trivet.models.engine import Handle, Request
from trivet.models.engines import get_engine
from trivet.models.operations import Chat, Commit, Extend, Program, ProgramContext, Sampling

VERSION = 1
"""Raised when the prompts or the reading of replies change."""

ROLE = "grader"
_PREFERENCES = ("first", "second", "equal")


class Config(BaseConfig):
    """``model``: a model or several (a panel); ``None``: Inspect's role ``grader``. ``max_tokens`` bounds the
    reply; ``temperature`` 0 is greedy."""

    model: str | tuple[str, ...] | None = None
    rubric: Literal["refusal", "harmlessness", "helpfulness"] = "refusal"
    max_tokens: int = Field(default=512, ge=8)
    temperature: float = Field(default=0.0, ge=0)


def build(config: Config) -> "GraderJudge":
    """The judge; models are opened at the first score."""
    return GraderJudge(config)


class Member(Protocol):
    """One grader."""

    name: str

    def ask(self, prompts: Sequence[str]) -> list[str | Exception]:
        """The replies, or why there is none."""
        ...


class GraderJudge:
    """Labels by a rubric; ``value`` is the label's. ``metadata["panel"]`` holds each member's label."""

    name = "grader"
    training_prompts: frozenset[str] = frozenset()

    def __init__(self, config: Config) -> None:
        self.config = config
        self.rubric = RUBRICS[config.rubric]
        self.objective = self.rubric.objective

    @property
    def identity(self) -> str:
        """Digest of the settings and of the prompts' version; not of what an endpoint serves under a name."""
        return sha256_text(canonical_json([self.name, VERSION, self.config.model_dump(mode="json")]))

    @property
    def quality(self) -> dict[str, Any]:
        """Empty: a grader is measured with ``trivet judges calibrate``."""
        return {}

    def score(self, chats: Sequence[Chat]) -> list[Verdict]:
        """Grade the last assistant message of each chat.

        Raises:
            JudgeError: no model is named and none is bound to the role. ModelError: a model cannot be opened.
        """
        found: list[Verdict | None] = [None] * len(chats)
        prompts: dict[int, str] = {}
        for index, chat in enumerate(chats):
            try:
                prompts[index] = grading_prompt(self.rubric, *exchange(chat))
            except NotJudgeableError as error:
                found[index] = unscored(str(error))
        for index, label, panel in self._labels(prompts, tuple(self.rubric.labels)):
            if label is None:
                found[index] = Verdict(None, reason=_disagreement(panel), metadata={"panel": panel})
            else:
                found[index] = Verdict(self.rubric.labels[label], label=label, metadata={"panel": panel})
        return [verdict or unscored("the grader gave no reply") for verdict in found]

    def prefer(self, prompt: str, first: str, second: str) -> Verdict:
        """Which answer has more of the objective: 1 the first, 0 the second, ½ equal.

        Both orders are asked. Where they contradict each other the position decided and not the answers, and
        the verdict is ½ with the label ``position``.
        """
        asked = {
            0: comparison_prompt(self.rubric, prompt, first, second),
            1: comparison_prompt(self.rubric, prompt, second, first),
        }
        labels = {index: (label, panel) for index, label, panel in self._labels(asked, _PREFERENCES)}
        straight, swapped = labels[0][0], labels[1][0]
        panel = {"straight": labels[0][1], "swapped": labels[1][1]}
        if straight is None or swapped is None:
            return Verdict(
                None, reason=_disagreement(labels[0 if straight is None else 1][1]), metadata=panel
            )
        turned = {"first": "second", "second": "first", "equal": "equal"}[swapped]
        if straight != turned:
            return Verdict(0.5, label="position", metadata=panel)
        return Verdict({"first": 1.0, "second": 0.0, "equal": 0.5}[straight], label=straight, metadata=panel)

    def _labels(
        self, prompts: dict[int, str], labels: tuple[str, ...]
    ) -> list[tuple[int, str | None, dict[str, str | None]]]:
        if not prompts:
            return []
        replies = {member.name: member.ask(list(prompts.values())) for member in self._members()}
        found = []
        for place, index in enumerate(prompts):
            panel = {
                name: None
                if isinstance(given[place], Exception)
                else parse_verdict(str(given[place]), labels)
                for name, given in replies.items()
            }
            found.append((index, majority(list(panel.values())), panel))
        return found

    def _members(self) -> list[Member]:
        if self.config.model is None:
            return _role_members(self.config)
        return self._engines

    @functools.cached_property
    def _engines(self) -> list[Member]:
        models = (self.config.model,) if isinstance(self.config.model, str) else self.config.model or ()
        names = [
            name if number == 0 or name not in models[:number] else f"{name} ({number + 1})"
            for number, name in enumerate(models)
        ]
        return [EngineMember(name, model, self.config) for name, model in zip(names, models, strict=True)]


def majority(labels: Sequence[str | None]) -> str | None:
    """The label that more than half of the members gave; ``None`` counts as a member."""
    label, votes = Counter(labels).most_common(1)[0]
    return label if votes > len(labels) / 2 else None


class EngineMember:
    """A grader that runs in one of Trivet's engines."""

    def __init__(self, name: str, model: str, config: Config) -> None:
        self.name = name
        self._engine = get_engine(model)
        self._config = config

    def ask(self, prompts: Sequence[str]) -> list[str | Exception]:
        """The replies in order; a request that fails does not stop the others."""

        def program(context: ProgramContext) -> Program:
            (continuation,) = yield Extend(context.prompt, context.max_tokens, sampling=context.sampling)
            yield Commit(continuation)

        handles: list[Handle | EngineError] = []
        for number, prompt in enumerate(prompts):
            request = Request(
                chat=[{"role": "user", "content": prompt}],
                program=program,
                seed=number,
                max_tokens=self._config.max_tokens,
                sampling=Sampling(temperature=self._config.temperature),
            )
            try:
                handles.append(submit(self._engine, request))
            except EngineError as error:
                handles.append(error)
        replies: list[str | Exception] = []
        for handle in handles:
            try:
                replies.append(handle if isinstance(handle, Exception) else handle.result().text)
            except (EngineError, CancelledError) as error:
                replies.append(error)
        return replies


def _role_members(config: Config) -> list[Member]:
    from inspect_ai.model import model_roles

    bound = model_roles().get(ROLE)
    if bound is None:
        raise JudgeError(
            "no model grades: none is named, and none is bound to Inspect's role 'grader'",
            where="judge grader",
            hint="name one (`model:`), or give `grader:` in the study or `--model-role grader=PROVIDER/NAME`",
        )
    models = bound if isinstance(bound, list) else [bound]
    return [
        RoleMember(f"{model} #{place}" if len(models) > 1 else str(model), model, config)
        for place, model in enumerate(models, 1)
    ]


class RoleMember:
    """A grader that is bound to Inspect's role; it runs in the event loop of the evaluation."""

    def __init__(self, name: str, model: Any, config: Config) -> None:
        self.name = name
        self._model = model
        self._config = config

    def ask(self, prompts: Sequence[str]) -> list[str | Exception]:
        """The replies in order; Inspect bounds how many are under way."""
        try:
            return from_thread.run(self._ask, prompts)
        except RuntimeError:  # not in a worker thread of an event loop
            return anyio.run(self._ask, prompts)

    async def _ask(self, prompts: Sequence[str]) -> list[str | Exception]:
        from inspect_ai.model import GenerateConfig

        config = GenerateConfig(max_tokens=self._config.max_tokens, temperature=self._config.temperature)
        replies: list[str | Exception] = [""] * len(prompts)

        async def one(index: int) -> None:
            try:
                replies[index] = (await self._model.generate(prompts[index], config=config)).completion
            except Exception as error:  # providers raise errors of their own
                replies[index] = error

        async with anyio.create_task_group() as group:
            for index in range(len(prompts)):
                group.start_soon(one, index)
        return replies


def _disagreement(panel: dict[str, str | None]) -> str:
    if all(label is None for label in panel.values()):
        return (
            "the grader's reply could not be read"
            if len(panel) == 1
            else "no reply of the panel could be read"
        )
    return "the panel has no majority: " + ", ".join(
        f"{name}: {label or 'unreadable'}" for name, label in panel.items()
    )
