"""Programs driven by worker threads over a small deterministic back end."""

import threading
import time
from concurrent.futures import CancelledError

import pytest

from trivet.errors import EngineError, QueueFullError, UnsupportedError
from trivet.models.engine import Capabilities, GateDecision, Hooks, Request
from trivet.models.operations import Commit, Continuation, Extend, Judge, Score, Several
from trivet.models.threaded import ThreadedScheduler

ABLE = Capabilities(
    operations=frozenset({"extend", "judge", "commit"}),
    hooks=frozenset({"gate"}),
    sampling=frozenset({"temperature"}),
)


class Letters:
    """Answers with the letters a, b, c, … up to ``max_tokens``, one at a time."""

    def __init__(self, delay=0.0, fail=False):
        self.delay, self.fail = delay, fail
        self.running = 0
        self.seeds = []

    def prompt(self, request):
        return (7,)

    def encode(self, text):
        return tuple(map(ord, text))

    def decode(self, tokens):
        return "".join(map(chr, tokens))

    def render(self, chat, tools=()):
        return (7,)

    def extend(self, request, operation, seeds, cancelled, on_text, usage):
        self.seeds.extend(seeds)
        if self.fail:
            raise EngineError("the back end broke")
        self.running += 1
        text = ""
        for index in range(operation.max_tokens):
            if cancelled():
                break
            time.sleep(self.delay)
            text += chr(ord("a") + index % 26)
            on_text(text[-1])
        self.running -= 1
        usage.forward_tokens += len(text) * len(seeds)
        return [Continuation((), text, (), "length") for _ in seeds]


class LengthJudge:
    def score(self, chats):
        return [len(chat[-1]["content"]) for chat in chats]


def plain(context):
    yield Extend(context.prompt, context.max_tokens, commit=True)


def make(program, **settings):
    settings = {"seed": 0, "max_tokens": 5} | settings
    return Request(chat=[{"role": "user", "content": "?"}], program=program, **settings)


@pytest.fixture
def scheduler():
    made = []

    def build(backend, **settings):
        made.append(ThreadedScheduler(backend, ABLE, **({"workers": 2} | settings)))
        return made[-1]

    yield build
    for one in made:
        one.close()


def test_streams_what_it_commits(scheduler):
    shown = []
    completion = scheduler(Letters()).submit(make(plain, on_text=shown.append)).result(5)
    assert completion.text == "abcde"
    assert shown == list("abcde")
    assert completion.stop_reason == "length"
    assert completion.usage.forward_tokens == 5


def test_a_program_may_judge_and_choose(scheduler):
    def program(context):
        short = (yield Extend(context.prompt, 2))[0]
        long = (yield Extend(context.prompt, 4))[0]
        chats = tuple([{"role": "assistant", "content": one.text}] for one in (short, long))
        scores = yield Judge(LengthJudge(), chats)
        yield Commit(max(zip(scores, (short, long)), key=lambda pair: pair[0])[1])

    completion = scheduler(Letters()).submit(make(program)).result(5)
    assert completion.text == "abcd"
    assert completion.usage.judge_calls == 2


def test_seeds_come_from_the_request_alone(scheduler):
    def two(context):
        yield Extend(context.prompt, 1, n=2)

    first, second = Letters(), Letters()
    scheduler(first).submit(make(two, seed=5)).result(5)
    busy = scheduler(second)
    busy.submit(make(two, seed=1)).result(5)
    busy.submit(make(two, seed=5)).result(5)
    assert first.seeds == second.seeds[2:]
    assert len(set(first.seeds)) == 2


def test_refused_operations_say_what_to_do(scheduler):
    def scores(context):
        yield Score(context.prompt, ((1,),))

    def elsewhere(context):
        yield Extend((1, 2, 3), 4)

    def together(context):
        yield Several((Extend(context.prompt, 3), Extend(context.prompt, 3)))

    engine = scheduler(Letters())
    for program in (scores, elsewhere, together):
        with pytest.raises(UnsupportedError, match="PyTorch"):
            engine.submit(make(program)).result(5)


def test_a_failing_back_end_fails_only_that_request(scheduler):
    backend = Letters(fail=True)
    engine = scheduler(backend)
    with pytest.raises(EngineError, match="broke"):
        engine.submit(make(plain)).result(5)
    backend.fail = False
    assert engine.submit(make(plain)).result(5).text == "abcde"


def test_a_program_can_recover_from_a_failing_operation(scheduler):
    def stubborn(context):
        try:
            yield Extend(context.prompt, 3)
        except EngineError:
            yield Commit(Continuation((), "sorry", (), "stop"))

    assert scheduler(Letters(fail=True)).submit(make(stubborn)).result(5).text == "sorry"


def test_cancelling_frees_the_worker(scheduler):
    backend = Letters(delay=0.01)
    engine = scheduler(backend, workers=1)
    handle = engine.submit(make(plain, max_tokens=10_000))
    while not backend.running:
        time.sleep(0.005)
    handle.cancel()
    with pytest.raises(CancelledError):
        handle.result(5)
    assert engine.submit(make(plain)).result(5).text == "abcde"


def test_a_full_queue_refuses(scheduler):
    engine = scheduler(Letters(delay=0.05), workers=1, queue_size=1)
    handles = [engine.submit(make(plain)) for _ in range(2)]
    with pytest.raises(QueueFullError):
        engine.submit(make(plain))
    for handle in handles:
        handle.result(5)
    assert engine.submit(make(plain)).result(5).text == "abcde"


def test_a_gate_ends_the_answer_early(scheduler):
    def gate(chat, text, final):
        return GateDecision(release=len(text), stop="c" in text, replacement="!")

    backend = Letters(delay=0.001)
    completion = scheduler(backend).submit(make(plain, max_tokens=500, hooks=Hooks(gates=(gate,)))).result(5)
    assert completion.text == "abc!"
    assert completion.stop_reason == "blocked"
    assert completion.usage.forward_tokens < 500


def test_the_callback_comes_once_from_any_thread(scheduler):
    done = threading.Event()
    handle = scheduler(Letters()).submit(make(plain))
    handle.add_done_callback(lambda finished: done.set())
    assert done.wait(5)
    assert handle.done()


def test_a_closed_engine_refuses(scheduler):
    engine = scheduler(Letters())
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine.submit(make(plain))


def test_no_tokens_asked_for_gives_none(scheduler):
    answer = scheduler(Letters()).submit(make(plain, max_tokens=0)).result(5)
    assert (answer.text, answer.stop_reason) == ("", "length")
