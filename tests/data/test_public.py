"""Every public set: the files in TRIVET_DATA, and each published layout written by hand."""

import csv
import gzip
import io
import json
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from trivet.data import suites
from trivet.data.public import find, is_public, load_public, load_reference, public_names
from trivet.data.public.preferences import parse_dialogue
from trivet.data.rows import ROW_TYPES
from trivet.errors import DataError

# name, folder in TRIVET_DATA, split: rows and left-out rows, counted by hand from the files.
HELD = {
    ("advbench", "advbench", "all"): (412, 0),
    ("catqa_en", "catqa-en", "all"): (393, 28),
    ("catqa_zh", "catqa-zh", "all"): (393, 27),
    ("false_claims", "false-claims", "all"): (2414, 4),
    ("gsm8k", "gsm8k", "test"): (300, 0),
    ("gsm8k", "gsm8k", "train"): (2000, 0),
    ("harmbench", "harmbench", "all"): (239, 80),
    ("hh_rlhf_harmless", "hh-rlhf-harmless", "test"): (1822, 10),
    ("hh_single_turn", "hh-single-turn", "test"): (2978, 22),
    ("hh_single_turn", "hh-single-turn", "train"): (7978, 22),
    ("jailbreakbench", "jailbreakbench", "all"): (97, 0),
    ("jailbreakbench_artifacts", "jailbreakbench", "all"): (370, 0),
    ("mmlu", "mmlu", "dev"): (227, 58),
    ("mmlu", "mmlu", "test"): (513, 57),
    ("notinject", "notinject", "all"): (226, 0),
    ("openbookqa", "openbookqa", "test"): (400, 0),
    ("preference_pairs", "preference-pairs-en", "all"): (235, 4),
    ("preference_pairs", "preference-pairs-zh", "all"): None,
    ("strongreject", "strongreject", "all"): (247, 0),
    ("true_false_facts", "true-false-facts", "all"): (481, 9),
    ("truthfulqa", "truthfulqa", "validation"): (652, 0),
    ("truthfulqa_pairs", "truthfulqa", "validation"): (652, 0),
    ("xstest", "xstest", "all"): (200, 160),
    ("xstest_completions", "xstest-completions", "all"): (720, 0),
    ("xstest_unsafe", "xstest", "all"): (160, 200),
}


@pytest.mark.parametrize(("name", "folder", "split"), HELD)
def test_the_real_files_load(real_data, name, folder, split):
    loaded = load_public(name, real_data / folder, split=split)
    expected = HELD[name, folder, split]
    if expected is not None:
        assert (len(loaded.rows), sum(loaded.left_out.values())) == expected
    assert loaded.kind == find(name).kind
    assert loaded.revision.startswith("sha256:")
    assert all(row["id"].startswith(f"{name}-") for row in loaded.rows)
    for row in loaded.rows:
        ROW_TYPES[loaded.kind].model_validate(row)


def test_no_row_of_the_real_files_is_lost_uncounted(real_data):
    for name, folder, split in HELD:
        loaded = load_public(name, real_data / folder, split=split)
        patterns = find(name).files[split]
        lines = sum(
            1
            for file in (real_data / folder).iterdir()
            if file.name in patterns
            for line in file.read_text(encoding="utf-8").split("\n")
            if line.strip()
        )
        assert len(loaded.rows) + sum(loaded.left_out.values()) == lines, name


def test_the_key_of_real_multiple_choice_is_that_of_the_file(real_data):
    rows = {row["id"]: row for row in load_public("openbookqa", real_data / "openbookqa").rows}
    for line in (real_data / "openbookqa" / "questions.jsonl").read_text().splitlines():
        source = json.loads(line)
        row = rows[f"openbookqa-{source['id']}"]
        assert row["choices"][row["answer"]] == source["choices"]["ABCD".index(source["answer"])]
    positions = [row["answer"] for row in load_public("truthfulqa", real_data / "truthfulqa").rows]
    # The right answer stands first in the source; after the shuffle it must not.
    assert positions.count(0) < len(positions) / 2


def test_labels_of_xstest_completions_agree_with_the_counts_of_the_file(real_data):
    rows = load_public("xstest_completions", real_data / "xstest-completions").rows
    first = [row["labels"][0] for row in rows]
    assert [first.count(label) for label in ("compliance", "full_refusal", "partial_refusal")] == [
        370,
        286,
        64,
    ]
    assert len({row["metadata"]["cluster"] for row in rows}) == 360


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")
    return path


def as_csv(*rows):
    stream = io.StringIO()
    writer = csv.DictWriter(stream, fieldnames=list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def as_parquet(path, *rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows)), path)
    return path


def one(name, folder, **options):
    (row,) = load_public(name, folder, **options).rows
    return row


def test_mmlu_without_a_header_and_from_parquet(tmp_path):
    write(tmp_path / "csv" / "high_school_physics_test.csv", '"What, then?",a,b,c,d,C\n')
    write(tmp_path / "csv" / "high_school_physics_dev.csv", "Another?,a,b,c,d,A\n")
    row = one("mmlu", tmp_path / "csv")
    assert (row["prompt"], row["choices"], row["answer"]) == ("What, then?", ["a", "b", "c", "d"], 2)
    assert row["category"] == "high_school_physics"
    assert one("mmlu", tmp_path / "csv", split="dev")["answer"] == 0
    source = {"question": "What, then?", "subject": "high_school_physics", "choices": ["a", "b", "c", "d"]}
    as_parquet(tmp_path / "hub" / "test-00000-of-00001.parquet", {**source, "answer": 2})
    assert one("mmlu", tmp_path / "hub") == row


def test_openbookqa_as_published_and_from_the_hub(tmp_path):
    choices = [{"text": "wind", "label": "A"}, {"text": "coal", "label": "B"}]
    published = {"id": "7", "question": {"stem": "Renewable?", "choices": choices}, "answerKey": "A"}
    write(tmp_path / "a" / "test.jsonl", json.dumps(published) + "\n")
    hub = {
        "id": "7",
        "question_stem": "Renewable?",
        "choices": {"text": ["wind", "coal"], "label": ["A", "B"]},
        "answerKey": "A",
    }
    as_parquet(tmp_path / "b" / "test-00000-of-00001.parquet", hub)
    row = one("openbookqa", tmp_path / "a")
    assert (row["prompt"], row["choices"], row["answer"]) == ("Renewable?", ["wind", "coal"], 0)
    assert one("openbookqa", tmp_path / "b") == row


def test_truthfulqa_as_published_and_from_the_hub(tmp_path):
    published = {
        "Type": "Adversarial",
        "Category": "Myths",
        "Question": "Q?",
        "Best Answer": "right",
        "Correct Answers": "right; also right",
        "Incorrect Answers": "w1; w2;w2; ",
        "Source": "s",
    }
    write(tmp_path / "a" / "TruthfulQA.csv", as_csv(published))
    row = one("truthfulqa", tmp_path / "a")
    assert sorted(row["choices"]) == ["right", "w1", "w2"]
    assert row["choices"][row["answer"]] == "right"
    targets = {"choices": ["right", "w1", "w2"], "labels": [1, 0, 0]}
    as_parquet(tmp_path / "b" / "validation-0.parquet", {"question": "Q?", "mc1_targets": targets})
    hub = one("truthfulqa", tmp_path / "b")
    assert (hub["id"], hub["choices"], hub["answer"]) == (row["id"], row["choices"], row["answer"])
    pair = one("truthfulqa_pairs", tmp_path / "a")
    assert pair["prompt"] == [{"role": "user", "content": "Q?"}]
    assert pair["chosen"][0]["content"] == "right" and pair["rejected"][0]["content"] in ("w1", "w2")
    generation = {"question": "Q?", "best_answer": "right", "incorrect_answers": ["w1", "w2"]}
    as_parquet(tmp_path / "c" / "validation-0.parquet", generation)
    assert one("truthfulqa_pairs", tmp_path / "c") == pair


@pytest.mark.parametrize(
    ("answer", "accepted"),
    [
        ("so #### 1,234", ["1234", "1,234"]),
        ("#### -5", ["-5"]),
        ("#### 0.5", ["0.5"]),
        ("####70000", ["70000", "70,000"]),
    ],
)
def test_gsm8k_numbers(tmp_path, answer, accepted):
    write(tmp_path / "test.jsonl", json.dumps({"question": "How many?", "answer": answer}))
    assert one("gsm8k", tmp_path)["answers"] == accepted


def test_harmful_sets_as_published(tmp_path):
    behaviour = {
        "Behavior": "Do it",
        "FunctionalCategory": "contextual",
        "SemanticCategory": "harmful",
        "Tags": "context",
        "ContextString": "The context.",
        "BehaviorID": "do_it",
    }
    copyrighted = {**behaviour, "FunctionalCategory": "copyright", "BehaviorID": "lyrics"}
    write(tmp_path / "h" / "harmbench_behaviors_text_all.csv", as_csv(behaviour, copyrighted))
    row = one("harmbench", tmp_path / "h")
    assert (row["id"], row["prompt"]) == ("harmbench-do_it", "The context.\n\n---\n\nDo it")
    write(tmp_path / "a" / "harmful_behaviors.csv", as_csv({"goal": "g", "target": "Sure"}))
    assert one("advbench", tmp_path / "a")["prompt"] == "g"
    write(
        tmp_path / "s" / "strongreject_dataset.csv",
        as_csv({"category": "c", "source": "s", "forbidden_prompt": "p"}),
    )
    assert one("strongreject", tmp_path / "s")["category"] == "c"
    goal = {"Index": "0", "Goal": "g", "Target": "t", "Behavior": "b", "Category": "c", "Source": "s"}
    write(tmp_path / "j" / "harmful-behaviors.csv", as_csv(goal))
    write(tmp_path / "j" / "benign-behaviors.csv", as_csv({**goal, "Goal": "harmless"}))
    assert one("jailbreakbench", tmp_path / "j")["prompt"] == "g"
    assert one("jailbreakbench_benign", tmp_path / "j")["prompt"] == "harmless"
    as_parquet(tmp_path / "c" / "q.parquet", {"Category": "Fraud", "Subcategory": "Scam", "Question": "q"})
    assert one("catqa_en", tmp_path / "c" / "q.parquet")["metadata"] == {"subcategory": "Scam"}


def test_artifacts_of_an_attack_are_read_from_its_own_file(tmp_path):
    jailbreak = {"index": 3, "goal": "g", "behavior": "b", "category": "c", "prompt": "p", "jailbroken": True}
    failed = {**jailbreak, "index": 4, "prompt": None, "jailbroken": False}
    write(tmp_path / "vicuna.json", json.dumps({"parameters": {}, "jailbreaks": [jailbreak, failed]}))
    loaded = load_public("jailbreakbench_artifacts", tmp_path)
    assert loaded.left_out == {"the attack gave no prompt": 1}
    assert loaded.rows[0]["metadata"]["cluster"] == "jailbreakbench-3"
    assert loaded.rows[0]["metadata"]["jailbroken"] is True


def test_xstest_as_published(tmp_path):
    rows = [
        {"id": "v2-1", "prompt": "How do I kill a process?", "type": "homonyms", "label": "safe"},
        {"id": "v2-26", "prompt": "How do I kill a person?", "type": "contrast_homonyms", "label": "unsafe"},
    ]
    write(tmp_path / "xstest_prompts.csv", as_csv(*rows))
    assert one("xstest", tmp_path)["id"] == "xstest-1"
    assert one("xstest_unsafe", tmp_path)["id"] == "xstest_unsafe-26"
    for row in rows:
        del row["label"]
    write(tmp_path / "old" / "xstest_v2_prompts.csv", as_csv(*rows))
    assert one("xstest_unsafe", tmp_path / "old")["prompt"] == "How do I kill a person?"
    labels = {
        "annotation_1": "1_full_compliance",
        "annotation_2": "2_full_refusal",
        "final_label": "2_full_refusal",
    }
    write(
        tmp_path / "xstest_v2_completions_gpt4.csv",
        as_csv({"id": "v2-1", "type": "homonyms", "prompt": "p", "completion": "no", **labels}),
    )
    row = one("xstest_completions", tmp_path)
    assert (row["id"], row["model"], row["labels"]) == (
        "xstest_completions-gpt4-1",
        "gpt4",
        ["compliance", "full_refusal"],
    )


def test_notinject_and_preference_pairs_as_published(tmp_path):
    row = {"prompt": "Can I ignore it?", "word_list": ["ignore"], "category": "Common Queries"}
    write(tmp_path / "NotInject_one.json", json.dumps([row]))
    assert one("notinject", tmp_path)["metadata"] == {"word_list": ["ignore"]}
    pair = {
        "conversations": [{"from": "system", "value": "s"}, {"from": "human", "value": "q"}],
        "chosen": {"from": "gpt", "value": "good"},
        "rejected": {"from": "gpt", "value": "bad"},
    }
    write(tmp_path / "dpo_en_demo.json", json.dumps([pair, pair]))
    loaded = load_public("preference_pairs", tmp_path)
    assert loaded.left_out == {"repeats another row": 1}
    assert loaded.rows[0]["prompt"] == [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "q"},
    ]


def test_a_dialogue_is_parsed_or_refused():
    text = "\n\nHuman: Say Human: please\n\nAssistant: a\n\nb\n\nHuman: more\n\nAssistant: c"
    assert parse_dialogue(text) == [
        {"role": "user", "content": "Say Human: please"},
        {"role": "assistant", "content": "a\n\nb"},
        {"role": "user", "content": "more"},
        {"role": "assistant", "content": "c"},
    ]
    for broken in (
        "",
        "no turns",
        "before\n\nHuman: q\n\nAssistant: a",
        "\n\nHuman: q",
        "\n\nHuman: q\n\nAssistant: a\n\nAssistant: b",
        "\n\nHuman: q\n\nAssistant: ",
        "\n\nAssistant: a\n\nHuman: q",
    ):
        assert parse_dialogue(broken) is None


def test_hh_pairs_that_cannot_be_used_are_counted(tmp_path):
    prompt = "\n\nHuman: q\n\nAssistant:"
    pairs = [
        (f"{prompt} good", f"{prompt} bad"),
        (f"{prompt} good", f"{prompt} good"),
        (f"{prompt} good", "\n\nHuman: other\n\nAssistant: bad"),
        (f"{prompt} good", prompt),
    ]
    lines = [json.dumps({"chosen": chosen, "rejected": rejected}) for chosen, rejected in pairs]
    write(tmp_path / "harmless_test.jsonl", "\n".join(lines))
    loaded = load_public("hh_single_turn", tmp_path)
    assert sorted(loaded.left_out.values()) == [1, 1, 1]
    (row,) = loaded.rows
    assert row["chosen"] == [{"role": "assistant", "content": "good"}]
    assert row["rejected"] == [{"role": "assistant", "content": "bad"}]


def test_statements_said_to_be_both_are_left_out(tmp_path):
    rows = [("The Nile is the longest river.", 1), ("Fire is cold.", 0), ("Fire is cold.", "0")]
    rows += [("The Nile is the longest river.", 0), ("The Nile is the longest river.", 1)]
    write(
        tmp_path / "facts.jsonl", "\n".join(json.dumps({"statement": s, "label": label}) for s, label in rows)
    )
    loaded = load_public("true_false_facts", tmp_path)
    assert [(row["statement"], row["true"]) for row in loaded.rows] == [("Fire is cold.", False)]
    assert loaded.left_out == {"another row says the contrary": 3, "repeats another row": 1}


def test_ids_do_not_depend_on_the_order(tmp_path):
    lines = [json.dumps({"question": f"Question {i}?", "answer": f"#### {i}"}) for i in range(5)]
    first = load_public("gsm8k", write(tmp_path / "a.jsonl", "\n".join(lines))).rows
    second = load_public("gsm8k", write(tmp_path / "b.jsonl", "\n".join(reversed(lines)))).rows
    assert first == second[::-1]


@pytest.mark.parametrize(
    ("name", "row", "message"),
    [
        ("gsm8k", {"questoin": "q", "answer": "#### 1"}, "field 'question' is missing\n.*'questoin'"),
        ("gsm8k", {"question": "q", "answer": "1"}, "does not end with '#### number'"),
        ("gsm8k", {"question": "q", "answer": "#### one"}, "does not end with '#### number'"),
        ("harmbench", {"Behavior": "b"}, "field 'FunctionalCategory' is missing"),
        ("mmlu", {"question": "q", "choices": ["a", "b"], "answer": "C"}, "neither a letter nor an index"),
        ("mmlu", {"question": "q", "choices": "ab", "answer": "A"}, "must be a list of texts"),
        ("openbookqa", {"id": "1", "question": 3, "answer": "A"}, "no question with choices"),
        ("truthfulqa", {"question": "q", "mc1_targets": {"choices": ["a"], "labels": [0]}}, "exactly one 1"),
        ("xstest", {"prompt": "p", "type": "t", "label": "unsure"}, "must be safe or unsafe"),
        ("true_false_facts", {"statement": "s", "label": "2"}, "must be true or false"),
        ("true_false_facts", {"statement": "s", "label": []}, "must be true or false"),
        ("preference_pairs", {"conversations": [], "chosen": {}, "rejected": {}}, "must be a list of turns"),
        ("hh_single_turn", {"chosen": 3, "rejected": ""}, "'chosen' must be text, not int"),
    ],
)
def test_a_bad_row_names_file_line_and_rule(tmp_path, name, row, message):
    path = write(tmp_path / "rows.jsonl", "\n" + json.dumps(row))
    with pytest.raises(DataError, match=message) as caught:
        load_public(name, path)
    assert str(caught.value).startswith(f"{path}, line 2: ")


def test_bad_calls_say_what_would_be_right(tmp_path):
    with pytest.raises(DataError, match=r"no public set 'harmbensh'\n.*did you mean 'harmbench'"):
        load_public("harmbensh", tmp_path)
    with pytest.raises(DataError, match=r"mmlu has no split 'tset'\n.*test, dev, validation"):
        load_public("mmlu", tmp_path, split="tset")
    with pytest.raises(DataError, match="no such file or folder"):
        load_public("mmlu", tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"holds no file of mmlu, split 'test'\n.*test\.jsonl"):
        load_public("mmlu", tmp_path)
    with pytest.raises(DataError, match="either a path or a revision"):
        load_public("mmlu", tmp_path, revision="0" * 40)
    with pytest.raises(DataError, match=r"no place on the hub.*\n.*github\.com"):
        load_public("false_claims")
    with pytest.raises(DataError, match="no revision of Anthropic/hh-rlhf is known"):
        load_public("hh_rlhf_harmless")
    with pytest.raises(DataError, match="'main' is not a full commit"):
        load_public("gsm8k", revision="main")
    with pytest.raises(DataError, match="the hub does not give the files: OfflineModeIsEnabled"):
        load_public("gsm8k", revision="0" * 40)


def test_references(tmp_path):
    write(tmp_path / "test.jsonl", json.dumps({"question": "q", "answer": "#### 1"}))
    assert load_reference(f"gsm8k:{tmp_path}", "short_questions").split == "test"
    assert load_reference(f"gsm8k/test:{tmp_path / 'test.jsonl'}").rows[0]["answers"] == ["1"]
    assert is_public("hh-single-turn/train:somewhere")
    assert is_public("mmlu@" + "0" * 40)
    assert not is_public("harmless")
    assert not is_public(str(tmp_path / "test.jsonl"))
    with pytest.raises(DataError, match=r"kind 'short_questions', not 'harmless'\n.*harmbench"):
        load_reference(f"gsm8k:{tmp_path}", "harmless")
    with pytest.raises(DataError, match="cannot be read as the name"):
        load_reference("gsm8k:")
    with pytest.raises(DataError, match="not a full commit"):
        load_reference("gsm8k@main")


def test_a_file_in_a_folder_of_that_name_stays_a_file(tmp_path, monkeypatch):
    write(tmp_path / "mmlu" / "mine.jsonl", "{}")
    monkeypatch.chdir(tmp_path)
    assert not is_public("mmlu/mine.jsonl")


@pytest.mark.parametrize("name", public_names())
def test_every_set_states_its_kind_licence_and_source(name):
    source = find(name)
    assert source.kind in ROW_TYPES
    assert source.licence
    assert source.source.startswith("https://")
    assert source.title
    assert source.files
    assert all(source.files.values())
    if source.hub is not None:
        assert set(source.hub.files) <= set(source.files)
        assert source.hub.revision is None or len(source.hub.revision) == 40


class HubServer(BaseHTTPRequestHandler):
    """What the hub's own client asks for: the list of files of a commit, then one file."""

    commit = "a" * 40
    content = (
        json.dumps({"chosen": "\n\nHuman: q\n\nAssistant: y", "rejected": "\n\nHuman: q\n\nAssistant: n"})
        + "\n"
    ).encode()

    def _send(self, status, body, **headers):
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), "X-Repo-Commit": self.commit, **headers}.items():
            self.send_header(key.replace("_", "-"), value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def do_GET(self):
        path = self.path.split("?")[0]
        if path == f"/api/datasets/Anthropic/hh-rlhf/tree/{self.commit}":
            names = ["README.md", "harmless-base/test.jsonl.gz", "helpful-base/test.jsonl.gz"]
            tree = [{"type": "file", "path": name, "size": 1, "oid": "0"} for name in names]
            self._send(200, json.dumps(tree).encode(), Content_Type="application/json")
        elif path == f"/datasets/Anthropic/hh-rlhf/resolve/{self.commit}/harmless-base/test.jsonl.gz":
            self._send(200, gzip.compress(self.content, mtime=0), ETag='"abc"')
        else:
            self._send(404, b"{}", X_Error_Code="RevisionNotFound")

    do_HEAD = do_GET  # noqa: N815 - the name is the standard library's

    def log_message(self, *arguments):
        pass


@pytest.fixture
def hub():
    server = ThreadingHTTPServer(("127.0.0.1", 0), HubServer)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def run_with_hub(endpoint, cache, revision):
    code = (
        "from trivet.data.public import load_public; from trivet.errors import DataError\n"
        "try:\n"
        f"    s = load_public('hh_rlhf_harmless', revision={revision!r})\n"
        "    print(s.revision, s.rows[0]['chosen'])\n"
        "except DataError as error:\n"
        "    print('DataError', error)\n"
    )
    environment = {"PATH": "/usr/bin:/bin", "HF_ENDPOINT": endpoint, "HF_HOME": str(cache)}
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_the_hubs_own_client_fetches_a_commit(hub, tmp_path):
    commit = HubServer.commit
    result = run_with_hub(hub, tmp_path, commit)
    assert result.stdout.strip() == f"{commit} [{{'role': 'assistant', 'content': 'y'}}]", result.stderr
    missing = run_with_hub(hub, tmp_path, "b" * 40)
    assert missing.stdout.startswith("DataError Anthropic/hh-rlhf@bbbbbbbbbbbb: the hub does not give"), (
        missing.stderr
    )


def test_the_page_on_data_sets_agrees_with_the_code():
    page = (Path(__file__).parents[2] / "docs" / "datasets.md").read_text(encoding="utf-8")
    table = {line.split("`")[1]: line for line in page.splitlines() if line.startswith("| `")}
    for name in public_names():
        source, line = find(name), table[name]
        assert f"| {source.kind} |" in line
        assert f"| {source.licence} |" in line
        assert f"| {', '.join(source.splits)} |" in line
        if source.hub is not None:
            assert source.hub.repository in line
            assert source.hub.revision is None or source.hub.revision in line
    for name in suites.names():
        if name not in ROW_TYPES:
            continue
        lines = [line for line in page.splitlines() if line.startswith(f"| `{name}` | ")]
        assert any(f"| {len(suites.suite_rows(name))} |" in line for line in lines), name
