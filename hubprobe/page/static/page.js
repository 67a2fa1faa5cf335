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

if (upload) {
  const file = document.getElementById("file");
  const send = (files) => {
    const images = [...files].filter((one) => one.type.startsWith("image/"));
    if (!images.length) return false;
    const transfer = new DataTransfer();
    transfer.items.add(images[0]);
    file.files = transfer.files;
    upload.requestSubmit();
    return true;
  };
  file.addEventListener("change", () => file.files.length && upload.requestSubmit());
  addEventListener("paste", (event) => send(event.clipboardData.files) && event.preventDefault());
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
    send(event.dataTransfer.files);
  });
}

for (const image of document.querySelectorAll(".strip img")) {
  const gone = () => image.closest(".thumb").classList.add("gone");
  if (image.complete && image.naturalWidth === 0 && image.loading !== "lazy") gone();
  image.addEventListener("error", gone);
}
