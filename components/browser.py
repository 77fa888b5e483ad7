"""What only the browser can do: put the cursor into a field, and tell what the pointer is over in a chart."""

from __future__ import annotations

from collections.abc import Callable

import streamlit as st

FOCUS = st.components.v2.component(
    "clp_focus",
    html="<span></span>",
    js="""
export default function (component) {
  const field = () => document.querySelector(`.st-key-${component.data.key} input`);
  let tries = 0;
  const timer = setInterval(() => {
    const found = field();
    // Once for each field, and never away from another one: this runs again with every rerun of the page.
    const idle = [document.body, null].includes(document.activeElement);
    if (found && !found.clpFocused && idle) found.focus();
    if (found) found.clpFocused = true;
    if (found || ++tries > 20) clearInterval(timer);
  }, 100);
  const slash = (event) => {
    const busy = ["INPUT", "TEXTAREA"].includes(document.activeElement?.tagName);
    if (event.key === "/" && !busy && field()) { event.preventDefault(); field().focus(); field().select(); }
  };
  document.addEventListener("keydown", slash);
  return () => { clearInterval(timer); document.removeEventListener("keydown", slash); };
}
""",
)

PASTE = st.components.v2.component(
    "clp_paste",
    html="<span></span>",
    js="""
export default function (component) {
  const { data, setStateValue } = component;
  const set = Object.getOwnPropertyDescriptor(HTMLTextAreaElement.prototype, "value").set;
  const cut = (event) => {
    const area = event.target.closest?.(`.st-key-${data.key} textarea`);
    const pasted = event.clipboardData?.getData("text/plain") ?? "";
    if (!area) return;
    const rest = area.value.length - (area.selectionEnd - area.selectionStart);
    if (rest + pasted.length <= data.most) { setStateValue("cut", null); return; }
    event.preventDefault();
    const whole = area.value.slice(0, area.selectionStart) + pasted.slice(0, data.most) +
      area.value.slice(area.selectionEnd);
    set.call(area, whole.slice(0, data.most));
    area.dispatchEvent(new Event("input", { bubbles: true }));
    setStateValue("cut", pasted.length);
  };
  document.addEventListener("paste", cut, true);
  return () => document.removeEventListener("paste", cut, true);
}
""",
)

HOVER = st.components.v2.component(
    "clp_hover",
    html='<div class="tip" role="status"></div>',
    css="""
.tip { position: fixed; z-index: 1000; display: none; pointer-events: none; padding: 3px 8px; border-radius: 6px;
  font: 13px monospace; white-space: pre; direction: ltr; color: var(--st-text-color);
  background: var(--st-secondary-background-color); border: 1px solid var(--st-border-color, #8C8C8C); }
""",
    js="""
const known = new Map();
export default function (component) {
  const { data, parentElement, setTriggerValue } = component;
  const tip = parentElement.querySelector(".tip");
  for (const [id, text] of Object.entries(data.told)) known.set(`${data.chart} ${id}`, text);
  const state = (window.clpHover ??= {});
  const mine = (state[data.chart] ??= { over: null, timer: null, ask: null, x: 0, y: 0 });
  mine.ask = (id) => setTriggerValue("asked", id);
  const show = () => {
    if (mine.over === null) { tip.style.display = "none"; return; }
    const text = known.get(`${data.chart} ${mine.over}`);
    tip.textContent = text ?? `#${mine.over}`;
    tip.style.display = "block";
    tip.style.left = `${Math.min(mine.x + 14, window.innerWidth - tip.offsetWidth - 8)}px`;
    tip.style.top = `${mine.y + 14}px`;
  };
  mine.show = show;
  show();
  const attach = () => {
    const plot = document.querySelector(`.st-key-${data.chart} .js-plotly-plot`);
    if (!plot || !plot.on || plot.clpHover) return;
    plot.clpHover = true;
    plot.on("plotly_hover", (event) => {
      const id = event.points?.[0]?.customdata;
      if (typeof id !== "number") return;
      Object.assign(mine, { over: id, x: event.event.clientX, y: event.event.clientY });
      mine.show();
      clearTimeout(mine.timer);
      if (!known.has(`${data.chart} ${id}`)) mine.timer = setTimeout(() => mine.ask(id), 80);
    });
    plot.on("plotly_unhover", () => { mine.over = null; clearTimeout(mine.timer); mine.show(); });
  };
  attach();
  const timer = setInterval(attach, 400);
  return () => clearInterval(timer);
}
""",
)


def focus(key: str) -> None:
    """Put the cursor into a text field once the page is open; the key ``/`` brings it back there."""
    FOCUS(data={"key": key}, key=f"focus_{key}")


def cut_paste(key: str, most: int) -> int | None:
    """Keep a text area from taking more characters than it can bear; return the length of a paste that was cut.

    A browser is busy for minutes with some megabytes in a text area.
    """
    state = PASTE(data={"key": key, "most": most}, key=f"paste_{key}", on_cut_change=lambda: None)
    return int(state.cut) if state.cut else None


@st.fragment
def tell_on_hover(chart: str, tell: Callable[[int], str]) -> None:
    """Show a text about the point under the pointer of a chart, asked for by the id in its ``customdata``.

    Args:
        chart: key of the chart.
        tell: gives the text of an id.
    """
    state = f"hover_{chart}"
    asked = (st.session_state.get(state) or {}).get("asked")
    told = {str(int(asked)): tell(int(asked))} if asked is not None else {}
    HOVER(data={"chart": chart, "told": told}, key=state, on_asked_change=lambda: None, height="content")
