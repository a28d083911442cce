"""Answers of a study for people to label, without saying whose they are; and reading them back.

``labels.csv`` has the columns id, prompt, answer, label (empty); ``labels.csv.key.json`` says which system
gave which answer and is kept from those who label. The rows of all systems are in one random order. A cell
that a spreadsheet would take for a formula gets an apostrophe in front, which reading back removes.
"""

import csv
import json
import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from trivet._files import atomic_writer, sha256_text, write_json
from trivet._text import printable
from trivet.data.prompts import prompt_digest
from trivet.data.reading import read_rows
from trivet.errors import DataError
from trivet.judges import material
from trivet.judges.calibration import LabelledAnswer

EVALUATIONS = ("harmless", "over_refusal")
_COLUMNS = ("id", "prompt", "answer", "label")
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "|", "%")
_MARK = "'"


class Answer(NamedTuple):
    """One answer of a study."""

    system: str
    evaluation: str
    sample_id: str
    epoch: int
    prompt: str
    answer: str
    identity: str = ""  # of the system as it was, ``name@hash12``


def logged_answers(folder: Path, evaluations: Sequence[str] = ()) -> list[Answer]:
    """The answers in the Inspect logs under ``folder`` (a store's ``logs``, or the folder itself).

    Args:
        evaluations: names of tasks; by default ``EVALUATIONS``.

    Raises:
        DataError: there is no such folder, or no answer of these evaluations in it.
    """
    from inspect_ai.log import read_eval_log

    folder = Path(folder)
    place = folder / "logs" if (folder / "logs").is_dir() else folder
    if not place.is_dir():
        raise DataError(
            "no such folder", where=str(folder), hint="give the store of a study, or a folder of logs"
        )
    wanted = set(evaluations or EVALUATIONS)
    found: dict[tuple[str, str, str, int], Answer] = {}
    seen: set[str] = set()
    for path in sorted(p for suffix in ("*.eval", "*.json") for p in place.rglob(suffix)):
        try:
            header = read_eval_log(str(path), header_only=True)
        except Exception:  # any other JSON file, or a log that was cut short
            continue
        name = header.eval.task.split("/")[-1]
        seen.add(name)
        if name not in wanted:
            continue
        system = str((header.eval.metadata or {}).get("system") or header.eval.model)
        for sample in read_eval_log(str(path)).samples or []:
            if sample.output.choices:
                key = (system, name, str(sample.id), sample.epoch)
                found.setdefault(
                    key, Answer(*key, _prompt(sample.input), sample.output.completion, sample.output.model)
                )
    if not found:
        raise DataError(
            f"no answers to {', '.join(sorted(wanted))} in the logs",
            where=str(place),
            hint=f"the logs hold {', '.join(sorted(seen)) or 'nothing'}; choose with --evaluation",
        )
    return [found[key] for key in sorted(found)]


def draw_sample(answers: Sequence[Answer], number: int, *, seed: int) -> list[Answer]:
    """``number`` answers at random, equally many of each system as far as they go, in random order."""
    rng = random.Random(seed)
    by_system: dict[str, list[Answer]] = defaultdict(list)
    for answer in answers:
        by_system[answer.system].append(answer)
    for group in by_system.values():
        rng.shuffle(group)
    chosen: list[Answer] = []
    queues = [by_system[system] for system in sorted(by_system)]
    rng.shuffle(queues)
    while len(chosen) < number and any(queues):
        for queue in queues:
            if queue and len(chosen) < number:
                chosen.append(queue.pop())
    rng.shuffle(chosen)
    return chosen


def write_sample(answers: Sequence[Answer], number: int, path: Path, *, seed: int) -> int:
    """Write the CSV and, beside it, its key; returns how many answers.

    Raises:
        DataError: the file exists: labels are never overwritten. StoreError: it cannot be written.
    """
    path = Path(path)
    if path.exists() or key_path(path).exists():
        raise DataError("exists already, and may hold labels", where=str(path), hint="choose another name")
    chosen = draw_sample(answers, number, seed=seed)
    key, rows = {}, []
    for place, answer in enumerate(chosen):
        # The seed is in the key alone, so an id cannot be guessed from the answer.
        identity = sha256_text(f"{seed}\0{place}\0{answer.system}\0{answer.sample_id}\0{answer.epoch}")[:12]
        key[identity] = {
            "system": answer.system,
            "identity": answer.identity,
            "evaluation": answer.evaluation,
            "sample_id": answer.sample_id,
            "epoch": answer.epoch,
            "answer_sha256": sha256_text(answer.answer),
        }
        rows.append((identity, neutral(answer.prompt), neutral(answer.answer), ""))
    write_json(key_path(path), {"format": 1, "seed": seed, "rows": key})
    with atomic_writer(path) as stream:
        writer = csv.writer(stream, quoting=csv.QUOTE_ALL, lineterminator="\r\n")
        writer.writerows([_COLUMNS, *rows])
    return len(rows)


def labels_and_population(reference: str) -> tuple[list[LabelledAnswer], str, int]:
    """Labelled answers, what population they are, and how many rows have no label yet.

    ``reference`` is a file that ``write_sample`` wrote (its key lies beside it), any other file of labelled
    answers, or a public set.

    Raises:
        DataError: no such file or set; a row lacks a field or its key; no row is labelled.
    """
    key_file = key_path(Path(reference))
    if not key_file.is_file():
        loaded = material.labelled_answers(reference)
        return loaded.rows, f"{loaded.title} ({len(loaded.rows)} answers)", 0
    try:
        key = json.loads(key_file.read_text(encoding="utf-8"))["rows"]
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise DataError(f"is no key of a sample: {error!r}", where=str(key_file)) from None
    rows, skipped = [], 0
    for where, row in read_rows(reference):
        missing = [name for name in _COLUMNS if name not in row]
        if missing:
            raise DataError(f"the column {missing[0]!r} is missing", where=where)
        if row["id"] not in key:
            raise DataError(f"the id {row['id']!r} is not in the key", where=where, hint=f"see {key_file}")
        if not row["label"].strip():
            skipped += 1
            continue
        prompt = original(row["prompt"])
        rows.append(
            LabelledAnswer(
                prompt,
                original(row["answer"]),
                row["label"].strip(),
                str(key[row["id"]]["system"]),
                prompt_digest(prompt),
            )
        )
    if not rows:
        raise DataError("no row has a label yet", where=reference, hint="fill in the column 'label'")
    systems = ", ".join(sorted({row.system for row in rows}))
    return rows, f"{len(rows)} answers of the study's own systems ({systems}), labelled blind", skipped


def sampled_systems(reference: str) -> frozenset[str]:
    """Identities (``name@hash12``) of the systems whose answers a sample holds; empty where it has no key.

    Raises:
        DataError: the key cannot be read.
    """
    key_file = key_path(Path(reference))
    if not key_file.is_file():
        return frozenset()
    try:
        rows = json.loads(key_file.read_text(encoding="utf-8"))["rows"].values()
        return frozenset(str(row.get("identity") or row["system"]) for row in rows)
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise DataError(f"is no key of a sample: {error!r}", where=str(key_file)) from None


def key_path(path: Path) -> Path:
    """Where the key of the sample at ``path`` lies."""
    return path.with_name(f"{path.name}.key.json")


def neutral(text: str) -> str:
    """``text`` as a cell that a spreadsheet shows and never computes; no control sequences."""
    text = printable(text)
    return _MARK + text if text.lstrip(" \n").startswith((*_FORMULA, _MARK)) else text


def original(cell: str) -> str:
    """The text that ``neutral`` was given (but for its control sequences)."""
    inner = cell.removeprefix(_MARK)
    return inner if inner != cell and neutral(inner) == cell else cell


def _prompt(given: object) -> str:
    if isinstance(given, str):
        return given
    return next(iter(_user_texts(given)), "")


def _user_texts(messages: object) -> Iterator[str]:
    for message in reversed(messages) if isinstance(messages, list) else ():
        if getattr(message, "role", None) == "user":
            yield str(message.text)
