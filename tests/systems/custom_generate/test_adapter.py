"""Decoding methods through ``model.generate(custom_generate=…)``, against transformers and systems."""

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from trivet.errors import ConfigError, ContextLengthError, EngineError, ModelError, UnsupportedError
from trivet.models.engines import close_engines
from trivet.systems import System
from trivet.systems.custom_generate import CustomGenerate, CustomGenerateOutput

TEXTS = ("What is the capital of France?", "Hello", "The trivet stands on three legs", "Take one away")
CHATS = [[{"role": "user", "content": text}] for text in TEXTS]
JUDGE = "refusal_string_match"
KEYWORDS = {"type": "keywords", "concepts": ["dog"]}
GREEDY = {
    "sampling": {"method": "sampling"},
    "deal": {"method": "deal", "candidates": 1, "objectives": [KEYWORDS]},
    "rain": {"method": "rain", "candidates": 1, "searches": 2, "least_searches": 1, "judge": JUDGE},
    "eft": {"method": "eft", "base": "other", "tuned": {"kind": "same as other"}},
}
METHODS = {
    "sampling": {"method": "sampling"},
    "best_of_n": {"method": "best_of_n", "n": 3, "judge": JUDGE},
    "soft_best_of_n": {"method": "soft_best_of_n", "n": 3, "judge": JUDGE},
    "deal": {"method": "deal", "candidates": 3, "lookahead": 4, "objectives": [KEYWORDS]},
    "rain": {"method": "rain", "searches": 4, "least_searches": 2, "candidates": 4, "judge": JUDGE},
}


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    close_engines()


@pytest.fixture
def model(tiny_model_folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(tiny_model_folder)


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> tuple[Path, Path]:
    """Two models near the tiny one."""
    found = []
    for seed in (1, 2):
        model = AutoModelForCausalLM.from_pretrained(tiny_model_folder)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
        found.append(Path(shutil.copytree(tiny_model_folder, tmp_path_factory.mktemp("eft") / str(seed))))
        model.save_pretrained(found[-1])
    return found[0], found[1]


def encoded(tokenizer: Any, texts: Any = TEXTS) -> dict[str, torch.Tensor]:
    return dict(tokenizer(list(texts), return_tensors="pt", padding=True, return_token_type_ids=False))


def rendered(tokenizer: Any, chat: Any) -> dict[str, torch.Tensor]:
    return dict(
        tokenizer.apply_chat_template(
            chat, add_generation_prompt=True, return_tensors="pt", return_dict=True, padding=True
        )
    )


def frequent_eos(model: Any, inputs: Any, count: int = 24) -> list[int]:
    """Two tokens that greedy answers meet early, for answers of several lengths."""
    answers = model.generate(**inputs, max_new_tokens=count, do_sample=False)[
        :, inputs["input_ids"].shape[1] :
    ]
    return [int(answers[0, 6]), int(answers[1, 11])]


@pytest.mark.parametrize("name", GREEDY)
def test_greedy_answers_are_those_of_transformers(
    name: str, model: Any, tokenizer: Any, others: tuple[Path, Path]
) -> None:
    inputs = encoded(tokenizer)
    eos = frequent_eos(model, inputs)
    options = {"max_new_tokens": 24, "do_sample": False, "eos_token_id": eos, "pad_token_id": 3}
    other = AutoModelForCausalLM.from_pretrained(others[0])
    beside = {"other": other, "same as other": other} if name == "eft" else {}
    method = CustomGenerate(GREEDY[name], tokenizer=tokenizer, models=beside)
    expected = model.generate(**inputs, **options)
    answers = model.generate(**inputs, **options, custom_generate=method)
    assert answers.dtype == torch.int64
    assert torch.equal(answers, expected)
    added = answers[:, inputs["input_ids"].shape[1] :]
    assert {token for token in eos if (added == token).any()} == set(eos), "each row ends with its own token"
    assert (added == 3).any(), "and the shorter ones are filled up"


@pytest.mark.parametrize("sampled", [False, True])
@pytest.mark.parametrize("name", METHODS)
def test_a_method_answers_as_in_a_system(
    name: str, sampled: bool, model: Any, tokenizer: Any, tiny_model_folder: Path
) -> None:
    settings = {"temperature": 0.8, "top_k": 40, "top_p": 0.95} if sampled else {}
    system = System.load(
        {"model": str(tiny_model_folder), "decode": METHODS[name], "sampling": settings, "max_tokens": 12}
    )
    method = CustomGenerate(METHODS[name], tokenizer=tokenizer)
    output = model.generate(
        **rendered(tokenizer, CHATS),
        custom_generate=method,
        chats=CHATS,
        seed=[5, 3, 4, 9],
        max_new_tokens=12,
        return_dict_in_generate=True,
        **({"do_sample": True} | settings if sampled else {"do_sample": False}),
    )
    assert isinstance(output, CustomGenerateOutput)
    assert output.completions is not None
    for chat, seed, completion in zip(CHATS, [5, 3, 4, 9], output.completions, strict=True):
        answer = system.answer_sync(chat, seed=seed)
        assert completion.text == answer.text
        assert completion.usage.completion_tokens == answer.usage.completion_tokens
        chosen = [note.get("chosen") for note in answer.trace]
        assert [note.get("chosen") for note in completion.trace] == chosen
        if name != "sampling":
            assert completion.trace[0]["method"] == name


def test_emulated_fine_tuning_answers_as_in_a_system(
    model: Any, tokenizer: Any, tiny_model_folder: Path, others: tuple[Path, Path]
) -> None:
    base, tuned = map(str, others)
    settings = {"method": "eft", "base": base, "tuned": {"kind": tuned}, "draft_tokens": 3}
    sampling = {"temperature": 0.9}
    system = System.load(
        {"model": str(tiny_model_folder), "decode": settings, "sampling": sampling, "max_tokens": 16}
    )
    names = settings | {"base": "b", "tuned": {"kind": "t"}}
    memory = {
        "b": AutoModelForCausalLM.from_pretrained(base).train(),
        "t": (AutoModelForCausalLM.from_pretrained(tuned), AutoTokenizer.from_pretrained(tuned)),
    }
    disk = CustomGenerate(settings, tokenizer=tokenizer)
    in_memory = CustomGenerate(names, tokenizer=tokenizer, models=memory)
    expected = [system.answer_sync(chat, seed=index).text for index, chat in enumerate(CHATS)]
    for method in (disk, disk, in_memory):
        output = model.generate(
            **rendered(tokenizer, CHATS),
            custom_generate=method,
            chats=CHATS,
            max_new_tokens=16,
            do_sample=True,
            top_k=0,
            return_dict_in_generate=True,
            **sampling,
        )
        assert [completion.text for completion in output.completions] == expected
        assert output.completions[0].trace[0]["passes"]["base"] > 0
    assert memory["b"].training, "a model beside is given back as well"
    assert memory["b"].config._attn_implementation == "sdpa"


def test_a_model_that_is_its_own_base_is_run_once(
    model: Any, tokenizer: Any, others: tuple[Path, Path]
) -> None:
    tuned = AutoModelForCausalLM.from_pretrained(others[0])
    settings = {"method": "eft", "base": "large", "tuned": {"kind": "tuned"}}
    method = CustomGenerate(settings, tokenizer=tokenizer, models={"large": model, "tuned": tuned})
    inputs = encoded(tokenizer)
    options = {"max_new_tokens": 12, "do_sample": False}
    output = model.generate(**inputs, **options, custom_generate=method, return_dict_in_generate=True)
    assert torch.equal(output.sequences, tuned.generate(**inputs, **options))
    assert set(output.completions[0].trace[0]["passes"]) == {"tuned.kind"}, "the terms of the others cancel"


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_the_model_is_given_back_as_it_was(attention: str, tiny_model_folder: Path, tokenizer: Any) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model_folder, attn_implementation=attention)
    model.train()
    model.model.layers[0].eval()
    model.model.embed_tokens.weight.requires_grad_(False)
    seen = []
    hook = model.lm_head.register_forward_hook(lambda module, inputs, output: seen.append(output.shape))
    inputs = encoded(tokenizer)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    plain = model.generate(**inputs, max_new_tokens=12, do_sample=False)
    modes = [module.training for module in model.modules()]
    kinds = [type(module) for module in model.modules()]
    grads = [parameter.requires_grad for parameter in model.parameters()]
    counted = len(seen)

    def check() -> None:
        assert [module.training for module in model.modules()] == modes
        assert [type(module) for module in model.modules()] == kinds
        assert [parameter.requires_grad for parameter in model.parameters()] == grads
        assert {
            module.config._attn_implementation for module in model.modules() if hasattr(module, "config")
        } == {attention}
        assert list(before) == list(model.state_dict())
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
        assert torch.equal(model.generate(**inputs, max_new_tokens=12, do_sample=False), plain)

    method = CustomGenerate(METHODS["deal"], tokenizer=tokenizer)
    model.generate(**inputs, max_new_tokens=12, do_sample=False, custom_generate=method)
    assert len(seen) > counted, "the caller's own hooks stay in force"
    check()

    def broken(input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        raise ZeroDivisionError("a processor of the caller's")

    with pytest.raises(ZeroDivisionError, match="of the caller's"):
        model.generate(
            **inputs, max_new_tokens=12, do_sample=False, custom_generate=method, logits_processor=[broken]
        )
    check()
    hook.remove()
    assert not [thread for thread in threading.enumerate() if thread.name == "trivet-engine"]


def test_weights_may_change_between_two_calls(model: Any, tokenizer: Any) -> None:
    method = CustomGenerate("sampling", tokenizer=tokenizer)
    inputs, options = encoded(tokenizer), {"max_new_tokens": 12, "do_sample": False}
    before = model.generate(**inputs, **options, custom_generate=method)
    model.train()
    loss = model(**inputs, labels=inputs["input_ids"]).loss
    loss.backward()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter -= 0.5 * parameter.grad
    model.eval()
    after = model.generate(**inputs, **options, custom_generate=method)
    assert torch.equal(after, model.generate(**inputs, **options))
    assert not torch.equal(after, before)


def test_an_answer_does_not_depend_on_the_batch(model: Any, tokenizer: Any) -> None:
    for settings in METHODS.values():
        method = CustomGenerate(settings, tokenizer=tokenizer)
        options = {"max_new_tokens": 10, "do_sample": True, "top_k": 0, "repetition_penalty": 1.3}
        together = model.generate(
            **encoded(tokenizer), **options, custom_generate=method, seed=7, return_dict_in_generate=True
        ).completions
        for index in (1, 3):
            inputs = encoded(tokenizer, TEXTS[index : index + 1])
            alone = model.generate(
                **inputs, **options, custom_generate=method, seed=7 + index, return_dict_in_generate=True
            )
            assert alone.completions[0].continuation.tokens == together[index].continuation.tokens


def test_several_answers_for_one_prompt(model: Any, tokenizer: Any) -> None:
    method = CustomGenerate(METHODS["best_of_n"], tokenizer=tokenizer)
    options = {"max_new_tokens": 10, "do_sample": True, "num_return_sequences": 3, "custom_generate": method}
    inputs = rendered(tokenizer, CHATS[:2])
    answers = model.generate(**inputs, **options, chats=CHATS[:2])
    assert answers.shape[0] == 6
    assert len({tuple(row) for row in answers.tolist()}) == 6
    assert torch.equal(answers, model.generate(**inputs, **options, chats=CHATS[:2])), "seeds decide"
    assert not torch.equal(answers, model.generate(**inputs, **options, chats=CHATS[:2], seed=6))
    single = model.generate(**inputs, **options, chats=[chat for chat in CHATS[:2] for _ in range(3)])
    assert torch.equal(answers, single)


def test_text_comes_as_it_is_committed(model: Any, tokenizer: Any) -> None:
    texts = {0: "", 1: ""}

    def note(row: int, piece: str) -> None:
        texts[row] += piece

    method = CustomGenerate("sampling", tokenizer=tokenizer)
    output = model.generate(
        **encoded(tokenizer, TEXTS[:2]),
        max_new_tokens=10,
        custom_generate=method,
        on_text=note,
        return_dict_in_generate=True,
    )
    assert texts == {index: one.text for index, one in enumerate(output.completions)}


def test_a_sliding_window_is_kept(tiny_model: Any) -> None:
    folder = tiny_model("mistral", sliding_window=6)
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    inputs, options = encoded(tokenizer), {"max_new_tokens": 20, "do_sample": False}
    for settings in (GREEDY["sampling"], GREEDY["deal"]):
        method = CustomGenerate(settings, tokenizer=tokenizer)
        answers = model.generate(**inputs, **options, custom_generate=method)
        assert torch.equal(answers, model.generate(**inputs, **options))


def test_a_model_generates_once_at_a_time(model: Any, tokenizer: Any) -> None:
    method = CustomGenerate("sampling", tokenizer=tokenizer)
    inputs = encoded(tokenizer, TEXTS[:1])
    refusals: list[str] = []

    def again(input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        with pytest.raises(EngineError, match="generating already") as caught:
            model.generate(**inputs, max_new_tokens=2, custom_generate=method)
        refusals.append(str(caught.value))
        return scores

    model.generate(**inputs, max_new_tokens=2, custom_generate=method, logits_processor=[again])
    assert len(refusals) == 2
    model.generate(**inputs, max_new_tokens=2, custom_generate=method)


def test_an_adapter_of_peft_is_in_force(model: Any, tokenizer: Any) -> None:
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    tuned = peft.get_peft_model(model, peft.LoraConfig(r=4, init_lora_weights=False)).eval()
    inputs, options = encoded(tokenizer), {"max_new_tokens": 12, "do_sample": False}
    method = CustomGenerate("sampling", tokenizer=tokenizer)
    expected = tuned.generate(**inputs, **options)
    assert torch.equal(tuned.generate(**inputs, **options, custom_generate=method), expected)
    with tuned.disable_adapter():
        assert not torch.equal(tuned.generate(**inputs, **options, custom_generate=method), expected)


def test_mistakes_give_one_message(model: Any, tokenizer: Any, tiny_model: Any) -> None:
    with pytest.raises(ConfigError, match="did you mean 'searches'"):
        CustomGenerate({"method": "rain", "serches": 3}, tokenizer=tokenizer)
    with pytest.raises(ConfigError, match="did you mean 'small'"):
        settings = {"method": "eft", "base": "small", "tuned": {"kind": "t"}}
        CustomGenerate(settings, tokenizer=tokenizer, models={"smal": model})
    method = CustomGenerate("sampling", tokenizer=tokenizer)
    inputs = encoded(tokenizer)
    with pytest.raises(ConfigError, match="tokenizer: give the models'"):
        CustomGenerate("sampling", tokenizer=None)  # type: ignore[arg-type]
    for seed in (-1, [1, 2], None, "seed", 1.5, [1, 2, 3, 4.5]):
        with pytest.raises(ConfigError, match="each of the 4 rows"):
            model.generate(**inputs, max_new_tokens=4, custom_generate=method, seed=seed)
    long = {"input_ids": torch.full((1, 512), 40)}
    with pytest.raises(ContextLengthError, match="512"):
        model.generate(**long, max_new_tokens=4, custom_generate=method)
    nowhere = {"method": "eft", "base": "./nowhere", "tuned": {"kind": "./nowhere"}}
    with pytest.raises(ModelError, match="nowhere"):
        beside = CustomGenerate(nowhere, tokenizer=tokenizer)
        model.generate(**inputs, max_new_tokens=4, custom_generate=beside)
    encoder = AutoModelForCausalLM.from_pretrained(tiny_model("mamba", state_size=4))
    with pytest.raises(UnsupportedError):
        encoder.generate(input_ids=inputs["input_ids"][2:3], max_new_tokens=4, custom_generate=method)


@pytest.mark.model
def test_the_embedded_model(embedded_model: str) -> None:
    from trivet.models import embedded

    folder = embedded.folder()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    chats = [[{"role": "user", "content": text}] for text in ("Why is the sky blue?", "Hi!")]
    inputs = rendered(tokenizer, chats)
    options = {"max_new_tokens": 8, "do_sample": False}
    expected = model.generate(**inputs, **options)
    plain = CustomGenerate("sampling", tokenizer=tokenizer)
    assert torch.equal(model.generate(**inputs, **options, custom_generate=plain), expected)
    settings = {"method": "rain", "searches": 3, "least_searches": 1, "candidates": 3, "min_visits": 1}
    system = System.load({"model": embedded_model, "decode": settings, "max_tokens": 8})
    rain = CustomGenerate(settings, tokenizer=tokenizer)
    output = model.generate(
        **inputs, **options, custom_generate=rain, chats=chats, seed=3, return_dict_in_generate=True
    )
    assert output.completions[0].trace[0]["evaluator"] == "the model itself"
    for index, chat in enumerate(chats):
        assert output.completions[index].text == system.answer_sync(chat, seed=3 + index).text
    assert torch.equal(model.generate(**inputs, **options), expected)
