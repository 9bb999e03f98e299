/* The operator's page: asks for the admin key, listens to /admin/events, and shows what it is told.

   Everything that is shown is put in as text, never as markup. The key is kept in this tab's session storage alone. */

"use strict";

(() => {
  const KEY = "tbeast admin key";
  const STALE_MS = 4_000;          // without a word for so long, what is shown is not the present any more
  const SILENT_MS = 35_000;        // two heartbeats and a little: the line is dead
  const LONGEST_WAIT_MS = 30_000;
  const VOTES_EVERY_MS = 3_000;
  const MOST_OPEN = 4;
  const MOST_CHANGES = 200;

  const BADNESS = {good: 0, on_demand: 1, single_source: 2, degraded: 3, halted: 4, stale: 5};
  const QUALITY = {
    good: ["well", "good"], on_demand: ["", "on demand"], single_source: ["", "single source"],
    degraded: ["warn", "degraded"], halted: ["bad", "halted"], stale: ["bad", "stale"],
  };
  const LEVELS = {
    well: ["live", "up", "ok", "shared", "sharing", "single", "store", "cache", "used"],
    bad: ["down", "away", "unmetered", "stale", "halted", "cut off", "loading", "schema"],
    none: ["off", ""],
  };

  const PHONE = matchMedia("(max-width: 600px)");
  const $ = (id) => document.getElementById(id);

  let whole = null;                // what the last event named whole told, with the newest snapshot in its now
  let lastId = "";
  let heardAt = 0;
  let line = null;                 // the request that is open
  let sort = {by: "quality", down: true};
  let changesSeen = 0;
  const rows = new Map();          // of prices, by asset
  const open = new Map();          // opened rows: asset to its detail row

  // Small things.

  function el(name, attributes, ...children) {
    const node = document.createElement(name);
    for (const [key, value] of Object.entries(attributes || {})) {
      if (key === "class") node.className = value;
      else if (key in node && typeof value !== "string") node[key] = value;
      else node.setAttribute(key, value);
    }
    node.append(...children.filter((child) => child !== null && child !== undefined));
    return node;
  }

  function say(node, text) {
    const wanted = String(text);
    if (node.textContent !== wanted) node.textContent = wanted;
  }

  function mark(node, name, value) {
    if (node.dataset[name] !== value) node.dataset[name] = value;
  }

  function levelOf(state) {
    for (const [level, words] of Object.entries(LEVELS)) if (words.includes(state)) return level;
    return "warn";
  }

  function chip(node, text, level) {
    say(node, text);
    mark(node, "level", level || "");
    if (!node.classList.contains("chip")) node.classList.add("chip");
  }

  function count(number) {
    return number === null || number === undefined ? "–" : number.toLocaleString("en-US");
  }

  function price(number) {
    if (number === null || number === undefined) return "–";
    const size = Math.abs(number);
    if (size !== 0 && size < 1e-9) return number.toExponential(4);
    if (size < 1) return number.toLocaleString("en-US", {minimumSignificantDigits: 6, maximumSignificantDigits: 6});
    const digits = size >= 1_000 ? 2 : 4;
    return number.toLocaleString("en-US", {minimumFractionDigits: digits, maximumFractionDigits: digits});
  }

  function seconds(number) {
    if (number === null || number === undefined) return "–";
    if (number < 9.95) return `${number.toFixed(1)} s`;
    if (number < 120) return `${Math.round(number)} s`;
    if (number < 7_200) return `${Math.floor(number / 60)} min`;
    if (number < 172_800) return `${Math.floor(number / 3_600)} h ${Math.floor(number % 3_600 / 60)} min`;
    return `${Math.floor(number / 86_400)} days`;
  }

  function micros(number) {
    if (number === null || number === undefined) return "–";
    if (number < 1_000) return `${number} µs`;
    if (number < 1e6) return `${(number / 1_000).toPrecision(number < 1e5 ? 2 : 3)} ms`;
    return `${(number / 1e6).toPrecision(2)} s`;
  }

  function bytes(number) {
    if (number < 1_024) return `${number} B`;
    return number < 1_048_576 ? `${(number / 1_024).toFixed(0)} KiB` : `${(number / 1_048_576).toFixed(1)} MiB`;
  }

  function clock(at) {
    const date = new Date(at * 1_000);
    const node = el("time", {datetime: date.toISOString(), title: date.toISOString()});
    node.textContent = date.toLocaleTimeString("en-GB");
    return node;
  }

  /* Have a table body, or list of pairs, hold these rows: each is a key and texts (or [text, level] for a chip). */
  function fill(body, table, classes) {
    const there = new Map([...body.rows].map((row) => [row.dataset.key, row]));
    table.forEach(([key, ...cells], place) => {
      let row = there.get(key);
      if (!row) {
        row = el("tr", {"data-key": key}, el("th", {scope: "row"}));
        say(row.firstChild, key);
        cells.forEach((_, index) => row.append(el("td", {class: classes[index] || ""})));
      }
      there.delete(key);
      cells.forEach((cell, index) => {
        const node = row.children[index + 1];
        if (!Array.isArray(cell)) return say(node, cell);
        if (!node.firstElementChild) node.append(el("span", {}), el("span", {class: "why"}));
        chip(node.children[0], cell[0], cell[1]);
        say(node.children[1], cell[2] ? ` ${cell[2]}` : "");
      });
      if (body.rows[place] !== row) body.insertBefore(row, body.rows[place] || null);
    });
    there.forEach((row) => row.remove());
  }

  function pairs(list, told) {
    const wanted = told.filter((pair) => pair);
    if (list.children.length !== wanted.length * 2) {
      list.replaceChildren(...wanted.flatMap(() => [el("dt"), el("dd")]));
    }
    wanted.forEach(([name, text, level], index) => {
      say(list.children[index * 2], name);
      const value = list.children[index * 2 + 1];
      say(value, text);
      value.className = level || "";
    });
  }

  // What is shown.

  function show() {
    const now = whole.now;
    document.title = `${now.complaints.length ? `(${now.complaints.length}) ` : ""}${whole.node} – tbeast`;
    say($("node"), whole.node);
    const more = Object.entries(whole.about).map(([name, text]) => `${name}: ${text}`);
    say($("about"), [`version ${whole.version}`, `up ${seconds(now.at - whole.started_at)}`, ...more].join(" · "));
    $("simulated").hidden = !whole.simulated;
    showVerdict(now);
    showRequests(now);
    showLatency(now);
    showUsage(now.usage);
    showGovernor(now.governor);
    showFeeds(now);
    showParts(now);
    showPrices(now);
    showCluster(now.cluster);
  }

  function showVerdict(now) {
    const grave = now.complaints.filter(([isGrave]) => isGrave).length;
    const number = now.complaints.length;
    const live = now.feeds.filter(([, state]) => state === "live").length;
    const wanted = now.feeds.filter(([, state]) => state !== "off").length;
    const level = grave ? "bad" : number ? "warn" : "well";
    const things = number === 1 ? "One thing is wrong" : `${number} things are wrong`;
    const said = {
      bad: `${things}; questions go unanswered or unrecorded`, warn: `${things}; the node serves`,
      well: "All is well",
    }[level];
    mark($("verdict"), "level", level);
    say($("verdict-text"), said);
    const facts = [
      [0, `${live} of ${wanted} feeds live, ${now.priced[0]} of ${now.priced[1]} assets with a fresh price, ` +
          `${now.rate[0].toLocaleString("en-US")} requests a second`],
    ];
    const list = $("complaints");
    const lines = number ? now.complaints : facts;
    while (list.children.length > lines.length) list.lastChild.remove();
    lines.forEach(([isGrave, text], index) => {
      const item = list.children[index] || list.appendChild(el("li"));
      say(item, text);
      mark(item, "level", isGrave ? "bad" : "");
    });
  }

  function showRequests(now) {
    const [answered, refused, failed] = now.rate;
    say($("rate"), answered < 100 ? answered.toFixed(1) : count(Math.round(answered)));
    say($("rate-more"), [refused ? `${refused} refused` : "", failed ? `${failed} failed` : ""].filter(Boolean).join(", "));
    const rates = whole.rates;
    const most = Math.max(1, ...rates.map(([all]) => all));
    const left = 300 - (rates.length - 1) * (300 / 299);
    const points = (index) => rates.map((rate, place) =>
      `${(left + place * (300 / 299)).toFixed(1)} ${(54 - rate[index] / most * 50).toFixed(1)}`);
    const all = points(0);
    $("spark-line").setAttribute("d", all.length ? `M${all.join("L")}` : "");
    $("spark-area").setAttribute("d", all.length ? `M${left.toFixed(1)} 56L${all.join("L")}L300 56Z` : "");
    $("spark-failed").setAttribute("d", rates.some((rate) => rate[2]) ? `M${points(2).join("L")}` : "");
    const span = seconds(rates.length);
    say($("spark-most"), `most ${count(Math.round(most))}`);
    $("spark").setAttribute("aria-label", `Requests a second over the last ${span}: now ${answered}, at most ${Math.round(most)}`);
  }

  function showLatency(now) {
    const found = now.latency.lpo;
    ["p50", "p90", "p99"].forEach((name, index) => say($(name), found ? micros(found[index + 1]) : "–"));
    const others = Object.entries(now.latency).filter(([service]) => service !== "lpo")
      .map(([service, [total, half, , most]]) => `${service}: p50 ${micros(half)}, p99 ${micros(most)} of ${count(total)}`);
    say($("latency-more"), [found ? `of ${count(found[0])} price answers` : "no price answers in the last minute", ...others].join("; "));
    const told = {"200": 0, "401, 403": 0, "429": 0, "5xx": 0, other: 0};
    for (const [, , status, number] of now.requests) {
      const kind = status.startsWith("2") ? "200" : status === "401" || status === "403" ? "401, 403" :
        status === "429" ? "429" : status.startsWith("5") ? "5xx" : "other";
      told[kind] += number;
    }
    pairs($("answers"), [
      ["Answered since the start", count(told["200"])],
      ["Without a good key (401)", count(told["401, 403"])],
      ["Too fast, or used up (429)", count(told["429"])],
      ["Failed (5xx)", count(told["5xx"])],
    ]);
  }

  function showUsage(usage) {
    chip($("usage-state"), usage.for === null ? usage.state : `${usage.state} for ${seconds(usage.for)}`, levelOf(usage.state));
    pairs($("usage"), [
      ["Served", count(usage.served)],
      usage.recorded === null ? ["Rows recorded", count(usage.rows)] : ["Recorded", count(usage.recorded)],
      ["Not on disk yet", `${count(usage.waiting_requests)} in ${count(usage.waiting_rows)} rows`],
      ["Batches under way", count(usage.under_way), usage.under_way > 400 ? "warn" : ""],
      ["Spooled", `${count(usage.spooled_batches)} (${bytes(usage.spooled_bytes)})`, usage.state === "ok" ? "" : "warn"],
    ]);
    say($("usage-why"), usage.why);
  }

  function showGovernor(view) {
    $("governor-title").parentElement.hidden = !view;
    $("nodes-card").hidden = !view || !view.nodes.length;
    if (!view) return;
    chip($("governor-state"), view.state, levelOf(view.state));
    say($("connections"), count(view.connections));
    say($("connections-of"), `of ${count(view.limit)}`);
    const meter = $("connections-meter");
    meter.max = Math.max(1, view.limit);
    meter.low = meter.max * 0.75;
    meter.high = meter.max * 0.95;
    meter.optimum = 0;
    meter.value = Math.min(view.connections, meter.max);
    const move = view.last_move;
    pairs($("governor"), [
      [`Share of ${count(view.total)}`, count(view.share)],
      ["Health", `${Math.round(view.health * 100)} %`, view.health < 1 ? "warn" : ""],
      ["Turned away", count(view.refused)],
      move && [`Limit moved: ${move.reason}`, `${count(move.before)} → ${count(move.after)}`],
    ]);
    fill($("nodes"), view.nodes.map((node) => [
      node.node, count(node.connections), count(node.limit), count(node.demand),
      [`${Math.round(node.health * 100)} %`, node.health < 1 || node.is_pressed ? "warn" : "well", node.is_pressed ? "pressed" : ""],
    ]), ["n", "n", "n", "n"]);
  }

  function showFeeds(now) {
    fill($("feeds"), now.feeds.map(([exchange, state, age, connections, live, symbols, refused, connected, why]) => [
      exchange, [state, levelOf(state), state === "live" || state === "off" ? "" : why], seconds(age),
      `${live}/${symbols}`, refused, connections, connected ? seconds(connected) : "–",
    ]), ["", "n", "n", "n minor", "n minor", "n minor"]);
  }

  function showParts(now) {
    const listeners = Object.entries(now.listeners).map(([name, isUp]) =>
      [`listener ${name}`, [isUp ? "up" : "down", isUp ? "well" : "bad", ""], ""]);
    fill($("parts"), [...now.parts.map(([name, state, why, since]) =>
      [name, [state, levelOf(state), why], since === null ? "" : seconds(since)]), ...listeners], ["", "n"]);
  }

  function showCluster(cluster) {
    $("cluster-card").hidden = !cluster;
    if (!cluster) return;
    const names = Object.keys(cluster.nodes).sort();
    say($("cluster-says"), cluster.age === null ? "The nodes are being asked." :
      [`as of ${seconds(cluster.age)} ago`, cluster.why].filter(Boolean).join("; "));
    const heads = ["Statistic", "Together", ...names];
    const head = $("cluster-head");
    if ([...head.children].map((node) => node.textContent).join("\n") !== heads.join("\n")) {
      head.replaceChildren(...heads.map((text, index) => {
        const cell = el("th", {scope: "col", class: index ? "n" : ""});
        cell.textContent = text;
        return cell;
      }));
      $("cluster").replaceChildren();
    }
    fill($("cluster"), whole.statistics.map(([name, , unit], index) => [
      name.replace(/_(us|ms|seconds)$/, "").replaceAll("_", " "),
      measured(cluster.total[index], unit), ...names.map((node) => measured(cluster.nodes[node][index], unit)),
    ]), heads.map(() => "n"));
    [...$("cluster").rows].forEach((row, index) => { row.title = whole.statistics[index][3]; });
  }

  function measured(number, unit) {
    if (number === null || number === undefined) return "–";
    if (unit === "seconds") return seconds(number);
    if (unit === "microseconds") return micros(number);
    if (unit === "milliseconds") return micros(Math.round(number * 1_000));
    return count(number);
  }

  // Prices: a row each, sorted and filtered, that opens on its votes.

  const SORTED_BY = {
    asset: (row) => row[0], quality: (row) => BADNESS[row[1]], price: (row) => row[2], age: (row) => row[3],
    used: (row) => row[4], spread: (row) => row[6],
  };

  function makePrice(code, name) {
    const button = el("button", {type: "button", class: "opens", "aria-expanded": "false"}, code);
    const title = el("span", {class: "title"});
    title.textContent = name;
    const row = el("tr", {}, el("th", {scope: "row"}, button, " ", title), el("td", {}, el("span", {class: "chip"})),
      ...["n", "n", "n minor", "n minor"].map((kind) => el("td", {class: kind})));
    button.addEventListener("click", () => (open.has(code) ? closeVotes(code) : openVotes(code)));
    return row;
  }

  function showPrices(now) {
    const body = $("prices");
    const wanted = $("filter").value.trim().toLowerCase();
    const about = new Map(whole.assets.map((asset) => [asset[0], asset]));
    const by = SORTED_BY[sort.by];
    const sign = sort.down ? -1 : 1;
    const sorted = now.prices.map((row, place) => [by(row), place, row]).sort((one, other) => {
      if (one[0] === other[0]) return one[1] - other[1];
      if (one[0] === null) return 1;
      if (other[0] === null) return -1;
      return (one[0] < other[0] ? -1 : 1) * sign;
    });
    for (const [code, row] of rows) if (!about.has(code)) { closeVotes(code); row.remove(); rows.delete(code); }
    let place = 0;
    let shown = 0;
    for (const [, , [code, quality, value, age, used, seen, spread, aside, source]] of sorted) {
      let row = rows.get(code);
      if (!row) { row = makePrice(code, (about.get(code) || ["", ""])[1]); rows.set(code, row); }
      const [level, word] = QUALITY[quality] || ["warn", quality];
      const [, name, category, home] = about.get(code) || [code, "", "", ""];
      const isShown = !wanted || `${code} ${name} ${category} ${home} ${word} ${source}`.toLowerCase().includes(wanted);
      row.hidden = !isShown;
      shown += isShown ? 1 : 0;
      const cells = row.children;
      chip(cells[1].firstChild, word, level);
      say(cells[2], price(value));
      say(cells[3], seconds(age));
      say(cells[4], seen ? `${used} of ${seen}${aside ? `, ${aside} set aside` : ""}` : "–");
      say(cells[5], spread === null ? "–" : spread.toFixed(1));
      const detail = open.get(code);
      for (const node of detail ? [row, detail] : [row]) {
        if (body.children[place] !== node) body.insertBefore(node, body.children[place] || null);
        place += 1;
      }
      if (detail) detail.hidden = !isShown;
    }
    say($("shown"), wanted ? `${shown} of ${sorted.length}` : `${sorted.length} assets`);
  }

  function showSorting() {
    for (const button of document.querySelectorAll("#prices-table thead button")) {
      const cell = button.parentElement;
      if (button.dataset.by === sort.by) cell.setAttribute("aria-sort", sort.down ? "descending" : "ascending");
      else cell.removeAttribute("aria-sort");
    }
  }

  function openVotes(code) {
    if (open.size >= MOST_OPEN) closeVotes(open.keys().next().value);
    const cell = el("td", {colspan: columns()}, el("p", {class: "quiet"}, "Asking…"));
    const detail = el("tr", {class: "opened", id: `votes-${code}`}, cell);
    open.set(code, detail);
    const row = rows.get(code);
    row.after(detail);
    const button = row.querySelector("button");
    button.setAttribute("aria-expanded", "true");
    button.setAttribute("aria-controls", detail.id);
    askVotes(code);
  }

  /* How many columns of the prices are there: the minor ones are not on a phone. */
  function columns() {
    return PHONE.matches ? "4" : "6";
  }

  function closeVotes(code) {
    const detail = open.get(code);
    if (!detail) return;
    open.delete(code);
    detail.remove();
    const button = rows.get(code).querySelector("button");
    button.setAttribute("aria-expanded", "false");
    button.removeAttribute("aria-controls");
  }

  async function askVotes(code) {
    const detail = open.get(code);
    const key = sessionStorage.getItem(KEY);
    if (!detail || !key) return;
    let told = null;
    try {
      const answer = await fetch(`/admin/explain/${encodeURIComponent(code)}`, {headers: {"X-Admin-Key": key}, cache: "no-store"});
      told = answer.ok ? await answer.json() : null;
    } catch { /* the line is down, which is told elsewhere */ }
    if (open.get(code) !== detail) return;
    const cell = detail.firstChild;
    if (!told) {
      if (!cell.querySelector("table")) say(cell.firstChild, "This could not be told just now.");
      return;
    }
    if (!cell.querySelector("table")) {
      const heads = [["Exchange", ""], ["Verdict", ""], ["Value, USD", "n"], ["Off, bp", "n"], ["Age", "n minor"]];
      const caption = el("caption");
      say(caption, `What each exchange says of ${code}, at home on ${told.home}`);
      cell.replaceChildren(el("table", {}, caption,
        el("thead", {}, el("tr", {}, ...heads.map(([text, kind]) => el("th", {scope: "col", class: kind}, text)))),
        el("tbody")));
    }
    fill(cell.querySelector("tbody"), told.sources.map((source) => [
      source.exchange, [source.verdict.replaceAll("_", " "), source.verdict === "used" ? "well" : "warn", source.why],
      price(source.value), source.deviation_bp === null ? "–" : signed(source.deviation_bp), seconds(source.age_seconds),
    ]), ["", "n", "n", "n minor"]);
  }

  function signed(number) {
    return `${number > 0 ? "+" : number < 0 ? "−" : ""}${Math.abs(number).toFixed(1)}`;
  }

  // Changes.

  function addChanges(changes) {
    const list = $("changes");
    for (const [number, at, what, before, after, why] of changes) {
      if (number <= changesSeen) continue;
      changesSeen = number;
      const item = el("li", {}, clock(at));
      const name = el("strong");
      say(name, what);
      const state = el("span");
      chip(state, after || "gone", levelOf(after));
      item.append(name, ` ${before || "new"} → `, state);
      if (/^\d+$/.test(after)) mark(state, "level", "");
      if (why) { const reason = el("span", {class: "why"}); say(reason, why); item.append(reason); }
      list.prepend(item);
    }
    while (list.children.length > MOST_CHANGES) list.lastChild.remove();
    $("no-changes").hidden = list.hidden = false;
    if (list.children.length) $("no-changes").hidden = true; else list.hidden = true;
  }

  // The line.

  function heard(name, text) {
    const told = JSON.parse(text);
    heardAt = performance.now();
    if (name === "whole") {
      const changes = $("changes");
      if (!whole || whole.life !== told.life) {
        changesSeen = 0;
        changes.removeAttribute("aria-live");  // what was before is not read out
        changes.replaceChildren();
      }
      whole = told;
    } else if (whole) {
      whole.now = told;
      whole.rates.push(told.rate);
      if (whole.rates.length > 300) whole.rates.shift();
    } else {
      return;
    }
    addChanges(told.changes);
    show();
    showAge();
    if (name === "now") $("changes").setAttribute("aria-live", "polite");
  }

  function showAge() {
    const link = $("link");
    if (!sessionStorage.getItem(KEY) || !heardAt) {
      mark(link, "state", "closed");
      say($("link-text"), sessionStorage.getItem(KEY) ? "connecting" : "not connected");
      return;
    }
    const age = performance.now() - heardAt;
    const isStale = age > STALE_MS;
    mark(link, "state", isStale ? "stale" : "open");
    say($("link-text"), isStale ? `last word ${seconds(age / 1_000)} ago` : "live");
    $("desk").classList.toggle("is-stale", isStale);
    $("stale").hidden = !isStale;
    if (isStale) {
      mark($("verdict"), "level", "stale");
      say($("verdict-text"), "This is not the present any more");
      say($("stale"), `The last word came ${seconds(age / 1_000)} ago; trying to reach the node. Below is what it said then.`);
    }
  }

  class Refused extends Error {
    constructor(status, text, wait) {
      super(text);
      this.status = status;
      this.wait = wait;
    }
  }

  /* Listen until the stream ends; what is said is given to heard. */
  async function listen(key, signal, alive) {
    const headers = {"X-Admin-Key": key, Accept: "text/event-stream"};
    if (lastId) headers["Last-Event-ID"] = lastId;
    const answer = await fetch("/admin/events", {headers, signal, cache: "no-store"});
    if (!answer.ok) {
      const problem = await answer.json().catch(() => ({}));
      throw new Refused(answer.status, problem.detail || `The node answered ${answer.status}.`, Number(answer.headers.get("Retry-After")) * 1_000);
    }
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let waiting = "";
    for (;;) {
      const {done, value} = await reader.read();
      if (done) return;
      alive();
      waiting += value;
      const events = waiting.split(/\r?\n\r?\n/);
      waiting = events.pop();
      for (const event of events) take(event);
    }
  }

  function take(event) {
    let name = "message";
    const data = [];
    for (const text of event.split(/\r?\n/)) {
      const colon = text.indexOf(":");
      if (colon === 0) continue;
      const field = colon < 0 ? text : text.slice(0, colon);
      const value = colon < 0 ? "" : text.slice(colon + 1).replace(/^ /, "");
      if (field === "event") name = value;
      else if (field === "data") data.push(value);
      else if (field === "id") lastId = value;
    }
    if (data.length) heard(name, data.join("\n"));
  }

  async function keepListening() {
    const key = sessionStorage.getItem(KEY);
    if (!key || line) return;
    const mine = line = {};
    let wait = 500;
    while (line === mine) {
      const end = mine.end = new AbortController();
      let dead = setTimeout(() => end.abort(), SILENT_MS);
      const alive = () => {
        clearTimeout(dead);
        dead = setTimeout(() => end.abort(), SILENT_MS);
        wait = 500;
        doorSays("");
        admit(true);
      };
      let pause = wait;
      try {
        await listen(key, end.signal, alive);
      } catch (fault) {
        if (line !== mine) break;
        if (fault instanceof Refused) {
          if (fault.status === 401 || fault.status === 404) {
            forget(fault.message);
            break;
          }
          doorSays(fault.message);
          pause = Math.max(pause, fault.wait || 0);
        } else if (!whole) {
          doorSays("The node cannot be reached; trying again.");
        }
      } finally {
        clearTimeout(dead);
        end.abort();
      }
      if (line !== mine) break;
      await new Promise((resolve) => setTimeout(resolve, pause * (0.75 + Math.random() / 2)));
      wait = Math.min(wait * 2, LONGEST_WAIT_MS);
    }
  }

  function doorSays(text) {
    say($("door-says"), text);
  }

  function admit(isIn) {
    if ($("door").hidden === isIn) return;
    $("door").hidden = isIn;
    $("desk").hidden = $("leave").hidden = !isIn;
    if (isIn) { $("key").value = ""; $("main").focus({preventScroll: true}); }
    else $("key").focus();
  }

  function forget(why) {
    sessionStorage.removeItem(KEY);
    const mine = line;
    line = null;
    if (mine && mine.end) mine.end.abort();
    whole = null;
    heardAt = 0;
    lastId = "";
    changesSeen = 0;
    for (const code of [...open.keys()]) closeVotes(code);
    for (const row of rows.values()) row.remove();
    rows.clear();
    for (const body of ["feeds", "parts", "nodes", "cluster", "cluster-head", "changes", "complaints"]) $(body).replaceChildren();
    document.title = "tbeast";
    for (const field of ["node", "about"]) say($(field), "");
    mark($("verdict"), "level", "unknown");
    say($("verdict-text"), "Waiting for the first word");
    admit(false);
    doorSays(why || "");
    showAge();
  }

  $("door").addEventListener("submit", (event) => {
    event.preventDefault();
    const key = $("key").value;
    if (!/^[\x21-\x7e]+$/.test(key)) { doorSays("A key has printable characters without spaces."); return; }
    doorSays("");
    line = null;
    sessionStorage.setItem(KEY, key);
    keepListening();
  });
  $("leave").addEventListener("click", () => forget(""));
  $("filter").addEventListener("input", () => whole && showPrices(whole.now));
  for (const button of document.querySelectorAll("#prices-table thead button")) {
    button.addEventListener("click", () => {
      const isSame = sort.by === button.dataset.by;
      sort = {by: button.dataset.by, down: isSame ? !sort.down : button.dataset.by !== "asset"};
      showSorting();
      if (whole) showPrices(whole.now);
    });
  }
  PHONE.addEventListener("change", () => {
    for (const detail of open.values()) detail.firstChild.setAttribute("colspan", columns());
  });
  showSorting();
  setInterval(showAge, 500);
  setInterval(() => { for (const code of open.keys()) askVotes(code); }, VOTES_EVERY_MS);
  keepListening();
})();
