"""Checks each page in a real browser. The page sends requests to the registry only, its own
Content-Security-Policy blocks nothing, no script fails, and axe finds no accessibility fault."""

import os
import pathlib

from playwright.sync_api import sync_playwright

RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"]
AXE = """() => axe.run(document, {runOnly: %s}).then(found => found.violations.map(
    one => one.id + ": " + one.help + ": " + one.nodes.slice(0, 3).map(node => node.html).join(" | ")))"""
WIDEST = """() => [...document.querySelectorAll("main *")].filter(one => !one.closest(".scroll")
    && one.getBoundingClientRect().right > innerWidth + 1).slice(0, 3).map(one => one.outerHTML.slice(0, 160))"""
SIDEWAYS = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


class Browser:
    """A browser. `faults` collects the faults of all pages."""

    def __init__(self, axe):
        self.axe = pathlib.Path(axe).read_text()
        self.faults = []
        self.playwright = sync_playwright().start()
        flags = ["--no-sandbox", "--host-resolver-rules=MAP *.example 127.0.0.1"]
        program = os.environ.get("CHROMIUM", "/usr/bin/chromium")
        self.chromium = self.playwright.chromium.launch(executable_path=program, args=flags)

    def context(self, width=1280, theme="light", **more):
        """A window with its own cookies."""
        size = {"width": width, "height": 900}
        return self.chromium.new_context(viewport=size, color_scheme=theme, **more)

    def page(self, context, origin):
        """Opens a page. A request to any origin but `origin` is a fault."""
        page = context.new_page()
        fault = lambda what: self.faults.append(f"{page.url}: {what}")
        page.on("pageerror", lambda error: fault(f"script: {error}"))
        page.on("request", lambda request: request.url.startswith(origin) or fault(request.url))
        page.on("console", lambda said: self.console(fault, said))
        return page

    @staticmethod
    def console(fault, said):
        # The browser also reports refused logins and lost connections on its console. The tests cause
        # both on purpose.
        if said.type in ("error", "warning") and "status of 4" not in said.text:
            if "net::ERR_" not in said.text:
                fault(f"console: {said.text}")

    def check(self, page):
        """Checks that axe finds no fault, and that the page does not scroll sideways."""
        page.evaluate(self.axe)
        for found in page.evaluate(AXE % RULES):
            self.faults.append(f"{page.url} at {page.viewport_size['width']} px: {found}")
        wide = page.evaluate(SIDEWAYS)
        if wide > 0:
            at = page.evaluate(WIDEST)
            self.faults.append(f"{page.url}: {wide} px too wide for {page.viewport_size}: {at}")

    def end(self):
        self.chromium.close()
        self.playwright.stop()
