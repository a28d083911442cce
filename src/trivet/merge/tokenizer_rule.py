"""A recipe's tokenizer rule, as it is written.

::

    tokenizer:
      source: union                  # base, union, or a model's name
      pad_to_multiple_of: 64
      tokens:
        <|im_start|>: {source: ./chat-model, force: true}
        <|tool|>: {source: {kind: model_token, model: ./base, token: <|endoftext|>}}
        <|unused|>: {source: {kind: zero}}

The keys and what they mean are mergekit's.
"""

from typing import Literal

from pydantic import Field, model_validator

from trivet._validation import Config

RULES = ("base", "union")
"""What a tokenizer's ``source`` may be besides the name of a model."""


class ZeroRow(Config):
    """A row of zeros."""

    kind: Literal["zero"]


class ModelToken(Config):
    """The row of a certain token of a certain model."""

    kind: Literal["model_token"]
    model: str
    token_id: int | None = Field(default=None, ge=0)
    token: str | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> "ModelToken":
        if (self.token_id is None) == (self.token is None):
            raise ValueError("give either token_id or token")
        return self


class TokenRule(Config):
    """Where the row of one token comes from: a model's name, ``ModelToken``, ``ZeroRow``, or nothing special.

    ``force`` gives this row to every model, and not only to those that have none.
    """

    source: ZeroRow | ModelToken | str | None = None
    force: bool = False

    @model_validator(mode="after")
    def _force_what(self) -> "TokenRule":
        if self.force and self.source is None:
            raise ValueError("force needs a source")
        return self


class TokenizerRule(Config):
    """A recipe's ``tokenizer``; ``tokenizer_source: X`` is short for ``tokenizer: {source: X}``."""

    source: str = "union"
    tokens: dict[str, TokenRule] = Field(default_factory=dict)
    pad_to_multiple_of: int | None = Field(default=None, ge=1)
