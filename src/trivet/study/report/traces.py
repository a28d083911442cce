"""Why an answer was chosen, as a decoding method noted it, made small enough for a report.

A method appends notes to ``ProgramContext.trace``. A note is plain JSON and needs nothing but ``method``. The
following keys have a meaning for the report; all others are facts and are shown by their own names:

- ``candidates``, a list of mappings: what was chosen among; ``chosen`` beside it is the place of the chosen
  one, from 0, or a list of places where several were kept;
- ``text``: text of the model: a candidate's, or a token's;
- any other list of mappings (``steps``, say): what happened, in order, each with its facts and candidates;
  ``step`` in one of them is its place in the answer, from 0;
- ``…_left_out``: how many entries of the list of that name the note does not hold.

A method that keeps to this is shown without any change here.
"""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

LONGEST = 10_000
"""Characters of JSON that the notes of one answer take, at most."""

CANDIDATES, STEP_CANDIDATES = 16, 6
"""Candidates that are kept of whole answers and of one step; the chosen ones are kept besides."""

_TEXT, _NAME, _ENTRIES, _DEPTH = 160, 60, 32, 6


def bounded(trace: Any, longest: int = LONGEST) -> list[dict[str, Any]]:
    """The notes of one answer, cut to ``longest`` characters of JSON; what is not a note is left out.

    Texts are cut, numbers have six digits and are finite, lists of mappings end where the room does, and
    ``…_left_out`` counts what they lost. Anything is taken: a log may come from anywhere.
    """
    notes: list[dict[str, Any]] = []
    for note in trace if isinstance(trace, Sequence) and not isinstance(trace, str) else ():
        if isinstance(note, Mapping):
            held = _fitted(note, longest)
            longest -= _length(held)
            if longest < 0:  # its facts alone are too long
                name = _cut(str(note.get("method")), _NAME)
                notes.append({"method": name, "note": "too long to be shown here"})
                break
            notes.append(held)
    return notes


def is_branch(value: Any) -> bool:
    """Whether a value of a note is a list of mappings."""
    return isinstance(value, list | tuple) and any(isinstance(entry, Mapping) for entry in value)


def chosen_places(note: Mapping[str, Any]) -> set[int]:
    """The places of the chosen candidates."""
    chosen = note.get("chosen")
    places = chosen if isinstance(chosen, list | tuple) else [chosen]
    return {place for place in places if isinstance(place, int) and not isinstance(place, bool)}


def _fitted(note: Mapping[str, Any], room: int) -> dict[str, Any]:
    """A note with its facts first, then as many entries of its lists as fit."""
    note = _thinned(note, CANDIDATES)
    facts = {key: value for key, value in note.items() if not is_branch(value)}
    held: dict[str, Any] = _small(facts, 0)
    branches = [(key, entries) for key, entries in note.items() if is_branch(entries)]
    room -= _length(held) + sum(2 * _length(key) + 40 for key, _ in branches)  # names, and what is left out
    for key, entries in branches:
        kept: list[Any] = []
        for entry in entries:
            small = _small(entry, 1)
            room -= _length(small) + 2
            if room < 0:
                break
            kept.append(small)
        held[_cut(key, _NAME)] = kept
        _count_left_out(held, key, len(entries) - len(kept))
    return held


def _thinned(note: Mapping[str, Any], count: int) -> dict[str, Any]:
    """The note with its first ``count`` candidates and the chosen ones."""
    thin = dict(note)
    candidates: Any = thin.get("candidates")
    if not is_branch(candidates):
        return thin
    chosen = chosen_places(note)
    kept = [place for place in range(len(candidates)) if place < count or place in chosen]
    thin["candidates"] = [candidates[place] for place in kept]
    if isinstance(note.get("chosen"), list | tuple):
        thin["chosen"] = [new for new, place in enumerate(kept) if place in chosen]
    elif chosen:
        thin["chosen"] = next((new for new, place in enumerate(kept) if place in chosen), None)
    _count_left_out(thin, "candidates", len(candidates) - len(kept))
    return thin


def _count_left_out(note: dict[str, Any], key: str, count: int) -> None:
    if count:
        name = f"{_cut(key, _NAME)}_left_out"
        before = note.get(name)
        note[name] = count + (before if isinstance(before, int) else 0)


def _small(value: Any, depth: int) -> Any:
    """Plain JSON of any value, cut in every direction."""
    if isinstance(value, str):
        return _cut(value, _TEXT)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return value if abs(value) < 2**53 else float(f"{value:.5e}") if abs(value) < 10**300 else None
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    if depth > _DEPTH:
        return "…"
    if isinstance(value, Mapping):
        entries = _thinned(value, STEP_CANDIDATES).items()
        return {_cut(str(key), _NAME): _small(entry, depth + 1) for key, entry in [*entries][:_ENTRIES]}
    if isinstance(value, list | tuple):
        small = [_small(entry, depth + 1) for entry in value[:_ENTRIES]]
        more = len(value) - len(small)
        return [*small, f"… {more} more"] if more else small
    return _cut(str(value), _TEXT)


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"


def _length(value: Any) -> int:
    return len(json.dumps(value))
