"""Studies from their file to their results, on a tiny random model."""

import json
import resource
import shutil
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from trivet.errors import StoreError, StudyError, TrivetError
from trivet.study.driver import plan_study, run_study
from trivet.study.finish import Outcome
from trivet.study.store import Store


def run(study: Path, store: Path, **options: Any) -> Outcome:
    return run_study(study, store, console=Console(quiet=True), show=False, **options)


def journal_lines(store: Path) -> int:
    return sum(len(path.read_bytes().splitlines()) for path in (store / "answers").glob("*.jsonl"))


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


class TestOneStudy:
    def test_ends_with_results_report_and_logs(self, write_study, store):
        outcome = run(write_study(), store)
        results = outcome.results
        assert outcome.report == store / "report.html" and "plain" in outcome.report.read_text()
        assert [system.name for system in results.systems] == ["plain", "prompted"]
        assert results.reference == "plain"
        assert [leg.n_questions for leg in results.legs if leg.leg == "helpful"] == [12, 12]
        assert results.failed == [] and results.marks == []
        assert journal_lines(store) == 24
        for cost in results.costs:
            assert cost.n_answers == 12 and cost.completion_tokens and cost.completion_tokens <= 8
            assert cost.latency_seconds is not None and cost.latency_seconds.value > 0
            assert cost.peak_memory_bytes and cost.peak_memory_bytes > 10**7
        assert (store / "logs/tiny/plain/letters.eval").is_file()
        assert Store(store).verify() == []
        assert Store(store).gc(dry_run=True) == []

    @pytest.mark.slow
    def test_inspect_reads_the_logs(self, write_study, store):
        from inspect_ai.log import list_eval_logs, read_eval_log

        run(write_study(epochs=2), store)
        logs = [read_eval_log(info) for info in list_eval_logs(str(store / "logs"))]
        assert sorted(log.eval.task for log in logs) == ["letters", "letters"]
        for log in logs:
            assert log.status == "success" and log.results is not None
            assert {(s.id, s.epoch) for s in log.samples} == {(f"q{i}", e) for i in range(12) for e in (1, 2)}
            assert all(sample.scores for sample in log.samples)

    @pytest.mark.slow
    def test_epochs_of_one_prompt_differ_and_greedy_ones_do_not(self, write_study, store):
        run(write_study(epochs=2), store)
        answers: dict[tuple[str, str], list[str]] = {}
        for line in (store / "transcripts.jsonl").read_text().splitlines():
            row = json.loads(line)
            answers.setdefault((row["system"], row["sample_id"]), []).append(row["answer"])
        sampled = [pair for (system, _), pair in answers.items() if system == "plain"]
        greedy = [pair for (system, _), pair in answers.items() if system == "prompted"]
        assert sum(a != b for a, b in sampled) >= 10
        assert all(a == b for a, b in greedy)

    @pytest.mark.slow
    def test_a_new_scorer_generates_nothing_again(self, write_study, store, tmp_path):
        run(write_study(), store)
        tasks = (tmp_path / "tasks.py").read_text()
        (tmp_path / "tasks.py").write_text(tasks.replace("scorer=includes()", "scorer=includes(False)"))
        again = run(write_study(), store)
        assert again.results.failed == []
        assert journal_lines(store) == 24

    @pytest.mark.slow
    def test_limit_draws_by_category(self, write_study, store):
        run(write_study(limit=6), store)
        rows = [json.loads(line) for line in (store / "transcripts.jsonl").read_text().splitlines()]
        numbers = {int(row["sample_id"][1:]) for row in rows}
        assert len(numbers) == 6 and sum(n % 2 for n in numbers) == 3

    @pytest.mark.slow
    def test_part_of_a_score_counts(self, write_study, store):
        entry = {"task": "tasks.py@parts", "score": "vowels", "leg": "helpful"}
        results = run(write_study(evaluations=[entry]), store).results
        rows = [json.loads(line) for line in (store / "transcripts.jsonl").read_text().splitlines()]
        expected = [sum(c in "aeiou" for c in row["answer"]) for row in rows if row["system"] == "plain"]
        component = next(row for row in results.components if row.system == "plain")
        assert component.estimate.value == pytest.approx(sum(expected) / len(expected))

    @pytest.mark.slow
    def test_changed_package_versions_warn_and_generate_nothing_again(self, write_study, store, monkeypatch):
        run(write_study(), store)
        from trivet.study import run as module

        monkeypatch.setattr(module, "package_versions", lambda: {"torch": "99"})
        again = run(write_study(), store).results
        assert any("torch" in text and "→ 99" in text for text in again.warnings)
        assert journal_lines(store) == 24


class TestFailures:
    def test_a_failed_step_does_not_stop_the_others(self, write_study, store, tmp_path):
        study = write_study(
            systems={
                "good": {"model": str(self.model(write_study))},
                "absent": {"model": str(tmp_path / "nothing")},
            },
            evaluations=[
                {"task": "tasks.py@letters", "leg": "helpful"},
                "tasks.py@broken_scorer",
                "tasks.py@broken_task",
                "tasks.py@empty",
            ],
        )
        results = run(study, store).results
        failed = {step.step: step for step in results.failed}
        assert set(failed) == {
            "system absent",
            "evaluation broken_task",
            "evaluation empty",
            "score good × broken_scorer",
        }
        assert "no such file or folder" in failed["system absent"].error
        assert "ValueError: cannot be built" in failed["evaluation broken_task"].error
        assert "is empty" in failed["evaluation empty"].error
        assert "this scorer is broken" in failed["score good × broken_scorer"].error
        assert all(step.fix for step in results.failed)
        assert next(leg for leg in results.legs if leg.leg == "helpful").estimate.value is not None
        report = (store / "report.html").read_text()
        assert "this scorer is broken" in report and "no such file or folder" in report

    @staticmethod
    def model(write_study) -> Path:
        import yaml

        return Path(yaml.safe_load(write_study().read_text())["systems"]["plain"]["model"])

    @pytest.mark.slow
    def test_a_corrupt_model_fails_with_its_file_and_is_mended_by_a_rerun(self, write_study, store, tmp_path):
        model = tmp_path / "model"
        shutil.copytree(self.model(write_study), model)
        weights = (model / "model.safetensors").read_bytes()
        (model / "model.safetensors").write_bytes(weights[: len(weights) // 2])
        systems = {"good": {"model": str(self.model(write_study))}, "cut": {"model": str(model)}}
        first = run(write_study(systems=systems), store).results
        assert [step.step for step in first.failed] == ["system cut"]
        assert "model.safetensors" in first.failed[0].error
        lines = journal_lines(store)
        (model / "model.safetensors").write_bytes(weights)
        assert run(write_study(systems=systems), store).results.failed == []
        assert journal_lines(store) == lines, "equal weights and settings: the answers of the good one serve"

    def test_nothing_works_is_the_first_reason(self, write_study, store, tmp_path):
        study = write_study(systems={"absent": {"model": str(tmp_path / "nothing")}})
        with pytest.raises(TrivetError, match="no such file or folder"):
            run(study, store)

    @pytest.mark.slow
    def test_a_prompt_longer_than_the_context_is_unscored_and_the_rest_is_measured(
        self, write_study, store, tmp_path
    ):
        rows = [{"prompt": "Say hello."}, {"prompt": "word " * 3000}, {"prompt": "Say bye."}]
        (tmp_path / "my.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
        entry = {"prompts": "my.jsonl", "judge": "refusal_string_match", "leg": "harmless"}
        results = run(write_study(evaluations=[entry]), store).results
        assert results.failed == []
        component = next(row for row in results.components if row.system == "plain")
        assert (component.n_answers, component.n_unscored) == (3, 1)
        assert "the prompt cannot be answered" in component.unscored_reasons

    @pytest.mark.slow
    def test_a_full_disk_loses_nothing_that_is_finished(self, write_study, store):
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        study = write_study(max_tokens=60, epochs=2)
        resource.setrlimit(resource.RLIMIT_FSIZE, (12_000, hard))
        try:
            with pytest.raises(StoreError, match="cannot write") as caught:
                run(study, store)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert "free disk space" in str(caught.value)
        before = journal_lines(store)
        assert before > 0
        assert run(study, store).results.failed == []
        assert journal_lines(store) == 48

    @pytest.mark.slow
    def test_a_damaged_manifest_is_done_again(self, write_study, store):
        run(write_study(), store)
        manifest = sorted((store / "objects").glob("*/manifest.json"))[0]
        manifest.write_text(manifest.read_text()[:-20])
        assert len(Store(store).verify()) == 1
        run(write_study(), store)
        assert Store(store).verify() == []
        assert journal_lines(store) == 24

    def test_a_second_driver_is_refused(self, write_study, store):
        with Store(store).driver(), pytest.raises(StoreError, match="another process works on this store"):
            run(write_study(), store)


class TestLogsAsSystems:
    @pytest.mark.slow
    def test_an_existing_log_stands_in_for_a_system(self, write_study, store, tmp_path):
        run(write_study(), store)
        log = store / "logs/tiny/plain/letters.eval"
        shutil.copy(log, tmp_path / "before.eval")
        model = TestFailures.model(write_study)
        systems = {
            "now": {"model": str(model), "sampling": {"temperature": 1.0}},
            "before": {"log": "before.eval"},
        }
        results = run(write_study(name="second", systems=systems), tmp_path / "store-2").results
        assert results.failed == []
        now, before = (leg.estimate.value for leg in results.legs if leg.leg == "helpful")
        assert now == before, "the same model, settings and seeds: the same answers"
        assert results.comparisons[0].difference.value == 0

    @pytest.mark.slow
    def test_a_log_of_another_task_is_refused(self, write_study, store, tmp_path):
        run(write_study(evaluations=[{"task": "tasks.py@parts", "score": "length", "leg": "helpful"}]), store)
        shutil.copy(store / "logs/tiny/plain/parts.eval", tmp_path / "before.eval")
        model = TestFailures.model(write_study)
        study = write_study(systems={"now": {"model": str(model)}, "before": {"log": "before.eval"}})
        results = run(study, tmp_path / "store-2").results
        assert [step.step for step in results.failed] == ["system before"]
        assert "no evaluation of this study" in results.failed[0].error

    @pytest.mark.slow
    def test_a_file_that_is_no_log_is_refused(self, write_study, store, tmp_path):
        (tmp_path / "before.eval").write_text("no log")
        model = TestFailures.model(write_study)
        study = write_study(systems={"now": {"model": str(model)}, "before": {"log": "before.eval"}})
        assert "is not an Inspect log" in run(study, store).results.failed[0].error


class TestBudget:
    @pytest.mark.slow
    def test_max_cost_stops_and_a_higher_one_goes_on(self, write_study, store):
        prices = {"plain": {"input": 0, "output": 1000}, "prompted": {"input": 0, "output": 1000}}
        study = write_study(max_cost=0.05, prices=prices, deterministic=True)  # 0.008 dollars an answer
        with pytest.raises(StudyError, match="max_cost"):
            run(study, store)
        paid = journal_lines(store)
        assert 6 <= paid <= 9
        results = run(write_study(max_cost=10, prices=prices, deterministic=True), store).results
        assert results.failed == [] and journal_lines(store) == 24
        assert all(cost.dollars and cost.dollars <= 0.008 for cost in results.costs)


class TestPlan:
    @pytest.mark.slow
    def test_minutes_choose_a_subset_that_is_kept_for_the_run(self, write_study, store):
        study = write_study(
            evaluations=[{"task": "tasks.py@letters", "args": {"n": 3000}, "leg": "helpful"}], max_tokens=64
        )
        plan = plan_study(study, store, minutes=0.4, console=Console(quiet=True))
        chosen = plan.choice.prompts["letters"]
        assert 1 <= chosen < 3000
        assert any("drawn by category with seed 1" in text for text in plan.choice.said)
        assert plan.seconds is not None and plan.seconds <= 0.4 * 60
        assert not any(step.done for step in plan.steps if step.kind == "score")
        again = plan_study(study, store, minutes=0.4, console=Console(quiet=True))
        assert again.choice == plan.choice, "the same study and time give the same plan"

    @pytest.mark.slow
    def test_the_plan_names_every_step_and_what_can_be_detected(self, write_study, store):
        plan = plan_study(write_study(), store, console=Console(quiet=True))
        assert [step.name for step in plan.steps] == [
            "generate plain × letters", "score plain × letters",
            "generate prompted × letters", "score prompted × letters",
            "latency plain", "latency prompted", "analyse", "report",
        ]  # fmt: skip
        assert 0 < plan.smallest_effect["letters"] < 1
        run(write_study(), store)
        plan = plan_study(write_study(), store, console=Console(quiet=True))
        assert all(step.done for step in plan.steps if step.kind in ("generate", "score", "latency"))
