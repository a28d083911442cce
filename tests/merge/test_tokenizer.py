"""Tokenizer rules: which tokens the result has, and which rows each model gives for them."""

import json
import shutil

import pytest
import torch
from tests.conftest import make_tokenizer

from trivet._validation import validate
from trivet.errors import ConfigError, MergeError
from trivet.merge.tokenizer import build_vocabulary, same_vocabulary, save
from trivet.merge.tokenizer_rule import TokenizerRule
from trivet.merge.vocabulary import align

PLAIN = 400
"""Tokens of ``make_tokenizer``."""


def rule(**values):
    return validate(TokenizerRule, values, where="recipe")


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plain")
    assert make_tokenizer(folder) == PLAIN
    return folder


@pytest.fixture
def model(plain, tmp_path):
    """Makes a model's folder: the plain tokenizer with added tokens, a configuration with its rows."""
    from transformers import AddedToken, PreTrainedTokenizerFast

    def make(name, *tokens, rows=None, settings=None):
        folder = tmp_path / name
        tokenizer = PreTrainedTokenizerFast.from_pretrained(plain)
        tokenizer.add_tokens([AddedToken(t, special=True, normalized=False) for t in tokens])
        tokenizer.save_pretrained(folder)
        config = {"vocab_size": len(tokenizer) if rows is None else rows}
        (folder / "config.json").write_text(json.dumps(config if settings is None else settings))
        return folder

    return make


def matrix(rows, value):
    """Row r is [value, r]: it says where it came from."""
    return torch.stack([torch.full((rows,), float(value)), torch.arange(rows, dtype=torch.float32)], dim=1)


def aligned(vocabulary, *matrices):
    return [align(vocabulary, place, matrices) for place in range(len(matrices))]


def test_the_same_tokenizers_change_nothing(model):
    models = {"base": model("base"), "expert": model("expert")}
    for source in ("base", "union", "expert"):
        vocabulary = build_vocabulary(rule(source=source), "base", models)
        assert (vocabulary.size, vocabulary.warnings) == (PLAIN, ())
        one, two = matrix(PLAIN, 1), matrix(PLAIN, 2)
        found = aligned(vocabulary, one, two)
        assert torch.equal(found[0], one) and torch.equal(found[1], two)


def test_base_drops_what_only_another_model_has(model):
    models = {"base": model("base", "<b>"), "expert": model("expert", "<e>", "<b>")}
    vocabulary = build_vocabulary(rule(source="base"), "base", models)
    base, expert = aligned(vocabulary, matrix(PLAIN + 1, 1), matrix(PLAIN + 2, 2))
    assert vocabulary.size == PLAIN + 1
    assert base[PLAIN].tolist() == [1, PLAIN]
    assert expert[PLAIN].tolist() == [2, PLAIN + 1], "the row of the token, not of the number"


def test_a_union_gives_each_model_the_row_of_the_one_that_has_it(model):
    models = {"base": model("base", "<b>"), "one": model("one", "<x>", "<y>"), "two": model("two", "<y>")}
    vocabulary = build_vocabulary(rule(source="union"), "base", models)
    ids = vocabulary.tokenizer.get_vocab()
    assert [ids[token] for token in ("<b>", "<x>", "<y>")] == [PLAIN, PLAIN + 1, PLAIN + 2]
    base, one, two = aligned(vocabulary, matrix(PLAIN + 1, 1), matrix(PLAIN + 2, 2), matrix(PLAIN + 1, 3))
    assert [m[PLAIN].tolist() for m in (base, one, two)] == [[1, PLAIN]] * 3
    assert [m[PLAIN + 1].tolist() for m in (base, one, two)] == [[2, PLAIN]] * 3
    mean = [2.5, PLAIN + 0.5]  # of "one" (row 401) and "two" (row 400): the base does not have it
    assert base[PLAIN + 2].tolist() == mean
    assert (one[PLAIN + 2].tolist(), two[PLAIN + 2].tolist()) == ([2, PLAIN + 1], [3, PLAIN])


def test_the_base_stands_in_for_a_model_without_the_token_and_without_a_base_the_mean(model):
    models = {"base": model("base", "<t>"), "one": model("one", "<t>"), "two": model("two")}
    matrices = (matrix(PLAIN + 1, 1), matrix(PLAIN + 1, 4), matrix(PLAIN, 9))
    two = aligned(build_vocabulary(rule(source="union"), "base", models), *matrices)[2]
    assert two[PLAIN].tolist() == [1, PLAIN]
    two = aligned(build_vocabulary(rule(source="union"), None, models), *matrices)[2]
    assert two[PLAIN].tolist() == [2.5, PLAIN]


def test_a_source_that_is_not_merged_and_a_token_that_nobody_has(model):
    models = {"base": model("base"), "expert": model("expert")}
    other = model("other", "<o>")
    vocabulary = build_vocabulary(rule(source="theirs"), "base", models, {"theirs": other}.__getitem__)
    assert vocabulary.size == PLAIN + 1
    assert vocabulary.warnings == ("no model has a row for 1 token ('<o>'): zeros",)
    for found in aligned(vocabulary, matrix(PLAIN, 1), matrix(PLAIN, 2)):
        assert found[PLAIN].tolist() == [0, 0]


def test_padding_rows_are_the_mean_of_the_tokens(model):
    models = {"base": model("base", "<b>")}
    vocabulary = build_vocabulary(rule(source="base", pad_to_multiple_of=64), "base", models)
    (found,) = aligned(vocabulary, matrix(PLAIN + 1, 3))
    assert found.shape == (448, 2)
    assert found[PLAIN + 1 :].unique(dim=0).tolist() == [[3, PLAIN / 2]]
    assert build_vocabulary(rule(source="base", pad_to_multiple_of=401), "base", models).size == 401


def test_rules_for_single_tokens(model):
    models = {"base": model("base", "<t>"), "expert": model("expert", "<t>", "<u>")}
    matrices = (matrix(PLAIN + 1, 1), matrix(PLAIN + 2, 2))
    made = rule(
        source="union",
        tokens={
            "<t>": {"source": "expert", "force": True},
            "<u>": {"source": {"kind": "zero"}},
            "<v>": {"source": {"kind": "model_token", "model": "base", "token": "<|im_end|>"}},
            "<w>": {"source": {"kind": "model_token", "model": "expert", "token_id": 7}},
            "<|im_start|>": {"source": {"kind": "zero"}, "force": True},
            "<|im_end|>": {"source": {"kind": "zero"}},
        },
    )
    vocabulary = build_vocabulary(made, "base", models)
    ids = vocabulary.tokenizer.get_vocab()
    base, expert = aligned(vocabulary, *matrices)
    assert vocabulary.size == PLAIN + 4 and vocabulary.warnings == ()
    assert base[ids["<t>"]].tolist() == expert[ids["<t>"]].tolist() == [2, PLAIN], "forced on both"
    assert base[ids["<u>"]].tolist() == [0, 0], "not the only model that has it"
    assert expert[ids["<u>"]].tolist() == [2, PLAIN + 1], "not forced: its own row"
    assert base[ids["<v>"]].tolist() == expert[ids["<v>"]].tolist() == [1, 2]
    assert base[ids["<w>"]].tolist() == expert[ids["<w>"]].tolist() == [2, 7]
    assert base[1].tolist() == expert[1].tolist() == [0, 0]
    assert (base[2].tolist(), expert[2].tolist()) == ([1, 2], [2, 2]), "both have it and nothing is forced"


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"source": "nobody"}, r"tokenizer\.tokens\.<t>: 'nobody' is none of the merged models"),
        ({"source": "expert"}, r"expert has no token '<t>'"),
        ({"source": {"kind": "model_token", "model": "base", "token": "<no>"}}, r"base has no token '<no>'"),
        ({"source": {"kind": "model_token", "model": "base", "token_id": 401}}, "has 401 rows"),
    ],
)
def test_a_rule_that_cannot_be_followed_is_named(model, entry, message):
    models = {"base": model("base", "<t>"), "expert": model("expert")}
    with pytest.raises(MergeError, match=message):
        build_vocabulary(rule(source="base", tokens={"<t>": entry}), "base", models)


@pytest.mark.parametrize(
    "entry",
    [
        {"force": True},
        {"source": {"kind": "model_token", "model": "base"}},
        {"source": {"kind": "model_token", "model": "base", "token": "x", "token_id": 1}},
        {"source": {"kind": "ones"}},
        {"sauce": "base"},
    ],
)
def test_a_rule_that_says_too_little_or_too_much_is_refused(entry):
    with pytest.raises(ConfigError, match="recipe: "):
        rule(tokens={"<t>": entry})


def test_tokens_beyond_the_rows_are_tokens_that_the_model_does_not_have(model):
    # As with a padding token that was added to the tokenizer without resizing the model.
    base = model("base", "[PAD]", rows=PLAIN)
    settings = json.loads((base / "tokenizer_config.json").read_text())
    (base / "tokenizer_config.json").write_text(json.dumps(settings | {"pad_token": "[PAD]"}))
    models = {"base": base, "expert": model("expert", "<e>")}
    vocabulary = build_vocabulary(rule(source="base"), "base", models)
    assert vocabulary.size == PLAIN
    assert "[PAD]" not in vocabulary.tokenizer.get_vocab() and vocabulary.tokenizer.pad_token is None
    vocabulary = build_vocabulary(rule(source="union"), "base", models)
    assert vocabulary.size == PLAIN + 1
    assert align(vocabulary, 0, [matrix(PLAIN, 1), matrix(PLAIN + 1, 2)])[PLAIN].tolist() == [2, PLAIN]


def test_a_word_piece_beyond_the_rows_goes_with_its_merges(model):
    base = model("base", rows=PLAIN - 50)
    tokenizer = build_vocabulary(rule(source="base"), "base", {"base": base}).tokenizer
    assert len(tokenizer) == PLAIN - 50
    text = "The capital of France is Paris, honest and harmless."
    ids = tokenizer.encode(text)
    assert max(ids) < PLAIN - 50 and tokenizer.decode(ids) == text


def test_nested_configurations_and_tokens_in_the_settings(model, plain):
    base = model("base", settings={"text_config": {"vocab_size": PLAIN + 1}})
    settings = json.loads((base / "tokenizer_config.json").read_text())
    settings["added_tokens_decoder"] = {
        str(PLAIN): {"content": "<a>", "special": True},
        str(PLAIN + 1): {"content": "<beyond>", "special": True},
    }
    (base / "tokenizer_config.json").write_text(json.dumps(settings))
    vocabulary = build_vocabulary(rule(source="base"), "base", {"base": base})
    assert vocabulary.size == PLAIN + 1 and vocabulary.tokenizer.get_vocab()["<a>"] == PLAIN
    assert int(vocabulary.rows[0][PLAIN]) == PLAIN


def test_a_model_without_a_tokenizer_has_the_bases(model, tmp_path):
    (tmp_path / "bare").mkdir()
    models = {"base": model("base"), "bare": tmp_path / "bare"}
    vocabulary = build_vocabulary(rule(source="union"), "base", models)
    assert vocabulary.warnings == ("bare has no tokenizer; it is taken to have the one of base",)
    assert torch.equal(aligned(vocabulary, matrix(PLAIN, 1), matrix(PLAIN, 2))[1], matrix(PLAIN, 2))
    with pytest.raises(MergeError, match="bare: has no tokenizer"):
        build_vocabulary(rule(source="union"), "bare", models)


def test_damaged_and_foreign_tokenizers_are_named(model, tmp_path):
    base, odd = model("base"), tmp_path / "odd"
    odd.mkdir()
    (odd / "tokenizer.model").write_bytes(b"\0")
    with pytest.raises(MergeError, match=r"odd: has tokenizer\.model but no tokenizer\.json"):
        build_vocabulary(rule(), "base", {"base": base, "odd": odd})
    for content in ("{", "[]", "{}", '{"model": {"vocab": 3}}', '{"model": {"vocab": {"a": "b"}}}'):
        (odd / "tokenizer.json").write_text(content)
        with pytest.raises(MergeError, match=r"odd/tokenizer\.json: "):
            same_vocabulary(base, odd)
    (odd / "tokenizer.json").write_text('{"model": {"vocab": {"a": 0}}}')
    with pytest.raises(MergeError, match="odd: the tokenizer cannot be loaded"):
        build_vocabulary(rule(), "odd", {"odd": odd})


def test_tensors_that_do_not_fit_are_refused(model):
    vocabulary = build_vocabulary(rule(), "base", {"base": model("base"), "expert": model("expert")})
    good = matrix(PLAIN, 1)
    with pytest.raises(MergeError, match="1 vocabulary tensors for 2 models"):
        align(vocabulary, 0, [good])
    with pytest.raises(MergeError, match=r"\[400, 2\] and \[400, 3\]"):
        align(vocabulary, 0, [good, torch.zeros(PLAIN, 3)])
    with pytest.raises(MergeError, match="model 1 has 399 rows, not the 400"):
        align(vocabulary, 0, [good, good[:-1]])


def test_bfloat16_is_read_and_float32_comes_out(model):
    vocabulary = build_vocabulary(rule(), "base", {"base": model("base")})
    rows = torch.randn(PLAIN, 4).to(torch.bfloat16)
    assert torch.equal(align(vocabulary, 0, [rows]), rows.to(torch.float32))


def test_different_flags_of_one_token_are_told(model):
    other = model("other", "<t>")
    content = json.loads((other / "tokenizer.json").read_text())
    content["added_tokens"][-1]["lstrip"] = True
    (other / "tokenizer.json").write_text(json.dumps(content))
    vocabulary = build_vocabulary(rule(), "base", {"base": model("base", "<t>"), "other": other})
    assert vocabulary.warnings == ("1 token ('<t>'): added with different flags; the first model's are kept",)
    assert not vocabulary.tokenizer.added_tokens_decoder[PLAIN].lstrip


def test_the_saved_tokenizer_loads_and_is_the_same(model, tmp_path):
    from transformers import AutoTokenizer

    models = {"base": model("base"), "expert": model("expert", "<e>")}
    vocabulary = build_vocabulary(rule(), "base", models)
    save(vocabulary.tokenizer, tmp_path / "out", "{{ messages[0]['content'] }}")
    loaded = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert loaded.get_vocab() == vocabulary.tokenizer.get_vocab()
    assert loaded.encode("The <e>capital") == vocabulary.tokenizer.encode("The <e>capital")
    assert "<e>" in loaded.all_special_tokens or loaded.decode(PLAIN, skip_special_tokens=True) == ""
    assert loaded.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False) == "Hi"
    assert loaded.eos_token == "<|im_end|>" and loaded.model_max_length == 512
    written = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert written == ["chat_template.jinja", "tokenizer.json", "tokenizer_config.json"]
    settings = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    assert settings["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert str(tmp_path) not in json.dumps(settings) and "is_local" not in settings


def test_same_vocabulary_says_what_differs(model, plain, tmp_path):
    base, copy = model("base", "<x>", "<y>"), tmp_path / "copy"
    shutil.copytree(base, copy)
    assert same_vocabulary(base, copy) is None
    swapped, longer = model("swapped", "<y>", "<x>"), model("longer", "<x>", "<y>", "<z>")
    assert same_vocabulary(base, swapped) == (
        f"the tokenizers of {base} and {swapped} differ; "
        "2 tokens ('<x>', '<y>') differ in their ids (400 and 401)"
    )
    assert same_vocabulary(base, longer).endswith(f"only {longer} has 1 token ('<z>')")
    assert f"only {base} has 2 tokens ('<x>', '<y>')" in same_vocabulary(base, plain)
    assert same_vocabulary(base, tmp_path / "absent") is None


def test_a_vocabulary_that_is_a_list_of_pieces(tmp_path):
    content = {"model": {"type": "Unigram", "vocab": [["a", -1.0], ["b", -2.0]]}, "added_tokens": []}
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    (tmp_path / "one" / "tokenizer.json").write_text(json.dumps(content))
    content["model"]["vocab"].reverse()
    (tmp_path / "two" / "tokenizer.json").write_text(json.dumps(content))
    assert "2 tokens ('a', 'b') differ in their ids (0 and 1)" in same_vocabulary(
        tmp_path / "one", tmp_path / "two"
    )
