"""The page in a real browser: no error, no request, readable in light and dark, on paper, in a narrow window."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.report.html import samples
from tofu_export.report.document import Report
from tofu_export.report.html import render

sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
LEAST_CONTRAST = 4.5
"""Source: WCAG 2.2, success criterion 1.4.3."""

CONTRASTS = """() => {
  const rgb = text => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(v => v / 255)
    .map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  const behind = node => { for (; node; node = node.parentElement) {
    const colour = rgb(getComputedStyle(node).backgroundColor); if (colour.length < 4 || colour[3] > 0) return colour; }
    return [255, 255, 255]; };
  const found = [];
  for (const node of document.querySelectorAll('body *')) {
    if (![...node.childNodes].some(one => one.nodeType === 3 && one.textContent.trim())) continue;
    if (['TITLE', 'DESC', 'STYLE'].includes(node.tagName.toUpperCase())) continue;
    const style = getComputedStyle(node);
    const ink = rgb(node instanceof SVGElement ? style.fill : style.color);
    const [a, b] = [light(ink), light(behind(node))].sort((x, y) => y - x);
    found.push([(a + .05) / (b + .05), node.tagName + ' ' + node.textContent.trim().slice(0, 40)]);
  }
  return found;
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("there is no chromium")
    with sync_api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield found
        found.close()


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    evidence = samples.evidence(
        samples.sweep(), samples.analysis(), samples.tokens(), samples.tuning(), samples.evaluation()
    )
    path.write_text(render(Report.from_dict(samples.report()), evidence), encoding="utf-8")
    return path


class Seen:
    """What a page complained about and asked for."""

    def __init__(self, page: Any) -> None:
        self.errors: list[str] = []
        self.requests: list[str] = []
        page.on("console", lambda message: self.errors.append(message.text))
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("request", lambda request: self.requests.append(request.url))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_is_quiet_and_readable(scheme: str, browser: Any, path: Path) -> None:
    page = browser.new_page(color_scheme=scheme)
    seen = Seen(page)
    page.goto(path.as_uri())
    assert seen.errors == []
    assert [url for url in seen.requests if not url.startswith(("file:", "data:"))] == []
    assert [url for url in seen.requests if url.startswith("file:")] == [path.as_uri()]
    contrasts = page.evaluate(CONTRASTS)
    assert len(contrasts) > 100
    assert [entry for entry in contrasts if entry[0] < LEAST_CONTRAST] == []
    shade = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, shade[4:-1].split(","))) > 382) == (scheme == "light")
    page.close()


def test_it_forbids_the_network_and_scripts(browser: Any, path: Path, tmp_path: Path) -> None:
    """The policy holds against what might get into a page."""
    text = path.read_text(encoding="utf-8")
    bad = '<img src="http://127.0.0.1:9/a.png"><script>document.title = "run"</script></main>'
    other = tmp_path / "bad.html"
    other.write_text(text.replace("</main>", bad), encoding="utf-8")
    page = browser.new_page()
    seen = Seen(page)
    page.goto(other.as_uri())
    assert page.title() == "tiny_vit with Token Fusion"
    assert any("Content Security Policy" in error for error in seen.errors)
    page.close()


@pytest.mark.parametrize("width", [320, 700, 1300])
def test_only_charts_and_tables_scroll_sideways(width: int, browser: Any, path: Path) -> None:
    page = browser.new_page(viewport={"width": width, "height": 800})
    page.goto(path.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.close()


def test_what_goes_on_beyond_the_edge_is_seen(browser: Any, path: Path) -> None:
    """On a narrow screen every wide table scrolls in a box of its own, with a shade at the edge."""
    page = browser.new_page(viewport={"width": 400, "height": 800})
    page.goto(path.as_uri())
    boxes = page.evaluate(
        "() => [...document.querySelectorAll('table')].map(table => { const box = table.parentElement;"
        "return [table.scrollWidth > box.clientWidth, getComputedStyle(box).overflowX,"
        " getComputedStyle(box).backgroundAttachment]; })"
    )
    assert any(wide for wide, _, _ in boxes)
    assert all(box[1:] == ["auto", "local, local, scroll, scroll"] for box in boxes)
    page.close()


@pytest.mark.e2e
def test_links_lead_somewhere_and_the_keyboard_follows_the_page(browser: Any, path: Path) -> None:
    page = browser.new_page()
    page.goto(path.as_uri())
    for link in page.query_selector_all("nav a"):
        target = link.get_attribute("href")
        link.click()
        assert page.evaluate("location.hash") == target
        assert page.query_selector(f"{target} h2").inner_text() == link.inner_text()
    page.goto(path.as_uri())
    places = []
    for _ in range(200):
        page.keyboard.press("Tab")
        entry = page.evaluate(
            "() => { const a = document.activeElement; const all = [...document.querySelectorAll('*')];"
            "return [all.indexOf(a), a.tagName, getComputedStyle(a).outlineStyle]; }"
        )
        if entry[1] == "BODY" or (places and entry[0] <= places[-1][0]):
            break
        places.append(entry)
    assert places[0][1] == "A"  # skip to the report
    assert len(places) == page.evaluate("document.querySelectorAll('a, [tabindex=\"0\"]').length")
    assert {style for _, _, style in places} == {"solid"}
    page.close()


def test_it_prints(browser: Any, path: Path, tmp_path: Path) -> None:
    page = browser.new_page(color_scheme="dark")
    page.goto(path.as_uri())
    document = page.pdf(path=tmp_path / "page.pdf", format="A4")
    assert document.startswith(b"%PDF")
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert not page.is_visible("nav")
    page.close()


PAPER_WIDTH = 680
"""CSS pixels between the margins of an A4 page, as the style sheet has them: 180 mm."""


def test_nothing_is_cut_on_paper(browser: Any, path: Path) -> None:
    page = browser.new_page(viewport={"width": PAPER_WIDTH, "height": 1000})
    page.emulate_media(media="print")
    page.goto(path.as_uri())
    cut = page.evaluate(
        "width => [...document.querySelectorAll('main *')].filter(one => one.getClientRects().length)"
        ".filter(one => one.getBoundingClientRect().right > width + 1)"
        ".map(one => one.tagName + ' ' + one.textContent.trim().slice(0, 40))",
        PAPER_WIDTH,
    )
    assert cut == []
    page.close()


def test_all_that_is_drawn_has_a_name(browser: Any, path: Path) -> None:
    """What a screen reader would find: one main part, named regions and images, headings without a gap."""
    page = browser.new_page()
    page.goto(path.as_uri())
    tree = page.aria_snapshot() if hasattr(page, "aria_snapshot") else page.locator("body").aria_snapshot()
    lines = [line.strip().removeprefix("- ") for line in tree.splitlines()]
    assert [sum(line.startswith(role) for line in lines) for role in ("main", "banner", "contentinfo")] == [1, 1, 1]
    named = [line for line in lines if line.startswith(("region", "img", "navigation", "table"))]
    assert len(named) > 20
    assert [line for line in named if '"' not in line] == []
    regions = [line for line in lines if line.startswith("region")]
    assert len(regions) == len(set(regions))
    page.close()
