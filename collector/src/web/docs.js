// Shows the API's own description as a list that can be opened; GET requests without a path parameter can be tried.
"use strict";

function element(name, text, ...children) {
    const node = document.createElement(name);
    if (text) { node.textContent = text; }
    node.append(...children);
    return node;
}

function parameters(operation) {
    const rows = (operation.parameters || []).map((parameter) => element("tr", "",
        element("th", parameter.name + (parameter.required ? " *" : "")),
        element("td", parameter.description || "")));
    return rows.length ? [element("table", "", ...rows)] : [];
}

function show(path, method, operation) {
    const answers = Object.entries(operation.responses || {}).map(([status, answer]) => `${status} ${answer.description || ""}`.trim());
    const entry = element("details", "",
        element("summary", "", element("code", `${method.toUpperCase()} ${path}`), " " + (operation.summary || "")),
        element("p", operation.description || operation.summary || ""),
        ...parameters(operation),
        element("p", `Answers: ${answers.join("; ")}`));
    if (method === "get" && !path.includes("{")) {
        const link = element("a", "try it");
        link.href = path;
        entry.append(element("p", "", link));
    }
    return entry;
}

async function load() {
    const docs = document.getElementById("docs");
    const description = await (await fetch("/openapi.json")).json();
    docs.replaceChildren(element("p", description.info.description));
    for (const [path, methods] of Object.entries(description.paths)) {
        for (const [method, operation] of Object.entries(methods)) { docs.append(show(path, method, operation)); }
    }
}

load();
