"""Ids of special tokens in a configuration, where a merge gives the tokens other ids.

``config.json`` and ``generation_config.json`` name the tokens that begin and end a text, and those that are
forced or never said, by their ids in the tokenizer that they were written for. With another tokenizer the
same token may stand elsewhere.
"""

from collections.abc import Callable, Mapping
from typing import Any

_ENDING = "_token_id"  # bos, eos, pad, decoder_start, forced_bos, forced_eos, image …
_LISTS = ("suppress_tokens", "begin_suppress_tokens", "bad_words_ids")


def with_moved_ids(
    values: Mapping[str, Any],
    before: Mapping[str, int],
    after: Mapping[str, int],
    own: Mapping[str, int],
    *,
    rows: int | None = None,
) -> dict[str, Any]:
    """A configuration whose special tokens have the ids of the new tokenizer.

    A token that the new tokenizer does not have is replaced by the new one's token of that kind, or left out.
    An id that was no token's (-1, say, or a row of padding) stays as it is, unless it is some token's now.

    Args:
        values: of ``config.json``, its ``text_config``, or ``generation_config.json``.
        before, after: token → id in the tokenizer of the configuration, and in the new one.
        own: the new tokenizer's special tokens by the key that names them, ``eos_token_id`` for one.
        rows: how many rows the merged model has for tokens; an id beyond them cannot stay.
    """
    if before == after:
        return dict(values)
    tokens = {number: token for token, number in before.items()}
    taken = set(after.values())

    def move(number: int) -> int | None:
        if number in tokens:
            return after.get(tokens[number])
        return None if number in taken or (rows is not None and number >= rows) else number

    changed = dict(values)
    for key, given in values.items():
        if not key.endswith(_ENDING) and key not in _LISTS:
            continue
        moved = _moved(given, move)
        if moved is None or (moved == [] and given):
            moved = None if key not in own else [own[key]] if isinstance(given, list) else own[key]
        if moved is None and given is not None:
            del changed[key]
        else:
            changed[key] = moved
    return changed


def _moved(given: Any, move: Callable[[int], int | None]) -> Any:
    """An id, ids, or sequences of ids in the new tokenizer, without those that it cannot say."""
    if isinstance(given, int) and not isinstance(given, bool):
        return move(given)
    if not isinstance(given, list):
        return given
    moved = []
    for entry in given:
        found = _moved(entry, move)
        # A sequence that lacks a token now cannot come up any more.
        shorter = isinstance(entry, list) and len(found) < len(entry)
        if found is not None and not shorter:
            moved.append(found)
    return moved
