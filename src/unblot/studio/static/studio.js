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

// Files with the places that they had, in parts that a server takes: of few files, and not of too many bytes.
const PART_FILES = 200, PART_BYTES = 64 * 2 ** 20;
const limits = document.querySelector("main").dataset;  // of all parts: what the server would refuse in the end
const partsOf = (files) => {
  const parts = [];
  let bytes = 0;
  for (const one of files) {
    if (!parts.length || parts.at(-1).length >= PART_FILES || bytes + one.file.size > PART_BYTES) {
      parts.push([]);
      bytes = 0;
    }
    parts.at(-1).push(one);
    bytes += one.file.size;
  }
  return parts;
};

const placed = (files) => [...files].map((file) => ({ file, path: file.webkitRelativePath || file.name }));

// All parts go into one upload, without hidden files, which systems leave behind. told: hears how many files are kept.
const upload = async (files, told = () => {}) => {
  const all = { files: [] };
  const seen = files.filter(({ path }) => !/(^|\/)\./.test(path));
  if (!files.length) throw new Error("there is no file in it");
  if (!seen.length) throw new Error("all files of it are hidden: their names begin with a dot");
  if (seen.length > limits.mostFiles) throw new Error(`${seen.length} files are too many; at most ${limits.mostFiles} at once`);
  if (seen.reduce((bytes, { file }) => bytes + file.size, 0) > limits.mostBytes) {
    throw new Error(`the upload is larger than ${limits.mostBytes / 2 ** 30} GiB; give the path of a folder`);
  }
  for (const part of partsOf(seen)) {
    const form = new FormData();
    for (const { file, path } of part) {
      form.append("files", file);
      form.append("paths", path);
    }
    if (all.upload) form.append("upload", all.upload);
    const found = await api("POST", "/uploads", form);
    Object.assign(all, found, { files: [...all.files, ...found.files] });
    told(all.files.length);
  }
  return all;
};

// The files of what was dropped, also of folders in folders. A folder tells a hundred of its entries at a time.
const filesOf = async (entry) => {
  if (entry.isFile) {
    const file = await new Promise((found, failed) => entry.file(found, failed));
    return [{ file, path: entry.fullPath.slice(1) }];
  }
  const reader = entry.createReader(), all = [];
  for (;;) {
    const some = await new Promise((found, failed) => reader.readEntries(found, failed));
    if (!some.length) return all;
    for (const one of some) all.push(...await filesOf(one));
  }
};

const jobOf = (form, submitter) => {
  const job = { command: form.dataset.job, run: form.dataset.run || null, values: {} };
  for (const input of form.querySelectorAll("[name]:not(button)")) {
    if (input.type === "radio" && !input.checked) continue;
    const value = input.type === "checkbox" ? input.checked : input.value.trim();
    const own = ["out", "run", "kind", "command"].includes(input.name) || (input.name === "data" && !form.dataset.run);
    if (own) job[input.name] = value || null;  // of a run, "data" is where its data was moved to: a choice
    else if (value !== "" && value !== false && !input.closest("[hidden]")) {
      job.values[input.name] = input.matches("textarea") ? value.split("\n").filter((line) => line.trim()) : value;
    }
  }
  job.command ??= form.dataset.job;
  job.run ??= form.dataset.run || null;
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

// What was drawn or made before, again: the page itself stays as it is, with what is chosen in it.
const renewGallery = async () => {
  const answer = await fetch(location.href);
  if (!answer.ok) throw new Error(answer.statusText);
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  document.querySelector("[data-gallery]").replaceWith(page.querySelector("[data-gallery]"));
};

const busy = (form, is) => {
  for (const button of form.querySelectorAll("button:not([type=button])")) button.disabled = is;
};

const submit = async (form, submitter) => {
  const alert = form.querySelector("[role=alert]");
  alert.textContent = "";
  busy(form, true);
  try {
    if (form.dataset.delete) {
      const confirm = encodeURIComponent(form.confirm.value);
      await api("DELETE", "/runs/" + encodeURIComponent(form.dataset.delete) + "?confirm=" + confirm);
      location.href = "/";
      return;
    } else if (form.dataset.stop) {
      await api("POST", "/jobs/" + form.dataset.stop + "/stop");
      return;  // the page shows it
    } else {
      const job = jobOf(form, submitter);
      if ("edit" in form.dataset) Object.assign(job, await edited(form));
      const status = await api("POST", "/jobs", job);
      if (!("live" in form.dataset)) { location.href = "/jobs/" + status.job.id; return; }
      const found = await follow(status.job.id, form.querySelector(".now"));
      if (found.state === "done") {
        await renewGallery();
        form.querySelector(".now img")?.remove();
      } else alert.textContent = found.output.trim().split("\n").pop() || found.state;
    }
  } catch (error) { alert.textContent = error.message; }
  busy(form, false);  // not where another page comes
};

// Buttons of a page that is gone back to, or that a browser remembers as they were.
const freeButtons = () => {
  for (const button of document.querySelectorAll("form button")) button.disabled = false;
};
freeButtons();
window.addEventListener("pageshow", (event) => { if (event.persisted) freeButtons(); });

document.addEventListener("submit", (event) => {
  if (!event.target.matches("[data-job], [data-delete], [data-stop]")) return;
  event.preventDefault();
  submit(event.target, event.submitter);
});

// A form with several commands has the fields of the chosen one, with its defaults.
document.addEventListener("change", (event) => {
  if (!event.target.matches("select[name=command]")) return;
  const words = JSON.parse(event.target.selectedOptions[0].dataset.words);
  for (const input of event.target.form.querySelectorAll(".field [name]:not([name=command])")) {
    const field = input.closest(".field"), own = words[input.name];
    field.hidden = !own;
    if (own && input.matches("input")) input.placeholder = own.placeholder;
    if (own) field.querySelector("small").textContent = own.help;
  }
});

// What was chosen stays over a reload, as long as the tab is open.
const remembered = (form) => "form " + location.pathname + " " + form.dataset.job;
const restore = (input, value) => {
  if (input.type === "checkbox") input.checked = value;
  else if (input.type === "radio") input.checked ||= input.value === value;
  else if (input.matches("select")) for (const one of input.options) one.selected = one.value === value;
  else if (!input.value) input.value = value;
  if (input.checked) input.dispatchEvent(new Event("change", { bubbles: true }));
};
for (const form of document.querySelectorAll("form[data-job]")) {
  const kept = JSON.parse(sessionStorage.getItem(remembered(form)) || "{}");
  for (const input of form.querySelectorAll("[name]")) {
    if (input.name in kept) restore(input, kept[input.name]);
  }
  form.addEventListener("input", () => {
    const values = {};
    for (const input of form.querySelectorAll("[name]")) {
      if (input.type === "checkbox") values[input.name] = input.checked;
      else if (input.type !== "radio" || input.checked) values[input.name] = input.value;
    }
    sessionStorage.setItem(remembered(form), JSON.stringify(values));
  });
}
for (const one of document.querySelectorAll("select[name=command]")) one.dispatchEvent(new Event("change", { bubbles: true }));

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
    if (input.checked) input.dispatchEvent(new Event("change", { bubbles: true }));
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
  const status = drop.querySelector("[role=status]"), data = drop.querySelector("#data");
  const take = (place) => {
    data.value = place;
    data.dispatchEvent(new Event("input", { bubbles: true }));
  };
  let newest = 0;
  const keep = async (finding) => {
    const own = ++newest, isNewest = () => own === newest;  // what is dropped in the meantime takes its place
    const tell = (words) => { if (isNewest()) status.textContent = words; };
    take("");  // nothing is to begin with what was dropped before
    busy(drop.closest("form"), true);
    try {
      const files = await finding;
      tell(`keeping ${files.length} files …`);
      const found = await upload(files, (kept) => tell(`${kept} of ${files.length} files are here`));
      if (isNewest()) take(found.files.length === 1 ? found.files[0] : found.folder);
      tell(`${files.length} files are here`);
    } catch (error) { tell(error.message); }
    finally { if (isNewest()) busy(drop.closest("form"), false); }
  };
  for (const input of drop.querySelectorAll("input[type=file]")) {
    input.addEventListener("change", () => {
      const files = placed(input.files);
      input.value = "";  // so that the same files can be chosen again
      if (files.length) keep(files);
    });
  }
  drop.addEventListener("dragover", (event) => { event.preventDefault(); drop.classList.add("over"); });
  drop.addEventListener("dragleave", () => drop.classList.remove("over"));
  drop.addEventListener("drop", (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    const entries = [...event.dataTransfer.items].map((item) => item.webkitGetAsEntry()).filter(Boolean);
    if (entries.length) keep(Promise.all(entries.map(filesOf)).then((found) => found.flat()));
  });
}

// Before this line a form would be sent by the browser itself, and nothing would come of it: all inputs were disabled.
document.querySelector(".until-ready").disabled = false;
