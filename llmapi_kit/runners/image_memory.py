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
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch

from llmapi_kit.checkpoints.vision_encoder import EncodedPicture
from llmapi_kit.errors import QueueFullError

FIRST_IMAGE_ID = 1 << 40
DEFAULT_BYTES = 512 * 2**20


@dataclass(frozen=True, slots=True)
class PlacedImage:
    """A picture that is known, and the ids that stand for it.

    Attributes:
        seen: what the model saw.
        first_id: of its first vector; the others follow.
    """

    seen: EncodedPicture
    first_id: int

    @property
    def num_bytes(self) -> int:
        """Size of its vectors."""
        return self.seen.features.nbytes + (0 if self.seen.deeper is None else self.seen.deeper.nbytes)

    def runs(self) -> Iterator[range]:
        """The ids of each run of vectors, in order."""
        start = self.first_id
        for count in self.seen.runs:
            yield range(start, start + count)
            start += count


class ImageMemory:
    """Vectors of the pictures that were seen last, and of those in use.

    Args:
        max_bytes: what they may take in all.
        is_spatial: whether the model's positions have three dimensions.
        is_bidirectional: whether the vectors of a picture attend to each other both ways.
    """

    def __init__(
        self, max_bytes: int = DEFAULT_BYTES, *, is_spatial: bool = False, is_bidirectional: bool = False
    ) -> None:
        self.is_spatial = is_spatial
        self.is_bidirectional = is_bidirectional
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
            return sum(image.num_bytes for image in self._images.values())

    def pin(self, digest: str) -> PlacedImage | None:
        """The picture, kept until it is unpinned as often; None where it is not known."""
        with self._lock:
            image = self._images.get(digest)
            if image is not None:
                self._images.move_to_end(digest)
                self._pins[digest] += 1
            return image

    def add(self, digest: str, seen: EncodedPicture, mine: Collection[str] = ()) -> PlacedImage:
        """Keep a picture, and pin it.

        Args:
            digest: tells pictures apart.
            seen: what stands for it.
            mine: digests that are pinned by who brings it.

        Raises:
            QueueFullError: the pictures of other requests leave no room for it.
        """
        if (known := self.pin(digest)) is not None:  # another request brought it meanwhile
            return known
        with self._lock:
            image = PlacedImage(seen, self._next_id)
            others = sum(self._images[each].num_bytes for each in self._pins if each not in mine)
            if others and others + image.num_bytes > self._max_bytes:
                raise QueueFullError(
                    "The pictures of other requests take all the memory that there is for pictures. Try again later.",
                    retry_after_s=5,
                )
            self._next_id += len(seen.features)
            self._images[digest] = image
            self._pins[digest] += 1
            self._starts.append(image.first_id)
            self._by_start[image.first_id] = image
            self._make_room()
            return image

    def at(self, image_id: int) -> PlacedImage:
        """The picture that an id stands for a vector of; it is pinned."""
        with self._lock:
            return self._by_start[self._starts[bisect_right(self._starts, image_id) - 1]]

    def unpin(self, digests: Iterable[str]) -> None:
        """They are not needed any more, by one who pinned them."""
        with self._lock:
            for digest in digests:
                self._pins[digest] -= 1
                if not self._pins[digest]:
                    del self._pins[digest]
            self._make_room()

    def rows(self, ids: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor | None]:
        """What stands for ids of pictures, all of which are pinned.

        Returns:
            Vectors (n, hidden_size), and what is added deeper in, (layers, n, hidden_size), where the model does so.
        """
        features, deeper = [], []
        start = 0
        while start < len(ids):
            image = self.at(ids[start])
            first, last = ids[start] - image.first_id, len(image.seen.features)
            count = _num_consecutive(ids, start, last - first)
            features.append(image.seen.features[first : first + count])
            if image.seen.deeper is not None:
                deeper.append(image.seen.deeper[:, first : first + count])
            start += count
        return torch.cat(features), torch.cat(deeper, dim=1) if deeper else None

    def _make_room(self) -> None:
        size = sum(image.num_bytes for image in self._images.values())
        for digest in [digest for digest in self._images if digest not in self._pins]:
            if size <= self._max_bytes:
                return
            image = self._images.pop(digest)
            size -= image.num_bytes
            self._starts.remove(image.first_id)
            del self._by_start[image.first_id]


def _num_consecutive(ids: Sequence[int], start: int, most: int) -> int:
    """How many ids from `start` on rise one by one, at most so many."""
    end = min(start + most, len(ids))
    return next((i - start for i in range(start + 1, end) if ids[i] != ids[i - 1] + 1), end - start)
