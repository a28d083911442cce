"""Rows for supervised fine-tuning in the forms that TRL reads, and the token ids that are made of them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trivet.errors import DataError
from trivet.models.operations import Tokens
from trivet.models.torch_engine.kv_tree import common_length
from trivet.train.batches import Example
from trivet.train.preferences import check_text_or_messages, pair_of
from trivet.train.sources import open_source
from trivet.train.tokenising import Tokenised, template_tokens

Row = dict[str, Any]
"""``prompt`` and ``completion``, both texts or both lists of messages; where the whole row is to be learnt,
it is the ``prompt`` and ``completion`` is ``None``."""

_FORMS = "prompt and completion, prompt and chosen, messages, or text"


@dataclass(frozen=True)
class SupervisedSet:
    """Rows as read. ``source`` names them; ``left_out`` counts, by reason, the rows that gave none."""

    source: str
    rows: Sequence[Row]
    left_out: Mapping[str, int] = field(default_factory=dict)


def read_supervised(source: str, *, base: Path) -> SupervisedSet:
    """Read rows of TRL's forms: ``prompt`` and ``completion``, ``messages``, or ``text``.

    Of a preference pair (``prompt``, ``chosen``, ``rejected``) the chosen answer is the completion.

    Args:
        source: see ``trivet.train.sources.open_source``.
        base: the folder that a relative path is relative to.

    Raises:
        DataError: it cannot be read, or a row has none of the forms; names file, line and field.
    """
    found = open_source(source, base=base)
    left_out: Counter[str] = Counter(found.left_out)
    rows = []
    for place, given in found.rows:
        row = _row(given, place)
        if isinstance(row, str):
            left_out[row] += 1
        else:
            rows.append(row)
    if not rows:
        reasons = ", ".join(f"{reason} ({count})" for reason, count in left_out.items())
        raise DataError(f"no row can be trained on: {reasons}", where=source)
    return SupervisedSet(found.name, rows, dict(left_out))


def _row(given: Mapping[str, Any], place: str) -> Row | str:
    """The row, or the reason why it gives none."""
    has = {name for name, value in given.items() if value is not None}
    if "completion" in has:
        prompt, completion = _side(given, "prompt", place), _side(given, "completion", place)
        if isinstance(prompt, str) != isinstance(completion, str):
            raise DataError("the fields are texts and lists of messages mixed", where=place)
        if not completion or not (prompt or isinstance(prompt, str)):
            return f"the {'prompt' if completion else 'completion'} is empty"
        return {"prompt": prompt, "completion": completion}
    if "chosen" in has:
        pair = pair_of(given, place)
        return pair if isinstance(pair, str) else {"prompt": pair["prompt"], "completion": pair["chosen"]}
    for name, kind in (("messages", list), ("text", str)):
        if name in has:
            whole = _side(given, name, place)
            if not isinstance(whole, kind):
                raise DataError(f"{name}: must be a {'text' if kind is str else 'list'}", where=place)
            return {"prompt": whole, "completion": None} if whole else f"the field {name} is empty"
    raise DataError(
        f"has none of the forms of a row to learn from: {_FORMS}",
        where=place,
        hint=f"its fields: {', '.join(sorted(map(str, given)))[:200]}",
    )


def _side(given: Mapping[str, Any], name: str, place: str) -> str | list[dict[str, str]]:
    value: Any = given.get(name)
    check_text_or_messages(name, value, place)
    checked: str | list[dict[str, str]] = value
    return checked


def tokenise_supervised(
    rows: Sequence[Row], tokenizer: Any, *, max_length: int | None, completion_only: bool
) -> Tokenised:
    """Token ids of context and what is learnt; an example has one answer.

    As TRL 1.16 does it: the completion begins where the prompt's tokens and those of the whole part; an end-
    of-sequence token follows a text; what is beyond ``max_length`` tokens is cut. Without a completion, or
    with ``completion_only`` false, every token but the first, which nothing predicts, is learnt.

    Raises:
        DataError: no row is left, or the tokenizer has no chat template for messages.
    """
    examples, dropped, cut = [], Counter[str](), 0
    for number, row in enumerate(rows):
        tokens, start = _tokens(row, tokenizer, number)
        start = max(start if completion_only else 0, 1)
        if max_length is not None and start >= max_length:
            dropped[f"the prompt alone has {max_length} tokens or more (max_length)"] += 1
        elif start >= len(tokens):
            dropped["there is no token to learn"] += 1
        else:
            cut += max_length is not None and len(tokens) > max_length
            examples.append(Example(number, tokens[:start], (tokens[start:max_length],)))
    if not examples:
        reasons = ", ".join(f"{reason} ({count})" for reason, count in dropped.items())
        raise DataError(f"no row is left to train on: {reasons}", hint="raise max_length")
    return Tokenised(examples, dict(dropped), cut)


def _tokens(row: Row, tokenizer: Any, number: int) -> tuple[Tokens, int]:
    """All tokens of a row, and where the completion begins."""
    prompt, completion = row["prompt"], row["completion"]
    if isinstance(prompt, str):
        whole = prompt if completion is None else prompt + completion
        end = tokenizer.eos_token or ""
        ended = (whole if completion is None else completion).endswith(end)
        tokens = tuple(tokenizer(whole if ended else whole + end)["input_ids"])
        before = () if completion is None else tuple(tokenizer(prompt)["input_ids"])
    else:
        tokens = template_tokens(prompt + (completion or []), tokenizer, number)
        before = ()
        if completion is not None:
            before = template_tokens(prompt, tokenizer, number, add_generation_prompt=True)
    return tokens, common_length(before, tokens)
