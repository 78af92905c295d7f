// Pictures for a question of the chat: chosen, pasted or dropped. A file goes to the kernel as it is, unless it is too
// large for a way there or for a server; then it is drawn anew, smaller. What they have in common with the page's
// stands in web/picture_tray.js.

const SMALL_SIDE = 256; // pixels of what is shown before it is sent
// Four of these pass through Jupyter's socket, which takes 10 MB at once, and eight are no more than a server takes
const MAX_FILE_BYTES = 1_500_000;
const MAX_PIXELS = 16_000_000;
const SENT_TYPES = ["image/png", "image/jpeg", "image/webp", "image/gif"];
const REFUSALS = {
  bad: ({ name }) => `${name} is not a picture that can be read here. Send PNG, JPEG, WebP or GIF.`,
  many: ({ max }) => `A question has at most ${max} pictures.`,
};

// chat: {say: tells the user something, blindness() → why no picture is taken; empty where they are}
class ComposerPictures {
  constructor(places, chat) {
    this.chat = chat;
    this.tray = new PictureTray(make("div", { className: "lk-tray", hidden: true }, places.tray), {
      read: (file) => this.read(file),
      label: (button, image, number) => {
        image.alt = "";
        button.title = `Remove picture ${number}`;
        button.setAttribute("aria-label", button.title);
      },
      refuse: (why, values) => chat.say(REFUSALS[why](values)),
    });
    this.file = make("input", { type: "file", accept: SENT_TYPES.join(), multiple: true, hidden: true }, places.button);
    this.file.addEventListener("change", async () => {
      await this.add(this.file.files);
      this.file.value = "";
    });
    this.button = makeButton("Add pictures", places.button, () => this.file.click());
    places.input.addEventListener("paste", (event) => this.onPaste(event));
    places.area.addEventListener("dragover", (event) => this.onDrag(event));
    places.area.addEventListener("drop", (event) => this.onDrag(event, event.dataTransfer.files));
  }

  update() {
    this.button.hidden = Boolean(this.chat.blindness());
  }

  // A table that was copied comes as text and as a picture of it: whoever can't look at that one wants the text
  onPaste(event) {
    const { files, types } = event.clipboardData;
    if (!files.length || (this.chat.blindness() && types.includes("text/plain"))) return;
    event.preventDefault();
    this.add(files);
  }

  // Also where none is taken: the browser would leave the notebook, and show the file
  onDrag(event, files) {
    if (!event.dataTransfer.types.includes("Files")) return;
    event.preventDefault();
    event.stopPropagation();
    if (files) this.add(files);
  }

  add(files) {
    const why = this.chat.blindness();
    if (why) this.chat.say(why);
    return why ? null : this.tray.add(files);
  }

  async read(file) {
    const { name, size, type } = file;
    const { src, numPixels } = await drawSmaller(file, SMALL_SIDE);
    const isLarge = size > MAX_FILE_BYTES || numPixels > MAX_PIXELS;
    if (!isLarge && SENT_TYPES.includes(type)) return { src, name, data: await file.arrayBuffer() };
    if (isLarge) this.chat.say(`${name} is large; it is sent in a smaller size.`);
    const url = (await drawSmaller(file)).src;
    return { src, name, data: Uint8Array.from(atob(url.split(",")[1]), (c) => c.charCodeAt(0)).buffer };
  }
}
