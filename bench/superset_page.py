"""Draw a bar chart of Superset in a headless Chromium. bench/superset.py starts it in Superset's environment.

It reads {"login", "user", "password", "chart", "bars", "picture"} from its input, waits for that many bars, saves the
picture, and prints {"bars": how many are drawn, "complaints": what the page says is wrong}.
"""

import json
import shutil
import sys

from selenium import webdriver
from selenium.common.exceptions import TimeoutException
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

# the most bars that a row of the canvas' points crosses; a bar is a run of points in the first colour of the palette
BARS = """
    const canvas = document.querySelector('.chart-container canvas');
    if (!canvas || !canvas.width) return 0;
    const points = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
    let most = 0;
    for (let row = 0; row < canvas.height; row++) {
        let bars = 0, inside = false;
        for (let i = row * canvas.width * 4; i < (row + 1) * canvas.width * 4; i += 4) {
            const blue = points[i] === 31 && points[i + 1] === 168 && points[i + 2] === 201 && points[i + 3] > 0;
            if (blue && !inside) bars++;
            inside = blue;
        }
        most = Math.max(most, bars);
    }
    return most;
"""


def draw(browser: webdriver.Chrome, given: dict[str, str]) -> dict[str, object]:
    """Log in, open the chart, wait until it is drawn, and say what is seen."""
    wait = WebDriverWait(browser, 60)
    browser.get(given["login"])
    wait.until(lambda page: page.find_elements(By.ID, "username"))
    browser.find_element(By.ID, "username").send_keys(given["user"])
    browser.find_element(By.ID, "password").send_keys(given["password"] + "\n")
    wait.until(lambda page: "/login" not in page.current_url)
    browser.get(given["chart"])
    try:
        wait.until(lambda page: page.execute_script(BARS) == given["bars"])
    except TimeoutException:
        print("the bars are not drawn within a minute", file=sys.stderr)
    alerts = browser.find_elements(By.CSS_SELECTOR, ".chart-container [role=alert]")
    return {"bars": browser.execute_script(BARS), "complaints": [alert.text for alert in alerts]}


options = webdriver.ChromeOptions()
options.binary_location = shutil.which("chromium") or ""
for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1500,900"):
    options.add_argument(argument)
request = json.load(sys.stdin)
with webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver"))) as chrome:
    try:
        seen = draw(chrome, request)
    finally:
        chrome.save_screenshot(request["picture"])
print(json.dumps(seen))
