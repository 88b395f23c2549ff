"""Checks that a page of another origin in the same browser can neither read nor change anything."""

import http.server
import threading
import urllib.error
import urllib.request

FETCHES = """async (base) => {
    const tries = {
        read: () => fetch(base + "/", {credentials: "include"}).then(answer => answer.text()),
        blind: () => fetch(base + "/run", {method: "POST", mode: "no-cors", credentials: "include",
            headers: {"content-type": "application/x-www-form-urlencoded"},
            body: "line=host hold -host=web-01 -m=x&csrf=x"}).then(answer => answer.type),
        api: () => fetch(base + "/api/v1/fleet", {credentials: "include"}).then(answer => answer.text()),
        events: () => new Promise((done, fail) => {
            const source = new EventSource(base + "/live?page=%2F", {withCredentials: true});
            source.onmessage = done;
            source.onerror = fail;
        }),
    };
    const results = {};
    for (const [name, run] of Object.entries(tries)) {
        try { results[name] = await run(); } catch (error) { results[name] = "refused"; }
    }
    return results;
}"""

FORM = """<!doctype html><title>evil</title>
<form method="post" action="{base}/run"><input name="line" value="host hold -host=web-01 -m=x">
<input name="csrf" value="x"><button id="go">win</button></form>
<iframe id="frame" src="{base}/"></iframe>"""


class Evil(http.server.BaseHTTPRequestHandler):
    """A page of another origin."""

    base = ""

    def log_message(self, *_):
        pass

    def do_GET(self):
        body = FORM.format(base=self.base).encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(body)


def status(url, **headers):
    """Sends a request without a browser, and returns its status."""
    try:
        return urllib.request.urlopen(urllib.request.Request(url, headers=headers)).status
    except urllib.error.HTTPError as error:
        return error.code


def attack(context, base, changed):
    """Attacks the page at `base` from a page of another origin, in a browser that is logged in.
    `changed()` returns whether an attack has changed the registry."""
    Evil.base = base
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Evil)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    port = server.server_port
    # The first origin is another port of the same host. The second origin is another site.
    for origin in (f"http://localhost:{port}", f"http://evil.example:{port}"):
        page = context.new_page()
        page.goto(origin)
        results = page.evaluate(FETCHES, base)
        assert results["read"] == "refused", (origin, results)
        assert results["api"] == "refused", (origin, results)
        assert results["events"] == "refused", (origin, results)
        frame = page.query_selector("#frame").content_frame()
        assert "deploy-registry" not in (frame.content() if frame else ""), origin
        with page.expect_navigation():
            page.click("#go")
        text = page.content()
        assert "Open this page through ssh" in text or "does not come from the registry" in text, text
        assert not changed(), origin
        page.close()
    # DNS rebinding: a host name of the attacker leads to the forwarded port.
    page = context.new_page()
    rebound = base.replace("localhost", "rebind.example")
    answer = page.goto(rebound)
    assert answer.status == 421, answer.status
    assert "web-01" not in page.content()
    page.close()
    server.shutdown()
