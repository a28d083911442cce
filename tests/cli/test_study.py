"""``trivet study`` and ``trivet store`` as a user types them: one message a mistake, exit codes, JSON."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from trivet.cli import root

STUDY = {
    "name": "tiny",
    "systems": {"a": {"model": "?"}, "b": {"model": "?", "system_prompt": "Be brief."}},
    "evaluations": [{"task": "helpful", "limit": 4}],
    "max_tokens": 4,
}


def trivet(*arguments: object) -> Result:
    return CliRunner().invoke(root, [str(argument) for argument in arguments])


@pytest.fixture
def study(tmp_path: Path, tiny_model_folder: Path) -> Callable[..., Path]:
    def write(**changes: object) -> Path:
        values = json.loads(
            json.dumps({**STUDY, **changes}).replace('"?"', json.dumps(str(tiny_model_folder)))
        )
        path = tmp_path / "study.yaml"
        path.write_text(yaml.safe_dump(values))
        return path

    return write


def message_of(result: Result) -> str:
    assert result.exit_code == 2, (result.output, result.exception)
    assert "Traceback" not in result.output
    return result.output


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"evalutions": []}, "unknown key 'evalutions'"),
        ({"systems": {"a": {"model": "no-such-model"}}}, "unknown model 'no-such-model'"),
        ({"systems": {"a": {"model": "./nowhere"}}}, "no such file or folder"),
        ({"systems": {"a": "absent.yaml"}}, "absent.yaml: no such file"),
        ({"systems": {"a": {"modle": "x"}}}, "did you mean 'model'"),
        ({"systems": {"a": {"model": "?", "decode": {"method": "best_of_m"}}}}, "best_of_m"),
        ({"systems": {"a": {"log": "absent.eval"}}}, "absent.eval: no such file"),
        ({"evaluations": ["absent.py@task"]}, "no such file"),
        ({"evaluations": ["nopackage/task"]}, "no package 'nopackage'"),
        ({"evaluations": [{"task": "helpful", "args": {"promts": 3}}]}, "takes no argument 'promts'"),
        ({"evaluations": [{"prompts": "absent.jsonl", "judge": "refusal"}]}, "absent.jsonl: no such file"),
        ({"evaluations": [{"task": "harmless", "judge": "nobody"}]}, "unknown judge 'nobody'"),
        ({"legs": {"helpfull": ["helpful"]}}, "unknown leg 'helpfull'"),
        ({"max_cost": 1, "systems": {"a": {"model": "openai:http://127.0.0.1:9/v1#m"}}}, "a:|127.0.0.1"),
    ],
)
def test_each_mistake_gives_one_message_and_exit_code_2(study, tmp_path, changes, message):
    import re

    text = message_of(trivet("study", "run", study(**changes), "--store", tmp_path / "store"))
    assert re.search(message, " ".join(text.split())), text
    assert not (tmp_path / "store" / "objects").exists()


def test_a_row_without_a_prompt_is_named_with_its_line(study, tmp_path):
    (tmp_path / "my.jsonl").write_text('{"prompt": "hello"}\n{"promt": "hello"}\n')
    changed = study(evaluations=[{"prompts": "my.jsonl", "judge": "refusal_string_match"}])
    assert "my.jsonl, line 2" in message_of(trivet("study", "run", changed, "--store", tmp_path / "store"))


def test_a_model_without_a_chat_template_is_named(study, tmp_path, tiny_model_folder):
    model = tmp_path / "untemplated"
    shutil.copytree(tiny_model_folder, model)
    for file in model.glob("*.jinja"):
        file.unlink()
    config = json.loads((model / "tokenizer_config.json").read_text())
    config.pop("chat_template", None)
    (model / "tokenizer_config.json").write_text(json.dumps(config))
    changed = study(systems={"a": {"model": str(model)}})
    assert "chat template" in message_of(trivet("study", "run", changed, "--store", tmp_path / "store"))


def test_run_show_plan_diff_and_the_store(study, tmp_path):
    path, store = study(), tmp_path / "store"
    ran = trivet("study", "run", path, "--store", store)
    assert ran.exit_code == 0, ran.output
    assert str(store / "report.html") in ran.output and "Be brief" not in ran.output
    shown = trivet("study", "show", store)
    assert shown.exit_code == 0 and "a" in shown.output and "helpful" in shown.output
    numbers = json.loads(trivet("study", "show", store, "--json").output)
    assert [system["name"] for system in numbers["systems"]] == ["a", "b"]
    plan = json.loads(trivet("study", "plan", path, "--store", store, "--json").stdout)
    assert all(step["done"] for step in plan["steps"] if step["kind"] in ("generate", "score"))
    same = trivet("study", "diff", store, store)
    assert same.exit_code == 0, same.output
    rows = json.loads(trivet("store", "ls", store, "--json").output)
    assert {row["method"] for row in rows} == {
        "study/generate", "study/score", "study/latency", "study/analyse",
    }  # fmt: skip
    assert trivet("store", "verify", store).exit_code == 0
    assert "0 removed" in trivet("store", "gc", store).output
    victim = next((store / "objects").glob("*/answers.eval"))
    victim.write_bytes(victim.read_bytes()[:-1] + b"?")
    broken = trivet("store", "verify", store)
    assert broken.exit_code == 1 and "answers.eval was changed" in broken.output


def test_a_leg_that_fell_makes_diff_exit_1(study, tmp_path):
    store = tmp_path / "store"
    assert trivet("study", "run", study(), "--store", store).exit_code == 0
    later = json.loads((store / "results.json").read_text())
    for leg in later["legs"]:
        leg["estimate"]["value"] = -1.0 if leg["system"] == "b" else leg["estimate"]["value"]
    (tmp_path / "later.json").write_text(json.dumps(later))
    result = trivet("study", "diff", store, tmp_path / "later.json")
    assert result.exit_code == 1 and "fell" in result.output


@pytest.mark.parametrize("verb", [("study", "show"), ("store", "ls"), ("store", "verify"), ("store", "gc")])
def test_a_folder_that_is_no_store(tmp_path, verb):
    assert "is not a store" in message_of(trivet(*verb, tmp_path / "nothing"))


def test_every_verb_has_examples():
    for verb in ("plan", "run", "show", "diff"):
        assert "Example" in trivet("study", verb, "--help").output
    for verb in ("ls", "gc", "verify"):
        assert "Example" in trivet("store", verb, "--help").output
