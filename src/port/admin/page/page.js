"use strict";
// Reads /status every two seconds and writes text nodes only: nothing that an agent or a server says becomes markup.
const fill = (id, rows) => {
  const body = document.getElementById(id);
  body.replaceChildren(...rows.map(([bad, cells]) => {
    const row = document.createElement("tr");
    if (bad) row.className = "bad";
    for (const cell of cells) row.insertCell().textContent = cell ?? "";
    return row;
  }));
};
const state = (text, bad) => {
  const line = document.getElementById("state");
  line.textContent = text;
  line.className = bad ? "bad" : "";
};
const show = (all) => {
  document.getElementById("version").textContent = all.version;
  state(`${all.stopping ? "stopping" : "running"} for ${Math.floor(all.uptime_seconds)} s`, all.stopping);
  fill("agents", all.agents.map((agent) => [!agent.healthy, [
    agent.name, agent.profile, agent.last_error ? `${agent.status}: ${agent.last_error}` : agent.status,
    agent.child?.pid, agent.current?.id, agent.phase, agent.link.state, agent.restarts,
  ]]));
  fill("history", all.agents.flatMap((agent) => agent.history.map((entry) => [
    entry.step === "rolled_back" || entry.step === "failed",
    [entry.at, agent.name, entry.transaction, entry.step, entry.revision, entry.origin, entry.reason],
  ])));
};
const read = async () => {
  try {
    const answer = await fetch("status", { cache: "no-store" });
    const document = await answer.json();
    if (answer.ok) show(document); else state(document.error.reason, true);
  } catch (error) {
    state(`no answer: ${error}`, true);
  }
  setTimeout(read, 2000);
};
read();
