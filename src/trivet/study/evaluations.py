"""From an entry of ``evaluations`` to an Inspect task, and to the rows that it asks.

A task is made anew whenever it is needed (in a run twice: to generate and to score), since Inspect changes
the tasks that it runs. What determines its answers is hashed: the rows asked, and the source of the task.
"""

import importlib.metadata
import importlib.util
import inspect
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trivet._files import canonical_json, sha256_text
from trivet._validation import did_you_mean, validate
from trivet.data.prompts import prompt_digest, stratified_subset
from trivet.data.public import is_public
from trivet.errors import ConfigError, DataError, StudyError, TrivetError
from trivet.judges.resolve import anchored_parts
from trivet.study.address import file_digest
from trivet.study.spec import EvaluationEntry

if TYPE_CHECKING:
    from inspect_ai import Task
    from inspect_ai.dataset import Sample
    from inspect_ai.log import EvalSample


ROWS = ("dataset", "instructions", "questions")
"""Arguments of the evaluations that ship which name where rows come from."""


@dataclass(frozen=True)
class Evaluation:
    """One evaluation of a study, resolved.

    ``rows`` holds every row that it could ask: ``id``, ``category`` (the stratum), ``component``,
    ``characters`` of the prompt, ``content`` and ``prompt_digest`` (SHA-256). ``source`` is a digest of the
    task's source. ``sandbox``: the task scores inside its sandbox, so it scores inline.
    """

    entry: EvaluationEntry
    base: Path
    rows: tuple[dict[str, Any], ...]
    source: str
    epochs: int
    sandbox: bool

    @property
    def label(self) -> str:
        """Its name in the study."""
        return self.entry.label

    @property
    def generating_args(self) -> dict[str, Any]:
        """The task's arguments without those that stand in an address by their content: rows and judge."""
        known = (*ROWS, "judge") if self.entry.shipped else ()
        return {key: value for key, value in self.entry.args.items() if key not in known}

    def subset(self, n: int | None, *, seed: int) -> list[str]:
        """Ids of ``n`` rows, drawn by category with a seed; all where ``n`` is ``None``. Nested in ``n``."""
        wanted = len(self.rows) if n is None else n
        return [str(row["id"]) for row in stratified_subset(self.rows, wanted, seed=seed)]

    def rows_digest(self, ids: Sequence[str]) -> str:
        """SHA-256 of the content of those rows."""
        wanted = set(ids)
        chosen = [[row["id"], row["content"]] for row in self.rows if row["id"] in wanted]
        return sha256_text(canonical_json(sorted(chosen)))

    def task(self, ids: Sequence[str], *, name: str | None = None) -> "Task":
        """A fresh task that asks those rows only, in the order given."""
        from inspect_ai.dataset import MemoryDataset

        task = make_task(self.entry, self.base)
        samples = {str(sample.id): sample for sample in with_ids(list(task.dataset))}
        task.dataset = MemoryDataset([samples[identity] for identity in ids], name=task.dataset.name)
        if name is not None:
            task._name = name  # no public way to rename a task that a decorator named
        return task


def resolve_evaluation(entry: EvaluationEntry, *, base: Path, epochs: int | None) -> Evaluation:
    """Build the task once, to see what it asks.

    Args:
        base: folder that relative paths refer to.
        epochs: answers a prompt where the entry does not say.

    Raises:
        ConfigError: there is no such task, or it does not take those arguments.
        DataError: it has no rows, or two rows of one id.
        StudyError: the task could not be built; names the cause.
    """
    task = make_task(entry, base)
    samples = with_ids(list(task.dataset))
    if not samples:
        raise DataError("the evaluation has no rows", where=entry.label)
    rows = tuple(_row(sample, entry.label) for sample in samples)
    ids = [row["id"] for row in rows]
    if len(set(ids)) != len(ids):
        twice = next(identity for identity in ids if ids.count(identity) > 1)
        raise DataError(f"the id {twice!r} is given twice", where=f"evaluation {entry.label}")
    return Evaluation(
        entry=entry,
        base=base,
        rows=rows,
        source=_source(entry, base),
        epochs=entry.epochs or epochs or task.epochs or 1,
        sandbox=task.sandbox is not None,
    )


def make_task(entry: EvaluationEntry, base: Path) -> "Task":
    """Build the Inspect task of an entry.

    Raises:
        ConfigError, DataError, StudyError: as ``resolve_evaluation``.
    """
    where = f"evaluation {entry.label}"
    if entry.prompts is not None:
        return _prompts_task(entry, base)
    function, args = _task_function(entry, base, where)
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):
        parameters = {}  # type: ignore[assignment]
    takes_any = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    for name in args:
        if parameters and name not in parameters and not takes_any:
            raise ConfigError(f"takes no argument {name!r}", where=where, hint=did_you_mean(name, parameters))
    try:
        task = function(**args)
    except TrivetError:
        raise
    except Exception as error:  # the task is somebody's code; whatever it raises is reported with its name
        raise StudyError(
            f"the task could not be built: {type(error).__name__}: {error}", where=where
        ) from error
    from inspect_ai import Task

    if not isinstance(task, Task):
        raise StudyError(f"gave a {type(task).__name__} where an Inspect Task was expected", where=where)
    return task


def _task_function(entry: EvaluationEntry, base: Path, where: str) -> tuple[Any, dict[str, Any]]:
    assert entry.task is not None
    args = dict(entry.args)
    if entry.shipped:
        module = importlib.import_module(f"trivet.evaluate.{entry.task}")
        args |= {key: anchored_rows(args[key], base) for key in ROWS if isinstance(args.get(key), str)}
        judge = entry.judge if entry.judge is not None else args.get("judge")
        if judge is not None:
            args["judge"] = anchored_judge(judge, base)
        return getattr(module, entry.task), args
    if "@" in entry.task:
        file, _, name = entry.task.rpartition("@")
        return _from_file(base / file, name, where), args
    return _from_package(entry.task, where), args


def _from_file(path: Path, name: str, where: str) -> Any:
    if not path.is_file():
        raise ConfigError("no such file", where=f"{where}: {path}")
    module = _load_file(str(path.resolve()), path.stat().st_mtime_ns)
    if not hasattr(module, name):
        known = [key for key, value in vars(module).items() if hasattr(value, "__registry_info__")]
        raise ConfigError(f"has no task {name!r}", where=f"{where}: {path}", hint=did_you_mean(name, known))
    return getattr(module, name)


@cache
def _load_file(path: str, modified: int) -> Any:
    """Import a task file once for each version of it; ``modified`` is part of the cache's key."""
    name = f"trivet_task_{sha256_text(path)[:12]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ConfigError("is not a Python file", where=path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    folder = str(Path(path).parent)
    sys.path.insert(0, folder)  # a task file may import what lies beside it, as under `inspect eval`
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise StudyError(f"cannot be imported: {type(error).__name__}: {error}", where=path) from error
    finally:
        sys.path.remove(folder)
    return module


def _from_package(name: str, where: str) -> Any:
    from inspect_ai.util import registry_create

    package = name.split("/", 1)[0]
    groups = importlib.metadata.entry_points(group="inspect_ai")
    if package not in {point.name for point in groups}:
        raise ConfigError(
            f"no package {package!r} with Inspect tasks is installed",
            where=where,
            hint=f"install it with pip, or {did_you_mean(package, [p.name for p in groups])}",
        )

    def create(**args: Any) -> Any:
        try:
            return registry_create("task", name, **args)
        except LookupError:
            raise ConfigError(f"the package {package!r} has no task {name!r}", where=where) from None

    return create


def _prompts_task(entry: EvaluationEntry, base: Path) -> "Task":
    from trivet.evaluate.prompts import Config, build

    assert entry.prompts is not None and entry.judge is not None
    judge = anchored_judge(entry.judge, base)
    values = {"dataset": str(base / entry.prompts), "judge": judge, "name": entry.label}
    return build(validate(Config, values, where=f"evaluation {entry.label}"))


def anchored_rows(source: str, base: Path) -> str:
    """Where rows come from, so that paths no longer depend on the working directory."""
    if is_public(source) and not (base / source).is_file():
        name, colon, path = source.partition(":")
        return f"{name}:{base / Path(path).expanduser()}" if colon else source
    return str(base / Path(source).expanduser()) if Path(source).suffix else source


def anchored_judge(judge: str | dict[str, Any], base: Path) -> str | dict[str, Any]:
    """A judge's specification whose paths no longer depend on the working directory."""
    if isinstance(judge, str):
        return str(base / judge) if "/" in judge or judge.endswith(".safetensors") else judge
    path = judge.get("path")
    return anchored_parts({**judge, "path": str(base / str(path))} if path is not None else judge, base)


def with_ids(samples: "list[Sample]") -> "list[Sample]":
    """Give samples without an id one that follows from their content, so that subsets keep their ids."""
    seen: dict[str, int] = {}
    for sample in samples:
        if sample.id is None:
            digest = sha256_text(canonical_json(_content(sample)))[:16]
            seen[digest] = seen.get(digest, 0) + 1
            sample.id = digest if seen[digest] == 1 else f"{digest}-{seen[digest]}"
    return samples


def _content(sample: "Sample") -> dict[str, Any]:
    values = sample.model_dump(
        mode="json", exclude_none=True, include={"input", "choices", "target", "metadata", "files", "setup"}
    )
    if isinstance(values["input"], list):
        values["input"] = [{k: v for k, v in message.items() if k != "id"} for message in values["input"]]
    return values


def sample_text(sample: "Sample | EvalSample") -> str:
    """The last user message."""
    if isinstance(sample.input, str):
        return sample.input
    texts = [message.text for message in sample.input if message.role == "user"]
    return texts[-1] if texts else ""


def _row(sample: "Sample", label: str) -> dict[str, Any]:
    text = sample_text(sample)
    metadata = sample.metadata or {}
    # The parts of a suite (say, answerable and unanswerable questions) are strata too.
    stratum = f"{metadata.get('component', '')}/{metadata.get('category', 'all')}"
    return {
        "id": str(sample.id),
        "category": stratum,
        "component": str(metadata.get("component") or label),
        "characters": len(text),
        "content": sha256_text(canonical_json(_content(sample))),
        "prompt_digest": prompt_digest(text),
    }


def _source(entry: EvaluationEntry, base: Path) -> str:
    if entry.prompts is not None:
        return _shipped_source("prompts")
    assert entry.task is not None
    if entry.shipped:
        return _shipped_source(entry.task)
    if "@" in entry.task:
        return file_digest(base / entry.task.rpartition("@")[0])
    package = entry.task.split("/", 1)[0]
    point = next(p for p in importlib.metadata.entry_points(group="inspect_ai") if p.name == package)
    return f"{package} {point.dist.version if point.dist else ''}"


def _shipped_source(name: str) -> str:
    """Digest of an evaluation that ships, and of the rules and readers of answers that score it."""
    import trivet.evaluate
    import trivet.judges

    own, judges = (Path(str(package.__file__)).parent for package in (trivet.evaluate, trivet.judges))
    files = [
        own / f"{name}.py",
        *sorted(own.glob("_*.py")),
        *(judges / f"{reader}.py" for reader in ("answers", "exchange", "multiple_choice")),
        *sorted((judges / "rules").glob("*.py")),
    ]
    return sha256_text(canonical_json([file_digest(file) for file in files]))
