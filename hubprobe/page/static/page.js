// What a page without scripts lacks: copy buttons, dropping and pasting an image, "/" to the search box, short addresses.
"use strict";

document.documentElement.classList.add("js"); // an image that is chosen is sent at once: its button may go

for (const block of document.querySelectorAll(".snippet pre")) {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = "Copy";
  button.setAttribute("aria-label", "Copy " + block.parentElement.querySelector("h3").textContent);
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(block.textContent);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(block);
      button.textContent = "Selected";
    }
    setTimeout(() => (button.textContent = "Copy"), 2000);
  });
  block.parentElement.querySelector("h3").append(button);
}

for (const rows of document.querySelectorAll(".take .copied")) {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = "Copy";
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(rows.textContent);
      button.textContent = "Copied";
    } catch {
      button.textContent = "No permission to copy: download it";
    }
    setTimeout(() => (button.textContent = "Copy"), 2000);
  });
  rows.parentElement.prepend(button);
}

const search = document.getElementById("search");
const upload = document.getElementById("upload");
const box = document.getElementById("q");

if (search) {
  search.addEventListener("submit", () => {
    for (const field of search.elements) {
      const ordinary = field.name === "by" && field.value === "logit";
      if (field.name && (field.value.trim() === "" || ordinary)) field.disabled = true;
    }
    if (box.value.trim() !== "") for (const name of ["image", "like", "logit"]) search.elements[name]?.setAttribute("disabled", "");
  });
  addEventListener("pageshow", () => {
    for (const field of search.elements) field.disabled = false;
  });
  addEventListener("keydown", (event) => {
    const typing = event.target.closest("input, textarea, select");
    if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey && !event.altKey) {
      event.preventDefault();
      box.focus();
      box.select();
    }
  });
}

const tray = document.getElementById("compare");
if (tray) {
  const count = () => {
    const ticked = new Set([...document.querySelectorAll(".tick input:checked")].map((one) => one.value)).size;
    tray.classList.toggle("ready", ticked > 0);
    const button = tray.querySelector("button");
    button.disabled = ticked < 2 || ticked > 4;
    button.textContent = ticked < 2 ? "Tick another to compare" : ticked > 4 ? "Compare at most four" : `Compare ${ticked} models`;
  };
  addEventListener("change", count);
  addEventListener("pageshow", count);
}

const picker = document.getElementById("images");
const images = (files) => [...files].filter((one) => one.type.startsWith("image/"));

// Images that are dropped anywhere or pasted go to `take`, which says whether it wants them.
const receive = (take) => {
  addEventListener("paste", (event) => take(images(event.clipboardData.files)) && event.preventDefault());
  addEventListener("dragover", (event) => {
    if (event.dataTransfer.types.includes("Files")) {
      event.preventDefault();
      document.body.classList.add("dropping");
    }
  });
  addEventListener("dragleave", (event) => event.relatedTarget || document.body.classList.remove("dropping"));
  addEventListener("drop", (event) => {
    document.body.classList.remove("dropping");
    event.preventDefault();
    take(images(event.dataTransfer.files));
  });
};
const put = (input, files) => {
  const transfer = new DataTransfer();
  for (const file of files) transfer.items.add(file);
  input.files = transfer.files;
};

if (upload) {
  const file = document.getElementById("file");
  file.addEventListener("change", () => file.files.length && upload.requestSubmit());
  receive((files) => {
    if (!files.length) return false;
    put(file, files.slice(0, 1));
    upload.requestSubmit();
    return true;
  });
}

if (picker) {
  const EDGE = 640, PREVIEW = 96; // pixels: what the server keeps of an image, and what is shown of it here
  const chosen = [];
  const said = document.getElementById("chosen"), previews = document.getElementById("previews");
  const drawn = (bitmap, edge) => {
    const scale = Math.min(1, edge / Math.max(bitmap.width, bitmap.height));
    const canvas = document.createElement("canvas");
    canvas.width = Math.max(1, Math.round(bitmap.width * scale));
    canvas.height = Math.max(1, Math.round(bitmap.height * scale));
    const context = canvas.getContext("2d");
    context.fillStyle = "#fff";
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.imageSmoothingQuality = "high";
    context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
    return canvas;
  };
  const show = () => {
    put(picker, chosen.map((one) => one.file));
    const bytes = chosen.reduce((sum, one) => sum + one.file.size, 0);
    said.textContent = chosen.length ? `${chosen.length} images, ${bytes < 1e6 ? Math.ceil(bytes / 1e3) + " kB" : (bytes / 1e6).toFixed(1) + " MB"}` : "";
    previews.replaceChildren(...chosen.map((one) => {
      const item = document.createElement("li"), button = document.createElement("button"), image = new Image();
      button.type = "button";
      button.title = "Remove";
      button.setAttribute("aria-label", "Remove " + one.file.name);
      if (one.preview) image.src = one.preview;
      image.alt = one.file.name;
      button.append(image);
      button.addEventListener("click", () => (chosen.splice(chosen.indexOf(one), 1), show()));
      item.append(button);
      return item;
    }));
  };
  const add = async (files) => {
    for (const file of files) {
      const one = { file, preview: "" };
      try {
        const bitmap = await createImageBitmap(file);
        one.preview = drawn(bitmap, PREVIEW).toDataURL("image/jpeg", 0.8);
        if (Math.max(bitmap.width, bitmap.height) > EDGE) {
          const blob = await new Promise((done) => drawn(bitmap, EDGE).toBlob(done, "image/jpeg", 0.95));
          one.file = new File([blob], file.name, { type: "image/jpeg" });
        }
        bitmap.close();
      } catch {} // the server says what is wrong with it
      chosen.push(one);
    }
    show();
  };
  picker.addEventListener("change", () => add([...picker.files]));
  receive((files) => (add(files), files.length > 0));
}

const question = document.getElementById("question");
if (question) {
  const buttons = [...question.querySelectorAll("button")];
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || !/^[0-9]$/.test(event.key)) return;
    const value = event.key === "0" ? "none" : String(event.key - 1);
    buttons.find((button) => button.value === value)?.click();
  });
}

for (const image of document.querySelectorAll(".strip img")) {
  const gone = () => image.closest(".thumb").classList.add("gone");
  if (image.complete && image.naturalWidth === 0 && image.loading !== "lazy") gone();
  image.addEventListener("error", gone);
}
