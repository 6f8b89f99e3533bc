"use strict";

// Experiments: those of a runner beside a checkout (`python -m runner`), where the service knows its address.

const RUNNER = document.body.dataset.experiments;
const LOOK = 2000; // ms between two looks at the experiments

let adminKey = sessionStorage.getItem("admin-key") || "";
let looking;
let logOf = "";
const shownRows = new Map();

/** Ask the runner. A key that it does not take is forgotten. */
async function askRunner(path, options = {}) {
  let response;
  try {
    response = await fetch(RUNNER + path, {...options, headers: {Authorization: `Bearer ${adminKey}`, ...options.headers}});
  } catch {
    throw new Problem("The runner does not answer, or does not accept requests from this page.");
  }
  if (response.ok) return response;
  if (response.status === 401) forget();
  const answer = await response.json().catch(() => ({}));
  throw new Problem(answer.error || `The runner answered with status ${response.status}.`);
}

function forget() {
  adminKey = "";
  sessionStorage.removeItem("admin-key");
  clearTimeout(looking);
  $("admin-form").hidden = false;
  $("experiment-form").hidden = $("experiments-list").hidden = $("experiment-log-part").hidden = true;
}

/** Do something, and say in the element `id` what went wrong. */
async function attempt(id, action) {
  try {
    await action();
    say(id, "");
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    say(id, error.message);
  }
}

/** Show the experiments, again and again while the page is in sight. */
async function look() {
  clearTimeout(looking);
  if (!document.hidden) {
    await attempt("experiments-problem", async () => {
      const {experiments} = await (await askRunner("/experiments")).json();
      showExperiments(experiments);
      if (logOf) await showLog();
    });
  }
  clearTimeout(looking);
  if (adminKey) looking = setTimeout(look, LOOK);
}

/** Change the rows in place: a button keeps the focus, and what is selected stays so. */
function showExperiments(experiments) {
  $("admin-form").hidden = true;
  $("experiment-form").hidden = $("experiments-list").hidden = false;
  for (const [name, row] of shownRows) {
    if (!experiments.some((experiment) => experiment.name === name)) {
      row.line.remove();
      shownRows.delete(name);
    }
  }
  experiments.forEach((experiment, index) => {
    if (!shownRows.has(experiment.name)) shownRows.set(experiment.name, newRow(experiment.name));
    const row = shownRows.get(experiment.name);
    const texts = {state: experiment.cancelling && experiment.state === "running" ? "being cancelled" : experiment.state,
      params: Object.entries(experiment.params).map(([key, value]) => `${key}=${JSON.stringify(value)}`).join(" "), told: told(experiment)};
    for (const [cell, text] of Object.entries(texts)) if (row[cell].textContent !== text) row[cell].textContent = text;
    row.cancel.hidden = !["queued", "running"].includes(experiment.state);
    const body = $("experiments-rows");
    if (body.children[index] !== row.line) body.insertBefore(row.line, body.children[index] || null);
  });
}

function newRow(name) {
  const row = {state: element("td"), params: element("td"), told: element("td"),
    log: element("button", {type: "button", class: "minor", "aria-label": `Log of ${name}`}, "Log"),
    cancel: element("button", {type: "button", class: "minor", "aria-label": `Cancel ${name}`}, "Cancel")};
  row.line = element("tr", {}, element("th", {scope: "row"}, name), row.state, row.params, row.told, element("td", {}, row.log, row.cancel));
  row.log.addEventListener("click", () => {
    logOf = name;
    attempt("experiment-problem", showLog);
  });
  row.cancel.addEventListener("click", () => attempt("experiment-problem", async () => {
    await askRunner(`/experiments/${name}`, {method: "DELETE"});
    look();
  }));
  return row;
}

function told({state, live, result, error, interruptions}) {
  const three = (value) => (typeof value === "number" ? value.toFixed(3) : "none");
  const again = interruptions ? `, interruptions: ${interruptions}` : "";
  if (state === "running") {
    const step = live.metrics ? `, step ${live.metrics.step}` : "";
    const score = live.macro_f1.length ? `, validation ${three(live.macro_f1.at(-1))}, best ${three(Math.max(...live.macro_f1))}` : "";
    return `${live.stage || "starting"}${step}${score}${again}`;
  }
  if (state === "done") return `validation ${three(result.valid.macro_f1)}, test ${three(result.test.macro_f1)}`;
  return error || again.slice(2);
}

async function showLog() {
  const text = await (await askRunner(`/experiments/${logOf}/log`)).text();
  const log = $("experiment-log"), atEnd = log.scrollTop + log.clientHeight >= log.scrollHeight - 5;
  $("experiment-log-part").hidden = false;
  $("experiment-log-title").textContent = `Log of ${logOf}`;
  if (log.textContent !== text) log.textContent = text;
  if (atEnd) log.scrollTop = log.scrollHeight;
}

/** Read lines such as `train.lr=3e-5`; a value that is no JSON is a word. */
function readParams(text) {
  const lines = text.split("\n").map((line) => line.trim()).filter(Boolean);
  return Object.fromEntries(lines.map((line) => {
    const [, name, value] = line.match(/^([^=\s]+)\s*=\s*(.*)$/) || [];
    if (!name) throw new Problem(`“${line}” is not a param. Write it like this: train.lr=3e-5`);
    try {
      return [name, JSON.parse(value)];
    } catch {
      return [name, value];
    }
  }));
}

$("admin-form").addEventListener("submit", (event) => {
  event.preventDefault();
  adminKey = $("admin-key").value.trim();
  $("admin-key").value = "";
  sessionStorage.setItem("admin-key", adminKey);
  look();
});

$("experiment-form").addEventListener("submit", (event) => {
  event.preventDefault();
  attempt("experiment-problem", async () => {
    const body = {params: readParams($("experiment-params").value), ...($("experiment-name").value.trim() && {name: $("experiment-name").value.trim()})};
    await askRunner("/experiments", {method: "POST", headers: {"Content-Type": "application/json"}, body: JSON.stringify(body)});
    $("experiment-name").value = "";
    look();
  });
});

document.addEventListener("visibilitychange", () => {
  if (adminKey && !document.hidden) look();
});

if (RUNNER) {
  $("experiments-part").hidden = false;
  if (adminKey) look();
}
