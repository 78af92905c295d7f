"""Pictures for a question in the plain chat: a button that takes files, and what was taken, until it is sent.

Core ipywidgets only, of version 7.7 or 8. Runs in the kernel's main thread, which pages' files come in on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import ipywidgets

from llmapi_kit.errors import LlmApiKitError
from llmapi_kit.images.attach import KINDS
from llmapi_kit.notebook.chat.attachments import MAX_IMAGES, Attachment, attach_file
from llmapi_kit.notebook.chat.transcript import images_html

File = tuple[str, bytes]


class PlainPictures:
    """The files that go with the next question.

    Args:
        say: tells the user something.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._files: list[tuple[File, Attachment]] = []
        self._row = ipywidgets.HBox(layout=ipywidgets.Layout(flex_flow="row wrap"))
        self._upload = ipywidgets.FileUpload(
            accept=",".join(KINDS.values()), multiple=True, description="Add pictures", layout={"width": "auto"}
        )
        self._upload.observe(self._on_upload, names="value")
        self.widget = ipywidgets.VBox([self._row, self._upload])

    def offer(self, is_offered: bool) -> None:
        """Show the button, or take it away."""
        self._upload.layout.display = "" if is_offered else "none"

    def take(self) -> tuple[list[str], list[bytes]]:
        """Names and bytes of the files, which are now somebody else's."""
        files, self._files = self._files, []
        if files:
            self._draw()
        return [name for (name, _), _ in files], [data for (_, data), _ in files]

    def put_back(self, names: Sequence[str], buffers: Sequence[bytes]) -> None:
        """Have files again that were not taken."""
        self._add(zip(names, buffers, strict=True))

    def _on_upload(self, change: Any) -> None:
        if change["new"]:
            self._upload.set_trait("value", type(change["new"])())  # the same file may come again
            self._add(_files(change["new"]))

    def _add(self, files: Iterable[File]) -> None:
        said, num_before = "", len(self._files)
        for name, data in files:
            if len(self._files) >= MAX_IMAGES:
                said = f"A question has at most {MAX_IMAGES} pictures."
                break
            try:
                self._files.append(((name, data), attach_file(name, data)))
            except LlmApiKitError as exc:
                said = str(exc)
        self._say(said)
        if len(self._files) > num_before:  # a click on a button that is drawn anew meanwhile would be lost
            self._draw()

    def _draw(self) -> None:
        old, self._row.children = self._row.children, [self._shown(i) for i in range(len(self._files))]
        for each in old:
            for part in (*each.children, each):
                part.close()

    def _shown(self, index: int) -> Any:
        image = self._files[index][1]
        html = images_html([{"title": image.title, "thumbnail": image.thumbnail}])
        remove = ipywidgets.Button(description=f"Remove picture {index + 1}")
        remove.on_click(partial(self._remove, index))
        return ipywidgets.VBox([ipywidgets.HTML(html), remove])

    def _remove(self, index: int, _: object) -> None:
        del self._files[index]
        self._draw()


def _files(value: Any) -> Iterator[File]:
    """Names and bytes: a mapping by name of version 7, a tuple of version 8."""
    if isinstance(value, Mapping):
        for name, each in value.items():
            yield name, bytes(each["content"])
    else:
        for each in value:
            yield each["name"], bytes(each["content"])
