"""The model card: valid front matter, the exact recipe, identities, and no way out for hostile text."""

import re

import pytest
import yaml
from tests.merge.test_report import make_report
from tests.study.report.test_browser import PAYLOADS

from trivet._markdown import fenced
from trivet.merge.card import model_card
from trivet.merge.report import TensorReport


def front_matter(card):
    found = re.match(r"---\n(.*?)\n---\n", card, re.DOTALL)
    return yaml.safe_load(found[1])


def test_the_front_matter_lists_what_is_on_the_hub():
    card = model_card(
        make_report(hub_ids={"helpful": "acme/helpful", "base": "acme/base", "harmless": "acme/base"})
    )
    assert front_matter(card) == {
        "base_model": ["acme/base", "acme/helpful"],
        "base_model_relation": "merge",
        "library_name": "transformers",
        "tags": ["merge", "trivet"],
    }
    assert "base_model" not in front_matter(model_card(make_report())), "local folders are not on the hub"


def test_the_recipe_the_models_and_the_command_are_in_it():
    report = make_report(warnings=["the tokenizers differ"])
    card = model_card(report)
    assert f"```yaml\n{report.recipe_text}```" in card
    assert f"| `helpful` | expert | `{'1' * 64}` |" in card and "| `base` | base |" in card
    assert "```sh\ntrivet merge recipe.yaml OUT\n```" in card
    assert "Seed 3; trivet 0.1.0, torch 2.13." in card
    assert "20.0 %, 50.0 %" in card and "disagree in sign at 12.5 %" in card
    assert "- the tokenizers differ" in card
    assert card.endswith("\n") and not card.endswith("\n\n")


def test_a_merge_without_a_base():
    card = model_card(make_report([TensorReport("t", (2,), "linear", 2)], base=None))
    assert "on the base" not in card and "cosine" not in card and "Warnings" not in card


@pytest.mark.parametrize("text", ["a: 1", "a: |\n  ```\n  code\n  ```\n", "`````", "x\n````yaml\n"])
def test_a_fence_is_longer_than_any_in_the_text(text):
    block = fenced(text, "yaml")
    fence = re.match("`+", block)[0]
    assert len(fence) >= 3 and fence not in text
    assert block.startswith(f"{fence}yaml\n{text}") and block.endswith(f"\n{fence}")


def test_hostile_names_stay_text():
    names = [
        *PAYLOADS,
        "`code` ``more``",
        "a | b",
        "name\n\n# heading",
        "[link](javascript:x)",
        "---\nlicense: mit",
    ]
    report = make_report(
        method=names[0],
        base=names[1],
        experts=names[2:],
        models=dict.fromkeys(names, "3" * 64),
        versions={name: name for name in names},
        warnings=names,
        output_dtype=names[0],
        recipe_text="merge_method: x # ```\n# heading\n",
        hub_ids={names[1]: "x\ny: [injected"},
    )
    card = model_card(report)
    assert front_matter(card)["base_model"] == ["x\ny: [injected"]
    assert "license" not in front_matter(card)
    outside = re.sub(r"(`{4,})yaml\n.*?\n\1\n", "", card, flags=re.DOTALL)  # without the recipe
    headings = re.findall(r"^#+ (.*)", outside, re.MULTILINE)
    assert headings[1:] == ["Models", "Recipe", "How to make it again", "What the merge did", "Warnings"] or (
        headings[1:] == ["Models", "How to make it again", "What the merge did", "Warnings"]
    )
    rendered = html_of(card)
    assert not re.search(r"<(script|img|iframe|svg|a)\b", rendered)
    assert rendered.count("<tr>") == 1 + len(names)
    assert not set("\x00\x1b\u202e") & set(card)
    card.encode("utf-8")


def html_of(markdown):
    """The card's body as a CommonMark renderer with tables and raw HTML shows it."""
    markdown_it = pytest.importorskip("markdown_it")
    body = re.sub(r"\A---\n.*?\n---\n", "", markdown, flags=re.DOTALL)
    return markdown_it.MarkdownIt("commonmark", {"html": True}).enable("table").render(body)
