"""What pictures are to a decoder: token ids of their own, and the vectors that stand for them.

Each position of a picture gets an id above any vocabulary's, and the same picture the same ids. So a prompt with
pictures is a list of ids like any other: it is scheduled in chunks, and its prefix is found again, as a text's is.
A runner takes the vector of such an id from here in place of an embedding.

Filled by worker threads, read by the engine thread.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

FIRST_IMAGE_ID = 1 << 40
DEFAULT_BYTES = 512 * 2**20


@dataclass(frozen=True, slots=True)
class PlacedImage:
    """A picture as it stands in a prompt.

    Attributes:
        ids: tokens of text that mark it, and an id above `FIRST_IMAGE_ID` for each of its vectors, in order.
        features: (n, hidden_size), the vectors.
        first_id: of the first vector; the others follow.
    """

    ids: tuple[int, ...]
    features: torch.Tensor
    first_id: int


class ImageMemory:
    """Vectors of the pictures that were seen last, and of those in use.

    Args:
        max_bytes: what those may take that nobody uses.
    """

    def __init__(self, max_bytes: int = DEFAULT_BYTES) -> None:
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._images: OrderedDict[str, PlacedImage] = OrderedDict()  # by digest, the latest used last
        self._pins: Counter[str] = Counter()
        self._starts: list[int] = []  # first ids, rising, and whose they are
        self._by_start: dict[int, PlacedImage] = {}
        self._next_id = FIRST_IMAGE_ID

    @property
    def num_bytes(self) -> int:
        """Size of all vectors in bytes."""
        with self._lock:
            return sum(image.features.nbytes for image in self._images.values())

    def pin(self, digest: str) -> PlacedImage | None:
        """The picture, kept until it is unpinned as often; None where it is not known."""
        with self._lock:
            image = self._images.get(digest)
            if image is not None:
                self._images.move_to_end(digest)
                self._pins[digest] += 1
            return image

    def add(self, digest: str, ids: Sequence[int], marker: int, features: torch.Tensor) -> PlacedImage:
        """Keep a picture, and pin it.

        Args:
            digest: tells pictures apart.
            ids: its tokens in a prompt, as the model's processor writes them.
            marker: the token among them that stands for a vector.
            features: (n, hidden_size), a vector for each marker.
        """
        if (known := self.pin(digest)) is not None:  # another request brought it meanwhile
            return known
        with self._lock:
            first = self._next_id
            at = iter(range(first, first + len(features)))
            image = PlacedImage(tuple(next(at) if i == marker else i for i in ids), features, first)
            self._next_id += len(features)
            self._images[digest] = image
            self._pins[digest] += 1
            self._starts.append(first)
            self._by_start[first] = image
            self._make_room()
            return image

    def unpin(self, digests: Iterable[str]) -> None:
        """They are not needed any more, by one who pinned them."""
        with self._lock:
            for digest in digests:
                self._pins[digest] -= 1
                if not self._pins[digest]:
                    del self._pins[digest]
            self._make_room()

    def rows(self, ids: torch.Tensor) -> torch.Tensor:
        """Vectors (n, hidden_size) of ids (n,) that stand for pictures, all of which are pinned."""
        with self._lock:
            starts = [self._starts[bisect_right(self._starts, each) - 1] for each in ids.tolist()]
            images = {start: self._by_start[start] for start in set(starts)}
        if len(images) == 1:
            (image,) = images.values()
            return image.features[ids.to(image.features.device) - image.first_id]
        return torch.stack(
            [images[start].features[each - start] for start, each in zip(starts, ids.tolist(), strict=True)]
        )

    def _make_room(self) -> None:
        size = sum(image.features.nbytes for image in self._images.values())
        for digest in [digest for digest in self._images if digest not in self._pins]:
            if size <= self._max_bytes:
                return
            image = self._images.pop(digest)
            size -= image.features.nbytes
            self._starts.remove(image.first_id)
            del self._by_start[image.first_id]
