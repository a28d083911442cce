"""Ids of special tokens in a configuration, where a merge gives the tokens other ids.

``config.json`` and ``generation_config.json`` name the tokens that begin and end a text by their ids in the
tokenizer that they were written for. With another tokenizer the same token may stand elsewhere.
"""

from collections.abc import Mapping
from typing import Any

_IDS = tuple(
    f"{kind}_token_id" for kind in ("bos", "eos", "pad", "unk", "sep", "cls", "mask", "decoder_start")
)


def with_moved_ids(
    values: Mapping[str, Any], before: Mapping[str, int], after: Mapping[str, int], own: Mapping[str, int]
) -> dict[str, Any]:
    """A configuration whose special tokens have the ids of the new tokenizer.

    A token that the new tokenizer does not have is replaced by the new one's token of that kind, or left out.

    Args:
        values: of ``config.json``, its ``text_config``, or ``generation_config.json``.
        before, after: token → id in the tokenizer of the configuration, and in the new one.
        own: the new tokenizer's special tokens by the key that names them, ``eos_token_id`` for one.
    """
    tokens = {number: token for token, number in before.items()}
    changed = dict(values)
    for key in _IDS:
        given = values.get(key)
        if given is None:
            continue
        ids = given if isinstance(given, list) else [given]
        moved = [after[tokens[number]] for number in ids if tokens.get(number) in after]
        if not moved and key in own:
            moved = [own[key]]
        if not moved:
            del changed[key]
        else:
            changed[key] = moved if isinstance(given, list) else moved[0]
    return changed
