// Puts each element that the server sends into its place, and says when the server is silent.
// A page without this module shows the same; it lacks only the updating.

const trouble = document.getElementById("trouble");

function say(text) {
  trouble.hidden = text === "";
  trouble.textContent = text;
}

// What the person is in: the new element gets the focus where the old one had it.
function focusedIn(element) {
  const active = document.activeElement;
  if (!element.contains(active)) return null;
  return active.id ? `#${CSS.escape(active.id)}` : active.name ? `[name="${CSS.escape(active.name)}"]` : active.tagName;
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
  const isList = list.hasAttribute("data-live");
  if (old && !old.isEqualNode(fresh)) {
    const focused = focusedIn(old);
    old.replaceWith(fresh);
    if (focused) (fresh.querySelector(focused) ?? fresh).focus();
  }
  const shown = old && old.isConnected ? old : fresh;
  if (isList && (!shown.isConnected || shown.nextElementSibling !== next)) list.insertBefore(shown, next);
}

const handlers = {
  element: put,
  gone: (ids) => ids.forEach((id) => document.getElementById(id)?.remove()),
  trouble: ({ why, hint }) => say(hint ? `${why} (${hint})` : why),
  well: () => say(""),
  go: (place) => location.assign(place),
};

function listen(address) {
  const source = new EventSource(address);
  for (const [name, handle] of Object.entries(handlers)) {
    source.addEventListener(name, (event) => handle(JSON.parse(event.data)));
  }
  source.onopen = () => say("");
  source.onerror = () => say("This page does not hear its server; it tries again. If the server has ended, start it anew.");
  addEventListener("pagehide", () => source.close());
}

if (document.body.dataset.stream) listen(document.body.dataset.stream);
