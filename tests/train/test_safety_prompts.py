"""The safety prompts of HC-RLHF (card 08): one look at them, by a policy that did not learn from them."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.train.constrained_runs import WORDS, report_of, write_prompts
from tests.train.letter_judge import LetterJudge
from tests.train.test_checkpoints import free_port

from trivet.data.prompts import prompt_digest
from trivet.data.safety_ledger import Ledger
from trivet.data.trained_on import read_trained_on, write_trained_on
from trivet.errors import StudyError
from trivet.train.prompts import read_prompts
from trivet.train.running import train
from trivet.train.safety_prompts import set_aside

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
    pytest.mark.usefixtures("judges_of_tests"),
]


@pytest.mark.slow
def test_prompts_that_were_tested_are_refused_before_training(
    constrained_settings: Callable[..., Path], tmp_path: Path
) -> None:
    """Check 11: the API refuses a second test, of another policy, on the same prompts."""
    train("high_confidence_rlhf", constrained_settings(), tmp_path / "one")
    assert (tmp_path / "prompts.jsonl.gate" / "ledger.jsonl").is_file()
    lines: list[str] = []
    others = ({"limit": 0.99}, {"trainer": {"learning_rate": 1e-3}}, {"split": 2})
    for number, changes in enumerate(others):
        with pytest.raises(StudyError, match="14 of the 14 prompts were used before"):
            train(
                "high_confidence_rlhf",
                constrained_settings(**changes),
                tmp_path / f"two-{number}",
                say=lines.append,
            )
    assert not any(line.startswith("step 1") for line in lines)
    again = train(
        "high_confidence_rlhf", constrained_settings(), tmp_path / "three"
    )  # the very same: read out
    assert report_of(tmp_path / "one") == report_of(tmp_path / "three") and again.made


@pytest.mark.slow
def test_tests_that_share_delta_are_counted(
    constrained_settings: Callable[..., Path], tmp_path: Path
) -> None:
    """Check 11: with ``split`` each test has δ / K, and after K none is left."""
    quick = {"max_steps": 1}
    for seed, name in ((1e-3, "one"), (2e-3, "two")):
        path = constrained_settings(split=2, candidates=1, trainer={**quick, "learning_rate": seed})
        train("high_confidence_rlhf", path, tmp_path / name)
        assert report_of(tmp_path / name)["test_delta"] == 0.05
    path = constrained_settings(split=2, candidates=1, trainer={**quick, "learning_rate": 3e-3})
    with pytest.raises(StudyError, match="tests allowed on one set of prompts: 2, looks so far: 2"):
        train("high_confidence_rlhf", path, tmp_path / "three")


@pytest.mark.slow
def test_the_three_sets_are_disjoint_also_where_they_are_files(
    constrained_settings: Callable[..., Path], tmp_path: Path
) -> None:
    write_prompts(tmp_path / "safety.jsonl", WORDS[:4], 4)  # half of the data
    write_prompts(tmp_path / "validation.jsonl", (*WORDS[3:5], "Seine"), 4)
    path = constrained_settings(
        safety="safety.jsonl",
        validation="validation.jsonl",
        held_out=None,
        candidates=1,
        trainer={"max_steps": 1},
    )
    done = train("high_confidence_rlhf", path, tmp_path / "out")
    report = report_of(tmp_path / "out")
    assert report["n"] == 16 and report["candidate"]["costs"] == 8
    assert any(
        "4 validation prompts left out: they are safety prompts" in note for note in done.record["data"]
    )
    assert any("32 prompts of prompts.jsonl" in note for note in done.record["data"])
    assert (tmp_path / "safety.jsonl.gate").is_dir()


@pytest.mark.parametrize("who", ["the model", "the judge of reward"])
def test_prompts_that_taught_the_model_or_its_judge_do_not_test_it(
    constrained_settings: Callable[..., Path],
    tmp_path: Path,
    tiny_model_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    who: str,
) -> None:
    """A source with one of them is refused before anything is trained; of the data they are not drawn."""
    model = shutil.copytree(tiny_model_folder, tmp_path / "model")
    write_prompts(tmp_path / "safety.jsonl", ("Seine",), 20)
    known = {prompt_digest("what is seine in place 7"), prompt_digest("What is red in place 2?")}
    if who == "the model":
        write_trained_on(model, known)
    else:
        monkeypatch.setattr(LetterJudge, "training_prompts", frozenset(known))
    path = constrained_settings(model=str(model), safety="safety.jsonl")
    with pytest.raises(StudyError, match=f"circular: 1 of the prompts for the safety test .* trained {who}"):
        train("high_confidence_rlhf", path, tmp_path / "out")
    assert Ledger(tmp_path / "safety.jsonl.gate").looks == []
    digests = {
        "them": frozenset(known),
        "more": frozenset(one.digest for one in read_prompts("prompts.jsonl", base=tmp_path).prompts[:20]),
    }
    drawn = set_aside("prompts.jsonl", 12, None, base=tmp_path, seed=3, known=digests)
    assert len(drawn.digests) == 12 and not drawn.digests & (digests["them"] | digests["more"])
    assert drawn.left_out == {
        "them learnt from them before": 1,
        "more learnt from them before": 20,
    }
    with pytest.raises(StudyError, match="circular: 1 of the prompts"):
        set_aside("prompts.jsonl", 13, None, base=tmp_path, seed=3, known=digests)


def test_prompts_that_are_too_long_are_counted_and_other_tests_are_told(
    constrained_settings: Callable[..., Path], tmp_path: Path
) -> None:
    """Both are in the report; safety prompts are not in the record of what trained, the others are."""
    write_prompts(tmp_path / "safety.jsonl", ("Seine", "Rhone"), 10)
    write_prompts(tmp_path / "validation.jsonl", ("honey", "money"), 3)
    for name in ("safety", "validation"):
        with (tmp_path / f"{name}.jsonl").open("a") as stream:
            stream.write(json.dumps({"prompt": f"{name}: " + "very long " * 600}) + "\n")
    ledger = Ledger(tmp_path / "ledger")
    ledger.begin(ledger.declare({"system": "a@1", "delta": 0.1, "split": 1}), [prompt_digest("another")])
    path = constrained_settings(
        safety="safety.jsonl",
        validation="validation.jsonl",
        held_out=None,
        ledger="ledger",
        candidates=1,
        trainer={"max_steps": 1},
    )
    done = train("high_confidence_rlhf", path, tmp_path / "out")
    report = report_of(tmp_path / "out")
    ((reason, count),) = report["left_out"].items()
    assert (report["n"], count, report["earlier_tests"]) == (20, 1, 1)
    said = "\n".join(report["statement"])
    assert f"1 prompts are not in the test ({reason})" in said
    assert "A series of tests: the ledger holds others (1)" in said
    for name in ("safety", "validation"):
        assert f"1 {name} prompts dropped: {reason}" in done.record["data"]


def test_the_record_of_what_trained_leaves_safety_prompts_out(
    constrained_settings: Callable[..., Path], tmp_path: Path
) -> None:
    path = constrained_settings(candidates=1, trainer={"max_steps": 1})
    train("high_confidence_rlhf", path, tmp_path / "out")
    (look,) = Ledger(tmp_path / "prompts.jsonl.gate").looks
    learnt = read_trained_on(tmp_path / "out")
    assert len(learnt) == 32 - 14 and not {digest[:16] for digest in learnt} & look.digests


TESTED = """
import sys
from pathlib import Path
from accelerate import PartialState
import trivet.judges.resolve
from trivet.train.running import train
from trivet.train.safety_test import SafetyLedger

module = sys.modules["trivet.judges.resolve"]
module.KINDS = {**module.KINDS, "letters": module.Kind("tests.train.letter_judge", "share of letters")}
settings, out, seen = map(Path, sys.argv[1:])
test = SafetyLedger.test

def noted(self, *arguments):
    with seen.open("a") as file:
        file.write(f"{PartialState().process_index} ")
    return test(self, *arguments)

SafetyLedger.test = noted
done = train("high_confidence_rlhf", settings, out)
assert done.record["safety_test"]["n"] == 14
"""


@pytest.mark.slow
def test_of_three_processes_the_first_tests(
    constrained_settings: Callable[..., Path], tmp_path: Path
) -> None:
    """The others would find the ledger taken, now and then, since nobody waits for its lock."""
    trainer = {"max_steps": 1, "per_device_train_batch_size": 3}
    path, script = constrained_settings(candidates=1, trainer=trainer), tmp_path / "tested.py"
    script.write_text(TESTED)
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "3"]
    launch += ["--master_port", str(free_port()), str(script), str(path), str(tmp_path / "out")]
    done = subprocess.run(
        [*launch, str(tmp_path / "seen")],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "seen").read_text() == "0 "
    assert (tmp_path / "out" / "adapter_config.json").is_file()
