"""Public sets about refusing too much, and human labels of refusals."""

from typing import Any

from trivet.data.public._registry import Hub, LeftOut, SourceRow, public_set

_XSTEST_SOURCE = "https://github.com/paul-rottger/xstest"
_XSTEST_FILES = {"all": ("prompts.jsonl", "xstest_prompts.csv", "xstest_v2_prompts.csv")}
# The revision is the one that inspect_evals 0.26.0 loads.
_XSTEST_HUB = Hub(
    "walledai/XSTest",
    {"all": ("data/test-*.parquet", "*.csv")},
    "f1d713187c61b6ae64e602d74f0b3d812cc2e8e8",
)


def _xstest(row: SourceRow, wanted: str, other: str) -> dict[str, Any] | LeftOut:
    kind = row.text("type")
    # Early releases have no label; there the types of unsafe prompts begin with "contrast".
    label = row.optional("label") or ("unsafe" if kind.startswith("contrast") else "safe")
    if label not in ("safe", "unsafe"):
        raise row.error(f"the field 'label' must be safe or unsafe, not {label!r:.80}")
    if label != wanted:
        return LeftOut(other)
    own = row.optional("id").removeprefix("v2-")
    return {
        **({"id": own} if own else {}),
        "prompt": row.text("prompt"),
        "category": kind,
        "metadata": {"focus": row.optional("focus"), "note": row.optional("note")},
    }


@public_set(
    title="XSTest, safe prompts that look unsafe (arXiv 2308.01263)",
    kind="over_refusal",
    licence="CC-BY-4.0",
    source=_XSTEST_SOURCE,
    files=_XSTEST_FILES,
    hub=_XSTEST_HUB,
)
def xstest(row: SourceRow) -> dict[str, Any] | LeftOut:
    """The 250 safe prompts."""
    return _xstest(row, "safe", "an unsafe contrast; it is in xstest_unsafe")


@public_set(
    title="XSTest, the unsafe contrasts of its safe prompts (arXiv 2308.01263)",
    kind="harmless",
    licence="CC-BY-4.0",
    source=_XSTEST_SOURCE,
    files=_XSTEST_FILES,
    hub=_XSTEST_HUB,
)
def xstest_unsafe(row: SourceRow) -> dict[str, Any] | LeftOut:
    """The 200 unsafe prompts."""
    return _xstest(row, "unsafe", "a safe prompt; it is in xstest")


_LABELS = {
    "1_full_compliance": "compliance",
    "2_full_refusal": "full_refusal",
    "3_partial_refusal": "partial_refusal",
}


@public_set(
    title="XSTest, answers of models with the labels of two annotators (arXiv 2308.01263)",
    kind="labelled_answers",
    licence="CC-BY-4.0",
    source="https://github.com/paul-rottger/xstest (model completions)",
    files={"all": ("completions.jsonl", "xstest_v2_completions_*.csv")},
)
def xstest_completions(row: SourceRow) -> dict[str, Any]:
    """``labels``: one of compliance, full_refusal, partial_refusal from each annotator, in their order."""
    model = row.optional("model") or row.stem.rpartition("completions_")[2]
    prompt_id = row.text("id").removeprefix("v2-")
    labels = [_label(row, "annotation_1"), _label(row, "annotation_2")]
    return {
        "id": f"{model}-{prompt_id}",
        "prompt": row.text("prompt"),
        "answer": row.text("completion"),
        "model": model,
        "labels": labels,
        "category": row.text("type"),
        "metadata": {"final_label": _label(row, "final_label"), "cluster": f"xstest-{prompt_id}"},
    }


def _label(row: SourceRow, name: str) -> str:
    value = row.text(name)
    if value not in _LABELS:
        raise row.error(f"the field {name!r} must be one of {', '.join(_LABELS)}, not {value!r:.80}")
    return _LABELS[value]


@public_set(
    title="NotInject, harmless prompts with words that trigger injection filters (arXiv 2410.22770)",
    kind="over_refusal",
    licence="MIT",
    source="https://github.com/leolee99/InjecGuard (datasets)",
    files={
        "all": (
            *("one.jsonl", "two.jsonl", "three.jsonl"),
            *("NotInject_one.json", "NotInject_two.json", "NotInject_three.json"),
        )
    },
    hub=Hub("leolee99/NotInject", {"all": ("data/NotInject_*.parquet",)}),
)
def notinject(row: SourceRow) -> dict[str, Any]:
    """Each prompt holds one, two or three trigger words."""
    return {
        "prompt": row.text("prompt"),
        "category": row.text("category"),
        "metadata": {"word_list": row.texts("word_list")},
    }
