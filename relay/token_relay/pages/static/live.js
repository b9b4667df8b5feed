// Puts each element that the server sends into its place, and says when the server is silent.
// A page without this module shows the same; it lacks only the updating.

const trouble = document.getElementById("trouble");

function say(text) {
  trouble.hidden = text === "";
  trouble.textContent = text;
}

// The same field, button or link in a new element, or none.
function twinOf(node, fresh) {
  const name = (one) => [one.id, one.name, one.defaultValue, (one.querySelector("summary") ?? one).textContent].join("\n");
  return [fresh, ...fresh.querySelectorAll(node.localName)].find((one) => name(one) === name(node));
}

// What a person has typed or opened stays, as long as its form asks for the same.
function keep(old, fresh) {
  for (const node of [old, ...old.querySelectorAll("details, input, select, textarea")]) {
    const twin = twinOf(node, fresh);
    if (twin && node.localName === "details") twin.open = node.open;
    if (!twin?.form?.isEqualNode(node.form)) continue;
    const state = ["checkbox", "radio"].includes(node.type) ? "checked" : "value";
    twin[state] = node[state];
    if (node.selectionStart != null) twin.setSelectionRange(node.selectionStart, node.selectionEnd);
  }
}

function put({ id, html, before }) {
  const template = document.createElement("template");
  template.innerHTML = html.trim();
  const fresh = template.content.firstElementChild;
  if (!fresh) return;
  const old = document.getElementById(id);
  const next = before ? document.getElementById(before) : null;
  const list = old ? old.parentElement : (next ? next.parentElement : document.querySelector("[data-live]"));
  if (!list) return;
  const active = document.activeElement;
  const isIn = old?.contains(active);
  const shown = old?.isEqualNode(fresh) ? old : fresh;
  if (old && shown === fresh) {
    keep(old, fresh);
    old.replaceWith(fresh);
  }
  const isList = list.hasAttribute("data-live");
  if (isList && (!shown.isConnected || shown.nextElementSibling !== next)) list.insertBefore(shown, next);
  if (isIn) (shown === old ? active : twinOf(active, fresh) ?? fresh).focus({ preventScroll: true });
}

const handlers = {
  element: put,
  only: (ids) => document.querySelectorAll("[data-live] > [id]").forEach((one) => ids.includes(one.id) || one.remove()),
  gone: (ids) => ids.forEach((id) => document.getElementById(id)?.remove()),
  trouble: ({ why, hint }) => say(hint ? `${why} (${hint})` : why),
  well: () => say(""),
  go: (place) => {
    source.close(); // else it asks again, and is sent on a second time, while the next page is on its way
    location.assign(place);
  },
};

let source = null;

function listen(address) {
  source = new EventSource(address);
  for (const [name, handle] of Object.entries(handlers)) {
    source.addEventListener(name, (event) => handle(JSON.parse(event.data)));
  }
  source.onopen = () => say("");
  source.onerror = () => say("This page does not hear its server; it tries again. If the server has ended, start it anew.");
}

// A browser opens six connections to a server, for all its windows: one that nobody sees takes none.
function follow() {
  const isSeen = document.visibilityState === "visible";
  if (isSeen && !source) listen(document.body.dataset.stream);
  if (!isSeen) source = source?.close() ?? null;
}

if (document.body.dataset.stream) {
  follow();
  document.addEventListener("visibilitychange", follow);
  addEventListener("pagehide", () => source?.close());
}
