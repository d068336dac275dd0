import socket
import subprocess
import sys
from urllib.error import URLError
from urllib.request import urlopen

import pytest
from selenium.webdriver.common.by import By

from foveate.analysis.ablation.report import report
from foveate.analysis.kept_patches import kept_figure
from foveate.commands import dashboard
from foveate.compressors import Identity
from foveate.core.errors import OptionError, OutputError
from foveate.evaluation import EvalConfig
from foveate.studies.ablation import ablate, named_choices
from foveate.studies.names import chosen_study
from foveate.studies.study_folder import StudyFolder
from tests.services import free_port, wait_until


def few(tower):
    return named_choices(tower, ("cls[2]",))[:2]


def test_the_dashboard_shows_goal_note_and_figure_of_a_trial(tiny, tmp_path, browser):
    config = EvalConfig(Identity(), model=tiny, limit=11, max_new_tokens=2, out=tmp_path)
    study = ablate(StudyFolder("s", tmp_path), config, few, (7,), kept_figure)
    report(study, config)
    port = free_port()
    command = [sys.executable, "-m", "foveate", "dashboard", "--out", str(tmp_path), "--port", str(port)]
    server = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    base = f"http://127.0.0.1:{port}"
    try:
        wait_until(lambda: answers(base), 60, "the dashboard to start")
        browser.get(f"{base}/dashboard/studies/1")
        wait_until(lambda: "accuracy" in text(browser), 60, "the objective's name")
        wait_until(lambda: "Best Trial (number=0)" in text(browser), 60, "the best trial, which is no control")
        assert "scorer: cls[2]" in text(browser)
        browser.get(f"{base}/dashboard/studies/1/note")
        wait_until(lambda: "chosen on half of the images" in text(browser), 60, "the finding")
        browser.get(f"{base}/dashboard/studies/1/trials?numbers=0")
        wait_until(lambda: "equivalent tokens" in text(browser), 60, "the trial's note")
        assert "Kept 7.0 tokens per question" in text(browser)
        wait_until(lambda: figures(browser), 60, "the figure of what was kept")
        assert not browser.execute_script("return document.documentElement.scrollWidth > window.innerWidth")
    finally:
        server.terminate()
        server.wait(30)


def test_a_study_that_does_not_exist_is_an_error_that_lists_those_that_do(tmp_path):
    with pytest.raises(OutputError, match=r"study 's' has no study.db; .* has none: run ablate, compare or search"):
        dashboard.main("s", out=tmp_path)
    for name in ("one", "two", "no study"):
        (tmp_path / name).mkdir()
    (tmp_path / "one/study.db").touch()
    assert chosen_study(tmp_path, None) == chosen_study(tmp_path, "one") == tmp_path / "one"
    (tmp_path / "two/study.db").touch()
    with pytest.raises(OutputError, match=r"study 'no study' has no study.db; .* has one, two"):
        dashboard.main("no study", out=tmp_path)
    with pytest.raises(OutputError, match=r"expected the name of a study; .* has one, two"):
        dashboard.main(out=tmp_path)
    assert not (tmp_path / "no study/study.db").exists()


def test_a_port_that_is_in_use_or_is_none_is_named(tmp_path):
    StudyFolder("s", tmp_path).open()
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(OptionError, match=f"port {port} is in use"):
            dashboard.main("s", tmp_path, port)
    with pytest.raises(OptionError, match="port 0: expected 1 to 65535"):
        dashboard.main("s", tmp_path, 0)


def answers(base):
    try:
        return urlopen(base, timeout=2).status == 200
    except (URLError, OSError):
        return False


def text(browser):
    return browser.find_element(By.TAG_NAME, "body").text


def figures(browser):
    found = browser.find_elements(By.CSS_SELECTOR, "img[src*='/artifacts/']")
    return [one for one in found if browser.execute_script("return arguments[0].naturalWidth", one) > 0]
