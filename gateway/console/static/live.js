// Swaps the sections of the live part of a page as the server sends them. Without this file a page is whole, only still.

const region = document.querySelector("[data-live]");
const stamp = document.querySelector("[data-connection]");

function swap(html) {
  const drawn = document.createElement("template");
  drawn.innerHTML = html;
  const names = (root) => [...root.children].map((one) => one.id).join();
  if (names(drawn.content) !== names(region)) {
    region.replaceChildren(drawn.content);
    return;
  }
  for (const fresh of [...drawn.content.children]) {
    const old = document.getElementById(fresh.id);
    if (old.innerHTML === fresh.innerHTML) continue;
    // What the reader has unfolded stays unfolded, and the keyboard's focus stays where it is.
    const open = new Set([...old.querySelectorAll("details[open][id]")].map((one) => one.id));
    const focused = old.contains(document.activeElement) ? document.activeElement.id : "";
    old.replaceChildren(...fresh.childNodes);
    for (const one of old.querySelectorAll("details[id]")) one.open = open.has(one.id) || one.open;
    if (focused) document.getElementById(focused)?.focus({ preventScroll: true });
  }
}

if (region && "EventSource" in window) {
  const source = new EventSource(`/events?page=${encodeURIComponent(region.dataset.live)}`);
  source.addEventListener("part", (event) => {
    swap(event.data);
    stamp.textContent = "live";
    stamp.className = "connection live";
  });
  source.addEventListener("error", () => {
    stamp.textContent = "▲ not live: connection lost, trying again";
    stamp.className = "connection lost";
  });
  window.addEventListener("pagehide", () => source.close());
}
