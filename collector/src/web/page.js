// Swaps in what the server rendered whenever it says that there is news. Holds no state and no logic of its own.
"use strict";

const fleet = document.getElementById("fleet");
const live = document.getElementById("live");
const MINUTE_MS = 60000;
let busy = false;
let again = false;

async function refresh() {
    if (busy) { again = true; return; }
    busy = true;
    try {
        const answer = await fetch("/fragment", { credentials: "same-origin" });
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

const events = new EventSource("/api/v1/events?kind=commit");
events.addEventListener("commit", refresh);
events.addEventListener("error", () => { live.textContent = "not live: the connection to the collector is lost; trying again"; });
// Ages grow without news, too.
setInterval(refresh, MINUTE_MS);
