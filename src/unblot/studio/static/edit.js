"use strict";
// The page that edits: a brush for the mask, a frame to drag, and what is sent of both.

// A brush for the mask, which is red where the picture is to be new.
const brush = { canvas: document.querySelector(".brush canvas"), mask: null, picture: null, at: [0, 0] };

const brushRadius = () => Number(document.querySelector("#brush-size").value) / 2;

// A disc, and a line to it from where the stroke was last.
const paint = (x, y, last = [x, y]) => {
  brush.at = [x, y];
  const context = brush.mask.getContext("2d");
  context.fillStyle = context.strokeStyle = "#d22";
  context.lineWidth = 2 * brushRadius();
  context.beginPath();
  context.moveTo(...last);
  context.lineTo(x, y);
  context.stroke();
  context.beginPath();
  context.arc(x, y, brushRadius(), 0, 7);
  context.fill();
  show();
};

const show = () => {
  const context = brush.canvas.getContext("2d");
  context.globalAlpha = 1;
  context.clearRect(0, 0, brush.canvas.width, brush.canvas.height);
  context.drawImage(brush.picture, 0, 0);
  context.globalAlpha = 0.6;
  context.drawImage(brush.mask, 0, 0);
  showBrush();
};

// Where the brush is, for those who move it by keys: a ring over the canvas, as long as that has the focus.
const showBrush = () => {
  const ring = brush.canvas.nextElementSibling.style, [x, y] = brush.at;
  ring.left = 100 * x / brush.canvas.width + "%";
  ring.top = 100 * y / brush.canvas.height + "%";
  ring.width = 200 * brushRadius() / brush.canvas.width + "%";
};

const begin = async (file) => {
  brush.picture = await createImageBitmap(file).catch(() => null);
  brush.mask = brush.picture && new OffscreenCanvas(brush.picture.width, brush.picture.height);
  tell(brush.picture ? "" : `${file.name}: this browser shows no preview of it; all but a mask can be chosen below`);
  showKind(document.querySelector("[name=kind]:checked").value);
  if (!brush.picture) return;
  [brush.canvas.width, brush.canvas.height] = [brush.picture.width, brush.picture.height];
  const enlarged = Math.max(1, Math.min(24, 240 / Math.max(brush.picture.width, brush.picture.height)));
  brush.canvas.style.width = brush.picture.width * enlarged + "px";  // small pictures can be painted on, too
  brush.at = [brush.picture.width / 2, brush.picture.height / 2];
  const size = document.querySelector("#brush-size");
  size.max = Math.max(2, Math.round(brush.picture.width / 2));
  size.value = Math.max(2, Math.round(brush.picture.width / 8));
  frame.place.querySelector("img").src = URL.createObjectURL(file);
  show();
  showFrame();
};

const tell = (words) => {
  const place = document.querySelector("[data-taken]");
  place.textContent = words;
  place.hidden = !words;
};

// A frame around the picture, whose sides are dragged outwards: how far it is to be continued.
const frame = { place: document.querySelector(".border .frame"), scale: 1 };
const sideInput = (side) => document.querySelector("#outpaint-" + side);

const showFrame = () => {
  if (!brush.picture) return;
  frame.scale = Math.max(0.25, Math.min(24, 240 / Math.max(brush.picture.width, brush.picture.height)));
  const image = frame.place.querySelector("img");
  [image.width, image.height] = [brush.picture.width * frame.scale, brush.picture.height * frame.scale];
  for (const handle of frame.place.querySelectorAll(".handle")) {
    const pixels = Math.max(0, Number(sideInput(handle.dataset.side).value) || 0);
    image.style["margin-" + handle.dataset.side] = pixels * frame.scale + "px";
    handle.setAttribute("aria-valuenow", pixels);
  }
};

const moveSide = (side, pixels) => {
  sideInput(side).value = Math.max(0, Math.round(pixels));
  sideInput(side).dispatchEvent(new Event("input", { bubbles: true }));
};

for (const handle of document.querySelectorAll(".handle")) {
  const side = handle.dataset.side, sign = side === "left" || side === "top" ? -1 : 1;
  const along = (event) => (side === "left" || side === "right" ? event.clientX : event.clientY) * sign;
  let from = null;
  handle.addEventListener("pointerdown", (event) => {
    handle.setPointerCapture(event.pointerId);
    from = { at: along(event), pixels: Number(sideInput(side).value) || 0 };
  });
  handle.addEventListener("pointermove", (event) => {
    if (from && event.buttons) moveSide(side, from.pixels + (along(event) - from.at) / frame.scale);
  });
  handle.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1 }[event.key];
    if (!step) return;
    event.preventDefault();
    moveSide(side, (Number(sideInput(side).value) || 0) + step * sign);
  });
  sideInput(side).addEventListener("input", showFrame);
}

// A picture of the run itself, instead of a file that is chosen.
const takeOwn = async (path) => {
  const run = encodeURIComponent(document.querySelector("form[data-edit]").dataset.run);
  const answer = await fetch("/api/runs/" + run + "/files/" + path.split("/").map(encodeURIComponent).join("/"));
  if (!answer.ok) return;
  brush.file = new File([await answer.blob()], path.split("/").pop(), { type: "image/png" });
  await begin(brush.file);
  if (brush.picture) tell(path + " is taken, unless another file is chosen");
};

const showKind = (kind) => {
  for (const own of document.querySelectorAll("[data-kind]")) own.hidden = own.dataset.kind !== kind;
  document.querySelector(".brush").hidden = !brush.picture || kind !== "inpaint";
  document.querySelector(".border").hidden = !brush.picture || kind !== "outpaint";
};

if (brush.canvas) {
  const place = (event) => {
    const box = brush.canvas.getBoundingClientRect();
    return [(event.clientX - box.left) * brush.canvas.width / box.width,
            (event.clientY - box.top) * brush.canvas.height / box.height];
  };
  document.querySelector("#picture").addEventListener("change", (event) => { if (event.target.files.length) begin(event.target.files[0]); });
  const taken = new URLSearchParams(location.search).get("picture");
  if (taken) takeOwn(taken);
  brush.canvas.addEventListener("pointerdown", (event) => { brush.canvas.setPointerCapture(event.pointerId); paint(...place(event)); });
  brush.canvas.addEventListener("pointermove", (event) => {
    if (!event.buttons) return;
    const last = brush.canvas.hasPointerCapture(event.pointerId) ? brush.at : undefined;  // else it comes from outside
    brush.canvas.setPointerCapture(event.pointerId);
    paint(...place(event), last);
  });
  brush.canvas.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (!step && event.key !== " ") return;
    event.preventDefault();
    if (!step) return paint(...brush.at);
    const ends = [brush.canvas.width, brush.canvas.height], pace = Math.max(1, brush.canvas.width / 32);
    brush.at = brush.at.map((value, i) => Math.min(ends[i], Math.max(0, value + step[i] * pace)));
    showBrush();
  });
  document.querySelector("#brush-size").addEventListener("input", showBrush);
  document.querySelector("[data-clear]").addEventListener("click", () => {
    brush.mask.getContext("2d").clearRect(0, 0, brush.mask.width, brush.mask.height);
    show();
  });
  document.addEventListener("change", (event) => {
    if (event.target.name === "kind") showKind(event.target.value);
  });
  showKind(document.querySelector("[name=kind]:checked").value);
}

const edited = async (form) => {
  const kind = form.querySelector("[name=kind]:checked").value;
  const file = form.querySelector("#picture").files[0] || brush.file;
  if (!file) throw new Error("choose a picture first");
  const files = [file];
  if (kind === "interpolate") {
    const other = form.querySelector("#other").files[0];
    if (!other) throw new Error("choose the other picture first");
    files.push(new File([other], "other-" + other.name, { type: other.type }));
    return { pictures: (await upload(placed(files))).files };
  }
  if (kind === "inpaint") {
    if (!brush.mask) {
      throw new Error("no mask can be painted without a preview; choose a PNG or JPEG, or use unblot edit inpaint --mask");
    }
    const whole = new OffscreenCanvas(brush.mask.width, brush.mask.height);
    const context = whole.getContext("2d");
    const under = (operation, colour) => {
      context.globalCompositeOperation = operation;
      context.fillStyle = colour;
      context.fillRect(0, 0, whole.width, whole.height);
    };
    context.drawImage(brush.mask, 0, 0);
    under("source-in", "white");  // what is painted
    under("destination-over", "black");  // what stays
    files.push(new File([await whole.convertToBlob({ type: "image/png" })], "mask-of-the-brush.png"));
  }
  const found = await upload(placed(files));
  return { pictures: [found.files[0]], mask: found.files[1] || null };
};
