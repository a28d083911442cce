"""What every registered method must keep, whoever wrote it."""

import ast
import copy
import inspect
import json
import pickle
from collections.abc import Sequence
from typing import Any, get_args

import pytest
from pydantic import ValidationError

from trivet._validation import validate
from trivet.catalogue import Method, find, names
from trivet.catalogue.describe import first_sentence, settings
from trivet.catalogue.papers import paper_of, papers
from trivet.catalogue.registry import PORTS, ROOMS, source_file
from trivet.errors import ConfigError
from trivet.judges import Verdict, unscored
from trivet.models.engine import Completion, Engine, HookName, OperationName, Request
from trivet.models.operations import Chat, Sampling

EXAMPLES: dict[str, Any] = {"judge": "refusal", "dataset": "prompts.jsonl", "weight": 1.0, "t": 0.5}
EXAMPLES |= {"model": "a-model", "data": "rows.jsonl"}
EXAMPLES |= {"base": "a-model", "tuned": {"kind": "another-model"}}
EXAMPLES |= {"objectives": [{"type": "judge", "judge": "refusal"}]}
EXAMPLES |= {
    "weights": [0.5, 0.5],
    "margins": {"short": {"length": "tokens"}},
    "pairs": {"other": "rows.jsonl"},
    "rewards": {"first": "refusal", "second": "refusal_string_match"},
    "reward": "refusal",
    "cost": "refusal",
    "limit": 0.3,
    "safety": 10,
}
"""Values for keys that have no default, by the key's name."""

SMALL: dict[str, Any] = {
    "train/high_confidence_rlhf": {"held_out": 5},
    "decode/deal": {"candidates": 3, "lookahead": 2, "heuristic_weight": 5.0},
    # The judge of this suite scores by length: 40 characters are as good as it gets.
    "decode/rain": {"searches": 8, "least_searches": 4, "min_visits": 2, "judge_high": 40.0},
}
"""Settings for a search that takes no longer than the other methods, and what one key of several needs."""

DETERMINISTIC = {"decode/deal"}
"""They search and do not draw: temperature and seed play no part."""

ALL = names()
DECODE = names("decode")


def config_of(method: Method, **changes: Any) -> Any:
    """The method's configuration with its defaults."""
    needed = {entry.name: EXAMPLES[entry.name] for entry in settings(method) if entry.required}
    return validate(method.config, {**needed, **SMALL.get(method.name, {}), **changes}, where=method.name)


@pytest.fixture(params=ALL)
def method(request) -> Method:
    return find(request.param)


def test_there_are_methods():
    assert {"decode/sampling", "decode/best_of_n", "evaluate/helpful"} <= set(ALL)


def test_metadata(method):
    assert method.name in ALL
    assert method.room == method.name.split("/")[0] and method.room in ROOMS
    assert method.version >= 1
    assert {*method.takes, *method.gives} <= PORTS
    assert method.gives, "a method gives something"
    known = {*get_args(OperationName), *get_args(HookName)}
    assert set(method.needs) <= known
    assert method.function.__module__ == method.module
    assert method.function.__doc__


def test_the_docstring_teaches_the_method_and_names_its_source(method):
    document = ast.get_docstring(ast.parse(source_file(method.name).read_text(encoding="utf-8"))) or ""
    assert len(document) > 200
    assert first_sentence(method.name)
    assert "cost" in document.lower(), "what it costs"
    if method.paper is not None:
        assert paper_of(method.paper) is not None, "its paper is in papers.yaml"
        assert method.paper in document, "the docstring names the arXiv id"


def test_a_paper_that_lists_the_method_is_the_methods_paper(method):
    listed = [paper.arxiv for paper in papers() if method.name in paper.methods]
    assert listed in ([], [method.paper])


def test_the_config_has_documented_bounded_keys(method):
    assert method.config.__doc__
    for entry in settings(method):
        assert entry.description, f"{entry.name}: say what it means"
        json.dumps(entry.default)
        numeric = {"int", "float", "int | None", "float | None"}
        if entry.type in numeric and entry.name != "seed":
            assert entry.bounds, f"{entry.name}: a number has bounds"


def test_the_config_is_frozen_and_survives_pickling_and_json(method):
    config = config_of(method)
    for name in method.config.model_fields:
        with pytest.raises(ValidationError):
            setattr(config, name, getattr(config, name))
    assert pickle.loads(pickle.dumps(config)) == config  # noqa: S301 - our own bytes
    assert method.config.model_validate_json(config.model_dump_json()) == config


def test_an_unknown_key_is_refused_by_name(method):
    with pytest.raises(ConfigError) as raised:
        config_of(method, no_such_key_at_all=1)
    assert "no_such_key_at_all" in str(raised.value)
    for name in list(method.config.model_fields)[:1]:
        with pytest.raises(ConfigError) as raised:
            config_of(method, **{f"{name}x": 1})
        assert f"did you mean '{name}'" in str(raised.value)


def test_the_function_takes_its_config_first(method):
    parameters = list(inspect.signature(method.function).parameters)
    assert parameters[0] == "config"
    if method.room == "decode":
        assert parameters[1] == "context"


# Decoding methods, driven on a tiny random model


class LengthJudge:
    """Prefers longer answers; an empty one cannot be scored."""

    name = objective = "length"

    def score(self, chats: Sequence[Chat]) -> list[Verdict]:
        answers = [str(chat[-1]["content"]) for chat in chats]
        return [Verdict(float(len(answer))) if answer else unscored("empty") for answer in answers]


class BlindJudge:
    """Can score nothing."""

    name = objective = "blind"

    def score(self, chats: Sequence[Chat]) -> list[Verdict]:
        return [unscored("blind") for _ in chats]


CHATS: list[Chat] = [
    [{"role": "user", "content": text}]
    for text in ("What is the capital of France?", "Say yes.", "system user assistant 0123", "")
]


@pytest.fixture(scope="module")
def engine(tiny_model_folder, tiny_model) -> Engine:
    from trivet.models.engines import get_engine

    beside = {"base": str(tiny_model(seed=1)), "tuned.kind": str(tiny_model(seed=2))}  # of EXAMPLES
    return get_engine(str(tiny_model_folder), deterministic=True, auxiliary=beside)


@pytest.fixture(params=DECODE)
def decoder(request) -> Method:
    return find(request.param)


def request_of(decoder: Method, chat: Chat, *, judge: Any = None, **changes: Any) -> Request:
    config = config_of(decoder)
    keywords = [
        parameter.name
        for parameter in inspect.signature(decoder.function).parameters.values()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    ]
    assert set(keywords) <= {"judge"}, "teach this suite what else a method is given"
    keywords += getattr(config, "judge_specs", {})
    resolved = {name: judge or LengthJudge() for name in keywords}
    values = {"seed": 5, "max_tokens": 12, "sampling": Sampling(temperature=1.0), **changes}
    return Request(chat=chat, program=lambda context: decoder.function(config, context, **resolved), **values)


def run(engine: Engine, *requests: Request) -> list[Completion]:
    return [handle.result(60) for handle in [engine.submit(request) for request in requests]]


def tokens(completions: list[Completion]) -> list[tuple[int, ...]]:
    return [completion.continuation.tokens for completion in completions]


def test_the_same_seed_gives_the_same_answer_and_another_seed_another(engine, decoder):
    requests = [request_of(decoder, chat) for chat in CHATS[:3]]
    first = tokens(run(engine, *requests))
    assert tokens(run(engine, *requests)) == first
    other = tokens(run(engine, *[request_of(decoder, chat, seed=6) for chat in CHATS[:3]]))
    assert (other == first) == (decoder.name in DETERMINISTIC)


def test_an_answer_does_not_depend_on_the_batch(engine, decoder):
    requests = [request_of(decoder, chat, max_tokens=5 + index) for index, chat in enumerate(CHATS[:3])]
    together = tokens(run(engine, *requests))
    alone = [tokens(run(engine, request))[0] for request in requests]
    turned = tokens(run(engine, *reversed(requests)))[::-1]
    assert together == alone == turned


@pytest.mark.parametrize("length", [1, 2])
def test_short_limits_are_kept(engine, decoder, length):
    for completion in run(engine, *[request_of(decoder, chat, max_tokens=length) for chat in CHATS[:3]]):
        assert len(completion.continuation.tokens) <= length
        assert completion.stop_reason in {"stop", "length"}


def test_an_empty_candidate_is_an_answer(engine, decoder):
    end = 2  # the tiny model's end-of-sequence token
    sampling = Sampling(temperature=1.0, logit_bias=((end, 100.0),))
    # A judge that scores nothing: one that scores all but empty answers would keep a search from ending here.
    (completion,) = run(engine, request_of(decoder, CHATS[0], sampling=sampling, judge=BlindJudge()))
    assert (completion.text, completion.continuation.tokens, completion.stop_reason) == ("", (), "stop")


def test_an_empty_prompt_is_answered(engine, decoder):
    (completion,) = run(engine, request_of(decoder, CHATS[3]))
    assert completion.stop_reason in {"stop", "length"}


def test_a_judge_that_can_score_nothing_still_gives_an_answer(engine, decoder):
    (completion,) = run(engine, request_of(decoder, CHATS[0], judge=BlindJudge()))
    assert completion.stop_reason in {"stop", "length"}


def test_the_costs_are_counted_and_the_trace_is_plain(engine, decoder):
    (completion,) = run(engine, request_of(decoder, CHATS[0]))
    usage = completion.usage
    assert usage.completion_tokens >= len(completion.continuation.tokens)
    assert usage.forward_tokens + usage.cached_tokens > 0
    assert (usage.judge_calls > 0) == ("judge" in decoder.needs)
    json.dumps(completion.trace, allow_nan=False)


def test_the_request_is_not_changed(engine, decoder):
    chat = [{"role": "system", "content": "Be kind."}, *CHATS[0]]
    before = copy.deepcopy(chat)
    run(engine, request_of(decoder, chat))
    assert chat == before


def test_it_asks_for_no_more_than_it_says(decoder):
    """The operations that the source names are those in ``needs``."""
    source = source_file(decoder.name).read_text(encoding="utf-8")
    called = {node.func.id for node in ast.walk(ast.parse(source)) if _is_call(node)}
    operations = {"Extend": "extend", "Score": "score", "Next": "next", "Hidden": "hidden", "Judge": "judge"}
    operations |= {"Several": "several", "Commit": "commit"}
    used = {name for operation, name in operations.items() if operation in called}
    assert used <= {need.removesuffix("_prefix") for need in decoder.needs}


def _is_call(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
