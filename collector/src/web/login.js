// A link such as /login#TOKEN logs in by itself; what follows the # leaves the browser only in the form.
"use strict";

const given = location.hash.slice(1);
if (given) {
    history.replaceState(null, "", "/login");
    document.getElementById("token").value = decodeURIComponent(given);
    document.querySelector("form").submit();
}
