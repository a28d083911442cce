"""The report in a real browser: hostile text stays text, filters and keys work, pictures are taken.

Drives Debian's headless Chromium over the WebDriver protocol with plain HTTP. Screenshots are written to the
folder in ``TRIVET_SCREENSHOTS`` where that is set, otherwise to pytest's temporary folder.
"""

import base64
import os
import random
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from trivet.study.report import Transcript, render
from trivet.study.results import Mark

pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(
        not (shutil.which("chromium") and shutil.which("chromedriver")),
        reason="needs Debian's packages chromium and chromium-driver",
    ),
]

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
]

PAYLOADS = [
    "<script>document.title = 'owned'</script>",
    "</script><script>document.title = 'owned'</script>",
    "<img src=x onerror=\"document.title='owned'\">",
    "<svg onload=\"document.title='owned'\"><circle r=9></svg>",
    "\"><iframe srcdoc='<script>parent.document.title=1</script>'></iframe>",
    "{{ 7 * 7 }} ${7 * 7} <!-- ]]> &lt;b&gt;",
    "\x1b[2J\x1b]0;owned\x07red \x1b[31malert\x1b[0m",
    "\u202egnp.exe\u2066hidden\u2069",
    "null\x00byte \ufeff\u200b \ud800",
    "javascript:document.title='owned'",
]


class Browser:
    """One browser session, spoken to over WebDriver."""

    def __init__(self, address: str, profile: Path) -> None:
        self._http = httpx.Client(base_url=address, timeout=60, trust_env=False)
        options = {"binary": shutil.which("chromium"), "args": [*FLAGS, f"--user-data-dir={profile}"]}
        wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        answer = self._call("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
        self._session = f"/session/{answer['sessionId']}"

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        answer = self._http.request(method, path, json=body if method == "POST" else None).json()
        value = answer["value"]
        if isinstance(value, dict) and "error" in value:
            raise RuntimeError(f"{value['error']}: {value['message']}")
        return value

    def open(self, path: Path, width: int = 1280, height: int = 900) -> None:
        """Load a file in a window of the given size and wait until the transcripts are drawn."""
        self._command("Emulation.setDeviceMetricsOverride", width=width, height=height, mobile=False)
        self._call("POST", f"{self._session}/url", {"url": path.as_uri()})
        self.wait("document.getElementById('count').textContent !== ''")

    def _command(self, name: str, **parameters: Any) -> Any:
        parameters.setdefault("deviceScaleFactor", 1) if name.endswith("MetricsOverride") else None
        body = {"cmd": name, "params": parameters}
        return self._call("POST", f"{self._session}/goog/cdp/execute", body)

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression."""
        body = {"script": f"return ({script})", "args": []}
        return self._call("POST", f"{self._session}/execute/sync", body)

    def wait(self, condition: str, seconds: float = 20) -> None:
        """Wait until an expression is true."""
        end = time.monotonic() + seconds
        while not self.run(condition):
            assert time.monotonic() < end, f"not within {seconds} s: {condition}"
            time.sleep(0.02)

    def press(self, keys: str) -> None:
        """Type keys into whatever has the focus."""
        actions = [{"type": kind, "value": key} for key in keys for kind in ("keyDown", "keyUp")]
        body = {"actions": [{"type": "key", "id": "keyboard", "actions": actions}]}
        self._call("POST", f"{self._session}/actions", body)

    def colours(self, scheme: str) -> None:
        """Emulate a system that prefers light or dark."""
        self._command(
            "Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}]
        )

    def log(self) -> list[str]:
        """Messages of the console since the last call."""
        entries = self._call("POST", f"{self._session}/se/log", {"type": "browser"})
        return [entry["message"] for entry in entries]

    def picture(self, path: Path) -> None:
        """A screenshot of the whole page."""
        parameters = {"format": "png", "captureBeyondViewport": True}
        path.write_bytes(base64.b64decode(self._command("Page.captureScreenshot", **parameters)["data"]))

    def has_dialog(self) -> bool:
        """True where the page opened an alert."""
        try:
            self._call("GET", f"{self._session}/alert/text")
        except RuntimeError:
            return False
        return True

    def close(self) -> None:
        """End the session."""
        self._call("DELETE", self._session)
        self._http.close()


@pytest.fixture(scope="module")
def driver(tmp_path_factory) -> Iterator[str]:
    log = tmp_path_factory.mktemp("driver") / "log"
    with log.open("w") as stream:
        process = subprocess.Popen(
            [shutil.which("chromedriver"), "--port=0"], stdout=subprocess.PIPE, stderr=stream, text=True
        )
    port = None
    for line in process.stdout:
        if "started successfully on port" in line:
            port = line.rstrip().rstrip(".").rsplit(" ", 1)[-1]
            break
    assert port, log.read_text()
    yield f"http://127.0.0.1:{port}"
    process.terminate()
    process.wait(20)
    process.stdout.close()


@pytest.fixture
def browser(driver, tmp_path) -> Iterator[Browser]:
    browser = Browser(driver, tmp_path / "profile")
    yield browser
    browser.close()


@pytest.fixture
def pictures(tmp_path) -> Path:
    folder = Path(os.environ.get("TRIVET_SCREENSHOTS", tmp_path / "pictures"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def test_hostile_text_is_shown_as_text(browser, tmp_path, pictures, results):
    attack = PAYLOADS[0] + PAYLOADS[2]
    study = results(
        levels={"base": (0.4, 0.5, 0.7, 0.3), attack: (0.45, 0.5, 0.8, 0.3)},
        study=attack,
        warnings=PAYLOADS,
        marks=[Mark(text=attack, system=attack, evaluation="harmless")],
    )
    rows = [
        Transcript(
            system=system,
            evaluation="harmless",
            component="harmless",
            sample_id=f"{number} {payload}",
            epoch=1,
            prompt=f"prompt {payload}",
            answer=f"answer {payload}",
            value=None if number % 2 else 1.0,
            reason=payload,
            label=payload,
            category=payload,
            judge=payload,
            reasoning=payload,
        )
        for number, payload in enumerate(PAYLOADS)
        for system in ("base", attack)
    ]
    path = tmp_path / "report.html"
    path.write_text(render(study, rows), encoding="utf-8")
    browser.open(path)

    assert not browser.has_dialog()
    assert "owned" not in browser.run("document.title.replace(/.*· Trivet report/s, '')")
    assert browser.run("document.querySelectorAll('script').length") == 2
    assert browser.run("document.querySelectorAll('img, iframe, object, embed, link, base').length") == 0
    assert (
        browser.run("document.querySelectorAll('#list script, #list svg[onload], #list *[onerror]').length")
        == 0
    )
    assert browser.run("document.querySelectorAll('circle[r=\"9\"]').length") == 0
    assert browser.run("document.querySelectorAll('#list .prompt').length") == len(PAYLOADS)
    shown = browser.run(
        "[...document.querySelectorAll('#list .answer > .text')].map(node => node.textContent)"
    )
    for payload in PAYLOADS[:6]:
        assert f"answer {payload}" in shown
    assert any("␛[2J␛]0;owned␇red ␛[31malert" in text for text in shown)
    assert any("[U+202E]gnp.exe[U+2066]hidden[U+2069]" in text for text in shown)
    assert any("null␀byte [U+FEFF][U+200B] [U+D800]" in text for text in shown)
    whole = browser.run("document.documentElement.textContent")
    assert not set("\x00\x1b\u202e\u2066") & set(whole)
    assert [line for line in browser.log() if "favicon" not in line] == [], "no error, no refused resource"
    browser.picture(pictures / "hostile.png")


def test_the_policy_stops_a_script_that_is_put_into_the_page(browser, tmp_path, results):
    path = tmp_path / "report.html"
    page = render(results(), [])
    path.write_text(page.replace("<footer>", "<script>document.title = 'owned'</script><footer>"))
    browser.open(path)
    assert browser.run("document.title") == "quickstart · Trivet report"
    assert any("Content Security Policy" in line for line in browser.log())
    script = "(() => { try { return new Function('return 1')() } catch (error) { return error.name } })()"
    assert browser.run(script) in {"EvalError", 1}  # WebDriver's own world may be exempt


def test_search_filter_pages_and_keys(browser, tmp_path, results, transcripts):
    study = results()
    rows = transcripts(study, 60)
    rows[0] = replace(rows[0], answer="A needle, and another Needle.")
    path = tmp_path / "report.html"
    path.write_text(render(study, rows))
    browser.open(path)

    count, page = (
        "document.getElementById('count').textContent",
        "document.getElementById('page').textContent",
    )
    prompts = "document.querySelectorAll('#list .prompt').length"
    assert browser.run(count) == "60 of 60 prompts"
    assert (browser.run(page), browser.run(prompts)) == ("page 1 of 3", 20)

    browser.press("n")
    assert browser.run(page) == "page 2 of 3"
    browser.press("p")
    assert browser.run(page) == "page 1 of 3"
    browser.press("j")
    assert browser.run("document.activeElement === document.querySelectorAll('#list .prompt')[0]")
    browser.press("j" * 20)
    assert browser.run(page) == "page 2 of 3"
    assert browser.run("document.activeElement === document.querySelectorAll('#list .prompt')[0]")

    browser.press("/")
    assert browser.run("document.activeElement.id") == "search"
    browser.press("needle")
    browser.wait(f"{count} === '1 of 60 prompts'")
    marked = "[...document.querySelectorAll('#list mark')].map(node => node.textContent)"
    assert browser.run(marked) == ["needle", "Needle"]
    browser.press("\ue00c")  # Escape
    browser.wait(f"{count} === '60 of 60 prompts'")

    browser.run(_CHOOSE.format("evaluation", "harmless"))
    assert browser.run(count) == "20 of 60 prompts"
    browser.run(_CHOOSE.format("outcome", "compliance"))
    with_compliance = {row.sample_id for row in rows if row.label == "compliance"}
    assert browser.run(count) == f"{len(with_compliance)} of 60 prompts"
    browser.run("document.querySelector('#systems input').click()")
    assert browser.run("document.querySelector('#list .answers').children.length") == 3
    others = {row.sample_id for row in rows if row.label == "compliance" and row.system != "base"}
    assert browser.run(count) == f"{len(others)} of 60 prompts"
    browser.run("document.querySelector('#systems input').click()")
    browser.run(_CHOOSE.format("outcome", "all"))
    browser.run(_CHOOSE.format("order", "systems differ most first"))
    first = "[...document.querySelectorAll('#list li:first-child .score')].map(node => node.textContent)"
    assert set(browser.run(first)) == {"0", "1"}


def test_the_tree_of_an_answer_opens_by_keyboard(browser, tmp_path, pictures, results):
    attack = PAYLOADS[2]
    step = {
        "rewinds": 8,
        "chosen": 1,
        "candidates": [{"text": attack, "value": -0.5}, {"text": " b", attack: 1}],
    }
    note = {"method": "rain", "searches": 9, "steps": [step, step], "steps_left_out": 3}
    best = {"method": "best_of_n", "chosen": 0, "candidates": [{"text": attack, "score": 0.25}, {"text": ""}]}
    values = {"evaluation": "e", "component": "e", "sample_id": "a", "epoch": 1, "prompt": "p", "answer": "x"}
    traces = {"base": None, "constitution": [note], "best of 4": [best], "plain prompt": []}
    rows = [Transcript(system=system, trace=trace, **values) for system, trace in traces.items()]
    path = tmp_path / "report.html"
    path.write_text(render(results(), rows))
    browser.colours("dark")
    browser.open(path)
    assert browser.run("document.querySelectorAll('.trace').length") == 2, "only where there is one"
    assert browser.run("document.querySelectorAll('.branch').length") == 0, "made when it is opened"
    browser.run("document.querySelector('.trace > summary').focus()")
    browser.press("\ue007")  # Enter
    browser.wait("document.querySelectorAll('.trace[open] > .branch > li').length === 3")
    lines = browser.run(
        "[...document.querySelectorAll('.trace[open] > .branch > li')].map(n => n.textContent)"
    )
    assert [" ".join(line.split()) for line in lines] == [
        "step 1 b rewinds 8", "step 2 b rewinds 8", "… 3 more steps left out"
    ]  # fmt: skip
    browser.run("document.querySelector('.trace .branch summary').focus()")
    browser.press(" ")
    browser.wait("document.querySelectorAll('.branch .branch > li').length === 2")
    chosen = browser.run("[...document.querySelectorAll('.branch .branch > li')].map(n => n.className)")
    assert chosen == ["", "chosen"]
    said = "[...document.querySelectorAll('.branch .branch .said')].map(n => n.textContent)"
    assert browser.run(said) == [attack, " b"]
    browser.run("document.querySelectorAll('.trace > summary')[1].click()")
    browser.wait("document.querySelectorAll('.trace[open]').length === 2")
    assert browser.run("document.querySelectorAll('img').length") == 0
    assert browser.run(_CONTRAST) == [], "text below 4.5:1"
    assert browser.run("document.documentElement.scrollWidth") <= 1280
    browser.picture(pictures / "tree.png")


def test_the_theme_button_goes_round_and_copying_works(browser, tmp_path, results):
    path = tmp_path / "report.html"
    path.write_text(render(results(), []))
    browser.colours("dark")
    browser.open(path)
    background = "getComputedStyle(document.body).backgroundColor"
    dark = browser.run(background)
    browser.run("document.getElementById('theme').click()")
    light = browser.run(background)
    assert dark != light
    browser.run("document.getElementById('theme').click()")
    assert browser.run(background) == dark
    browser.run("document.querySelector('[data-copy]').click()")
    browser.wait("['Copied', 'Press Ctrl-C'].includes(document.querySelector('[data-copy]').textContent)")
    assert browser.run("document.activeElement.selectionEnd") > 100


@pytest.mark.parametrize(
    ("scheme", "width"), [("light", 1280), ("dark", 1280), ("light", 390), ("dark", 390), ("light", 768)]
)
def test_it_fits_the_screen_and_is_readable(browser, tmp_path, pictures, results, transcripts, scheme, width):
    study = results()
    path = tmp_path / "report.html"
    path.write_text(render(study, transcripts(study, 9)))
    browser.colours(scheme)
    browser.open(path, width)
    assert browser.run("document.documentElement.scrollWidth") <= width, "the page scrolls sideways"
    assert browser.run(_OVERLAPS) == [], "labels of a chart collide"
    assert browser.run(_CONTRAST) == [], "text below 4.5:1"
    browser.picture(pictures / f"report-{scheme}-{width}.png")


def test_many_systems_with_long_names_keep_their_labels_apart(browser, tmp_path, pictures, results):
    random_ = random.Random(2)
    levels = {
        f"system-with-a-long-name-{number}": (
            random_.uniform(0.3, 0.5),
            random_.uniform(0.4, 0.6),
            random_.uniform(0.6, 0.9),
            0.3,
        )
        for number in range(9)
    }
    path = tmp_path / "report.html"
    path.write_text(render(results(levels=levels), []))
    browser.open(path)
    assert browser.run(_OVERLAPS) == []
    assert browser.run("document.documentElement.scrollWidth") <= 1280
    browser.picture(pictures / "many.png")


def test_twenty_thousand_transcripts_stay_usable(browser, tmp_path, results, transcripts):
    study = results()
    path = tmp_path / "report.html"
    path.write_text(render(study, transcripts(study, 5000)))
    browser.open(path)
    assert browser.run("document.getElementById('count').textContent") == "5,000 of 5,000 prompts"
    assert browser.run("document.querySelectorAll('#list .prompt').length") == 20
    script = _TIMED.format(_CHOOSE.format("order", "systems differ most first"))
    assert browser.run(script) < 1000
    browser.press("/")
    browser.press("kettle bridge")
    browser.wait("document.getElementById('count').textContent !== '5,000 of 5,000 prompts'", 3)


# Chooses an entry of a list by its text, as a person would.
_CHOOSE = """(() => {{
  const list = document.getElementById('{0}');
  list.value = [...list.options].find(entry => entry.textContent === '{1}').value;
  list.dispatchEvent(new Event('change', {{bubbles: true}}));
  return true;
}})()"""

# Milliseconds that an expression takes.
_TIMED = "(() => {{ const start = performance.now(); {0}; return performance.now() - start }})()"

# Texts of one chart whose boxes overlap by more than a hair.
_OVERLAPS = """[...document.querySelectorAll('svg.chart')].flatMap(chart => {
  const texts = [...chart.querySelectorAll('text')]
    .map(text => [text.textContent, text.getBoundingClientRect()]);
  const width = (a, b) => Math.min(a.right, b.right) - Math.max(a.left, b.left);
  const height = (a, b) => Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
  return texts.flatMap(([name, a], index) => texts.slice(index + 1)
    .filter(([, b]) => width(a, b) > 1 && height(a, b) > 4)
    .map(([other]) => name + ' / ' + other));
})"""

# Visible texts whose contrast with their background is below 4.5 : 1 (WCAG 2, level AA).
_CONTRAST = """(() => {
  const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  const parse = colour => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const linear = c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => [[r, 0.2126], [g, 0.7152], [b, 0.0722]]
    .reduce((sum, [channel, weight]) => sum + weight * linear(channel / 255), 0);
  const back = node => {
    for (let at = node; at; at = at.parentElement) {
      const colour = parse(getComputedStyle(at).backgroundColor);
      if (colour[3] === 255) return colour;
    }
    return [255, 255, 255, 255];
  };
  const poor = new Set();
  for (const node of document.querySelectorAll('main *')) {
    if (![...node.childNodes].some(child => child.nodeType === 3 && child.textContent.trim())) continue;
    if (!node.checkVisibility() || node.closest('button:disabled, option, svg')) continue;
    const [a, b] = [light(parse(getComputedStyle(node).color)), light(back(node))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    const name = node.className + ' ' + node.textContent.trim().slice(0, 30);
    if (ratio < 4.5) poor.add(name + ' ' + ratio.toFixed(2));
  }
  return [...poor];
})()"""
