// Remembers in this browser how the pages are shown. The server knows it for this run, so all works without this.
const KEY = "token-relay-lab-mode";
const form = document.getElementById("mode");
const button = form.querySelector("button");
const wanted = localStorage.getItem(KEY);
form.addEventListener("submit", () => localStorage.setItem(KEY, button.value));
if (!form.dataset.chosen && wanted === button.value) form.requestSubmit(button);
