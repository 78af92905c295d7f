// Images for a question: chosen, pasted or dropped. Each is drawn anew at a size that models take, which also leaves out
// where and when it was taken.

import { byId } from "./controls.js";
import { make } from "./dom.js";
import { show, t } from "./text.js";

const MAX_IMAGES = 4;
const MAX_SIDE = 1536;
const QUALITY = 0.9;

export class Pictures {
  constructor(say) {
    this.say = say;
    this.urls = [];
    this.isOn = false;
    this.row = byId("pictures");
    const file = byId("picture-file");
    file.addEventListener("change", async () => {
      await this.add(file.files);
      file.value = "";
    });
    byId("question").addEventListener("paste", (event) => this.addFrom(event, event.clipboardData));
    const main = byId("main");
    main.addEventListener("dragover", (event) => {
      if (this.isOn && event.dataTransfer.types.includes("Files")) event.preventDefault();
    });
    main.addEventListener("drop", (event) => this.addFrom(event, event.dataTransfer));
  }

  // Only for models that see
  switch(isOn) {
    this.isOn = isOn;
    byId("add-picture").hidden = !isOn;
    if (!isOn) this.take();
  }

  // Those added, which are now somebody else's
  take() {
    const { urls } = this;
    this.urls = [];
    this.update();
    return urls;
  }

  addFrom(event, { files }) {
    if (!this.isOn || !files.length) return;
    event.preventDefault();
    this.add(files);
  }

  async add(files) {
    for (const file of files) {
      if (this.urls.length >= MAX_IMAGES) {
        this.say("image.many", { max: MAX_IMAGES });
        return;
      }
      try {
        this.urls.push(await toDataUrl(file));
      } catch {
        this.say("image.bad", { name: file.name });
      }
      this.update();
    }
  }

  update() {
    this.row.hidden = !this.urls.length;
    this.row.replaceChildren(...this.urls.map((src, i) => this.thumbnail(src, i)));
  }

  thumbnail(src, i) {
    const button = make("button", { type: "button", className: "thumbnail" });
    make("img", { src, alt: t("image", { number: i + 1 }) }, button);
    show(button, "removeImage", { number: i + 1 }, "label");
    button.addEventListener("click", () => {
      this.urls.splice(i, 1);
      this.update();
    });
    return button;
  }
}

async function toDataUrl(file) {
  const bitmap = await createImageBitmap(file);
  const scale = Math.min(1, MAX_SIDE / Math.max(bitmap.width, bitmap.height));
  const canvas = make("canvas", {
    width: Math.max(1, Math.round(bitmap.width * scale)), height: Math.max(1, Math.round(bitmap.height * scale)),
  });
  const context = canvas.getContext("2d");
  context.fillStyle = "#fff"; // what is see-through would become black
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  bitmap.close();
  return canvas.toDataURL("image/jpeg", QUALITY);
}
