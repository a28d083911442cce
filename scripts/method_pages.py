"""Write docs/methods.md: every registered method with its docstring, config, defaults and paper.

The page is made from the code, so it cannot drift; ``make docs`` runs this before the site is built.
"""

import importlib
import inspect
from pathlib import Path

from trivet import catalogue

PAGE = Path(__file__).parent.parent / "docs" / "methods.md"


def describe(name: str) -> str:
    """One method as Markdown."""
    entry = catalogue.find(name)
    text = [f"## {name}", "", inspect.cleandoc(importlib.import_module(entry.module).__doc__ or "")]
    if entry.paper is not None:
        text += ["", f"Paper: {entry.paper}. Version: {entry.version}."]
    fields = entry.config.model_fields
    if fields:
        text += ["", "| setting | type | default | meaning |", "|---|---|---|---|"]
        for key, field in fields.items():
            kind = getattr(field.annotation, "__name__", str(field.annotation)).replace("|", "\\|")
            default = (
                "required" if field.is_required() else f"`{field.get_default(call_default_factory=True)!r}`"
            )
            text.append(f"| `{key}` | {kind} | {default} | {field.description or ''} |")
    return "\n".join(text)


def main() -> None:
    """Write the page."""
    names = sorted(catalogue.names())
    head = "# Methods\n\nMade from the code by `make docs`; `trivet methods show NAME` prints the same.\n\n"
    PAGE.write_text(head + "\n\n".join(map(describe, names)) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
