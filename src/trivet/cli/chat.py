"""``trivet chat``: talk to a system."""

import sys
from typing import TYPE_CHECKING, Any

import click

from trivet.cli._output import console
from trivet.cli._systems import EMBEDDED, engine_options, open_system

if TYPE_CHECKING:
    from rich.console import Console

    from trivet.systems import System

HELP = "/reset forgets the conversation, /exit leaves, Ctrl-C stops an answer, twice leaves."


@click.command(name="chat")
@click.argument("system", default=EMBEDDED)
@click.option("--max-tokens", type=click.IntRange(min=1), help="Tokens an answer, at most.")
@click.option("--temperature", type=click.FloatRange(min=0, max=100), help="0 is greedy.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the first answer.")
@engine_options
def command(
    system: str,
    max_tokens: int | None,
    temperature: float | None,
    seed: int,
    engine: str | None,
    device: str | None,
    dtype: str | None,
) -> None:
    """Talk to SYSTEM: a system.yaml, or a model's name; by default the embedded model.

    Where stdin is not a terminal, each line is a message and only the answers are printed.

    \b
    Examples:
      trivet chat
      trivet chat examples/systems/constitution.yaml --temperature 0.7
      echo "What is the capital of France?" | trivet chat
    """
    options: dict[str, Any] = {"max_tokens": max_tokens}
    if temperature is not None:
        options["sampling"] = {"temperature": temperature}
    with open_system(system, engine, device, dtype) as opened:
        _Conversation(opened, options, seed).run()


def _text(line: str) -> str:
    """``line``, refused where stdin's bytes were not text: Python marks those as lone surrogates."""
    from trivet.errors import DataError

    try:
        line.encode("utf-8")
    except UnicodeEncodeError:
        raise DataError("the message is not UTF-8", where="stdin", hint="send UTF-8 text") from None
    return line


class _Conversation:
    """Reads messages, prints answers, keeps the chat."""

    def __init__(self, system: "System", options: dict[str, Any], seed: int) -> None:
        self._system = system
        self._options = options
        self._seed = seed
        self._chat: list[dict[str, Any]] = []
        self._terminal = sys.stdin.isatty()
        self._out: Console = console()

    def run(self) -> None:
        from trivet.errors import TrivetError

        if self._terminal:
            import readline  # noqa: F401 - gives input() its line editing

            self._note(f"{self._system.identity}. {HELP}")
        interrupted = False
        while True:
            try:
                message = self._read()
                if message is None:
                    return
                interrupted = not self._handle(message)
            except KeyboardInterrupt:
                if not self._terminal:
                    raise
                if interrupted:
                    self._out.print()
                    return
                interrupted = True
                self._note("\nCtrl-C again leaves.")
            except TrivetError as error:
                if self._chat and self._chat[-1]["role"] == "user":
                    self._chat.pop()  # the message that could not be answered
                if not self._terminal:
                    raise
                self._note(f"Error: {error}")

    def _read(self) -> str | None:
        """The next message, ``None`` at the end."""
        if not self._terminal:
            line = sys.stdin.readline()
            return _text(line).rstrip("\n") if line else None
        try:
            return _text(input("> "))
        except EOFError:
            self._out.print()
            return None

    def _handle(self, message: str) -> bool:
        """Carry out a command or answer a message; ``False`` where Ctrl-C stopped the answer."""
        word = message.strip()
        if word == "/exit":
            raise click.exceptions.Exit(0)
        if word == "/reset":
            self._chat.clear()
            self._note("The conversation is forgotten.")
        elif word.startswith("/") and " " not in word:
            self._note(f"Unknown command. {HELP}")
        elif word:
            return self._answer(message)
        return True

    def _answer(self, message: str) -> bool:
        """Stream one answer; what was shown of a stopped answer stays in the conversation."""
        import queue
        from concurrent.futures import CancelledError

        from trivet.models.reasoning import ReasoningMarkers, ReasoningStream

        self._chat.append({"role": "user", "content": message})
        reasoning = self._system.spec.reasoning
        stream = ReasoningStream(ReasoningMarkers(reasoning.start, reasoning.end) if reasoning else None)
        pieces: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        shown: list[str] = []
        pending = None
        stopped = False
        try:
            pending = self._system.submit(
                list(self._chat), seed=self._seed, on_text=pieces.put, **self._options
            )
            pending.handle.add_done_callback(lambda _: pieces.put(None))
            while (piece := pieces.get()) is not None:
                self._show(stream.feed(piece), shown)
        except KeyboardInterrupt:
            if pending is None:
                self._chat.pop()
                raise
            pending.handle.cancel()
            stopped = True
        self._seed += 1
        self._show(stream.finish(), shown)
        self._out.print()
        if stopped:
            self._chat.append({"role": "assistant", "content": "".join(shown).strip()})
            self._note("(stopped; Ctrl-C again leaves)")
            if not self._terminal:
                raise KeyboardInterrupt
            return False
        try:
            answer = pending.answer()
        except CancelledError:
            return True
        self._chat.append({"role": "assistant", "content": answer.text})
        if self._terminal:
            tokens, seconds = answer.usage.completion_tokens, answer.seconds
            self._note(f"{tokens} tokens, {tokens / max(seconds, 1e-6):.0f} tokens/s, {answer.stop_reason}")
        return True

    def _show(self, parts: list[tuple[Any, str]], shown: list[str]) -> None:
        from rich.text import Text

        from trivet._text import printable

        for kind, text in parts:
            if kind == "text":
                shown.append(text)
            style = "dim italic" if kind == "reasoning" else ""
            self._out.print(Text(printable(text), style=style), end="", soft_wrap=True)
        self._out.file.flush()

    def _note(self, text: str) -> None:
        from trivet._text import printable

        if self._terminal:
            self._out.print(printable(text), style="dim", soft_wrap=True)
