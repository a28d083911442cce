"""Each known format comes out as documented; ``auto`` finds what most models have; bad values are named."""

import json

import pytest
from tests.conftest import CHATML, make_tokenizer

from trivet.errors import ConfigError, MergeError
from trivet.merge.chat_templates import TEMPLATES, chat_template, template_of

CONVERSATION = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hello?"},
    {"role": "assistant", "content": "Hi."},
    {"role": "user", "content": "Bye?"},
]

DOCUMENTED = {
    "chatml": (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHello?<|im_end|>\n"
        "<|im_start|>assistant\nHi.<|im_end|>\n<|im_start|>user\nBye?<|im_end|>\n",
        "<|im_start|>assistant\n",
    ),
    "alpaca": (
        "Be brief.\n\n### Instruction:\nHello?\n\n### Response:\nHi.</s>\n\n### Instruction:\nBye?\n\n",
        "### Response:\n",
    ),
    "llama3": (
        "<s><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nHello?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nHi.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nBye?<|eot_id|>",
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
    ),
    "mistral": ("<s> [INST] Be brief.\n\nHello? [/INST] Hi.</s> [INST] Bye? [/INST]", ""),
    "exaone": (
        "[|system|]Be brief.[|endofturn|]\n[|user|]Hello?\n[|assistant|]Hi.[|endofturn|]\n[|user|]Bye?\n",
        "[|assistant|]",
    ),
}


@pytest.fixture(scope="module")
def render(tmp_path_factory):
    from transformers import PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("tokenizer")
    make_tokenizer(folder)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    tokenizer.add_special_tokens({"bos_token": "<s>", "eos_token": "</s>"})

    def call(template, messages, prompt=False):
        return tokenizer.apply_chat_template(
            messages, chat_template=template, tokenize=False, add_generation_prompt=prompt
        )

    return call


@pytest.mark.parametrize("name", sorted(TEMPLATES))
def test_a_conversation_comes_out_in_the_documented_form(render, name):
    text, opening = DOCUMENTED[name]
    template = chat_template(name, [])
    assert render(template, CONVERSATION) == text
    assert render(template, CONVERSATION, prompt=True) == text + opening


def test_every_known_format_is_documented_here():
    assert set(DOCUMENTED) == set(TEMPLATES)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("chatml", "<|im_start|>user\nHello?<|im_end|>\n"),
        (
            "alpaca",
            "Below is an instruction that describes a task. Write a response that appropriately completes "
            "the request.\n\n### Instruction:\nHello?\n\n",
        ),
        ("llama3", "<s><|start_header_id|>user<|end_header_id|>\n\nHello?<|eot_id|>"),
        ("mistral", "<s> [INST] Hello? [/INST]"),
        ("exaone", "[|system|][|endofturn|]\n[|user|]Hello?\n"),
    ],
)
def test_without_a_system_message(render, name, text):
    assert render(TEMPLATES[name], CONVERSATION[1:2]) == text


def test_blanks_and_newlines_of_a_message_survive_in_chatml(render):
    messages = [{"role": "user", "content": "  {{ 1 }}\n\n"}]
    assert render(TEMPLATES["chatml"], messages) == "<|im_start|>user\n  {{ 1 }}\n\n<|im_end|>\n"


@pytest.mark.parametrize("name", ["alpaca", "mistral"])
def test_turns_that_a_format_does_not_know_are_refused(render, name):
    from jinja2.exceptions import TemplateError

    with pytest.raises(TemplateError, match="user and assistant"):
        render(TEMPLATES[name], [CONVERSATION[1], {"role": "tool", "content": "x"}])


def _model(folder, template):
    folder.mkdir()
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
    return folder


def test_auto_takes_the_most_frequent_template_whatever_the_blanks_around_it(tmp_path):
    models = [
        _model(tmp_path / "one", "{{ 1 }}"),
        _model(tmp_path / "two", "{{ 2 }}\n"),
        _model(
            tmp_path / "three",
            [{"name": "tools", "template": "x"}, {"name": "default", "template": "{{ 2 }}"}],
        ),
        _model(tmp_path / "none", None),
    ]
    assert chat_template("auto", models) == "{{ 2 }}\n"
    assert chat_template("auto", models[:1] + models[1:2]) == "{{ 1 }}", "the first of equals"
    assert chat_template("auto", models[3:]) is None
    assert chat_template("auto", [tmp_path / "absent"]) is None


def test_a_template_file_goes_before_the_settings(tmp_path):
    make_tokenizer(tmp_path)
    assert template_of(tmp_path) == CHATML


def test_a_template_in_full_is_kept_as_it_is():
    template = "{% for m in messages %}{% generation %}{{ m }}{% endgeneration %}{% break %}{% endfor %}\n"
    assert chat_template(template, []) == template


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("{% for m in messages %}", "is not a valid Jinja template: line 1"),
        ("{{ unclosed", "is not a valid Jinja template"),
        ("chatlm", r"unknown chat template 'chatlm'\n.*did you mean 'chatml'"),
        ("", "unknown chat template ''"),
    ],
)
def test_a_wrong_value_is_named(value, message):
    with pytest.raises(ConfigError, match=message):
        chat_template(value, [])


def test_damaged_settings_are_named(tmp_path):
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(MergeError, match=r"tokenizer_config\.json: cannot be read"):
        chat_template("auto", [tmp_path])
    (tmp_path / "tokenizer_config.json").write_text('{"chat_template": [{"name": ["x"]}, 3]}')
    assert chat_template("auto", [tmp_path]) is None
