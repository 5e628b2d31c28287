"use strict";
// The pages work by the REST service alone. Forms with data-job become jobs; everything else is small help.

const api = async (method, path, body) => {
  const json = body !== undefined && !(body instanceof FormData);
  const answer = await fetch("/api" + path, {
    method, body: json ? JSON.stringify(body) : body, headers: json ? { "Content-Type": "application/json" } : {},
  });
  const found = await answer.json().catch(() => ({ detail: answer.statusText }));
  if (answer.ok) return found;
  throw new Error(typeof found.detail === "string" ? found.detail : found.detail.map((d) => d.msg).join("; "));
};

const upload = async (files) => {
  const form = new FormData();
  for (const file of files) {
    form.append("files", file);
    form.append("paths", file.webkitRelativePath || file.name);
  }
  return api("POST", "/uploads", form);
};

const jobOf = (form, submitter) => {
  const job = { command: form.dataset.job, run: form.dataset.run || null, values: {} };
  for (const input of form.querySelectorAll("[name]:not(button)")) {
    if (input.type === "radio" && !input.checked) continue;
    const value = input.type === "checkbox" ? input.checked : input.value.trim();
    if (["data", "out", "run", "kind", "command"].includes(input.name)) job[input.name] = value || null;
    else if (value !== "" && value !== false && !input.closest("[hidden]")) {
      job.values[input.name] = input.matches("textarea") ? value.split("\n").filter((line) => line.trim()) : value;
    }
  }
  job.command ??= form.dataset.job;
  job.run ??= form.dataset.run || null;
  job.kind ??= "inpaint";
  job.dry_run = submitter?.name === "dry_run";
  return job;
};

// A job that is followed on the page itself: its output, and its pictures while they come out of noise.
const follow = async (id, place) => {
  const line = document.createElement("p"), image = new Image();
  image.className = "large";
  image.alt = "x_t beside the estimate of the pictures";
  place.replaceChildren(line);
  for (let shown = "";;) {
    const found = await api("GET", "/jobs/" + id);
    line.textContent = found.output.trim().split("\n").pop() || found.state;
    if (found.picture !== shown) {
      shown = found.picture;
      image.src = "/api/jobs/" + id + "/picture?" + shown;
      place.append(image);
    }
    if (found.state !== "waiting" && found.state !== "running") return found;
    await new Promise((done) => setTimeout(done, 500));
  }
};

const submit = async (form, submitter) => {
  const alert = form.querySelector("[role=alert]");
  alert.textContent = "";
  try {
    if (form.dataset.delete) {
      const confirm = encodeURIComponent(form.confirm.value);
      await api("DELETE", "/runs/" + encodeURIComponent(form.dataset.delete) + "?confirm=" + confirm);
      location.href = "/";
    } else if (form.dataset.stop) {
      await api("POST", "/jobs/" + form.dataset.stop + "/stop");
    } else {
      const job = jobOf(form, submitter);
      if ("edit" in form.dataset) Object.assign(job, await edited(form));
      const status = await api("POST", "/jobs", job);
      if (!("live" in form.dataset)) { location.href = "/jobs/" + status.job.id; return; }
      const found = await follow(status.job.id, form.querySelector(".now"));
      if (found.state === "done") location.reload();
      else alert.textContent = found.output.trim().split("\n").pop() || found.state;
    }
  } catch (error) { alert.textContent = error.message; }
};

document.addEventListener("submit", (event) => {
  if (!event.target.matches("[data-job], [data-delete], [data-stop]")) return;
  event.preventDefault();
  submit(event.target, event.submitter);
});

// What was chosen stays over a reload, as long as the tab is open.
const remembered = (form) => "form " + location.pathname + " " + form.dataset.job;
for (const form of document.querySelectorAll("form[data-job]")) {
  const kept = JSON.parse(sessionStorage.getItem(remembered(form)) || "{}");
  for (const input of form.querySelectorAll("[name]")) {
    if (!(input.name in kept) || input.type === "radio") continue;
    if (input.type === "checkbox") input.checked = kept[input.name];
    else if (!input.value) input.value = kept[input.name];
  }
  form.addEventListener("input", () => {
    const values = {};
    for (const input of form.querySelectorAll("[name]")) {
      if (input.type !== "radio") values[input.name] = input.type === "checkbox" ? input.checked : input.value;
    }
    sessionStorage.setItem(remembered(form), JSON.stringify(values));
  });
}

// Settings of pictures that were drawn before, into the form that draws; those that they do not record are empty.
const settings = document.querySelector("form[data-settings]")?.dataset.settings.split(" ") || [];
const fillAgain = (recorded) => {
  const form = document.querySelector("form[data-settings]");
  for (const name of settings) form.querySelector(`[name="${name}"]`).value = recorded[name] ?? "";
  form.dispatchEvent(new Event("input"));
};

// What the address says goes into the form: the settings of a picture, which may be changed from then on, or the kind
// of an edit.
const asked = new URLSearchParams(location.search);
if (settings.some((name) => asked.has(name))) {
  fillAgain(Object.fromEntries(asked));
  history.replaceState(null, "", location.pathname);
} else for (const [name, value] of asked) {
  for (const input of document.querySelectorAll(`form[data-job] [name="${CSS.escape(name)}"]`)) {
    if (input.type === "radio") input.checked = input.value === value;
    else input.value = value;
  }
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-again]");
  if (!button) return;
  fillAgain(button.dataset);
  document.querySelector("form[data-settings]").scrollIntoView();
});

// A slider over pictures: the previews of a run.
document.addEventListener("input", (event) => {
  const frames = event.target.dataset.frames;
  if (!frames) return;
  const path = frames.trim().split(" ")[event.target.value];
  const film = event.target.closest("[data-film]");
  film.querySelector("img").src = path;
  const number = /number=(\d+)$/.exec(path);
  film.querySelector("output").textContent = number ? `${Number(number[1]) + 1} of ${event.target.max * 1 + 1}` : path.split("/").pop();
});

// A slider beside a number: each moves the other.
document.addEventListener("input", (event) => {
  const number = document.getElementById(event.target.dataset.for);
  if (number) {
    number.value = event.target.value;
    number.dispatchEvent(new Event("input", { bubbles: true }));
  } else {
    const slider = event.target.id && document.querySelector(`[data-for="${CSS.escape(event.target.id)}"]`);
    if (slider && event.target.value) slider.value = event.target.value;
  }
});

// Dropped and chosen files become a folder on this machine.
for (const drop of document.querySelectorAll("[data-drop]")) {
  const status = drop.querySelector("[role=status]");
  const keep = async (files) => {
    if (!files.length) return;
    status.textContent = `keeping ${files.length} files …`;
    try {
      const found = await upload(files);
      drop.querySelector("#data").value = found.files.length === 1 ? found.files[0] : found.folder;
      drop.querySelector("#data").dispatchEvent(new Event("input", { bubbles: true }));
      status.textContent = `${files.length} files are here`;
    } catch (error) { status.textContent = error.message; }
  };
  for (const input of drop.querySelectorAll("input[type=file]")) input.addEventListener("change", () => keep(input.files));
  drop.addEventListener("dragover", (event) => { event.preventDefault(); drop.classList.add("over"); });
  drop.addEventListener("dragleave", () => drop.classList.remove("over"));
  drop.addEventListener("drop", (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    keep(event.dataTransfer.files);
  });
}

// A brush for the mask: white where the picture is new.
const brush = { canvas: document.querySelector(".brush canvas"), mask: null, picture: null, at: [0, 0] };

const paint = (x, y) => {
  const radius = Number(document.querySelector("#brush-size").value) / 2;
  const context = brush.mask.getContext("2d");
  context.fillStyle = "white";
  context.beginPath();
  context.arc(x, y, radius, 0, 7);
  context.fill();
  show();
};

const show = () => {
  const context = brush.canvas.getContext("2d");
  context.globalAlpha = 1;
  context.clearRect(0, 0, brush.canvas.width, brush.canvas.height);
  context.drawImage(brush.picture, 0, 0);
  const over = new OffscreenCanvas(brush.mask.width, brush.mask.height);
  const tint = over.getContext("2d");
  tint.drawImage(brush.mask, 0, 0);
  tint.globalCompositeOperation = "source-in";
  tint.fillStyle = "#d22";
  tint.fillRect(0, 0, over.width, over.height);
  context.globalAlpha = 0.6;
  context.drawImage(over, 0, 0);
};

const begin = async (file) => {
  brush.picture = await createImageBitmap(file);
  brush.mask = new OffscreenCanvas(brush.picture.width, brush.picture.height);
  [brush.canvas.width, brush.canvas.height] = [brush.picture.width, brush.picture.height];
  brush.canvas.setAttribute("width", brush.picture.width);
  brush.at = [brush.picture.width / 2, brush.picture.height / 2];
  document.querySelector("#brush-size").value = Math.max(2, Math.round(brush.picture.width / 8));
  frame.place.querySelector("img").src = URL.createObjectURL(file);
  showKind(document.querySelector("[name=kind]:checked").value);
  show();
  showFrame();
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
  const words = document.querySelector("[data-taken]");
  words.textContent = path + " is taken, unless another file is chosen";
  words.hidden = false;
  begin(brush.file);
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
  document.querySelector("#picture").addEventListener("change", (event) => begin(event.target.files[0]));
  const taken = new URLSearchParams(location.search).get("picture");
  if (taken) takeOwn(taken);
  brush.canvas.addEventListener("pointerdown", (event) => { brush.canvas.setPointerCapture(event.pointerId); paint(...place(event)); });
  brush.canvas.addEventListener("pointermove", (event) => { if (event.buttons) paint(...place(event)); });
  brush.canvas.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (!step && event.key !== " ") return;
    event.preventDefault();
    if (step) brush.at = brush.at.map((value, i) => value + step[i] * Math.max(1, brush.canvas.width / 32));
    else paint(...brush.at);
  });
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
    return { pictures: (await upload(files)).files };
  }
  if (kind === "inpaint") {
    const whole = new OffscreenCanvas(brush.mask.width, brush.mask.height);
    const context = whole.getContext("2d");
    context.fillRect(0, 0, whole.width, whole.height);
    context.drawImage(brush.mask, 0, 0);
    files.push(new File([await whole.convertToBlob({ type: "image/png" })], "mask-of-the-brush.png"));
  }
  const found = await upload(files);
  return { pictures: [found.files[0]], mask: found.files[1] || null };
};

// Before this line a form would be sent by the browser itself, and nothing would come of it: all inputs were disabled.
document.querySelector(".until-ready").disabled = false;
