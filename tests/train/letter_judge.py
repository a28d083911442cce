"""A judge that is quick and has few ties: the share of letters in an answer."""

from collections.abc import Sequence
from typing import Any

from trivet._files import sha256_text
from trivet._validation import Config as BaseConfig
from trivet.judges import Verdict
from trivet.models.operations import Chat


class Config(BaseConfig):
    """No settings."""


class LetterJudge:
    name = "letters"
    objective = "letters"
    identity = sha256_text("letters")
    training_prompts: frozenset[str] = frozenset()

    @property
    def quality(self) -> dict[str, Any]:
        return {}

    def score(self, chats: Sequence[Chat]) -> list[Verdict]:
        return [Verdict(letters(str(chat[-1]["content"]))) for chat in chats]


def letters(text: str) -> float:
    return sum(character.isascii() and character.isalpha() for character in text) / max(len(text), 1)


def build(config: Config) -> LetterJudge:
    return LetterJudge()
