// Sign-in in a small window. The server knows how it ended: this only opens, notices, and shows its page.
const channel = new BroadcastChannel("token-relay-lab");
let watch;
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
    const goOn = () => { // once: its last word may come after it was seen to be closed
      clearInterval(watch);
      channel.onmessage = null;
      location.assign(link.dataset.popup);
    };
    clearInterval(watch);
    watch = setInterval(() => { if (opened.closed) goOn(); }, 500);
    channel.onmessage = goOn;
  });
}

if (document.querySelector("[data-popup-over]")) {
  channel.postMessage("over");
  close();
}
