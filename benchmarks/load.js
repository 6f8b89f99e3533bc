// One tweet a request, at RATE a second whatever the answers take: waiting counts, as it does for a client.
import exec from "k6/execution";
import http from "k6/http";
import { SharedArray } from "k6/data";
import { Counter, Trend } from "k6/metrics";

const texts = new SharedArray("texts", () => JSON.parse(open(__ENV.TEXTS)));
const NOT_CONNECTED = 1212; // k6's code for "connection refused"
const waited = new Trend("waited", true); // for an answer with 200
const outcomes = Object.fromEntries(["ok", "busy", "not_connected", "failed"].map((name) => [name, new Counter(name)]));

export const options = {
  discardResponseBodies: true,
  summaryTrendStats: ["med", "p(95)", "p(99)", "max"],
  scenarios: {
    load: {
      executor: "constant-arrival-rate",
      rate: Number(__ENV.RATE),
      timeUnit: "1s",
      duration: `${__ENV.SECONDS}s`,
      preAllocatedVUs: Number(__ENV.USERS), // one is free whenever a request is due, so none begins late
    },
  },
};

export default function () {
  const body = JSON.stringify({ text: texts[exec.scenario.iterationInTest % texts.length] });
  const answer = http.post(`${__ENV.URL}/predict`, body, { headers: { "Content-Type": "application/json" } });
  if (answer.status === 200) {
    outcomes.ok.add(1);
    waited.add(answer.timings.blocked + answer.timings.duration); // to be connected; from sending to the last byte
  } else if (answer.status === 503) outcomes.busy.add(1);
  else if (answer.error_code === NOT_CONNECTED) outcomes.not_connected.add(1);
  else {
    outcomes.failed.add(1);
    console.error(`status ${answer.status}, code ${answer.error_code}: ${answer.error}`);
  }
}

export function handleSummary(data) {
  const count = (name) => (data.metrics[name] ? data.metrics[name].values.count : 0);
  const took = data.metrics.waited ? data.metrics.waited.values : { med: 0, "p(95)": 0, "p(99)": 0, max: 0 };
  const summary = { p50: took.med, p95: took["p(95)"], p99: took["p(99)"], max: took.max, took: data.state.testRunDurationMs / 1000, dropped: count("dropped_iterations") };
  for (const name of Object.keys(outcomes)) summary[name] = count(name);
  return { stdout: JSON.stringify(summary) };
}
