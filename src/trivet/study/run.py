"""Run a study: plan → generate → score → analyse → report, each step once.

Finished steps are found by their address and never run twice; a step that fails does not stop the others.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trivet._files import write_json
from trivet.errors import StoreError, StudyError
from trivet.study.address import Description, changed_versions, derived_seed, package_versions
from trivet.study.cell import Cell, latency_prompts
from trivet.study.generate import Failure, Job, failure_of, generate
from trivet.study.journal import Journal
from trivet.study.latency import measure_latency
from trivet.study.manifest import Manifest
from trivet.study.progress import StudyProgress
from trivet.study.read_logs import read_measurements
from trivet.study.score import import_log, score_log
from trivet.study.spec import StudySpec
from trivet.study.store import Store
from trivet.study.systems import Prepared

if TYPE_CHECKING:
    from inspect_ai.model import Model, ModelOutput

LATENCY = "latency.json"
ANSWERS = "answers.eval"
SCORED = "scored.eval"
INPUT_TOKENS = ("input_tokens", "input_tokens_cache_read", "input_tokens_cache_write")


@dataclass
class Runner:
    """What the steps of one run share."""

    spec: StudySpec
    base: Path
    store: Store
    progress: StudyProgress
    roles: "dict[str, Model | list[Model]] | None" = None
    warnings: list[str] = field(default_factory=list)
    failures: dict[str, Failure] = field(default_factory=dict)
    spent: float = 0.0
    generated_tokens: int = 0

    def generate(self, cells: Sequence[Cell]) -> None:
        """Answer all cells that have no answers yet, in one call of Inspect."""
        missing: list[Cell] = []
        for cell in cells:
            cell.answers = self.find(cell.generation.address)
            if cell.answers is None and cell.failure is None:
                missing.append(cell)
        for cell in [cell for cell in missing if cell.system.logs]:
            self._read(cell)
        missing = [cell for cell in missing if not cell.system.logs]
        if not missing:
            return
        # Two systems of equal content give equal answers: one step serves both.
        first = {cell.generation.address: cell for cell in reversed(missing)}
        results = self._answer(list(first.values()), "generate")
        for cell in missing:
            result = results[cell.generation.address]
            if isinstance(result, Failure):
                self.fail(cell, f"generate {cell.name}", result)
            elif first[cell.generation.address] is cell:
                cell.answers = self._keep(cell, result)
            else:
                cell.answers = self.find(cell.generation.address)
            self.progress.finished()

    def answers_of(self, cells: Sequence[Cell], what: str) -> list[Path]:
        """Logs of the answers of these cells, outside the store; finished answers are not generated again.

        Raises:
            StudyError: a cell could not be answered.
        """
        results = self._answer(cells, what)
        logs: list[Path] = []
        for cell in cells:
            result = results[cell.generation.address]
            if isinstance(result, Failure):
                raise StudyError(result.error, hint=result.fix)
            logs.append(result)
        return logs

    def _answer(self, cells: Sequence[Cell], what: str) -> dict[str, Path | Failure]:
        jobs = [self._job(cell) for cell in cells]
        with self.progress.step(what, sum(job.answers for job in jobs)):
            return generate(
                jobs,
                folder=self.store.running,
                max_connections=self.spec.max_connections,
                deterministic=self.spec.deterministic,
                roles=self.roles,
                on_answer=self._answered,
                on_sample=self.progress.sample,
                guard=self._within_budget,
            )

    def score(self, cells: Sequence[Cell]) -> None:
        """Score all cells that have answers and no scores yet."""
        for cell in cells:
            if cell.answers is None:
                continue
            cell.scored = self.find(cell.scoring.address)
            if cell.scored is None:
                self._score(cell)
                self.progress.finished()

    def latency(
        self, systems: Sequence[Prepared], cells: Sequence[Cell], count: int, max_tokens: int
    ) -> None:
        """Time each system on a few prompts, one at a time."""
        for system in systems:
            if system.system is None:
                continue
            description = self.latency_step(system, count, max_tokens)
            if self.find(description.address) is not None:
                continue
            step = f"latency {system.name}"
            prompts = latency_prompts([cell for cell in cells if cell.system.name == system.name], count)
            try:
                with (
                    self.progress.step(step, len(prompts)),
                    self.store.writing(description, study=self.spec.name, step=step) as draft,
                ):
                    measured = measure_latency(
                        self._ask(system, max_tokens), prompts, on_answer=self.progress.sample
                    )
                    if system.remote:
                        measured = replace(measured, peak_memory_bytes=None)
                    write_json(draft / LATENCY, asdict(measured))
            except StoreError:
                raise
            except Exception as error:  # whatever an endpoint's client raises; the others go on
                self.failures[step] = failure_of(error)
                self.progress.say(f"failed: {step}: {self.failures[step].error}")
            self.progress.finished()

    def latency_step(self, system: Prepared, count: int, max_tokens: int) -> Description:
        """The latency step of a system."""
        return Description(
            method="study/latency",
            version=1,
            config={
                "prompts": count,
                "max_tokens": max_tokens,
                "evaluations": [entry.label for entry in self.spec.evaluations],
            },
            inputs={"system": system.identity},
            seed=self.spec.seed,
        )

    def one_alone(self, system: Prepared, cell: Cell) -> tuple[float, int]:
        """Seconds and tokens of one answer alone."""
        seconds, _, tokens = self._ask(system, cell.max_tokens)(latency_prompts([cell], 1)[0], 0)
        return seconds, tokens

    def _ask(
        self, system: Prepared, max_tokens: int
    ) -> Callable[[str, int], tuple[float, float | None, int]]:
        assert system.system is not None
        asked = system.system

        def ask(prompt: str, number: int) -> tuple[float, float | None, int]:
            self._within_budget()
            seed = derived_seed(self.spec.seed, "latency", number)
            started = time.perf_counter()
            answer = asked.answer_sync(prompt, seed=seed, max_tokens=max_tokens)
            took = time.perf_counter() - started
            usage = {
                "input_tokens": answer.usage.prompt_tokens,
                "output_tokens": answer.usage.completion_tokens,
            }
            self.spent += self._dollars(system.name, usage)
            return took, answer.seconds_to_first_token, answer.usage.completion_tokens

        return ask

    def find(self, address: str) -> Manifest | None:
        """A finished step; a change of package versions since then is a warning."""
        manifest = self.store.find(address)
        if manifest is not None:
            changed = changed_versions(manifest.packages, package_versions())
            if changed:
                text = f"versions changed since finished steps were run: {', '.join(changed)}"
                if text not in self.warnings:
                    self.warnings.append(text)
        return manifest

    def fail(self, cell: Cell, step: str, failure: Failure) -> None:
        """Record a failed step; the others go on."""
        cell.failure, cell.failed_step = failure, step
        self.progress.say(f"failed: {step}: {failure.error}\n  → {failure.fix}")

    def _job(self, cell: Cell) -> Job:
        return Job(
            key=cell.generation.address,
            system=cell.system.name,
            evaluation=cell.evaluation,
            ids=cell.ids,
            max_tokens=cell.max_tokens,
            seed=derived_seed(cell.seed, "generate") if cell.system.seeded else None,
            journal=self.journal_path(cell),
            model=cell.system.model,
        )

    def journal_path(self, cell: Cell) -> Path:
        """Where a cell's answers are kept."""
        return self.store.answers / f"{cell.journal.address}.jsonl"

    def _keep(self, cell: Cell, log: Path) -> Manifest | None:
        with self.store.writing(cell.generation, study=self.spec.name, step=f"generate {cell.name}") as draft:
            log.replace(draft / ANSWERS)
        return self.find(cell.generation.address)

    def _read(self, cell: Cell) -> None:
        """An existing log in the place of a generate step."""
        from inspect_ai.log import write_eval_log

        assert cell.system.logs is not None
        step = f"read {cell.name}"
        try:
            path = cell.system.logs.get(cell.evaluation.label)
            if path is None:
                raise StudyError("no log of this system holds it", where=cell.evaluation.label)
            log = import_log(path, cell.evaluation, cell.ids)
            with self.store.writing(cell.generation, study=self.spec.name, step=step) as draft:
                write_eval_log(log, str(draft / ANSWERS))
            cell.answers = self.find(cell.generation.address)
        except StoreError:
            raise
        except Exception as error:  # tasks and logs are anybody's; the others go on
            self.fail(cell, step, failure_of(error))
        self.progress.finished()

    def _score(self, cell: Cell) -> None:
        step = f"score {cell.name}"
        source = self.store.folder(cell.generation.address) / ANSWERS
        try:
            with (
                self.progress.step(step, None),
                self.store.writing(cell.scoring, study=self.spec.name, step=step) as draft,
            ):
                if cell.evaluation.sandbox:  # scored inside its sandbox while it ran
                    (draft / SCORED).write_bytes(source.read_bytes())
                else:
                    model = None if cell.system.logs else cell.system.model
                    score_log(source, draft / SCORED, cell.evaluation, model=model, roles=self.roles)
                # What the analysis could not read fails here, alone, and not the study at its end.
                read_measurements(draft / SCORED, system=cell.system.name, entry=cell.evaluation.entry)
            cell.scored = self.find(cell.scoring.address)
        except StoreError:
            raise
        except Exception as error:  # tasks are anybody's code; the others go on
            self.fail(cell, step, failure_of(error))

    def _answered(self, system: str, output: "ModelOutput", replayed: bool) -> None:
        if not replayed:
            tokens = output.usage.output_tokens if output.usage else 0
            self.generated_tokens += tokens
            self.progress.tokens(tokens)
            self.spent += self._dollars(system, output.usage.model_dump() if output.usage else None)

    def count_spent(self, cells: Sequence[Cell]) -> None:
        """Start from what the answers that are there already have cost."""
        journals = {self.journal_path(cell): cell.system.name for cell in cells if cell.system.system}
        self.spent = sum(
            self._dollars(name, output.get("usage"))
            for path, name in journals.items()
            if name in self.spec.prices
            for output in Journal(path).outputs()
        )

    def _dollars(self, system: str, usage: Mapping[str, Any] | None) -> float:
        price = self.spec.prices.get(system)
        if price is None or not usage:
            return 0.0
        # Inspect counts input that was found in a cache, or put there, apart; endpoints bill it too.
        asked = sum(usage.get(key) or 0 for key in INPUT_TOKENS)
        return (asked * price.input + (usage.get("output_tokens") or 0) * price.output) / 1e6

    def _within_budget(self) -> None:
        if self.spec.max_cost is not None and self.spent >= self.spec.max_cost:
            raise StudyError(
                f"max_cost: {self.spent:.4f} of {self.spec.max_cost:g} US dollars are spent",
                hint="raise max_cost and run again; finished answers are kept and not paid twice",
            )
