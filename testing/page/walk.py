"""Walks through each screen of the page in a real browser. Usage: walk.py BIN AXE [SHOTS].

BIN is the directory of the programs, and AXE is the path of axe.min.js. If you give the directory
SHOTS, the script writes the screenshots for the documents to SHOTS."""

import json
import os
import re
import socket
import sys

from attacks import attack, status
from browser import Browser
from stage import Stage, wait_until

SCREENS = [
    "/",
    "/hosts",
    "/hosts?name=shop&group=canary",
    "/hosts/web-01",
    "/configurations",
    "/configurations/shop",
    "/configurations/shop/diff",
    "/configurations/shop/change",
    "/rollouts",
    "/components",
    "/components/code",
    "/store",
    "/audit",
    "/confirm?verb=rollback&name=shop",
    "/confirm?verb=host+hold&host=web-01",
    "/no-such-page",
]
WIDTHS = [int(width) for width in os.environ.get("WIDTHS", "360 1280 2560").split()]


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def until(page, expression, seconds=30):
    """Waits until the expression is true on the page. The page's Content-Security-Policy forbids the
    browser driver's own wait function, so this function polls."""
    wait_until(expression, lambda: page.evaluate(expression), seconds)


def press(page, selector):
    """Presses a button or a link, and waits for the next page."""
    with page.expect_navigation():
        page.locator(selector).last.click()


def confirm(page, link):
    """Follows a link to a confirmation, presses its button, and returns the text of the button."""
    press(page, link)
    button = page.locator("form[action='/run'] button").inner_text()
    message = page.locator("#m")
    if message.count():
        message.fill("seen in a browser")
    press(page, "form[action='/run'] button")
    assert page.locator("h1").inner_text() == "Done", page.content()
    return button


def state_of(stage):
    return json.loads(stage.ssh("fleet -name shop -json"))["configurations"][0]


def look_at_all(browser, context, base, theme):
    """Checks each screen at each width: accessibility, page width, requests and console."""
    for width in WIDTHS:
        page = browser.page(context, base)
        page.set_viewport_size({"width": width, "height": 900})
        for screen in SCREENS:
            page.goto(base + screen)
            browser.check(page)
        page.close()
    print(f"walk: {len(SCREENS)} screens at {len(WIDTHS)} widths, {theme}", flush=True)


def change_versions(stage, page, base):
    """Changes a version in the form. All hosts deploy the change, and the page shows the new version."""
    page.goto(base + "/configurations/shop/change")
    page.locator("tr", has_text="code").locator("select").select_option("v2")
    press(page, "main form button")
    assert "v1 → v2" in page.content()
    button = page.locator("form[action='/run'] button").inner_text()
    assert f"{len(stage.hosts)} hosts" in button, button
    press(page, "form[action='/run'] button")
    assert page.locator("h1").inner_text() == "Done", page.content()
    wait_until("all hosts run state 2", lambda: state_of(stage)["done"] == len(stage.hosts))
    assert state_of(stage)["state"] == 2, (state_of(stage), button)
    page.goto(base + "/configurations/shop")
    assert "v2" in page.locator("#layers").inner_text()


def see_live_updates(stage, page, base):
    """A change by an ssh command appears on the open page without a reload."""
    page.goto(base + "/")
    until(page, "document.getElementById('live-status').textContent === 'live'")
    page.evaluate("window.mark = 1")
    stage.ssh("changeconf -name shop -component code -version v1")
    until(page, "document.querySelector('#configurations tbody td').textContent.startsWith('3')", 10)
    assert page.evaluate("window.mark") == 1
    stage.ssh("host hold web-03 -m 'its disk is being replaced'")
    page.goto(base + "/hosts/web-03")
    until(page, "document.getElementById('live-status').textContent === 'live'")
    assert "its disk is being replaced" in page.content()
    stage.ssh("host release web-03")
    until(page, "!document.body.textContent.includes('its disk is being replaced')")


def roll_back(stage, page, base):
    """Rolls the configuration back on the page."""
    before = state_of(stage)["state"]
    page.goto(base + "/configurations/shop")
    button = confirm(page, "a[href*='verb=rollback'] >> nth=0")
    assert button.startswith("Roll back to"), button
    assert state_of(stage)["state"] == before + 1
    wait_until("all hosts run the restored state", lambda: state_of(stage)["done"] == len(stage.hosts))


def roll_out(browser, stage, page, base, shots):
    """Starts, pauses, resumes and aborts a rollout on the page. Then starts a rollout that halts."""
    version = json.loads(stage.ssh("showconf -name shop -json"))["Layers"][0]["Version"]
    other = "v1" if version == "v2" else "v2"
    page.goto(base + "/configurations/shop/change")
    page.locator("tr", has_text="code").locator("select").select_option(other)
    page.fill("[name=waves]", "canary,50%,100%")
    page.fill("[name=soak]", "1h")
    press(page, "main form button")
    assert "wave 1" in page.content(), page.content()
    browser.check(page)
    press(page, "form[action='/run'] button")
    assert "rollout" in page.content()
    page.goto(base + "/rollouts/shop/1")
    until(page, "document.body.textContent.includes('2 good')")
    browser.check(page)
    confirm(page, "a[href*='rollout+pause']")
    page.goto(base + "/rollouts/shop/1")
    assert "paused" in page.locator("main").inner_text()
    assert "seen in a browser" in page.content()
    confirm(page, "a[href*='rollout+resume']")
    page.goto(base + "/rollouts/shop/1")
    button = confirm(page, "a[href*='rollout+abort']")
    assert button == f"Abort: 2 hosts back to {state_of(stage)['state']}", button
    wait_until("the rollout is aborted", lambda: "aborted" in stage.ssh("rollout status -name shop -number 1"))
    # The deploy of version v3 fails. The rollout halts, and the open page shows the reason without a
    # reload.
    page.goto(base + "/")
    until(page, "document.getElementById('live-status').textContent === 'live'")
    stage.ssh("changeconf -name shop -component code -version v3 -waves canary,50%,100% -soak 1h -max-failed 0")
    until(
        page,
        "document.querySelector('#needs').textContent.includes('relation \"orders\" does not exist')",
        20,
    )
    browser.check(page)
    failed = ("/", "/rollouts/shop/2", "/hosts/web-01", "/hosts?phase=failed", "/rollouts")
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 900})
        for screen in (*failed, "/configurations/shop", "/confirm?verb=rollout+abort&name=shop"):
            page.goto(base + screen)
            browser.check(page)
    page.set_viewport_size({"width": 1280, "height": 900})
    if shots:
        take_shots(browser, page.context, base, shots)
    page.goto(base + "/rollouts/shop/2")
    confirm(page, "a[href*='rollout+abort']")
    wait_until("all hosts run the base again", lambda: state_of(stage)["done"] == len(stage.hosts))


def take_shots(browser, context, base, shots):
    """Takes the screenshots for the documents."""
    for theme in ("light", "dark"):
        for width in WIDTHS:
            page = context.new_page()
            page.emulate_media(color_scheme=theme)
            page.set_viewport_size({"width": width, "height": 900})
            for name, screen in (("fleet", "/"), ("rollout", "/rollouts/shop/2"), ("configuration", "/configurations/shop")):
                page.goto(base + screen)
                page.screenshot(path=f"{shots}/{name}-{width}-{theme}.png", full_page=True)
            page.close()


def without_script(browser, base, cookies):
    """The page works in a browser without JavaScript."""
    context = browser.context(java_script_enabled=False)
    context.add_cookies(cookies)
    page = context.new_page()
    page.goto(base + "/")
    assert "shop" in page.locator("#configurations").inner_text()
    page.goto(base + "/configurations/shop/change")
    page.locator("tr", has_text="code").locator("select").select_option("v2")
    press(page, "main form button")
    assert page.locator("form[action='/run']").count() == 1, page.content()
    context.close()


def by_keyboard(page, base):
    """The tab key first selects a skip link, which leads past the navigation to the main part."""
    page.goto(base + "/")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert page.evaluate("document.querySelector('main').contains(document.activeElement)")


def on_the_port(browser, stage):
    """The HTTP port is read-only, unless a proxy names the user in a header."""
    base = f"http://127.0.0.1:{stage.http}"
    context = browser.context()
    page = browser.page(context, base)
    page.goto(base + "/")
    assert "read-only" in page.locator("header").inner_text()
    page.goto(base + "/configurations/shop")
    assert page.locator("a[href*='/confirm']").count() == 0
    assert status(base + "/", Host="evil.example") == 421
    assert status(base + "/metrics", Host="monitoring.example") == 200
    context.close()
    context = browser.context(extra_http_headers={"X-Forwarded-User": "ben"})
    page = browser.page(context, base)
    page.goto(base + "/hosts/web-02")
    confirm(page, "a[href*='host+hold']")
    assert "seen in a browser" in stage.ssh("host list")
    assert "ben" in stage.ssh("audit -limit 1")
    stage.ssh("host release web-02")
    context.close()


def main():
    bin, axe = sys.argv[1:3]
    shots = sys.argv[3] if len(sys.argv) > 3 else None
    stage, browser = Stage(bin, hosts=12), Browser(axe)
    try:
        stage.fill()
        port = free_port()
        ssh, address = stage.forward(port)
        base = f"http://localhost:{port}"
        assert re.fullmatch(re.escape(base) + r"/login\?token=[0-9a-f]{64}", address), address
        context = browser.context()
        page = browser.page(context, base)
        assert page.goto(base + "/").status == 401
        browser.check(page)
        page.goto(address)
        assert page.url == base + "/" and "anna" in page.locator("header").inner_text()
        other = browser.context().new_page()
        assert other.goto(address).status == 401, "a token works twice"
        cookies = context.cookies()
        assert all(one["httpOnly"] and one["sameSite"] == "Strict" for one in cookies), cookies

        for theme in ("light", "dark"):
            themed = browser.context(theme=theme)
            themed.add_cookies(cookies)
            look_at_all(browser, themed, base, theme)
            themed.close()
        by_keyboard(page, base)
        without_script(browser, base, cookies)
        change_versions(stage, page, base)
        see_live_updates(stage, page, base)
        roll_back(stage, page, base)
        roll_out(browser, stage, page, base, shots)
        print("walk: changes, live updates, a rollback and two rollouts", flush=True)
        held = lambda: "web-01" in stage.ssh("fleet -phase held")
        attack(context, base, held)
        print("walk: a page of another origin can do nothing", flush=True)
        on_the_port(browser, stage)
        # The login ends with the ssh connection.
        page.goto(base + "/")
        ssh.terminate()
        ssh.wait()
        until(page, "document.getElementById('live-status').className.includes('lost')")
        ssh, _ = stage.forward(port)
        assert page.goto(base + "/").status == 401, "the login outlives its ssh connection"
        assert not browser.faults, f"{len(browser.faults)} faults"
        print("walk: passed")
    finally:
        for fault in browser.faults:
            print("walk: fault:", fault, file=sys.stderr)
        browser.end()
        stage.end()


if __name__ == "__main__":
    main()
