"""Everything by keyboard: what is reached by Tab, in order, with a focus that is seen."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect

from tests.live.page.conftest import SAMPLES, Visit, visiting

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.slow  # a browser takes its time

FOCUSED = """() => {
  const one = document.activeElement;
  const { outlineStyle, outlineWidth } = getComputedStyle(one);
  const seen = one.matches(':focus-visible') && outlineStyle !== 'none';
  return [one.id || one.textContent.trim(), seen && outlineWidth];
}"""


def tab(visit: Visit, times: int = 1) -> str:
    """Press Tab; the id, else the text, of what has the focus, which must be seen."""
    for _ in range(times):
        visit.page.keyboard.press("Tab")
    name, outline = visit.page.evaluate(FOCUSED)
    assert outline == "3px", name
    return str(name)


def tab_to(visit: Visit, name: str) -> None:
    """Press Tab until what begins with ``name`` has the focus."""
    for _ in range(30):
        if tab(visit).startswith(name):
            return
    raise AssertionError(f"{name} is not reached by Tab")


def test_the_way_through_the_page(visit: Visit) -> None:
    assert [tab(visit) for _ in range(6)] == [
        "To the picture", "model", "other", "choose", "choose-folder", "camera",
    ]  # fmt: skip


def test_a_picture_without_a_mouse(visit: Visit) -> None:
    page = visit.page
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "stage"
    assert tab(visit) == "choose"
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Enter")
    chooser.value.set_files([SAMPLES / "scene_1.jpg", SAMPLES / "scene_2.jpg"])
    visit.answered()
    at_first = visit.summary()
    assert tab(visit, 3) == "pictures"
    page.keyboard.press("ArrowDown")
    expect(page.locator("#summary")).not_to_have_text(at_first)
    assert tab(visit) == "score"
    value = page.locator("#score").input_value()
    page.keyboard.press("ArrowRight")
    assert float(page.locator("#score").input_value()) == pytest.approx(float(value) + 0.01)
    page.keyboard.press("End")
    assert visit.summary() == "No box with a score of 1.00 or more."
    page.keyboard.press("Home")
    tab_to(visit, "aztec")
    before = visit.summary()
    page.keyboard.press("Space")
    assert visit.summary() != before
    tab_to(visit, "save-json")
    with page.expect_download():
        page.keyboard.press("Enter")


def test_every_control_has_a_name(visit: Visit) -> None:
    visit.choose(SAMPLES / "scene_1.jpg", SAMPLES / "scene_2.jpg")
    visit.page.locator("#call summary").click()
    nameless = visit.page.evaluate(
        """() => [...document.querySelectorAll('button, select, input:not([hidden])')]
          .filter(one => !(one.textContent.trim() && one.matches('button')))
          .filter(one => !one.labels?.length && !one.ariaLabel)
          .map(one => one.outerHTML)"""
    )
    assert nameless == []


def test_what_was_found_is_announced(visit: Visit) -> None:
    visit.choose(SAMPLES / "scene_1.jpg")
    status = visit.page.get_by_role("status").first
    expect(status).to_contain_text("1 box: ")
    expect(visit.page.get_by_role("img").first).to_have_attribute(
        "aria-label", f"scene_1.jpg: {visit.summary()}"
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1440])
def test_it_fits_and_can_be_read(browser: Browser, service: str, scheme: str, width: int) -> None:
    """Nothing is wider than the window, and every text has a contrast of 4.5 at least."""
    looks = {"color_scheme": scheme, "viewport": {"width": width, "height": 844}}
    with visiting(browser, service, **looks) as visit:
        visit.page.get_by_label("Compare with").select_option("codes_ssd")
        visit.choose(SAMPLES / "scene_4.jpg", SAMPLES / "scene_1.jpg")
        visit.page.locator("#call summary").click()
        assert len(visit.boxes()) > 0
        assert visit.page.evaluate("document.documentElement.scrollWidth") <= width
        assert visit.page.evaluate(CONTRASTS) == []


CONTRASTS = """() => {
  const luminance = color => {
    const [r, g, b] = color.match(/[\\d.]+/g).slice(0, 3).map(v => v / 255)
      .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = one => {
    for (; one; one = one.parentElement) {
      const { backgroundColor } = getComputedStyle(one);
      if (!/, 0\\)$|transparent/.test(backgroundColor)) return backgroundColor;
    }
    return 'rgb(255, 255, 255)';
  };
  const low = [];
  for (const one of document.querySelectorAll('body *')) {
    const own = [...one.childNodes].some(child => child.nodeType === 3 && child.data.trim());
    if (!own || !one.checkVisibility() || ['OPTION', 'NOSCRIPT', 'CANVAS'].includes(one.tagName)) continue;
    const [text, behind] = [getComputedStyle(one).color, ground(one)].map(luminance);
    const contrast = (Math.max(text, behind) + 0.05) / (Math.min(text, behind) + 0.05);
    if (contrast < 4.5) low.push([one.outerHTML.slice(0, 80), contrast]);
  }
  return low;
}"""
