"""The notes of a decoding method as a tree that a page can draw without knowing the method.

A node is the list ``[title, text, facts, chosen, children]``: a title in our words or ``None``; text of the
model or ``None``; facts, a list of pairs of a name and a value; whether it was chosen; the nodes below it.
The convention that notes follow is in ``trivet.study.report.traces``.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from trivet.study.report.characters import visible
from trivet.study.report.traces import chosen_places, is_branch

Node = list[Any]

_SHOWN_ELSEWHERE = {"method", "text", "step", "chosen"}
_LEFT_OUT = "_left_out"


def trees(notes: Sequence[Mapping[str, Any]]) -> list[Node]:
    """A tree for each note; all texts have passed ``visible``."""
    return [
        [_words(note.get("method") or "notes"), None, _facts(note), False, list(_children(note))]
        for note in notes
    ]


def _node(entry: Any, title: str | None, chosen: bool) -> Node:
    if not isinstance(entry, Mapping):
        return [title, _inline(entry), [], chosen, []]
    text = entry.get("text")
    if text is None:
        text = " ".join(_chosen_texts(entry)) or None
    shown = None if text is None else _inline(text)
    if shown and not shown.strip(" "):
        shown = "␣" * len(shown)  # spaces alone would not be seen
    return [title, shown, _facts(entry), chosen, list(_children(entry))]


def _chosen_texts(entry: Mapping[str, Any]) -> Iterator[str]:
    candidates: Any = entry.get("candidates")
    for place in sorted(chosen_places(entry)):
        if is_branch(candidates) and 0 <= place < len(candidates):
            candidate = candidates[place]
            if isinstance(candidate, Mapping) and candidate.get("text"):
                yield str(candidate["text"])


def _facts(entry: Mapping[str, Any]) -> list[list[str]]:
    """What is not drawn as a node. What is not so, not there or empty is left out."""
    facts = []
    for key, value in entry.items():
        if key in _SHOWN_ELSEWHERE or key.endswith(_LEFT_OUT) or _is_nested(value):
            continue
        if value is True:
            facts.append([_words(key), ""])
        elif value == []:
            facts.append([_words(key), "none"])
        elif value not in (None, False, "", {}):
            facts.append([_words(key), _value(value)])
        elif value == 0 and not isinstance(value, bool):
            facts.append([_words(key), "0"])
    return facts


def _is_nested(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(isinstance(part, Mapping | list) and part for part in value.values())
    return is_branch(value)


def _children(entry: Mapping[str, Any]) -> Iterator[Node]:
    """Lists of mappings one below the other, each entry named by its list and number; candidates without."""
    chosen = chosen_places(entry)
    for key, value in entry.items():
        if not _is_nested(value):
            continue
        if isinstance(value, Mapping):
            yield _node(value, _words(key), chosen=False)
            continue
        for number, part in enumerate(value):
            if key == "candidates":
                yield _node(part, None, number in chosen)
            else:
                yield _node(part, _title(key, number, part), chosen=False)
    for key, value in entry.items():
        if key.endswith(_LEFT_OUT) and isinstance(value, int) and value > 0:
            yield [f"… {value:,} more {_words(key.removesuffix(_LEFT_OUT))} left out", None, [], False, []]


def _title(key: str, number: int, part: Any) -> str:
    step = part.get("step") if isinstance(part, Mapping) else None
    if isinstance(step, int):
        return f"step {step + 1}"
    return f"{_words(key).removesuffix('s')} {number + 1}"


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{_words(key)} {_value(part)}" for key, part in value.items())
    if isinstance(value, list):
        return ", ".join(map(_value, value))
    return _inline(value)


def _inline(value: Any) -> str:
    """A value on one line: line breaks and tabs as signs."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}".replace("-", "\u2212")
    if isinstance(value, float):
        return f"{value:.4g}".replace("-", "\u2212")
    return visible(str(value)).replace("\n", "↵").replace("\t", "⇥")


def _words(key: object) -> str:
    return _inline(str(key)).replace("_", " ")
