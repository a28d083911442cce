"""Transcripts on disk and on their way into the page."""

import base64
import gzip
import json

import pytest
from inspect_ai.log import EvalConfig, EvalDataset, EvalLog, EvalSample, EvalSpec
from inspect_ai.model import ModelOutput

from trivet.errors import StoreError
from trivet.study.measurements import Measurement
from trivet.study.report import Transcript, packing, read_transcripts, transcripts_of, write_transcripts
from trivet.study.report.packing import COMPRESS_ABOVE, group, pack

HOSTILE = "</script><!--<img src=x onerror=alert(1)>\u2028\x00\x1b[2J\u202e\ud800&amp;"


def answer(**changes: object) -> Transcript:
    values = {
        "system": "base",
        "evaluation": "harmless",
        "component": "harmless",
        "sample_id": "a",
        "epoch": 1,
        "prompt": "p",
        "answer": "x",
    }
    return Transcript(**{**values, **changes})


def test_a_round_trip_keeps_every_character(tmp_path):
    rows = [answer(answer=HOSTILE, value=0.5, label="idk", tokens=3), answer(value=None, reason="no judge")]
    path = tmp_path / "transcripts.jsonl"
    assert write_transcripts(path, iter(rows)) == 2
    assert list(read_transcripts(path)) == rows


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ("[1]", "is not an answer"),
        ('{"system": "a"}', "is not an answer"),
        (json.dumps({**dict.fromkeys(("system", "evaluation", "component"), ""), "extra": 1}), "answer"),
    ],
)
def test_a_bad_line_is_named(tmp_path, content, message):
    path = tmp_path / "transcripts.jsonl"
    path.write_text(content + "\n")
    with pytest.raises(StoreError, match=message) as raised:
        list(read_transcripts(path))
    assert f"{path}: line 1" in str(raised.value)


def sample_of(metadata: object, stop_reason: str = "stop") -> EvalLog:
    output = ModelOutput.from_content("m", "shown", stop_reason=stop_reason)
    output.metadata = metadata
    sample = EvalSample(id="a", epoch=1, input="p", target="", output=output)
    spec = EvalSpec(
        created="2026-01-31T12:00:00+00:00", task="t", dataset=EvalDataset(), model="m", config=EvalConfig()
    )
    return EvalLog(eval=spec, samples=[sample])


@pytest.mark.parametrize("trace", [None, "text", [1, "a"], {"method": "x"}, 3])
def test_a_log_without_notes_has_no_trace(trace):
    measurement = Measurement("s", "e", "e", "a", 1, "a", 1.0)
    [row] = transcripts_of(sample_of({"trace": trace}), [measurement])
    assert row.trace is None


def test_the_trace_comes_out_of_the_log_but_not_for_a_blocked_answer(tmp_path):
    note = {"method": "best_of_n", "chosen": 0, "candidates": [{"text": "secret", "score": float("nan")}]}
    measurement = Measurement("s", "e", "e", "a", 1, "a", 1.0)
    [row] = transcripts_of(sample_of({"trace": [note]}), [measurement])
    assert row.trace == [{**note, "candidates": [{"text": "secret", "score": None}]}]
    path = tmp_path / "transcripts.jsonl"
    write_transcripts(path, [row])
    assert list(read_transcripts(path)) == [row]
    [blocked] = transcripts_of(sample_of({"trace": [note]}, "content_filter"), [measurement])
    assert blocked.trace is None


def test_traces_beyond_the_pages_room_are_left_out(monkeypatch):
    monkeypatch.setattr(packing, "TRACES", 100)
    note = {"method": "m", "note": "x" * 40}
    data = group([answer(trace=[note]), answer(epoch=2, trace=[note]), answer(epoch=3)], ["base"])
    traces = [row[data["keys"].index("trace")] for row in data["groups"][0]["answers"]]
    assert traces == [[["m", None, [["note", "x" * 40]], False, []]], [], None]


def test_grouped_by_prompt_with_systems_in_the_studys_order():
    rows = [
        answer(system="b", answer="2"),
        answer(system="a", answer="1", label="idk"),
        answer(system="a", sample_id="z", component="other"),
    ]
    data = group(rows, ["a", "b"])
    assert data["systems"] == ["a", "b"]
    assert [entry["id"] for entry in data["groups"]] == ["a", "z"]
    answers = [dict(zip(data["keys"], row, strict=True)) for row in data["groups"][0]["answers"]]
    assert [(row["system"], row["answer"]) for row in answers] == [(0, "1"), (1, "2")]
    assert data["labels"][answers[0]["label"]] == "idk"


def test_packed_json_can_neither_end_its_element_nor_lose_a_character():
    data = group([answer(answer=HOSTILE, prompt=HOSTILE)], ["base"])
    text = str(pack(data))
    assert not set("<>&\u2028\u2029\x00\x1b") & set(text)
    assert json.loads(text) == data
    text.encode("utf-8")


def test_large_data_is_compressed_and_the_same_each_time():
    data = group([answer(sample_id=str(number), answer="word " * 50) for number in range(2000)], ["base"])
    text = str(pack(data))
    assert len(text) < COMPRESS_ABOVE
    assert text == str(pack(data))
    assert json.loads(gzip.decompress(base64.b64decode(json.loads(text)["gzip"]))) == data
