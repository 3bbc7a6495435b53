"""The chat page in a real browser, served through the front by a real server."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import openai
import pytest

from serving.release import Release
from tests.serving.conftest import MODEL, Running, start

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
needs_browser = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs Debian's chromium and chromium-driver")

webdriver = pytest.importorskip("selenium.webdriver")
from selenium.webdriver.chrome.service import Service  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402

FLAGS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PROBE = "<img src=x onerror=document.title='run'>"


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    routes = tmp_path_factory.mktemp("front") / "routes.json"
    running = start(["serving.front", "--routes", str(routes)], routes.with_suffix(".log"), "/front/health")
    yield running
    running.stop()


@pytest.fixture
def show(front: Running, release: Release) -> Callable[..., None]:
    """Point the front at a server, or at none."""
    arguments = front.process.args
    routes = Path(arguments[arguments.index("--routes") + 1])  # type: ignore[index,union-attr]

    def point_at(server: Running | None) -> None:
        backends = [{"url": server.url, "weight": 100, "release": release.digest}] if server else []
        routes.with_suffix(".new").write_text(json.dumps({"service": MODEL, "backends": backends}))
        routes.with_suffix(".new").rename(routes)
        wait_for(lambda: httpx.get(front.url + "/front/health").json()["routes"]["backends"] == backends)

    return point_at


class Page:
    """What a person can see and do."""

    def __init__(self, driver: webdriver.Chrome, url: str):
        self.driver, self.url = driver, url

    def open(self) -> None:
        self.driver.get(self.url)

    def find(self, selector: str):
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def one(self, selector: str):
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def texts(self, selector: str) -> list[str]:
        return [element.text for element in self.find(selector)]

    def press(self, *keys: str) -> None:
        """Type into whatever has the focus, as a keyboard does."""
        self.driver.switch_to.active_element.send_keys(*keys)

    def answered(self) -> bool:
        return not self.one("#stop").is_displayed() and not self.find("[aria-busy]")


@pytest.fixture
def page(front: Running, tmp_path: Path) -> Iterator[Page]:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM or ""
    for flag in [*FLAGS, f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1000,800"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield Page(driver, front.url + "/")
    driver.quit()


def wait_for(condition: Callable[[], object], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


@needs_browser
def test_a_question_is_answered_and_the_history_kept(
    page: Page, endless_server: Running, show: Callable[..., None]
) -> None:
    show(endless_server)
    digest = httpx.get(endless_server.url + "/health").json()["release"]
    page.open()
    wait_for(lambda: page.one("#release").is_displayed())
    assert page.one("#release").text == f"Release {digest[7:19]}"
    assert digest in page.one("#release").get_attribute("title")
    page.press(PROBE, Keys.SHIFT, Keys.ENTER, Keys.NULL, "second line")
    assert page.find(".turn") == []
    page.press(Keys.ENTER)
    wait_for(page.answered)
    assert page.texts(".turn.user p") == [f"{PROBE}\nsecond line"]
    # What the page shows is what the API says, as text.
    asked = {"messages": [{"role": "user", "content": f"{PROBE}\nsecond line"}], "max_tokens": 256}
    answer = httpx.post(endless_server.url + "/v1/chat/completions", json=asked).json()["choices"][0]["message"][
        "content"
    ]
    assert page.one(".turn.assistant p").get_property("textContent") == answer
    assert page.driver.title == "Energy chat" and page.find("#log img") == []

    page.open()
    assert page.one(".turn.assistant p").get_property("textContent") == answer
    assert not page.one("#welcome").is_displayed()
    page.one("#clear").click()
    assert page.find(".turn") == [] and page.one("#welcome").is_displayed()
    page.open()
    assert page.find(".turn") == []
    assert [entry for entry in page.driver.get_log("browser") if entry["level"] == "SEVERE"] == []


@needs_browser
def test_an_answer_streams_and_can_be_stopped(page: Page, endless_server: Running, show: Callable[..., None]) -> None:
    show(endless_server)
    page.open()
    # The tiny model has written a page's answer before a finger is on the key.
    page.driver.execute_script(
        "const plain = fetch; window.fetch = (url, options) =>"
        " plain(url, {...options, body: options.body.replace('\"max_tokens\":256', '\"max_tokens\":15000')})"
    )
    page.find("#examples button")[0].click()
    length = lambda: len(page.one(".turn.assistant p").get_property("textContent"))  # noqa: E731
    wait_for(lambda: page.find(".turn.assistant") and length() > 5)
    assert page.one(".turn.assistant").get_attribute("aria-busy") == "true"
    early = length()
    wait_for(lambda: length() > early)
    page.press(Keys.ESCAPE)
    wait_for(page.answered)
    page.press("and again", Keys.ENTER)
    wait_for(lambda: len(page.find(".turn.assistant")) == 2)
    page.one("#stop").click()
    wait_for(page.answered)
    assert page.texts(".turn.assistant .note")[-1] == "You stopped this answer."
    # The place is free again: nobody computes for a reader who has left.
    wait_for(lambda: "slipway_requests_running 0.0" in httpx.get(endless_server.url + "/metrics").text)


REFUSED = {
    "context": (400, {"code": "context_length_exceeded", "param": "max_tokens", "message": "too long"}),
    "body": (413, {"code": None, "param": None, "message": "too long"}),
}


@needs_browser
@pytest.mark.parametrize("kind", REFUSED)
def test_a_long_conversation_loses_its_oldest_turns_and_not_its_answers(
    page: Page, endless_server: Running, show: Callable[..., None], kind: str
) -> None:
    show(endless_server)
    page.open()
    turns = [{"role": role, "content": f"{role} {index}"} for index in range(3) for role in ("user", "assistant")]
    page.driver.execute_script("localStorage.setItem('slipway.conversation', arguments[0])", json.dumps(turns))
    page.open()
    status, error = REFUSED[kind]
    page.driver.execute_script(
        """
        const plain = fetch, [status, error] = arguments;
        window.asked = [];
        window.fetch = async (url, options) => {
          const body = JSON.parse(options.body);
          asked.push([body.messages.map((turn) => turn.content), body.max_tokens]);
          return body.messages.length > 3 ? Response.json({ error }, { status }) : plain(url, options);
        };
        """,
        status,
        error,
    )
    page.press("And now?", Keys.ENTER)
    wait_for(lambda: page.answered() and len(page.find(".turn.assistant")) == 4)
    asked = page.driver.execute_script("return asked")
    contents = [turn["content"] for turn in turns]
    assert asked == [[[*contents[first:], "And now?"], 256] for first in (0, 2, 4)]
    assert len(page.find(".turn")) == 8 and not page.one("#problem").is_displayed()


@needs_browser
def test_a_small_model_answers_with_what_room_it_has(page: Page, server: Running, show: Callable[..., None]) -> None:
    show(server)  # its context is 256 tokens, question and answer together
    page.open()
    page.press("Why?", Keys.ENTER)
    wait_for(lambda: page.answered() and page.find(".turn.assistant"))
    asked = {"messages": [{"role": "user", "content": "Why?"}]}
    answer = httpx.post(server.url + "/v1/chat/completions", json=asked).json()["choices"][0]["message"]["content"]
    assert page.one(".turn.assistant p").get_property("textContent") == answer
    page.press("warm " * 2000, Keys.ENTER)
    wait_for(lambda: page.one("#problem").is_displayed())
    assert "This question is too long for the model" in page.one("#problem").text


@needs_browser
def test_trouble_is_told_in_words_and_can_be_tried_again(
    page: Page, server: Running, show: Callable[..., None]
) -> None:
    show(server)
    page.open()
    wait_for(lambda: page.one("#release").is_displayed())
    show(None)
    page.press("Hello?", Keys.ENTER)
    wait_for(lambda: page.one("#problem").is_displayed())
    assert "not available at the moment" in page.one("#problem").text
    show(server)
    page.one("#problem button").click()
    wait_for(lambda: page.answered() and page.find(".turn.assistant"))
    assert not page.one("#problem").is_displayed()
    assert page.texts(".turn.user p") == ["Hello?"]


@needs_browser
def test_it_fits_a_phone_and_names_its_controls(page: Page, server: Running, show: Callable[..., None]) -> None:
    show(server)
    page.driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 380, "height": 700, "deviceScaleFactor": 1, "mobile": True}
    )
    page.open()
    page.one("#question").send_keys("w" * 200, Keys.ENTER)
    wait_for(lambda: page.answered() and page.find(".turn.assistant"))
    assert page.driver.execute_script("return document.documentElement.scrollWidth") == 380
    assert all(element.accessible_name for element in page.find("button, textarea") if element.is_displayed())
    assert page.one("#question").accessible_name == "Your question"
    assert page.one("#log").get_attribute("role") == "log" and page.one("#log").get_attribute("aria-live") == "polite"


def test_the_page_may_load_nothing_from_elsewhere(server: Running) -> None:
    reply = httpx.get(server.url + "/")
    policy = reply.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
    for name in ("chat.js", "chat.css", "icon.svg"):
        part = httpx.get(f"{server.url}/page/{name}")
        assert part.status_code == 200 and part.headers["content-security-policy"] == policy
        assert f"/page/{name}" in reply.text
    text = reply.text + httpx.get(server.url + "/page/chat.js").text
    assert "innerHTML" not in text and "://" not in text
    for path in ("/page/none.js", "/page/..%2frelease.py", "/page/%2e%2e/release.py"):
        assert httpx.get(server.url + path).status_code == 404


def test_the_openai_client_streams_through_the_front(
    front: Running, server: Running, show: Callable[..., None]
) -> None:
    show(server)

    def read(url: str) -> list[str | None]:
        with openai.OpenAI(base_url=url + "/v1", api_key="none", max_retries=0) as client:
            chunks = client.chat.completions.create(
                model=MODEL, messages=[{"role": "user", "content": "Hi"}], max_tokens=30, temperature=0, stream=True
            )
            return [chunk.choices[0].delta.content for chunk in chunks]

    assert read(front.url) == read(server.url)
