// Pictures for a question: chosen, pasted or dropped, and shown small until they are sent. Shared by the page and the
// notebook's chat.

import { make } from "./dom.js";

const MAX_IMAGES = 4;
const MAX_SIDE = 1536; // pixels; models look at no more
const QUALITY = 0.9;

export class PictureTray {
  // on: {read: a file → a picture {src, …} or an error, label(button, image, number), refuse(why, values)}; why is
  // "many" or "bad"
  constructor(row, on) {
    Object.assign(this, { row, on });
    this.pictures = [];
    this.ready = Promise.resolve(); // when all that were given are there
  }

  // Those added, which are now somebody else's
  take() {
    const { pictures } = this;
    this.pictures = [];
    this.update();
    return pictures;
  }

  add(files) {
    const given = [...files]; // a file input's list is emptied
    this.ready = this.ready.then(() => this.addAll(given));
    return this.ready;
  }

  putBack(pictures) {
    this.pictures.unshift(...pictures);
    this.update();
  }

  async addAll(files) {
    for (const file of files) {
      if (this.pictures.length >= MAX_IMAGES) {
        this.on.refuse("many", { max: MAX_IMAGES });
        return;
      }
      try {
        this.pictures.push(await this.on.read(file));
      } catch {
        this.on.refuse("bad", { name: file.name });
      }
      this.update();
    }
  }

  update() {
    this.row.hidden = !this.pictures.length;
    this.row.replaceChildren(...this.pictures.map(({ src }, i) => this.thumbnail(src, i + 1)));
  }

  thumbnail(src, number) {
    const button = make("button", { type: "button", className: "thumbnail" });
    this.on.label(button, make("img", { src }, button), number);
    button.addEventListener("click", () => {
      this.pictures.splice(number - 1, 1);
      this.update();
    });
    return button;
  }
}

// Drawn anew at a size that models take, which also leaves out where and when it was taken
export async function drawSmaller(file, maxSide = MAX_SIDE) {
  const bitmap = await createImageBitmap(file);
  const scale = Math.min(1, maxSide / Math.max(bitmap.width, bitmap.height));
  const canvas = make("canvas", {
    width: Math.max(1, Math.round(bitmap.width * scale)), height: Math.max(1, Math.round(bitmap.height * scale)),
  });
  const context = canvas.getContext("2d");
  context.fillStyle = "#fff"; // what is see-through would become black
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  const numPixels = bitmap.width * bitmap.height;
  bitmap.close();
  return { src: canvas.toDataURL("image/jpeg", QUALITY), numPixels };
}
