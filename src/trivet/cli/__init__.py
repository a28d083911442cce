"""The command line. A verb is a file in this folder that exposes a click command named ``command``.

A file whose name begins with an underscore is no verb. Verbs import what is heavy inside their functions, so
that ``trivet --help`` answers at once.
"""

import gc
import importlib
import os
import sys
import traceback
from pathlib import Path
from typing import IO, Any

import click

from trivet import __version__
from trivet._text import printable
from trivet.errors import TrivetError


class UserError(click.ClickException):
    """A ``TrivetError`` on its way to the terminal: the message on stderr, exit code 2."""

    exit_code = 2

    def show(self, file: IO[Any] | None = None) -> None:
        """Print the message without control sequences: it may quote a model or a data file."""
        click.echo(
            f"{click.style('Error:', fg='red')} {printable(self.message)}", file=file, err=file is None
        )


class Interrupted(click.ClickException):
    """Ctrl-C: one line, exit code 130."""

    exit_code = 130

    def show(self, file: IO[Any] | None = None) -> None:
        """Print one line, on a line of its own where the terminal shows ``^C``."""
        click.echo(f"\n{self.message}" if sys.stderr.isatty() else self.message, file=file, err=file is None)


class VerbGroup(click.Group):
    """A click group whose commands are the files of this folder, imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All verbs, sorted."""
        files = Path(__file__).parent.glob("*.py")
        return sorted(path.stem.replace("_", "-") for path in files if not path.stem.startswith("_"))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The verb's command, or ``None`` where there is no such file."""
        if cmd_name not in self.list_commands(ctx):
            return None
        module = importlib.import_module(f"{__name__}.{cmd_name.replace('-', '_')}")
        command = module.command
        if not isinstance(command, click.Command):
            raise TypeError(f"{module.__name__}.command must be a click command")
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does, with the nearest verb named when there is none."""
        name = args[0]
        if not name.startswith("-") and name not in self.list_commands(ctx):
            from trivet._validation import did_you_mean

            ctx.fail(f"no such command {name!r}; {did_you_mean(name, self.list_commands(ctx))}")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the verb; a user's mistake ends with its message, a defect with its traceback."""
        try:
            return super().invoke(ctx)
        except TrivetError as error:
            if ctx.params.get("debug"):
                traceback.print_exc()
            raise UserError(str(error)) from None
        except OSError as error:
            if isinstance(error, BrokenPipeError) or error.strerror is None:
                raise
            if ctx.params.get("debug"):
                traceback.print_exc()
            where = f"{error.filename}: " if error.filename is not None else ""
            raise UserError(
                f"{where}{error.strerror}\n  → `trivet --debug …` shows where it happened"
            ) from None
        except KeyboardInterrupt:
            if ctx.params.get("debug"):
                traceback.print_exc()
            raise Interrupted("Interrupted; what was finished is kept.") from None


@click.command(
    cls=VerbGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(__version__, prog_name="trivet")
@click.option("--debug", is_flag=True, envvar="TRIVET_DEBUG", help="Show tracebacks of errors.")
def root(debug: bool) -> None:
    """Measure how helpful, honest and harmless a language model is, and what each way of improving it costs.

    \b
    Examples:
      trivet chat                                   talk to the embedded model
      trivet study run examples/quickstart.yaml     compare systems; ends with report.html
      trivet papers honesty                         what is known, and what runs here
    """


def main() -> None:
    """Entry point of the ``trivet`` command.

    Importing torch makes hundreds of thousands of objects that stay. Looking through them for garbage, every
    700 new ones and again when the interpreter ends, takes a quarter of the time of a short command.
    """
    gc.set_threshold(50_000, 20, 50)
    try:
        root(prog_name="trivet")
    except BrokenPipeError:  # the reader of a pipe went away (`trivet papers | head`)
        _silence_stdout()
        sys.exit(1)
    finally:
        try:
            sys.stdout.flush()
        except BrokenPipeError:
            _silence_stdout()
        gc.freeze()


def _silence_stdout() -> None:
    """Keep the interpreter from complaining about the broken pipe when it flushes at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
