"""The page of `foveate explore` in a real Chromium."""

import json
import signal
from urllib.parse import urlsplit
from urllib.request import urlopen

import numpy as np
import psutil
import pytest
from PIL import Image
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from foveate.testing.checkpoints import save_family
from tests.scripts import start, wait_for
from tests.services import free_port, wait_until
from tests.tiers import extended

RUN = "import sys; sys.argv[:1] = ['foveate', 'explore']; from foveate.__main__ import main; main()"


class Page:
    """A page in a browser."""

    def __init__(self, browser, url):
        self.browser, self.url = browser, url
        browser.get(url)
        self.wait(lambda: "log-probability" in self.text("status"), "the answer with all patches")
        self.settle()

    def wait(self, true, what):
        wait_until(true, 60, what)

    def find(self, selector):
        return self.browser.find_element(By.CSS_SELECTOR, selector)

    def text(self, name):
        """The text of a part of the page; empty while it is replaced."""
        found = self.browser.find_elements(By.ID, name)
        return self.browser.execute_script("return arguments[0].innerText", found[0]) if found else ""

    def settle(self):
        """Waits until all columns have an answer or an error."""
        self.wait(lambda: self.shows("tower"), "the attention maps")

    def shows(self, name):
        script = "const i = document.querySelector(arguments[0]); return i && i.complete ? i.naturalWidth : 0"
        return self.browser.execute_script(script, f"#{name} img") > 0

    def source(self, name):
        return self.browser.execute_script("return document.querySelector(arguments[0])?.src", f"#{name} img")

    def upload(self, path):
        self.find("#file input[type=file]").send_keys(str(path))

    def type(self, selector, text):
        field = self.find(selector)
        field.send_keys(Keys.CONTROL, "a")
        field.send_keys(text, Keys.ENTER, Keys.TAB)

    def choose(self, name, value):
        field = self.find(f"#{name} input")
        field.click()
        field.send_keys(Keys.CONTROL, "a")
        field.send_keys(value, Keys.ENTER)

    def exported(self):
        """The exported files by name."""
        self.find("#export").click()
        self.wait(lambda: len(self.links()) >= 4, "the exported files")
        return {name: urlopen(link).read() for name, link in self.links().items()}

    def links(self):
        found = self.browser.find_elements(By.CSS_SELECTOR, "#files a[href]")
        return {urlsplit(a.get_attribute("href")).path.rpartition("/")[2]: a.get_attribute("href") for a in found}


def served(*options, folder):
    port = free_port()
    environment = {"GRADIO_TEMP_DIR": str(folder), "TMPDIR": str(folder)}
    again = "import tempfile; tempfile.tempdir = None"  # which the process that is forked has looked up
    options = ("--port", str(port), "--no-browser", *options)
    process = start("-c", RUN, *options, environment=environment, before=again)
    wait_for(process, lambda: "The page is at" in process.stdout, 120)
    return process, f"http://127.0.0.1:{port}/"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    process, url = served("--methods", "vtc_cls", "fastv(keep=20, layer=2)", "--limit", "12", folder=folder)
    yield process, url
    process.kill()


@pytest.fixture
def url(server):
    return server[1]


def test_the_page_listens_on_this_machine_only(server):
    process, _ = server
    found = psutil.Process(process.pid).net_connections("tcp")
    assert {one.laddr.ip for one in found if one.status == psutil.CONN_LISTEN} == {"127.0.0.1"}


def test_the_page_answers_follows_a_slider_and_exports_what_it_shows(url, browser):
    page = Page(browser, url)
    assert "20 of 144 patches kept" in page.text("answer1")
    page.type("#keep0 input[type=number]", "6")
    page.wait(lambda: "6 of 144 patches kept" in page.text("answer0"), "the new budget")
    page.find("#keep0 input[type=range]").send_keys(Keys.ARROW_RIGHT * 3)
    page.wait(lambda: "9 of 144 patches kept" in page.text("answer0"), "the budget of the keyboard")
    page.wait(lambda: "vtc_cls(keep=9)" in page.find("#command textarea").get_attribute("value"), "the command")
    files = page.exported()
    assert set(files) == {"kept.png", "kept.pdf", "kept_1_vtc_cls.json", "kept_2_fastv.json", "command.txt"}
    assert files["kept.png"].startswith(b"\x89PNG") and files["kept.pdf"].startswith(b"%PDF")
    first, second = (json.loads(files[name])["images"][0] for name in ("kept_1_vtc_cls.json", "kept_2_fastv.json"))
    assert len(first["kept"]) == 9 and len(second["kept"]) == 20
    command = "foveate explore --methods 'vtc_cls(keep=9)' 'fastv(keep=20, layer=2)' --limit 12\n"
    assert files["command.txt"].decode() == command
    loaded = browser.execute_script("return performance.getEntriesByType('resource').map(entry => entry.name)")
    assert len(loaded) > 10 and all(one.startswith((url, "data:", "blob:")) for one in loaded)


@extended("every")
def test_a_change_of_method_offers_its_options_and_computes_its_column_alone(url, browser):
    page = Page(browser, url)
    before = page.source("figure1")
    page.choose("method0", "visionzip")
    page.wait(lambda: "merged" in page.text("answer0"), "the answer of another method")
    assert page.find("#options0 input, #options0 textarea").get_attribute("placeholder").startswith("share=")
    assert page.source("figure1") == before
    page.type("#options0 input, #options0 textarea", "share=2")
    page.wait(lambda: "share=2" in page.text("answer0"), "the error of an option")
    assert not page.shows("figure0")
    page.type("#options0 input, #options0 textarea", "cls=False, share=0.5")
    page.wait(lambda: "merged" in page.text("answer0"), "the answer with other options")


@extended("every")
def test_an_image_that_is_uploaded_is_answered_and_a_broken_one_is_named(url, browser, tmp_path):
    page = Page(browser, url)
    pixels = np.random.default_rng(0).integers(0, 255, (60, 90, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "mine.png")
    (tmp_path / "broken.jpg").write_bytes((tmp_path / "mine.png").read_bytes()[:900])
    page.upload(tmp_path / "mine.png")
    page.wait(lambda: "explore mine.png" in page.find("#command textarea").get_attribute("value"), "the command")
    assert "reference answer" not in page.text("status")
    assert "144 patches kept" in page.text("answer0")
    page.find("#file button[aria-label='Clear']").click()
    page.wait(lambda: "reference answer" in page.text("status"), "the image of the data")
    page.upload(tmp_path / "broken.jpg")
    page.wait(lambda: "broken.jpg" in page.text("status"), "the error")
    assert "cannot be decoded" in page.text("status")
    page.wait(lambda: not page.text("answer0").strip(), "empty columns")
    page.type("#index input[type=number]", "3")
    page.wait(lambda: "reference answer" in page.text("status"), "a question of the data")


@extended("every")
def test_the_layer_slider_draws_another_map(url, browser):
    page = Page(browser, url)
    before = page.source("tower")
    page.type("#layer input[type=number]", "1")
    page.wait(lambda: page.shows("tower") and page.source("tower") != before, "another map")
    before = page.source("prompt")
    page.type("#block input[type=number]", "0")
    page.wait(lambda: page.shows("prompt") and page.source("prompt") != before, "another map")


@extended("every")
def test_a_tower_without_cls_shows_the_attention_that_patches_receive(browser, tmp_path):
    model = save_family("Qwen2.5-VL", tmp_path / "qwen")
    options = ("--methods", "vtc_cls", "tome", "--new-tokens", "3", "--limit", "6")
    process, url = served("--model", str(model), *options, folder=tmp_path)
    try:
        page = Page(browser, url)
        assert "no [CLS]" in page.find("body").text
        assert "patches kept" in page.text("answer0")
        assert "works inside the tower of LLaVA-1.5" in page.text("answer1")
    finally:
        process.kill()


def test_a_clip_plays_with_its_kept_tokens_and_is_moved_by_keys(browser, tmp_path):
    model = save_family("LLaVA-NeXT-Video", tmp_path / "model")
    options = ("--data", "clips", "--frames", "4", "--new-tokens", "2", "--limit", "3")
    process, url = served("--model", str(model), *options, folder=tmp_path)
    try:
        page = Page(browser, url)
        assert page.find("#method0 input").get_attribute("value") == "vidcom2"
        assert "of 36 patches kept" in page.text("answer0") and "of 4 frames" in page.text("status")
        page.wait(lambda: page.shows("curves"), "the curves")
        frame, first = (
            page.find("#frame input[type=range]"),
            {name: page.source(name) for name in ("figure0", "curves")},
        )
        frame.send_keys(Keys.ARROW_RIGHT)
        page.wait(lambda: all(page.source(name) != old for name, old in first.items()), "the next frame")
        page.find("#play").send_keys(Keys.ENTER)
        page.wait(lambda: page.find("#play").text == "Pause", "the button")
        page.wait(lambda: frame.get_attribute("value") == "0", "the first frame after the last")
        page.wait(lambda: page.source("figure0") == first["figure0"], "its kept tokens")
        page.find("#play").send_keys(Keys.ENTER)
        page.wait(lambda: page.find("#play").text == "Play", "the button")
        files = page.exported()
        assert len(json.loads(files["kept_3_fastv.json"])["images"][0]["kept"]) == 4
        assert files["kept.png"].startswith(b"\x89PNG")
    finally:
        process.kill()


@extended("moments")
def test_ctrl_c_ends_the_page_and_removes_what_it_exported(browser, tmp_path):
    process, url = served("--methods", "random", "--limit", "3", folder=tmp_path)
    Page(browser, url).exported()
    assert list(tmp_path.glob("foveate-explore-*"))
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0
    assert not list(tmp_path.glob("foveate-explore-*"))
