"""The chat template of a merged model: a known format, a template given in full, or the models' own.

The formats are written from their documentation: ChatML (OpenAI's chat markup, as Qwen and SmolLM use it),
Alpaca (the Stanford Alpaca repository's prompt without an input), Llama 3 (Meta's prompt format), Mistral
(Mistral's instruct format of the first tokenizer, with the system message in front of the first question) and
EXAONE (LG's EXAONE 3 model card). mergekit knows the same names.

Decision: a template is text of a model and is never run here. It is parsed, so that a mistake in a recipe is
found before hours of merging; transformers runs it later in its sandbox.
"""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, TemplateSyntaxError, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser

from trivet._validation import did_you_mean
from trivet.errors import ConfigError, MergeError

CHATML = """\
{%- for message in messages -%}
{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}
"""

ALPACA = """\
{%- if messages[0]['role'] == 'system' -%}
{%- set preamble = messages[0]['content'] | trim -%}
{%- set turns = messages[1:] -%}
{%- else -%}
{%- set preamble = 'Below is an instruction that describes a task. Write a response that appropriately \
completes the request.' -%}
{%- set turns = messages -%}
{%- endif -%}
{{ preamble + '\\n\\n' }}
{%- for message in turns -%}
{%- if message['role'] == 'user' -%}
{{ '### Instruction:\\n' + message['content'] | trim + '\\n\\n' }}
{%- elif message['role'] == 'assistant' -%}
{{ '### Response:\\n' + message['content'] | trim + (eos_token or '') + '\\n\\n' }}
{%- else -%}
{{ raise_exception('Alpaca knows an optional system message, then user and assistant') }}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '### Response:\\n' }}{%- endif -%}
"""

LLAMA3 = """\
{{- bos_token or '' -}}
{%- for message in messages -%}
{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}
{{- message['content'] | trim + '<|eot_id|>' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif -%}
"""

MISTRAL = """\
{{- bos_token or '' -}}
{%- if messages[0]['role'] == 'system' -%}
{%- set system = messages[0]['content'] + '\\n\\n' -%}
{%- set turns = messages[1:] -%}
{%- else -%}
{%- set system = '' -%}
{%- set turns = messages -%}
{%- endif -%}
{%- for message in turns -%}
{%- if message['role'] != ('user' if loop.index0 % 2 == 0 else 'assistant') -%}
{{ raise_exception('Mistral knows an optional system message, then user and assistant by turns') }}
{%- elif message['role'] == 'user' -%}
{{ ' [INST] ' + (system if loop.first else '') + message['content'] + ' [/INST]' }}
{%- else -%}
{{ ' ' + message['content'] + (eos_token or '') }}
{%- endif -%}
{%- endfor -%}
"""

EXAONE = """\
{%- if messages[0]['role'] != 'system' -%}{{ '[|system|][|endofturn|]\\n' }}{%- endif -%}
{%- for message in messages -%}
{{ '[|' + message['role'] + '|]' + message['content'] }}
{{- '\\n' if message['role'] == 'user' else '[|endofturn|]\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '[|assistant|]' }}{%- endif -%}
"""

TEMPLATES = {"alpaca": ALPACA, "chatml": CHATML, "exaone": EXAONE, "llama3": LLAMA3, "mistral": MISTRAL}
"""The known formats by the name that a recipe uses."""

AUTO = "auto"
"""The recipe's word for the template that most of the models have."""


def chat_template(value: str, models: Sequence[Path]) -> str | None:
    """The template that a recipe's ``chat_template`` means.

    Args:
        value: ``auto``, a name of ``TEMPLATES``, or a Jinja template in full (it contains a ``{``).
        models: the models' folders, for ``auto``: the template that most of them have, the first of equals.

    Returns:
        The template, or ``None`` for ``auto`` where no model has one.

    Raises:
        ConfigError: an unknown name, or a template that is not valid Jinja.
        MergeError: a model's tokenizer files are damaged.
    """
    if value == AUTO:
        return _most_frequent([template for template in map(template_of, models) if template is not None])
    if "{" in value:
        _check(value)
        return value
    if value not in TEMPLATES:
        raise ConfigError(
            f"unknown chat template {value[:60]!r}",
            where="chat_template",
            hint=f"{did_you_mean(value, [AUTO, *TEMPLATES])} A template in full contains a {{",
        )
    return TEMPLATES[value]


def template_of(model: Path) -> str | None:
    """The chat template in a model's folder (of several, the one named ``default``), or ``None``.

    Raises:
        MergeError: ``tokenizer_config.json`` or ``chat_template.jinja`` cannot be read.
    """
    file = model / "chat_template.jinja"
    try:
        if file.is_file():
            return file.read_text(encoding="utf-8") or None
        file = model / "tokenizer_config.json"
        if not file.is_file():
            return None
        settings = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise MergeError(f"cannot be read: {error}", where=str(file)) from None
    return _default(settings.get("chat_template") if isinstance(settings, dict) else None)


def _default(found: Any) -> str | None:
    """The template of a tokenizer's settings: text, or a list of ``{name, template}``."""
    if isinstance(found, list):
        named = [entry for entry in found if isinstance(entry, dict) and entry.get("name") == "default"]
        found = named[0].get("template") if named else None
    return found if isinstance(found, str) and found else None


def _most_frequent(templates: Sequence[str]) -> str | None:
    """The most frequent one, where blanks around it do not make a difference."""
    if not templates:
        return None
    ((winner, _),) = Counter(template.strip() for template in templates).most_common(1)
    return next(template for template in templates if template.strip() == winner)


class _Generation(Extension):
    """The ``{% generation %}`` block with which transformers marks what the assistant says."""

    tags = {"generation"}  # noqa: RUF012 - jinja2 reads it from the class

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


def _check(template: str) -> None:
    """Refuse what is not valid Jinja; nothing is run."""
    try:
        Environment(extensions=["jinja2.ext.loopcontrols", _Generation]).parse(template)
    except TemplateSyntaxError as error:
        raise ConfigError(
            f"is not a valid Jinja template: line {error.lineno}: {error.message}", where="chat_template"
        ) from None
