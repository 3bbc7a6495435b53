// The chat page: one conversation, kept in this browser, streamed from /v1/chat/completions.
// Text of the model reaches the page as textContent only, never as markup.
"use strict";

const EXAMPLES = [
  "How does a heat pump heat a house when it is cold outside?",
  "What is the difference between a kilowatt and a kilowatt-hour?",
  "Is it worth insulating the attic before the walls?",
  "Why is electricity sometimes cheaper when it is windy?",
];
// Room for a whole answer is asked for, so that a long conversation is shortened and not the answer.
const ANSWER_TOKENS = 256;
const STORAGE_KEY = "slipway.conversation";

const element = (id) => document.getElementById(id);
const log = element("log");
const question = element("question");
const scroller = element("scroller");

/** @type {{role: string, content: string, note?: string}[]} */
let turns = readHistory();
let answering = null; // the AbortController of the answer that is being written

// History

function readHistory() {
  try {
    const kept = JSON.parse(localStorage.getItem(STORAGE_KEY) || "[]");
    const roles = ["user", "assistant"];
    return Array.isArray(kept)
      ? kept.filter((turn) => turn && roles.includes(turn.role) && typeof turn.content === "string")
      : [];
  } catch {
    return []; // storage is switched off, or was written by something else
  }
}

function keepHistory() {
  try {
    localStorage.setItem(STORAGE_KEY, JSON.stringify(turns));
  } catch {
    say("The history could not be kept: this browser's storage is full or switched off.");
  }
}

// Drawing

function draw() {
  log.replaceChildren(...turns.map((turn) => drawTurn(turn).item));
  drawState();
  scroller.scrollTop = scroller.scrollHeight;
}

function drawState() {
  element("welcome").hidden = turns.length > 0;
  element("clear").hidden = turns.length === 0;
  element("send").hidden = answering !== null;
  element("stop").hidden = answering === null;
  element("send").disabled = question.value.trim() === "";
}

function drawTurn(turn) {
  const item = document.createElement("article");
  item.className = `turn ${turn.role}`;
  const who = document.createElement("span");
  who.className = "who";
  who.textContent = turn.role === "user" ? "You" : "Assistant";
  const text = document.createElement("p");
  text.textContent = turn.content;
  item.append(who, text);
  if (turn.note) item.append(drawNote(turn.note));
  return { item, text };
}

function drawNote(words) {
  const note = document.createElement("span");
  note.className = "note";
  note.textContent = words;
  return note;
}

function drawDots() {
  const dots = document.createElement("span");
  dots.className = "dots";
  dots.setAttribute("aria-hidden", "true");
  dots.append(...[1, 2, 3].map(() => document.createElement("i")));
  return dots;
}

function say(words) {
  element("status").textContent = words;
}

function showProblem(words, again) {
  const problem = element("problem");
  problem.textContent = words;
  if (again) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = "Try again";
    button.addEventListener("click", again);
    problem.append(" ", button);
  }
  problem.hidden = false;
  scroller.scrollTop = scroller.scrollHeight;
}

function hideProblem() {
  element("problem").hidden = true;
}

function atEnd() {
  return scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight < 80;
}

// Asking

function ask(text) {
  if (answering || !text.trim()) return;
  turns.push({ role: "user", content: text.trim() });
  log.append(drawTurn(turns.at(-1)).item);
  question.value = "";
  fitQuestion();
  answer();
}

async function answer() {
  hideProblem();
  keepHistory();
  answering = new AbortController();
  drawState();
  say("The assistant is writing.");
  const conversation = turns;
  const turn = { role: "assistant", content: "" };
  const { item, text } = drawTurn(turn);
  // A reader is told once the answer is complete, not word by word.
  item.setAttribute("aria-busy", "true");
  text.append(drawDots());
  log.append(item);
  scroller.scrollTop = scroller.scrollHeight;
  try {
    for await (const piece of stream(answering.signal)) {
      turn.content += piece.text;
      if (turn.content) showSoon(text, turn);
      if (piece.finish === "length") turn.note = "The answer was cut at its longest allowed length.";
    }
    if (!turn.content) turn.note = "The model had nothing to say.";
    say("The answer is complete.");
  } catch (error) {
    if (error.name === "AbortError") {
      turn.note = "You stopped this answer.";
      say("Stopped.");
    } else {
      // The fetch API's own words ("Failed to fetch") help nobody.
      const words = error instanceof Refused ? error.message : "The connection to the server was lost.";
      showProblem(words, () => retry(item, turn));
    }
  }
  answering = null;
  if (turns === conversation) finish(item, text, turn);
  else drawState(); // the history was cleared meanwhile, and this answer with it
}

/** Draws once a frame: a fast model writes more tokens than a screen has frames. */
function showSoon(text, turn) {
  if (text.dataset.frame) return;
  text.dataset.frame = requestAnimationFrame(() => {
    delete text.dataset.frame;
    const follow = atEnd();
    text.textContent = turn.content;
    if (follow) scroller.scrollTop = scroller.scrollHeight;
  });
}

function finish(item, text, turn) {
  const follow = atEnd();
  item.removeAttribute("aria-busy");
  text.textContent = turn.content;
  if (turn.note) item.append(drawNote(turn.note));
  if (turn.content || turn.note) turns.push(turn);
  else item.remove();
  text.hidden = !turn.content;
  keepHistory();
  drawState();
  if (follow) scroller.scrollTop = scroller.scrollHeight;
  // On a touch screen this would open the keyboard over the answer.
  if (!matchMedia("(pointer: coarse)").matches) question.focus({ preventScroll: true });
}

function retry(item, turn) {
  if (turns.at(-1) === turn) turns.pop();
  item.remove();
  answer();
}

class Refused extends Error {}

/** Yields {text, finish} as the server sends them; throws Refused with words for the reader. */
async function* stream(signal) {
  const response = await request(signal);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let buffer = "";
  while (true) {
    const { done, value } = await reader.read();
    if (done) throw new Refused("The server broke the answer off.");
    buffer += value;
    const events = buffer.split("\n\n");
    buffer = events.pop();
    for (const event of events) {
      const data = event.replace(/^data: /, "");
      if (data === "[DONE]") return;
      const message = JSON.parse(data);
      if (message.error) throw new Refused(message.error.message);
      const choice = message.choices[0];
      if (choice) yield { text: choice.delta.content || "", finish: choice.finish_reason };
    }
  }
}

/** Sends the conversation; when it has grown too long for the model, its oldest turns are left out. */
async function request(signal) {
  let messages = turns
    .filter((turn) => turn.content)
    .map(({ role, content }) => ({ role, content }));
  let limit = { max_tokens: ANSWER_TOKENS };
  while (true) {
    const response = await fetch("/v1/chat/completions", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ messages, ...limit, stream: true }),
      signal,
    });
    showRelease(response.headers.get("X-Slipway-Release"));
    if (response.ok) return response;
    const error = await readError(response);
    const tooLong = response.status === 413 || error.code === "context_length_exceeded";
    if (tooLong && messages.length > 1) {
      messages = messages.slice(messages[1].role === "assistant" ? 2 : 1);
      say("The oldest turns were left out: the conversation is too long for the model.");
    } else if (error.param === "max_tokens" && limit.max_tokens) {
      limit = {}; // a small model or server: the answer gets what room there is
    } else if (tooLong) {
      throw new Refused("This question is too long for the model. Please shorten it.");
    } else {
      throw new Refused(describe(response, error));
    }
  }
}

async function readError(response) {
  try {
    return (await response.json()).error || {};
  } catch {
    return {}; // a proxy's own page
  }
}

function describe(response, error) {
  if (response.status === 429) {
    const seconds = response.headers.get("Retry-After") || "a few";
    return `Many people are asking at the moment. Please try again in ${seconds} seconds.`;
  }
  if (response.status === 503) return "The assistant is not available at the moment. Please try again soon.";
  return error.message ? `The server refused: ${error.message}` : `The server answered with status ${response.status}.`;
}

// Release

function showRelease(digest) {
  if (!digest) return;
  const button = element("release");
  button.hidden = false;
  button.dataset.digest = digest;
  button.textContent = `Release ${digest.replace("sha256:", "").slice(0, 12)}`;
  button.title = `${digest}\nClick to copy`;
  button.setAttribute("aria-label", `Release ${digest}. Copy`);
}

async function copyRelease() {
  const button = element("release");
  const { digest } = button.dataset;
  try {
    await navigator.clipboard.writeText(digest);
    button.textContent = "Copied";
    say("The release's digest was copied.");
  } catch {
    button.textContent = digest; // no access to the clipboard: show it, to be copied by hand
    return;
  }
  setTimeout(() => showRelease(digest), 1500);
}

async function readHealth() {
  try {
    const response = await fetch("/health");
    const health = await response.json();
    if (!response.ok) throw new Error();
    showRelease(health.release);
    element("model").textContent = `Home energy and climate · ${health.model}`;
  } catch {
    showProblem("The server does not answer. Please reload the page in a moment.");
  }
}

// Keyboard and buttons

function fitQuestion() {
  question.style.height = "auto";
  question.style.height = `${question.scrollHeight}px`;
  drawState();
}

question.addEventListener("input", fitQuestion);
question.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    ask(question.value);
  }
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") answering?.abort();
});
element("form").addEventListener("submit", (event) => {
  event.preventDefault();
  ask(question.value);
});
element("stop").addEventListener("click", () => answering?.abort());
element("release").addEventListener("click", copyRelease);
element("clear").addEventListener("click", () => {
  answering?.abort();
  turns = [];
  keepHistory();
  hideProblem();
  draw();
  say("The history was cleared.");
  question.focus();
});

element("examples").append(
  ...EXAMPLES.map((text) => {
    const item = document.createElement("li");
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = text;
    button.addEventListener("click", () => ask(text));
    item.append(button);
    return item;
  }),
);

draw();
readHealth();
question.focus();
