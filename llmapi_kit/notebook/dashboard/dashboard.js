// The dashboard, alive: uPlot's curves, running requests with a cancel button, the log.

const GB = 1e9;
const NUM_KEPT = 300;
const CHARTS = [
  { title: "Tokens a second", keys: ["tokens_per_s"], write: writeCount },
  { title: "Requests", keys: ["num_running", "num_queued"], names: ["running", "queued"], write: (v) => v.toFixed(0) },
  { title: "First token", keys: ["first_token_s"], write: writeSeconds, isDots: true },
  { title: "KV memory", keys: ["kv_use"], write: (v) => `${(100 * v).toFixed(v < 0.1 && v > 0 ? 1 : 0)} %` },
  { title: "Process memory", keys: ["process_bytes"], write: (v) => `${(v / GB).toFixed(2)} GB` },
  { title: "GPU memory", keys: ["gpu_bytes"], write: (v) => `${(v / GB).toFixed(2)} GB` },
];
const HEIGHT = 104;

function writeCount(value) {
  return value.toLocaleString("en", { maximumFractionDigits: value < 10 ? 1 : 0 });
}

function writeSeconds(value) {
  if (!value) return "0";
  return value < 1 ? `${(value * 1000).toPrecision(3)} ms` : `${value.toFixed(1)} s`;
}

function buildDashboard(element, call) {
  element.classList.add("llmapi-kit-dashboard");
  const head = make("div", { className: "llmapi-kit-head" }, element);
  const dot = make("span", { className: "llmapi-kit-dot" }, head);
  make("strong", { textContent: "Dashboard" }, head);
  const name = make("span", { className: "llmapi-kit-dim" }, head);
  const note = make("span", { className: "llmapi-kit-dim" }, head);
  note.setAttribute("role", "status");
  const totals = make("div", { className: "llmapi-kit-dim llmapi-kit-totals" }, element);
  const usage = make("div", { className: "llmapi-kit-dim llmapi-kit-totals" }, element);
  const grid = make("div", { className: "llmapi-kit-charts" }, element);
  const requests = requestTable(element, call, (text) => { note.textContent = text; });
  const logBox = make("details", { open: true }, element);
  make("summary", { textContent: "Log" }, logBox);
  const log = make("pre", { className: "llmapi-kit-log", tabIndex: 0 }, logBox);
  for (const [key, value] of [["role", "log"], ["aria-live", "off"], ["aria-label", "Log"]]) log.setAttribute(key, value);

  let samples = [];
  const charts = CHARTS.map((chart) => makeChart(chart, grid));
  const resized = new ResizeObserver(() => charts.forEach((chart) => chart.fit()));
  resized.observe(grid);

  function draw() {
    for (const chart of charts) chart.draw(samples);
  }

  function show(now) {
    dot.className = `llmapi-kit-dot llmapi-kit-${now.isRunning ? "running" : "stopped"}`;
    note.textContent = now.isRunning ? "" : "The server is stopped.";
    totals.textContent = now.totals ?? "";
    usage.textContent = now.usage ?? "";
    requests.update(now.requests);
    if (now.log) {
      const isAtEnd = log.scrollTop + log.clientHeight >= log.scrollHeight - 4;
      log.textContent = now.log.join("\n");
      if (isAtEnd) log.scrollTop = log.scrollHeight;
    }
    draw();
  }

  return {
    update(state) {
      samples = state.samples.slice(-NUM_KEPT);
      name.textContent = state.name;
      show(state);
    },
    receive(message) {
      if (message.kind !== "sample") return;
      samples = [...samples, message.sample].slice(-NUM_KEPT);
      show(message);
    },
    gone(text) {
      dot.className = "llmapi-kit-dot llmapi-kit-stopped";
      note.textContent = text;
      requests.update([]);
    },
    end() {
      resized.disconnect();
      for (const chart of charts) chart.end();
    },
  };
}

function makeChart({ title, keys, names, write, isDots }, grid) {
  const box = make("div", { className: "llmapi-kit-chart" }, grid);
  const head = make("div", { className: "llmapi-kit-chart-head" }, box);
  make("span", { className: "llmapi-kit-dim", textContent: title }, head);
  const value = make("strong", { className: names ? "llmapi-kit-named" : "" }, head);
  const words = keys.map(() => make("span", {}, value)); // of several, each in the colour of its line
  const place = make("div", {}, box);
  place.setAttribute("role", "img");
  let plot = null;
  let data = null;

  const colour = (index) => getComputedStyle(box).getPropertyValue(index ? "--llmapi-kit-second" : "--llmapi-kit-first");
  const quiet = () => getComputedStyle(box).getPropertyValue("--llmapi-kit-quiet");

  function say(index) {
    const parts = keys.map((key, i) => {
      let at = index;
      while (at > 0 && data[i + 1][at] == null) at -= 1; // the latest that there is
      const latest = data[i + 1][at];
      return (latest == null ? "-" : write(latest)) + (names ? ` ${names[i]}` : "");
    });
    parts.forEach((part, i) => { words[i].textContent = part; });
    place.setAttribute("aria-label", `${title}: ${parts.join(", ")}`);
  }

  function options() {
    const axis = { stroke: quiet, grid: { stroke: () => "rgba(128,128,128,.18)", width: 1 }, ticks: { show: false }, font: "11px system-ui" };
    return {
      width: Math.max(80, place.clientWidth),
      height: HEIGHT,
      legend: { show: false },
      cursor: { y: false, drag: { setScale: false }, points: { show: !isDots } },
      scales: { x: { time: true }, y: { range: (u, low, high) => [0, Math.max(high * 1.1, keys[0] === "kv_use" ? 0.01 : 1e-3)] } },
      axes: [
        { ...axis, space: 70, size: 22 },
        { ...axis, space: 30, size: 58, values: (u, ticks) => ticks.map((tick) => write(tick)) },
      ],
      series: [
        {},
        ...keys.map((key, index) => ({
          stroke: () => colour(index),
          width: 1.5,
          spanGaps: false,
          paths: isDots ? () => null : undefined,
          points: { show: Boolean(isDots), size: 5, fill: () => colour(index), stroke: () => colour(index) },
        })),
      ],
      hooks: { setCursor: [(u) => say(u.cursor.idx ?? data[0].length - 1)] },
    };
  }

  return {
    draw(samples) {
      box.hidden = samples.every((sample) => keys.every((key) => sample[key] == null));
      if (box.hidden || !samples.length) return;
      data = [samples.map((sample) => sample.at), ...keys.map((key) => samples.map((sample) => sample[key]))];
      if (plot === null) plot = new uPlot(options(), data, place);
      else plot.setData(data);
      say(plot.cursor.idx ?? data[0].length - 1);
    },
    fit() {
      if (plot && place.clientWidth) plot.setSize({ width: place.clientWidth, height: HEIGHT });
    },
    end: () => plot?.destroy(),
  };
}

function requestTable(element, call, say) {
  const box = make("div", { className: "llmapi-kit-requests" }, element);
  const empty = make("div", { className: "llmapi-kit-dim", textContent: "No requests are running." }, box);
  const table = make("table", { hidden: true }, box);
  const top = make("tr", {}, make("thead", {}, table));
  for (const title of ["Request", "Model", "State", "Prompt", "Tokens", "Since"]) {
    make("th", { textContent: title, scope: "col" }, top);
  }
  make("td", {}, top); // above the buttons
  const body = make("tbody", {}, table);
  const rows = new Map(); // by id, so that a button keeps its focus

  function addRow(id) {
    const row = make("tr", {}, body);
    const cells = Array.from({ length: 6 }, () => make("td", {}, row));
    const cancel = make("button", { type: "button", textContent: "Cancel" }, make("td", {}, row));
    cancel.setAttribute("aria-label", `Cancel request ${id}`);
    cancel.addEventListener("click", async () => {
      cancel.disabled = true;
      try {
        await call("cancel", { id });
        say("Cancelled.");
      } catch (error) {
        say(error.message);
      }
    });
    rows.set(id, { row, cells });
    return rows.get(id);
  }

  return {
    update(requests) {
      empty.hidden = requests.length > 0;
      table.hidden = requests.length === 0;
      const there = new Set(requests.map((request) => request.id));
      for (const [id, { row }] of rows) if (!there.has(id)) { row.remove(); rows.delete(id); }
      for (const request of requests) {
        const { cells } = rows.get(request.id) ?? addRow(request.id);
        const texts = [
          `…${request.id.slice(-8)}`, request.model, request.state, request.prompt_tokens.toLocaleString("en"),
          request.completion_tokens.toLocaleString("en"), writeSeconds(request.seconds),
        ];
        texts.forEach((text, index) => { if (cells[index].textContent !== text) cells[index].textContent = text; });
        cells[0].title = request.id;
      }
    },
  };
}

export default bringToLife(buildDashboard);
