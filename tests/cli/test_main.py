"""The command line's skeleton: verbs by file, exit codes, no traceback for a user's mistake."""

import os
import subprocess
import sys
import time

import click
import pytest
from click.testing import CliRunner

from trivet import __version__, cli
from trivet.errors import ConfigError

HEAVY = ("torch", "transformers", "inspect_ai", "datasets", "numpy", "scipy")


def run(*arguments: str, **options: object) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "trivet", *arguments], capture_output=True, text=True, timeout=60, **options
    )


@pytest.fixture
def verb(monkeypatch):
    """Install a verb named ``fail`` that raises what it is given."""

    def install(error: BaseException) -> None:
        @click.command()
        def fail() -> None:
            raise error

        listed = cli.VerbGroup.list_commands
        found = cli.VerbGroup.get_command
        monkeypatch.setattr(
            cli.VerbGroup, "list_commands", lambda self, context: [*listed(self, context), "fail"]
        )
        monkeypatch.setattr(
            cli.VerbGroup,
            "get_command",
            lambda self, context, name: fail if name == "fail" else found(self, context, name),
        )

    return install


def test_every_verb_is_a_click_command_with_help_and_an_example():
    context = click.Context(cli.root)
    verbs = cli.root.list_commands(context)
    assert {"models", "papers", "methods", "env"} <= set(verbs)
    for name in verbs:
        command = cli.root.get_command(context, name)
        assert command.get_short_help_str(), name
        assert "trivet " + name in (command.help or ""), f"`trivet {name} --help` shows no example"


def test_help_and_every_verbs_help_import_nothing_heavy():
    code = (
        "import sys, click\nfrom trivet import cli\ncontext = click.Context(cli.root)\n"
        "for name in cli.root.list_commands(context):\n    cli.root.get_command(context, name)\n"
        f"    print(name, [heavy for heavy in {HEAVY!r} if heavy in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout and all(line.endswith("[]") for line in done.stdout.splitlines()), done.stdout


def test_help_answers_in_half_a_second():
    run("--help")
    times = []
    for _ in range(5):
        start = time.perf_counter()
        assert run("--help").returncode == 0
        times.append(time.perf_counter() - start)
    assert min(times) < 0.5, times


def test_version():
    assert run("--version").stdout.strip() == f"trivet, version {__version__}"


def test_an_unknown_verb_names_the_nearest_and_exits_with_2():
    done = run("paper")
    assert done.returncode == 2
    assert "no such command 'paper'; did you mean 'papers'?" in done.stderr


def test_a_users_mistake_is_one_message_without_traceback(verb):
    verb(ConfigError("unknown key 'modle'", where="system.yaml", hint="did you mean 'model'?"))
    result = CliRunner().invoke(cli.root, ["fail"])
    assert result.exit_code == 2
    assert result.stderr == "Error: system.yaml: unknown key 'modle'\n  → did you mean 'model'?\n"
    assert result.stdout == ""


def test_debug_shows_the_traceback(verb, capsys):
    verb(ConfigError("wrong"))
    result = CliRunner().invoke(cli.root, ["--debug", "fail"])
    assert result.exit_code == 2
    assert "Traceback" in result.stderr


def test_control_sequences_in_a_message_do_not_reach_the_terminal(verb):
    verb(ConfigError("row 3 holds '\x1b[2J\x1b]0;owned\x07\u202etxt'"))
    result = CliRunner().invoke(cli.root, ["fail"])
    assert "\x1b" not in result.stderr and "\u202e" not in result.stderr
    assert "row 3 holds" in result.stderr


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (PermissionError(13, "Permission denied", "/root/x.yaml"), "/root/x.yaml: Permission denied"),
        (OSError(28, "No space left on device"), "No space left on device"),
    ],
)
def test_what_the_system_refuses_is_one_message(verb, error, message):
    verb(error)
    result = CliRunner().invoke(cli.root, ["fail"])
    assert result.exit_code == 2
    assert result.stderr.startswith(f"Error: {message}\n  → ")


def test_interrupt_is_one_line_and_130(verb):
    verb(KeyboardInterrupt())
    result = CliRunner().invoke(cli.root, ["fail"])
    assert result.exit_code == 130
    assert result.stderr.strip() == "Interrupted; what was finished is kept."


def test_a_defect_keeps_its_traceback(verb):
    verb(ZeroDivisionError("a defect"))
    assert isinstance(CliRunner().invoke(cli.root, ["fail"]).exception, ZeroDivisionError)


def test_a_closed_pipe_is_quiet():
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "trivet", "papers", "--json"], stdout=writer, stderr=subprocess.PIPE, text=True
    )
    os.close(writer)
    assert done.stderr == ""
    assert done.returncode == 1
