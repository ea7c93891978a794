// Swaps in what the server rendered whenever it says that there is news. Holds no state and no logic of its own.
"use strict";

const fleet = document.getElementById("fleet");
const live = document.getElementById("live");
const MINUTE_MS = 60000;
const RETRY_MS = 15000;
// Set where one site is shown alone: it is watched live while the page is seen.
const site = fleet.dataset.site;
let watching = null;
let busy = false;
let again = false;

async function refresh() {
    if (busy) { again = true; return; }
    busy = true;
    try {
        const answer = await fetch(site ? `/fragment?site=${site}` : "/fragment", { credentials: "same-origin" });
        if (answer.status === 401) { location.assign("/login"); return; }
        if (!answer.ok) { throw new Error(`the server answered ${answer.status}`); }
        fleet.innerHTML = await answer.text();
        live.textContent = `live, as of ${new Date().toLocaleTimeString()}`;
    } catch (error) {
        live.textContent = `not live: ${error.message}; trying again`;
    } finally {
        busy = false;
        if (again) { again = false; refresh(); }
    }
}

function listen() {
    const events = new EventSource("/api/v1/events?kind=commit");
    events.addEventListener("commit", refresh);
    events.addEventListener("error", () => {
        live.textContent = "not live: the connection to the collector is lost; trying again";
        // An answer that is no stream is not asked for again by the browser itself.
        if (events.readyState === EventSource.CLOSED) { setTimeout(listen, RETRY_MS); }
    });
}
listen();
// Ages grow without news, too.
setInterval(refresh, MINUTE_MS);

// The server says when to ask again; who does not look any more does not ask.
async function watch() {
    clearTimeout(watching);
    if (!site || document.hidden) { return; }
    let next = RETRY_MS;
    try {
        const answer = await fetch(`/api/v1/sites/${site}/live`, { method: "POST", credentials: "same-origin" });
        if (answer.ok) { next = (await answer.json()).renew_in_ms; }
    } catch {
        // The connection is lost, as the page says: tried again.
    }
    watching = setTimeout(watch, next);
}

document.addEventListener("visibilitychange", watch);
watch();
