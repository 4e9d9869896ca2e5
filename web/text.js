// Text that streams; each token shows how sure the model was, and what else it could have been.
import {element, follow, jobControls, settings} from "./parts.js";

const kAlternatives = 8;

/// Shown where a token has no ink.
function visible(text) {
  return text.replace(/\n/g, "↵").replace(/\t/g, "⇥").replace(/ /g, "␣");
}

function percent(logprob) {
  const share = Math.exp(logprob) * 100;
  return share >= 10 ? `${share.toFixed(0)} %` : share >= 0.1 ? `${share.toFixed(1)} %` : "< 0.1 %";
}

export function textPage(page, model) {
  const branches = [];  // {prompt, tokens: [{id, text, logprob, top}], from}
  let current = null;
  const controls = settings(model, {temperature: 0.8, top_p: 0.95, max_tokens: 256});
  const prompt = element("textarea", {id: "prompt", spellcheck: false, placeholder: "Write a beginning. The model goes on in the manner of what it was trained on.", value: model.sample ?? ""});
  const story = element("div", {className: "story", id: "story"});
  const tabs = element("div", {className: "branches", role: "group", "aria-label": "Branches"});
  const hint = element("p", {className: "quiet"}, "Point at a word, or move with Tab, to see what else the model considered; choose one of them to go on from there.");
  const colours = element("label", {className: "legend"}, element("input", {type: "checkbox", checked: true, onchange: (event) => story.classList.toggle("plain", !event.target.checked)}), "expected", element("i"), "surprising");
  const copy = element("button", {onclick: () => navigator.clipboard?.writeText(current ? whole(current) : "")}, "Copy");
  const job = jobControls("Continue", generate);
  let menu = null;

  page.append(
    element("h1", {}, "Continue a text"),
    element("div", {className: "columns"},
      element("div", {},
        element("label", {className: "quiet", htmlFor: "prompt"}, "Beginning"), prompt, job.row,
        element("div", {className: "panel hidden", id: "result"}, tabs, story, element("div", {className: "row"}, colours, copy), hint)),
      controls.panel));

  prompt.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) job.run();
  });

  const whole = (branch) => branch.prompt + branch.tokens.map((token) => token.text).join("");

  /// `branch`: a beginning that is kept; none: the text in the box.
  async function generate({signal, say, onWait}, branch) {
    closeMenu();
    current = branch ?? {prompt: prompt.value, promptIds: null, tokens: [], name: prompt.value.trim().slice(0, 24) || "from nothing"};
    branches.push(current);
    const mine = current;
    showBranches();
    draw();
    story.classList.add("cursor");
    const began = performance.now();
    let made = 0;
    try {
      await follow("/v1/completions", {model: model.id, prompt: mine.prompt + mine.tokens.map((token) => token.text).join(""),
        ...controls.values(), logprobs: kAlternatives, return_token_ids: true}, signal, (event) => {
          made += add(mine, event.choices[0] ?? {});
          const seconds = (performance.now() - began) / 1000;
          say(`${made} tokens, ${(made / seconds).toFixed(0)} a second`);
        }, onWait);
      mine.ended = true;
    } finally {
      story.classList.remove("cursor");
      showBranches();
    }
  }

  function add(branch, choice) {
    const log = choice.logprobs;
    if (!log) return 0;
    let shown = choice.text;
    log.tokens.forEach((text, i) => {
      // The last piece of a character brings all of it.
      const token = {text: i === log.tokens.length - 1 ? shown : "", label: text, logprob: log.token_logprobs[i], top: Object.entries(log.top_logprobs[i] ?? {})};
      branch.tokens.push(token);
      if (branch === current) story.append(drawToken(branch, branch.tokens.length - 1));
      shown = log.tokens.length > 1 ? shown : "";
    });
    if (log.tokens.length === 0 && choice.text) {
      branch.tokens.push({text: choice.text, label: choice.text, logprob: 0, top: []});
      if (branch === current) story.append(drawToken(branch, branch.tokens.length - 1));
    }
    return log.tokens.length;
  }

  function drawToken(branch, index) {
    const token = branch.tokens[index];
    // 0 for a token that was certain, 1 for one that had a chance of less than e⁻⁵.
    const surprise = Math.min(1, Math.max(0, -token.logprob / 5));
    const span = element("span", {className: token.taken ? "token taken" : "token", tabIndex: 0, role: "button", "aria-haspopup": "true"}, token.text);
    span.style.setProperty("--surprise", surprise.toFixed(3));
    span.setAttribute("aria-label", `${token.label}: ${percent(token.logprob)}`);
    const open = () => openMenu(span, branch, index);
    span.addEventListener("mouseenter", open);
    span.addEventListener("focus", open);
    span.addEventListener("click", open);
    span.addEventListener("keydown", (event) => {
      if (event.key === "ArrowDown" || event.key === "Enter") { event.preventDefault(); open(); menu?.querySelector("button")?.focus(); }
      if (event.key === "Escape") closeMenu();
      if (event.key === "ArrowRight") span.nextElementSibling?.focus();
      if (event.key === "ArrowLeft") span.previousElementSibling?.focus();
    });
    return span;
  }

  function draw() {
    document.getElementById("result").classList.remove("hidden");
    story.replaceChildren(element("span", {className: "given"}, current.prompt),
      ...current.tokens.map((_, i) => drawToken(current, i)));
  }

  function showBranches() {
    tabs.replaceChildren(...branches.map((branch) => element("button", {"aria-pressed": String(branch === current),
      onclick: () => { closeMenu(); current = branch; draw(); showBranches(); }}, branch.name)));
    tabs.classList.toggle("hidden", branches.length < 2);
  }

  function closeMenu() {
    menu?.remove();
    menu = null;
    story.querySelector(".chosen")?.classList.remove("chosen");
  }

  function openMenu(span, branch, index) {
    closeMenu();
    const token = branch.tokens[index];
    if (token.top.length === 0) return;
    span.classList.add("chosen");
    menu = element("div", {className: "choices"}, element("p", {}, `${visible(token.label)}  ${percent(token.logprob)}. Instead:`));
    for (const [text, logprob] of token.top.sort((a, b) => b[1] - a[1])) {
      if (text.startsWith("bytes:") || text === "<eos>") continue;
      const bar = element("span", {className: "bar"});
      bar.style.width = `${Math.exp(logprob) * 100}%`;
      menu.append(element("button", {onclick: () => branchOff(branch, index, text, logprob),
        onkeydown: (event) => moveInMenu(event, span)},
        element("code", {}, visible(text)), bar, element("span", {className: "share"}, percent(logprob))));
    }
    document.body.append(menu);
    const box = span.getBoundingClientRect();
    menu.style.left = `${Math.max(8, Math.min(box.left, innerWidth - menu.offsetWidth - 8)) + scrollX}px`;
    const above = box.bottom + menu.offsetHeight + 8 > innerHeight && box.top > menu.offsetHeight;
    menu.style.top = `${(above ? box.top - menu.offsetHeight - 4 : box.bottom + 4) + scrollY}px`;
    menu.addEventListener("mouseleave", closeMenu);
  }

  function moveInMenu(event, span) {
    const buttons = [...menu.querySelectorAll("button")];
    const at = buttons.indexOf(document.activeElement);
    if (event.key === "ArrowDown") { event.preventDefault(); buttons[(at + 1) % buttons.length].focus(); }
    if (event.key === "ArrowUp") { event.preventDefault(); (buttons[at - 1] ?? span).focus(); }
    if (event.key === "Escape") { closeMenu(); span.focus(); }
  }

  /// Goes on with another token at that place.
  function branchOff(branch, index, text, logprob) {
    const kept = branch.tokens.slice(0, index);
    const top = branch.tokens[index].top;
    const before = (branch.prompt + kept.map((token) => token.text).join("")).slice(-14).trimStart();
    job.run({prompt: branch.prompt, tokens: [...kept, {text, label: text, logprob, top, taken: true}], name: `…${before}${text}`.replace(/\n/g, "↵")});
  }

  const outside = (event) => { if (menu && !menu.contains(event.target) && !story.contains(event.target)) closeMenu(); };
  document.addEventListener("click", outside);
  return () => { job.stop(); closeMenu(); document.removeEventListener("click", outside); };
}
