// Sign-in in a small window. The server knows how it ended: this only opens, notices, and shows its page.
const channel = new BroadcastChannel("token-relay-lab");
const say = (text) => { document.getElementById("popup-says").textContent = text; };

for (const link of document.querySelectorAll("a[data-popup]")) {
  link.addEventListener("click", (event) => {
    const opened = open(link.href, "token-relay-lab-sign-in", "popup,width=480,height=640");
    event.preventDefault();
    if (!opened) {
      say("The browser has blocked the window. Allow windows for this page, or use the redirect.");
      return;
    }
    say("The window is open: sign in there.");
    const watch = setInterval(() => {
      if (!opened.closed) return;
      clearInterval(watch);
      location.assign(link.dataset.popup);
    }, 500);
    channel.onmessage = () => { clearInterval(watch); location.assign(link.dataset.popup); };
  });
}

if (document.querySelector("[data-popup-over]")) {
  channel.postMessage("over");
  close();
}
