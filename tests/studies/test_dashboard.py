import subprocess
import sys
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from selenium.webdriver.common.by import By

from foveate.analysis.kept_patches import kept_figure
from foveate.compressors import Identity
from foveate.evaluation import EvalConfig
from foveate.studies.ablation import ablate, named_choices
from foveate.studies.study_folder import StudyFolder
from tests.services import free_port, wait_until


def few(tower):
    return named_choices(tower, ("cls[2]",))[:2]


def test_the_dashboard_shows_goal_note_and_figure_of_a_trial(tiny, tmp_path, browser):
    config = EvalConfig(Identity(), model=tiny, limit=11, max_new_tokens=2, out=tmp_path)
    ablate(StudyFolder("s", tmp_path), config, few, (7,), kept_figure)
    port, program = free_port(), Path(sys.executable).parent / "optuna-dashboard"
    command = [program, "--port", str(port), "--artifact-dir", tmp_path / "s" / "artifacts"]
    server = subprocess.Popen([*command, f"sqlite:///{tmp_path}/s/study.db"], stderr=subprocess.DEVNULL)
    base = f"http://127.0.0.1:{port}"
    try:
        wait_until(lambda: answers(base), 60, "the dashboard to start")
        browser.get(f"{base}/dashboard/studies/1")
        wait_until(lambda: "accuracy" in text(browser), 60, "the objective's name")
        browser.get(f"{base}/dashboard/studies/1/trials?numbers=0")
        wait_until(lambda: "equivalent tokens" in text(browser), 60, "the trial's note")
        assert "Kept 7.0 tokens per question" in text(browser)
        wait_until(lambda: figures(browser), 60, "the figure of what was kept")
    finally:
        server.terminate()
        server.wait(30)


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
