// Live updates, ages, and the filter of rows. Each page also works without this script.
"use strict";
(() => {
	const doc = document, live = doc.body.dataset, state = doc.getElementById("live-status");
	const all = (what, at = doc) => [...at.querySelectorAll(what)];
	const skew = live.now ? Date.now() - Date.parse(live.now) : 0;
	const waiting = new Map(), touched = new WeakSet();
	let source, timer, pause = 1;

	const put = (e, text) => e && e.textContent !== text && (e.textContent = text);
	const say = (text, lost) => { put(state, text); state?.classList.toggle("lost", lost); };

	const units = (s) => s < 60 ? [s, "s"] : s < 3600 ? [s / 60 | 0, "m", s % 60, "s"]
		: s < 86400 ? [s / 3600 | 0, "h", (s / 60 | 0) % 60, "m"] : [s / 86400 | 0, "d", (s / 3600 | 0) % 24, "h"];
	const clock = (at) => {
		const now = Date.now() - skew;
		for (const e of all("time.ago", at)) {
			const s = (now - Date.parse(e.dateTime)) / 1000;
			if (s === s) put(e, units(Math.max(0, s | 0)).slice(0, 2).join(" ") + " ago");
		}
		for (const e of all("[data-until]", at)) {
			const s = Math.ceil((Date.parse(e.dataset.until) - now) / 1000);
			if (s === s) put(e, s > 0 ? units(s).join(" ") + " left" : "now");
		}
	};

	const sift = () => {
		for (const box of all("input[data-filter]")) for (const row of all(`#${box.dataset.filter} tbody tr`))
			row.hidden = !row.textContent.toLowerCase().includes(box.value.trim().toLowerCase());
	};

	// Replaces a section, and keeps the reader's focus and scroll positions. If the reader has filled in a
	// form or selected text there, the section stays as it is.
	const replace = (id, html) => {
		const old = doc.getElementById(id);
		const fresh = new DOMParser().parseFromString(html, "text/html").getElementById(id);
		if (!old || !fresh) return;
		const picked = getSelection();
		if (all("form", old).some((e) => touched.has(e)) || !picked.isCollapsed && picked.containsNode(old, true))
			return void waiting.set(id, html);
		waiting.delete(id);
		clock(fresh);
		for (const e of all("details[id]", old)) all("#" + e.id, fresh).forEach((d) => d.open = e.open);
		if (old.isEqualNode(fresh)) return;
		const at = doc.activeElement, focus = old.contains(at);
		const peers = (e) => all("a, button, input, select, summary, [tabindex]", e).filter((e) => at.id ? e.id === at.id
			: e.localName === at.localName && (e.getAttribute("href") || e.textContent) === (at.getAttribute("href") || at.textContent));
		const nth = focus && peers(old).indexOf(at);
		const moved = all(".scroll, pre", old).map((e) => [e.scrollLeft, e.scrollTop]);
		old.replaceWith(fresh);
		all(".scroll, pre", fresh).forEach((e, i) => moved[i] && e.scrollTo(...moved[i]));
		if (focus) {
			const found = peers(fresh), next = found[nth] || found[0] || fresh;
			if (next === fresh) fresh.tabIndex = -1;
			next.focus({ preventScroll: true });
		}
		sift();
	};

	const stop = () => { clearTimeout(timer); source?.close(); };
	const start = () => {
		stop();
		source = new EventSource(live.live);
		source.onopen = () => { pause = 1; say("live", false); };
		source.onerror = () => {
			say("not live: the connection to the registry is lost", true);
			if (source.readyState === 2) timer = setTimeout(start, 1000 * (pause = Math.min(pause * 2, 30)));
		};
		source.addEventListener("section", (event) => {
			const { id, html } = JSON.parse(event.data);
			replace(id, html);
		});
		// If the page still has this digest at the next connection, the registry sends no section again.
		source.addEventListener("end", ({ lastEventId }) => live.live = live.live.replace(/seen=[^&]*/, "seen=" + lastEventId));
		source.addEventListener("reload", () => location.reload());
		source.addEventListener("gone", () => {
			stop();
			delete live.live;
			say("not live: the object of this page no longer exists", true);
		});
	};
	// A browser opens only six connections to a server, so a hidden tab closes its connection.
	const look = () => { if (live.live) doc.hidden ? stop() : start(); };

	doc.addEventListener("input", ({ target }) => target.dataset.filter ? sift() : target.form && touched.add(target.form));
	doc.addEventListener("selectionchange", () => {
		if (waiting.size && getSelection().isCollapsed) [...waiting].forEach((one) => replace(...one));
	});
	doc.addEventListener("visibilitychange", look);
	addEventListener("pagehide", stop);
	addEventListener("pageshow", (event) => event.persisted && look());
	setInterval(() => clock(), 1000);
	clock();
	look();
})();
