// What is wrong with the page for those who do not see it well, or not at all: a list of texts.
(() => {
  const found = [];
  const isShown = (node) => node.checkVisibility({ visibilityProperty: true, opacityProperty: true });
  const dialog = document.querySelector("dialog[open]");
  const root = dialog ?? document.body;

  // Names
  const labelled = (node) => (node.getAttribute("aria-labelledby") ?? "").split(" ").map((id) => document.getElementById(id)?.textContent ?? "").join("");
  const readable = (node) => [...node.childNodes].map((child) => child.nodeType === 3 ? child.data : child.ariaHidden === "true" ? "" : child.alt ?? readable(child)).join("");
  const nameOf = (node) => node.ariaLabel || labelled(node) || [...(node.labels ?? [])].map((label) => label.textContent).join("") || readable(node);
  for (const node of root.querySelectorAll("button, a[href], input, textarea, progress, summary, [role=toolbar], nav, aside, dialog")) {
    if (isShown(node) && !nameOf(node).trim()) found.push(`no name: ${node.outerHTML.slice(0, 100)}`);
  }
  for (const image of root.querySelectorAll("img")) if (!image.hasAttribute("alt")) found.push("an image without alt");

  // Structure
  if (document.querySelectorAll("h1").length !== 1) found.push("not one h1");
  for (const mark of ["main", "nav", "[aria-live=polite]"]) if (document.querySelectorAll(mark).length !== 1) found.push(`not one ${mark}`);
  if (!document.documentElement.lang) found.push("no lang");
  const ids = [...document.querySelectorAll("[id]")].map((node) => node.id);
  if (new Set(ids).size !== ids.length) found.push("an id twice");
  for (const list of document.querySelectorAll("ul, ol")) for (const item of list.children) if (item.localName !== "li") found.push("a list of no items");

  // Sizes of what is touched (WCAG 2.2, 2.5.8)
  for (const node of root.querySelectorAll("button, summary, input:not([hidden])")) {
    const box = node.getBoundingClientRect();
    if (isShown(node) && (box.width < 24 || box.height < 24)) found.push(`small: ${node.outerHTML.slice(0, 80)} ${box.width}x${box.height}`);
  }

  // Contrast (WCAG 2.2, 1.4.3 and 1.4.11)
  const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  const rgba = (color) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = color;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data].map((part, at) => (at === 3 ? part / 255 : part));
  };
  const over = (front, back) => front.slice(0, 3).map((part, at) => part * front[3] + back[at] * (1 - front[3]));
  const backOf = (node) => {
    if (!node) return [255, 255, 255];
    const color = rgba(getComputedStyle(node).backgroundColor);
    return color[3] === 1 ? color.slice(0, 3) : over(color, backOf(node.parentElement));
  };
  const light = (color) => {
    const [r, g, b] = color.map((part) => (part / 255 <= 0.04045 ? part / 255 / 12.92 : ((part / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ratio = (one, other) => {
    const [low, high] = [light(one), light(other)].sort((a, b) => a - b);
    return (high + 0.05) / (low + 0.05);
  };
  const opacity = (node) => (node ? Number(getComputedStyle(node).opacity) * opacity(node.parentElement) : 1);
  const walker = document.createTreeWalker(root, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !isShown(node) || node.closest(".sr, .skip, :disabled, #tools")) continue;
    const style = getComputedStyle(node);
    const back = backOf(node);
    const color = rgba(style.color);
    const least = parseFloat(style.fontSize) >= 24 ? 3 : 4.5;
    const got = ratio(over([...color.slice(0, 3), color[3] * opacity(node)], back), back);
    if (got < least) found.push(`contrast ${got.toFixed(2)}: ${walker.currentNode.data.trim().slice(0, 40)} (${node.className || node.id})`);
  }
  for (const node of root.querySelectorAll("input, .field")) {
    if (isShown(node) && !node.closest(".field input") && ratio(rgba(getComputedStyle(node).borderTopColor).slice(0, 3), backOf(node.parentElement)) < 3) found.push(`border: ${node.id || node.className}`);
  }
  for (const node of root.querySelectorAll("button svg")) {
    if (isShown(node) && !node.closest(":disabled, #tools") && ratio(rgba(getComputedStyle(node).stroke).slice(0, 3), backOf(node)) < 3) found.push(`icon: ${node.parentElement.ariaLabel}`);
  }
  return found;
})()
