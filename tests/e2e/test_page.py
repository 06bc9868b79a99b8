"""The pages of a real sweep in a real browser: they sort, filter, open a run, and the browser has nothing to say."""

from __future__ import annotations

import csv
import shutil

import pytest

from fusion_eval.report.leaderboard import leaderboard
from fusion_eval.report.page import write_leaderboard_page
from fusion_eval.report.runs import Run, find_runs

webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium")
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
if not (CHROMIUM and DRIVER):
    pytest.skip("needs chromium and chromedriver on the path", allow_module_level=True)

FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    " --disable-component-update --disable-sync --disable-dev-shm-usage"
)
HOSTILE = "</script><script>document.title='taken'</script>\"'><img src=x onerror=\"document.title='taken'\">"


@pytest.fixture(scope="module")
def sweep(tmp_path_factory, forks, clean_environment):
    """A sweep as a user runs it: five merges, two of them experts alone."""
    directory = tmp_path_factory.mktemp("page")
    environment = {**clean_environment, "FUSION_EVAL_CACHE": str(directory / "cache")}
    for choice in (
        ("model=task_arithmetic", "model.scaling=0.2,0.3,0.5"),
        ("model=expert", "model.name=mnist,scripts"),
    ):
        command = ["-m", "fusion_eval", "-m", "limit=41", "bootstrap=0", *choice]
        done = forks.run([*command, f"hydra.sweep.dir=sweep/{choice[0][6:]}"], directory, environment)
        assert done.returncode == 0, done.stderr
    return directory / "sweep"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS.split(), f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def look(browser):
    """`look(path, width=, scheme=)` opens a page; at the end the console must be empty."""

    def open_page(path, width=1200, scheme="light"):
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
        feature = {"name": "prefers-color-scheme", "value": scheme}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
        browser.get("about:blank")
        browser.get(path.as_uri())
        return browser

    browser.get_log("browser")
    yield open_page
    assert browser.get_log("browser") == []


@pytest.fixture
def board(sweep):
    """All runs of both sweeps on one page."""
    runs, unread = find_runs([sweep])
    return write_leaderboard_page(leaderboard(runs, unread, resamples=99), runs, sweep)


def column(page, index, table="runs"):
    script = (
        "return [...document.querySelectorAll(`#${arguments[1]} tbody tr:not([hidden])`)]"
        ".map(row => row.cells[arguments[0]].textContent.trim())"
    )
    return page.execute_script(script, index, table)


def head(page, text):
    return page.find_element("xpath", f"//table[@id='runs']//th[normalize-space()='{text}']/button")


def test_the_command_leaves_pages(sweep, look):
    directory = sweep / "task_arithmetic"
    page = look(directory / "leaderboard.html")
    with (directory / "leaderboard.csv").open(encoding="utf-8") as file:
        assert column(page, 1) == [row["run"] for row in csv.DictReader(file)]
    page = look(directory / "0/report.html", scheme="dark")
    assert page.find_element("tag name", "h1").text == "TaskArithmetic"
    assert column(page, 0) == ["optdigits", "mnist", "scripts", "textures"]


def test_it_sorts(board, look):
    page = look(board)
    assert column(page, 0)[0] == "1"
    for name, index in (("mnist", 5), ("textures", 7)):
        head(page, name).click()
        values = [float(text) for text in column(page, index)]
        assert values == sorted(values, reverse=True), "the best first"
        head(page, name).click()
        assert [float(text) for text in column(page, index)] == sorted(values)
        assert head(page, name).find_element("xpath", "..").get_attribute("aria-sort") == "ascending"
    head(page, "run").click()
    assert column(page, 1) == sorted(column(page, 1))
    head(page, "#").click()
    assert [text.rstrip(" =") for text in column(page, 0)] == ["1", "2", "3", "4", "5"]


def test_it_filters(board, look):
    page = look(board)
    search = page.find_element("css selector", "input[data-filters=runs]")
    search.send_keys("ARITHMETIC scaling=0.2")
    assert column(page, 1) == ["TaskArithmetic scaling=0.2"]
    assert page.find_element("css selector", "output[data-counts=runs]").text == "1 of 5 rows"
    search.clear()
    search.send_keys("nothing like it")
    assert column(page, 1) == []
    page.refresh()
    page.find_element("css selector", "input[data-only=tied]").click()
    assert 1 <= len(column(page, 1)) < 5


def test_it_opens_a_run(board, look, sweep):
    page = look(board)
    page.find_element("link text", "TaskArithmetic scaling=0.5").click()
    dialog = page.find_element("id", "run")
    assert dialog.get_attribute("open")
    assert dialog.find_element("tag name", "h2").text == "TaskArithmetic scaling=0.5"
    run = next(run for run in find_runs([sweep])[0] if run.config["model"].get("scaling") == 0.5)
    for task in run.tasks:
        assert f"{run.value(f'{task}.accuracy')[0]:.4f}" in dialog.text
    assert run.document["provenance"]["hardware"]["cpu"] in dialog.text
    dialog.find_element("css selector", "form button").click()
    assert not dialog.get_attribute("open")
    assert "#" not in page.current_url


def test_a_link_to_a_run_opens_it_and_leads_to_its_page(board, look):
    page = look(board)
    page.get(f"{board.as_uri()}#run-2")
    label = page.find_element("id", "run-title").text
    assert label == column(page, 1)[1]
    page.find_element("link text", "Page of this run").click()
    assert page.current_url.endswith("/report.html")
    assert page.find_element("tag name", "h1").text == label.partition(" ")[0]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone_and_can_be_read(board, look, sweep, scheme):
    for path in (board, sweep / "expert/0/report.html"):
        page = look(path, width=390, scheme=scheme)
        assert page.execute_script("return document.documentElement.scrollWidth") == 390
        script = "const s = getComputedStyle(document.body); return [s.color, s.backgroundColor]"
        ink, paper = (luminance(colour) for colour in page.execute_script(script))
        assert (max(ink, paper) + 0.05) / (min(ink, paper) + 0.05) > 7, "WCAG 2.2, level AAA"
        assert (paper > ink) is (scheme == "light")


def luminance(colour):
    """Relative luminance of "rgb(r, g, b)" as WCAG 2.2 defines it."""
    channels = [int(part) / 255 for part in colour.removeprefix("rgb(").removesuffix(")").split(",")]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_plots_are_there(board, look):
    page = look(board)
    assert len(page.find_elements("css selector", "svg.curve")) == 1
    assert len(page.find_elements("css selector", "svg.curve circle")) == 3
    assert len(page.find_elements("css selector", "svg.radar polygon.shape")) == 3
    assert page.find_element("css selector", "#interference h3").text == "Experts alone"
    assert page.find_elements("css selector", "#changed tbody tr")


def test_a_hostile_name_does_nothing(sweep, look, tmp_path):
    runs = []
    for run in find_runs([sweep])[0]:
        config = {**run.config, "model": {"_target_": HOSTILE, "scaling": len(runs), HOSTILE: HOSTILE}}
        document = {**run.document, "provenance": {**run.document["provenance"], "config": config}}
        runs.append(Run(run.directory, {**document, "warnings": [HOSTILE], "selected_on": HOSTILE}))
    page = look(write_leaderboard_page(leaderboard(runs, [HOSTILE], resamples=99), runs, tmp_path))
    page.find_element("css selector", "#runs tbody a").click()
    dialog = page.find_element("id", "run")
    assert HOSTILE in dialog.text
    assert page.find_elements("tag name", "img") == []
    assert page.title.startswith("Leaderboard")
