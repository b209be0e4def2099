"""The report: Markdown, and one HTML page that a browser draws without network or errors."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess

import pytest

from xconv.bench import plots, report, tables, targets
from xconv.bench.cases import PUBLISHED, Case, cases

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--hide-scrollbars", "--virtual-time-budget=10000",
]  # fmt: skip

WATCH = """<script>
const errors = [];
addEventListener('error', e => errors.push(e.message));
document.addEventListener('securitypolicyviolation', e => errors.push(e.blockedURI));
</script>"""
TELL = """<script>addEventListener('load', () => {
const box = document.getElementById('find');
const seen = () => [...document.querySelectorAll('details tbody tr')].filter(r => !r.hidden).length;
const rows = seen();
box.value = 'cnn xconv'; box.dispatchEvent(new Event('input'));
const found = seen();
box.value = ''; box.dispatchEvent(new Event('input'));
for (const d of document.querySelectorAll('details')) d.open = false;
const area = e => e.getBoundingClientRect();
const within = (r, s) => r.left > s.left - 2 && r.right < s.right + 2 && r.top > s.top - 2
  && r.bottom < s.bottom + 2;
const meet = (r, s) => Math.min(r.right, s.right) - Math.max(r.left, s.left) > 1
  && Math.min(r.bottom, s.bottom) - Math.max(r.top, s.top) > 3;
const figures = [...document.querySelectorAll('figure')].map(f => {
  const svg = f.querySelector('svg'), whole = area(svg);
  const texts = [...svg.querySelectorAll('text')].filter(t => t.textContent.trim());
  const boxes = texts.map(area);
  // What shows figures is cut off at the axes, as the grid is, which is part of an axis.
  const marks = [...svg.querySelectorAll('[clip-path] use, path[clip-path]')]
    .filter(m => !m.closest('[id*="matplotlib.axis"]')).map(area);
  return {id: f.id, width: whole.width, height: whole.height, texts: texts.length,
    marks: marks.filter(r => r.width + r.height > 2 && within(r, whole)).length,
    smallest: Math.min(...texts.map(t => parseFloat(getComputedStyle(t).fontSize)
      * whole.width / svg.viewBox.baseVal.width)),
    outside: texts.filter((_, i) => !within(boxes[i], whole)).map(t => t.textContent),
    overlap: texts.filter((_, i) => boxes.some((b, j) => j > i && meet(boxes[i], b)))
      .map(t => t.textContent)};
});
parent.postMessage(JSON.stringify({errors, figures, rows, found, inner: innerWidth,
  fetched: performance.getEntriesByType('resource').map(r => r.name),
  scroll: document.documentElement.scrollWidth}), '*');
})</script>"""
# A window cannot be as narrow as a phone, but a frame can.
FRAME = """<pre id="told"></pre><script>
addEventListener('message', e => document.getElementById('told').textContent = e.data);
</script><iframe src="report.html" width="{0}" height="{1}"></iframe>"""
LAPTOP, PHONE = (1366, 768), (390, 844)


@pytest.fixture(scope="module")
def page(records):
    return report.page(records)


@pytest.fixture(scope="module")
def ask(tmp_path_factory):
    """What a page says of itself in a browser whose window has this size."""
    if CHROMIUM is None:
        pytest.skip("no Chromium to draw the page with; install chromium")

    def ask(page, size):
        folder = tmp_path_factory.mktemp("browser")
        page = page.replace("<title>", WATCH + "<title>").replace("</body>", TELL + "</body>")
        (folder / "report.html").write_text(page)
        frame = folder / "frame.html"
        frame.write_text(FRAME.format(*size))
        command = [CHROMIUM, *FLAGS, f"--user-data-dir={folder / 'profile'}", "--dump-dom"]
        done = subprocess.run(
            [*command, frame.as_uri()], capture_output=True, text=True, timeout=120
        )
        found = re.search(r'<pre id="told">(.+?)</pre>', done.stdout, re.DOTALL)
        assert found, done.stderr[-2000:]
        return json.loads(html.unescape(found.group(1)))

    return ask


@pytest.fixture(scope="module", params=[LAPTOP, PHONE], ids=["laptop", "phone"])
def told(request, ask, page):
    return ask(page, request.param)


def undrawn(told):
    """The plots that show nothing, or that are missing."""
    drawn = {f["id"] for f in told["figures"] if f["marks"] >= 3 and f["texts"] > 5}
    return [name for name in plots.PLOTS if f"plot-{name}" not in drawn]


def test_no_script_error_and_nothing_fetched(told):
    assert told["errors"] == []
    assert told["fetched"] == []


def test_every_plot_is_drawn(told):
    assert undrawn(told) == []


def test_plots_are_legible_and_nothing_sticks_out(told):
    for figure in told["figures"]:
        assert figure["width"] > 300, figure
        assert figure["height"] > 200, figure
        assert figure["smallest"] >= 9, figure
        assert figure["outside"] == figure["overlap"] == [], figure
    assert told["scroll"] <= told["inner"]


def test_a_broken_page_is_found_out(ask, page):
    """Markers that refer to nothing, empty lines, a script that fails, a picture from outside."""
    broken = page.replace('href="#lead-', 'href="#gone-')
    begin = broken.index('id="plot-regret"')
    figure = broken[begin : broken.index("</figure>", begin)]
    broken = broken.replace(figure, re.sub(r'\bd="[^"]*"', 'd=""', figure))
    broken = broken.replace("</h1>", '</h1><img src="https://example.org/x.png">', 1)
    broken = broken.replace("</body>", "<script>nothing.here</script></body>")
    told = ask(broken, LAPTOP)
    assert undrawn(told) == ["lead", "regret"]
    assert told["errors"][0].startswith("https://example.org")
    assert "nothing is not defined" in told["errors"][1]


def test_the_search_box_filters(told):
    assert 0 < told["found"] < told["rows"]


def test_page_stands_alone(page):
    outside = re.findall(r'(?:src|href)="(?!#)([^"]+)"', page)
    assert outside == []
    assert "@import" not in page
    assert "url(http" not in page
    assert len(set(re.findall(r'\bid="([^"]+)"', page))) == len(re.findall(r'\bid="([^"]+)"', page))


def test_text_of_records_is_escaped(records):
    evil = records[0] | {"cpu": "<script>alert(1)</script>"}
    assert "<script>alert" not in report.page([evil, *records[1:]])


def test_a_run_without_results_is_still_a_report(records):
    for few in (records[:2], records[:3]):
        assert "No case was run" in report.page(few)
        assert "No case was run" in tables.markdown(few)


def test_losses_are_told_frankly(make):
    slow, fast, layer = *cases("seed")[:2], cases("cnn")[0]
    records = [make(slow, "xconv", 3.0), make(slow, "torch conv2d", 1.0),
               make(fast, "xconv", 1.0), make(fast, "torch conv2d", 3.0),
               make(layer, "xconv", 1.0), make(layer, "torch conv2d", 2.0)]  # fmt: skip
    told = tables.losses(records)
    assert "In 1 of the 3 cases run (seed 1 of 2, cnn 0 of 1)" in told
    assert slow.name in told
    assert fast.name not in told
    assert "3.00" in told


def test_a_failure_of_ours_is_a_loss(make):
    case = cases("seed")[0]
    failed = make(case, "xconv", 1.0) | {"status": "failed", "reason": "MemoryError: no"}
    assert "MemoryError: no" in tables.losses([failed, make(case, "torch conv2d", 1.0)])


def test_published_times_stand_beside_those_of_the_same_cell(make):
    s, n, k = next(iter(PUBLISHED))
    names = ("scipy.signal.convolve", "scipy.signal.fftconvolve", "scipy.ndimage.convolve")

    def table(layout, dtype, contenders):
        sizes = {"H": s, "W": s, "N": n}
        case = Case("seed", tuple(sizes[a] for a in layout), (k, k), layout, "HW", dtype)
        records = [make(case, name, 0.1 * 2**i) for i, name in enumerate(contenders)]
        return tables.seed_table(records), plots.seed_ratios(records)

    told, drawn = table("HWN", "float64", names)
    assert "16.6 : 2.11 : 1; here: 1 : 2 : 4" in told  # 909, 116 and 54.9 ms over the least
    assert "published in 2016" in drawn
    for other in (("NHW", "float64", names), ("HWN", "float32", names)):
        told, drawn = table(*other)
        assert "2016" not in told
        assert not drawn or "2016" not in drawn
    told, _ = table("HWN", "float64", names[1:])  # a call was left out: no ratios to compare
    assert "2016" not in told


def test_refusals_are_told_with_the_reason(make):
    first, second = cases("seed")[:2]
    no = {"status": "refused", "reason": "has no stride"}
    records = [make(first, "xconv", 1.0), make(first, "cv2.filter2D", 1.0) | no,
               make(second, "cv2.filter2D", 1.0) | no]  # fmt: skip
    ((_, told),) = tables.suite_tables(records)
    assert "| cv2.filter2D | has no stride | 2 |" in told
    ((_, told),) = tables.suite_tables(records[:1])
    assert "Refused" not in told


def test_targets_judge(make, records):
    case = cases("seed")[0]
    verdicts = {
        target.text: (value, target.met(value))
        for target, value in targets.verdicts(
            [make(case, "xconv", 1.0), make(case, "cv2.filter2D", 2.0),
             make(case, "torch conv2d", 3.0)]
        )
    }  # fmt: skip
    assert verdicts["seed: faster than the best peer, least"] == (2.0, True)
    assert verdicts["seed: faster than the best peer, geometric mean"] == (pytest.approx(2), False)
    judged = {target.text for target, _ in targets.verdicts(records)}
    assert judged == {target.text for target in targets.TARGETS}, "targets without a case"


def prediction(name, **pairs):
    """The record of a random problem: (predicted, measured) seconds by method."""
    return {
        "kind": "regret", "case": {"name": name, "suite": "regret"}, "workers": 1, "chosen": "fft",
        "predicted": {method: p for method, (p, _) in pairs.items()} | {"separable": 9.0},
        "seconds": {m: {"median": s} for m, (_, s) in pairs.items()} | {"auto": {"median": 1.0}},
        "regret": 1.0,
    }  # fmt: skip


def test_predictions_are_set_against_times():
    records = [
        prediction("one", direct=(0.001, 0.001), fft=(0.3, 0.1)),
        prediction("two", direct=(0.002, 0.001), fft=(0.1, 0.5)),
        prediction("three", direct=(0.0015, 0.001)),
    ]
    told = tables.planner(records, most=2)
    assert "of 3 random problems" in told
    assert "| direct | 3 | 1.50 | 100% | 1.00 to 2.00 |" in told
    assert "| fft | 2 | 1.60 | 0% | 0.20 to 3.00 |" in told
    assert "separable" not in told
    assert told.endswith("| `two` | fft | 100 | 500 | 0.20 |\n| `one` | fft | 300 | 100 | 3.00 |")
    share = next(v for t, v in targets.verdicts(records) if "within a factor of 2" in t.text)
    assert share == pytest.approx(3 / 5)
    title = "Does the planner know what it costs?"
    assert f"## {title}\n\n{tables.planner(records)}" in tables.markdown(records)
    assert f"<h2>{title}</h2>" in report.page(records)
    assert title not in tables.markdown([])


def test_crossover_needs_a_crossing():
    rising, flat = [(3, 1.0), (9, 9.0)], [(3, 3.0), (9, 3.0)]
    assert 3 < plots.crossover(rising, flat) < 9
    assert plots.crossover(flat, rising) is None
    assert plots.crossover([], flat) is None
