// The explorer in a notebook: explorer.js, and words for the controls above it. These are ipywidgets', and to a screen
// reader their sliders have no name and tell a place in a list instead of the value, their buttons not which is pressed.
// What is told stands beside them already. This file and explorer.js are one module (widget.py).

function speakControls({ model, el }) { // once the canvas stands where the controls are
  let root = null;
  const put = (node, name, value) => { if (node && node.getAttribute(name) !== value) node.setAttribute(name, value); };
  const tell = () => {
    for (const slider of root.querySelectorAll(".widget-hslider")) {
      const [name, handle, value] = [".widget-label", "[role=slider]", ".widget-readout"].map((each) => slider.querySelector(each));
      if (!name || !handle || !value) continue;
      put(handle, "aria-label", name.textContent);
      put(handle, "aria-valuetext", value.textContent);
      put(value, "contenteditable", "false"); // nothing can be written there
    }
    for (const button of root.querySelectorAll(".widget-toggle-button")) {
      put(button, "aria-pressed", String(button.classList.contains("mod-active")));
    }
    const group = root.querySelector(".widget-toggle-buttons");
    put(group, "role", "group");
    put(group, "aria-label", model.get("table").masks);
    put(root.querySelector(".widget-html-content"), "aria-live", "polite");
  };
  const news = new MutationObserver(tell);
  const placed = new ResizeObserver(() => {
    root ||= el.closest(".widget-vbox");
    if (!root) return;
    placed.disconnect();
    const attributeFilter = ["aria-valuetext", "class", "contenteditable"];
    news.observe(root, { subtree: true, childList: true, characterData: true, attributes: true, attributeFilter });
    tell();
  });
  placed.observe(el);
  return () => { placed.disconnect(); news.disconnect(); };
}

export default {
  render: (given) => {
    const ends = [render(given), speakControls(given)];
    return () => ends.forEach((end) => end());
  },
};
