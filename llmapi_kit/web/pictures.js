// Images for a question on the page. Each is drawn anew; see picture_tray.js.

import { byId } from "./controls.js";
import { drawSmaller, PictureTray } from "./picture_tray.js";
import { show, t } from "./text.js";

export class Pictures {
  constructor(say) {
    this.isOn = false;
    this.tray = new PictureTray(byId("pictures"), {
      read: (file) => drawSmaller(file),
      label: (button, image, number) => {
        image.alt = t("image", { number });
        show(button, "removeImage", { number }, "label");
      },
      refuse: (why, values) => say(`image.${why}`, values),
    });
    const file = byId("picture-file");
    file.addEventListener("change", async () => {
      await this.tray.add(file.files);
      file.value = "";
    });
    byId("question").addEventListener("paste", (event) => this.addFrom(event, event.clipboardData));
    const main = byId("main");
    main.addEventListener("dragover", (event) => {
      if (this.isOn && event.dataTransfer.types.includes("Files")) event.preventDefault();
    });
    main.addEventListener("drop", (event) => this.addFrom(event, event.dataTransfer));
  }

  get urls() {
    return this.tray.pictures.map(({ src }) => src);
  }

  // Only for models that see
  switch(isOn) {
    this.isOn = isOn;
    byId("add-picture").hidden = !isOn;
    if (!isOn) this.take();
  }

  take() {
    this.tray.take();
  }

  addFrom(event, { files }) {
    if (!this.isOn || !files.length) return;
    event.preventDefault();
    this.tray.add(files);
  }
}
