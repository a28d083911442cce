"""The remote engine against endpoints that differ in what they do, and one that breaks."""

import json
import random
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest

from trivet.errors import ConfigError, EndpointError, UnsupportedError
from trivet.models.engine import Request
from trivet.models.operations import Extend, Sampling
from trivet.models.remote import RemoteEngine

WORDS = ["the", "long", "road", "led", "north", "past", "rivers", "and", "hills", "until", "dusk", "fell"]


class Endpoint(ThreadingHTTPServer):
    """A small real HTTP server that speaks the chat-completions protocol.

    ``knows`` lists the settings that it honours, ``refuses`` those that it answers with status 400; all
    others it ignores without a word, as many servers do.
    """

    daemon_threads = True

    def __init__(self, knows=("seed", "top_k", "min_p", "logprobs"), refuses=(), fails_with=None):
        super().__init__(("127.0.0.1", 0), Handler)
        self.knows, self.refuses, self.fails_with = set(knows), set(refuses), fails_with
        self.seen = []
        self.keys = []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass

    def reply(self, status, body):
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self):
        self.reply(200, {"object": "list", "data": [{"id": "tale", "object": "model"}]})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server = self.server
        server.seen.append(body)
        server.keys.append(self.headers.get("Authorization"))
        if server.fails_with:
            return self.reply(server.fails_with, {"error": {"message": "no luck today"}})
        for name in server.refuses & body.keys():
            return self.reply(400, {"error": {"message": f"unknown field {name}"}})
        words = self.words(body)
        if body.get("stream"):
            return self.stream(body, words)
        choice = {"index": 0, "finish_reason": "length"}
        choice["message"] = {"role": "assistant", "content": " ".join(words)}
        if body.get("logprobs") and "logprobs" in server.knows:
            top = [{"token": "the", "logprob": -0.5, "bytes": None}]
            entry = {"token": words[0], "logprob": -0.5, "bytes": None, "top_logprobs": top}
            choice["logprobs"] = {"content": [entry], "refusal": None}
        return self.reply(
            200, {"id": "1", "object": "chat.completion", "created": 1, "model": "tale", "choices": [choice]}
        )

    def words(self, body):
        knows = self.server.knows
        greedy = body["temperature"] == 0
        greedy |= "top_k" in knows and body.get("top_k") == 1
        greedy |= "min_p" in knows and body.get("min_p") == 1.0
        if greedy:
            return (WORDS * 50)[: body["max_tokens"]]
        chooser = random.Random(body.get("seed") if "seed" in knows else None)
        return chooser.choices(WORDS, k=body["max_tokens"])

    def stream(self, body, words):
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        base = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "tale"}
        for word in words:
            choice = {"index": 0, "delta": {"content": word + " "}, "finish_reason": None}
            self.event(base | {"choices": [choice]})
        self.event(base | {"choices": [{"index": 0, "delta": {}, "finish_reason": "length"}]})
        usage = {"prompt_tokens": 9, "completion_tokens": len(words), "total_tokens": 9 + len(words)}
        self.event(base | {"choices": [], "usage": usage})
        self.wfile.write(b"data: [DONE]\n\n")

    def event(self, value):
        self.wfile.write(f"data: {json.dumps(value)}\n\n".encode())


@pytest.fixture
def endpoint():
    made = []

    def build(**settings):
        made.append(Endpoint(**settings))
        return made[-1]

    yield build
    for server in made:
        server.shutdown()
        server.server_close()


@pytest.fixture
def remote():
    made = []

    def build(server, **settings):
        made.append(RemoteEngine(server.url, "tale", **settings))
        return made[-1]

    yield build
    for engine in made:
        engine.close()


def plain(context):
    yield Extend(context.prompt, context.max_tokens, sampling=context.sampling, commit=True)


def make(**settings):
    settings = {"seed": 3, "max_tokens": 6} | settings
    return Request(chat=[{"role": "user", "content": "Tell me a story."}], program=plain, **settings)


def test_an_able_endpoint_is_seen_to_be_able(endpoint, remote):
    able = remote(endpoint()).capabilities
    assert {"temperature", "top_p", "top_k", "min_p"} <= able.sampling
    assert able.top_logprobs == 20
    assert able.seed
    assert able.operations == {"extend", "judge", "commit"}


def test_settings_that_are_ignored_do_not_count(endpoint, remote):
    engine = remote(endpoint(knows=()))
    assert not {"top_k", "min_p"} & engine.capabilities.sampling
    assert not engine.capabilities.seed
    assert engine.capabilities.top_logprobs == 0
    with pytest.raises(UnsupportedError, match="top_k"):
        engine.submit(make(sampling=Sampling(temperature=1.0, top_k=4)))


def test_settings_that_are_refused_do_not_count(endpoint, remote):
    able = remote(endpoint(refuses=("presence_penalty", "tools", "seed"))).capabilities
    assert "presence_penalty" not in able.sampling
    assert "frequency_penalty" in able.sampling
    assert not able.tools
    assert not able.seed


def test_newer_models_take_another_name_for_the_length(endpoint, remote):
    server = endpoint(refuses=("max_tokens",))
    server.RequestHandlerClass = type(
        "Renamed",
        (Handler,),
        {
            "words": lambda self, body: Handler.words(
                self, body | {"max_tokens": body["max_completion_tokens"]}
            )
        },
    )
    assert remote(server).submit(make()).result(10).text.split() == WORDS[:6]


def test_answers_are_streamed_and_counted(endpoint, remote):
    shown = []
    completion = remote(endpoint()).submit(make(on_text=shown.append)).result(10)
    assert completion.text.split() == WORDS[:6]
    assert "".join(shown) == completion.text
    assert len(shown) == 6
    assert (completion.usage.prompt_tokens, completion.usage.completion_tokens) == (9, 6)
    assert completion.stop_reason == "length"


def test_seeds_reach_the_endpoint(endpoint, remote):
    engine = remote(endpoint())
    hot = Sampling(temperature=1.0)
    first, again, other = (
        engine.submit(make(sampling=hot, seed=seed, max_tokens=20)).result(10).text for seed in (1, 1, 2)
    )
    assert first == again != other


def test_an_unreachable_endpoint_says_what_to_do():
    with pytest.raises(EndpointError, match=r"cannot be reached[\s\S]*check the address"):
        RemoteEngine("http://127.0.0.1:9/v1", "tale", timeout=2)


def test_an_unknown_model_names_the_nearest(endpoint):
    with pytest.raises(EndpointError, match=r"no model 'tail'[\s\S]*'tale'"):
        RemoteEngine(endpoint().url, "tail")


def test_a_failing_endpoint_gives_its_message(endpoint):
    with pytest.raises(EndpointError, match=r"403: [\s\S]*no luck today[\s\S]*api_key_env"):
        RemoteEngine(endpoint(fails_with=403).url, "tale")


def test_keys_go_only_where_they_are_named(endpoint, remote, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-private")
    server = endpoint()
    remote(server)
    assert not any("sk-private" in (key or "") for key in server.keys)
    monkeypatch.setenv("TALE_KEY", "sk-tale")
    named = endpoint()
    remote(named, api_key_env="TALE_KEY")
    assert set(named.keys) == {"Bearer sk-tale"}
    with pytest.raises(ConfigError, match="NO_SUCH_KEY"):
        RemoteEngine(named.url, "tale", api_key_env="NO_SUCH_KEY")


def test_identity_and_description_hold_no_key(endpoint, remote, monkeypatch):
    monkeypatch.setenv("TALE_KEY", "sk-tale")
    server = endpoint()
    engine = remote(server, api_key_env="TALE_KEY")
    assert "sk-tale" not in json.dumps(engine.description)
    assert engine.identity == remote(server).identity


@pytest.mark.model
def test_a_real_server_is_probed_and_used(embedded_model, monkeypatch, remote_server):
    """llama.cpp's own OpenAI-compatible server, with an API key, on the embedded model."""
    url, name, key = remote_server
    monkeypatch.setenv("LLAMA_KEY", key)
    engine = RemoteEngine(url, name, api_key_env="LLAMA_KEY")
    able = engine.capabilities
    print(f"probed: {engine.description['probe']}")
    assert {"temperature", "top_p", "top_k"} <= able.sampling
    assert able.seed
    completion = engine.submit(make(max_tokens=12)).result(60)
    assert len(completion.text) > 10
    assert completion.usage.completion_tokens == 12
    hot = Sampling(temperature=1.0, top_k=50)
    texts = [
        engine.submit(make(sampling=hot, seed=seed, max_tokens=12)).result(60).text for seed in (1, 1, 2)
    ]
    engine.close()
    assert texts[0] == texts[1] != texts[2]
    monkeypatch.setenv("LLAMA_KEY", "wrong")
    with pytest.raises(EndpointError, match="401"):
        RemoteEngine(url, name, api_key_env="LLAMA_KEY").submit(make()).result(60)


@pytest.fixture
def remote_server():
    import xllamacpp

    from trivet.models import embedded

    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(embedded.gguf_path())
    parameters.n_ctx, parameters.n_parallel, parameters.warmup = 2048, 2, False
    parameters.verbosity, parameters.ui = -1, False
    parameters.api_keys = ["sk-test"]
    server = xllamacpp.Server(parameters)
    with httpx.Client(headers={"Authorization": "Bearer sk-test"}, trust_env=False) as client:
        name = client.get(server.listening_address + "/v1/models").json()["data"][0]["id"]
    yield server.listening_address + "/v1", name, "sk-test"
    del server
