"""Real services for tests: a PostgreSQL server and a browser, as Debian's packages bring them."""

import os
import shutil
import signal
import socket
import subprocess
import time
from glob import glob
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

PASSWORD = "s3cret-word"


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def hears_ctrl_c() -> None:
    """For a process that is about to begin: what runs in the background, as these tests may, has Ctrl-C ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def wait_until(true, seconds, what):
    limit = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < limit, f"waited {seconds} s for {what}"
        time.sleep(0.02)


@pytest.fixture(scope="session")
def postgresql(tmp_path_factory):
    """Port of a server on loopback that ends with the tests."""
    folders = [*sorted(glob("/usr/lib/postgresql/*/bin"), reverse=True), *os.get_exec_path()]
    programs = next((Path(folder) for folder in folders if (Path(folder) / "initdb").exists()), None)
    if programs is None:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    # the server refuses to run as root; its folder must be one that its user can reach
    user = "postgres" if os.geteuid() == 0 else None
    folder = Path("/tmp") / f"foveate-postgresql-{uuid4().hex[:8]}"
    folder.mkdir(mode=0o700)
    (folder / "password").write_text(PASSWORD)
    if user:
        for path in (folder, folder / "password"):
            shutil.chown(path, user, user)
    data, port = folder / "data", free_port()
    start = [programs / "initdb", "-D", data, "-U", "tester", "-A", "scram-sha-256", "--pwfile", folder / "password"]
    subprocess.run([*start, "--no-sync"], user=user, check=True, capture_output=True, cwd="/")
    settings = {"listen_addresses": "127.0.0.1", "unix_socket_directories": folder, "fsync": "off", "port": port}
    options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
    server = subprocess.Popen(
        [programs / "postgres", "-D", data, *options], user=user, cwd="/", stderr=subprocess.DEVNULL
    )
    try:
        wait_until(lambda: _answers(port), 30, "PostgreSQL to start")
        yield port
    finally:
        server.send_signal(signal.SIGINT)  # "fast": does not wait for clients that are still connected
        server.wait(60)
        shutil.rmtree(folder)


def _connected(port):
    where = {"host": "127.0.0.1", "port": port, "user": "tester", "password": PASSWORD, "dbname": "postgres"}
    return psycopg.connect(**where, autocommit=True)


def _answers(port):
    try:
        _connected(port).close()
    except psycopg.OperationalError:
        return False
    return True


@pytest.fixture
def postgresql_url(postgresql):
    """SQLAlchemy's URL of an empty database."""
    name = f"test_{uuid4().hex}"
    with _connected(postgresql) as connection:
        connection.execute(f"create database {name}")
    return f"postgresql+psycopg://tester:{PASSWORD}@127.0.0.1:{postgresql}/{name}"


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a disk of its own with 8 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", folder], stderr=subprocess.DEVNULL).returncode:
        pytest.skip("only root may mount a small disk")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.fixture
def browser(tmp_path):
    """A headless Chromium."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("Chromium is not installed: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    quiet = (
        "disable-background-networking",
        "disable-component-update",
        "disable-sync",
        "no-first-run",
        "disable-quic",
    )
    for flag in ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage", "window-size=1400,1400", *quiet):
        options.add_argument(f"--{flag}")
    options.add_argument(f"--user-data-dir={tmp_path / 'chromium'}")
    opened = webdriver.Chrome(options=options, service=Service(driver))
    yield opened
    opened.quit()
