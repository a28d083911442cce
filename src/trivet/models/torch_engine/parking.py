"""Slots that requests keep between two of their operations.

A program that asks for one distribution after another (``Next``) feeds a model one token each time. Its
sequence stays in its slot meanwhile, so the next operation goes on there: nothing is copied, and going back
is a smaller count of computed tokens. What is given up that way goes to the KV tree.
"""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from trivet.models.torch_engine.kv_tree import common_length
from trivet.models.torch_engine.rows import NextRow, Row
from trivet.models.torch_engine.runner import ModelRunner

if TYPE_CHECKING:
    from trivet.models.torch_engine.task import Task

_Key = tuple[str, bool]


def _key(row: Row) -> _Key:
    return row.model, row.private


class Parking:
    """Used from the engine's thread alone."""

    def __init__(self, runners: Mapping[str, ModelRunner]) -> None:
        self._runners = runners
        self._parked: dict[Task, dict[_Key, Row]] = {}

    def fits(self, task: "Task", row: Row) -> bool:
        """Whether a row that is done may keep its slot: the only one of its model in the operation."""
        alone = sum(_key(other) == _key(row) for other in task.rows) == 1
        return isinstance(row, NextRow) and row.error is None and alone

    def park(self, task: "Task", row: Row) -> None:
        """Keep the row's slot for what the request asks next."""
        self._parked.setdefault(task, {})[_key(row)] = row

    def prepare(self, task: "Task") -> None:
        """Make way for the rows of the next operation: several of one model all go through the KV tree."""
        for key in list(self._parked.get(task, ())):
            if sum(_key(row) == key for row in task.rows) > 1:
                self._end(task, self._parked[task].pop(key))

    def waits_for(self, task: "Task", row: Row) -> bool:
        """Whether a slot is kept for this row."""
        return row.depth is None and _key(row) in self._parked.get(task, ())

    def take(self, task: "Task", row: Row) -> Row | None:
        """The row whose slot this one goes on in, if there is one."""
        if not self.waits_for(task, row):
            return None
        parked = self._parked[task].pop(_key(row))
        kept = min(common_length(parked.tokens, row.tokens), row.reusable)
        if kept < parked.computed:
            self._store(task, parked)
        return parked

    def rows(self, model: str | None = None) -> Iterator[Row]:
        """All rows whose slots are kept, or those of one model."""
        for kept in self._parked.values():
            yield from (row for row in kept.values() if model in (None, row.model))

    def release(self, task: "Task") -> None:
        """Give up every slot of a request; what was computed goes to the KV tree."""
        for row in self._parked.pop(task, {}).values():
            self._end(task, row)

    def release_latest(self, spared: "Task") -> bool:
        """Give up the slots of the request that came last, ``spared`` apart; whether there was one."""
        others = [task for task, kept in self._parked.items() if kept and task is not spared]
        if others:
            self.release(max(others, key=lambda task: task.number))
        return bool(others)

    def _end(self, task: "Task", row: Row) -> None:
        self._store(task, row)
        self._runners[row.model].end(row)

    def _store(self, task: "Task", row: Row) -> None:
        if row.keeps and row.computed > row.stored:
            self._runners[row.model].hold(row, task.held)
