"""The report: one HTML file with all figures, tables, captions and how they were made."""

from __future__ import annotations

import base64
import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from runs import link_environment, unavailable
from tiny import Tiny, complete

FIGURES = [
    f"results/figures/{name}.{kind}"
    for name in ("figure4", "figure5", "objective_steps", "top_ranked_tiny")
    for kind in ("svg", "png")
]
TABLES = [
    f"results/tables/{name}.{kind}"
    for name in ("table1", "table2", "attack_success", "attack_starts", "attacks", "easy_targets")
    for kind in ("csv", "md")
]

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
QUIET = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1600,900",
]

# Looks at the report as a reader would: the first page, then each figure beside its description.
READER = """
const seen = {};
const pause = () => new Promise((done) => setTimeout(done, 200));
const link = (text) => [...document.querySelectorAll("#app a")].find((a) => a.textContent.trim() === text);
async function read() {
    await pause();
    seen.home = document.querySelector("#app").innerText;
    seen.top = document.querySelector("#app h1").getBoundingClientRect().top;
    seen.graph = document.querySelectorAll("#rulegraph canvas, #rulegraph svg").length;
    seen.menu = ["Figures", "Tables"].filter(link);
    seen.images = {};
    for (const path of FIGURES) {
        app.setView({navbarMode: "menu"});
        await pause();
        link("Figures").click();
        await pause();
        app.showResultInfo(path);
        await pause();
        seen.images[path] = {text: document.querySelector("#app").innerText};
        app.setView({content: "img", contentPath: results[path].data_uri, resultPath: path});
        await pause();
        const image = document.querySelector("#app img");
        await image.decode();
        Object.assign(seen.images[path], {width: image.naturalWidth, height: image.naturalHeight});
    }
    const note = document.createElement("pre");
    note.id = "seen";
    note.textContent = JSON.stringify(seen);
    document.body.append(note);
}
read();
"""


@pytest.fixture(scope="module")
def project(shared: Path, snapshot: Path, tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    made = complete(shared, snapshot).copy(tmp_path_factory.mktemp("report") / "project")
    link_environment(made.root)
    return made


@pytest.fixture(scope="module")
def report(project: Tiny) -> Path:
    """The report, made without a network."""
    # An address that answers nobody, for whatever would be fetched by way of a proxy; and none is by-passed.
    nobody = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    offline = Tiny(project.root, project.mirror, {**nobody, "no_proxy": "", "NO_PROXY": ""})
    said = offline.run("make", "report")
    assert "Missing metadata" not in said
    return project.root / "report.html"


@pytest.fixture(scope="module")
def results(report: Path) -> Any:
    """Path → what the report holds of a result."""
    found = re.search(r"^\s*var results = (\{.*\});$", report.read_text(encoding="utf-8"), re.MULTILINE)
    assert found
    return json.loads(found[1])


def test_every_figure_and_table_is_in_it(project: Tiny, results: Any) -> None:
    assert sorted(results) == sorted([*FIGURES, *TABLES, "results/metrics.json"])
    for path, result in results.items():
        head, data = result["data_uri"].split(",", 1)
        assert head.endswith(";base64")
        assert base64.b64decode(data) == (project.root / path).read_bytes()


def test_every_result_says_what_it_shows_and_how_it_was_made(results: Any) -> None:
    for path, result in results.items():
        assert len(result["caption"]) > 200, path
        assert "Made from" in result["caption"], path
        assert "{{" not in result["caption"], path
        assert result["labels"].keys() == {"result", "format"}
        assert f"scripts/{result['job_properties']['rule']}.py" in result["job_properties"]["params"]
    made = {path: result["job_properties"]["rule"] for path, result in results.items()}
    assert made["results/figures/figure4.svg"] == "plot_attack_success"
    assert made["results/tables/table1.csv"] == "summarise_attacks"
    assert "radius=0.8/published.parquet" in results["results/tables/table1.md"]["caption"]
    assert "Top ranks of tiny" in results["results/figures/top_ranked_tiny.png"]["labels"].values()


def test_it_needs_nothing_from_elsewhere(report: Path) -> None:
    text = report.read_text(encoding="utf-8")
    assert not re.search(r"<(script|link|img|iframe)[^>]*\s(src|href)\s*=\s*[\"']?https?:", text)


def test_a_browser_shows_it(project: Tiny, report: Path, tmp_path: Path) -> None:
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        unavailable("browser", f"none of {', '.join(BROWSERS)} is installed (Debian: chromium)")
    before, after = report.read_text(encoding="utf-8").rsplit("</body>", 1)
    script = READER.replace("FIGURES", json.dumps(FIGURES))
    page = tmp_path / "report.html"
    page.write_text(f"{before}<script>{script}</script></body>{after}", encoding="utf-8")
    command = [browser, *QUIET, f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=20000"]
    shown = subprocess.run(
        [*command, "--dump-dom", page.as_uri()], capture_output=True, text=True, check=True, timeout=120
    ).stdout
    note = re.search(r'<pre id="seen">(.*?)</pre>', shown, re.DOTALL)
    assert note, shown[-2000:]
    seen = json.loads(html.unescape(note[1]))

    assert seen["menu"] == ["Figures", "Tables"]
    assert seen["graph"] > 0
    # The page's beginning is not above the window, as it was when tall pages were centred in it.
    assert seen["top"] >= 0
    for part in ("Table 1: the most successful radius", "Every radius", "min_higher", '"radii"', "0.8"):
        assert part in seen["home"], part
    cells = (project.root / "results/tables/table1.md").read_text(encoding="utf-8").splitlines()[2]
    for cell in cells[2:-2].split(" | "):
        assert cell in seen["home"], cell
    assert seen["images"].keys() == set(FIGURES)
    for path, image in seen["images"].items():
        assert min(image["width"], image["height"]) > 50, path
        assert "Made from" in image["text"], path
