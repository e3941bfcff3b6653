// The page's behaviour. Promises: everything shown is text (no markup is ever made from what an agent says); the state
// shown is what GET /api/agents/{uid} says, asked for again after each event; a lost event stream is opened again.
"use strict";

const $ = (selector) => document.querySelector(selector);
const WAY = ["policy", "staging", "validating", "promoting", "reloading", "proving", "probation", "committed"];
const BAD = ["rolling back", "rolled back", "failed", "held"];

const yaml = (name, body) => ({ name, type: "text/yaml", body });
const COLLECT = (interval) => `sources:
  host:
    kind: host_metrics
    interval: ${interval}
uploads:
  out:
    kind: console
    from: [host]
`;
const EXAMPLES = [
  { group: "Own data plane", title: "host metrics each 5 s", files: [yaml("collect.yaml", COLLECT("5s"))] },
  { group: "Own data plane", title: "host metrics each 30 s", files: [yaml("collect.yaml", COLLECT("30s"))] },
  { group: "Own data plane", title: "CPU and memory only", files: [yaml("collect.yaml",
    COLLECT("5s").replace("interval: 5s", "interval: 5s\n    collectors: [cpu, memory]"))] },
  { group: "Own data plane", title: "broken: does not parse", files: [yaml("collect.yaml", "sources: {host: [\n")] },
  { group: "Own data plane", title: "broken: unknown key", files: [yaml("collect.yaml",
    COLLECT("5s").replace("interval:", "intervall:"))] },
  { group: "Own data plane", title: "never healthy: socket in a place that cannot hold one", files: [yaml("collect.yaml",
    "sources:\n  app:\n    kind: unix_socket\n    path: /proc/adjutant.sock\nuploads:\n  out:\n    kind: console\n    from: [app]\n")] },
  { group: "OpenTelemetry Collector", title: "host metrics each 5 s", files: [yaml("collector.yaml",
    "receivers:\n  hostmetrics:\n    collection_interval: 5s\n    scrapers:\n      cpu:\n      memory:\nexporters:\n  debug:\n"
    + "service:\n  pipelines:\n    metrics:\n      receivers: [hostmetrics]\n      exporters: [debug]\n")] },
  { group: "OpenTelemetry Collector", title: "broken: unknown exporter", files: [yaml("collector.yaml",
    "receivers:\n  otlp:\n    protocols:\n      grpc:\n        endpoint: 127.0.0.1:0\nexporters:\n  nowhere:\n"
    + "service:\n  pipelines:\n    traces:\n      receivers: [otlp]\n      exporters: [nowhere]\n")] },
  { group: "OpenTelemetry Collector", title: "breaks at start: address of another host", files: [yaml("collector.yaml",
    "receivers:\n  otlp:\n    protocols:\n      grpc:\n        endpoint: 192.0.2.1:4317\nexporters:\n  debug:\n"
    + "service:\n  pipelines:\n    traces:\n      receivers: [otlp]\n      exporters: [debug]\n")] },
  { group: "Any agent", title: "empty config map", files: [] },
];

const state = { token: null, agents: new Map(), uid: null, detail: null, asking: false, again: false, drafts: new Map(), file: 0 };

// ---- small helpers

function make(tag, attributes, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}
const put = (element, ...children) => element.replaceChildren(...children.filter((child) => child));
const short = (hash) => (hash || "").slice(0, 12);
function say(element, text) { element.textContent = text || ""; element.hidden = !text; }
function time(millis) {
  const at = new Date(millis);
  const clock = at.toLocaleTimeString([], { hour12: false });
  return at.toDateString() === new Date().toDateString() ? clock : `${at.toISOString().slice(0, 10)} ${clock}`;
}
function span(millis) { return millis < 1000 ? `${millis} ms` : `${(millis / 1000).toFixed(1)} s`; }
function chip(element, text, kind) { element.textContent = text; element.className = `chip ${kind}`; }

async function api(method, path, body) {
  const headers = {};
  if (method !== "GET") headers["X-Adjutant-Token"] = state.token || "";
  if (body !== undefined) headers["Content-Type"] = "application/json";
  const answer = await fetch(path, { method, headers, body: body === undefined ? undefined : JSON.stringify(body) });
  const json = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(json.error || `the server answered ${answer.status}`);
  return json;
}

// ---- token: from the fragment, kept for this tab only

function readToken() {
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  if (given) {
    sessionStorage.setItem("token", given);
    history.replaceState(null, "", location.pathname);
  }
  state.token = sessionStorage.getItem("token");
  $("#token-bar").hidden = Boolean(state.token);
}

// ---- agents

function showList() {
  const agents = [...state.agents.values()].sort((a, b) => b.connected - a.connected || a.first_seen - b.first_seen);
  $("#agent-count").textContent = agents.length;
  put($("#agent-list"), ...agents.map((agent) => make("button", {
    type: "button", "data-uid": agent.uid, "data-connected": String(agent.connected), "data-healthy": String(agent.healthy),
    "aria-current": agent.uid === state.uid ? "true" : null, title: agent.uid, onclick: () => select(agent.uid),
  },
  make("span", { class: "dot" }), make("span", { class: "name" }, agent.name),
  make("span", { class: "sub" }, agent.connected ? agent.phase || agent.status || agent.uid.slice(0, 13) : "not connected"))));
  $("#nobody").hidden = agents.length > 0;
  $("#agent").hidden = !state.detail;
}

function select(uid) {
  if (state.uid !== uid) {
    state.uid = uid;
    state.detail = null;
    state.file = 0;
    say($("#push-message"), "");
  }
  showList();
  refresh();
}

async function loadList() {
  const { agents } = await api("GET", "/api/agents");
  state.agents = new Map(agents.map((agent) => [agent.uid, agent]));
  if (!state.agents.has(state.uid)) {
    const first = agents.find((agent) => agent.connected) || agents[0];
    state.uid = first ? first.uid : null;
    state.detail = null;
  }
  showList();
  await refresh();
}

// Asks once at a time; what changes meanwhile is asked for right after.
async function refresh() {
  if (state.asking) { state.again = true; return; }
  state.asking = true;
  try {
    do {
      state.again = false;
      const uid = state.uid;
      if (!uid) break;
      const detail = await api("GET", `/api/agents/${uid}`);
      if (uid === state.uid) { state.detail = detail; showAgent(); }
    } while (state.again);
  } catch (error) {
    if (state.agents.size > 0) chip($("#stream-state"), error.message, "bad");
  } finally {
    state.asking = false;
  }
}

function showAgent() {
  const agent = state.detail;
  $("#agent").hidden = false;
  $("#agent").dataset.uid = agent.uid;
  $("#agent-name").textContent = agent.name;
  $("#agent-uid").textContent = agent.uid;
  chip($("#agent-connection"), agent.connected ? "connected" : "not connected", agent.connected ? "" : "bad");
  $("#agent-connection").dataset.connected = agent.connected;
  const health = agent.healthy === null ? "health unknown" : agent.healthy ? "healthy" : "unhealthy";
  chip($("#agent-health"), agent.status && agent.status !== health ? `${health}: ${agent.status}` : health,
    agent.healthy === null ? "" : agent.healthy ? "good" : "bad");
  $("#agent-health").dataset.healthy = agent.healthy;
  say($("#agent-error"), agent.healthy === false ? agent.last_error : "");
  const remote = agent.remote_config || { status: "UNSET", hash: "", error: "" };
  chip($("#remote-status"), remote.status, { APPLIED: "good", APPLYING: "busy", FAILED: "bad" }[remote.status] || "");
  $("#remote-status").dataset.status = remote.status;
  $("#remote-status").dataset.hash = remote.hash;
  $("#remote-hash").textContent = short(remote.hash);
  say($("#remote-error"), remote.status === "FAILED" ? remote.error : "");
  $("#revision").textContent = agent.revision || "";
  $("#last-good").textContent = agent.last_good || "";
  $("#last-seen").textContent = time(agent.last_seen);
  $("#restart").disabled = !agent.connected || !agent.capabilities.includes("AcceptsRestartCommand");
  $("#full-state").disabled = !agent.connected;
  $("#take-stored").disabled = !agent.stored_config;
  $("#push").disabled = !agent.capabilities.includes("AcceptsRemoteConfig");
  $("#push").title = $("#push").disabled ? "this agent does not accept remote config" : "Ctrl+Enter";
  showPhases(agent);
  showHistory(agent);
  showHealth(agent);
  showEffective(agent);
  showTimeline(agent);
  showIdentity(agent);
  if (!state.drafts.has(agent.uid)) takeStored();
  if ($("#editor-tabs").dataset.uid !== agent.uid) showEditor();
}

// ---- rollout

function showPhases(agent) {
  const now = agent.phase || "";
  const apply = agent.applies[0];
  const seen = apply ? apply.phases.map((one) => one.phase) : [];
  const furthest = Math.max(-1, ...seen.map((word) => WAY.indexOf(word)));
  const bad = apply ? ["failed", "rolled back", "held"].includes(apply.outcome) || seen.includes("rolling back") : false;
  $("#phases").dataset.phase = now;
  for (const item of document.querySelectorAll("#phases li")) {
    const word = item.dataset.word;
    const place = WAY.indexOf(word);
    let look = "";
    if (place >= 0 && bad && place === furthest) look = "broke";
    else if (word === now && word !== "committed" && place >= 0) look = "now";
    else if (place >= 0 && seen.includes(word)) look = "done";
    else if (place >= 0 && place < furthest) look = "passed";
    else if (BAD.includes(word) && seen.includes(word)) look = "bad";
    else if (word === now) look = word === "rolling back" ? "now" : BAD.includes(word) ? "bad" : "done";
    item.dataset.state = look;
  }
  // The same words stand above already when the remote config failed for them.
  const told = agent.remote_config && agent.remote_config.status === "FAILED" ? agent.remote_config.error : "";
  say($("#phase-note"), agent.phase_error === told ? "" : agent.phase_error);
  $("#phases").hidden = !now && seen.length === 0;
  $("#phase-none").hidden = !$("#phases").hidden;
}

function showHistory(agent) {
  const kinds = { committed: "good", applied: "good", failed: "bad", "rolled back": "bad", held: "bad", applying: "busy", offered: "busy" };
  const rows = agent.applies.map((apply) => {
    const steps = apply.phases.map((one, index) => {
      const next = apply.phases[index + 1];
      return next ? `${one.phase} ${span(next.at - one.at)}` : one.phase;
    }).join(" → ");
    const took = apply.ended ? ` · took ${span(apply.ended - apply.started)}` : "";
    return make("div", { class: "row", "data-outcome": apply.outcome, "data-hash": apply.hash || "" },
      make("div", { class: "what" },
        make("span", { class: `chip ${kinds[apply.outcome] || ""}` }, apply.outcome),
        make("code", {}, apply.hash ? short(apply.hash) : "begun on the host"),
        make("span", { class: "faint" }, apply.files.map((name) => name || "\"\"").join(", ") || (apply.hash ? "no files" : "")),
        make("span", { class: "when" }, `${time(apply.started)}${took}`)),
      steps ? make("div", { class: "steps" }, steps) : null,
      apply.reason ? make("div", { class: "reason" }, apply.reason) : null);
  });
  put($("#history"), ...(rows.length ? rows : [make("p", { class: "faint" }, "Nothing was pushed to this agent yet.")]));
}

// ---- reports

function showHealth(agent) {
  const node = (name, health) => make("li", { "data-component": name },
    make("span", { class: health.healthy ? "dot ok" : "dot" }), name,
    make("span", { class: "faint" }, health.status ? ` · ${health.status}` : ""),
    health.last_error ? make("div", { class: "error" }, health.last_error) : null,
    Object.keys(health.components).length
      ? make("ul", {}, ...Object.entries(health.components).map(([key, child]) => node(key, child))) : null);
  put($("#health-tree"), agent.health ? make("ul", {}, node(agent.name, agent.health))
    : make("p", { class: "faint" }, "No health reported."));
}

function showEffective(agent) {
  const files = Object.entries(agent.effective_config || {});
  const old = [...document.querySelectorAll("#effective-config pre")].map((pre) => pre.scrollTop);
  put($("#effective-config"), ...(files.length ? files.map(([name, file]) => make("div", { class: "file", "data-file": name },
    make("div", { class: "cap" }, make("code", {}, name || "\"\""), make("span", { class: "faint" }, `${file.type} ${file.bytes} bytes`)),
    make("pre", {}, file.body))) : [make("p", { class: "faint" }, "No effective config reported.")]));
  document.querySelectorAll("#effective-config pre").forEach((pre, index) => { pre.scrollTop = old[index] || 0; });
}

function showTimeline(agent) {
  put($("#timeline"), ...[...agent.timeline].reverse().map((line) => make("div", { class: "row", "data-kind": line.kind },
    make("div", { class: "what" }, make("span", { class: "chip" }, line.kind.replace("_", " ")), make("span", {}, line.text),
      make("span", { class: "when" }, time(line.at))),
    line.detail ? make("div", { class: "detail" }, line.detail) : null)));
}

function showIdentity(agent) {
  const rows = (title, attributes) => [make("tr", { class: "part" }, make("td", { colspan: "2" }, title)),
    ...Object.entries(attributes).map(([key, value]) => make("tr", {}, make("th", {}, key),
      make("td", {}, typeof value === "string" ? value : JSON.stringify(value))))];
  put($("#identity"), make("table", {},
    ...rows("Identifying", agent.identifying_attributes), ...rows("Not identifying", agent.non_identifying_attributes),
    ...rows("Protocol", { "sequence number": agent.sequence_num, messages: agent.messages, capabilities: agent.capabilities.join(", ") })));
}

// ---- editor

const draft = () => state.drafts.get(state.uid) || [];

function setDraft(files) {
  state.drafts.set(state.uid, files.map((file) => ({ ...file })));
  state.file = 0;
  showEditor();
}

function takeStored() {
  const stored = state.detail && state.detail.stored_config;
  setDraft(stored ? Object.entries(stored.files).map(([name, file]) => ({ name, type: file.type, body: file.body })) : EXAMPLES[0].files);
}

function showEditor() {
  const files = draft();
  $("#editor-tabs").dataset.uid = state.uid;
  showTabs();
  const file = files[state.file];
  for (const [id, key] of [["#editor-name", "name"], ["#editor-type", "type"], ["#editor-body", "body"]]) {
    const field = document.querySelector(id);
    field.disabled = !file;
    field.value = file ? file[key] : "";
  }
  $("#editor-body").placeholder = file ? "" : "No files: an empty config map will be pushed.";
  $("#remove-file").disabled = !file;
}

function showTabs() {
  put($("#editor-tabs"), ...draft().map((file, index) => make("button", {
    type: "button", role: "tab", "data-file": file.name, "aria-selected": String(index === state.file),
    onclick: () => { state.file = index; showEditor(); },
  }, file.name || "\"\"")));
}

function edited(key, value) {
  const file = draft()[state.file];
  if (file) file[key] = value;
  if (key === "name") showTabs();
}

function addFile() {
  const files = draft();
  let number = files.length + 1;
  while (files.some((file) => file.name === `file-${number}.yaml`)) number += 1;
  files.push(yaml(`file-${number}.yaml`, ""));
  state.drafts.set(state.uid, files);
  state.file = files.length - 1;
  showEditor();
  $("#editor-name").select();
}

function removeFile() {
  draft().splice(state.file, 1);
  state.file = Math.max(0, state.file - 1);
  showEditor();
}

function tell(kind, text) {
  $("#push-message").dataset.kind = kind;
  say($("#push-message"), text);
}

async function push() {
  const files = {};
  for (const file of draft()) {
    if (Object.hasOwn(files, file.name)) { tell("error", `two files are named ${JSON.stringify(file.name)}`); return; }
    Object.defineProperty(files, file.name, { value: { type: file.type, body: file.body }, enumerable: true });
  }
  tell("", "pushing…");
  try {
    const answer = await api("PUT", `/api/agents/${state.uid}/config`, { files });
    tell("ok", answer.sent ? `offered as ${short(answer.hash)}` : `stored as ${short(answer.hash)}; offered when the agent connects`);
    refresh();
  } catch (error) {
    tell("error", error.message);
  }
}

async function ask(what) {
  try {
    await api("POST", `/api/agents/${state.uid}/${what}`);
    tell("ok", `${what} sent`);
  } catch (error) {
    tell("error", error.message);
  }
}

// ---- events

function listen() {
  const stream = new EventSource("/api/events");
  const live = (up) => {
    $("#stream-state").dataset.state = up ? "live" : "lost";
    chip($("#stream-state"), up ? "live" : "server not reachable, trying again", up ? "good" : "bad");
  };
  stream.addEventListener("hello", () => { live(true); loadList().catch(() => live(false)); });
  stream.addEventListener("lagged", () => { loadList().catch(() => live(false)); });
  stream.addEventListener("agent", (event) => {
    const change = JSON.parse(event.data);
    const fresh = !state.agents.has(change.uid);
    state.agents.set(change.uid, change.summary);
    // A new uid may be an agent that was renamed: ask for the whole list.
    if (fresh) { loadList().catch(() => live(false)); return; }
    showList();
    if (change.uid === state.uid) refresh();
  });
  stream.addEventListener("error", () => {
    live(false);
    if (stream.readyState === EventSource.CLOSED) setTimeout(listen, 2000);
  });
}

function start() {
  readToken();
  $("#endpoint").textContent = `ws://${location.host}/v1/opamp`;
  EXAMPLES.forEach((example, index) => {
    const groups = [...document.querySelectorAll("#example optgroup")];
    let group = groups.find((one) => one.label === example.group);
    if (!group) { group = make("optgroup", { label: example.group }); $("#example").append(group); }
    group.append(make("option", { value: index }, example.title));
  });
  $("#example").addEventListener("change", (event) => {
    if (event.target.value !== "") setDraft(EXAMPLES[Number(event.target.value)].files);
    event.target.value = "";
  });
  $("#take-stored").addEventListener("click", takeStored);
  $("#editor-name").addEventListener("input", (event) => edited("name", event.target.value));
  $("#editor-type").addEventListener("input", (event) => edited("type", event.target.value));
  $("#editor-body").addEventListener("input", (event) => edited("body", event.target.value));
  $("#editor-body").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && !$("#push").disabled) push();
  });
  $("#add-file").addEventListener("click", addFile);
  $("#remove-file").addEventListener("click", removeFile);
  $("#push").addEventListener("click", push);
  $("#restart").addEventListener("click", () => ask("restart"));
  $("#full-state").addEventListener("click", () => ask("full-state"));
  $("#token-save").addEventListener("click", () => {
    sessionStorage.setItem("token", $("#token-input").value.trim());
    readToken();
  });
  window.addEventListener("hashchange", readToken);
  listen();
}

start();
