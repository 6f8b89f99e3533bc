"use strict";

const LINES = 20; // that are labelled as one types
const WORDS = 60; // of a text, beyond which no word is left out
const BATCH = 200; // rows of a file in a request
const PAUSE = 250; // ms without a key, before a request
const CHARS = 200000; // of a file in a request
const WAIT = 60; // seconds that a busy service is waited for at most, each of 5 times
const BLANK = /^[\s\x1c-\x1f\x85]*$/; // what the service takes for white space

const $ = (id) => document.getElementById(id);
let limits = {texts: BATCH, chars: 10000};

// ---- The service

let key = sessionStorage.getItem("key") || "";

class Problem extends Error {}

/** Ask the service; where it is busy, tell, wait as long as it says and ask again. */
async function ask(texts, signal, tell) {
  for (let attempt = 0; ; attempt++) {
    const headers = {"Content-Type": "application/json"};
    if (key) headers.Authorization = `Bearer ${key}`;
    let response;
    try {
      response = await fetch("predict", {method: "POST", headers, signal, body: JSON.stringify({text: texts})});
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Problem("The service does not answer.");
    }
    if (response.ok) return (await response.json()).predictions;
    if ((response.status === 503 || response.status === 429) && attempt < 5) {
      const seconds = Math.min(WAIT, Number(response.headers.get("Retry-After") || 1));
      tell(`The service is busy; trying again in ${seconds} s.`);
      await sleep(1000 * seconds, signal);
      tell("");
      continue;
    }
    const answer = await response.json().catch(() => ({}));
    if (response.status === 401) $("key-part").hidden = false;
    throw new Problem(answer.error || `The service answered with status ${response.status}.`);
  }
}

function sleep(ms, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, ms);
    signal.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(new DOMException("cancelled", "AbortError"));
    }, {once: true});
  });
}

$("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  key = $("key").value.trim();
  sessionStorage.setItem("key", key);
  typed();
});

// ---- Elements

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [attribute, value] of Object.entries(attributes)) made.setAttribute(attribute, value);
  made.append(...children);
  return made;
}

function drawing(name, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [attribute, value] of Object.entries(attributes)) made.setAttribute(attribute, value);
  made.append(...children);
  return made;
}

function say(id, message) {
  $(id).textContent = message;
  $(id).hidden = !message;
}

const percent = (share) => `${(100 * share).toFixed(1)} %`;
const number = (value) => value.toLocaleString("en");

// ---- Type or paste

let typing = new AbortController();
let timer;

$("text").addEventListener("input", () => {
  clearTimeout(timer);
  timer = setTimeout(typed, PAUSE);
});

async function typed() {
  typing.abort();
  typing = new AbortController();
  const {signal} = typing;
  const all = $("text").value.split("\n").filter((line) => !BLANK.test(line)).map((line) => line.trim());
  const lines = all.slice(0, LINES);
  const tell = (message) => say("text-busy", message);
  tell("");
  say("text-problem", all.length > LINES ? `Only the first ${LINES} of ${all.length} lines are labelled here. To label more, use a file.` : "");
  if (!lines.length) {
    $("results").replaceChildren();
    $("results").setAttribute("aria-busy", "false");
    return;
  }
  $("results").setAttribute("aria-busy", "true");
  try {
    const predictions = await ask(lines, signal, tell);
    const shown = lines.map((line, index) => result(line, predictions[index]));
    $("results").replaceChildren(...shown);
    for (let index = 0; index < lines.length; index++) await attribute(lines[index], predictions[index], shown[index], signal, tell);
  } catch (error) {
    if (error.name === "AbortError") return;
    $("results").replaceChildren();
    say("text-problem", error.message);
  }
  $("results").setAttribute("aria-busy", "false");
}

function result(line, prediction) {
  const bars = Object.entries(prediction.probabilities).map(([label, p]) => {
    const fill = element("span", {class: "fill"});
    fill.style.width = `${100 * p}%`;
    return element("div", {class: label === prediction.label ? "bar first" : "bar"},
      element("span", {}, label), element("span", {class: "track", "aria-hidden": "true"}, fill),
      element("span", {class: "number"}, percent(p)));
  });
  return element("article", {}, element("p", {class: "words", dir: "auto"}, line), ...bars, element("p", {class: "hint"}));
}

/** Leave out one word at a time, all in one request, and show by how much the label's probability falls or rises. */
async function attribute(line, prediction, shown, signal, tell) {
  const parts = line.split(/(\s+)/);
  const places = parts.map((part, index) => index).filter((index) => parts[index].trim());
  const hint = shown.querySelector(".hint");
  if (places.length < 2) return;
  if (places.length > Math.min(WORDS, limits.texts)) {
    hint.textContent = "This text has too many words to show what each of them adds.";
    return;
  }
  const without = places.map((place) => parts.filter((_, index) => index !== place && index !== place + 1).join("").trim());
  const others = await ask(without, signal, tell);
  const before = prediction.probabilities[prediction.label];
  const effects = new Map(places.map((place, index) => [place, before - others[index].probabilities[prediction.label]]));
  const strongest = Math.max(...[...effects.values()].map(Math.abs), 0.05);
  shown.querySelector(".words").replaceChildren(...parts.map((part, index) => {
    if (!effects.has(index)) return part;
    const effect = effects.get(index);
    const word = element("span", {class: "word", title: `${signed(effect)} points for ${prediction.label}`}, part);
    word.style.backgroundColor = `rgba(var(${effect > 0 ? "--more" : "--less"}), ${(0.55 * Math.abs(effect) / strongest).toFixed(2)})`;
    return word;
  }));
  const sorted = [...effects].filter(([, effect]) => Math.abs(effect) >= 0.005).sort((a, b) => Math.abs(b[1]) - Math.abs(a[1]));
  const named = sorted.slice(0, 3).flatMap(([place, effect]) => [element("bdi", {}, `“${parts[place]}”`), ` ${signed(effect)}, `]);
  hint.replaceChildren(...(named.length
    ? [`How many percentage points a word adds to ${prediction.label}, measured by leaving out only that word: `, ...named, "the others less. Words can act differently together."]
    : [`Leaving out any one word moves ${prediction.label} by less than half a percentage point.`]));
}

const signed = (share) => `${share < 0 ? "−" : "+"}${Math.abs(100 * share).toFixed(0)}`;

// ---- A file

function utf8Bytes(sign) {
  const code = sign.codePointAt(0);
  return code < 0x80 ? 1 : code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
}

/**
 * Yield the rows of a CSV file, each a list of cells: quotes, line breaks in them, and a byte order mark as they come.
 * Before each row, `tell` is called with the number of bytes up to its end. An empty line is no row.
 */
async function* rows(file, tell, signal) {
  const reader = file.stream().pipeThrough(new TextDecoderStream("utf-8", {fatal: true})).getReader();
  let row = [], cell = "", quoted = false, afterQuote = false, hadQuote = false, afterReturn = false, read = 0;
  const isRow = () => row.length > 0 || cell !== "" || hadQuote;
  function end() {
    const ended = [...row, cell];
    row = [];
    cell = "";
    hadQuote = false;
    tell(read);
    return ended;
  }
  try {
    for (;;) {
      if (signal.aborted) throw new DOMException("cancelled", "AbortError");
      let chunk;
      try {
        chunk = await reader.read();
      } catch (error) {
        throw new Problem(error instanceof TypeError ? "The file is not UTF-8 text. Save it as “CSV UTF-8”." : `The file cannot be read: ${error.message}`);
      }
      if (chunk.done) break;
      if (chunk.value.includes("\0")) throw new Problem("The file is not a CSV file: it has binary content.");
      for (const sign of chunk.value) {
        read += utf8Bytes(sign);
        if (quoted) {
          if (afterQuote) {
            afterQuote = false;
            if (sign === '"') { cell += '"'; continue; }
            quoted = false;
          } else {
            if (sign === '"') afterQuote = true; else cell += sign;
            continue;
          }
        }
        const isSecond = afterReturn && sign === "\n"; // of the line end \r\n
        afterReturn = sign === "\r";
        if (sign === '"' && cell === "") quoted = hadQuote = true;
        else if (sign === ",") { row.push(cell); cell = ""; }
        else if (sign === "\n" || sign === "\r") { if (!isSecond && isRow()) yield end(); }
        else cell += sign;
      }
    }
    if (quoted && !afterQuote) throw new Problem("The file ends within a quoted cell: a quote is missing.");
    if (isRow()) yield end();
  } finally {
    reader.cancel().catch(() => {});
  }
}

/**
 * A cell as it goes into the download: what a spreadsheet would compute becomes text. One that takes semicolons or tabs
 * for the ends of cells would see a formula within the cell too; `;-)` and `;-D` are none.
 */
function csvCell(value) {
  const isNumber = /^[+-]?[\d.]+(e[+-]?\d+)?$/i.test(value);
  const begun = /^[=+\-@＝＋－＠\t\r\n]/.test(value) && !isNumber ? `'${value}` : value;
  const safe = begun.replace(/([;\t\r\n])(?=[=+@＝＋－＠]|-(?!\)|[a-z]\b))/gi, "$1'");
  return /[",;\t\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}

const csvLine = (cells) => `${cells.map(csvCell).join(",")}\r\n`;

let header = [];
let work = new AbortController();

$("file").addEventListener("change", async () => {
  say("file-problem", "");
  $("file-done").hidden = $("column-part").hidden = true;
  $("start").disabled = true;
  const [file] = $("file").files;
  if (!file) return;
  try {
    const first = await rows(file, () => {}, new AbortController().signal).next();
    if (first.done) throw new Problem("The file is empty.");
    header = first.value;
    if (header.length === 1 && /[;\t]/.test(header[0])) throw new Problem("The columns seem to be separated by semicolons or tabs. Save the file with commas.");
    $("column").replaceChildren(...header.map((name, index) => element("option", {value: index}, name || `column ${index + 1}`)));
    $("column").value = Math.max(0, header.findIndex((name) => /^(text|tweet|originaltweet|content|message)$/i.test(name.trim())));
    $("column-part").hidden = false;
    $("start").disabled = false;
  } catch (error) {
    say("file-problem", error.message);
  }
});

$("file-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const [file] = $("file").files;
  work = new AbortController();
  busy(true);
  say("file-problem", "");
  $("file-done").hidden = true;
  try {
    const parts = await labelled(file, Number($("column").value), work.signal);
    URL.revokeObjectURL($("download").href);
    $("download").href = URL.createObjectURL(new Blob(parts, {type: "text/csv"}));
    $("download").download = file.name.replace(/(\.csv)?$/i, "-labelled.csv");
    $("file-done").hidden = false;
    $("download").focus();
  } catch (error) {
    if (error.name !== "AbortError") say("file-problem", error.message);
    $("progress-text").textContent = error.name === "AbortError" ? "Cancelled." : "Stopped.";
  }
  busy(false);
});

$("cancel").addEventListener("click", () => work.abort());

function busy(is) {
  $("start").disabled = $("file").disabled = $("column").disabled = is;
  $("cancel").hidden = !is;
  if (is) {
    $("progress-part").hidden = false;
    $("cancel").focus();
  } else if (document.activeElement === document.body) $("start").focus();
}

/** Return as much of a text as the service takes; it counts characters, of which some are two here. */
function cut(text) {
  return text.length > limits.chars ? Array.from(text).slice(0, limits.chars).join("") : text;
}

/** Return the labelled file in parts. Rows without a tweet keep their place and get no label. */
async function labelled(file, column, signal) {
  const begin = performance.now();
  const parts = [], size = Math.min(BATCH, limits.texts);
  let batch = [], chars = 0, done = 0, tooLong = 0, blank = 0, read = 0, lineNumber = 0;

  async function flush() {
    const texts = batch.map((row) => cut(row[column]));
    const wanted = texts.map((text, index) => index).filter((index) => !BLANK.test(texts[index]));
    const predictions = wanted.length ? await ask(wanted.map((index) => texts[index]), signal, (message) => { $("progress-text").textContent = message; }) : [];
    const of = new Map(wanted.map((index, place) => [index, predictions[place]]));
    parts.push(batch.map((row, index) => {
      const found = of.get(index);
      const added = found ? [found.label, ...allLabels.map((label) => String(found.probabilities[label]))] : ["", ...allLabels.map(() => "")];
      return csvLine([...row, ...added]);
    }).join(""));
    done += batch.length;
    blank += batch.length - wanted.length;
    batch = [];
    chars = 0;
    const share = Math.min(1, read / file.size), seconds = (performance.now() - begin) / 1000;
    $("progress").value = share;
    const left = share > 0 ? Math.ceil(seconds / share - seconds) : 0;
    $("progress-text").textContent = `${number(done)} rows, ${percent(share)}, ${left} s left`;
  }

  for await (const row of rows(file, (count) => { read = count; }, signal)) {
    lineNumber++;
    if (lineNumber === 1) {
      parts.push("\ufeff", csvLine([...row, "predicted", ...allLabels.map((label) => `p_${label}`)]));
      continue;
    }
    if (row.length !== header.length) throw new Problem(`Row ${number(lineNumber)} has ${row.length} cell${row.length === 1 ? "" : "s"}, but the header has ${header.length}.`);
    if (row[column].length > cut(row[column]).length) tooLong++;
    batch.push(row);
    chars += Math.min(row[column].length, limits.chars);
    if (batch.length === size || chars >= CHARS) await flush();
  }
  if (batch.length) await flush();
  if (!done) throw new Problem("The file has a header but no rows.");
  $("progress").value = 1;
  const note = (tooLong ? ` Texts cut to ${number(limits.chars)} characters before labelling: ${number(tooLong)}.` : "")
    + (blank ? ` Rows without text, and so without a label: ${number(blank)}.` : "");
  $("progress-text").textContent = `${number(done)} rows labelled in ${Math.ceil((performance.now() - begin) / 1000)} s.${note}`;
  return parts;
}

// ---- The model's card

let allLabels = [];

async function card() {
  const [model, described] = await Promise.all(["model", "openapi.json"].map(async (path) => {
    const response = await fetch(path);
    if (!response.ok) throw new Problem("The model card could not be loaded.");
    return response.json();
  }));
  const body = described.components.schemas.PredictRequest.properties.text.oneOf;
  limits = {
    texts: body.find((kind) => kind.type === "array").maxItems,
    chars: body.find((kind) => kind.type === "string").maxLength,
  };
  allLabels = model.labels;
  $("labels").textContent = allLabels.join(", ").replace(/, ([^,]*)$/, " or $1");
  $("card").replaceChildren(...identity(model), ...scores(model.card), ...confusion(model), ...reliability(model.card), ...bounds(model.card));
}

function identity(model) {
  const source = model.card.source;
  const splits = ["train", "valid", "test"].map((name) => model.card.prepare.splits.find((each) => each.split === name));
  const facts = {
    Version: `${model.name}, ${model.version}`,
    Commit: model.commit || "unknown: the service does not run in a checkout",
    "In dvc.lock": {true: "yes: the files match the commit's dvc.lock", false: "no: the files differ from the commit's dvc.lock", null: "unknown: the service has no dvc.lock"}[model.lock.is_in_dvc_lock],
    "DVC hash": model.lock.md5,
    Data: `${source.source}; ${splits.map((split) => `${number(split.rows)} tweets for ${split.split}`).join(", ")}`,
    "SHA-256 of the data": Object.values(source.sha256).join(", "),
  };
  return [element("dl", {}, ...Object.entries(facts).flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, value)]))];
}

function table(caption, head, body, textual = 1) {
  const kind = (index) => (index < textual ? {} : {class: "n"});
  return element("div", {class: "scroll", tabindex: "0", role: "group", "aria-label": caption}, element("table", {}, element("caption", {}, caption),
    element("thead", {}, element("tr", {}, ...head.map((cell, index) => element("th", {scope: "col", ...kind(index)}, cell)))),
    element("tbody", {}, ...body.map((row) => element("tr", {}, ...row.map((cell, index) => (index ? element("td", kind(index), cell) : element("th", {scope: "row"}, cell))))))));
}

function scores(found) {
  const [trained] = found.evaluate.models, int8 = found.export.int8, three = (value) => value.toFixed(3);
  const body = found.metrics.map(({name, title}) => {
    const interval = trained.intervals[name];
    return [title, three(int8[name]), three(trained[name]), interval ? `${three(interval[0])} to ${three(interval[1])}` : ""];
  });
  return [
    element("h3", {}, "Scores"),
    table(`On ${number(found.evaluate.rows)} test tweets; 95 % bootstrap intervals`, ["", "served (int8)", "trained", "interval"], body),
    table("Trained model, by label", ["", "precision", "recall", "F1", "tweets"], trained.labels.map((label) => [label.label, three(label.precision), three(label.recall), three(label.f1), number(label.rows)])),
  ];
}

function confusion(model) {
  const at = new Map(model.card.confusion.map((cell) => [`${cell.actual} ${cell.predicted}`, cell]));
  const body = model.labels.map((actual) => [actual, ...model.labels.map((predicted) => {
    const cell = at.get(`${actual} ${predicted}`);
    return `${number(cell.rows)} (${cell.percent.toFixed(0)} %)`;
  })]);
  return [element("h3", {}, "Confusion matrix"), table("Test tweets by true label (rows) and predicted label (columns)", ["", ...model.labels], body)];
}

function reliability(found) {
  const points = found.reliability.filter((point) => point.group === "transformer");
  const x = (value) => 50 + 250 * value, y = (value) => 270 - 250 * value;
  const ticks = [0, 0.5, 1].flatMap((value) => [
    drawing("text", {x: x(value), y: 288, "text-anchor": "middle"}, value.toString()),
    drawing("text", {x: 42, y: y(value) + 4, "text-anchor": "end"}, value.toString()),
  ]);
  const picture = drawing("svg", {viewBox: "0 0 320 310", width: 320, height: 310, role: "img", "aria-label": `Share of correct labels by confidence: ${points.map((point) => `${percent(point.confidence)} confident, ${percent(point.accuracy)} correct`).join("; ")}`},
    drawing("path", {class: "axis", d: `M${x(0)} ${y(1)}V${y(0)}H${x(1)}`, fill: "none"}),
    drawing("path", {class: "ideal", d: `M${x(0)} ${y(0)}L${x(1)} ${y(1)}`}),
    drawing("path", {class: "line", d: points.map((point, index) => `${index ? "L" : "M"}${x(point.confidence)} ${y(point.accuracy)}`).join("")}),
    ...points.map((point) => drawing("circle", {class: "dot", cx: x(point.confidence), cy: y(point.accuracy), r: 3})),
    ...ticks,
    drawing("text", {x: 175, y: 306, "text-anchor": "middle"}, "confidence"),
    drawing("text", {x: 14, y: 145, "text-anchor": "middle", transform: "rotate(-90 14 145)"}, "share correct"));
  return [element("h3", {}, "How far to trust a probability"), picture, element("p", {class: "hint"}, "On the dashed line, labels given with 80 % confidence are correct 80 times out of 100.")];
}

function bounds(found) {
  const worst = [...found.slices].filter((slice) => slice.rows >= 100).sort((a, b) => a.accuracy - b.accuracy).slice(0, 5);
  const texts = [
    "The model was trained on English tweets. It also labels other languages and other kinds of text, but it knows nothing about them.",
    "The model sees only words. It misses irony, quotations and the thread around a tweet.",
    "The annotators of the training data often disagreed. Do not base a decision about a person on a single label.",
  ];
  return [element("h3", {}, "Limits"), element("ul", {}, ...texts.map((text) => element("li", {}, text))),
    table("Where the trained model is least accurate", ["", "accuracy", "tweets"], worst.map((slice) => [slice.slice, slice.accuracy.toFixed(3), number(slice.rows)]))];
}

card().catch((error) => say("card-problem", error instanceof Problem ? error.message : `The model card cannot be shown: ${error.message}`));
