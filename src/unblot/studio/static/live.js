"use strict";
// A page that changes while a job goes on: its parts come again, by name, whenever they are other ones. What people do
// with them stays: where they have scrolled to, what has the focus, what is folded out, which preview they look at.
{
  const live = document.querySelector("[data-watch]");
  const shown = new Map();

  const renew = (part, html) => {
    if (shown.get(part) === html) return;
    shown.set(part, html);
    const top = part.scrollTop, follows = top + part.clientHeight >= part.scrollHeight - 4;
    const focused = part.contains(document.activeElement) ? document.activeElement.id : "";
    part.innerHTML = html;
    part.scrollTop = follows ? part.scrollHeight : top;
    if (focused) document.getElementById(focused)?.focus({ preventScroll: true });
    part.closest("[data-with-part]")?.toggleAttribute("hidden", !html.trim());
    const film = part.closest("[data-film]");
    if (film && html.trim()) lengthen(film.querySelector("input"), part.textContent.trim());
  };

  // The slider over the previews has more of them; it stays where it is, unless that is the newest one.
  const lengthen = (slider, frames) => {
    const newest = slider.value === slider.max;
    slider.dataset.frames = frames;
    slider.max = frames.split(" ").length - 1;
    if (!newest) return;
    slider.value = slider.max;
    slider.dispatchEvent(new Event("input", { bubbles: true }));
  };

  let source = null, ended = false;
  const follow = () => {
    if (ended || document.hidden) return;
    source = new EventSource(live.dataset.watch);
    for (const part of live.querySelectorAll("[data-part]")) {
      source.addEventListener(part.dataset.part, (event) => renew(part, event.data));
    }
    source.addEventListener("end", () => { ended = true; source.close(); });
  };

  // A link to what is folded in folds it out.
  addEventListener("hashchange", () => {
    const target = document.getElementById(location.hash.slice(1));
    if (target?.matches("details")) target.open = true;
  });

  if (live) {
    for (const log of live.querySelectorAll(".log")) log.scrollTop = log.scrollHeight;
    follow();
    document.addEventListener("visibilitychange", () => { source?.close(); follow(); });
  }
}
