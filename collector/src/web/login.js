// A link such as /login#TOKEN logs in by itself; what follows the # leaves the browser only in the form.
"use strict";

function submitGiven() {
    const given = location.hash.slice(1);
    if (!given) { return; }
    history.replaceState(null, "", "/login");
    document.getElementById("token").value = decodeURIComponent(given);
    document.querySelector("form").submit();
}

// A link opened while the login is shown changes only the hash.
addEventListener("hashchange", submitGiven);
submitGiven();
