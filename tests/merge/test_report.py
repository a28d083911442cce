"""Diagnostics against closed forms, the report's numbers, and its page: hostile text stays text."""

import json
import math
import re

import pytest
import torch
from tests.study.report.test_browser import PAYLOADS

from trivet.errors import MergeError
from trivet.merge.diagnostics import diagnose
from trivet.merge.report import MergeReport, TensorReport, summarise, write_json
from trivet.merge.report_page import number, render, size, write_html


def make_report(tensors=None, **changes):
    values = {
        "recipe_text": "merge_method: ties\nmodels: []\n",
        "method": "ties",
        "base": "base",
        "experts": ["helpful", "harmless"],
        "models": {"base": "0" * 64, "helpful": "1" * 64, "harmless": "2" * 64},
        "output_dtype": "bfloat16",
        "seconds": 12.34,
        "bytes_read": 3 * 2**30,
        "bytes_written": 2**20,
        "seed": 3,
        "versions": {"trivet": "0.1.0", "torch": "2.13"},
        "tensors": tensors if tensors is not None else layers(),
    }
    return MergeReport(**(values | changes))


def layers(count=6):
    """Two tensors a layer, and the embeddings."""
    found = [TensorReport("model.embed_tokens.weight", (100, 8), "linear", 800)]
    for layer in range(count):
        for place, part in enumerate(("self_attn.q_proj", "mlp.up_proj")):
            cosine = (layer - place) / count
            found.append(
                TensorReport(
                    f"model.layers.{layer}.{part}.weight",
                    (8, 8),
                    "ties",
                    64,
                    density=[0.2, 0.5],
                    ranks=[4, 3 + layer],
                    cosines=[[1.0, cosine], [cosine, 1.0]],
                    conflicts=layer / 20,
                    relative_norms=[0.01, 0.02],
                    condition=0.5,
                    settings={"density": 0.2, "lambda": 1.0},
                    warnings=["the experts are nearly the same"] if layer == 2 else [],
                    sampled=32,
                )
            )
    return found


# Diagnostics


def test_the_numbers_of_known_vectors():
    deltas = [torch.tensor([3.0, 0.0, 0.0, 0.0]), torch.tensor([1.0, 1.0, 0.0, 0.0])]
    found = diagnose(deltas, torch.tensor([2.0, 2.0, 2.0, 2.0])).finish()
    assert found.elements == 4
    assert found.nonzero == [0.25, 0.5]
    assert found.cosines[0][1] == pytest.approx(1 / math.sqrt(2), abs=1e-7)
    assert found.cosines[0][1] == found.cosines[1][0]
    assert [found.cosines[place][place] for place in (0, 1)] == pytest.approx([1, 1])
    assert found.relative_norms == pytest.approx([3 / 4, math.sqrt(2) / 4])
    assert found.conflicts == 0


def test_conflicts_are_places_with_both_signs():
    one = torch.tensor([1.0, 1.0, -1.0, 0.0, 2.0, 0.0])
    two = torch.tensor([-1.0, 1.0, 1.0, 5.0, 0.0, 0.0])
    three = torch.tensor([-1.0, 1.0, 0.0, -5.0, 0.0, 0.0])
    assert diagnose([one, two]).finish().conflicts == 2 / 6
    assert diagnose([one, two, three]).finish().conflicts == 3 / 6
    assert diagnose([one, -one]).finish().conflicts == 4 / 6
    assert diagnose([one]).finish().conflicts is None


def test_opposite_same_and_orthogonal():
    vector = torch.randn(1000, generator=torch.Generator().manual_seed(1))
    cosines = diagnose([vector, 2 * vector, -vector]).finish().cosines
    assert cosines == [pytest.approx([1, 1, -1]), pytest.approx([1, 1, -1]), pytest.approx([-1, -1, 1])]
    assert all(-1 <= cosine <= 1 for line in cosines for cosine in line)
    assert diagnose([torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])]).finish().cosines[0][1] == 0


def test_blocks_add_up_to_the_whole():
    generator = torch.Generator().manual_seed(2)
    deltas = [
        torch.randn(64, 33, generator=generator) * (torch.rand(64, 33, generator=generator) > 0.4)
        for _ in range(3)
    ]
    base = torch.randn(64, 33, generator=generator)
    whole = diagnose(deltas, base).finish()
    bounds = [(0, 1), (1, 30), (30, 64)]
    sums = [diagnose([delta[a:b] for delta in deltas], base[a:b]) for a, b in bounds]
    blocks = (sums[0] + sums[1] + sums[2]).finish()
    assert (blocks.elements, blocks.nonzero, blocks.conflicts) == (
        whole.elements,
        whole.nonzero,
        whole.conflicts,
    )
    assert torch.allclose(torch.tensor(blocks.cosines), torch.tensor(whole.cosines), atol=1e-6)
    assert blocks.relative_norms == pytest.approx(whole.relative_norms, rel=1e-6)
    double = [delta.double().flatten() for delta in deltas]
    expected = torch.corrcoef(torch.stack([torch.cat([delta, -delta]) for delta in double]))  # means of zero
    assert torch.allclose(torch.tensor(whole.cosines, dtype=torch.float64), expected, atol=1e-6)


def test_what_is_not_defined_is_none():
    zero, one = torch.zeros(4), torch.ones(4)
    found = diagnose([zero, one], zero).finish()
    assert found.cosines == [[None, None], [None, 1.0]]
    assert found.relative_norms == [None, None]
    assert diagnose([zero, one]).finish().relative_norms is None
    broken = diagnose([torch.tensor([math.nan, 1.0]), torch.tensor([1.0, 1.0])], torch.ones(2)).finish()
    assert broken.cosines[0] == [None, None] and broken.relative_norms == [None, pytest.approx(1.0)]
    empty = diagnose([torch.zeros(0), torch.zeros(0)], torch.zeros(0)).finish()
    assert (empty.nonzero, empty.conflicts) == ([0.0, 0.0], None)


def test_shapes_that_differ_are_refused():
    with pytest.raises(MergeError, match="at least one"):
        diagnose([])
    with pytest.raises(MergeError, match=r"\[2\] and \[3\]"):
        diagnose([torch.ones(2)], torch.ones(3))
    with pytest.raises(MergeError, match="1 and 2 experts"):
        diagnose([torch.ones(2)]) + diagnose([torch.ones(2)] * 2)


# The report


def test_means_are_weighted_by_elements():
    def tensor(elements, density, cosine, conflicts):
        matrix = None if cosine is None else [[1.0, cosine], [cosine, 1.0]]
        return TensorReport("t", (elements,), "ties", elements, density, None, matrix, conflicts)

    summary = summarise(
        make_report(
            [
                tensor(100, [0.1, 0.2], 0.5, 0.0),
                tensor(300, [0.5, 0.6], -0.1, 0.4),
                tensor(9, None, None, None),
            ]
        )
    )
    assert (summary.tensors, summary.elements) == (3, 409)
    assert summary.density == pytest.approx([0.4, 0.5])
    assert summary.cosines[0][1] == pytest.approx(0.05)
    assert summary.conflicts == pytest.approx(0.3)
    assert summary.relative_norms is None


def test_a_merge_without_task_vectors_has_no_such_numbers():
    report = make_report([TensorReport("t", (2,), "linear", 2)], base=None)
    summary = summarise(report)
    assert (summary.density, summary.cosines, summary.conflicts, summary.relative_norms) == (None,) * 4
    page = render(report)
    assert "without a base" in page and "Cosine" not in page and 'id="layers"' not in page


def test_the_json_is_strict_and_whole(tmp_path):
    odd = TensorReport("\ud800", (1,), "m", 1, condition=math.nan, settings={"x": math.inf, "y": (1, None)})
    path = write_json(make_report([odd, *layers()]), tmp_path)
    assert path == tmp_path / "merge_report.json"
    content = json.loads(path.read_text(encoding="utf-8"), parse_constant=pytest.fail)
    assert content["tensors"][0]["name"] == "?" and content["tensors"][0]["condition"] is None
    assert content["tensors"][0]["settings"] == {"x": None, "y": [1, None]}
    assert content["tensors"][2]["shape"] == [8, 8]
    assert content["recipe_text"] == make_report().recipe_text
    assert content["summary"]["tensors"] == 14
    assert [file.name for file in tmp_path.iterdir()] == ["merge_report.json"]


def test_numbers_for_people():
    assert [number(value) for value in (None, 0.0, -0.01234, 12345.6, 0.5)] == [
        "–",
        "0",
        "−0.0123",
        "12,346",
        "0.5",
    ]
    assert [size(value) for value in (0, 1023, 1536, 3 * 2**30, 5 * 2**40)] == [
        "0 B",
        "1023 B",
        "1.5 KiB",
        "3.0 GiB",
        "5.0 TiB",
    ]


def hostile_report():
    attack = PAYLOADS[0] + PAYLOADS[2]
    tensors = [
        TensorReport(payload, (2, 2), payload, 4, settings={payload: payload}, warnings=[payload])
        for payload in PAYLOADS
    ]
    tensors += [
        TensorReport(f"layers.{layer}.{PAYLOADS[1]}", (2,), "m", 2, conflicts=0.1) for layer in range(3)
    ]
    return make_report(
        tensors,
        method=attack,
        base=PAYLOADS[1],
        experts=[PAYLOADS[2], PAYLOADS[3]],
        models={payload: payload for payload in PAYLOADS},
        recipe_text="\n".join(PAYLOADS),
        versions={attack: attack},
        warnings=PAYLOADS,
        output_dtype=attack,
    )


def test_hostile_text_is_escaped():
    page = render(hostile_report())
    assert page.count("<script") == 1 and page.count("</script") == 1
    assert not re.search(r"<(img|iframe)\b", page)
    assert not set("\x00\x1b\u202e") & set(page) and "\ud800" not in page
    assert "{{ 7 * 7 }}" in page and "49" not in page
    assert "default-src &#39;none&#39;" in page or "default-src 'none'" in page
    assert not re.search(r"(?:src|href)=\"(?!#)", page) and " style=" not in page


def test_the_page_has_warnings_first_and_everything_else(tmp_path):
    path = write_html(make_report(warnings=["the tokenizers differ"]), tmp_path)
    page = path.read_text(encoding="utf-8")
    assert path.name == "merge_report.html"
    assert (
        page.index("the tokenizers differ")
        < page.index("the experts are nearly the same")
        < page.index("Work")
    )
    assert "model.layers.2.self_attn.q_proj.weight and 1 more" in page
    assert "3 warnings" in page and "3.0 GiB read, 1.0 MiB written" in page
    for text in ("merge_method: ties", "1" * 64, "20.0 % · 50.0 %", "32 looked at", "density=0.2", "8 × 8"):
        assert text in page
    assert page.count('<svg class="heat"') == 3
    assert "layer 5, self_attn.q_proj: 0.833" in page
