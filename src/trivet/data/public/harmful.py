"""Public sets of harmful requests (kind ``harmless``: a harmless system refuses them)."""

from typing import Any

from trivet.data.public._registry import Hub, LeftOut, SourceRow, public_set


@public_set(
    title="HarmBench text behaviours, standard and contextual (arXiv 2402.04249)",
    kind="harmless",
    licence="MIT",
    source="https://github.com/centerforaisafety/HarmBench (data/behavior_datasets)",
    files={"all": ("behaviors.jsonl", "harmbench_behaviors_text_all.csv")},
)
def harmbench(row: SourceRow) -> dict[str, Any] | LeftOut:
    """The context of a contextual behaviour goes before the request, parted by a rule as HarmBench does."""
    kind = row.text("FunctionalCategory")
    if kind == "copyright":
        return LeftOut("a copyright behaviour, which only comparison with the protected text can judge")
    context = row.optional("ContextString")
    prompt = row.text("Behavior")
    return {
        "id": row.text("BehaviorID"),
        "prompt": f"{context}\n\n---\n\n{prompt}" if context else prompt,
        "category": row.text("SemanticCategory"),
        "metadata": {"functional_category": kind, "tags": row.optional("Tags")},
    }


@public_set(
    title="AdvBench harmful behaviours (arXiv 2307.15043)",
    kind="harmless",
    licence="MIT",
    source="https://github.com/llm-attacks/llm-attacks (data/advbench/harmful_behaviors.csv)",
    files={"all": ("behaviors.jsonl", "harmful_behaviors.csv", "advbench*.csv")},
    hub=Hub("walledai/AdvBench", {"all": ("data/train-*.parquet", "*.csv")}),
)
def advbench(row: SourceRow) -> dict[str, Any]:
    """AdvBench has no categories."""
    own = row.optional("id").removeprefix("advbench_")
    return {
        **({"id": own} if own else {}),
        "prompt": row.text("goal", "prompt"),
        "category": "harmful_behaviour",
        "metadata": {"target": row.text("target")},
    }


@public_set(
    title="StrongREJECT forbidden prompts (arXiv 2402.10260)",
    kind="harmless",
    licence="MIT",
    source="https://github.com/alexandrasouly/strongreject (strongreject_dataset)",
    files={"all": ("prompts.jsonl", "strongreject_dataset.csv", "strongreject_small_dataset.csv")},
    hub=Hub("walledai/StrongREJECT", {"all": ("data/train-*.parquet", "*.csv")}),
)
def strongreject(row: SourceRow) -> dict[str, Any]:
    """``source`` says which older set a prompt came from."""
    return {
        "prompt": row.text("forbidden_prompt", "prompt"),
        "category": row.text("category"),
        "metadata": {"source": row.optional("source")},
    }


@public_set(
    title="JailbreakBench, 100 harmful behaviours (arXiv 2404.01318)",
    kind="harmless",
    licence="MIT",
    source="https://github.com/JailbreakBench/jailbreakbench",
    files={"all": ("behaviors.jsonl", "harmful-behaviors.csv")},
    hub=Hub("JailbreakBench/JBB-Behaviors", {"all": ("data/harmful-behaviors.csv",)}),
)
def jailbreakbench(row: SourceRow) -> dict[str, Any]:
    """The goals as they stand, without a jailbreak."""
    return _jailbreakbench_goal(row)


@public_set(
    title="JailbreakBench, 100 benign behaviours on the same themes (arXiv 2404.01318)",
    kind="over_refusal",
    licence="MIT",
    source="https://github.com/JailbreakBench/jailbreakbench",
    files={"all": ("benign-behaviors.csv",)},
    hub=Hub("JailbreakBench/JBB-Behaviors", {"all": ("data/benign-behaviors.csv",)}),
)
def jailbreakbench_benign(row: SourceRow) -> dict[str, Any]:
    """Requests that a helpful system meets."""
    return _jailbreakbench_goal(row)


def _jailbreakbench_goal(row: SourceRow) -> dict[str, Any]:
    return {
        "id": str(row.values[row.name("index", "Index")]),
        "prompt": row.text("goal", "Goal"),
        "category": row.text("category", "Category"),
        "metadata": {"behavior": row.text("behavior", "Behavior")},
    }


@public_set(
    title="JailbreakBench, jailbreak prompts of published attacks (arXiv 2404.01318)",
    kind="harmless",
    licence="MIT",
    source="https://github.com/JailbreakBench/artifacts (attack-artifacts)",
    files={"all": ("artifacts.jsonl", "*.json")},
    records="jailbreaks",
)
def jailbreakbench_artifacts(row: SourceRow) -> dict[str, Any] | LeftOut:
    """Prompts of several attacks on one goal form a cluster, since they are not independent."""
    if not row.optional("prompt"):
        return LeftOut("the attack gave no prompt")
    index = str(row.values[row.name("index")])
    attack, target = row.optional("attack") or row.stem, row.optional("target_model") or row.stem
    return {
        "id": f"{attack}-{target}-{index}",
        "prompt": row.text("prompt"),
        "category": row.text("category"),
        "metadata": {
            "attack": attack,
            "target_model": target,
            "behavior": row.text("behavior"),
            "goal": row.text("goal"),
            "jailbroken": row.optional("jailbroken").lower() == "true",
            "cluster": f"jailbreakbench-{index}",
        },
    }


def _catqa(row: SourceRow) -> dict[str, Any] | LeftOut:
    category = row.text("category", "Category")
    if category == "Child Abuse":
        return LeftOut("a question about the abuse of children")
    return {
        "prompt": row.text("question", "Question"),
        "category": category,
        "metadata": {"subcategory": row.optional("subcategory", "Subcategory")},
    }


@public_set(
    title="CatQA harmful questions, English (arXiv 2402.11746)",
    kind="harmless",
    licence="Apache-2.0",
    source="https://github.com/declare-lab/red-instruct (catqa)",
    files={"all": ("questions.jsonl", "catqa_english.json", "catqa_english.jsonl")},
    hub=Hub("declare-lab/CategoricalHarmfulQA", {"all": ("data/en-*.parquet", "*english*.json")}),
)
def catqa_en(row: SourceRow) -> dict[str, Any] | LeftOut:
    """Eleven categories with five subcategories each; the one about children is left out."""
    return _catqa(row)


@public_set(
    title="CatQA harmful questions, Chinese (arXiv 2402.11746)",
    kind="harmless",
    licence="Apache-2.0",
    source="https://github.com/declare-lab/red-instruct (catqa)",
    files={"all": ("questions.jsonl", "catqa_chinese.json", "catqa_chinese.jsonl")},
    hub=Hub("declare-lab/CategoricalHarmfulQA", {"all": ("data/zh-*.parquet", "*chinese*.json")}),
)
def catqa_zh(row: SourceRow) -> dict[str, Any] | LeftOut:
    """The English questions in Chinese."""
    return _catqa(row)
