"""Answers that share their prompt give what separate sequences give, in value and gradient."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from trivet.errors import UnsupportedError
from trivet.train.batches import Example, model_inputs, owners
from trivet.train.scoring import packs, score_answers
from trivet.train.shared_prompts import Layout


def tokens(count: int, generator: torch.Generator) -> tuple[int, ...]:
    return tuple(torch.randint(300, (count,), generator=generator).tolist())


@pytest.fixture
def examples() -> list[Example]:
    numbers = torch.Generator().manual_seed(1)
    lengths = [(5, (4, 9)), (1, (1, 3)), (12, (7, 2, 5)), (30, (6,))]
    return [
        Example(row, tokens(prompt, numbers), tuple(tokens(answer, numbers) for answer in answers))
        for row, (prompt, answers) in enumerate(lengths)
    ]


def load(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@pytest.mark.parametrize(
    ("kind", "settings"),
    [("llama", {}), ("llama", {"num_key_value_heads": 1}), ("mistral", {"sliding_window": 8}), ("gpt2", {})],
)
def test_packed_equals_padded_and_separate(
    tiny_model: Any, examples: list[Example], kind: str, settings: dict[str, Any]
) -> None:
    packed = load(tiny_model(kind, **settings))
    padded, separate = copy.deepcopy(packed), copy.deepcopy(packed)
    score_answers(packed)
    assert packs(packed, 300)
    score_answers(padded)
    found = packed(**model_inputs(examples, packed=True, padding=0))
    expected = padded(**model_inputs(examples, packed=False, padding=0))
    plain = []
    for example in examples:
        for answer in example.answers:
            logits = separate(torch.tensor([example.prompt + answer])).logits[0]
            logs = logits.log_softmax(-1)[len(example.prompt) - 1 : -1]
            plain.append(logs.gather(1, torch.tensor(answer)[:, None])[:, 0])
    torch.testing.assert_close(found, torch.cat(plain), rtol=0, atol=1e-5)
    torch.testing.assert_close(expected, torch.cat(plain), rtol=0, atol=1e-5)
    weights = torch.linspace(-1, 1, len(found))
    for values in (found, expected, torch.cat(plain)):
        (values * weights).sum().backward()
    for one, two, three in zip(packed.parameters(), padded.parameters(), separate.parameters(), strict=True):
        torch.testing.assert_close(one.grad, three.grad, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(two.grad, three.grad, rtol=1e-4, atol=1e-5)


def test_an_answer_sees_no_other_answer_and_no_other_prompt(
    tiny_model_folder: Path, examples: list[Example]
) -> None:
    model = load(tiny_model_folder)
    score_answers(model)
    assert packs(model, 300)
    whole = model(**model_inputs(examples, packed=True, padding=0))
    changed = [
        *examples[:2],
        Example(2, examples[2].prompt, (examples[2].answers[0], (7,) * 2, (9,) * 5)),
        examples[3],
    ]
    found = model(**model_inputs(changed, packed=True, padding=0))
    other = torch.isin(owners(examples), torch.tensor([5, 6]))
    torch.testing.assert_close(found[~other], whole[~other], rtol=0, atol=0)
    assert (found[other] != whole[other]).any()


def test_positions_go_on_from_the_prompt() -> None:
    layout = Layout.of([(2, (3, 1)), (1, (2,))])
    assert layout.positions().tolist() == [[0, 1, 2, 3, 4, 2, 0, 1, 2]]
    assert [group.end for group in layout.groups] == [6, 9]


def test_a_model_whose_layers_mix_tokens_otherwise_is_not_packed(tiny_model_folder: Path) -> None:
    """A convolution over neighbouring places, as hybrid models have it, gives other values when packed."""
    model = load(tiny_model_folder)
    layer = model.model.layers[0]
    plain = layer.forward

    def mixed(hidden_states: torch.Tensor, *arguments: Any, **options: Any) -> Any:
        shifted = torch.cat([hidden_states[:, :1], hidden_states[:, :-1]], dim=1)
        return plain(hidden_states + shifted, *arguments, **options)

    layer.forward = mixed
    before = model.config._attn_implementation
    assert not packs(model, 300)
    assert model.config._attn_implementation == before


def test_an_adapter_on_the_output_layer_is_refused(tiny_model: Any) -> None:
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(
        load(tiny_model("llama", tie_word_embeddings=False)),
        LoraConfig(task_type="CAUSAL_LM", target_modules=["lm_head"]),
    )
    with pytest.raises(UnsupportedError, match="lm_head"):
        score_answers(model)
