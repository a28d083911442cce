"""Prompts to answer in training, from rows of any kind that hold one."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trivet.errors import DataError
from trivet.models.operations import Chat, Tokens
from trivet.train.preferences import asked, check_text_or_messages, pair_of
from trivet.train.sources import open_source
from trivet.train.tokenising import template_tokens


@dataclass(frozen=True)
class Prompt:
    """A prompt. ``row``: its place among those read, from 0; ``chat``: its messages, without an answer;
    ``tokens``: its token ids with the generation prompt, once they are made."""

    row: int
    chat: Chat
    tokens: Tokens = ()

    @property
    def digest(self) -> str:
        """Of what it asks, see ``trivet.train.preferences.asked``."""
        return asked(self.chat)


@dataclass(frozen=True)
class PromptSet:
    """Prompts as read, each asked once. ``left_out`` counts, by reason, the rows that gave none."""

    source: str
    prompts: Sequence[Prompt]
    left_out: Mapping[str, int]


def read_prompts(source: str, *, base: Path) -> PromptSet:
    """The prompts of a file or a set.

    A row has ``prompt``, a text (what a user says) or a list of messages; or it is a preference pair without
    one, whose answers begin alike.

    Args:
        source: see ``trivet.train.sources.open_source``.

    Raises:
        DataError: it cannot be read, or a row has no prompt; names file, line and field.
    """
    found = open_source(source, base=base)
    left_out = Counter(found.left_out)
    chats: dict[str, Chat] = {}
    for place, row in found.rows:
        chat = _chat(row, place)
        if isinstance(chat, str):
            left_out[chat] += 1
        elif (digest := asked(chat)) in chats:
            left_out["asks what another row asks"] += 1
        else:
            chats[digest] = chat
    if not chats:
        raise DataError("no row gives a prompt", where=source)
    prompts = [Prompt(number, chat) for number, chat in enumerate(chats.values())]
    return PromptSet(found.name, prompts, dict(left_out))


def tokenise_prompts(
    prompts: Sequence[Prompt], tokenizer: Any, *, room: int, context_length: int
) -> tuple[list[Prompt], dict[str, int]]:
    """The prompts with their token ids, and by reason how many were dropped.

    Args:
        room: tokens that an answer may have; a prompt which does not leave them is dropped.
        context_length: of the model.

    Raises:
        DataError: no prompt is left, or the model has no chat template.
    """
    kept = []
    for one in prompts:
        tokens = template_tokens(one.chat, tokenizer, one.row, add_generation_prompt=True)
        if len(tokens) + room <= context_length:
            kept.append(Prompt(one.row, one.chat, tokens))
    reason = f"no room for {room} tokens of answer in the context of {context_length}"
    if prompts and not kept:
        raise DataError(f"every prompt was dropped: {reason}", hint="lower the longest answer")
    dropped = len(prompts) - len(kept)
    return kept, {reason: dropped} if dropped else {}


def _chat(row: Mapping[str, Any], place: str) -> Chat | str:
    """The messages of a row, or the reason why it gives none."""
    prompt = row.get("prompt")
    if prompt is None:
        if row.get("chosen") is None:
            raise DataError(
                "the field 'prompt' is missing",
                where=place,
                hint="a row has prompt, a text or a list of messages",
            )
        pair = pair_of(row, place)
        if isinstance(pair, str):
            return pair
        prompt = pair["prompt"]
    if isinstance(prompt, str):
        return [{"role": "user", "content": prompt}] if prompt.strip() else "the prompt is empty"
    check_text_or_messages("prompt", prompt, place)
    if not prompt or prompt[-1]["role"] == "assistant":
        return "the prompt does not end with something to answer"
    return [{"role": entry["role"], "content": entry["content"]} for entry in prompt]
