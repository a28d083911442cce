"""The merge report in a real browser: nothing hostile runs, keys work, it fits screens; pictures are taken.

The browser is driven as in the tests of the study's report.
"""

import shutil

import pytest
from tests.merge.test_report import hostile_report, layers, make_report
from tests.study.report import test_browser

from trivet.merge.report_page import write_html

pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(
        not (shutil.which("chromium") and shutil.which("chromedriver")),
        reason="needs Debian's packages chromium and chromium-driver",
    ),
]

driver, browser, pictures = test_browser.driver, test_browser.browser, test_browser.pictures


def test_hostile_text_runs_nothing(browser, tmp_path):
    browser.open(write_html(hostile_report(), tmp_path))
    assert browser.run("document.title").endswith("· Trivet merge report")
    assert browser.run("document.querySelectorAll('script').length") == 1
    assert browser.run("document.querySelectorAll('img, iframe, object, embed, link, base').length") == 0
    assert browser.log() == [], "no error, no refused resource"


def test_sorting_and_filtering_with_the_keyboard(browser, tmp_path):
    browser.open(write_html(make_report(), tmp_path))
    count = "document.getElementById('count').textContent"
    shown = "#table tbody tr:not([hidden]) th bdi:first-child"
    names = f"[...document.querySelectorAll('{shown}')].map(node => node.textContent)"
    assert browser.run(count) == "13 of 13 tensors"
    browser.press("/")
    browser.press("q_proj nearly")
    browser.wait(f"{count} === '1 of 13 tensors'")
    assert browser.run(names)[0] == "model.layers.2.self_attn.q_proj.weight"
    browser.press("\ue00c")  # Escape
    browser.wait(f"{count} === '13 of 13 tensors'")
    browser.press("\ue004 ")  # Tab to the checkbox, then space
    browser.wait(f"{count} === '2 of 13 tensors'")
    browser.press(" ")
    head = "[...document.querySelectorAll('#table thead button')].find(b => b.textContent === 'Cosine')"
    browser.run(f"{head}.focus()")
    browser.press("\ue007")  # Enter
    ascending = browser.run(names)
    assert ascending[0] == "model.layers.0.mlp.up_proj.weight"
    assert ascending[-1] == "model.embed_tokens.weight", "what has no number is last"
    browser.press("\ue007")
    descending = browser.run(names)
    assert descending[0] == "model.layers.5.self_attn.q_proj.weight"
    assert descending[-1] == "model.embed_tokens.weight"
    assert browser.run(f"{head}.closest('th').getAttribute('aria-sort')") == "descending"
    browser.press("\ue007")
    assert browser.run(names)[0] == "model.embed_tokens.weight", "the order of the model again"
    assert browser.log() == []


@pytest.mark.parametrize(
    ("scheme", "width"), [("light", 1280), ("dark", 1280), ("light", 390), ("dark", 390)]
)
def test_it_fits_the_screen_and_is_readable(browser, tmp_path, pictures, scheme, width):
    browser.colours(scheme)
    browser.open(write_html(make_report(layers(30), warnings=["the tokenizers differ"]), tmp_path), width)
    assert browser.run("document.documentElement.scrollWidth") <= width, "the page scrolls sideways"
    assert browser.run(test_browser._CONTRAST) == [], "text below 4.5:1"
    before = browser.run("getComputedStyle(document.body).backgroundColor")
    browser.picture(pictures / f"merge-{scheme}-{width}.png")
    browser.run("document.getElementById('theme').click()")
    after = browser.run("getComputedStyle(document.body).backgroundColor")
    assert (before != after) == (scheme == "dark")


def test_twenty_thousand_tensors_stay_usable(browser, tmp_path):
    browser.open(write_html(make_report(layers(10_000)), tmp_path))
    count = "document.getElementById('count').textContent"
    shown = "document.querySelectorAll('#table tbody tr:not([hidden])').length"
    assert browser.run(count) == "20,001 of 20,001 tensors"
    assert browser.run(shown) == 500
    browser.run("document.querySelectorAll('#table thead button')[5].click()")
    first = "document.querySelector('#table tbody bdi').textContent"
    assert browser.run(first) == "model.layers.0.mlp.up_proj.weight"
    assert browser.run(shown) == 500
    browser.press("/")
    browser.press("layers.77.mlp")
    browser.wait(f"{count} === '1 of 20,001 tensors'")
    assert browser.run("document.getElementById('more').hidden")
    browser.press("\ue00c")  # Escape
    browser.wait(f"{count} === '20,001 of 20,001 tensors'")
    browser.run("document.getElementById('more').click()")
    assert browser.run(shown) == 20_001
