"""The chats behind the prompts of a batch, for methods that judge an answer or speak to several models."""

from collections.abc import Mapping, Sequence
from typing import Any

from trivet.errors import ConfigError, UnsupportedError
from trivet.models.operations import Chat, Tokens
from trivet.models.torch_engine.loading import LoadedModel


def given_chats(chats: Sequence[Chat], rows: int, copies: int) -> list[Chat]:
    """One chat for each row of a batch that holds each prompt ``copies`` times.

    Raises:
        ConfigError: they are no chats, or not as many as prompts or rows.
    """
    for chat in chats:
        if not isinstance(chat, list | tuple) or not all(isinstance(one, Mapping) for one in chat):
            raise ConfigError(
                "chats: give a list with one chat, itself a list of messages, for each prompt",
                where="generate",
            )
    if len(chats) * copies == rows:
        return [list(chat) for chat in chats for _ in range(copies)]
    if len(chats) != rows:
        raise ConfigError(
            f"chats: there are {len(chats)} for {rows // copies} prompts",
            where="generate",
            hint="give one for each prompt, in their order",
        )
    return [list(chat) for chat in chats]


def chat_of(prompt: Tokens, loaded: LoadedModel, *, needed: bool) -> Chat:
    """The prompt's text as one message of the user.

    Raises:
        UnsupportedError: it is ``needed`` and the prompt is a rendered chat.
    """
    if needed and not _special(loaded.tokenizer).isdisjoint(prompt[1:]):
        raise UnsupportedError(
            "the prompt is a chat that a template has rendered, and the method judges answers to the chat"
            " itself",
            where="generate",
            hint="pass chats=[chat, …] to generate, one for each prompt",
        )
    return [{"role": "user", "content": loaded.decode(prompt)}]


def same_prompt(
    prompt: Tokens, models: Mapping[str, LoadedModel], model: str, template: str | None
) -> Tokens:
    """The prompt that ``model`` is shown where the chat is not known: the tokens of the others.

    Raises:
        UnsupportedError: its own template would show it something else.
    """
    mine, its = models[""].tokenizer, models[model].tokenizer
    theirs = getattr(its, "chat_template", None)
    if template is not None or (theirs and theirs != getattr(mine, "chat_template", None)):
        raise UnsupportedError(
            f"{model!r} has a chat template of its own, and the chat is not known",
            where="generate",
            hint="pass chats=[chat, …] to generate, one for each prompt",
        )
    return prompt


def _special(tokenizer: Any) -> set[int]:
    """Ids of the tokens that are no text; a tokenizer may list those of its template as added ones only."""
    added = getattr(tokenizer, "added_tokens_decoder", {})
    marked = {int(place) for place, token in added.items() if getattr(token, "special", False)}
    return (marked | set(tokenizer.all_special_ids)) - {tokenizer.unk_token_id}
