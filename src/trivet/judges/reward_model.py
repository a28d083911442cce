"""A trained reward or cost model as a judge: a sequence classifier with one output scores the whole chat.

::

    judge: {judge: reward_model, model: runs/reward}        # what `trivet train reward_model` wrote
    judge: {judge: reward_model, model: OWNER/NAME}         # a reward model of the hub
    judge: {judge: reward_model, model: runs/cost, low: -4, high: 4}   # mapped to 0 … 1

The chat goes through the model's own chat template. System messages are left out: a judge scores the answer
to the request, whatever the judged system was told. Cost: one forward pass over prompt and answer, in batches
of answers of like length.
"""

import functools
import json
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from jinja2 import TemplateError
from pydantic import Field, model_validator

from trivet._files import canonical_json, sha256_text
from trivet._validation import Config as BaseConfig
from trivet.errors import JudgeError, ModelError
from trivet.judges.base import Verdict, unscored
from trivet.judges.exchange import NotJudgeableError, exchange, message_text
from trivet.models.classifiers import load_classifier
from trivet.models.names import resolve_model
from trivet.models.operations import Chat, Tokens

VERSION = 1
"""Raised when equal weights give other scores than before."""

BATCH_TOKENS = 4096
"""Tokens of a batch, padding included."""

LABELS = ("safe", "unsafe")
"""Of a cost up to 0 and above, where the model learnt what 0 means."""


class Config(BaseConfig):
    """``model``: what ``trivet train reward_model`` or ``cost_model`` wrote, a classifier or an adapter, or
    another sequence classifier with one output. With ``low`` and ``high`` the value is
    (score − low) / (high − low), held within 0 and 1."""

    model: str = Field(description="a folder, an adapter or a hub id")
    low: float | None = Field(None, description="score that becomes 0", allow_inf_nan=False)
    high: float | None = Field(None, description="score that becomes 1", allow_inf_nan=False)
    device: str = Field("auto", description="auto, cpu, cuda or cuda:N")

    @model_validator(mode="after")
    def _ordered(self) -> "Config":
        if (self.low is None) != (self.high is None):
            raise ValueError("low and high come together")
        if self.low is not None and self.high is not None and not self.low < self.high:
            raise ValueError("low must be below high")
        return self


def build(config: Config) -> "RewardModelJudge":
    """The judge; the model is loaded at the first score.

    Raises:
        ModelError: there is no such model, or its weights cannot be used safely.
        JudgeError: its record is damaged.
    """
    return RewardModelJudge(config)


class RewardModelJudge:
    """Scores answers by a sequence classifier. ``value`` is its score, or that mapped to 0 … 1.

    The labels ``unsafe`` and ``safe`` are given by a cost model that was trained with safety labels. The
    unmapped score is in the verdict's metadata.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self.reference = resolve_model(config.model)
        if self.reference.path is None or self.reference.kind == "gguf":
            raise ModelError("is not a folder of weights", where=config.model)
        self.folder = self.reference.path
        self.name = self.folder.name if self.reference.kind in ("folder", "adapter") else config.model
        self._facts = _facts(self.folder / "training.json")
        self.objective = str(self._facts.get("objective", "reward"))
        self._lock = threading.Lock()
        self._loaded: tuple[Any, Any] | None = None

    @functools.cached_property
    def identity(self) -> str:
        """Digest of the weights, the map of scores, and the version of the code."""
        parts = [VERSION, self.reference.identity, self.config.low, self.config.high]
        return sha256_text(canonical_json(parts))

    @property
    def quality(self) -> dict[str, Any]:
        """What was measured on held-out pairs when it was trained; empty where that is not known."""
        return dict(self._facts.get("quality") or {})

    @functools.cached_property
    def training_prompts(self) -> frozenset[str]:
        """Digests of the prompts it was trained on; empty for a model that Trivet did not train."""
        if not self._facts:
            return frozenset()
        path = self.folder / "training_prompts.json"
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise JudgeError(
                f"the digests of the judge's training prompts cannot be read: {error}",
                where=str(path),
                hint="copy this file with the model, or train it again",
            ) from None
        if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
            raise JudgeError("must be a list of digests", where=str(path))
        return frozenset(found)

    @property
    def signed(self) -> bool:
        """Whether it is a cost model that learnt from safety labels what a score of 0 means."""
        return bool(self._facts.get("signed"))

    def score(self, chats: Sequence[Chat]) -> list[Verdict]:
        """Score the last assistant message of each chat; system messages are not read.

        Raises:
            ModelError: the model cannot be loaded.
        """
        with self._lock:
            if self._loaded is None:
                self._loaded = _load(self.reference, self.config.device)
            model, tokenizer = self._loaded
            limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
            texts = bool(self._facts.get("texts"))
            read = [_tokens(chat, tokenizer, limit, texts) for chat in chats]
            scores = _scores(model, [tokens for tokens in read if not isinstance(tokens, str)])
        values = iter(scores)
        return [
            unscored(tokens) if isinstance(tokens, str) else self._verdict(next(values)) for tokens in read
        ]

    def _verdict(self, score: float) -> Verdict:
        if score != score or score in (float("inf"), float("-inf")):
            return unscored("the model's score is NaN or infinity")
        label = LABELS[score > 0] if self.signed else None
        low, high = self.config.low, self.config.high
        if low is None or high is None:
            return Verdict(score, label, metadata={"score": score})
        return Verdict(min(max((score - low) / (high - low), 0.0), 1.0), label, metadata={"score": score})


def _facts(path: Path) -> dict[str, Any]:
    """What training noted for a judge; empty where the model was not trained here."""
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))["judge"]
        well = isinstance(found, dict) and isinstance(found.get("quality", {}), dict)
    except (OSError, ValueError, KeyError, TypeError):
        well = False
    if not well:
        raise JudgeError(
            "does not tell of a reward or cost model",
            where=str(path),
            hint="`trivet train reward_model` and `trivet train cost_model` make one",
        )
    return dict(found)


def _load(reference: Any, device: str) -> tuple[Any, Any]:
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    model, tokenizer = load_classifier(reference, dtype=torch.float32 if device == "cpu" else "auto")
    return model.to(device).eval(), tokenizer


def _tokens(chat: Chat, tokenizer: Any, limit: int | None, texts: bool) -> Tokens | str:
    """The tokens of a chat as in training, or why there are none."""
    try:
        if not exchange(chat).answer.strip():
            return "the answer is empty"
    except NotJudgeableError as error:
        return str(error)
    messages = [
        {"role": message["role"], "content": message_text(message) or ""}
        for message in chat
        if message.get("role") in ("user", "assistant")
    ]
    if texts:
        return _joined(messages, tokenizer, limit)
    try:
        tokens = tuple(tokenizer.apply_chat_template(messages, return_dict=False))
    except (TemplateError, ValueError, TypeError, KeyError) as error:
        return f"the chat template refuses the messages: {' '.join(str(error).split())[:200]}"
    return _within(tokens, limit)


def _joined(messages: list[dict[str, str]], tokenizer: Any, limit: int | None) -> Tokens | str:
    """A prompt and its answer as they stand, for a model that was trained on texts and not on messages."""
    if len(messages) > 2:
        return "the model was trained on texts of one prompt and one answer"
    text = "".join(message["content"] for message in messages)
    end = tokenizer.eos_token or ""
    return _within(tuple(tokenizer(text if text.endswith(end) else text + end)["input_ids"]), limit)


def _within(tokens: Tokens, limit: int | None) -> Tokens | str:
    if limit is not None and len(tokens) > limit:
        return f"the chat has {len(tokens)} tokens, the judge's model reads {limit}"
    return tokens


@torch.no_grad()
def _scores(model: Any, sequences: Sequence[Tokens]) -> list[float]:
    padding = model.config.get_text_config().pad_token_id
    found: dict[int, float] = {}
    for batch in _batches(sequences):
        rows = [sequences[index] for index in batch]
        width = max(map(len, rows))
        tokens = torch.full((len(rows), width), padding)
        mask = torch.zeros((len(rows), width), dtype=torch.long)
        for place, row in enumerate(rows):
            tokens[place, : len(row)] = torch.tensor(row)
            mask[place, : len(row)] = 1
        output = model(input_ids=tokens.to(model.device), attention_mask=mask.to(model.device))
        found |= dict(zip(batch, output.logits[:, 0].float().cpu().tolist(), strict=True))
    return [found[index] for index in range(len(sequences))]


def _batches(sequences: Sequence[Tokens]) -> Iterator[list[int]]:
    """Sequences of like length together, so that padding costs little."""
    batch: list[int] = []
    for index in sorted(range(len(sequences)), key=lambda index: len(sequences[index])):
        if batch and (len(batch) + 1) * len(sequences[index]) > BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch
