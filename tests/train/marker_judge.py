"""A rule as a judge: 1 for an answer without any of a few harmless words, 0 with one."""

import re
from collections.abc import Sequence
from typing import Any

from trivet._files import sha256_text
from trivet._validation import Config as BaseConfig
from trivet.judges import Verdict
from trivet.models.operations import Chat

MARKERS = ("Paris", "Seine")


class Config(BaseConfig):
    """No settings."""


class MarkerJudge:
    name = "markers"
    objective = "harmless"
    identity = sha256_text("markers")
    training_prompts: frozenset[str] = frozenset()

    @property
    def quality(self) -> dict[str, Any]:
        return {}

    def score(self, chats: Sequence[Chat]) -> list[Verdict]:
        return [Verdict(float(not marked(str(chat[-1]["content"])))) for chat in chats]


def marked(text: str) -> bool:
    return any(re.search(rf"\b{word}\b", text) for word in MARKERS)


def build(config: Config) -> MarkerJudge:
    return MarkerJudge()
